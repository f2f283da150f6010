//! Volumes: the registry of what storage of the network has, and the few calls of the Block Storage API v3 that
//! clients make around servers. Whimbrel makes no volumes; an administrator says where their bytes are.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;
use whimbrel_db::api::{self, NewVolume, VolumeRow};
use whimbrel_messages::compute::{StorageAddress, VolumeSource};

use crate::auth::Context;
use crate::body::{Body, Params};
use crate::error::ApiError;
use crate::state::Api;
use crate::views::plain;

/// As the Block Storage API shows it.
fn view(row: &VolumeRow) -> Value {
    let attachments: Vec<Value> = row
        .attachment
        .iter()
        .map(|at| {
            json!({
                "id": row.id, "volume_id": row.id, "attachment_id": at.id, "server_id": at.instance_id,
                "device": format!("/dev/{}", at.device), "host_name": null,
            })
        })
        .collect();
    json!({
        "id": row.id, "name": row.name, "size": row.size_gib, "status": row.status,
        "attachments": attachments, "multiattach": false, "bootable": "false", "encrypted": false,
        "availability_zone": "nova", "description": null, "metadata": {}, "volume_type": null,
        "snapshot_id": null, "source_volid": null, "replication_status": null,
        "os-vol-tenant-attr:tenant_id": row.project_id, "user_id": null, "links": [],
        "created_at": plain(row.created_at), "updated_at": null,
    })
}

#[derive(Deserialize)]
pub(crate) struct Filter {
    name: Option<String>,
    all_tenants: Option<String>,
}

async fn rows(api: &Api, context: &Context, filter: &Filter) -> Result<Vec<VolumeRow>, ApiError> {
    let all = matches!(filter.all_tenants.as_deref(), Some("1" | "true" | "True"));
    let project = context.project(context.is_admin() && all);
    let mut connection = api.connection().await?;
    Ok(api::volumes_list(&mut connection, project.as_deref(), filter.name.as_deref()).await?)
}

/// One volume, if the caller may see it.
pub(super) async fn volume(
    api: &Api,
    context: &Context,
    text: &str,
) -> Result<VolumeRow, ApiError> {
    let none = || ApiError::NotFound(format!("Volume {text} could not be found."));
    let id: Uuid = text.parse().map_err(|_| none())?;
    let row = api::volume_get(&mut api.connection().await?, id).await?;
    let project = context.project(context.is_admin());
    if project.is_none_or(|project| project == row.project_id) { Ok(row) } else { Err(none()) }
}

/// Lists volumes, names only.
#[utoipa::path(get, path = "/v3/{project_id}/volumes", tag = "volumes",
    params(("project_id" = String, Path)), responses((status = 200)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(filter): Params<Filter>,
    context: Context,
) -> Result<Json<Value>, ApiError> {
    let rows = rows(&api, &context, &filter).await?;
    let brief = |row: &VolumeRow| json!({ "id": row.id, "name": row.name, "links": [] });
    Ok(Json(json!({ "volumes": rows.iter().map(brief).collect::<Vec<_>>() })))
}

/// Lists volumes.
#[utoipa::path(get, path = "/v3/{project_id}/volumes/detail", tag = "volumes",
    params(("project_id" = String, Path)), responses((status = 200)))]
pub(crate) async fn detail(
    State(api): State<Arc<Api>>,
    Params(filter): Params<Filter>,
    context: Context,
) -> Result<Json<Value>, ApiError> {
    let rows = rows(&api, &context, &filter).await?;
    Ok(Json(json!({ "volumes": rows.iter().map(view).collect::<Vec<_>>() })))
}

/// Shows a volume.
#[utoipa::path(get, path = "/v3/{project_id}/volumes/{volume_id}", tag = "volumes",
    params(("project_id" = String, Path), ("volume_id" = Uuid, Path)),
    responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path((_, id)): Path<(String, String)>,
    context: Context,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "volume": view(&volume(&api, &context, &id).await?) })))
}

/// As administrators see it: with the place of its bytes.
fn own_view(row: &VolumeRow) -> Value {
    json!({
        "id": row.id, "name": row.name, "project_id": row.project_id, "size_gib": row.size_gib,
        "status": row.status, "source": row.source,
        "instance_id": row.attachment.as_ref().map(|at| at.instance_id),
        "device": row.attachment.as_ref().map(|at| &at.device),
    })
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Register {
    volume: Registered,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Registered {
    name: Option<String>,
    size_gib: i64,
    project_id: Option<String>,
    #[schema(value_type = Object)]
    source: VolumeSource,
}

/// Lists all volumes, with the places of their bytes.
#[utoipa::path(get, path = "/v1/volumes", tag = "own", responses((status = 200)))]
pub(crate) async fn registered(State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    let rows = api::volumes_list(&mut api.connection().await?, None, None).await?;
    Ok(Json(json!({ "volumes": rows.iter().map(own_view).collect::<Vec<_>>() })))
}

/// Registers a volume: what it is called, and where its bytes are.
#[utoipa::path(post, path = "/v1/volumes", tag = "own",
    request_body(content = Register, example = json!({"volume": {"name": "data", "size_gib": 1, "source":
        {"protocol": "nbd", "server": {"host": "10.0.0.7", "port": 10809}, "export": "data"}}})),
    responses((status = 201), (status = 400), (status = 409)))]
