//! Making a server.

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;
use whimbrel_db::DbError;
use whimbrel_db::api::{
    self, FlavorRow, ImageRow, KeypairRow, NewServer, Usage, WantedPort, flavor_with_server,
};
use whimbrel_messages::compute::ConfigDrive;
use whimbrel_model::HostName;

use super::server_place as place;
use crate::auth::{CREATE_ON_HOST, Context};
use crate::body::Body;
use crate::error::ApiError;
use crate::state::Api;
use crate::version::{Base, Version};
use crate::views;

/// As much as Nova takes.
const MOST_USER_DATA: usize = 65_535;

/// A request to make a server.
#[derive(Deserialize, ToSchema)]
pub(crate) struct CreateServer {
    server: Wanted,
    #[serde(rename = "os:scheduler_hints", alias = "OS-SCH-HNT:scheduler_hints", default)]
    hints: Map<String, Value>,
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
    min_count: Option<Value>,
    max_count: Option<Value>,
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
    trusted_image_certificates: Option<Value>,
    #[serde(rename = "adminPass")]
    admin_pass: Option<String>,
    #[serde(rename = "accessIPv4")]
    access_ipv4: Option<String>,
    #[serde(rename = "accessIPv6")]
    access_ipv6: Option<String>,
    #[serde(default)]
    return_reservation_id: Value,
    #[serde(default)]
    personality: Vec<Value>,
}

