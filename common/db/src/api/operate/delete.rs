//! Deletion: at any moment, whatever is going on.

use std::collections::BTreeSet;

use chrono::Utc;
use diesel::prelude::*;
use diesel_async::{AsyncConnection, RunQueryDsl};
use uuid::Uuid;
use whimbrel_messages::compute::TerminateInstance;
use whimbrel_messages::{Command, Dir, Rpc, StepKey};
use whimbrel_model::{HostName, InstanceEvent, InstanceId, MigrationStatus, SagaId};
use whimbrel_saga::Saga;
use whimbrel_sagas::Delete;

use super::{Caller, Started, cancel, compare_and_set, start_saga};
use crate::api::ServerRow;
use crate::saga_log::active;
use crate::schema::{host, host_obligation, instance, migration, saga};
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
    let left = unsettled(c, server).await?;
    let mine = server.host.as_ref().map(HostName::as_str);
    let ends: BTreeSet<&str> = left.iter().flat_map(Unsettled::ends).collect();
    let mut elsewhere = ends.into_iter().filter(|end| Some(*end) != mine);
    let finished = text(MigrationStatus::Finished);
    let undecided = left.iter().find(|one| one.status == finished).map(|one| one.id);
    let owner_epoch = server.owner_epoch + DELETE_EPOCH;
    let state = Delete {
        instance_id: InstanceId(server.id),
        host: server.host.clone(),
        other_host: parse_opt("migration.source_compute", elsewhere.next())?,
        owner_epoch,
    };
    let (name, version) = (Delete::NAME, Delete::VERSION);
    let started = start_saga(c, caller, name, version, &state, server.id, undecided).await?;
    for host in elsewhere {
        owe(c, caller, started.saga_id, host, server.id, owner_epoch).await?;
    }
    Ok(started)
}

/// A migration that nobody settled, or decided on: it has left something at its other end.
#[derive(Queryable)]
struct Unsettled {
    id: Uuid,
    status: String,
    source: String,
    destination: Option<String>,
}

impl Unsettled {
    fn ends(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.source.as_str()).chain(self.destination.as_deref())
    }
}

async fn unsettled(c: &mut Connection, server: &ServerRow) -> Result<Vec<Unsettled>, DbError> {
    let statuses = [MigrationStatus::Error, MigrationStatus::Finished].map(text);
    migration::table
        .filter(migration::instance_id.eq(server.id))
        .filter(migration::status.eq_any(statuses))
        .order(migration::number.desc())
        .select((
            migration::id,
            migration::status,
            migration::source_compute,
            migration::dest_compute,
        ))
        .load(c)
        .await
        .map_err(DbError::query("reading unsettled migrations"))
}

/// The saga asks two hosts. More, of a guest whose moves got stuck again and again, remove it when they are asked for
/// what they owe.
async fn owe(
    c: &mut Connection,
    caller: &Caller,
    saga_id: SagaId,
    end: &str,
    instance_id: Uuid,
    owner_epoch: i64,
) -> Result<(), DbError> {
    let known: i64 = host::table
        .filter(host::name.eq(end))
        .count()
        .get_result(c)
        .await
        .map_err(DbError::query("looking for a host"))?;
    if known == 0 {
        // Nobody is left to ask.
        return Ok(());
    }
    let now = Utc::now();
    let request = TerminateInstance { instance_id: InstanceId(instance_id), owner_epoch };
    let step = format!("terminate-at-{end}");
    let command = Command {
        message_id: Uuid::now_v7(),
        method: TerminateInstance::METHOD.to_owned(),
        version: TerminateInstance::VERSION,
        key: StepKey { saga_id, round: 0, step: step.clone(), dir: Dir::Do },
        attempt: 0,
        request_id: caller.request_id.clone(),
        deadline: now,
        sent_at: now,
        must: true,
        body: serde_json::to_value(request).expect("a request is plain data"),
    };
    diesel::insert_into(host_obligation::table)
        .values((
            host_obligation::saga_id.eq(saga_id.0),
            host_obligation::round.eq(0),
            host_obligation::step.eq(step),
            host_obligation::dir.eq(Dir::Do.to_string()),
            host_obligation::host.eq(end),
            host_obligation::instance_id.eq(instance_id),
            host_obligation::command.eq(serde_json::to_value(command).expect("plain data")),
        ))
        .execute(c)
        .await
        .map_err(DbError::query("noting what a host has to remove"))?;
    Ok(())
}
