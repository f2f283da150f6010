//! What the compute service of a host is asked.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use whimbrel_model::{
    DiskFormat, HostName, ImageId, InstanceId, MigrationId, PortId, PowerState, Resources,
};

use crate::Rpc;
use crate::report::JobStats;

/// All that a host needs to know to make or take over a guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct InstanceSpec {
    /// The guest.
    pub id: InstanceId,
    /// Its name, for people; never part of a path.
    pub name: String,
    /// Its size.
    pub resources: Resources,
    /// What its root disk is made from.
    pub image: ImageSpec,
    /// Its network interfaces, in order.
    pub ports: Vec<PortSpec>,
    /// Its disks on storage of the network, by the names that it knows them by.
    #[serde(default)]
    pub volumes: Vec<VolumeSpec>,
    /// What it is told of itself, if it has a disk for that.
    #[serde(default)]
    pub config_drive: Option<ConfigDrive>,
}

/// An image that root disks are made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ImageSpec {
    /// The image.
    pub id: ImageId,
    /// How its bytes are to be read.
    pub format: DiskFormat,
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub sha256: String,
    /// The file's size in bytes.
    pub size: i64,
    /// The size of the disk that a guest sees, in bytes.
    pub virtual_size: i64,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct PortSpec {
    /// The port.
    pub id: PortId,
    /// `fa:16:3e:…`, lower case.
    pub mac: String,
    /// Its IPv4 address.
    pub address: String,
    /// The bridge on the host that it is plugged into.
    pub bridge: String,
    /// How many bits of the address are the network's.
    #[serde(default)]
    pub prefix: u8,
}

/// A reply that says nothing but "done".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Done {}

/// A reply that says what the guest's power state now is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PowerReply {
    /// The state after the call.
    pub power_state: PowerState,
}

macro_rules! rpc {
    ($request:ident, $method:literal, $reply:ty) => {
        impl Rpc for $request {
            const METHOD: &'static str = $method;
            type Reply = $reply;
        }
    };
}

mod cold;
mod config_drive;
mod volume;

pub use cold::{
    CarriedDisk, CarryStats, ConfirmResize, FenceResize, FinishResize, FinishRevertResize,
    PrepResize, PrepResizeReply, RebuildInstance, RebuildReply, ResizeInstance,
    ResizeInstanceReply, RevertResize,
};
pub use config_drive::ConfigDrive;
pub use volume::{AttachVolume, DetachVolume, StorageAddress, VolumeSource, VolumeSpec};

/// Make a guest and start it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BuildAndRunInstance {
    /// The guest.
    pub instance: InstanceSpec,
    /// The fencing token it runs under.
    pub owner_epoch: i64,
}
rpc!(BuildAndRunInstance, "build_and_run_instance", PowerReply);

/// Remove a guest and everything of it from this host. Also the undo of
/// [`BuildAndRunInstance`]. A guest that is not there is removed already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TerminateInstance {
    /// The guest.
    pub instance_id: InstanceId,
    /// A guest that was started under a higher token is left alone and the call refused as stale.
    pub owner_epoch: i64,
}
rpc!(TerminateInstance, "terminate_instance", Done);

/// Start a guest that is shut off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartInstance {
    /// The guest.
    pub instance: InstanceSpec,
    /// The fencing token it runs under.
    pub owner_epoch: i64,
}
rpc!(StartInstance, "start_instance", PowerReply);

/// Shut a guest down: by its own operating system if it listens, else by power off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StopInstance {
    /// The guest.
    pub instance_id: InstanceId,
    /// How long its operating system is given, in milliseconds.
    pub timeout_ms: i64,
}
rpc!(StopInstance, "stop_instance", PowerReply);

/// Restart a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RebootInstance {
    /// The guest.
    pub instance: InstanceSpec,
    /// The fencing token it runs under.
    pub owner_epoch: i64,
    /// How.
    pub kind: RebootKind,
}
rpc!(RebootInstance, "reboot_instance", PowerReply);

/// How to restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RebootKind {
    /// Through the guest's operating system, by power cycle if it does not listen.
    Soft,
    /// By power cycle.
    Hard,
}

/// The undo of a step that cannot be taken back: see that it never will be carried out, or say that it
/// was. The step meant is the one that the envelope names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fence {
    /// The guest.
    pub instance_id: InstanceId,
}
rpc!(Fence, "fence", Done);

/// Whether local disks are to be copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlockMigration {
    /// Copy if the hosts do not share storage.
    #[default]
    Auto,
    /// Copy; refused when the hosts share storage.
    Yes,
    /// Do not copy; refused when the hosts do not share storage.
    No,
}

/// Ask the destination whether it can take a running guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckCanLiveMigrateDestination {
    /// The guest.
    pub instance: InstanceSpec,
    /// The move.
    pub migration_id: MigrationId,
    /// Where it is now.
    pub source: HostName,
    /// Whether to copy disks.
    pub block_migration: BlockMigration,
}
rpc!(CheckCanLiveMigrateDestination, "check_can_live_migrate_destination", DestinationCheck);

/// What the destination found, for the source to go on from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct DestinationCheck {
    /// Name of a file in the destination's instances directory, which a source that shares it can see.
    pub probe_file: String,
    /// Space for disks there, in bytes.
    pub disk_available: i64,
    /// Hypervisor version there.
    pub hypervisor_version: i64,
    /// The destination's CPU, as the hypervisor describes it, for the source to compare.
    pub cpu_xml: String,
}

