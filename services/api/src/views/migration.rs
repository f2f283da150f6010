//! Migrations, as `/os-migrations` and `/servers/{id}/migrations` show them.

use serde_json::{Map, Value, json};
use whimbrel_db::api::MigrationRow;
use whimbrel_model::{FlavorSnapshot, MigrationType};

use super::plain;
use crate::version::{Base, Version};

/// Clients expect an integer here. A flavor whose id is none is in the whole of the migration, `/v1`.
fn number(flavor: &FlavorSnapshot) -> Option<i64> {
    flavor.id.parse().ok()
}

/// In `/os-migrations`.
pub(crate) fn migration(row: &MigrationRow, version: Version, base: &Base, admin: bool) -> Value {
    let destination = row.dest_compute.as_ref().map(ToString::to_string);
    let mut view = json!({
        "id": row.number,
        "instance_uuid": row.instance_id,
        "source_compute": row.source_compute,
        "source_node": row.source_compute,
        "dest_compute": destination,
        "dest_node": destination,
        "dest_host": destination,
        "status": row.status,
        "old_instance_type_id": row.flavors.as_ref().and_then(|(old, _)| number(old)),
        "new_instance_type_id": row.flavors.as_ref().and_then(|(_, new)| number(new)),
        "created_at": plain(row.created_at),
        "updated_at": plain(row.updated_at),
    });
    let fields = view.as_object_mut().expect("an object");
    if version.since(23) {
        fields.insert("migration_type".to_owned(), json!(row.migration_type));
        // Only these are in the server's own list.
        if row.migration_type == MigrationType::LiveMigration && !row.status.is_terminal() {
            let path = format!("servers/{}/migrations/{}", row.instance_id, row.number);
            let links = json!([
                { "rel": "self", "href": format!("{}/v2.1/{path}", base.0) },
                { "rel": "bookmark", "href": format!("{}/{path}", base.0) },
            ]);
            fields.insert("links".to_owned(), links);
        }
    }
    identity(fields, row, version);
    hide(fields, admin);
    view
}

/// Only administrators see which hosts there are.
fn hide(fields: &mut Map<String, Value>, admin: bool) {
    for name in ["source_compute", "source_node", "dest_compute", "dest_node", "dest_host"] {
        if !admin {
            fields.insert(name.to_owned(), Value::Null);
        }
    }
}

/// In `/servers/{id}/migrations`.
pub(crate) fn server_migration(row: &MigrationRow, version: Version, admin: bool) -> Value {
    let destination = row.dest_compute.as_ref().map(ToString::to_string);
    let [memory_total, memory_processed, memory_remaining] = row.memory;
    let [disk_total, disk_processed, disk_remaining] = row.disk;
    let mut view = json!({
        "id": row.number,
        "server_uuid": row.instance_id,
        "source_compute": row.source_compute,
        "source_node": row.source_compute,
        "dest_compute": destination,
        "dest_node": destination,
        "dest_host": destination,
        "status": row.status,
        "memory_total_bytes": memory_total,
        "memory_processed_bytes": memory_processed,
        "memory_remaining_bytes": memory_remaining,
        "disk_total_bytes": disk_total,
        "disk_processed_bytes": disk_processed,
        "disk_remaining_bytes": disk_remaining,
        "created_at": plain(row.created_at),
        "updated_at": plain(row.updated_at),
    });
    let fields = view.as_object_mut().expect("an object");
    identity(fields, row, version);
    hide(fields, admin);
    view
}

fn identity(fields: &mut Map<String, Value>, row: &MigrationRow, version: Version) {
    if version.since(59) {
        fields.insert("uuid".to_owned(), json!(row.id));
    }
    if version.since(80) {
        fields.insert("project_id".to_owned(), json!(row.project_id));
        fields.insert("user_id".to_owned(), json!(row.user_id));
    }
}
