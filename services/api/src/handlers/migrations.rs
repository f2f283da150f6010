//! `/os-migrations`: all migrations, ended or not.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, NaiveDateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;
use whimbrel_db::DbError;
use whimbrel_db::api::{self, MigrationFilter};

use crate::body::Params;
use crate::error::ApiError;
use crate::state::Api;
use crate::version::{Base, Version};
use crate::views;

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

fn time(name: &str, text: Option<&String>) -> Result<Option<DateTime<Utc>>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let zoned = DateTime::parse_from_rfc3339(text).map(|time| time.with_timezone(&Utc)).ok();
    let bare = || NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok();
    let time = zoned.or_else(|| bare().map(|time| time.and_utc()));
    let wrong = || {
        ApiError::BadRequest(format!(
            "Invalid input for query parameters {name}: '{text}' is not a time like 2026-01-31T12:00:00Z."
        ))
    };
    time.map(Some).ok_or_else(wrong)
}

/// Lists migrations.
#[utoipa::path(get, path = "/v2.1/os-migrations", tag = "migrations",
    responses((status = 200), (status = 400)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(query): Params<Query>,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
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
        project_id: query.project_id.clone().filter(|_| version.since(80)),
        user_id: query.user_id.clone().filter(|_| version.since(80)),
        changes_since: time("changes-since", query.changes_since.as_ref().filter(|_| paged))?,
        changes_before: time(
            "changes-before",
            query.changes_before.as_ref().filter(|_| version.since(66)),
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
    let views: Vec<Value> = rows.iter().map(|row| views::migration(row, version, &base)).collect();
    let mut body = json!({ "migrations": views });
    if let Some(last) = rows.last().filter(|_| more && paged) {
        let href = format!("{}/v2.1/os-migrations?limit={limit}&marker={}", base.0, last.id);
        body["migrations_links"] = json!([{ "rel": "next", "href": href }]);
    }
    Ok(Json(body))
}
