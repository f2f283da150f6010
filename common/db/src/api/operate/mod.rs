//! Starting operations: the instance's state by compare-and-set, the saga and the hint to the conductor in one
//! transaction. Either all of it is there or nothing happened.

use chrono::{TimeDelta, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncConnection, RunQueryDsl};
use serde::Serialize;
use uuid::Uuid;
use whimbrel_messages::compute::{BlockMigration, LiveMigrationForceComplete, RebootKind};
use whimbrel_messages::{Command, Dir, Peer, Rpc, SagaHint, StepKey};
use whimbrel_model::{
    HostName, InstanceEvent, InstanceId, MigrationId, MigrationStatus, MigrationType, RequestId,
    SagaId,
};
use whimbrel_saga::Saga;
use whimbrel_sagas::{LiveMigrate, Reboot, Start, Stop};

mod cold;
mod delete;
mod volumes;

use super::{ImageRow, MigrationRow, ServerRow};
use crate::error::violates;
use crate::saga_log::active;
use crate::schema::{instance, migration, outbox, saga};
use crate::text::text_opt;
use crate::{Connection, Database, DbError, OutboxMessage};
pub(super) use cold::evacuated_from;
pub use cold::{
    EvacuateOrder, ResizeOrder, confirm_resize, due_confirmations, evacuate_server, resize_server,
    revert_resize,
};
pub use delete::delete_server;
pub use volumes::{attach_volume, detach_volume};

/// A saga whose hint was lost begins after this time.
const HINT_LOST_MS: i64 = 2_000;
/// How long a guest's operating system is given to shut down, in milliseconds. Nova's default.
const SHUTDOWN_MS: i64 = 60_000;

/// Who asks, by which request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The project.
    pub project_id: String,
    /// The user.
    pub user_id: String,
    /// The request.
    pub request_id: RequestId,
}

/// An operation that has begun.
#[derive(Clone, Debug)]
pub struct Started {
    /// Its saga.
    pub saga_id: SagaId,
    /// To be published; in the outbox until that is confirmed.
    pub message: OutboxMessage,
}

/// What a live migration is asked for with.
#[derive(Clone, Debug)]
pub struct LiveMigrateOrder {
    /// The only host that may be chosen.
    pub host: Option<HostName>,
    /// Whether to copy local disks.
    pub block_migration: BlockMigration,
}

fn owner(server: &ServerRow) -> Result<HostName, DbError> {
    let none = || DbError::NotFound { kind: "Host of instance", id: server.id.to_string() };
    server.host.clone().ok_or_else(none)
}

/// Starts a server that is shut off.
///
/// # Errors
/// [`DbError::InstanceState`] or [`DbError::Stale`] when it is not, [`DbError::Busy`].
pub async fn start_server(
    database: &Database,
    caller: &Caller,
    server: &ServerRow,
    image: &ImageRow,
) -> Result<Started, DbError> {
    let state = Start {
        instance: server.spec(image)?,
        host: owner(server)?,
        owner_epoch: server.owner_epoch,
        power: server.power_state,
    };
    begin(database, caller, server, InstanceEvent::BeginStart, &state).await
}

/// Shuts a server down.
///
/// # Errors
/// As [`start_server`].
pub async fn stop_server(
    database: &Database,
    caller: &Caller,
    server: &ServerRow,
) -> Result<Started, DbError> {
    let state =
        Stop { instance_id: InstanceId(server.id), host: owner(server)?, timeout_ms: SHUTDOWN_MS };
    begin(database, caller, server, InstanceEvent::BeginStop, &state).await
}

/// Restarts a server.
///
/// # Errors
/// As [`start_server`].
pub async fn reboot_server(
    database: &Database,
    caller: &Caller,
    server: &ServerRow,
    image: &ImageRow,
    kind: RebootKind,
) -> Result<Started, DbError> {
    let event = match kind {
        RebootKind::Soft => InstanceEvent::BeginReboot,
        RebootKind::Hard => InstanceEvent::BeginRebootHard,
    };
    let state = Reboot {
        instance: server.spec(image)?,
        host: owner(server)?,
        owner_epoch: server.owner_epoch,
        kind,
    };
    begin(database, caller, server, event, &state).await
}

