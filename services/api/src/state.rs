//! What all handlers share.

use whimbrel_db::{Connection, Database};

use crate::auth::Authenticator;
use crate::config::ApiConfig;
use crate::error::ApiError;
use crate::fencing::Fencing;
use crate::outbox::Sender;

/// What all handlers share.
pub struct Api {
    /// The database.
    pub database: Database,
    /// The configuration.
    pub config: ApiConfig,
    /// What sees to it that a lost host is off.
    pub fencing: Fencing,
    /// Who is asking.
    pub authenticator: Authenticator,
    /// For telling conductors.
    pub sender: Sender,
}

impl Api {
    pub(crate) async fn connection(&self) -> Result<Connection, ApiError> {
        Ok(self.database.connection().await?)
    }

    /// How many rows to answer with.
    pub(crate) fn limit(&self, asked: Option<i64>) -> i64 {
        asked.unwrap_or(self.config.max_limit).min(self.config.max_limit)
    }
}
