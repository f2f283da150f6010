//! Identities: one type per noun, so that an instance's id is never taken for a migration's.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

id!(
    /// A guest, for its whole life. Called a server in the HTTP API.
    InstanceId
);
id!(
    /// One move of one instance.
    MigrationId
);
id!(
    /// One durable operation.
    SagaId
);
id!(
    /// An image in the store.
    ImageId
);
id!(
    /// A provider network.
    NetworkId
);
id!(
    /// An instance's attachment to a network.
    PortId
);
id!(
    /// A disk on storage of the network.
    VolumeId
);

/// The id of the HTTP request that started an operation, in OpenStack's form `req-<uuid>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RequestId(pub String);

impl RequestId {
    /// The request id made of `id`.
    pub fn from_uuid(id: Uuid) -> Self {
        Self(format!("req-{id}"))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
