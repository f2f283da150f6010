//! Moves of servers that are shut off: resize, cold migration, what is decided about them, evacuation.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Text, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;
use whimbrel_messages::compute::InstanceSpec;
use whimbrel_model::{
    FlavorSnapshot, HostName, InstanceEvent, InstanceId, MigrationEvent, MigrationId,
    MigrationStatus, MigrationType, PowerState, VmState,
};
use whimbrel_saga::Saga;
use whimbrel_sagas::{Confirm, Evacuate, Resize, Revert};

use super::{Caller, Started, busy_if, compare_and_set, owner, start_saga};
use crate::api::{ImageRow, ServerRow, flavor_of_server, flavor_with_server};
use crate::schema::{host, migration};
use crate::text::parse;
use crate::{Connection, Database, DbError};

/// What a resize or cold migration is asked for with.
#[derive(Clone, Debug)]
pub struct ResizeOrder {
    /// What the server is to be; its own flavor for a cold migration.
    pub flavor: FlavorSnapshot,
    /// The only host that may be chosen.
    pub host: Option<HostName>,
    /// Whether it may stay on its host.
    pub same_host: bool,
    /// How long its operating system is given to shut down, in milliseconds.
    pub timeout_ms: i64,
    /// Most moves of the project that may wait for a decision; 0 is no limit.
    pub max_unconfirmed: i64,
}

/// What an evacuation is asked for with.
#[derive(Clone, Debug)]
pub struct EvacuateOrder {
    /// The only host that may be chosen.
    pub host: Option<HostName>,
    /// Whether to start the server if it ran.
    pub start: bool,
}

/// A migration that is to be recorded.
struct NewMigration<'a> {
    kind: MigrationType,
    source: &'a HostName,
    flavors: Option<(&'a FlavorSnapshot, &'a FlavorSnapshot)>,
    was_running: bool,
}

/// Resizes or cold-migrates a server.
///
/// # Errors
/// [`DbError::InstanceState`] or [`DbError::Stale`] when its state does not allow it, [`DbError::Busy`],
/// [`DbError::TooMany`].
pub async fn resize_server(
    database: &Database,
    caller: &Caller,
    server: &ServerRow,
    image: &ImageRow,
    order: &ResizeOrder,
) -> Result<Started, DbError> {
    let migration_id = Uuid::now_v7();
    let source = owner(server)?;
    let old = flavor_of_server(&server.flavor)?;
    let start = server.state.vm == VmState::Active;
    let kind =
        if old.id == order.flavor.id { MigrationType::Migration } else { MigrationType::Resize };
    let state = Resize {
        instance: server.spec(image)?,
        migration_id: MigrationId(migration_id),
        source: source.clone(),
        source_epoch: server.owner_epoch,
        flavor: order.flavor.clone(),
        start,
        timeout_ms: order.timeout_ms,
        requested_host: order.host.clone(),
        same_host: order.same_host,
        destination: None,
        tried: Vec::new(),
        prepared: None,
        carried: None,
        power: server.power_state,
        source_lost: false,
    };
    let new = NewMigration {
        kind,
        source: &source,
        flavors: Some((&old, &order.flavor)),
        was_running: start,
    };
    let mut connection = database.connection().await?;
    connection
        .transaction(async |c| {
            compare_and_set(c, server, InstanceEvent::BeginResize).await?;
            within_limit(c, &caller.project_id, order.max_unconfirmed).await?;
            record(c, caller, server, migration_id, &new).await?;
            let (name, version) = (Resize::NAME, Resize::VERSION);
            start_saga(c, caller, name, version, &state, server.id, Some(migration_id)).await
        })
        .await
}

async fn record(
    c: &mut Connection,
    caller: &Caller,
    server: &ServerRow,
    id: Uuid,
    new: &NewMigration<'_>,
) -> Result<(), DbError> {
    let json = |flavor: &FlavorSnapshot| flavor_with_server(flavor);
    diesel::insert_into(migration::table)
        .values((
            migration::id.eq(id),
            migration::instance_id.eq(server.id),
            migration::migration_type.eq(new.kind.to_string()),
            migration::status.eq(MigrationStatus::first(new.kind).to_string()),
            migration::source_compute.eq(new.source.as_str()),
            migration::project_id.eq(&caller.project_id),
            migration::user_id.eq(&caller.user_id),
            migration::old_flavor.eq(new.flavors.map(|(old, _)| json(old))),
            migration::new_flavor.eq(new.flavors.map(|(_, new)| json(new))),
            migration::was_running.eq(new.was_running),
        ))
        .execute(c)
        .await
        .map_err(busy_if("migration_one_active", server.id, "recording a migration"))?;
    Ok(())
}

