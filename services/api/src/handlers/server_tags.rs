//! `/servers/{id}/tags`: words that users give to servers, from version 2.26.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use whimbrel_db::api;

use crate::body::{Body, ServerId, server_id};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::{Base, Version};

/// The version that brought tags.
const SINCE: u16 = 26;
/// Most tags of one server.
const MOST: usize = 50;

/// Refuses words that can't be tags, and too many.
pub(crate) fn check(tags: &[String]) -> Result<(), ApiError> {
    let bad =
        |tag: &&String| tag.is_empty() || tag.chars().count() > 60 || tag.contains(['/', ',']);
    if let Some(tag) = tags.iter().find(bad) {
        return Err(ApiError::BadRequest(format!(
            "Invalid tag '{tag}': it must have 1 to 60 characters, and no slash or comma."
        )));
    }
    if sorted(tags).len() > MOST {
        return Err(ApiError::BadRequest(format!("A server can have {MOST} tags at most.")));
    }
    Ok(())
}

/// Each once, in order.
pub(crate) fn sorted(tags: &[String]) -> Vec<String> {
    tags.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

/// All tags of a server.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tags {
    tags: Vec<String>,
}

/// Lists a server's tags.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/tags", tag = "servers",
    params(("server_id" = uuid::Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    version.require(SINCE)?;
    let server = api::server_get(&mut api.connection().await?, id).await?;
    Ok(Json(json!({ "tags": server.tags })))
}

/// Replaces all of a server's tags.
#[utoipa::path(put, path = "/v2.1/servers/{server_id}/tags", tag = "servers", request_body = Tags,
    params(("server_id" = uuid::Uuid, Path)), responses((status = 200), (status = 400), (status = 404)))]
pub(crate) async fn replace(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    version: Version,
    Body(request): Body<Tags>,
) -> Result<Json<Value>, ApiError> {
    version.require(SINCE)?;
    check(&request.tags)?;
    let all: BTreeSet<String> = request.tags.into_iter().collect();
    let change = |_| Ok::<_, ApiError>(all);
    let tags = api::server_tags(&mut api.connection().await?, id, change).await??;
    Ok(Json(json!({ "tags": tags })))
}

/// Removes all of a server's tags.
#[utoipa::path(delete, path = "/v2.1/servers/{server_id}/tags", tag = "servers",
    params(("server_id" = uuid::Uuid, Path)), responses((status = 204), (status = 404)))]
pub(crate) async fn clear(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    version: Version,
) -> Result<StatusCode, ApiError> {
    version.require(SINCE)?;
    let change = |_| Ok::<_, ApiError>(BTreeSet::new());
    api::server_tags(&mut api.connection().await?, id, change).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Says whether a server has a tag.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/tags/{tag}", tag = "servers",
    params(("server_id" = uuid::Uuid, Path), ("tag" = String, Path)),
    responses((status = 204), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path((server, tag)): Path<(String, String)>,
    version: Version,
) -> Result<StatusCode, ApiError> {
    version.require(SINCE)?;
    let server = api::server_get(&mut api.connection().await?, server_id(&server)?).await?;
    if server.tags.contains(&tag) { Ok(StatusCode::NO_CONTENT) } else { Err(none(&tag)) }
}

fn none(tag: &str) -> ApiError {
    ApiError::NotFound(format!("The server has no tag '{tag}'."))
}

/// Gives a server a tag: 201, or 204 if it had it.
#[utoipa::path(put, path = "/v2.1/servers/{server_id}/tags/{tag}", tag = "servers",
    params(("server_id" = uuid::Uuid, Path), ("tag" = String, Path)),
    responses((status = 201), (status = 204), (status = 400), (status = 404)))]
pub(crate) async fn add(
    State(api): State<Arc<Api>>,
    Path((server, tag)): Path<(String, String)>,
    version: Version,
    base: Base,
) -> Result<Response, ApiError> {
    version.require(SINCE)?;
    let id = server_id(&server)?;
    let location = format!("{}/v2.1/servers/{id}/tags/{tag}", base.0);
    let mut new = false;
    let change = |mut tags: BTreeSet<String>| {
        new = tags.insert(tag);
        check(&tags.iter().cloned().collect::<Vec<_>>()).map(|()| tags)
    };
    api::server_tags(&mut api.connection().await?, id, change).await??;
    Ok(if new {
        (StatusCode::CREATED, [("location", location)]).into_response()
    } else {
        StatusCode::NO_CONTENT.into_response()
    })
}

/// Takes a tag from a server.
#[utoipa::path(delete, path = "/v2.1/servers/{server_id}/tags/{tag}", tag = "servers",
    params(("server_id" = uuid::Uuid, Path), ("tag" = String, Path)),
    responses((status = 204), (status = 404)))]
pub(crate) async fn remove(
    State(api): State<Arc<Api>>,
    Path((server, tag)): Path<(String, String)>,
    version: Version,
) -> Result<StatusCode, ApiError> {
    version.require(SINCE)?;
    let id = server_id(&server)?;
    let change = |mut tags: BTreeSet<String>| {
        if tags.remove(&tag) { Ok(tags) } else { Err(none(&tag)) }
    };
    api::server_tags(&mut api.connection().await?, id, change).await??;
    Ok(StatusCode::NO_CONTENT)
}
