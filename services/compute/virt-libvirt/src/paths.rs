//! Where a guest's files are. Every name is made of a UUID, never of anything that a user wrote.
//!
//! ```text
//! <instances_path>/_base/<image id>          base images, read only
//! <instances_path>/<instance id>/disk        the guest's disk, an overlay on its base
//! <instances_path>/<instance id>/config      what the guest is told of itself, if it is told anything
//! <instances_path>/<instance id>/console.log what the guest writes to its serial port
//! <instances_path>/<instance id>_resize/     its rollback point while a move waits for a decision
//! <instances_path>/<instance id>.incoming.<migration id>/   disks that a move brings, until all are here
//! <instances_path>/.probe.…                  files by which hosts find out whether they share storage
//! ```

use std::path::{Path, PathBuf};

use whimbrel_model::{ImageId, InstanceId, MigrationId};

/// File name of a guest's root disk.
pub(crate) const ROOT_DISK: &str = "disk";

/// The directory of all guests, and what lies in it.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    instances: PathBuf,
}

impl Paths {
    pub(crate) fn new(instances: PathBuf) -> Self {
        Self { instances }
    }

    /// The directory of all guests.
    pub(crate) fn instances(&self) -> &Path {
        &self.instances
    }

    /// A guest's own directory.
    pub(crate) fn instance(&self, id: InstanceId) -> PathBuf {
        self.instances.join(id.to_string())
    }

    /// Where a source keeps a guest's disks for the way back.
    pub(crate) fn rollback(&self, id: InstanceId) -> PathBuf {
        self.instances.join(format!("{id}_resize"))
    }

    /// Where a destination collects what a move brings.
    pub(crate) fn incoming(&self, id: InstanceId, migration_id: MigrationId) -> PathBuf {
        self.instances.join(format!("{id}.incoming.{migration_id}"))
    }

    /// All that a guest has beside its own directory.
    pub(crate) fn besides(&self, id: InstanceId) -> std::io::Result<Vec<PathBuf>> {
        let incoming = format!("{id}.incoming.");
        let mut found = vec![self.rollback(id)];
        for entry in std::fs::read_dir(&self.instances)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&incoming)) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    /// A guest's root disk.
    pub(crate) fn root_disk(&self, id: InstanceId) -> PathBuf {
        self.instance(id).join(ROOT_DISK)
    }

    /// What a guest is told of itself.
    pub(crate) fn config_drive(&self, id: InstanceId) -> PathBuf {
        self.instance(id).join("config")
    }

    /// What a guest writes to its serial port.
    pub(crate) fn console_log(&self, id: InstanceId) -> PathBuf {
        self.instance(id).join("console.log")
    }

    /// The directory of base images.
    pub(crate) fn bases(&self) -> PathBuf {
        self.instances.join("_base")
    }

    /// An image's base file.
    pub(crate) fn base(&self, id: ImageId) -> PathBuf {
        self.bases().join(id.to_string())
    }

    /// An image's base file, as an overlay in a guest's directory names it. Relative, so that an overlay
    /// does not depend on where the storage is mounted.
    pub(crate) fn base_from_instance(id: ImageId) -> String {
        format!("../_base/{id}")
    }
}
