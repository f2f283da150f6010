//! Whether the database is there and has the schema that this binary expects.

use diesel::migration::MigrationSource;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;

use crate::migrate::MIGRATIONS;
use crate::{Database, DbError};

#[derive(QueryableByName)]
struct Applied {
    #[diesel(sql_type = Text)]
    version: String,
}

impl Database {
    /// Whether it is there and has the schema that this binary needs; if not, why.
    ///
    /// # Errors
    /// When it is not.
    pub async fn ready(self) -> Result<(), String> {
        match self.missing_migrations().await {
            Ok(missing) if missing.is_empty() => Ok(()),
            Ok(missing) => Err(format!("migrations are missing: {}", missing.join(", "))),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The migrations that this binary needs and the database lacks. Takes no lock. A database that is newer is fine:
    /// what an older release needs stays for one more.
    ///
    /// # Errors
    /// When the database can't be reached, or has never been migrated.
    pub async fn missing_migrations(&self) -> Result<Vec<String>, DbError> {
        let mut connection = self.connection().await?;
        let applied: Vec<Applied> =
            diesel::sql_query("SELECT version FROM __diesel_schema_migrations")
                .load(&mut connection)
                .await
                .map_err(DbError::query("reading what migrations were applied"))?;
        let wanted = MigrationSource::<Pg>::migrations(&MIGRATIONS).unwrap_or_default();
        let wanted = wanted.iter().map(|migration| migration.name().version().to_string());
        Ok(wanted.filter(|wanted| !applied.iter().any(|row| row.version == *wanted)).collect())
    }
}
