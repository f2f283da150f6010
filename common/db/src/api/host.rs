//! Hosts and services as the API sees them.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool};
use diesel_async::{AsyncConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;
use whimbrel_model::ServiceStatus;

use super::migration::ended;
use super::operate::evacuated_from;
use crate::saga_log::release_kept;
use crate::schema::{allocation, host, host_obligation, instance, migration, service};
use crate::text::parse;
use crate::{Connection, Database, DbError};

/// A host and the compute service on it.
#[derive(Clone, Debug)]
pub struct HostRow {
    /// Its name.
    pub name: String,
    /// The service's, and the hypervisor's, id.
    pub service_id: Uuid,
    /// The integer that older clients know it by.
    pub number: i64,
    /// Whether it takes new guests.
    pub status: ServiceStatus,
    /// Why not.
    pub disabled_reason: Option<String>,
    /// An operator says that it is down.
    pub forced_down: bool,
    /// It reports, and nobody forced it down.
    pub up: bool,
    /// What it has: processors, MiB, GiB.
    pub total: (i32, i64, i64),
    /// What is promised of it.
    pub used: (i32, i64, i64),
    /// `QEMU` and the like.
    pub hypervisor_type: String,
    /// As one number.
    pub hypervisor_version: i64,
    /// Its last report's inventory.
    pub inventory: Value,
    /// When it last reported.
    pub reported_at: Option<DateTime<Utc>>,
    /// When it was first seen.
    pub created_at: DateTime<Utc>,
}

type Stored = (
    (String, Uuid, i64, String, Option<String>, bool, bool),
    (i32, i64, i64),
    (i32, i64, i64),
    (String, i64, Value, Option<DateTime<Utc>>, DateTime<Utc>),
);

fn row(stored: Stored) -> Result<HostRow, DbError> {
    let (identity, total, used, report) = stored;
    let (name, service_id, number, status, disabled_reason, forced_down, up) = identity;
    let (hypervisor_type, hypervisor_version, inventory, reported_at, created_at) = report;
    Ok(HostRow {
        name,
        service_id,
        number,
        status: parse("host.status", &status)?,
        disabled_reason,
        forced_down,
        up,
        total,
        used,
        hypervisor_type,
        hypervisor_version,
        inventory,
        reported_at,
        created_at,
    })
}

/// All hosts, by name.
///
/// # Errors
/// When the query fails.
pub async fn hosts_list(c: &mut Connection, down_after_ms: i64) -> Result<Vec<HostRow>, DbError> {
    let up = diesel::dsl::sql::<Bool>(
        "(NOT forced_down AND reported_at IS NOT NULL AND reported_at > now() - interval '1 ms' * ",
    )
    .bind::<BigInt, _>(down_after_ms)
    .sql(")");
    let stored: Vec<Stored> = host::table
        .order(host::name)
        .select((
            (
                host::name,
                host::service_id,
                host::number,
                host::status,
                host::disabled_reason,
                host::forced_down,
                up,
            ),
            (host::vcpus, host::memory_mib, host::disk_gib),
            (host::vcpus_used, host::memory_mib_used, host::disk_gib_used),
            (
                host::hypervisor_type,
                host::hypervisor_version,
                host::inventory,
                host::reported_at,
                host::created_at,
            ),
        ))
        .load(c)
        .await
        .map_err(DbError::query("listing hosts"))?;
    stored.into_iter().map(row).collect()
}

/// The host with this name, id or number.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn host_get(
    c: &mut Connection,
    id: &str,
    down_after_ms: i64,
) -> Result<HostRow, DbError> {
    let hosts = hosts_list(c, down_after_ms).await?;
    hosts
        .into_iter()
        .find(|host| {
            host.name == id || host.service_id.to_string() == id || host.number.to_string() == id
        })
        .ok_or_else(|| DbError::NotFound { kind: "Compute host", id: id.to_owned() })
}

/// What an operator changes of a host. What is none stays.
#[derive(Clone, Debug, Default)]
pub struct HostUpdate {
    /// Whether it takes new guests.
    pub status: Option<ServiceStatus>,
    /// Why not; forgotten when it is enabled.
    pub disabled_reason: Option<String>,
    /// Whether it counts as down.
    pub forced_down: Option<bool>,
}

/// Changes a host. One that servers were evacuated from stays forced down until it has removed what it has of them.
///
/// # Errors
/// [`DbError::NotFound`], [`DbError::InUse`].
pub async fn host_update(
    c: &mut Connection,
    name: &str,
    update: &HostUpdate,
) -> Result<(), DbError> {
    c.transaction(async |c| {
        if update.forced_down == Some(false) {
            // An evacuation that is just beginning holds this row, too.
            host::table
                .find(name)
                .select(host::name)
                .for_update()
                .first::<String>(c)
                .await
                .optional()
                .map_err(DbError::query("locking a host"))?;
            let open = evacuated_from(c, name).await?;
            if open > 0 {
                let by = format!(
                    "{open} evacuations from it are not over. When they are done, start its compute service: it \
                     removes what it still has of the servers by itself. Then it can be up again"
                );
                return Err(DbError::InUse { kind: "Compute host", id: name.to_owned(), by });
            }
        }
        change(c, name, update).await?;
        if update.forced_down == Some(true) {
            // Nothing runs there any more, so what was kept for guests that might have is free.
            let owed: Vec<Uuid> = host_obligation::table
                .filter(host_obligation::host.eq(name))
                .select(host_obligation::instance_id)
                .load(c)
                .await
                .map_err(DbError::query("reading what a host owes"))?;
            release_kept(c, &owed).await?;
        }
        Ok(())
    })
    .await
}

