//! Where simulated guests are: in memory, or in files that outlive the services and can be looked at from
//! outside. One file for each guest and host; a guest changes hosts by one rename.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use whimbrel_model::{HostName, InstanceId, MigrationId, PowerState, VolumeId};

/// A guest on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FakeGuest {
    /// The token it runs under.
    pub(super) epoch: i64,
    /// Its power state.
    pub(super) power: PowerState,
    /// It is expected and has not arrived.
    pub(super) incoming: bool,
    /// The volumes that it has.
    #[serde(default)]
    pub(super) volumes: BTreeSet<VolumeId>,
}

/// A migration's job on its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FakeJob {
    pub(super) migration_id: MigrationId,
    pub(super) began: DateTime<Utc>,
    pub(super) forced: bool,
}

impl FakeJob {
    pub(super) fn begin(migration_id: MigrationId) -> Self {
        Self { migration_id, began: Utc::now(), forced: false }
    }

    /// Model time since it began, in milliseconds.
    pub(super) fn elapsed_ms(&self, time_scale: f64) -> u64 {
        model_ms(self.began, time_scale)
    }
}

/// Model time since `began`, in milliseconds.
pub(super) fn model_ms(began: DateTime<Utc>, time_scale: f64) -> u64 {
    let real = (Utc::now() - began).num_milliseconds().max(0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "milliseconds of a test"
    )]
    let scaled = (real as f64 / time_scale.max(f64::MIN_POSITIVE)) as u64;
    scaled
}

/// What a source keeps of a guest that a move has shut down: its disks, and how it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FakeRollback {
    pub(super) migration_id: MigrationId,
    pub(super) began: DateTime<Utc>,
    pub(super) carried: bool,
}

/// Disks that have arrived, or may arrive, for a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FakeArrival {
    pub(super) migration_id: MigrationId,
    pub(super) whole: bool,
}

#[derive(Default)]
pub(super) struct Memory {
    guests: BTreeMap<(HostName, InstanceId), FakeGuest>,
    jobs: HashMap<(HostName, InstanceId), FakeJob>,
    epochs: HashMap<(HostName, InstanceId), i64>,
    rollbacks: HashMap<(HostName, InstanceId), FakeRollback>,
    arrivals: HashMap<(HostName, InstanceId), FakeArrival>,
}

static SHARED: LazyLock<Arc<Mutex<Memory>>> = LazyLock::new(Arc::default);

/// All simulated hosts' guests.
pub(super) enum World {
    Memory(Arc<Mutex<Memory>>),
    Folder(PathBuf),
}

type Io<T> = std::io::Result<T>;

impl World {
    pub(super) fn open(folder: Option<&Path>, host: &HostName) -> Io<Self> {
        match folder {
            None => Ok(Self::Memory(Arc::clone(&SHARED))),
            Some(folder) => {
                std::fs::create_dir_all(folder.join(host.as_str()))?;
                Ok(Self::Folder(folder.to_owned()))
            }
        }
    }

    pub(super) fn get(&self, host: &HostName, id: InstanceId) -> Io<Option<FakeGuest>> {
        match self {
            Self::Memory(memory) => Ok(lock(memory).guests.get(&(host.clone(), id)).cloned()),
            Self::Folder(folder) => read(&path(folder, host, id, "guest")),
        }
    }

    pub(super) fn put(&self, host: &HostName, id: InstanceId, guest: &FakeGuest) -> Io<()> {
        match self {
            Self::Memory(memory) => {
                lock(memory).guests.insert((host.clone(), id), guest.clone());
                Ok(())
            }
            Self::Folder(folder) => write(&path(folder, host, id, "guest"), guest),
        }
    }

    pub(super) fn remove(&self, host: &HostName, id: InstanceId) -> Io<()> {
        match self {
            Self::Memory(memory) => {
                lock(memory).guests.remove(&(host.clone(), id));
                Ok(())
            }
            Self::Folder(folder) => unlink(&path(folder, host, id, "guest")),
        }
    }

    /// The guest leaves `from` and is at `to` as `guest`.
    pub(super) fn hand_over(
        &self,
        from: &HostName,
        to: &HostName,
        id: InstanceId,
        guest: &FakeGuest,
    ) -> Io<()> {
        match self {
            Self::Memory(memory) => {
                let mut memory = lock(memory);
                memory.guests.remove(&(from.clone(), id));
                memory.guests.insert((to.clone(), id), guest.clone());
                Ok(())
            }
            Self::Folder(folder) => {
                let here = path(folder, from, id, "guest");
                write(&here, guest)?;
                std::fs::rename(here, path(folder, to, id, "guest"))
            }
        }
    }

