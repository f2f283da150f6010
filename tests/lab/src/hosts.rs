//! Hosts without any of Whimbrel's services: what tests of a driver alone need.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use crate::builder;
use crate::cloud::{Cloud, ensure_root, labs_dir, remove_dir};
use crate::guest::{self, GuestImage};
use crate::host::Host;
use crate::lab::remove_old_labs;
use crate::process::Spawner;

/// Hosts with libvirt and QEMU each, connected to each other. Dropping them ends everything on them.
#[derive(Debug)]
pub struct Hosts {
    dir: PathBuf,
    image: GuestImage,
    // Before the spawner, which is what ends it.
    cloud: Option<Cloud>,
    _spawner: Arc<Spawner>,
}

impl Hosts {
    /// Starts `count` of them, and makes the guest's image if it is not there.
    ///
    /// # Errors
    /// When something is missing or doesn't come up. Nothing is left running.
    pub fn start(count: u8) -> anyhow::Result<Self> {
        ensure_root()?;
        remove_old_labs(&labs_dir());
        let dir = labs_dir().join(builder::unnamed());
        remove_dir(&dir)?;
        let logs = dir.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| format!("creating {}", logs.display()))?;
        let image = guest::prepare(&labs_dir().join("cache"))?;
        let spawner = Arc::new(Spawner::new()?);
        let cloud = Cloud::start(count, &dir, &logs, &spawner)?;
        Ok(Self { dir, image, cloud: Some(cloud), _spawner: spawner })
    }

    /// All of them.
    pub fn all(&self) -> &[Arc<Host>] {
        self.cloud.as_ref().map(Cloud::hosts).unwrap_or_default()
    }

    /// A directory that is seen on all of them under the same name, and goes with them.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What guests can be booted from.
    pub fn image(&self) -> &GuestImage {
        &self.image
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if let Some(cloud) = self.cloud.take() {
            let _ = cloud.stop();
        }
        // After a panic the logs are what tells why. The disks are large, and tell nothing.
        let keep_logs = std::thread::panicking();
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if !(keep_logs && entry.file_name() == "logs") {
                let _ = remove_dir(&entry.path());
            }
        }
        if !keep_logs {
            let _ = remove_dir(&self.dir);
        }
    }
}
