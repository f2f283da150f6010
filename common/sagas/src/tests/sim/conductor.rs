//! The conductors: transactions around the engine, the sweepers, and what they lose when they die.

use chrono::{DateTime, Utc};
use serde_json::json;
use whimbrel_messages::compute::Fence;
use whimbrel_messages::{Dir, FaultCode, Outcome, Peer, Rpc, StepKey};
use whimbrel_model::{Change, InstanceEvent, MigrationId, MigrationStatus};
use whimbrel_saga::{
    Asked, Definition, Effect, Entry, Input, PeerHealth, Row, Saga as _, StepKind, StuckReason,
};

use super::super::rows::MigrationRow;
use super::{Broken, Command, Crash, Event, Sim, number, registry, saga_id, saga_number};
use crate::Delete;

/// An operation: its row, and what has arrived for it.
pub(crate) struct Saga {
    pub(crate) row: Row,
    pub(crate) name: &'static str,
    pub(crate) migration: Option<MigrationId>,
    pub(crate) cancel_requested: bool,
    pub(crate) history: Vec<Entry>,
    inbox: Vec<Input>,
    taken: bool,
}

/// Work that was put off is tried again after this time, in milliseconds.
const OBLIGATION_MS: i64 = 10_000;
/// How far above an instance's token a deletion's is.
const DELETE_EPOCH: i64 = 8;

pub(super) fn hint() -> Input {
    Input::Wake(PeerHealth::Up)
}

fn definition(name: &str) -> &'static dyn Definition {
    registry().get(name, 1).expect("a definition of this crate").as_ref()
}

/// What a transaction wants to write.
#[derive(Default)]
struct Writes {
    sends: Vec<Asked>,
    defers: Vec<Asked>,
    changes: Vec<Change>,
    entries: Vec<Entry>,
}

impl Sim {
    /// Writes a new operation down and hints at it.
    pub(super) fn start(
        &mut self,
        name: &'static str,
        state: serde_json::Value,
        migration: Option<MigrationId>,
    ) {
        let saga = self.sagas.len();
        let row = Row::new(saga_id(saga), state, self.clock());
        self.note(|| format!("saga {saga} is {name}"));
        let (history, inbox) = (Vec::new(), Vec::new());
        self.sagas.push(Saga {
            row,
            name,
            migration,
            cancel_requested: false,
            history,
            inbox,
            taken: false,
        });
        let key = StepKey { saga_id: saga_id(saga), round: 0, step: String::new(), dir: Dir::Do };
        for delay in self.chaos.request(self.now, &key) {
            self.after(delay, Event::Hint(saga));
        }
        self.after(1_000, Event::Sweep(saga));
    }

    /// The saga that is active, if one is.
    pub(super) fn active(&self) -> Option<usize> {
        self.sagas.iter().position(|saga| !saga.row.phase.is_terminal())
    }

    pub(super) fn reply_arrives(&mut self, key: StepKey, outcome: Outcome) {
        let StepKey { saga_id, round, step, dir } = key;
        self.hear(saga_number(saga_id), Input::Reply { round, step, dir, outcome });
    }

    /// Something for a saga has arrived at the conductors.
    pub(super) fn hear(&mut self, saga: usize, input: Input) {
        self.sagas[saga].inbox.push(input);
        if !self.sagas[saga].taken {
            self.sagas[saga].taken = true;
            let ms = self.chaos.rng.ms(0, 4);
            self.after(ms, Event::Transaction(saga));
        }
    }

    pub(super) fn sweep(&mut self, saga: usize) {
        if self.sagas[saga].row.wake_at.is_some_and(|at| at <= self.clock()) {
            self.hear(saga, hint());
        }
    }

    pub(super) fn transaction(&mut self, saga: usize) {
        self.sagas[saga].taken = false;
        let mut inputs = std::mem::take(&mut self.sagas[saga].inbox);
        if self.sagas[saga].row.phase.is_terminal() {
            self.meet_obligations(saga, &inputs);
            return;
        }
        if saga == 0 && self.chaos.gives_up() {
            inputs = vec![Input::GiveUp(StuckReason::TransactionFailed, "a script".to_owned())];
        }
        let crash = self.chaos.crash();
        if crash == Crash::Before {
            // What was not acknowledged is handed to another; the sweeper looks again anyway.
            for input in inputs {
                if let Input::Reply { round, step, dir, outcome } = input {
                    let key = StepKey { saga_id: saga_id(saga), round, step, dir };
                    self.after(500, Event::Reply(key, outcome));
                }
            }
            self.after(1_000, Event::Sweep(saga));
            return;
        }
        let before = self.sagas[saga].row.clone();
        let writes = self.advance(saga, inputs);
        if self.sagas[saga].row != before {
            self.commit(saga, writes, crash);
        }
    }

