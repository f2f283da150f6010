//! Images, in the shape of the Image service API v2; and what the Compute API showed of them up to 2.35.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;
use whimbrel_db::api::{self, ImageRow};
use whimbrel_model::DiskFormat;

use crate::body::{Body, Params};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::{Base, Version};
use crate::views::zulu;

/// A request to make an image. Its data comes by a request of its own.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateImage {
    name: String,
    /// `raw` or `qcow2`: how the data is to be read. It is never guessed.
    #[schema(value_type = String)]
    disk_format: DiskFormat,
    #[serde(default)]
    container_format: Option<String>,
    #[serde(default)]
    visibility: Option<String>,
    #[serde(default)]
    id: Option<Uuid>,
    #[serde(default)]
    min_disk: i64,
    #[serde(default)]
    min_ram: i64,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    protected: bool,
}

#[derive(Deserialize)]
pub(crate) struct Filter {
    name: Option<String>,
}

pub(crate) fn view(row: &ImageRow) -> Value {
    let known = row.status == "active";
    json!({
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "disk_format": row.format,
        "container_format": "bare",
        "visibility": "public",
        "protected": false,
        "os_hidden": false,
        "min_disk": 0,
        "min_ram": 0,
        "tags": [],
        "owner": "default",
        "size": known.then_some(row.size),
        "virtual_size": known.then_some(row.virtual_size),
        "checksum": null,
        "os_hash_algo": known.then_some("sha256"),
        "os_hash_value": known.then_some(&row.sha256),
        "created_at": zulu(row.created_at),
        "updated_at": zulu(row.updated_at),
        "self": format!("/v2/images/{}", row.id),
        "file": format!("/v2/images/{}/file", row.id),
        "schema": "/v2/schemas/image",
    })
}

pub(crate) async fn get(api: &Api, id: &str) -> Result<ImageRow, ApiError> {
    let none = || ApiError::NotFound(format!("Image {id} could not be found."));
    let id: Uuid = id.parse().map_err(|_| none())?;
    Ok(api::image_get(&mut api.connection().await?, id).await?)
}

/// Lists images.
#[utoipa::path(get, path = "/v2/images", tag = "images", responses((status = 200)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(filter): Params<Filter>,
) -> Result<Json<Value>, ApiError> {
    let name = filter.name.as_deref();
    let rows = api::images_list(&mut api.connection().await?, name).await?;
    let images: Vec<Value> = rows.iter().map(view).collect();
    Ok(Json(json!({ "images": images, "first": "/v2/images", "schema": "/v2/schemas/images" })))
}

/// Shows an image.
#[utoipa::path(get, path = "/v2/images/{image_id}", tag = "images",
    params(("image_id" = Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(view(&get(&api, &id).await?)))
}

/// Makes an image without data.
#[utoipa::path(post, path = "/v2/images", tag = "images", request_body = CreateImage,
    responses((status = 201), (status = 400), (status = 409)))]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Body(request): Body<CreateImage>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let invalid = |what: &str| ApiError::BadRequest(format!("Invalid image: {what}."));
    if request.name.is_empty() || request.name.len() > 255 {
        return Err(invalid("name must have 1 to 255 characters"));
    }
    if request.container_format.as_deref().is_some_and(|format| format != "bare") {
        return Err(invalid("container_format must be bare"));
    }
    if request.visibility.as_deref().is_some_and(|visibility| visibility != "public") {
        return Err(invalid("visibility must be public: all projects see all images for now"));
    }
    let unused = request.min_disk == 0 && request.min_ram == 0 && !request.protected;
    if !unused || !request.tags.is_empty() {
        return Err(invalid("min_disk, min_ram, protected and tags are not offered"));
    }
    let id = request.id.unwrap_or_else(Uuid::now_v7);
    let format = request.disk_format.to_string();
    let row = api::image_create(&mut api.connection().await?, id, &request.name, &format).await?;
    Ok((StatusCode::CREATED, Json(view(&row))))
}

/// Deletes an image that no server was made from.
#[utoipa::path(delete, path = "/v2/images/{image_id}", tag = "images",
    params(("image_id" = Uuid, Path)),
    responses((status = 204), (status = 404), (status = 409)))]
pub(crate) async fn delete(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let row = get(&api, &id).await?;
    api::image_delete(&mut api.connection().await?, row.id).await?;
    super::image_data::remove(&api, row.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn proxied(row: &ImageRow, base: &Base) -> Value {
    let href = |path: &str| format!("{}{path}/images/{}", base.0, row.id);
    json!({
        "id": row.id,
        "name": row.name,
        "status": if row.status == "active" { "ACTIVE" } else { "SAVING" },
        "progress": if row.status == "active" { 100 } else { 25 },
        "minDisk": 0,
        "minRam": 0,
        "metadata": {},
        "OS-EXT-IMG-SIZE:size": row.size,
        "created": zulu(row.created_at),
        "updated": zulu(row.updated_at),
        "links": [
            { "rel": "self", "href": href("/v2.1") },
            { "rel": "bookmark", "href": href("") },
        ],
    })
}

/// Lists images, up to version 2.35.
#[utoipa::path(get, path = "/v2.1/images", tag = "images", responses((status = 200), (status = 404)))]
pub(crate) async fn proxy_list(
    State(api): State<Arc<Api>>,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    version.until(36)?;
    let rows = api::images_list(&mut api.connection().await?, None).await?;
    let images: Vec<Value> = rows.iter().map(|row| proxied(row, &base)).collect();
    Ok(Json(json!({ "images": images })))
}

/// Shows an image, up to version 2.35.
#[utoipa::path(get, path = "/v2.1/images/{image_id}", tag = "images",
    params(("image_id" = Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn proxy_show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    version.until(36)?;
    Ok(Json(json!({ "image": proxied(&get(&api, &id).await?, &base) })))
}
