//! Jobs: a guest's memory or its disks travel. They take long, and what is known of them survives the service.

use serde_json::json;
use whimbrel_messages::compute::{LiveMigration, LiveMigrationReply, ResizeInstance};
use whimbrel_messages::{Fault, FaultCode, Outcome, Rpc};
use whimbrel_model::{MigrationEvent, MigrationId, MigrationStatus};

use super::driver::{Guest, is, read};
use super::{Broken, Command, Event, Sim, do_of, number};

/// A move that the source's hypervisor drives, whether or not its service runs.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) number: u32,
    pub(crate) command: Command,
    pub(super) migration: MigrationId,
    pub(super) destination: usize,
    /// Which start of the destination it talks to.
    destination_boots: u32,
    epoch: i64,
    post_copy: bool,
    abort: bool,
    /// How it ended, once it has.
    pub(super) outcome: Option<Outcome>,
}

impl Job {
    /// Disks of a guest that is shut off, not the memory of one that runs.
    pub(super) fn is_carried(&self) -> bool {
        self.command.method == ResizeInstance::METHOD
    }
}

impl Sim {
    /// Starts a job. Says why not, if not.
    pub(super) fn start_job(&mut self, at: usize, command: &Command) -> Option<Fault> {
        if is::<ResizeInstance>(command) {
            return self.start_carrying(at, command);
        }
        let request: LiveMigration = read(command);
        let here = &mut self.hosts[at].hypervisor;
        if !here.guest.is_some_and(|guest| guest.running) || here.job.is_some() {
            return Some(Fault::new(FaultCode::InstanceNotFound, "it does not run here"));
        }
        if request.owner_epoch < here.seen && self.broken != Some(Broken::NoEpochs) {
            return Some(Fault::new(FaultCode::StaleOwner, "of the past"));
        }
        let to = number(&request.destination);
        self.begin_job(at, command, request.migration_id, to, request.owner_epoch);
        None
    }

    pub(super) fn begin_job(
        &mut self,
        at: usize,
        command: &Command,
        migration: MigrationId,
        destination: usize,
        epoch: i64,
    ) {
        self.jobs += 1;
        let destination_boots = self.hosts[destination].boots;
        self.hosts[at].hypervisor.job = Some(Job {
            number: self.jobs,
            command: command.clone(),
            migration,
            destination,
            destination_boots,
            epoch,
            post_copy: false,
            abort: false,
            outcome: None,
        });
        let ms = self.chaos.job_ms();
        self.after(ms, Event::JobOver(at, self.jobs));
        if is::<LiveMigration>(command) && self.chaos.is_random() && self.chaos.rng.chance(100) {
            self.after(ms / 2, Event::PostCopy(at, self.jobs));
        }
    }

    /// A service that starts takes up a job that it had begun.
    pub(super) fn resume_job(&mut self, at: usize, command: &Command, restarted: bool) {
        if is::<ResizeInstance>(command) {
            let refused = if restarted || self.is_buried(at, &command.key) {
                // What it was to move may have gone elsewhere since its host was lost.
                Some(Fault::new(FaultCode::Cancelled, "it was called off"))
            } else {
                self.start_carrying(at, command)
            };
            if let Some(fault) = refused {
                self.settle(at, command, &Outcome::Refused { fault });
            }
        } else if self.hosts[at].hypervisor.job.as_ref().is_some_and(|job| job.command == *command)
        {
            self.follow_job(at);
        } else {
            // It had not begun, or is over: the destination shows which.
            let request: LiveMigration = read(command);
            let there = self.hosts[number(&request.destination)].hypervisor.guest;
            let outcome = if there.is_some_and(|guest| guest.epoch == request.owner_epoch) {
                let body = serde_json::to_value(LiveMigrationReply { stats: None });
                Outcome::Ok { body: body.expect("plain data") }
            } else {
                let fault = Fault::new(FaultCode::Hypervisor, "it ended while nobody watched");
                Outcome::Refused { fault }
            };
            self.settle(at, command, &outcome);
        }
    }

