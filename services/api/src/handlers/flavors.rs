//! Flavors.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::Utc;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;
use whimbrel_db::api::{self, FlavorRow};

use crate::auth::Context;
use crate::body::{Body, Params};
use crate::error::ApiError;
use crate::state::Api;
use crate::version::{Base, Version};

/// A request to make a flavor.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateFlavor {
    flavor: NewFlavor,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewFlavor {
    name: String,
    /// MiB.
    #[schema(value_type = i64)]
    ram: Number,
    #[schema(value_type = i32)]
    vcpus: Number,
    /// GiB.
    #[schema(value_type = i64)]
    disk: Number,
    id: Option<String>,
    description: Option<String>,
    #[serde(rename = "os-flavor-access:is_public", default = "yes")]
    is_public: bool,
    #[serde(rename = "OS-FLV-EXT-DATA:ephemeral", default)]
    #[schema(value_type = i64)]
    ephemeral: Number,
    #[serde(default)]
    #[schema(value_type = i64)]
    swap: Number,
    #[serde(default = "one")]
    rxtx_factor: Value,
}

/// A number, or a text of one: clients send both.
#[derive(Clone, Copy, Debug, Default)]
struct Number(i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let number = value.as_i64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
        let wrong = || serde::de::Error::custom(format!("{value} is not a whole number"));
        number.map(Self).ok_or_else(wrong)
    }
}

fn yes() -> bool {
    true
}

fn one() -> Value {
    json!(1.0)
}

impl NewFlavor {
    fn row(self, version: Version) -> Result<FlavorRow, ApiError> {
        let invalid = |what: &str| ApiError::BadRequest(format!("Invalid flavor: {what}."));
        let name = self.name.trim().to_owned();
        if name.is_empty() || name.len() > 255 {
            return Err(invalid("name must have 1 to 255 characters"));
        }
        if self.ephemeral.0 != 0 || self.swap.0 != 0 {
            return Err(invalid("ephemeral and swap disks are not offered; they must be 0"));
        }
        let factor = self.rxtx_factor.as_f64();
        let factor =
            factor.or_else(|| self.rxtx_factor.as_str().and_then(|text| text.parse().ok()));
        if factor != Some(1.0) {
            return Err(invalid("rxtx_factor is not offered; it must be 1.0"));
        }
        if self.description.is_some() && !version.since(55) {
            return Err(invalid("description came with version 2.55"));
        }
        let vcpus = i32::try_from(self.vcpus.0).ok().filter(|vcpus| (1..=1024).contains(vcpus));
        let vcpus = vcpus.ok_or_else(|| invalid("vcpus must be 1 to 1024"))?;
        if !(1..=1 << 31).contains(&self.ram.0) {
            return Err(invalid("ram must be at least 1 MiB"));
        }
        if !(0..=1 << 31).contains(&self.disk.0) {
            return Err(invalid("disk must not be negative"));
        }
        let id = match self.id.as_deref() {
            None | Some("auto") => Uuid::new_v4().to_string(),
            Some(id) if !id.is_empty() && id.len() <= 255 && !id.contains('/') => id.to_owned(),
            Some(_) => return Err(invalid("id must have 1 to 255 characters and no slash")),
        };
        Ok(FlavorRow {
            id,
            name,
            vcpus,
            memory_mib: self.ram.0,
            disk_gib: self.disk.0,
            is_public: self.is_public,
            description: self.description,
            created_at: Utc::now(),
            extra_specs: json!({}),
        })
    }
}

fn links(id: &str, base: &Base) -> Value {
    json!([
        { "rel": "self", "href": format!("{}/v2.1/flavors/{id}", base.0) },
        { "rel": "bookmark", "href": format!("{}/flavors/{id}", base.0) },
    ])
}

