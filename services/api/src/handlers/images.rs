//! Images, in the shape of the Image service API v2; and what the Compute API showed of them up to 2.35.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;
use whimbrel_db::api::{self, ImageRow, ImageUpdate, NewImage};
use whimbrel_model::DiskFormat;

use crate::auth::Context;
use crate::body::{Body, Params};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::{Base, Version};
use crate::views::zulu;

/// Names that are no properties of the user's own.
const RESERVED: [&str; 22] = [
    "id",
    "name",
    "status",
    "disk_format",
    "container_format",
    "visibility",
    "protected",
    "os_hidden",
    "min_disk",
    "min_ram",
    "tags",
    "owner",
    "size",
    "virtual_size",
    "checksum",
    "os_hash_algo",
    "os_hash_value",
    "created_at",
    "updated_at",
    "self",
    "file",
    "schema",
];

/// A request to make an image. Its data comes by a request of its own. What is not named here is a property.
#[derive(Deserialize, ToSchema)]
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
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    os_hidden: bool,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    properties: Map<String, Value>,
}

#[derive(Deserialize)]
pub(crate) struct Filter {
    name: Option<String>,
    id: Option<String>,
    status: Option<String>,
    visibility: Option<String>,
    owner: Option<String>,
    tag: Option<String>,
    disk_format: Option<String>,
    limit: Option<u32>,
    marker: Option<String>,
    sort: Option<String>,
    sort_key: Option<String>,
    sort_dir: Option<String>,
}

pub(crate) fn view(row: &ImageRow) -> Value {
    let known = row.status == "active";
    let mut view = json!({
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "disk_format": row.format,
        "container_format": "bare",
        "visibility": row.visibility,
        "protected": row.protected,
        "os_hidden": false,
        "min_disk": row.min_disk,
        "min_ram": row.min_ram,
        "tags": row.tags,
        "owner": row.owner,
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
    });
    if let (Some(fields), Some(properties)) = (view.as_object_mut(), row.properties.as_object()) {
        fields.extend(properties.clone());
    }
    view
}

fn visible(row: &ImageRow, context: &Context) -> bool {
    context.sees(&row.owner) || matches!(row.visibility.as_str(), "public" | "community")
}

/// An image that the caller may use. Others are not there.
pub(crate) async fn get(api: &Api, context: &Context, id: &str) -> Result<ImageRow, ApiError> {
    let none = || ApiError::NotFound(format!("Image {id} could not be found."));
    let id: Uuid = id.parse().map_err(|_| none())?;
    let row = api::image_get(&mut api.connection().await?, id).await?;
    if visible(&row, context) { Ok(row) } else { Err(none()) }
}

/// As [`get`], for those who want to change it.
pub(super) async fn get_own(api: &Api, context: &Context, id: &str) -> Result<ImageRow, ApiError> {
    let row = get(api, context, id).await?;
    if context.sees(&row.owner) {
        return Ok(row);
    }
    Err(ApiError::Forbidden(format!("Image {id} belongs to another project.")))
}

/// Sorts images as `sort_key` and `sort_dir`, or the two in one as `sort`, say.
fn sort(rows: &mut [ImageRow], filter: &Filter) {
    let both = filter.sort.as_deref().and_then(|text| text.split(',').next());
    let (key, direction) = match both.map(|text| text.split_once(':').unwrap_or((text, "desc"))) {
        Some((key, direction)) => (key, direction),
        None => (
            filter.sort_key.as_deref().unwrap_or("created_at"),
            filter.sort_dir.as_deref().unwrap_or("desc"),
        ),
    };
    match key {
        "name" => rows.sort_by(|a, b| a.name.cmp(&b.name)),
        "id" => rows.sort_by_key(|row| row.id),
        "size" => rows.sort_by_key(|row| row.size),
        "updated_at" => rows.sort_by_key(|row| row.updated_at),
        _ => rows.sort_by_key(|row| (row.created_at, row.id)),
    }
    if direction == "desc" {
        rows.reverse();
    }
}

