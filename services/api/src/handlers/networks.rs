//! Provider networks, in the shape of the Networking API v2: as much of it as clients ask for around servers.

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;
use whimbrel_db::api::{self, NetworkRow, NewNetwork};

use crate::body::{Body, Params};
use crate::error::ApiError;
use crate::state::Api;
use crate::views::zulu;

/// A request to make a network.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateNetwork {
    network: Wanted,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    /// The bridge that every host has.
    #[serde(rename = "provider:physical_network")]
    bridge: String,
    /// `10.0.0.0/24`.
    cidr: String,
    /// The first address that servers get; the second of the range if not given.
    #[schema(value_type = Option<String>)]
    pool_start: Option<Ipv4Addr>,
    /// The last address that servers get; the last but one of the range if not given.
    #[schema(value_type = Option<String>)]
    pool_end: Option<Ipv4Addr>,
}

#[derive(Deserialize)]
pub(crate) struct Filter {
    name: Option<String>,
    id: Option<Uuid>,
}

/// The first and the last address of `cidr`.
fn range(cidr: &str) -> Option<(u32, u32)> {
    let (address, length) = cidr.split_once('/')?;
    let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
    let length: u32 = length.parse().ok().filter(|length| (8..=30).contains(length))?;
    let hosts = (1u32 << (32 - length)) - 1;
    (address & hosts == 0).then_some((address, address | hosts))
}

impl Wanted {
    fn check(self) -> Result<NewNetwork, ApiError> {
        let invalid = |what: &str| ApiError::BadRequest(format!("Invalid network: {what}."));
        if self.name.is_empty() || self.name.len() > 255 {
            return Err(invalid("name must have 1 to 255 characters"));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !(1..=15).contains(&self.bridge.len()) || !self.bridge.chars().all(allowed) {
            return Err(invalid("provider:physical_network must be the name of a bridge"));
        }
        let (first, last) = range(&self.cidr).ok_or_else(|| {
            invalid("cidr must be an IPv4 range like 10.0.0.0/24, of length 8 to 30")
        })?;
        let start = self.pool_start.map_or(first + 2, u32::from);
        let end = self.pool_end.map_or(last - 1, u32::from);
        if !(first < start && start <= end && end < last) {
            return Err(invalid("pool_start and pool_end must be a range inside of cidr"));
        }
        Ok(NewNetwork {
            name: self.name,
            bridge: self.bridge,
            cidr: self.cidr,
            pool_start: Ipv4Addr::from(start),
            pool_end: Ipv4Addr::from(end),
        })
    }
}

fn view(row: &NetworkRow) -> Value {
    json!({
        "id": row.id,
        "name": row.name,
        "status": "ACTIVE",
        "admin_state_up": true,
        "shared": true,
        "router:external": false,
        "mtu": 1500,
        "provider:network_type": "flat",
        "provider:physical_network": row.bridge,
        "provider:segmentation_id": null,
        "subnets": [row.id],
        "project_id": "default",
        "tenant_id": "default",
        "created_at": zulu(row.created_at),
        "updated_at": zulu(row.created_at),
    })
}

/// Each network has one subnet, of the same id.
fn subnet(row: &NetworkRow) -> Value {
    json!({
        "id": row.id,
        "name": row.name,
        "network_id": row.id,
        "cidr": row.cidr,
        "ip_version": 4,
        "enable_dhcp": false,
        "gateway_ip": null,
        "dns_nameservers": [],
        "host_routes": [],
        "allocation_pools": [{ "start": row.pool_start, "end": row.pool_end }],
        "project_id": "default",
        "tenant_id": "default",
    })
}

async fn find(api: &Api, filter: &Filter) -> Result<Vec<NetworkRow>, ApiError> {
    let mut rows = api::networks_list(&mut api.connection().await?).await?;
    rows.retain(|row| {
        filter.name.as_ref().is_none_or(|name| *name == row.name)
            && filter.id.is_none_or(|id| id == row.id)
    });
    Ok(rows)
}

async fn get(api: &Api, id: &str) -> Result<NetworkRow, ApiError> {
    let none = || ApiError::NotFound(format!("Network {id} could not be found."));
    let id: Uuid = id.parse().map_err(|_| none())?;
    Ok(api::network_get(&mut api.connection().await?, id).await?)
}

/// Lists networks.
#[utoipa::path(get, path = "/v2.0/networks", tag = "networks", responses((status = 200)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(filter): Params<Filter>,
) -> Result<Json<Value>, ApiError> {
    let rows = find(&api, &filter).await?;
    Ok(Json(json!({ "networks": rows.iter().map(view).collect::<Vec<_>>() })))
}

/// Shows a network.
#[utoipa::path(get, path = "/v2.0/networks/{network_id}", tag = "networks",
    params(("network_id" = Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "network": view(&get(&api, &id).await?) })))
}

/// Makes a network.
#[utoipa::path(post, path = "/v2.0/networks", tag = "networks", request_body = CreateNetwork,
    responses((status = 201), (status = 400), (status = 409)))]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Body(request): Body<CreateNetwork>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let new = request.network.check()?;
    let row = api::network_create(&mut api.connection().await?, &new).await?;
    Ok((StatusCode::CREATED, Json(json!({ "network": view(&row) }))))
}

/// Deletes a network that no server is plugged into.
#[utoipa::path(delete, path = "/v2.0/networks/{network_id}", tag = "networks",
    params(("network_id" = Uuid, Path)),
    responses((status = 204), (status = 404), (status = 409)))]
pub(crate) async fn delete(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let row = get(&api, &id).await?;
    api::network_delete(&mut api.connection().await?, row.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists subnets.
#[utoipa::path(get, path = "/v2.0/subnets", tag = "networks", responses((status = 200)))]
pub(crate) async fn subnets(
    State(api): State<Arc<Api>>,
    Params(filter): Params<Filter>,
) -> Result<Json<Value>, ApiError> {
    let rows = find(&api, &filter).await?;
    Ok(Json(json!({ "subnets": rows.iter().map(subnet).collect::<Vec<_>>() })))
}

/// Shows a subnet.
#[utoipa::path(get, path = "/v2.0/subnets/{subnet_id}", tag = "networks",
    params(("subnet_id" = Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show_subnet(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "subnet": subnet(&get(&api, &id).await?) })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ranges_of_ipv4_addresses_are_ranges() {
        assert_eq!(range("10.0.0.0/24"), Some((0x0a00_0000, 0x0a00_00ff)));
        for bad in ["10.0.0.1/24", "10.0.0.0", "10.0.0.0/31", "10.0.0.0/7", "x/24", "::/64", ""] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }
}
