//! Whether the host was restarted since the service last ran: then what was asked of it before is of another time.

use std::io;
use std::path::Path;

/// Names the kernel's current run (Linux, Documentation/admin-guide/sysctl/kernel.rst).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Whether the host was restarted since this was last asked with the same state directory. False the first time.
pub(crate) fn since_last_time(state_dir: &Path) -> io::Result<bool> {
    changed(state_dir, &std::fs::read_to_string(BOOT_ID)?)
}

fn changed(state_dir: &Path, now: &str) -> io::Result<bool> {
    let file = state_dir.join("boot_id");
    let before = match std::fs::read_to_string(&file) {
        Ok(before) => Some(before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if before.as_deref() == Some(now) {
        return Ok(false);
    }
    let temporary = file.with_extension("new");
    std::fs::write(&temporary, now)?;
    std::fs::rename(&temporary, &file)?;
    Ok(before.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_noticed_once() {
        let dir = std::env::temp_dir().join(uuid::Uuid::new_v4().to_string());
        std::fs::create_dir(&dir).unwrap();
        let seen = ["one", "one", "two", "two", "three"].map(|boot| changed(&dir, boot).unwrap());
        assert_eq!(seen, [false, false, true, false, true]);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
