//! The destination's part: get ready, make the guest from what has come, or remove what was made.

use std::time::Duration;

use uuid::Uuid;
use virt::connect::Connect;
use whimbrel_messages::compute::{
    FinishResize, InstanceSpec, PrepResize, PrepResizeReply, RebuildInstance, RebuildReply,
    RevertResize,
};
use whimbrel_model::{DiskFormat, InstanceId, MigrationId};
use whimbrel_virt::DriverError;

use super::{CARRIED, TICKET, inspect, is_marked, mark, rename};
use crate::domains;
use crate::driver::LibvirtDriver;
use crate::epochs::Right;
use crate::files;
use crate::images;
use crate::migrate_checks::host_uuid;
use crate::probe::{self, Probe};
use crate::qemu_img;
use crate::spawn::define_unless_active;

impl LibvirtDriver {
    pub(crate) async fn prepare_for_disks(
        &self,
        request: &PrepResize,
    ) -> Result<PrepResizeReply, DriverError> {
        let pre_check = |error: DriverError| DriverError::PreCheck(error.to_string());
        let (id, migration_id) = (request.instance.id, request.migration_id);
        self.check_bridges(&request.instance).map_err(pre_check)?;
        images::root_disk_size(&request.instance.image, request.instance.resources.disk_gib)
            .map_err(pre_check)?;
        let here = request.source == self.context.host;
        let (host, defined) = self
            .hypervisor
            .call("check the destination", move |connect| {
                Ok((host_uuid(connect)?, domains::find(connect, id)?.is_some()))
            })
            .await?;
        if !here {
            self.check_cleaned_up(id, migration_id, defined).await?;
            self.epochs.admit(id, request.owner_epoch, Right::Touch).await?;
        }
        let has_base = match self.bases.ensure(&request.instance.image).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, instance.id = %id, "without its base; all of its disk will be sent");
                false
            }
        };
        let receiver = if here { String::new() } else { self.listen_for_disks()? };
        let probe = Probe::new(migration_id, host);
        let (instances, incoming) =
            (self.paths.instances().to_owned(), self.paths.incoming(id, migration_id));
        let probe_file = probe.name();
        let ticket = files::blocking("make ready for disks", move || {
            files::create_directory(&incoming)?;
            mark(&incoming, CARRIED, migration_id)?;
            probe::remove_all(&instances, migration_id)?;
            probe.leave(&instances)?;
            // Asked again, the answer is the same.
            match std::fs::read_to_string(incoming.join(TICKET)) {
                Ok(known) if !known.trim().is_empty() => Ok(known),
                _ => {
                    let ticket = Uuid::new_v4().to_string();
                    files::write_atomic(&incoming.join(TICKET), ticket.as_bytes())?;
                    Ok(ticket)
                }
            }
        })
        .await?;
        Ok(PrepResizeReply { probe_file, has_base, receiver, ticket: ticket.trim().to_owned() })
    }

    pub(crate) async fn make_from_carried(
        &self,
        request: &FinishResize,
    ) -> Result<(), DriverError> {
        let id = request.instance.id;
        self.epochs.admit(id, request.owner_epoch, Right::Own).await?;
        self.check_bridges(&request.instance)?;
        self.take_in(request).await?;
        self.ensure_config_drive(&request.instance).await?;
        let made = self.make(&request.instance, request.owner_epoch, request.start).await;
        if made.is_err() {
            // Whoever hears "no" relies on it that it does not run here.
            self.remove_domain(id).await?;
        }
        made
    }

    /// Gives what has come its place.
    async fn take_in(&self, request: &FinishResize) -> Result<(), DriverError> {
        let (id, migration_id) = (request.instance.id, request.migration_id);
        let (own, incoming) = (self.paths.instance(id), self.paths.incoming(id, migration_id));
        let (instances, shared) = (self.paths.instances().to_owned(), request.carried.shared);
        files::blocking("give the guest's disks their place", move || {
            probe::remove_all(&instances, migration_id)?;
            if shared {
                return files::remove_directory(&incoming);
            }
            if incoming.exists() {
                files::remove_file(&incoming.join(TICKET))?;
                rename(&incoming, &own)?;
            }
            Ok(())
        })
        .await?;
        if request.carried.disks.iter().any(|disk| disk.has_base) {
            self.bases.ensure(&request.instance.image).await?;
        }
        self.grow(&request.instance).await
    }

    /// Grows the root disk to the flavor's size. A disk that is larger already stays.
    async fn grow(&self, instance: &InstanceSpec) -> Result<(), DriverError> {
        let path = self.paths.root_disk(instance.id);
        if !files::exists(&path).await? {
            return Err(DriverError::Refused(format!(
                "the disk of instance {} has not arrived",
                instance.id
            )));
        }
        let wanted = images::root_disk_size(&instance.image, instance.resources.disk_gib)?;
        let (looked, at) = (instance.clone(), path.clone());
        let disk = tokio::task::spawn_blocking(move || inspect(&looked, &at)).await;
        let disk = disk.map_err(|error| DriverError::Refused(error.to_string()))??;
        if disk.virtual_size < wanted {
            qemu_img::grow(&self.config.qemu_img, &path, DiskFormat::Qcow2, wanted).await?;
        }
        Ok(())
    }

    async fn make(
        &self,
        instance: &InstanceSpec,
        owner_epoch: i64,
        start: bool,
    ) -> Result<(), DriverError> {
        let (id, xml) = (instance.id, self.definition(instance, owner_epoch));
        self.hypervisor
            .call("make the guest", move |connect| {
                let domain = define_unless_active(connect, id, &xml, owner_epoch)?;
                if start { domains::start(&domain) } else { Ok(()) }
            })
            .await
    }

    async fn remove_domain(&self, id: InstanceId) -> Result<(), DriverError> {
        self.hypervisor.call("remove the guest", move |connect| domains::remove(connect, id)).await
    }

    pub(crate) async fn drop_moved(&self, request: &RevertResize) -> Result<(), DriverError> {
        let (id, migration_id, epoch) =
            (request.instance_id, request.migration_id, request.owner_epoch);
        let mine = self
            .hypervisor
            .call("look whose guest it is", move |connect| is_of_this_move(connect, id, epoch))
            .await;
        if matches!(mine, Err(DriverError::StaleOwner { .. })) && !request.keep_disks {
            // The guest has come by a newer move, but what carries this one's mark is nobody's any more.
            self.remove_made(id, migration_id).await?;
        }
        let mine = mine?;
        if mine && !request.keep_guest {
            let timeout = u64::try_from(request.timeout_ms).unwrap_or_default();
            match self.power_off_guest(id, Duration::from_millis(timeout)).await {
                Ok(()) | Err(DriverError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
            self.remove_domain(id).await?;
        }
        if request.keep_disks { Ok(()) } else { self.remove_made(id, migration_id).await }
    }

    /// Removes the directories that carry the move's mark, and what it left for the other host to see.
    async fn remove_made(
        &self,
        id: InstanceId,
        migration_id: MigrationId,
    ) -> Result<(), DriverError> {
        let (own, incoming) = (self.paths.instance(id), self.paths.incoming(id, migration_id));
        let instances = self.paths.instances().to_owned();
        files::blocking("remove what the move brought", move || {
            probe::remove_all(&instances, migration_id)?;
            files::remove_directory(&incoming)?;
            if is_marked(&own, CARRIED, migration_id)? {
                files::remove_directory(&own)?;
            }
            Ok(())
        })
        .await
    }

    /// Refuses where an earlier move has left something of the guest: what looks like its own disk may be old, or half
    /// a copy. Another host can take it; this one, when it has cleaned up.
    async fn check_no_rest(&self, id: InstanceId, owner_epoch: i64) -> Result<(), DriverError> {
        let note = self.incoming.get(id).await?;
        let defined = self
            .hypervisor
            .call("look for rests of the guest", move |connect| {
                let Some(domain) = domains::find(connect, id)? else { return Ok(false) };
                // Of this evacuation, asked again.
                Ok(domains::owner_epoch(&domain)? != Some(owner_epoch))
            })
            .await?;
        if defined || note.is_some_and(|note| note.copies) {
            return Err(DriverError::PreCheck(format!(
                "host {} has not yet cleaned up after an earlier move of instance {id}",
                self.context.host
            )));
        }
        Ok(())
    }

    pub(crate) async fn make_again(
        &self,
        request: &RebuildInstance,
    ) -> Result<RebuildReply, DriverError> {
        let (id, migration_id) = (request.instance.id, request.migration_id);
        self.check_no_rest(id, request.owner_epoch).await?;
        self.epochs.admit(id, request.owner_epoch, Right::Own).await?;
        self.check_bridges(&request.instance)?;
        let (own, disk) = (self.paths.instance(id), self.paths.root_disk(id));
        let own_disk = files::blocking("look for the guest's disk", move || {
            Ok(disk.exists() && !is_marked(&own, CARRIED, migration_id)?)
        })
        .await?;
        if own_disk {
            self.bases.ensure(&request.instance.image).await?;
            self.grow(&request.instance).await?;
        } else {
            let own = self.paths.instance(id);
            files::blocking("make the guest's directory", move || {
                files::create_directory(&own)?;
                mark(&own, CARRIED, migration_id)
            })
            .await?;
            self.ensure_root_disk(&request.instance).await?;
        }
        self.ensure_config_drive(&request.instance).await?;
        let made = self.make(&request.instance, request.owner_epoch, request.start).await;
        if made.is_err() {
            self.remove_domain(id).await?;
        }
        made?;
        let power_state = self.guest_power_state(id).await?;
        Ok(RebuildReply { power_state, own_disk })
    }
}

/// Whether a guest is here that the move has made. One under an older token was here before.
fn is_of_this_move(connect: &Connect, id: InstanceId, epoch: i64) -> Result<bool, DriverError> {
    let Some(domain) = domains::find(connect, id)? else { return Ok(false) };
    match domains::owner_epoch(&domain)? {
        Some(seen) if seen > epoch => {
            Err(DriverError::StaleOwner { instance_id: id, seen, asked: epoch })
        }
        Some(seen) => Ok(seen == epoch),
        None => Ok(false),
    }
}
