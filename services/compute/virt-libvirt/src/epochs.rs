//! The highest fencing token seen for each guest, on disk, so that it outlives the guest and the service.
//!
//! `seen` is what a request of this host was made under; `owned` is what the guest ran under here. A move
//! that is prepared here raises only `seen`: if it is taken back, the guest was never this host's.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use whimbrel_model::InstanceId;
use whimbrel_virt::DriverError;

use crate::files;

/// What is remembered of one guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Epochs {
    /// The highest token of any request.
    pub(crate) seen: i64,
    /// The highest token that the guest was started or taken over under.
    pub(crate) owned: i64,
}

/// What a request wants to do under its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// Anything but run the guest.
    Touch,
    /// Run the guest.
    Own,
}

/// All records of this host, one small file for each guest.
#[derive(Clone, Debug)]
pub(crate) struct EpochStore {
    directory: Arc<PathBuf>,
    /// A record is read and written back under this lock; only this process writes them.
    writing: Arc<Mutex<()>>,
}

impl EpochStore {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory: Arc::new(directory), writing: Arc::default() }
    }

    /// What is remembered of the guest.
    pub(crate) async fn get(&self, id: InstanceId) -> Result<Epochs, DriverError> {
        let store = self.clone();
        files::blocking("read the guest's fencing token", move || store.read(id)).await
    }

    /// Refuses a token lower than the highest seen; else remembers it, durably, before anything is done
    /// under it.
    pub(crate) async fn admit(
        &self,
        id: InstanceId,
        asked: i64,
        right: Right,
    ) -> Result<(), DriverError> {
        let seen = self.remember(id, asked, right).await?.seen;
        if seen > asked {
            return Err(DriverError::StaleOwner { instance_id: id, seen, asked });
        }
        Ok(())
    }

    /// As [`EpochStore::admit`], for the removal of what a move has left, which is told by that move's own marks: a lower
    /// token is not refused. Returns what is remembered now.
    pub(crate) async fn touch(&self, id: InstanceId, asked: i64) -> Result<Epochs, DriverError> {
        self.remember(id, asked, Right::Touch).await
    }

    async fn remember(
        &self,
        id: InstanceId,
        asked: i64,
        right: Right,
    ) -> Result<Epochs, DriverError> {
        let store = self.clone();
        files::blocking("remember the guest's fencing token", move || store.raise(id, asked, right))
            .await
    }

    fn path(&self, id: InstanceId) -> PathBuf {
        self.directory.join(id.to_string())
    }

    fn read(&self, id: InstanceId) -> io::Result<Epochs> {
        match std::fs::read(self.path(id)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Epochs::default()),
            Err(error) => Err(error),
        }
    }

    fn raise(&self, id: InstanceId, asked: i64, right: Right) -> io::Result<Epochs> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.read(id)?;
        let after = raised(before, asked, right);
        if after != before {
            std::fs::create_dir_all(&*self.directory)?;
            files::write_atomic(&self.path(id), &serde_json::to_vec(&after)?)?;
        }
        Ok(after)
    }
}

fn raised(before: Epochs, asked: i64, right: Right) -> Epochs {
    if asked < before.seen {
        return before;
    }
    let owned = match right {
        Right::Own => asked,
        Right::Touch => before.owned,
    };
    Epochs { seen: asked, owned }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_support::TempDir;

    fn id() -> InstanceId {
        InstanceId(uuid::Uuid::from_u128(7))
    }

    #[tokio::test]
    async fn a_lower_token_is_refused_also_by_a_service_that_was_restarted() {
        let dir = TempDir::new();
        let path = dir.path().join("epochs");
        EpochStore::new(path.clone()).admit(id(), 5, Right::Own).await.unwrap();

        let restarted = EpochStore::new(path);
        let error = restarted.admit(id(), 4, Right::Own).await.unwrap_err();
        assert!(matches!(error, DriverError::StaleOwner { seen: 5, asked: 4, .. }), "{error}");
        restarted.admit(id(), 5, Right::Own).await.unwrap();
        assert_eq!(restarted.get(id()).await.unwrap(), Epochs { seen: 5, owned: 5 });
    }

    #[tokio::test]
    async fn a_move_that_is_only_prepared_is_seen_but_not_owned() {
        let dir = TempDir::new();
        let store = EpochStore::new(dir.path().join("epochs"));
        store.admit(id(), 2, Right::Touch).await.unwrap();
        assert_eq!(store.get(id()).await.unwrap(), Epochs { seen: 2, owned: 0 });
    }

    #[tokio::test]
    async fn the_removal_of_what_is_left_of_an_earlier_move_is_not_refused() {
        let dir = TempDir::new();
        let store = EpochStore::new(dir.path().join("epochs"));
        store.admit(id(), 5, Right::Touch).await.unwrap();
        assert_eq!(store.touch(id(), 2).await.unwrap(), Epochs { seen: 5, owned: 0 });
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_read_refuses_everything() {
        let dir = TempDir::new();
        std::fs::write(dir.path().join(id().to_string()), b"{").unwrap();
        let store = EpochStore::new(dir.path().to_owned());
        assert!(store.admit(id(), 9, Right::Own).await.is_err());
    }

    proptest! {
        #[test]
        fn tokens_never_fall_and_owned_is_never_above_seen(
            requests in proptest::collection::vec((0i64..20, any::<bool>()), 0..40)
        ) {
            let mut record = Epochs::default();
            for (asked, own) in requests {
                let right = if own { Right::Own } else { Right::Touch };
                let after = raised(record, asked, right);
                prop_assert!(after.seen >= record.seen);
                prop_assert!(after.owned >= record.owned);
                prop_assert!(after.owned <= after.seen);
                record = after;
            }
        }
    }
}
