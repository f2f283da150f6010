//! Two hosts of the lab's, with libvirt each, and an agent in each of them. Every test has its own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command as Process};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;
use whimbrel_messages::compute::{ImageSpec, InstanceSpec, PortSpec};
use whimbrel_messages::report::JobStats;
use whimbrel_model::{DiskFormat, ImageId, InstanceId, PortId, Resources};

use crate::agent::{self, Answer, Command, Request, Setup};

const LOCAL: &str = "/var/lib/whimbrel/local";
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Given {
    name: String,
    pid: i32,
    address: String,
}

impl Given {
    fn shell(&self, command: &str) -> String {
        let output = std::process::Command::new("nsenter")
            .args(["-t", &self.pid.to_string(), "-a", "--", "sh", "-c", command])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Where guests' disks are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    Shared,
    Local,
}

/// One test's hosts, directories and image.
pub(crate) struct Lab {
    pub(crate) hosts: Vec<Host>,
    pub(crate) image: ImageSpec,
    storage: Storage,
    // Last: what runs on them ends before they do.
    machines: whimbrel_lab::Hosts,
}

impl Lab {
    /// The hosts with an agent each.
    pub(crate) async fn start(storage: Storage, migration: Value) -> Self {
        let machines = tokio::task::spawn_blocking(|| whimbrel_lab::Hosts::start(2));
        let machines = machines.await.unwrap().unwrap_or_else(|error| panic!("{error:#}"));
        let directory = machines.dir().join("test");
        std::fs::create_dir_all(directory.join("shared")).unwrap();
        let file = machines.image().raw.clone();
        let bytes = std::fs::read(&file).unwrap();
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let size = i64::try_from(bytes.len()).unwrap();
        let format = DiskFormat::Raw;
        let id = ImageId(Uuid::new_v4());
        let image = ImageSpec { id, format, sha256, size, virtual_size: size };
        let mut hosts = Vec::new();
        for host in machines.all() {
            let given = Given {
                name: host.name().to_owned(),
                pid: host.init().unwrap().as_raw(),
                address: host.address().to_string(),
            };
            let instances = match storage {
                Storage::Shared => directory.join("shared"),
                Storage::Local => PathBuf::from(LOCAL),
            };
            let config = json!({
                "virt_type": "qemu",
                "instances_path": instances,
                "migration_address": given.address,
                "keepalive_interval_s": 2,
                "migration": migration,
            });
            let state_dir = directory.join(&given.name);
            let (name, image) = (given.name.clone(), file.clone());
            let setup = Setup { name, state_dir, image, config };
            hosts.push(Host::start(given, setup, instances));
        }
        Self { hosts, image, storage, machines }
    }

    /// A guest with a network interface.
    pub(crate) fn instance(&self) -> InstanceSpec {
        InstanceSpec {
            id: InstanceId(Uuid::new_v4()),
            name: "guest".to_owned(),
            resources: Resources { vcpus: 1, memory_mib: 128, disk_gib: 1 },
            image: self.image.clone(),
            ports: vec![PortSpec {
                id: PortId(Uuid::new_v4()),
                mac: "fa:16:3e:4e:00:65".to_owned(),
                address: "10.78.0.101".to_owned(),
                bridge: "brt".to_owned(),
                prefix: 16,
            }],
            volumes: Vec::new(),
            config_drive: None,
        }
    }

    /// Whether disks are copied by a move.
    pub(crate) fn is_local(&self) -> bool {
        self.storage == Storage::Local
    }

