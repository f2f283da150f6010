//! What the API shows, as far as the lab looks at it.

use std::net::Ipv4Addr;

use anyhow::Context;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What a new server is to be like.
#[derive(Clone, Copy, Debug)]
pub struct NewServer<'a> {
    /// Its name.
    pub name: &'a str,
    /// A flavor's id.
    pub flavor: &'a str,
    /// An image's id.
    pub image: &'a str,
    /// A network's id.
    pub network: &'a str,
    /// The host; the scheduler's choice if not given.
    pub host: Option<&'a str>,
}

impl NewServer<'_> {
    pub(super) fn to_json(self) -> Value {
        let mut server = json!({
            "name": self.name,
            "flavorRef": self.flavor,
            "imageRef": self.image,
            "networks": [{ "uuid": self.network }],
        });
        if let Some(host) = self.host {
            server["host"] = json!(host);
        }
        json!({ "server": server })
    }
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its id.
    pub id: String,
    /// `ACTIVE`, `MIGRATING`, …
    pub status: String,
    /// What is being done with it.
    pub task_state: Option<String>,
    /// Where it is, by its record.
    pub host: Option<String>,
    /// Its addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// Why it is in `ERROR`.
    pub fault: Option<String>,
}

impl Server {
    pub(super) fn read(body: &Value) -> anyhow::Result<Self> {
        let text = |key: &str| body[key].as_str().map(str::to_owned);
        let networks = body["addresses"].as_object().into_iter().flat_map(|all| all.values());
        let addresses = networks
            .filter_map(Value::as_array)
            .flatten()
            .filter_map(|address| address["addr"].as_str()?.parse().ok())
            .collect();
        Ok(Self {
            id: text("id").context("a server without an id")?,
            status: text("status").context("a server without a status")?,
            task_state: text("OS-EXT-STS:task_state"),
            host: text("OS-EXT-SRV-ATTR:host"),
            addresses,
            fault: body["fault"]["message"].as_str().map(str::to_owned),
        })
    }

    /// Its only address.
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self) -> anyhow::Result<Ipv4Addr> {
        self.addresses
            .first()
            .copied()
            .with_context(|| format!("server {} has no address", self.id))
    }
}

/// A compute service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ComputeService {
    /// Its id.
    pub id: Value,
    /// Its host.
    pub host: String,
    /// `up` or `down`.
    pub state: String,
    /// `enabled` or `disabled`.
    pub status: String,
    /// When it last reported.
    pub updated_at: Option<String>,
}

/// A migration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Migration {
    /// Its number.
    pub id: i64,
    /// Its id.
    pub uuid: String,
    /// `accepted`, … `completed`.
    pub status: String,
    /// The host it leaves.
    pub source_compute: Option<String>,
    /// The host it goes to.
    pub dest_compute: Option<String>,
    /// What only Whimbrel's own view of it shows.
    #[serde(skip)]
    pub figures: Figures,
}

/// What is measured of a migration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Memory sent, in bytes.
    pub memory_bytes: Option<i64>,
    /// Disk sent, in bytes.
    pub disk_bytes: Option<i64>,
    /// How long it took, in milliseconds.
    pub total_ms: Option<i64>,
    /// How long the guest stood still, in milliseconds, as the hypervisor measured it.
    pub downtime_ms: Option<i64>,
    /// Why it did not succeed.
    pub fault: Option<String>,
}

impl Migration {
    /// Reads Whimbrel's own view of it.
    pub(super) fn read_own(body: &Value) -> anyhow::Result<Self> {
        let mut migration: Self = serde_json::from_value(body.clone())
            .with_context(|| format!("reading a migration: {body}"))?;
        let fault = &body["operation"]["fault"];
        migration.figures = Figures {
            memory_bytes: body["memory_processed_bytes"].as_i64(),
            disk_bytes: body["disk_processed_bytes"].as_i64(),
            total_ms: body["total_ms"].as_i64(),
            downtime_ms: body["downtime_ms"].as_i64(),
            fault: (!fault.is_null()).then(|| fault.to_string()),
        };
        Ok(migration)
    }

    /// Whether nothing more will happen.
    pub fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "cancelled" | "failed" | "error")
    }
}

/// What is held on a host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Allocation {
    /// Who holds it: a server or a migration.
    pub consumer: String,
    /// For which server.
    #[serde(rename = "instance_id")]
    pub server_id: String,
    /// Where.
    pub host: String,
    /// Processors.
    pub vcpus: i64,
    /// Memory, in MiB.
    pub memory_mib: i64,
}

/// The list under `key` of an answer.
pub(super) fn list<T: DeserializeOwned>(mut body: Value, key: &str) -> anyhow::Result<Vec<T>> {
    serde_json::from_value(body[key].take()).with_context(|| format!("reading {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_read() {
        let body = json!({
            "id": "s", "status": "MIGRATING", "OS-EXT-STS:task_state": "migrating",
            "OS-EXT-SRV-ATTR:host": "host-a",
            "addresses": { "net": [{ "version": 4, "addr": "10.78.0.10" }] },
        });
        let server = Server::read(&body).unwrap();
        assert_eq!(server.address().unwrap(), Ipv4Addr::new(10, 78, 0, 10));
        assert_eq!(server.host.as_deref(), Some("host-a"));
        assert_eq!(server.task_state.as_deref(), Some("migrating"));
    }
}