    /// Runs the engine over all inputs.
    fn advance(&mut self, saga: usize, inputs: Vec<Input>) -> Writes {
        let definition = definition(self.sagas[saga].name);
        let now = self.clock();
        let mut row = self.sagas[saga].row.clone();
        let due = row.wake_at.is_some_and(|at| at <= now);
        let down = match definition.waits_for(&row) {
            Some(Peer::Compute(host)) if due => !self.hosts[number(&host)].reports,
            _ => false,
        };
        let health = if down { PeerHealth::Down } else { PeerHealth::Up };
        let cancel = self.sagas[saga].cancel_requested.then_some(Input::Cancel);
        let mut writes = Writes::default();
        for input in cancel.into_iter().chain(inputs) {
            let input = if input == hint() { Input::Wake(health) } else { input };
            let (next, effects) = self.advance_one(definition, row, input, now);
            row = next;
            writes.absorb(effects);
        }
        if row.phase.is_terminal() {
            writes.sends.clear();
        }
        self.sagas[saga].row = row;
        writes
    }

    /// The engine, or what is left of it when a rule is switched off.
    fn advance_one(
        &self,
        definition: &dyn Definition,
        row: Row,
        mut input: Input,
        now: DateTime<Utc>,
    ) -> (Row, Vec<Effect>) {
        if let Input::Reply { dir, round, .. } = &mut input {
            match self.broken {
                Some(Broken::DirIgnored) => *dir = row.dir,
                Some(Broken::RoundIgnored) => *round = row.round,
                _ => {}
            }
        }
        let before = row.clone();
        let (row, effects) = definition.advance(row, input, now);
        match self.broken {
            Some(Broken::NoFence) => without_fence(definition, row, effects, now),
            Some(Broken::RoundAfterDeferral) => {
                over_after_deferral(definition, &before, row, effects, now)
            }
            _ => (row, effects),
        }
    }

    fn commit(&mut self, saga: usize, writes: Writes, crash: Crash) {
        let noted = writes.entries.iter().flat_map(|entry| entry.changes.clone());
        if noted.collect::<Vec<_>>() != writes.changes {
            self.violated(|| {
                format!("the history says {:?}, changed was {:?}", writes.entries, writes.changes)
            });
        }
        let migration = self.sagas[saga].migration;
        for change in &writes.changes {
            if let Err(error) = self.rows.apply(change, migration) {
                self.violated(|| format!("{change:?}: {error}"));
            }
        }
        self.sagas[saga].history.extend(writes.entries);
        for asked in writes.defers {
            let Peer::Compute(host) = asked.to.clone() else { continue };
            let command = self.command(saga, asked);
            if command.method == Fence::METHOD {
                self.unfenced.insert(command.key.saga_id);
            }
            self.obligations.insert(command.key.clone(), (number(&host), command));
            if !self.sweeping_obligations {
                self.sweeping_obligations = true;
                self.after(OBLIGATION_MS, Event::Obligations);
            }
        }
        for asked in writes.sends {
            self.publish(saga, asked, crash);
        }
        self.follow_up(saga);
        self.check_transaction(saga);
        let row = &self.sagas[saga].row;
        let (phase, step, dir, round) = (row.phase, row.step.to_string(), row.dir, row.round);
        let wakes = row.wake_at.map(|at| (at - self.clock()).num_milliseconds());
        if self.trace.is_some() {
            let instance = &self.rows.instance;
            let (vm, task) = (instance.state.vm, instance.state.task_text());
            let at = instance.host.as_ref().map_or("nowhere", |host| host.as_str()).to_owned();
            let epoch = instance.owner_epoch;
            let claims: Vec<_> = self.rows.claims.values().map(ToString::to_string).collect();
            self.note(|| {
                format!(
                    "saga {saga} is {phase} at {dir} {step} round {round}; \
                     {vm} {task} at {at} under {epoch}, holds {claims:?}"
                )
            });
        }
        if let Some(ms) = wakes {
            let jitter = self.chaos.rng.ms(0, 1_000);
            self.after(ms + jitter, Event::Sweep(saga));
            if self.chaos.stray_hint() {
                let ms = self.chaos.rng.magnitude(15);
                self.after(ms, Event::Hint(saga));
            }
        }
    }

    fn command(&self, saga: usize, asked: Asked) -> Command {
        let Asked { method, step, dir, round, attempt, deadline_ms, body, .. } = asked;
        let key = StepKey { saga_id: saga_id(saga), round, step, dir };
        Command { key, method, attempt, deadline: self.now + deadline_ms, body }
    }

    fn publish(&mut self, saga: usize, asked: Asked, crash: Crash) {
        let to = match &asked.to {
            Peer::Scheduler => None,
            Peer::Compute(host) => Some(number(host)),
        };
        let command = self.command(saga, asked);
        if self.chaos.cancels(&command.key) {
            self.sagas[saga].cancel_requested = true;
            self.after(0, Event::Hint(saga));
        }
        match crash {
            Crash::No => self.send(to, &command),
            Crash::After => self.after(2_500, Event::Request(to, command)),
            Crash::Lost | Crash::Before => {}
        }
    }