/// A move that waits for a decision.
struct Undecided {
    id: Uuid,
    source: HostName,
    destination: HostName,
    old_flavor: FlavorSnapshot,
    was_running: bool,
}

/// Takes the decision: locks the server's finished move and applies `event` to it.
async fn decide(
    c: &mut Connection,
    server: &ServerRow,
    event: MigrationEvent,
) -> Result<Undecided, DbError> {
    type Stored = (Uuid, String, String, Option<String>, Option<Value>, Option<bool>);
    let finished = MigrationStatus::Finished;
    let stored: Option<Stored> = migration::table
        .filter(migration::instance_id.eq(server.id))
        .filter(migration::status.eq(finished.to_string()))
        .select((
            migration::id,
            migration::migration_type,
            migration::source_compute,
            migration::dest_compute,
            migration::old_flavor,
            migration::was_running,
        ))
        .for_update()
        .first(c)
        .await
        .optional()
        .map_err(DbError::query("looking for a finished move"))?;
    let none = || DbError::NotFound { kind: "Finished resize of", id: server.id.to_string() };
    let (id, kind, source, destination, old_flavor, was_running) = stored.ok_or_else(none)?;
    let next = finished.on(parse("migration.migration_type", &kind)?, event)?;
    diesel::update(migration::table.find(id))
        .set((
            migration::status.eq(next.to_string()),
            migration::generation.eq(migration::generation + 1),
            migration::updated_at.eq(diesel::dsl::now),
        ))
        .execute(c)
        .await
        .map_err(DbError::query("deciding on a move"))?;
    Ok(Undecided {
        id,
        source: parse("migration.source_compute", &source)?,
        destination: parse("migration.dest_compute", &destination.ok_or_else(none)?)?,
        old_flavor: flavor_of_server(&old_flavor.ok_or_else(none)?)?,
        was_running: was_running.unwrap_or_default(),
    })
}

/// Keeps a finished resize or cold migration.
///
/// # Errors
/// [`DbError::NotFound`] when the server has no finished move; as [`resize_server`].
pub async fn confirm_resize(
    database: &Database,
    caller: &Caller,
    server: &ServerRow,
) -> Result<Started, DbError> {
    let mut connection = database.connection().await?;
    connection
        .transaction(async |c| {
            compare_and_set(c, server, InstanceEvent::BeginConfirm).await?;
            let kept = decide(c, server, MigrationEvent::Confirm).await?;
            let state = Confirm {
                instance_id: InstanceId(server.id),
                migration_id: MigrationId(kept.id),
                source: kept.source,
                running: server.power_state == PowerState::Running,
            };
            let (name, version) = (Confirm::NAME, Confirm::VERSION);
            start_saga(c, caller, name, version, &state, server.id, Some(kept.id)).await
        })
        .await
}

/// Takes a finished resize or cold migration back.
///
/// # Errors
/// As [`confirm_resize`].
pub async fn revert_resize(
    database: &Database,
    caller: &Caller,
    server: &ServerRow,
    image: &ImageRow,
    timeout_ms: i64,
) -> Result<Started, DbError> {
    let spec = server.spec(image)?;
    let mut connection = database.connection().await?;
    connection
        .transaction(async |c| {
            compare_and_set(c, server, InstanceEvent::BeginRevert).await?;
            let back = decide(c, server, MigrationEvent::Revert).await?;
            let state = Revert {
                instance: InstanceSpec { resources: back.old_flavor.resources, ..spec.clone() },
                migration_id: MigrationId(back.id),
                source: back.source,
                destination: back.destination,
                owner_epoch: server.owner_epoch,
                flavor: back.old_flavor,
                start: back.was_running,
                timeout_ms,
                power: PowerState::NoState,
                source_lost: false,
            };
            let (name, version) = (Revert::NAME, Revert::VERSION);
            start_saga(c, caller, name, version, &state, server.id, Some(back.id)).await
        })
        .await
}

/// Makes a server again whose host is lost. That it runs nothing, somebody has seen to and said by forcing it
/// down.
///
/// # Errors
/// As [`resize_server`]; [`DbError::InUse`] when its host is not forced down.
pub async fn evacuate_server(
    database: &Database,
    caller: &Caller,
    server: &ServerRow,
    image: &ImageRow,
    order: &EvacuateOrder,
) -> Result<Started, DbError> {
    let migration_id = Uuid::now_v7();
    let source = owner(server)?;
    let ran = matches!(server.state.vm, VmState::Active | VmState::Paused);
    let state = Evacuate {
        instance: server.spec(image)?,
        migration_id: MigrationId(migration_id),
        source: source.clone(),
        source_epoch: server.owner_epoch,
        start: ran && order.start,
        requested_host: order.host.clone(),
        destination: None,
        tried: Vec::new(),
        own_disk: false,
        power: PowerState::NoState,
        cleared: false,
    };
    let new = NewMigration {
        kind: MigrationType::Evacuation,
        source: &source,
        flavors: None,
        was_running: ran,
    };
    let mut connection = database.connection().await?;
    connection
        .transaction(async |c| {
            compare_and_set(c, server, InstanceEvent::BeginEvacuate).await?;
            fenced(c, &source).await?;
            record(c, caller, server, migration_id, &new).await?;
            let (name, version) = (Evacuate::NAME, Evacuate::VERSION);
            start_saga(c, caller, name, version, &state, server.id, Some(migration_id)).await
        })
        .await
}

