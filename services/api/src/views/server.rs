//! Servers, as the API shows them.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha224};
use uuid::Uuid;
use whimbrel_db::api::{self, ServerRow};
use whimbrel_model::{InstanceState, ServiceStatus, TaskState, VmState};

use super::zulu;
use crate::auth::Context;
use crate::error::ApiError;
use crate::state::Api;
use crate::version::{Base, Version};

/// The one word that most people look at. Nova's `_STATE_MAP`.
pub(crate) fn status(state: InstanceState) -> &'static str {
    match (state.vm, state.task) {
        (VmState::Active, Some(TaskState::Rebooting)) => "REBOOT",
        (VmState::Active | VmState::Stopped | VmState::Paused, Some(TaskState::RebootingHard)) => {
            "HARD_REBOOT"
        }
        (VmState::Active | VmState::Paused, Some(TaskState::Migrating)) => "MIGRATING",
        (
            VmState::Active | VmState::Stopped,
            Some(TaskState::ResizePrep | TaskState::ResizeMigrating | TaskState::ResizeFinish),
        ) => "RESIZE",
        (
            VmState::Active | VmState::Stopped | VmState::Error,
            Some(TaskState::Rebuilding | TaskState::RebuildSpawning),
        ) => "REBUILD",
        (VmState::Resized, Some(TaskState::ResizeReverting)) => "REVERT_RESIZE",
        (VmState::Resized, _) => "VERIFY_RESIZE",
        (VmState::Building, _) => "BUILD",
        (VmState::Active, _) => "ACTIVE",
        (VmState::Paused, _) => "PAUSED",
        (VmState::Stopped, _) => "SHUTOFF",
        (VmState::Error, _) => "ERROR",
        (VmState::Deleted, _) => "DELETED",
    }
}

fn links(id: impl std::fmt::Display, base: &Base) -> Value {
    json!([
        { "rel": "self", "href": format!("{}/v2.1/servers/{id}", base.0) },
        { "rel": "bookmark", "href": format!("{}/servers/{id}", base.0) },
    ])
}

/// Only what names a server.
pub(crate) fn server_link(row: &ServerRow, base: &Base) -> Value {
    json!({ "id": row.id, "name": row.name, "links": links(row.id, base) })
}

/// What is needed around servers to show them.
pub(crate) struct Around {
    version: Version,
    base: Base,
    admin: bool,
    /// Zone by host.
    zones: HashMap<String, String>,
    /// Group by server.
    groups: HashMap<Uuid, Uuid>,
    /// What administrators see of hosts' services.
    hosts: HashMap<String, &'static str>,
}

impl Around {
    /// Reads what these servers need.
    pub(crate) async fn read(
        api: &Api,
        context: &Context,
        version: Version,
        base: Base,
        rows: &[ServerRow],
    ) -> Result<Self, ApiError> {
        let mut connection = api.connection().await?;
        let admin = context.is_admin();
        let zones = api::zones_of_hosts(&mut connection).await?;
        let groups = match rows {
            [one] if version.since(71) => {
                api::groups_of_servers(&mut connection, &[one.id]).await?
            }
            _ => HashMap::new(),
        };
        let hosts = if admin && version.since(16) {
            let all = api::hosts_list(&mut connection, api.config.service_down_time_ms).await?;
            all.into_iter().map(|host| (host.name.clone(), host_status(&host))).collect()
        } else {
            HashMap::new()
        };
        Ok(Self { version, base, admin, zones, groups, hosts })
    }

    fn zone(&self, row: &ServerRow) -> String {
        let Some(host) = &row.host else {
            return row.availability_zone.clone().unwrap_or_default();
        };
        let zone = self.zones.get(host.as_str()).map_or(api::DEFAULT_ZONE, String::as_str);
        zone.to_owned()
    }
}

/// The service on a server's host, in Nova's words.
fn host_status(host: &api::HostRow) -> &'static str {
    match (host.forced_down, host.status, host.up) {
        (true, _, _) => "DOWN",
        (_, ServiceStatus::Disabled, _) => "MAINTENANCE",
        (_, _, true) => "UP",
        _ => "UNKNOWN",
    }
}