    /// Starts the deletion that was asked for while another operation was under way.
    fn follow_up(&mut self, saga: usize) {
        let ended = &self.sagas[saga];
        if !ended.row.phase.is_terminal()
            || ended.name == Delete::NAME
            || !self.rows.instance.delete_requested
        {
            return;
        }
        self.begin_delete();
    }

    /// As the API and the conductor begin a deletion, of an instance at rest.
    pub(super) fn begin_delete(&mut self) {
        let instance = &mut self.rows.instance;
        let Ok(state) = instance.state.on(InstanceEvent::BeginDelete) else { return };
        instance.state = state;
        let home = instance.host.clone();
        let error = |row: &&MigrationRow| row.status == MigrationStatus::Error;
        let unsettled = self.rows.migrations.values().filter(error);
        let ends: Vec<_> =
            unsettled.flat_map(|row| [Some(row.source.clone()), row.destination.clone()]).collect();
        let elsewhere = ends.into_iter().flatten().find(|end| Some(end) != home.as_ref());
        let delete = Delete {
            instance_id: super::life::instance().id,
            host: instance.host.clone(),
            other_host: elsewhere,
            owner_epoch: instance.owner_epoch + DELETE_EPOCH,
        };
        let state = serde_json::to_value(&delete).expect("plain data");
        self.start(Delete::NAME, state, None);
    }

    /// An answer to a saga that has ended is for work that was put off.
    fn meet_obligations(&mut self, saga: usize, inputs: &[Input]) {
        for input in inputs {
            if let Input::Reply { round, step, dir, outcome } = input
                && *outcome != Outcome::Expired
            {
                let step = step.clone();
                let key = StepKey { saga_id: saga_id(saga), round: *round, step, dir: *dir };
                let met = self.obligations.remove(&key).is_some();
                let Outcome::Refused { fault } = outcome else { continue };
                // Of the past means that there is nothing left to do. Anything else is left as it is.
                self.refused_obligation |= met && fault.code != FaultCode::StaleOwner;
            }
        }
    }

    pub(super) fn sweep_obligations(&mut self) {
        for (host, mut command) in self.obligations.values().cloned().collect::<Vec<_>>() {
            if self.hosts[host].reports {
                command.deadline = self.now + 60_000;
                self.send(Some(host), &command);
            }
        }
        self.sweeping_obligations = !self.obligations.is_empty();
        if self.sweeping_obligations {
            self.after(OBLIGATION_MS, Event::Obligations);
        }
    }
}

/// The engine as if a pivot's fence had been answered "it never will" at once.
fn without_fence(
    definition: &dyn Definition,
    row: Row,
    mut effects: Vec<Effect>,
    now: DateTime<Utc>,
) -> (Row, Vec<Effect>) {
    let shape = definition.shape();
    let pivot = shape.iter().any(|step| step.name == row.step && step.kind == StepKind::Pivot);
    if !pivot || row.dir == Dir::Do || row.phase.is_terminal() {
        return (row, effects);
    }
    let outcome = Outcome::Ok { body: json!({}) };
    let (round, step, dir) = (row.round, row.step.to_string(), Dir::Undo);
    effects.retain(|effect| !matches!(effect, Effect::Send(_)));
    let (row, more) = definition.advance(row, Input::Reply { round, step, dir, outcome }, now);
    effects.extend(more);
    (row, effects)
}

/// The engine as if an undo that was put off had been carried out.
fn over_after_deferral(
    definition: &dyn Definition,
    before: &Row,
    row: Row,
    effects: Vec<Effect>,
    now: DateTime<Utc>,
) -> (Row, Vec<Effect>) {
    let put_off =
        |effect: &Effect| matches!(effect, Effect::Defer(asked) if asked.dir == Dir::Undo);
    let Some(deferred) = effects.iter().find(|effect| put_off(effect)).cloned() else {
        return (row, effects);
    };
    let outcome = Outcome::Ok { body: json!({}) };
    let (round, step, dir) = (before.round, before.step.to_string(), Dir::Undo);
    let reply = Input::Reply { round, step, dir, outcome };
    let (row, mut effects) = definition.advance(before.clone(), reply, now);
    effects.push(deferred);
    (row, effects)
}

impl Writes {
    fn absorb(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                // Only the last request counts: an earlier one is of a step that is already over.
                Effect::Send(asked) => self.sends = vec![asked],
                Effect::Defer(asked) => self.defers.push(asked),
                Effect::Change(change) => self.changes.push(change),
                Effect::Record(entry) => self.entries.push(entry),
            }
        }
    }
}
