//! Locks on servers, and the state that operators say a server is in.

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;
use whimbrel_db::DbError;
use whimbrel_db::api::{self, ServerRow};
use whimbrel_model::InstanceEvent;

use super::server_actions::argument;
use crate::auth::{Context, UNLOCK_OVERRIDE};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::Version;

/// What is done at once, without an operation.
pub(super) enum Immediate {
    Lock { reason: Option<String> },
    Unlock,
    Reset(InstanceEvent),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LockArgument {
    locked_reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResetArgument {
    state: String,
}

impl Immediate {
    /// None if it is none of these.
    pub(super) fn read(
        name: &str,
        value: &Value,
        version: Version,
    ) -> Option<Result<Self, ApiError>> {
        Some(match name {
            "lock" => read_lock(value, version),
            "unlock" => Ok(Self::Unlock),
            "os-resetState" => read_reset(value),
            _ => return None,
        })
    }

    pub(super) async fn carry_out(
        self,
        api: &Api,
        context: &Context,
        server: &ServerRow,
    ) -> Result<(), ApiError> {
        let mut connection = api.connection().await?;
        match self {
            Self::Lock { reason } => {
                let by = if context.is_admin() { "admin" } else { "owner" };
                api::server_lock(&mut connection, server.id, by, reason.as_deref()).await?;
            }
            Self::Unlock => {
                if server.locked_by.as_deref() == Some("admin") {
                    context.check(UNLOCK_OVERRIDE)?;
                }
                api::server_unlock(&mut connection, server.id).await?;
            }
            Self::Reset(event) => {
                let reset = api::server_reset_state(&mut connection, server, event).await;
                reset.map_err(|error| refused(error, server))?;
                tracing::warn!(instance.id = %server.id, %event, "state set by an operator");
            }
        }
        Ok(())
    }
}

fn refused(error: DbError, server: &ServerRow) -> ApiError {
    match error {
        DbError::InstanceState(_) | DbError::Busy { .. } if server.state.task.is_some() => {
            ApiError::Conflict(format!(
                "Instance {} is in task_state {}: the operation goes on, and ends by itself. Its state can be reset \
                 when nothing is under way.",
                server.id,
                server.state.task_text()
            ))
        }
        DbError::InstanceState(_) => {
            let state = format!("vm_state {}: confirm or revert the resize", server.state.vm);
            ApiError::state("os-resetState", server.id, &state)
        }
        other => other.into(),
    }
}

fn read_lock(value: &Value, version: Version) -> Result<Immediate, ApiError> {
    if value.is_null() || !version.since(73) {
        return Ok(Immediate::Lock { reason: None });
    }
    let read: LockArgument = argument("lock", value.clone())?;
    let reason = read.locked_reason;
    if reason.as_ref().is_some_and(|text| !(1..=255).contains(&text.chars().count())) {
        return Err(ApiError::BadRequest(
            "Invalid input for lock: locked_reason must have 1 to 255 characters.".to_owned(),
        ));
    }
    Ok(Immediate::Lock { reason })
}

fn read_reset(value: &Value) -> Result<Immediate, ApiError> {
    let read: ResetArgument = argument("os-resetState", value.clone())?;
    match read.state.as_str() {
        "active" => Ok(Immediate::Reset(InstanceEvent::ResetActive)),
        "error" => Ok(Immediate::Reset(InstanceEvent::ResetError)),
        other => Err(ApiError::BadRequest(format!(
            "Invalid input for os-resetState: state must be active or error, not '{other}'."
        ))),
    }
}

/// Refuses to change a locked server, except for administrators.
pub(super) fn check(context: &Context, server: &ServerRow) -> Result<(), ApiError> {
    if server.locked_by.is_none() || context.is_admin() {
        return Ok(());
    }
    Err(ApiError::Conflict(format!("Instance {} is locked", server.id)))
}

/// As [`check`], for a server that was not read yet.
pub(super) async fn unlocked(api: &Api, context: &Context, id: Uuid) -> Result<(), ApiError> {
    if context.is_admin() {
        return Ok(());
    }
    check(context, &api::server_get(&mut api.connection().await?, id).await?)
}
