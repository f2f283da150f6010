//! A host's service as the rules want it: it writes down what it begins and what it answers before it says so,
//! does one piece of work at a time for each saga, and remembers what was undone.

use std::collections::{BTreeMap, BTreeSet};

use whimbrel_messages::compute::{
    Fence, LiveMigration, LiveMigrationAbort, ResizeInstance, RollbackLiveMigrationAtDestination,
};
use whimbrel_messages::{Dir, Fault, FaultCode, Outcome, Rpc, StepKey};
use whimbrel_model::SagaId;

use super::driver::Hypervisor;
use super::{Broken, Command, Event, QUIET_MS, Sim, do_of, undo_of};

/// A host: what its hypervisor holds, what its service has written down, what it knows only until it stops.
pub(crate) struct Host {
    pub(crate) hypervisor: Hypervisor,
    pub(crate) journal: BTreeMap<StepKey, Outcome>,
    tombstones: BTreeSet<(SagaId, i32, String)>,
    /// Jobs that were begun and not answered.
    began: BTreeMap<StepKey, Command>,
    pub(crate) working: BTreeMap<SagaId, Command>,
    waiting: Vec<Command>,
    /// Requests in its queue at the broker while its service is stopped.
    pub(super) queued: Vec<Command>,
    pub(crate) up: bool,
    starts: u32,
    /// What the conductors think.
    pub(crate) reports: bool,
    pub(crate) powered: bool,
    /// Grows with every loss of power.
    pub(crate) boots: u32,
    /// An operator has forced it down.
    pub(crate) fenced: bool,
    /// It never returns.
    pub(crate) gone: bool,
    /// It takes new guests.
    pub(crate) enabled: bool,
    /// How far its clock is ahead, in milliseconds.
    pub(crate) skew: i64,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            hypervisor: Hypervisor::default(),
            journal: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            began: BTreeMap::new(),
            working: BTreeMap::new(),
            waiting: Vec::new(),
            queued: Vec::new(),
            up: true,
            starts: 0,
            reports: true,
            powered: true,
            boots: 0,
            fenced: false,
            gone: false,
            enabled: true,
            skew: 0,
        }
    }
}

/// After this time without a report the conductors take a host for down, in milliseconds.
const DOWN_AFTER_MS: i64 = 60_000;
/// A host that a script stops is back after this time, in milliseconds.
const SCRIPTED_DOWN_MS: i64 = 300_000;
/// Clocks of hosts may differ by this much before a command counts as too late, in milliseconds.
pub(super) const CLOCK_SKEW_MS: i64 = 30_000;

impl Sim {
    pub(super) fn request_arrives(&mut self, at: usize, command: Command) {
        if self.hosts[at].up && self.chaos.stops_before(&command.key) {
            self.goes_down(at);
            self.after(SCRIPTED_DOWN_MS, Event::Up(at));
        }
        let host = &mut self.hosts[at];
        if !host.up {
            host.queued.push(command);
            return;
        }
        let repeats = self.broken == Some(Broken::NotIdempotent) && command.key.dir == Dir::Do;
        if let Some(answer) = host.journal.get(&command.key).filter(|_| !repeats).cloned() {
            self.answer(&command.key, &answer);
            return;
        }
        if let Some(current) = host.working.get(&command.key.saga_id) {
            if current.key == command.key {
                return;
            }
            let aborts = command.key == undo_of(&current.key);
            host.waiting.push(command.clone());
            if aborts {
                self.abort_job(at, &command);
            }
            return;
        }
        let StepKey { saga_id, round, step, dir } = command.key.clone();
        if dir == Dir::Do && host.tombstones.contains(&(saga_id, round, step)) {
            let fault = Fault::new(FaultCode::Tombstone, "it was undone");
            self.settle(at, &command, &Outcome::Refused { fault });
        } else if self.now + self.hosts[at].skew > command.deadline + CLOCK_SKEW_MS {
            if self.broken == Some(Broken::ExpiredIsRefused) {
                let fault = Fault::new(FaultCode::TimedOut, "too late");
                self.settle(at, &command, &Outcome::Refused { fault });
            } else {
                self.answer(&command.key, &Outcome::Expired);
            }
        } else {
            self.begin(at, command);
        }
    }

