//! Faults in the middle of a live migration of a real guest. Each must end by itself, in a legal state, in a
//! bounded time, with the guest on exactly one host, intact, and nothing left over.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::json;
use whimbrel_lab::api::Migration;
use whimbrel_lab::checks::{Check, check_integrity, check_pulse};
use whimbrel_lab::guest::{self, Heartbeat, Stat};
use whimbrel_lab::{
    Api, BlockMigration, Deadline, Lab, MigrationTuning, NewServer, Storage, Unit, labs_dir, until,
};

const BOOT: Duration = Duration::from_secs(60);
/// From the request to the job's running with something sent.
const UNDER_WAY: Duration = Duration::from_secs(30);
/// From the fault to the end of the operation: the job itself takes about ten seconds at this bandwidth, a
/// killed service is back within one, a lost host is noticed after five, lost connections after ten.
const SETTLED: Duration = Duration::from_secs(60);
/// From the end of the operation until hosts have reported and done what they were asked to do later.
const CONSISTENT: Duration = Duration::from_secs(30);
/// Makes a move last for some ten seconds.
const BANDWIDTH_MIB_S: u64 = 6;

struct Stage {
    lab: Lab,
    flavor: String,
    image: String,
    network: String,
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

type Fault = fn(&Stage, &Moving) -> anyhow::Result<()>;

impl Stage {
    fn set(storage: Storage) -> Self {
        let image = guest::prepare(&labs_dir().join("cache")).unwrap();
        let migration = MigrationTuning {
            bandwidth_mib_s: Some(BANDWIDTH_MIB_S),
            ..MigrationTuning::default()
        };
        let lab = Lab::builder().storage(storage).migration(migration).start();
        let lab = lab.unwrap_or_else(|error| panic!("{error:#}"));
        let flavor = lab.api().create_flavor("small", 1, 128, 1).unwrap();
        let image = lab.api().create_image("guest", "qcow2", &image.qcow2).unwrap();
        let network = lab.api().create_network("net", "brt", whimbrel_lab::TENANT_CIDR).unwrap();
        Self { lab, flavor, image, network }
    }

    fn api(&self) -> &Api {
        self.lab.api()
    }

    fn boot(&self) -> anyhow::Result<String> {
        let (flavor, image, network) = (&self.flavor, &self.image, &self.network);
        let new = NewServer { name: "guest", flavor, image, network, host: None };
        let id = self.api().create_server(&new)?;
        let server = self.api().wait_for_status(&id, "ACTIVE", BOOT)?;
        let home = server.host.context("it is on no host")?;
        self.lab.console(&home, &id)?.wait_for_beat(0, BOOT)?;
        Ok(id)
    }

    /// Begins a move to the other host and waits until memory travels.
    fn begin(&self, id: &str) -> anyhow::Result<Moving> {
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

    /// Everything that has to be true after the move has ended.
    fn check(&self, moving: &Moving, home: Home) -> anyhow::Result<()> {
        let Moving { id, source, destination, beat, first, .. } = moving;
        let host = if home == Home::Source { source } else { destination };
        self.check_consistent()?;
        let mut checks = self.lab.check_place(id, host)?;
        checks.push(self.lab.check_files(id, host)?);
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

    /// The invariants that the API asserts, and that nothing is owed any more.
    fn check_consistent(&self) -> anyhow::Result<()> {
        until(Deadline::after(CONSISTENT), "all invariants to hold", || {
            let violations = self.api().get("/v1/consistency")?["violations"].clone();
            let owed = self.api().get("/v1/obligations")?["obligations"].clone();
            let well = violations == json!([]) && owed == json!([]);
            Ok(well.then_some(()))
        })
        .with_context(|| format!("{:?}", self.api().get("/v1/consistency")))
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
        all_hold(&self.lab.check_gone(&moving.id)?)?;
        eprintln!("deleted: gone after {:.1} s", took.as_secs_f64());
        Ok(())
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

    fn delete_all(&self) -> anyhow::Result<()> {
        let servers = self.api().get("/v2.1/servers")?["servers"].clone();
        for server in servers.as_array().context("a list of servers")? {
            self.api().delete_server(server["id"].as_str().context("an id")?, SETTLED)?;
        }
        Ok(())
    }
}

fn all_hold(checks: &[Check]) -> anyhow::Result<()> {
    let broken: Vec<String> = checks
        .iter()
        .filter(|check| !check.held)
        .map(|check| format!("{}; seen: {}", check.what, check.seen))
        .collect();
    if broken.is_empty() { Ok(()) } else { bail!("{}", broken.join("; ")) }
}

fn source_killed(stage: &Stage, moving: &Moving) -> anyhow::Result<()> {
    stage.lab.restart(&Unit::compute(&moving.source))
}

fn destination_killed(stage: &Stage, moving: &Moving) -> anyhow::Result<()> {
    stage.lab.restart(&Unit::compute(&moving.destination))
}

fn conductor_killed(stage: &Stage, _: &Moving) -> anyhow::Result<()> {
    stage.lab.restart(&Unit::Conductor)
}

fn broker_restarted(stage: &Stage, _: &Moving) -> anyhow::Result<()> {
    stage.lab.stop_process(&Unit::Broker)?;
    stage.lab.start_process(&Unit::Broker)
}

fn database_restarted(stage: &Stage, _: &Moving) -> anyhow::Result<()> {
    stage.lab.restart(&Unit::Database)
}

fn aborted(stage: &Stage, moving: &Moving) -> anyhow::Result<()> {
    stage.api().abort_migration(&moving.id, moving.migration.id)
}

fn force_completed(stage: &Stage, moving: &Moving) -> anyhow::Result<()> {
    let path = format!("/v2.1/servers/{}/migrations/{}/action", moving.id, moving.migration.id);
    stage.api().post(&path, &json!({ "force_complete": null })).map(drop)
}

/// It comes back when the move has ended, and has to clean up then.
fn destination_host_killed(stage: &Stage, moving: &Moving) -> anyhow::Result<()> {
    stage.lab.kill_host(&moving.destination)?;
    let ended = stage.api().wait_for_migration(&moving.id, SETTLED)?;
    ensure!(ended.status == "failed", "{} while the destination was away", ended.status);
    stage.lab.start_host(&moving.destination)
}

#[test]
fn faults_in_a_move_over_shared_storage_end_well() {
    Stage::set(Storage::Shared).run(&[
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
    Stage::set(Storage::Local).run(&[
        ("source's compute killed", source_killed, "completed", Home::Destination),
        ("aborted", aborted, "cancelled", Home::Source),
        ("destination host killed", destination_host_killed, "failed", Home::Source),
    ]);
}
