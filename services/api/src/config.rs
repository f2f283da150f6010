//! Configuration of the HTTP API.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use whimbrel_db::DatabaseConfig;
use whimbrel_rpc::AmqpConfig;
use whimbrel_service::{CommonConfig, LogConfig, ManagementConfig};

use crate::fencing::FencingConfig;

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
    /// The API's own.
    pub api: ApiConfig,
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
pub struct ApiConfig {
    /// Where to listen.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Where images are kept.
    pub image_dir: PathBuf,
    /// How callers are known.
    #[serde(default)]
    pub auth: AuthMode,
    /// What `auth = "http_basic"` needs.
    #[serde(default)]
    pub http_basic: Option<HttpBasicConfig>,
    /// What `auth = "keystone"` needs.
    #[serde(default)]
    pub keystone: Option<KeystoneConfig>,
    /// Permit `auth = "none"` on an address that others can reach.
    #[serde(default)]
    pub allow_insecure_bind: bool,
    /// A host is down when it has not reported for this time, in milliseconds.
    #[serde(default = "default_down")]
    pub service_down_time_ms: i64,
    /// The largest image that is taken, in bytes.
    #[serde(default = "default_image")]
    pub max_image_bytes: u64,
    /// Whether a resize may leave the guest on its host.
    #[serde(default)]
    pub allow_resize_to_same_host: bool,
    /// Most resizes and cold migrations of one project that wait for a decision; 0 is no limit.
    #[serde(default)]
    pub max_unconfirmed_resizes: i64,
    /// How long a guest's operating system is given to shut down before a move, in milliseconds.
    #[serde(default = "default_shutdown")]
    pub shutdown_timeout_ms: i64,
    /// What to ask when a server is evacuated from a host that nobody has forced down.
    #[serde(default)]
    pub fencing: Option<FencingConfig>,
    /// Most rows in one answer.
    #[serde(default = "default_page")]
    pub max_limit: i64,
}

/// How callers are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// Everybody is an administrator. Only on the loopback interface.
    #[default]
    None,
    /// By name and password, from files.
    HttpBasic,
    /// By tokens of an identity service.
    Keystone,
}

/// Section `[api.http_basic]`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpBasicConfig {
    /// Names and bcrypt hashes, as `htpasswd -B` writes them.
    pub users_file: PathBuf,
    /// TOML: for each name a table with `project` and `roles`, and `user_id` if it is not the name.
    pub roles_file: PathBuf,
}

/// Section `[api.keystone]`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeystoneConfig {
    /// The identity service's API v3: `https://keystone.example/v3`.
    pub url: String,
    /// Our own user, which may validate tokens.
    pub username: String,
    /// Its password.
    pub password: Secret,
    /// Its project.
    pub project_name: String,
    /// Its domain.
    #[serde(default = "default_domain")]
    pub user_domain_id: String,
    /// Its project's domain.
    #[serde(default = "default_domain")]
    pub project_domain_id: String,
    /// How long what was said of a token counts, in milliseconds; one that is revoked is good until then.
    #[serde(default = "default_cache")]
    pub cache_ms: u64,
}

/// A text that is never logged.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("writeOnly" = true))]
pub struct Secret(String);

impl Secret {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("****")
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

fn default_domain() -> String {
    "default".to_owned()
}

/// As long as Nova's middleware does by default.
fn default_cache() -> u64 {
    300_000
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8774))
}

fn default_down() -> i64 {
    60_000
}

fn default_image() -> u64 {
    64 << 30
}

/// Nova's `shutdown_timeout`.
fn default_shutdown() -> i64 {
    60_000
}

fn default_page() -> i64 {
    1_000
}
