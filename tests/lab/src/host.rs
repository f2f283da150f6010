//! A host: namespaces of its own for network, mounts, processes and name, and in them an own libvirtd. What
//! runs in it believes to be on a machine of its own; its disks are a directory of the lab.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::unistd::Pid;

use crate::libvirt;
use crate::process::{Prepared, Process, Spawner, alive, all_processes, command_line, run};
use crate::switch::{Link, Switch};
use crate::wait::{Deadline, until};

/// Where guests' disks are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// In one directory that all hosts have, as on NFS.
    #[default]
    Shared,
    /// On each host's own disk.
    Local,
}

impl Storage {
    /// The directory as the host sees it.
    pub(crate) fn on_host(self) -> PathBuf {
        match self {
            Self::Shared => PathBuf::from("/var/lib/whimbrel/shared"),
            Self::Local => PathBuf::from("/var/lib/whimbrel/local"),
        }
    }
}

/// A host of the lab.
#[derive(Debug)]
pub struct Host {
    name: String,
    number: u8,
    dir: PathBuf,
    shared: PathBuf,
    logs: PathBuf,
    spawner: Arc<Spawner>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    libvirtd: Option<Process>,
    init: Pid,
    /// `unshare`, whose only child is `init`. Last, so that it is dropped last.
    unshare: Process,
}

/// What makes a host.
pub(crate) struct Site<'a> {
    /// Its name, at most 13 letters.
    pub(crate) name: String,
    /// Its number, from 0.
    pub(crate) number: u8,
    /// Its private directory.
    pub(crate) dir: PathBuf,
    /// The directory that all hosts share.
    pub(crate) shared: PathBuf,
    /// Where logs go.
    pub(crate) logs: PathBuf,
    /// Lines of `/etc/hosts` for all hosts.
    pub(crate) hosts_file: &'a str,
}

impl Host {
    pub(crate) fn new(site: Site<'_>, spawner: Arc<Spawner>) -> anyhow::Result<Self> {
        let Site { name, number, dir, shared, logs, hosts_file } = site;
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        std::fs::write(dir.join("hosts"), hosts_file)?;
        std::fs::write(dir.join("init.sh"), include_str!("host_init.sh"))?;
        let host = Self { name, number, dir, shared, logs, spawner, running: Mutex::new(None) };
        libvirt::write_config(&host)?;
        Ok(host)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, from 0.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its address on the management network.
    pub fn address(&self) -> Ipv4Addr {
        address_of(self.number)
    }

    /// Its private directory, outside.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of guests' disks as seen from outside.
    pub fn instances_dir(&self, storage: Storage) -> PathBuf {
        match storage {
            Storage::Shared => self.shared.clone(),
            Storage::Local => self.dir.join("whimbrel/local"),
        }
    }

    /// The files below the directory of guests' disks, relative to it, sorted; base images left out.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn instance_files(&self, storage: Storage) -> anyhow::Result<Vec<PathBuf>> {
        crate::observe::instance_files(&self.instances_dir(storage))
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.lock().as_ref().is_some_and(|running| alive(running.init))
    }

