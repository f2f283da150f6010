//! What this host has made ready for guests that are to come, on disk.
//!
//! A directory full of disks may be the guest's only whole copy, seen through shared storage. So a
//! destination notes, before it makes one, that it is about to, and removes only what it noted. The note
//! also tells a late rollback of an earlier move that its guest is not the one that is coming now.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use whimbrel_model::{InstanceId, MigrationId};
use whimbrel_virt::DriverError;

use crate::files;

/// A note that a guest is coming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Incoming {
    /// The move that brings it.
    pub(crate) migration_id: MigrationId,
    /// The guest's directory on this host holds copies in the making.
    pub(crate) copies: bool,
}

/// All notes of this host, one small file for each guest.
#[derive(Clone, Debug)]
pub(crate) struct IncomingStore {
    directory: PathBuf,
}

impl IncomingStore {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The note of the guest.
    pub(crate) async fn get(&self, id: InstanceId) -> Result<Option<Incoming>, DriverError> {
        let path = self.path(id);
        files::blocking("read what was made ready for the guest", move || {
            match std::fs::read(path) {
                Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Notes that the guest is coming.
    pub(crate) async fn put(&self, id: InstanceId, note: Incoming) -> Result<(), DriverError> {
        let (path, directory) = (self.path(id), self.directory.clone());
        files::blocking("note what is made ready for the guest", move || {
            std::fs::create_dir_all(directory)?;
            files::write_atomic(&path, &serde_json::to_vec(&note)?)
        })
        .await
    }

    /// Forgets the note: the guest has come, or never will. Fine if there is none.
    pub(crate) async fn remove(&self, id: InstanceId) -> Result<(), DriverError> {
        let path = self.path(id);
        files::blocking("forget what was made ready for the guest", move || {
            files::remove_file(&path)
        })
        .await
    }

    fn path(&self, id: InstanceId) -> PathBuf {
        self.directory.join(id.to_string())
    }
}