    pub(super) fn job(&mut self, at: usize, number: u32) -> Option<&mut Job> {
        let job = self.hosts[at].hypervisor.job.as_mut();
        job.filter(|job| job.number == number && job.outcome.is_none())
    }

    pub(super) fn post_copy(&mut self, at: usize, number: u32) {
        let Some(job) = self.job(at, number) else { return };
        if job.abort {
            return;
        }
        job.post_copy = true;
        let id = job.migration;
        if let Some(row) = self.rows.migrations.get_mut(&id)
            && row.status == MigrationStatus::Running
        {
            row.status = row.status.on(row.kind, MigrationEvent::PostCopy).expect("it runs");
        }
    }

    /// Asks a running job to stop. The answer to `undo` waits until it is over.
    pub(super) fn abort_job(&mut self, at: usize, undo: &Command) {
        let ms = self.chaos.rng.ms(1, 2_000);
        let key = do_of(&undo.key);
        let early = self.broken == Some(Broken::AbortBeforeTheEnd);
        let Some(job) = &mut self.hosts[at].hypervisor.job else { return };
        if job.command.key != key || job.outcome.is_some() || job.post_copy {
            return;
        }
        job.abort = true;
        let number = job.number;
        self.after(ms, Event::JobOver(at, number));
        if early {
            self.settle(at, undo, &Outcome::Ok { body: json!({}) });
        }
    }

    pub(super) fn job_over(&mut self, at: usize, number: u32) {
        let Some(job) = self.job(at, number).cloned() else { return };
        // An abort may come too late: the guest has switched over by then.
        let random = self.chaos.is_random();
        let aborted = job.abort && !job.post_copy && (!random || self.chaos.rng.chance(500));
        let refused = self.chaos.refuses(&job.command.key, false) && !job.post_copy;
        let there = &self.hosts[job.destination];
        let talks = there.powered && there.boots == job.destination_boots;
        let outcome = if aborted || refused || !talks {
            None
        } else if job.is_carried() {
            self.carried(&job)
        } else {
            self.switched_over(at, &job)
        };
        if outcome.is_none() && job.post_copy {
            // Half of its memory is lost.
            let guest = self.hosts[at].hypervisor.guest.as_mut();
            if let Some(guest) = guest {
                guest.running = false;
            }
        }
        let outcome = outcome.unwrap_or_else(|| {
            let code = if aborted { FaultCode::Cancelled } else { FaultCode::Hypervisor };
            Outcome::Refused { fault: Fault::new(code, "the job ended without the guest") }
        });
        self.note(|| format!("job {number} ends: {outcome:?}"));
        self.job(at, number).expect("it was there").outcome = Some(outcome);
        self.check_guests();
        if self.hosts[at].up {
            self.follow_job(at);
        }
    }

    /// The guest leaves here and is there, if it is still expected.
    fn switched_over(&mut self, at: usize, job: &Job) -> Option<Outcome> {
        let awaited = Some((job.migration, job.epoch));
        let source = &mut self.hosts[at].hypervisor;
        source.guest.filter(|guest| guest.running)?;
        if self.hosts[job.destination].hypervisor.incoming != awaited {
            return None;
        }
        let source = &mut self.hosts[at].hypervisor;
        // Its definition and disks stay until they are removed.
        source.guest = source.guest.map(|guest| Guest { running: false, ..guest });
        source.seen = source.seen.max(job.epoch);
        let destination = &mut self.hosts[job.destination].hypervisor;
        destination.incoming = None;
        destination.remains = false;
        destination.guest = Some(Guest { running: true, epoch: job.epoch, persistent: false });
        let body = serde_json::to_value(LiveMigrationReply { stats: None });
        Some(Outcome::Ok { body: body.expect("plain data") })
    }

    /// Answers for the job if it has ended.
    pub(super) fn follow_job(&mut self, at: usize) {
        let ended = self.hosts[at].hypervisor.job.take_if(|job| job.outcome.is_some());
        if let Some(Job { command, outcome: Some(outcome), .. }) = ended {
            self.settle(at, &command, &outcome);
        }
    }
}
