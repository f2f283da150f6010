//! The trait, one line each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Semaphore, watch};
use whimbrel_messages::compute::{
    BlockMigration, DestinationCheck, FinishResize, FinishRevertResize, InstanceSpec, MigrateData,
    PostLiveMigration, PreLiveMigrationReply, PrepResize, PrepResizeReply, RebootKind,
    RebuildInstance, RebuildReply, ResizeInstance, ResizeInstanceReply, RevertResize,
    RollbackLiveMigrationAtDestination,
};
use whimbrel_messages::report::{CpuInfo, Guest, Inventory};
use whimbrel_model::{InstanceId, MigrationId, PowerState, VolumeId};
use whimbrel_virt::{
    Arrival, ComputeDriver, DriverError, JobOutcome, JobProgress, LiveMigrationJob,
};

use crate::cold::DiskReceiver;
use crate::config::{HostContext, LibvirtConfig};
use crate::connection::Hypervisor;
use crate::epochs::EpochStore;
use crate::images::BaseCache;
use crate::incoming::IncomingStore;
use crate::migrate_source::Jobs;
use crate::paths::Paths;

/// The hypervisor of this host, through libvirt.
pub struct LibvirtDriver {
    pub(crate) config: LibvirtConfig,
    pub(crate) context: HostContext,
    pub(crate) paths: Paths,
    pub(crate) hypervisor: Hypervisor,
    pub(crate) epochs: EpochStore,
    pub(crate) incoming: IncomingStore,
    pub(crate) bases: BaseCache,
    pub(crate) jobs: Jobs,
    pub(crate) disk_receiver: DiskReceiver,
    /// One for each move that this host drives.
    pub(crate) move_permits: Arc<Semaphore>,
    /// The host's processors and when they were asked for.
    pub(crate) cpu: Mutex<Option<(Instant, CpuInfo)>>,
}

impl LibvirtDriver {
    /// A driver that connects when it is first needed, and again whenever libvirt was restarted.
    ///
    /// # Errors
    ///
    /// If the configuration can't work, or a thread or directory can't be made.
    pub async fn new(config: LibvirtConfig, context: HostContext) -> Result<Self, DriverError> {
        config.validate().map_err(|error| DriverError::Refused(error.to_string()))?;
        let paths = Paths::new(config.instances_path.clone());
        let (instances, state) = (config.instances_path.clone(), context.state_dir.clone());
        crate::files::blocking("make the driver's directories", move || {
            std::fs::create_dir_all(instances)?;
            std::fs::create_dir_all(state)
        })
        .await?;
        let this = Self {
            hypervisor: Hypervisor::new(&config)?,
            epochs: EpochStore::new(context.state_dir.join("epochs")),
            incoming: IncomingStore::new(context.state_dir.join("incoming")),
            bases: BaseCache::new(paths.clone(), &context.image_url)?,
            jobs: Jobs::default(),
            disk_receiver: DiskReceiver::default(),
            move_permits: Arc::new(Semaphore::new(config.migration.max_concurrent)),
            cpu: Mutex::new(None),
            paths,
            config,
            context,
        };
        this.listen_if_expected()?;
        Ok(this)
    }
}

impl ComputeDriver for LibvirtDriver {
    async fn inventory(&self) -> Result<Inventory, DriverError> {
        self.host_inventory().await
    }

    async fn guests(&self) -> Result<Vec<Guest>, DriverError> {
        self.known_guests().await
    }

    async fn spawn(&self, instance: &InstanceSpec, owner_epoch: i64) -> Result<(), DriverError> {
        self.spawn_guest(instance, owner_epoch).await
    }

    async fn destroy(&self, instance_id: InstanceId, owner_epoch: i64) -> Result<(), DriverError> {
        self.destroy_guest(instance_id, owner_epoch).await
    }

    async fn power_on(&self, instance: &InstanceSpec, owner_epoch: i64) -> Result<(), DriverError> {
        self.power_on_guest(instance, owner_epoch).await
    }

    async fn power_off(&self, instance_id: InstanceId, timeout_ms: i64) -> Result<(), DriverError> {
        let timeout = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
        self.power_off_guest(instance_id, timeout).await
    }

