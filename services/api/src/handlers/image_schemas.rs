//! `/v2/schemas`: what images look like, for clients that ask before they speak.

use axum::Json;
use serde_json::{Value, json};

fn image_schema() -> Value {
    let text = json!({ "type": ["null", "string"] });
    let number = json!({ "type": ["null", "integer"] });
    let yes = json!({ "type": "boolean" });
    let mut properties = serde_json::Map::new();
    for (names, kind) in [
        (
            &[
                "id",
                "name",
                "status",
                "disk_format",
                "container_format",
                "visibility",
                "owner",
                "checksum",
                "os_hash_algo",
                "os_hash_value",
                "created_at",
                "updated_at",
                "self",
                "file",
                "schema",
            ][..],
            &text,
        ),
        (&["size", "virtual_size", "min_disk", "min_ram"], &number),
        (&["protected", "os_hidden"], &yes),
    ] {
        properties.extend(names.iter().map(|name| ((*name).to_owned(), kind.clone())));
    }
    properties.insert("tags".to_owned(), json!({ "type": "array", "items": { "type": "string" } }));
    json!({
        "name": "image",
        "properties": properties,
        "additionalProperties": { "type": "string" },
        "links": [{ "rel": "self", "href": "{self}" }, { "rel": "describedby", "href": "{schema}" }],
    })
}

/// What an image looks like.
pub(crate) async fn image() -> Json<Value> {
    Json(image_schema())
}

/// What a list of images looks like.
pub(crate) async fn images() -> Json<Value> {
    let text = json!({ "type": "string" });
    Json(json!({
        "name": "images",
        "properties": {
            "images": { "type": "array", "items": image_schema() },
            "schema": text,
            "next": text,
            "first": text,
        },
        "links": [{ "rel": "first", "href": "{first}" }, { "rel": "next", "href": "{next}" }],
    }))
}
