//! Configuration of the compute service.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use whimbrel_model::HostName;
use whimbrel_rpc::AmqpConfig;
use whimbrel_service::{CommonConfig, LogConfig, ManagementConfig};
use whimbrel_virt::fake::FakeConfig;
use whimbrel_virt_libvirt::LibvirtConfig;

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
    /// The broker.
    pub amqp: AmqpConfig,
    /// The service's own.
    pub compute: ComputeConfig,
    /// The real hypervisor.
    #[serde(default)]
    pub libvirt: LibvirtConfig,
    /// The simulated hypervisor.
    #[serde(default)]
    pub fake: FakeConfig,
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
#[serde(deny_unknown_fields)]
pub struct ComputeConfig {
    /// This host's name; never changes as long as it has guests.
    pub host: HostName,
    /// Which hypervisor.
    #[serde(default)]
    pub driver: DriverKind,
    /// A directory of this host alone, which survives reboots.
    pub state_dir: PathBuf,
    /// How often to report, in milliseconds. A host that is silent for several times this is down.
    #[serde(default = "default_report_interval_ms")]
    pub report_interval_ms: u64,
    /// Base images are fetched from `{image_url}/v2/images/{id}/file`. May hold a user and password for the API.
    #[serde(default)]
    #[schemars(extend("writeOnly" = true))]
    pub image_url: String,
}

fn default_report_interval_ms() -> u64 {
    10_000
}

/// Which hypervisor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// A real one, through libvirt.
    #[default]
    Libvirt,
    /// A simulated one, for load and fault tests.
    Fake,
}
