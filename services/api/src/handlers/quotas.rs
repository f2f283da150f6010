//! `/limits` and `/os-quota-sets`: what projects may have, and what they have.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use whimbrel_db::api::{self, RESOURCES, Usage};

use crate::auth::{Context, OTHER_LIMITS};
use crate::body::{Body, Params};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::Version;

/// Quotas of Nova's that nothing is counted for here: since when they are gone, name.
const UNCOUNTED: [(u16, &str); 7] = [
    (36, "fixed_ips"),
    (36, "floating_ips"),
    (36, "security_groups"),
    (36, "security_group_rules"),
    (57, "injected_files"),
    (57, "injected_file_content_bytes"),
    (57, "injected_file_path_bytes"),
];

/// All limits of a project. Nothing is limited unless somebody said so.
pub(super) async fn limits(api: &Api, project: &str) -> Result<BTreeMap<String, i64>, ApiError> {
    let set = api::quotas_get(&mut api.connection().await?, project).await?;
    let limit = |name: &str| (name.to_owned(), set.get(name).copied().unwrap_or(-1));
    Ok(RESOURCES.into_iter().map(limit).collect())
}

#[derive(Deserialize)]
pub(crate) struct LimitsQuery {
    tenant_id: Option<String>,
}

/// Names in `/limits`: the name there, the quota's.
const ABSOLUTE: [(&str, &str); 7] = [
    ("maxTotalInstances", "instances"),
    ("maxTotalCores", "cores"),
    ("maxTotalRAMSize", "ram"),
    ("maxServerMeta", "metadata_items"),
    ("maxTotalKeypairs", "key_pairs"),
    ("maxServerGroups", "server_groups"),
    ("maxServerGroupMembers", "server_group_members"),
];

/// Names in `/limits` of what is not counted: until when, name.
const GONE: [(u16, &str); 8] = [
    (36, "maxTotalFloatingIps"),
    (36, "maxSecurityGroups"),
    (36, "maxSecurityGroupRules"),
    (36, "totalFloatingIpsUsed"),
    (36, "totalSecurityGroupsUsed"),
    (39, "maxImageMeta"),
    (57, "maxPersonality"),
    (57, "maxPersonalitySize"),
];

/// Says what a project may have and what it has.
#[utoipa::path(get, path = "/v2.1/limits", tag = "quotas", responses((status = 200), (status = 403)))]
pub(crate) async fn show_limits(
    State(api): State<Arc<Api>>,
    Params(query): Params<LimitsQuery>,
    context: Context,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    let own = &context.caller.project_id;
    if query.tenant_id.as_ref().is_some_and(|asked| asked != own) {
        context.check(OTHER_LIMITS)?;
    }
    let project = query.tenant_id.as_ref().unwrap_or(own);
    let limits = limits(&api, project).await?;
    let mut connection = api.connection().await?;
    let Usage { instances, cores, ram } = api::usage(&mut connection, project).await?;
    let groups = api::server_groups_count(&mut connection, project).await?;
    let mut absolute = Map::new();
    for (name, resource) in ABSOLUTE {
        absolute.insert(name.to_owned(), json!(limits.get(resource)));
    }
    for (until, name) in GONE {
        if version.until(until).is_ok() {
            absolute.insert(name.to_owned(), json!(if name.starts_with("max") { -1 } else { 0 }));
        }
    }
    for (name, used) in [
        ("totalInstancesUsed", instances),
        ("totalCoresUsed", cores),
        ("totalRAMUsed", ram),
        ("totalServerGroupsUsed", groups),
    ] {
        absolute.insert(name.to_owned(), json!(used));
    }
    Ok(Json(json!({ "limits": { "rate": [], "absolute": absolute } })))
}

/// As quota sets show limits: those of Nova that are not counted are there as long as their version has them.
fn view(limits: &BTreeMap<String, i64>, version: Version) -> Map<String, Value> {
    let mut view: Map<String, Value> =
        limits.iter().map(|(name, limit)| (name.clone(), json!(limit))).collect();
    for (until, name) in UNCOUNTED {
        if version.until(until).is_ok() {
            view.insert(name.to_owned(), json!(-1));
        }
    }
    if version.until(50).is_ok() {
        view.remove("server_groups");
        view.remove("server_group_members");
    }
    view
}

fn own_or_admin(context: &Context, project: &str) -> Result<(), ApiError> {
    if context.sees(project) {
        return Ok(());
    }
    Err(ApiError::Forbidden(format!("Quotas of project {project} are not shown to others.")))
}

/// Shows the limits of a project.
#[utoipa::path(get, path = "/v2.1/os-quota-sets/{project_id}", tag = "quotas",
    params(("project_id" = String, Path)), responses((status = 200), (status = 403)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path(project): Path<String>,
    context: Context,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    own_or_admin(&context, &project)?;
    let mut set = view(&limits(&api, &project).await?, version);
    set.insert("id".to_owned(), json!(project));
    Ok(Json(json!({ "quota_set": set })))
}

