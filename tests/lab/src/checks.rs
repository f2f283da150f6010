//! What must be true of a guest after a move, looked at from outside.

use std::path::PathBuf;

use anyhow::Context;
use serde::Serialize;

use crate::agent::Agent;
use crate::api::{Migration, Server};
use crate::console::{Console, Pulse};
use crate::guest::{Heartbeat, Stat};
use crate::host::Storage;
use crate::lab::Lab;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What must be true.
    pub what: String,
    /// Whether it is.
    pub held: bool,
    /// What was seen.
    pub seen: String,
}

impl Check {
    /// Something that was looked at.
    pub fn new(what: &str, held: bool, seen: impl Into<String>) -> Self {
        Self { what: what.to_owned(), held, seen: seen.into() }
    }

    fn equal<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, expected: &T) -> Self {
        Self::new(what, seen == expected, format!("{seen:?}"))
    }
}

impl Lab {
    /// The program in a server's guest.
    ///
    /// # Errors
    /// When the server has no address.
    pub fn agent(&self, server: &Server) -> anyhow::Result<Agent<'_>> {
        Ok(Agent::new(self.switch()?, server.address()?))
    }

    /// What a server's guest writes to its console on a host.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn console(&self, host: &str, server: &str) -> anyhow::Result<Console> {
        let instances = self.host(host)?.instances_dir(self.storage());
        Ok(Console::new(instances.join(server).join("console.log")))
    }

    /// The hosts on which an emulator of this server runs, whatever anybody's records say.
    ///
    /// # Errors
    /// When `/proc` can't be read.
    pub fn hosts_running(&self, server: &str) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        for host in self.hosts() {
            let guests = host.guests()?;
            let here = guests.iter().filter(|guest| guest.uuid == server);
            found.extend(here.map(|_| host.name().to_owned()));
        }
        Ok(found)
    }

    /// A server's files on a host, relative to the directory of all guests, and files of nobody's.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn files_of(&self, host: &str, server: &str) -> anyhow::Result<Vec<PathBuf>> {
        let mut files = self.host(host)?.instance_files(self.storage())?;
        files.retain(|file| file.starts_with(server) || file.components().count() == 1);
        Ok(files)
    }

    /// How many processors a running guest has, as its hypervisor says.
    ///
    /// # Errors
    /// When it doesn't run there.
    pub fn vcpus(&self, host: &str, server: &str) -> anyhow::Result<i64> {
        let said = self.host(host)?.virsh(&["vcpucount", "--live", "--active", server])?;
        said.trim().parse().with_context(|| format!("counting processors: '{said}'"))
    }

    /// It runs on exactly this host: by the emulators, by its record, by what is held for it.
    ///
    /// # Errors
    /// When something can't be looked at.
    pub fn check_place(&self, server: &str, host: &str) -> anyhow::Result<Vec<Check>> {
        let here = vec![host.to_owned()];
        let record = self.api().server(server)?;
        let held: Vec<(String, String)> = self
            .api()
            .allocations(server)?
            .into_iter()
            .map(|allocation| (allocation.consumer, allocation.host))
            .collect();
        let status = (record.status, record.task_state, record.host);
        let expected = ("ACTIVE".to_owned(), None, Some(host.to_owned()));
        Ok(vec![
            Check::equal(
                "its emulator runs there and nowhere else",
                &self.hosts_running(server)?,
                &here,
            ),
            Check::equal("its record says so", &status, &expected),
            Check::equal(
                "resources are held there and nowhere else",
                &held,
                &vec![(server.to_owned(), host.to_owned())],
            ),
        ])
    }

    /// Its files are where they should be, and nowhere else.
    ///
    /// # Errors
    /// When a directory can't be read.
    pub fn check_files(&self, server: &str, host: &str) -> anyhow::Result<Check> {
        let disk = PathBuf::from(server).join("disk");
        let (mut right, mut seen) = (true, Vec::new());
        for other in self.host_names() {
            let files = self.files_of(other, server)?;
            let here = other == host || self.storage() == Storage::Shared;
            let stray = files.iter().any(|file| !file.starts_with(server));
            right &= !stray && files.contains(&disk) == here && files.is_empty() != here;
            seen.push(format!("{other}: {}", files.len()));
        }
        Ok(Check::new("its files are where they should be", right, seen.join(", ")))
    }

    /// Nothing of it is left on any host.
    ///
    /// # Errors
    /// When something can't be looked at.
    pub fn check_gone(&self, server: &str) -> anyhow::Result<Vec<Check>> {
        let mut files = Vec::new();
        for host in self.host_names() {
            files.extend(self.files_of(host, server)?);
        }
        let running = self.hosts_running(server)?;
        let held = self.api().allocations(server)?.len();
        let none = Vec::new();
        Ok(vec![
            Check::equal("no emulator is left", &running, &none),
            Check::new("no file is left", files.is_empty(), format!("{files:?}")),
            Check::equal("nothing is held for it", &held, &0),
        ])
    }

    /// The beats of a server that moved from one host to another, in the order in which they were written.
    ///
    /// # Errors
    /// When a console can't be read.
    pub fn beats_of_move(
        &self,
        server: &str,
        source: &str,
        destination: &str,
    ) -> anyhow::Result<Vec<Heartbeat>> {
        let mut beats = match self.storage() {
            // One file, to which both hosts append.
            Storage::Shared => Vec::new(),
            // The source's file is gone with the guest.
            Storage::Local if !self.console(source, server)?.path().exists() => Vec::new(),
            Storage::Local => self.console(source, server)?.beats()?,
        };
        beats.extend(self.console(destination, server)?.beats()?);
        Ok(beats)
    }
}

