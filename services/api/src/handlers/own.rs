//! What the Compute API has no place for: the whole of a migration, allocations, work that was put off.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use whimbrel_db::api;

use crate::body::server_id;
use crate::error::ApiError;
use crate::state::Api;
use crate::views::zulu;

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
    let figures = |[total, processed, remaining]: [Option<i64>; 3]| json!({ "total_bytes": total, "processed_bytes": processed, "remaining_bytes": remaining });
    let operation = saga.map(|saga| {
        json!({
            "phase": saga.phase, "step": saga.step, "direction": saga.dir, "round": saga.round,
            "fault": saga.fault,
        })
    });
    Ok(Json(json!({ "migration": {
        "id": row.id,
        "number": row.number,
        "server_id": row.instance_id,
        "migration_type": row.migration_type,
        "status": row.status,
        "source": row.source_compute,
        "destination": row.dest_compute,
        "memory": figures(row.memory),
        "disk": figures(row.disk),
        "total_ms": row.total_ms,
        "downtime_ms": row.downtime_ms,
        "operation": operation,
        "created_at": zulu(row.created_at),
        "updated_at": zulu(row.updated_at),
    } })))
}

/// Lists who holds what on which host.
#[utoipa::path(get, path = "/v1/allocations", tag = "own", responses((status = 200)))]
pub(crate) async fn allocations(State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    let rows = api::allocations_list(&mut api.connection().await?).await?;
    let view = |row: &api::AllocationRow| {
        json!({
            "consumer": row.consumer, "host": row.host, "server_id": row.instance_id,
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
            "host": row.host, "server_id": row.instance_id, "operation": row.saga_id, "step": row.step,
            "tries": row.tries, "created_at": zulu(row.created_at),
        })
    };
    Ok(Json(json!({ "obligations": rows.iter().map(view).collect::<Vec<_>>() })))
}
