//! `/os-aggregates` and `/os-availability-zone`: named sets of hosts, and the zones that they make.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use whimbrel_db::DbError;
use whimbrel_db::api::{self, AggregateRow, AggregateUpdate, DEFAULT_ZONE, HostRow};
use whimbrel_model::ServiceStatus;

use crate::body::Body;
use crate::error::ApiError;
use crate::state::Api;
use crate::version::Version;
use crate::views::plain;

fn view(row: &AggregateRow, version: Version) -> Value {
    let mut metadata = row.metadata.clone();
    if let Some(zone) = &row.availability_zone {
        metadata["availability_zone"] = json!(zone);
    }
    let mut view = json!({
        "id": row.number,
        "name": row.name,
        "availability_zone": row.availability_zone,
        "hosts": row.hosts,
        "metadata": metadata,
        "created_at": plain(row.created_at),
        "updated_at": plain(row.updated_at),
        "deleted": false,
        "deleted_at": null,
    });
    if version.since(41) {
        view["uuid"] = json!(row.id);
    }
    view
}

fn number(text: &str) -> Result<i64, ApiError> {
    let none = || ApiError::NotFound(format!("Aggregate {text} could not be found."));
    text.parse().map_err(|_| none())
}

fn invalid(what: impl std::fmt::Display) -> ApiError {
    ApiError::BadRequest(format!("Invalid aggregate: {what}."))
}

fn check(name: &str, what: &str) -> Result<(), ApiError> {
    // A colon would make of a zone a zone and a host.
    let bad = |c: char| c.is_control() || (what == "availability_zone" && c == ':');
    if (1..=255).contains(&name.trim().chars().count()) && !name.contains(bad) {
        return Ok(());
    }
    Err(invalid(format!("{what} must have 1 to 255 printable characters")))
}

/// Lists aggregates.
#[utoipa::path(get, path = "/v2.1/os-aggregates", tag = "hosts", responses((status = 200)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    let rows = api::aggregates_list(&mut api.connection().await?).await?;
    let views: Vec<Value> = rows.iter().map(|row| view(row, version)).collect();
    Ok(Json(json!({ "aggregates": views })))
}

/// Shows an aggregate.
#[utoipa::path(get, path = "/v2.1/os-aggregates/{aggregate_id}", tag = "hosts",
    params(("aggregate_id" = i64, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    let row = api::aggregate_get(&mut api.connection().await?, number(&id)?).await?;
    Ok(Json(json!({ "aggregate": view(&row, version) })))
}

/// A request to make an aggregate, or to change one.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WantedAggregate {
    aggregate: Wanted,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: Option<String>,
    #[serde(default, deserialize_with = "super::servers::present")]
    #[schema(value_type = Option<String>)]
    availability_zone: Option<Option<String>>,
}

impl Wanted {
    fn check(&self) -> Result<(), ApiError> {
        if let Some(name) = &self.name {
            check(name, "name")?;
        }
        match &self.availability_zone {
            Some(Some(zone)) => check(zone, "availability_zone"),
            _ => Ok(()),
        }
    }
}

fn in_use(error: DbError) -> ApiError {
    match error {
        DbError::InUse { .. } => ApiError::Conflict(format!("{error}.")),
        DbError::Exists { kind: "Aggregate", id } => {
            ApiError::Conflict(format!("Aggregate {id} already exists."))
        }
        other => other.into(),
    }
}

/// Makes an aggregate.
#[utoipa::path(post, path = "/v2.1/os-aggregates", tag = "hosts", request_body = WantedAggregate,
    responses((status = 200), (status = 400), (status = 409)))]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    version: Version,
    Body(request): Body<WantedAggregate>,
) -> Result<Json<Value>, ApiError> {
    let wanted = request.aggregate;
    wanted.check()?;
    let name = wanted.name.as_deref().ok_or_else(|| invalid("name is missing"))?;
    let zone = wanted.availability_zone.as_ref().and_then(Option::as_deref);
    let made = api::aggregate_create(&mut api.connection().await?, name.trim(), zone).await;
    let mut view = view(&made.map_err(in_use)?, version);
    // As Nova: what a new one can't have is not shown.
    if let Some(fields) = view.as_object_mut() {
        fields.retain(|name, _| !matches!(name.as_str(), "hosts" | "metadata"));
    }
    Ok(Json(json!({ "aggregate": view })))
}

