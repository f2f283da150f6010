//! What the requests do on a host. One guest in the world, so a host has it or not.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use whimbrel_messages::compute::{
    BuildAndRunInstance, CheckCanLiveMigrateDestination, CheckCanLiveMigrateSource,
    CleanUpLiveMigrationCheck, DestinationCheck, Done, Fence, FenceResize, LiveMigration,
    LiveMigrationAbort, LiveMigrationReply, MigrateData, PostLiveMigration,
    PostLiveMigrationAtDestination, PowerReply, PreLiveMigration, PreLiveMigrationReply,
    PrepResize, RebootInstance, RebuildInstance, ResizeInstance,
    RollbackLiveMigrationAtDestination, StartInstance, StopInstance, TerminateInstance,
};
use whimbrel_messages::{Dir, Fault, FaultCode, Outcome, Rpc};
use whimbrel_model::{MigrationId, PowerState};

use super::jobs::Job;
use super::{Broken, Command, Sim};

/// The guest on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(crate) running: bool,
    pub(crate) epoch: i64,
    /// Its definition would outlive a reboot of the host.
    pub(crate) persistent: bool,
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
    /// The guest's disks, set aside by that move for the way back.
    pub(crate) rollback: Option<MigrationId>,
    /// Disks that a move brings, and whether they are whole.
    pub(crate) arrival: Option<(MigrationId, bool)>,
    /// The highest token seen.
    pub(crate) seen: i64,
}

pub(super) type Answer = Result<Value, Fault>;

pub(super) fn read<R: Rpc>(command: &Command) -> R {
    serde_json::from_value(command.body.clone()).expect("a request of its method's type")
}

pub(super) fn ok<T: Serialize>(reply: T) -> Answer {
    Ok(serde_json::to_value(reply).expect("plain data"))
}

pub(super) fn refuse(code: FaultCode) -> Answer {
    Err(Fault::new(code, "no"))
}

pub(super) fn is<R: Rpc + DeserializeOwned>(command: &Command) -> bool {
    command.method == R::METHOD
}

impl Sim {
    /// Carries a request out. None when the answer comes later.
    pub(super) fn carry_out(&mut self, at: usize, command: &Command) -> Option<Outcome> {
        if command.key.dir == Dir::Undo && self.chaos.refuses(&command.key, command.must) {
            let fault = Fault::new(FaultCode::Hypervisor, "no");
            return Some(Outcome::Refused { fault });
        }
        if is::<Fence>(command) || is::<LiveMigrationAbort>(command) {
            return Some(match self.was_done(at, &command.key) {
                Some(Outcome::Ok { body }) => Outcome::AlreadyDone { body },
                _ => Outcome::Ok { body: json!({}) },
            });
        }
        if is::<FenceResize>(command)
            && let Some(Outcome::Ok { body }) = self.was_done(at, &command.key)
        {
            return Some(Outcome::AlreadyDone { body });
        }
        if is::<LiveMigration>(command) || is::<ResizeInstance>(command) {
            let refused = self.start_job(at, command)?;
            return Some(Outcome::Refused { fault: refused });
        }
        if is::<RollbackLiveMigrationAtDestination>(command)
            && self.hosts[at].hypervisor.has_arrived(&read(command))
        {
            let body = serde_json::to_value(LiveMigrationReply { stats: None });
            return Some(Outcome::AlreadyDone { body: body.expect("plain data") });
        }
        let ran = self.hosts[at].hypervisor.guest.is_some_and(|guest| guest.running);
        // What had its effect before a stop of the service is found done, and not refused afterwards.
        let effective = self.effective.contains(&command.key);
        let answer = if !effective && self.chaos.refuses(&command.key, command.must) {
            // Refused halfway: what was made is left to the undo.
            let half = is::<BuildAndRunInstance>(command)
                || is::<PreLiveMigration>(command)
                || is::<RebuildInstance>(command);
            self.hosts[at].hypervisor.remains |= half;
            let check = command.method.starts_with("check_can") || is::<PrepResize>(command);
            refuse(if check { FaultCode::MigrationPreCheck } else { FaultCode::Hypervisor })
        } else {
            let epochs = self.broken != Some(Broken::NoEpochs);
            if self.broken == Some(Broken::RestsOutliveTokens) && self.is_of_the_past(at, command) {
                refuse(FaultCode::StaleOwner)
            } else if is::<PrepResize>(command) {
                self.prepare_resize(at, &read(command))
            } else {
                self.hosts[at].hypervisor.carry_out(command, epochs)
            }
        };
        let gone = self.hosts[at].hypervisor.guest.is_none();
        if ran && gone && is::<RollbackLiveMigrationAtDestination>(command) {
            self.violated(|| "a guest that runs is removed".to_owned());
        }
        Some(match answer {
            Ok(body) => Outcome::Ok { body },
            Err(fault) => Outcome::Refused { fault },
        })
    }

