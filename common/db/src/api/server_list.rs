//! Lists of servers: in any order that clients ask for, from a marker on.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::port::ports_of_all;
use super::server::{ServerRow, Stored};
use super::volume::volumes_of_all;
use crate::schema::instance;
use crate::{Connection, DbError};

/// What a list is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SortKey {
    /// The name that clients use.
    pub name: &'static str,
    /// An expression over the columns of `instance` that is never null.
    column: &'static str,
}

/// All that can be sorted by.
const KEYS: [SortKey; 15] = [
    key("created_at", "created_at"),
    key("updated_at", "updated_at"),
    key("display_name", "name"),
    key("name", "name"),
    key("uuid", "id"),
    key("host", "coalesce(host, '')"),
    key("node", "coalesce(host, '')"),
    key("vm_state", "vm_state"),
    key("task_state", "coalesce(task_state, '')"),
    key("power_state", "power_state"),
    key("image_ref", "image_id"),
    key("instance_type_id", "flavor_id"),
    key("key_name", "coalesce(key_name, '')"),
    key("project_id", "project_id"),
    key("user_id", "user_id"),
];

const fn key(name: &'static str, column: &'static str) -> SortKey {
    SortKey { name, column }
}

impl SortKey {
    /// The key that clients call so.
    pub fn named(name: &str) -> Option<Self> {
        KEYS.into_iter().find(|key| key.name == name)
    }
}

/// Which servers.
#[derive(Clone, Debug, Default)]
pub struct ServerFilter {
    /// Of this project.
    pub project_id: Option<String>,
    /// Of this user.
    pub user_id: Option<String>,
    /// On this host.
    pub host: Option<String>,
    /// Whose name matches this regular expression.
    pub name: Option<String>,
    /// Whose description contains this.
    pub description: Option<String>,
    /// With any of these ids.
    pub ids: Option<Vec<Uuid>>,
    /// In any of these states.
    pub vm_states: Option<Vec<String>>,
    /// With any of these tasks; none is no task.
    pub task_states: Option<Vec<Option<String>>>,
    /// In any of these pairs of both: `active/migrating`, `active/`.
    pub states: Option<Vec<String>>,
    /// In this power state.
    pub power_state: Option<String>,
    /// Of this flavor.
    pub flavor_id: Option<String>,
    /// Made from this image.
    pub image_id: Option<Uuid>,
    /// Made with this key pair.
    pub key_name: Option<String>,
    /// Made by one request.
    pub reservation_id: Option<String>,
    /// On any of these hosts.
    pub hosts: Option<Vec<String>>,
    /// Locked, or not.
    pub locked: Option<bool>,
    /// With an address that matches this regular expression.
    pub address: Option<String>,
    /// With all of these tags.
    pub tags: Option<Vec<String>>,
    /// With any of these tags.
    pub tags_any: Option<Vec<String>>,
    /// Without one of these tags at least.
    pub not_tags: Option<Vec<String>>,
    /// Without any of these tags.
    pub not_tags_any: Option<Vec<String>>,
    /// Changed then or later.
    pub changes_since: Option<DateTime<Utc>>,
    /// Changed then or earlier.
    pub changes_before: Option<DateTime<Utc>>,
    /// Only those that are deleted, or only those that are not; none is both.
    pub deleted: Option<bool>,
    /// In which order: each key, and whether the lowest comes first. The newest first unless told otherwise.
    pub sort: Vec<(SortKey, bool)>,
    /// After this one.
    pub marker: Option<Uuid>,
    /// So many at most.
    pub limit: i64,
}

type Boxed<'a> = diesel::helper_types::IntoBoxed<'a, instance::table, Pg>;

fn by_equality<'a>(mut query: Boxed<'a>, filter: &'a ServerFilter) -> Boxed<'a> {
    macro_rules! equal {
        ($($field:ident),*) => { $(
            if let Some(value) = &filter.$field {
                query = query.filter(instance::$field.eq(value));
            }
        )* };
    }
    equal!(project_id, user_id, host, power_state, flavor_id, image_id, key_name, reservation_id);
    if let Some(ids) = &filter.ids {
        query = query.filter(instance::id.eq_any(ids));
    }
    if let Some(hosts) = &filter.hosts {
        query = query.filter(instance::host.eq_any(hosts));
    }
    if let Some(states) = &filter.vm_states {
        query = query.filter(instance::vm_state.eq_any(states));
    }
    if let Some(tasks) = &filter.task_states {
        let named: Vec<&String> = tasks.iter().flatten().collect();
        query = if tasks.contains(&None) {
            query.filter(instance::task_state.eq_any(named).or(instance::task_state.is_null()))
        } else {
            query.filter(instance::task_state.eq_any(named))
        };
    }
    if let Some(states) = &filter.states {
        let pair = sql::<Text>("instance.vm_state || '/' || coalesce(instance.task_state, '')");
        query = query.filter(pair.eq_any(states));
    }
    query
}

