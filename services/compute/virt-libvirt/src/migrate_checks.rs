//! Can the guest move there? First the destination is asked, then the source, with what it said.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use uuid::Uuid;
use virt::connect::Connect;
use virt_sys as sys;
use whimbrel_messages::compute::{
    BlockMigration, DestinationCheck, DiskSpec, InstanceSpec, MigrateData,
};
use whimbrel_messages::report::CpuInfo;
use whimbrel_model::{DiskFormat, InstanceId, MigrationId};
use whimbrel_virt::DriverError;

use crate::cpu;
use crate::domain_read::{self, XmlDisk};
use crate::domains::{self, DomainState, PausedFor};
use crate::driver::LibvirtDriver;
use crate::error::Doing;
use crate::files;
use crate::probe::{self, Probe};
use crate::xml_tree::Element;

/// What the source's libvirt says of the guest and the host.
struct SourceFacts {
    host: Uuid,
    hypervisor_version: i64,
    /// The guest's processor; none if it is the host's own.
    cpu: Option<CpuInfo>,
    disks: Vec<XmlDisk>,
}

fn pre_check(message: impl Into<String>) -> DriverError {
    DriverError::PreCheck(message.into())
}

impl LibvirtDriver {
    pub(crate) async fn check_as_destination(
        &self,
        instance: &InstanceSpec,
        migration_id: MigrationId,
        block_migration: BlockMigration,
    ) -> Result<DestinationCheck, DriverError> {
        let (id, host_name) = (instance.id, self.context.host.clone());
        self.check_bridges(instance).map_err(|error| pre_check(error.to_string()))?;
        let (host, hypervisor_version) = self
            .hypervisor
            .call("check the destination", move |connect| {
                if let Some(domain) = domains::find(connect, id)? {
                    let runs = domains::state(&domain)?.is_some_and(DomainState::is_active);
                    let how = if runs { "runs" } else { "is still defined" };
                    return Err(pre_check(format!(
                        "instance {id} {how} on host {host_name} already"
                    )));
                }
                Ok((host_uuid(connect)?, hypervisor_version(connect)?))
            })
            .await?;
        let cpu = self.host_cpu().await?;
        let probe = Probe::new(migration_id, host);
        let instances = self.paths.instances().to_owned();
        let free = files::blocking("leave a probe file", move || {
            // A repeated check leaves one probe, not two.
            probe::remove_all(&instances, migration_id)?;
            probe.leave(&instances)?;
            Ok(files::space(&instances)?.1)
        })
        .await?;
        let disk_available = i64::try_from(free).unwrap_or(i64::MAX);
        if block_migration == BlockMigration::Yes && !self.bases.has(instance.image.id).await? {
            self.check_space(instance.image.size, disk_available)?;
        }
        Ok(DestinationCheck {
            probe_file: probe.name(),
            disk_available,
            hypervisor_version,
            cpu_xml: cpu::cpu_xml(&cpu),
        })
    }

    pub(crate) async fn remove_probes(&self, migration_id: MigrationId) -> Result<(), DriverError> {
        let instances = self.paths.instances().to_owned();
        files::blocking("remove probe files", move || probe::remove_all(&instances, migration_id))
            .await
    }

    pub(crate) async fn check_as_source(
        &self,
        instance: &InstanceSpec,
        block_migration: BlockMigration,
        check: &DestinationCheck,
    ) -> Result<MigrateData, DriverError> {
        let id = instance.id;
        let facts = self
            .hypervisor
            .call("check the source", move |connect| source_facts(connect, id))
            .await?;
        let probe = Probe::parse(&check.probe_file)
            .ok_or_else(|| pre_check(format!("'{}' is not a probe file", check.probe_file)))?;
        if probe.host == facts.host {
            return Err(pre_check(format!(
                "source and destination have the same host UUID {}: they are one host, or one of them needs \
                 a host_uuid of its own in libvirtd.conf",
                facts.host
            )));
        }
        if facts.hypervisor_version > check.hypervisor_version {
            return Err(pre_check(format!(
                "the destination's hypervisor is version {}, older than the source's {}: upgrade it, or \
                 choose another host",
                dotted(check.hypervisor_version),
                dotted(facts.hypervisor_version)
            )));
        }
        self.check_cpu(facts.cpu, check).await?;
        let disks = self.disk_specs(id, facts.disks).await?;
        let instances = self.paths.instances().to_owned();
        let shared =
            files::blocking("look for the probe file", move || probe.answer(&instances)).await?;
        let block_migration = must_copy(block_migration, shared)?;
        if block_migration {
            let allocated = disks.iter().map(|disk| disk.allocated).sum();
            self.check_space(allocated, check.disk_available)?;
        }
        Ok(MigrateData { block_migration, disks })
    }

    fn check_space(&self, needed: i64, available: i64) -> Result<(), DriverError> {
        if needed <= available {
            return Ok(());
        }
        Err(pre_check(format!(
            "the disks need {needed} bytes and the destination has {available} free: free space there, or \
             choose another host"
        )))
    }

