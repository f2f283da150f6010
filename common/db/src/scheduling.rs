//! Choosing hosts: what schedulers read, and the claim, which fails when the host is full.
//!
//! A claim and its answer need no journal: the claim is made only while the saga still waits for it, under a
//! lock that the conductor's transaction conflicts with. A request that arrives after its undo finds the
//! saga elsewhere and does nothing; a repeated one finds the claim and gives the same answer.

use std::collections::{BTreeMap, BTreeSet};

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Double, Integer, Text, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, RunQueryDsl};
use uuid::Uuid;
use whimbrel_messages::StepKey;
use whimbrel_messages::report::{CpuInfo, Inventory};
use whimbrel_messages::scheduler::SelectDestinations;
use whimbrel_model::{HostName, Resources, ServiceStatus};

use crate::schema::{allocation, host, saga};
use crate::text::parse;
use crate::{Connection, Database, DbError};

/// How much of each resource may be promised, as a multiple of what is there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratios {
    /// Virtual processors for each real one.
    pub vcpus: f64,
    /// Guests' memory for each unit of real memory.
    pub memory: f64,
    /// Guests' disk for each unit of real disk.
    pub disk: f64,
}

/// A host as the scheduler sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct HostState {
    /// Its name.
    pub name: HostName,
    /// Whether it takes new guests.
    pub status: ServiceStatus,
    /// Why not, in the words of who disabled it.
    pub disabled_reason: Option<String>,
    /// It reports, and nobody forced it down.
    pub up: bool,
    /// What it has.
    pub total: Resources,
    /// What is promised.
    pub used: Resources,
    /// `QEMU` and the like.
    pub hypervisor_type: String,
    /// As one number.
    pub hypervisor_version: i64,
    /// Its processors.
    pub cpu: CpuInfo,
}

/// A host that is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The step that waits for it.
    pub key: StepKey,
    /// For what.
    pub request: SelectDestinations,
}

/// Hosts in order of preference, and why the others are out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranking {
    /// The best first.
    pub candidates: Vec<HostName>,
    /// Host and reason.
    pub refused: Vec<(HostName, String)>,
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Room is set aside there.
    Host(HostName),
    /// No host will do; the reason for each.
    NoValidHost(Vec<(HostName, String)>),
    /// The saga no longer waits for this. Nothing was done and nothing is to be answered.
    NotWaiting,
}

/// Chooses and claims for all of `wanted` in one transaction. `rank` is pure; it sees what earlier claims of
/// the same batch have taken.
///
/// # Errors
/// When the transaction fails; nothing has happened then.
pub async fn claim_batch(
    database: &Database,
    wanted: &[Wanted],
    ratios: Ratios,
    down_after_ms: i64,
    rank: &(dyn Fn(&SelectDestinations, &[HostState]) -> Ranking + Sync),
) -> Result<Vec<Claimed>, DbError> {
    let mut connection = database.connection().await?;
    connection
        .transaction(async |connection| {
            let waiting = lock_waiting(connection, wanted).await?;
            let held = held_by(connection, wanted).await?;
            let mut hosts = hosts(connection, down_after_ms).await?;
            let mut answers = Vec::with_capacity(wanted.len());
            for want in wanted {
                let key = (want.key.saga_id.0, want.key.round, want.key.step.clone());
                let answer = if !waiting.contains(&key) {
                    Claimed::NotWaiting
                } else if let Some(host) = already(&want.request, &held) {
                    Claimed::Host(host)
                } else {
                    let ranking = rank(&want.request, &hosts);
                    claim_first(connection, &want.request, ranking, &mut hosts, ratios).await?
                };
                answers.push(answer);
            }
            Ok(answers)
        })
        .await
}

/// The sagas that are at the step that they are said to wait at. Locked against the conductor until the end
/// of the transaction.
async fn lock_waiting(
    connection: &mut Connection,
    wanted: &[Wanted],
) -> Result<BTreeSet<(Uuid, i32, String)>, DbError> {
    let ids: BTreeSet<Uuid> = wanted.iter().map(|want| want.key.saga_id.0).collect();
    let rows: Vec<(Uuid, i32, String)> = saga::table
        .filter(saga::id.eq_any(ids))
        .filter(saga::phase.eq("running"))
        .filter(saga::dir.eq("do"))
        .order(saga::id)
        .select((saga::id, saga::round, saga::step))
        .for_share()
        .load(connection)
        .await
        .map_err(DbError::query("looking whether sagas wait for a host"))?;
    Ok(rows.into_iter().collect())
}

/// Host by consumer, of the instances and migrations concerned.
async fn held_by(
    connection: &mut Connection,
    wanted: &[Wanted],
) -> Result<BTreeMap<Uuid, HostName>, DbError> {
    let instances: Vec<Uuid> = wanted.iter().map(|want| want.request.instance_id.0).collect();
    let rows: Vec<(Uuid, String)> = allocation::table
        .filter(allocation::instance_id.eq_any(instances))
        .select((allocation::consumer, allocation::host))
        .load(connection)
        .await
        .map_err(DbError::query("reading allocations"))?;
    rows.into_iter().map(|(id, name)| Ok((id, parse("allocation.host", &name)?))).collect()
}

