//! Where a guest's files are. Every name is made of a UUID, never of anything that a user wrote.
//!
//! ```text
//! <instances_path>/_base/<image id>          base images, read only
//! <instances_path>/<instance id>/disk        the guest's disk, an overlay on its base
//! <instances_path>/<instance id>/console.log what the guest writes to its serial port
//! <instances_path>/.probe.…                  files by which hosts find out whether they share storage
//! ```

use std::path::{Path, PathBuf};

use whimbrel_model::{ImageId, InstanceId};

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

    /// A guest's root disk.
    pub(crate) fn root_disk(&self, id: InstanceId) -> PathBuf {
        self.instance(id).join(ROOT_DISK)
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
