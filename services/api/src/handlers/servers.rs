//! One server: show, update, delete; and its addresses.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use utoipa::ToSchema;
use whimbrel_db::DbError;
use whimbrel_db::api::{self, ServerUpdate};

use crate::auth::Context;
use crate::body::{Body, ServerId, server_id};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::{Base, Version};
use crate::views;

/// How often a deletion is tried when somebody else changes the server at the same moment.
const TRIES: usize = 5;

/// Shows a server.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}", tag = "servers",
    params(("server_id" = uuid::Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    context: Context,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let row = [api::server_get(&mut api.connection().await?, id).await?];
    let around = views::Around::read(&api, &context, version, base, &row).await?;
    Ok(Json(json!({ "server": views::server(&row[0], &around, true) })))
}

/// A change of a server.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateServer {
    server: Change,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Change {
    name: Option<String>,
    /// Null removes it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    hostname: Option<String>,
    #[serde(rename = "OS-DCF:diskConfig")]
    disk_config: Option<String>,
    #[serde(rename = "accessIPv4")]
    access_ipv4: Option<String>,
    #[serde(rename = "accessIPv6")]
    access_ipv6: Option<String>,
}

/// Tells null from absent.
pub(super) fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

/// Whether a guest can call itself so.
pub(super) fn is_hostname(name: &str) -> bool {
    let good = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 255 && name.split('.').all(good)
}

impl Change {
    fn read(self, version: Version) -> Result<ServerUpdate, ApiError> {
        let invalid = |what: &str| ApiError::BadRequest(format!("Invalid server: {what}."));
        let name = self.name.map(|name| name.trim().to_owned());
        let bad = |name: &String| {
            !(1..=255).contains(&name.chars().count()) || name.chars().any(char::is_control)
        };
        if name.as_ref().is_some_and(bad) {
            return Err(invalid("name must have 1 to 255 printable characters"));
        }
        for (since, given, name) in [
            (19, self.description.is_some(), "description"),
            (90, self.hostname.is_some(), "hostname"),
        ] {
            if given && !version.since(since) {
                return Err(invalid(&format!("{name} came with version 2.{since}")));
            }
        }
        if self.hostname.as_deref().is_some_and(|name| !is_hostname(name)) {
            return Err(invalid("hostname must have 1 to 63 letters, digits, hyphens or dots"));
        }
        let text = self.description.as_ref().and_then(Option::as_ref);
        if text.is_some_and(|text| text.chars().count() > 255) {
            return Err(invalid("description must have 255 characters at most"));
        }
        let known = |config: &str| matches!(config, "AUTO" | "MANUAL");
        if self.disk_config.as_deref().is_some_and(|config| !known(config)) {
            return Err(invalid("OS-DCF:diskConfig must be AUTO or MANUAL"));
        }
        let shown = [&self.access_ipv4, &self.access_ipv6];
        if shown.into_iter().flatten().any(|address| !address.is_empty()) {
            return Err(invalid("accessIPv4 and accessIPv6 are not offered; leave them out"));
        }
        Ok(ServerUpdate { name, description: self.description, hostname: self.hostname })
    }
}

/// Changes what users say of a server.
#[utoipa::path(put, path = "/v2.1/servers/{server_id}", tag = "servers", request_body = UpdateServer,
    params(("server_id" = uuid::Uuid, Path)), responses((status = 200), (status = 400), (status = 404)))]
pub(crate) async fn update(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    context: Context,
    version: Version,
    base: Base,
    Body(request): Body<UpdateServer>,
) -> Result<Json<Value>, ApiError> {
    let update = request.server.read(version)?;
    let row = [api::server_update(&mut api.connection().await?, id, &update).await?];
    let around = views::Around::read(&api, &context, version, base, &row).await?;
    // What a change answers has all fields since 2.75.
    let mut view = views::server(&row[0], &around, true);
    if !version.since(75) {
        views::as_changed(&mut view, version);
    }
    Ok(Json(json!({ "server": view })))
}

/// Deletes a server: at any moment and in every state. What is going on with it is called off, or comes to its
/// end, first.
#[utoipa::path(delete, path = "/v2.1/servers/{server_id}", tag = "servers",
    params(("server_id" = uuid::Uuid, Path)), responses((status = 204), (status = 404), (status = 409)))]
pub(crate) async fn delete(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    context: Context,
) -> Result<StatusCode, ApiError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let row = api::server_get(&mut api.connection().await?, id).await?;
        super::server_lock::check(&context, &row)?;
        match api::delete_server(&api.database, &context.caller, &row).await {
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

/// Lists a server's addresses, by network.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/ips", tag = "servers",
    params(("server_id" = uuid::Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn addresses(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
) -> Result<Json<Value>, ApiError> {
    let row = api::server_get(&mut api.connection().await?, id).await?;
    Ok(Json(json!({ "addresses": views::plain_addresses(&row) })))
}

/// Lists a server's addresses in one network.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/ips/{network}", tag = "servers",
    params(("server_id" = uuid::Uuid, Path), ("network" = String, Path)),
    responses((status = 200), (status = 404)))]
pub(crate) async fn addresses_in(
    State(api): State<Arc<Api>>,
    Path((server, network)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let row = api::server_get(&mut api.connection().await?, server_id(&server)?).await?;
    let all = views::plain_addresses(&row);
    let none = || ApiError::NotFound(format!("The server has no network {network}."));
    let addresses = all.get(&network).ok_or_else(none)?;
    Ok(Json(json!({ network: addresses })))
}

/// Lists a server's security groups: one that permits everything.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/os-security-groups", tag = "servers",
    params(("server_id" = uuid::Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn security_groups(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
) -> Result<Json<Value>, ApiError> {
    api::server_get(&mut api.connection().await?, id).await?;
    Ok(Json(json!({ "security_groups": [] })))
}

/// Says how a server's memory and processors lie on its host, from version 2.78: as one node, not pinned.
#[utoipa::path(get, path = "/v2.1/servers/{server_id}/topology", tag = "servers",
    params(("server_id" = uuid::Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn topology(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    version.require(78)?;
    api::server_get(&mut api.connection().await?, id).await?;
    Ok(Json(json!({ "nodes": [], "pagesize_kb": null })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_those_of_the_internet() {
        assert!(["a", "web-1", "web1.example.org"].into_iter().all(is_hostname));
        let bad = ["", "-a", "a-", "a_b", "a..b", "ä"];
        assert!(!bad.into_iter().any(is_hostname));
        assert!(!is_hostname(&"a".repeat(64)));
    }

    #[test]
    fn a_change_is_read_as_each_version_has_it() {
        for (version, change, good) in [
            (1, json!({"name": "x"}), true),
            (1, json!({"name": ""}), false),
            (18, json!({"description": "x"}), false),
            (19, json!({"description": null}), true),
            (89, json!({"hostname": "x"}), false),
            (90, json!({"hostname": "x"}), true),
            (90, json!({"hostname": "x_"}), false),
        ] {
            let read: Change = serde_json::from_value(change.clone()).unwrap();
            assert_eq!(read.read(Version(version)).is_ok(), good, "2.{version} {change}");
        }
    }
}