    fn begin(&mut self, at: usize, command: Command) {
        let ms = self.chaos.work_ms();
        let host = &mut self.hosts[at];
        let key = command.key.clone();
        if is_job(&command.method) && self.broken != Some(Broken::BeginningsForgotten) {
            host.began.insert(key.clone(), command.clone());
        }
        if key.dir == Dir::Undo && self.broken != Some(Broken::NoTombstone) {
            // Before the work, so that no late request can come after it.
            host.tombstones.insert((key.saga_id, key.round, key.step));
        }
        host.working.insert(key.saga_id, command);
        let starts = host.starts;
        self.after(ms, Event::WorkOver(at, key.saga_id, starts));
    }

    pub(super) fn work_over(&mut self, at: usize, saga: SagaId, starts: u32) {
        let host = &self.hosts[at];
        if !host.up || host.starts != starts {
            return;
        }
        let Some(command) = host.working.get(&saga).cloned() else { return };
        if self.stops_service(at) {
            return;
        }
        if self.chaos.refuses_for_now(&command.key, command.must && !is_fence(&command.method)) {
            let fault = Fault::new(FaultCode::Hypervisor, "not now");
            self.hosts[at].working.remove(&saga);
            self.reply(&command.key, &Outcome::Refused { fault });
            return;
        }
        let count = self.carried_out.entry(command.key.clone()).or_default();
        *count += 1;
        let twice = *count > 1;
        let undone = self.carried_out.contains_key(&undo_of(&command.key));
        if twice || (command.key.dir == Dir::Do && undone) {
            self.violated(|| {
                format!(
                    "{} is carried out {}",
                    command.key,
                    if undone { "after its undo" } else { "twice" }
                )
            });
        }
        let Some(outcome) = self.carry_out(at, &command) else { return };
        if self.stops_service(at) {
            // What it did is done, and done again without harm when it is back.
            self.carried_out.remove(&command.key);
            if matches!(outcome, Outcome::Ok { .. }) {
                // A fence that comes first finds nothing: only the host's report tells of the guest's power.
                self.unfenced.insert(saga);
                self.effective.insert(command.key);
            }
            return;
        }
        if command.must && matches!(outcome, Outcome::Refused { .. }) {
            // It is asked again, and may be carried out then.
            self.carried_out.remove(&command.key);
        }
        self.settle(at, &command, &outcome);
        self.check_guests();
    }

    /// Writes an answer down, says it, and goes on with what waits for the same saga.
    pub(super) fn settle(&mut self, at: usize, command: &Command, outcome: &Outcome) {
        let key = &command.key;
        let host = &mut self.hosts[at];
        let refused = matches!(outcome, Outcome::Refused { .. });
        // That the guest was found arrived is looked up again.
        let stays = command.method == RollbackLiveMigrationAtDestination::METHOD
            && matches!(outcome, Outcome::AlreadyDone { .. });
        // What stands in the way of what must be done may pass: such a refusal is not remembered.
        let may_pass = command.must || self.broken == Some(Broken::RefusalsForgotten);
        let forgotten = stays || (refused && may_pass);
        if stays {
            self.carried_out.remove(key);
        }
        if !forgotten {
            host.journal.insert(key.clone(), outcome.clone());
        }
        host.began.remove(key);
        if host.working.get(&key.saga_id).is_some_and(|current| current.key == *key) {
            host.working.remove(&key.saga_id);
        }
        if self.chaos.stops_after(key) {
            self.goes_down(at);
            self.after(SCRIPTED_DOWN_MS, Event::Up(at));
            return;
        }
        if self.stops_service(at) {
            return;
        }
        if stays || (refused && command.must) {
            self.reply(key, outcome);
        } else {
            self.answer(key, outcome);
        }
        let of_saga = |waiting: &Command| waiting.key.saga_id == key.saga_id;
        let (next, rest) = self.hosts[at].waiting.drain(..).partition(of_saga);
        self.hosts[at].waiting = rest;
        let next: Vec<Command> = next;
        for command in next {
            self.after(0, Event::Request(Some(at), command));
        }
    }

