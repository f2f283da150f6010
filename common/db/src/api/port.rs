//! Ports: a guest's attachments to networks, with addresses that are given out without a queue.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use rand::Rng;
use uuid::Uuid;
use whimbrel_messages::compute::PortSpec;
use whimbrel_model::PortId;

use super::NetworkRow;
use crate::error::violates;
use crate::schema::{instance, network, port};
use crate::{Connection, DbError};

/// Addresses tried at random before all that are free are looked for.
const RANDOM_TRIES: usize = 4;

/// A port, with what its network says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRow {
    /// Its id.
    pub id: Uuid,
    /// Its network.
    pub network_id: Uuid,
    /// The network's name.
    pub network_name: String,
    /// The network's bridge.
    pub bridge: String,
    /// Hardware address.
    pub mac: String,
    /// IPv4 address.
    pub address: String,
    /// The network's addresses: `10.0.0.0/24`.
    pub cidr: String,
}

impl PortRow {
    /// As hosts are told of it.
    pub fn spec(&self) -> PortSpec {
        PortSpec {
            id: PortId(self.id),
            mac: self.mac.clone(),
            address: self.address.clone(),
            bridge: self.bridge.clone(),
            prefix: self.cidr.split_once('/').and_then(|(_, bits)| bits.parse().ok()).unwrap_or(32),
        }
    }
}

/// A port with whom it is for.
#[derive(Clone, Debug)]
pub struct PortView {
    /// The port.
    pub port: PortRow,
    /// Its server.
    pub instance_id: Uuid,
    /// The server's host, if it has one.
    pub host: Option<String>,
    /// Whose.
    pub project_id: String,
}

/// All ports, by id: those of a project's servers, or all.
///
/// # Errors
/// When the query fails.
pub async fn ports_list(
    c: &mut Connection,
    project_id: Option<&str>,
) -> Result<Vec<PortView>, DbError> {
    type Place = (Uuid, Option<String>, String);
    type Stored = (Place, (Uuid, Uuid, String, String, String, String, String));
    let mut query = port::table
        .inner_join(network::table.on(network::id.eq(port::network_id)))
        .inner_join(instance::table.on(instance::id.eq(port::instance_id)))
        .filter(instance::deleted_at.is_null())
        .select((
            (instance::id, instance::host, instance::project_id),
            (
                port::id,
                port::network_id,
                network::name,
                network::bridge,
                port::mac,
                port::address,
                network::cidr,
            ),
        ))
        .into_boxed();
    if let Some(project_id) = project_id {
        query = query.filter(instance::project_id.eq(project_id.to_owned()));
    }
    let stored: Vec<Stored> =
        query.order(port::id).load(c).await.map_err(DbError::query("listing ports"))?;
    let view = |(place, row): Stored| {
        let (instance_id, host, project_id) = place;
        let (id, network_id, network_name, bridge, mac, address, cidr) = row;
        let port = PortRow { id, network_id, network_name, bridge, mac, address, cidr };
        PortView { port, instance_id, host, project_id }
    };
    Ok(stored.into_iter().map(view).collect())
}

/// A port to make.
#[derive(Clone, Debug)]
pub struct WantedPort {
    /// The network.
    pub network: NetworkRow,
    /// The address, if it is to be this one.
    pub address: Option<Ipv4Addr>,
}

/// The ports of an instance, in order.
pub(super) async fn ports_of(
    c: &mut Connection,
    instance_id: Uuid,
) -> Result<Vec<PortRow>, DbError> {
    let mut all = ports_of_all(c, &[instance_id]).await?;
    Ok(all.drain(..).map(|(_, row)| row).collect())
}

