//! Whimbrel's own services as processes of a lab.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;

use crate::process::{Prepared, Process, Spawner, run};
use crate::unit::Unit;

/// How long a service may take to end when it is told to.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Whimbrel's own services.
#[derive(Debug)]
pub(crate) struct Services {
    binaries: PathBuf,
    config_dir: PathBuf,
    logs: PathBuf,
    spawner: Arc<Spawner>,
    running: Mutex<BTreeMap<Unit, Process>>,
}

impl Services {
    pub(crate) fn new(dir: &Path, logs: &Path, spawner: Arc<Spawner>) -> anyhow::Result<Self> {
        let config_dir = dir.join("config");
        std::fs::create_dir_all(&config_dir)
            .with_context(|| format!("creating {}", config_dir.display()))?;
        let (binaries, logs) = (binaries_dir()?, logs.to_owned());
        Ok(Self { binaries, config_dir, logs, spawner, running: Mutex::default() })
    }

    /// Brings the database to its schema.
    pub(crate) fn migrate_database(&self, url: &str) -> anyhow::Result<()> {
        let program = self.program("whimbrel-db")?;
        let migrate = Prepared::new(program).args(["migrate"]).env("WHIMBREL__DATABASE__URL", url);
        run(&migrate).map(drop)
    }

    /// Writes a service's configuration file.
    pub(crate) fn configure(&self, unit: &Unit, text: &str) -> anyhow::Result<()> {
        let path = self.config_file(unit);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Starts a service with its configuration file; `place` puts the command where it is to run. Does nothing
    /// if the service runs.
    pub(crate) fn start(
        &self,
        unit: &Unit,
        place: impl FnOnce(Prepared) -> anyhow::Result<Prepared>,
    ) -> anyhow::Result<()> {
        let mut running = self.lock();
        if running.get(unit).is_some_and(Process::is_running) {
            return Ok(());
        }
        let program = self.program(program_of(unit)?)?;
        let config = self.config_file(unit).display().to_string();
        let command = place(
            Prepared::new(program).args(["--config".to_owned(), config]).env("RUST_BACKTRACE", "1"),
        )?;
        let process = self.spawner.start(&unit.to_string(), command, &self.log(unit))?;
        running.insert(unit.clone(), process);
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&self, unit: &Unit) -> anyhow::Result<()> {
        self.with(unit, |process| process.kill().map(drop))
    }

    /// SIGTERM, and SIGKILL if that does not end it.
    pub(crate) fn stop(&self, unit: &Unit) -> anyhow::Result<()> {
        self.with(unit, |process| process.stop(STOP_PATIENCE).map(drop))
    }

    pub(crate) fn signal(&self, unit: &Unit, signal: Signal) -> anyhow::Result<()> {
        self.with(unit, |process| process.signal(signal))
    }

    pub(crate) fn is_running(&self, unit: &Unit) -> bool {
        self.lock().get(unit).is_some_and(Process::is_running)
    }

    /// The service's own process, not that of a wrapper.
    pub(crate) fn process_id(&self, unit: &Unit) -> Option<i32> {
        let running = self.lock();
        let process = running.get(unit).filter(|process| process.is_running())?;
        Some(process.target().as_raw())
    }

    /// Fails, with the end of its log, if a service that should run has ended.
    pub(crate) fn check(&self, unit: &Unit) -> anyhow::Result<()> {
        ensure!(self.is_running(unit), "{unit} has ended:\n{}", tail(&self.log(unit)));
        Ok(())
    }

    /// Ends all, first those that use others.
    pub(crate) fn stop_all(&self) {
        let mut running = std::mem::take(&mut *self.lock());
        for process in running.values() {
            let _ = process.signal(Signal::SIGCONT);
            let _ = process.signal(Signal::SIGTERM);
        }
        for (_, process) in running.iter() {
            let _ = process.stop(STOP_PATIENCE);
        }
        running.clear();
    }

    pub(crate) fn log(&self, unit: &Unit) -> PathBuf {
        self.logs.join(format!("{}.log", unit.to_string().replace('@', "-")))
    }

    fn config_file(&self, unit: &Unit) -> PathBuf {
        self.config_dir.join(format!("{}.toml", unit.to_string().replace('@', "-")))
    }

    fn program(&self, name: &str) -> anyhow::Result<String> {
        let path = self.binaries.join(name);
        ensure!(path.exists(), "{} is not built: cargo build -p {name}", path.display());
        Ok(path.display().to_string())
    }

    fn with<T>(
        &self,
        unit: &Unit,
        act: impl FnOnce(&Process) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let running = self.lock();
        act(running.get(unit).with_context(|| format!("{unit} was never started"))?)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Unit, Process>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn program_of(unit: &Unit) -> anyhow::Result<&'static str> {
    Ok(match unit {
        Unit::Api => "whimbrel-api",
        Unit::Conductor => "whimbrel-conductor",
        Unit::Scheduler => "whimbrel-scheduler",
        Unit::Compute(_) => "whimbrel-compute",
        Unit::Libvirtd(_) | Unit::Broker | Unit::Database => bail!("{unit} is not one of ours"),
    })
}

/// Next to this program; tests are one directory deeper.
fn binaries_dir() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding the own program")?;
    let dir = own.parent().context("the own program is in no directory")?;
    let is_test = dir.file_name().is_some_and(|name| name == "deps");
    Ok(if is_test { dir.parent().unwrap_or(dir) } else { dir }.to_owned())
}

/// The last lines of a log, as far as it can be read.
fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
}
