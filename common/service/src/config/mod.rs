//! Configuration: defaults of the types, then a TOML file, then the environment, then `--set`.
//!
//! What keys there are, what they mean and which are secret is read from the types (their JSON Schema). A secret
//! `section.key` can be kept out of file and environment: `section.key_file`, or `WHIMBREL__SECTION__KEY_FILE`, names
//! a file that holds it.

mod layer;
mod reference;
mod schema;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use layer::Layer;
pub use layer::Problem;
pub use reference::reference;
use schema::Known;

/// What a service's configuration can do.
pub trait Configuration: DeserializeOwned + Serialize + JsonSchema {}

impl<C: DeserializeOwned + Serialize + JsonSchema> Configuration for C {}

/// Where values come from, the first overridden by the last.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Variables `WHIMBREL__SECTION__KEY`.
    pub environment: Vec<(String, String)>,
    /// `section.key=value`.
    pub settings: Vec<String>,
}

impl Sources {
    /// A file, and the variables of this process.
    pub fn of_process(file: Option<&Path>, settings: Vec<String>) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(layer::PREFIX))
            .collect();
        Self { file: file.map(Path::to_owned), environment, settings }
    }
}

/// A configuration that can't be used, with all that is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<Problem>);

/// Reads a configuration.
///
/// # Errors
/// With everything that is wrong: keys that are not known (and the nearest that are), values of the wrong kind, secrets
/// whose files can't be read.
pub fn load<C: Configuration>(sources: &Sources) -> Result<C, ConfigError> {
    let known = Known::of::<C>();
    let mut problems = Vec::new();
    let mut layers = Vec::new();
    if let Some(file) = &sources.file {
        layers.push(Layer::of_file(file));
    }
    layers.push(Ok(Layer::of_environment(&known, &sources.environment)));
    layers.push(Layer::of_settings(&known, &sources.settings));
    let mut whole = config::Config::builder();
    for layer in layers {
        let source = layer.and_then(|layer| layer.resolved(&known)).and_then(|values| {
            config::Config::try_from(&values)
                .map_err(|error| vec![Problem::value(".", &error.to_string())])
        });
        match source {
            Ok(source) => whole = whole.add_source(source),
            Err(more) => problems.extend(more),
        }
    }
    if !problems.is_empty() {
        return Err(ConfigError(problems));
    }
    let whole: Value = whole
        .build()
        .and_then(config::Config::try_deserialize)
        .map_err(|error| ConfigError(vec![Problem::value(".", &error.to_string())]))?;
    serde_path_to_error::deserialize(whole).map_err(|error| {
        let (path, said) = (error.path().to_string(), error.inner().to_string());
        ConfigError(vec![Problem::value(&path, &said)])
    })
}

/// The whole configuration with its defaults, as TOML. Secrets are masked.
///
/// # Errors
/// When it can't be written as TOML.
pub fn print<C: Configuration>(config: &C) -> Result<String, String> {
    let known = Known::of::<C>();
    let mut values = serde_json::to_value(config).map_err(|error| error.to_string())?;
    known.mask(&mut values);
    let table: toml::Table =
        serde_json::from_value(values).map_err(|error| format!("not a table: {error}"))?;
    toml::to_string(&table).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
