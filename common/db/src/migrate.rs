//! Brings a database to the schema that this binary expects.

use anyhow::Context;
use diesel_async::{
    AsyncConnection, AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

pub(crate) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../schemas/db/migrations");
/// Only one process migrates at a time.
const LOCK: &str = "SELECT pg_advisory_lock(7706931)";

async fn harness(url: &str) -> anyhow::Result<AsyncMigrationHarness<AsyncPgConnection>> {
    let mut connection =
        AsyncPgConnection::establish(url).await.context("connecting to the database")?;
    connection.batch_execute(LOCK).await.context("waiting for other migrations to end")?;
    Ok(AsyncMigrationHarness::new(connection))
}

/// Applies what is missing. Safe to run from several processes at once.
///
/// # Errors
/// When the database can't be reached or a migration fails; what was applied before it stays.
pub async fn run_migrations(url: &str) -> anyhow::Result<Vec<String>> {
    let mut harness = harness(url).await?;
    tokio::task::spawn_blocking(move || {
        let applied = harness
            .run_pending_migrations(MIGRATIONS)
            .map_err(|error| anyhow::anyhow!("applying migrations: {error}"))?;
        Ok(applied.iter().map(ToString::to_string).collect())
    })
    .await?
}

/// The names of migrations that are not applied.
///
/// # Errors
/// When the database can't be reached.
pub async fn pending_migrations(url: &str) -> anyhow::Result<Vec<String>> {
    let mut harness = harness(url).await?;
    tokio::task::spawn_blocking(move || {
        let pending = harness
            .pending_migrations(MIGRATIONS)
            .map_err(|error| anyhow::anyhow!("reading the state of migrations: {error}"))?;
        Ok(pending.iter().map(|migration| migration.name().to_string()).collect())
    })
    .await?
}

/// Takes back every migration, newest first. For tests of the migrations themselves.
///
/// # Errors
/// When the database can't be reached or a migration can't be taken back.
pub async fn revert_migrations(url: &str) -> anyhow::Result<()> {
    let mut harness = harness(url).await?;
    tokio::task::spawn_blocking(move || {
        harness
            .revert_all_migrations(MIGRATIONS)
            .map_err(|error| anyhow::anyhow!("reverting migrations: {error}"))?;
        Ok(())
    })
    .await?
}
