//! `/os-keypairs`: the public halves of what users log in with. The private halves are made by clients and never come
//! here.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use whimbrel_db::DbError;
use whimbrel_db::api::{self, KeypairRow, NewKeypair};

use crate::auth::{Context, KEYPAIRS_OF_OTHERS};
use crate::body::{Body, Params};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::{Base, Version};
use crate::views::plain;

/// The version that brought kinds of key pairs; the one that brought those of other users; pages.
const KINDS: u16 = 2;
const USERS: u16 = 10;
const PAGES: u16 = 35;
/// From this version on key pairs are not made here, only kept.
const IMPORT_ONLY: u16 = 92;

#[derive(Deserialize)]
pub(crate) struct Query {
    user_id: Option<String>,
    limit: Option<u32>,
    marker: Option<String>,
}

/// The user whose key pairs are meant.
fn user(context: &Context, asked: Option<String>, version: Version) -> Result<String, ApiError> {
    let own = context.caller.user_id.clone();
    match asked.filter(|_| version.since(USERS)) {
        Some(other) if other != own => {
            context.check(KEYPAIRS_OF_OTHERS)?;
            Ok(other)
        }
        _ => Ok(own),
    }
}

fn short(row: &KeypairRow, version: Version) -> Map<String, Value> {
    let mut view = Map::new();
    view.insert("name".to_owned(), json!(row.name));
    view.insert("public_key".to_owned(), json!(row.public_key));
    view.insert("fingerprint".to_owned(), json!(row.fingerprint));
    if version.since(KINDS) {
        view.insert("type".to_owned(), json!(row.kind));
    }
    view
}

/// The MD5 of a public key in OpenSSH's form, as `ssh-keygen -E md5` prints it. None if it is not of that form.
fn fingerprint(public_key: &str) -> Option<String> {
    let mut parts = public_key.split_whitespace();
    let (kind, data) = (parts.next()?, STANDARD.decode(parts.next()?).ok()?);
    // The key begins with its own kind.
    let length = u32::from_be_bytes(data.get(..4)?.try_into().ok()?);
    let inner = data.get(4..4 + usize::try_from(length).ok()?)?;
    if inner != kind.as_bytes() || data.len() <= 4 + inner.len() {
        return None;
    }
    let hash = Md5::digest(&data);
    let bytes: Vec<String> = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(bytes.join(":"))
}

/// Lists a user's key pairs.
#[utoipa::path(get, path = "/v2.1/os-keypairs", tag = "keypairs",
    responses((status = 200), (status = 400), (status = 403)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(query): Params<Query>,
    context: Context,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let user = user(&context, query.user_id, version)?;
    let paged = version.since(PAGES);
    let limit = api.limit(query.limit.filter(|_| paged).map(i64::from));
    let marker = query.marker.filter(|_| paged);
    let mut connection = api.connection().await?;
    let listed = api::keypairs_list(&mut connection, &user, marker.as_deref(), limit + 1).await;
    let mut rows = listed.map_err(|error| match error {
        DbError::NotFound { kind: "marker", id } => {
            ApiError::BadRequest(format!("marker [{id}] not found"))
        }
        other => other.into(),
    })?;
    let more = i64::try_from(rows.len()).is_ok_and(|count| count > limit);
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let views: Vec<Value> =
        rows.iter().map(|row| json!({ "keypair": short(row, version) })).collect();
    let mut body = json!({ "keypairs": views });
    if let Some(last) = rows.last().filter(|_| more && paged) {
        let pairs = [("limit", limit.to_string()), ("marker", last.name.clone())];
        let query = serde_urlencoded::to_string(pairs).unwrap_or_default();
        let href = format!("{}/v2.1/os-keypairs?{query}", base.0);
        body["keypairs_links"] = json!([{ "rel": "next", "href": href }]);
    }
    Ok(Json(body))
}

