//! Making a guest and removing it.
//!
//! Every step looks first whether it is done: a disk has its name only when it is whole, and a domain that
//! is defined but not running is started. So a spawn that a crash cut short goes on where it was.

use virt::connect::Connect;
use virt::domain::Domain;
use whimbrel_messages::compute::InstanceSpec;
use whimbrel_model::{DiskFormat, InstanceId};
use whimbrel_virt::DriverError;

use crate::disks;
use crate::domain_xml::domain_xml;
use crate::domains;
use crate::driver::LibvirtDriver;
use crate::epochs::Right;
use crate::error::Doing;
use crate::files;
use crate::images;

impl LibvirtDriver {
    pub(crate) async fn spawn_guest(
        &self,
        instance: &InstanceSpec,
        owner_epoch: i64,
    ) -> Result<(), DriverError> {
        self.epochs.admit(instance.id, owner_epoch, Right::Own).await?;
        self.check_bridges(instance)?;
        self.ensure_root_disk(instance).await?;
        self.ensure_config_drive(instance).await?;
        let (id, xml) = (instance.id, self.definition(instance, owner_epoch));
        self.hypervisor
            .call("start the guest", move |connect| {
                let domain = define_unless_active(connect, id, &xml, owner_epoch)?;
                domains::start(&domain)
            })
            .await
    }

    pub(crate) async fn destroy_guest(
        &self,
        id: InstanceId,
        owner_epoch: i64,
    ) -> Result<(), DriverError> {
        self.epochs.admit(id, owner_epoch, Right::Touch).await?;
        self.hypervisor
            .call("remove the guest", move |connect| domains::remove(connect, id))
            .await?;
        disks::remove_instance_directory(&self.paths, id).await?;
        self.remove_besides(id).await?;
        self.incoming.remove(id).await
    }

    /// Removes what moves have left of the guest beside its own directory.
    pub(crate) async fn remove_besides(&self, id: InstanceId) -> Result<(), DriverError> {
        let paths = self.paths.clone();
        files::blocking("remove what moves have left of the guest", move || {
            paths.besides(id)?.iter().try_for_each(|path| files::remove_directory(path))
        })
        .await
    }

    pub(crate) fn definition(&self, instance: &InstanceSpec, owner_epoch: i64) -> String {
        domain_xml(&self.config, &self.paths, instance, owner_epoch)
    }

    pub(crate) async fn ensure_root_disk(
        &self,
        instance: &InstanceSpec,
    ) -> Result<(), DriverError> {
        let size = images::root_disk_size(&instance.image, instance.resources.disk_gib)?;
        self.bases.ensure(&instance.image).await?;
        disks::create_instance_directory(&self.paths, instance.id).await?;
        let disk = self.paths.root_disk(instance.id);
        let image = Some(&instance.image);
        disks::create_disk(&self.config.qemu_img, &disk, DiskFormat::Qcow2, size, image).await
    }
}

/// The guest's domain, with the definition given or, if it is in memory, the one that it has.
pub(crate) fn define_unless_active(
    connect: &Connect,
    id: InstanceId,
    xml: &str,
    owner_epoch: i64,
) -> Result<Domain, DriverError> {
    if let Some(domain) = domains::find(connect, id)?
        && domain.is_active().doing("ask for the guest's state")?
    {
        domains::set_owner_epoch(&domain, id, owner_epoch)?;
        return Ok(domain);
    }
    Domain::define_xml(connect, xml).doing("define the guest")
}
