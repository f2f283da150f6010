//! What the compute service is asked for moves of a guest that is shut off.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use whimbrel_model::{DiskFormat, HostName, InstanceId, MigrationId, PowerState};

use super::{Done, InstanceSpec, PowerReply};
use crate::Rpc;

/// Ask the destination of a resize or cold migration whether it can take the guest, and to get ready for its
/// disks. Its undo is [`RevertResize`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrepResize {
    /// The guest, in its new size.
    pub instance: InstanceSpec,
    /// The move.
    pub migration_id: MigrationId,
    /// Where it is now; may be this host.
    pub source: HostName,
    /// The fencing token that it will run under here.
    pub owner_epoch: i64,
}
rpc!(PrepResize, "prep_resize", PrepResizeReply);

/// What the destination found and made ready.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct PrepResizeReply {
    /// Name of a file in the destination's instances directory, which a source that shares it can see.
    pub probe_file: String,
    /// The destination has the image that the guest's disk is an overlay of, so the overlay alone suffices.
    pub has_base: bool,
    /// Where the destination takes disks, `address:port`.
    pub receiver: String,
    /// What a sender must show there; good for this move alone.
    pub ticket: String,
}

/// Shut the guest down at the source and carry its disks to the destination. A long job: acknowledged at once,
/// answered when it is over. Its undo is [`FinishRevertResize`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResizeInstance {
    /// The guest, in its old size.
    pub instance: InstanceSpec,
    /// The move.
    pub migration_id: MigrationId,
    /// Where to; may be this host.
    pub destination: HostName,
    /// What the destination made ready.
    pub prepared: PrepResizeReply,
    /// The token that it will run under there; under a lower one it is not started here any more.
    pub owner_epoch: i64,
    /// How long its operating system is given to shut down, in milliseconds.
    pub timeout_ms: i64,
}
rpc!(ResizeInstance, "resize_instance", ResizeInstanceReply);

/// What has arrived at the destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ResizeInstanceReply {
    /// Both hosts see the same files: nothing was carried.
    pub shared: bool,
    /// The guest's disks.
    pub disks: Vec<CarriedDisk>,
    /// The figures.
    pub stats: CarryStats,
}

/// One disk that was carried.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct CarriedDisk {
    /// File name inside the instance's directory.
    pub file: String,
    /// How its bytes are to be read.
    pub format: DiskFormat,
    /// It is an overlay of the guest's image.
    pub has_base: bool,
    /// BLAKE3 of the file that was sent, in lower-case hexadecimal; empty if nothing was.
    pub digest: String,
}

/// How long each part of a cold move took, and how much travelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct CarryStats {
    /// From the request to shut down to the guest being off, in milliseconds.
    pub shutdown_ms: i64,
    /// Carrying the disks, in milliseconds.
    pub copy_ms: i64,
    /// Bytes that were sent.
    pub bytes: i64,
}

/// Make the guest at the destination from what has arrived, in its new size, and start it if it ran before.
/// The point of no return of a resize; its undo is [`FenceResize`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FinishResize {
    /// The guest, in its new size.
    pub instance: InstanceSpec,
    /// The move.
    pub migration_id: MigrationId,
    /// What has arrived.
    pub carried: ResizeInstanceReply,
    /// The token that it runs under here.
    pub owner_epoch: i64,
    /// Whether to start it.
    pub start: bool,
}
rpc!(FinishResize, "finish_resize", PowerReply);

/// The undo of [`FinishResize`], a fence: see that the guest never will be made here by that move and that
/// nothing of it is left, or say that it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FenceResize {
    /// The guest.
    pub instance_id: InstanceId,
    /// The move.
    pub migration_id: MigrationId,
    /// The token that the move would give it here.
    pub owner_epoch: i64,
}
rpc!(FenceResize, "fence_resize", Done);

/// Remove at the source what it kept of a guest for the way back. Disks that the destination uses, too, stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfirmResize {
    /// The guest.
    pub instance_id: InstanceId,
    /// The move.
    pub migration_id: MigrationId,
}
rpc!(ConfirmResize, "confirm_resize", Done);

/// Remove at the destination what a move made of the guest there: domain, and the disks that it brought or
/// made. A guest that runs here under a higher token is left alone and the call refused as stale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RevertResize {
    /// The guest.
    pub instance_id: InstanceId,
    /// The move.
    pub migration_id: MigrationId,
    /// The token that the move gave it here.
    pub owner_epoch: i64,
    /// How long its operating system is given to shut down, in milliseconds; 0 is power off.
    pub timeout_ms: i64,
    /// The guest itself stays as it is: this host is its source as well, and has taken it back already.
    #[serde(default)]
    pub keep_guest: bool,
    /// Disks stay for now; they are removed when the guest is safe elsewhere.
    #[serde(default)]
    pub keep_disks: bool,
}
rpc!(RevertResize, "revert_resize", Done);

/// Take the guest back at the source from its rollback point, in its old size. Also the undo of
/// [`ResizeInstance`]: a guest that was not touched yet stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FinishRevertResize {
    /// The guest, in its old size.
    pub instance: InstanceSpec,
    /// The move.
    pub migration_id: MigrationId,
    /// The token that it runs under here from now on.
    pub owner_epoch: i64,
    /// Whether to start it.
    pub start: bool,
}
rpc!(FinishRevertResize, "finish_revert_resize", PowerReply);

/// Make a guest again whose host is lost: from its own disk where that is within reach, else from its image.
/// Its undo is [`RevertResize`], which never removes a disk that was there before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RebuildInstance {
    /// The guest.
    pub instance: InstanceSpec,
    /// The move.
    pub migration_id: MigrationId,
    /// The token that it runs under here.
    pub owner_epoch: i64,
    /// Whether to start it.
    pub start: bool,
}
rpc!(RebuildInstance, "rebuild_instance", RebuildReply);

/// What became of a guest that was made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RebuildReply {
    /// The state after the call.
    pub power_state: PowerState,
    /// It has its own disk, on storage that the lost host sees, too.
    pub own_disk: bool,
}