    /// Starts it, with its libvirtd. Does nothing if it is up.
    pub(crate) fn start(&self, switch: &Switch) -> anyhow::Result<()> {
        let mut running = self.lock();
        if running.as_ref().is_some_and(|running| alive(running.init)) {
            return Ok(());
        }
        *running = None;
        let ready = self.dir.join("ready");
        if let Err(error) = std::fs::remove_file(&ready)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).context("removing an old sign of readiness");
        }
        let init = Prepared::new("/bin/sh")
            .args([self.dir.join("init.sh").display().to_string()])
            .inside(NAMESPACES)
            .env("HOST", &self.name)
            .env("DIR", self.dir.display().to_string())
            .env("SHARED", self.shared.display().to_string());
        let log = self.logs.join(format!("{}.log", self.name));
        let unshare = self.spawner.start(&self.name, init, &log)?;
        let init = unshare.only_child()?;
        until(
            Deadline::after(Duration::from_secs(10)),
            &format!("{} to start", self.name),
            || {
                if let Some(status) = unshare.exited()? {
                    bail!("{} ended at once: {status}; see {}", self.name, log.display());
                }
                Ok(ready.exists().then_some(()))
            },
        )?;
        switch.plug(&self.name, init, Link::Management)?;
        switch.plug(&self.name, init, Link::Tenant)?;
        *running = Some(Running { libvirtd: None, init, unshare });
        drop(running);
        for words in [
            &format!("addr add {}/24 dev eth0", self.address()),
            "link set eth0 up",
            "link set eth1 master brt",
            "link set eth1 up",
        ] {
            self.run(&std::iter::once("ip").chain(words.split(' ')).collect::<Vec<_>>())?;
        }
        self.start_libvirtd()
    }

    /// Kills it suddenly: everything in it is gone at once, as after a power cut. Its disks stay.
    pub(crate) fn kill(&self) -> anyhow::Result<()> {
        let Some(mut running) = self.lock().take() else { bail!("{} is down already", self.name) };
        running.unshare.kill()?;
        // Dropped after the namespaces are gone, so nothing is left for it to wait for.
        running.libvirtd = None;
        Ok(())
    }

    /// Starts libvirtd and waits until it answers. Does nothing if it runs.
    pub(crate) fn start_libvirtd(&self) -> anyhow::Result<()> {
        let command = self.prepare(libvirt::daemon())?;
        {
            let mut running = self.lock();
            let running = running.as_mut().context("the host is down")?;
            if running.libvirtd.as_ref().is_some_and(Process::is_running) {
                return Ok(());
            }
            let log = self.logs.join(format!("libvirtd-{}.log", self.name));
            let name = format!("libvirtd@{}", self.name);
            running.libvirtd = Some(self.spawner.start(&name, command, &log)?);
        }
        libvirt::wait_until_it_answers(self)
    }

    /// Does something with the running libvirtd.
    pub(crate) fn with_libvirtd<T>(
        &self,
        act: impl FnOnce(&Process) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let running = self.lock();
        let libvirtd = running.as_ref().and_then(|running| running.libvirtd.as_ref());
        act(libvirtd.with_context(|| format!("libvirtd does not run on {}", self.name))?)
    }

    /// Runs a program in the host and returns what it says.
    ///
    /// # Errors
    /// When it fails, or the host is down.
    pub fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let (program, arguments) = words.split_first().context("no program")?;
        run(&self.prepare(Prepared::new(*program).args(arguments.iter().copied()))?)
            .with_context(|| format!("on {}", self.name))
    }

    /// `virsh` in the host.
    ///
    /// # Errors
    /// When it fails, or the host is down.
    pub fn virsh(&self, words: &[&str]) -> anyhow::Result<String> {
        let words: Vec<&str> = ["virsh", "-q"].iter().chain(words).copied().collect();
        self.run(&words)
    }

    /// Wraps a command so that it runs in the host.
    pub(crate) fn prepare(&self, command: Prepared) -> anyhow::Result<Prepared> {
        let init = self.init()?.to_string();
        Ok(command.inside(["nsenter", "-t", &init, "-n", "-m", "-u", "-p", "-i", "--"]))
    }

    /// Process 1 of the host, as the machine numbers it.
    ///
    /// # Errors
    /// When the host is down.
    pub fn init(&self) -> anyhow::Result<Pid> {
        let running = self.lock();
        Ok(running.as_ref().with_context(|| format!("{} is down", self.name))?.init)
    }

    /// The emulators that run in the host: each guest's name and its process, also those that libvirtd has
    /// lost sight of. This is the last word on where a guest runs.
    ///
    /// # Errors
    /// When `/proc` can't be read.
    pub fn guests(&self) -> anyhow::Result<Vec<GuestProcess>> {
        let Ok(init) = self.init() else { return Ok(Vec::new()) };
        let namespace = |id: Pid| std::fs::read_link(format!("/proc/{id}/ns/pid")).ok();
        let Some(own) = namespace(init) else { return Ok(Vec::new()) };
        let mut found: Vec<GuestProcess> = all_processes()?
            .into_iter()
            .filter(|id| namespace(*id).as_ref() == Some(&own))
            .filter_map(|id| GuestProcess::read(id, &command_line(id)))
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.lock().is_some() {
            let _ = self.kill();
        }
    }
}

const NAMESPACES: [&str; 11] = [
    "unshare",
    "--net",
    "--mount",
    "--uts",
    "--pid",
    "--ipc",
    "--fork",
    "--mount-proc",
    "--propagation",
    "private",
    "--kill-child=SIGKILL",
];

/// An emulator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestProcess {
    /// The domain's name.
    pub name: String,
    /// The domain's id, which is the server's.
    pub uuid: String,
    /// The emulator's process, as the machine numbers it.
    pub pid: i32,
    /// Whether it was started to receive a guest. Stays true after the guest has arrived.
    pub incoming: bool,
}

impl GuestProcess {
    fn read(id: Pid, words: &[String]) -> Option<Self> {
        let after = |flag: &str| {
            words.iter().position(|word| word == flag).and_then(|at| words.get(at + 1)).cloned()
        };
        if !words.first()?.contains("qemu") {
            return None;
        }
        let name = after("-name")?;
        let name =
            name.split(',').find_map(|part| part.strip_prefix("guest=").or(Some(part)))?.to_owned();
        let incoming = words.iter().any(|word| word == "-incoming");
        Some(Self { name, uuid: after("-uuid")?, pid: id.as_raw(), incoming })
    }
}

/// The management address of the host with this number.
pub(crate) fn address_of(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 11 + number)
}

/// The name of the host with this number: `host-a`, `host-b`, …, `host-z`, `host-27`, …
pub(crate) fn name_of(number: u8) -> String {
    match number {
        0..26 => format!("host-{}", char::from(b'a' + number)),
        _ => format!("host-{}", u16::from(number) + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn an_emulator_is_known_by_its_command_line() {
        let line = "/usr/bin/qemu-system-x86_64 -name guest=g1,debug-threads=on -uuid 4dea22b3 -incoming defer";
        let found = GuestProcess::read(Pid::from_raw(7), &words(line)).unwrap();
        assert_eq!(
            found,
            GuestProcess { name: "g1".into(), uuid: "4dea22b3".into(), pid: 7, incoming: true }
        );
        let other =
            GuestProcess::read(Pid::from_raw(7), &words("/usr/bin/qemu-img -name guest=g1"));
        assert_eq!(other, None);
    }

    #[test]
    fn hosts_have_names_and_addresses_in_turn() {
        assert_eq!((name_of(0).as_str(), name_of(2).as_str()), ("host-a", "host-c"));
        assert_eq!(name_of(26), "host-27");
        assert_eq!(address_of(1), Ipv4Addr::new(10, 77, 0, 12));
    }
}
