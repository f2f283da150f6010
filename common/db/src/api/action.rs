//! What was done with a server: its sagas and their histories.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::Value;
use uuid::Uuid;

use crate::schema::{migration, saga, saga_history};
use crate::{Connection, DbError};

/// An operation.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = saga)]
pub struct ActionRow {
    /// Its saga.
    pub id: Uuid,
    /// The definition's name.
    pub name: String,
    /// The server.
    pub instance_id: Uuid,
    /// The request that began it.
    pub request_id: String,
    /// Whose.
    pub project_id: String,
    /// Who asked for it.
    pub user_id: String,
    /// How far it has come.
    pub phase: String,
    /// Why it went back.
    pub fault: Option<Value>,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// `resize` and the like, if it moves the server.
    #[diesel(select_expression = migration::migration_type.nullable())]
    pub migration_type: Option<String>,
}

/// An entry of an operation's history.
#[derive(Clone, Debug, Queryable)]
pub struct HistoryRow {
    /// When.
    pub at: DateTime<Utc>,
    /// What: an entry of the engine.
    pub entry: Value,
}

/// The operations of a server, newest first. A deleted server's, too.
///
/// # Errors
/// When the query fails.
pub async fn actions_list(
    c: &mut Connection,
    instance_id: Uuid,
    limit: i64,
) -> Result<Vec<ActionRow>, DbError> {
    saga::table
        .left_join(migration::table.on(saga::migration_id.eq(migration::id.nullable())))
        .filter(saga::instance_id.eq(instance_id))
        .order((saga::created_at.desc(), saga::id.desc()))
        .limit(limit)
        .select(ActionRow::as_select())
        .load(c)
        .await
        .map_err(DbError::query("listing a server's operations"))
}

/// The operation of a server that `request_id` began.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn action_get(
    c: &mut Connection,
    instance_id: Uuid,
    request_id: &str,
) -> Result<ActionRow, DbError> {
    saga::table
        .left_join(migration::table.on(saga::migration_id.eq(migration::id.nullable())))
        .filter(saga::instance_id.eq(instance_id))
        .filter(saga::request_id.eq(request_id))
        .order(saga::created_at)
        .select(ActionRow::as_select())
        .first(c)
        .await
        .optional()
        .map_err(DbError::query("reading a server's operation"))?
        .ok_or_else(|| DbError::NotFound { kind: "Action for request", id: request_id.to_owned() })
}

/// The history of an operation, oldest first.
///
/// # Errors
/// When the query fails.
pub async fn history_list(c: &mut Connection, saga_id: Uuid) -> Result<Vec<HistoryRow>, DbError> {
    saga_history::table
        .filter(saga_history::saga_id.eq(saga_id))
        .order(saga_history::id)
        .select((saga_history::at, saga_history::entry))
        .load(c)
        .await
        .map_err(DbError::query("reading a history"))
}
