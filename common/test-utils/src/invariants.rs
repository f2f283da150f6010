//! What should never be, whatever a test did.

use whimbrel_db::consistency::violations;
use whimbrel_db::{Database, DatabaseConfig};

/// The invariants that a database at `url` breaks, one text each.
///
/// # Panics
/// When the database can't be asked.
pub async fn broken_invariants(url: &str) -> Vec<String> {
    let config = DatabaseConfig { url: url.to_owned(), pool_size: 1 };
    let database = Database::new(&config).expect("a pool");
    let mut connection = database.connection().await.expect("the test's database");
    let found = violations(&mut connection).await.expect("checks that run");
    found.iter().map(|one| format!("{}: {}", one.invariant, one.detail)).collect()
}

/// All rows of the tables that requests write, as text: equal before and after means that nothing happened. What
/// hosts report goes on and is left out.
///
/// # Panics
/// When the database can't be asked.
pub async fn everything(url: &str) -> Vec<String> {
    use diesel_async::{AsyncConnection, RunQueryDsl};

    #[derive(diesel::QueryableByName)]
    struct Line {
        #[diesel(sql_type = diesel::sql_types::Text)]
        line: String,
    }

    let mut connection =
        diesel_async::AsyncPgConnection::establish(url).await.expect("the test's database");
    let tables = [
        "flavor",
        "image",
        "network",
        "instance",
        "port",
        "migration",
        "saga",
        "saga_history",
        "outbox",
        "allocation",
        "host_obligation",
    ];
    let mut lines = Vec::new();
    for table in tables {
        let query =
            format!("SELECT '{table} ' || to_jsonb(t)::text AS line FROM {table} t ORDER BY 1");
        let rows: Vec<Line> =
            diesel::sql_query(query).load(&mut connection).await.expect("a table that can be read");
        lines.extend(rows.into_iter().map(|row| row.line));
    }
    lines
}

/// Does by hand what no service would do.
///
/// # Panics
/// When the database refuses.
pub async fn tamper(url: &str, statement: &str) {
    use diesel_async::{AsyncConnection, SimpleAsyncConnection};

    let mut connection =
        diesel_async::AsyncPgConnection::establish(url).await.expect("the test's database");
    connection.batch_execute(statement).await.expect("a statement that can be run");
}

/// What a query of one boolean named `holds` says.
///
/// # Panics
/// When the database can't be asked.
pub async fn holds(url: &str, query: &str) -> bool {
    use diesel_async::{AsyncConnection, RunQueryDsl};

    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Bool)]
        holds: bool,
    }

    let mut connection =
        diesel_async::AsyncPgConnection::establish(url).await.expect("the test's database");
    let row: Row = diesel::sql_query(query).get_result(&mut connection).await.expect("one boolean");
    row.holds
}
