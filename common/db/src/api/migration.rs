//! Migrations as the API sees them.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::Value;
use uuid::Uuid;
use whimbrel_model::{FlavorSnapshot, HostName, MigrationStatus, MigrationType};

use super::flavor_of_server;
use crate::schema::{migration, saga};
use crate::text::{parse, parse_opt};
use crate::{Connection, DbError};

#[derive(Queryable, Selectable)]
#[diesel(table_name = migration)]
struct Stored {
    id: Uuid,
    number: i64,
    instance_id: Uuid,
    migration_type: String,
    status: String,
    source_compute: String,
    dest_compute: Option<String>,
    project_id: String,
    user_id: String,
    memory_total: Option<i64>,
    memory_processed: Option<i64>,
    memory_remaining: Option<i64>,
    disk_total: Option<i64>,
    disk_processed: Option<i64>,
    disk_remaining: Option<i64>,
    total_ms: Option<i64>,
    downtime_ms: Option<i64>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    old_flavor: Option<Value>,
    new_flavor: Option<Value>,
}

/// A migration. Bytes, and milliseconds where the name says so.
#[derive(Clone, Debug)]
pub struct MigrationRow {
    /// Its id.
    pub id: Uuid,
    /// The integer that older clients know it by.
    pub number: i64,
    /// The server.
    pub instance_id: Uuid,
    /// `live-migration` and the like.
    pub migration_type: MigrationType,
    /// How far it has come.
    pub status: MigrationStatus,
    /// From.
    pub source_compute: HostName,
    /// To, once that is chosen.
    pub dest_compute: Option<HostName>,
    /// Whose.
    pub project_id: String,
    /// Who asked for it.
    pub user_id: String,
    /// Memory: in all, sent, still to send.
    pub memory: [Option<i64>; 3],
    /// Local disks: in all, sent, still to send.
    pub disk: [Option<i64>; 3],
    /// How long the job took.
    pub total_ms: Option<i64>,
    /// How long the guest stood still.
    pub downtime_ms: Option<i64>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// The server's flavor before and after it, of a resize or cold migration.
    pub flavors: Option<(FlavorSnapshot, FlavorSnapshot)>,
}

impl TryFrom<Stored> for MigrationRow {
    type Error = DbError;

    fn try_from(stored: Stored) -> Result<Self, DbError> {
        Ok(Self {
            id: stored.id,
            number: stored.number,
            instance_id: stored.instance_id,
            migration_type: parse("migration.migration_type", &stored.migration_type)?,
            status: parse("migration.status", &stored.status)?,
            source_compute: parse("migration.source_compute", &stored.source_compute)?,
            dest_compute: parse_opt("migration.dest_compute", stored.dest_compute.as_deref())?,
            project_id: stored.project_id,
            user_id: stored.user_id,
            memory: [stored.memory_total, stored.memory_processed, stored.memory_remaining],
            disk: [stored.disk_total, stored.disk_processed, stored.disk_remaining],
            total_ms: stored.total_ms,
            downtime_ms: stored.downtime_ms,
            created_at: stored.created_at,
            updated_at: stored.updated_at,
            flavors: match stored.old_flavor.zip(stored.new_flavor) {
                Some((old, new)) => Some((flavor_of_server(&old)?, flavor_of_server(&new)?)),
                None => None,
            },
        })
    }
}

/// Which migrations.
#[derive(Clone, Debug, Default)]
pub struct MigrationFilter {
    /// Of this server.
    pub instance_id: Option<Uuid>,
    /// In this status.
    pub status: Option<String>,
    /// From or to this host.
    pub host: Option<String>,
    /// From this host.
    pub source_compute: Option<String>,
    /// Of this type.
    pub migration_type: Option<String>,
    /// Of this project.
    pub project_id: Option<String>,
    /// Asked for by this user.
    pub user_id: Option<String>,
    /// Changed at this time or later.
    pub changes_since: Option<DateTime<Utc>>,
    /// Changed at this time or before.
    pub changes_before: Option<DateTime<Utc>>,
    /// Only those that have not ended.
    pub in_progress: bool,
    /// After this one.
    pub marker: Option<Uuid>,
    /// So many at most.
    pub limit: i64,
}

