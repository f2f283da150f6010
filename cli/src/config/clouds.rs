//! `clouds.yaml`, with `secure.yaml` laid over it, searched for where OpenStack's own SDK does.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Environment;
use crate::error::Failure;

const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Where the files may be, the first one first.
pub(super) fn folders(environment: &Environment) -> Vec<PathBuf> {
    let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    let mut folders = vec![PathBuf::from(".")];
    let home = variable("HOME").map(PathBuf::from);
    let own = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let dot_config = home.map(|home| home.join(".config"));
    folders.extend(own.or(dot_config).map(|folder| folder.join("openstack")));
    let site = variable("XDG_CONFIG_DIRS").map_or("/etc/xdg", String::as_str);
    folders.extend(site.split(':').take(1).map(|folder| Path::new(folder).join("openstack")));
    folders.push("/etc/openstack".into());
    folders
}

/// The file that a variable names, or else the first there is.
fn find(
    name: &str,
    variable: &str,
    environment: &Environment,
    folders: &[PathBuf],
) -> Option<PathBuf> {
    let named = environment.get(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let candidates = folders
        .iter()
        .flat_map(|folder| ENDINGS.map(|ending| folder.join(format!("{name}.{ending}"))));
    named.or_else(|| candidates.into_iter().find(|path| path.is_file()))
}

fn load(path: &Path) -> Result<Value, Failure> {
    let at = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{at} can't be read.")).because(error))?;
    // JSON is YAML, too.
    let value: Value = serde_yaml_ng::from_str(&text)
        .map_err(|error| Failure::usage(format!("{at} is no YAML.")).because(error))?;
    Ok(underscored(value))
}

/// Both `auth-url` and `auth_url` are written. Names of clouds stay as they are.
fn underscored(value: Value) -> Value {
    let Value::Object(file) = value else { return value };
    let options = |value: Value| match value {
        Value::Object(options) => {
            let entry = |(name, value): (String, Value)| {
                let value = if name == "auth" { plain_names(value) } else { value };
                (name.replace('-', "_"), value)
            };
            Value::Object(options.into_iter().map(entry).collect())
        }
        other => other,
    };
    let section = |value: Value| match value {
        Value::Object(clouds) => {
            Value::Object(clouds.into_iter().map(|(name, cloud)| (name, options(cloud))).collect())
        }
        other => other,
    };
    Value::Object(file.into_iter().map(|(name, value)| (name, section(value))).collect())
}

fn plain_names(value: Value) -> Value {
    let Value::Object(options) = value else { return value };
    let entries = options.into_iter().map(|(name, value)| (name.replace('-', "_"), value));
    Value::Object(entries.collect())
}

fn lay_over(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (name, value) in above {
                lay_over(below.entry(name).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

/// The cloud by this name, or the only one there is.
pub(super) fn choose(
    wanted: Option<&str>,
    environment: &Environment,
    folders: &[PathBuf],
) -> Result<Value, Failure> {
    let Some(path) = find("clouds", "OS_CLIENT_CONFIG_FILE", environment, folders) else {
        let looked = folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>();
        let what = match wanted {
            Some(name) => format!("There is no clouds.yaml to find the cloud '{name}' in."),
            None => "Nothing says where the cloud is.".to_owned(),
        };
        return Err(Failure::usage(what)
            .next(format!("Write a clouds.yaml into one of {}.", looked.join(", ")))
            .next("Or say it: --os-auth-type none --os-endpoint http://127.0.0.1:8774/v2.1"));
    };
    let mut file = load(&path)?;
    if let Some(secure) = find("secure", "OS_CLIENT_SECURE_FILE", environment, folders) {
        lay_over(&mut file, load(&secure)?);
    }
    let at = path.display();
    let clouds = file["clouds"].as_object().ok_or_else(|| {
        Failure::usage(format!("{at} has no clouds."))
            .next("It begins with 'clouds:', and has each cloud by its name under that.")
    })?;
    let names = clouds.keys().cloned().collect::<Vec<_>>().join(", ");
    match wanted {
        Some(name) => clouds.get(name).cloned().ok_or_else(|| {
            Failure::usage(format!("There is no cloud '{name}' in {at}."))
                .next(format!("There are: {names}."))
        }),
        None if clouds.len() == 1 => Ok(clouds.values().next().cloned().unwrap_or_default()),
        None => Err(Failure::usage(format!("Which of the clouds in {at}?"))
            .next(format!("Say --os-cloud NAME, or set OS_CLOUD. There are: {names}."))),
    }
}
