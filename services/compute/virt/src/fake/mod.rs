//! A simulated hypervisor, for load and fault tests. It runs no guests; it keeps a record of each, which
//! outlives the service as a real emulator does, and moves it from host to host as the model says.

mod cold;
mod config;
mod model;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use whimbrel_messages::compute::{
    BlockMigration, DestinationCheck, DiskSpec, FinishResize, FinishRevertResize, InstanceSpec,
    MigrateData, PostLiveMigration, PreLiveMigrationReply, PrepResize, PrepResizeReply, RebootKind,
    RebuildInstance, RebuildReply, ResizeInstance, ResizeInstanceReply, RevertResize,
    RollbackLiveMigrationAtDestination,
};
use whimbrel_messages::report::{CpuInfo, Guest, Inventory, JobStats};
use whimbrel_model::{
    DiskFormat, HostName, InstanceId, MigrationId, PowerState, Resources, VolumeId,
};

use crate::{Arrival, ComputeDriver, DriverError, JobOutcome, JobProgress, LiveMigrationJob};

pub use config::FakeConfig;
use model::Course;
use world::{FakeGuest, FakeJob, World};

/// A running job looks this often, in model time, whether it was called off.
const LOOK: Duration = Duration::from_millis(100);

/// One simulated host.
pub struct FakeDriver {
    host: HostName,
    config: FakeConfig,
    world: World,
}

impl FakeDriver {
    /// The host `host`.
    ///
    /// # Errors
    /// When the world's directory can't be made.
    pub fn new(host: HostName, config: FakeConfig) -> std::io::Result<Self> {
        let world = World::open(config.world_dir.as_deref(), &host)?;
        Ok(Self { host, config, world })
    }

    /// Fails where the configuration says so.
    fn enter(&self, call: &'static str) -> Result<(), DriverError> {
        if self.config.refuse.iter().any(|name| name == call) {
            return Err(DriverError::Refused(format!("{call} is configured to be refused")));
        }
        Ok(())
    }

    fn guest(&self, id: InstanceId) -> Result<FakeGuest, DriverError> {
        self.world.get(&self.host, id)?.ok_or(DriverError::NotFound(id))
    }

    /// Refuses a token below the highest seen, and remembers it otherwise.
    fn admit(&self, id: InstanceId, epoch: i64) -> Result<(), DriverError> {
        let seen = self.world.epoch(&self.host, id)?;
        if epoch < seen {
            return Err(DriverError::StaleOwner { instance_id: id, seen, asked: epoch });
        }
        if epoch > seen {
            self.world.set_epoch(&self.host, id, epoch)?;
        }
        Ok(())
    }

    /// Refuses a guest of which an earlier move has left something, before its token is taken for seen: what has to
    /// be removed for that move is asked for under a lower one.
    fn check_cleaned_up(&self, id: InstanceId, epoch: i64) -> Result<(), DriverError> {
        if self.world.get(&self.host, id)?.is_some_and(|guest| guest.epoch < epoch) {
            let host = &self.host;
            return Err(DriverError::PreCheck(format!(
                "host {host} has not yet cleaned up after an earlier move of instance {id}"
            )));
        }
        Ok(())
    }

    /// Removes what is here under `epoch` or a lower one.
    fn remove(&self, id: InstanceId, epoch: i64) -> Result<(), DriverError> {
        if let Some(guest) = self.world.get(&self.host, id)?
            && guest.epoch > epoch
        {
            let seen = guest.epoch;
            return Err(DriverError::StaleOwner { instance_id: id, seen, asked: epoch });
        }
        self.world.remove(&self.host, id)?;
        Ok(())
    }

    fn set_power(&self, id: InstanceId, power: PowerState) -> Result<(), DriverError> {
        let guest = self.guest(id)?;
        Ok(self.world.put(&self.host, id, &FakeGuest { power, ..guest })?)
    }

    fn course(&self, memory_mib: i64) -> Course {
        Course::of(memory_mib, &self.config)
    }