/// All of a server. Some fields are in the view of one server and not in lists.
pub(crate) fn server(row: &ServerRow, around: &Around, one: bool) -> Value {
    let (version, base) = (around.version, &around.base);
    let mut view = common(row, around);
    let fields = view.as_object_mut().expect("an object");
    place(fields, row, around.admin);
    let shown = status(row.state);
    if matches!(shown, "ACTIVE" | "BUILD" | "MIGRATING" | "REBOOT") {
        fields.insert("progress".to_owned(), json!(if shown == "BUILD" { 0 } else { 100 }));
    }
    if let Some((_, message, at)) = row.fault.as_ref().filter(|_| row.state.vm == VmState::Error) {
        let fault = fault(message, *at, around.admin);
        fields.insert("fault".to_owned(), fault);
    }
    let flavor = if version.since(47) {
        let mut flavor = row.flavor.clone();
        flavor.as_object_mut().and_then(|flavor| flavor.remove("id"));
        flavor
    } else {
        let id = row.flavor["id"].as_str().unwrap_or_default();
        let href = format!("{}/flavors/{id}", base.0);
        json!({ "id": id, "links": [{ "rel": "bookmark", "href": href }] })
    };
    fields.insert("flavor".to_owned(), flavor);
    for (since, who, name, value) in additions(row, around) {
        let seen = match who {
            Who::All => true,
            Who::Admin => around.admin,
            Who::One => one,
        };
        if version.since(since) && seen {
            fields.insert(name.to_owned(), value);
        }
    }
    view
}

/// Only administrators learn which host or program refused.
fn fault(message: &str, at: chrono::DateTime<chrono::Utc>, admin: bool) -> Value {
    let no_host = "No valid host was found. There are not enough hosts available.";
    let told = match message {
        message if admin => message,
        message if message.starts_with("No valid host was found") => no_host,
        _ => "An unexpected error; an administrator sees the details.",
    };
    json!({ "code": 500, "message": told, "created": zulu(at) })
}

/// Who sees a field.
enum Who {
    All,
    Admin,
    /// All, but not in lists.
    One,
}

