//! Statements that are planned once for a connection, without a look at their parameters, find their partial indexes.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use diesel::QueryableByName;
use diesel::sql_types::BigInt;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use whimbrel_db::saga_log::{count_active, due_sagas};
use whimbrel_db::{Connection, Database, DatabaseConfig};
use whimbrel_test_utils::TestDatabase;

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    scans: i64,
}

async fn scans(c: &mut Connection, index: &str) -> i64 {
    c.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    let query = format!(
        "SELECT coalesce(idx_scan, 0) AS scans FROM pg_stat_user_indexes WHERE indexrelname = '{index}'"
    );
    let counts: Vec<Count> = diesel::sql_query(query).load(c).await.unwrap();
    counts[0].scans
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sweeps_look_for_is_in_the_index_of_active_sagas() {
    let database = TestDatabase::create().await;
    let config = DatabaseConfig { url: database.url(), pool_size: 1 };
    let mut c = Database::with_generic_plans(&config).unwrap().connection().await.unwrap();
    // A table this small would be read whole.
    c.batch_execute("SET enable_seqscan = off").await.unwrap();
    let registry = whimbrel_sagas::registry();
    let before = scans(&mut c, "saga_active").await;
    due_sagas(&mut c, &registry, 10).await.unwrap();
    let due = scans(&mut c, "saga_active").await;
    assert!(due > before, "due sagas were looked for elsewhere");
    count_active(&mut c, &registry).await.unwrap();
    assert!(scans(&mut c, "saga_active").await > due, "active sagas were counted elsewhere");
}
