//! Reads saga rows, locked.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Timestamptz};
use diesel_async::RunQueryDsl;
use serde_json::Value;
use uuid::Uuid;
use whimbrel_messages::Fault;
use whimbrel_model::{InstanceId, MigrationId, RequestId, SagaId};
use whimbrel_saga::{Phase, Registry, Row};

use crate::schema::saga;
use crate::text::parse;
use crate::{Connection, DbError};

/// The saga has something left to do. In the words of the partial indexes, so that they serve statements whose
/// plans are made without looking at parameters.
pub(crate) fn active() -> SqlLiteral<Bool> {
    sql("saga.phase IN ('new', 'running', 'unwinding')")
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = saga)]
struct Stored {
    id: Uuid,
    name: String,
    version: i16,
    instance_id: Uuid,
    migration_id: Option<Uuid>,
    request_id: String,
    project_id: String,
    user_id: String,
    phase: String,
    step: String,
    dir: String,
    round: i32,
    attempt: i32,
    tries: i32,
    wake_at: Option<DateTime<Utc>>,
    cancel_requested: bool,
    cancelled: bool,
    deferred: bool,
    state: Value,
    fault: Option<Value>,
}

/// A saga's row with what the shell needs around it.
pub(super) struct Loaded {
    pub(super) row: Row,
    pub(super) name: String,
    pub(super) version: i16,
    pub(super) instance_id: InstanceId,
    pub(super) migration_id: Option<MigrationId>,
    pub(super) request_id: RequestId,
    pub(super) project_id: String,
    pub(super) user_id: String,
    pub(super) cancel_requested: bool,
}

impl TryFrom<Stored> for Loaded {
    type Error = DbError;

    fn try_from(stored: Stored) -> Result<Self, DbError> {
        let fault = stored.fault.map(serde_json::from_value::<Fault>).transpose();
        let fault = fault.map_err(|error| DbError::Unreadable {
            column: "saga.fault",
            value: error.to_string(),
        })?;
        Ok(Self {
            row: Row {
                id: SagaId(stored.id),
                phase: parse::<Phase>("saga.phase", &stored.phase)?,
                step: Cow::Owned(stored.step),
                dir: parse("saga.dir", &stored.dir)?,
                round: stored.round,
                attempt: stored.attempt,
                tries: stored.tries,
                wake_at: stored.wake_at,
                cancelled: stored.cancelled,
                deferred: stored.deferred,
                state: stored.state,
                fault,
            },
            name: stored.name,
            version: stored.version,
            instance_id: InstanceId(stored.instance_id),
            migration_id: stored.migration_id.map(MigrationId),
            request_id: RequestId(stored.request_id),
            project_id: stored.project_id,
            user_id: stored.user_id,
            cancel_requested: stored.cancel_requested,
        })
    }
}

/// Locks and reads the active ones of `ids`, in id order, and the one clock that all conductors share. One that was
/// deleted or has ended is left out; without any, the clock does not matter.
pub(super) async fn load_locked(
    connection: &mut Connection,
    ids: &[Uuid],
) -> Result<(DateTime<Utc>, Vec<Loaded>), DbError> {
    let stored: Vec<(DateTime<Utc>, Stored)> = saga::table
        .filter(saga::id.eq_any(ids))
        .filter(active())
        .order(saga::id)
        .select((diesel::dsl::now.into_sql::<Timestamptz>(), Stored::as_select()))
        .for_update()
        .load(connection)
        .await
        .map_err(DbError::query("reading sagas"))?;
    let now = stored.as_slice().first().map_or_else(Utc::now, |(now, _)| *now);
    let loaded: Result<_, _> = stored.into_iter().map(|(_, stored)| stored.try_into()).collect();
    Ok((now, loaded?))
}

/// Up to `limit` active sagas, of definitions that `registry` knows, whose time has come. A saga that somebody
/// else is working on is passed over.
///
/// # Errors
/// When the query fails.
pub async fn due_sagas(
    connection: &mut Connection,
    registry: &Registry,
    limit: i64,
) -> Result<Vec<SagaId>, DbError> {
    let known: Vec<(&str, i16)> = registry.names().collect();
    let mut query = saga::table
        .select(saga::id)
        .filter(active())
        .filter(saga::wake_at.le(diesel::dsl::now))
        .limit(limit)
        .into_boxed();
    let mut of_known: Box<dyn BoxableExpression<saga::table, diesel::pg::Pg, SqlType = Bool>> =
        Box::new(saga::version.lt(0));
    for (name, version) in known {
        of_known =
            Box::new(of_known.or(saga::name.eq(name.to_owned()).and(saga::version.eq(version))));
    }
    query = query.filter(of_known);
    let ids: Vec<Uuid> =
        query.load(connection).await.map_err(DbError::query("looking for due sagas"))?;
    Ok(ids.into_iter().map(SagaId).collect())
}

/// How many sagas are active, and how many of them are of a definition that `registry` does not know.
///
/// # Errors
/// When the query fails.
pub async fn count_active(
    connection: &mut Connection,
    registry: &Registry,
) -> Result<(i64, i64), DbError> {
    let counts: Vec<(String, i16, i64)> = saga::table
        .filter(active())
        .group_by((saga::name, saga::version))
        .select((saga::name, saga::version, diesel::dsl::count_star()))
        .load(connection)
        .await
        .map_err(DbError::query("counting sagas"))?;
    let unknown = counts.iter().filter(|(name, version, _)| registry.get(name, *version).is_none());
    let unknown = unknown.map(|(_, _, count)| count).sum();
    Ok((counts.iter().map(|(_, _, count)| count).sum(), unknown))
}
