//! Processes that end with the lab, however it ends.
//!
//! The kernel kills a child whose "parent death signal" is set when the *thread* that started it ends. So one
//! thread, which lives as long as the lab, starts everything: a lab that is killed leaves no process behind,
//! and since all its namespaces, mounts and links belong to processes, none of those either.

use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{Deadline, until, until_done};

struct Job {
    command: Command,
    answer: SyncSender<io::Result<Child>>,
}

/// Starts processes that end with it.
#[derive(Debug)]
pub(crate) struct Spawner {
    jobs: Sender<Job>,
}

impl Spawner {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            for mut job in todo {
                // The asker may have gone; then nobody owns the child and it must not stay.
                if let Err(mpsc::SendError(Ok(mut child))) = job.answer.send(job.command.spawn()) {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        })?;
        Ok(Self { jobs })
    }

    /// Starts a command that has set, or will set, its own parent death signal, in a process group of its own:
    /// Ctrl-C on the terminal reaches the lab alone, which then ends everything in order.
    pub(crate) fn spawn(&self, mut command: Command) -> anyhow::Result<Child> {
        command.process_group(0);
        let (answer, child) = mpsc::sync_channel(1);
        self.jobs.send(Job { command, answer }).context("the spawner is gone")?;
        Ok(child.recv().context("the spawner is gone")??)
    }

    /// Starts a command, its output appended to `log`.
    pub(crate) fn start(
        &self,
        name: &str,
        command: Prepared,
        log: &Path,
    ) -> anyhow::Result<Process> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let mut with_death_signal = Command::new("setpriv");
        with_death_signal
            .args(["--pdeathsig", "KILL", "--"])
            .arg(command.program)
            .args(command.arguments)
            .envs(command.environment)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = self.spawn(with_death_signal).with_context(|| format!("starting {name}"))?;
        let id = pid(child.id())?;
        Ok(Process { name: name.to_owned(), id, child: Mutex::new(child) })
    }
}

/// A command that waits to be started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Prepared {
    pub(crate) fn new(program: impl Into<String>) -> Self {
        Self { program: program.into(), ..Self::default() }
    }

    pub(crate) fn args<S: Into<String>>(mut self, more: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(more.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, key: &str, value: impl Into<String>) -> Self {
        self.environment.push((key.to_owned(), value.into()));
        self
    }

    /// The same, as the program of `outer`, whose arguments come first.
    pub(crate) fn inside<S: Into<String>>(mut self, outer: impl IntoIterator<Item = S>) -> Self {
        let mut words: Vec<String> = outer.into_iter().map(Into::into).collect();
        words.push(std::mem::take(&mut self.program));
        words.append(&mut self.arguments);
        self.program = words.remove(0);
        self.arguments = words;
        self
    }
}

/// A process of the lab. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    id: Pid,
    child: Mutex<Child>,
}

impl Process {
    /// The process that the lab started; it may be a wrapper around [`Process::target`].
    pub(crate) fn id(&self) -> Pid {
        self.id
    }

    /// The only child of a wrapper such as `unshare --fork`, once there is one.
    pub(crate) fn only_child(&self) -> anyhow::Result<Pid> {
        until(Deadline::after(Duration::from_secs(5)), &format!("{} to fork", self.name), || {
            if let Some(status) = self.exited()? {
                bail!("{} ended at once: {status}", self.name);
            }
            Ok(children(self.id)?.first().copied())
        })
    }

    /// The program itself: the child of `nsenter` or `unshare` where there is such a wrapper.
    pub(crate) fn target(&self) -> Pid {
        children(self.id).ok().and_then(|all| all.first().copied()).unwrap_or(self.id)
    }

    pub(crate) fn exited(&self) -> anyhow::Result<Option<ExitStatus>> {
        self.lock().try_wait().with_context(|| format!("looking at {}", self.name))
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.exited(), Ok(None))
    }

    /// Sends a signal to the program and, so that it follows, to its wrapper.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // Held, so that the child can't be waited for and its id given to another process meanwhile.
        let mut child = self.lock();
        if child.try_wait()?.is_some() {
            bail!("{} is not running", self.name);
        }
        let target = self.target();
        kill(target, signal).with_context(|| format!("sending {signal} to {}", self.name))?;
        if target != self.id && signal == Signal::SIGCONT {
            let _ = kill(self.id, signal);
        }
        Ok(())
    }

    /// SIGKILL; returns when the process is gone.
    pub(crate) fn kill(&self) -> anyhow::Result<ExitStatus> {
        if self.is_running() {
            let target = self.target();
            let mut child = self.lock();
            if target != self.id {
                let _ = kill(target, Signal::SIGKILL);
                // A stopped wrapper can't see its child's end.
                let _ = kill(self.id, Signal::SIGCONT);
            } else {
                let _ = child.kill();
            }
        }
        self.wait(Duration::from_secs(10))
    }

    /// SIGTERM, and SIGKILL to what has not ended after `patience`.
    pub(crate) fn stop(&self, patience: Duration) -> anyhow::Result<ExitStatus> {
        if self.is_running() {
            let _ = self.signal(Signal::SIGCONT);
            let _ = self.signal(Signal::SIGTERM);
            if let Ok(status) = self.wait(patience) {
                return Ok(status);
            }
        }
        self.kill()
    }

    fn wait(&self, patience: Duration) -> anyhow::Result<ExitStatus> {
        until_done(Deadline::after(patience), &format!("{} to end", self.name), || self.exited())
    }

    fn lock(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.kill().is_err() {
            let mut child = self.lock();
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a command to its end and returns what it wrote to standard output.
pub(crate) fn run(command: &Prepared) -> anyhow::Result<String> {
    let shown = || format!("{} {}", command.program, command.arguments.join(" "));
    let output = Command::new(&command.program)
        .args(&command.arguments)
        .envs(command.environment.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {}", shown()))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        let signal = output.status.signal().map(|n| format!(" (signal {n})")).unwrap_or_default();
        bail!("{} failed{signal}: {}", shown(), why.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn pid(id: u32) -> anyhow::Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(id).context("a process id out of range")?))
}

/// The living children of a process.
pub(crate) fn children(parent: Pid) -> anyhow::Result<Vec<Pid>> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text
            .split_whitespace()
            .filter_map(|id| id.parse().ok())
            .map(Pid::from_raw)
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !alive(parent) => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("reading {path}")),
    }
}

/// Whether a process with this id exists.
pub(crate) fn alive(id: Pid) -> bool {
    Path::new(&format!("/proc/{id}")).exists()
}

/// All process ids of the machine.
pub(crate) fn all_processes() -> anyhow::Result<Vec<Pid>> {
    let entries = std::fs::read_dir("/proc").context("reading /proc")?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .collect())
}

/// A process's command line, in words.
pub(crate) fn command_line(id: Pid) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}
