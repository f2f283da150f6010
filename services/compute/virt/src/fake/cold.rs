//! Moves of simulated guests that are shut off: where the guest is, what is kept for the way back, and what
//! has arrived. A guest's disks are where one of the three is.

use std::time::Duration;

use chrono::Utc;
use tokio::sync::watch;
use whimbrel_messages::compute::{
    CarriedDisk, CarryStats, FinishResize, FinishRevertResize, PrepResize, PrepResizeReply,
    RebuildInstance, RebuildReply, ResizeInstance, ResizeInstanceReply, RevertResize,
};
use whimbrel_messages::report::JobStats;
use whimbrel_model::{DiskFormat, InstanceId, MigrationId, PowerState};

use super::world::{FakeArrival, FakeGuest, FakeRollback};
use super::{FakeDriver, LOOK, volumes};
use crate::{DriverError, JobProgress};

fn power(start: bool) -> PowerState {
    if start { PowerState::Running } else { PowerState::Shutdown }
}

impl FakeDriver {
    pub(super) fn prepare_resize(
        &self,
        request: &PrepResize,
    ) -> Result<PrepResizeReply, DriverError> {
        self.enter("prep_resize").map_err(|error| DriverError::PreCheck(error.to_string()))?;
        let id = request.instance.id;
        self.admit_elsewhere(id, request.owner_epoch, request.source == self.host)?;
        let known = self.world.arrival(&self.host, id)?;
        if known.is_none_or(|known| known.migration_id != request.migration_id) {
            let arrival = FakeArrival { migration_id: request.migration_id, whole: false };
            self.world.put_arrival(&self.host, id, &arrival)?;
        }
        Ok(PrepResizeReply {
            probe_file: request.migration_id.to_string(),
            has_base: true,
            receiver: format!("fake://{}", self.host),
            ticket: request.migration_id.to_string(),
        })
    }

    /// A resize on the same host must not shut the guest out of it before it has begun.
    fn admit_elsewhere(&self, id: InstanceId, epoch: i64, here: bool) -> Result<(), DriverError> {
        if here {
            return Ok(());
        }
        self.check_cleaned_up(id, epoch)?;
        self.admit(id, epoch)
    }

    pub(super) async fn carry(
        &self,
        request: &ResizeInstance,
        progress: &watch::Sender<JobProgress>,
        stop: watch::Receiver<bool>,
    ) -> Result<ResizeInstanceReply, DriverError> {
        self.enter("resize_instance")?;
        let id = request.instance.id;
        let mut kept = match self.world.rollback(&self.host, id)? {
            Some(kept) if kept.migration_id == request.migration_id => kept,
            _ => self.set_aside(request)?,
        };
        let bytes = request.instance.resources.disk_gib.max(0) << 30;
        let total_ms = self.carry_ms(bytes);
        while !kept.carried {
            if *stop.borrow() {
                return Err(DriverError::Refused("the move was called off".to_owned()));
            }
            let elapsed = self.model_ms(kept.began);
            let done = if total_ms == 0 { bytes } else { bytes * elapsed.min(total_ms) / total_ms };
            let stats = JobStats {
                elapsed_ms: elapsed,
                disk_total: bytes,
                disk_processed: done,
                disk_remaining: bytes - done,
                ..JobStats::default()
            };
            progress.send_replace(JobProgress { stats, post_copy: false });
            if elapsed >= total_ms {
                self.arrive(request)?;
                kept.carried = true;
                self.world.put_rollback(&self.host, id, &kept)?;
                break;
            }
            tokio::time::sleep(LOOK.min(self.real(total_ms - elapsed))).await;
        }
        Ok(ResizeInstanceReply {
            shared: request.destination == self.host,
            disks: vec![CarriedDisk {
                file: "disk".to_owned(),
                format: DiskFormat::Qcow2,
                has_base: true,
                digest: String::new(),
            }],
            stats: CarryStats { shutdown_ms: 0, copy_ms: total_ms, bytes },
        })
    }

    fn set_aside(&self, request: &ResizeInstance) -> Result<FakeRollback, DriverError> {
        let id = request.instance.id;
        self.guest(id)?;
        let kept =
            FakeRollback { migration_id: request.migration_id, began: Utc::now(), carried: false };
        self.world.put_rollback(&self.host, id, &kept)?;
        self.world.remove(&self.host, id)?;
        Ok(kept)
    }

    fn arrive(&self, request: &ResizeInstance) -> Result<(), DriverError> {
        let (id, to) = (request.instance.id, &request.destination);
        let expected = self.world.arrival(to, id)?;
        if expected.is_none_or(|there| there.migration_id != request.migration_id) {
            return Err(DriverError::Refused(format!("{to} does not expect the guest's disks")));
        }
        let arrival = FakeArrival { migration_id: request.migration_id, whole: true };
        Ok(self.world.put_arrival(to, id, &arrival)?)
    }

