//! Extra specifications of flavors, and which projects may use those that are not for everybody.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use whimbrel_db::api;

use crate::auth::Context;
use crate::body::Body;
use crate::error::ApiError;
use crate::state::Api;

fn none(flavor: &str, name: &str) -> ApiError {
    ApiError::NotFound(format!("Flavor {flavor} has no extra specs with key {name}."))
}

fn check(specs: &Map<String, Value>) -> Result<(), ApiError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_:. ".contains(c);
    for (name, value) in specs {
        let good = (1..=255).contains(&name.len()) && name.chars().all(allowed);
        let text = match value {
            Value::String(text) => text.len() <= 255,
            Value::Number(_) => true,
            _ => false,
        };
        if !good || !text {
            return Err(ApiError::BadRequest(format!(
                "Invalid extra specification '{name}': names have 1 to 255 letters, digits, spaces or any of -_:. \
                 and values are texts of at most 255 characters."
            )));
        }
    }
    Ok(())
}

async fn specs(api: &Api, context: &Context, flavor: &str) -> Result<Map<String, Value>, ApiError> {
    let row = super::flavors::get(api, context, flavor).await?;
    Ok(row.extra_specs.as_object().cloned().unwrap_or_default())
}

async fn store(api: &Api, flavor: &str, specs: Map<String, Value>) -> Result<(), ApiError> {
    let specs = Value::Object(specs);
    let mut connection = api.connection().await?;
    Ok(api::flavor_update(&mut connection, flavor, None, Some(&specs)).await?)
}

/// Lists the extra specifications of a flavor.
#[utoipa::path(get, path = "/v2.1/flavors/{flavor_id}/os-extra_specs", tag = "flavors",
    params(("flavor_id" = String, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn list_specs(
    State(api): State<Arc<Api>>,
    Path(flavor): Path<String>,
    context: Context,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "extra_specs": specs(&api, &context, &flavor).await? })))
}

/// Extra specifications to set.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtraSpecs {
    #[schema(value_type = Object)]
    extra_specs: Map<String, Value>,
}

/// Sets extra specifications of a flavor; others stay.
#[utoipa::path(post, path = "/v2.1/flavors/{flavor_id}/os-extra_specs", tag = "flavors",
    request_body = ExtraSpecs, params(("flavor_id" = String, Path)),
    responses((status = 200), (status = 400), (status = 404)))]
pub(crate) async fn set_specs(
    State(api): State<Arc<Api>>,
    Path(flavor): Path<String>,
    context: Context,
    Body(request): Body<ExtraSpecs>,
) -> Result<Json<Value>, ApiError> {
    check(&request.extra_specs)?;
    let mut all = specs(&api, &context, &flavor).await?;
    let answer = json!({ "extra_specs": request.extra_specs });
    let text = |value: Value| match value {
        Value::Number(number) => json!(number.to_string()),
        other => other,
    };
    all.extend(request.extra_specs.into_iter().map(|(name, value)| (name, text(value))));
    store(&api, &flavor, all).await?;
    Ok(Json(answer))
}

/// Shows an extra specification of a flavor.
#[utoipa::path(get, path = "/v2.1/flavors/{flavor_id}/os-extra_specs/{name}", tag = "flavors",
    params(("flavor_id" = String, Path), ("name" = String, Path)),
    responses((status = 200), (status = 404)))]
pub(crate) async fn show_spec(
    State(api): State<Arc<Api>>,
    Path((flavor, name)): Path<(String, String)>,
    context: Context,
) -> Result<Json<Value>, ApiError> {
    let all = specs(&api, &context, &flavor).await?;
    let value = all.get(&name).ok_or_else(|| none(&flavor, &name))?;
    Ok(Json(json!({ name: value })))
}

/// Sets one extra specification of a flavor.
#[utoipa::path(put, path = "/v2.1/flavors/{flavor_id}/os-extra_specs/{name}", tag = "flavors",
    request_body = Object, params(("flavor_id" = String, Path), ("name" = String, Path)),
    responses((status = 200), (status = 400), (status = 404)))]
