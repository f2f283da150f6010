//! Connections to PostgreSQL.

use std::time::Duration;

use deadpool::Runtime;
use diesel::{ConnectionError, ConnectionResult};
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::DbError;

/// How to reach the database.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `postgres://user:password@host:port/database`. Never logged.
    #[schemars(extend("writeOnly" = true))]
    pub url: String,
    /// Connections at most.
    #[serde(default = "default_pool_size")]
    pub pool_size: usize,
}

fn default_pool_size() -> usize {
    8
}

impl std::fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseConfig").field("pool_size", &self.pool_size).finish_non_exhaustive()
    }
}

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    pool: Pool<AsyncPgConnection>,
}

/// A connection on loan from the pool.
pub type Connection = Object<AsyncPgConnection>;

impl Database {
    /// A pool for `config`. Connects only when a connection is asked for.
    ///
    /// # Errors
    /// When the pool can't be built.
    pub fn new(config: &DatabaseConfig) -> Result<Self, DbError> {
        Self::with(config, ManagerConfig::default())
    }

    /// As [`Database::new`], for a service that runs the same few statements again and again: each is planned once
    /// for a connection. Planned anew each time, the batches of 500 moves at once take twice the processor time
    /// (docs/benchmarks.md). Statements that need a partial index must say its predicate in so many words.
    ///
    /// # Errors
    /// When the pool can't be built.
    pub fn with_generic_plans(config: &DatabaseConfig) -> Result<Self, DbError> {
        let mut manager = ManagerConfig::default();
        manager.custom_setup = Box::new(|url| Box::pin(connect_with_generic_plans(url)));
        Self::with(config, manager)
    }

    fn with(
        config: &DatabaseConfig,
        mut manager: ManagerConfig<AsyncPgConnection>,
    ) -> Result<Self, DbError> {
        // No test query at each loan: that would be a round trip for each transaction, and a server that goes away
        // closes its connections, which is seen without one.
        manager.recycling_method = RecyclingMethod::Fast;
        let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new_with_config(
            config.url.as_str(),
            manager,
        );
        let pool = Pool::builder(manager)
            .max_size(config.pool_size)
            .wait_timeout(Some(Duration::from_secs(10)))
            .create_timeout(Some(Duration::from_secs(5)))
            .recycle_timeout(Some(Duration::from_secs(5)))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| DbError::Unavailable(error.to_string()))?;
        Ok(Self { pool })
    }

    /// A connection.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] when none is to be had in ten seconds.
    pub async fn connection(&self) -> Result<Connection, DbError> {
        self.pool.get().await.map_err(|error| DbError::Unavailable(error.to_string()))
    }
}

/// A pool's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// That there are.
    pub open: usize,
    /// That nobody uses.
    pub idle: usize,
    /// Who wait for one.
    pub waiting: usize,
}

impl Database {
    /// How busy the pool is.
    pub fn pool_use(&self) -> PoolUse {
        let status = self.pool.status();
        PoolUse { open: status.size, idle: status.available, waiting: status.waiting }
    }
}

async fn connect_with_generic_plans(url: &str) -> ConnectionResult<AsyncPgConnection> {
    let mut connection = AsyncPgConnection::establish(url).await?;
    connection
        .batch_execute("SET plan_cache_mode = force_generic_plan")
        .await
        .map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}
