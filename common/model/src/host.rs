//! Hypervisor machines and the services on them.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, VariantArray};

/// The name of a hypervisor machine, as its compute service reports it.
///
/// It becomes part of a queue's name and of file names, so only `[A-Za-z0-9._-]` is allowed, and no
/// leading dot or dash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct HostName(String);

/// A text that is no host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a host name: 1 to 255 letters, digits, dots, dashes or underscores, starting with a letter or digit"
)]
pub struct InvalidHostName(pub String);

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = InvalidHostName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if starts_well && text.len() <= 255 && text.chars().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidHostName(text.to_owned()))
        }
    }
}

impl<'de> Deserialize<'de> for HostName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the scheduler may place guests on a host.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    VariantArray,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum ServiceStatus {
    /// New guests may come.
    Enabled,
    /// Guests stay and may leave; none may come.
    Disabled,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_that_could_escape_a_path_or_a_queue_are_refused() {
        for bad in ["", ".", "..", "a/b", "-a", "a b", "a#", "a*", "ü", &"x".repeat(256)] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
        for good in ["a", "host-1", "node_7.example.org", "7"] {
            assert!(good.parse::<HostName>().is_ok(), "{good}");
        }
    }
}
