//! What a configuration's types know: keys, kinds, secrets.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// How a secret is shown.
const MASK: &str = "****";

/// The keys of a configuration.
pub(super) struct Known {
    root: Value,
}

impl Known {
    pub(super) fn of<C: JsonSchema>() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.inline_subschemas = true;
        });
        Self { root: settings.into_generator().into_root_schema_for::<C>().into() }
    }

    pub(super) fn root(&self) -> &Value {
        &self.root
    }

    fn find(&self, path: &[String]) -> Option<&Value> {
        let mut at = &self.root;
        for key in path {
            at = match (properties(at), at.get("additionalProperties")) {
                (Some(known), _) if known.contains_key(key) => &known[key],
                (_, Some(any @ Value::Object(_))) => any,
                _ => return None,
            };
        }
        Some(at)
    }

    pub(super) fn has(&self, path: &[String]) -> bool {
        self.find(path).is_some()
    }

    pub(super) fn is_section(&self, path: &[String]) -> bool {
        self.find(path).is_some_and(|schema| properties(schema).is_some())
    }

    /// If `path` ends in `_file` and what is before that is a secret: its name.
    pub(super) fn secret_of_file<'a>(&self, path: &'a [String]) -> Option<&'a str> {
        let (last, above) = path.split_last()?;
        let name = last.strip_suffix("_file")?;
        let secret: Vec<String> = above.iter().cloned().chain([name.to_owned()]).collect();
        self.find(&secret).is_some_and(is_secret).then_some(name)
    }

    /// A text as a value of the kind that is wanted at `path`.
    pub(super) fn parse(&self, path: &[String], text: &str) -> Value {
        let as_text = || Value::String(text.to_owned());
        let wants_text = self.find(path).is_none_or(|schema| {
            let kinds = kinds(schema);
            kinds.is_empty() || kinds.contains(&"string")
        });
        if wants_text {
            as_text()
        } else {
            serde_json::from_str(text).unwrap_or_else(|_| as_text())
        }
    }

    /// What to say about a key that is not known.
    pub(super) fn unknown(&self, path: &[String]) -> String {
        let name = path.join(".");
        let mut all = Vec::new();
        names(&self.root, "", &mut all);
        // The nearest by the whole name, or a key of the same name in another section.
        let last = path.last().map_or("", String::as_str);
        let near = all
            .iter()
            .map(|known| {
                let same = known.rsplit('.').next() == Some(last);
                (if same { 1 } else { distance(&name, known) }, known)
            })
            .min()
            .filter(|(far, _)| *far <= 2.max(name.len() / 4));
        match near {
            Some((_, known)) => format!("{name} is not known; did you mean {known}?"),
            None => {
                let above = &path[..path.len().saturating_sub(1)];
                let table = self.find(above).and_then(properties);
                let known = table.into_iter().flat_map(Map::keys).map(String::as_str);
                let known = known.collect::<Vec<_>>().join(", ");
                format!("{name} is not known; known here: {known}")
            }
        }
    }

    /// Masks secrets, and drops what TOML has no value for.
    pub(super) fn mask(&self, values: &mut Value) {
        mask(&self.root, values);
    }
}

/// The keys of a table, also of one that may be missing.
pub(super) fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    if let Some(Value::Object(known)) = schema.get("properties") {
        return Some(known);
    }
    schema.get("anyOf")?.as_array()?.iter().find_map(properties)
}

pub(super) fn is_secret(schema: &Value) -> bool {
    schema.get("writeOnly") == Some(&Value::Bool(true))
}

/// `string`, `integer`, ….
pub(super) fn kinds(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(kind)) => vec![kind.as_str()],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn names(schema: &Value, prefix: &str, all: &mut Vec<String>) {
    for (key, inner) in properties(schema).into_iter().flatten() {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        names(inner, &name, all);
        all.push(name);
    }
}

fn mask(schema: &Value, values: &mut Value) {
    let Value::Object(table) = values else { return };
    // No value of TOML: nothing, and numbers that mean "no limit".
    table.retain(|_, value| !(value.is_null() || value.as_i64().is_none() && value.is_u64()));
    for (key, value) in table.iter_mut() {
        let Some(inner) = properties(schema).and_then(|known| known.get(key)) else { continue };
        match value {
            Value::String(text) if is_secret(inner) => *text = masked(text),
            _ => mask(inner, value),
        }
    }
}

/// A secret as it may be shown: of a URL only the password is hidden.
fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return MASK.to_owned() };
    let Some((login, place)) = rest.rsplit_once('@') else { return text.to_owned() };
    match login.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:{MASK}@{place}"),
        None => text.to_owned(),
    }
}

/// How many letters to change, add or leave out to make one of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, wanted) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *wanted);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
