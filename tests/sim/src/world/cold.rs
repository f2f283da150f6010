//! Moves of a guest that is shut off, on a host. Its disks are where it is defined, where they were set aside for the
//! way back, or where they have arrived.

use serde_json::json;
use whimbrel_messages::compute::{
    CarryStats, ConfirmResize, Done, FenceResize, FinishResize, FinishRevertResize, PowerReply,
    PrepResize, PrepResizeReply, RebuildInstance, RebuildReply, ResizeInstance,
    ResizeInstanceReply, RevertResize,
};
use whimbrel_messages::{Fault, FaultCode, Outcome};
use whimbrel_model::{MigrationId, PowerState};

use super::driver::{Answer, Guest, Hypervisor, is, ok, read, refuse};
use super::jobs::Job;
use super::{Broken, Command, Sim, name, number};

fn power(running: bool) -> PowerState {
    if running { PowerState::Running } else { PowerState::Shutdown }
}

impl Sim {
    /// Shuts the guest down, sets its disks aside and begins to send them. Says why not, if not.
    pub(super) fn start_carrying(&mut self, at: usize, command: &Command) -> Option<Fault> {
        let request: ResizeInstance = read(command);
        let epochs = self.broken != Some(Broken::NoEpochs);
        let here = &mut self.hosts[at].hypervisor;
        if here.rollback != Some(request.migration_id) {
            if here.guest.is_none() {
                return Some(Fault::new(FaultCode::InstanceNotFound, "it is not here"));
            }
            if let Err(fault) = here.fence(request.owner_epoch, epochs) {
                return Some(fault);
            }
            here.guest = None;
            here.rollback = Some(request.migration_id);
        }
        let to = number(&request.destination);
        self.begin_job(at, command, request.migration_id, to, request.owner_epoch);
        self.check_guests();
        None
    }

    /// The disks are there, if they are still expected.
    pub(super) fn carried(&mut self, job: &Job) -> Option<Outcome> {
        let there = &mut self.hosts[job.destination].hypervisor.arrival;
        match there {
            Some((id, whole)) if *id == job.migration => *whole = true,
            _ => return None,
        }
        let stats = CarryStats::default();
        let reply = ResizeInstanceReply { shared: false, disks: Vec::new(), stats };
        Some(Outcome::Ok { body: serde_json::to_value(reply).expect("plain data") })
    }

    /// Refuses on the ground of what only the world knows: which host this is.
    pub(super) fn prepare_resize(&mut self, at: usize, request: &PrepResize) -> Answer {
        let epochs = self.broken != Some(Broken::NoEpochs);
        let here = &mut self.hosts[at].hypervisor;
        if request.source != name(at) {
            if here.guest.is_some() || here.incoming.is_some() {
                return refuse(FaultCode::MigrationPreCheck);
            }
            here.fence(request.owner_epoch, epochs)?;
        }
        if here.arrival.is_none_or(|(id, _)| id != request.migration_id) {
            here.arrival = Some((request.migration_id, false));
        }
        ok(PrepResizeReply {
            probe_file: "probe".to_owned(),
            has_base: true,
            receiver: String::new(),
            ticket: String::new(),
        })
    }
}

impl Hypervisor {
    /// Whole copies of the guest's disks here.
    pub(super) fn copies(&self) -> usize {
        let arrived = self.arrival.is_some_and(|(_, whole)| whole);
        usize::from(self.guest.is_some())
            + usize::from(self.rollback.is_some())
            + usize::from(arrived)
    }

    pub(super) fn carry_out_cold_move(&mut self, command: &Command, epochs: bool) -> Answer {
        if is::<FinishResize>(command) {
            self.finish(&read(command), epochs)
        } else if is::<FenceResize>(command) {
            let FenceResize { instance_id, migration_id, owner_epoch } = read(command);
            self.revert(&RevertResize {
                instance_id,
                migration_id,
                owner_epoch,
                timeout_ms: 0,
                keep_guest: false,
                keep_disks: false,
            })?;
            Ok(json!({}))
        } else if is::<ConfirmResize>(command) {
            let request: ConfirmResize = read(command);
            let _ = self.rollback.take_if(|id| *id == request.migration_id);
            ok(Done {})
        } else if is::<RevertResize>(command) {
            self.revert(&read(command))
        } else if is::<FinishRevertResize>(command) {
            self.take_back(&read(command), epochs)
        } else if is::<RebuildInstance>(command) {
            self.make_again(&read(command), epochs)
        } else {
            panic!("no host knows the method {}", command.method)
        }
    }

    fn finish(&mut self, request: &FinishResize, epochs: bool) -> Answer {
        self.fence(request.owner_epoch, epochs)?;
        if self.guest.is_none_or(|guest| guest.epoch != request.owner_epoch) {
            if self.arrival != Some((request.migration_id, true)) {
                return refuse(FaultCode::Hypervisor);
            }
            self.arrival = None;
            self.guest =
                Some(Guest { running: false, epoch: request.owner_epoch, persistent: true });
        }
        self.started(request.start)
    }

    fn started(&mut self, start: bool) -> Answer {
        let guest = self.guest.as_mut().expect("it was made");
        guest.running |= start;
        let power_state = power(guest.running);
        self.remains = false;
        ok(PowerReply { power_state })
    }

    fn revert(&mut self, request: &RevertResize) -> Answer {
        let epoch = request.owner_epoch;
        if self.guest.is_some_and(|guest| guest.epoch > epoch) && !request.keep_guest {
            // What carries this move's mark is nobody's any more.
            if !request.keep_disks {
                self.drop_arrival(request.migration_id);
            }
            return refuse(FaultCode::StaleOwner);
        }
        let mine = self.guest.is_some_and(|guest| guest.epoch == epoch) && !request.keep_guest;
        if mine {
            self.guest = None;
            self.arrival = Some((request.migration_id, true));
        }
        if !request.keep_disks {
            self.drop_arrival(request.migration_id);
        }
        ok(Done {})
    }

    fn drop_arrival(&mut self, id: MigrationId) {
        let _ = self.arrival.take_if(|(of, _)| *of == id);
        if self.guest.is_none() {
            self.remains = false;
        }
    }

    fn take_back(&mut self, request: &FinishRevertResize, epochs: bool) -> Answer {
        let epoch = request.owner_epoch;
        self.fence(epoch, epochs)?;
        // One that an earlier move has set aside is the guest's as well, where there is no other.
        let mine = |id: &mut MigrationId| *id == request.migration_id;
        if self.rollback.take_if(|id| mine(id) || self.guest.is_none()).is_some() {
            self.guest = Some(Guest { running: false, epoch, persistent: true });
        }
        let Some(guest) = &mut self.guest else { return refuse(FaultCode::InstanceNotFound) };
        guest.epoch = epoch;
        self.started(request.start)
    }

    fn make_again(&mut self, request: &RebuildInstance, epochs: bool) -> Answer {
        let epoch = request.owner_epoch;
        let rest = self.guest.is_some_and(|guest| guest.epoch != epoch);
        if rest || self.incoming.is_some() {
            return refuse(FaultCode::MigrationPreCheck);
        }
        self.fence(epoch, epochs)?;
        if self.guest.is_none() {
            self.guest = Some(Guest { running: false, epoch, persistent: true });
        }
        self.started(request.start)?;
        let running = self.guest.is_some_and(|guest| guest.running);
        ok(RebuildReply { power_state: power(running), own_disk: false })
    }
}