/// The statuses of migrations that have ended, as they are stored.
pub(super) fn ended() -> Vec<String> {
    MigrationStatus::terminal().map(|status| status.to_string()).collect()
}

/// The migrations that `filter` asks for, newest first.
///
/// # Errors
/// [`DbError::NotFound`] when there is no such marker.
pub async fn migrations_list(
    c: &mut Connection,
    filter: &MigrationFilter,
) -> Result<Vec<MigrationRow>, DbError> {
    let mut query = migration::table.select(Stored::as_select()).into_boxed();
    if let Some(id) = filter.instance_id {
        query = query.filter(migration::instance_id.eq(id));
    }
    if let Some(status) = &filter.status {
        query = query.filter(migration::status.eq(status.clone()));
    }
    if let Some(host) = &filter.host {
        let from = migration::source_compute.eq(host.clone());
        query = query.filter(from.or(migration::dest_compute.assume_not_null().eq(host.clone())));
    }
    if let Some(source) = &filter.source_compute {
        query = query.filter(migration::source_compute.eq(source.clone()));
    }
    if let Some(kind) = &filter.migration_type {
        query = query.filter(migration::migration_type.eq(kind.clone()));
    }
    if let Some(project_id) = &filter.project_id {
        query = query.filter(migration::project_id.eq(project_id.clone()));
    }
    if let Some(user_id) = &filter.user_id {
        query = query.filter(migration::user_id.eq(user_id.clone()));
    }
    if let Some(since) = filter.changes_since {
        query = query.filter(migration::updated_at.ge(since));
    }
    if let Some(before) = filter.changes_before {
        query = query.filter(migration::updated_at.le(before));
    }
    if filter.in_progress {
        query = query.filter(migration::status.ne_all(ended()));
    }
    if let Some(marker) = filter.marker {
        let number: Option<i64> = migration::table
            .find(marker)
            .select(migration::number)
            .first(c)
            .await
            .optional()
            .map_err(DbError::query("reading a marker"))?;
        let none = || DbError::NotFound { kind: "marker", id: marker.to_string() };
        query = query.filter(migration::number.lt(number.ok_or_else(none)?));
    }
    let stored: Vec<Stored> = query
        .order(migration::number.desc())
        .limit(filter.limit)
        .load(c)
        .await
        .map_err(DbError::query("listing migrations"))?;
    stored.into_iter().map(MigrationRow::try_from).collect()
}

/// One migration of a server, by its number or its id.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn migration_get(
    c: &mut Connection,
    instance_id: Uuid,
    id: &str,
) -> Result<MigrationRow, DbError> {
    let none = || DbError::NotFound { kind: "Migration", id: id.to_owned() };
    let mut query = migration::table
        .filter(migration::instance_id.eq(instance_id))
        .select(Stored::as_select())
        .into_boxed();
    query = match (id.parse::<i64>(), id.parse::<Uuid>()) {
        (Ok(number), _) => query.filter(migration::number.eq(number)),
        (_, Ok(id)) => query.filter(migration::id.eq(id)),
        _ => return Err(none()),
    };
    let stored = query.first::<Stored>(c).await.optional();
    stored.map_err(DbError::query("reading a migration"))?.ok_or_else(none)?.try_into()
}

/// What its operation says of a migration.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = saga)]
pub struct SagaView {
    /// How far it has come.
    pub phase: String,
    /// The step at hand.
    pub step: String,
    /// Forth or back.
    pub dir: String,
    /// Hosts tried before.
    pub round: i32,
    /// Why it went back.
    pub fault: Option<Value>,
}

/// The latest operation of a migration: what was decided about it, once that is.
///
/// # Errors
/// When the query fails.
pub async fn migration_saga(
    c: &mut Connection,
    migration: &MigrationRow,
) -> Result<Option<SagaView>, DbError> {
    saga::table
        .filter(saga::instance_id.eq(migration.instance_id))
        .filter(saga::migration_id.eq(migration.id))
        .order((saga::created_at.desc(), saga::id.desc()))
        .select(SagaView::as_select())
        .first(c)
        .await
        .optional()
        .map_err(DbError::query("reading a migration's operation"))
}
