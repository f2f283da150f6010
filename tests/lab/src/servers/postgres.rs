//! The private PostgreSQL.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;

use super::daemon::Daemon;
use super::{Durability, USER};
use crate::process::Spawner;

/// Where the package put the programs: the newest version that is there.
const PROGRAMS: &str = "/usr/lib/postgresql";
/// The system user of the server when the lab runs as root, which PostgreSQL refuses to run as.
const SYSTEM_USER: &str = "postgres";
/// That user's home: where it sees its data, wherever they are.
const HOME: &str = "/var/lib/postgresql";
const START_PATIENCE: Duration = Duration::from_secs(30);
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// A PostgreSQL server in a directory of its own.
#[derive(Debug)]
pub struct Postgres {
    // Before the spawner: what is running ends before the thread that started it.
    running: Mutex<Option<Daemon>>,
    spawner: Spawner,
    programs: PathBuf,
    directory: PathBuf,
    port: u16,
    durability: Durability,
}

impl Postgres {
    pub(super) fn create(
        directory: &Path,
        port: u16,
        durability: Durability,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory.join("home"))?;
        let server = Self {
            running: Mutex::new(None),
            spawner: Spawner::new()?,
            programs: newest_programs()?,
            directory: directory.to_owned(),
            port,
            durability,
        };
        if nix::unistd::geteuid().is_root() {
            let user = nix::unistd::User::from_name(SYSTEM_USER)?
                .with_context(|| format!("there is no system user {SYSTEM_USER}: make setup"))?;
            std::os::unix::fs::chown(
                server.home(),
                Some(user.uid.as_raw()),
                Some(user.gid.as_raw()),
            )?;
        }
        std::fs::set_permissions(server.home(), Permissions::from_mode(0o700))?;
        server.initialise()?;
        server.start()?;
        server.query("postgres", &format!("CREATE DATABASE {USER}"))?;
        Ok(server)
    }

    /// The address of one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// The loopback port it listens on; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.lock().as_mut().and_then(Daemon::running_id)
    }

    /// Starts it; one that runs stays as it is.
    ///
    /// # Errors
    /// When it doesn't answer in time.
    pub fn start(&self) -> anyhow::Result<()> {
        let mut running = self.lock();
        if running.as_mut().is_some_and(Daemon::is_running) {
            return Ok(());
        }
        let mut settings = vec![
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            "max_connections=300".to_owned(),
            "shared_buffers=64MB".to_owned(),
        ];
        if self.durability == Durability::Throwaway {
            // Not synchronous_commit=off: a killed server would lose what it had acknowledged.
            settings.extend(["fsync=off", "full_page_writes=off"].map(str::to_owned));
        }
        let data = self.data();
        let words = settings.iter().flat_map(|setting| ["-c", setting.as_str()]);
        let command = self.command("postgres", ["-D", &data].into_iter().chain(words));
        // SIGQUIT, not SIGKILL: ended that way it removes its shared memory.
        let log = self.directory.join("log");
        let mut daemon =
            Daemon::start(&self.spawner, "PostgreSQL", command, Signal::SIGQUIT, &log)?;
        daemon.wait_ready(START_PATIENCE, || self.query("postgres", "SELECT 1").is_ok())?;
        *running = Some(daemon);
        Ok(())
    }

    /// Stops it in order: sessions are ended, everything is written.
    ///
    /// # Errors
    /// When it can't be signalled.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.end(Signal::SIGINT)
    }

    /// Ends it as a crash would: no checkpoint, recovery at the next start.
    ///
    /// # Errors
    /// When it can't be signalled.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.end(Signal::SIGQUIT)
    }

    /// Stops and starts it.
    ///
    /// # Errors
    /// When it can't be signalled or doesn't answer in time.
    pub fn restart(&self) -> anyhow::Result<()> {
        self.stop()?;
        self.start()
    }

    /// Runs SQL and returns what it printed: rows in lines, columns separated by `|`.
    ///
    /// # Errors
    /// When the server can't be reached or refuses; the message is the server's.
    pub fn query(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let output = Command::new(self.programs.join("psql"))
            .args(["--no-psqlrc", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"])
            .args(["--dbname", &self.url(database), "--command", sql])
            .stdin(Stdio::null())
            .output()
            .context("running psql")?;
        if !output.status.success() {
            bail!("{sql}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    fn end(&self, signal: Signal) -> anyhow::Result<()> {
        match self.lock().as_mut() {
            Some(daemon) => daemon.end(signal, STOP_PATIENCE),
            None => Ok(()),
        }
    }

    fn initialise(&self) -> anyhow::Result<()> {
        let data = self.data();
        let output = self
            .command(
                "initdb",
                ["-D", &data, "-U", USER, "--auth=trust", "--no-sync", "--no-instructions"]
                    .into_iter()
                    .chain(["--encoding=UTF8", "--locale=C.UTF-8"]),
            )
            .stdin(Stdio::null())
            .output()
            .context("running initdb")?;
        if !output.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// One of PostgreSQL's programs, as the system user when we are root.
    ///
    /// The data may lie where that user can't go, in somebody's home: so the program gets a view of its own
    /// of the file system in which they are the user's home.
    fn command<S: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let program = self.programs.join(program);
        let mut command;
        if nix::unistd::geteuid().is_root() {
            let script = format!("mount --bind \"$0\" {HOME} && cd {HOME} && exec setpriv \"$@\"");
            command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
            command.arg(self.home());
            command.args([&format!("--reuid={SYSTEM_USER}"), &format!("--regid={SYSTEM_USER}")]);
            command.arg("--clear-groups");
        } else {
            command = Command::new("setpriv");
        }
        // Set last, after the user: changing that clears it.
        command.args(["--pdeathsig", "QUIT", "--"]).arg(program).args(arguments);
        command
    }

    /// Where the data are on this machine.
    fn home(&self) -> PathBuf {
        self.directory.join("home")
    }

    /// Where the data are for PostgreSQL's programs.
    fn data(&self) -> String {
        if nix::unistd::geteuid().is_root() {
            format!("{HOME}/data")
        } else {
            self.home().join("data").display().to_string()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn newest_programs() -> anyhow::Result<PathBuf> {
    let versions =
        std::fs::read_dir(PROGRAMS).context("PostgreSQL is not installed: make setup")?;
    versions
        .filter_map(|version| {
            let version = version.ok()?;
            let number: u32 = version.file_name().to_str()?.parse().ok()?;
            let programs = version.path().join("bin");
            programs.join("postgres").exists().then_some((number, programs))
        })
        .max()
        .map(|(_, programs)| programs)
        .context("PostgreSQL is not installed: make setup")
}
