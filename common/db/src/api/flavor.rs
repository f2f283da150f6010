//! Flavors: sizes of guests.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::{Value, json};
use whimbrel_model::{FlavorSnapshot, Resources};

use crate::error::violates;
use crate::schema::flavor;
use crate::{Connection, DbError};

/// A flavor.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = flavor)]
pub struct FlavorRow {
    /// Chosen by whoever made it.
    pub id: String,
    /// Unique.
    pub name: String,
    /// Virtual processors.
    pub vcpus: i32,
    /// Memory in MiB.
    pub memory_mib: i64,
    /// Root disk in GiB; 0 is the image's own size.
    pub disk_gib: i64,
    /// Whether every project sees it.
    pub is_public: bool,
    /// For people.
    pub description: Option<String>,
    /// When.
    pub created_at: DateTime<Utc>,
    /// Names and values of the operator's.
    pub extra_specs: Value,
}

impl FlavorRow {
    /// What a guest of this flavor takes.
    pub fn resources(&self) -> Resources {
        Resources { vcpus: self.vcpus, memory_mib: self.memory_mib, disk_gib: self.disk_gib }
    }

    /// It, as a guest of it keeps it.
    pub fn snapshot(&self) -> FlavorSnapshot {
        let (id, name) = (self.id.clone(), self.name.clone());
        FlavorSnapshot { id, name, resources: self.resources() }
    }
}

/// A guest's flavor, as it is stored and shown with the server.
pub fn flavor_with_server(flavor: &FlavorSnapshot) -> Value {
    let FlavorSnapshot { id, name, resources } = flavor;
    json!({
        "id": id,
        "original_name": name,
        "vcpus": resources.vcpus,
        "ram": resources.memory_mib,
        "disk": resources.disk_gib,
        "ephemeral": 0,
        "swap": 0,
        "extra_specs": {},
    })
}

/// The flavor that a server is stored and shown with.
///
/// # Errors
/// [`DbError::Unreadable`].
pub fn flavor_of_server(stored: &Value) -> Result<FlavorSnapshot, DbError> {
    let unreadable =
        || DbError::Unreadable { column: "instance.flavor", value: stored.to_string() };
    let text = |key: &str| stored[key].as_str().map(str::to_owned).ok_or_else(unreadable);
    let number = |key: &str| stored[key].as_i64().ok_or_else(unreadable);
    let resources = Resources {
        vcpus: i32::try_from(number("vcpus")?).map_err(|_| unreadable())?,
        memory_mib: number("ram")?,
        disk_gib: number("disk")?,
    };
    Ok(FlavorSnapshot { id: text("id")?, name: text("original_name")?, resources })
}

/// All flavors, by memory and name.
///
/// # Errors
/// When the query fails.
pub async fn flavors_list(c: &mut Connection) -> Result<Vec<FlavorRow>, DbError> {
    flavor::table
        .select(FlavorRow::as_select())
        .order((flavor::memory_mib, flavor::name))
        .load(c)
        .await
        .map_err(DbError::query("listing flavors"))
}

/// One flavor.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn flavor_get(c: &mut Connection, id: &str) -> Result<FlavorRow, DbError> {
    flavor::table
        .find(id)
        .select(FlavorRow::as_select())
        .first(c)
        .await
        .optional()
        .map_err(DbError::query("reading a flavor"))?
        .ok_or_else(|| DbError::NotFound { kind: "Flavor", id: id.to_owned() })
}

/// Makes a flavor.
///
/// # Errors
/// [`DbError::Exists`] when its id or name is taken.
pub async fn flavor_create(c: &mut Connection, row: &FlavorRow) -> Result<(), DbError> {
    let made = diesel::insert_into(flavor::table).values(row).execute(c).await;
    made.map(drop).map_err(|error| {
        if violates(&error, "flavor_pkey") {
            DbError::Exists { kind: "Flavor with ID", id: row.id.clone() }
        } else if violates(&error, "flavor_name_key") {
            DbError::Exists { kind: "Flavor with name", id: row.name.clone() }
        } else {
            DbError::query("making a flavor")(error)
        }
    })
}

/// Changes a flavor's description, or all of its extra specifications. What is none stays.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn flavor_update(
    c: &mut Connection,
    id: &str,
    description: Option<Option<&str>>,
    extra_specs: Option<&Value>,
) -> Result<(), DbError> {
    let changed = diesel::update(flavor::table.find(id))
        .set((
            // Set to itself, so that there is always something to set.
            flavor::name.eq(flavor::name),
            description.map(|text| flavor::description.eq(text)),
            extra_specs.map(|specs| flavor::extra_specs.eq(specs)),
        ))
        .execute(c)
        .await
        .map_err(DbError::query("changing a flavor"))?;
    if changed == 1 { Ok(()) } else { Err(DbError::NotFound { kind: "Flavor", id: id.to_owned() }) }
}

/// Deletes a flavor. Guests keep the sizes that they were made with.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn flavor_delete(c: &mut Connection, id: &str) -> Result<(), DbError> {
    let gone = diesel::delete(flavor::table.find(id))
        .execute(c)
        .await
        .map_err(DbError::query("deleting a flavor"))?;
    if gone == 0 {
        return Err(DbError::NotFound { kind: "Flavor", id: id.to_owned() });
    }
    Ok(())
}