    /// Removes what the test left on the hosts: the guest, its files, the image.
    pub(crate) async fn end(mut self, id: InstanceId) {
        // Elsewhere first, as a disk that is in use on another host is not removed.
        for host in &self.hosts {
            host.shell(&format!("virsh destroy {id}"));
        }
        for host in &mut self.hosts {
            // What the old one is still busy with is no matter.
            host.kill().await;
            host.start_again();
            host.call::<()>(Command::Destroy { id, epoch: i64::MAX }).await.unwrap();
            assert_eq!(host.files(id), Vec::<String>::new(), "left on {}", host.name());
            host.shell(&format!("rm -f {LOCAL}/_base/{}", self.image.id));
            host.kill().await;
        }
        tokio::task::spawn_blocking(move || drop(self.machines)).await.unwrap();
    }
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Value, (String, String)>>>>>;

/// One host and the agent in it.
pub(crate) struct Host {
    given: Given,
    setup: Setup,
    instances: PathBuf,
    agent: Child,
    input: ChildStdin,
    waiting: Waiting,
    next: AtomicU64,
    /// The latest figures of a move, and whether it is in post-copy.
    pub(crate) progress: watch::Receiver<Option<(JobStats, bool)>>,
}

/// An answer to come.
pub(crate) struct Pending(oneshot::Receiver<Result<Value, (String, String)>>);

impl Pending {
    /// The answer; an error's kind and text.
    pub(crate) async fn get<T: DeserializeOwned>(self) -> Result<T, (String, String)> {
        let answer = tokio::time::timeout(DEADLINE, self.0).await.expect("an answer in time");
        let value = answer.expect("the agent lives")?;
        Ok(serde_json::from_value(value).unwrap())
    }
}

impl Host {
    fn start(given: Given, setup: Setup, instances: PathBuf) -> Self {
        let mut agent = in_host(given.pid, &std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "agent", "--nocapture"])
            .env(agent::SETUP, serde_json::to_string(&setup).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = agent.stdin.take().unwrap();
        let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
        let waiting = Waiting::default();
        let (told, progress) = watch::channel(None);
        let answers = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let Some(line) = line.strip_prefix(agent::MARK) else { continue };
                match serde_json::from_str(line).unwrap() {
                    Answer::Done { number, result } => {
                        let waiting = answers.lock().unwrap().remove(&number).unwrap();
                        let _ = waiting.send(result);
                    }
                    Answer::Progress { stats, post_copy, .. } => {
                        told.send_replace(Some((stats, post_copy)));
                    }
                }
            }
            answers.lock().unwrap().clear();
        });
        Self { given, setup, instances, agent, input, waiting, next: AtomicU64::new(1), progress }
    }

    /// Another agent in the place of one that was killed.
    pub(crate) fn start_again(&mut self) {
        assert!(self.agent.id().is_none(), "two agents on one host");
        let (given, setup) = (self.given.clone(), self.setup.clone());
        *self = Self::start(given, setup, self.instances.clone());
    }

    /// As a crash does it. The agent is a child of nsenter's, which would leave it running if killed itself,
    /// and which ends when it has seen the agent's end.
    pub(crate) async fn kill(&mut self) {
        let nsenter = self.agent.id().expect("the agent lives");
        let children = format!("/proc/{nsenter}/task/{nsenter}/children");
        let agent = wait_for("an agent", || {
            let children = std::fs::read_to_string(&children).unwrap();
            children.split_whitespace().next().map(|id| Pid::from_raw(id.parse().unwrap()))
        });
        kill(agent.await, Signal::SIGKILL).unwrap();
        self.agent.wait().await.unwrap();
    }

    pub(crate) fn name(&self) -> &str {
        &self.given.name
    }

    pub(crate) async fn begin(&mut self, command: Command) -> Pending {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().unwrap().insert(number, answer);
        let mut line = serde_json::to_string(&Request { number, command }).unwrap();
        line.push('\n');
        self.input.write_all(line.as_bytes()).await.unwrap();
        Pending(answered)
    }

    pub(crate) async fn call<T: DeserializeOwned>(
        &mut self,
        command: Command,
    ) -> Result<T, (String, String)> {
        self.begin(command).await.get().await
    }

    /// Lets a post-copy go at full speed as soon as the agent is seen to follow it from now on: nothing is left
    /// to happen in its middle.
    pub(crate) fn hurry_what_is_followed(&self, id: InstanceId) -> JoinHandle<()> {
        let (given, mut progress) = (self.given.clone(), self.progress.clone());
        progress.mark_unchanged();
        tokio::spawn(async move {
            // Again and again, as a broken post-copy can't be told.
            while progress.changed().await.is_ok() {
                let command = format!("virsh migrate-setspeed {id} 1000 --postcopy && echo done");
                if given.shell(&command).contains("done") {
                    return;
                }
            }
        })
    }

    /// Runs a shell command in the host; what it wrote.
    pub(crate) fn shell(&self, command: &str) -> String {
        self.given.shell(command)
    }

    /// The state of a guest as `virsh` tells it, with its reason; empty if there is none.
    pub(crate) fn domstate(&self, id: InstanceId) -> String {
        self.shell(&format!("virsh domstate --reason {id} 2>/dev/null")).trim().to_owned()
    }

    /// The host's own, as its process ids are. It is dead afterwards: another one could not start before.
    pub(crate) async fn kill_libvirtd(&self) {
        self.shell("kill -9 $(pgrep -x libvirtd)");
        let dead = || self.shell("pgrep -x libvirtd").is_empty().then_some(());
        wait_for("end of libvirtd", dead).await;
    }

    pub(crate) fn start_libvirtd(&self) {
        let said = self.shell("/usr/sbin/libvirtd --listen -d 2>&1 && echo started");
        assert!(said.ends_with("started\n"), "{said}");
    }

    /// The names of a guest's files.
    pub(crate) fn files(&self, id: InstanceId) -> Vec<String> {
        let directory = self.instances.join(id.to_string());
        let names = self.shell(&format!("ls -A {} 2>/dev/null", directory.display()));
        names.lines().map(str::to_owned).collect()
    }

    /// A guest's file, as it is in the host.
    pub(crate) fn file(&self, id: InstanceId, name: &str) -> PathBuf {
        self.instances.join(id.to_string()).join(name)
    }

    /// The latest heartbeat on a guest's console, `HB boot=<id> n=<number>`.
    pub(crate) fn heartbeat(&self, id: InstanceId) -> Option<(String, u64)> {
        let log = self.file(id, "console.log");
        let lines = self.shell(&format!("tail -c 400 {} 2>/dev/null", log.display()));
        lines.lines().rev().find_map(|line| {
            let (boot, number) = line.trim().strip_prefix("HB boot=")?.split_once(" n=")?;
            Some((boot.to_owned(), number.parse().ok()?))
        })
    }

    /// Waits for a heartbeat after `number`.
    pub(crate) async fn wait_for_heartbeat(&self, id: InstanceId, number: u64) -> (String, u64) {
        wait_for("a heartbeat", || self.heartbeat(id).filter(|(_, n)| *n > number)).await
    }
}

fn in_host(pid: i32, program: &Path) -> Process {
    let mut process = Process::new("nsenter");
    process.args(["-t", &pid.to_string(), "-a", "--"]).arg(program);
    process
}

/// Waits until `look` finds something.
pub(crate) async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    loop {
        ticks.tick().await;
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "no {what} in time");
    }
}
