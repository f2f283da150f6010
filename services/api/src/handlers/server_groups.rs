//! `/os-server-groups`: servers that are to be on one host, or on different ones.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::Utc;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;
use whimbrel_db::api::{self, ServerGroupRow};

use crate::auth::{ALL_GROUPS, Context};
use crate::body::{Body, Params};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::Version;

/// The version from which soft policies are known; from which whose they are is shown; from which a group has one
/// policy with rules.
const SOFT: u16 = 15;
const WHOSE: u16 = 13;
const ONE_POLICY: u16 = 64;

/// Policies: since when, name.
const POLICIES: [(u16, &str); 4] =
    [(1, "affinity"), (1, "anti-affinity"), (SOFT, "soft-affinity"), (SOFT, "soft-anti-affinity")];

fn view(row: &ServerGroupRow, members: &[Uuid], version: Version) -> Value {
    let mut view = json!({ "id": row.id, "name": row.name, "members": members });
    if version.since(ONE_POLICY) {
        view["policy"] = json!(row.policy);
        view["rules"] = match row.max_server_per_host {
            Some(most) => json!({ "max_server_per_host": most }),
            None => json!({}),
        };
    } else {
        view["policies"] = json!([row.policy]);
        view["metadata"] = json!({});
    }
    if version.since(WHOSE) {
        view["project_id"] = json!(row.project_id);
        view["user_id"] = json!(row.user_id);
    }
    view
}

#[derive(Deserialize)]
pub(crate) struct Query {
    all_projects: Option<String>,
    limit: Option<u32>,
    offset: Option<u32>,
}

/// Lists server groups.
#[utoipa::path(get, path = "/v2.1/os-server-groups", tag = "server groups",
    responses((status = 200), (status = 403)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(query): Params<Query>,
    context: Context,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    if query.all_projects.is_some() {
        context.check(ALL_GROUPS)?;
    }
    let project = context.project(query.all_projects.is_some());
    let mut connection = api.connection().await?;
    let rows = api::server_groups_list(&mut connection, project.as_deref()).await?;
    let limit = api.limit(query.limit.map(i64::from));
    let offset = query.offset.and_then(|offset| usize::try_from(offset).ok()).unwrap_or(0);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let rows: Vec<ServerGroupRow> = rows.into_iter().skip(offset).take(limit).collect();
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let members = api::server_group_members(&mut connection, &ids).await?;
    let members = |id| members.get(id).map_or(&[][..], Vec::as_slice);
    let views: Vec<Value> = rows.iter().map(|row| view(row, members(&row.id), version)).collect();
    Ok(Json(json!({ "server_groups": views })))
}

async fn find(api: &Api, context: &Context, id: &str) -> Result<ServerGroupRow, ApiError> {
    let none = || ApiError::NotFound(format!("Instance group {id} could not be found."));
    let id: Uuid = id.parse().map_err(|_| none())?;
    let row = api::server_group_get(&mut api.connection().await?, id).await?;
    if context.sees(&row.project_id) { Ok(row) } else { Err(none()) }
}

/// Shows a server group.
#[utoipa::path(get, path = "/v2.1/os-server-groups/{group_id}", tag = "server groups",
    params(("group_id" = Uuid, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    context: Context,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    let row = find(&api, &context, &id).await?;
    let members: HashMap<Uuid, Vec<Uuid>> =
        api::server_group_members(&mut api.connection().await?, &[row.id]).await?;
    let members = members.get(&row.id).map_or(&[][..], Vec::as_slice);
    Ok(Json(json!({ "server_group": view(&row, members, version) })))
}

/// A request to make a server group.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateServerGroup {
    server_group: Wanted,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    /// Before 2.64: exactly one.
    policies: Option<Vec<String>>,
    /// From 2.64 on.
    policy: Option<String>,
    #[serde(default)]
    #[schema(value_type = Object)]
    rules: Map<String, Value>,
}