pub(crate) async fn set_spec(
    State(api): State<Arc<Api>>,
    Path((flavor, name)): Path<(String, String)>,
    context: Context,
    Body(request): Body<Map<String, Value>>,
) -> Result<Json<Value>, ApiError> {
    check(&request)?;
    if request.len() != 1 || !request.contains_key(&name) {
        return Err(ApiError::BadRequest("Request body and URI mismatch".to_owned()));
    }
    let mut all = specs(&api, &context, &flavor).await?;
    all.extend(request.clone());
    store(&api, &flavor, all).await?;
    Ok(Json(Value::Object(request)))
}

/// Removes an extra specification of a flavor.
#[utoipa::path(delete, path = "/v2.1/flavors/{flavor_id}/os-extra_specs/{name}", tag = "flavors",
    params(("flavor_id" = String, Path), ("name" = String, Path)),
    responses((status = 200), (status = 404)))]
pub(crate) async fn remove_spec(
    State(api): State<Arc<Api>>,
    Path((flavor, name)): Path<(String, String)>,
    context: Context,
) -> Result<StatusCode, ApiError> {
    let mut all = specs(&api, &context, &flavor).await?;
    all.remove(&name).ok_or_else(|| none(&flavor, &name))?;
    store(&api, &flavor, all).await?;
    Ok(StatusCode::OK)
}

async fn access(api: &Api, flavor: &str) -> Result<Json<Value>, ApiError> {
    let projects = api::flavor_access_list(&mut api.connection().await?, flavor).await?;
    let view = |project: &String| json!({ "flavor_id": flavor, "tenant_id": project });
    Ok(Json(json!({ "flavor_access": projects.iter().map(view).collect::<Vec<_>>() })))
}

/// Lists the projects that may use a flavor.
#[utoipa::path(get, path = "/v2.1/flavors/{flavor_id}/os-flavor-access", tag = "flavors",
    params(("flavor_id" = String, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn list_access(
    State(api): State<Arc<Api>>,
    Path(flavor): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let row = api::flavor_get(&mut api.connection().await?, &flavor).await?;
    if row.is_public {
        return Err(ApiError::NotFound("Access list not available for public flavors.".to_owned()));
    }
    access(&api, &flavor).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Project {
    tenant: String,
}

/// Gives a project the use of a flavor, or takes it: `addTenantAccess`, `removeTenantAccess`.
#[utoipa::path(post, path = "/v2.1/flavors/{flavor_id}/action", tag = "flavors",
    params(("flavor_id" = String, Path)),
    request_body(content = Object, example = json!({"addTenantAccess": {"tenant": "demo"}})),
    responses((status = 200), (status = 400), (status = 404), (status = 409)))]
pub(crate) async fn action(
    State(api): State<Arc<Api>>,
    Path(flavor): Path<String>,
    Body(body): Body<Map<String, Value>>,
) -> Result<Json<Value>, ApiError> {
    let mut entries = body.into_iter();
    let (Some((name, value)), None) = (entries.next(), entries.next()) else {
        return Err(ApiError::BadRequest(
            "Malformed request body: it must have exactly one key, the action's name.".to_owned(),
        ));
    };
    let Project { tenant } = super::server_actions::argument(&name, value)?;
    let mut connection = api.connection().await?;
    let row = api::flavor_get(&mut connection, &flavor).await?;
    match name.as_str() {
        "addTenantAccess" if row.is_public => {
            return Err(ApiError::Conflict("Can not add access to a public flavor.".to_owned()));
        }
        "addTenantAccess" => api::flavor_access_add(&mut connection, &flavor, &tenant).await?,
        "removeTenantAccess" => {
            api::flavor_access_remove(&mut connection, &flavor, &tenant).await?;
        }
        other => return Err(ApiError::BadRequest(format!("There is no such action: {other}."))),
    }
    drop(connection);
    access(&api, &flavor).await
}
