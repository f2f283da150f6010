//! Servers, as the API shows them.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha224};
use whimbrel_db::api::ServerRow;
use whimbrel_model::{InstanceState, TaskState, VmState};

use super::zulu;
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

/// All of a server. Some fields are in the view of one server and not in lists.
pub(crate) fn server(row: &ServerRow, version: Version, base: &Base, one: bool) -> Value {
    let mut view = common(row, base);
    let fields = view.as_object_mut().expect("an object");
    place(fields, row);
    let shown = status(row.state);
    if matches!(shown, "ACTIVE" | "BUILD" | "MIGRATING" | "REBOOT") {
        fields.insert("progress".to_owned(), json!(if shown == "BUILD" { 0 } else { 100 }));
    }
    if let Some((_, message, at)) = row.fault.as_ref().filter(|_| row.state.vm == VmState::Error) {
        let fault = json!({ "code": 500, "message": message, "created": zulu(*at) });
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
    for (since, only_one, name, value) in additions(row) {
        if version.since(since) && (one || !only_one) {
            fields.insert(name.to_owned(), value);
        }
    }
    view
}

/// Fields that came with a microversion: since when, whether only in the view of one server, name, value.
fn additions(row: &ServerRow) -> Vec<(u16, bool, &'static str, Value)> {
    let host_status = if row.host.is_some() { "UP" } else { "" };
    let hostname = row.name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    vec![
        (3, false, "OS-EXT-SRV-ATTR:hostname", json!(hostname)),
        (3, false, "OS-EXT-SRV-ATTR:reservation_id", json!(row.reservation_id)),
        (3, false, "OS-EXT-SRV-ATTR:launch_index", json!(0)),
        (3, false, "OS-EXT-SRV-ATTR:kernel_id", json!("")),
        (3, false, "OS-EXT-SRV-ATTR:ramdisk_id", json!("")),
        (3, false, "OS-EXT-SRV-ATTR:root_device_name", json!("/dev/vda")),
        (3, false, "OS-EXT-SRV-ATTR:user_data", json!(null)),
        (9, false, "locked", json!(false)),
        (16, false, "host_status", json!(host_status)),
        (19, false, "description", json!(row.description)),
        (26, false, "tags", json!([])),
        (63, false, "trusted_image_certificates", json!(null)),
        (71, true, "server_groups", json!([])),
        (73, false, "locked_reason", json!(null)),
        (96, false, "pinned_availability_zone", json!(null)),
    ]
}

fn common(row: &ServerRow, base: &Base) -> Value {
    let image = format!("{}/images/{}", base.0, row.image_id);
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
        "OS-EXT-AZ:availability_zone": if row.host.is_some() { "nova" } else { "" },
        "config_drive": "",
        "key_name": row.key_name,
        "OS-SRV-USG:launched_at": row.launched_at.map(super::plain),
        "OS-SRV-USG:terminated_at": row.deleted_at.map(super::plain),
        "os-extended-volumes:volumes_attached": [],
        "security_groups": [{ "name": "default" }],
    })
}

fn place(fields: &mut Map<String, Value>, row: &ServerRow) {
    let host = row.host.as_ref().map(ToString::to_string);
    let task = if row.delete_requested { Some(TaskState::Deleting) } else { row.state.task };
    let host_id = host.as_ref().map_or_else(String::new, |host| {
        let hash = Sha224::digest(format!("{}{host}", row.project_id));
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    });
    for (name, value) in [
        ("hostId", json!(host_id)),
        ("OS-EXT-SRV-ATTR:host", json!(host)),
        ("OS-EXT-SRV-ATTR:hypervisor_hostname", json!(host)),
        ("OS-EXT-SRV-ATTR:instance_name", json!(format!("instance-{}", row.id))),
        ("OS-EXT-STS:vm_state", json!(row.state.vm)),
        ("OS-EXT-STS:task_state", json!(task)),
        ("OS-EXT-STS:power_state", json!(row.power_state as u8)),
    ] {
        fields.insert(name.to_owned(), value);
    }
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
