//! What the API says of servers and migrations, as far as it is read and not only shown.

use serde::Deserialize;
use serde_json::Value;

use crate::progress::Bytes;

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Server {
    pub(crate) id: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) status: String,
    #[serde(default, rename = "OS-EXT-STS:task_state")]
    pub(crate) task: Option<String>,
    #[serde(default, rename = "OS-EXT-SRV-ATTR:host")]
    pub(crate) host: Option<String>,
    #[serde(default)]
    pub(crate) fault: Option<Fault>,
    /// All the rest.
    #[serde(flatten)]
    pub(crate) more: serde_json::Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Fault {
    pub(crate) message: String,
}

impl Server {
    /// A field that is only shown.
    pub(crate) fn field(&self, name: &str) -> Value {
        self.more.get(name).cloned().unwrap_or_default()
    }

    /// All its addresses.
    pub(crate) fn addresses(&self) -> Value {
        let networks = self.field("addresses");
        let lists = networks.as_object().into_iter().flat_map(|networks| networks.values());
        let all = lists.flat_map(|list| list.as_array().into_iter().flatten());
        Value::Array(all.map(|one| one["addr"].clone()).collect())
    }

    /// Its flavor's name, or its id where the name is not told.
    pub(crate) fn flavor(&self) -> Value {
        let flavor = self.field("flavor");
        [&flavor["original_name"], &flavor["id"]]
            .into_iter()
            .find(|value| !value.is_null())
            .cloned()
            .unwrap_or_default()
    }
}

/// A migration, from whichever list: each knows a part of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Migration {
    pub(crate) id: u64,
    pub(crate) uuid: Option<String>,
    #[serde(alias = "server_uuid")]
    pub(crate) instance_uuid: String,
    pub(crate) migration_type: Option<String>,
    pub(crate) status: String,
    pub(crate) source_compute: Option<String>,
    pub(crate) dest_compute: Option<String>,
    pub(crate) created_at: Option<String>,
    pub(crate) updated_at: Option<String>,
    pub(crate) memory_total_bytes: Option<u64>,
    pub(crate) memory_processed_bytes: Option<u64>,
    pub(crate) memory_remaining_bytes: Option<u64>,
    pub(crate) disk_total_bytes: Option<u64>,
    pub(crate) disk_processed_bytes: Option<u64>,
    pub(crate) disk_remaining_bytes: Option<u64>,
    pub(crate) total_ms: Option<u64>,
    pub(crate) downtime_ms: Option<u64>,
    /// Whimbrel's own: what carries it out.
    pub(crate) operation: Option<Operation>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Operation {
    pub(crate) phase: Option<String>,
    pub(crate) step: Option<String>,
    pub(crate) round: Option<u64>,
    pub(crate) fault: Value,
}

impl Migration {
    /// It has ended, one way or the other. A cold one that is finished waits to be confirmed or reverted.
    pub(crate) fn is_over(&self) -> bool {
        self.ended_well() || matches!(self.status.as_str(), "cancelled" | "failed" | "error")
    }

    pub(crate) fn ended_well(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "finished" | "confirmed" | "reverted" | "done")
    }

    pub(crate) fn is_live(&self) -> bool {
        self.migration_type.as_deref() == Some("live-migration")
    }

    /// Memory and disks together.
    pub(crate) fn bytes(&self) -> Bytes {
        let sum = |memory: Option<u64>, disk: Option<u64>| {
            memory.unwrap_or_default().saturating_add(disk.unwrap_or_default())
        };
        Bytes {
            total: sum(self.memory_total_bytes, self.disk_total_bytes),
            processed: sum(self.memory_processed_bytes, self.disk_processed_bytes),
            remaining: sum(self.memory_remaining_bytes, self.disk_remaining_bytes),
        }
    }

    /// `a → b`, as far as it is known.
    pub(crate) fn way(&self) -> String {
        let host = |name: &Option<String>| name.clone().unwrap_or_else(|| "?".to_owned());
        match (&self.source_compute, &self.dest_compute) {
            (None, None) => String::new(),
            (source, destination) => format!("{} → {}", host(source), host(destination)),
        }
    }

    /// Why it failed, if that is told.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.operation.as_ref()?.fault["message"].as_str()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn memory_and_disks_are_added_where_they_are_known() {
        let migration: Migration = serde_json::from_value(json!({
            "id": 3, "server_uuid": "s", "status": "running", "source_compute": "a", "dest_compute": null,
            "memory_total_bytes": 10, "memory_processed_bytes": 4, "memory_remaining_bytes": 6,
            "disk_total_bytes": 100, "disk_processed_bytes": null, "disk_remaining_bytes": 100,
        }))
        .unwrap();
        assert_eq!(migration.bytes(), Bytes { total: 110, processed: 4, remaining: 106 });
        assert_eq!(migration.way(), "a → ?");
        assert!(!migration.is_over());
    }
}
