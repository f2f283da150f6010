//! What hosts tell: reports, progress, and what they owe.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, RunQueryDsl};
use uuid::Uuid;
use whimbrel_messages::report::{Guest, HostReport, MigrationProgress};
use whimbrel_messages::{Command, StepKey};
use whimbrel_model::{
    HostName, InstanceEvent, InstanceState, MigrationEvent, MigrationStatus, MigrationType,
    PowerState,
};
use whimbrel_saga::PeerHealth;
use whimbrel_sagas::Evacuate;

use crate::saga_log::release_kept;
use crate::schema::{dead_letter, host, host_obligation, instance, migration};
use crate::text::{parse, parse_opt};
use crate::{Connection, DbError};

/// A report may contradict an instance's row only if the row was left alone for this long before the guests
/// were looked at: else the report may be of the time before an operation ended. Covers clock skew.
const SETTLED_MS: i64 = 5_000;

/// Stores a report. A report that is not newer than the stored one is dropped.
///
/// # Errors
/// When a query fails.
pub async fn apply_report(
    connection: &mut Connection,
    report: &HostReport,
) -> Result<bool, DbError> {
    let inventory = serde_json::to_value(&report.inventory).expect("an inventory is plain data");
    let guests = serde_json::to_value(&report.guests).expect("guests are plain data");
    let total = report.inventory.total;
    let values = (
        host::vcpus.eq(total.vcpus),
        host::memory_mib.eq(total.memory_mib),
        host::disk_gib.eq(total.disk_gib),
        host::hypervisor_type.eq(&report.inventory.hypervisor_type),
        host::hypervisor_version.eq(report.inventory.hypervisor_version),
        host::inventory.eq(inventory),
        host::guests.eq(guests),
        host::agent_boot_id.eq(Some(report.boot_id)),
        host::agent_started_at.eq(Some(report.started_at)),
        host::report_sequence.eq(report.sequence),
        host::report_interval_ms.eq(report.interval_ms),
        host::reported_at.eq(diesel::dsl::now),
        host::updated_at.eq(diesel::dsl::now),
    );
    let newer = host::agent_started_at
        .is_null()
        .or(host::agent_started_at.assume_not_null().lt(report.started_at))
        .or(host::agent_boot_id
            .assume_not_null()
            .eq(report.boot_id)
            .and(host::report_sequence.lt(report.sequence)))
        // One whose clock was set back: by the database's clock its predecessor is long silent.
        .or(host::agent_boot_id.assume_not_null().ne(report.boot_id).and(sql::<Bool>(
            "reported_at < now() - interval '1 ms' * (3 * report_interval_ms + 1000)",
        )));
    let stored = diesel::update(host::table.find(report.host.as_str()))
        .filter(newer)
        .set(values.clone())
        .execute(connection)
        .await
        .map_err(DbError::query("storing a report"))?;
    if stored == 1 {
        return Ok(true);
    }
    let inserted = diesel::insert_into(host::table)
        .values((host::name.eq(report.host.as_str()), host::service_id.eq(Uuid::now_v7()), values))
        .on_conflict_do_nothing()
        .execute(connection)
        .await
        .map_err(DbError::query("storing the first report of a host"))?;
    Ok(inserted == 1)
}

/// Brings the power states of instances at rest up to what their host has seen.
///
/// # Errors
/// When a query fails.
pub async fn sync_power(connection: &mut Connection, report: &HostReport) -> Result<(), DbError> {
    type Stored = (Uuid, String, String, i64);
    let settled: DateTime<Utc> = report.observed_at - TimeDelta::milliseconds(SETTLED_MS);
    let at_rest: Vec<Stored> = instance::table
        .filter(instance::host.eq(report.host.as_str()))
        .filter(instance::task_state.is_null())
        .filter(instance::updated_at.lt(settled))
        .select((instance::id, instance::vm_state, instance::power_state, instance::generation))
        .load(connection)
        .await
        .map_err(DbError::query("reading a host's instances"))?;
    let seen: BTreeMap<Uuid, &Guest> =
        report.guests.iter().map(|guest| (guest.instance_id.0, guest)).collect();
    for (id, vm, power, generation) in at_rest {
        let Some(guest) = seen.get(&id) else { continue };
        let known = parse::<PowerState>("instance.power_state", &power)?;
        if guest.power_state == known || guest.migrating {
            continue;
        }
        let state = InstanceState { vm: parse("instance.vm_state", &vm)?, task: None };
        let event = match guest.power_state {
            PowerState::Running => Some(InstanceEvent::FoundRunning),
            PowerState::Shutdown | PowerState::Crashed => Some(InstanceEvent::FoundStopped),
            PowerState::NoState | PowerState::Paused | PowerState::Suspended => None,
        };
        let next = event.and_then(|event| state.on(event).ok()).unwrap_or(state);
        diesel::update(instance::table.find(id))
            .filter(instance::generation.eq(generation))
            .set((
                instance::vm_state.eq(next.vm.to_string()),
                instance::power_state.eq(guest.power_state.to_string()),
                instance::generation.eq(instance::generation + 1),
                instance::updated_at.eq(diesel::dsl::now),
            ))
            .execute(connection)
            .await
            .map_err(DbError::query("storing a power state"))?;
    }
    Ok(())
}

