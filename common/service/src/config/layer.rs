//! One source of values: read, checked against what is known, and with its secrets fetched from files.

use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};

use super::schema::Known;

pub(super) const PREFIX: &str = "WHIMBREL__";

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Problem {
    pub(super) fn value(path: &str, said: &str) -> Self {
        if path == "." { Self(said.to_owned()) } else { Self(format!("{path}: {said}")) }
    }
}

/// One source of values.
pub(super) struct Layer {
    /// How to name it to people.
    name: String,
    values: Value,
}

impl Layer {
    pub(super) fn of_file(path: &Path) -> Result<Self, Vec<Problem>> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| vec![Problem(format!("{name} can't be read: {error}"))])?;
        let values = toml::from_str(&text).map_err(|error| {
            // The parser's own display quotes the line, which may hold a secret.
            let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
            vec![Problem(format!("{name}, line {line}: {}", error.message()))]
        })?;
        Ok(Self { name, values })
    }

    pub(super) fn of_environment(known: &Known, variables: &[(String, String)]) -> Self {
        let mut values = Value::Object(Map::new());
        for (name, text) in variables {
            let path: Vec<String> = name
                .strip_prefix(PREFIX)
                .unwrap_or(name)
                .split("__")
                .map(str::to_ascii_lowercase)
                .collect();
            put(&mut values, &path, known.parse(&path, text));
        }
        Self { name: "the environment".to_owned(), values }
    }

    pub(super) fn of_settings(known: &Known, settings: &[String]) -> Result<Self, Vec<Problem>> {
        let mut values = Value::Object(Map::new());
        for setting in settings {
            let Some((path, text)) = setting.split_once('=') else {
                let problem = format!("--set {setting}: not of the form section.key=value");
                return Err(vec![Problem(problem)]);
            };
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            put(&mut values, &path, known.parse(&path, text));
        }
        Ok(Self { name: "--set".to_owned(), values })
    }

    /// The values, with the contents of the files that hold secrets. Every key is one that is known.
    pub(super) fn resolved(mut self, known: &Known) -> Result<Value, Vec<Problem>> {
        let mut problems = Vec::new();
        resolve(known, &mut Vec::new(), &mut self.values, &mut problems);
        if problems.is_empty() {
            return Ok(self.values);
        }
        let name = &self.name;
        Err(problems.into_iter().map(|said| Problem(format!("{name}: {said}"))).collect())
    }
}

fn resolve(known: &Known, path: &mut Vec<String>, values: &mut Value, problems: &mut Vec<String>) {
    let Value::Object(table) = values else { return };
    let keys: Vec<String> = table.keys().cloned().collect();
    for key in keys {
        path.push(key.clone());
        if known.has(path) {
            if let Some(inner) = table.get_mut(&key).filter(|_| known.is_section(path)) {
                resolve(known, path, inner, problems);
            }
        } else if let Some(secret) = known.secret_of_file(path) {
            match fetch(table, &key, secret) {
                Ok(()) => {}
                Err(said) => problems.push(format!("{}: {said}", path.join("."))),
            }
        } else {
            problems.push(known.unknown(path));
        }
        path.pop();
    }
}

/// Replaces `key`, which names a file, by `secret`, which is in it.
fn fetch(table: &mut Map<String, Value>, key: &str, secret: &str) -> Result<(), String> {
    let named = table.remove(key);
    let Some(Value::String(file)) = named else { return Err("not the name of a file".to_owned()) };
    if table.contains_key(secret) {
        return Err(format!("{secret} is given, too; give one of them"));
    }
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(format!("{file} is empty"));
    }
    table.insert(secret.to_owned(), Value::String(text.to_owned()));
    Ok(())
}

fn put(values: &mut Value, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else { return };
    if !values.is_object() {
        *values = Value::Object(Map::new());
    }
    let Value::Object(table) = values else { return };
    if rest.is_empty() {
        table.insert(first.clone(), value);
    } else {
        put(table.entry(first.clone()).or_insert(Value::Null), rest, value);
    }
}
