//! Servers: instances as the API sees them.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;
use whimbrel_messages::compute::{ConfigDrive, ImageSpec, InstanceSpec};
use whimbrel_model::{HostName, ImageId, InstanceId, InstanceState, PowerState, Resources};
use whimbrel_saga::Saga;
use whimbrel_sagas::Boot;

use super::operate::{Caller, Started, start_saga};
use super::port::{port_create, ports_of};
use super::quota::{Usage, within};
use super::server_group::join;
use super::volume::volumes_of_all;
use super::{FlavorRow, ImageRow, PortRow, VolumeRow, WantedPort};
use crate::schema::{config_drive, instance};
use crate::text::{parse, parse_opt};
use crate::{Connection, Database, DbError};

/// A row of the table.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = instance)]
pub(super) struct Stored {
    pub(super) id: Uuid,
    name: String,
    description: Option<String>,
    project_id: String,
    user_id: String,
    vm_state: String,
    task_state: Option<String>,
    power_state: String,
    host: Option<String>,
    owner_epoch: i64,
    generation: i64,
    delete_requested: bool,
    flavor: Value,
    vcpus: i32,
    memory_mib: i64,
    disk_gib: i64,
    image_id: Uuid,
    metadata: Value,
    key_name: Option<String>,
    reservation_id: String,
    fault_code: Option<String>,
    fault_message: Option<String>,
    fault_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    launched_at: Option<DateTime<Utc>>,
    deleted_at: Option<DateTime<Utc>>,
    locked_by: Option<String>,
    locked_reason: Option<String>,
    availability_zone: Option<String>,
    hostname: Option<String>,
    tags: Vec<String>,
    has_config_drive: bool,
}

/// A server.
#[derive(Clone, Debug)]
pub struct ServerRow {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Whose it is.
    pub project_id: String,
    /// Who made it.
    pub user_id: String,
    /// What it is and what is going on.
    pub state: InstanceState,
    /// What its hypervisor says of it.
    pub power_state: PowerState,
    /// The host that has the right to run it.
    pub host: Option<HostName>,
    /// The token that says so.
    pub owner_epoch: i64,
    /// Grows with every change.
    pub generation: i64,
    /// It is to be deleted as soon as what is going on has ended.
    pub delete_requested: bool,
    /// Its flavor as it was when the server was made.
    pub flavor: Value,
    /// What it takes.
    pub resources: Resources,
    /// What its root disk was made from.
    pub image_id: Uuid,
    /// Names and values of the user's.
    pub metadata: Value,
    /// The key pair it was made with.
    pub key_name: Option<String>,
    /// Groups servers that were made by one request.
    pub reservation_id: String,
    /// What went wrong, if something did.
    pub fault: Option<(String, String, DateTime<Utc>)>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
    /// When it first ran.
    pub launched_at: Option<DateTime<Utc>>,
    /// When it was deleted.
    pub deleted_at: Option<DateTime<Utc>>,
    /// Who locked it: `owner` or `admin`.
    pub locked_by: Option<String>,
    /// Why.
    pub locked_reason: Option<String>,
    /// The zone that was asked for.
    pub availability_zone: Option<String>,
    /// What it is to call itself.
    pub hostname: Option<String>,
    /// Words of the user's, in order.
    pub tags: Vec<String>,
    /// Its ports, in order.
    pub ports: Vec<PortRow>,
    /// Its volumes, those too that it is just being given.
    pub volumes: Vec<VolumeRow>,
    /// Whether it has a disk that tells it of itself.
    pub has_config_drive: bool,
    /// What is on it. Not read for lists.
    pub config_drive: Option<ConfigDrive>,
}

