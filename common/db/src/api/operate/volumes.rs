//! Giving a server a volume, and taking it away.

use diesel::prelude::*;
use diesel_async::{AsyncConnection, RunQueryDsl};
use uuid::Uuid;
use whimbrel_messages::compute::VolumeSpec;
use whimbrel_model::{InstanceEvent, InstanceId, VolumeEvent, VolumeId};
use whimbrel_saga::Saga;
use whimbrel_sagas::{Attach, Detach};

use super::{Caller, Started, compare_and_set, owner, start_saga};
use crate::api::{AttachmentRow, ImageRow, ServerRow, VolumeRow};
use crate::schema::volume;
use crate::{Connection, Database, DbError};

/// The first name that none of the server's disks has; none when all are taken. `vda` is its root disk.
fn free_device(server: &ServerRow) -> Option<String> {
    let taken = |name: &String| {
        server.volumes.iter().filter_map(|row| row.attachment.as_ref()).any(|at| at.device == *name)
    };
    ('b'..='z').map(|letter| format!("vd{letter}")).find(|name| !taken(name))
}

/// Writes a volume's new status, if it is as it was last seen.
async fn change(
    c: &mut Connection,
    row: &VolumeRow,
    event: VolumeEvent,
    attachment: &AttachmentRow,
) -> Result<(), DbError> {
    let next = row.status.on(event)?;
    let written = diesel::update(volume::table.find(row.id))
        .filter(volume::status.eq(row.status.to_string()))
        .set((
            volume::status.eq(next.to_string()),
            volume::instance_id.eq(attachment.instance_id),
            volume::device.eq(&attachment.device),
            volume::attachment_id.eq(attachment.id),
            volume::updated_at.eq(diesel::dsl::now),
        ))
        .execute(c)
        .await
        .map_err(DbError::query("changing a volume's status"))?;
    if written == 1 { Ok(()) } else { Err(DbError::Stale { kind: "Volume", id: row.id }) }
}

/// Gives a server a volume.
///
/// # Errors
/// [`DbError::InstanceState`], [`DbError::VolumeStatus`] or [`DbError::Stale`] when their states do not allow it,
/// [`DbError::Busy`], [`DbError::TooMany`].
pub async fn attach_volume(
    database: &Database,
    caller: &Caller,
    server: &ServerRow,
    image: &ImageRow,
    volume: &VolumeRow,
) -> Result<(AttachmentRow, Started), DbError> {
    let open = i64::try_from(server.volumes.len()).unwrap_or(i64::MAX);
    let device = free_device(server).ok_or(DbError::TooMany { kind: "volumes", open })?;
    let attachment = AttachmentRow { id: Uuid::now_v7(), instance_id: server.id, device };
    let mut instance = server.spec(image)?;
    instance.volumes.push(VolumeSpec {
        id: VolumeId(volume.id),
        device: attachment.device.clone(),
        source: volume.source.clone(),
    });
    let state = Attach {
        instance,
        volume_id: VolumeId(volume.id),
        host: owner(server)?,
        owner_epoch: server.owner_epoch,
    };
    let mut connection = database.connection().await?;
    let started = connection
        .transaction(async |c| {
            compare_and_set(c, server, InstanceEvent::BeginAttach).await?;
            change(c, volume, VolumeEvent::BeginAttach, &attachment).await?;
            start_saga(c, caller, Attach::NAME, Attach::VERSION, &state, server.id, None).await
        })
        .await?;
    Ok((attachment, started))
}

/// Takes a volume from a server.
///
/// # Errors
/// As [`attach_volume`]; [`DbError::NotFound`] when it is not the server's.
pub async fn detach_volume(
    database: &Database,
    caller: &Caller,
    server: &ServerRow,
    volume: &VolumeRow,
) -> Result<Started, DbError> {
    let none = || DbError::NotFound { kind: "Volume attachment", id: volume.id.to_string() };
    let attachment = volume.attachment.as_ref().filter(|at| at.instance_id == server.id);
    let attachment = attachment.ok_or_else(none)?;
    let state = Detach {
        instance_id: InstanceId(server.id),
        volume_id: VolumeId(volume.id),
        host: owner(server)?,
    };
    let mut connection = database.connection().await?;
    connection
        .transaction(async |c| {
            compare_and_set(c, server, InstanceEvent::BeginDetach).await?;
            change(c, volume, VolumeEvent::BeginDetach, attachment).await?;
            start_saga(c, caller, Detach::NAME, Detach::VERSION, &state, server.id, None).await
        })
        .await
}
