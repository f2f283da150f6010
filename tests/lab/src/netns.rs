//! Doing something in another network namespace.
//!
//! A thread that enters a namespace never comes back from it here: it does its work and ends. A socket belongs
//! to the namespace that it was opened in, whoever uses it later.

use std::fs::File;

use anyhow::{Context, anyhow};
use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;

/// Runs `work` in the network namespace of process `id`.
pub(crate) fn inside<T: Send>(
    id: Pid,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let path = format!("/proc/{id}/ns/net");
    let namespace = File::open(&path).with_context(|| format!("opening {path}"))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
            work()
        });
        thread.join().map_err(|_| anyhow!("a thread in a network namespace panicked"))?
    })
}
