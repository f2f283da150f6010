//! Faults in the middle of a live migration of a real guest. Each must end by itself, in a legal state, in a
//! bounded time, with the guest on exactly one host, intact, and nothing left over.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

mod support;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;
use support::{BOOT, SETTLED, Stage, all_hold};
use whimbrel_lab::api::Migration;
use whimbrel_lab::checks::{check_integrity, check_pulse};
use whimbrel_lab::guest::{Heartbeat, Stat};
use whimbrel_lab::{BlockMigration, Deadline, Lab, MigrationTuning, Pinger, Storage, Unit, until};

/// From the request to the job's running with something sent.
const UNDER_WAY: Duration = Duration::from_secs(30);
/// Makes a move last for some ten seconds.
const BANDWIDTH_MIB_S: u64 = 12;
/// From the end of a case until all hosts count as up: connections are tried again every five seconds.
const UP: Duration = Duration::from_secs(30);
/// A guest that is not halted is silent for less than this, in milliseconds, also when it is emulated.
const HALTED_MS: u64 = 2_000;

/// A lab in which moves last for some ten seconds.
struct Faults(Stage);

impl std::ops::Deref for Faults {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.0
    }
}

/// A guest in the middle of a move.
struct Moving {
    id: String,
    source: String,
    destination: String,
    migration: Migration,
    beat: Heartbeat,
    first: Stat,
}

/// Where the guest must be in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    Source,
    Destination,
}

type Fault = fn(&Faults, &Moving) -> anyhow::Result<()>;

impl Faults {
    fn set(storage: Storage) -> Self {
        let migration = MigrationTuning {
            bandwidth_mib_s: Some(BANDWIDTH_MIB_S),
            ..MigrationTuning::default()
        };
        Self(Stage::set(Lab::builder().storage(storage).migration(migration)))
    }

    /// What the case before has done to a host or to its reports is over.
    fn wait_until_up(&self) -> anyhow::Result<()> {
        until(Deadline::after(UP), "all hosts to be up", || {
            let services = self.api().compute_services()?;
            Ok(services.iter().all(|service| service.state == "up").then_some(()))
        })
    }

    /// Begins a move to the other host and waits until memory travels.
    fn begin(&self, id: &str) -> anyhow::Result<Moving> {
        self.wait_until_up()?;
        let server = self.api().server(id)?;
        let source = server.host.clone().context("it is on no host")?;
        let other = self.lab.host_names().iter().find(|name| **name != source);
        let destination = other.context("there is one host")?.clone();
        let beat = self.lab.console(&source, id)?.wait_for_beat(0, BOOT)?;
        let agent = self.lab.agent(&server)?;
        agent.dirty_memory(16, 1)?;
        let first = agent.write_disk(20)?;
        self.api().live_migrate(id, Some(&destination), BlockMigration::Auto)?;
        let migration = until(Deadline::after(UNDER_WAY), "memory to travel", || {
            let latest = self.api().migrations(id)?.into_iter().next();
            let latest = self.api().migration(id, &latest.context("no migration")?.uuid)?;
            ensure!(!latest.is_over(), "the move is over already: {latest:?}");
            let sent = latest.figures.memory_bytes.is_some_and(|sent| sent > 0);
            Ok((latest.status == "running" && sent).then_some(latest))
        })?;
        let id = id.to_owned();
        Ok(Moving { id, source, destination, migration, beat, first })
    }

    /// The guest's longest silence from `act` to the end of its move, in milliseconds, by pings from outside.
    fn silence(
        &self,
        moving: &Moving,
        act: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        let server = self.api().server(&moving.id)?;
        let ping = Pinger::start(self.lab.switch()?, server.address()?)?;
        let ended = act().and_then(|()| self.api().wait_for_migration(&moving.id, SETTLED));
        let silence = ping.stop()?.longest_silence_ms;
        ended.map(|_| silence)
    }

