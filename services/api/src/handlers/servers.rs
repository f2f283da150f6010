//! Servers: lists, one, delete.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use whimbrel_db::DbError;
use whimbrel_db::api::{self, ServerFilter, ServerRow};

use crate::auth::Context;
use crate::body::{Params, ServerId};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::{Base, Version};
use crate::views;

/// How often a deletion is tried when somebody else changes the server at the same moment.
const TRIES: usize = 5;

type Query = HashMap<String, String>;

/// Parameters that are heard.
const HEARD: [&str; 12] = [
    "name",
    "host",
    "status",
    "vm_state",
    "task_state",
    "power_state",
    "flavor",
    "image",
    "uuid",
    "limit",
    "marker",
    "all_tenants",
];

fn number(query: &Query, name: &str) -> Result<Option<i64>, ApiError> {
    let Some(text) = query.get(name) else { return Ok(None) };
    let number = text.parse::<i64>().ok().filter(|number| *number >= 0);
    let wrong = || {
        ApiError::BadRequest(format!(
            "Invalid input for query parameters {name}: '{text}' is not a whole number of 0 or more."
        ))
    };
    number.map(Some).ok_or_else(wrong)
}

/// The states that show as `status`. An unknown one is shown by no server.
fn states_of(status: &str) -> (Vec<String>, Vec<Option<String>>) {
    use whimbrel_model::InstanceState;
    let status = status.to_ascii_uppercase();
    let shown: Vec<InstanceState> =
        InstanceState::all().filter(|state| views::status(*state) == status).collect();
    let vm = shown.iter().map(|state| state.vm.to_string()).collect();
    let task = shown.iter().map(|state| state.task.map(|task| task.to_string())).collect();
    (vm, task)
}

fn filter(api: &Api, query: &Query) -> Result<ServerFilter, ApiError> {
    if let Some(unknown) = query.keys().find(|name| !HEARD.contains(&name.as_str())) {
        tracing::debug!(parameter = unknown, "not heard");
    }
    let text = |name: &str| query.get(name).cloned();
    let id = |name: &str| {
        let parse = |text: &String| {
            text.parse().map_err(|_| {
                ApiError::BadRequest(format!(
                    "Invalid input for query parameters {name}: '{text}' is not an id."
                ))
            })
        };
        query.get(name).map(parse).transpose()
    };
    let mut filter = ServerFilter {
        host: text("host"),
        name: text("name"),
        ids: id("uuid")?.map(|id| vec![id]),
        vm_states: text("vm_state").map(|state| vec![state.to_ascii_lowercase()]),
        task_states: text("task_state").map(|task| vec![(!task.is_empty()).then_some(task)]),
        flavor_id: text("flavor"),
        image_id: id("image")?,
        marker: id("marker")?,
        limit: api.limit(number(query, "limit")?),
        ..ServerFilter::default()
    };
    if let Some(power) = number(query, "power_state")? {
        let states = [
            (0, "nostate"),
            (1, "running"),
            (3, "paused"),
            (4, "shutdown"),
            (6, "crashed"),
            (7, "suspended"),
        ];
        let state = states.iter().find(|(number, _)| *number == power).map(|(_, name)| *name);
        filter.power_state = Some(state.unwrap_or("unknown").to_owned());
    }
    if let Some(status) = query.get("status") {
        let (vm, task) = states_of(status);
        filter.vm_states = Some(vm);
        filter.task_states = Some(task);
    }
    Ok(filter)
}

async fn rows(api: &Api, query: &Query) -> Result<(Vec<ServerRow>, bool), ApiError> {
    let mut filter = filter(api, query)?;
    let limit = filter.limit;
    // One more, to know whether there are more.
    filter.limit += 1;
    let listed = api::servers_list(&mut api.connection().await?, &filter).await;
    let mut rows = listed.map_err(|error| match error {
        DbError::NotFound { kind: "marker", id } => {
            ApiError::BadRequest(format!("marker [{id}] not found"))
        }
        other => other.into(),
    })?;
    if let Some(status) = query.get("status") {
        let status = status.to_ascii_uppercase();
        rows.retain(|row| views::status(row.state) == status);
    }
    let more = i64::try_from(rows.len()).is_ok_and(|count| count > limit);
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok((rows, more))
}

fn listing(
    servers: &[Value],
    last: Option<&ServerRow>,
    more: bool,
    base: &Base,
    path: &str,
) -> Json<Value> {
    let mut body = json!({ "servers": servers });
    if let Some(last) = last.filter(|_| more) {
        let href = format!("{}/v2.1/{path}?marker={}", base.0, last.id);
        body["servers_links"] = json!([{ "rel": "next", "href": href }]);
    }
    Json(body)
}

/// Lists servers.
#[utoipa::path(get, path = "/v2.1/servers", tag = "servers", responses((status = 200), (status = 400)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(query): Params<Query>,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let (rows, more) = rows(&api, &query).await?;
    let servers: Vec<Value> = rows.iter().map(|row| views::server_link(row, &base)).collect();
    Ok(listing(&servers, rows.last(), more, &base, "servers"))
}

/// Lists servers with all that is known of them.
#[utoipa::path(get, path = "/v2.1/servers/detail", tag = "servers",
    responses((status = 200), (status = 400)))]
pub(crate) async fn detail(
    State(api): State<Arc<Api>>,
    Params(query): Params<Query>,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let (rows, more) = rows(&api, &query).await?;
    let servers: Vec<Value> =
        rows.iter().map(|row| views::server(row, version, &base, false)).collect();
    Ok(listing(&servers, rows.last(), more, &base, "servers/detail"))
}

/// Shows a server.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}", tag = "servers",
    params(("server_id" = uuid::Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let row = api::server_get(&mut api.connection().await?, id).await?;
    Ok(Json(json!({ "server": views::server(&row, version, &base, true) })))
}

/// Deletes a server: at any moment and in every state. What is going on with it is called off, or comes to its
/// end, first.
#[utoipa::path(delete, path = "/v2.1/servers/{server_id}", tag = "servers",
    params(("server_id" = uuid::Uuid, Path)), responses((status = 204), (status = 404)))]
pub(crate) async fn delete(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    Context(caller): Context,
) -> Result<StatusCode, ApiError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let row = api::server_get(&mut api.connection().await?, id).await?;
        match api::delete_server(&api.database, &caller, &row).await {
            Ok(started) => {
                if let Some(started) = started {
                    api.sender.send(started.message);
                }
                return Ok(StatusCode::NO_CONTENT);
            }
            // An operation began or ended at this moment.
            Err(DbError::Stale { .. } | DbError::Busy { .. } | DbError::InstanceState(_))
                if tries < TRIES => {}
            Err(error) if error.is_transient() && tries < TRIES => {}
            Err(error) => return Err(error.into()),
        }
    }
}
