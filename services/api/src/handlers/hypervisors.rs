//! `/os-hypervisors`: what hosts have.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use whimbrel_db::api::{self, HostRow, ServerFilter};
use whimbrel_model::ServiceStatus;

use crate::body::Params;
use crate::error::ApiError;
use crate::state::Api;
use crate::version::{Base, Version};

#[derive(Deserialize)]
pub(crate) struct Query {
    hypervisor_hostname_pattern: Option<String>,
    with_servers: Option<String>,
    /// Pages, from version 2.33.
    limit: Option<u32>,
    marker: Option<String>,
}

impl Query {
    /// All, or those whose names contain a text.
    fn named(pattern: Option<String>) -> Self {
        let hypervisor_hostname_pattern = pattern;
        Self { hypervisor_hostname_pattern, with_servers: None, limit: None, marker: None }
    }

    /// Leaves the rows that are asked for, and says what comes after them.
    fn page(
        &self,
        rows: &mut Vec<HostRow>,
        version: Version,
        most: i64,
    ) -> Result<Option<String>, ApiError> {
        if !version.since(33) {
            return Ok(None);
        }
        let id = |row: &HostRow| {
            if version.since(53) { row.service_id.to_string() } else { row.number.to_string() }
        };
        if let Some(marker) = &self.marker {
            let position = rows.iter().position(|row| id(row) == *marker);
            let none = || ApiError::BadRequest(format!("marker [{marker}] not found"));
            rows.drain(..=position.ok_or_else(none)?);
        }
        let limit = usize::try_from(most).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        Ok(rows.last().filter(|_| more).map(|last| format!("limit={limit}&marker={}", id(last))))
    }

    /// From 2.53 on lists can have servers in them.
    fn wants_servers(&self, version: Version) -> Result<bool, ApiError> {
        let Some(text) = self.with_servers.as_ref().filter(|_| version.since(53)) else {
            return Ok(false);
        };
        super::server_actions::boolean(&json!(text)).ok_or_else(|| {
            ApiError::BadRequest(format!(
                "Invalid input for query parameters with_servers: '{text}' is not true or false."
            ))
        })
    }
}

fn short(host: &HostRow, version: Version) -> Value {
    json!({
        "id": if version.since(53) { json!(host.service_id) } else { json!(host.number) },
        "hypervisor_hostname": host.name,
        "state": if host.up { "up" } else { "down" },
        "status": host.status,
    })
}

fn full(host: &HostRow, version: Version) -> Value {
    let mut view = short(host, version);
    let service_id = if version.since(53) { json!(host.service_id) } else { json!(host.number) };
    view["service"] = json!({
        "id": service_id,
        "host": host.name,
        "disabled_reason": host.disabled_reason,
    });
    view["host_ip"] = host.inventory["host_ip"].clone();
    view["hypervisor_type"] = json!(host.hypervisor_type);
    view["hypervisor_version"] = json!(host.hypervisor_version);
    if version.since(88) {
        view["uptime"] = json!(uptime(host));
        return view;
    }
    let (vcpus, memory, disk) = host.total;
    let (vcpus_used, memory_used, disk_used) = host.used;
    let cpu = &host.inventory["cpu"];
    let cpu = json!({
        "arch": cpu["arch"], "model": cpu["model"], "vendor": cpu["vendor"], "features": cpu["features"],
        "topology": { "cells": 1, "sockets": 1, "cores": vcpus, "threads": 1 },
    });
    for (name, value) in [
        ("vcpus", json!(vcpus)),
        ("memory_mb", json!(memory)),
        ("local_gb", json!(disk)),
        ("vcpus_used", json!(vcpus_used)),
        ("memory_mb_used", json!(memory_used)),
        ("local_gb_used", json!(disk_used)),
        ("free_ram_mb", json!(memory - memory_used)),
        ("free_disk_gb", json!(disk - disk_used)),
        ("disk_available_least", host.inventory["disk_free_gib"].clone()),
        ("current_workload", json!(0)),
        ("running_vms", host.inventory["running_vms"].clone()),
        // A text of JSON before 2.28.
        ("cpu_info", if version.since(28) { cpu } else { json!(cpu.to_string()) }),
    ] {
        view[name] = value;
    }
    view
}

fn uptime(host: &HostRow) -> Option<String> {
    let seconds = host.inventory["uptime_s"].as_i64()?;
    Some(format!(
        "up {} days, {:02}:{:02}",
        seconds / 86_400,
        seconds / 3_600 % 24,
        seconds / 60 % 60
    ))
}

async fn rows(api: &Api, query: &Query) -> Result<Vec<HostRow>, ApiError> {
    let down = api.config.service_down_time_ms;
    let mut rows = api::hosts_list(&mut api.connection().await?, down).await?;
    if let Some(pattern) = &query.hypervisor_hostname_pattern {
        rows.retain(|row| row.name.contains(pattern.as_str()));
        if rows.is_empty() {
            return Err(ApiError::NotFound(format!(
                "No hypervisor matching '{pattern}' could be found."
            )));
        }
    }
    Ok(rows)
}

fn listing(views: &[Value], next: Option<String>, url: &str) -> Json<Value> {
    let mut body = json!({ "hypervisors": views });
    if let Some(next) = next {
        body["hypervisors_links"] = json!([{ "rel": "next", "href": format!("{url}?{next}") }]);
    }
    Json(body)
}