/// Changes an aggregate.
#[utoipa::path(put, path = "/v2.1/os-aggregates/{aggregate_id}", tag = "hosts", request_body = WantedAggregate,
    params(("aggregate_id" = i64, Path)),
    responses((status = 200), (status = 400), (status = 404), (status = 409)))]
pub(crate) async fn update(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    version: Version,
    Body(request): Body<WantedAggregate>,
) -> Result<Json<Value>, ApiError> {
    let wanted = request.aggregate;
    wanted.check()?;
    if wanted.name.is_none() && wanted.availability_zone.is_none() {
        return Err(invalid("say name or availability_zone"));
    }
    let change = AggregateUpdate {
        name: wanted.name.map(|name| name.trim().to_owned()),
        availability_zone: wanted.availability_zone,
        metadata: None,
    };
    let mut connection = api.connection().await?;
    let changed = api::aggregate_update(&mut connection, number(&id)?, &change).await;
    Ok(Json(json!({ "aggregate": view(&changed.map_err(in_use)?, version) })))
}

/// Deletes an aggregate that has no hosts.
#[utoipa::path(delete, path = "/v2.1/os-aggregates/{aggregate_id}", tag = "hosts",
    params(("aggregate_id" = i64, Path)), responses((status = 200), (status = 404), (status = 409)))]
