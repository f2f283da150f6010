//! What a lab is to be like.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cloud::labs_dir;
use crate::config_files::{MigrationTuning, VirtType};
use crate::host::Storage;
use crate::lab::Lab;
use crate::servers::Durability;

/// What hypervisor the hosts have.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Driver {
    /// libvirt and QEMU, in namespaces.
    #[default]
    Libvirt,
    /// A simulated one, with what its section `[fake]` is to say. Needs no root.
    Fake(toml::Table),
}

/// What a lab is to be like.
#[derive(Clone, Debug)]
pub struct LabBuilder {
    pub(crate) name: String,
    pub(crate) labs_dir: PathBuf,
    pub(crate) hosts: u8,
    pub(crate) storage: Storage,
    pub(crate) driver: Driver,
    pub(crate) virt_type: Option<VirtType>,
    pub(crate) migration: MigrationTuning,
    pub(crate) durability: Durability,
    pub(crate) replicas: u8,
    pub(crate) keep_logs: bool,
}

impl Default for LabBuilder {
    fn default() -> Self {
        Self {
            name: unnamed(),
            labs_dir: labs_dir(),
            hosts: 2,
            storage: Storage::default(),
            driver: Driver::default(),
            virt_type: None,
            migration: MigrationTuning::default(),
            durability: Durability::Throwaway,
            replicas: 1,
            keep_logs: false,
        }
    }
}

impl LabBuilder {
    /// Its name, which is that of its directory; a unique one if not given. Logs are kept after its end.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self.keep_logs = true;
        self
    }

    /// The directory of all labs, instead of `.lab` at the root of the repository.
    #[must_use]
    pub fn labs_dir(mut self, dir: PathBuf) -> Self {
        self.labs_dir = dir;
        self
    }

    /// How many hosts.
    #[must_use]
    pub fn hosts(mut self, count: u8) -> Self {
        self.hosts = count;
        self
    }

    /// Where guests' disks are.
    #[must_use]
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// What hypervisor the hosts have.
    #[must_use]
    pub fn driver(mut self, driver: Driver) -> Self {
        self.driver = driver;
        self
    }

    /// How guests' instructions are carried out; found out if not given.
    #[must_use]
    pub fn virt_type(mut self, virt_type: VirtType) -> Self {
        self.virt_type = Some(virt_type);
        self
    }

    /// How moves go.
    #[must_use]
    pub fn migration(mut self, migration: MigrationTuning) -> Self {
        self.migration = migration;
        self
    }

    /// What the database promises when it crashes.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How many conductors and how many schedulers.
    #[must_use]
    pub fn replicas(mut self, count: u8) -> Self {
        self.replicas = count;
        self
    }

    /// Starts it, and returns when the API answers and all hosts report.
    ///
    /// # Errors
    /// When something is missing or doesn't come up. Nothing is left running.
    pub fn start(self) -> anyhow::Result<Lab> {
        Lab::start(self)
    }
}

/// A name that no other lab has.
pub(crate) fn unnamed() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The process that an unnamed lab belongs to, by the lab's name: `t<process>-<number>`.
pub(crate) fn owner_of(name: &str) -> Option<u32> {
    let (owner, number) = name.strip_prefix('t')?.split_once('-')?;
    number.parse::<u32>().ok()?;
    owner.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unnamed_labs_are_known_by_their_names() {
        assert_eq!(owner_of(&LabBuilder::default().name), Some(std::process::id()));
        assert_eq!(owner_of("two-3"), None);
        assert_eq!(owner_of("t12-demo"), None);
    }
}