    fn answer(&mut self, key: &StepKey, outcome: &Outcome) {
        if *outcome != Outcome::Expired {
            let first = self.answered.entry(key.clone()).or_insert_with(|| outcome.clone());
            if first != outcome {
                let first = first.clone();
                self.violated(|| format!("{key} is answered {first:?} and then {outcome:?}"));
            }
        }
        self.reply(key, outcome);
    }

    /// Whether the service stops at this very moment.
    fn stops_service(&mut self, at: usize) -> bool {
        if self.now >= QUIET_MS || !self.chaos.stops_service() {
            return false;
        }
        self.goes_down(at);
        let ms = self.chaos.rng.magnitude(18);
        self.after(ms, Event::Up(at));
        true
    }

    pub(super) fn goes_down(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        if !host.up {
            return;
        }
        host.up = false;
        host.starts += 1;
        self.chaos.count("agents down", true);
        let host = &mut self.hosts[at];
        // What it has not acknowledged goes back to the broker. A job was acknowledged when it was written down.
        let working = std::mem::take(&mut host.working).into_values();
        let began = &host.began;
        host.queued.extend(working.filter(|command| !began.contains_key(&command.key)));
        // Disks are carried by the service itself.
        drop(host.hypervisor.job.take_if(|job| job.is_carried()));
        host.queued.append(&mut host.waiting);
        self.note(|| format!("host {at} stops"));
        let starts = self.hosts[at].starts;
        self.after(DOWN_AFTER_MS, Event::Missed(at, starts));
    }

    pub(super) fn missed(&mut self, at: usize, starts: u32) {
        let host = &mut self.hosts[at];
        if !host.up && host.starts == starts {
            host.reports = false;
        }
    }

    pub(super) fn comes_up(&mut self, at: usize, restarted: bool) {
        let host = &mut self.hosts[at];
        if host.up || !host.powered {
            return;
        }
        host.up = true;
        for command in host.began.values().cloned().collect::<Vec<_>>() {
            // What was begun is brought to its end before anything else is done for the same saga.
            self.hosts[at].working.insert(command.key.saga_id, command.clone());
            self.resume_job(at, &command, restarted);
        }
        for command in std::mem::take(&mut self.hosts[at].queued) {
            let ms = self.chaos.rng.ms(1, 10);
            self.after(ms, Event::Request(Some(at), command));
        }
        let ms = self.chaos.rng.ms(0, 5_000);
        self.after(ms, Event::Reports(at, true));
    }

    /// Whether the undo of a step has come.
    pub(super) fn is_buried(&self, at: usize, key: &StepKey) -> bool {
        self.hosts[at].tombstones.contains(&(key.saga_id, key.round, key.step.clone()))
    }

    /// Whether the journal says that the step of this undo was carried out, and what was answered.
    pub(super) fn was_done(&self, at: usize, undo: &StepKey) -> Option<Outcome> {
        let answer = self.hosts[at].journal.get(&do_of(undo));
        answer.filter(|answer| matches!(answer, Outcome::Ok { .. })).cloned()
    }
}

/// Work that may take hours: acknowledged when it begins, answered when it is over.
fn is_job(method: &str) -> bool {
    matches!(method, LiveMigration::METHOD | ResizeInstance::METHOD)
}

/// Work that only waits for other work.
fn is_fence(method: &str) -> bool {
    matches!(method, Fence::METHOD | LiveMigrationAbort::METHOD)
}
