//! The private RabbitMQ.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;

use super::daemon::Daemon;
use super::{USER, management};
use crate::process::Spawner;

/// Where the package put the server: one folder per version.
const PROGRAMS: &str = "/usr/lib/rabbitmq/lib";
/// The first start of a broker takes 7 s on an idle machine of two cores.
const START_PATIENCE: Duration = Duration::from_secs(120);
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// The loopback ports of a broker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) amqp: u16,
    pub(super) management: u16,
    /// Of its own name service: the machine's would tell other brokers about this one, and stay behind.
    pub(super) epmd: u16,
    pub(super) distribution: u16,
}

#[derive(Debug)]
struct Running {
    broker: Daemon,
    /// Ends after the broker, which would start another one if it missed it.
    _epmd: Daemon,
}

/// A RabbitMQ server in a directory of its own.
#[derive(Debug)]
pub struct RabbitMq {
    // Before the spawner: what is running ends before the thread that started it.
    running: Mutex<Option<Running>>,
    spawner: Spawner,
    script: PathBuf,
    directory: PathBuf,
    ports: Ports,
    node: String,
}

impl RabbitMq {
    pub(super) fn create(directory: &Path, ports: Ports) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory.join("home"))?;
        let broker = Self {
            running: Mutex::new(None),
            spawner: Spawner::new()?,
            script: server_script()?,
            directory: directory.to_owned(),
            ports,
            node: format!("whimbrel-{}@localhost", ports.epmd),
        };
        std::fs::write(directory.join("rabbitmq.conf"), configuration(ports))?;
        std::fs::write(directory.join("enabled_plugins"), "[rabbitmq_management].\n")?;
        broker.start()?;
        Ok(broker)
    }

    /// The address of one of its vhosts.
    pub fn url(&self, vhost: &str) -> String {
        format!("amqp://{USER}:{USER}@127.0.0.1:{}/{}", self.ports.amqp, vhost.replace('/', "%2f"))
    }

    /// The address of its management API.
    pub fn management_url(&self) -> String {
        format!("http://{USER}:{USER}@127.0.0.1:{}", self.ports.management)
    }

    /// The loopback port it listens on for AMQP; the same after a restart.
    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// The process id of the broker, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.lock().as_mut().and_then(|all| all.broker.running_id())
    }

    /// Starts it; one that runs stays as it is.
    ///
    /// # Errors
    /// When it doesn't answer in time.
    pub fn start(&self) -> anyhow::Result<()> {
        let mut running = self.lock();
        if running.as_mut().is_some_and(|all| all.broker.is_running()) {
            return Ok(());
        }
        // The old name service would still know the old broker.
        *running = None;
        let start = |name, command| {
            let log = self.directory.join("output");
            Daemon::start(&self.spawner, name, command, Signal::SIGKILL, &log)
        };
        let mut epmd = start("epmd", self.name_service())?;
        epmd.wait_ready(START_PATIENCE, || management::listens(self.ports.epmd))?;
        let mut broker = start("RabbitMQ", self.command())?;
        // The management API comes last.
        broker.wait_ready(START_PATIENCE, || {
            management::listens(self.ports.amqp)
                && management::request(self.ports.management, "GET", "/api/whoami").is_ok()
        })?;
        *running = Some(Running { broker, _epmd: epmd });
        Ok(())
    }

    /// Stops it in order: clients are told, queues are written. Takes some 6 s.
    ///
    /// # Errors
    /// When it can't be signalled.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.end(Signal::SIGTERM)
    }

    /// Ends it as a crash would.
    ///
    /// # Errors
    /// When it can't be signalled.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.end(Signal::SIGKILL)
    }

    /// Stops and starts it.
    ///
    /// # Errors
    /// When it can't be signalled or doesn't answer in time.
    pub fn restart(&self) -> anyhow::Result<()> {
        self.stop()?;
        self.start()
    }

    pub(super) fn create_vhost(&self, vhost: &str) -> anyhow::Result<()> {
        // Over HTTP: a call of rabbitmqctl takes over a second, and this 10 ms.
        // The user that makes a vhost this way gets all permissions on it.
        let path = format!("/api/vhosts/{}", vhost.replace('/', "%2f"));
        management::request(self.ports.management, "PUT", &path)
    }

    pub(super) fn delete_vhost(&self, vhost: &str) -> anyhow::Result<()> {
        let path = format!("/api/vhosts/{}", vhost.replace('/', "%2f"));
        management::request(self.ports.management, "DELETE", &path)
    }

    fn end(&self, signal: Signal) -> anyhow::Result<()> {
        match self.lock().as_mut() {
            Some(all) => all.broker.end(signal, STOP_PATIENCE),
            None => Ok(()),
        }
    }

    fn name_service(&self) -> Command {
        let mut command = ends_with_us("epmd");
        command.args(["-port", &self.ports.epmd.to_string(), "-address", "127.0.0.1"]);
        command
    }

    fn command(&self) -> Command {
        let mut command = ends_with_us(&self.script);
        let set_path = |command: &mut Command, variable: &str, name: &str| {
            command.env(variable, self.directory.join(name));
        };
        for (variable, name) in [
            ("HOME", "home"),
            ("RABBITMQ_MNESIA_BASE", "mnesia"),
            ("RABBITMQ_LOG_BASE", "log"),
            ("RABBITMQ_PID_FILE", "pid"),
            ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced.config"),
            ("RABBITMQ_GENERATED_CONFIG_DIR", "generated"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
            ("RABBITMQ_CONF_ENV_FILE", "none"),
        ] {
            set_path(&mut command, variable, name);
        }
        command
            .env("RABBITMQ_NODENAME", &self.node)
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("LC_ALL", "C.UTF-8")
            // Makes the script become the broker instead of staying its parent.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
            );
        command
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn configuration(ports: Ports) -> String {
    format!(
        "listeners.tcp.1 = 127.0.0.1:{}\n\
         management.tcp.ip = 127.0.0.1\n\
         management.tcp.port = {}\n\
         default_user = {USER}\n\
         default_pass = {USER}\n\
         vm_memory_high_watermark.absolute = 1GB\n\
         disk_free_limit.absolute = 50MB\n",
        ports.amqp, ports.management
    )
}

fn ends_with_us(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// The real start script: the one in the path changes to the system's user and directories.
fn server_script() -> anyhow::Result<PathBuf> {
    let versions = std::fs::read_dir(PROGRAMS).context("RabbitMQ is not installed: make setup")?;
    versions
        .filter_map(|version| Some(version.ok()?.path().join("sbin/rabbitmq-server")))
        .filter(|script| script.exists())
        .max()
        .context("RabbitMQ is not installed: make setup")
}
