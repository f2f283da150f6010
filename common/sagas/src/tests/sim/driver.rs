//! What the requests do on a host. One guest in the world, so a host has it or not.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use whimbrel_messages::compute::{
    BuildAndRunInstance, CheckCanLiveMigrateDestination, CheckCanLiveMigrateSource,
    CleanUpLiveMigrationCheck, DestinationCheck, Done, Fence, LiveMigration, LiveMigrationAbort,
    LiveMigrationReply, MigrateData, PostLiveMigration, PostLiveMigrationAtDestination, PowerReply,
    PreLiveMigration, PreLiveMigrationReply, RebootInstance, RollbackLiveMigrationAtDestination,
    StartInstance, StopInstance, TerminateInstance,
};
use whimbrel_messages::{Dir, Fault, FaultCode, Outcome, Rpc};
use whimbrel_model::{MigrationEvent, MigrationId, MigrationStatus, PowerState};

use super::{Broken, Command, Event, Sim, do_of, number};

/// The guest on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(crate) running: bool,
    pub(crate) epoch: i64,
    /// Its definition would outlive a reboot of the host.
    pub(crate) persistent: bool,
}

/// A move that the source's hypervisor drives, whether or not its service runs.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) number: u32,
    pub(crate) command: Command,
    migration: MigrationId,
    destination: usize,
    epoch: i64,
    post_copy: bool,
    abort: bool,
    /// How it ended, once it has.
    outcome: Option<Outcome>,
}

/// What is on a host of the guest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hypervisor {
    pub(crate) guest: Option<Guest>,
    /// Files that are nobody's.
    pub(crate) remains: bool,
    /// A guest that is about to arrive, and the token it will run under.
    pub(crate) incoming: Option<(MigrationId, i64)>,
    pub(crate) probes: BTreeSet<MigrationId>,
    pub(crate) job: Option<Job>,
    /// The highest token seen.
    pub(crate) seen: i64,
}

type Answer = Result<Value, Fault>;

fn read<R: Rpc>(command: &Command) -> R {
    serde_json::from_value(command.body.clone()).expect("a request of its method's type")
}

fn ok<T: Serialize>(reply: T) -> Answer {
    Ok(serde_json::to_value(reply).expect("plain data"))
}

fn refuse(code: FaultCode) -> Answer {
    Err(Fault::new(code, "no"))
}

fn is<R: Rpc + DeserializeOwned>(command: &Command) -> bool {
    command.method == R::METHOD
}

impl Sim {
    /// Carries a request out. None when the answer comes later.
    pub(super) fn carry_out(&mut self, at: usize, command: &Command) -> Option<Outcome> {
        if command.key.dir == Dir::Undo && self.chaos.refuses(&command.key) {
            let fault = Fault::new(FaultCode::Hypervisor, "no");
            return Some(Outcome::Refused { fault });
        }
        if is::<Fence>(command) || is::<LiveMigrationAbort>(command) {
            return Some(match self.was_done(at, &command.key) {
                Some(Outcome::Ok { body }) => Outcome::AlreadyDone { body },
                _ => Outcome::Ok { body: json!({}) },
            });
        }
        if is::<LiveMigration>(command) {
            let refused = self.start_job(at, command)?;
            return Some(Outcome::Refused { fault: refused });
        }
        // What had its effect before a stop of the service is found done, and not refused afterwards.
        let effective = self.effective.contains(&command.key);
        let answer = if !effective && self.chaos.refuses(&command.key) {
            // Refused halfway: what was made is left to the undo.
            let half = is::<BuildAndRunInstance>(command) || is::<PreLiveMigration>(command);
            self.hosts[at].hypervisor.remains |= half;
            let check = command.method.starts_with("check_can");
            refuse(if check { FaultCode::MigrationPreCheck } else { FaultCode::Hypervisor })
        } else {
            let epochs = self.broken != Some(Broken::NoEpochs);
            self.hosts[at].hypervisor.carry_out(command, epochs)
        };
        Some(match answer {
            Ok(body) => Outcome::Ok { body },
            Err(fault) => Outcome::Refused { fault },
        })
    }