    /// Whether a newer token was seen by a host that is to remove what an earlier move has left.
    fn is_of_the_past(&self, at: usize, command: &Command) -> bool {
        let epoch = if is::<PostLiveMigration>(command) {
            read::<PostLiveMigration>(command).owner_epoch
        } else if is::<RollbackLiveMigrationAtDestination>(command) {
            read::<RollbackLiveMigrationAtDestination>(command).owner_epoch
        } else {
            return false;
        };
        epoch < self.hosts[at].hypervisor.seen
    }
}

impl Hypervisor {
    /// Refuses what is older than what was seen.
    pub(super) fn fence(&mut self, epoch: i64, epochs: bool) -> Result<(), Fault> {
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
            self.fence(epoch, epochs)?;
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
            self.clear(&read(command), epochs)
        } else {
            self.carry_out_cold_move(command, epochs)
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
        self.rollback = None;
        self.arrival = None;
        self.remains = false;
        ok(Done {})
    }

    fn prepare(&mut self, request: &PreLiveMigration, epochs: bool) -> Answer {
        let coming = (request.migration_id, request.owner_epoch);
        if self.guest.is_some_and(|guest| guest.epoch != request.owner_epoch)
            || self.incoming.is_some_and(|other| other != coming)
        {
            // Before the token counts as seen: what is left is removed under a lower one.
            return refuse(FaultCode::MigrationPreCheck);
        }
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

    /// Whether the guest came by this move, of which nobody else can say so any more.
    fn has_arrived(&self, request: &RollbackLiveMigrationAtDestination) -> bool {
        let arrived = self.guest.is_some_and(|guest| guest.epoch == request.owner_epoch);
        request.source_lost && arrived
    }

    fn roll_back(&mut self, request: &RollbackLiveMigrationAtDestination, epochs: bool) -> Answer {
        let epoch = request.owner_epoch;
        self.seen = self.seen.max(epoch);
        match self.guest.filter(|guest| epochs && guest.persistent) {
            Some(guest) if guest.epoch > epoch => return refuse(FaultCode::StaleOwner),
            Some(guest) if guest.epoch == epoch => return refuse(FaultCode::Hypervisor),
            _ => {}
        }
        if self.incoming.is_some_and(|(id, _)| id != request.migration_id) {
            return ok(Done {});
        }
        if self.guest.is_none_or(|guest| guest.epoch == epoch) {
            self.guest = None;
            self.incoming = None;
            self.remains = false;
        }
        ok(Done {})
    }

    /// Removes what is left of a guest that has left, or was made again elsewhere.
    fn clear(&mut self, request: &PostLiveMigration, epochs: bool) -> Answer {
        let epoch = request.owner_epoch;
        self.seen = self.seen.max(epoch);
        match self.guest.filter(|_| epochs) {
            Some(guest) if guest.epoch > epoch => return refuse(FaultCode::StaleOwner),
            Some(guest) if guest.epoch == epoch => return refuse(FaultCode::Hypervisor),
            _ => {}
        }
        if !request.lost && self.guest.is_some_and(|guest| guest.running) {
            return refuse(FaultCode::Hypervisor);
        }
        self.guest = None;
        if request.lost || self.incoming.is_none() {
            self.remains = false;
        }
        if request.lost {
            self.incoming = None;
            self.rollback = None;
            self.arrival = None;
        }
        ok(Done {})
    }
}
