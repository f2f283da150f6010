//! `/servers/{id}/os-instance-actions`: what was done with a server, step by step. Derived from its sagas and
//! their histories, so it can't differ from what really happened.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use whimbrel_db::api::{self, ActionRow, HistoryRow};
use whimbrel_model::MigrationType;

use crate::body::{ServerId, server_id};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::Version;
use crate::views::plain;

/// Nova's name of an operation.
fn name(row: &ActionRow) -> &str {
    match row.name.as_str() {
        "boot" => "create",
        // The same operation, of which a cold migration keeps the size.
        "resize" if row.migration_type == Some(MigrationType::Migration.to_string()) => "migrate",
        "live-migrate" => "live-migration",
        "confirm-resize" => "confirmResize",
        "revert-resize" => "revertResize",
        other => other,
    }
}

fn message(row: &ActionRow) -> Option<String> {
    let ended_badly = matches!(row.phase.as_str(), "unwound" | "stuck");
    let fault = row.fault.as_ref().filter(|_| ended_badly)?;
    Some(fault["message"].as_str().unwrap_or("Error").to_owned())
}

fn view(row: &ActionRow, version: Version) -> Value {
    let mut view = json!({
        "action": name(row),
        "instance_uuid": row.instance_id,
        "request_id": row.request_id,
        "user_id": row.user_id,
        "project_id": row.project_id,
        "start_time": plain(row.created_at),
        "message": message(row),
    });
    if version.since(58) {
        view["updated_at"] = json!(plain(row.updated_at));
    }
    view
}

/// One event for each step that was asked: from the entry that asked it to the one that settled it.
fn events(history: &[HistoryRow], version: Version) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    for HistoryRow { at, entry } in history {
        let kind = entry["kind"].as_str().unwrap_or_default();
        let settled = match kind {
            "done" | "undone" | "found_done" | "deferred" => Some("Success"),
            "refused" | "timed_out" | "stuck" | "cancelled" => Some("Error"),
            _ => None,
        };
        let open = events.last_mut().filter(|event| event["finish_time"].is_null());
        if let (Some(result), Some(event)) = (settled, open) {
            event["finish_time"] = json!(plain(*at));
            event["result"] = json!(result);
            if version.since(84) {
                event["details"] = entry["fault"]["message"].clone();
            }
        }
        let next = entry["next"].as_str().unwrap_or_default();
        if next.is_empty() || kind == "asked_again" {
            continue;
        }
        let host = entry["peer"]["compute"].as_str();
        let mut event = json!({
            "event": format!("{}_{}", if host.is_some() { "compute" } else { "scheduler" }, next.replace('-', "_")),
            "start_time": plain(*at),
            "finish_time": null,
            "result": null,
            "traceback": null,
        });
        if version.since(62) {
            event["host"] = json!(host);
            event["hostId"] = json!(host.unwrap_or_default());
        }
        if version.since(84) {
            event["details"] = json!(null);
        }
        events.push(event);
    }
    events
}

/// Lists what was done with a server; from version 2.21 also with one that is deleted.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/os-instance-actions", tag = "servers",
    params(("server_id" = uuid::Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    let mut connection = api.connection().await?;
    let rows = api::actions_list(&mut connection, id, api.limit(None)).await?;
    if rows.is_empty() || !version.since(21) {
        api::server_get(&mut connection, id).await?;
    }
    let views: Vec<Value> = rows.iter().map(|row| view(row, version)).collect();
    Ok(Json(json!({ "instanceActions": views })))
}

/// Shows what was done by one request, step by step.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/os-instance-actions/{request_id}", tag = "servers",
    params(("server_id" = uuid::Uuid, Path), ("request_id" = String, Path)),
    responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path((server, request_id)): Path<(String, String)>,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    let mut connection = api.connection().await?;
    let row = api::action_get(&mut connection, server_id(&server)?, &request_id).await?;
    let history = api::history_list(&mut connection, row.id).await?;
    let mut view = view(&row, version);
    view["events"] = json!(events(&history, version));
    Ok(Json(json!({ "instanceAction": view })))
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    #[test]
    fn each_step_is_one_event_with_its_outcome() {
        let row = |entry: Value| HistoryRow { at: Utc::now(), entry };
        let history = [
            row(json!({"kind": "started", "next": "select-destination", "peer": "scheduler"})),
            row(json!({"kind": "done", "next": "check-destination", "peer": {"compute": "b"}})),
            row(
                json!({"kind": "asked_again", "next": "check-destination", "peer": {"compute": "b"}}),
            ),
            row(json!({"kind": "refused", "next": "", "fault": {"message": "no bridge"}})),
        ];
        let events = events(&history, Version(84));
        let told: Vec<_> = events
            .iter()
            .map(|event| (event["event"].as_str().unwrap(), event["result"].as_str().unwrap()))
            .collect();
        let expected =
            [("scheduler_select_destination", "Success"), ("compute_check_destination", "Error")];
        assert_eq!(told, expected);
        assert_eq!(events[1]["details"], "no bridge");
        assert_eq!(events[1]["host"], "b");
    }
}
