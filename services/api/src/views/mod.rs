//! What callers see of rows, by microversion.

mod migration;
mod server;

use chrono::{DateTime, Utc};

pub(crate) use migration::{migration, server_migration};
pub(crate) use server::{
    Around, as_changed, host_id, hostname, plain_addresses, server, server_link, status,
};

/// As servers and images show times.
pub(crate) fn zulu(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// As migrations, services and actions show times.
pub(crate) fn plain(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}
