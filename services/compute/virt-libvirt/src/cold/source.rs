//! The source's part: shut down, set aside, carry; and either forget it or take it back.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use virt::domain::Domain;
use whimbrel_disk_carry::{CarryError, Pace, send_to};
use whimbrel_messages::compute::{
    CarriedDisk, CarryStats, FinishRevertResize, ResizeInstance, ResizeInstanceReply,
};
use whimbrel_messages::report::JobStats;
use whimbrel_model::{DiskFormat, InstanceId, MigrationId};
use whimbrel_virt::{DriverError, JobProgress};

use super::{Disk, ROLLBACK, inspect, is_marked, mark, rename};
use crate::domains;
use crate::driver::LibvirtDriver;
use crate::epochs::Right;
use crate::error::Doing;
use crate::files;
use crate::paths::ROOT_DISK;
use crate::probe::Probe;
use crate::qemu_img;

/// How often a disk is sent before its carrying has failed.
const TRIES: u32 = 4;
/// Pause before a disk is sent again, times the number of tries.
const PAUSE: Duration = Duration::from_secs(2);
/// An overlay with all of its base, until it is sent.
const FLAT: &str = "flat";

impl LibvirtDriver {
    pub(crate) async fn carry_disks(
        &self,
        request: &ResizeInstance,
        progress: &watch::Sender<JobProgress>,
        stop: watch::Receiver<bool>,
    ) -> Result<ResizeInstanceReply, DriverError> {
        let (id, migration_id) = (request.instance.id, request.migration_id);
        let shared = self.shares_storage(request).await?;
        let begun = Instant::now();
        let aside = self.set_aside(request, shared, &stop).await?;
        let shutdown_ms = since(begun);
        let begun = Instant::now();
        let disk = {
            let (instance, path) = (request.instance.clone(), aside.join(ROOT_DISK));
            tokio::task::spawn_blocking(move || inspect(&instance, &path)).await
        };
        let disk = disk.map_err(|error| gone(&error))??;
        let mut carried = CarriedDisk {
            file: ROOT_DISK.to_owned(),
            format: DiskFormat::Qcow2,
            has_base: disk.has_base,
            digest: String::new(),
        };
        let mut bytes = 0;
        if !shared {
            let alone = disk.has_base && !request.prepared.has_base;
            let path = self.to_send(&aside, &disk, alone).await?;
            carried.has_base &= !alone;
            (carried.digest, bytes) = self.send(request, path, progress, stop).await?;
            if alone {
                let flat = aside.join(FLAT);
                files::blocking("remove a flattened disk", move || files::remove_file(&flat))
                    .await?;
            }
        }
        let copy_ms = since(begun);
        tracing::info!(instance.id = %id, migration.id = %migration_id, shared, bytes, "carried");
        let stats = CarryStats { shutdown_ms, copy_ms, bytes };
        Ok(ResizeInstanceReply { shared, disks: vec![carried], stats })
    }

    /// Whether the destination sees the same files: by the probe that it has left.
    async fn shares_storage(&self, request: &ResizeInstance) -> Result<bool, DriverError> {
        if request.destination == self.context.host {
            return Ok(true);
        }
        let name = &request.prepared.probe_file;
        let probe = Probe::parse(name)
            .ok_or_else(|| DriverError::PreCheck(format!("'{name}' is not a probe file")))?;
        let instances = self.paths.instances().to_owned();
        files::blocking("look for the probe file", move || probe.answer(&instances)).await
    }

