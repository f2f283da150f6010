//! The subcommand `servers`: both servers around another command, or until Ctrl-C.

use std::path::Path;
use std::process::ExitStatus;

use anyhow::{Context, bail};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Durability, Servers};

/// Starts the servers, runs a command with their addresses in its environment, and removes them.
/// Returns how the command ended. SIGINT and SIGTERM are passed on to it.
///
/// # Errors
/// When the servers or the command can't be started.
pub fn run_command(directory: &Path, command: &[String]) -> anyhow::Result<ExitStatus> {
    let [program, arguments @ ..] = command else { bail!("no command given") };
    with_servers(directory, async |servers, interrupts| {
        // Ends with this process, however that ends: setpriv sets the parent death signal.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--", program])
            .args(arguments)
            .envs(servers.test_environment())
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        loop {
            tokio::select! {
                status = child.wait() => return Ok(status?),
                () = interrupts.next() => terminate(&child),
            }
        }
    })
}

/// Starts the servers, prints their addresses as shell assignments, and removes them at Ctrl-C.
///
/// # Errors
/// When the servers can't be started.
pub fn print_until_interrupted(directory: &Path) -> anyhow::Result<()> {
    with_servers(directory, async |servers, interrupts| {
        for (name, value) in servers.test_environment() {
            print_line(&format!("export {name}={value}"));
        }
        print_line("# running until Ctrl-C");
        interrupts.next().await;
        Ok(())
    })
}

#[expect(clippy::print_stdout, reason = "this is what the subcommand is for")]
fn print_line(line: &str) {
    println!("{line}");
}

fn terminate(child: &Child) {
    if let Some(id) = child.id().and_then(|id| crate::process::pid(id).ok()) {
        let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM);
    }
}

struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Interrupts {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// On a thread with a runtime of its own, so that it does not matter whether the caller has one.
fn with_servers<T: Send>(
    directory: &Path,
    work: impl AsyncFnOnce(&Servers, &mut Interrupts) -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let all = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            // Before the servers start: an interrupt meanwhile is seen afterwards.
            let mut interrupts = Interrupts {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hangup: signal(SignalKind::hangup())?,
            };
            let servers = Servers::start(directory, Durability::Throwaway)?;
            let result = work(&servers, &mut interrupts).await;
            servers.remove()?;
            result
        })
    };
    std::thread::scope(|scope| {
        scope.spawn(all).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