/// Live-migrates a server.
///
/// # Errors
/// As [`start_server`].
pub async fn live_migrate_server(
    database: &Database,
    caller: &Caller,
    server: &ServerRow,
    image: &ImageRow,
    order: &LiveMigrateOrder,
) -> Result<Started, DbError> {
    let migration_id = Uuid::now_v7();
    let source = owner(server)?;
    let state = LiveMigrate {
        instance: server.spec(image)?,
        migration_id: MigrationId(migration_id),
        source: source.clone(),
        source_epoch: server.owner_epoch,
        requested_host: order.host.clone(),
        block_migration: order.block_migration,
        destination: None,
        tried: Vec::new(),
        check: None,
        data: None,
        listen: None,
        stats: None,
        power: server.power_state,
        source_lost: false,
        destination_lost: false,
    };
    let mut connection = database.connection().await?;
    connection
        .transaction(async |c| {
            compare_and_set(c, server, InstanceEvent::BeginLiveMigration).await?;
            diesel::insert_into(migration::table)
                .values((
                    migration::id.eq(migration_id),
                    migration::instance_id.eq(server.id),
                    migration::migration_type.eq(MigrationType::LiveMigration.to_string()),
                    migration::status.eq(MigrationStatus::Accepted.to_string()),
                    migration::source_compute.eq(source.as_str()),
                    migration::project_id.eq(&caller.project_id),
                    migration::user_id.eq(&caller.user_id),
                ))
                .execute(c)
                .await
                .map_err(busy_if("migration_one_active", server.id, "recording a migration"))?;
            let (name, version) = (LiveMigrate::NAME, LiveMigrate::VERSION);
            start_saga(c, caller, name, version, &state, server.id, Some(migration_id)).await
        })
        .await
}

async fn begin<S: Saga>(
    database: &Database,
    caller: &Caller,
    server: &ServerRow,
    event: InstanceEvent,
    state: &S,
) -> Result<Started, DbError> {
    let mut connection = database.connection().await?;
    connection
        .transaction(async |c| {
            compare_and_set(c, server, event).await?;
            start_saga(c, caller, S::NAME, S::VERSION, state, server.id, None).await
        })
        .await
}

/// Applies `event` to the row as it was last seen. Of two callers who saw the same row one wins.
pub(super) async fn compare_and_set(
    c: &mut Connection,
    server: &ServerRow,
    event: InstanceEvent,
) -> Result<(), DbError> {
    // A deletion that could not be carried out is asked for again.
    if server.delete_requested && event != InstanceEvent::BeginDelete {
        return Err(DbError::Busy { instance_id: server.id });
    }
    let next = server.state.on(event)?;
    let written = diesel::update(instance::table.find(server.id))
        .filter(instance::generation.eq(server.generation))
        .filter(instance::delete_requested.eq(server.delete_requested))
        .set((
            instance::vm_state.eq(next.vm.to_string()),
            instance::task_state.eq(text_opt(next.task)),
            instance::generation.eq(instance::generation + 1),
            instance::updated_at.eq(diesel::dsl::now),
        ))
        .execute(c)
        .await
        .map_err(DbError::query("changing a server's state"))?;
    if written == 1 { Ok(()) } else { Err(DbError::Stale { kind: "Instance", id: server.id }) }
}

fn busy_if(
    constraint: &'static str,
    instance_id: Uuid,
    doing: &'static str,
) -> impl Fn(diesel::result::Error) -> DbError {
    move |error| {
        if violates(&error, constraint) {
            DbError::Busy { instance_id }
        } else {
            DbError::query(doing)(error)
        }
    }
}

/// Writes a saga and the hint that tells a conductor of it.
pub(super) async fn start_saga(
    c: &mut Connection,
    caller: &Caller,
    name: &str,
    version: i16,
    state: &(impl Serialize + Sync),
    instance_id: Uuid,
    migration_id: Option<Uuid>,
) -> Result<Started, DbError> {
    let id = Uuid::now_v7();
    let state = serde_json::to_value(state).expect("a saga's state is plain data");
    let wake_at = diesel::dsl::sql::<diesel::sql_types::Nullable<diesel::sql_types::Timestamptz>>(
        "now() + interval '1 ms' * ",
    )
    .bind::<diesel::sql_types::BigInt, _>(HINT_LOST_MS);
    diesel::insert_into(saga::table)
        .values((
            saga::id.eq(id),
            saga::name.eq(name),
            saga::version.eq(version),
            saga::instance_id.eq(instance_id),
            saga::migration_id.eq(migration_id),
            saga::request_id.eq(&caller.request_id.0),
            saga::project_id.eq(&caller.project_id),
            saga::user_id.eq(&caller.user_id),
            saga::phase.eq("new"),
            saga::state.eq(state),
            saga::wake_at.eq(wake_at),
        ))
        .execute(c)
        .await
        .map_err(busy_if("saga_one_active", instance_id, "starting an operation"))?;
    let message = hint(c, SagaId(id)).await?;
    Ok(Started { saga_id: SagaId(id), message })
}