    /// Starts a move. Says why not, if not.
    fn start_job(&mut self, at: usize, command: &Command) -> Option<Fault> {
        let request: LiveMigration = read(command);
        let here = &mut self.hosts[at].hypervisor;
        if !here.guest.is_some_and(|guest| guest.running) || here.job.is_some() {
            return Some(Fault::new(FaultCode::InstanceNotFound, "it does not run here"));
        }
        if request.owner_epoch < here.seen {
            return Some(Fault::new(FaultCode::StaleOwner, "of the past"));
        }
        self.jobs += 1;
        here.job = Some(Job {
            number: self.jobs,
            command: command.clone(),
            migration: request.migration_id,
            destination: number(&request.destination),
            epoch: request.owner_epoch,
            post_copy: false,
            abort: false,
            outcome: None,
        });
        let ms = self.chaos.job_ms();
        self.after(ms, Event::JobOver(at, self.jobs));
        if self.chaos.is_random() && self.chaos.rng.chance(100) {
            self.after(ms / 2, Event::PostCopy(at, self.jobs));
        }
        None
    }

    fn job(&mut self, at: usize, number: u32) -> Option<&mut Job> {
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
        let runs = self.hosts[at].hypervisor.guest.is_some_and(|guest| guest.running);
        let awaited = Some((job.migration, job.epoch));
        let arrives = self.hosts[job.destination].hypervisor.incoming == awaited;
        let refused = self.chaos.refuses(&job.command.key) && !job.post_copy;
        // An abort may come too late: the guest has switched over by then.
        let aborted =
            job.abort && !job.post_copy && (!self.chaos.is_random() || self.chaos.rng.chance(500));
        let outcome = if runs && arrives && !refused && !aborted {
            let source = &mut self.hosts[at].hypervisor;
            source.guest = None;
            source.remains = true;
            source.seen = source.seen.max(job.epoch);
            let destination = &mut self.hosts[job.destination].hypervisor;
            destination.incoming = None;
            destination.remains = false;
            destination.guest = Some(Guest { running: true, epoch: job.epoch, persistent: false });
            let body = serde_json::to_value(LiveMigrationReply { stats: None });
            Outcome::Ok { body: body.expect("plain data") }
        } else {
            let code = if aborted { FaultCode::Cancelled } else { FaultCode::Hypervisor };
            Outcome::Refused { fault: Fault::new(code, "the job ended without the guest") }
        };
        self.note(|| format!("job {number} ends: {outcome:?}"));
        self.job(at, number).expect("it was there").outcome = Some(outcome);
        self.check_guests();
        if self.hosts[at].up {
            self.follow_job(at);
        }
    }

    /// Answers for the job if it has ended.
    pub(super) fn follow_job(&mut self, at: usize) {
        let ended = self.hosts[at].hypervisor.job.take_if(|job| job.outcome.is_some());
        if let Some(Job { command, outcome: Some(outcome), .. }) = ended {
            self.settle(at, &command, &outcome);
        }
    }
}

impl Hypervisor {
    /// Refuses what is older than what was seen.
    fn fence(&mut self, epoch: i64, epochs: bool) -> Result<(), Fault> {
        if epochs && epoch < self.seen {
            return Err(Fault::new(FaultCode::StaleOwner, "of the past"));
        }
        self.seen = self.seen.max(epoch);
        Ok(())
    }

    fn carry_out(&mut self, command: &Command, epochs: bool) -> Answer {
        if is::<BuildAndRunInstance>(command) {
            self.fence(read::<BuildAndRunInstance>(command).owner_epoch, epochs)?;
            self.runs(read::<BuildAndRunInstance>(command).owner_epoch)
        } else if is::<TerminateInstance>(command) {
            self.terminate(&read(command), epochs)
        } else if is::<StartInstance>(command) {
            let request: StartInstance = read(command);
            self.fence(request.owner_epoch, epochs)?;
            if self.guest.is_none() {
                refuse(FaultCode::InstanceNotFound)
            } else {
                self.runs(request.owner_epoch)
            }
        } else if is::<RebootInstance>(command) {
            let request: RebootInstance = read(command);
            self.fence(request.owner_epoch, epochs)?;
            if self.guest.is_none() {
                refuse(FaultCode::InstanceNotFound)
            } else {
                self.runs(request.owner_epoch)
            }
        } else if is::<StopInstance>(command) {
            let Some(guest) = &mut self.guest else { return refuse(FaultCode::InstanceNotFound) };
            guest.running = false;
            ok(PowerReply { power_state: PowerState::Shutdown })
        } else {
            self.carry_out_move(command, epochs)
        }
    }