fn view(row: &FlavorRow, version: Version, base: &Base) -> Value {
    let mut view = json!({
        "id": row.id,
        "name": row.name,
        "ram": row.memory_mib,
        "vcpus": row.vcpus,
        "disk": row.disk_gib,
        "swap": if version.since(75) { json!(0) } else { json!("") },
        "OS-FLV-EXT-DATA:ephemeral": 0,
        "OS-FLV-DISABLED:disabled": false,
        "os-flavor-access:is_public": row.is_public,
        "rxtx_factor": 1.0,
        "links": links(&row.id, base),
    });
    let fields = view.as_object_mut().expect("an object");
    if version.since(55) {
        fields.insert("description".to_owned(), json!(row.description));
    }
    if version.since(61) {
        fields.insert("extra_specs".to_owned(), row.extra_specs.clone());
    }
    view
}

/// What lists of flavors can be asked for.
#[derive(Deserialize)]
pub(crate) struct Query {
    /// `true`, `false` or `none`; the last is both.
    is_public: Option<String>,
    #[serde(rename = "minRam")]
    min_ram: Option<i64>,
    #[serde(rename = "minDisk")]
    min_disk: Option<i64>,
    limit: Option<u32>,
    marker: Option<String>,
    sort_key: Option<String>,
    sort_dir: Option<String>,
}

/// The flavors that the caller may use and asks for, and whether there are more.
async fn rows(
    api: &Api,
    context: &Context,
    query: &Query,
) -> Result<(Vec<FlavorRow>, bool), ApiError> {
    let mut connection = api.connection().await?;
    let mut rows = api::flavors_list(&mut connection).await?;
    if context.is_admin() {
        let text = query.is_public.as_deref().map(str::to_ascii_lowercase);
        let public = match text.as_deref() {
            Some("none") => None,
            None => Some(true),
            Some(text) => Some(super::server_actions::boolean(&json!(text)).ok_or_else(|| {
                ApiError::BadRequest(format!("Invalid is_public filter [{text}]"))
            })?),
        };
        rows.retain(|row| public.is_none_or(|public| row.is_public == public));
    } else {
        let granted = api::flavors_granted(&mut connection, &context.caller.project_id).await?;
        rows.retain(|row| row.is_public || granted.contains(&row.id));
    }
    rows.retain(|row| query.min_ram.is_none_or(|least| row.memory_mib >= least));
    rows.retain(|row| query.min_disk.is_none_or(|least| row.disk_gib >= least));
    match query.sort_key.as_deref().unwrap_or("flavorid") {
        "flavorid" | "id" => rows.sort_by(|a, b| a.id.cmp(&b.id)),
        "name" => rows.sort_by(|a, b| a.name.cmp(&b.name)),
        "memory_mb" => rows.sort_by_key(|row| row.memory_mib),
        "root_gb" => rows.sort_by_key(|row| row.disk_gib),
        "vcpus" => rows.sort_by_key(|row| row.vcpus),
        "created_at" => rows.sort_by_key(|row| row.created_at),
        "disabled" | "is_public" | "ephemeral_gb" | "swap" | "rxtx_factor" | "updated_at"
        | "vcpu_weight" => {}
        other => {
            return Err(ApiError::BadRequest(format!("Flavors can't be sorted by '{other}'.")));
        }
    }
    match query.sort_dir.as_deref() {
        Some("desc") => rows.reverse(),
        None | Some("asc") => {}
        Some(other) => {
            return Err(ApiError::BadRequest(format!("sort_dir '{other}' is not asc or desc.")));
        }
    }
    if let Some(marker) = &query.marker {
        let position = rows.iter().position(|row| row.id == *marker);
        let none = || ApiError::BadRequest(format!("marker [{marker}] not found"));
        rows.drain(..=position.ok_or_else(none)?);
    }
    let limit = usize::try_from(api.limit(query.limit.map(i64::from))).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    Ok((rows, more))
}

fn listing(views: &[Value], last: Option<&FlavorRow>, more: bool, url: &str) -> Json<Value> {
    let mut body = json!({ "flavors": views });
    if let Some(last) = last.filter(|_| more) {
        let href = format!("{url}?limit={}&marker={}", views.len(), last.id);
        body["flavors_links"] = json!([{ "rel": "next", "href": href }]);
    }
    Json(body)
}

