//! A database per test, copied from a template that has all migrations.

use std::hash::{DefaultHasher, Hasher};
use std::path::Path;

use anyhow::Context;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use tokio::sync::OnceCell;

/// Held while the template is made: nextest runs each test in a process of its own, all at once.
const TEMPLATE_LOCK: &str = "SELECT pg_advisory_lock(7706932)";
const MIGRATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/db/migrations");

/// A database of one test, with all migrations applied and no rows. It is dropped with the value.
#[derive(Debug)]
pub struct TestDatabase {
    server: String,
    name: String,
}

impl TestDatabase {
    /// Makes one.
    ///
    /// # Panics
    /// When `WHIMBREL_TEST_DATABASE_URL` is not set or the server refuses.
    pub async fn create() -> Self {
        let server = crate::address(crate::DATABASE_URL);
        let made = async {
            let template = template(&server).await?;
            let name = crate::unique_name("test");
            execute(&server, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await?;
            anyhow::Ok(name)
        };
        match made.await {
            Ok(name) => Self { server, name },
            Err(error) => panic!("no test database on {server}: {error:#}"),
        }
    }

    /// Makes one without any migration applied, for tests of the migrations themselves.
    ///
    /// # Panics
    /// When `WHIMBREL_TEST_DATABASE_URL` is not set or the server refuses.
    pub async fn create_empty() -> Self {
        let server = crate::address(crate::DATABASE_URL);
        let name = crate::unique_name("test");
        match execute(&server, &format!("CREATE DATABASE {name}")).await {
            Ok(()) => Self { server, name },
            Err(error) => panic!("no test database on {server}: {error:#}"),
        }
    }

    /// Its address: `postgres://USER@HOST:PORT/NAME`.
    #[must_use]
    pub fn url(&self) -> String {
        url_of(&self.server, &self.name)
    }

    /// Its name on the server.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ends every session on this database: what its users see when the server restarts.
    ///
    /// # Errors
    /// When the server can't be reached.
    pub async fn disconnect_all(&self) -> anyhow::Result<()> {
        let name = &self.name;
        let query = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        );
        execute(&self.server, &query).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let server = std::mem::take(&mut self.server);
        let query = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        crate::finish("a test database", move || async move { execute(&server, &query).await });
    }
}

/// The name of the template, made by whichever process of the run comes first.
async fn template(server: &str) -> anyhow::Result<&'static str> {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    TEMPLATE.get_or_try_init(|| make_template(server)).await.map(String::as_str)
}

async fn make_template(server: &str) -> anyhow::Result<String> {
    let name = format!("template_{:016x}", fingerprint().context("reading the migrations")?);
    let mut connection = connect(server).await?;
    connection.batch_execute(TEMPLATE_LOCK).await?;
    if exists(&mut connection, &name).await? {
        return Ok(name);
    }
    // Under another name until it is whole: a process that dies in the middle leaves no half template.
    let draft = crate::unique_name("draft");
    connection.batch_execute(&format!("CREATE DATABASE {draft}")).await?;
    whimbrel_db::run_migrations(&url_of(server, &draft)).await.context("filling the template")?;
    let closed = format!("ALTER DATABASE {draft} ALLOW_CONNECTIONS false");
    connection.batch_execute(&closed).await?;
    let last_sessions =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{draft}'");
    connection.batch_execute(&last_sessions).await?;
    connection.batch_execute(&format!("ALTER DATABASE {draft} RENAME TO {name}")).await?;
    Ok(name)
}

/// Changes whenever a migration does, so that a server that outlives an edit gets a new template.
fn fingerprint() -> std::io::Result<u64> {
    let mut folders: Vec<_> = std::fs::read_dir(Path::new(MIGRATIONS))?
        .map(|entry| entry.map(|entry| entry.path().join("up.sql")))
        .collect::<Result<_, _>>()?;
    folders.sort();
    let mut hasher = DefaultHasher::new();
    for script in folders.iter().filter(|script| script.exists()) {
        hasher.write(script.as_os_str().as_encoded_bytes());
        hasher.write(&std::fs::read(script)?);
    }
    Ok(hasher.finish())
}

async fn exists(connection: &mut AsyncPgConnection, name: &str) -> anyhow::Result<bool> {
    let found = diesel::sql_query("SELECT 1 FROM pg_database WHERE datname = $1")
        .bind::<diesel::sql_types::Text, _>(name)
        .execute(connection)
        .await?;
    Ok(found > 0)
}

async fn connect(url: &str) -> anyhow::Result<AsyncPgConnection> {
    AsyncPgConnection::establish(url).await.with_context(|| format!("connecting to {url}"))
}

async fn execute(url: &str, query: &str) -> anyhow::Result<()> {
    connect(url).await?.batch_execute(query).await.with_context(|| query.to_owned())
}

/// The server's address with another database in it.
fn url_of(server: &str, database: &str) -> String {
    let authority = server.find("://").map_or(0, |at| at + 3);
    let end = server[authority..].find('/').map_or(server.len(), |at| authority + at);
    format!("{}/{database}", &server[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_in_an_address_is_replaced() {
        assert_eq!(url_of("postgres://u@h:1/postgres", "x"), "postgres://u@h:1/x");
        assert_eq!(url_of("postgres://u@h:1", "x"), "postgres://u@h:1/x");
    }

    #[tokio::test]
    async fn a_test_database_has_all_migrations_and_goes_with_its_value() {
        let database = TestDatabase::create().await;
        let pending = whimbrel_db::pending_migrations(&database.url()).await.unwrap();
        assert_eq!(pending, Vec::<String>::new());

        let (server, name) = (database.server.clone(), database.name.clone());
        drop(database);
        let mut connection = connect(&server).await.unwrap();
        assert!(!exists(&mut connection, &name).await.unwrap());
    }

    #[tokio::test]
    async fn two_tests_have_two_databases() {
        let (one, other) = tokio::join!(TestDatabase::create(), TestDatabase::create());
        assert_ne!(one.name(), other.name());
    }
}