/// Stores how far jobs have come.
///
/// # Errors
/// When a query fails.
pub async fn apply_progress(
    connection: &mut Connection,
    progress: &MigrationProgress,
) -> Result<(), DbError> {
    let stats = progress.stats;
    let moving =
        [MigrationStatus::Running, MigrationStatus::RunningPostCopy, MigrationStatus::Migrating];
    let next = if progress.post_copy {
        MigrationStatus::Running.on(MigrationType::LiveMigration, MigrationEvent::PostCopy)?
    } else {
        MigrationStatus::Running
    };
    // Once in post-copy a job never goes back; a late message must not say so.
    let running_now = migration::status.eq(MigrationStatus::Running.to_string());
    let status = diesel::dsl::case_when(running_now, next.to_string().into_sql::<Text>())
        .otherwise(migration::status);
    diesel::update(migration::table.find(progress.migration_id.0))
        .filter(migration::status.eq_any(moving.map(|status| status.to_string())))
        .set((
            migration::status.eq(status),
            migration::memory_total.eq(stats.memory_total),
            migration::memory_processed.eq(stats.memory_processed),
            migration::memory_remaining.eq(stats.memory_remaining),
            migration::disk_total.eq(stats.disk_total),
            migration::disk_processed.eq(stats.disk_processed),
            migration::disk_remaining.eq(stats.disk_remaining),
            migration::generation.eq(migration::generation + 1),
            migration::updated_at.eq(diesel::dsl::now),
        ))
        .execute(connection)
        .await
        .map_err(DbError::query("storing a migration's progress"))?;
    Ok(())
}

/// How those of `names` do that are not up: they have not reported in the last `down_after_ms`, or were forced
/// down.
///
/// # Errors
/// When the query fails.
pub async fn hosts_not_up(
    connection: &mut Connection,
    names: &[String],
    down_after_ms: i64,
) -> Result<BTreeMap<HostName, PeerHealth>, DbError> {
    #[derive(QueryableByName)]
    struct NotUp {
        #[diesel(sql_type = Text)]
        name: String,
        #[diesel(sql_type = Bool)]
        forced_down: bool,
    }
    let found: Vec<NotUp> = diesel::sql_query(
        "SELECT name, forced_down FROM host WHERE name = ANY($1) \
         AND (forced_down OR reported_at IS NULL OR reported_at <= now() - interval '1 ms' * $2)",
    )
    .bind::<diesel::sql_types::Array<Text>, _>(names)
    .bind::<BigInt, _>(down_after_ms)
    .load(connection)
    .await
    .map_err(DbError::query("looking which hosts are up"))?;
    let health = |forced_down| if forced_down { PeerHealth::Fenced } else { PeerHealth::Down };
    let named = |host: NotUp| Ok((parse("host.name", &host.name)?, health(host.forced_down)));
    found.into_iter().map(named).collect()
}

/// Those of `names` that were forced down.
///
/// # Errors
/// When the query fails.
pub(crate) async fn hosts_forced_down(
    connection: &mut Connection,
    names: &[String],
) -> Result<BTreeSet<String>, DbError> {
    let fenced: Vec<String> = host::table
        .filter(host::name.eq_any(names))
        .filter(host::forced_down)
        .select(host::name)
        .load(connection)
        .await
        .map_err(DbError::query("looking which hosts were forced down"))?;
    Ok(fenced.into_iter().collect())
}