/// Lists flavors.
#[utoipa::path(get, path = "/v2.1/flavors", tag = "flavors", responses((status = 200), (status = 400)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(query): Params<Query>,
    context: Context,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let (rows, more) = rows(&api, &context, &query).await?;
    let short = |row: &FlavorRow| {
        let mut view = json!({ "id": row.id, "name": row.name, "links": links(&row.id, &base) });
        if version.since(55) {
            view["description"] = json!(row.description);
        }
        view
    };
    let views: Vec<Value> = rows.iter().map(short).collect();
    Ok(listing(&views, rows.last(), more, &format!("{}/v2.1/flavors", base.0)))
}

/// Lists flavors with all that is known of them.
#[utoipa::path(get, path = "/v2.1/flavors/detail", tag = "flavors", responses((status = 200), (status = 400)))]
pub(crate) async fn detail(
    State(api): State<Arc<Api>>,
    Params(query): Params<Query>,
    context: Context,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let (rows, more) = rows(&api, &context, &query).await?;
    let views: Vec<Value> = rows.iter().map(|row| view(row, version, &base)).collect();
    Ok(listing(&views, rows.last(), more, &format!("{}/v2.1/flavors/detail", base.0)))
}

/// A flavor that the caller may use. Others are not there.
pub(super) async fn get(api: &Api, context: &Context, id: &str) -> Result<FlavorRow, ApiError> {
    let mut connection = api.connection().await?;
    let row = api::flavor_get(&mut connection, id).await?;
    if row.is_public || context.is_admin() {
        return Ok(row);
    }
    let granted = api::flavors_granted(&mut connection, &context.caller.project_id).await?;
    if granted.contains(&row.id) {
        return Ok(row);
    }
    Err(ApiError::NotFound(format!("Flavor {id} could not be found.")))
}

/// Shows a flavor.
#[utoipa::path(get, path = "/v2.1/flavors/{flavor_id}", tag = "flavors",
    params(("flavor_id" = String, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    context: Context,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let row = get(&api, &context, &id).await?;
    Ok(Json(json!({ "flavor": view(&row, version, &base) })))
}

/// A change of a flavor.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateFlavor {
    flavor: Change,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Change {
    description: Option<String>,
}

/// Changes a flavor's description, from version 2.55.
#[utoipa::path(put, path = "/v2.1/flavors/{flavor_id}", tag = "flavors", request_body = UpdateFlavor,
    params(("flavor_id" = String, Path)), responses((status = 200), (status = 400), (status = 404)))]
pub(crate) async fn update(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    version: Version,
    base: Base,
    Body(request): Body<UpdateFlavor>,
) -> Result<Json<Value>, ApiError> {
    version.require(55)?;
    let description = request.flavor.description;
    if description.as_ref().is_some_and(|text| text.len() > 65_535) {
        return Err(ApiError::BadRequest("Invalid flavor: description is too long.".to_owned()));
    }
    let mut connection = api.connection().await?;
    api::flavor_update(&mut connection, &id, Some(description.as_deref()), None).await?;
    let row = api::flavor_get(&mut connection, &id).await?;
    Ok(Json(json!({ "flavor": view(&row, version, &base) })))
}

/// Makes a flavor.
#[utoipa::path(post, path = "/v2.1/flavors", tag = "flavors", request_body = CreateFlavor,
    responses((status = 200), (status = 400), (status = 409)))]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    version: Version,
    base: Base,
    Body(request): Body<CreateFlavor>,
) -> Result<Json<Value>, ApiError> {
    let row = request.flavor.row(version)?;
    api::flavor_create(&mut api.connection().await?, &row).await?;
    Ok(Json(json!({ "flavor": view(&row, version, &base) })))
}

/// Deletes a flavor. Servers keep the sizes that they were made with.
#[utoipa::path(delete, path = "/v2.1/flavors/{flavor_id}", tag = "flavors",
    params(("flavor_id" = String, Path)), responses((status = 202), (status = 404)))]
pub(crate) async fn delete(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    api::flavor_delete(&mut api.connection().await?, &id).await?;
    Ok(StatusCode::ACCEPTED)
}
