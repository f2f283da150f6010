//! Section `[fake]` of the compute service's configuration.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a simulated host has and how its guests move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FakeConfig {
    /// Processors.
    pub vcpus: i32,
    /// Memory in MiB.
    pub memory_mib: i64,
    /// Disk in GiB.
    pub disk_gib: i64,
    /// As one number.
    pub hypervisor_version: i64,
    /// A directory that all simulated hosts share and that outlives them; without it the world is the
    /// process's memory.
    pub world_dir: Option<PathBuf>,
    /// How fast memory travels, in MiB a second; 0 is at once.
    pub bandwidth_mib_s: u64,
    /// How fast guests dirty memory, in MiB a second.
    pub dirty_rate_mib_s: u64,
    /// How much memory guests dirty over and over, in MiB.
    pub working_set_mib: u64,
    /// How long a guest may stand still at the switch-over, in milliseconds.
    pub max_downtime_ms: u64,
    /// Real seconds that a simulated second takes.
    pub time_scale: f64,
    /// Names of calls that are refused.
    pub refuse: Vec<String>,
}

impl Default for FakeConfig {
    fn default() -> Self {
        Self {
            vcpus: 64,
            memory_mib: 262_144,
            disk_gib: 10_000,
            hypervisor_version: 1_000_000,
            world_dir: None,
            bandwidth_mib_s: 0,
            dirty_rate_mib_s: 0,
            working_set_mib: u64::MAX,
            max_downtime_ms: 300,
            time_scale: 1.0,
            refuse: Vec::new(),
        }
    }
}
