//! `/servers/{id}/os-volume_attachments`: which volumes a server has.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;
use whimbrel_db::api::{self, AttachmentRow, ServerRow};
use whimbrel_model::{InstanceEvent, VolumeEvent};

use crate::auth::Context;
use crate::body::{Body, ServerId, server_id};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::Version;

use super::server_actions::{allowed, not_begun, source_up};
use super::server_lock;
use super::volumes::volume;

/// Versions that changed how an attachment is shown or asked for.
const TAG_ASKED: u16 = 49;
const TAG_SHOWN: u16 = 70;
const DELETE_ON_TERMINATION: u16 = 79;
const ATTACHMENT_ID: u16 = 89;

fn view(volume: Uuid, at: &AttachmentRow, version: Version) -> Value {
    let mut view = json!({
        "volumeId": volume, "serverId": at.instance_id, "device": format!("/dev/{}", at.device),
    });
    if version.since(TAG_SHOWN) {
        view["tag"] = Value::Null;
    }
    if version.since(DELETE_ON_TERMINATION) {
        view["delete_on_termination"] = json!(false);
    }
    if version.since(ATTACHMENT_ID) {
        view["attachment_id"] = json!(at.id);
        view["bdm_uuid"] = json!(at.id);
    } else {
        view["id"] = json!(volume);
    }
    view
}

fn attachments(server: &ServerRow) -> impl Iterator<Item = (Uuid, &AttachmentRow)> {
    server.volumes.iter().filter_map(|row| Some((row.id, row.attachment.as_ref()?)))
}

/// Lists a server's volumes.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/os-volume_attachments", tag = "servers",
    params(("server_id" = Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    let server = api::server_get(&mut api.connection().await?, id).await?;
    let views: Vec<Value> =
        attachments(&server).map(|(volume, at)| view(volume, at, version)).collect();
    Ok(Json(json!({ "volumeAttachments": views })))
}

/// Shows one of a server's volumes.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/os-volume_attachments/{volume_id}", tag = "servers",
    params(("server_id" = Uuid, Path), ("volume_id" = Uuid, Path)),
    responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path((server, wanted)): Path<(String, String)>,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    let server = api::server_get(&mut api.connection().await?, server_id(&server)?).await?;
    let found = attachments(&server).find(|(volume, _)| volume.to_string() == wanted);
    let (volume, at) = found.ok_or_else(|| not_attached(&server, &wanted))?;
    Ok(Json(json!({ "volumeAttachment": view(volume, at, version) })))
}

fn not_attached(server: &ServerRow, volume: &str) -> ApiError {
    ApiError::NotFound(format!("Instance {} is not attached to volume {volume}.", server.id))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attach {
    #[serde(rename = "volumeAttachment")]
    attachment: Wanted,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(rename = "volumeId")]
    volume_id: Uuid,
    /// A wish. The guest's own operating system names its disks, so it is not looked at; nor does Nova with libvirt.
    #[serde(rename = "device")]
    _device: Option<String>,
    tag: Option<String>,
    delete_on_termination: Option<bool>,
}

/// Gives a server a volume.
#[utoipa::path(post, path = "/v2.1/servers/{server_id}/os-volume_attachments", tag = "servers",
    params(("server_id" = Uuid, Path)), request_body = Attach,
    responses((status = 200), (status = 400), (status = 404), (status = 409)))]
pub(crate) async fn attach(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    context: Context,
    version: Version,
    Body(Attach { attachment: wanted }): Body<Attach>,
) -> Result<Json<Value>, ApiError> {
    const ACTION: &str = "attach_volume";
    let unknown = |name: &str, since: u16| {
        ApiError::BadRequest(format!("Invalid input: {name} is known from version 2.{since} on."))
    };
    if wanted.tag.is_some() {
        if !version.since(TAG_ASKED) {
            return Err(unknown("tag", TAG_ASKED));
        }
        return Err(ApiError::BadRequest("Volume tags are not offered; leave tag out.".to_owned()));
    }
    if let Some(delete) = wanted.delete_on_termination {
        if !version.since(DELETE_ON_TERMINATION) {
            return Err(unknown("delete_on_termination", DELETE_ON_TERMINATION));
        }
        if delete {
            return Err(ApiError::BadRequest(
                "delete_on_termination must be false: volumes outlive servers.".to_owned(),
            ));
        }
    }
    let server = api::server_get(&mut api.connection().await?, id).await?;
    server_lock::check(&context, &server)?;
    let volume = volume(&api, &context, &wanted.volume_id.to_string()).await?;
    allowed(&server, ACTION, InstanceEvent::BeginAttach)?;
    if volume.status.on(VolumeEvent::BeginAttach).is_err() {
        return Err(ApiError::BadRequest(format!(
            "Invalid volume: volume {} is {}; it must be available.",
            volume.id, volume.status
        )));
    }
    let mut connection = api.connection().await?;
    let hosts = api::hosts_list(&mut connection, api.config.service_down_time_ms).await?;
    source_up(&server, &hosts, ACTION)?;
    let image = api::image_get(&mut connection, server.image_id).await?;
    drop(connection);
    let (at, started) =
        api::attach_volume(&api.database, &context.caller, &server, &image, &volume)
            .await
            .map_err(|error| not_begun(error, ACTION, &server))?;
    tracing::info!(instance.id = %id, volume.id = %volume.id, saga.id = %started.saga_id, "attaching");
    api.sender.send(started.message);
    Ok(Json(json!({ "volumeAttachment": view(volume.id, &at, version) })))
}

/// Takes a volume from a server.
#[utoipa::path(delete, path = "/v2.1/servers/{server_id}/os-volume_attachments/{volume_id}", tag = "servers",
    params(("server_id" = Uuid, Path), ("volume_id" = Uuid, Path)),
    responses((status = 202), (status = 404), (status = 409)))]
pub(crate) async fn detach(
    State(api): State<Arc<Api>>,
    Path((server, wanted)): Path<(String, String)>,
    context: Context,
) -> Result<StatusCode, ApiError> {
    const ACTION: &str = "detach_volume";
    let server = api::server_get(&mut api.connection().await?, server_id(&server)?).await?;
    server_lock::check(&context, &server)?;
    let found = server.volumes.iter().find(|row| row.id.to_string() == wanted);
    let volume = found.ok_or_else(|| not_attached(&server, &wanted))?;
    allowed(&server, ACTION, InstanceEvent::BeginDetach)?;
    let mut connection = api.connection().await?;
    let hosts = api::hosts_list(&mut connection, api.config.service_down_time_ms).await?;
    drop(connection);
    source_up(&server, &hosts, ACTION)?;
    let started = api::detach_volume(&api.database, &context.caller, &server, volume)
        .await
        .map_err(|error| not_begun(error, ACTION, &server))?;
    tracing::info!(instance.id = %server.id, volume.id = %volume.id, saga.id = %started.saga_id, "detaching");
    api.sender.send(started.message);
    Ok(StatusCode::ACCEPTED)
}