    async fn reboot(
        &self,
        instance: &InstanceSpec,
        owner_epoch: i64,
        kind: RebootKind,
    ) -> Result<(), DriverError> {
        self.reboot_guest(instance, owner_epoch, kind).await
    }

    async fn attach_volume(
        &self,
        instance: &InstanceSpec,
        volume_id: VolumeId,
        owner_epoch: i64,
    ) -> Result<(), DriverError> {
        self.plug_volume(instance, volume_id, owner_epoch).await
    }

    async fn detach_volume(
        &self,
        instance_id: InstanceId,
        volume_id: VolumeId,
        timeout_ms: i64,
    ) -> Result<(), DriverError> {
        let timeout = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
        self.unplug_volume(instance_id, volume_id, timeout).await
    }

    async fn power_state(&self, instance_id: InstanceId) -> Result<PowerState, DriverError> {
        self.guest_power_state(instance_id).await
    }

    async fn check_can_live_migrate_destination(
        &self,
        instance: &InstanceSpec,
        migration_id: MigrationId,
        block_migration: BlockMigration,
    ) -> Result<DestinationCheck, DriverError> {
        self.check_as_destination(instance, migration_id, block_migration).await
    }

    async fn clean_up_live_migration_check(
        &self,
        migration_id: MigrationId,
    ) -> Result<(), DriverError> {
        self.remove_probes(migration_id).await
    }

    async fn check_can_live_migrate_source(
        &self,
        instance: &InstanceSpec,
        block_migration: BlockMigration,
        check: &DestinationCheck,
    ) -> Result<MigrateData, DriverError> {
        self.check_as_source(instance, block_migration, check).await
    }

    async fn pre_live_migration(
        &self,
        instance: &InstanceSpec,
        migration_id: MigrationId,
        data: &MigrateData,
        owner_epoch: i64,
    ) -> Result<PreLiveMigrationReply, DriverError> {
        self.make_ready(instance, migration_id, data, owner_epoch).await
    }

    async fn rollback_live_migration_at_destination(
        &self,
        request: &RollbackLiveMigrationAtDestination,
    ) -> Result<Arrival, DriverError> {
        self.roll_back(request).await
    }

    async fn live_migration(
        &self,
        job: &LiveMigrationJob,
        resume: bool,
        progress: &watch::Sender<JobProgress>,
    ) -> Result<JobOutcome, DriverError> {
        self.move_guest(job, resume, progress).await
    }

    async fn live_migration_abort(&self, instance_id: InstanceId) -> Result<(), DriverError> {
        self.abort_move(instance_id).await
    }

    async fn live_migration_force_complete(
        &self,
        instance_id: InstanceId,
    ) -> Result<(), DriverError> {
        self.force_move(instance_id).await
    }

    async fn post_live_migration_at_destination(
        &self,
        instance: &InstanceSpec,
        owner_epoch: i64,
    ) -> Result<(), DriverError> {
        self.take_over(instance, owner_epoch).await
    }

    async fn post_live_migration(&self, request: &PostLiveMigration) -> Result<(), DriverError> {
        self.clear_source(request).await
    }

    async fn prep_resize(&self, request: &PrepResize) -> Result<PrepResizeReply, DriverError> {
        self.prepare_for_disks(request).await
    }

    async fn resize_instance(
        &self,
        request: &ResizeInstance,
        progress: &watch::Sender<JobProgress>,
        stop: watch::Receiver<bool>,
    ) -> Result<ResizeInstanceReply, DriverError> {
        self.carry_disks(request, progress, stop).await
    }

    async fn finish_resize(&self, request: &FinishResize) -> Result<(), DriverError> {
        self.make_from_carried(request).await
    }

    async fn confirm_resize(
        &self,
        instance_id: InstanceId,
        migration_id: MigrationId,
    ) -> Result<(), DriverError> {
        self.drop_rollback_point(instance_id, migration_id).await
    }

    async fn revert_resize(&self, request: &RevertResize) -> Result<(), DriverError> {
        self.drop_moved(request).await
    }

    async fn finish_revert_resize(&self, request: &FinishRevertResize) -> Result<(), DriverError> {
        self.take_back(request).await
    }

    async fn rebuild(&self, request: &RebuildInstance) -> Result<RebuildReply, DriverError> {
        self.make_again(request).await
    }
}
