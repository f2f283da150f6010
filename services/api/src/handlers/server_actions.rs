//! `POST /servers/{id}/action`: what can be done with a server. Moves that shut it off are in `cold_actions`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use whimbrel_db::DbError;
use whimbrel_db::api::{self, Caller, HostRow, LiveMigrateOrder, ServerRow, Started};
use whimbrel_messages::compute::{BlockMigration, RebootKind};
use whimbrel_model::{HostName, InstanceEvent, ServiceStatus, TaskState};

use crate::auth::{Context, LIVE_MIGRATE_TO_HOST, MIGRATE_TO_HOST, Rule, of_action};
use crate::body::{Body, ServerId};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::Version;

use super::cold_actions::ColdAction;
use super::server_lock::{self, Immediate};

/// Does something with a server. The body is an object with one key, which says what.
#[utoipa::path(post, path = "/v2.1/servers/{server_id}/action", tag = "servers",
    params(("server_id" = uuid::Uuid, Path)),
    request_body(content = Object, example = json!({"os-migrateLive": {"host": null, "block_migration": "auto"}})),
    responses((status = 200), (status = 202), (status = 204), (status = 400), (status = 403), (status = 404),
        (status = 409)))]
pub(crate) async fn action(
    State(api): State<Arc<Api>>,
    ServerId(id): ServerId,
    context: Context,
    version: Version,
    Body(body): Body<Map<String, Value>>,
) -> Result<StatusCode, ApiError> {
    let mut entries = body.into_iter();
    let (Some((name, argument)), None) = (entries.next(), entries.next()) else {
        return Err(ApiError::BadRequest(
            "Malformed request body: it must have exactly one key, the action's name.".to_owned(),
        ));
    };
    context.check(of_action(&name))?;
    if let Some(immediate) = Immediate::read(&name, &argument, version) {
        let immediate = immediate?;
        let server = api::server_get(&mut api.connection().await?, id).await?;
        immediate.carry_out(&api, &context, &server).await?;
        return Ok(StatusCode::ACCEPTED);
    }
    let action = Action::read(&name, argument, version)?;
    if let Some(rule) = action.to_a_host() {
        context.check(rule)?;
    }
    let server = api::server_get(&mut api.connection().await?, id).await?;
    // What an operator does for a server whose host is lost is not held up by its user.
    if !matches!(action, Action::Cold(ColdAction::Evacuate { .. })) {
        server_lock::check(&context, &server)?;
    }
    let status = action.status();
    let caller = context.caller;
    let started = begin(&api, &caller, &server, action).await?;
    tracing::info!(instance.id = %id, request_id = %caller.request_id, saga.id = %started.saga_id, action = name, "accepted");
    api.sender.send(started.message);
    Ok(status)
}

/// Actions of Nova's that are answered as Nova does where the hypervisor can't.
const NOT_OFFERED: [&str; 27] = [
    "addFixedIp",
    "addSecurityGroup",
    "changePassword",
    "createBackup",
    "createImage",
    "forceDelete",
    "injectNetworkInfo",
    "os-getConsoleOutput",
    "os-getRDPConsole",
    "os-getSerialConsole",
    "os-getSPICEConsole",
    "os-getVNCConsole",
    "pause",
    "rebuild",
    "removeFixedIp",
    "removeSecurityGroup",
    "rescue",
    "resetNetwork",
    "restore",
    "resume",
    "shelve",
    "shelveOffload",
    "suspend",
    "trigger_crash_dump",
    "unpause",
    "unrescue",
    "unshelve",
];

pub(super) enum Action {
    Start,
    Stop,
    Reboot(RebootKind),
    LiveMigrate(Option<String>, BlockMigration),
    Cold(ColdAction),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RebootArgument {
    r#type: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LiveMigrateArgument {
    #[serde(default, deserialize_with = "present")]
    host: Option<Option<String>>,
    block_migration: Value,
    disk_over_commit: Option<Value>,
    force: Option<Value>,
}

/// Tells null from absent.
fn present<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

pub(super) fn argument<T: DeserializeOwned>(name: &str, value: Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let place = error.path().to_string();
        let error = error.into_inner();
        ApiError::BadRequest(format!(
            "Invalid input for field/attribute {name} at {place}: {error}."
        ))
    })
}

pub(super) fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "on" | "yes" => Some(true),
            "false" | "0" | "off" | "no" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

