//! `up` and `down`. A lab is owned by one process, the supervisor, which holds a lock on the lab's lock file as
//! long as it lives. When it ends, in whatever way, everything in the lab ends with it.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use whimbrel_lab::{Deadline, labs_dir, until};

use super::control;
use super::{Plan, say, signals, status};

const UP_PATIENCE: Duration = Duration::from_secs(150);
const DOWN_PATIENCE: Duration = Duration::from_secs(60);

/// Starts a supervisor in the background and returns when its lab is ready.
pub(super) fn up(plan: &Plan) -> anyhow::Result<ExitCode> {
    let name = &plan.which.name;
    if owner(name)?.is_some() {
        say(&format!("the lab '{name}' runs already"));
        return status::show(name, super::Format::Table);
    }
    signals::interrupt_on_signals(|| ())?;
    let log = log_file(name);
    let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    // In a session of its own, so that it survives the terminal.
    let mut supervisor = Command::new("setsid")
        .arg(std::env::current_exe().context("finding the own program")?)
        .arg("supervise")
        .args(plan.arguments()?)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("starting the supervisor")?;
    let ready = until(Deadline::after(UP_PATIENCE), "the lab to be ready", || {
        if let Some(status) = supervisor.try_wait()? {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("the lab could not be started ({status}):\n{}", said.trim_end());
        }
        Ok(UnixStream::connect(control::socket(name)).ok().map(drop))
    });
    if let Err(error) = ready {
        let _ = end(name);
        let _ = supervisor.wait();
        return Err(error);
    }
    status::show(name, super::Format::Table)
}

/// Ends a lab and waits until it is gone.
pub(super) fn down(name: &str) -> anyhow::Result<ExitCode> {
    let ran = owner(name)?.is_some();
    end(name)?;
    let _ = std::fs::remove_file(control::socket(name));
    say(&if ran { format!("the lab '{name}' is down") } else { format!("no lab '{name}' runs") });
    Ok(ExitCode::SUCCESS)
}

fn end(name: &str) -> anyhow::Result<()> {
    let gone = || Ok(owner(name)?.is_none().then_some(()));
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let Some(owner) = owner(name)? else { return Ok(()) };
        // Fails if it has just ended.
        let _ = kill(owner, signal);
        let deadline = Deadline::after(DOWN_PATIENCE);
        if whimbrel_lab::until_done(deadline, "the lab to end", gone).is_ok() {
            return Ok(());
        }
    }
    bail!("the lab '{name}' does not end")
}

/// Runs a lab until it is told to end.
pub(super) fn supervise(plan: &Plan) -> anyhow::Result<ExitCode> {
    let name = plan.which.name.clone();
    let _lock = own(&name)?;
    let socket = control::socket(&name);
    signals::interrupt_on_signals(move || drop(UnixStream::connect(&socket)))?;
    let lab = plan.start()?;
    status::write_clouds_yaml(&lab)?;
    let socket = control::socket(&name);
    let listener = UnixListener::bind(&socket)
        .with_context(|| format!("listening at {} (is that path too long?)", socket.display()))?;
    control::serve(&lab, &listener);
    let stopped = lab.stop();
    let _ = std::fs::remove_file(&socket);
    stopped?;
    Ok(ExitCode::SUCCESS)
}

/// Makes this process the owner of a lab.
pub(super) fn own(name: &str) -> anyhow::Result<File> {
    let path = lock_file(name)?;
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => bail!("another lab '{name}' runs; end it with: make down"),
        Err(TryLockError::Error(error)) => return Err(error).context("locking the lab"),
    }
    file.set_len(0)?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}

/// The process that owns a lab.
fn owner(name: &str) -> anyhow::Result<Option<Pid>> {
    let path = lock_file(name)?;
    let Ok(mut file) = File::open(&path) else { return Ok(None) };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(Some(Pid::from_raw(text.trim().parse().context("reading the owner of the lab")?)))
        }
        Err(TryLockError::Error(error)) => Err(error).context("looking for the owner of the lab"),
    }
}

fn lock_file(name: &str) -> anyhow::Result<PathBuf> {
    let labs = labs_dir();
    std::fs::create_dir_all(&labs).with_context(|| format!("creating {}", labs.display()))?;
    Ok(labs.join(format!("{name}.lock")))
}

fn log_file(name: &str) -> PathBuf {
    labs_dir().join(format!("{name}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_has_one_owner() {
        let name = format!("t-own-{}", std::process::id());
        assert_eq!(owner(&name).unwrap(), None);
        let lock = own(&name).unwrap();
        assert_eq!(owner(&name).unwrap(), Some(Pid::this()));
        assert!(own(&name).is_err());
        drop(lock);
        assert_eq!(owner(&name).unwrap(), None);
        std::fs::remove_file(lock_file(&name).unwrap()).unwrap();
    }
}
