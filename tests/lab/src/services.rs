//! Whimbrel's own services as processes of a lab.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;

use crate::process::{Prepared, Process, Spawner, run};
use crate::unit::{Replica, Unit};

/// How long a service may take to end when it is told to.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How often the keeper looks for services that have ended.
const KEEP_INTERVAL: Duration = Duration::from_millis(500);

/// Whimbrel's own services. One that ends by itself is started again, as a service manager does it; one that was
/// killed or stopped here stays down until it is started here.
#[derive(Debug)]
pub(crate) struct Services {
    binaries: PathBuf,
    config_dir: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    logs: PathBuf,
    spawner: Arc<Spawner>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<Unit, Service>,
    ended: bool,
}

#[derive(Debug)]
struct Service {
    process: Process,
    command: Prepared,
    wanted: bool,
    restarts: u32,
}

impl Services {
    pub(crate) fn new(dir: &Path, logs: &Path, spawner: Arc<Spawner>) -> anyhow::Result<Self> {
        let config_dir = dir.join("config");
        std::fs::create_dir_all(&config_dir)
            .with_context(|| format!("creating {}", config_dir.display()))?;
        let (state, ended) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { logs: logs.to_owned(), spawner, state, ended });
        Ok(Self { binaries: binaries_dir()?, config_dir, shared })
    }

    /// From now on a service that ends by itself is started again.
    pub(crate) fn keep(&self) -> anyhow::Result<()> {
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new().name("keeper".to_owned()).spawn(move || {
            let mut state = shared.lock();
            while !state.ended {
                for (unit, service) in &mut state.services {
                    // One that can't be started now is tried again at the next look.
                    let _ = shared.keep(unit, service);
                }
                let waited = shared.ended.wait_timeout(state, KEEP_INTERVAL);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        })?;
        Ok(())
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
        let mut state = self.shared.lock();
        if state.services.get(unit).is_some_and(|service| service.process.is_running()) {
            return Ok(());
        }
        let program = self.program(program_of(unit)?)?;
        let config = self.config_file(unit).display().to_string();
        let command = place(
            Prepared::new(program).args(["--config".to_owned(), config]).env("RUST_BACKTRACE", "1"),
        )?;
        let process = self.shared.start(unit, &command)?;
        let restarts = state.services.get(unit).map_or(0, |service| service.restarts);
        state.services.insert(unit.clone(), Service { process, command, wanted: true, restarts });
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&self, unit: &Unit) -> anyhow::Result<()> {
        self.with(unit, |service| {
            service.wanted = false;
            service.process.kill().map(drop)
        })
    }

    /// SIGTERM, and SIGKILL if that does not end it.
    pub(crate) fn stop(&self, unit: &Unit) -> anyhow::Result<()> {
        self.with(unit, |service| {
            service.wanted = false;
            service.process.stop(STOP_PATIENCE).map(drop)
        })
    }

    /// Leaves a service alone that is about to end together with its host.
    pub(crate) fn expect_end(&self, unit: &Unit) -> anyhow::Result<()> {
        self.with(unit, |service| {
            service.wanted = false;
            Ok(())
        })
    }

    pub(crate) fn signal(&self, unit: &Unit, signal: Signal) -> anyhow::Result<()> {
        self.with(unit, |service| service.process.signal(signal))
    }

    /// The service's own process, not that of a wrapper.
    pub(crate) fn process_id(&self, unit: &Unit) -> Option<i32> {
        let state = self.shared.lock();
        let service = state.services.get(unit).filter(|service| service.process.is_running())?;
        Some(service.process.target().as_raw())
    }

    /// How often a service has ended by itself.
    pub(crate) fn restarts(&self, unit: &Unit) -> u32 {
        self.shared.lock().services.get(unit).map_or(0, |service| service.restarts)
    }

    /// Fails, with the end of its log, if a service that should run has ended.
    pub(crate) fn check(&self, unit: &Unit) -> anyhow::Result<()> {
        let runs = self.process_id(unit).is_some();
        ensure!(runs, "{unit} has ended:\n{}", tail(&self.shared.log(unit)));
        Ok(())
    }

    /// Ends all.
    pub(crate) fn stop_all(&self) {
        let services = {
            let mut state = self.shared.lock();
            state.ended = true;
            std::mem::take(&mut state.services)
        };
        self.shared.ended.notify_all();
        // All are told before any is waited for.
        for service in services.values() {
            let _ = service.process.signal(Signal::SIGCONT);
            let _ = service.process.signal(Signal::SIGTERM);
        }
        for service in services.values() {
            let _ = service.process.stop(STOP_PATIENCE);
        }
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
        act: impl FnOnce(&mut Service) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut state = self.shared.lock();
        act(state.services.get_mut(unit).with_context(|| format!("{unit} was never started"))?)
    }
}

impl Shared {
    fn start(&self, unit: &Unit, command: &Prepared) -> anyhow::Result<Process> {
        self.spawner.start(&unit.to_string(), command.clone(), &self.log(unit))
    }

    fn keep(&self, unit: &Unit, service: &mut Service) -> anyhow::Result<()> {
        if service.wanted && !service.process.is_running() {
            service.process = self.start(unit, &service.command)?;
            service.restarts += 1;
        }
        Ok(())
    }

    fn log(&self, unit: &Unit) -> PathBuf {
        self.logs.join(format!("{}.log", unit.to_string().replace('@', "-")))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn program_of(unit: &Unit) -> anyhow::Result<&'static str> {
    Ok(match unit {
        Unit::Api => "whimbrel-api",
        Unit::Conductor | Unit::Replica(Replica::Conductor, _) => "whimbrel-conductor",
        Unit::Scheduler | Unit::Replica(Replica::Scheduler, _) => "whimbrel-scheduler",
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
