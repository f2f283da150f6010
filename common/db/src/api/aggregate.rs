//! Aggregates: named sets of hosts. Those with a zone make availability zones.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use crate::error::violates;
use crate::schema::{aggregate, aggregate_host, instance};
use crate::{Connection, DbError};

/// The zone of hosts that are in no aggregate with a zone.
pub const DEFAULT_ZONE: &str = "nova";

/// An aggregate.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregateRow {
    /// The integer that clients know it by.
    pub number: i64,
    /// Its id.
    pub id: Uuid,
    /// Unique.
    pub name: String,
    /// The zone that its hosts are in.
    pub availability_zone: Option<String>,
    /// Names and values of the operator's.
    pub metadata: Value,
    /// When.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
    /// Its hosts, by name.
    pub hosts: Vec<String>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = aggregate)]
struct Stored {
    number: i64,
    id: Uuid,
    name: String,
    availability_zone: Option<String>,
    metadata: Value,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

fn not_found(number: i64) -> DbError {
    DbError::NotFound { kind: "Aggregate", id: number.to_string() }
}

fn row(stored: Stored, hosts: Vec<String>) -> AggregateRow {
    let Stored { number, id, name, availability_zone, metadata, created_at, updated_at } = stored;
    AggregateRow { number, id, name, availability_zone, metadata, created_at, updated_at, hosts }
}

/// All aggregates, by number.
///
/// # Errors
/// When the query fails.
pub async fn aggregates_list(c: &mut Connection) -> Result<Vec<AggregateRow>, DbError> {
    let stored: Vec<Stored> = aggregate::table
        .order(aggregate::number)
        .select(Stored::as_select())
        .load(c)
        .await
        .map_err(DbError::query("listing aggregates"))?;
    let pairs: Vec<(i64, String)> = aggregate_host::table
        .order((aggregate_host::aggregate, aggregate_host::host))
        .select((aggregate_host::aggregate, aggregate_host::host))
        .load(c)
        .await
        .map_err(DbError::query("listing hosts of aggregates"))?;
    let mut hosts: HashMap<i64, Vec<String>> = HashMap::new();
    for (number, host) in pairs {
        hosts.entry(number).or_default().push(host);
    }
    let with_hosts = |stored: Stored| {
        let hosts = hosts.remove(&stored.number).unwrap_or_default();
        row(stored, hosts)
    };
    Ok(stored.into_iter().map(with_hosts).collect())
}

/// One aggregate.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn aggregate_get(c: &mut Connection, number: i64) -> Result<AggregateRow, DbError> {
    let all = aggregates_list(c).await?;
    all.into_iter().find(|one| one.number == number).ok_or_else(|| not_found(number))
}

/// The zone of each host that is in one; all others are in [`DEFAULT_ZONE`].
///
/// # Errors
/// When the query fails.
pub async fn zones_of_hosts(c: &mut Connection) -> Result<HashMap<String, String>, DbError> {
    let rows: Vec<(String, Option<String>)> = aggregate_host::table
        .inner_join(aggregate::table.on(aggregate::number.eq(aggregate_host::aggregate)))
        .filter(aggregate::availability_zone.is_not_null())
        .select((aggregate_host::host, aggregate::availability_zone))
        .load(c)
        .await
        .map_err(DbError::query("reading zones of hosts"))?;
    Ok(rows.into_iter().filter_map(|(host, zone)| Some((host, zone?))).collect())
}

/// Makes an aggregate without hosts.
///
/// # Errors
/// [`DbError::Exists`] when the name is taken.
pub async fn aggregate_create(
    c: &mut Connection,
    name: &str,
    zone: Option<&str>,
) -> Result<AggregateRow, DbError> {
    let stored: Stored = diesel::insert_into(aggregate::table)
        .values((
            aggregate::id.eq(Uuid::now_v7()),
            aggregate::name.eq(name),
            aggregate::availability_zone.eq(zone),
        ))
        .returning(Stored::as_returning())
        .get_result(c)
        .await
        .map_err(taken(name))?;
    Ok(row(stored, Vec::new()))
}

fn taken(name: &str) -> impl Fn(diesel::result::Error) -> DbError {
    move |error| {
        if violates(&error, "aggregate_name_key") {
            DbError::Exists { kind: "Aggregate", id: name.to_owned() }
        } else {
            DbError::query("writing an aggregate")(error)
        }
    }
}

/// What changes of an aggregate. What is none stays.
#[derive(Clone, Debug, Default)]
pub struct AggregateUpdate {
    /// Its name.
    pub name: Option<String>,
    /// Its zone; none in it is no zone any more.
    pub availability_zone: Option<Option<String>>,
    /// All of its metadata.
    pub metadata: Option<Value>,
}

/// Changes an aggregate. The zone of a host with servers does not change under them.
///
/// # Errors
/// [`DbError::NotFound`], [`DbError::Exists`], [`DbError::InUse`].
pub async fn aggregate_update(
    c: &mut Connection,
    number: i64,
    update: &AggregateUpdate,
) -> Result<AggregateRow, DbError> {
    c.transaction(async |c| {
        lock(c, number).await?;
        let before = aggregate_get(c, number).await?;
        let zone = update.availability_zone.clone();
        if zone.as_ref().is_some_and(|zone| *zone != before.availability_zone) {
            let wanted = zone.as_ref().and_then(Option::as_deref);
            for host in &before.hosts {
                free_for(c, host, wanted, number).await?;
            }
        }
        diesel::update(aggregate::table.find(number))
            .set((
                update.name.as_ref().map(|name| aggregate::name.eq(name)),
                zone.map(|zone| aggregate::availability_zone.eq(zone)),
                update.metadata.as_ref().map(|metadata| aggregate::metadata.eq(metadata)),
                aggregate::updated_at.eq(diesel::dsl::now),
            ))
            .execute(c)
            .await
            .map_err(taken(update.name.as_deref().unwrap_or_default()))?;
        aggregate_get(c, number).await
    })
    .await
}

