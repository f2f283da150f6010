//! Changes of images: the patches of the Image service API v2, and tags.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use whimbrel_db::api::{self, ImageRow, ImageUpdate};

use super::images::{check, get_own, view};
use crate::auth::Context;
use crate::body::Body;
use crate::error::ApiError;
use crate::state::Api;

/// One change of a patch.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Operation {
    /// `add`, `replace` or `remove`.
    op: String,
    /// `/name`, or the name of a property.
    path: String,
    #[schema(value_type = Option<Object>)]
    value: Option<Value>,
}

fn current(row: &ImageRow) -> ImageUpdate {
    ImageUpdate {
        name: row.name.clone(),
        visibility: row.visibility.clone(),
        protected: row.protected,
        min_disk: row.min_disk,
        min_ram: row.min_ram,
        tags: row.tags.clone(),
        properties: row.properties.clone(),
    }
}

fn typed<T: serde::de::DeserializeOwned>(name: &str, value: Option<Value>) -> Result<T, ApiError> {
    let value = value.unwrap_or(Value::Null);
    serde_json::from_value(value)
        .map_err(|error| ApiError::BadRequest(format!("Invalid image: {name}: {error}.")))
}

impl Operation {
    fn apply(self, update: &mut ImageUpdate) -> Result<(), ApiError> {
        let invalid = |what: String| ApiError::BadRequest(format!("Invalid image: {what}."));
        let Some(name) = self.path.strip_prefix('/').filter(|name| !name.contains('/')) else {
            return Err(invalid(format!("there is nothing at {}", self.path)));
        };
        let name = name.replace("~1", "/").replace("~0", "~");
        match (self.op.as_str(), name.as_str()) {
            ("add" | "replace", "name") => update.name = typed(&name, self.value)?,
            ("add" | "replace", "visibility") => update.visibility = typed(&name, self.value)?,
            ("add" | "replace", "protected") => update.protected = typed(&name, self.value)?,
            ("add" | "replace", "min_disk") => update.min_disk = typed(&name, self.value)?,
            ("add" | "replace", "min_ram") => update.min_ram = typed(&name, self.value)?,
            ("add" | "replace", "tags") => {
                update.tags = super::server_tags::sorted(&typed::<Vec<String>>(&name, self.value)?);
            }
            ("add" | "replace", _) => {
                let text: String = typed(&name, self.value)?;
                update.properties[name.as_str()] = Value::String(text);
            }
            ("remove", _) => {
                let properties = update.properties.as_object_mut();
                let gone = properties.and_then(|properties| properties.remove(&name));
                gone.ok_or_else(|| {
                    ApiError::Conflict(format!("Property {name} does not exist, or can't go."))
                })?;
            }
            (other, _) => return Err(invalid(format!("there is no operation {other}"))),
        }
        Ok(())
    }
}

async fn store(api: &Api, row: &ImageRow, update: &ImageUpdate) -> Result<ImageRow, ApiError> {
    Ok(api::image_update(&mut api.connection().await?, row.id, update).await?)
}

/// Changes what people say of an image.
#[utoipa::path(patch, path = "/v2/images/{image_id}", tag = "images", request_body = Vec<Operation>,
    params(("image_id" = uuid::Uuid, Path)),
    responses((status = 200), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub(crate) async fn patch(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    context: Context,
    Body(operations): Body<Vec<Operation>>,
) -> Result<Json<Value>, ApiError> {
    let row = get_own(&api, &context, &id).await?;
    let mut update = current(&row);
    if !update.properties.is_object() {
        update.properties = Value::Object(Map::new());
    }
    for operation in operations {
        operation.apply(&mut update)?;
    }
    check(&update, &context)?;
    Ok(Json(view(&store(&api, &row, &update).await?)))
}

/// Gives an image a tag.
#[utoipa::path(put, path = "/v2/images/{image_id}/tags/{tag}", tag = "images",
    params(("image_id" = uuid::Uuid, Path), ("tag" = String, Path)),
    responses((status = 204), (status = 400), (status = 403), (status = 404)))]
pub(crate) async fn add_tag(
    State(api): State<Arc<Api>>,
    Path((id, tag)): Path<(String, String)>,
    context: Context,
) -> Result<StatusCode, ApiError> {
    let row = get_own(&api, &context, &id).await?;
    let mut update = current(&row);
    update.tags.push(tag);
    update.tags = super::server_tags::sorted(&update.tags);
    check(&update, &context)?;
    store(&api, &row, &update).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a tag from an image.
#[utoipa::path(delete, path = "/v2/images/{image_id}/tags/{tag}", tag = "images",
    params(("image_id" = uuid::Uuid, Path), ("tag" = String, Path)),
    responses((status = 204), (status = 403), (status = 404)))]
pub(crate) async fn remove_tag(
    State(api): State<Arc<Api>>,
    Path((id, tag)): Path<(String, String)>,
    context: Context,
) -> Result<StatusCode, ApiError> {
    let row = get_own(&api, &context, &id).await?;
    let mut update = current(&row);
    if !update.tags.contains(&tag) {
        return Err(ApiError::NotFound(format!("Image {id} has no tag '{tag}'.")));
    }
    update.tags.retain(|other| *other != tag);
    store(&api, &row, &update).await?;
    Ok(StatusCode::NO_CONTENT)
}