/// Whoever says that the host is up again waits until this has committed, and then sees the evacuation.
async fn fenced(c: &mut Connection, source: &HostName) -> Result<(), DbError> {
    let forced_down: Option<bool> = host::table
        .find(source.as_str())
        .select(host::forced_down)
        .for_share()
        .first(c)
        .await
        .optional()
        .map_err(DbError::query("looking whether a host is forced down"))?;
    if forced_down == Some(true) {
        return Ok(());
    }
    let by = "it is not forced down, so it may still run its servers".to_owned();
    Err(DbError::InUse { kind: "Compute host", id: source.to_string(), by })
}

/// Refuses one move more than `most` of a project that wait for a decision or are on the way there. One after the
/// other, so that many at once can't each take the last place.
async fn within_limit(c: &mut Connection, project_id: &str, most: i64) -> Result<(), DbError> {
    if most == 0 {
        return Ok(());
    }
    diesel::sql_query("SELECT pg_advisory_xact_lock(hashtextextended('unconfirmed ' || $1, 0))")
        .bind::<Text, _>(project_id)
        .execute(c)
        .await
        .map_err(DbError::query("waiting for other moves of a project"))?;
    let deciding = [MigrationStatus::Confirming, MigrationStatus::Reverting];
    let kinds = [MigrationType::Migration, MigrationType::Resize];
    let open: i64 = migration::table
        .filter(migration::project_id.eq(project_id))
        .filter(migration::migration_type.eq_any(kinds.map(|kind| kind.to_string())))
        .filter(migration::active)
        .filter(migration::status.ne_all(deciding.map(|status| status.to_string())))
        .count()
        .get_result(c)
        .await
        .map_err(DbError::query("counting unconfirmed resizes"))?;
    if open < most { Ok(()) } else { Err(DbError::TooMany { kind: "unconfirmed moves", open }) }
}

/// How many evacuations from `host` are under way, or wait for it to remove what it has of the guests.
pub(in crate::api) async fn evacuated_from(c: &mut Connection, host: &str) -> Result<i64, DbError> {
    migration::table
        .filter(migration::source_compute.eq(host))
        .filter(migration::migration_type.eq(MigrationType::Evacuation.to_string()))
        .filter(migration::active.or(migration::awaits_source))
        .count()
        .get_result(c)
        .await
        .map_err(DbError::query("counting evacuations"))
}

/// Up to `limit` servers whose moves have waited for a decision for `window_s` seconds, and whose hosts are up and
/// have them: as long as nobody knows that the guest is well there, what its source keeps is its only whole copy.
///
/// # Errors
/// When the query fails.
pub async fn due_confirmations(
    c: &mut Connection,
    window_s: i32,
    down_after_ms: i64,
    limit: i64,
) -> Result<Vec<Uuid>, DbError> {
    #[derive(QueryableByName)]
    struct Due {
        #[diesel(sql_type = SqlUuid)]
        instance_id: Uuid,
    }
    let due: Vec<Due> = diesel::sql_query(
        "SELECT m.instance_id FROM migration m JOIN instance i ON i.id = m.instance_id \
         JOIN host h ON h.name = i.host AND NOT h.forced_down \
           AND h.reported_at > now() - interval '1 ms' * $3 \
           AND h.guests @> jsonb_build_array(jsonb_build_object('instance_id', i.id)) \
         WHERE m.active AND m.status = 'finished' AND m.updated_at <= now() - interval '1 s' * $1 \
           AND i.vm_state = 'resized' AND i.task_state IS NULL AND NOT i.delete_requested \
         ORDER BY m.updated_at LIMIT $2",
    )
    .bind::<Integer, _>(window_s)
    .bind::<BigInt, _>(limit)
    .bind::<BigInt, _>(down_after_ms)
    .load(c)
    .await
    .map_err(DbError::query("looking for moves to confirm"))?;
    Ok(due.into_iter().map(|due| due.instance_id).collect())
}
