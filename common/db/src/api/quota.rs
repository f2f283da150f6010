//! Quotas: how much each project may have, and what it has.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_async::RunQueryDsl;

use crate::schema::{keypair, quota, server_group};
use crate::{Connection, DbError};

/// What is counted, by the names that clients use.
pub const RESOURCES: [&str; 7] = [
    "instances",
    "cores",
    "ram",
    "key_pairs",
    "metadata_items",
    "server_groups",
    "server_group_members",
];

/// What a project has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, QueryableByName)]
pub struct Usage {
    /// Servers.
    #[diesel(sql_type = BigInt)]
    pub instances: i64,
    /// Virtual processors.
    #[diesel(sql_type = BigInt)]
    pub cores: i64,
    /// MiB.
    #[diesel(sql_type = BigInt)]
    pub ram: i64,
}

/// The limits of a project that differ from the defaults.
///
/// # Errors
/// When the query fails.
pub async fn quotas_get(
    c: &mut Connection,
    project_id: &str,
) -> Result<BTreeMap<String, i64>, DbError> {
    let rows: Vec<(String, i64)> = quota::table
        .filter(quota::project_id.eq(project_id))
        .select((quota::resource, quota::hard_limit))
        .load(c)
        .await
        .map_err(DbError::query("reading quotas"))?;
    Ok(rows.into_iter().collect())
}

/// Sets limits of a project.
///
/// # Errors
/// When the query fails.
pub async fn quotas_set(
    c: &mut Connection,
    project_id: &str,
    limits: &[(String, i64)],
) -> Result<(), DbError> {
    let rows: Vec<_> = limits
        .iter()
        .map(|(resource, limit)| {
            (
                quota::project_id.eq(project_id),
                quota::resource.eq(resource),
                quota::hard_limit.eq(*limit),
            )
        })
        .collect();
    diesel::insert_into(quota::table)
        .values(rows)
        .on_conflict((quota::project_id, quota::resource))
        .do_update()
        .set(quota::hard_limit.eq(diesel::upsert::excluded(quota::hard_limit)))
        .execute(c)
        .await
        .map(drop)
        .map_err(DbError::query("setting quotas"))
}

/// Brings the limits of a project back to the defaults.
///
/// # Errors
/// When the query fails.
pub async fn quotas_reset(c: &mut Connection, project_id: &str) -> Result<(), DbError> {
    diesel::delete(quota::table.filter(quota::project_id.eq(project_id)))
        .execute(c)
        .await
        .map(drop)
        .map_err(DbError::query("resetting quotas"))
}

/// What a project has.
///
/// # Errors
/// When the query fails.
pub async fn usage(c: &mut Connection, project_id: &str) -> Result<Usage, DbError> {
    diesel::sql_query(
        "SELECT count(*)::bigint AS instances, coalesce(sum(vcpus), 0)::bigint AS cores, \
         coalesce(sum(memory_mib), 0)::bigint AS ram FROM instance WHERE project_id = $1 AND deleted_at IS NULL",
    )
    .bind::<Text, _>(project_id)
    .get_result(c)
    .await
    .map_err(DbError::query("counting what a project has"))
}

/// How many key pairs a user has.
///
/// # Errors
/// When the query fails.
pub async fn keypairs_count(c: &mut Connection, user_id: &str) -> Result<i64, DbError> {
    let own = keypair::table.filter(keypair::user_id.eq(user_id));
    own.count().get_result(c).await.map_err(DbError::query("counting key pairs"))
}

/// How many server groups a project has.
///
/// # Errors
/// When the query fails.
pub async fn server_groups_count(c: &mut Connection, project_id: &str) -> Result<i64, DbError> {
    let own = server_group::table.filter(server_group::project_id.eq(project_id));
    own.count().get_result(c).await.map_err(DbError::query("counting server groups"))
}

/// Refuses what would be over a limit: `more` servers, processors and MiB. Requests of one project that have limits
/// are counted one after the other, until the end of the transaction.
pub(super) async fn within(
    c: &mut Connection,
    project_id: &str,
    limits: &Usage,
    more: &Usage,
) -> Result<(), DbError> {
    if limits.instances < 0 && limits.cores < 0 && limits.ram < 0 {
        return Ok(());
    }
    diesel::sql_query("SELECT pg_advisory_xact_lock(hashtextextended('quota ' || $1, 0))")
        .bind::<Text, _>(project_id)
        .execute(c)
        .await
        .map_err(DbError::query("waiting for other requests of a project"))?;
    let used = usage(c, project_id).await?;
    for (what, limit, used, more) in [
        ("instances", limits.instances, used.instances, more.instances),
        ("cores", limits.cores, used.cores, more.cores),
        ("ram", limits.ram, used.ram, more.ram),
    ] {
        if limit >= 0 && used + more > limit {
            return Err(DbError::QuotaExceeded { what, requested: more, used, limit });
        }
    }
    Ok(())
}