/// Lists hypervisors.
#[utoipa::path(get, path = "/v2.1/os-hypervisors", tag = "hosts", responses((status = 200)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(query): Params<Query>,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let mut rows = rows(&api, &query).await?;
    let next = query.page(&mut rows, version, api.limit(query.limit.map(i64::from)))?;
    let mut views: Vec<Value> = rows.iter().map(|row| short(row, version)).collect();
    if query.wants_servers(version)? {
        add_servers(&api, &rows, &mut views).await?;
    }
    Ok(listing(&views, next, &format!("{}/v2.1/os-hypervisors", base.0)))
}

/// Lists hypervisors with all that is known of them.
#[utoipa::path(get, path = "/v2.1/os-hypervisors/detail", tag = "hosts", responses((status = 200)))]
pub(crate) async fn detail(
    State(api): State<Arc<Api>>,
    Params(query): Params<Query>,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let mut rows = rows(&api, &query).await?;
    let next = query.page(&mut rows, version, api.limit(query.limit.map(i64::from)))?;
    let mut views: Vec<Value> = rows.iter().map(|row| full(row, version)).collect();
    if query.wants_servers(version)? {
        add_servers(&api, &rows, &mut views).await?;
    }
    Ok(listing(&views, next, &format!("{}/v2.1/os-hypervisors/detail", base.0)))
}

/// Adds all hypervisors up, before version 2.88.
#[utoipa::path(get, path = "/v2.1/os-hypervisors/statistics", tag = "hosts",
    responses((status = 200), (status = 404)))]
pub(crate) async fn statistics(
    State(api): State<Arc<Api>>,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    version.until(88)?;
    let rows = rows(&api, &Query::named(None)).await?;
    // As Nova: hosts that are disabled are not counted.
    let usable = rows.iter().filter(|row| row.status == ServiceStatus::Enabled);
    let views: Vec<Value> = usable.map(|row| full(row, Version(1))).collect();
    let mut statistics = json!({ "count": views.len(), "current_workload": 0 });
    for name in [
        "vcpus",
        "memory_mb",
        "local_gb",
        "vcpus_used",
        "memory_mb_used",
        "local_gb_used",
        "free_ram_mb",
        "free_disk_gb",
        "running_vms",
        "disk_available_least",
    ] {
        let sum: i64 = views.iter().filter_map(|view| view[name].as_i64()).sum();
        statistics[name] = json!(sum);
    }
    Ok(Json(json!({ "hypervisor_statistics": statistics })))
}

/// Hypervisors whose names contain a text, with their servers or without, before version 2.53.
async fn by_name(
    api: &Api,
    pattern: String,
    version: Version,
    servers: bool,
) -> Result<Json<Value>, ApiError> {
    version.until(53)?;
    let query = Query::named(Some(pattern));
    let rows = rows(api, &query).await?;
    let mut views: Vec<Value> = rows.iter().map(|row| short(row, version)).collect();
    if servers {
        add_servers(api, &rows, &mut views).await?;
    }
    Ok(Json(json!({ "hypervisors": views })))
}

/// Finds hypervisors by a part of their names, before version 2.53.
#[utoipa::path(get, path = "/v2.1/os-hypervisors/{hypervisor_id}/search", tag = "hosts",
    params(("hypervisor_id" = String, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn search(
    State(api): State<Arc<Api>>,
    Path(pattern): Path<String>,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    by_name(&api, pattern, version, false).await
}

/// Lists the servers of hypervisors by a part of their names, before version 2.53.
#[utoipa::path(get, path = "/v2.1/os-hypervisors/{hypervisor_id}/servers", tag = "hosts",
    params(("hypervisor_id" = String, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn servers(
    State(api): State<Arc<Api>>,
    Path(pattern): Path<String>,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    by_name(&api, pattern, version, true).await
}

/// Shows how long a hypervisor runs, before version 2.88.
#[utoipa::path(get, path = "/v2.1/os-hypervisors/{hypervisor_id}/uptime", tag = "hosts",
    params(("hypervisor_id" = String, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show_uptime(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    version.until(88)?;
    let down = api.config.service_down_time_ms;
    let row = api::host_get(&mut api.connection().await?, &id, down).await?;
    let mut view = short(&row, version);
    view["uptime"] = json!(uptime(&row));
    Ok(Json(json!({ "hypervisor": view })))
}

/// Puts what is known of their servers into the views of hypervisors.
async fn add_servers(api: &Api, rows: &[HostRow], views: &mut [Value]) -> Result<(), ApiError> {
    let filter = ServerFilter {
        hosts: Some(rows.iter().map(|row| row.name.clone()).collect()),
        deleted: Some(false),
        limit: i64::MAX,
        ..ServerFilter::default()
    };
    let servers = api::servers_list(&mut api.connection().await?, &filter).await?;
    for (row, view) in rows.iter().zip(views) {
        let own = servers
            .iter()
            .filter(|server| server.host.as_ref().is_some_and(|host| host.as_str() == row.name));
        let short = |server: &api::ServerRow| json!({ "uuid": server.id, "name": server.name });
        let own: Vec<Value> = own.map(short).collect();
        if !own.is_empty() {
            view["servers"] = json!(own);
        }
    }
    Ok(())
}

/// Shows a hypervisor.
#[utoipa::path(get, path = "/v2.1/os-hypervisors/{hypervisor_id}", tag = "hosts",
    params(("hypervisor_id" = String, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Params(query): Params<Query>,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    let down = api.config.service_down_time_ms;
    let row = [api::host_get(&mut api.connection().await?, &id, down).await?];
    let mut views = [full(&row[0], version)];
    if query.wants_servers(version)? {
        add_servers(&api, &row, &mut views).await?;
    }
    Ok(Json(json!({ "hypervisor": views[0] })))
}