impl ServerRow {
    pub(super) fn assemble(
        stored: Stored,
        ports: Vec<PortRow>,
        volumes: Vec<VolumeRow>,
    ) -> Result<Self, DbError> {
        let state = InstanceState {
            vm: parse("instance.vm_state", &stored.vm_state)?,
            task: parse_opt("instance.task_state", stored.task_state.as_deref())?,
        };
        let fault = stored.fault_code.zip(stored.fault_message).zip(stored.fault_at);
        Ok(Self {
            id: stored.id,
            name: stored.name,
            description: stored.description,
            project_id: stored.project_id,
            user_id: stored.user_id,
            state,
            power_state: parse("instance.power_state", &stored.power_state)?,
            host: parse_opt("instance.host", stored.host.as_deref())?,
            owner_epoch: stored.owner_epoch,
            generation: stored.generation,
            delete_requested: stored.delete_requested,
            flavor: stored.flavor,
            resources: Resources {
                vcpus: stored.vcpus,
                memory_mib: stored.memory_mib,
                disk_gib: stored.disk_gib,
            },
            image_id: stored.image_id,
            metadata: stored.metadata,
            key_name: stored.key_name,
            reservation_id: stored.reservation_id,
            fault: fault.map(|((code, message), at)| (code, message, at)),
            created_at: stored.created_at,
            updated_at: stored.updated_at,
            launched_at: stored.launched_at,
            deleted_at: stored.deleted_at,
            locked_by: stored.locked_by,
            locked_reason: stored.locked_reason,
            availability_zone: stored.availability_zone,
            hostname: stored.hostname,
            tags: stored.tags,
            ports,
            volumes,
            has_config_drive: stored.has_config_drive,
            config_drive: None,
        })
    }

    /// As hosts are told of it.
    pub(super) fn spec(&self, image: &ImageRow) -> Result<InstanceSpec, DbError> {
        Ok(InstanceSpec {
            id: InstanceId(self.id),
            name: self.name.clone(),
            resources: self.resources,
            image: image_spec(image)?,
            ports: self.ports.iter().map(PortRow::spec).collect(),
            volumes: self.volumes.iter().filter_map(VolumeRow::spec).collect(),
            config_drive: self.config_drive.clone(),
        })
    }
}

fn image_spec(image: &ImageRow) -> Result<ImageSpec, DbError> {
    Ok(ImageSpec {
        id: ImageId(image.id),
        format: parse("image.format", &image.format)?,
        sha256: image.sha256.clone(),
        size: image.size,
        virtual_size: image.virtual_size,
    })
}

/// One server that is not deleted.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn server_get(c: &mut Connection, id: Uuid) -> Result<ServerRow, DbError> {
    let stored: Option<Stored> = instance::table
        .find(id)
        .filter(instance::deleted_at.is_null())
        .select(Stored::as_select())
        .first(c)
        .await
        .optional()
        .map_err(DbError::query("reading a server"))?;
    let stored =
        stored.ok_or_else(|| DbError::NotFound { kind: "Instance", id: id.to_string() })?;
    let ports = ports_of(c, id).await?;
    let volumes = volumes_of_all(c, &[id]).await?;
    let mut server = ServerRow::assemble(stored, ports, volumes)?;
    if server.has_config_drive {
        server.config_drive = Some(config_drive_of(c, id).await?);
    }
    Ok(server)
}

async fn config_drive_of(c: &mut Connection, id: Uuid) -> Result<ConfigDrive, DbError> {
    let content: Value = config_drive::table
        .find(id)
        .select(config_drive::content)
        .first(c)
        .await
        .map_err(DbError::query("reading a config drive"))?;
    serde_json::from_value(content).map_err(|error| DbError::Unreadable {
        column: "config_drive.content",
        value: error.to_string(),
    })
}

/// The project of a server, deleted or not.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn server_project(c: &mut Connection, id: Uuid) -> Result<String, DbError> {
    instance::table
        .find(id)
        .select(instance::project_id)
        .first(c)
        .await
        .optional()
        .map_err(DbError::query("reading a server's project"))?
        .ok_or_else(|| DbError::NotFound { kind: "Instance", id: id.to_string() })
}

/// A server to make.
#[derive(Clone, Debug)]
pub struct NewServer {
    /// For people.
    pub description: Option<String>,
    /// Its size.
    pub flavor: FlavorRow,
    /// The flavor as the API shows it with the server.
    pub flavor_view: Value,
    /// What its root disk is made from.
    pub image: ImageRow,
    /// Its ports, in order.
    pub ports: Vec<WantedPort>,
    /// Names and values of the user's.
    pub metadata: Value,
    /// The key pair.
    pub key_name: Option<String>,
    /// The only host that may be chosen, if somebody asked for one.
    pub requested_host: Option<HostName>,
    /// The zone that was asked for.
    pub availability_zone: Option<String>,
    /// What it is to call itself.
    pub hostname: Option<String>,
    /// Words of the user's, in order.
    pub tags: Vec<String>,
    /// What it is told of itself, if it is to have a disk for that. The name is each server's own.
    pub config_drive: Option<ConfigDrive>,
    /// The server group that it is to be in.
    pub group: Option<Uuid>,
    /// What its project may have; -1 is no limit.
    pub limits: Usage,
}

