//! Moves of servers that are shut off: resize, cold migration, what is decided about them, evacuation.

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use whimbrel_db::DbError;
use whimbrel_db::api::{
    self, Caller, EvacuateOrder, HostRow, ResizeOrder, ServerRow, Started, flavor_of_server,
};
use whimbrel_model::{FlavorSnapshot, HostName, InstanceEvent};

use super::server_actions::{argument, boolean, destination, not_begun, source_up};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::Version;

/// From this version on a server that was evacuated stays shut off.
const EVACUATED_STAYS_OFF: u16 = 95;

pub(super) enum ColdAction {
    Resize { flavor: String },
    Migrate { host: Option<String> },
    Confirm,
    Revert,
    Evacuate { host: Option<String>, start: bool },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResizeArgument {
    #[serde(rename = "flavorRef")]
    flavor_ref: Value,
    #[serde(rename = "OS-DCF:diskConfig")]
    disk_config: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MigrateArgument {
    host: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EvacuateArgument {
    host: Option<String>,
    force: Option<Value>,
    #[serde(rename = "adminPass")]
    admin_pass: Option<String>,
    #[serde(rename = "onSharedStorage")]
    on_shared_storage: Option<Value>,
}

fn invalid(action: &str, what: &str) -> ApiError {
    ApiError::BadRequest(format!("Invalid input for {action}: {what}."))
}

impl ColdAction {
    /// None if it is none of these.
    pub(super) fn read(
        name: &str,
        value: Value,
        version: Version,
    ) -> Option<Result<Self, ApiError>> {
        Some(match name {
            "resize" => read_resize(value),
            "migrate" => read_migrate(value, version),
            "confirmResize" => no_argument(name, &value).map(|()| Self::Confirm),
            "revertResize" => no_argument(name, &value).map(|()| Self::Revert),
            "evacuate" => read_evacuate(value, version),
            _ => return None,
        })
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Resize { .. } => "resize",
            Self::Migrate { .. } => "migrate",
            Self::Confirm => "confirmResize",
            Self::Revert => "revertResize",
            Self::Evacuate { .. } => "evacuate",
        }
    }

    /// Nova's codes.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Confirm => StatusCode::NO_CONTENT,
            Self::Evacuate { .. } => StatusCode::OK,
            _ => StatusCode::ACCEPTED,
        }
    }

    pub(super) fn event(&self) -> InstanceEvent {
        match self {
            Self::Resize { .. } | Self::Migrate { .. } => InstanceEvent::BeginResize,
            Self::Confirm => InstanceEvent::BeginConfirm,
            Self::Revert => InstanceEvent::BeginRevert,
            Self::Evacuate { .. } => InstanceEvent::BeginEvacuate,
        }
    }

    pub(super) async fn begin(
        self,
        api: &Api,
        caller: &Caller,
        server: &ServerRow,
    ) -> Result<Started, ApiError> {
        let name = self.name();
        let mut connection = api.connection().await?;
        let image = api::image_get(&mut connection, server.image_id).await?;
        let down = api.config.service_down_time_ms;
        let hosts = api::hosts_list(&mut connection, down).await?;
        drop(connection);
        let (database, timeout_ms) = (&api.database, api.config.shutdown_timeout_ms);
        let max_unconfirmed = api.config.max_unconfirmed_resizes;
        let begun = match self {
            Self::Resize { flavor } => {
                source_up(server, &hosts, name)?;
                let flavor = new_flavor(api, server, &flavor, image.virtual_size).await?;
                let same_host = api.config.allow_resize_to_same_host;
                let order =
                    ResizeOrder { flavor, host: None, same_host, timeout_ms, max_unconfirmed };
                api::resize_server(database, caller, server, &image, &order).await
            }
            Self::Migrate { host } => {
                source_up(server, &hosts, name)?;
                let host = host.map(|host| destination(&host, server, &hosts)).transpose()?;
                let flavor = flavor_of_server(&server.flavor)?;
                let same_host = false;
                let order = ResizeOrder { flavor, host, same_host, timeout_ms, max_unconfirmed };
                api::resize_server(database, caller, server, &image, &order).await
            }
            Self::Confirm => api::confirm_resize(database, caller, server).await,
            Self::Revert => api::revert_resize(database, caller, server, &image, timeout_ms).await,
            Self::Evacuate { host, start } => {
                // In Nova's order.
                let host = host.map(|host| new_home(&host, server, &hosts)).transpose()?;
                if let Some(source) = &server.host {
                    api.fencing.see_to(api, source.as_str()).await?;
                }
                let hosts = api::hosts_list(&mut api.connection().await?, down).await?;
                lost(server, &hosts)?;
                let order = EvacuateOrder { host, start };
                api::evacuate_server(database, caller, server, &image, &order).await
            }
        };
        begun.map_err(|error| match error {
            DbError::NotFound { kind, .. } if kind.starts_with("Finished") => {
                ApiError::BadRequest("Instance has not been resized.".to_owned())
            }
            // Moves that nobody decides on hold resources on two hosts.
            DbError::TooMany { open, .. } => ApiError::Forbidden(format!(
                "{open} resizes or cold migrations of this project wait to be confirmed or reverted, as many as \
                 are permitted. Confirm or revert one first."
            )),
            // It was forced down a moment ago.
            DbError::InUse { .. } => ApiError::BadRequest(format!("{error}.")),
            other => not_begun(other, name, server),
        })
    }
}