    async fn check_cpu(
        &self,
        guest: Option<CpuInfo>,
        check: &DestinationCheck,
    ) -> Result<(), DriverError> {
        let guest = match guest {
            Some(guest) => guest,
            None => self.host_cpu().await?,
        };
        let host = cpu::parse_cpu(&check.cpu_xml)?;
        let missing = cpu::missing(&guest, &host, self.config.virt_type);
        if missing.is_empty() {
            return Ok(());
        }
        Err(pre_check(format!(
            "the destination's processor lacks what the guest's {} has: {}. Choose a host with it, or give \
             the guests a more common cpu_model",
            guest.model,
            missing.join(", ")
        )))
    }

    /// What the files of the guest's disks say. All must lie in its own directory.
    async fn disk_specs(
        &self,
        id: InstanceId,
        disks: Vec<XmlDisk>,
    ) -> Result<Vec<DiskSpec>, DriverError> {
        let directory = self.paths.instance(id);
        let mut specs = Vec::new();
        for disk in disks {
            let file = file_in(&directory, &disk)?;
            let format = disk.format.parse::<DiskFormat>().map_err(|_| {
                pre_check(format!("disk {} is of format '{}'", disk.target, disk.format))
            })?;
            let path = directory.join(&file);
            let (head, metadata) = files::blocking("read a disk's header", move || {
                Ok((whimbrel_disk_image::read_head(&path)?, std::fs::metadata(&path)?))
            })
            .await?;
            let (virtual_size, has_base) = match format {
                DiskFormat::Raw => (head.1, false),
                DiskFormat::Qcow2 => {
                    let header = whimbrel_disk_image::parse_qcow2(&head.0)
                        .map_err(|error| pre_check(format!("disk {}: {error}", disk.target)))?;
                    (header.virtual_size, header.has_backing)
                }
            };
            specs.push(DiskSpec {
                target: disk.target,
                file,
                format,
                virtual_size: i64::try_from(virtual_size).unwrap_or(i64::MAX),
                allocated: i64::try_from(metadata.blocks() * 512).unwrap_or(i64::MAX),
                has_base,
            });
        }
        Ok(specs)
    }
}

fn source_facts(connect: &Connect, id: InstanceId) -> Result<SourceFacts, DriverError> {
    let domain = domains::get(connect, id)?;
    match domains::state(&domain)? {
        None => return Err(DriverError::NotFound(id)),
        Some(DomainState::Running | DomainState::Paused(PausedFor::Other)) => {}
        Some(_) => {
            return Err(pre_check(format!("instance {id} does not run, so it can't move live")));
        }
    }
    if domains::has_job(&domain)? {
        return Err(pre_check(format!(
            "the hypervisor is busy with another job for instance {id}: wait for it, or abort it"
        )));
    }
    let xml =
        domain.get_xml_desc(sys::VIR_DOMAIN_XML_SECURE).doing("read the guest's definition")?;
    let definition = Element::parse(&xml)?;
    let bound = domain_read::bound_devices(&definition);
    if !bound.is_empty() {
        let bound = bound.join(", ");
        return Err(pre_check(format!("instance {id} has devices of its host: {bound}")));
    }
    Ok(SourceFacts {
        host: host_uuid(connect)?,
        hypervisor_version: hypervisor_version(connect)?,
        cpu: cpu::guest_cpu(connect, &definition)?,
        disks: domain_read::disks(&definition),
    })
}

pub(crate) fn host_uuid(connect: &Connect) -> Result<Uuid, DriverError> {
    const DOING: &str = "ask for the host's UUID";
    let capabilities = Element::parse(&connect.get_capabilities().doing(DOING)?)?;
    let text = capabilities.text_at(&["host", "uuid"]);
    text.parse().map_err(|_| DriverError::Hypervisor {
        doing: DOING,
        message: format!("'{text}' is not one: set host_uuid in libvirtd.conf"),
    })
}

fn hypervisor_version(connect: &Connect) -> Result<i64, DriverError> {
    connect.get_hyp_version().doing("ask for the hypervisor's version").map(i64::from)
}

/// `10.0.2` for 10000002.
fn dotted(version: i64) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1_000 % 1_000, version % 1_000)
}

fn file_in(directory: &Path, disk: &XmlDisk) -> Result<String, DriverError> {
    let file = disk.file.as_deref().map(Path::new);
    let inside = file.filter(|file| file.parent() == Some(directory));
    let name = inside.and_then(|file| file.file_name()).and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| {
        pre_check(format!("disk {} is not a file in the guest's own directory", disk.target))
    })
}

/// Whether the disks travel, too.
fn must_copy(asked: BlockMigration, shared: bool) -> Result<bool, DriverError> {
    match (asked, shared) {
        (BlockMigration::Auto, shared) => Ok(!shared),
        (BlockMigration::Yes, false) => Ok(true),
        (BlockMigration::No, true) => Ok(false),
        (BlockMigration::Yes, true) => Err(pre_check(
            "the hosts share the guest's storage, so there are no disks to copy: use block_migration \
             'auto' or false",
        )),
        (BlockMigration::No, false) => Err(pre_check(
            "the hosts do not share the guest's storage, so its disks must be copied: use \
             block_migration 'auto' or true",
        )),
    }
}

#[cfg(test)]
mod tests;
