//! Moves of guests that are shut off.
//!
//! ```text
//! source                                              destination
//!                                                     <id>.incoming.<move>/ with a marker and a ticket
//! <id>/  ──rename──▶  <id>_resize/  ── disks ──▶      <id>.incoming.<move>/disk
//!                                                     <id>.incoming.<move>/  ──rename──▶  <id>/
//! confirm: <id>_resize/ goes                          revert: <id>/ goes, by its marker
//! ```
//! A directory that a move made carries that move's id in a marker, so nothing is ever removed for a move that
//! did not make it: on shared storage the destination sees the guest's only disk under the same name. At every
//! moment one directory holds all of the guest's disks, whole.

mod destination;
mod receive;
mod source;

pub(crate) use receive::DiskReceiver;

use std::io;
use std::path::Path;

use whimbrel_messages::compute::InstanceSpec;
use whimbrel_model::MigrationId;
use whimbrel_virt::DriverError;

use crate::files;
use crate::paths::Paths;

/// In a directory that a destination made for a move: which one.
pub(super) const CARRIED: &str = ".carried";
/// In a directory that a source has set aside: for which move.
pub(super) const ROLLBACK: &str = ".rollback";
/// In a directory that takes disks: what a sender must show.
pub(super) const TICKET: &str = ".ticket";

/// Whether the directory carries this move's mark.
pub(super) fn is_marked(directory: &Path, mark: &str, id: MigrationId) -> io::Result<bool> {
    match std::fs::read_to_string(directory.join(mark)) {
        Ok(text) => Ok(text.trim() == id.to_string()),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn mark(directory: &Path, mark: &str, id: MigrationId) -> io::Result<()> {
    files::write_atomic(&directory.join(mark), id.to_string().as_bytes())
}

/// Gives a directory its other name, durably.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    files::sync_parent(to)
}

/// What a guest's disk says of itself.
pub(super) struct Disk {
    pub(super) virtual_size: i64,
    pub(super) has_base: bool,
}

/// Reads the header of a guest's disk. The guest has written its content, but never its header; one that names
/// another file than the base of the guest's own image is refused nevertheless.
pub(super) fn inspect(instance: &InstanceSpec, path: &Path) -> Result<Disk, DriverError> {
    let refused = |why: String| {
        DriverError::Refused(format!("the disk of instance {} can't be used: {why}", instance.id))
    };
    let (head, _) =
        whimbrel_disk_image::read_head(path).map_err(|error| refused(error.to_string()))?;
    let header =
        whimbrel_disk_image::parse_qcow2(&head).map_err(|error| refused(error.to_string()))?;
    if let Some(file) = &header.backing_file
        && *file != Paths::base_from_instance(instance.image.id)
    {
        return Err(refused(format!("it lies over '{file}', not over its image")));
    }
    let virtual_size = i64::try_from(header.virtual_size).unwrap_or(i64::MAX);
    Ok(Disk { virtual_size, has_base: header.has_backing })
}
