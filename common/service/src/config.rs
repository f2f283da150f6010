//! Configuration: defaults of the types, then a TOML file, then the environment.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("configuration {} can't be used", path.display())]
pub struct ConfigError {
    /// The file.
    path: PathBuf,
    /// Why.
    #[source]
    source: Box<config::ConfigError>,
}

/// Reads `path` and the variables `WHIMBREL__SECTION__KEY` over it. A key that the type does not know is
/// refused, and the message lists those that it does.
///
/// # Errors
/// When the file can't be read, or does not hold what the type asks for.
pub fn load<C: DeserializeOwned>(path: &Path) -> Result<C, ConfigError> {
    let environment = config::Environment::with_prefix("WHIMBREL")
        .prefix_separator("__")
        .separator("__")
        .try_parsing(true);
    config::Config::builder()
        .add_source(config::File::from(path).format(config::FileFormat::Toml))
        .add_source(environment)
        .build()
        .and_then(config::Config::try_deserialize)
        .map_err(|source| ConfigError { path: path.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::{ErrorChain, LogConfig};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        log: LogConfig,
    }

    fn file(name: &str, text: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("whimbrel-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn an_unknown_key_is_refused_and_the_known_ones_are_named() {
        let path = file("unknown", "[log]\nlevle = \"debug\"\n");
        let said = ErrorChain(&load::<Sample>(&path).unwrap_err()).to_string();
        std::fs::remove_file(path).unwrap();
        assert!(said.contains("levle") && said.contains("`level`"), "{said}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let said =
            ErrorChain(&load::<Sample>(Path::new("/nowhere/x.toml")).unwrap_err()).to_string();
        assert!(said.contains("/nowhere/x.toml"), "{said}");
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let path = file("defaults", "[log]\n");
        let sample = load::<Sample>(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        assert_eq!(sample.log.level, "info");
    }
}
