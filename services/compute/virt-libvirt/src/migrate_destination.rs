//! The destination's part of a move: make ready, then take over or roll back; and the clearing of the source.

use std::net::IpAddr;

use virt::connect::Connect;
use virt::domain::Domain;
use virt_sys as sys;
use whimbrel_messages::compute::{
    DiskSpec, InstanceSpec, MigrateData, PostLiveMigration, PreLiveMigrationReply,
    RollbackLiveMigrationAtDestination,
};
use whimbrel_model::{InstanceId, MigrationId};
use whimbrel_virt::{Arrival, DriverError};

use crate::disks;
use crate::domains::{self, DomainState, PausedFor};
use crate::driver::LibvirtDriver;
use crate::epochs::Right;
use crate::error::Doing;
use crate::files;
use crate::images;
use crate::incoming::Incoming;
use crate::probe;

impl LibvirtDriver {
    /// `pre_live_migration`.
    pub(crate) async fn make_ready(
        &self,
        instance: &InstanceSpec,
        migration_id: MigrationId,
        data: &MigrateData,
        owner_epoch: i64,
    ) -> Result<PreLiveMigrationReply, DriverError> {
        let id = instance.id;
        let state = self.guest_state(id).await?;
        // The job runs already, or is over: this call was answered before. Nothing is touched.
        let answered = state.is_some_and(DomainState::is_active);
        if !answered {
            self.check_cleaned_up(id, migration_id, state.is_some()).await?;
        }
        self.epochs.admit(id, owner_epoch, Right::Touch).await?;
        if answered {
            return Ok(self.listen());
        }
        self.check_bridges(instance)?;
        self.check_sizes(instance, &data.disks)?;
        let copies = data.block_migration;
        if copies {
            self.make_room_for_copies(id).await?;
        } else if self.incoming.get(id).await?.is_none_or(|note| note.migration_id != migration_id)
        {
            self.check_shared(id, migration_id, &data.disks).await?;
        }
        self.incoming.put(id, Incoming { migration_id, copies }).await?;
        if copies {
            self.make_disks_ready(instance, &data.disks).await?;
        }
        Ok(self.listen())
    }

    fn listen(&self) -> PreLiveMigrationReply {
        let address = &self.config.migration_address;
        PreLiveMigrationReply {
            destination_uri: self.config.destination_uri(),
            migrate_uri: Some(self.config.migrate_uri()),
            // A name is left to the emulator's configuration: it takes addresses only.
            listen_address: address.parse::<IpAddr>().ok().map(|address| address.to_string()),
        }
    }

    /// Refuses a guest of which an earlier move has left something, before its token is taken for seen: what has to
    /// be removed for that move is asked for under a lower one. Another host can take it; this one, when it has
    /// cleaned up.
    pub(crate) async fn check_cleaned_up(
        &self,
        id: InstanceId,
        migration_id: MigrationId,
        defined: bool,
    ) -> Result<(), DriverError> {
        let note = self.incoming.get(id).await?;
        if defined || note.is_some_and(|note| note.migration_id != migration_id) {
            let host = &self.context.host;
            return Err(DriverError::PreCheck(format!(
                "instance {id} is still defined on host {host}, or it has not yet cleaned up after an earlier move"
            )));
        }
        Ok(())
    }

    /// Whether the disks are what this host would make for the guest: a source can't make it take more.
    fn check_sizes(&self, instance: &InstanceSpec, disks: &[DiskSpec]) -> Result<(), DriverError> {
        let largest = images::root_disk_size(&instance.image, instance.resources.disk_gib)?;
        for disk in disks {
            if disk.file.is_empty() || disk.file.starts_with('.') || disk.file.contains('/') {
                let problem = format!("'{}' is not a disk's file name", disk.file);
                return Err(DriverError::Refused(problem));
            }
            if disk.virtual_size > largest {
                return Err(DriverError::Refused(format!(
                    "disk {} has {} bytes, more than the {largest} of the guest's flavor",
                    disk.target, disk.virtual_size
                )));
            }
        }
        Ok(())
    }

    /// Sees that the guest's directory is this host's to make.
    async fn make_room_for_copies(&self, id: InstanceId) -> Result<(), DriverError> {
        let directory = self.paths.instance(id);
        let ours = self.incoming.get(id).await?.is_some_and(|note| note.copies);
        if !ours && files::exists(&directory).await? {
            return Err(DriverError::Refused(format!(
                "{} exists on host {}: it may be the guest's disks on shared storage, or be left from an \
                 earlier move",
                directory.display(),
                self.context.host
            )));
        }
        // What an earlier attempt left may be half a copy of the disk as it was then.
        disks::remove_instance_directory(&self.paths, id).await
    }

