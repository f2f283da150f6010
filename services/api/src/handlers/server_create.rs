//! Making a server.

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;
use whimbrel_db::DbError;
use whimbrel_db::api::{self, FlavorRow, ImageRow, NewServer, WantedPort, flavor_with_server};
use whimbrel_model::HostName;

use crate::auth::Context;
use crate::body::Body;
use crate::error::ApiError;
use crate::state::Api;
use crate::version::{Base, Version};

/// A request to make a server.
#[derive(Deserialize, ToSchema)]
pub(crate) struct CreateServer {
    server: Wanted,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    #[serde(rename = "imageRef")]
    image_ref: Option<String>,
    #[serde(rename = "flavorRef")]
    flavor_ref: Value,
    networks: Option<Value>,
    #[serde(default)]
    metadata: Map<String, Value>,
    #[serde(default = "one")]
    min_count: Value,
    #[serde(default = "one")]
    max_count: Value,
    key_name: Option<String>,
    description: Option<String>,
    availability_zone: Option<String>,
    host: Option<String>,
    hypervisor_hostname: Option<String>,
    #[serde(default)]
    block_device_mapping_v2: Vec<Map<String, Value>>,
    #[serde(rename = "OS-DCF:diskConfig")]
    disk_config: Option<String>,
    #[serde(default)]
    security_groups: Vec<Value>,
    config_drive: Option<Value>,
    user_data: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    hostname: Option<String>,
}

fn one() -> Value {
    json!(1)
}

fn invalid(what: impl std::fmt::Display) -> ApiError {
    ApiError::BadRequest(format!("Invalid server: {what}."))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedNetwork {
    uuid: Option<String>,
    port: Option<String>,
    fixed_ip: Option<String>,
    tag: Option<String>,
}

impl Wanted {
    /// Refuses what is not offered, rather than to make something else than was asked for.
    fn check(&self, version: Version) -> Result<(), ApiError> {
        let name = self.name.trim();
        if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
            return Err(invalid("name must have 1 to 255 printable characters"));
        }
        let is_one = |count: &Value| *count == json!(1) || *count == json!("1");
        if !is_one(&self.min_count) || !is_one(&self.max_count) {
            return Err(invalid(
                "min_count and max_count must be 1; ask once for each server that you want",
            ));
        }
        if self.user_data.is_some() || self.config_drive.as_ref().is_some_and(wants_drive) {
            return Err(invalid("user_data and config_drive are not offered yet; leave them out"));
        }
        if !self.tags.is_empty() {
            return Err(invalid("tags are not offered yet; leave them out"));
        }
        if self.description.is_some() && !version.since(19) {
            return Err(invalid("description came with version 2.19"));
        }
        if self.hostname.is_some() && !version.since(90) {
            return Err(invalid("hostname came with version 2.90"));
        }
        if (self.host.is_some() || self.hypervisor_hostname.is_some()) && !version.since(74) {
            return Err(invalid("host and hypervisor_hostname came with version 2.74"));
        }
        let known = |config: &str| matches!(config, "AUTO" | "MANUAL");
        if self.disk_config.as_deref().is_some_and(|config| !known(config)) {
            return Err(invalid("OS-DCF:diskConfig must be AUTO or MANUAL"));
        }
        let too_long = |text: &str| text.is_empty() || text.len() > 255;
        let wrong = |(name, value): (&String, &Value)| {
            too_long(name) || value.as_str().is_none_or(|value| value.len() > 255)
        };
        if self.metadata.len() > 128 || self.metadata.iter().any(wrong) {
            return Err(invalid("metadata must be at most 128 texts of at most 255 characters"));
        }
        Ok(())
    }

    /// The image, also where a client says it as a block device as well.
    fn image(&self) -> Result<Uuid, ApiError> {
        let text = self.image_ref.as_deref().filter(|text| !text.is_empty());
        let text = text.ok_or_else(|| {
            invalid("imageRef is missing; booting from a volume is not offered yet")
        })?;
        // Some clients send the address of the image.
        let id = text.rsplit('/').next().unwrap_or(text);
        for device in &self.block_device_mapping_v2 {
            let is = |name: &str, value: &str| device.get(name).is_none_or(|found| found == value);
            let root =
                device.get("boot_index").is_none_or(|index| *index == json!(0) || index == "0");
            let same =
                is("uuid", id) && is("source_type", "image") && is("destination_type", "local");
            if !same || !root {
                return Err(invalid(
                    "block_device_mapping_v2 may name nothing but the image as the local root disk",
                ));
            }
        }
        id.parse().map_err(|_| {
            ApiError::BadRequest(format!(
                "Invalid imageRef provided: '{text}' is not an image's id."
            ))
        })
    }

    fn requested_host(&self) -> Result<Option<HostName>, ApiError> {
        let zone = self.availability_zone.as_deref().and_then(|zone| zone.split_once(':'));
        let text = self
            .host
            .as_deref()
            .or(self.hypervisor_hostname.as_deref())
            .or(zone.map(|(_, host)| host));
        let parse = |text: &str| text.parse::<HostName>().map_err(invalid);
        text.filter(|text| !text.is_empty()).map(parse).transpose()
    }
}

fn wants_drive(value: &Value) -> bool {
    !(value.is_null()
        || *value == json!(false)
        || value == ""
        || value == "False"
        || value == "false")
}

async fn flavor(api: &Api, wanted: &Value) -> Result<FlavorRow, ApiError> {
    let text = match wanted {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(invalid("flavorRef must be a flavor's id")),
    };
    let id = text.rsplit('/').next().unwrap_or(&text);
    let found = api::flavor_get(&mut api.connection().await?, id).await;
    found.map_err(|error| match error {
        DbError::NotFound { .. } => ApiError::BadRequest(format!(
            "Invalid flavorRef provided: flavor {id} could not be found."
        )),
        other => other.into(),
    })
}

