//! Where the cloud is and who is asking: from flags, `clouds.yaml`, and `OS_*` variables, in this order.

mod clouds;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

use crate::error::Failure;

/// The variables of the environment, read once.
pub(crate) type Environment = BTreeMap<String, String>;

/// A text that is not for logs.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// The text itself.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// How the caller says who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    /// Not at all.
    None,
    /// By a name and a password with every request.
    Basic { username: String, password: Secret },
    /// By a token of the identity service at `url`, for which `request` asks.
    Keystone { url: String, identity: Box<Identity> },
}

/// What the identity service is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    Password { user: Named, password: Secret, project: Named },
    ApplicationCredential { credential: Named, secret: Secret },
}

/// Something by its id, or else by its name in a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) domain_id: Option<String>,
    pub(crate) domain_name: Option<String>,
    /// Whose it is, where only its owner tells it from others.
    pub(crate) owner: Option<Box<Named>>,
}

/// All that is known before anything is asked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) auth: Auth,
    /// Where services are that the catalog need not tell.
    pub(crate) compute: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) network: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) interface: String,
    pub(crate) cacert: Option<PathBuf>,
    /// A client's certificate, and its key if that is in another file.
    pub(crate) client_certificate: Option<(PathBuf, Option<PathBuf>)>,
    pub(crate) insecure: bool,
    pub(crate) compute_api_version: Option<String>,
}

/// Values by the names that `clouds.yaml` has for them, from three sources.
struct Sources<'a> {
    flags: &'a BTreeMap<&'static str, String>,
    cloud: Option<Value>,
    environment: &'a Environment,
}

impl Sources<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let of_cloud = || {
            let cloud = self.cloud.as_ref()?;
            let value = [&cloud["auth"][name], &cloud[name]].into_iter().find(|v| !v.is_null())?;
            Some(value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned))
        };
        let of_environment = || {
            let value = self.environment.get(&format!("OS_{}", name.to_uppercase()))?;
            Some(value.clone()).filter(|value| !value.is_empty())
        };
        self.flags.get(name).cloned().or_else(of_cloud).or_else(of_environment)
    }

    fn need(&self, name: &str, of: &str) -> Result<String, Failure> {
        self.get(name).ok_or_else(|| {
            let variable = name.to_uppercase();
            Failure::usage(format!("The auth type {of} needs {name}."))
                .next(format!("Put it under 'auth' in clouds.yaml, or set OS_{variable}."))
        })
    }

    /// Someone or something that has a domain.
    fn named(&self, id: &str, name: &str, domain: &str) -> Named {
        let (id, name) = (self.get(id), self.get(name));
        let of = |end: &str| self.get(&format!("{domain}_domain_{end}"));
        let (domain_id, domain_name) = (of("id"), of("name"));
        let either = domain_id.is_some() || domain_name.is_some();
        // Whoever names no domain means the one that is always there.
        let domain_id = domain_id.or_else(|| {
            let default = || Some("default".to_owned());
            if either { None } else { self.get("default_domain").or_else(default) }
        });
        Named { id, name, domain_id, domain_name, owner: None }
    }

    fn auth(&self) -> Result<Auth, Failure> {
        let bare = self.get("auth_url").is_none() && self.get("endpoint").is_some();
        let default = if bare { "none" } else { "password" };
        let kind = self.get("auth_type").unwrap_or_else(|| default.to_owned());
        match kind.as_str() {
            "none" => Ok(Auth::None),
            "http_basic" => Ok(Auth::Basic {
                username: self.need("username", &kind)?,
                password: self.need("password", &kind)?.into(),
            }),
            "password" | "v3password" => {
                let user = self.named("user_id", "username", "user");
                if user.id.is_none() {
                    self.need("username", &kind)?;
                }
                let project = self.named("project_id", "project_name", "project");
                if project.id.is_none() && project.name.is_none() {
                    self.need("project_name", &kind)?;
                }
                let password = self.need("password", &kind)?.into();
                let identity = Box::new(Identity::Password { user, password, project });
                Ok(Auth::Keystone { url: self.need("auth_url", &kind)?, identity })
            }
            "v3applicationcredential" => {
                let get = |name: &str| self.get(&format!("application_credential_{name}"));
                let mut credential = Named { id: get("id"), name: get("name"), ..Named::default() };
                if credential.id.is_none() {
                    self.need("application_credential_name", &kind)?;
                    let user = self.named("user_id", "username", "user");
                    credential.owner = Some(Box::new(user));
                }
                let secret = self.need("application_credential_secret", &kind)?.into();
                let identity = Box::new(Identity::ApplicationCredential { credential, secret });
                Ok(Auth::Keystone { url: self.need("auth_url", &kind)?, identity })
            }
            other => Err(Failure::usage(format!("The auth type '{other}' is not offered."))
                .next("Offered are none, http_basic, password and v3applicationcredential.")),
        }
    }
}

fn truth(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on")
}

impl Settings {
    /// From all sources. What a flag says counts, then what the chosen cloud of `clouds.yaml` says, then `OS_*`.
    pub(crate) fn read(
        flags: &BTreeMap<&'static str, String>,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let has = |name: &str| {
            let variable = environment.get(&format!("OS_{}", name.to_uppercase()));
            flags.contains_key(name) || variable.is_some_and(|value| !value.is_empty())
        };
        let wanted = flags.get("cloud").or_else(|| environment.get("OS_CLOUD"));
        let wanted = wanted.filter(|name| !name.is_empty());
        // Whoever says where it is needs no file.
        let cloud = if wanted.is_none() && (has("auth_url") || has("endpoint")) {
            None
        } else {
            let folders = clouds::folders(environment);
            Some(clouds::choose(wanted.map(String::as_str), environment, &folders)?)
        };
        let sources = Sources { flags, cloud, environment };
        let get = |name: &str| sources.get(name);
        let override_of = |service: &str| get(&format!("{service}_endpoint_override"));
        let verify = get("verify").is_none_or(|text| truth(&text));
        let insecure = !verify || get("insecure").is_some_and(|text| truth(&text));
        Ok(Self {
            auth: sources.auth()?,
            compute: override_of("compute").or_else(|| get("endpoint")),
            image: override_of("image"),
            network: override_of("network"),
            region: get("region_name"),
            interface: get("interface").unwrap_or_else(|| "public".to_owned()),
            cacert: get("cacert").map(Into::into),
            client_certificate: get("cert").map(|cert| (cert.into(), get("key").map(Into::into))),
            insecure,
            // These name the API, not a version of it.
            compute_api_version: get("compute_api_version")
                .filter(|version| !matches!(version.as_str(), "2" | "2.1")),
        })
    }
}

#[cfg(test)]
mod tests;
