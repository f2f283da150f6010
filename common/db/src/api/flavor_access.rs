//! Which projects may use a flavor that is not for everybody.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::error::violates;
use crate::schema::flavor_access;
use crate::{Connection, DbError};

/// The projects that may use a flavor.
///
/// # Errors
/// When the query fails.
pub async fn flavor_access_list(c: &mut Connection, flavor: &str) -> Result<Vec<String>, DbError> {
    flavor_access::table
        .filter(flavor_access::flavor_id.eq(flavor))
        .order(flavor_access::project_id)
        .select(flavor_access::project_id)
        .load(c)
        .await
        .map_err(DbError::query("reading who may use a flavor"))
}

/// The flavors that a project was given the use of.
///
/// # Errors
/// When the query fails.
pub async fn flavors_granted(c: &mut Connection, project: &str) -> Result<Vec<String>, DbError> {
    flavor_access::table
        .filter(flavor_access::project_id.eq(project))
        .select(flavor_access::flavor_id)
        .load(c)
        .await
        .map_err(DbError::query("reading what flavors a project may use"))
}

/// Gives a project the use of a flavor.
///
/// # Errors
/// [`DbError::NotFound`], or [`DbError::Exists`] when it had it.
pub async fn flavor_access_add(
    c: &mut Connection,
    flavor: &str,
    project: &str,
) -> Result<(), DbError> {
    let row = (flavor_access::flavor_id.eq(flavor), flavor_access::project_id.eq(project));
    let made = diesel::insert_into(flavor_access::table).values(row).execute(c).await;
    made.map(drop).map_err(|error| {
        if violates(&error, "flavor_access_pkey") {
            DbError::Exists { kind: "Flavor access for project", id: project.to_owned() }
        } else if violates(&error, "flavor_access_flavor_id_fkey") {
            DbError::NotFound { kind: "Flavor", id: flavor.to_owned() }
        } else {
            DbError::query("giving the use of a flavor")(error)
        }
    })
}

/// Takes the use of a flavor from a project.
///
/// # Errors
/// [`DbError::NotFound`] when it did not have it.
pub async fn flavor_access_remove(
    c: &mut Connection,
    flavor: &str,
    project: &str,
) -> Result<(), DbError> {
    let gone = diesel::delete(flavor_access::table.find((flavor, project)))
        .execute(c)
        .await
        .map_err(DbError::query("taking the use of a flavor"))?;
    if gone == 1 {
        Ok(())
    } else {
        Err(DbError::NotFound { kind: "Flavor access for project", id: project.to_owned() })
    }
}