async fn image(api: &Api, id: Uuid, flavor: &FlavorRow) -> Result<ImageRow, ApiError> {
    let found = api::image_get(&mut api.connection().await?, id).await;
    let image = found.map_err(|error| match error {
        DbError::NotFound { .. } => ApiError::BadRequest(format!(
            "Invalid imageRef provided: image {id} could not be found."
        )),
        other => other.into(),
    })?;
    if image.status != "active" {
        return Err(invalid(format!("image {id} has no data yet; upload it first")));
    }
    if flavor.disk_gib > 0 && image.virtual_size > flavor.disk_gib << 30 {
        let gib = (image.virtual_size + (1 << 30) - 1) >> 30;
        return Err(invalid(format!(
            "flavor {} has a disk of {} GiB, image {id} needs {gib} GiB; choose a larger flavor",
            flavor.name, flavor.disk_gib
        )));
    }
    Ok(image)
}

async fn ports(
    api: &Api,
    networks: Option<&Value>,
    version: Version,
) -> Result<Vec<WantedPort>, ApiError> {
    let list = match networks {
        None if version.since(37) => {
            return Err(invalid("networks is missing: say none, auto, or a list of networks"));
        }
        None => return automatic(api).await,
        Some(Value::String(word)) if version.since(37) && word == "none" => return Ok(Vec::new()),
        Some(Value::String(word)) if version.since(37) && word == "auto" => {
            return automatic(api).await;
        }
        Some(list) => list,
    };
    let list: Vec<WantedNetwork> = serde_json::from_value(list.clone()).map_err(|error| {
        invalid(format!("networks must be none, auto, or a list like [{{\"uuid\": …}}]: {error}"))
    })?;
    let mut ports = Vec::with_capacity(list.len());
    for wanted in list {
        if wanted.port.is_some() || wanted.tag.is_some() {
            return Err(invalid("networks: port and tag are not offered; name a network by uuid"));
        }
        let text = wanted.uuid.ok_or_else(|| invalid("networks: uuid is missing"))?;
        let unknown = || ApiError::BadRequest(format!("Network {text} could not be found."));
        let id: Uuid = text.parse().map_err(|_| unknown())?;
        let found = api::network_get(&mut api.connection().await?, id).await;
        let network = found.map_err(|error| match error {
            DbError::NotFound { .. } => unknown(),
            other => other.into(),
        })?;
        let address = wanted.fixed_ip.map(|text| {
            text.parse::<Ipv4Addr>()
                .ok()
                .filter(|address| (network.pool_start..=network.pool_end).contains(address))
                .ok_or_else(|| {
                    invalid(format!(
                        "networks: fixed_ip {text} is not in the pool of {}",
                        network.name
                    ))
                })
        });
        ports.push(WantedPort { address: address.transpose()?, network });
    }
    Ok(ports)
}

/// A port on the only network there is; none if there is none.
async fn automatic(api: &Api) -> Result<Vec<WantedPort>, ApiError> {
    let mut networks = api::networks_list(&mut api.connection().await?).await?;
    match (networks.pop(), networks.is_empty()) {
        (Some(network), true) => Ok(vec![WantedPort { network, address: None }]),
        (None, _) => Ok(Vec::new()),
        (Some(_), false) => Err(ApiError::Conflict(
            "Multiple possible networks found, use a Network ID to be more specific.".to_owned(),
        )),
    }
}

/// Makes a server.
#[utoipa::path(post, path = "/v2.1/servers", tag = "servers", request_body = CreateServer,
    responses((status = 202), (status = 400), (status = 409)))]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Context(caller): Context,
    version: Version,
    base: Base,
    Body(request): Body<CreateServer>,
) -> Result<(StatusCode, [(&'static str, String); 1], Json<Value>), ApiError> {
    let wanted = request.server;
    wanted.check(version)?;
    let flavor = flavor(&api, &wanted.flavor_ref).await?;
    let image = image(&api, wanted.image()?, &flavor).await?;
    let requested_host = wanted.requested_host()?;
    if let Some(host) = &requested_host {
        let down = api.config.service_down_time_ms;
        let found = api::host_get(&mut api.connection().await?, host.as_str(), down).await;
        found.map_err(|_| {
            ApiError::BadRequest(format!("Compute host {host} could not be found."))
        })?;
    }
    let new = NewServer {
        name: wanted.name.trim().to_owned(),
        description: wanted.description.clone(),
        flavor_view: flavor_with_server(&flavor.snapshot()),
        flavor,
        image,
        ports: ports(&api, wanted.networks.as_ref(), version).await?,
        metadata: Value::Object(wanted.metadata.clone()),
        key_name: wanted.key_name.clone(),
        requested_host,
    };
    let (server, started) = api::server_create(&api.database, &caller, &new).await?;
    api.sender.send(started.message);
    tracing::info!(instance.id = %server.id, request_id = %caller.request_id, "server accepted");
    let location = format!("{}/v2.1/servers/{}", base.0, server.id);
    let body = json!({ "server": {
        "id": server.id,
        "links": [
            { "rel": "self", "href": location },
            { "rel": "bookmark", "href": format!("{}/servers/{}", base.0, server.id) },
        ],
        "OS-DCF:diskConfig": wanted.disk_config.as_deref().unwrap_or("MANUAL"),
        "security_groups": if wanted.security_groups.is_empty() {
            json!([{ "name": "default" }])
        } else {
            Value::Array(wanted.security_groups)
        },
        // Clients expect one; guests never learn it.
        "adminPass": "",
    } });
    Ok((StatusCode::ACCEPTED, [("location", location)], Json(body)))
}