async fn hint(c: &mut Connection, saga_id: SagaId) -> Result<OutboxMessage, DbError> {
    let body = serde_json::to_string(&SagaHint { saga_id }).expect("a hint is plain data");
    put(c, Uuid::now_v7(), "conductor", body).await
}

async fn put(
    c: &mut Connection,
    id: Uuid,
    routing_key: &str,
    body: String,
) -> Result<OutboxMessage, DbError> {
    let message = OutboxMessage {
        id,
        exchange: "whimbrel.command".to_owned(),
        routing_key: routing_key.to_owned(),
        mandatory: true,
        body,
    };
    diesel::insert_into(outbox::table)
        .values(&message)
        .execute(c)
        .await
        .map_err(DbError::query("writing a message"))?;
    Ok(message)
}

/// Asks the conductor to call an operation off, as far as that can be done.
async fn cancel(c: &mut Connection, id: SagaId) -> Result<Started, DbError> {
    diesel::update(saga::table.find(id.0))
        .filter(active())
        .set((saga::cancel_requested.eq(true), saga::wake_at.eq(diesel::dsl::now)))
        .execute(c)
        .await
        .map_err(DbError::query("calling an operation off"))?;
    Ok(Started { saga_id: id, message: hint(c, id).await? })
}

/// Calls a migration off.
///
/// # Errors
/// [`DbError::NotFound`] when it has ended meanwhile.
pub async fn abort_migration(
    database: &Database,
    migration: &MigrationRow,
) -> Result<Started, DbError> {
    let mut connection = database.connection().await?;
    connection
        .transaction(async |c| {
            let active: Option<Uuid> = saga::table
                .filter(saga::migration_id.eq(migration.id))
                .filter(saga::instance_id.eq(migration.instance_id))
                .filter(active())
                .select(saga::id)
                .for_update()
                .first(c)
                .await
                .optional()
                .map_err(DbError::query("looking for a migration's operation"))?;
            let none = || DbError::NotFound { kind: "Migration", id: migration.number.to_string() };
            cancel(c, SagaId(active.ok_or_else(none)?)).await
        })
        .await
}

/// Asks the source to bring a running migration to its end at once.
///
/// # Errors
/// [`DbError::NotFound`] when it has ended meanwhile.
pub async fn force_complete(
    database: &Database,
    caller: &Caller,
    migration: &MigrationRow,
) -> Result<Started, DbError> {
    let mut connection = database.connection().await?;
    connection
        .transaction(async |c| {
            let active: Option<(Uuid, i32)> = saga::table
                .filter(saga::migration_id.eq(migration.id))
                .filter(saga::instance_id.eq(migration.instance_id))
                .filter(saga::phase.eq("running"))
                .select((saga::id, saga::round))
                .first(c)
                .await
                .optional()
                .map_err(DbError::query("looking for a migration's operation"))?;
            let none = || DbError::NotFound { kind: "Migration", id: migration.number.to_string() };
            let (saga_id, round) = active.ok_or_else(none)?;
            let now = Utc::now();
            let request = LiveMigrationForceComplete {
                instance_id: InstanceId(migration.instance_id),
                migration_id: MigrationId(migration.id),
            };
            let command = Command {
                message_id: Uuid::now_v7(),
                method: LiveMigrationForceComplete::METHOD.to_owned(),
                version: LiveMigrationForceComplete::VERSION,
                // Asked for twice it is two wishes; carried out twice it has the effect of once.
                key: StepKey {
                    saga_id: SagaId(saga_id),
                    round,
                    step: format!("force-complete-{}", Uuid::now_v7()),
                    dir: Dir::Do,
                },
                attempt: 1,
                request_id: caller.request_id.clone(),
                deadline: now + TimeDelta::seconds(30),
                sent_at: now,
                must: false,
                body: serde_json::to_value(request).expect("a request is plain data"),
            };
            let to = Peer::Compute(migration.source_compute.clone()).routing_key();
            let body = serde_json::to_string(&command).expect("a command is plain data");
            let message = put(c, command.message_id, &to, body).await?;
            Ok(Started { saga_id: SagaId(saga_id), message })
        })
        .await
}
