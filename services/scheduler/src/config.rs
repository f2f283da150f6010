//! Configuration of the scheduler.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use whimbrel_db::DatabaseConfig;
use whimbrel_db::scheduling::Ratios;
use whimbrel_rpc::AmqpConfig;
use whimbrel_service::{CommonConfig, LogConfig, ManagementConfig};

/// The whole configuration file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How to log.
    #[serde(default)]
    pub log: LogConfig,
    /// Health and metrics.
    #[serde(default)]
    pub management: ManagementConfig,
    /// The database.
    pub database: DatabaseConfig,
    /// The broker.
    pub amqp: AmqpConfig,
    /// The scheduler's own.
    #[serde(default)]
    pub scheduler: SchedulerConfig,
}

impl CommonConfig for Config {
    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn management(&self) -> &ManagementConfig {
        &self.management
    }
}

/// What operators can tune. Names and defaults of the ratios and multipliers are Nova's.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerConfig {
    /// Virtual processors promised for each real one.
    pub cpu_allocation_ratio: f64,
    /// Memory promised for each unit of real memory.
    pub ram_allocation_ratio: f64,
    /// Disk promised for each unit of real disk.
    pub disk_allocation_ratio: f64,
    /// How much free memory counts for a host; negative to stack guests.
    pub ram_weight_multiplier: f64,
    /// How much free processors count.
    pub cpu_weight_multiplier: f64,
    /// How much free disk counts.
    pub disk_weight_multiplier: f64,
    /// A host is down when it has not reported for this time, in milliseconds.
    pub service_down_time_ms: i64,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            cpu_allocation_ratio: 16.0,
            ram_allocation_ratio: 1.5,
            disk_allocation_ratio: 1.0,
            ram_weight_multiplier: 1.0,
            cpu_weight_multiplier: 1.0,
            disk_weight_multiplier: 1.0,
            service_down_time_ms: 60_000,
        }
    }
}

impl SchedulerConfig {
    /// The ratios, as the claim compares with them.
    pub fn ratios(&self) -> Ratios {
        Ratios {
            vcpus: self.cpu_allocation_ratio,
            memory: self.ram_allocation_ratio,
            disk: self.disk_allocation_ratio,
        }
    }
}