/// The ports of several instances, each in order.
pub(super) async fn ports_of_all(
    c: &mut Connection,
    instances: &[Uuid],
) -> Result<Vec<(Uuid, PortRow)>, DbError> {
    type Stored = (Uuid, Uuid, Uuid, String, String, String, String, String);
    let stored: Vec<Stored> = port::table
        .inner_join(network::table.on(network::id.eq(port::network_id)))
        .filter(port::instance_id.eq_any(instances))
        .order((port::instance_id, port::position))
        .select((
            port::instance_id,
            port::id,
            port::network_id,
            network::name,
            network::bridge,
            port::mac,
            port::address,
            network::cidr,
        ))
        .load(c)
        .await
        .map_err(DbError::query("reading ports"))?;
    let row = |(instance, id, network_id, network_name, bridge, mac, address, cidr)| {
        (instance, PortRow { id, network_id, network_name, bridge, mac, address, cidr })
    };
    Ok(stored.into_iter().map(row).collect())
}

/// Makes a port. The address is unique by an index; whoever comes second tries another.
pub(super) async fn port_create(
    c: &mut Connection,
    instance_id: Uuid,
    position: i32,
    wanted: &WantedPort,
) -> Result<PortRow, DbError> {
    let network = &wanted.network;
    if let Some(address) = wanted.address {
        return insert(c, instance_id, position, network, address).await?.ok_or_else(|| {
            DbError::InUse {
                kind: "Address",
                id: address.to_string(),
                by: "another port".to_owned(),
            }
        });
    }
    let (first, last) = (u32::from(network.pool_start), u32::from(network.pool_end));
    for _ in 0..RANDOM_TRIES {
        let address = Ipv4Addr::from(rand::rng().random_range(first..=last));
        if let Some(made) = insert(c, instance_id, position, network, address).await? {
            return Ok(made);
        }
    }
    let taken: Vec<String> = port::table
        .filter(port::network_id.eq(network.id))
        .select(port::address)
        .load(c)
        .await
        .map_err(DbError::query("looking for a free address"))?;
    let taken: HashSet<Ipv4Addr> = taken.iter().filter_map(|text| text.parse().ok()).collect();
    for address in (first..=last).map(Ipv4Addr::from).filter(|address| !taken.contains(address)) {
        if let Some(made) = insert(c, instance_id, position, network, address).await? {
            return Ok(made);
        }
    }
    Err(DbError::NoMoreAddresses { network: network.name.clone() })
}

/// `fa:16:3e` and the last three octets of the address, so that a guest can tell its address from its hardware.
/// Where another network has given it out already, the last three are drawn.
fn mac(address: Ipv4Addr, drawn: bool) -> String {
    let octets = address.octets();
    let [a, b, c] =
        if drawn { rand::rng().random::<[u8; 3]>() } else { [octets[1], octets[2], octets[3]] };
    format!("fa:16:3e:{a:02x}:{b:02x}:{c:02x}")
}

async fn insert(
    c: &mut Connection,
    instance_id: Uuid,
    position: i32,
    network: &NetworkRow,
    address: Ipv4Addr,
) -> Result<Option<PortRow>, DbError> {
    let id = Uuid::now_v7();
    for drawn in [false, true, true, true] {
        let mac = mac(address, drawn);
        // A conflict must not end the transaction, so it is no error.
        let made = diesel::insert_into(port::table)
            .values((
                port::id.eq(id),
                port::network_id.eq(network.id),
                port::instance_id.eq(instance_id),
                port::position.eq(position),
                port::mac.eq(&mac),
                port::address.eq(address.to_string()),
            ))
            .on_conflict_do_nothing()
            .execute(c)
            .await
            .map_err(|error| {
                if violates(&error, "port_network_id_fkey") {
                    DbError::NotFound { kind: "Network", id: network.id.to_string() }
                } else {
                    DbError::query("making a port")(error)
                }
            })?;
        if made == 1 {
            return Ok(Some(PortRow {
                id,
                network_id: network.id,
                network_name: network.name.clone(),
                bridge: network.bridge.clone(),
                mac,
                address: address.to_string(),
                cidr: network.cidr.clone(),
            }));
        }
        let taken: i64 = port::table
            .filter(port::network_id.eq(network.id))
            .filter(port::address.eq(address.to_string()))
            .count()
            .get_result(c)
            .await
            .map_err(DbError::query("looking for an address"))?;
        if taken > 0 {
            return Ok(None);
        }
    }
    Ok(None)
}
