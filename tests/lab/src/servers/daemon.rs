//! A server process that is started, watched and ended.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};

use crate::process::{Spawner, pid};
use crate::wait::{Deadline, until, until_done};

/// How often a signal is sent to one that does not end.
const SIGNALS: u32 = 5;

/// A running server. Dropping it ends it with its `last_signal`.
#[derive(Debug)]
pub(super) struct Daemon {
    name: &'static str,
    child: Child,
    last_signal: Signal,
    log: PathBuf,
}

impl Daemon {
    /// Starts a command whose program has set, or will set, its own parent death signal.
    pub(super) fn start(
        spawner: &Spawner,
        name: &'static str,
        mut command: Command,
        last_signal: Signal,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = spawner.spawn(command).with_context(|| format!("starting {name}"))?;
        Ok(Self { name, child, last_signal, log: log.to_owned() })
    }

    /// Waits until `ready` says yes. Fails with the end of the log when the server ends first.
    pub(super) fn wait_ready(
        &mut self,
        patience: Duration,
        ready: impl Fn() -> bool,
    ) -> anyhow::Result<()> {
        let what = format!("{} to answer", self.name);
        let came = until(Deadline::after(patience), &what, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at once: {status}", self.name);
            }
            Ok(ready().then_some(()))
        });
        came.with_context(|| format!("{}:\n{}", self.log.display(), tail(&self.log)))
    }

    /// Sends a signal and waits for the end; SIGKILL to what has not ended after `patience`.
    pub(super) fn end(&mut self, signal: Signal, patience: Duration) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let id = pid(self.child.id())?;
        // One that is stopped would not see it.
        let _ = kill(id, Signal::SIGCONT);
        // More than once: a program that is still starting may have missed it.
        for _ in 0..SIGNALS {
            kill(id, signal).with_context(|| format!("sending {signal} to {}", self.name))?;
            let deadline = Deadline::after(patience / SIGNALS);
            if until_done(deadline, self.name, || Ok(self.child.try_wait()?)).is_ok() {
                return Ok(());
            }
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its process id, while it runs.
    pub(super) fn running_id(&mut self) -> Option<u32> {
        self.is_running().then(|| self.child.id())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let last_signal = self.last_signal;
        if self.end(last_signal, Duration::from_secs(5)).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The last lines of a log, as far as it can be read.
fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