fn read_resize(value: Value) -> Result<ColdAction, ApiError> {
    let read: ResizeArgument = argument("resize", value)?;
    if read.disk_config.is_some_and(|mode| mode != "AUTO" && mode != "MANUAL") {
        return Err(invalid("resize", "OS-DCF:diskConfig must be AUTO or MANUAL"));
    }
    let flavor = match read.flavor_ref {
        Value::String(id) => id,
        Value::Number(id) => id.to_string(),
        _ => return Err(invalid("resize", "flavorRef must be a flavor's id")),
    };
    Ok(ColdAction::Resize { flavor })
}

fn read_migrate(value: Value, version: Version) -> Result<ColdAction, ApiError> {
    if value.is_null() {
        return Ok(ColdAction::Migrate { host: None });
    }
    if !version.since(56) {
        return Err(invalid("migrate", "a host can be given from version 2.56 on; say null"));
    }
    let read: MigrateArgument = argument("migrate", value)?;
    Ok(ColdAction::Migrate { host: read.host })
}

fn read_evacuate(value: Value, version: Version) -> Result<ColdAction, ApiError> {
    let read: EvacuateArgument = argument("evacuate", value)?;
    match (&read.on_shared_storage, version.since(14)) {
        (Some(_), true) => {
            return Err(invalid(
                "evacuate",
                "onSharedStorage went with version 2.14; it is detected",
            ));
        }
        (None, false) => return Err(invalid("evacuate", "onSharedStorage is missing")),
        (Some(shared), false) => match boolean(shared) {
            None => return Err(invalid("evacuate", "onSharedStorage must be true or false")),
            Some(true) if read.admin_pass.is_some() => {
                return Err(invalid("evacuate", "a guest on shared storage keeps its password"));
            }
            Some(_) => {}
        },
        (None, true) => {}
    }
    let force = read.force.as_ref().map(|force| {
        boolean(force).ok_or_else(|| invalid("evacuate", "force must be true or false"))
    });
    let force = force.transpose()?;
    if force.is_some() && !(version.since(29) && version.until(68).is_ok()) {
        return Err(invalid("evacuate", "force is known from version 2.29 to 2.67 only"));
    }
    if force == Some(true) && read.host.is_none() {
        return Err(invalid("evacuate", "force needs a host"));
    }
    let start = !version.since(EVACUATED_STAYS_OFF);
    Ok(ColdAction::Evacuate { host: read.host, start })
}

fn no_argument(name: &str, value: &Value) -> Result<(), ApiError> {
    let nothing = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
    if nothing { Ok(()) } else { Err(invalid(name, "it takes no argument; say null")) }
}

/// The flavor that was asked for, if the server can have it.
async fn new_flavor(
    api: &Api,
    server: &ServerRow,
    id: &str,
    image_bytes: i64,
) -> Result<FlavorSnapshot, ApiError> {
    let found = api::flavor_get(&mut api.connection().await?, id).await;
    let flavor = found.map_err(|error| match error {
        DbError::NotFound { .. } => {
            ApiError::BadRequest(format!("Flavor {id} could not be found; see GET /flavors."))
        }
        other => other.into(),
    })?;
    let bad = |why: String| ApiError::BadRequest(format!("Instance {}: {why}.", server.id));
    if server.flavor["id"] == *id {
        return Err(bad(
            "when resizing, instances must change flavor; migrate moves it as it is".into()
        ));
    }
    let (old, new) = (server.resources.disk_gib, flavor.disk_gib);
    if new < old {
        return Err(bad(format!(
            "a disk can't shrink: flavor {} has {new} GiB, the server's disk {old} GiB",
            flavor.name
        )));
    }
    if new > 0 && image_bytes > new << 30 {
        return Err(bad(format!("its image does not fit on a disk of {new} GiB")));
    }
    Ok(flavor.snapshot())
}

