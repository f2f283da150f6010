//! Configuration of the conductor.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use whimbrel_db::DatabaseConfig;
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
    /// The conductor's own.
    #[serde(default)]
    pub conductor: ConductorConfig,
}

impl CommonConfig for Config {
    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn management(&self) -> &ManagementConfig {
        &self.management
    }
}

/// What operators can tune.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConductorConfig {
    /// Transactions at once. Fewer make larger batches: two to four are best.
    pub workers: usize,
    /// A host is down when it has not reported for this time, in milliseconds.
    pub service_down_time_ms: i64,
    /// A resize or cold migration that nobody has decided on is confirmed after this time, in seconds; 0 is
    /// never. Nova's `resize_confirm_window`.
    pub resize_confirm_window_s: i32,
    /// How often to look for sagas whose time has come, in milliseconds.
    pub sweep_interval_ms: u64,
}

impl Default for ConductorConfig {
    fn default() -> Self {
        Self {
            workers: 3,
            service_down_time_ms: 60_000,
            resize_confirm_window_s: 0,
            sweep_interval_ms: 500,
        }
    }
}
