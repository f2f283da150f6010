//! How to reach the broker.

use std::path::{Path, PathBuf};

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::RpcError;

/// How to reach the broker.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AmqpConfig {
    /// `amqp://user:password@host:port/vhost`, or `amqps://` for TLS. Never logged.
    #[schemars(extend("writeOnly" = true))]
    pub url: String,
    /// Certificates, in PEM, of authorities that the broker's may come from, besides those that the machine trusts.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Our own certificate, in PEM, for a broker that asks for one.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// The private key of `cert_file`, in PEM.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

impl std::fmt::Debug for AmqpConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AmqpConfig").field("ca_file", &self.ca_file).finish_non_exhaustive()
    }
}

impl AmqpConfig {
    /// What TLS needs, read anew for each connection, so that files that were renewed count.
    pub(crate) async fn tls(&self) -> Result<OwnedTLSConfig, RpcError> {
        let files = [&self.ca_file, &self.cert_file, &self.key_file];
        if files.iter().any(|file| file.is_some()) && !self.url.starts_with("amqps://") {
            return Err(RpcError::Settings(
                "amqp has files for TLS, but its URL does not begin with amqps://".to_owned(),
            ));
        }
        let identity = match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => {
                Some(OwnedIdentity::PKCS8 { pem: read(cert).await?, key: read(key).await? })
            }
            (None, None) => None,
            _ => {
                let said = "amqp.cert_file and amqp.key_file are of use only together";
                return Err(RpcError::Settings(said.to_owned()));
            }
        };
        let cert_chain = match &self.ca_file {
            Some(file) => Some(String::from_utf8_lossy(&read(file).await?).into_owned()),
            None => None,
        };
        Ok(OwnedTLSConfig { identity, cert_chain })
    }
}

async fn read(file: &Path) -> Result<Vec<u8>, RpcError> {
    let read = tokio::fs::read(file).await;
    read.map_err(|error| RpcError::Settings(format!("{}: {error}", file.display())))
}
