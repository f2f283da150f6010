//! What the compute service needs of a hypervisor, and a simulated one.
//!
//! [`ComputeDriver`] is the seam: `LibvirtDriver` (crate whimbrel-virt-libvirt) moves real guests,
//! [`fake::FakeDriver`] simulates a host for load and fault tests.

pub mod fake;

use std::future::Future;

use tokio::sync::watch;
use whimbrel_messages::compute::{
    BlockMigration, DestinationCheck, FinishResize, FinishRevertResize, InstanceSpec, MigrateData,
    PostLiveMigration, PreLiveMigrationReply, PrepResize, PrepResizeReply, RebootKind,
    RebuildInstance, RebuildReply, ResizeInstance, ResizeInstanceReply, RevertResize,
    RollbackLiveMigrationAtDestination,
};
use whimbrel_messages::report::{Guest, Inventory, JobStats};
use whimbrel_model::{HostName, InstanceId, MigrationId, PowerState, VolumeId};

/// What can go wrong. Variants say what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The request can't be met, now or later, for a reason that the message explains to a person.
    #[error("{0}")]
    Refused(String),
    /// A check before a migration failed; the message says what to change.
    #[error("{0}")]
    PreCheck(String),
    /// The image is not what it was said to be.
    #[error("{0}")]
    InvalidImage(String),
    /// The guest is not on this host.
    #[error("instance {0} is not on this host")]
    NotFound(InstanceId),
    /// The guest runs, or has run, here under a newer token.
    #[error("instance {instance_id} is owned under epoch {seen}, the request is of epoch {asked}")]
    StaleOwner {
        /// The guest.
        instance_id: InstanceId,
        /// The highest token seen.
        seen: i64,
        /// The token of the request.
        asked: i64,
    },
    /// The hypervisor could not be asked. Nothing is known of the outcome; ask again.
    #[error("the hypervisor does not answer: {0}")]
    Unavailable(String),
    /// The hypervisor said no.
    #[error("{doing}: {message}")]
    Hypervisor {
        /// What was tried.
        doing: &'static str,
        /// The hypervisor's own words.
        message: String,
    },
}

/// What a driver says of a migration's job while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobProgress {
    /// The latest figures.
    pub stats: JobStats,
    /// The guest has switched over before its memory did.
    pub post_copy: bool,
}

/// The move that a source is to drive.
#[derive(Clone, Debug)]
pub struct LiveMigrationJob {
    /// The guest.
    pub instance: InstanceSpec,
    /// The move.
    pub migration_id: MigrationId,
    /// Where to.
    pub destination: HostName,
    /// What source and destination agreed on.
    pub data: MigrateData,
    /// Where the destination listens.
    pub listen: PreLiveMigrationReply,
    /// The token that the guest runs under at the destination.
    pub owner_epoch: i64,
}

/// How a move's job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// The guest is at the destination.
    Completed(Option<JobStats>),
    /// The guest is at the source as before, and this job will never move it. The text says why.
    Failed(String),
    /// As [`JobOutcome::Failed`], because it was called off.
    Aborted,
}

/// What a destination has found of a guest whose move was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Nothing is left of it here.
    Removed,
    /// It had arrived, whole, and stays.
    Whole,
}