pub(super) fn invalid(what: impl std::fmt::Display) -> ApiError {
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
        self.wants_config_drive()?;
        for (since, given, name) in [
            (19, self.description.is_some(), "description"),
            (52, !self.tags.is_empty(), "tags"),
            (63, self.trusted_image_certificates.is_some(), "trusted_image_certificates"),
            (74, self.host.is_some(), "host"),
            (74, self.hypervisor_hostname.is_some(), "hypervisor_hostname"),
            (90, self.hostname.is_some(), "hostname"),
        ] {
            if given && !version.since(since) {
                return Err(invalid(format!("{name} came with version 2.{since}")));
            }
        }
        if self.trusted_image_certificates.as_ref().is_some_and(|list| !list.is_null()) {
            return Err(invalid("trusted_image_certificates are not offered; leave them out"));
        }
        super::server_tags::check(&self.tags)?;
        if self.hostname.as_deref().is_some_and(|name| !super::servers::is_hostname(name)) {
            return Err(invalid("hostname must have 1 to 63 letters, digits, hyphens or dots"));
        }
        if self.admin_pass.as_deref().is_some_and(|password| !password.is_empty()) {
            return Err(invalid("adminPass is not offered: guests never learn it; use a key pair"));
        }
        let shown = [&self.access_ipv4, &self.access_ipv6];
        if shown.into_iter().flatten().any(|address| !address.is_empty())
            || !self.personality.is_empty()
        {
            return Err(invalid(
                "accessIPv4, accessIPv6 and personality are not offered; leave them out",
            ));
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

    /// There is no other way to tell a guest something, so what its user has to say needs the disk.
    fn wants_config_drive(&self) -> Result<bool, ApiError> {
        let asked = match self.config_drive.as_ref() {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.is_empty() => None,
            Some(value) => Some(
                super::server_actions::boolean(value)
                    .ok_or_else(|| invalid("config_drive must be true or false"))?,
            ),
        };
        let Some(data) = &self.user_data else { return Ok(asked == Some(true)) };
        if data.len() > MOST_USER_DATA || BASE64.decode(data).is_err() {
            return Err(invalid(format!(
                "user_data must be Base64, of {MOST_USER_DATA} characters at most"
            )));
        }
        if asked == Some(false) {
            return Err(invalid(
                "user_data reaches the guest by its config drive only; ask for one",
            ));
        }
        Ok(true)
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

async fn flavor(api: &Api, context: &Context, wanted: &Value) -> Result<FlavorRow, ApiError> {
    let text = match wanted {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(invalid("flavorRef must be a flavor's id")),
    };
    let id = text.rsplit('/').next().unwrap_or(&text);
    super::flavors::get(api, context, id).await.map_err(|error| match error {
        ApiError::NotFound(_) => ApiError::BadRequest(format!(
            "Invalid flavorRef provided: flavor {id} could not be found."
        )),
        other => other,
    })
}

/// The flavor as it is kept and shown with a server.
fn flavor_view(flavor: &FlavorRow) -> Value {
    let mut view = flavor_with_server(&flavor.snapshot());
    view["extra_specs"] = flavor.extra_specs.clone();
    view
}

async fn image(
    api: &Api,
    context: &Context,
    id: Uuid,
    flavor: &FlavorRow,
) -> Result<ImageRow, ApiError> {
    let found = super::images::get(api, context, &id.to_string()).await;
    let image = found.map_err(|error| match error {
        ApiError::NotFound(_) => ApiError::BadRequest(format!(
            "Invalid imageRef provided: image {id} could not be found."
        )),
        other => other,
    })?;
    if image.min_ram > flavor.memory_mib {
        return Err(ApiError::BadRequest(
            "Flavor's memory is too small for requested image.".into(),
        ));
    }
    if flavor.disk_gib > 0 && image.min_disk > flavor.disk_gib {
        return Err(ApiError::BadRequest("Flavor's disk is too small for requested image.".into()));
    }
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

/// All of a new server that the request does not say itself is looked up.
async fn plan(
    api: &Api,
    context: &Context,
    version: Version,
    wanted: &Wanted,
    (hints, count): (&Map<String, Value>, usize),
) -> Result<NewServer, ApiError> {
    let flavor = flavor(api, context, &wanted.flavor_ref).await?;
    let image = image(api, context, wanted.image()?, &flavor).await?;
    let requested_host = wanted.requested_host()?;
    if let Some(host) = &requested_host {
        context.check(CREATE_ON_HOST)?;
        let down = api.config.service_down_time_ms;
        let found = api::host_get(&mut api.connection().await?, host.as_str(), down).await;
        found.map_err(|_| {
            ApiError::BadRequest(format!("Compute host {host} could not be found."))
        })?;
    }
    let limits = super::quotas::limits(api, &context.caller.project_id).await?;
    let limit = |name: &str| limits.get(name).copied().unwrap_or(-1);
    let items = i64::try_from(wanted.metadata.len()).unwrap_or(i64::MAX);
    if limit("metadata_items") >= 0 && items > limit("metadata_items") {
        return Err(ApiError::Forbidden(
            "Maximum number of metadata items exceeds the quota of the project".to_owned(),
        ));
    }
    let in_group = limit("server_group_members");
    let key = place::key(api, &context.caller, wanted.key_name.as_deref()).await?;
    let availability_zone = place::zone(api, wanted.availability_zone.as_deref()).await?;
    let config_drive = wanted.wants_config_drive()?.then(|| {
        let zone = availability_zone.clone();
        config_drive(wanted, context, key.as_ref(), zone)
    });
    Ok(NewServer {
        description: wanted.description.clone(),
        flavor_view: flavor_view(&flavor),
        flavor,
        image,
        ports: ports(api, wanted.networks.as_ref(), version).await?,
        metadata: Value::Object(wanted.metadata.clone()),
        key_name: key.map(|key| key.name),
        requested_host,
        availability_zone,
        config_drive,
        hostname: wanted.hostname.clone(),
        tags: super::server_tags::sorted(&wanted.tags),
        group: place::group(api, context, hints, in_group, count).await?,
        limits: Usage { instances: limit("instances"), cores: limit("cores"), ram: limit("ram") },
    })
}

/// What the guest is told of itself. Its name is filled in for each of several.
fn config_drive(
    wanted: &Wanted,
    context: &Context,
    key: Option<&KeypairRow>,
    availability_zone: Option<String>,
) -> ConfigDrive {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = wanted.metadata.iter().map(|(name, value)| (name.clone(), text(value)));
    let name = wanted.name.trim().to_owned();
    ConfigDrive {
        hostname: wanted.hostname.clone().unwrap_or_else(|| views::hostname(&name)),
        name,
        project_id: context.caller.project_id.clone(),
        availability_zone,
        metadata: metadata.collect(),
        public_keys: key.iter().map(|key| (key.name.clone(), key.public_key.clone())).collect(),
        user_data: wanted.user_data.clone(),
    }
}

/// Makes a server.
#[utoipa::path(post, path = "/v2.1/servers", tag = "servers", request_body = CreateServer,
    responses((status = 202), (status = 400), (status = 409)))]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    context: Context,
    version: Version,
    base: Base,
    Body(request): Body<CreateServer>,
) -> Result<(StatusCode, [(&'static str, String); 1], Json<Value>), ApiError> {
    let (wanted, hints) = (request.server, request.hints);
    wanted.check(version)?;
    let count = place::count(wanted.min_count.as_ref(), wanted.max_count.as_ref())?;
    let new = plan(&api, &context, version, &wanted, (&hints, count)).await?;
    let names = place::names(wanted.name.trim(), count);
    if count > 1 && new.ports.iter().any(|port| port.address.is_some()) {
        return Err(invalid("several servers can't have one fixed_ip"));
    }
    let caller = &context.caller;
    let made = api::servers_create(&api.database, caller, &new, &names).await?;
    for (server, started) in &made {
        api.sender.send(started.message.clone());
        tracing::info!(instance.id = %server.id, request_id = %caller.request_id, "server accepted");
    }
    let Some((server, _)) = made.first() else {
        return Err(ApiError::Internal(anyhow::anyhow!("no server was made")));
    };
    if super::server_actions::boolean(&wanted.return_reservation_id) == Some(true) {
        let location = format!("{}/v2.1/servers", base.0);
        let body = json!({ "reservation_id": server.reservation_id });
        return Ok((StatusCode::ACCEPTED, [("location", location)], Json(body)));
    }
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
