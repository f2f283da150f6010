//! Lists of servers: newest first, from a marker on, by indexed columns.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::port::ports_of_all;
use super::server::{ServerRow, Stored};
use crate::schema::instance;
use crate::{Connection, DbError};

/// Which servers.
#[derive(Clone, Debug, Default)]
pub struct ServerFilter {
    /// Of this project.
    pub project_id: Option<String>,
    /// On this host.
    pub host: Option<String>,
    /// Whose name contains this.
    pub name: Option<String>,
    /// With any of these ids.
    pub ids: Option<Vec<Uuid>>,
    /// In any of these states.
    pub vm_states: Option<Vec<String>>,
    /// With any of these tasks; an empty text is none.
    pub task_states: Option<Vec<Option<String>>>,
    /// In this power state.
    pub power_state: Option<String>,
    /// Of this flavor.
    pub flavor_id: Option<String>,
    /// Made from this image.
    pub image_id: Option<Uuid>,
    /// After this one.
    pub marker: Option<Uuid>,
    /// So many at most.
    pub limit: i64,
}

/// The servers that `filter` asks for.
///
/// # Errors
/// [`DbError::NotFound`] when there is no such marker.
pub async fn servers_list(
    c: &mut Connection,
    filter: &ServerFilter,
) -> Result<Vec<ServerRow>, DbError> {
    let mut query = instance::table
        .filter(instance::deleted_at.is_null())
        .select(Stored::as_select())
        .into_boxed();
    if let Some(project_id) = &filter.project_id {
        query = query.filter(instance::project_id.eq(project_id.clone()));
    }
    if let Some(host) = &filter.host {
        query = query.filter(instance::host.eq(host.clone()));
    }
    if let Some(name) = &filter.name {
        let escaped = name.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        query = query.filter(instance::name.like(format!("%{escaped}%")));
    }
    if let Some(ids) = &filter.ids {
        query = query.filter(instance::id.eq_any(ids.clone()));
    }
    if let Some(states) = &filter.vm_states {
        query = query.filter(instance::vm_state.eq_any(states.clone()));
    }
    if let Some(tasks) = &filter.task_states {
        let named: Vec<String> = tasks.iter().flatten().cloned().collect();
        query = if tasks.contains(&None) {
            query.filter(instance::task_state.eq_any(named).or(instance::task_state.is_null()))
        } else {
            query.filter(instance::task_state.eq_any(named))
        };
    }
    if let Some(power_state) = &filter.power_state {
        query = query.filter(instance::power_state.eq(power_state.clone()));
    }
    if let Some(flavor_id) = &filter.flavor_id {
        query = query.filter(instance::flavor_id.eq(flavor_id.clone()));
    }
    if let Some(image_id) = filter.image_id {
        query = query.filter(instance::image_id.eq(image_id));
    }
    if let Some(marker) = filter.marker {
        let at: Option<chrono::DateTime<chrono::Utc>> = instance::table
            .find(marker)
            .select(instance::created_at)
            .first(c)
            .await
            .optional()
            .map_err(DbError::query("reading a marker"))?;
        let at = at.ok_or_else(|| DbError::NotFound { kind: "marker", id: marker.to_string() })?;
        let after = instance::created_at.lt(at);
        query = query.filter(after.or(instance::created_at.eq(at).and(instance::id.lt(marker))));
    }
    let stored: Vec<Stored> = query
        .order((instance::created_at.desc(), instance::id.desc()))
        .limit(filter.limit)
        .load(c)
        .await
        .map_err(DbError::query("listing servers"))?;
    let ids: Vec<Uuid> = stored.iter().map(|row| row.id).collect();
    let mut ports: HashMap<Uuid, Vec<_>> = HashMap::new();
    for (instance, port) in ports_of_all(c, &ids).await? {
        ports.entry(instance).or_default().push(port);
    }
    stored
        .into_iter()
        .map(|row| {
            let ports = ports.remove(&row.id).unwrap_or_default();
            ServerRow::assemble(row, ports)
        })
        .collect()
}
