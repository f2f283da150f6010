//! `/os-services`: which services there are, and what operators say of compute services.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::{TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use whimbrel_db::DbError;
use whimbrel_db::api::{self, HostRow, HostUpdate, ServiceRow};
use whimbrel_model::ServiceStatus;

use crate::body::{Body, Params};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::Version;
use crate::views::plain;

/// The name that clients know compute services by.
const COMPUTE: &str = "nova-compute";

#[derive(Deserialize)]
pub(crate) struct Query {
    host: Option<String>,
    binary: Option<String>,
}

fn word(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

fn compute(host: &HostRow, version: Version, zones: &HashMap<String, String>) -> Value {
    let mut view = json!({
        "id": if version.since(53) { json!(host.service_id) } else { json!(host.number) },
        "binary": COMPUTE,
        "host": host.name,
        "zone": zones.get(&host.name).map_or(api::DEFAULT_ZONE, String::as_str),
        "status": host.status,
        "state": word(host.up),
        "updated_at": host.reported_at.map(plain),
        "disabled_reason": host.disabled_reason,
    });
    if version.since(11) {
        view["forced_down"] = json!(host.forced_down);
    }
    view
}

/// Services without a hypervisor say every ten seconds that they live; this is the least that may pass.
const LEAST_DOWN_MS: i64 = 30_000;

fn other(row: &ServiceRow, version: Version, down_after_ms: i64) -> Value {
    let down_after_ms = down_after_ms.max(LEAST_DOWN_MS);
    let up = Utc::now() - row.reported_at < TimeDelta::milliseconds(down_after_ms);
    let mut view = json!({
        "id": if version.since(53) { json!(row.id) } else { json!(row.number) },
        "binary": row.binary_name.replace("whimbrel-", "nova-"),
        "host": row.host,
        "zone": "internal",
        "status": ServiceStatus::Enabled,
        "state": word(up),
        "updated_at": plain(row.reported_at),
        "disabled_reason": null,
    });
    if version.since(11) {
        view["forced_down"] = json!(false);
    }
    view
}

/// Lists services.
#[utoipa::path(get, path = "/v2.1/os-services", tag = "hosts", responses((status = 200)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(query): Params<Query>,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    let down = api.config.service_down_time_ms;
    let mut connection = api.connection().await?;
    let hosts = api::hosts_list(&mut connection, down).await?;
    let others = api::services_list(&mut connection).await?;
    let zones = api::zones_of_hosts(&mut connection).await?;
    let mut views: Vec<Value> = hosts.iter().map(|host| compute(host, version, &zones)).collect();
    views.extend(others.iter().map(|row| other(row, version, down)));
    views.retain(|view| {
        query.host.as_ref().is_none_or(|host| view["host"] == **host)
            && query.binary.as_ref().is_none_or(|binary| view["binary"] == **binary)
    });
    Ok(Json(json!({ "services": views })))
}

/// A change of a compute service.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Update {
    /// `enabled` or `disabled`.
    #[schema(value_type = Option<String>)]
    status: Option<ServiceStatus>,
    disabled_reason: Option<String>,
    forced_down: Option<bool>,
}

/// Changes a compute service, from version 2.53.
#[utoipa::path(put, path = "/v2.1/os-services/{service_id}", tag = "hosts", request_body = Update,
    params(("service_id" = String, Path)), responses((status = 200), (status = 400), (status = 404)))]
pub(crate) async fn update(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    version: Version,
    Body(request): Body<Update>,
) -> Result<Json<Value>, ApiError> {
    version.require(53)?;
    let invalid =
        |what: &str| ApiError::BadRequest(format!("Invalid change of a service: {what}."));
    if request.status.is_none() && request.forced_down.is_none() {
        return Err(invalid("say status or forced_down"));
    }
    if request.disabled_reason.is_some() && request.status != Some(ServiceStatus::Disabled) {
        return Err(invalid("disabled_reason goes with status disabled only"));
    }
    if request
        .disabled_reason
        .as_ref()
        .is_some_and(|reason| reason.is_empty() || reason.len() > 255)
    {
        return Err(invalid("disabled_reason must have 1 to 255 characters"));
    }
    if id.parse::<uuid::Uuid>().is_err() {
        return Err(ApiError::BadRequest(format!("Invalid uuid {id}")));
    }
    let host = find(&api, &id).await?;
    let update = HostUpdate {
        status: request.status,
        disabled_reason: request.disabled_reason,
        forced_down: request.forced_down,
    };
    let changed = apply(&api, &host.name, &update).await?;
    let zones = api::zones_of_hosts(&mut api.connection().await?).await?;
    Ok(Json(json!({ "service": compute(&changed, version, &zones) })))
}