/// Shows a key pair.
#[utoipa::path(get, path = "/v2.1/os-keypairs/{name}", tag = "keypairs",
    params(("name" = String, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Params(query): Params<Query>,
    context: Context,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    let user = user(&context, query.user_id, version)?;
    let row = api::keypair_get(&mut api.connection().await?, &user, &name).await?;
    let mut view = short(&row, version);
    for (name, value) in [
        ("user_id", json!(row.user_id)),
        ("id", json!(row.number)),
        ("created_at", json!(plain(row.created_at))),
        ("updated_at", json!(null)),
        ("deleted", json!(false)),
        ("deleted_at", json!(null)),
    ] {
        view.insert(name.to_owned(), value);
    }
    Ok(Json(json!({ "keypair": view })))
}

/// A key pair to keep.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateKeypair {
    keypair: Wanted,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    public_key: Option<String>,
    r#type: Option<String>,
    user_id: Option<String>,
}

/// Keeps the public half of a key pair.
#[utoipa::path(post, path = "/v2.1/os-keypairs", tag = "keypairs", request_body = CreateKeypair,
    responses((status = 200), (status = 201), (status = 400), (status = 403), (status = 409)))]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    context: Context,
    version: Version,
    Body(request): Body<CreateKeypair>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let invalid = |what: &str| ApiError::BadRequest(format!("Keypair data is invalid: {what}."));
    let wanted = request.keypair;
    let name = wanted.name;
    let allowed = |c: char| {
        c.is_ascii_alphanumeric() || "-_ ".contains(c) || (version.since(92) && "@.".contains(c))
    };
    if !(1..=255).contains(&name.len()) || !name.chars().all(allowed) || name.trim() != name {
        return Err(invalid("its name must have 1 to 255 letters, digits, spaces or any of -_@."));
    }
    let kind = match (wanted.r#type, version.since(KINDS)) {
        (None, _) => "ssh".to_owned(),
        (Some(kind), true) if kind == "ssh" => kind,
        (Some(kind), true) if kind == "x509" => {
            return Err(invalid("of the types only ssh is offered"));
        }
        (Some(_), _) => return Err(invalid("its type must be ssh")),
    };
    let Some(public_key) = wanted.public_key else {
        let since = if version.since(IMPORT_ONLY) { "" } else { " here" };
        return Err(invalid(&format!(
            "public_key is missing: key pairs are not made{since}, so that nobody else has seen the private half. \
             Make one with ssh-keygen"
        )));
    };
    let fingerprint = fingerprint(&public_key)
        .ok_or_else(|| invalid("public_key is not a public key in OpenSSH's form"))?;
    let user_id = user(&context, wanted.user_id, version)?;
    let limits = super::quotas::limits(&api, &context.caller.project_id).await?;
    let mut connection = api.connection().await?;
    let limit = limits.get("key_pairs").copied().unwrap_or(-1);
    if limit >= 0 && api::keypairs_count(&mut connection, &user_id).await? >= limit {
        return Err(ApiError::Forbidden("Quota exceeded, too many key pairs.".to_owned()));
    }
    let new = NewKeypair { user_id, name, kind, public_key, fingerprint };
    let made = api::keypair_create(&mut connection, &new).await;
    let row = made.map_err(|error| match error {
        DbError::Exists { id, .. } => {
            ApiError::Conflict(format!("Key pair '{id}' already exists."))
        }
        other => other.into(),
    })?;
    let mut view = short(&row, version);
    view.insert("user_id".to_owned(), json!(row.user_id));
    let status = if version.since(KINDS) { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(json!({ "keypair": view }))))
}

/// Forgets a key pair.
#[utoipa::path(delete, path = "/v2.1/os-keypairs/{name}", tag = "keypairs",
    params(("name" = String, Path)), responses((status = 202), (status = 204), (status = 404)))]
pub(crate) async fn delete(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Params(query): Params<Query>,
    context: Context,
    version: Version,
) -> Result<StatusCode, ApiError> {
    let user = user(&context, query.user_id, version)?;
    api::keypair_delete(&mut api.connection().await?, &user, &name).await?;
    Ok(if version.since(KINDS) { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_that_of_ssh_keygen() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here";
        let found = fingerprint(key).unwrap();
        assert_eq!(found.len(), 47, "{found}");
        for bad in ["", "ssh-ed25519", "ssh-ed25519 x", "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIAAB"] {
            assert_eq!(fingerprint(bad), None, "{bad}");
        }
    }
}
