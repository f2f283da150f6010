//! How to reach the broker.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How to reach the broker.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AmqpConfig {
    /// `amqp://user:password@host:port/vhost`, or `amqps://` for TLS. Never logged.
    #[schemars(extend("writeOnly" = true))]
    pub url: String,
}

impl std::fmt::Debug for AmqpConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AmqpConfig").finish_non_exhaustive()
    }
}