    async fn follow(
        &self,
        job: &LiveMigrationJob,
        mut record: FakeJob,
        progress: &watch::Sender<JobProgress>,
    ) -> Result<JobOutcome, DriverError> {
        let id = job.instance.id;
        let course = self.course(job.instance.resources.memory_mib);
        loop {
            let elapsed = record.elapsed_ms(self.config.time_scale);
            progress.send_replace(JobProgress { stats: course.at(elapsed), post_copy: false });
            if self.world.get(&self.host, id)?.is_none() {
                return self.verdict(job);
            }
            if record.forced || course.total_ms.is_some_and(|total| elapsed >= total) {
                let stats = course.end(elapsed);
                return self.switch_over(job).map(|()| JobOutcome::Completed(Some(stats)));
            }
            let rest = course.total_ms.map_or(u64::MAX, |total| total - elapsed);
            let pause = LOOK.min(Duration::from_millis(rest)).mul_f64(self.config.time_scale);
            tokio::time::sleep(pause).await;
            match self.world.job(&self.host, id)? {
                Some(now) if now.migration_id == record.migration_id => record = now,
                _ => break,
            }
        }
        match self.verdict(job)? {
            JobOutcome::Failed(_) => Ok(JobOutcome::Aborted),
            other => Ok(other),
        }
    }

    /// The guest leaves here and is there, in one step that no crash can divide.
    fn switch_over(&self, job: &LiveMigrationJob) -> Result<(), DriverError> {
        let id = job.instance.id;
        let guest = FakeGuest { epoch: job.owner_epoch, incoming: false, ..self.guest(id)? };
        self.world.hand_over(&self.host, &job.destination, id, &guest)?;
        self.world.remove_job(&self.host, id)?;
        Ok(())
    }

    /// What became of a job that nobody watched.
    fn verdict(&self, job: &LiveMigrationJob) -> Result<JobOutcome, DriverError> {
        let id = job.instance.id;
        self.world.remove_job(&self.host, id)?;
        let there = self.world.get(&job.destination, id)?;
        if there.is_some_and(|guest| !guest.incoming && guest.epoch == job.owner_epoch) {
            return Ok(JobOutcome::Completed(None));
        }
        Ok(JobOutcome::Failed("it ended while the service was away".to_owned()))
    }
}

impl ComputeDriver for FakeDriver {
    async fn inventory(&self) -> Result<Inventory, DriverError> {
        self.enter("inventory")?;
        Ok(Inventory {
            total: Resources {
                vcpus: self.config.vcpus,
                memory_mib: self.config.memory_mib,
                disk_gib: self.config.disk_gib,
            },
            disk_free_gib: self.config.disk_gib,
            hypervisor_type: "fake".to_owned(),
            hypervisor_version: self.config.hypervisor_version,
            hypervisor_hostname: self.host.to_string(),
            host_ip: "127.0.0.1".to_owned(),
            cpu: CpuInfo { arch: "x86_64".to_owned(), ..CpuInfo::default() },
            running_vms: i32::try_from(self.world.list(&self.host)?.len()).unwrap_or(i32::MAX),
            uptime_s: 0,
        })
    }

    async fn guests(&self) -> Result<Vec<Guest>, DriverError> {
        self.enter("guests")?;
        let guests = self.world.list(&self.host)?.into_iter().map(|(instance_id, guest)| Guest {
            instance_id,
            power_state: guest.power,
            owner_epoch: guest.epoch,
            migrating: guest.incoming,
        });
        Ok(guests.collect())
    }

    async fn spawn(&self, instance: &InstanceSpec, epoch: i64) -> Result<(), DriverError> {
        self.enter("spawn")?;
        self.admit(instance.id, epoch)?;
        let volumes = volumes(instance);
        let guest = FakeGuest { epoch, power: PowerState::Running, incoming: false, volumes };
        Ok(self.world.put(&self.host, instance.id, &guest)?)
    }

    async fn destroy(&self, id: InstanceId, epoch: i64) -> Result<(), DriverError> {
        self.enter("destroy")?;
        self.world.remove_job(&self.host, id)?;
        self.world.remove_rollback(&self.host, id)?;
        self.world.remove_arrival(&self.host, id)?;
        self.remove(id, epoch)
    }

    async fn power_on(&self, instance: &InstanceSpec, epoch: i64) -> Result<(), DriverError> {
        self.enter("power_on")?;
        self.admit(instance.id, epoch)?;
        self.set_power(instance.id, PowerState::Running)
    }

    async fn power_off(&self, id: InstanceId, _timeout_ms: i64) -> Result<(), DriverError> {
        self.enter("power_off")?;
        self.set_power(id, PowerState::Shutdown)
    }