impl Wanted {
    /// Its policy, and most servers on one host.
    fn policy(&self, version: Version) -> Result<(String, Option<i32>), ApiError> {
        let invalid = |what: String| ApiError::BadRequest(format!("Invalid server group: {what}."));
        if !(1..=255).contains(&self.name.trim().chars().count()) {
            return Err(invalid("name must have 1 to 255 characters".to_owned()));
        }
        let policy = match (version.since(ONE_POLICY), &self.policy, &self.policies) {
            (true, Some(policy), None) => policy,
            (true, _, _) => return Err(invalid("say one policy, and no policies".to_owned())),
            (false, None, Some(policies)) if policies.len() == 1 => &policies[0],
            (false, _, _) => return Err(invalid("policies must have one policy".to_owned())),
        };
        let known = |(since, name): &(u16, &str)| name == policy && version.since(*since);
        if !POLICIES.iter().any(known) {
            return Err(invalid(format!("there is no policy {policy}")));
        }
        let Some((name, value)) = self.rules.iter().next() else {
            return Ok((policy.clone(), None));
        };
        let number = value.as_i64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
        let number = number.and_then(|number| i32::try_from(number).ok()).filter(|most| *most > 0);
        match (version.since(ONE_POLICY), name.as_str(), policy.as_str(), number) {
            (true, "max_server_per_host", "anti-affinity", Some(most)) if self.rules.len() == 1 => {
                Ok((policy.clone(), Some(most)))
            }
            _ => Err(invalid(
                "rules may have max_server_per_host only, of 1 or more, with anti-affinity, from version 2.64 on"
                    .to_owned(),
            )),
        }
    }
}

/// Makes a server group.
#[utoipa::path(post, path = "/v2.1/os-server-groups", tag = "server groups", request_body = CreateServerGroup,
    responses((status = 200), (status = 400), (status = 403)))]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    context: Context,
    version: Version,
    Body(request): Body<CreateServerGroup>,
) -> Result<Json<Value>, ApiError> {
    let (policy, max_server_per_host) = request.server_group.policy(version)?;
    let project = &context.caller.project_id;
    let limit = super::quotas::limits(&api, project).await?.get("server_groups").copied();
    let limit = limit.unwrap_or(-1);
    let mut connection = api.connection().await?;
    if limit >= 0 && api::server_groups_count(&mut connection, project).await? >= limit {
        return Err(ApiError::Forbidden("Quota exceeded, too many server groups.".to_owned()));
    }
    let row = ServerGroupRow {
        id: Uuid::now_v7(),
        project_id: project.clone(),
        user_id: context.caller.user_id.clone(),
        name: request.server_group.name.trim().to_owned(),
        policy,
        max_server_per_host,
        created_at: Utc::now(),
    };
    api::server_group_create(&mut connection, &row).await?;
    Ok(Json(json!({ "server_group": view(&row, &[], version) })))
}

/// Deletes a server group. Its servers stay where they are.
#[utoipa::path(delete, path = "/v2.1/os-server-groups/{group_id}", tag = "server groups",
    params(("group_id" = Uuid, Path)), responses((status = 204), (status = 404)))]
pub(crate) async fn delete(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    context: Context,
) -> Result<StatusCode, ApiError> {
    let row = find(&api, &context, &id).await?;
    api::server_group_delete(&mut api.connection().await?, row.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_asked_for_as_each_version_has_it() {
        let max =
            json!({"name": "g", "policy": "anti-affinity", "rules": {"max_server_per_host": 3}});
        for (version, wanted, expected) in [
            (1, json!({"name": "g", "policies": ["affinity"]}), Some(("affinity", None))),
            (1, json!({"name": "g", "policies": ["soft-affinity"]}), None),
            (
                15,
                json!({"name": "g", "policies": ["soft-affinity"]}),
                Some(("soft-affinity", None)),
            ),
            (15, json!({"name": "g", "policies": ["affinity", "anti-affinity"]}), None),
            (63, json!({"name": "g", "policy": "affinity"}), None),
            (64, json!({"name": "g", "policies": ["affinity"]}), None),
            (64, json!({"name": "g", "policy": "affinity", "rules": {}}), Some(("affinity", None))),
            (64, max, Some(("anti-affinity", Some(3)))),
            (
                64,
                json!({"name": "g", "policy": "affinity", "rules": {"max_server_per_host": 3}}),
                None,
            ),
            (64, json!({"name": " ", "policy": "affinity"}), None),
        ] {
            let read: Wanted = serde_json::from_value(wanted.clone()).unwrap();
            let found = read.policy(Version(version)).ok();
            let found = found.as_ref().map(|(policy, most)| (policy.as_str(), *most));
            assert_eq!(found, expected, "2.{version} {wanted}");
        }
    }
}