    /// Everything that has to be true after the move has ended.
    fn check(&self, moving: &Moving, home: Home) -> anyhow::Result<()> {
        let Moving { id, source, destination, beat, first, .. } = moving;
        let host = if home == Home::Source { source } else { destination };
        self.check_consistent()?;
        let mut checks = self.lab.check_place(id, host)?;
        checks.push(self.lab.check_files(id, host)?);
        checks.push(self.lab.check_history(id)?);
        checks.push(self.lab.check_messages()?);
        self.lab.console(host, id)?.wait_for_beat(beat.n, BOOT)?;
        let beats = match home {
            Home::Destination => self.lab.beats_of_move(id, source, destination)?,
            Home::Source => self.lab.console(source, id)?.beats()?,
        };
        let latest: Vec<_> = beats.into_iter().filter(|one| one.n >= beat.n).collect();
        checks.push(check_pulse(beat, &latest));
        let agent = self.lab.agent(&self.api().server(id)?)?;
        checks.push(check_integrity(first, &agent.verify()?));
        all_hold(&checks)
    }

    /// A fault in the middle of a move, and what must have become of it.
    fn case(&self, name: &str, fault: Fault, status: &str, home: Home) -> anyhow::Result<()> {
        let id = match self.api().get("/v2.1/servers")?["servers"][0]["id"].as_str() {
            Some(id) => id.to_owned(),
            None => self.boot()?,
        };
        let moving = self.begin(&id)?;
        let broken = Instant::now();
        fault(self, &moving)?;
        let ended = self.api().wait_for_migration(&id, SETTLED)?;
        let took = broken.elapsed();
        ensure!(ended.uuid == moving.migration.uuid, "another migration: {ended:?}");
        ensure!(ended.status == status, "{}, not {status}: {:?}", ended.status, ended.figures);
        ensure!(took <= SETTLED, "it took {:.1} s", took.as_secs_f64());
        self.check(&moving, home)?;
        eprintln!("{name}: {status} after {:.1} s", took.as_secs_f64());
        Ok(())
    }

    /// Deleted in the middle of a move: nothing is left of it anywhere.
    fn delete_in_the_middle(&self) -> anyhow::Result<()> {
        let moving = self.begin(&self.boot()?)?;
        let asked = Instant::now();
        self.api().delete_server(&moving.id, SETTLED)?;
        let took = asked.elapsed();
        self.check_consistent()?;
        let mut checks = self.lab.check_gone(&moving.id)?;
        checks.push(self.lab.check_history(&moving.id)?);
        checks.push(self.lab.check_messages()?);
        all_hold(&checks)?;
        eprintln!("deleted: gone after {:.1} s", took.as_secs_f64());
        Ok(())
    }

    /// The source dies for good in the middle of a move. The move ends, and the guest is evacuated.
    fn lose_the_source(&self) -> anyhow::Result<()> {
        let moving = self.begin(&self.boot()?)?;
        let Moving { id, source, destination, .. } = &moving;
        let lost = Instant::now();
        self.lab.kill_host(source)?;
        self.api().force_down(source, true)?;
        let ended = self.api().wait_for_migration(id, SETTLED)?;
        ensure!(ended.status == "failed", "{}: the guest can't have moved", ended.status);
        let server = self.api().wait_for_status(id, "ACTIVE", SETTLED)?;
        ensure!(server.host.as_ref() == Some(source), "it is said to be at {:?}", server.host);
        eprintln!("source host lost: failed after {:.1} s", lost.elapsed().as_secs_f64());
        self.api().action(id, &json!({ "evacuate": {} }))?;
        self.api().wait_for_status(id, "SHUTOFF", SETTLED)?;
        self.api().action(id, &json!({ "os-start": null }))?;
        self.api().wait_for_status(id, "ACTIVE", SETTLED)?;
        self.lab.power_on_host(source)?;
        until(Deadline::after(SETTLED), "the lost host to clean up", || {
            let latest = self.api().migrations(id)?.into_iter().next().context("no migration")?;
            Ok((latest.status == "completed").then_some(()))
        })?;
        self.api().force_down(source, false)?;
        self.check_consistent()?;
        let mut checks = self.lab.check_place(id, destination)?;
        checks.push(self.lab.check_files(id, destination)?);
        checks.push(self.lab.check_messages()?);
        all_hold(&checks)?;
        self.api().delete_server(id, SETTLED)
    }

