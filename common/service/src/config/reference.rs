//! The reference page of a configuration, from its types.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::Configuration;
use super::schema::{Known, is_secret, kinds, properties};

/// All keys of a service's configuration as a page of Markdown.
pub fn reference<C: Configuration>(service: &str) -> String {
    let known = Known::of::<C>();
    let mut page = format!("## {service}\n");
    section(known.root(), "", &mut page);
    page
}

fn section(schema: &Value, path: &str, page: &mut String) {
    let Some(keys) = properties(schema) else { return };
    let (tables, plain): (Vec<_>, Vec<_>) =
        keys.iter().partition(|(_, inner)| properties(inner).is_some());
    if !plain.is_empty() {
        let heading =
            format!("\n### `[{path}]`\n\n| key | kind | default | meaning |\n|---|---|---|---|\n");
        page.push_str(&heading);
        for (key, inner) in plain {
            row(schema, key, inner, page);
        }
    }
    for (key, inner) in tables {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        section(inner, &path, page);
    }
}

fn row(table: &Value, key: &str, schema: &Value, page: &mut String) {
    let required = table["required"].as_array().into_iter().flatten().any(|name| name == key);
    let default = match schema.get("default").or_else(|| table["default"].get(key)) {
        _ if required => "required".to_owned(),
        None | Some(Value::Null) => "none".to_owned(),
        Some(value) if value.as_u64() == Some(u64::MAX) => "no limit".to_owned(),
        Some(value) => format!("`{value}`"),
    };
    let text = schema["description"].as_str().unwrap_or_default();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    let kind = kind(schema);
    // Writing to a text does not fail.
    let _ = writeln!(page, "| `{key}` | {kind} | {default} | {text} |");
}

fn kind(schema: &Value) -> String {
    if is_secret(schema) {
        return "secret".to_owned();
    }
    let mut values = Vec::new();
    choices(schema, &mut values);
    if !values.is_empty() {
        return values.join(", ");
    }
    let mut kinds = kinds(schema);
    kinds.retain(|kind| *kind != "null");
    if kinds.is_empty() { "string".to_owned() } else { kinds.join(" or ") }
}

/// The values of an enum, also of one that may be missing.
fn choices(schema: &Value, found: &mut Vec<String>) {
    let Some(schema): Option<&Map<String, Value>> = schema.as_object() else { return };
    if let Some(value) = schema.get("const") {
        found.push(format!("`{value}`"));
    }
    for value in schema.get("enum").and_then(Value::as_array).into_iter().flatten() {
        found.push(format!("`{value}`"));
    }
    for word in ["oneOf", "anyOf"] {
        for inner in schema.get(word).and_then(Value::as_array).into_iter().flatten() {
            choices(inner, found);
        }
    }
}
