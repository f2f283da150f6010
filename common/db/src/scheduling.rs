//! Choosing hosts: what schedulers read, and the claim, which fails when the host is full.
//!
//! A claim and its answer need no journal: the claim is made only while the saga still waits for it, under a
//! lock that the conductor's transaction conflicts with. A request that arrives after its undo finds the
//! saga elsewhere and does nothing; a repeated one finds the claim and gives the same answer.

mod claim;
mod rules;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_types::Timestamptz;
use diesel_async::RunQueryDsl;
use whimbrel_messages::StepKey;
use whimbrel_messages::report::{CpuInfo, Inventory};
use whimbrel_messages::scheduler::SelectDestinations;
use whimbrel_model::{HostName, Resources, ServiceStatus};

pub use claim::claim_batch;

use crate::schema::host;
use crate::text::parse;
use crate::{Connection, DbError};

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
        (bool, Option<DateTime<Utc>>, DateTime<Utc>),
        (i32, i64, i64),
        (i32, i64, i64),
        String,
        i64,
        serde_json::Value,
    );
    let down_after = TimeDelta::milliseconds(down_after_ms);
    let stored: Vec<Stored> = host::table
        .order(host::name)
        .select((
            host::name,
            host::status,
            host::disabled_reason,
            (host::forced_down, host::reported_at, diesel::dsl::now.into_sql::<Timestamptz>()),
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
        .map(|(name, status, disabled_reason, seen, total, used, kind, version, inventory)| {
            let (forced_down, reported_at, now) = seen;
            let inventory = serde_json::from_value::<Inventory>(inventory).ok();
            Ok(HostState {
                name: parse("host.name", &name)?,
                status: parse("host.status", &status)?,
                disabled_reason,
                up: !forced_down && reported_at.is_some_and(|at| at > now - down_after),
                total: resources(total),
                used: resources(used),
                hypervisor_type: kind,
                hypervisor_version: version,
                cpu: inventory.map(|inventory| inventory.cpu).unwrap_or_default(),
            })
        })
        .collect()
}
