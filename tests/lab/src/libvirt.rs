//! libvirtd on a host: no daemon of the machine's own takes part, and nothing of the machine's
//! configuration is used.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::host::Host;
use crate::process::{Prepared, alive};
use crate::wait::{Deadline, until};

/// First answer of a libvirtd that has to find out what each of many emulators can do.
const COLD_START: Duration = Duration::from_secs(60);

pub(crate) fn daemon() -> Prepared {
    Prepared::new("/usr/sbin/libvirtd").args(["--listen"])
}

/// Writes the host's `/etc/libvirt` and, if an earlier lab has left it, what is known about the emulators.
pub(crate) fn write_config(host: &Host) -> anyhow::Result<()> {
    let dir = host.dir().join("libvirt");
    for part in ["etc", "lib", "log/qemu", "cache"] {
        let path = dir.join(part);
        std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
    }
    std::fs::write(dir.join("etc/libvirtd.conf"), libvirtd_conf(host))?;
    std::fs::write(dir.join("etc/qemu.conf"), qemu_conf(host))?;
    if let Some(warm) = warm_cache(host).filter(|warm| warm.is_dir()) {
        copy_dir(&warm, &dir.join("cache"))?;
    }
    Ok(())
}

/// Waits until libvirtd answers, and keeps what it has found out for later labs.
pub(crate) fn wait_until_it_answers(host: &Host) -> anyhow::Result<()> {
    let init = host.init()?;
    let socket = PathBuf::from(format!("/proc/{init}/root/run/libvirt/libvirt-sock"));
    until(Deadline::after(COLD_START), &format!("libvirtd on {}", host.name()), || {
        if !alive(init) {
            bail!("{} has died", host.name());
        }
        host.with_libvirtd(|libvirtd| match libvirtd.exited()? {
            Some(status) => bail!("libvirtd on {} ended: {status}; see its log", host.name()),
            None => Ok(()),
        })?;
        Ok(socket.exists().then(|| host.virsh(&["version"]).ok()).flatten().map(drop))
    })?;
    keep_cache(host)
}

fn keep_cache(host: &Host) -> anyhow::Result<()> {
    let Some(warm) = warm_cache(host).filter(|warm| !warm.exists()) else { return Ok(()) };
    // Two labs may do this at once: each writes its own and the first to rename wins.
    let own = warm.with_extension(std::process::id().to_string());
    copy_dir(&host.dir().join("libvirt/cache"), &own)?;
    if std::fs::rename(&own, &warm).is_err() {
        let _ = std::fs::remove_dir_all(&own);
    }
    Ok(())
}

/// `.lab/cache/libvirt`, next to the labs' directories. libvirtd itself checks whether it still holds.
fn warm_cache(host: &Host) -> Option<PathBuf> {
    host.dir().ancestors().nth(3).map(|labs| labs.join("cache/libvirt"))
}

fn copy_dir(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)
                .with_context(|| format!("copying {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn libvirtd_conf(host: &Host) -> String {
    // libvirt refuses to migrate between hosts of the same id.
    format!(
        r#"listen_tls = 0
listen_tcp = 1
listen_addr = "{address}"
auth_tcp = "none"
auth_unix_rw = "none"
host_uuid = "00000000-0000-4000-8000-{number:012}"
keepalive_interval = 2
keepalive_count = 3
log_level = 3
log_outputs = "3:stderr"
"#,
        address = host.address(),
        number = host.number() + 1,
    )
}

fn qemu_conf(host: &Host) -> String {
    format!(
        r#"user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
namespaces = []
seccomp_sandbox = 0
stdio_handler = "file"
migration_host = "{address}"
migration_address = "{address}"
migration_port_min = 49152
migration_port_max = 49215
keepalive_interval = 2
keepalive_count = 3
"#,
        address = host.address(),
    )
}
