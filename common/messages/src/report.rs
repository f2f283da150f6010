//! What compute services tell without being asked: reports on `whimbrel.report`, progress on `whimbrel.progress`.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use whimbrel_model::{HostName, InstanceId, MigrationId, PowerState, Resources};

/// A host's regular report: it lives, this is what it has, these guests are on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostReport {
    /// The host.
    pub host: HostName,
    /// Drawn anew each time the service starts.
    pub boot_id: Uuid,
    /// When the service started; a report of an earlier start is dropped.
    pub started_at: DateTime<Utc>,
    /// Grows with each report of one start; a report that is not newer is dropped.
    pub sequence: i64,
    /// When the guests were looked at, by the host's clock.
    pub observed_at: DateTime<Utc>,
    /// How often reports come, in milliseconds.
    pub interval_ms: i64,
    /// What the host has.
    pub inventory: Inventory,
    /// The guests that the hypervisor knows.
    pub guests: Vec<Guest>,
}

/// What a host has and can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Inventory {
    /// All of its resources, in use or not.
    pub total: Resources,
    /// Free space where guests' disks are, in GiB.
    pub disk_free_gib: i64,
    /// `QEMU` and the like.
    pub hypervisor_type: String,
    /// Version as one number: major * 1,000,000 + minor * 1,000 + micro.
    pub hypervisor_version: i64,
    /// The hypervisor's own name for the machine.
    pub hypervisor_hostname: String,
    /// Address that other hosts reach this one at for migrations.
    pub host_ip: String,
    /// What its processors are and can.
    pub cpu: CpuInfo,
    /// How many guests run.
    pub running_vms: i32,
    /// Seconds since the machine booted.
    pub uptime_s: i64,
}

/// A host's processors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CpuInfo {
    /// `x86_64` and the like.
    pub arch: String,
    /// Model as libvirt names it.
    pub model: String,
    /// Vendor as libvirt names it.
    pub vendor: String,
    /// Features that guests can use, sorted.
    pub features: Vec<String>,
}

/// A guest as the hypervisor sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Guest {
    /// The instance.
    pub instance_id: InstanceId,
    /// What the hypervisor says of it.
    pub power_state: PowerState,
    /// The fencing token it was last started under, from its own metadata.
    pub owner_epoch: i64,
    /// Whether it is half here: an incoming or outgoing migration is under way.
    pub migrating: bool,
}

/// How far a migration's job has come. Sent about once a second while it runs; may get lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MigrationProgress {
    /// The migration.
    pub migration_id: MigrationId,
    /// The guest.
    pub instance_id: InstanceId,
    /// When this was read.
    pub at: DateTime<Utc>,
    /// The figures.
    pub stats: JobStats,
    /// The guest has switched over before its memory did.
    pub post_copy: bool,
}

/// What the hypervisor says of a running or finished job. Bytes and milliseconds; zero where unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobStats {
    /// Since the job began, in milliseconds.
    pub elapsed_ms: i64,
    /// Guest memory in all, in bytes.
    pub memory_total: i64,
    /// Memory sent so far, in bytes; may exceed the total when pages are sent again.
    pub memory_processed: i64,
    /// Memory still to send, in bytes.
    pub memory_remaining: i64,
    /// Local disks in all, in bytes.
    pub disk_total: i64,
    /// Disk sent so far, in bytes.
    pub disk_processed: i64,
    /// Disk still to send, in bytes.
    pub disk_remaining: i64,
    /// Bytes a second.
    pub bandwidth: i64,
    /// Bytes a second that the guest dirties, as the hypervisor sees it.
    pub dirty_rate: i64,
    /// Passes over memory.
    pub iteration: i64,
    /// How long the guest would stand still if it switched over now, or stood still, in milliseconds.
    pub downtime_ms: i64,
}
