//! `/servers/{id}/metadata`: names and values that users give to servers.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;
use whimbrel_db::api;

use crate::auth::Context;
use crate::body::{Body, ServerId, server_id};
use crate::error::ApiError;
use crate::state::Api;

/// Most items where no quota says less.
const MOST: usize = 128;

/// Items to set.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Items {
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// One item to set.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Item {
    #[schema(value_type = Object)]
    meta: Map<String, Value>,
}

fn check(items: &Map<String, Value>) -> Result<(), ApiError> {
    let allowed = |c: char| c.is_alphanumeric() || "-_:. ".contains(c);
    for (name, value) in items {
        let good = (1..=255).contains(&name.chars().count()) && name.chars().all(allowed);
        if !good || value.as_str().is_none_or(|value| value.chars().count() > 255) {
            return Err(ApiError::BadRequest(format!(
                "Invalid metadata '{name}': names have 1 to 255 letters, digits, spaces or any of -_:. and values \
                 are texts of at most 255 characters."
            )));
        }
    }
    Ok(())
}

/// What the project may have.
async fn most(api: &Api, context: &Context) -> Result<usize, ApiError> {
    let limits = super::quotas::limits(api, &context.caller.project_id).await?;
    let limit = limits.get("metadata_items").copied().unwrap_or(-1);
    Ok(usize::try_from(limit).unwrap_or(MOST))
}

async fn change(
    api: &Api,
    id: Uuid,
    most: usize,
    change: impl FnOnce(&mut Map<String, Value>) -> Result<(), ApiError> + Send,
) -> Result<Map<String, Value>, ApiError> {
    let change = |mut items: Map<String, Value>| {
        change(&mut items)?;
        if items.len() > most {
            return Err(ApiError::Forbidden(format!(
                "Maximum number of metadata items exceeds {most}."
            )));
        }
        Ok(items)
    };
    api::server_metadata(&mut api.connection().await?, id, change).await?
}

/// Lists a server's metadata.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/metadata", tag = "servers",
    params(("server_id" = uuid::Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
) -> Result<Json<Value>, ApiError> {
    let server = api::server_get(&mut api.connection().await?, id).await?;
    Ok(Json(json!({ "metadata": server.metadata })))
}

/// Sets items of a server's metadata; others stay.
#[utoipa::path(post, path = "/v2.1/servers/{server_id}/metadata", tag = "servers", request_body = Items,
    params(("server_id" = uuid::Uuid, Path)),
    responses((status = 200), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub(crate) async fn update(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    context: Context,
    Body(request): Body<Items>,
) -> Result<Json<Value>, ApiError> {
    check(&request.metadata)?;
    super::server_lock::unlocked(&api, &context, id).await?;
    let most = most(&api, &context).await?;
    let set = |items: &mut Map<String, Value>| {
        items.extend(request.metadata);
        Ok(())
    };
    Ok(Json(json!({ "metadata": change(&api, id, most, set).await? })))
}

/// Replaces all of a server's metadata.
#[utoipa::path(put, path = "/v2.1/servers/{server_id}/metadata", tag = "servers", request_body = Items,
    params(("server_id" = uuid::Uuid, Path)),
    responses((status = 200), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub(crate) async fn replace(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    context: Context,
    Body(request): Body<Items>,
) -> Result<Json<Value>, ApiError> {
    check(&request.metadata)?;
    super::server_lock::unlocked(&api, &context, id).await?;
    let most = most(&api, &context).await?;
    let set = |items: &mut Map<String, Value>| {
        *items = request.metadata;
        Ok(())
    };
    Ok(Json(json!({ "metadata": change(&api, id, most, set).await? })))
}

fn none(name: &str) -> ApiError {
    ApiError::NotFound(format!("Metadata item was not found: {name}"))
}

/// Shows one item of a server's metadata.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/metadata/{name}", tag = "servers",
    params(("server_id" = uuid::Uuid, Path), ("name" = String, Path)),
    responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path((server, name)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let server = api::server_get(&mut api.connection().await?, server_id(&server)?).await?;
    let value = server.metadata.get(&name).ok_or_else(|| none(&name))?;
    Ok(Json(json!({ "meta": { name: value } })))
}

/// Sets one item of a server's metadata.
#[utoipa::path(put, path = "/v2.1/servers/{server_id}/metadata/{name}", tag = "servers", request_body = Item,
    params(("server_id" = uuid::Uuid, Path), ("name" = String, Path)),
    responses((status = 200), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub(crate) async fn set(
    State(api): State<Arc<Api>>,
    Path((server, name)): Path<(String, String)>,
    context: Context,
    Body(request): Body<Item>,
) -> Result<Json<Value>, ApiError> {
    let id = server_id(&server)?;
    check(&request.meta)?;
    if request.meta.len() != 1 || !request.meta.contains_key(&name) {
        return Err(ApiError::BadRequest("Request body and URI mismatch".to_owned()));
    }
    super::server_lock::unlocked(&api, &context, id).await?;
    let most = most(&api, &context).await?;
    let meta = request.meta.clone();
    let set = |items: &mut Map<String, Value>| {
        items.extend(request.meta);
        Ok(())
    };
    change(&api, id, most, set).await?;
    Ok(Json(json!({ "meta": meta })))
}

/// Removes one item of a server's metadata.
#[utoipa::path(delete, path = "/v2.1/servers/{server_id}/metadata/{name}", tag = "servers",
    params(("server_id" = uuid::Uuid, Path), ("name" = String, Path)),
    responses((status = 204), (status = 404), (status = 409)))]
pub(crate) async fn remove(
    State(api): State<Arc<Api>>,
    Path((server, name)): Path<(String, String)>,
    context: Context,
) -> Result<StatusCode, ApiError> {
    let id = server_id(&server)?;
    super::server_lock::unlocked(&api, &context, id).await?;
    let take =
        |items: &mut Map<String, Value>| items.remove(&name).map(drop).ok_or_else(|| none(&name));
    change(&api, id, usize::MAX, take).await?;
    Ok(StatusCode::NO_CONTENT)
}
