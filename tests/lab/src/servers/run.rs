//! The subcommand `servers`: both servers around another command, or until Ctrl-C.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

use anyhow::Context;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Durability, Servers};

/// What can be asked of the private servers.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ServersCommand {
    /// Start them, run a command with their addresses in its environment, and remove them.
    Run {
        /// Where their data and logs are put; for nothing else.
        #[arg(long)]
        directory: Option<PathBuf>,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Start them, print their addresses as shell assignments, and remove them at Ctrl-C.
    Show {
        /// Where their data and logs are put; for nothing else.
        #[arg(long)]
        directory: Option<PathBuf>,
    },
}

impl ServersCommand {
    /// Does it. Returns the exit status of the command that was run.
    ///
    /// # Errors
    /// When the servers or the command can't be started.
    pub fn execute(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Run { directory, command } => {
                let status = run_command(&place(directory.as_deref()), command)?;
                // Shells report the end by signal N as 128 + N.
                let code = status.code().or(status.signal().map(|signal| 128 + signal));
                Ok(code
                    .and_then(|code| u8::try_from(code).ok())
                    .map_or(ExitCode::FAILURE, ExitCode::from))
            }
            Self::Show { directory } => {
                print_until_interrupted(&place(directory.as_deref()))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// The directory that was asked for, or one that only this process uses.
fn place(directory: Option<&Path>) -> PathBuf {
    match directory {
        Some(directory) => std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned()),
        None => std::env::temp_dir().join(format!("whimbrel-servers-{}", std::process::id())),
    }
}

/// SIGINT and SIGTERM are passed on to the command.
fn run_command(directory: &Path, command: &[String]) -> anyhow::Result<ExitStatus> {
    with_servers(directory, async |servers, interrupts| {
        // Ends with this process, however that ends: setpriv sets the parent death signal.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .args(command)
            .envs(servers.test_environment())
            .spawn()
            .with_context(|| format!("starting {}", command.join(" ")))?;
        loop {
            tokio::select! {
                status = child.wait() => return Ok(status?),
                () = interrupts.next() => terminate(&child),
            }
        }
    })
}

fn print_until_interrupted(directory: &Path) -> anyhow::Result<()> {
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
