//! Provider networks: a bridge that every host has, and a range of addresses.

use std::net::Ipv4Addr;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::error::violates;
use crate::schema::network;
use crate::text::parse;
use crate::{Connection, DbError};

#[derive(Queryable, Selectable)]
#[diesel(table_name = network)]
struct Stored {
    id: Uuid,
    name: String,
    bridge: String,
    cidr: String,
    pool_start: String,
    pool_end: String,
    created_at: DateTime<Utc>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRow {
    /// Its id.
    pub id: Uuid,
    /// Unique.
    pub name: String,
    /// The bridge on every host.
    pub bridge: String,
    /// `10.0.0.0/24`.
    pub cidr: String,
    /// The first address that guests get.
    pub pool_start: Ipv4Addr,
    /// The last.
    pub pool_end: Ipv4Addr,
    /// When.
    pub created_at: DateTime<Utc>,
}

impl TryFrom<Stored> for NetworkRow {
    type Error = DbError;

    fn try_from(stored: Stored) -> Result<Self, DbError> {
        Ok(Self {
            id: stored.id,
            name: stored.name,
            bridge: stored.bridge,
            cidr: stored.cidr,
            pool_start: parse("network.pool_start", &stored.pool_start)?,
            pool_end: parse("network.pool_end", &stored.pool_end)?,
            created_at: stored.created_at,
        })
    }
}

/// A network to make.
#[derive(Clone, Debug)]
pub struct NewNetwork {
    /// Unique.
    pub name: String,
    /// The bridge on every host.
    pub bridge: String,
    /// `10.0.0.0/24`.
    pub cidr: String,
    /// The first address that guests get.
    pub pool_start: Ipv4Addr,
    /// The last.
    pub pool_end: Ipv4Addr,
}

/// All networks, by name.
///
/// # Errors
/// When the query fails.
pub async fn networks_list(c: &mut Connection) -> Result<Vec<NetworkRow>, DbError> {
    let stored: Vec<Stored> = network::table
        .select(Stored::as_select())
        .order(network::name)
        .load(c)
        .await
        .map_err(DbError::query("listing networks"))?;
    stored.into_iter().map(NetworkRow::try_from).collect()
}

/// One network.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn network_get(c: &mut Connection, id: Uuid) -> Result<NetworkRow, DbError> {
    let stored: Option<Stored> = network::table
        .find(id)
        .select(Stored::as_select())
        .first(c)
        .await
        .optional()
        .map_err(DbError::query("reading a network"))?;
    stored
        .ok_or_else(|| DbError::NotFound { kind: "Network", id: id.to_string() })
        .and_then(NetworkRow::try_from)
}

/// Makes a network.
///
/// # Errors
/// [`DbError::Exists`] when the name is taken.
pub async fn network_create(c: &mut Connection, new: &NewNetwork) -> Result<NetworkRow, DbError> {
    let stored: Stored = diesel::insert_into(network::table)
        .values((
            network::id.eq(Uuid::now_v7()),
            network::name.eq(&new.name),
            network::bridge.eq(&new.bridge),
            network::cidr.eq(&new.cidr),
            network::pool_start.eq(new.pool_start.to_string()),
            network::pool_end.eq(new.pool_end.to_string()),
        ))
        .returning(Stored::as_returning())
        .get_result(c)
        .await
        .map_err(|error| {
            if violates(&error, "network_name_key") {
                DbError::Exists { kind: "Network", id: new.name.clone() }
            } else {
                DbError::query("making a network")(error)
            }
        })?;
    NetworkRow::try_from(stored)
}

/// Deletes a network that no guest is plugged into.
///
/// # Errors
/// [`DbError::NotFound`], or [`DbError::InUse`].
pub async fn network_delete(c: &mut Connection, id: Uuid) -> Result<(), DbError> {
    let gone = diesel::delete(network::table.find(id)).execute(c).await.map_err(|error| {
        if violates(&error, "port_network_id_fkey") {
            let by = "servers are plugged into it".to_owned();
            DbError::InUse { kind: "Network", id: id.to_string(), by }
        } else {
            DbError::query("deleting a network")(error)
        }
    })?;
    if gone == 1 { Ok(()) } else { Err(DbError::NotFound { kind: "Network", id: id.to_string() }) }
}
