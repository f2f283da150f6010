//! How many servers a request is for, and what it asks of their places.

use serde_json::{Map, Value};
use uuid::Uuid;
use whimbrel_db::DbError;
use whimbrel_db::api::{self, Caller, KeypairRow};

use super::server_create::invalid;
use crate::auth::Context;
use crate::error::ApiError;
use crate::state::Api;

/// Most servers that one request makes.
const MOST_AT_ONCE: usize = 100;

/// How many servers are wanted: as many as can be, which is all or none.
pub(super) fn count(least: Option<&Value>, most: Option<&Value>) -> Result<usize, ApiError> {
    let number = |value: &Value, name: &str| {
        let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
        number
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| (1..=MOST_AT_ONCE).contains(number))
            .ok_or_else(|| invalid(format!("{name} must be 1 to {MOST_AT_ONCE}")))
    };
    let least = least.map(|value| number(value, "min_count")).transpose()?;
    let most = most.map(|value| number(value, "max_count")).transpose()?;
    let count = most.or(least).unwrap_or(1);
    if least.is_some_and(|least| least > count) {
        return Err(invalid("min_count must be <= max_count"));
    }
    Ok(count)
}

/// One name for each server: with a number if there are several.
pub(super) fn names(name: &str, count: usize) -> Vec<String> {
    if count == 1 {
        return vec![name.to_owned()];
    }
    (1..=count).map(|number| format!("{name}-{number}")).collect()
}

/// The zone that was asked for, if it is one.
pub(super) async fn zone(api: &Api, wanted: Option<&str>) -> Result<Option<String>, ApiError> {
    let Some(text) = wanted else { return Ok(None) };
    let name = text.split_once(':').map_or(text, |(zone, _)| zone);
    if name.is_empty() {
        return Ok(None);
    }
    let zones = api::zones_of_hosts(&mut api.connection().await?).await?;
    if name == api::DEFAULT_ZONE || zones.values().any(|zone| zone == name) {
        // With a host it is the host that counts, as in Nova.
        return Ok((!text.contains(':')).then(|| name.to_owned()));
    }
    Err(ApiError::BadRequest("The requested availability zone is not available".to_owned()))
}

/// The server group that a hint names, if the caller may use it and it has room.
pub(super) async fn group(
    api: &Api,
    context: &Context,
    hints: &Map<String, Value>,
    limit: i64,
    count: usize,
) -> Result<Option<Uuid>, ApiError> {
    let Some(hint) = hints.get("group").filter(|hint| !hint.is_null()) else { return Ok(None) };
    let text = hint.as_str().unwrap_or_default();
    let unknown = || {
        ApiError::BadRequest(format!(
            "Invalid input: the hint group {text} is not the id of a server group of this project."
        ))
    };
    let id: Uuid = text.parse().map_err(|_| unknown())?;
    let mut connection = api.connection().await?;
    let found = api::server_group_get(&mut connection, id).await;
    let found = found.map_err(|error| match error {
        DbError::NotFound { .. } => unknown(),
        other => other.into(),
    })?;
    if !context.sees(&found.project_id) {
        return Err(unknown());
    }
    let members = api::server_group_members(&mut connection, &[id]).await?;
    let there = members.get(&id).map_or(0, Vec::len) + count;
    if limit >= 0 && i64::try_from(there).unwrap_or(i64::MAX) > limit {
        return Err(ApiError::Forbidden("Quota exceeded, too many servers in group".to_owned()));
    }
    Ok(Some(id))
}

/// The key pair must be there when the server is made.
pub(super) async fn key(
    api: &Api,
    caller: &Caller,
    wanted: Option<&str>,
) -> Result<Option<KeypairRow>, ApiError> {
    let Some(name) = wanted else { return Ok(None) };
    let found = api::keypair_get(&mut api.connection().await?, &caller.user_id, name).await;
    let found = found.map_err(|error| match error {
        DbError::NotFound { .. } => ApiError::BadRequest("Invalid key_name provided.".to_owned()),
        other => other.into(),
    });
    found.map(Some)
}
