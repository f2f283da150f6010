//! Writes a batch: one statement for what every batch has, one for each kind of row that only some have.
//!
//! The statements are hand-written and take arrays, so that their text never varies and the server keeps
//! them prepared: with one statement for each row the same batch takes several times the CPU.

pub(crate) mod claims;
mod instance;
mod migration;
mod saga;
mod volumes;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::Value;
use uuid::Uuid;

use super::batch::Writes;
use crate::{Connection, DbError};

/// A saga that follows another.
#[derive(Debug)]
pub(super) struct NewSaga {
    pub(super) id: Uuid,
    pub(super) name: &'static str,
    pub(super) version: i16,
    pub(super) instance_id: Uuid,
    pub(super) migration_id: Option<Uuid>,
    pub(super) request_id: String,
    pub(super) project_id: String,
    pub(super) user_id: String,
    pub(super) state: Value,
    pub(super) wake_at: DateTime<Utc>,
}

/// Writes it all.
pub(super) async fn all(connection: &mut Connection, writes: &Writes) -> Result<(), DbError> {
    instance::instances(connection, writes).await?;
    migration::migrations(connection, writes).await?;
    obligations(connection, writes).await?;
    saga::SagaWrite::new(writes)
        .execute(connection)
        .await
        .map_err(DbError::query("writing sagas"))?;
    for follow_up in &writes.follow_ups {
        insert(connection, follow_up).await?;
    }
    volumes::volumes(connection, writes).await?;
    // Last: it locks the rows of hosts, which every other batch wants, too.
    claims::claims(connection, writes).await
}

async fn obligations(connection: &mut Connection, writes: &Writes) -> Result<(), DbError> {
    use crate::schema::host_obligation as table;
    for (host, instance_id, command) in &writes.obligations {
        let key = &command.key;
        diesel::insert_into(table::table)
            .values((
                table::saga_id.eq(key.saga_id.0),
                table::round.eq(key.round),
                table::step.eq(&key.step),
                table::dir.eq(key.dir.to_string()),
                table::host.eq(host),
                table::instance_id.eq(instance_id),
                table::command.eq(serde_json::to_value(command).expect("a command is plain data")),
            ))
            .on_conflict_do_nothing()
            .execute(connection)
            .await
            .map_err(DbError::query("putting work off for a host"))?;
    }
    Ok(())
}

async fn insert(connection: &mut Connection, new: &NewSaga) -> Result<(), DbError> {
    use crate::schema::saga;
    diesel::insert_into(saga::table)
        .values((
            saga::id.eq(new.id),
            saga::name.eq(new.name),
            saga::version.eq(new.version),
            saga::instance_id.eq(new.instance_id),
            saga::migration_id.eq(new.migration_id),
            saga::request_id.eq(&new.request_id),
            saga::project_id.eq(&new.project_id),
            saga::user_id.eq(&new.user_id),
            saga::phase.eq("new"),
            saga::state.eq(&new.state),
            saga::wake_at.eq(Some(new.wake_at)),
        ))
        .execute(connection)
        .await
        .map_err(DbError::query("starting the saga that follows"))?;
    Ok(())
}
