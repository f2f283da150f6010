//! Images: what root disks are made from.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::Value;
use uuid::Uuid;

use crate::error::violates;
use crate::schema::image;
use crate::{Connection, DbError};

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = image)]
pub struct ImageRow {
    /// Its id.
    pub id: Uuid,
    /// Its name; not unique.
    pub name: String,
    /// `raw` or `qcow2`.
    pub format: String,
    /// `queued` until its data is there, then `active`.
    pub status: String,
    /// SHA-256 of the file, empty while queued.
    pub sha256: String,
    /// The file's size in bytes.
    pub size: i64,
    /// The size of the disk that a guest sees, in bytes.
    pub virtual_size: i64,
    /// When.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
    /// The project that made it.
    pub owner: String,
    /// `public` and the like.
    pub visibility: String,
    /// It can't be deleted.
    pub protected: bool,
    /// The least disk that a server of it needs, in GiB.
    pub min_disk: i64,
    /// The least memory that a server of it needs, in MiB.
    pub min_ram: i64,
    /// Words of the user's.
    pub tags: Vec<String>,
    /// Names and values of the user's.
    pub properties: Value,
}

/// An image to make.
#[derive(Clone, Debug, Insertable)]
#[diesel(table_name = image)]
pub struct NewImage {
    /// Its id.
    pub id: Uuid,
    /// Its name; not unique.
    pub name: String,
    /// `raw` or `qcow2`.
    pub format: String,
    /// The project that makes it.
    pub owner: String,
    /// `public` and the like.
    pub visibility: String,
    /// It can't be deleted.
    pub protected: bool,
    /// The least disk that a server of it needs, in GiB.
    pub min_disk: i64,
    /// The least memory that a server of it needs, in MiB.
    pub min_ram: i64,
    /// Words of the user's.
    pub tags: Vec<String>,
    /// Names and values of the user's.
    pub properties: Value,
}

/// What changes of an image.
#[derive(Clone, Debug, AsChangeset)]
#[diesel(table_name = image)]
pub struct ImageUpdate {
    /// Its name.
    pub name: String,
    /// `public` and the like.
    pub visibility: String,
    /// It can't be deleted.
    pub protected: bool,
    /// The least disk that a server of it needs, in GiB.
    pub min_disk: i64,
    /// The least memory that a server of it needs, in MiB.
    pub min_ram: i64,
    /// Words of the user's.
    pub tags: Vec<String>,
    /// Names and values of the user's.
    pub properties: Value,
}

/// All images, newest first.
///
/// # Errors
/// When the query fails.
pub async fn images_list(c: &mut Connection, name: Option<&str>) -> Result<Vec<ImageRow>, DbError> {
    let mut query = image::table.select(ImageRow::as_select()).into_boxed();
    if let Some(name) = name {
        query = query.filter(image::name.eq(name.to_owned()));
    }
    query
        .order((image::created_at.desc(), image::id))
        .load(c)
        .await
        .map_err(DbError::query("listing images"))
}

/// One image.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn image_get(c: &mut Connection, id: Uuid) -> Result<ImageRow, DbError> {
    image::table
        .find(id)
        .select(ImageRow::as_select())
        .first(c)
        .await
        .optional()
        .map_err(DbError::query("reading an image"))?
        .ok_or_else(|| DbError::NotFound { kind: "Image", id: id.to_string() })
}

/// Makes an image without data.
///
/// # Errors
/// [`DbError::Exists`] when the id is taken.
pub async fn image_create(c: &mut Connection, new: &NewImage) -> Result<ImageRow, DbError> {
    diesel::insert_into(image::table)
        .values((new, image::status.eq("queued")))
        .returning(ImageRow::as_returning())
        .get_result(c)
        .await
        .map_err(|error| {
            if violates(&error, "image_pkey") {
                DbError::Exists { kind: "Image", id: new.id.to_string() }
            } else {
                DbError::query("making an image")(error)
            }
        })
}

/// Changes what people say of an image; its data never changes.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn image_update(
    c: &mut Connection,
    id: Uuid,
    update: &ImageUpdate,
) -> Result<ImageRow, DbError> {
    diesel::update(image::table.find(id))
        .set((update, image::updated_at.eq(diesel::dsl::now)))
        .returning(ImageRow::as_returning())
        .get_result(c)
        .await
        .optional()
        .map_err(DbError::query("changing an image"))?
        .ok_or_else(|| DbError::NotFound { kind: "Image", id: id.to_string() })
}

/// Its data is there.
///
/// # Errors
/// [`DbError::Exists`] when it was there before.
pub async fn image_activate(
    c: &mut Connection,
    id: Uuid,
    sha256: &str,
    size: i64,
    virtual_size: i64,
) -> Result<(), DbError> {
    let done = diesel::update(image::table.find(id))
        .filter(image::status.eq("queued"))
        .set((
            image::status.eq("active"),
            image::sha256.eq(sha256),
            image::size.eq(size),
            image::virtual_size.eq(virtual_size),
            image::updated_at.eq(diesel::dsl::now),
        ))
        .execute(c)
        .await
        .map_err(DbError::query("storing an image's data"))?;
    if done == 1 {
        Ok(())
    } else {
        Err(DbError::Exists { kind: "Data of image", id: id.to_string() })
    }
}

/// Deletes an image that no guest was made from.
///
/// # Errors
/// [`DbError::NotFound`], or [`DbError::InUse`].
pub async fn image_delete(c: &mut Connection, id: Uuid) -> Result<(), DbError> {
    let gone = diesel::delete(image::table.find(id)).execute(c).await.map_err(|error| {
        if violates(&error, "instance_image_id_fkey") {
            let by = "servers were made from it".to_owned();
            DbError::InUse { kind: "Image", id: id.to_string(), by }
        } else {
            DbError::query("deleting an image")(error)
        }
    })?;
    if gone == 1 { Ok(()) } else { Err(DbError::NotFound { kind: "Image", id: id.to_string() }) }
}
