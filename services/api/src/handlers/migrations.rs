//! `/os-migrations`: all migrations, ended or not.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;
use whimbrel_db::DbError;
use whimbrel_db::api::{self, MigrationFilter};

use crate::auth::Context;
use crate::body::Params;
use crate::error::ApiError;
use crate::state::Api;
use crate::time;
use crate::version::{Base, Version};
use crate::views;

/// The version from which unknown parameters are refused, and the known ones: since when, name.
const STRICT: u16 = 59;
const KNOWN: [(u16, &str); 12] = [
    (1, "hidden"),
    (1, "host"),
    (1, "instance_uuid"),
    (1, "migration_type"),
    (1, "source_compute"),
    (1, "status"),
    (59, "limit"),
    (59, "marker"),
    (59, "changes-since"),
    (66, "changes-before"),
    (80, "project_id"),
    (80, "user_id"),
];

/// Refuses parameters that a strict version does not know.
fn check(raw: Option<&str>, version: Version) -> Result<(), ApiError> {
    let pairs: Vec<(String, String)> =
        serde_urlencoded::from_str(raw.unwrap_or_default()).unwrap_or_default();
    let known =
        |name: &str| KNOWN.iter().any(|(since, known)| *known == name && version.since(*since));
    match pairs.iter().find(|(name, _)| !known(name)) {
        Some((name, _)) if version.since(STRICT) => Err(ApiError::BadRequest(format!(
            "Additional query parameters are not allowed: {name}."
        ))),
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
pub(crate) struct Query {
    status: Option<String>,
    host: Option<String>,
    source_compute: Option<String>,
    instance_uuid: Option<Uuid>,
    migration_type: Option<String>,
    project_id: Option<String>,
    user_id: Option<String>,
    limit: Option<i64>,
    marker: Option<Uuid>,
    #[serde(rename = "changes-since")]
    changes_since: Option<String>,
    #[serde(rename = "changes-before")]
    changes_before: Option<String>,
}

/// Lists migrations.
#[utoipa::path(get, path = "/v2.1/os-migrations", tag = "migrations",
    responses((status = 200), (status = 400)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    RawQuery(raw): RawQuery,
    Params(query): Params<Query>,
    context: Context,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    check(raw.as_deref(), version)?;
    if query.limit.is_some_and(|limit| limit < 0) {
        return Err(ApiError::BadRequest(
            "Invalid input for query parameters limit: it must be 0 or more.".to_owned(),
        ));
    }
    let paged = version.since(59);
    let limit = if paged { api.limit(query.limit) } else { api.limit(None) };
    let filter = MigrationFilter {
        instance_id: query.instance_uuid,
        status: query.status.clone(),
        host: query.host.clone(),
        source_compute: query.source_compute.clone(),
        migration_type: query.migration_type.clone(),
        project_id: match context.project(context.is_admin()) {
            Some(own) => Some(own),
            None => query.project_id.clone().filter(|_| version.since(80)),
        },
        user_id: query.user_id.clone().filter(|_| version.since(80)),
        changes_since: time::parse(
            "changes-since",
            query.changes_since.as_deref().filter(|_| paged),
        )?,
        changes_before: time::parse(
            "changes-before",
            query.changes_before.as_deref().filter(|_| version.since(66)),
        )?,
        in_progress: false,
        marker: query.marker.filter(|_| paged),
        // One more, to know whether there are more.
        limit: limit + 1,
    };
    let listed = api::migrations_list(&mut api.connection().await?, &filter).await;
    let mut rows = listed.map_err(|error| match error {
        DbError::NotFound { kind: "marker", id } => {
            ApiError::BadRequest(format!("Marker {id} could not be found."))
        }
        other => other.into(),
    })?;
    let more = i64::try_from(rows.len()).is_ok_and(|count| count > limit);
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let views: Vec<Value> =
        rows.iter().map(|row| views::migration(row, version, &base, context.is_admin())).collect();
    let mut body = json!({ "migrations": views });
    if let Some(last) = rows.last().filter(|_| more && paged) {
        let href = format!("{}/v2.1/os-migrations?limit={limit}&marker={}", base.0, last.id);
        body["migrations_links"] = json!([{ "rel": "next", "href": href }]);
    }
    Ok(Json(body))
}
