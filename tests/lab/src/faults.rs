//! What can go wrong, on demand.

use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};

use crate::forward::Forwarder;
use crate::lab::Lab;
use crate::process::pid;
use crate::switch::Link;
use crate::unit::Unit;
use crate::wait::Deadline;

/// How long a host may take to report after its start.
const REPORT_PATIENCE: Duration = Duration::from_secs(30);

/// The way from the hosts to one of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// To the broker.
    Broker,
    /// To the API.
    Api,
}

impl Lab {
    /// Kills a process with SIGKILL. It stays dead until it is started here.
    ///
    /// # Errors
    /// When it doesn't run.
    pub fn kill(&self, unit: &Unit) -> anyhow::Result<()> {
        match unit {
            Unit::Broker => self.servers()?.broker().kill(),
            Unit::Database => self.servers()?.database().kill(),
            Unit::Libvirtd(host) => {
                self.host(host)?.with_libvirtd(|libvirtd| libvirtd.kill().map(drop))
            }
            own => self.services.kill(own),
        }
    }

    /// Stops a process in order, with SIGTERM.
    ///
    /// # Errors
    /// When it was never started.
    pub fn stop_process(&self, unit: &Unit) -> anyhow::Result<()> {
        match unit {
            Unit::Broker => self.servers()?.broker().stop(),
            Unit::Database => self.servers()?.database().stop(),
            Unit::Libvirtd(host) => self
                .host(host)?
                .with_libvirtd(|libvirtd| libvirtd.stop(Duration::from_secs(5)).map(drop)),
            own => self.services.stop(own),
        }
    }

    /// Starts a process; does nothing if it runs. Servers and libvirtd answer when this returns; Whimbrel's
    /// services may still be starting.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_process(&self, unit: &Unit) -> anyhow::Result<()> {
        match unit {
            Unit::Broker => self.servers()?.broker().start(),
            Unit::Database => self.servers()?.database().start(),
            Unit::Libvirtd(host) => self.host(host)?.start_libvirtd(),
            own => self.start_unit(own),
        }
    }

    /// Kills a process with SIGKILL and starts it again.
    ///
    /// # Errors
    /// When it didn't run or can't be started.
    pub fn restart(&self, unit: &Unit) -> anyhow::Result<()> {
        self.kill(unit)?;
        self.start_process(unit)
    }

    /// Makes a process stand still, with SIGSTOP.
    ///
    /// # Errors
    /// When it doesn't run.
    pub fn freeze(&self, unit: &Unit) -> anyhow::Result<()> {
        self.signal(unit, Signal::SIGSTOP)
    }

    /// Lets it go on, with SIGCONT.
    ///
    /// # Errors
    /// When it doesn't run.
    pub fn thaw(&self, unit: &Unit) -> anyhow::Result<()> {
        self.signal(unit, Signal::SIGCONT)
    }

    fn signal(&self, unit: &Unit, signal: Signal) -> anyhow::Result<()> {
        match unit {
            Unit::Libvirtd(host) => {
                self.host(host)?.with_libvirtd(|libvirtd| libvirtd.signal(signal))
            }
            Unit::Broker | Unit::Database => {
                let id = self.process_id(unit).with_context(|| format!("{unit} is not running"))?;
                kill(pid(id.unsigned_abs())?, signal).with_context(|| format!("sending {signal}"))
            }
            own => self.services.signal(own, signal),
        }
    }

    /// How often one of Whimbrel's services has ended by itself and was started again.
    pub fn restarts(&self, unit: &Unit) -> u32 {
        self.services.restarts(unit)
    }

    /// A process's id as the machine numbers it, while it runs.
    pub fn process_id(&self, unit: &Unit) -> Option<i32> {
        let signed = |id: u32| i32::try_from(id).ok();
        match unit {
            Unit::Broker => self.servers().ok()?.broker().process_id().and_then(signed),
            Unit::Database => self.servers().ok()?.database().process_id().and_then(signed),
            Unit::Libvirtd(host) => {
                let running = |libvirtd: &crate::process::Process| {
                    Ok(libvirtd.is_running().then(|| libvirtd.target().as_raw()))
                };
                self.host(host).ok()?.with_libvirtd(running).ok()?
            }
            own => self.services.process_id(own),
        }
    }

    /// Kills a host suddenly, with all that runs on it.
    ///
    /// # Errors
    /// When it is down already.
    pub fn kill_host(&self, host: &str) -> anyhow::Result<()> {
        let compute = Unit::compute(host);
        self.services.expect_end(&compute)?;
        self.host(host)?.kill()?;
        // It died with its host; this only takes note of it.
        self.services.kill(&compute)
    }

    /// Starts a host that was killed, and returns when it reports.
    ///
    /// # Errors
    /// When something on it doesn't come up.
    pub fn start_host(&self, host: &str) -> anyhow::Result<()> {
        self.power_on_host(host)?;
        self.wait_until_host_reports(host, Deadline::after(REPORT_PATIENCE), || Ok(()))
    }

    /// Starts a host that was killed. One that is forced down is never up to the API, whatever it reports.
    ///
    /// # Errors
    /// When something on it doesn't start.
    pub fn power_on_host(&self, host: &str) -> anyhow::Result<()> {
        self.host(host)?.start(self.switch()?)?;
        self.start_unit(&Unit::compute(host))
    }

    /// Kills the emulator of a guest.
    ///
    /// # Errors
    /// When the guest doesn't run on that host.
    pub fn kill_guest(&self, host: &str, server: &str) -> anyhow::Result<()> {
        let guests = self.host(host)?.guests()?;
        let Some(guest) = guests.iter().find(|guest| guest.uuid == server) else {
            bail!("{server} does not run on {host}");
        };
        kill(pid(guest.pid.unsigned_abs())?, Signal::SIGKILL).context("killing an emulator")
    }

    /// Cuts a host's cable. Guests' own traffic has its own cable.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn cut_link(&self, host: &str, link: Link) -> anyhow::Result<()> {
        self.switch()?.cut(self.host(host)?.name(), link)
    }

    /// Mends it.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn heal_link(&self, host: &str, link: Link) -> anyhow::Result<()> {
        self.switch()?.heal(self.host(host)?.name(), link)
    }

    /// Limits a host's cable in both directions, in MiB a second; `None` lifts the limit.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn limit_link(&self, host: &str, link: Link, mib_s: Option<u32>) -> anyhow::Result<()> {
        self.cloud()?.limit(host, link, mib_s)
    }

    /// Swallows everything between the hosts and a server; connections stay open.
    ///
    /// # Errors
    /// When the hosts are simulated.
    pub fn pause_path(&self, path: Path) -> anyhow::Result<()> {
        self.forwarder(path).map(Forwarder::pause)
    }

    /// Lets it through again, what was held back too.
    ///
    /// # Errors
    /// When the hosts are simulated.
    pub fn resume_path(&self, path: Path) -> anyhow::Result<()> {
        self.forwarder(path).map(Forwarder::resume)
    }

    /// Breaks all connections between the hosts and a server.
    ///
    /// # Errors
    /// When the hosts are simulated.
    pub fn reset_path(&self, path: Path) -> anyhow::Result<()> {
        self.forwarder(path).map(Forwarder::reset)
    }

    fn forwarder(&self, path: Path) -> anyhow::Result<&Forwarder> {
        let forwarder = match path {
            Path::Broker => &self.broker_forwarder,
            Path::Api => &self.api_forwarder,
        };
        forwarder.as_ref().context("the hosts of this lab are simulated")
    }
}
