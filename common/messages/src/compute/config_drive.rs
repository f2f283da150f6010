//! What a guest is told of itself, on a small disk of its own.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the program that sets a guest up at its first start (cloud-init) reads. Kept as it was when the guest was
/// asked for: the disk is made anew wherever the guest goes, and must be the same to the last byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ConfigDrive {
    /// What the guest is to call itself.
    pub hostname: String,
    /// Its name, for people.
    pub name: String,
    /// Whose it is.
    pub project_id: String,
    /// The zone that was asked for.
    #[serde(default)]
    pub availability_zone: Option<String>,
    /// Names and values of the user's.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Public keys that may log in, by name.
    #[serde(default)]
    pub public_keys: BTreeMap<String, String>,
    /// What the user has for that program, in Base64.
    #[serde(default)]
    pub user_data: Option<String>,
}
