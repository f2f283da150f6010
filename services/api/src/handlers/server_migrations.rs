//! The migrations of one server while they last: list, show, abort, force to complete.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use whimbrel_db::api::{self, MigrationFilter, MigrationRow, ServerRow};
use whimbrel_model::{MigrationStatus, MigrationType, TaskState, VmState};

use crate::auth::Context;
use crate::body::{Body, ServerId, server_id};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::Version;
use crate::views;

/// Lists a server's live migrations in progress: from `accepted` on, and in post-copy, too.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/migrations", tag = "migrations",
    params(("server_id" = uuid::Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    context: Context,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    version.require(23)?;
    let mut connection = api.connection().await?;
    api::server_get(&mut connection, id).await?;
    let filter = MigrationFilter {
        instance_id: Some(id),
        migration_type: Some(MigrationType::LiveMigration.to_string()),
        in_progress: true,
        limit: api.limit(None),
        ..MigrationFilter::default()
    };
    let rows = api::migrations_list(&mut connection, &filter).await?;
    let views: Vec<Value> =
        rows.iter().map(|row| views::server_migration(row, version, context.is_admin())).collect();
    Ok(Json(json!({ "migrations": views })))
}

async fn find(api: &Api, server: &str, id: &str) -> Result<(ServerRow, MigrationRow), ApiError> {
    let mut connection = api.connection().await?;
    let server = api::server_get(&mut connection, server_id(server)?).await?;
    let found = api::migration_get(&mut connection, server.id, id).await;
    let row = found.map_err(|error| match error {
        whimbrel_db::DbError::NotFound { .. } => ApiError::NotFound(format!(
            "Migration {id} for server {} could not be found.",
            server.id
        )),
        other => other.into(),
    })?;
    Ok((server, row))
}

/// Shows a live migration in progress.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/migrations/{migration_id}", tag = "migrations",
    params(("server_id" = uuid::Uuid, Path), ("migration_id" = String, Path)),
    responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path((server, id)): Path<(String, String)>,
    context: Context,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    version.require(23)?;
    let (server, row) = find(&api, &server, &id).await?;
    if row.migration_type != MigrationType::LiveMigration {
        return Err(ApiError::NotFound(format!(
            "Migration {id} for server {} is not live-migration.",
            server.id
        )));
    }
    if row.status.is_terminal() {
        return Err(ApiError::NotFound(format!(
            "Live migration {id} for server {} is not in progress.",
            server.id
        )));
    }
    Ok(Json(json!({ "migration": views::server_migration(&row, version, context.is_admin()) })))
}

/// Refuses where the server is not migrating, or the migration is not in one of `statuses`.
fn allowed(
    server: &ServerRow,
    row: &MigrationRow,
    statuses: &[MigrationStatus],
) -> Result<(), ApiError> {
    if !statuses.contains(&row.status) {
        return Err(ApiError::BadRequest(format!(
            "Migration {} state of instance {} is {}. Cannot do this while the migration is in this state.",
            row.number, server.id, row.status
        )));
    }
    Ok(())
}

/// Calls a migration off.
#[utoipa::path(delete, path = "/v2.1/servers/{server_id}/migrations/{migration_id}", tag = "migrations",
    params(("server_id" = uuid::Uuid, Path), ("migration_id" = String, Path)),
    responses((status = 202), (status = 400), (status = 404), (status = 409)))]
pub(crate) async fn abort(
    State(api): State<Arc<Api>>,
    Path((server, id)): Path<(String, String)>,
    version: Version,
) -> Result<StatusCode, ApiError> {
    version.require(24)?;
    let (server, row) = find(&api, &server, &id).await?;
    let running: &[MigrationStatus] = if version.since(65) {
        &[MigrationStatus::Accepted, MigrationStatus::Preparing, MigrationStatus::Running]
    } else {
        &[MigrationStatus::Running]
    };
    allowed(&server, &row, running)?;
    if server.state.task != Some(TaskState::Migrating) {
        let state = format!("task_state {}", server.state.task_text());
        return Err(ApiError::state("abort live migration", server.id, &state));
    }
    let started = api::abort_migration(&api.database, &row).await?;
    tracing::info!(instance.id = %server.id, migration.id = %row.id, "called off");
    api.sender.send(started.message);
    Ok(StatusCode::ACCEPTED)
}

/// Does something with a migration. The only key of the body says what: `force_complete`.
#[utoipa::path(post, path = "/v2.1/servers/{server_id}/migrations/{migration_id}/action", tag = "migrations",
    params(("server_id" = uuid::Uuid, Path), ("migration_id" = String, Path)),
    request_body(content = Object, example = json!({"force_complete": null})),
    responses((status = 202), (status = 400), (status = 404), (status = 409)))]
pub(crate) async fn action(
    State(api): State<Arc<Api>>,
    Path((server, id)): Path<(String, String)>,
    Context { caller, .. }: Context,
    version: Version,
    Body(body): Body<Map<String, Value>>,
) -> Result<StatusCode, ApiError> {
    version.require(22)?;
    let known = body.len() == 1 && body.get("force_complete").is_some_and(Value::is_null);
    if !known {
        return Err(ApiError::BadRequest(
            "Malformed request body: it must be {\"force_complete\": null}.".to_owned(),
        ));
    }
    let (server, row) = find(&api, &server, &id).await?;
    allowed(&server, &row, &[MigrationStatus::Running])?;
    if server.state.vm != VmState::Active || server.state.task != Some(TaskState::Migrating) {
        let state =
            format!("vm_state {} and task_state {}", server.state.vm, server.state.task_text());
        return Err(ApiError::state("force_complete", server.id, &state));
    }
    let started = api::force_complete(&api.database, &caller, &row).await?;
    tracing::info!(instance.id = %server.id, migration.id = %row.id, "forced to complete");
    api.sender.send(started.message);
    Ok(StatusCode::ACCEPTED)
}
