//! The schema: migrations go up and down, the code's picture of it is the database's, and its CHECKs are the
//! enums of the model.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use diesel::QueryableByName;
use diesel::pg::Pg;
use diesel::sql_types::Text;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use expect_test::expect_file;
use strum::VariantArray;
use whimbrel_db::{pending_migrations, revert_migrations, run_migrations, schema};
use whimbrel_model::{
    DiskFormat, MigrationStatus, MigrationType, PowerState, ServiceStatus, TaskState, VmState,
    VolumeStatus,
};
use whimbrel_saga::Phase;
use whimbrel_test_utils::TestDatabase;

#[derive(QueryableByName)]
struct Pair {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    value: String,
}

async fn pairs(database: &TestDatabase, query: &str) -> Vec<Pair> {
    let mut connection = AsyncPgConnection::establish(&database.url()).await.unwrap();
    diesel::sql_query(query).load(&mut connection).await.unwrap()
}

fn dump(database: &TestDatabase) -> String {
    let output = Command::new("pg_dump")
        .args(["--schema-only", "--no-owner", "--no-privileges", "--dbname", &database.url()])
        .output()
        .expect("pg_dump runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // Comments name versions, and \restrict a word drawn anew each time.
    let kept = text.lines().filter(|line| !line.starts_with("--") && !line.starts_with('\\'));
    let mut schema = String::new();
    for line in kept.filter(|line| !line.is_empty()) {
        schema += line;
        schema += "\n";
    }
    schema
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_go_up_and_down_and_up_again() {
    let database = TestDatabase::create_empty().await;
    let url = database.url();
    let all = pending_migrations(&url).await.unwrap();
    assert!(!all.is_empty());
    assert_eq!(run_migrations(&url).await.unwrap().len(), all.len());
    let first = dump(&database);
    assert_eq!(run_migrations(&url).await.unwrap(), Vec::<String>::new());
    revert_migrations(&url).await.unwrap();
    run_migrations(&url).await.unwrap();
    assert_eq!(dump(&database), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dump_for_reviewers_is_current() {
    let database = TestDatabase::create().await;
    expect_file!["../../../schemas/db/schema.sql"].assert_eq(&dump(&database));
}

/// Column names of a table as diesel has them, in order.
fn columns(query: &impl diesel::query_builder::QueryFragment<Pg>) -> Vec<String> {
    let text = diesel::debug_query::<Pg, _>(query).to_string();
    let list = text.split(" FROM ").next().unwrap();
    let name = |part: &str| part.rsplit('.').next().unwrap().trim().trim_matches('"').to_owned();
    list.split(',').map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_s_picture_of_the_tables_is_the_database_s() {
    use diesel::query_dsl::methods::SelectDsl;
    let database = TestDatabase::create().await;
    let query = "SELECT table_name::text AS name, column_name::text AS value FROM information_schema.columns \
                 WHERE table_schema = 'public' ORDER BY table_name, ordinal_position";
    let mut real: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Pair { name, value } in pairs(&database, query).await {
        real.entry(name).or_default().insert(value);
    }
    real.remove("__diesel_schema_migrations");
    let mut ours = BTreeMap::new();
    macro_rules! note {
        ($($table:ident),*) => { $(
            let query = schema::$table::table.select(schema::$table::all_columns);
            ours.insert(stringify!($table).to_owned(), columns(&query).into_iter().collect());
        )* };
    }
    note!(
        flavor,
        image,
        network,
        host,
        service,
        instance,
        port,
        migration,
        saga,
        saga_history,
        outbox,
        allocation,
        host_obligation,
        dead_letter,
        flavor_access,
        keypair,
        server_group,
        server_group_member,
        aggregate,
        aggregate_host,
        quota,
        volume,
        config_drive
    );
    assert_eq!(ours, real);
}

/// The words that a column's CHECK permits.
async fn permitted(database: &TestDatabase, table: &str, column: &str) -> BTreeSet<String> {
    let query = format!(
        "SELECT c.conname::text AS name, pg_get_constraintdef(c.oid) AS value FROM pg_constraint c \
         WHERE c.contype = 'c' AND c.conrelid = '{table}'::regclass AND c.conname = '{table}_{column}_check'"
    );
    let found = pairs(database, &query).await;
    let [Pair { value, .. }] = found.as_slice() else { panic!("{table}.{column} has no CHECK") };
    value.split('\'').skip(1).step_by(2).map(ToOwned::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_permit_exactly_what_the_model_has() {
    fn words<T: VariantArray + ToString>() -> BTreeSet<String> {
        T::VARIANTS.iter().map(ToString::to_string).collect()
    }
    let database = TestDatabase::create().await;
    for (table, column, model) in [
        ("instance", "vm_state", words::<VmState>()),
        ("instance", "task_state", words::<TaskState>()),
        ("instance", "power_state", words::<PowerState>()),
        ("migration", "status", words::<MigrationStatus>()),
        ("migration", "migration_type", words::<MigrationType>()),
        ("saga", "phase", words::<Phase>()),
        ("host", "status", words::<ServiceStatus>()),
        ("image", "format", words::<DiskFormat>()),
        ("volume", "status", words::<VolumeStatus>()),
    ] {
        assert_eq!(permitted(&database, table, column).await, model, "{table}.{column}");
    }
}
