//! Whether two hosts share their instances directory, found out by files.
//!
//! The destination leaves a file with a name that nobody can know; a source that sees it shares the storage
//! at least for reading, and answers with another one, which the destination must see before the guest
//! moves without its disks. Names say all, content nothing, so that a copy of the directory proves nothing.
//!
//! ```text
//! .probe.<migration id>.<host uuid>.<nonce>        by the destination
//! .probe.<migration id>.<host uuid>.<nonce>.seen   by the source
//! ```

use std::fs;
use std::io;
use std::path::Path;

use uuid::Uuid;
use whimbrel_model::MigrationId;

const PREFIX: &str = ".probe";
const SEEN: &str = "seen";

/// The name of a probe file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    /// The move that it was left for.
    pub(crate) migration_id: MigrationId,
    /// The host that left it, by libvirt's id of it.
    pub(crate) host: Uuid,
    nonce: Uuid,
}

impl Probe {
    pub(crate) fn new(migration_id: MigrationId, host: Uuid) -> Self {
        Self { migration_id, host, nonce: Uuid::new_v4() }
    }

    /// The probe of that name. A name comes in a message and becomes part of a path, so no other is taken.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('.')?.split('.');
        let mut next = || Uuid::try_parse(parts.next()?).ok();
        let probe = Self { migration_id: MigrationId(next()?), host: next()?, nonce: next()? };
        (probe.name() == name).then_some(probe)
    }

    pub(crate) fn name(&self) -> String {
        format!("{}.{}.{}", prefix_of(self.migration_id), self.host, self.nonce)
    }

    /// Leaves it in `directory`.
    pub(crate) fn leave(&self, directory: &Path) -> io::Result<()> {
        fs::write(directory.join(self.name()), b"")
    }

    /// Whether it lies in `directory`; if so, an answer to it now does, too.
    pub(crate) fn answer(&self, directory: &Path) -> io::Result<bool> {
        // Reading the directory makes a network file system ask its server.
        let name = self.name();
        let seen = fs::read_dir(directory)?
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().to_str() == Some(&name));
        if seen {
            fs::write(directory.join(format!("{name}.{SEEN}")), b"")?;
        }
        Ok(seen)
    }
}

fn prefix_of(migration_id: MigrationId) -> String {
    format!("{PREFIX}.{migration_id}")
}

/// Whether a source has answered a probe of the move.
pub(crate) fn is_answered(directory: &Path, migration_id: MigrationId) -> io::Result<bool> {
    let suffix = format!(".{SEEN}");
    Ok(names_of(directory, migration_id)?.iter().any(|name| name.ends_with(&suffix)))
}

/// Removes all probes of the move and the answers to them.
pub(crate) fn remove_all(directory: &Path, migration_id: MigrationId) -> io::Result<()> {
    for name in names_of(directory, migration_id)? {
        crate::files::remove_file(&directory.join(name))?;
    }
    Ok(())
}

fn names_of(directory: &Path, migration_id: MigrationId) -> io::Result<Vec<String>> {
    let prefix = format!("{}.", prefix_of(migration_id));
    let names = fs::read_dir(directory)?
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix));
    Ok(names.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::TempDir;

    fn probe() -> Probe {
        Probe::new(MigrationId(Uuid::from_u128(5)), Uuid::from_u128(6))
    }

    #[test]
    fn hosts_that_share_the_directory_find_out_both_ways() {
        let dir = TempDir::new();
        let probe = probe();
        probe.leave(dir.path()).unwrap();
        assert!(!is_answered(dir.path(), probe.migration_id).unwrap());
        assert!(Probe::parse(&probe.name()).unwrap().answer(dir.path()).unwrap());
        assert!(is_answered(dir.path(), probe.migration_id).unwrap());

        remove_all(dir.path(), probe.migration_id).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn hosts_that_do_not_share_it_find_that_out_and_leave_nothing() {
        let (source, destination) = (TempDir::new(), TempDir::new());
        let probe = probe();
        probe.leave(destination.path()).unwrap();
        assert!(!probe.answer(source.path()).unwrap());
        assert_eq!(fs::read_dir(source.path()).unwrap().count(), 0);
        assert!(!is_answered(destination.path(), probe.migration_id).unwrap());
    }

    #[test]
    fn a_name_that_could_be_another_file_is_not_a_probe() {
        let name = probe().name();
        assert_eq!(Probe::parse(&name).map(|probe| probe.name()), Some(name.clone()));
        for bad in
            ["", ".probe", "../etc/passwd", &format!("{name}/x"), &format!("{name}.seen"), "disk"]
        {
            assert_eq!(Probe::parse(bad), None, "{bad}");
        }
    }
}