/// The host that an earlier attempt at the same step has claimed.
fn already(request: &SelectDestinations, held: &BTreeMap<Uuid, HostName>) -> Option<HostName> {
    let moving = request.migration_id.is_none_or(|migration| held.contains_key(&migration.0));
    let host = held.get(&request.instance_id.0).filter(|_| moving)?;
    (!request.excluded.contains(host)).then(|| host.clone())
}

/// All hosts.
///
/// # Errors
/// When the query fails.
pub async fn hosts(
    connection: &mut Connection,
    down_after_ms: i64,
) -> Result<Vec<HostState>, DbError> {
    type Stored = (
        String,
        String,
        Option<String>,
        bool,
        (i32, i64, i64),
        (i32, i64, i64),
        String,
        i64,
        serde_json::Value,
    );
    let up = diesel::dsl::sql::<diesel::sql_types::Bool>(
        "(NOT forced_down AND reported_at IS NOT NULL AND reported_at > now() - interval '1 ms' * ",
    )
    .bind::<BigInt, _>(down_after_ms)
    .sql(")");
    let stored: Vec<Stored> = host::table
        .order(host::name)
        .select((
            host::name,
            host::status,
            host::disabled_reason,
            up,
            (host::vcpus, host::memory_mib, host::disk_gib),
            (host::vcpus_used, host::memory_mib_used, host::disk_gib_used),
            host::hypervisor_type,
            host::hypervisor_version,
            host::inventory,
        ))
        .load(connection)
        .await
        .map_err(DbError::query("reading hosts"))?;
    let resources = |(vcpus, memory_mib, disk_gib)| Resources { vcpus, memory_mib, disk_gib };
    stored
        .into_iter()
        .map(|(name, status, disabled_reason, up, total, used, kind, version, inventory)| {
            let inventory = serde_json::from_value::<Inventory>(inventory).ok();
            Ok(HostState {
                name: parse("host.name", &name)?,
                status: parse("host.status", &status)?,
                disabled_reason,
                up,
                total: resources(total),
                used: resources(used),
                hypervisor_type: kind,
                hypervisor_version: version,
                cpu: inventory.map(|inventory| inventory.cpu).unwrap_or_default(),
            })
        })
        .collect()
}

/// Claims on the first candidate that still has room.
async fn claim_first(
    connection: &mut Connection,
    request: &SelectDestinations,
    ranking: Ranking,
    hosts: &mut [HostState],
    ratios: Ratios,
) -> Result<Claimed, DbError> {
    let Ranking { candidates, mut refused } = ranking;
    for candidate in candidates {
        if let Some(migration) = request.migration_id {
            diesel::update(allocation::table.find(request.instance_id.0))
                .set(allocation::consumer.eq(migration.0))
                .execute(connection)
                .await
                .map_err(DbError::query("handing an allocation to a move"))?;
        }
        if claim(connection, request, &candidate, ratios).await? {
            if let Some(state) = hosts.iter_mut().find(|state| state.name == candidate) {
                state.used = state.used + request.resources;
            }
            return Ok(Claimed::Host(candidate));
        }
        refused.push((candidate, "another guest took the room first".to_owned()));
    }
    if let Some(migration) = request.migration_id {
        diesel::update(allocation::table.find(migration.0))
            .set(allocation::consumer.eq(request.instance_id.0))
            .execute(connection)
            .await
            .map_err(DbError::query("handing an allocation back"))?;
    }
    Ok(Claimed::NoValidHost(refused))
}

/// The guard is in the statement: the host's row is locked, and the sum that a trigger keeps on it is
/// compared, before anything is inserted (I4).
async fn claim(
    connection: &mut Connection,
    request: &SelectDestinations,
    candidate: &HostName,
    ratios: Ratios,
) -> Result<bool, DbError> {
    let claimed = diesel::sql_query(
        "WITH room AS (SELECT name FROM host WHERE name = $1 \
             AND vcpus_used + $4 <= vcpus * $7 AND memory_mib_used + $5 <= memory_mib * $8 \
             AND disk_gib_used + $6 <= disk_gib * $9 FOR UPDATE) \
         INSERT INTO allocation (consumer, host, instance_id, vcpus, memory_mib, disk_gib) \
         SELECT $2, name, $3, $4, $5, $6 FROM room",
    )
    .bind::<Text, _>(candidate.as_str())
    .bind::<SqlUuid, _>(request.instance_id.0)
    .bind::<SqlUuid, _>(request.instance_id.0)
    .bind::<Integer, _>(request.resources.vcpus)
    .bind::<BigInt, _>(request.resources.memory_mib)
    .bind::<BigInt, _>(request.resources.disk_gib)
    .bind::<Double, _>(ratios.vcpus)
    .bind::<Double, _>(ratios.memory)
    .bind::<Double, _>(ratios.disk)
    .execute(connection)
    .await
    .map_err(DbError::query("claiming room on a host"))?;
    Ok(claimed == 1)
}