/// Undo of the destination's check: the probe file goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CleanUpLiveMigrationCheck {
    /// The move.
    pub migration_id: MigrationId,
}
rpc!(CleanUpLiveMigrationCheck, "clean_up_live_migration_check", Done);

/// Ask the source whether it can send the guest there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckCanLiveMigrateSource {
    /// The guest.
    pub instance: InstanceSpec,
    /// The move.
    pub migration_id: MigrationId,
    /// Where to.
    pub destination: HostName,
    /// Whether to copy disks.
    pub block_migration: BlockMigration,
    /// What the destination found.
    pub destination_check: DestinationCheck,
}
rpc!(CheckCanLiveMigrateSource, "check_can_live_migrate_source", MigrateData);

/// What source and destination agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct MigrateData {
    /// The local disks travel, too.
    pub block_migration: bool,
    /// The guest's disks at the source.
    pub disks: Vec<DiskSpec>,
}

/// One disk of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct DiskSpec {
    /// `vda` and the like.
    pub target: String,
    /// File name inside the instance's directory.
    pub file: String,
    /// How its bytes are to be read.
    pub format: DiskFormat,
    /// What the guest sees, in bytes.
    pub virtual_size: i64,
    /// What it takes on the source, in bytes.
    pub allocated: i64,
    /// Whether it lies over the image's base file.
    pub has_base: bool,
}

/// Get the destination ready: networks, base image, disks to copy into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PreLiveMigration {
    /// The guest.
    pub instance: InstanceSpec,
    /// The move.
    pub migration_id: MigrationId,
    /// Where it is now.
    pub source: HostName,
    /// What was agreed on.
    pub migrate_data: MigrateData,
    /// The fencing token that the guest will run under here.
    pub owner_epoch: i64,
}
rpc!(PreLiveMigration, "pre_live_migration", PreLiveMigrationReply);

/// Where the destination listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct PreLiveMigrationReply {
    /// URI of the destination's hypervisor, for the source to connect to.
    pub destination_uri: String,
    /// Where the destination's emulator listens for the guest's memory, if it is to be named.
    pub migrate_uri: Option<String>,
    /// Address for the copy of disks.
    pub listen_address: Option<String>,
}

/// Undo of [`PreLiveMigration`]: whatever of the guest is here goes, unless it runs here under
/// `owner_epoch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RollbackLiveMigrationAtDestination {
    /// The guest.
    pub instance_id: InstanceId,
    /// The move.
    pub migration_id: MigrationId,
    /// Whether the disks here were copies; shared ones are left alone.
    pub destroy_disks: bool,
    /// The token that it would have run under here.
    pub owner_epoch: i64,
    /// The source is lost and can't say whether the guest has moved. If it is here, whole, it stays, and the answer
    /// is that the move is already done, with a [`LiveMigrationReply`].
    #[serde(default)]
    pub source_lost: bool,
}
rpc!(RollbackLiveMigrationAtDestination, "rollback_live_migration_at_destination", Done);

/// Move the guest. Answered when the job is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LiveMigration {
    /// The guest.
    pub instance: InstanceSpec,
    /// The move.
    pub migration_id: MigrationId,
    /// Where to.
    pub destination: HostName,
    /// What was agreed on.
    pub migrate_data: MigrateData,
    /// Where the destination listens.
    pub listen: PreLiveMigrationReply,
    /// The fencing token that the guest will run under there.
    pub owner_epoch: i64,
}
rpc!(LiveMigration, "live_migration", LiveMigrationReply);

/// How the job went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LiveMigrationReply {
    /// The hypervisor's figures of the finished job; none when it ended while nobody watched.
    pub stats: Option<JobStats>,
}

/// The undo of [`LiveMigration`], a fence: call the job off and answer when it is over, with what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LiveMigrationAbort {
    /// The guest.
    pub instance_id: InstanceId,
    /// The move.
    pub migration_id: MigrationId,
}
rpc!(LiveMigrationAbort, "live_migration_abort", Done);

/// Let a running job come to its end at once: by post-copy if that is permitted, else by pausing the guest.
/// Not a step of a saga; not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LiveMigrationForceComplete {
    /// The guest.
    pub instance_id: InstanceId,
    /// The move.
    pub migration_id: MigrationId,
}
rpc!(LiveMigrationForceComplete, "live_migration_force_complete", Done);

/// The guest is here now: make its definition persistent and own it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PostLiveMigrationAtDestination {
    /// The guest.
    pub instance: InstanceSpec,
    /// The move.
    pub migration_id: MigrationId,
    /// The fencing token that it runs under here.
    pub owner_epoch: i64,
}
rpc!(PostLiveMigrationAtDestination, "post_live_migration_at_destination", PowerReply);

/// The guest has left: remove what is left of it at the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PostLiveMigration {
    /// The guest.
    pub instance_id: InstanceId,
    /// The move.
    pub migration_id: MigrationId,
    /// Whether the disks here are copies that are no longer needed; shared ones are left alone.
    pub destroy_disks: bool,
    /// The token that it runs under at the destination.
    pub owner_epoch: i64,
    /// This host was lost and the guest made again elsewhere: a copy that runs here is stale and is ended.
    #[serde(default)]
    pub lost: bool,
}
rpc!(PostLiveMigration, "post_live_migration", Done);
