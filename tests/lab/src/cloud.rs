//! The hosts and the switch between them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};

use crate::host::{Host, Site, address_of, name_of};
use crate::process::Spawner;
use crate::switch::{Link, Switch};

/// Most hosts of a lab: their addresses must fit between those of the switch and the guests.
pub const MAX_HOSTS: u8 = 26;

/// The hosts and the switch between them. Hosts are dropped before the switch they are plugged into.
#[derive(Debug)]
pub(crate) struct Cloud {
    hosts: Vec<Arc<Host>>,
    switch: Switch,
}

impl Cloud {
    /// Starts the switch and `count` hosts below `dir`.
    pub(crate) fn start(
        count: u8,
        dir: &Path,
        logs: &Path,
        spawner: &Arc<Spawner>,
    ) -> anyhow::Result<Self> {
        ensure!((1..=MAX_HOSTS).contains(&count), "a lab has 1 to {MAX_HOSTS} hosts");
        ensure_root()?;
        let shared = dir.join("shared");
        std::fs::create_dir_all(&shared)
            .with_context(|| format!("creating {}", shared.display()))?;
        let hosts_file = hosts_file(count);
        let hosts = (0..count)
            .map(|number| {
                let name = name_of(number);
                let dir = dir.join("hosts").join(&name);
                let (shared, logs) = (shared.clone(), logs.to_owned());
                let site = Site { name, number, dir, shared, logs, hosts_file: &hosts_file };
                Ok(Arc::new(Host::new(site, Arc::clone(spawner))?))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let cloud = Self { hosts, switch: Switch::start(spawner, logs)? };
        cloud.start_hosts()?;
        Ok(cloud)
    }

    /// All at once: most of it is waiting.
    fn start_hosts(&self) -> anyhow::Result<()> {
        std::thread::scope(|scope| {
            let starting: Vec<_> =
                self.hosts.iter().map(|host| scope.spawn(|| host.start(&self.switch))).collect();
            starting.into_iter().try_for_each(|thread| {
                thread.join().map_err(|_| anyhow!("the start of a host panicked"))?
            })
        })
    }

    pub(crate) fn hosts(&self) -> &[Arc<Host>] {
        &self.hosts
    }

    pub(crate) fn host(&self, name: &str) -> anyhow::Result<&Arc<Host>> {
        let known = || self.hosts.iter().map(|host| host.name()).collect::<Vec<_>>().join(", ");
        self.hosts
            .iter()
            .find(|host| host.name() == name)
            .with_context(|| format!("no host '{name}': there are {}", known()))
    }

    pub(crate) fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Limits a cable in both directions.
    pub(crate) fn limit(&self, host: &str, link: Link, mib_s: Option<u32>) -> anyhow::Result<()> {
        self.switch.limit(self.host(host)?, link, mib_s)
    }

    pub(crate) fn stop(&self) -> anyhow::Result<()> {
        for host in self.hosts.iter().filter(|host| host.is_up()) {
            host.kill()?;
        }
        self.switch.stop()
    }
}

/// Says what to do where hosts can't be made.
pub(crate) fn ensure_root() -> anyhow::Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "hosts need root: run it with sudo; tests with make test"
    );
    Ok(())
}

fn hosts_file(count: u8) -> String {
    let mut text = "127.0.0.1 localhost\n10.77.0.1 switch\n".to_owned();
    for number in 0..count {
        text.push_str(&format!("{} {}\n", address_of(number), name_of(number)));
    }
    text
}

/// Removes a directory and what is in it, if it is there.
pub(crate) fn remove_dir(dir: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// The directory of all labs: `.lab` at the root of the repository.
pub fn labs_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).join(".lab")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wait::{Deadline, until};

    /// A machine without a disk: it stays in its firmware, which is enough to be moved.
    const DOMAIN: &str = "<domain type='qemu'><name>g1</name><memory unit='MiB'>16</memory>\
        <uuid>6b6f7f8e-5d9b-4b8e-9d8a-0c6a5d0e3f11</uuid>\
        <os><type arch='x86_64'>hvm</type></os><cpu mode='custom'><model>qemu64</model></cpu>\
        <features><acpi/></features>\
        <devices><interface type='bridge'><source bridge='brt'/><model type='virtio'/></interface>\
        </devices></domain>";

    #[test]
    fn a_guest_moves_between_hosts_and_a_killed_host_takes_all_with_it() {
        let dir = labs_dir().join(format!("t-cloud-{}", std::process::id()));
        let logs = dir.join("logs");
        std::fs::create_dir_all(&logs).unwrap();
        let spawner = Arc::new(Spawner::new().unwrap());
        let cloud = Cloud::start(2, &dir, &logs, &spawner).unwrap();
        let (a, b) = (cloud.host("host-a").unwrap(), cloud.host("host-b").unwrap());
        let xml = a.dir().join("g1.xml");
        std::fs::write(&xml, DOMAIN).unwrap();

        a.virsh(&["create", &xml.display().to_string()]).unwrap();
        let to_b = format!("qemu+tcp://{}/system", b.address());
        a.virsh(&["migrate", "--live", "--p2p", "g1", &to_b]).unwrap();
        assert_eq!(a.guests().unwrap(), []);
        let arrived = b.guests().unwrap();
        assert_eq!(arrived.iter().map(|guest| guest.name.as_str()).collect::<Vec<_>>(), ["g1"]);

        b.kill().unwrap();
        let emulator = format!("/proc/{}", arrived[0].pid);
        let gone = || Ok((!Path::new(&emulator).exists()).then_some(()));
        until(Deadline::after(Duration::from_secs(5)), "the emulator to die", gone).unwrap();
        b.start(cloud.switch()).unwrap();
        assert_eq!(b.guests().unwrap(), []);
        cloud.stop().unwrap();
        drop(cloud);
        remove_dir(&dir).unwrap();
    }
}
