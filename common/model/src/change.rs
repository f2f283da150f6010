//! What a step of a saga changes in the rows of its instance and migration.
//!
//! A change is data, so the engine that asks for it stays pure, the conductor applies it in the same
//! transaction as the saga's own row, and the history that records it can be replayed (I7).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    FlavorSnapshot, HostName, InstanceEvent, MigrationEvent, PowerState, VolumeEvent, VolumeId,
};

/// One change of the rows that belong to a saga's instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Something happened to the instance.
    Instance(InstanceEvent),
    /// Something happened to the saga's migration.
    Migration(MigrationEvent),
    /// The instance's power state is now known.
    Power(PowerState),
    /// The right to run the guest goes to `host`, and `owner_epoch` becomes `epoch`.
    Own {
        /// The new owner.
        host: HostName,
        /// The new fencing token; larger than every earlier one.
        epoch: i64,
    },
    /// No host owns the guest.
    Disown,
    /// The instance has another flavor from now on.
    Size(FlavorSnapshot),
    /// The migration's destination is chosen.
    Destination(HostName),
    /// Bytes and times of a finished migration.
    Outcome {
        /// Time from the start of the job to its end, in milliseconds.
        total_ms: Option<i64>,
        /// How long the guest stood still, in milliseconds, as the hypervisor measured it.
        downtime_ms: Option<i64>,
        /// Memory sent, in bytes.
        memory_bytes: Option<i64>,
        /// Disk sent, in bytes.
        disk_bytes: Option<i64>,
    },
    /// What the instance holds anywhere is given back.
    ReleaseAllocations,
    /// The move is done: what the migration holds at the source is given back.
    SettleMove,
    /// The move is off: what the instance holds at the destination is given back, and what the
    /// migration holds at the source is the instance's again.
    RevertMove,
    /// Network addresses go back to their pools.
    ReleasePorts,
    /// No volume is the instance's any more.
    ReleaseVolumes,
    /// Something happened to one of the instance's volumes.
    Volume {
        /// The volume.
        volume_id: VolumeId,
        /// What.
        event: VolumeEvent,
    },
    /// The reason that the API shows as the server's fault.
    Fault {
        /// A short name of the kind of fault.
        code: String,
        /// What happened, for a person.
        message: String,
    },
    /// The fault that the API shows is over.
    ClearFault,
}