    /// Empty overlays on the same base, which libvirt copies into.
    async fn make_disks_ready(
        &self,
        instance: &InstanceSpec,
        disks: &[DiskSpec],
    ) -> Result<(), DriverError> {
        let id = instance.id;
        let directory = self.paths.instance(id);
        if disks.iter().any(|disk| disk.has_base) {
            self.bases.ensure(&instance.image).await?;
        }
        disks::create_instance_directory(&self.paths, id).await?;
        for disk in disks {
            let path = directory.join(&disk.file);
            let image = disk.has_base.then_some(&instance.image);
            let qemu_img = &self.config.qemu_img;
            disks::create_disk(qemu_img, &path, disk.format, disk.virtual_size, image).await?;
        }
        self.ensure_config_drive(instance).await
    }

    /// Whether this host really sees the disks, and what the source writes beside them.
    async fn check_shared(
        &self,
        id: InstanceId,
        migration_id: MigrationId,
        disks: &[DiskSpec],
    ) -> Result<(), DriverError> {
        let (instances, directory) = (self.paths.instances().to_owned(), self.paths.instance(id));
        let files: Vec<_> = disks.iter().map(|disk| directory.join(&disk.file)).collect();
        let missing = files::blocking("look for the guest's disks", move || {
            if !probe::is_answered(&instances, migration_id)? {
                return Ok(Some(instances.join("the answer to the probe file")));
            }
            Ok(files.into_iter().find(|file| !file.exists()))
        })
        .await?;
        match missing {
            None => Ok(()),
            Some(missing) => Err(DriverError::Refused(format!(
                "host {} does not see {}, so it does not share the guest's storage with the source",
                self.context.host,
                missing.display()
            ))),
        }
    }

    /// `rollback_live_migration_at_destination`.
    pub(crate) async fn roll_back(
        &self,
        request: &RollbackLiveMigrationAtDestination,
    ) -> Result<Arrival, DriverError> {
        let (id, migration_id, owner_epoch) =
            (request.instance_id, request.migration_id, request.owner_epoch);
        let owned = self.epochs.touch(id, owner_epoch).await?.owned;
        if request.source_lost {
            let arrived = move |connect: &Connect| has_arrived(connect, id, owner_epoch);
            if self.hypervisor.call("look whether the guest has arrived", arrived).await? {
                return Ok(Arrival::Whole);
            }
        }
        if owned > owner_epoch {
            return Err(DriverError::StaleOwner {
                instance_id: id,
                seen: owned,
                asked: owner_epoch,
            });
        }
        if owned == owner_epoch {
            return Err(DriverError::Refused(format!(
                "instance {id} was taken over by host {} under epoch {owned}, so the move is not rolled back",
                self.context.host
            )));
        }
        let note = self.incoming.get(id).await?;
        if note.is_some_and(|note| note.migration_id != migration_id) {
            // Another move to this host has begun since, so of this one nothing is left but its probes.
            self.remove_probes(migration_id).await?;
            return Ok(Arrival::Removed);
        }
        self.hypervisor
            .call("remove what came of the guest", move |connect| {
                remove_arrival(connect, id, owner_epoch)
            })
            .await?;
        // Only what this host made is removed: through shared storage the directory is the guest's own.
        if request.destroy_disks && note.is_some_and(|note| note.copies) {
            disks::remove_instance_directory(&self.paths, id).await?;
        }
        self.incoming.remove(id).await?;
        self.remove_probes(migration_id).await?;
        Ok(Arrival::Removed)
    }

    /// `post_live_migration_at_destination`.
    pub(crate) async fn take_over(
        &self,
        instance: &InstanceSpec,
        owner_epoch: i64,
    ) -> Result<(), DriverError> {
        let id = instance.id;
        self.epochs.admit(id, owner_epoch, Right::Own).await?;
        self.hypervisor
            .call("take the guest over", move |connect| take_over(connect, id, owner_epoch))
            .await?;
        self.incoming.remove(id).await
    }

