//! `/servers/{id}/os-instance-actions`: what was done with a server, step by step. Derived from its sagas and
//! their histories, so it can't differ from what really happened.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use whimbrel_db::api::{self, ActionRow, HistoryRow};
use whimbrel_model::MigrationType;

use crate::auth::Context;
use crate::body::{Params, ServerId, server_id};
use crate::error::ApiError;
use crate::state::Api;
use crate::time;
use crate::version::{Base, Version};
use crate::views::{self, plain};

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

fn message(row: &ActionRow, admin: bool) -> Option<String> {
    let ended_badly = matches!(row.phase.as_str(), "unwound" | "stuck");
    let fault = row.fault.as_ref().filter(|_| ended_badly)?;
    // The text may name hosts.
    Some(fault["message"].as_str().filter(|_| admin).unwrap_or("Error").to_owned())
}

fn view(row: &ActionRow, version: Version, admin: bool) -> Value {
    let mut view = json!({
        "action": name(row),
        "instance_uuid": row.instance_id,
        "request_id": row.request_id,
        "user_id": row.user_id,
        "project_id": row.project_id,
        "start_time": plain(row.created_at),
        "message": message(row, admin),
    });
    if version.since(58) {
        view["updated_at"] = json!(plain(row.updated_at));
    }
    view
}

/// One event for each step that was asked: from the entry that asked it to the one that settled it.
fn events(history: &[HistoryRow], version: Version, project: &str, admin: bool) -> Vec<Value> {
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
                // The text may name hosts.
                if !admin {
                    event["details"] = json!(null);
                }
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
            event["hostId"] =
                json!(host.map(|host| views::host_id(project, host)).unwrap_or_default());
            if admin {
                event["host"] = json!(host.unwrap_or_default());
            }
        }
        if version.since(84) {
            event["details"] = json!(null);
        }
        events.push(event);
    }
    events
}

/// Pages, from version 2.58; the time before, from 2.66.
#[derive(Deserialize)]
pub(crate) struct Query {
    limit: Option<u32>,
    /// A request's id.
    marker: Option<String>,
    #[serde(rename = "changes-since")]
    changes_since: Option<String>,
    #[serde(rename = "changes-before")]
    changes_before: Option<String>,
}

impl Query {
    /// Leaves the rows that are asked for, and says whether there are more.
    fn apply(
        &self,
        rows: &mut Vec<ActionRow>,
        version: Version,
        most: i64,
    ) -> Result<bool, ApiError> {
        if !version.since(58) {
            return Ok(false);
        }
        let before = self.changes_before.as_deref().filter(|_| version.since(66));
        let since = time::parse("changes-since", self.changes_since.as_deref())?;
        let before = time::parse("changes-before", before)?;
        rows.retain(|row| since.is_none_or(|since| row.updated_at >= since));
        rows.retain(|row| before.is_none_or(|before| row.updated_at <= before));
        if let Some(marker) = &self.marker {
            let position = rows.iter().position(|row| row.request_id == *marker);
            let none = || ApiError::BadRequest(format!("marker [{marker}] not found"));
            rows.drain(..=position.ok_or_else(none)?);
        }
        let limit = usize::try_from(most).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        Ok(more)
    }
}

/// Lists what was done with a server; from version 2.21 also with one that is deleted.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/os-instance-actions", tag = "servers",
    params(("server_id" = uuid::Uuid, Path)), responses((status = 200), (status = 400), (status = 404)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    Params(query): Params<Query>,
    context: Context,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let mut connection = api.connection().await?;
    let mut rows = api::actions_list(&mut connection, id, api.limit(None)).await?;
    if rows.is_empty() || !version.since(21) {
        api::server_get(&mut connection, id).await?;
    }
    let limit = api.limit(query.limit.map(i64::from));
    let more = query.apply(&mut rows, version, limit)?;
    let views: Vec<Value> = rows.iter().map(|row| view(row, version, context.is_admin())).collect();
    let mut body = json!({ "instanceActions": views });
    if let Some(last) = rows.last().filter(|_| more) {
        let path = format!("servers/{id}/os-instance-actions");
        let href = format!("{}/v2.1/{path}?limit={limit}&marker={}", base.0, last.request_id);
        body["links"] = json!([{ "rel": "next", "href": href }]);
    }
    Ok(Json(body))
}

/// Shows what was done by one request, step by step.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/os-instance-actions/{request_id}", tag = "servers",
    params(("server_id" = uuid::Uuid, Path), ("request_id" = String, Path)),
    responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path((server, request_id)): Path<(String, String)>,
    context: Context,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    let mut connection = api.connection().await?;
    let row = api::action_get(&mut connection, server_id(&server)?, &request_id).await?;
    let history = api::history_list(&mut connection, row.id).await?;
    let mut view = view(&row, version, context.is_admin());
    view["events"] = json!(events(&history, version, &row.project_id, context.is_admin()));
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
        let events = events(&history, Version(84), "p", true);
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