/// Shows the limits that a project has unless somebody says otherwise.
#[utoipa::path(get, path = "/v2.1/os-quota-sets/{project_id}/defaults", tag = "quotas",
    params(("project_id" = String, Path)), responses((status = 200)))]
pub(crate) async fn defaults(Path(project): Path<String>, version: Version) -> Json<Value> {
    let limits = RESOURCES.into_iter().map(|name| (name.to_owned(), -1)).collect();
    let mut set = view(&limits, version);
    set.insert("id".to_owned(), json!(project));
    Json(json!({ "quota_set": set }))
}

/// Shows the limits of a project with what it has of each.
#[utoipa::path(get, path = "/v2.1/os-quota-sets/{project_id}/detail", tag = "quotas",
    params(("project_id" = String, Path)), responses((status = 200), (status = 403)))]
pub(crate) async fn detail(
    State(api): State<Arc<Api>>,
    Path(project): Path<String>,
    context: Context,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    own_or_admin(&context, &project)?;
    let limits = limits(&api, &project).await?;
    let mut connection = api.connection().await?;
    let Usage { instances, cores, ram } = api::usage(&mut connection, &project).await?;
    let groups = api::server_groups_count(&mut connection, &project).await?;
    let used =
        [("instances", instances), ("cores", cores), ("ram", ram), ("server_groups", groups)];
    let mut set = Map::new();
    for (name, limit) in view(&limits, version) {
        let used = used.iter().find(|(counted, _)| *counted == name).map_or(0, |(_, used)| *used);
        set.insert(name, json!({ "limit": limit, "in_use": used, "reserved": 0 }));
    }
    set.insert("id".to_owned(), json!(project));
    Ok(Json(json!({ "quota_set": set })))
}

/// New limits of a project.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateQuotas {
    #[schema(value_type = Object)]
    quota_set: Map<String, Value>,
}

/// Sets limits of a project.
#[utoipa::path(put, path = "/v2.1/os-quota-sets/{project_id}", tag = "quotas", request_body = UpdateQuotas,
    params(("project_id" = String, Path)), responses((status = 200), (status = 400), (status = 403)))]
pub(crate) async fn update(
    State(api): State<Arc<Api>>,
    Path(project): Path<String>,
    version: Version,
    Body(request): Body<UpdateQuotas>,
) -> Result<Json<Value>, ApiError> {
    let invalid = |what: String| ApiError::BadRequest(format!("Invalid quota_set: {what}."));
    let mut wanted = Vec::new();
    let mut force = false;
    for (name, value) in request.quota_set {
        let number = value.as_i64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
        let uncounted =
            |(until, known): &(u16, &str)| *known == name && version.until(*until).is_ok();
        match name.as_str() {
            "force" => force = super::server_actions::boolean(&value).unwrap_or(false),
            "tenant_id" => {}
            _ if UNCOUNTED.iter().any(uncounted) => {}
            _ if RESOURCES.contains(&name.as_str()) => {
                let limit = number.filter(|limit| (-1..=i64::from(i32::MAX)).contains(limit));
                let limit = limit.ok_or_else(|| {
                    invalid(format!("{name} must be a whole number of -1 or more"))
                })?;
                wanted.push((name, limit));
            }
            _ => return Err(invalid(format!("there is no quota {name}"))),
        }
    }
    let mut connection = api.connection().await?;
    let Usage { instances, cores, ram } = api::usage(&mut connection, &project).await?;
    for (name, used) in [("instances", instances), ("cores", cores), ("ram", ram)] {
        let below =
            |(limited, limit): &(String, i64)| limited == name && *limit >= 0 && *limit < used;
        if !force && wanted.iter().any(below) {
            return Err(invalid(format!(
                "the project has {used} {name} already; a limit below that must be forced"
            )));
        }
    }
    if !wanted.is_empty() {
        api::quotas_set(&mut connection, &project, &wanted).await?;
    }
    drop(connection);
    Ok(Json(json!({ "quota_set": view(&limits(&api, &project).await?, version) })))
}

/// Brings the limits of a project back to what they are unless somebody says otherwise.
#[utoipa::path(delete, path = "/v2.1/os-quota-sets/{project_id}", tag = "quotas",
    params(("project_id" = String, Path)), responses((status = 202), (status = 403)))]
pub(crate) async fn reset(
    State(api): State<Arc<Api>>,
    Path(project): Path<String>,
) -> Result<StatusCode, ApiError> {
    api::quotas_reset(&mut api.connection().await?, &project).await?;
    Ok(StatusCode::ACCEPTED)
}
