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

use crate::body::Body;
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
        fields.insert("extra_specs".to_owned(), json!({}));
    }
    view
}

/// Lists flavors.
#[utoipa::path(get, path = "/v2.1/flavors", tag = "flavors", responses((status = 200)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let rows = api::flavors_list(&mut api.connection().await?).await?;
    let short = |row: &FlavorRow| {
        let mut view = json!({ "id": row.id, "name": row.name, "links": links(&row.id, &base) });
        if version.since(55) {
            view["description"] = json!(row.description);
        }
        view
    };
    Ok(Json(json!({ "flavors": rows.iter().map(short).collect::<Vec<_>>() })))
}

/// Lists flavors with all that is known of them.
#[utoipa::path(get, path = "/v2.1/flavors/detail", tag = "flavors", responses((status = 200)))]
pub(crate) async fn detail(
    State(api): State<Arc<Api>>,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let rows = api::flavors_list(&mut api.connection().await?).await?;
    let views: Vec<Value> = rows.iter().map(|row| view(row, version, &base)).collect();
    Ok(Json(json!({ "flavors": views })))
}

/// Shows a flavor.
#[utoipa::path(get, path = "/v2.1/flavors/{flavor_id}", tag = "flavors",
    params(("flavor_id" = String, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let row = api::flavor_get(&mut api.connection().await?, &id).await?;
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

/// The extra specifications of a flavor: none are offered.
#[utoipa::path(get, path = "/v2.1/flavors/{flavor_id}/os-extra_specs", tag = "flavors",
    params(("flavor_id" = String, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn extra_specs(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    api::flavor_get(&mut api.connection().await?, &id).await?;
    Ok(Json(json!({ "extra_specs": {} })))
}