    fn carry_out_move(&mut self, command: &Command, epochs: bool) -> Answer {
        if is::<CheckCanLiveMigrateDestination>(command) {
            self.probes.insert(read::<CheckCanLiveMigrateDestination>(command).migration_id);
            ok(DestinationCheck {
                probe_file: "probe".to_owned(),
                disk_available: 1,
                hypervisor_version: 1,
                cpu_xml: String::new(),
            })
        } else if is::<CleanUpLiveMigrationCheck>(command) {
            self.probes.remove(&read::<CleanUpLiveMigrationCheck>(command).migration_id);
            ok(Done {})
        } else if is::<CheckCanLiveMigrateSource>(command) {
            if !self.guest.is_some_and(|guest| guest.running) {
                return refuse(FaultCode::MigrationPreCheck);
            }
            ok(MigrateData { block_migration: true, disks: Vec::new() })
        } else if is::<PreLiveMigration>(command) {
            self.prepare(&read(command), epochs)
        } else if is::<RollbackLiveMigrationAtDestination>(command) {
            self.roll_back(&read(command), epochs)
        } else if is::<PostLiveMigrationAtDestination>(command) {
            let epoch = read::<PostLiveMigrationAtDestination>(command).owner_epoch;
            match &mut self.guest {
                Some(guest) if guest.epoch == epoch => {
                    guest.persistent = true;
                    let running = guest.running;
                    let power_state =
                        if running { PowerState::Running } else { PowerState::Shutdown };
                    ok(PowerReply { power_state })
                }
                _ => refuse(FaultCode::InstanceNotFound),
            }
        } else if is::<PostLiveMigration>(command) {
            let epoch = read::<PostLiveMigration>(command).owner_epoch;
            if self.seen > epoch && epochs {
                return refuse(FaultCode::StaleOwner);
            }
            self.guest = None;
            self.remains = false;
            ok(Done {})
        } else {
            panic!("no host knows the method {}", command.method)
        }
    }

    fn runs(&mut self, epoch: i64) -> Answer {
        self.guest = Some(Guest { running: true, epoch, persistent: true });
        self.remains = false;
        ok(PowerReply { power_state: PowerState::Running })
    }

    fn terminate(&mut self, request: &TerminateInstance, epochs: bool) -> Answer {
        let epoch = request.owner_epoch;
        if epochs && self.guest.is_some_and(|guest| guest.epoch > epoch) {
            return refuse(FaultCode::StaleOwner);
        }
        self.seen = self.seen.max(epoch);
        self.guest = None;
        self.incoming = None;
        self.remains = false;
        ok(Done {})
    }

    fn prepare(&mut self, request: &PreLiveMigration, epochs: bool) -> Answer {
        self.fence(request.owner_epoch, epochs)?;
        if self.guest.is_some() {
            return refuse(FaultCode::Hypervisor);
        }
        self.probes.remove(&request.migration_id);
        self.incoming = Some((request.migration_id, request.owner_epoch));
        self.remains = true;
        ok(PreLiveMigrationReply {
            destination_uri: "qemu+tcp://there/system".to_owned(),
            migrate_uri: None,
            listen_address: None,
        })
    }

    fn roll_back(&mut self, request: &RollbackLiveMigrationAtDestination, epochs: bool) -> Answer {
        let newer = self.seen > request.owner_epoch && epochs;
        if !newer && self.guest.is_none_or(|guest| !guest.running) {
            self.guest = None;
            self.incoming = None;
            self.remains = false;
        }
        ok(Done {})
    }
}
