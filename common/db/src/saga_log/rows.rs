//! The instance and migration rows that a batch changes: locked, read, and written back.

use std::collections::{BTreeMap, BTreeSet};

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;
use whimbrel_model::{InstanceState, MigrationStatus, MigrationType};

use super::changes::{InstanceRow, MigrationRow};
use crate::schema::{instance, migration};
use crate::text::{parse, parse_opt};
use crate::{Connection, DbError};

/// Locks and reads instances, in id order.
pub(super) async fn lock_instances(
    connection: &mut Connection,
    ids: &BTreeSet<Uuid>,
) -> Result<BTreeMap<Uuid, InstanceRow>, DbError> {
    type Stored = (Uuid, String, Option<String>, Option<String>, i64, i64, bool);
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let stored: Vec<Stored> = instance::table
        .filter(instance::id.eq_any(ids))
        .order(instance::id)
        .select((
            instance::id,
            instance::vm_state,
            instance::task_state,
            instance::host,
            instance::owner_epoch,
            instance::generation,
            instance::delete_requested,
        ))
        .for_update()
        .load(connection)
        .await
        .map_err(DbError::query("reading instances"))?;
    let mut rows = BTreeMap::new();
    for (id, vm, task, host, owner_epoch, generation, delete_requested) in stored {
        let state = InstanceState {
            vm: parse("instance.vm_state", &vm)?,
            task: parse_opt("instance.task_state", task.as_deref())?,
        };
        let host = parse_opt("instance.host", host.as_deref())?;
        rows.insert(id, InstanceRow::new(state, host, owner_epoch, generation, delete_requested));
    }
    Ok(rows)
}

/// Locks and reads migrations, in id order.
pub(super) async fn lock_migrations(
    connection: &mut Connection,
    ids: &BTreeSet<Uuid>,
) -> Result<BTreeMap<Uuid, MigrationRow>, DbError> {
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let stored: Vec<(Uuid, String, String, String, Option<String>, i64)> = migration::table
        .filter(migration::id.eq_any(ids))
        .order(migration::id)
        .select((
            migration::id,
            migration::migration_type,
            migration::status,
            migration::source_compute,
            migration::dest_compute,
            migration::generation,
        ))
        .for_update()
        .load(connection)
        .await
        .map_err(DbError::query("reading migrations"))?;
    let mut rows = BTreeMap::new();
    for (id, kind, status, source, destination, generation) in stored {
        let kind = parse::<MigrationType>("migration.migration_type", &kind)?;
        let status = parse::<MigrationStatus>("migration.status", &status)?;
        let source = parse("migration.source_compute", &source)?;
        let destination = parse_opt("migration.dest_compute", destination.as_deref())?;
        rows.insert(id, MigrationRow::new(kind, status, source, destination, generation));
    }
    Ok(rows)
}
