//! Small answers that clients ask for: limits, zones, extensions, key pairs; and health.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use whimbrel_db::api;

use crate::error::ApiError;
use crate::state::Api;

/// There are no quotas yet: nothing is limited.
#[utoipa::path(get, path = "/v2.1/limits", tag = "misc", responses((status = 200)))]
pub(crate) async fn limits() -> Json<Value> {
    let unlimited = [
        "maxTotalInstances",
        "maxTotalCores",
        "maxTotalRAMSize",
        "maxServerMeta",
        "maxTotalKeypairs",
        "maxServerGroups",
        "maxServerGroupMembers",
    ];
    let mut absolute: serde_json::Map<String, Value> =
        unlimited.iter().map(|name| ((*name).to_owned(), json!(-1))).collect();
    for used in ["totalInstancesUsed", "totalCoresUsed", "totalRAMUsed", "totalServerGroupsUsed"] {
        absolute.insert(used.to_owned(), json!(0));
    }
    Json(json!({ "limits": { "rate": [], "absolute": absolute } }))
}

/// There is one availability zone.
#[utoipa::path(get, path = "/v2.1/os-availability-zone", tag = "misc", responses((status = 200)))]
pub(crate) async fn zones() -> Json<Value> {
    let zone = json!({ "zoneName": "nova", "zoneState": { "available": true }, "hosts": null });
    Json(json!({ "availabilityZoneInfo": [zone] }))
}

/// There is one availability zone; its hosts.
#[utoipa::path(get, path = "/v2.1/os-availability-zone/detail", tag = "misc", responses((status = 200)))]
pub(crate) async fn zones_detail(State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    let down = api.config.service_down_time_ms;
    let rows = api::hosts_list(&mut api.connection().await?, down).await?;
    let host = |row: &api::HostRow| {
        let service = json!({
            "active": row.status == whimbrel_model::ServiceStatus::Enabled,
            "available": row.up,
            "updated_at": row.reported_at.map(crate::views::plain),
        });
        (row.name.clone(), json!({ "nova-compute": service }))
    };
    let hosts: serde_json::Map<String, Value> = rows.iter().map(host).collect();
    let zone = json!({ "zoneName": "nova", "zoneState": { "available": true }, "hosts": hosts });
    Ok(Json(json!({ "availabilityZoneInfo": [zone] })))
}

/// There are no extensions: what is offered is in the API itself.
#[utoipa::path(get, path = "/v2.1/extensions", tag = "misc", responses((status = 200)))]
pub(crate) async fn extensions() -> Json<Value> {
    Json(json!({ "extensions": [] }))
}

/// There are no aggregates yet.
#[utoipa::path(get, path = "/v2.1/os-aggregates", tag = "misc", responses((status = 200)))]
pub(crate) async fn aggregates() -> Json<Value> {
    Json(json!({ "aggregates": [] }))
}

/// The process answers.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200)))]
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// The database answers, and has the schema that this release expects.
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200), (status = 503)))]
pub(crate) async fn readyz(State(api): State<Arc<Api>>) -> (StatusCode, String) {
    let asked = match api.database.connection().await {
        Ok(mut connection) => api::flavors_list(&mut connection).await.map(drop),
        Err(error) => Err(error),
    };
    match asked {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("database: {error}\n")),
    }
}