impl Action {
    fn read(name: &str, value: Value, version: Version) -> Result<Self, ApiError> {
        match name {
            "os-start" => Ok(Self::Start),
            "os-stop" => Ok(Self::Stop),
            "reboot" => {
                let kind: RebootArgument = argument(name, value)?;
                match kind.r#type.to_ascii_uppercase().as_str() {
                    "SOFT" => Ok(Self::Reboot(RebootKind::Soft)),
                    "HARD" => Ok(Self::Reboot(RebootKind::Hard)),
                    other => Err(ApiError::BadRequest(format!(
                        "Invalid input for field/attribute type. Value: {other}. It must be SOFT or HARD."
                    ))),
                }
            }
            "os-migrateLive" => Self::read_live_migrate(argument(name, value)?, version),
            other => match ColdAction::read(other, value, version) {
                Some(read) => read.map(Self::Cold),
                None if NOT_OFFERED.contains(&other) => Err(ApiError::NotImplemented(format!(
                    "The action {other} is not offered by this service."
                ))),
                None => Err(ApiError::BadRequest(format!(
                    "There is no such action: {other}. Offered are os-start, os-stop, reboot, os-migrateLive, \
                     resize, migrate, confirmResize, revertResize, evacuate, lock, unlock and os-resetState."
                ))),
            },
        }
    }

    fn read_live_migrate(read: LiveMigrateArgument, version: Version) -> Result<Self, ApiError> {
        let invalid =
            |what: &str| ApiError::BadRequest(format!("Invalid input for os-migrateLive: {what}."));
        let block_migration = match &read.block_migration {
            Value::String(word) if version.since(25) && word == "auto" => BlockMigration::Auto,
            other => match boolean(other) {
                Some(true) => BlockMigration::Yes,
                Some(false) => BlockMigration::No,
                None if version.since(25) => {
                    return Err(invalid("block_migration must be true, false or auto"));
                }
                None => return Err(invalid("block_migration must be true or false before 2.25")),
            },
        };
        match (&read.disk_over_commit, version.since(25)) {
            (Some(_), true) => return Err(invalid("disk_over_commit went with version 2.25")),
            (None, false) => return Err(invalid("disk_over_commit is missing")),
            (Some(value), false) if boolean(value).is_none() => {
                return Err(invalid("disk_over_commit must be true or false"));
            }
            _ => {}
        }
        let force = read
            .force
            .as_ref()
            .map(|force| boolean(force).ok_or_else(|| invalid("force must be true or false")));
        let force = force.transpose()?;
        let known = version.since(30) && version.until(68).is_ok();
        if force.is_some() && !known {
            return Err(invalid("force is known from version 2.30 to 2.67 only"));
        }
        let host = read
            .host
            .ok_or_else(|| invalid("host is missing; say null to let the scheduler choose"))?;
        if force == Some(true) && host.is_none() {
            return Err(invalid("force needs a host"));
        }
        Ok(Self::LiveMigrate(host, block_migration))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Reboot(_) => "reboot",
            Self::LiveMigrate(..) => "os-migrateLive",
            Self::Cold(action) => action.name(),
        }
    }

    /// The rule for those who say where to, if the action says so.
    fn to_a_host(&self) -> Option<Rule> {
        match self {
            Self::LiveMigrate(Some(_), _) => Some(LIVE_MIGRATE_TO_HOST),
            Self::Cold(ColdAction::Migrate { host: Some(_) }) => Some(MIGRATE_TO_HOST),
            _ => None,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Cold(action) => action.status(),
            _ => StatusCode::ACCEPTED,
        }
    }

    fn event(&self) -> InstanceEvent {
        match self {
            Self::Start => InstanceEvent::BeginStart,
            Self::Stop => InstanceEvent::BeginStop,
            Self::Reboot(RebootKind::Soft) => InstanceEvent::BeginReboot,
            Self::Reboot(RebootKind::Hard) => InstanceEvent::BeginRebootHard,
            Self::LiveMigrate(..) => InstanceEvent::BeginLiveMigration,
            Self::Cold(action) => action.event(),
        }
    }
}

/// Refuses what the server's state does not allow, in Nova's words.
pub(super) fn allowed(
    server: &ServerRow,
    name: &str,
    event: InstanceEvent,
) -> Result<(), ApiError> {
    if server.delete_requested {
        return Err(ApiError::state(
            name,
            server.id,
            &format!("task_state {}", TaskState::Deleting),
        ));
    }
    if server.state.on(event).is_ok() {
        return Ok(());
    }
    let state = match server.state.task {
        Some(task) => format!("task_state {task}"),
        None => format!("vm_state {}", server.state.vm),
    };
    Err(ApiError::state(name, server.id, &state))
}