/// What a server of that name is called in its network, if nobody says otherwise.
pub(crate) fn hostname(name: &str) -> String {
    name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

/// Fields that came with a microversion: since when, for whom, name, value.
fn additions(row: &ServerRow, around: &Around) -> Vec<(u16, Who, &'static str, Value)> {
    let host = row.host.as_ref().and_then(|host| around.hosts.get(host.as_str()));
    let hostname = row.hostname.clone().unwrap_or_else(|| hostname(&row.name));
    let user_data = row.config_drive.as_ref().and_then(|told| told.user_data.as_ref());
    let group: Vec<_> = around.groups.get(&row.id).into_iter().collect();
    // Nova shows the host name to everybody since 2.90.
    let hostname_for = if around.version.since(90) { Who::All } else { Who::Admin };
    vec![
        (3, hostname_for, "OS-EXT-SRV-ATTR:hostname", json!(hostname)),
        (3, Who::Admin, "OS-EXT-SRV-ATTR:reservation_id", json!(row.reservation_id)),
        (3, Who::Admin, "OS-EXT-SRV-ATTR:launch_index", json!(0)),
        (3, Who::Admin, "OS-EXT-SRV-ATTR:kernel_id", json!("")),
        (3, Who::Admin, "OS-EXT-SRV-ATTR:ramdisk_id", json!("")),
        (3, Who::Admin, "OS-EXT-SRV-ATTR:root_device_name", json!("/dev/vda")),
        (3, Who::Admin, "OS-EXT-SRV-ATTR:user_data", json!(user_data)),
        (9, Who::All, "locked", json!(row.locked_by.is_some())),
        (16, Who::Admin, "host_status", json!(host.unwrap_or(&""))),
        (19, Who::All, "description", json!(row.description)),
        (26, Who::All, "tags", json!(row.tags)),
        (63, Who::All, "trusted_image_certificates", json!(null)),
        (71, Who::One, "server_groups", json!(group)),
        (73, Who::All, "locked_reason", json!(row.locked_reason)),
        (96, Who::All, "pinned_availability_zone", json!(row.availability_zone)),
    ]
}

/// Leaves of a server what the answer to a change had before 2.75.
pub(crate) fn as_changed(view: &mut Value, version: Version) {
    const KEPT: [(u16, &str); 19] = [
        (1, "id"),
        (1, "name"),
        (1, "status"),
        (1, "tenant_id"),
        (1, "user_id"),
        (1, "metadata"),
        (1, "hostId"),
        (1, "image"),
        (1, "flavor"),
        (1, "created"),
        (1, "updated"),
        (1, "addresses"),
        (1, "accessIPv4"),
        (1, "accessIPv6"),
        (1, "links"),
        (1, "OS-DCF:diskConfig"),
        (1, "progress"),
        (9, "locked"),
        (19, "description"),
    ];
    const LATER: [(u16, &str); 5] = [
        (26, "tags"),
        (63, "trusted_image_certificates"),
        (71, "server_groups"),
        (73, "locked_reason"),
        (1, "fault"),
    ];
    if let Some(fields) = view.as_object_mut() {
        fields.retain(|name, _| {
            KEPT.iter().chain(&LATER).any(|(since, kept)| version.since(*since) && kept == name)
        });
    }
}

fn attached(volume: Uuid, version: Version) -> Value {
    if version.since(3) {
        json!({ "id": volume, "delete_on_termination": false })
    } else {
        json!({ "id": volume })
    }
}

fn common(row: &ServerRow, around: &Around) -> Value {
    let base = &around.base;
    let image = format!("{}/images/{}", base.0, row.image_id);
    let volumes: Vec<Value> =
        row.volumes.iter().map(|volume| attached(volume.id, around.version)).collect();
    json!({
        "id": row.id,
        "name": row.name,
        "status": status(row.state),
        "tenant_id": row.project_id,
        "user_id": row.user_id,
        "metadata": row.metadata,
        "image": { "id": row.image_id, "links": [{ "rel": "bookmark", "href": image }] },
        "created": zulu(row.created_at),
        "updated": zulu(row.updated_at),
        "addresses": addresses(row),
        "accessIPv4": "",
        "accessIPv6": "",
        "links": links(row.id, base),
        "OS-DCF:diskConfig": "MANUAL",
        "OS-EXT-AZ:availability_zone": around.zone(row),
        "config_drive": if row.has_config_drive { "True" } else { "" },
        "key_name": row.key_name,
        "OS-SRV-USG:launched_at": row.launched_at.map(super::plain),
        "OS-SRV-USG:terminated_at": row.deleted_at.map(super::plain),
        "os-extended-volumes:volumes_attached": volumes,
        "security_groups": [{ "name": "default" }],
    })
}

/// What a project's users know a host by.
pub(crate) fn host_id(project: &str, host: &str) -> String {
    let hash = Sha224::digest(format!("{project}{host}"));
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn place(fields: &mut Map<String, Value>, row: &ServerRow, admin: bool) {
    let host = row.host.as_ref().map(ToString::to_string);
    let task = if row.delete_requested { Some(TaskState::Deleting) } else { row.state.task };
    let host_id = host.as_ref().map(|host| host_id(&row.project_id, host)).unwrap_or_default();
    for (name, value) in [
        ("hostId", json!(host_id)),
        ("OS-EXT-SRV-ATTR:host", json!(host)),
        ("OS-EXT-SRV-ATTR:hypervisor_hostname", json!(host)),
        ("OS-EXT-SRV-ATTR:instance_name", json!(format!("instance-{}", row.id))),
        ("OS-EXT-STS:vm_state", json!(row.state.vm)),
        ("OS-EXT-STS:task_state", json!(task)),
        ("OS-EXT-STS:power_state", json!(row.power_state as u8)),
    ] {
        if admin || !name.starts_with("OS-EXT-SRV-ATTR") {
            fields.insert(name.to_owned(), value);
        }
    }
}

/// Addresses alone, by network.
pub(crate) fn plain_addresses(row: &ServerRow) -> Map<String, Value> {
    let mut networks = Map::new();
    for port in &row.ports {
        let address = json!({ "version": 4, "addr": port.address });
        let list = networks.entry(port.network_name.clone()).or_insert_with(|| json!([]));
        list.as_array_mut().expect("a list").push(address);
    }
    networks
}

fn addresses(row: &ServerRow) -> Value {
    let mut networks = Map::new();
    for port in &row.ports {
        let address = json!({
            "version": 4,
            "addr": port.address,
            "OS-EXT-IPS:type": "fixed",
            "OS-EXT-IPS-MAC:mac_addr": port.mac,
        });
        let list = networks.entry(port.network_name.clone()).or_insert_with(|| json!([]));
        list.as_array_mut().expect("a list").push(address);
    }
    Value::Object(networks)
}
