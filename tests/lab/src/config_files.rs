//! The services' configuration files.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use crate::host::{Host, Storage};
use crate::switch::SWITCH_ADDRESS;

/// Port of the broker at the switch.
pub(crate) const BROKER_PORT: u16 = 5672;
/// Port of the API at the switch.
pub(crate) const API_PORT: u16 = 8774;
/// A host is down after this long without a report, in milliseconds. A lab can't wait for a minute.
const SERVICE_DOWN_TIME_MS: u64 = 5_000;
const REPORT_INTERVAL_MS: u64 = 1_000;

/// How guests' instructions are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VirtType {
    /// By the processor.
    Kvm,
    /// By the emulator.
    Qemu,
}

/// How moves go, for those who want it other than by default: section `[libvirt.migration]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MigrationTuning {
    /// Most that a move may send, in MiB a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_mib_s: Option<u64>,
    /// How long a guest may stand still, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_downtime_ms: Option<u64>,
    /// Connections for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_connections: Option<u32>,
    /// Whether guests that dirty too fast are slowed down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_converge: Option<bool>,
    /// Whether post-copy is permitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_copy: Option<bool>,
}

/// What the services in the root namespace need to know.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    /// `postgres://…`
    pub(crate) database_url: String,
    /// `amqp://…` on loopback.
    pub(crate) broker_url: String,
    /// Port of the API on loopback.
    pub(crate) api_port: u16,
}

#[derive(Serialize)]
struct File<'a> {
    log: Log,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<Database<'a>>,
    amqp: Amqp,
    #[serde(flatten)]
    own: Own,
}

#[derive(Serialize)]
struct Log {
    level: &'static str,
}

#[derive(Serialize)]
struct Database<'a> {
    url: &'a str,
}

#[derive(Serialize)]
struct Amqp {
    url: String,
}

/// The section that only one service has.
#[derive(Serialize)]
#[serde(untagged)]
enum Own {
    Api { api: Api },
    Conductor { conductor: Liveness },
    Scheduler { scheduler: Liveness },
    Compute { compute: Box<Compute>, libvirt: Box<Libvirt> },
    Fake { compute: Box<Compute>, fake: toml::Table },
}

#[derive(Serialize)]
struct Api {
    listen: String,
    image_dir: PathBuf,
    auth: &'static str,
    service_down_time_ms: u64,
}

#[derive(Serialize)]
struct Liveness {
    service_down_time_ms: u64,
}

#[derive(Serialize)]
struct Compute {
    host: String,
    driver: &'static str,
    state_dir: PathBuf,
    report_interval_ms: u64,
    image_url: String,
}

#[derive(Serialize)]
struct Libvirt {
    uri: &'static str,
    virt_type: VirtType,
    instances_path: PathBuf,
    migration_address: String,
    bridge: &'static str,
    keepalive_interval_s: u32,
    keepalive_count: u32,
    migration: MigrationTuning,
}

const LOG: Log = Log { level: "info" };

pub(crate) fn api(to: &Addresses, image_dir: &Path) -> anyhow::Result<String> {
    let listen = format!("127.0.0.1:{}", to.api_port);
    let api = Api {
        listen,
        image_dir: image_dir.to_owned(),
        auth: "none",
        service_down_time_ms: SERVICE_DOWN_TIME_MS,
    };
    root(to, Own::Api { api })
}

pub(crate) fn conductor(to: &Addresses) -> anyhow::Result<String> {
    let conductor = Liveness { service_down_time_ms: SERVICE_DOWN_TIME_MS };
    root(to, Own::Conductor { conductor })
}

pub(crate) fn scheduler(to: &Addresses) -> anyhow::Result<String> {
    let scheduler = Liveness { service_down_time_ms: SERVICE_DOWN_TIME_MS };
    root(to, Own::Scheduler { scheduler })
}

fn root(to: &Addresses, own: Own) -> anyhow::Result<String> {
    let database = Some(Database { url: &to.database_url });
    text(&File { log: LOG, database, amqp: Amqp { url: to.broker_url.clone() }, own })
}

pub(crate) fn compute(
    host: &Host,
    storage: Storage,
    virt_type: VirtType,
    migration: &MigrationTuning,
    broker_url: &str,
) -> anyhow::Result<String> {
    let compute = Compute {
        host: host.name().to_owned(),
        driver: "libvirt",
        state_dir: "/var/lib/whimbrel/state".into(),
        report_interval_ms: REPORT_INTERVAL_MS,
        image_url: format!("http://{SWITCH_ADDRESS}:{API_PORT}"),
    };
    let libvirt = Libvirt {
        uri: "qemu:///system",
        virt_type,
        instances_path: storage.on_host(),
        migration_address: host.address().to_string(),
        bridge: "brt",
        keepalive_interval_s: 2,
        keepalive_count: 3,
        migration: migration.clone(),
    };
    let own = Own::Compute { compute: Box::new(compute), libvirt: Box::new(libvirt) };
    text(&File { log: LOG, database: None, amqp: Amqp { url: at_switch(broker_url)? }, own })
}

/// A compute service with the simulated hypervisor, in the root namespace.
pub(crate) fn fake_compute(
    to: &Addresses,
    host: &str,
    state_dir: &Path,
    fake: &toml::Table,
) -> anyhow::Result<String> {
    let compute = Compute {
        host: host.to_owned(),
        driver: "fake",
        state_dir: state_dir.to_owned(),
        report_interval_ms: REPORT_INTERVAL_MS,
        image_url: format!("http://127.0.0.1:{}", to.api_port),
    };
    let own = Own::Fake { compute: Box::new(compute), fake: fake.clone() };
    text(&File { log: LOG, database: None, amqp: Amqp { url: to.broker_url.clone() }, own })
}

/// The broker's URL as hosts use it: same user, password and virtual host, at the switch.
fn at_switch(url: &str) -> anyhow::Result<String> {
    let mut url: reqwest::Url = url.parse().context("the broker's URL")?;
    url.set_ip_host(SWITCH_ADDRESS.into())
        .and_then(|()| url.set_port(Some(BROKER_PORT)))
        .map_err(|()| anyhow::anyhow!("the broker's URL can't be changed"))?;
    Ok(url.into())
}

fn text(file: &File<'_>) -> anyhow::Result<String> {
    toml::to_string(file).context("writing a configuration file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        Addresses {
            database_url: "postgres://whimbrel@127.0.0.1:5000/whimbrel".into(),
            broker_url: "amqp://whimbrel:secret@127.0.0.1:5001/%2f".into(),
            api_port: 5002,
        }
    }

    #[test]
    fn hosts_reach_the_broker_at_the_switch() {
        let url = at_switch(&addresses().broker_url).unwrap();
        assert_eq!(url, "amqp://whimbrel:secret@10.77.0.1:5672/%2f");
    }

    #[test]
    fn each_service_has_its_sections() {
        let table: toml::Table = api(&addresses(), Path::new("/images")).unwrap().parse().unwrap();
        assert_eq!(table["api"]["listen"].as_str(), Some("127.0.0.1:5002"));
        assert_eq!(table["database"]["url"].as_str(), Some(addresses().database_url.as_str()));

        let fake = toml::Table::new();
        let text = fake_compute(&addresses(), "host-a", Path::new("/state"), &fake).unwrap();
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["compute"]["driver"].as_str(), Some("fake"));
        assert!(!table.contains_key("database"), "compute never sees the database");
    }
}