/// Deletes an aggregate that has no hosts.
///
/// # Errors
/// [`DbError::NotFound`], [`DbError::InUse`].
pub async fn aggregate_delete(c: &mut Connection, number: i64) -> Result<(), DbError> {
    let gone = diesel::delete(aggregate::table.find(number)).execute(c).await.map_err(|error| {
        if violates(&error, "aggregate_host_aggregate_fkey") {
            let by = "it has hosts; remove them first".to_owned();
            DbError::InUse { kind: "Aggregate", id: number.to_string(), by }
        } else {
            DbError::query("deleting an aggregate")(error)
        }
    })?;
    if gone == 1 { Ok(()) } else { Err(not_found(number)) }
}

/// Puts a host into an aggregate.
///
/// # Errors
/// [`DbError::NotFound`]; [`DbError::Exists`] when it is there; [`DbError::InUse`] when it is in another zone, or
/// its servers asked for another.
pub async fn aggregate_add_host(
    c: &mut Connection,
    number: i64,
    host: &str,
) -> Result<AggregateRow, DbError> {
    c.transaction(async |c| {
        lock(c, number).await?;
        let zone = aggregate_get(c, number).await?.availability_zone;
        if zone.is_some() {
            free_for(c, host, zone.as_deref(), number).await?;
        }
        diesel::insert_into(aggregate_host::table)
            .values((aggregate_host::aggregate.eq(number), aggregate_host::host.eq(host)))
            .execute(c)
            .await
            .map_err(|error| {
                if violates(&error, "aggregate_host_pkey") {
                    DbError::Exists { kind: "Host in aggregate", id: host.to_owned() }
                } else if violates(&error, "aggregate_host_host_fkey") {
                    DbError::NotFound { kind: "Compute host", id: host.to_owned() }
                } else {
                    DbError::query("adding a host to an aggregate")(error)
                }
            })?;
        touch(c, number).await?;
        aggregate_get(c, number).await
    })
    .await
}

/// Takes a host out of an aggregate.
///
/// # Errors
/// [`DbError::NotFound`]; [`DbError::InUse`] when servers on it asked for the zone that it would leave.
pub async fn aggregate_remove_host(
    c: &mut Connection,
    number: i64,
    host: &str,
) -> Result<AggregateRow, DbError> {
    c.transaction(async |c| {
        lock(c, number).await?;
        if aggregate_get(c, number).await?.availability_zone.is_some() {
            free_for(c, host, None, number).await?;
        }
        let gone = diesel::delete(aggregate_host::table.find((number, host)))
            .execute(c)
            .await
            .map_err(DbError::query("removing a host from an aggregate"))?;
        if gone == 0 {
            return Err(DbError::NotFound { kind: "Host in aggregate", id: host.to_owned() });
        }
        touch(c, number).await?;
        aggregate_get(c, number).await
    })
    .await
}

async fn lock(c: &mut Connection, number: i64) -> Result<(), DbError> {
    let found: Option<i64> = aggregate::table
        .find(number)
        .select(aggregate::number)
        .for_update()
        .first(c)
        .await
        .optional()
        .map_err(DbError::query("locking an aggregate"))?;
    found.map(drop).ok_or_else(|| not_found(number))
}

async fn touch(c: &mut Connection, number: i64) -> Result<(), DbError> {
    diesel::update(aggregate::table.find(number))
        .set(aggregate::updated_at.eq(diesel::dsl::now))
        .execute(c)
        .await
        .map(drop)
        .map_err(DbError::query("changing an aggregate"))
}

/// Whether `host` can be in `zone`, or in none, by the aggregate `number`: no other aggregate says another zone,
/// and no server on it asked for another.
async fn free_for(
    c: &mut Connection,
    host: &str,
    zone: Option<&str>,
    number: i64,
) -> Result<(), DbError> {
    let others: Vec<Option<String>> = aggregate_host::table
        .inner_join(aggregate::table.on(aggregate::number.eq(aggregate_host::aggregate)))
        .filter(aggregate_host::host.eq(host))
        .filter(aggregate::number.ne(number))
        .filter(aggregate::availability_zone.is_not_null())
        .select(aggregate::availability_zone)
        .load(c)
        .await
        .map_err(DbError::query("reading zones of a host"))?;
    let in_use = |by: String| DbError::InUse { kind: "Host", id: host.to_owned(), by };
    let other = others.into_iter().flatten().next();
    if let (Some(other), Some(zone)) = (&other, zone)
        && other != zone
    {
        return Err(in_use(format!("it is in availability zone {other}")));
    }
    let will_be = zone.map(ToOwned::to_owned).or(other);
    let will_be = will_be.as_deref().unwrap_or(DEFAULT_ZONE);
    let bound: i64 = instance::table
        .filter(instance::host.eq(host))
        .filter(instance::deleted_at.is_null())
        .filter(instance::availability_zone.is_not_null())
        .filter(instance::availability_zone.assume_not_null().ne(will_be))
        .count()
        .get_result(c)
        .await
        .map_err(DbError::query("counting servers of a zone"))?;
    if bound > 0 {
        return Err(in_use(format!("{bound} servers on it asked for the zone that it is in now")));
    }
    Ok(())
}
