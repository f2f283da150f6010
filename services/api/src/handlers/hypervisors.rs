//! `/os-hypervisors`: what hosts have.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use whimbrel_db::api::{self, HostRow};

use crate::body::Params;
use crate::error::ApiError;
use crate::state::Api;
use crate::version::Version;

#[derive(Deserialize)]
pub(crate) struct Query {
    hypervisor_hostname_pattern: Option<String>,
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

/// Lists hypervisors.
#[utoipa::path(get, path = "/v2.1/os-hypervisors", tag = "hosts", responses((status = 200)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(query): Params<Query>,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    let rows = rows(&api, &query).await?;
    let views: Vec<Value> = rows.iter().map(|row| short(row, version)).collect();
    Ok(Json(json!({ "hypervisors": views })))
}

/// Lists hypervisors with all that is known of them.
#[utoipa::path(get, path = "/v2.1/os-hypervisors/detail", tag = "hosts", responses((status = 200)))]
pub(crate) async fn detail(
    State(api): State<Arc<Api>>,
    Params(query): Params<Query>,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    let rows = rows(&api, &query).await?;
    let views: Vec<Value> = rows.iter().map(|row| full(row, version)).collect();
    Ok(Json(json!({ "hypervisors": views })))
}

/// Shows a hypervisor.
#[utoipa::path(get, path = "/v2.1/os-hypervisors/{hypervisor_id}", tag = "hosts",
    params(("hypervisor_id" = String, Path)), responses((status = 200), (status = 404)))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    version: Version,
) -> Result<Json<Value>, ApiError> {
    let down = api.config.service_down_time_ms;
    let row = api::host_get(&mut api.connection().await?, &id, down).await?;
    Ok(Json(json!({ "hypervisor": full(&row, version) })))
}