/// A hypervisor on one host.
///
/// Every call is idempotent: carried out twice, it has the effect of once, also after a crash in the middle.
/// Every call that starts or resumes a guest refuses a token lower than the highest seen for it, by a
/// record that outlives both the guest and the service.
pub trait ComputeDriver: Send + Sync + 'static {
    /// What the host has.
    fn inventory(&self) -> impl Future<Output = Result<Inventory, DriverError>> + Send;

    /// All guests of ours that the hypervisor knows.
    fn guests(&self) -> impl Future<Output = Result<Vec<Guest>, DriverError>> + Send;

    /// Makes the guest's disk and definition and starts it.
    fn spawn(
        &self,
        instance: &InstanceSpec,
        owner_epoch: i64,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Ends the guest and removes all of it, disks too. Fine if there is nothing.
    fn destroy(
        &self,
        instance_id: InstanceId,
        owner_epoch: i64,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Starts a guest that is shut off. Fine if it runs.
    fn power_on(
        &self,
        instance: &InstanceSpec,
        owner_epoch: i64,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Shuts the guest down, by power off after `timeout_ms`. Fine if it is off.
    fn power_off(
        &self,
        instance_id: InstanceId,
        timeout_ms: i64,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Restarts the guest.
    fn reboot(
        &self,
        instance: &InstanceSpec,
        owner_epoch: i64,
        kind: RebootKind,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Gives the guest one of the volumes of its spec: at once if it runs, and for every later start. Fine if it has
    /// it.
    fn attach_volume(
        &self,
        instance: &InstanceSpec,
        volume_id: VolumeId,
        owner_epoch: i64,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Takes a volume from the guest. Refused if its operating system does not let go of it within `timeout_ms`.
    /// Fine if it does not have it, or if there is no such guest.
    fn detach_volume(
        &self,
        instance_id: InstanceId,
        volume_id: VolumeId,
        timeout_ms: i64,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// What the hypervisor says of the guest.
    fn power_state(
        &self,
        instance_id: InstanceId,
    ) -> impl Future<Output = Result<PowerState, DriverError>> + Send;

    /// At the destination: can it take the guest? Leaves a probe file.
    fn check_can_live_migrate_destination(
        &self,
        instance: &InstanceSpec,
        migration_id: MigrationId,
        block_migration: BlockMigration,
    ) -> impl Future<Output = Result<DestinationCheck, DriverError>> + Send;

    /// Removes the probe file.
    fn clean_up_live_migration_check(
        &self,
        migration_id: MigrationId,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// At the source: can it send the guest there?
    fn check_can_live_migrate_source(
        &self,
        instance: &InstanceSpec,
        block_migration: BlockMigration,
        check: &DestinationCheck,
    ) -> impl Future<Output = Result<MigrateData, DriverError>> + Send;

    /// At the destination: networks, base image, disks to copy into. Remembers `owner_epoch`.
    fn pre_live_migration(
        &self,
        instance: &InstanceSpec,
        migration_id: MigrationId,
        data: &MigrateData,
        owner_epoch: i64,
    ) -> impl Future<Output = Result<PreLiveMigrationReply, DriverError>> + Send;

    /// At the destination: removes what came of the guest, running or not, unless it is owned here under
    /// a higher token, or the source is lost and the guest is here, whole.
    fn rollback_live_migration_at_destination(
        &self,
        request: &RollbackLiveMigrationAtDestination,
    ) -> impl Future<Output = Result<Arrival, DriverError>> + Send;

    /// At the source: starts the job if it does not run yet, else follows it, and returns when it is over.
    ///
    /// With `resume` the service was restarted meanwhile: a job that runs is followed and not disturbed; if
    /// none runs, the guest's own state tells what became of it, and no new job is started.
    fn live_migration(
        &self,
        job: &LiveMigrationJob,
        resume: bool,
        progress: &watch::Sender<JobProgress>,
    ) -> impl Future<Output = Result<JobOutcome, DriverError>> + Send;

    /// At the source: asks the running job to stop. Fine if none runs; the outcome is what
    /// [`ComputeDriver::live_migration`] returns.
    fn live_migration_abort(
        &self,
        instance_id: InstanceId,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// At the source: makes the running job end soon, by post-copy if permitted, else by pausing the guest.
    fn live_migration_force_complete(
        &self,
        instance_id: InstanceId,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// At the destination, after the move: persistent definition equal to the live one, metadata, ownership.
    fn post_live_migration_at_destination(
        &self,
        instance: &InstanceSpec,
        owner_epoch: i64,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// At the source, after the move: removes what is left of the guest; its disks only where the request says so.
    /// One that is in memory is ended only if this host was lost.
    fn post_live_migration(
        &self,
        request: &PostLiveMigration,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// At the destination of a resize or cold migration: checks that it can take the guest, fetches its
    /// image, leaves a probe file and makes ready to receive disks. Remembers the token.
    fn prep_resize(
        &self,
        request: &PrepResize,
    ) -> impl Future<Output = Result<PrepResizeReply, DriverError>> + Send;

    /// At the source: shuts the guest down, sets its directory aside as the rollback point and carries its
    /// disks. Called again after a crash, it goes on from what it finds. Ends early, with an error, when
    /// `stop` says so. Progress counts bytes of disk.
    fn resize_instance(
        &self,
        request: &ResizeInstance,
        progress: &watch::Sender<JobProgress>,
        stop: watch::Receiver<bool>,
    ) -> impl Future<Output = Result<ResizeInstanceReply, DriverError>> + Send;

    /// At the destination: the guest from what has arrived, grown to its new size, started if asked.
    fn finish_resize(
        &self,
        request: &FinishResize,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// At the source: removes the rollback point of that move. Fine if there is none.
    fn confirm_resize(
        &self,
        instance_id: InstanceId,
        migration_id: MigrationId,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// At the destination of any move of a stopped guest: removes what that move made here, and nothing that was
    /// here before. Refuses if the guest runs here under a higher token.
    fn revert_resize(
        &self,
        request: &RevertResize,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// At the source: the guest back from the rollback point, if there is one, defined in its old size and
    /// started if asked.
    fn finish_revert_resize(
        &self,
        request: &FinishRevertResize,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Makes a guest whose host is lost: from its own disk if that is here, else from its image.
    fn rebuild(
        &self,
        request: &RebuildInstance,
    ) -> impl Future<Output = Result<RebuildReply, DriverError>> + Send;
}