    async fn reboot(
        &self,
        instance: &InstanceSpec,
        epoch: i64,
        _kind: RebootKind,
    ) -> Result<(), DriverError> {
        self.enter("reboot")?;
        self.admit(instance.id, epoch)?;
        self.set_power(instance.id, PowerState::Running)
    }

    async fn attach_volume(
        &self,
        instance: &InstanceSpec,
        volume_id: VolumeId,
        epoch: i64,
    ) -> Result<(), DriverError> {
        self.enter("attach_volume")?;
        self.admit(instance.id, epoch)?;
        let mut guest = self.guest(instance.id)?;
        guest.volumes.insert(volume_id);
        Ok(self.world.put(&self.host, instance.id, &guest)?)
    }

    async fn detach_volume(
        &self,
        id: InstanceId,
        volume_id: VolumeId,
        _timeout_ms: i64,
    ) -> Result<(), DriverError> {
        self.enter("detach_volume")?;
        let Some(mut guest) = self.world.get(&self.host, id)? else { return Ok(()) };
        guest.volumes.remove(&volume_id);
        Ok(self.world.put(&self.host, id, &guest)?)
    }

    async fn power_state(&self, id: InstanceId) -> Result<PowerState, DriverError> {
        Ok(self.guest(id)?.power)
    }

    async fn check_can_live_migrate_destination(
        &self,
        _instance: &InstanceSpec,
        migration_id: MigrationId,
        _block_migration: BlockMigration,
    ) -> Result<DestinationCheck, DriverError> {
        self.enter("check_can_live_migrate_destination")
            .map_err(|error| DriverError::PreCheck(error.to_string()))?;
        Ok(DestinationCheck {
            probe_file: migration_id.to_string(),
            disk_available: i64::MAX,
            hypervisor_version: self.config.hypervisor_version,
            cpu_xml: String::new(),
        })
    }

    async fn clean_up_live_migration_check(&self, _: MigrationId) -> Result<(), DriverError> {
        self.enter("clean_up_live_migration_check")
    }

    async fn check_can_live_migrate_source(
        &self,
        instance: &InstanceSpec,
        block_migration: BlockMigration,
        _check: &DestinationCheck,
    ) -> Result<MigrateData, DriverError> {
        self.enter("check_can_live_migrate_source")
            .map_err(|error| DriverError::PreCheck(error.to_string()))?;
        self.guest(instance.id)?;
        let disk = DiskSpec {
            target: "vda".to_owned(),
            file: "disk".to_owned(),
            format: DiskFormat::Qcow2,
            virtual_size: instance.image.virtual_size,
            allocated: 0,
            has_base: true,
        };
        let block_migration = block_migration == BlockMigration::Yes;
        Ok(MigrateData { block_migration, disks: vec![disk] })
    }

    async fn pre_live_migration(
        &self,
        instance: &InstanceSpec,
        _migration_id: MigrationId,
        _data: &MigrateData,
        epoch: i64,
    ) -> Result<PreLiveMigrationReply, DriverError> {
        self.enter("pre_live_migration")?;
        self.check_cleaned_up(instance.id, epoch)?;
        self.admit(instance.id, epoch)?;
        // What has already arrived, when this is asked again, stays.
        if self.world.get(&self.host, instance.id)?.is_none() {
            let volumes = volumes(instance);
            let guest = FakeGuest { epoch, power: PowerState::Paused, incoming: true, volumes };
            self.world.put(&self.host, instance.id, &guest)?;
        }
        Ok(PreLiveMigrationReply {
            destination_uri: format!("fake://{}", self.host),
            migrate_uri: None,
            listen_address: None,
        })
    }

    async fn rollback_live_migration_at_destination(
        &self,
        request: &RollbackLiveMigrationAtDestination,
    ) -> Result<Arrival, DriverError> {
        self.enter("rollback_live_migration_at_destination")?;
        let (id, epoch) = (request.instance_id, request.owner_epoch);
        let here = self.world.get(&self.host, id)?;
        if request.source_lost && here.is_some_and(|guest| !guest.incoming && guest.epoch == epoch)
        {
            return Ok(Arrival::Whole);
        }
        self.remove(id, epoch)?;
        Ok(Arrival::Removed)
    }