fn by_content<'a>(mut query: Boxed<'a>, filter: &'a ServerFilter) -> Boxed<'a> {
    if let Some(name) = &filter.name {
        query = query.filter(sql::<Bool>("instance.name ~ ").bind::<Text, _>(name));
    }
    if let Some(text) = &filter.description {
        let text = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        query = query.filter(instance::description.like(format!("%{text}%")));
    }
    if let Some(address) = &filter.address {
        let with = sql::<Bool>(
            "EXISTS (SELECT 1 FROM port WHERE port.instance_id = instance.id AND port.address ~ ",
        );
        query = query.filter(with.bind::<Text, _>(address).sql(")"));
    }
    if let Some(tags) = &filter.tags {
        query = query.filter(instance::tags.contains(tags));
    }
    if let Some(tags) = &filter.tags_any {
        query = query.filter(instance::tags.overlaps_with(tags));
    }
    if let Some(tags) = &filter.not_tags {
        query = query.filter(diesel::dsl::not(instance::tags.contains(tags)));
    }
    if let Some(tags) = &filter.not_tags_any {
        query = query.filter(diesel::dsl::not(instance::tags.overlaps_with(tags)));
    }
    query = match filter.locked {
        Some(true) => query.filter(instance::locked_by.is_not_null()),
        Some(false) => query.filter(instance::locked_by.is_null()),
        None => query,
    };
    query = match filter.deleted {
        Some(true) => query.filter(instance::deleted_at.is_not_null()),
        Some(false) => query.filter(instance::deleted_at.is_null()),
        None => query,
    };
    if let Some(since) = filter.changes_since {
        query = query.filter(instance::updated_at.ge(since));
    }
    if let Some(before) = filter.changes_before {
        query = query.filter(instance::updated_at.le(before));
    }
    query
}

/// In the order asked for, by id where that leaves it open; from the marker on.
fn in_order<'a>(mut query: Boxed<'a>, filter: &'a ServerFilter) -> Boxed<'a> {
    let mut keys: Vec<(&'static str, bool)> =
        filter.sort.iter().map(|(key, ascending)| (key.column, *ascending)).collect();
    if keys.is_empty() {
        keys.push(("created_at", false));
    }
    let ascending = keys.last().is_some_and(|(_, ascending)| *ascending);
    keys.push(("id", ascending));
    if let Some(marker) = filter.marker {
        query = query.filter(after(&keys, marker));
    }
    for (column, ascending) in keys {
        let direction = if ascending { "ASC" } else { "DESC" };
        query = query.then_order_by(sql::<Text>(&format!("{column} {direction}")));
    }
    query
}

type Condition<'a> = Box<dyn BoxableExpression<instance::table, Pg, SqlType = Bool> + 'a>;

/// What comes after `marker`: later by the first key, or equal by it and later by the second, and so on.
fn after<'a>(keys: &[(&'static str, bool)], marker: Uuid) -> Condition<'a> {
    let compared = |column: &str, operator: &str| {
        // Columns inside of the parentheses are the marker's.
        let head =
            format!("({column} {operator} (SELECT {column} FROM instance AS m WHERE m.id = ");
        sql::<Bool>(&head).bind::<SqlUuid, _>(marker).sql("))")
    };
    let mut condition: Condition<'a> = Box::new(sql::<Bool>("FALSE"));
    for (column, ascending) in keys.iter().rev() {
        let later = compared(column, if *ascending { ">" } else { "<" });
        condition = Box::new(later.or(compared(column, "=").and(condition)));
    }
    condition
}

/// The servers that `filter` asks for.
///
/// # Errors
/// [`DbError::NotFound`] when there is no such marker, or a regular expression is none.
pub async fn servers_list(
    c: &mut Connection,
    filter: &ServerFilter,
) -> Result<Vec<ServerRow>, DbError> {
    if let Some(marker) = filter.marker {
        let found: Option<Uuid> = instance::table
            .find(marker)
            .select(instance::id)
            .first(c)
            .await
            .optional()
            .map_err(DbError::query("reading a marker"))?;
        found.ok_or_else(|| DbError::NotFound { kind: "marker", id: marker.to_string() })?;
    }
    let query = by_content(by_equality(instance::table.into_boxed(), filter), filter);
    let stored: Vec<Stored> = in_order(query, filter)
        .select(Stored::as_select())
        .limit(filter.limit)
        .load(c)
        .await
        .map_err(no_expression)?;
    let ids: Vec<Uuid> = stored.iter().map(|row| row.id).collect();
    let mut ports: HashMap<Uuid, Vec<_>> = HashMap::new();
    for (instance, port) in ports_of_all(c, &ids).await? {
        ports.entry(instance).or_default().push(port);
    }
    let mut volumes: HashMap<Uuid, Vec<_>> = HashMap::new();
    for row in volumes_of_all(c, &ids).await? {
        let Some(at) = &row.attachment else { continue };
        volumes.entry(at.instance_id).or_default().push(row);
    }
    stored
        .into_iter()
        .map(|row| {
            let volumes = volumes.remove(&row.id).unwrap_or_default();
            let ports = ports.remove(&row.id).unwrap_or_default();
            ServerRow::assemble(row, ports, volumes)
        })
        .collect()
}

/// PostgreSQL itself says what is wrong with a regular expression.
fn no_expression(error: diesel::result::Error) -> DbError {
    if let diesel::result::Error::DatabaseError(_, info) = &error
        && info.message().starts_with("invalid regular expression")
    {
        return DbError::NotFound { kind: "pattern", id: info.message().to_owned() };
    }
    DbError::query("listing servers")(error)
}