async fn change(c: &mut Connection, name: &str, update: &HostUpdate) -> Result<(), DbError> {
    let reason = match update.status {
        Some(ServiceStatus::Enabled) => Some(None),
        _ => update.disabled_reason.clone().map(Some),
    };
    let changed = diesel::update(host::table.find(name))
        .set((
            update.status.map(|status| host::status.eq(status.to_string())),
            reason.map(|reason| host::disabled_reason.eq(reason)),
            update.forced_down.map(|down| host::forced_down.eq(down)),
            host::updated_at.eq(diesel::dsl::now),
        ))
        .execute(c)
        .await
        .map_err(DbError::query("changing a host"))?;
    if changed == 1 { Ok(()) } else { Err(DbError::NotFound { kind: "Host", id: name.to_owned() }) }
}

/// Forgets a host that has nothing.
///
/// # Errors
/// [`DbError::NotFound`], or [`DbError::InUse`] when it has servers, migrations or work that was put off.
pub async fn host_delete(database: &Database, name: &str) -> Result<(), DbError> {
    let mut connection = database.connection().await?;
    connection
        .transaction(async |c| {
            let in_use = |by: &str| DbError::InUse {
                kind: "Compute service",
                id: name.to_owned(),
                by: by.to_owned(),
            };
            let count = DbError::query("counting what a host has");
            let servers: i64 = instance::table
                .filter(instance::host.eq(name))
                .count()
                .get_result(c)
                .await
                .map_err(&count)?;
            if servers > 0 {
                return Err(in_use("it hosts servers; move or delete them first"));
            }
            let ends = migration::source_compute
                .eq(name)
                .or(migration::dest_compute.assume_not_null().eq(name));
            let moving: i64 = migration::table
                .filter(ends)
                .filter(migration::status.ne_all(ended()))
                .count()
                .get_result(c)
                .await
                .map_err(&count)?;
            if moving > 0 {
                return Err(in_use("migrations from or to it are in progress; wait or abort them"));
            }
            let owed: i64 = host_obligation::table
                .filter(host_obligation::host.eq(name))
                .count()
                .get_result(c)
                .await
                .map_err(&count)?;
            let held: i64 = allocation::table
                .filter(allocation::host.eq(name))
                .count()
                .get_result(c)
                .await
                .map_err(&count)?;
            if owed + held > 0 {
                return Err(in_use("it still has to clean up; start it once more"));
            }
            let gone = diesel::delete(host::table.find(name))
                .execute(c)
                .await
                .map_err(DbError::query("deleting a host"))?;
            if gone == 1 {
                Ok(())
            } else {
                Err(DbError::NotFound { kind: "Compute service", id: name.to_owned() })
            }
        })
        .await
}

/// A service without a hypervisor.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = service)]
pub struct ServiceRow {
    /// Its id.
    pub id: Uuid,
    /// `whimbrel-conductor` and the like.
    pub binary_name: String,
    /// The machine it runs on.
    pub host: String,
    /// The integer that older clients know it by.
    pub number: i64,
    /// When it last said that it lives.
    pub reported_at: DateTime<Utc>,
}

/// All services without a hypervisor.
///
/// # Errors
/// When the query fails.
pub async fn services_list(c: &mut Connection) -> Result<Vec<ServiceRow>, DbError> {
    service::table
        .order((service::binary_name, service::host))
        .select(ServiceRow::as_select())
        .load(c)
        .await
        .map_err(DbError::query("listing services"))
}

/// Who holds what where.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = allocation)]
pub struct AllocationRow {
    /// An instance or a migration.
    pub consumer: Uuid,
    /// Where.
    pub host: String,
    /// For which instance.
    pub instance_id: Uuid,
    /// Processors.
    pub vcpus: i32,
    /// MiB.
    pub memory_mib: i64,
    /// GiB.
    pub disk_gib: i64,
}

/// All allocations, by host.
///
/// # Errors
/// When the query fails.
pub async fn allocations_list(c: &mut Connection) -> Result<Vec<AllocationRow>, DbError> {
    allocation::table
        .order((allocation::host, allocation::consumer))
        .select(AllocationRow::as_select())
        .load(c)
        .await
        .map_err(DbError::query("listing allocations"))
}

/// Work that was put off until a host is back.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = host_obligation)]
pub struct ObligationRow {
    /// For which operation.
    pub saga_id: Uuid,
    /// Which step.
    pub step: String,
    /// The host.
    pub host: String,
    /// The instance.
    pub instance_id: Uuid,
    /// How often it was asked for since.
    pub tries: i32,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

/// All work that was put off, oldest first.
///
/// # Errors
/// When the query fails.
pub async fn obligations_list(c: &mut Connection) -> Result<Vec<ObligationRow>, DbError> {
    host_obligation::table
        .order(host_obligation::created_at)
        .select(ObligationRow::as_select())
        .load(c)
        .await
        .map_err(DbError::query("listing work that was put off"))
}