pub(crate) async fn register(
    State(api): State<Arc<Api>>,
    context: Context,
    Body(Register { volume }): Body<Register>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    check_source(&volume.source)?;
    let name = volume.name.unwrap_or_default();
    if volume.size_gib < 1 || name.chars().count() > 255 {
        return Err(ApiError::BadRequest(
            "Invalid input for volume: size_gib must be at least 1, name 255 characters at most."
                .to_owned(),
        ));
    }
    let project_id = volume.project_id.unwrap_or_else(|| context.caller.project_id.clone());
    let new = NewVolume { project_id, name, size_gib: volume.size_gib, source: volume.source };
    let row = api::volume_create(&mut api.connection().await?, &new).await?;
    Ok((StatusCode::CREATED, Json(json!({ "volume": own_view(&row) }))))
}

/// Forgets a volume. Its bytes stay where they are.
#[utoipa::path(delete, path = "/v1/volumes/{volume_id}", tag = "own",
    params(("volume_id" = Uuid, Path)), responses((status = 204), (status = 404), (status = 409)))]
pub(crate) async fn forget(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let none = || ApiError::NotFound(format!("Volume {id} could not be found."));
    let id = id.parse().map_err(|_| none())?;
    api::volume_delete(&mut api.connection().await?, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Names reach the emulator as they are, so they must be what such names are.
fn check_source(source: &VolumeSource) -> Result<(), ApiError> {
    let invalid = |what: &str| {
        Err(ApiError::BadRequest(format!(
            "Invalid input for field/attribute volume.source: {what}."
        )))
    };
    let word = |text: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@[]".contains(c);
        !text.is_empty() && text.len() <= 255 && text.chars().all(plain)
    };
    let (addresses, names, login): (&[StorageAddress], _, _) = match source {
        VolumeSource::Nbd { server, export, .. } => {
            (std::slice::from_ref(server), vec![export.as_str()], None)
        }
        VolumeSource::Rbd { monitors, pool, image, user, secret } => {
            if pool.contains('/') || image.contains('/') {
                return invalid("pool and image can't have slashes");
            }
            (monitors, vec![pool.as_str(), image.as_str()], Some((user, secret)))
        }
        VolumeSource::Iscsi { portal, target, user, secret, .. } => {
            (std::slice::from_ref(portal), vec![target.as_str()], Some((user, secret)))
        }
    };
    let plain_address =
        |at: &StorageAddress| word(&at.host) && !at.host.contains('/') && at.port > 0;
    if addresses.is_empty() || !addresses.iter().all(plain_address) {
        return invalid("each server needs a host name or address, and a port");
    }
    if !names.into_iter().all(word) {
        return invalid("names have letters, digits and -_.:/@ only");
    }
    match login {
        Some((user, secret)) if user.is_some() != secret.is_some() => invalid(
            "user and secret belong together; the secret is the UUID of one that the hosts' libvirt has",
        ),
        Some((Some(user), _)) if !word(user) => invalid("user has letters, digits and -_.:/@ only"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_what_the_emulator_can_take() {
        let good = [
            json!({"protocol": "nbd", "server": {"host": "10.0.0.7", "port": 10809}, "export": "a"}),
            json!({"protocol": "rbd", "monitors": [{"host": "m", "port": 3300}], "pool": "p", "image": "i",
                   "user": "u", "secret": Uuid::nil()}),
            json!({"protocol": "iscsi", "portal": {"host": "::1", "port": 3260}, "target": "iqn.2026-11.x:y",
                   "lun": 1}),
        ];
        for source in &good {
            let read: VolumeSource = serde_json::from_value(source.clone()).unwrap();
            assert!(check_source(&read).is_ok(), "{source}");
        }
        let with = |source: &Value, name: &str, value: Value| {
            let mut changed = source.clone();
            changed[name] = value;
            changed
        };
        for bad in [
            with(&good[0], "export", json!("a' b")),
            with(&good[0], "export", json!("")),
            with(&good[0], "server", json!({"host": "a/b", "port": 1})),
            with(&good[0], "server", json!({"host": "a", "port": 0})),
            with(&good[1], "monitors", json!([])),
            with(&good[1], "pool", json!("p/q")),
            with(&good[1], "secret", json!(null)),
            with(&good[2], "user", json!("u")),
        ] {
            let read: VolumeSource = serde_json::from_value(bad.clone()).unwrap();
            assert!(check_source(&read).is_err(), "{bad}");
        }
        let file = json!({"protocol": "file", "path": "/etc/shadow"});
        assert!(serde_json::from_value::<VolumeSource>(file).is_err());
    }
}
