//! Key pairs: the public halves of what users log in with.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::error::violates;
use crate::schema::keypair;
use crate::{Connection, DbError};

/// A key pair.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = keypair)]
pub struct KeypairRow {
    /// Whose.
    pub user_id: String,
    /// Unique for the user.
    pub name: String,
    /// The integer that clients see.
    pub number: i64,
    /// `ssh` or `x509`.
    pub kind: String,
    /// The public half, as it was given.
    pub public_key: String,
    /// Of the public half.
    pub fingerprint: String,
    /// When.
    pub created_at: DateTime<Utc>,
}

/// A key pair to keep.
#[derive(Clone, Debug, Insertable)]
#[diesel(table_name = keypair)]
pub struct NewKeypair {
    /// Whose.
    pub user_id: String,
    /// Unique for the user.
    pub name: String,
    /// `ssh` or `x509`.
    pub kind: String,
    /// The public half.
    pub public_key: String,
    /// Of the public half.
    pub fingerprint: String,
}

/// The key pairs of a user, by name, from after `marker` on.
///
/// # Errors
/// [`DbError::NotFound`] when there is no such marker.
pub async fn keypairs_list(
    c: &mut Connection,
    user_id: &str,
    marker: Option<&str>,
    limit: i64,
) -> Result<Vec<KeypairRow>, DbError> {
    let mut query = keypair::table
        .filter(keypair::user_id.eq(user_id))
        .select(KeypairRow::as_select())
        .into_boxed();
    if let Some(marker) = marker {
        let none = |error| match error {
            DbError::NotFound { id, .. } => DbError::NotFound { kind: "marker", id },
            other => other,
        };
        keypair_get(c, user_id, marker).await.map_err(none)?;
        query = query.filter(keypair::name.gt(marker.to_owned()));
    }
    query
        .order(keypair::name)
        .limit(limit)
        .load(c)
        .await
        .map_err(DbError::query("listing key pairs"))
}

/// One key pair of a user.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn keypair_get(
    c: &mut Connection,
    user_id: &str,
    name: &str,
) -> Result<KeypairRow, DbError> {
    keypair::table
        .find((user_id, name))
        .select(KeypairRow::as_select())
        .first(c)
        .await
        .optional()
        .map_err(DbError::query("reading a key pair"))?
        .ok_or_else(|| DbError::NotFound { kind: "Keypair", id: name.to_owned() })
}

/// Keeps a key pair.
///
/// # Errors
/// [`DbError::Exists`] when the user has one of this name.
pub async fn keypair_create(c: &mut Connection, new: &NewKeypair) -> Result<KeypairRow, DbError> {
    diesel::insert_into(keypair::table)
        .values(new)
        .returning(KeypairRow::as_returning())
        .get_result(c)
        .await
        .map_err(|error| {
            if violates(&error, "keypair_pkey") {
                DbError::Exists { kind: "Key pair", id: new.name.clone() }
            } else {
                DbError::query("keeping a key pair")(error)
            }
        })
}

/// Forgets a key pair. Servers that were made with it keep what they were given.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn keypair_delete(c: &mut Connection, user_id: &str, name: &str) -> Result<(), DbError> {
    let gone = diesel::delete(keypair::table.find((user_id, name)))
        .execute(c)
        .await
        .map_err(DbError::query("deleting a key pair"))?;
    if gone == 1 { Ok(()) } else { Err(DbError::NotFound { kind: "Keypair", id: name.to_owned() }) }
}