    /// Shuts the guest down, forgets its definition, and sets its directory aside unless it stays in use.
    /// Returns where its disks are now.
    async fn set_aside(
        &self,
        request: &ResizeInstance,
        shared: bool,
        stop: &watch::Receiver<bool>,
    ) -> Result<PathBuf, DriverError> {
        let (id, migration_id) = (request.instance.id, request.migration_id);
        let (own, aside) = (self.paths.instance(id), self.paths.rollback(id));
        let there = aside.clone();
        let done = files::blocking("look for the rollback point", move || {
            is_marked(&there, ROLLBACK, migration_id)
        })
        .await?;
        if done {
            return Ok(aside);
        }
        if !files::exists(&self.paths.root_disk(id)).await? {
            return Err(DriverError::NotFound(id));
        }
        if *stop.borrow() {
            return Err(DriverError::Refused("the move was called off".to_owned()));
        }
        let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or_default());
        match self.power_off_guest(id, timeout).await {
            // Its definition has gone in an earlier attempt.
            Ok(()) | Err(DriverError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        // From here on only somebody who knows of the move may start it here.
        self.epochs.admit(id, request.owner_epoch, Right::Touch).await?;
        self.hypervisor
            .call("forget the guest's definition", move |connect| domains::remove(connect, id))
            .await?;
        if shared {
            return Ok(own);
        }
        let to = aside.clone();
        files::blocking("set the guest's directory aside", move || {
            // Of an earlier move, whose confirmation is still to come: the guest's disks are in its own directory.
            files::remove_directory(&to)?;
            mark(&own, ROLLBACK, migration_id)?;
            rename(&own, &to)
        })
        .await?;
        Ok(aside)
    }

    /// The file to send: the overlay, or, where the destination lacks its base, all of it in one file.
    async fn to_send(
        &self,
        aside: &std::path::Path,
        disk: &Disk,
        alone: bool,
    ) -> Result<PathBuf, DriverError> {
        let path = aside.join(ROOT_DISK);
        if !alone {
            return Ok(path);
        }
        let flat = aside.join(FLAT);
        let again = flat.clone();
        files::blocking("remove half a disk", move || files::remove_file(&again)).await?;
        tracing::info!(disk.size = disk.virtual_size, "the destination lacks the base: flattening");
        qemu_img::flatten(&self.config.qemu_img, &path, DiskFormat::Qcow2, &flat).await?;
        Ok(flat)
    }

    async fn send(
        &self,
        request: &ResizeInstance,
        path: PathBuf,
        progress: &watch::Sender<JobProgress>,
        stop: watch::Receiver<bool>,
    ) -> Result<(String, i64), DriverError> {
        let ticket = request.prepared.ticket.parse().map_err(|_| {
            DriverError::Refused("the destination's ticket can't be read".to_owned())
        })?;
        let to = request.prepared.receiver.clone();
        let bytes_s = self.config.migration.bandwidth_mib_s << 20;
        let (progress, begun) = (progress.clone(), Instant::now());
        let sending = move || {
            let mut tries = 1;
            loop {
                let mut tell = |sent: u64, total: u64| {
                    progress.send_replace(JobProgress {
                        stats: stats(begun, sent, total),
                        post_copy: false,
                    });
                };
                let mut pace = Pace { bytes_s, progress: &mut tell, stopped: &|| *stop.borrow() };
                match send_to(&to, ticket, ROOT_DISK, &path, &mut pace) {
                    Err(error) if error.is_transient() && tries < TRIES => {
                        tracing::warn!(%error, to, tries, "a disk did not arrive; sending it again");
                        pause(PAUSE * tries, &stop);
                        tries += 1;
                    }
                    other => return other,
                }
            }
        };
        let sent = tokio::task::spawn_blocking(sending).await.map_err(|error| gone(&error))?;
        let (digest, bytes) = sent.map_err(|error| match error {
            CarryError::Stopped => DriverError::Refused("the move was called off".to_owned()),
            other => DriverError::Hypervisor { doing: "carry a disk", message: other.to_string() },
        })?;
        Ok((digest, i64::try_from(bytes).unwrap_or(i64::MAX)))
    }

    pub(crate) async fn drop_rollback_point(
        &self,
        id: InstanceId,
        migration_id: MigrationId,
    ) -> Result<(), DriverError> {
        let aside = self.paths.rollback(id);
        files::blocking("remove the rollback point", move || {
            if is_marked(&aside, ROLLBACK, migration_id)? {
                files::remove_directory(&aside)?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn take_back(&self, request: &FinishRevertResize) -> Result<(), DriverError> {
        let (id, migration_id) = (request.instance.id, request.migration_id);
        self.epochs.admit(id, request.owner_epoch, Right::Own).await?;
        let (own, aside) = (self.paths.instance(id), self.paths.rollback(id));
        files::blocking("take the guest's directory back", move || {
            // One that an earlier move has set aside, whose way back was put off, is the guest's where there is no other.
            let only = !own.join(ROOT_DISK).exists() && aside.join(ROOT_DISK).exists();
            if only || is_marked(&aside, ROLLBACK, migration_id)? {
                files::remove_file(&aside.join(FLAT))?;
                rename(&aside, &own)?;
            }
            files::remove_file(&own.join(ROLLBACK))
        })
        .await?;
        if !files::exists(&self.paths.root_disk(id)).await? {
            return Err(DriverError::NotFound(id));
        }
        // Whatever is wrong with the host, the disk is where any later attempt looks for it.
        self.check_bridges(&request.instance)?;
        let (epoch, start) = (request.owner_epoch, request.start);
        let xml = self.definition(&request.instance, epoch);
        self.hypervisor
            .call("take the guest back", move |connect| {
                // One that the move never touched keeps its definition, and runs on.
                let domain = match domains::find(connect, id)? {
                    Some(domain) => domain,
                    None => Domain::define_xml(connect, &xml).doing("define the guest")?,
                };
                domains::set_owner_epoch(&domain, id, epoch)?;
                if start { domains::start(&domain) } else { Ok(()) }
            })
            .await
    }
}

fn stats(begun: Instant, sent: u64, total: u64) -> JobStats {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    JobStats {
        elapsed_ms: since(begun),
        disk_total: number(total),
        disk_processed: number(sent),
        disk_remaining: number(total.saturating_sub(sent)),
        ..JobStats::default()
    }
}

fn since(begun: Instant) -> i64 {
    i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX)
}

/// Waits, unless it is called off meanwhile.
fn pause(time: Duration, stop: &watch::Receiver<bool>) {
    let end = Instant::now() + time;
    while Instant::now() < end && !*stop.borrow() {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn gone(error: &tokio::task::JoinError) -> DriverError {
    DriverError::Hypervisor { doing: "carry a disk", message: error.to_string() }
}