async fn begin(
    api: &Api,
    caller: &Caller,
    server: &ServerRow,
    action: Action,
) -> Result<Started, ApiError> {
    allowed(server, action.name(), action.event())?;
    if let Action::Cold(action) = action {
        return action.begin(api, caller, server).await;
    }
    let image = api::image_get(&mut api.connection().await?, server.image_id).await?;
    let (name, database) = (action.name(), &api.database);
    let hosts =
        api::hosts_list(&mut api.connection().await?, api.config.service_down_time_ms).await?;
    source_up(server, &hosts, name)?;
    let begun = match action {
        Action::Start => api::start_server(database, caller, server, &image).await,
        Action::Stop => api::stop_server(database, caller, server).await,
        Action::Reboot(kind) => api::reboot_server(database, caller, server, &image, kind).await,
        Action::LiveMigrate(host, block_migration) => {
            let host = host.map(|host| destination(&host, server, &hosts)).transpose()?;
            let order = LiveMigrateOrder { host, block_migration };
            api::live_migrate_server(database, caller, server, &image, &order).await
        }
        Action::Cold(_) => return Err(ApiError::Internal(anyhow::anyhow!("begun above"))),
    };
    begun.map_err(|error| not_begun(error, name, server))
}

pub(super) fn not_begun(error: DbError, action: &str, server: &ServerRow) -> ApiError {
    match error {
        // Somebody else was first.
        DbError::Stale { .. } | DbError::Busy { .. } => {
            ApiError::state(action, server.id, "a state that another request has just changed")
        }
        other => other.into(),
    }
}

pub(super) fn source_up(
    server: &ServerRow,
    hosts: &[HostRow],
    action: &str,
) -> Result<(), ApiError> {
    let Some(source) = &server.host else {
        let state = format!("vm_state {}: it has no host", server.state.vm);
        return Err(ApiError::state(action, server.id, &state));
    };
    let row = hosts.iter().find(|host| host.name == source.as_str());
    if row.is_some_and(|host| host.up) {
        return Ok(());
    }
    Err(ApiError::Conflict(format!(
        "The compute service of {source}, where instance {} is, is down. Bring it up, then try again.",
        server.id
    )))
}

/// The host that was asked for, if it can be one.
pub(super) fn destination(
    wanted: &str,
    server: &ServerRow,
    hosts: &[HostRow],
) -> Result<HostName, ApiError> {
    let unusable = |why: &str| {
        ApiError::BadRequest(format!("Instance {} can't be moved to {wanted}: {why}.", server.id))
    };
    let Some(row) = hosts.iter().find(|host| host.name == wanted) else {
        return Err(ApiError::BadRequest(format!("Compute host {wanted} could not be found.")));
    };
    if server.host.as_ref().is_some_and(|host| host.as_str() == wanted) {
        return Err(unusable("it is there already; choose another host, or none"));
    }
    if !row.up {
        return Err(unusable("its compute service is down; bring it up, or choose another host"));
    }
    if row.status == ServiceStatus::Disabled {
        let reason = row.disabled_reason.as_deref().unwrap_or("no reason given");
        return Err(unusable(&format!(
            "its compute service is disabled ({reason}); enable it, or choose another host"
        )));
    }
    let (memory, used) = (row.total.1, row.used.1);
    // The scheduler counts exactly; this only spares a wait where it is plain.
    if server.resources.memory_mib > memory.saturating_mul(16) - used {
        return Err(unusable("it has not enough memory; choose another host"));
    }
    wanted
        .parse()
        .map_err(|error: whimbrel_model::InvalidHostName| ApiError::BadRequest(error.to_string()))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use serde_json::json;

    use super::*;

    fn read(version: u16, value: Value) -> Result<Action, u16> {
        let action = Action::read("os-migrateLive", value, Version(version));
        action.map_err(|error| error.into_response().status().as_u16())
    }

    /// One row for each change of the request's form in a microversion.
    #[test]
    fn a_live_migration_is_asked_for_as_each_version_has_it() {
        let plain = json!({"host": null, "block_migration": false, "disk_over_commit": false});
        let auto = json!({"host": "b", "block_migration": "auto"});
        let force = json!({"host": "b", "block_migration": "auto", "force": true});
        let force_anywhere = json!({"host": null, "block_migration": "auto", "force": true});
        let rows = [
            (1, &plain, true),
            (24, &plain, true),
            (25, &plain, false),
            (1, &auto, false),
            (25, &auto, true),
            (96, &auto, true),
            (29, &force, false),
            (30, &force, true),
            (67, &force, true),
            (68, &force, false),
            (30, &force_anywhere, false),
        ];
        for (version, value, good) in rows {
            assert_eq!(read(version, value.clone()).is_ok(), good, "2.{version} {value}");
        }
    }

    #[test]
    fn what_is_not_said_or_not_known_is_400() {
        for value in [
            json!(null),
            json!([]),
            json!({}),
            json!({"host": "b"}),
            json!({"block_migration": true}),
            json!({"host": 7, "block_migration": true}),
            json!({"host": "b", "block_migration": "perhaps"}),
            json!({"host": "b", "block_migration": true, "speed": 1}),
        ] {
            assert_eq!(read(60, value.clone()).err(), Some(400), "{value}");
        }
    }
}
