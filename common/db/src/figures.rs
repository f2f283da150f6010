//! Figures of the whole installation for monitoring, as the database knows them. Every process reads the same.

use diesel::prelude::*;
use diesel::sql_types::{Double, Text};
use diesel_async::RunQueryDsl;

use crate::{Database, DbError};

/// One figure.
#[derive(Clone, Debug, PartialEq, QueryableByName)]
pub struct Figure {
    /// What it is.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// The first label's value, if the figure has labels.
    #[diesel(sql_type = Text)]
    pub one: String,
    /// The second label's.
    #[diesel(sql_type = Text)]
    pub two: String,
    /// How much.
    #[diesel(sql_type = Double)]
    pub value: f64,
}

/// Migrations that ended are counted as long as they are kept; each part uses an index or a small table.
const QUERY: &str = "
    SELECT 'migrations' AS name, migration_type AS one, status AS two, count(*)::float8 AS value
        FROM migration GROUP BY 2, 3
    UNION ALL SELECT 'sagas_active', name, '', count(*)::float8 FROM saga
        WHERE wake_at IS NOT NULL GROUP BY 2
    UNION ALL SELECT 'sagas_stuck', '', '', count(*)::float8 FROM saga WHERE phase = 'stuck'
    UNION ALL SELECT 'saga_lag_seconds', '', '',
        coalesce(greatest(extract(epoch FROM now() - min(wake_at)), 0), 0)::float8 FROM saga
    UNION ALL SELECT 'outbox_messages', '', '', count(*)::float8 FROM outbox
    UNION ALL SELECT 'outbox_oldest_age_seconds', '', '',
        coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 FROM outbox
    UNION ALL SELECT 'obligations', '', '', count(*)::float8 FROM host_obligation
    UNION ALL SELECT 'dead_letters', '', '', count(*)::float8 FROM dead_letter
    UNION ALL SELECT 'hosts', 'up', '', count(*) FILTER (WHERE up)::float8 FROM hosts
    UNION ALL SELECT 'hosts', 'down', '', count(*) FILTER (WHERE NOT up)::float8 FROM hosts
    UNION ALL SELECT 'instances', vm_state, '', count(*)::float8 FROM instance WHERE deleted_at IS NULL GROUP BY 2";

/// Reads them. A host is down when it has not reported for `down_after_ms`, or was forced down.
///
/// # Errors
/// When the query fails.
pub async fn figures(database: &Database, down_after_ms: i64) -> Result<Vec<Figure>, DbError> {
    let mut connection = database.connection().await?;
    let query = format!(
        "WITH hosts AS (SELECT NOT forced_down AND coalesce(
             reported_at > now() - $1 * interval '1 millisecond', false) AS up FROM host) {QUERY}"
    );
    diesel::sql_query(query)
        .bind::<diesel::sql_types::BigInt, _>(down_after_ms)
        .load(&mut connection)
        .await
        .map_err(DbError::query("reading figures"))
}