pub(crate) async fn delete(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<(), ApiError> {
    let gone = api::aggregate_delete(&mut api.connection().await?, number(&id)?).await;
    gone.map_err(in_use)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneHost {
    host: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMetadata {
    metadata: Map<String, Value>,
}

/// Does something with an aggregate. The only key of the body says what: `add_host`, `remove_host`, `set_metadata`.
#[utoipa::path(post, path = "/v2.1/os-aggregates/{aggregate_id}/action", tag = "hosts",
    params(("aggregate_id" = i64, Path)),
    request_body(content = Object, example = json!({"add_host": {"host": "host-a"}})),
    responses((status = 200), (status = 400), (status = 404), (status = 409)))]
pub(crate) async fn action(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    version: Version,
    Body(body): Body<Map<String, Value>>,
) -> Result<Json<Value>, ApiError> {
    let id = number(&id)?;
    let mut entries = body.into_iter();
    let (Some((name, value)), None) = (entries.next(), entries.next()) else {
        return Err(invalid("the body must have exactly one key, the action's name"));
    };
    let mut connection = api.connection().await?;
    let row = match name.as_str() {
        "add_host" => {
            let OneHost { host } = super::server_actions::argument(&name, value)?;
            api::aggregate_add_host(&mut connection, id, &host).await
        }
        "remove_host" => {
            let OneHost { host } = super::server_actions::argument(&name, value)?;
            api::aggregate_remove_host(&mut connection, id, &host).await
        }
        "set_metadata" => {
            let NewMetadata { metadata } = super::server_actions::argument(&name, value)?;
            let before = api::aggregate_get(&mut connection, id).await?;
            let change = merged(&before, metadata)?;
            api::aggregate_update(&mut connection, id, &change).await
        }
        other => return Err(invalid(format!("there is no such action: {other}"))),
    };
    Ok(Json(json!({ "aggregate": view(&row.map_err(in_use)?, version) })))
}

/// Null takes an item away; the zone is an item of its own kind.
fn merged(
    before: &AggregateRow,
    metadata: Map<String, Value>,
) -> Result<AggregateUpdate, ApiError> {
    let mut change = AggregateUpdate::default();
    let mut after = before.metadata.as_object().cloned().unwrap_or_default();
    for (name, value) in metadata {
        check(&name, "metadata")?;
        match (name.as_str(), &value) {
            ("availability_zone", Value::Null) => change.availability_zone = Some(None),
            ("availability_zone", Value::String(zone)) => {
                check(zone, "availability_zone")?;
                change.availability_zone = Some(Some(zone.clone()));
            }
            (_, Value::Null) => drop(after.remove(&name)),
            (_, Value::String(text)) if text.len() <= 255 => drop(after.insert(name, value)),
            _ => return Err(invalid("values are texts of at most 255 characters, or null")),
        }
    }
    change.metadata = Some(Value::Object(after));
    Ok(change)
}

/// Hosts by zone.
async fn by_zone(api: &Api) -> Result<BTreeMap<String, Vec<HostRow>>, ApiError> {
    let mut connection = api.connection().await?;
    let of_hosts = api::zones_of_hosts(&mut connection).await?;
    let hosts = api::hosts_list(&mut connection, api.config.service_down_time_ms).await?;
    let mut zones: BTreeMap<String, Vec<HostRow>> = BTreeMap::new();
    for host in hosts {
        let zone = of_hosts.get(&host.name).map_or(DEFAULT_ZONE, String::as_str);
        zones.entry(zone.to_owned()).or_default().push(host);
    }
    Ok(zones)
}

fn usable(hosts: &[HostRow]) -> bool {
    hosts.iter().any(|host| host.up && host.status == ServiceStatus::Enabled)
}

/// Lists availability zones.
#[utoipa::path(get, path = "/v2.1/os-availability-zone", tag = "hosts", responses((status = 200)))]
pub(crate) async fn zones(State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    let zones = by_zone(&api).await?;
    let view = |(name, hosts): (&String, &Vec<HostRow>)| json!({ "zoneName": name, "zoneState": { "available": usable(hosts) }, "hosts": null });
    Ok(Json(json!({ "availabilityZoneInfo": zones.iter().map(view).collect::<Vec<_>>() })))
}

/// Lists availability zones with their hosts.
#[utoipa::path(get, path = "/v2.1/os-availability-zone/detail", tag = "hosts", responses((status = 200)))]
pub(crate) async fn zones_detail(State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    let host = |row: &HostRow| {
        let service = json!({
            "active": row.status == ServiceStatus::Enabled,
            "available": row.up,
            "updated_at": row.reported_at.map(plain),
        });
        (row.name.clone(), json!({ "nova-compute": service }))
    };
    let zones = by_zone(&api).await?;
    let view = |(name, rows): (&String, &Vec<HostRow>)| {
        let hosts: Map<String, Value> = rows.iter().map(host).collect();
        json!({ "zoneName": name, "zoneState": { "available": usable(rows) }, "hosts": hosts })
    };
    let mut views: Vec<Value> = zones.iter().map(view).collect();
    views.push(internal(&api).await?);
    Ok(Json(json!({ "availabilityZoneInfo": views })))
}

/// The services without a hypervisor are in a zone of their own.
async fn internal(api: &Api) -> Result<Value, ApiError> {
    let rows = api::services_list(&mut api.connection().await?).await?;
    let names: BTreeSet<&String> = rows.iter().map(|row| &row.host).collect();
    let services = |host: &String| {
        let own = rows.iter().filter(|row| row.host == *host);
        let view = |row: &api::ServiceRow| {
            let service = json!({
                "active": true, "available": true, "updated_at": plain(row.reported_at),
            });
            (row.binary_name.replace("whimbrel-", "nova-"), service)
        };
        Value::Object(own.map(view).collect())
    };
    let hosts: Map<String, Value> =
        names.into_iter().map(|host| (host.clone(), services(host))).collect();
    Ok(json!({ "zoneName": "internal", "zoneState": { "available": true }, "hosts": hosts }))
}