/// Takes up to `limit` pieces of work that were put off for hosts which are back, and puts their next try off.
/// Also of hosts that are still forced down: that they have done it is what lets them back in.
///
/// # Errors
/// When the query fails.
pub async fn due_obligations(
    connection: &mut Connection,
    down_after_ms: i64,
    limit: i64,
) -> Result<Vec<(HostName, Command)>, DbError> {
    #[derive(QueryableByName)]
    struct Due {
        #[diesel(sql_type = Text)]
        host: String,
        #[diesel(sql_type = diesel::sql_types::Jsonb)]
        command: serde_json::Value,
    }
    let due: Vec<Due> = diesel::sql_query(
        "UPDATE host_obligation SET tries = tries + 1, next_try_at = now() + interval '10 seconds' \
         WHERE (saga_id, round, step, dir) IN ( \
             SELECT o.saga_id, o.round, o.step, o.dir FROM host_obligation o JOIN host h ON h.name = o.host \
             WHERE o.next_try_at <= now() \
               AND h.reported_at > now() - interval '1 ms' * $1 \
             ORDER BY o.created_at LIMIT $2 FOR UPDATE OF o SKIP LOCKED) \
         RETURNING host, command",
    )
    .bind::<BigInt, _>(down_after_ms)
    .bind::<BigInt, _>(limit)
    .load(connection)
    .await
    .map_err(DbError::query("taking work that was put off"))?;
    due.into_iter()
        .map(|due| {
            let command = serde_json::from_value(due.command).map_err(|error| {
                DbError::Unreadable { column: "host_obligation.command", value: error.to_string() }
            })?;
            Ok((parse("host_obligation.host", &due.host)?, command))
        })
        .collect()
}

/// The host has answered for a piece of work that was put off: it is done.
///
/// # Errors
/// When a query fails; nothing has happened then.
pub async fn meet_obligation(connection: &mut Connection, key: &StepKey) -> Result<bool, DbError> {
    connection
        .transaction(async |connection| {
            let gone: Option<Uuid> = diesel::delete(host_obligation::table.find((
                key.saga_id.0,
                key.round,
                key.step.as_str(),
                key.dir.to_string(),
            )))
            .returning(host_obligation::instance_id)
            .get_result(connection)
            .await
            .optional()
            .map_err(DbError::query("closing work that was put off"))?;
            let Some(instance_id) = gone else { return Ok(false) };
            if key.step == Evacuate::CLEAR {
                close_evacuation(connection, key).await?;
            }
            release_kept(connection, &[instance_id]).await?;
            Ok(true)
        })
        .await
}

/// The lost host of an evacuation is back and has removed what it had of the guest: the migration is done, and
/// what it still held there is free.
async fn close_evacuation(connection: &mut Connection, key: &StepKey) -> Result<(), DbError> {
    let done = MigrationStatus::Done;
    let completed = done.on(MigrationType::Evacuation, MigrationEvent::Complete)?;
    diesel::sql_query(
        "WITH closed AS (UPDATE migration m SET status = $2, generation = m.generation + 1, updated_at = now() \
             FROM saga s WHERE s.id = $1 AND m.id = s.migration_id AND m.status = $3 RETURNING m.id) \
         DELETE FROM allocation a USING closed WHERE a.consumer = closed.id",
    )
    .bind::<SqlUuid, _>(key.saga_id.0)
    .bind::<Text, _>(completed.to_string())
    .bind::<Text, _>(done.to_string())
    .execute(connection)
    .await
    .map_err(DbError::query("closing an evacuation"))?;
    Ok(())
}

/// Keeps a message that nobody could read.
///
/// # Errors
/// When the query fails.
pub async fn keep_dead_letter(
    connection: &mut Connection,
    id: Uuid,
    queue: &str,
    reason: &str,
    body: &str,
) -> Result<(), DbError> {
    diesel::insert_into(dead_letter::table)
        .values((
            dead_letter::id.eq(id),
            dead_letter::queue.eq(queue),
            dead_letter::reason.eq(reason),
            dead_letter::body.eq(body),
        ))
        .on_conflict_do_nothing()
        .execute(connection)
        .await
        .map_err(DbError::query("keeping a dead letter"))?;
    Ok(())
}

/// The state of an instance, for tests and checks.
///
/// # Errors
/// When there is no such instance or the query fails.
pub async fn instance_state(
    connection: &mut Connection,
    id: Uuid,
) -> Result<InstanceState, DbError> {
    let stored: Option<(String, Option<String>)> = instance::table
        .find(id)
        .select((instance::vm_state, instance::task_state))
        .first(connection)
        .await
        .optional()
        .map_err(DbError::query("reading an instance's state"))?;
    let (vm, task) =
        stored.ok_or_else(|| DbError::NotFound { kind: "instance", id: id.to_string() })?;
    Ok(InstanceState {
        vm: parse("instance.vm_state", &vm)?,
        task: parse_opt("instance.task_state", task.as_deref())?,
    })
}
