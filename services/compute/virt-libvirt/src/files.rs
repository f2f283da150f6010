//! Files that must be whole or absent, and questions about file systems.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::statfs::statfs;
use nix::sys::statvfs::statvfs;
use whimbrel_virt::DriverError;

use crate::error::Doing;

/// Runs `work`, which reads or writes files, where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, DriverError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.doing(doing),
        Err(error) => Err(DriverError::Hypervisor { doing, message: error.to_string() }),
    }
}

/// Whether something has that name. Storage that hangs holds up nobody else.
pub(crate) async fn exists(path: &Path) -> Result<bool, DriverError> {
    tokio::fs::try_exists(path).await.doing("look for a file")
}

/// A name in the directory of `path` that nobody else uses, for what is to become `path`.
///
/// The directory may be shared, so it names the process by its start and the machine's own counter.
pub(crate) fn temporary_beside(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unique = uuid::Uuid::new_v4().simple();
    path.with_file_name(format!(".{name}.{unique}.{number}.partial"))
}

/// Writes a file so that it has the old or the new content, whatever happens.
pub(crate) fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// Makes a complete file durable and gives it its name. If another was faster, its file stays: whoever
/// opened that keeps seeing the same file.
pub(crate) fn publish(temporary: &Path, path: &Path) -> io::Result<()> {
    File::open(temporary)?.sync_all()?;
    match fs::hard_link(temporary, path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    fs::remove_file(temporary)?;
    sync_parent(path)
}

/// Makes a directory, and its parents, that the emulator's user can pass through.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o711))?;
    sync_parent(path)
}

/// Removes a file. Fine if there is none.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_file(path))
}

/// Removes a directory and what is in it. Fine if there is none.
pub(crate) fn remove_directory(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_dir_all(path))?;
    sync_parent(path)
}

fn absent_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Makes the names in the directory of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// The first file in a guest's directory that an emulator has open, on this host or on another one that
/// shares the storage: QEMU locks the images that it uses.
pub(crate) fn first_file_in_use(directory: &Path) -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_file() && is_locked(&path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn is_locked(path: &Path) -> io::Result<bool> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    // QEMU takes shared locks on bytes 100 to 263, so a question for an exclusive one finds them.
    let mut lock = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => Ok(i32::from(lock.l_type) != nix::libc::F_UNLCK),
        // A file system without locks can't tell; QEMU has none there either.
        Err(nix::errno::Errno::ENOLCK | nix::errno::Errno::EINVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether libvirt takes the file system for one that hosts can share (its virFileIsSharedFS).
pub(crate) fn is_network_filesystem(path: &Path) -> io::Result<bool> {
    const NETWORK: [i64; 9] = [
        0x6969,      // NFS
        0x0116_1970, // GFS2
        0x7461_636f, // OCFS2
        0x5346_414f, // AFS
        0x517b,      // SMB
        0xff53_4d42, // CIFS
        0xfe53_4d42, // SMB2
        0x00c3_6400, // Ceph
        0x4750_4653, // GPFS
    ];
    let kind = statfs(path)?.filesystem_type().0;
    Ok(NETWORK.contains(&(kind & 0xffff_ffff)))
}

/// Size and free space of the file system of `path`, in bytes.
pub(crate) fn space(path: &Path) -> io::Result<(u64, u64)> {
    let figures = statvfs(path)?;
    let block = figures.fragment_size();
    Ok((figures.blocks() * block, figures.blocks_available() * block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::TempDir;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let dir = TempDir::new();
        let path = dir.path().join("record");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_first_of_two_that_publish_the_same_file_stays() {
        let dir = TempDir::new();
        let path = dir.path().join("image");
        for content in ["first", "second"] {
            let temporary = temporary_beside(&path);
            fs::write(&temporary, content).unwrap();
            publish(&temporary, &path).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_somebody_has_locked_is_in_use() {
        let dir = TempDir::new();
        let path = dir.path().join("disk");
        fs::write(&path, b"x").unwrap();
        assert_eq!(first_file_in_use(dir.path()).unwrap(), None);

        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let lock = nix::libc::flock {
            l_type: nix::libc::F_RDLCK as i16,
            l_whence: nix::libc::SEEK_SET as i16,
            l_start: 100,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        assert_eq!(first_file_in_use(dir.path()).unwrap(), Some(path));
        drop(file);
        assert_eq!(first_file_in_use(dir.path()).unwrap(), None);
        assert_eq!(first_file_in_use(&dir.path().join("absent")).unwrap(), None);
    }
}