async fn find(api: &Api, id: &str) -> Result<HostRow, ApiError> {
    let down = api.config.service_down_time_ms;
    let found = api::host_get(&mut api.connection().await?, id, down).await;
    found.map_err(|error| match error {
        DbError::NotFound { .. } => ApiError::NotFound(format!("Service {id} could not be found.")),
        other => other.into(),
    })
}

async fn apply(api: &Api, host: &str, update: &HostUpdate) -> Result<HostRow, ApiError> {
    let mut connection = api.connection().await?;
    let changed = api::host_update(&mut connection, host, update).await;
    changed.map_err(|error| match error {
        DbError::InUse { .. } => ApiError::BadRequest(format!("{error}.")),
        other => other.into(),
    })?;
    tracing::info!(host, ?update, "compute service changed");
    Ok(api::host_get(&mut connection, host, api.config.service_down_time_ms).await?)
}

/// A change of a compute service, as before version 2.53.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OldUpdate {
    host: String,
    binary: String,
    disabled_reason: Option<String>,
    forced_down: Option<bool>,
}

/// Changes a compute service, up to version 2.52: `enable`, `disable`, `disable-log-reason`, `force-down`.
pub(crate) async fn old_update(
    State(api): State<Arc<Api>>,
    Path(verb): Path<String>,
    version: Version,
    Body(request): Body<OldUpdate>,
) -> Result<Json<Value>, ApiError> {
    version.until(53)?;
    if request.binary != COMPUTE {
        return Err(ApiError::NotFound(format!("Service {} could not be found.", request.binary)));
    }
    find(&api, &request.host).await?;
    let missing = |what: &str| {
        ApiError::BadRequest(format!("Invalid change of a service: {what} is missing."))
    };
    let mut update = HostUpdate::default();
    match verb.as_str() {
        "enable" => update.status = Some(ServiceStatus::Enabled),
        "disable" => update.status = Some(ServiceStatus::Disabled),
        "disable-log-reason" => {
            update.status = Some(ServiceStatus::Disabled);
            let reason = request.disabled_reason.ok_or_else(|| missing("disabled_reason"))?;
            update.disabled_reason = Some(reason);
        }
        "force-down" => {
            version.require(11)?;
            let forced_down = request.forced_down.ok_or_else(|| missing("forced_down"))?;
            update.forced_down = Some(forced_down);
        }
        other => return Err(ApiError::NotFound(format!("Unknown action {other}."))),
    }
    let changed = apply(&api, &request.host, &update).await?;
    let mut view = compute(&changed, version.max(Version(11)), &HashMap::new());
    let of_verb = match verb.as_str() {
        "disable-log-reason" => &["status", "disabled_reason"][..],
        "force-down" => &["forced_down"],
        _ => &["status"],
    };
    if let Some(view) = view.as_object_mut() {
        view.retain(|name, _| {
            ["binary", "host"].contains(&name.as_str()) || of_verb.contains(&name.as_str())
        });
    }
    Ok(Json(json!({ "service": view })))
}

/// `PUT /os-services/{what}`: an id from 2.53 on, a verb before.
pub(crate) async fn put(
    state: State<Arc<Api>>,
    path: Path<String>,
    version: Version,
    Body(body): Body<Value>,
) -> Result<Json<Value>, ApiError> {
    let bytes = body.to_string();
    if version.since(53) {
        update(state, path, version, Body(crate::body::parse(bytes.as_bytes())?)).await
    } else {
        old_update(state, path, version, Body(crate::body::parse(bytes.as_bytes())?)).await
    }
}

/// Forgets a compute service that has nothing left.
#[utoipa::path(delete, path = "/v2.1/os-services/{service_id}", tag = "hosts",
    params(("service_id" = String, Path)), responses((status = 204), (status = 404), (status = 409)))]
pub(crate) async fn delete(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let host = find(&api, &id).await?;
    api::host_delete(&api.database, &host.name).await?;
    Ok(StatusCode::NO_CONTENT)
}