    /// Runs `cases` one after the other, all of them, and fails if any has.
    fn run(&self, cases: &[(&str, Fault, &str, Home)]) {
        let mut failed = Vec::new();
        for (name, fault, status, home) in cases {
            if let Err(error) = self.case(name, *fault, status, *home) {
                failed.push(format!("{name}: {error:#}"));
                self.clear();
            }
        }
        if let Err(error) = self.delete_all().and_then(|()| self.delete_in_the_middle()) {
            failed.push(format!("deleted: {error:#}"));
        }
        if let Err(error) = self.lose_the_source() {
            failed.push(format!("source host lost: {error:#}"));
        }
        let logs = self.lab.logs().display();
        assert!(failed.is_empty(), "{}\nlogs: {logs}", failed.join("\n"));
    }

    /// What a failed case has left must not fail the next.
    fn clear(&self) {
        for host in self.lab.host_names() {
            let up = self.lab.host(host).is_ok_and(|host| host.is_up());
            if !up {
                let _ = self.lab.start_host(host);
            }
        }
        for unit in [Unit::Broker, Unit::Database, Unit::Conductor] {
            let _ = self.lab.start_process(&unit);
        }
        let _ = self.delete_all();
    }
}

fn source_killed(stage: &Faults, moving: &Moving) -> anyhow::Result<()> {
    stage.lab.restart(&Unit::compute(&moving.source))
}

fn destination_killed(stage: &Faults, moving: &Moving) -> anyhow::Result<()> {
    stage.lab.restart(&Unit::compute(&moving.destination))
}

/// The guest does not notice.
fn conductor_killed(stage: &Faults, moving: &Moving) -> anyhow::Result<()> {
    let silence = stage.silence(moving, || stage.lab.restart(&Unit::Conductor))?;
    eprintln!("conductor killed: silent for {silence} ms");
    ensure!(silence < HALTED_MS, "the guest was silent for {silence} ms");
    Ok(())
}

fn broker_restarted(stage: &Faults, _: &Moving) -> anyhow::Result<()> {
    stage.lab.stop_process(&Unit::Broker)?;
    stage.lab.start_process(&Unit::Broker)
}

fn database_restarted(stage: &Faults, _: &Moving) -> anyhow::Result<()> {
    stage.lab.restart(&Unit::Database)
}

fn aborted(stage: &Faults, moving: &Moving) -> anyhow::Result<()> {
    stage.api().abort_migration(&moving.id, moving.migration.id)
}

/// Without post-copy the guest is halted, so that the rest of its memory can follow. That is seen from outside.
fn force_completed(stage: &Faults, moving: &Moving) -> anyhow::Result<()> {
    let path = format!("/v2.1/servers/{}/migrations/{}/action", moving.id, moving.migration.id);
    let force = || stage.api().post(&path, &json!({ "force_complete": null })).map(drop);
    let silence = stage.silence(moving, force)?;
    eprintln!("force-completed: silent for {silence} ms");
    ensure!(silence >= HALTED_MS, "it ran on: silent for {silence} ms only");
    Ok(())
}

/// It comes back when the move has ended, and has to clean up then.
fn destination_host_killed(stage: &Faults, moving: &Moving) -> anyhow::Result<()> {
    stage.lab.kill_host(&moving.destination)?;
    let ended = stage.api().wait_for_migration(&moving.id, SETTLED)?;
    ensure!(ended.status == "failed", "{} while the destination was away", ended.status);
    stage.lab.start_host(&moving.destination)
}

#[test]
fn faults_in_a_move_over_shared_storage_end_well() {
    Faults::set(Storage::Shared).run(&[
        ("source's compute killed", source_killed, "completed", Home::Destination),
        ("destination's compute killed", destination_killed, "completed", Home::Destination),
        ("conductor killed", conductor_killed, "completed", Home::Destination),
        ("broker restarted", broker_restarted, "completed", Home::Destination),
        ("database restarted", database_restarted, "completed", Home::Destination),
        ("aborted", aborted, "cancelled", Home::Source),
        ("force-completed", force_completed, "completed", Home::Destination),
        ("destination host killed", destination_host_killed, "failed", Home::Source),
    ]);
}

#[test]
fn faults_in_a_move_with_its_disks_end_well() {
    Faults::set(Storage::Local).run(&[
        ("source's compute killed", source_killed, "completed", Home::Destination),
        ("aborted", aborted, "cancelled", Home::Source),
        ("destination host killed", destination_host_killed, "failed", Home::Source),
    ]);
}