impl NewServer {
    fn usage(&self, count: usize) -> Usage {
        let instances = i64::try_from(count).unwrap_or(i64::MAX);
        Usage {
            instances,
            cores: i64::from(self.flavor.vcpus).saturating_mul(instances),
            ram: self.flavor.memory_mib.saturating_mul(instances),
        }
    }
}

/// Makes servers that differ in their names only and starts their boots, in one transaction.
///
/// # Errors
/// [`DbError::NoMoreAddresses`], [`DbError::InUse`] for an address, [`DbError::QuotaExceeded`]; nothing is made then.
pub async fn servers_create(
    database: &Database,
    caller: &Caller,
    new: &NewServer,
    names: &[String],
) -> Result<Vec<(ServerRow, Started)>, DbError> {
    let mut connection = database.connection().await?;
    connection
        .transaction(async |c| {
            within(c, &caller.project_id, &new.limits, &new.usage(names.len())).await?;
            let reservation = Uuid::now_v7();
            let mut made = Vec::with_capacity(names.len());
            for name in names {
                made.push(create(c, caller, new, name, reservation).await?);
            }
            Ok(made)
        })
        .await
}

async fn create(
    c: &mut Connection,
    caller: &Caller,
    new: &NewServer,
    name: &str,
    reservation: Uuid,
) -> Result<(ServerRow, Started), DbError> {
    let id = Uuid::now_v7();
    let stored = insert(c, id, caller, new, (name, reservation)).await?;
    if let Some(group) = new.group {
        join(c, id, group).await?;
    }
    let mut ports = Vec::with_capacity(new.ports.len());
    for (position, wanted) in (0..).zip(&new.ports) {
        ports.push(port_create(c, id, position, wanted).await?);
    }
    let mut server = ServerRow::assemble(stored, ports, Vec::new())?;
    if let Some(told) = &new.config_drive {
        server.config_drive = Some(keep_config_drive(c, &server, told).await?);
    }
    let boot = Boot {
        instance: server.spec(&new.image)?,
        requested_host: new.requested_host.clone(),
        host: None,
        tried: Vec::new(),
    };
    let started = start_saga(c, caller, Boot::NAME, Boot::VERSION, &boot, id, None).await?;
    Ok((server, started))
}

async fn keep_config_drive(
    c: &mut Connection,
    server: &ServerRow,
    told: &ConfigDrive,
) -> Result<ConfigDrive, DbError> {
    let hostname = server.hostname.clone().unwrap_or_else(|| told.hostname.clone());
    let told = ConfigDrive { name: server.name.clone(), hostname, ..told.clone() };
    diesel::insert_into(config_drive::table)
        .values((
            config_drive::instance_id.eq(server.id),
            config_drive::content.eq(serde_json::to_value(&told).expect("plain data")),
        ))
        .execute(c)
        .await
        .map_err(DbError::query("keeping a config drive"))?;
    Ok(told)
}

async fn insert(
    c: &mut Connection,
    id: Uuid,
    caller: &Caller,
    new: &NewServer,
    (name, reservation): (&str, Uuid),
) -> Result<Stored, DbError> {
    let state = InstanceState::NEW;
    let resources = new.flavor.resources();
    diesel::insert_into(instance::table)
        .values((
            (
                instance::id.eq(id),
                instance::name.eq(name),
                instance::description.eq(&new.description),
                instance::project_id.eq(&caller.project_id),
                instance::user_id.eq(&caller.user_id),
                instance::vm_state.eq(state.vm.to_string()),
                instance::task_state.eq(state.task.map(|task| task.to_string())),
                instance::flavor_id.eq(&new.flavor.id),
                instance::flavor.eq(&new.flavor_view),
            ),
            (
                instance::vcpus.eq(resources.vcpus),
                instance::memory_mib.eq(resources.memory_mib),
                instance::disk_gib.eq(resources.disk_gib),
                instance::image_id.eq(new.image.id),
                instance::metadata.eq(&new.metadata),
                instance::key_name.eq(&new.key_name),
                instance::reservation_id
                    .eq(format!("r-{}", &reservation.simple().to_string()[24..])),
            ),
            (
                instance::availability_zone.eq(&new.availability_zone),
                instance::hostname.eq(&new.hostname),
                instance::tags.eq(&new.tags),
                instance::has_config_drive.eq(new.config_drive.is_some()),
            ),
        ))
        .returning(Stored::as_returning())
        .get_result(c)
        .await
        .map_err(DbError::query("making a server"))
}