    pub(super) fn list(&self, host: &HostName) -> Io<Vec<(InstanceId, FakeGuest)>> {
        let folder = match self {
            Self::Memory(memory) => {
                let memory = lock(memory);
                let here = memory.guests.iter().filter(|((on, _), _)| on == host);
                return Ok(here.map(|((_, id), guest)| (*id, guest.clone())).collect());
            }
            Self::Folder(folder) => folder,
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder.join(host.as_str()))? {
            let path = entry?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str());
            let id = id.and_then(|stem| stem.parse::<InstanceId>().ok());
            if let Some(id) = id.filter(|_| path.extension().is_some_and(|kind| kind == "guest"))
                && let Some(guest) = read(&path)?
            {
                found.push((id, guest));
            }
        }
        Ok(found)
    }

    pub(super) fn job(&self, host: &HostName, id: InstanceId) -> Io<Option<FakeJob>> {
        match self {
            Self::Memory(memory) => Ok(lock(memory).jobs.get(&(host.clone(), id)).cloned()),
            Self::Folder(folder) => read(&path(folder, host, id, "job")),
        }
    }

    pub(super) fn put_job(&self, host: &HostName, id: InstanceId, job: &FakeJob) -> Io<()> {
        match self {
            Self::Memory(memory) => {
                lock(memory).jobs.insert((host.clone(), id), job.clone());
                Ok(())
            }
            Self::Folder(folder) => write(&path(folder, host, id, "job"), job),
        }
    }

    pub(super) fn remove_job(&self, host: &HostName, id: InstanceId) -> Io<()> {
        match self {
            Self::Memory(memory) => {
                lock(memory).jobs.remove(&(host.clone(), id));
                Ok(())
            }
            Self::Folder(folder) => unlink(&path(folder, host, id, "job")),
        }
    }

    /// What `host` keeps for the way back.
    pub(super) fn rollback(&self, host: &HostName, id: InstanceId) -> Io<Option<FakeRollback>> {
        match self {
            Self::Memory(memory) => Ok(lock(memory).rollbacks.get(&(host.clone(), id)).cloned()),
            Self::Folder(folder) => read(&path(folder, host, id, "rollback")),
        }
    }

    pub(super) fn put_rollback(
        &self,
        host: &HostName,
        id: InstanceId,
        it: &FakeRollback,
    ) -> Io<()> {
        match self {
            Self::Memory(memory) => {
                lock(memory).rollbacks.insert((host.clone(), id), it.clone());
                Ok(())
            }
            Self::Folder(folder) => write(&path(folder, host, id, "rollback"), it),
        }
    }

    pub(super) fn remove_rollback(&self, host: &HostName, id: InstanceId) -> Io<()> {
        match self {
            Self::Memory(memory) => {
                lock(memory).rollbacks.remove(&(host.clone(), id));
                Ok(())
            }
            Self::Folder(folder) => unlink(&path(folder, host, id, "rollback")),
        }
    }

    /// What has arrived at `host`.
    pub(super) fn arrival(&self, host: &HostName, id: InstanceId) -> Io<Option<FakeArrival>> {
        match self {
            Self::Memory(memory) => Ok(lock(memory).arrivals.get(&(host.clone(), id)).cloned()),
            Self::Folder(folder) => read(&path(folder, host, id, "arrival")),
        }
    }

    pub(super) fn put_arrival(&self, host: &HostName, id: InstanceId, it: &FakeArrival) -> Io<()> {
        match self {
            Self::Memory(memory) => {
                lock(memory).arrivals.insert((host.clone(), id), it.clone());
                Ok(())
            }
            Self::Folder(folder) => write(&path(folder, host, id, "arrival"), it),
        }
    }

    pub(super) fn remove_arrival(&self, host: &HostName, id: InstanceId) -> Io<()> {
        match self {
            Self::Memory(memory) => {
                lock(memory).arrivals.remove(&(host.clone(), id));
                Ok(())
            }
            Self::Folder(folder) => unlink(&path(folder, host, id, "arrival")),
        }
    }

    /// The highest token that `host` has seen for the guest.
    pub(super) fn epoch(&self, host: &HostName, id: InstanceId) -> Io<i64> {
        match self {
            Self::Memory(memory) => {
                Ok(lock(memory).epochs.get(&(host.clone(), id)).copied().unwrap_or_default())
            }
            Self::Folder(folder) => Ok(read(&path(folder, host, id, "epoch"))?.unwrap_or_default()),
        }
    }

    pub(super) fn set_epoch(&self, host: &HostName, id: InstanceId, epoch: i64) -> Io<()> {
        match self {
            Self::Memory(memory) => {
                lock(memory).epochs.insert((host.clone(), id), epoch);
                Ok(())
            }
            Self::Folder(folder) => write(&path(folder, host, id, "epoch"), &epoch),
        }
    }
}

fn lock(memory: &Mutex<Memory>) -> std::sync::MutexGuard<'_, Memory> {
    memory.lock().expect("nobody panics while holding it")
}

fn path(folder: &Path, host: &HostName, id: InstanceId, kind: &str) -> PathBuf {
    folder.join(host.as_str()).join(format!("{id}.{kind}"))
}

fn read<T: DeserializeOwned>(path: &Path) -> Io<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// As a whole or not at all.
fn write(path: &Path, value: &impl Serialize) -> Io<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, serde_json::to_vec(value)?)?;
    std::fs::rename(temporary, path)
}

fn unlink(path: &Path) -> Io<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
