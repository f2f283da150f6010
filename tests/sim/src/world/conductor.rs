//! The conductors: transactions around the engine, the sweepers, and what they lose when they die.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use whimbrel_messages::compute::{Fence, TerminateInstance};
use whimbrel_messages::{Dir, Fault, FaultCode, Outcome, Peer, Rpc, StepKey};
use whimbrel_model::{Change, InstanceEvent, MigrationId, MigrationStatus};
use whimbrel_saga::{
    Asked, Definition, Effect, Entry, Input, PeerHealth, Phase, Row, Saga as _, StepKind,
    StuckReason,
};
use whimbrel_sagas::{Delete, Evacuate};

use super::{Broken, Command, Crash, Event, Sim, name, number, registry, saga_id, saga_number};

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
/// A saga that waits for a host which was forced down is looked at again after this time, in milliseconds.
const FENCED_MS: i64 = 1_000;
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
        if crash != Crash::No {
            // What was not acknowledged is handed to another; the sweeper looks again anyway.
            for input in &inputs {
                if let Input::Reply { round, step, dir, outcome } = input.clone() {
                    let key = StepKey { saga_id: saga_id(saga), round, step, dir };
                    self.after(500, Event::Reply(key, outcome));
                }
            }
            self.after(1_000, Event::Sweep(saga));
        }
        if crash == Crash::Before {
            if self.broken == Some(Broken::OutboxSkipped) {
                let before = self.sagas[saga].row.clone();
                for asked in self.advance(saga, inputs).sends {
                    self.publish(saga, asked, Crash::No);
                }
                self.sagas[saga].row = before;
            }
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
        let health = match definition.waits_for(&row) {
            Some(Peer::Compute(host)) if due => self.health(number(&host)),
            _ => PeerHealth::Up,
        };
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
        let fenced = |asked: &Asked| match &asked.to {
            Peer::Compute(host) => self.hosts[number(host)].fenced,
            Peer::Scheduler => false,
        };
        if self.broken != Some(Broken::FencedAreAsked) && writes.sends.iter().any(fenced) {
            // At its next look the engine sees how the host does.
            writes.sends.clear();
            row.wake_at = Some(now + TimeDelta::milliseconds(FENCED_MS));
        }
        self.sagas[saga].row = row;
        writes
    }

    fn health(&self, at: usize) -> PeerHealth {
        let host = &self.hosts[at];
        let silent_is_fenced = self.broken == Some(Broken::SilentIsFenced);
        if host.fenced || (!host.reports && silent_is_fenced) {
            PeerHealth::Fenced
        } else if host.reports {
            PeerHealth::Up
        } else {
            PeerHealth::Down
        }
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
        let wants_back = input == Input::Cancel && is_past_pivot(definition, &row);
        let (row, effects) = definition.advance(row, input, now);
        match self.broken {
            Some(Broken::UndoPastPivot) if wants_back => undo_past_pivot(definition, before, now),
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
        if !writes.changes.is_empty() {
            self.changed_at = self.now;
        }
        self.sagas[saga].history.extend(writes.entries);
        for asked in writes.defers {
            let Peer::Compute(host) = asked.to.clone() else { continue };
            let command = self.command(saga, asked);
            if command.method == Fence::METHOD {
                self.unfenced.insert(command.key.saga_id);
            }
            if self.broken != Some(Broken::ObligationsForgotten) {
                self.obligations.insert(command.key.clone(), (number(&host), command));
            }
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
        let Asked { method, step, dir, round, attempt, deadline_ms, must, body, .. } = asked;
        let key = StepKey { saga_id: saga_id(saga), round, step, dir };
        Command { key, method, attempt, deadline: self.now + deadline_ms, must, body }
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
            // From the outbox, by the sweeper.
            Crash::After | Crash::Ambiguous => self.after(2_500, Event::Request(to, command)),
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
        let migration = ended.migration;
        self.begin_delete(move |id| Some(id) == migration);
    }

    /// As the API and the conductor begin a deletion, of an instance at rest, after those of its moves that are said.
    pub(super) fn begin_delete(&mut self, of: impl Fn(MigrationId) -> bool) {
        let instance = &mut self.rows.instance;
        let Ok(state) = instance.state.on(InstanceEvent::BeginDelete) else { return };
        instance.state = state;
        self.changed_at = self.now;
        let home = self.rows.instance.host.clone();
        let left: Vec<_> = (self.rows.migrations.iter().rev())
            .filter(|(id, row)| {
                let open = matches!(row.status, MigrationStatus::Error | MigrationStatus::Finished);
                open && of(**id)
            })
            .map(|(id, row)| (*id, row.clone()))
            .collect();
        let undecided = left.iter().find(|(_, row)| row.status == MigrationStatus::Finished);
        let undecided = undecided.map(|(id, _)| *id);
        let ends: BTreeSet<_> = left
            .iter()
            .flat_map(|(_, row)| [Some(row.source.clone()), row.destination.clone()])
            .flatten()
            .filter(|end| Some(end) != home.as_ref())
            .collect();
        let mut elsewhere = ends.into_iter();
        let delete = Delete {
            instance_id: super::life::instance().id,
            host: home,
            other_host: elsewhere.next(),
            owner_epoch: self.rows.instance.owner_epoch + DELETE_EPOCH,
        };
        let saga = self.sagas.len();
        let state = serde_json::to_value(&delete).expect("plain data");
        self.start(Delete::NAME, state, undecided);
        for host in elsewhere {
            self.owes_removal(saga, number(&host), &delete);
        }
    }

    /// The saga asks two hosts. More remove the guest when they are asked for what they owe.
    fn owes_removal(&mut self, saga: usize, at: usize, delete: &Delete) {
        let Delete { instance_id, owner_epoch, .. } = *delete;
        let step = format!("terminate-at-{}", name(at));
        let key = StepKey { saga_id: saga_id(saga), round: 0, step, dir: Dir::Do };
        let body = serde_json::to_value(TerminateInstance { instance_id, owner_epoch });
        let command = Command {
            key: key.clone(),
            method: TerminateInstance::METHOD.to_owned(),
            attempt: 0,
            deadline: self.now,
            must: true,
            body: body.expect("plain data"),
        };
        self.obligations.insert(key, (at, command));
        if !self.sweeping_obligations {
            self.sweeping_obligations = true;
            self.after(OBLIGATION_MS, Event::Obligations);
        }
    }

    /// An answer to a saga that has ended is for work that was put off.
    fn meet_obligations(&mut self, saga: usize, inputs: &[Input]) {
        for input in inputs {
            let Input::Reply { round, step, dir, outcome } = input else { continue };
            let scripted = !self.chaos.is_random();
            let settles = match outcome {
                Outcome::Ok { .. } | Outcome::AlreadyDone { .. } => true,
                // Of the past means that there is nothing left to do. Anything else is still owed; a script refuses
                // for ever.
                Outcome::Refused { fault } => fault.code == FaultCode::StaleOwner || scripted,
                Outcome::Expired => false,
            };
            if !settles {
                continue;
            }
            let (step, round, dir) = (step.clone(), *round, *dir);
            let key = StepKey { saga_id: saga_id(saga), round, step, dir };
            let met = self.obligations.remove(&key).is_some();
            if let Outcome::Refused { fault } = outcome {
                self.refused_obligation |= met && fault.code != FaultCode::StaleOwner;
            }
            if met && key.step == Evacuate::CLEAR {
                self.close_evacuation(saga);
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
        // A host that never returns owes for ever.
        let owed = |at: &usize| !self.hosts[*at].gone;
        self.sweeping_obligations = self.obligations.values().any(|(at, _)| owed(at));
        if self.sweeping_obligations {
            self.after(OBLIGATION_MS, Event::Obligations);
        }
    }
}

fn is_past_pivot(definition: &dyn Definition, row: &Row) -> bool {
    let shape = definition.shape();
    row.dir == Dir::Do
        && shape.iter().any(|step| step.kind == StepKind::Pivot)
        && shape.iter().any(|step| step.name == row.step && step.kind == StepKind::Retriable)
}

/// The engine as if the last step before the pivot could still be undone.
fn undo_past_pivot(
    definition: &dyn Definition,
    mut row: Row,
    now: DateTime<Utc>,
) -> (Row, Vec<Effect>) {
    let shape = definition.shape();
    let pivot = shape.iter().position(|step| step.kind == StepKind::Pivot).expect("it has one");
    let back = shape[..pivot].iter().rfind(|step| step.undo.is_some());
    let Some(back) = back else { return (row, Vec::new()) };
    row.phase = Phase::Unwinding;
    row.dir = Dir::Undo;
    row.step = back.name.into();
    row.cancelled = true;
    row.fault = Some(Fault::new(FaultCode::Cancelled, "called off"));
    row.wake_at = Some(now);
    definition.advance(row, Input::Wake(PeerHealth::Up), now)
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