/// Lists images.
#[utoipa::path(get, path = "/v2/images", tag = "images", responses((status = 200), (status = 400)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(filter): Params<Filter>,
    context: Context,
) -> Result<Json<Value>, ApiError> {
    let name = filter.name.as_deref();
    let mut rows = api::images_list(&mut api.connection().await?, name).await?;
    let wanted = filter.visibility.as_deref().filter(|wanted| *wanted != "all");
    let is =
        |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
    rows.retain(|row| {
        visible(row, &context)
            && wanted.is_none_or(|wanted| row.visibility == wanted)
            && is(&filter.status, &row.status)
            && is(&filter.owner, &row.owner)
            && is(&filter.disk_format, &row.format)
            && is(&filter.id, &row.id.to_string())
            && filter.tag.as_ref().is_none_or(|tag| row.tags.contains(tag))
    });
    sort(&mut rows, &filter);
    if let Some(marker) = &filter.marker {
        let position = rows.iter().position(|row| row.id.to_string() == *marker);
        let none = || ApiError::BadRequest(format!("marker [{marker}] not found"));
        rows.drain(..=position.ok_or_else(none)?);
    }
    let limit = usize::try_from(api.limit(filter.limit.map(i64::from))).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let images: Vec<Value> = rows.iter().map(view).collect();
    let mut body =
        json!({ "images": images, "first": "/v2/images", "schema": "/v2/schemas/images" });
    if let Some(last) = rows.last().filter(|_| more) {
        body["next"] = json!(format!("/v2/images?limit={limit}&marker={}", last.id));
    }
    Ok(Json(body))
}

/// Shows an image.
#[utoipa::path(get, path = "/v2/images/{image_id}", tag = "images",
    params(("image_id" = Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    context: Context,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(view(&get(&api, &context, &id).await?)))
}

fn invalid(what: impl std::fmt::Display) -> ApiError {
    ApiError::BadRequest(format!("Invalid image: {what}."))
}

/// What of an image can be changed is good as it is.
pub(super) fn check(update: &ImageUpdate, context: &Context) -> Result<(), ApiError> {
    if !(1..=255).contains(&update.name.chars().count()) {
        return Err(invalid("name must have 1 to 255 characters"));
    }
    match update.visibility.as_str() {
        "public" if !context.is_admin() => {
            return Err(ApiError::Forbidden("Only administrators make images public.".to_owned()));
        }
        "public" | "private" | "shared" | "community" => {}
        _ => return Err(invalid("visibility must be public, private, shared or community")),
    }
    if update.min_disk < 0 || update.min_ram < 0 {
        return Err(invalid("min_disk and min_ram must not be negative"));
    }
    if update.tags.len() > 128 || update.tags.iter().any(|tag| tag.chars().count() > 255) {
        return Err(invalid("tags must be 128 at most, of 255 characters at most"));
    }
    let properties = update.properties.as_object();
    for (name, value) in properties.into_iter().flatten() {
        let long = value.as_str().is_none_or(|value| value.len() > 65_535);
        if RESERVED.contains(&name.as_str()) || name.len() > 255 || long {
            return Err(invalid(format!("{name} can't be set, or is not a text")));
        }
    }
    Ok(())
}