    /// `post_live_migration`.
    pub(crate) async fn clear_source(
        &self,
        request: &PostLiveMigration,
    ) -> Result<(), DriverError> {
        let PostLiveMigration {
            instance_id: id,
            owner_epoch,
            destroy_disks,
            lost,
            migration_id: _,
        } = *request;
        let owned = self.epochs.touch(id, owner_epoch).await?.owned;
        if owned > owner_epoch {
            return Err(DriverError::StaleOwner {
                instance_id: id,
                seen: owned,
                asked: owner_epoch,
            });
        }
        if owned == owner_epoch {
            return Err(DriverError::Refused(format!(
                "instance {id} is owned here under epoch {owned}, so nothing of it is removed"
            )));
        }
        self.hypervisor
            .call("remove the guest that has left", move |connect| {
                let Some(domain) = domains::find(connect, id)? else { return Ok(()) };
                if let Some(seen) =
                    domains::owner_epoch(&domain)?.filter(|seen| *seen > owner_epoch)
                {
                    // It comes by a newer move, which began after this host had cleaned up.
                    return Err(DriverError::StaleOwner {
                        instance_id: id,
                        seen,
                        asked: owner_epoch,
                    });
                }
                if !lost {
                    check_has_left(connect, id)?;
                }
                domains::remove(connect, id)
            })
            .await?;
        if self.incoming.get(id).await?.is_some() && !lost {
            // As above: the directory holds the copies of a guest that is about to come.
            return Ok(());
        }
        if destroy_disks {
            disks::remove_instance_directory(&self.paths, id).await?;
        }
        if destroy_disks && lost {
            // Of a move that the loss of this host cut short.
            self.remove_besides(id).await?;
            self.incoming.remove(id).await?;
        }
        Ok(())
    }
}

/// Removes the guest that the move under `owner_epoch` has brought here, as far as it came.
fn remove_arrival(connect: &Connect, id: InstanceId, owner_epoch: i64) -> Result<(), DriverError> {
    let Some(domain) = domains::find(connect, id)? else { return Ok(()) };
    match domains::owner_epoch(&domain)? {
        Some(epoch) if epoch == owner_epoch => domains::remove(connect, id),
        epoch => {
            tracing::warn!(instance.id = %id, ?epoch, "a guest that did not come by this move stays");
            Ok(())
        }
    }
}

/// Whether the guest came here by the move under `owner_epoch`, and all of it: libvirt stores its definition only
/// then. One whose memory was still on its way is not whole, and never will be.
pub(crate) fn has_arrived(
    connect: &Connect,
    id: InstanceId,
    owner_epoch: i64,
) -> Result<bool, DriverError> {
    let Some(domain) = domains::find(connect, id)? else { return Ok(false) };
    let halted_on_the_way = matches!(
        domains::state(&domain)?,
        None | Some(DomainState::Paused(
            PausedFor::Migration
                | PausedFor::PostCopy
                | PausedFor::PostCopyFailed
                | PausedFor::Start
        ))
    );
    Ok(domains::owner_epoch(&domain)? == Some(owner_epoch)
        && !halted_on_the_way
        && domain.is_persistent().doing("ask whether the guest is stored")?
        && !domains::has_job(&domain)?)
}

/// Refuses if the guest is in memory here, but for a rest that libvirt halted at the end of the move: its
/// disks may be the only whole copy, or its memory still be needed at the destination.
fn check_has_left(connect: &Connect, id: InstanceId) -> Result<(), DriverError> {
    let Some(domain) = domains::find(connect, id)? else { return Ok(()) };
    let rest = match domains::state(&domain)? {
        None | Some(DomainState::ShutOff(_)) => true,
        Some(DomainState::Paused(PausedFor::Migration)) => !domains::has_job(&domain)?,
        Some(_) => false,
    };
    if rest {
        return Ok(());
    }
    Err(DriverError::Refused(format!(
        "instance {id} is still in memory here, so nothing of it is removed"
    )))
}

fn take_over(connect: &Connect, id: InstanceId, owner_epoch: i64) -> Result<(), DriverError> {
    let domain = domains::get(connect, id)?;
    match domains::state(&domain)? {
        None => return Err(DriverError::NotFound(id)),
        // Paused at the source to end the move, or left halted by a libvirt that was restarted at its end.
        Some(DomainState::Paused(PausedFor::Migration | PausedFor::Start))
            if !domains::has_job(&domain)? =>
        {
            domains::resume(&domain)?;
        }
        Some(_) => {}
    }
    // The move carries the token and stores the definition; after a crash in its last moments it may not have.
    if !domain.is_persistent().doing("ask whether the guest is stored")? {
        let flags = sys::VIR_DOMAIN_XML_SECURE | sys::VIR_DOMAIN_XML_MIGRATABLE;
        let xml = domain.get_xml_desc(flags).doing("read the guest's definition")?;
        Domain::define_xml(connect, &xml).doing("store the guest's definition")?;
    }
    if domains::owner_epoch(&domain)? != Some(owner_epoch) {
        domains::set_owner_epoch(&domain, id, owner_epoch)?;
    }
    Ok(())
}
