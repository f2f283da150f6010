//! Deletion: at any moment, whatever is going on.

use diesel::prelude::*;
use diesel_async::{AsyncConnection, RunQueryDsl};
use uuid::Uuid;
use whimbrel_model::{HostName, InstanceEvent, InstanceId, MigrationStatus, SagaId};
use whimbrel_saga::Saga;
use whimbrel_sagas::Delete;

use super::{Caller, Started, cancel, compare_and_set, start_saga};
use crate::api::ServerRow;
use crate::saga_log::active;
use crate::schema::{instance, migration, saga};
use crate::text::parse_opt;
use crate::{Connection, Database, DbError};

/// How far above an instance's token a deletion's is; as where a deletion follows another operation.
const DELETE_EPOCH: i64 = 8;

fn text(status: MigrationStatus) -> String {
    status.to_string()
}

/// Deletes a server: at once if nothing is going on with it, else as soon as that has been called off or has
/// ended. None when it is being deleted already.
///
/// # Errors
/// [`DbError::NotFound`]; [`DbError::Stale`] when the server has changed meanwhile.
pub async fn delete_server(
    database: &Database,
    caller: &Caller,
    server: &ServerRow,
) -> Result<Option<Started>, DbError> {
    let mut connection = database.connection().await?;
    connection
        .transaction(async |c| {
            // The saga's row first, as everywhere.
            let active: Option<(Uuid, String)> = saga::table
                .filter(saga::instance_id.eq(server.id))
                .filter(active())
                .select((saga::id, saga::name))
                .for_update()
                .first(c)
                .await
                .optional()
                .map_err(DbError::query("looking for an active operation"))?;
            match active {
                Some((_, name)) if name == Delete::NAME => Ok(None),
                Some((id, _)) => request_deletion(c, server, SagaId(id)).await.map(Some),
                None => begin_deletion(c, caller, server).await.map(Some),
            }
        })
        .await
}

async fn request_deletion(
    c: &mut Connection,
    server: &ServerRow,
    active: SagaId,
) -> Result<Started, DbError> {
    diesel::update(instance::table.find(server.id))
        .set((
            instance::delete_requested.eq(true),
            instance::generation.eq(instance::generation + 1),
            instance::updated_at.eq(diesel::dsl::now),
        ))
        .execute(c)
        .await
        .map_err(DbError::query("asking for a deletion"))?;
    cancel(c, active).await
}

async fn begin_deletion(
    c: &mut Connection,
    caller: &Caller,
    server: &ServerRow,
) -> Result<Started, DbError> {
    compare_and_set(c, server, InstanceEvent::BeginDelete).await?;
    diesel::update(instance::table.find(server.id))
        .set(instance::delete_requested.eq(true))
        .execute(c)
        .await
        .map_err(DbError::query("noting a deletion"))?;
    // A migration that nobody settled, or decided on, has left something at its other end.
    type Last = (Uuid, String, String, Option<String>);
    let last: Option<Last> = migration::table
        .filter(migration::instance_id.eq(server.id))
        .order(migration::number.desc())
        .select((
            migration::id,
            migration::status,
            migration::source_compute,
            migration::dest_compute,
        ))
        .first(c)
        .await
        .optional()
        .map_err(DbError::query("reading the last migration"))?;
    let [error, finished] = [MigrationStatus::Error, MigrationStatus::Finished].map(text);
    let undecided = last.as_ref().filter(|last| last.1 == finished).map(|last| last.0);
    let ends = last.filter(|last| last.1 == error || last.1 == finished);
    let ends = ends.into_iter().flat_map(|(_, _, source, destination)| [Some(source), destination]);
    let mine = server.host.as_ref().map(HostName::as_str);
    let other = ends.flatten().find(|end| Some(end.as_str()) != mine);
    let state = Delete {
        instance_id: InstanceId(server.id),
        host: server.host.clone(),
        other_host: parse_opt("migration.source_compute", other.as_deref())?,
        owner_epoch: server.owner_epoch + DELETE_EPOCH,
    };
    start_saga(c, caller, Delete::NAME, Delete::VERSION, &state, server.id, undecided).await
}