/// Makes an image without data.
#[utoipa::path(post, path = "/v2/images", tag = "images", request_body = CreateImage,
    responses((status = 201), (status = 400), (status = 403), (status = 409)))]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    context: Context,
    Body(request): Body<CreateImage>,
) -> Result<(StatusCode, [(&'static str, String); 1], Json<Value>), ApiError> {
    if request.container_format.as_deref().is_some_and(|format| format != "bare") {
        return Err(invalid("container_format must be bare"));
    }
    if request.os_hidden {
        return Err(invalid("os_hidden is not offered"));
    }
    let default = if context.is_admin() { "public" } else { "private" };
    let update = ImageUpdate {
        name: request.name,
        visibility: request.visibility.unwrap_or_else(|| default.to_owned()),
        protected: request.protected,
        min_disk: request.min_disk,
        min_ram: request.min_ram,
        tags: super::server_tags::sorted(&request.tags),
        properties: Value::Object(request.properties),
    };
    check(&update, &context)?;
    let owner = request.owner.filter(|_| context.is_admin());
    let new = NewImage {
        id: request.id.unwrap_or_else(Uuid::now_v7),
        format: request.disk_format.to_string(),
        owner: owner.unwrap_or_else(|| context.caller.project_id.clone()),
        name: update.name,
        visibility: update.visibility,
        protected: update.protected,
        min_disk: update.min_disk,
        min_ram: update.min_ram,
        tags: update.tags,
        properties: update.properties,
    };
    let row = api::image_create(&mut api.connection().await?, &new).await?;
    let location = [("location", format!("/v2/images/{}", row.id))];
    Ok((StatusCode::CREATED, location, Json(view(&row))))
}

/// Deletes an image that no server was made from.
#[utoipa::path(delete, path = "/v2/images/{image_id}", tag = "images",
    params(("image_id" = Uuid, Path)),
    responses((status = 204), (status = 403), (status = 404), (status = 409)))]
pub(crate) async fn delete(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    context: Context,
) -> Result<StatusCode, ApiError> {
    let row = get_own(&api, &context, &id).await?;
    if row.protected {
        return Err(ApiError::Forbidden(format!(
            "Image {id} is protected and cannot be deleted. Set protected to false first."
        )));
    }
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
        "minDisk": row.min_disk,
        "minRam": row.min_ram,
        "metadata": row.properties,
        "OS-EXT-IMG-SIZE:size": row.size,
        "created": zulu(row.created_at),
        "updated": zulu(row.updated_at),
        "links": [
            { "rel": "self", "href": href("/v2.1") },
            { "rel": "bookmark", "href": href("") },
        ],
    })
}

/// The images that the Compute API showed up to version 2.35.
async fn proxy_rows(
    api: &Api,
    context: &Context,
    version: Version,
) -> Result<Vec<ImageRow>, ApiError> {
    version.until(36)?;
    let mut rows = api::images_list(&mut api.connection().await?, None).await?;
    rows.retain(|row| visible(row, context));
    Ok(rows)
}

/// Lists images, up to version 2.35.
#[utoipa::path(get, path = "/v2.1/images", tag = "images", responses((status = 200), (status = 404)))]
pub(crate) async fn proxy_list(
    State(api): State<Arc<Api>>,
    context: Context,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let rows = proxy_rows(&api, &context, version).await?;
    let short = |row: &ImageRow| {
        let links = proxied(row, &base)["links"].take();
        json!({ "id": row.id, "name": row.name, "links": links })
    };
    Ok(Json(json!({ "images": rows.iter().map(short).collect::<Vec<_>>() })))
}

/// Lists images with all that is known of them, up to version 2.35.
#[utoipa::path(get, path = "/v2.1/images/detail", tag = "images", responses((status = 200), (status = 404)))]
pub(crate) async fn proxy_detail(
    State(api): State<Arc<Api>>,
    context: Context,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let rows = proxy_rows(&api, &context, version).await?;
    let images: Vec<Value> = rows.iter().map(|row| proxied(row, &base)).collect();
    Ok(Json(json!({ "images": images })))
}

/// Shows an image, up to version 2.35.
#[utoipa::path(get, path = "/v2.1/images/{image_id}", tag = "images",
    params(("image_id" = Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn proxy_show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    context: Context,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    version.until(36)?;
    Ok(Json(json!({ "image": proxied(&get(&api, &context, &id).await?, &base) })))
}
