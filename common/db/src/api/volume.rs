//! Volumes: what they are, where their bytes are, and which guest has them.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::Value;
use uuid::Uuid;
use whimbrel_messages::compute::{VolumeSource, VolumeSpec};
use whimbrel_model::{VolumeId, VolumeStatus};

use crate::error::violates;
use crate::schema::volume;
use crate::text::parse;
use crate::{Connection, DbError};

#[derive(Queryable, Selectable)]
#[diesel(table_name = volume)]
struct Stored {
    id: Uuid,
    project_id: String,
    name: String,
    size_gib: i64,
    source: Value,
    status: String,
    instance_id: Option<Uuid>,
    device: Option<String>,
    attachment_id: Option<Uuid>,
    created_at: DateTime<Utc>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRow {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub project_id: String,
    /// For people.
    pub name: String,
    /// Its size in GiB, as whoever registered it says.
    pub size_gib: i64,
    /// Where its bytes are.
    pub source: VolumeSource,
    /// Whether a guest has it.
    pub status: VolumeStatus,
    /// Who has it.
    pub attachment: Option<AttachmentRow>,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
}

/// A guest's having a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentRow {
    /// Its id.
    pub id: Uuid,
    /// The guest.
    pub instance_id: Uuid,
    /// `vdb` and the like.
    pub device: String,
}

impl VolumeRow {
    /// As hosts are told of it, if a guest has it.
    pub(super) fn spec(&self) -> Option<VolumeSpec> {
        let device = self.attachment.as_ref()?.device.clone();
        Some(VolumeSpec { id: VolumeId(self.id), device, source: self.source.clone() })
    }
}

impl TryFrom<Stored> for VolumeRow {
    type Error = DbError;

    fn try_from(stored: Stored) -> Result<Self, DbError> {
        let source = serde_json::from_value(stored.source.clone()).map_err(|_| {
            DbError::Unreadable { column: "volume.source", value: stored.source.to_string() }
        })?;
        let attachment = stored.attachment_id.zip(stored.instance_id).zip(stored.device);
        Ok(Self {
            id: stored.id,
            project_id: stored.project_id,
            name: stored.name,
            size_gib: stored.size_gib,
            source,
            status: parse("volume.status", &stored.status)?,
            attachment: attachment.map(|((id, instance_id), device)| AttachmentRow {
                id,
                instance_id,
                device,
            }),
            created_at: stored.created_at,
        })
    }
}

/// A volume to register.
#[derive(Clone, Debug)]
pub struct NewVolume {
    /// Whose it is.
    pub project_id: String,
    /// For people.
    pub name: String,
    /// Its size in GiB.
    pub size_gib: i64,
    /// Where its bytes are.
    pub source: VolumeSource,
}

/// Volumes, in the order in which they were registered: a project's, or all; with that name, or any.
///
/// # Errors
/// When the query fails.
pub async fn volumes_list(
    c: &mut Connection,
    project_id: Option<&str>,
    name: Option<&str>,
) -> Result<Vec<VolumeRow>, DbError> {
    let mut query = volume::table.select(Stored::as_select()).order(volume::id).into_boxed();
    if let Some(project_id) = project_id {
        query = query.filter(volume::project_id.eq(project_id.to_owned()));
    }
    if let Some(name) = name {
        query = query.filter(volume::name.eq(name.to_owned()));
    }
    let stored: Vec<Stored> = query.load(c).await.map_err(DbError::query("listing volumes"))?;
    stored.into_iter().map(VolumeRow::try_from).collect()
}

/// One volume.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn volume_get(c: &mut Connection, id: Uuid) -> Result<VolumeRow, DbError> {
    let stored: Option<Stored> = volume::table
        .find(id)
        .select(Stored::as_select())
        .first(c)
        .await
        .optional()
        .map_err(DbError::query("reading a volume"))?;
    stored
        .ok_or_else(|| DbError::NotFound { kind: "Volume", id: id.to_string() })
        .and_then(VolumeRow::try_from)
}

/// The volumes that instances have, or are being given, in order of their names there.
pub(super) async fn volumes_of_all(
    c: &mut Connection,
    instances: &[Uuid],
) -> Result<Vec<VolumeRow>, DbError> {
    let stored: Vec<Stored> = volume::table
        .filter(volume::instance_id.eq_any(instances))
        .order((volume::instance_id, volume::device))
        .select(Stored::as_select())
        .load(c)
        .await
        .map_err(DbError::query("reading the volumes of servers"))?;
    stored.into_iter().map(VolumeRow::try_from).collect()
}

/// Registers a volume.
///
/// # Errors
/// [`DbError::Exists`] when its bytes are another volume's already.
pub async fn volume_create(c: &mut Connection, new: &NewVolume) -> Result<VolumeRow, DbError> {
    let source = serde_json::to_value(&new.source).expect("a source is plain data");
    let stored: Stored = diesel::insert_into(volume::table)
        .values((
            volume::id.eq(Uuid::now_v7()),
            volume::project_id.eq(&new.project_id),
            volume::name.eq(&new.name),
            volume::size_gib.eq(new.size_gib),
            volume::source.eq(&source),
            volume::status.eq(VolumeStatus::Available.to_string()),
        ))
        .returning(Stored::as_returning())
        .get_result(c)
        .await
        .map_err(|error| {
            if violates(&error, "volume_source_key") {
                DbError::Exists { kind: "A volume with source", id: source.to_string() }
            } else {
                DbError::query("registering a volume")(error)
            }
        })?;
    stored.try_into()
}

/// Forgets a volume. Its bytes stay.
///
/// # Errors
/// [`DbError::NotFound`]; [`DbError::InUse`] while a guest has it.
pub async fn volume_delete(c: &mut Connection, id: Uuid) -> Result<(), DbError> {
    let available = VolumeStatus::Available.to_string();
    let deleted = diesel::delete(volume::table.find(id).filter(volume::status.eq(available)))
        .execute(c)
        .await
        .map_err(DbError::query("forgetting a volume"))?;
    if deleted == 1 {
        return Ok(());
    }
    let row = volume_get(c, id).await?;
    let by = row.attachment.map_or_else(String::new, |one| format!("server {}", one.instance_id));
    Err(DbError::InUse { kind: "Volume", id: id.to_string(), by })
}