    async fn live_migration(
        &self,
        job: &LiveMigrationJob,
        resume: bool,
        progress: &watch::Sender<JobProgress>,
    ) -> Result<JobOutcome, DriverError> {
        self.enter("live_migration")?;
        let id = job.instance.id;
        let found = self.world.job(&self.host, id)?;
        let record = match found.filter(|found| found.migration_id == job.migration_id) {
            Some(record) => record,
            None if resume => return self.verdict(job),
            None => {
                self.guest(id)?;
                let incoming = self.world.get(&job.destination, id)?;
                if !incoming.is_some_and(|guest| guest.incoming) {
                    let message = format!("{} does not expect the guest", job.destination);
                    return Ok(JobOutcome::Failed(message));
                }
                let record = FakeJob::begin(job.migration_id);
                self.world.put_job(&self.host, id, &record)?;
                record
            }
        };
        self.follow(job, record, progress).await
    }

    async fn live_migration_abort(&self, id: InstanceId) -> Result<(), DriverError> {
        self.enter("live_migration_abort")?;
        Ok(self.world.remove_job(&self.host, id)?)
    }

    async fn live_migration_force_complete(&self, id: InstanceId) -> Result<(), DriverError> {
        self.enter("live_migration_force_complete")?;
        if let Some(job) = self.world.job(&self.host, id)? {
            self.world.put_job(&self.host, id, &FakeJob { forced: true, ..job })?;
        }
        Ok(())
    }

    async fn post_live_migration_at_destination(
        &self,
        instance: &InstanceSpec,
        epoch: i64,
    ) -> Result<(), DriverError> {
        self.enter("post_live_migration_at_destination")?;
        self.admit(instance.id, epoch)?;
        let guest = self.guest(instance.id)?;
        Ok(self.world.put(&self.host, instance.id, &FakeGuest { epoch, ..guest })?)
    }

    async fn post_live_migration(&self, request: &PostLiveMigration) -> Result<(), DriverError> {
        self.enter("post_live_migration")?;
        let id = request.instance_id;
        self.world.remove_job(&self.host, id)?;
        let here = self.world.get(&self.host, id)?;
        if !request.lost && here.is_some_and(|guest| guest.power == PowerState::Running) {
            return Err(DriverError::Refused(format!("instance {id} is still in memory here")));
        }
        // What is left of a guest is told by its own token. That a newer move was tried here meanwhile does not matter.
        if request.owner_epoch > self.world.epoch(&self.host, id)? {
            self.world.set_epoch(&self.host, id, request.owner_epoch)?;
        }
        if request.lost && request.destroy_disks {
            self.world.remove_rollback(&self.host, id)?;
        }
        self.remove(id, request.owner_epoch)
    }

    async fn prep_resize(&self, request: &PrepResize) -> Result<PrepResizeReply, DriverError> {
        self.prepare_resize(request)
    }

    async fn resize_instance(
        &self,
        request: &ResizeInstance,
        progress: &watch::Sender<JobProgress>,
        stop: watch::Receiver<bool>,
    ) -> Result<ResizeInstanceReply, DriverError> {
        self.carry(request, progress, stop).await
    }

    async fn finish_resize(&self, request: &FinishResize) -> Result<(), DriverError> {
        self.make_from_arrival(request)
    }

    async fn confirm_resize(
        &self,
        id: InstanceId,
        migration_id: MigrationId,
    ) -> Result<(), DriverError> {
        self.drop_rollback(id, migration_id)
    }

    async fn revert_resize(&self, request: &RevertResize) -> Result<(), DriverError> {
        self.drop_arrival(request)
    }

    async fn finish_revert_resize(&self, request: &FinishRevertResize) -> Result<(), DriverError> {
        self.take_back(request)
    }

    async fn rebuild(&self, request: &RebuildInstance) -> Result<RebuildReply, DriverError> {
        self.make_again(request)
    }
}

fn volumes(instance: &InstanceSpec) -> BTreeSet<VolumeId> {
    instance.volumes.iter().map(|volume| volume.id).collect()
}

impl From<std::io::Error> for DriverError {
    fn from(error: std::io::Error) -> Self {
        Self::Unavailable(format!("the simulated world: {error}"))
    }
}

impl Course {
    fn end(&self, elapsed_ms: u64) -> JobStats {
        let stats = self.at(elapsed_ms);
        JobStats {
            memory_remaining: 0,
            downtime_ms: i64::try_from(self.downtime_ms).unwrap_or(i64::MAX),
            ..stats
        }
    }
}

#[cfg(test)]
mod tests;