/// A host that does not answer may still run its guests. Only a person, or what a person has set up for it, can
/// see to it that it does not.
fn lost(server: &ServerRow, hosts: &[HostRow]) -> Result<(), ApiError> {
    let Some(source) = &server.host else {
        return Err(ApiError::state("evacuate", server.id, "no host"));
    };
    let row = hosts.iter().find(|host| host.name == source.as_str());
    match row {
        Some(host) if host.up => Err(ApiError::BadRequest(format!(
            "Compute service of {source} is still in use: instance {} can be evacuated only when its host is lost. \
             Live-migrate it instead.",
            server.id
        ))),
        Some(host) if !host.forced_down => Err(ApiError::BadRequest(format!(
            "{source} does not answer, but may still run instance {}. Make sure that it is powered off, then say so \
             with PUT /os-services/{{id}} {{\"forced_down\": true}}, and evacuate again.",
            server.id
        ))),
        _ => Ok(()),
    }
}

fn new_home(wanted: &str, server: &ServerRow, hosts: &[HostRow]) -> Result<HostName, ApiError> {
    if !hosts.iter().any(|host| host.name == wanted) {
        return Err(ApiError::NotFound(format!("Compute host {wanted} not found.")));
    }
    destination(wanted, server, hosts)
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use serde_json::json;

    use super::*;

    /// One row for each change of a request's form in a microversion, and for what is not said or not known.
    #[test]
    fn each_version_has_its_form() {
        let rows = [
            ("resize", 1, json!({"flavorRef": "2"}), None),
            ("resize", 1, json!({"flavorRef": "2", "OS-DCF:diskConfig": "AUTO"}), None),
            ("resize", 1, json!({"flavorRef": "2", "OS-DCF:diskConfig": "SOME"}), Some(400)),
            ("resize", 1, json!({}), Some(400)),
            ("resize", 1, json!({"flavorRef": null}), Some(400)),
            ("resize", 1, json!({"flavorRef": "2", "x": 1}), Some(400)),
            ("migrate", 1, json!(null), None),
            ("migrate", 55, json!({"host": "b"}), Some(400)),
            ("migrate", 56, json!({"host": "b"}), None),
            ("migrate", 56, json!({"host": null}), None),
            ("migrate", 56, json!({"hosts": "b"}), Some(400)),
            ("confirmResize", 1, json!(null), None),
            ("confirmResize", 1, json!({"x": 1}), Some(400)),
            ("revertResize", 1, json!(null), None),
            ("evacuate", 13, json!({"onSharedStorage": "False"}), None),
            ("evacuate", 13, json!({}), Some(400)),
            ("evacuate", 13, json!({"onSharedStorage": true, "adminPass": "x"}), Some(400)),
            ("evacuate", 14, json!({"onSharedStorage": true}), Some(400)),
            ("evacuate", 14, json!({}), None),
            ("evacuate", 28, json!({"host": "b", "force": true}), Some(400)),
            ("evacuate", 29, json!({"host": "b", "force": true}), None),
            ("evacuate", 29, json!({"force": true}), Some(400)),
            ("evacuate", 68, json!({"host": "b", "force": true}), Some(400)),
        ];
        for (name, version, value, code) in rows {
            let read = ColdAction::read(name, value.clone(), Version(version));
            let error = read.expect("one of these").err();
            let got = error.map(|error| error.into_response().status().as_u16());
            assert_eq!(got, code, "{name} 2.{version} {value}");
        }
    }

    #[test]
    fn an_evacuated_server_starts_before_2_95() {
        for (version, expected) in [(94, true), (95, false)] {
            let read = ColdAction::read("evacuate", json!({}), Version(version));
            let Some(Ok(ColdAction::Evacuate { start, .. })) = read else { panic!("not read") };
            assert_eq!(start, expected, "2.{version}");
        }
    }
}
