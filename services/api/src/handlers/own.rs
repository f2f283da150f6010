//! What the Compute API has no place for: the whole of a migration, allocations, work that was put off.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;
use whimbrel_db::api;

use crate::body::{Params, server_id};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::MAX;
use crate::views::{self, zulu};

/// Shows a migration, in progress or ended, with its times, bytes and the step it is at.
#[utoipa::path(get, path = "/v1/servers/{server_id}/migrations/{migration_id}", tag = "own",
    params(("server_id" = uuid::Uuid, Path), ("migration_id" = String, Path)),
    responses((status = 200), (status = 404)))]
pub(crate) async fn migration(
    State(api): State<Arc<Api>>,
    Path((server, id)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let mut connection = api.connection().await?;
    let row = api::migration_get(&mut connection, server_id(&server)?, &id).await?;
    let saga = api::migration_saga(&mut connection, &row).await?;
    let mut view = views::server_migration(&row, MAX, true);
    view["migration_type"] = json!(row.migration_type);
    view["total_ms"] = json!(row.total_ms);
    view["downtime_ms"] = json!(row.downtime_ms);
    let (old, new) = row.flavors.as_ref().map(|(old, new)| (old, new)).unzip();
    view["old_flavor"] = json!(old.map(api::flavor_with_server));
    view["new_flavor"] = json!(new.map(api::flavor_with_server));
    view["operation"] = json!(saga.map(|saga| {
        json!({
            "phase": saga.phase, "step": saga.step, "direction": saga.dir, "round": saga.round,
            "fault": saga.fault,
        })
    }));
    Ok(Json(json!({ "migration": view })))
}

#[derive(Deserialize)]
pub(crate) struct OfInstance {
    instance_id: Option<Uuid>,
}

/// Lists who holds what on which host: all, or for one `instance_id`.
#[utoipa::path(get, path = "/v1/allocations", tag = "own", responses((status = 200)))]
pub(crate) async fn allocations(
    State(api): State<Arc<Api>>,
    Params(query): Params<OfInstance>,
) -> Result<Json<Value>, ApiError> {
    let mut rows = api::allocations_list(&mut api.connection().await?).await?;
    rows.retain(|row| query.instance_id.is_none_or(|id| id == row.instance_id));
    let view = |row: &api::AllocationRow| {
        json!({
            "consumer": row.consumer, "host": row.host, "instance_id": row.instance_id,
            "vcpus": row.vcpus, "memory_mib": row.memory_mib, "disk_gib": row.disk_gib,
        })
    };
    Ok(Json(json!({ "allocations": rows.iter().map(view).collect::<Vec<_>>() })))
}

/// Lists work that was put off until a host is back.
#[utoipa::path(get, path = "/v1/obligations", tag = "own", responses((status = 200)))]
pub(crate) async fn obligations(State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    let rows = api::obligations_list(&mut api.connection().await?).await?;
    let view = |row: &api::ObligationRow| {
        json!({
            "host": row.host, "instance_id": row.instance_id, "operation": row.saga_id, "step": row.step,
            "tries": row.tries, "created_at": zulu(row.created_at),
        })
    };
    Ok(Json(json!({ "obligations": rows.iter().map(view).collect::<Vec<_>>() })))
}

/// Lists which invariants do not hold: none, if all is well.
#[utoipa::path(get, path = "/v1/consistency", tag = "own", responses((status = 200)))]
pub(crate) async fn consistency(State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    let found = whimbrel_db::consistency::violations(&mut api.connection().await?).await?;
    let view = |one: &whimbrel_db::consistency::Violation| json!({ "invariant": one.invariant, "detail": one.detail });
    Ok(Json(json!({ "violations": found.iter().map(view).collect::<Vec<_>>() })))
}
