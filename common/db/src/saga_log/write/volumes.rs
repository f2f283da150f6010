//! Writes what happened to volumes.

use diesel::dsl::{not, sql};
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::Bool;
use diesel_async::RunQueryDsl;
use uuid::Uuid;
use whimbrel_model::{VolumeEvent, VolumeStatus};

use crate::saga_log::batch::Writes;
use crate::saga_log::changes::Claim;
use crate::schema::volume;
use crate::text::parse;
use crate::{Connection, DbError};

/// A guest that a silent host still has to remove may run there and write to its volumes until then.
fn may_be_written_to() -> SqlLiteral<Bool> {
    sql("EXISTS (SELECT FROM host_obligation o JOIN host h ON h.name = o.host \
         WHERE o.instance_id = volume.instance_id AND NOT h.forced_down \
           AND o.command->>'method' = 'terminate_instance')")
}

/// What happened to volumes of instances that were locked before.
pub(super) async fn volumes(connection: &mut Connection, writes: &Writes) -> Result<(), DbError> {
    for (instance_id, volume_id, event) in &writes.volumes {
        happened(connection, *instance_id, *volume_id, *event).await?;
    }
    let released = writes.claims.iter().filter(|(claim, _, _)| *claim == Claim::Volumes);
    let released: Vec<Uuid> = released.map(|(_, instance, _)| *instance).collect();
    if released.is_empty() {
        return Ok(());
    }
    release(connection, &released).await
}

async fn happened(
    connection: &mut Connection,
    instance_id: Uuid,
    volume_id: Uuid,
    event: VolumeEvent,
) -> Result<(), DbError> {
    let seen: Option<String> = volume::table
        .find(volume_id)
        .filter(volume::instance_id.eq(instance_id))
        .select(volume::status)
        .for_update()
        .first(connection)
        .await
        .optional()
        .map_err(DbError::query("reading a volume"))?;
    let seen =
        seen.ok_or_else(|| DbError::NotFound { kind: "Volume", id: volume_id.to_string() })?;
    let next = parse::<VolumeStatus>("volume.status", &seen)?.on(event)?;
    let row = diesel::update(volume::table.find(volume_id));
    let written = if next == VolumeStatus::Available {
        row.set(free()).execute(connection).await
    } else {
        let now = volume::updated_at.eq(diesel::dsl::now);
        row.set((volume::status.eq(next.to_string()), now)).execute(connection).await
    };
    written.map(drop).map_err(DbError::query("changing a volume's status"))
}

type Free = (
    diesel::dsl::Eq<volume::status, String>,
    diesel::dsl::Eq<volume::instance_id, Option<Uuid>>,
    diesel::dsl::Eq<volume::device, Option<String>>,
    diesel::dsl::Eq<volume::attachment_id, Option<Uuid>>,
    diesel::dsl::Eq<volume::updated_at, diesel::dsl::now>,
);

fn free() -> Free {
    (
        volume::status.eq(VolumeStatus::Available.to_string()),
        volume::instance_id.eq(None),
        volume::device.eq(None),
        volume::attachment_id.eq(None),
        volume::updated_at.eq(diesel::dsl::now),
    )
}

/// Frees the volumes of deleted instances that run nowhere any more.
pub(super) async fn release(
    connection: &mut Connection,
    instances: &[Uuid],
) -> Result<(), DbError> {
    let deleted = "EXISTS (SELECT FROM instance i WHERE i.id = volume.instance_id AND i.vm_state = 'deleted')";
    diesel::update(volume::table.filter(volume::instance_id.eq_any(instances)))
        .filter(sql::<Bool>(deleted))
        .filter(not(may_be_written_to()))
        .set(free())
        .execute(connection)
        .await
        .map(drop)
        .map_err(DbError::query("freeing volumes"))
}