/// The guest ran on: same boot, its heartbeat never went back and goes on after the move.
pub fn check_pulse(before: &Heartbeat, beats: &[Heartbeat]) -> Check {
    let pulse = Pulse::of(beats);
    let last = beats.last();
    let went_on = last.is_some_and(|last| last.boot == before.boot && last.n > before.n);
    let seen = format!(
        "{} beats, {} backwards, {} missing, {} boots",
        pulse.beats,
        pulse.backwards,
        pulse.missing,
        pulse.boots.len()
    );
    Check::new("same boot, monotone heartbeat", pulse.is_steady() && went_on, seen)
}

/// Every page and block is what the guest wrote.
pub fn check_integrity(before: &Stat, after: &Stat) -> Check {
    let (pages, blocks) = (after.verified_pages, after.verified_blocks);
    let held = after.is_intact() && after.boot == before.boot && pages > 0 && blocks > 0;
    let seen = format!(
        "{pages} pages, {blocks} blocks, {} + {} errors",
        after.page_errors, after.block_errors
    );
    Check::new("memory and disk are intact", held, seen)
}

/// The record of a move that succeeded says what it has to.
pub fn check_record(
    migration: &Migration,
    source: &str,
    destination: &str,
    storage: Storage,
) -> Check {
    let positive = |value: Option<i64>| value.is_some_and(|value| value > 0);
    let disk = storage == Storage::Shared || positive(migration.figures.disk_bytes);
    let held = migration.status == "completed"
        && migration.source_compute.as_deref() == Some(source)
        && migration.dest_compute.as_deref() == Some(destination)
        && positive(migration.figures.memory_bytes)
        && disk
        && positive(migration.figures.total_ms)
        && migration.figures.downtime_ms.is_some();
    let shown = |value: Option<i64>| value.map_or_else(|| "?".to_owned(), |n| n.to_string());
    let seen = format!(
        "{} {} → {}, memory {} B, disk {} B, {} ms, downtime {} ms",
        migration.status,
        migration.source_compute.as_deref().unwrap_or("?"),
        migration.dest_compute.as_deref().unwrap_or("?"),
        shown(migration.figures.memory_bytes),
        shown(migration.figures.disk_bytes),
        shown(migration.figures.total_ms),
        shown(migration.figures.downtime_ms)
    );
    let fault = migration.figures.fault.as_ref().map(|fault| format!("; {fault}"));
    let seen = seen + &fault.unwrap_or_default();
    Check::new("its migration record is complete", held, seen)
}

/// Fails, naming what didn't hold.
///
/// # Errors
/// When a check didn't hold.
pub fn all_held(checks: &[Check]) -> anyhow::Result<()> {
    let broken: Vec<String> = checks
        .iter()
        .filter(|check| !check.held)
        .map(|check| format!("not so: {}; seen: {}", check.what, check.seen))
        .collect();
    broken.is_empty().then_some(()).with_context(|| broken.join("\n"))
}