    pub(super) fn make_from_arrival(&self, request: &FinishResize) -> Result<(), DriverError> {
        self.enter("finish_resize")?;
        let id = request.instance.id;
        self.admit(id, request.owner_epoch)?;
        if let Some(guest) = self.world.get(&self.host, id)?
            && guest.epoch == request.owner_epoch
        {
            return Ok(());
        }
        let arrival = self.world.arrival(&self.host, id)?;
        let whole = |there: &FakeArrival| there.migration_id == request.migration_id && there.whole;
        if !arrival.as_ref().is_some_and(whole) {
            return Err(DriverError::Refused("its disks have not arrived".to_owned()));
        }
        let guest = FakeGuest {
            epoch: request.owner_epoch,
            power: power(request.start),
            incoming: false,
            volumes: volumes(&request.instance),
        };
        self.world.put(&self.host, id, &guest)?;
        Ok(self.world.remove_arrival(&self.host, id)?)
    }

    pub(super) fn drop_rollback(
        &self,
        id: InstanceId,
        migration: MigrationId,
    ) -> Result<(), DriverError> {
        self.enter("confirm_resize")?;
        let kept = self.world.rollback(&self.host, id)?;
        if kept.is_some_and(|kept| kept.migration_id == migration) {
            self.world.remove_rollback(&self.host, id)?;
        }
        Ok(())
    }

    pub(super) fn drop_arrival(&self, request: &RevertResize) -> Result<(), DriverError> {
        self.enter("revert_resize")?;
        let id = request.instance_id;
        let arrival = self.world.arrival(&self.host, id)?;
        let mine = arrival.is_some_and(|arrival| arrival.migration_id == request.migration_id);
        if mine && !request.keep_disks {
            self.world.remove_arrival(&self.host, id)?;
        }
        if request.keep_guest {
            return Ok(());
        }
        // A guest under an older token is not of this move: it is the one that was here before.
        let of_this_move = |guest: &FakeGuest| guest.epoch >= request.owner_epoch;
        if self.world.get(&self.host, id)?.as_ref().is_some_and(of_this_move) {
            self.remove(id, request.owner_epoch)?;
        }
        Ok(())
    }

    pub(super) fn take_back(&self, request: &FinishRevertResize) -> Result<(), DriverError> {
        self.enter("finish_revert_resize")?;
        let id = request.instance.id;
        self.admit(id, request.owner_epoch)?;
        let kept = self.world.rollback(&self.host, id)?;
        // One that an earlier move has set aside is the guest's as well, where there is no other.
        let alone = self.world.get(&self.host, id)?.is_none();
        let kept = kept.is_some_and(|kept| alone || kept.migration_id == request.migration_id);
        if kept || self.world.get(&self.host, id)?.is_some() {
            let guest = FakeGuest {
                epoch: request.owner_epoch,
                power: power(request.start),
                incoming: false,
                volumes: volumes(&request.instance),
            };
            self.world.put(&self.host, id, &guest)?;
        } else {
            return Err(DriverError::NotFound(id));
        }
        if kept {
            self.world.remove_rollback(&self.host, id)?;
        }
        Ok(())
    }

    pub(super) fn make_again(
        &self,
        request: &RebuildInstance,
    ) -> Result<RebuildReply, DriverError> {
        self.enter("rebuild")?;
        self.admit(request.instance.id, request.owner_epoch)?;
        let power_state = power(request.start);
        let guest = FakeGuest {
            epoch: request.owner_epoch,
            power: power_state,
            incoming: false,
            volumes: volumes(&request.instance),
        };
        self.world.put(&self.host, request.instance.id, &guest)?;
        Ok(RebuildReply { power_state, own_disk: false })
    }

    /// How long a disk travels, in model milliseconds.
    fn carry_ms(&self, bytes: i64) -> i64 {
        let per_ms = i64::try_from(self.config.bandwidth_mib_s << 20).unwrap_or(i64::MAX) / 1_000;
        if per_ms == 0 { 0 } else { bytes / per_ms }
    }

    fn model_ms(&self, since: chrono::DateTime<Utc>) -> i64 {
        super::world::model_ms(since, self.config.time_scale).try_into().unwrap_or(i64::MAX)
    }

    fn real(&self, model_ms: i64) -> Duration {
        let ms = u64::try_from(model_ms).unwrap_or_default();
        Duration::from_millis(ms).mul_f64(self.config.time_scale)
    }
}
