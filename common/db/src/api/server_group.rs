//! Server groups: servers that are to be on one host, or on different ones.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::schema::{instance, server_group, server_group_member};
use crate::{Connection, DbError};

/// A server group.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = server_group)]
pub struct ServerGroupRow {
    /// Its id.
    pub id: Uuid,
    /// Whose.
    pub project_id: String,
    /// Who made it.
    pub user_id: String,
    /// Not unique.
    pub name: String,
    /// `affinity` and the like.
    pub policy: String,
    /// Most of its servers on one host, with `anti-affinity`.
    pub max_server_per_host: Option<i32>,
    /// When.
    pub created_at: DateTime<Utc>,
}

/// Groups, oldest first: those of a project, or all.
///
/// # Errors
/// When the query fails.
pub async fn server_groups_list(
    c: &mut Connection,
    project_id: Option<&str>,
) -> Result<Vec<ServerGroupRow>, DbError> {
    let mut query = server_group::table.select(ServerGroupRow::as_select()).into_boxed();
    if let Some(project_id) = project_id {
        query = query.filter(server_group::project_id.eq(project_id.to_owned()));
    }
    query
        .order((server_group::created_at, server_group::id))
        .load(c)
        .await
        .map_err(DbError::query("listing server groups"))
}

/// One group.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn server_group_get(c: &mut Connection, id: Uuid) -> Result<ServerGroupRow, DbError> {
    server_group::table
        .find(id)
        .select(ServerGroupRow::as_select())
        .first(c)
        .await
        .optional()
        .map_err(DbError::query("reading a server group"))?
        .ok_or_else(|| DbError::NotFound { kind: "Instance group", id: id.to_string() })
}

/// Makes a group.
///
/// # Errors
/// When the query fails.
pub async fn server_group_create(c: &mut Connection, row: &ServerGroupRow) -> Result<(), DbError> {
    let made = diesel::insert_into(server_group::table).values(row).execute(c).await;
    made.map(drop).map_err(DbError::query("making a server group"))
}

/// Deletes a group. Its servers stay where they are.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn server_group_delete(c: &mut Connection, id: Uuid) -> Result<(), DbError> {
    let gone = diesel::delete(server_group::table.find(id))
        .execute(c)
        .await
        .map_err(DbError::query("deleting a server group"))?;
    if gone == 1 {
        Ok(())
    } else {
        Err(DbError::NotFound { kind: "Instance group", id: id.to_string() })
    }
}

/// The servers of groups that are not deleted, by group.
///
/// # Errors
/// When the query fails.
pub async fn server_group_members(
    c: &mut Connection,
    groups: &[Uuid],
) -> Result<HashMap<Uuid, Vec<Uuid>>, DbError> {
    let rows: Vec<(Uuid, Uuid)> = server_group_member::table
        .inner_join(instance::table.on(instance::id.eq(server_group_member::instance_id)))
        .filter(server_group_member::group_id.eq_any(groups))
        .filter(instance::deleted_at.is_null())
        .order((instance::created_at, instance::id))
        .select((server_group_member::group_id, server_group_member::instance_id))
        .load(c)
        .await
        .map_err(DbError::query("reading members of server groups"))?;
    let mut members: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
    for (group, member) in rows {
        members.entry(group).or_default().push(member);
    }
    Ok(members)
}

/// The group that each of these servers is in.
///
/// # Errors
/// When the query fails.
pub async fn groups_of_servers(
    c: &mut Connection,
    servers: &[Uuid],
) -> Result<HashMap<Uuid, Uuid>, DbError> {
    let rows: Vec<(Uuid, Uuid)> = server_group_member::table
        .filter(server_group_member::instance_id.eq_any(servers))
        .select((server_group_member::instance_id, server_group_member::group_id))
        .load(c)
        .await
        .map_err(DbError::query("reading groups of servers"))?;
    Ok(rows.into_iter().collect())
}

/// Puts a new server into a group.
pub(super) async fn join(c: &mut Connection, server: Uuid, group: Uuid) -> Result<(), DbError> {
    let row =
        (server_group_member::instance_id.eq(server), server_group_member::group_id.eq(group));
    let made = diesel::insert_into(server_group_member::table).values(row).execute(c).await;
    made.map(drop).map_err(|error| {
        if crate::error::violates(&error, "server_group_member_group_id_fkey") {
            DbError::NotFound { kind: "Instance group", id: group.to_string() }
        } else {
            DbError::query("joining a server group")(error)
        }
    })
}
