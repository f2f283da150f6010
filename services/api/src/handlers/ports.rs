//! Ports and the little else of the Networking API v2 that clients ask for around servers.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;
use whimbrel_db::api::{self, PortView};

use crate::auth::Context;
use crate::body::{Params, ServerId, server_id};
use crate::error::ApiError;
use crate::state::Api;

#[derive(Deserialize)]
pub(crate) struct Filter {
    id: Option<Uuid>,
    device_id: Option<String>,
    network_id: Option<Uuid>,
    mac_address: Option<String>,
    project_id: Option<String>,
    tenant_id: Option<String>,
    device_owner: Option<String>,
    name: Option<String>,
    #[serde(rename = "binding:host_id")]
    host: Option<String>,
}

const OWNER: &str = "compute:nova";

fn view(row: &PortView, admin: bool) -> Value {
    let port = &row.port;
    let mut view = json!({
        "id": port.id,
        "name": "",
        "network_id": port.network_id,
        "mac_address": port.mac,
        "fixed_ips": [{ "subnet_id": port.network_id, "ip_address": port.address }],
        "device_id": row.instance_id,
        "device_owner": OWNER,
        "status": if row.host.is_some() { "ACTIVE" } else { "DOWN" },
        "admin_state_up": true,
        "port_security_enabled": false,
        "security_groups": [],
        "allowed_address_pairs": [],
        "description": "",
        "tags": [],
        "project_id": row.project_id,
        "tenant_id": row.project_id,
    });
    if admin {
        view["binding:host_id"] = json!(row.host.as_deref().unwrap_or_default());
        view["binding:vif_type"] = json!("bridge");
        view["binding:vnic_type"] = json!("normal");
    }
    view
}

async fn rows(api: &Api, context: &Context) -> Result<Vec<PortView>, ApiError> {
    let project = context.project(context.is_admin());
    Ok(api::ports_list(&mut api.connection().await?, project.as_deref()).await?)
}

/// Lists ports.
#[utoipa::path(get, path = "/v2.0/ports", tag = "networks", responses((status = 200)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(filter): Params<Filter>,
    context: Context,
) -> Result<Json<Value>, ApiError> {
    let mut rows = rows(&api, &context).await?;
    let project = filter.project_id.as_ref().or(filter.tenant_id.as_ref());
    rows.retain(|row| {
        filter.id.is_none_or(|id| row.port.id == id)
            && filter.device_id.as_ref().is_none_or(|id| row.instance_id.to_string() == *id)
            && filter.network_id.is_none_or(|id| row.port.network_id == id)
            && filter.mac_address.as_ref().is_none_or(|mac| row.port.mac == *mac)
            && filter.device_owner.as_ref().is_none_or(|owner| owner == OWNER)
            && filter.host.as_ref().is_none_or(|host| row.host.as_ref() == Some(host))
            && filter.name.as_ref().is_none_or(String::is_empty)
            && project.is_none_or(|project| row.project_id == *project)
    });
    let admin = context.is_admin();
    let views: Vec<Value> = rows.iter().map(|row| view(row, admin)).collect();
    Ok(Json(json!({ "ports": views })))
}

/// Shows a port.
#[utoipa::path(get, path = "/v2.0/ports/{port_id}", tag = "networks",
    params(("port_id" = Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    context: Context,
) -> Result<Json<Value>, ApiError> {
    let rows = rows(&api, &context).await?;
    let row = rows.iter().find(|row| row.port.id.to_string() == id);
    let none = || ApiError::NotFound(format!("Port {id} could not be found."));
    Ok(Json(json!({ "port": view(row.ok_or_else(none)?, context.is_admin()) })))
}

/// The extensions of the Networking API that are there, as far as clients ask.
pub(crate) async fn extensions() -> Json<Value> {
    let extension = |alias: &str, name: &str| {
        json!({ "alias": alias, "name": name, "description": name, "updated": "2013-01-01T00:00:00-00:00",
                "links": [] })
    };
    let extensions =
        [extension("provider", "Provider Network"), extension("external-net", "External network")];
    Json(json!({ "extensions": extensions }))
}

/// There are no security groups, routers or floating addresses.
pub(crate) async fn nothing(Path(kind): Path<String>) -> Result<Json<Value>, ApiError> {
    match kind.as_str() {
        "security-groups" | "routers" | "floatingips" | "subnetpools" | "trunks" | "segments" => {
            Ok(Json(json!({ kind.replace('-', "_"): [] })))
        }
        _ => Err(ApiError::NotFound(format!("There is nothing at /v2.0/{kind}."))),
    }
}

fn attachment(row: &PortView) -> Value {
    json!({
        "port_id": row.port.id,
        "net_id": row.port.network_id,
        "mac_addr": row.port.mac,
        "port_state": if row.host.is_some() { "ACTIVE" } else { "DOWN" },
        "fixed_ips": [{ "subnet_id": row.port.network_id, "ip_address": row.port.address }],
    })
}

/// Lists a server's interfaces.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/os-interface", tag = "servers",
    params(("server_id" = Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn interfaces(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    context: Context,
) -> Result<Json<Value>, ApiError> {
    api::server_get(&mut api.connection().await?, id).await?;
    let rows = rows(&api, &context).await?;
    let own = rows.iter().filter(|row| row.instance_id == id);
    Ok(Json(json!({ "interfaceAttachments": own.map(attachment).collect::<Vec<_>>() })))
}

/// Shows an interface of a server.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/os-interface/{port_id}", tag = "servers",
    params(("server_id" = Uuid, Path), ("port_id" = Uuid, Path)),
    responses((status = 200), (status = 404)))]
pub(crate) async fn interface(
    State(api): State<Arc<Api>>,
    Path((server, port)): Path<(String, String)>,
    context: Context,
) -> Result<Json<Value>, ApiError> {
    let id = server_id(&server)?;
    let rows = rows(&api, &context).await?;
    let row = rows.iter().find(|row| row.instance_id == id && row.port.id.to_string() == port);
    let none = || ApiError::NotFound(format!("Port {port} of server {id} could not be found."));
    Ok(Json(json!({ "interfaceAttachment": attachment(row.ok_or_else(none)?) })))
}
