//! Small answers that clients ask for: extensions; and health.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use whimbrel_db::api;

use crate::error::ApiError;
use crate::state::Api;

/// What older clients know as extensions and is in the API itself: alias and name.
const EXTENSIONS: [(&str, &str); 23] = [
    ("OS-DCF", "DiskConfig"),
    ("OS-EXT-AZ", "ExtendedAvailabilityZone"),
    ("OS-EXT-IMG-SIZE", "ImageSize"),
    ("OS-EXT-SRV-ATTR", "ExtendedServerAttributes"),
    ("OS-EXT-STS", "ExtendedStatus"),
    ("OS-FLV-EXT-DATA", "FlavorExtraData"),
    ("OS-SCH-HNT", "SchedulerHints"),
    ("OS-SRV-USG", "ServerUsage"),
    ("os-admin-actions", "AdminActions"),
    ("os-aggregates", "Aggregates"),
    ("os-availability-zone", "AvailabilityZone"),
    ("os-evacuate", "Evacuate"),
    ("os-extended-services", "ExtendedServices"),
    ("os-flavor-access", "FlavorAccess"),
    ("os-flavor-extra-specs", "FlavorExtraSpecs"),
    ("os-flavor-manage", "FlavorManage"),
    ("os-hypervisors", "Hypervisors"),
    ("os-instance-actions", "InstanceActions"),
    ("os-keypairs", "Keypairs"),
    ("os-migrations", "Migrations"),
    ("os-quota-sets", "Quotas"),
    ("os-server-groups", "ServerGroups"),
    ("os-services", "Services"),
];

fn extension((alias, name): (&str, &str)) -> Value {
    json!({
        "alias": alias,
        "name": name,
        "description": name,
        "namespace": "http://docs.openstack.org/compute/ext/fake_xml",
        "updated": "2014-12-03T00:00:00Z",
        "links": [],
    })
}

/// Lists what older clients know as extensions.
#[utoipa::path(get, path = "/v2.1/extensions", tag = "misc", responses((status = 200)))]
pub(crate) async fn extensions() -> Json<Value> {
    Json(json!({ "extensions": EXTENSIONS.map(extension) }))
}

/// Shows what older clients know as an extension.
#[utoipa::path(get, path = "/v2.1/extensions/{alias}", tag = "misc",
    params(("alias" = String, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show_extension(Path(alias): Path<String>) -> Result<Json<Value>, ApiError> {
    let found = EXTENSIONS.into_iter().find(|(known, _)| *known == alias);
    let none = || ApiError::NotFound(format!("There is no extension {alias}."));
    Ok(Json(json!({ "extension": extension(found.ok_or_else(none)?) })))
}

/// The process answers.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200)))]
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// The database answers, and has the schema that this release expects.
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200), (status = 503)))]
pub(crate) async fn readyz(State(api): State<Arc<Api>>) -> (StatusCode, String) {
    let asked = match api.database.connection().await {
        Ok(mut connection) => api::flavors_list(&mut connection).await.map(drop),
        Err(error) => Err(error),
    };
    match asked {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("database: {error}\n")),
    }
}
