//! What users and operators change of a server without an operation: its name and the like, tags, the lock, and the
//! state that it is said to be in.

use std::collections::BTreeSet;

use diesel::prelude::*;
use diesel_async::{AsyncConnection, RunQueryDsl};
use serde_json::{Map, Value};
use uuid::Uuid;
use whimbrel_model::InstanceEvent;

use super::ServerRow;
use super::operate::compare_and_set;
use super::server::server_get;
use crate::schema::instance;
use crate::{Connection, DbError};

/// What changes of a server. What is none stays.
#[derive(Clone, Debug, Default)]
pub struct ServerUpdate {
    /// Its name.
    pub name: Option<String>,
    /// For people; none in it removes it.
    pub description: Option<Option<String>>,
    /// What it is to call itself.
    pub hostname: Option<String>,
}

fn not_found(id: Uuid) -> DbError {
    DbError::NotFound { kind: "Instance", id: id.to_string() }
}

/// Changes what users say of a server.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn server_update(
    c: &mut Connection,
    id: Uuid,
    update: &ServerUpdate,
) -> Result<ServerRow, DbError> {
    let changed = diesel::update(instance::table.find(id))
        .filter(instance::deleted_at.is_null())
        .set((
            update.name.as_ref().map(|name| instance::name.eq(name)),
            update.description.as_ref().map(|text| instance::description.eq(text)),
            update.hostname.as_ref().map(|name| instance::hostname.eq(name)),
            instance::updated_at.eq(diesel::dsl::now),
        ))
        .execute(c)
        .await
        .map_err(DbError::query("changing a server"))?;
    if changed == 0 {
        return Err(not_found(id));
    }
    server_get(c, id).await
}

/// Changes a server's metadata by `change`, which sees what is there. Its answer is what is stored; if it refuses,
/// nothing changes.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn server_metadata<R: Send>(
    c: &mut Connection,
    id: Uuid,
    change: impl FnOnce(Map<String, Value>) -> Result<Map<String, Value>, R> + Send,
) -> Result<Result<Map<String, Value>, R>, DbError> {
    c.transaction(async |c| {
        let before: Option<Value> = instance::table
            .find(id)
            .filter(instance::deleted_at.is_null())
            .select(instance::metadata)
            .for_no_key_update()
            .first(c)
            .await
            .optional()
            .map_err(DbError::query("reading metadata"))?;
        let before = before.ok_or_else(|| not_found(id))?;
        let after = match change(before.as_object().cloned().unwrap_or_default()) {
            Ok(after) => after,
            Err(refused) => return Ok(Err(refused)),
        };
        diesel::update(instance::table.find(id))
            .set((
                instance::metadata.eq(Value::Object(after.clone())),
                instance::updated_at.eq(diesel::dsl::now),
            ))
            .execute(c)
            .await
            .map_err(DbError::query("writing metadata"))?;
        Ok(Ok(after))
    })
    .await
}

/// Changes a server's tags by `change`, as [`server_metadata`].
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn server_tags<R: Send>(
    c: &mut Connection,
    id: Uuid,
    change: impl FnOnce(BTreeSet<String>) -> Result<BTreeSet<String>, R> + Send,
) -> Result<Result<Vec<String>, R>, DbError> {
    c.transaction(async |c| {
        let before: Option<Vec<String>> = instance::table
            .find(id)
            .filter(instance::deleted_at.is_null())
            .select(instance::tags)
            .for_no_key_update()
            .first(c)
            .await
            .optional()
            .map_err(DbError::query("reading tags"))?;
        let before = before.ok_or_else(|| not_found(id))?;
        let after: Vec<String> = match change(before.into_iter().collect()) {
            Ok(after) => after.into_iter().collect(),
            Err(refused) => return Ok(Err(refused)),
        };
        diesel::update(instance::table.find(id))
            .set((instance::tags.eq(&after), instance::updated_at.eq(diesel::dsl::now)))
            .execute(c)
            .await
            .map_err(DbError::query("writing tags"))?;
        Ok(Ok(after))
    })
    .await
}

/// Locks a server for its users. An administrator's lock is not replaced by its owner's.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn server_lock(
    c: &mut Connection,
    id: Uuid,
    by: &str,
    reason: Option<&str>,
) -> Result<(), DbError> {
    let free = instance::locked_by.is_null().or(instance::locked_by.assume_not_null().eq("owner"));
    let by_admin = by == "admin";
    let changed = diesel::update(instance::table.find(id))
        .filter(instance::deleted_at.is_null())
        .filter(free.or(by_admin.into_sql::<diesel::sql_types::Bool>()))
        .set((instance::locked_by.eq(by), instance::locked_reason.eq(reason)))
        .execute(c)
        .await
        .map_err(DbError::query("locking a server"))?;
    if changed == 1 { Ok(()) } else { server_get(c, id).await.map(drop) }
}

/// Unlocks a server.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn server_unlock(c: &mut Connection, id: Uuid) -> Result<(), DbError> {
    let changed = diesel::update(instance::table.find(id))
        .filter(instance::deleted_at.is_null())
        .set((instance::locked_by.eq(None::<String>), instance::locked_reason.eq(None::<String>)))
        .execute(c)
        .await
        .map_err(DbError::query("unlocking a server"))?;
    if changed == 1 { Ok(()) } else { Err(not_found(id)) }
}

/// Says that a server, with which nothing is going on, is in order or in error, whatever was said before. The guest
/// is not touched; its host's next report corrects what is not so.
///
/// # Errors
/// [`DbError::InstanceState`] while an operation is under way; [`DbError::Stale`].
pub async fn server_reset_state(
    c: &mut Connection,
    server: &ServerRow,
    event: InstanceEvent,
) -> Result<(), DbError> {
    compare_and_set(c, server, event).await
}
