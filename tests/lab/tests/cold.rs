//! Moves of real guests that are shut off: resize, cold migration, both decisions, evacuation, and faults.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

mod support;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use support::{BOOT, SETTLED, Stage, all_hold};
use whimbrel_lab::checks::Check;
use whimbrel_lab::guest::Stat;
use whimbrel_lab::{BlockMigration, Deadline, Lab, Link, MigrationTuning, Storage, Unit, until};

const LARGE: &str = "large";

struct Cold {
    stage: Stage,
    large: String,
}

impl std::ops::Deref for Cold {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Migrate,
    Resize,
}

/// How a host is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// As it should be when somebody forces it down.
    Dead,
    /// It goes on, and so do its guests; whoever forced it down was wrong.
    CutOff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Confirm,
    Revert,
}

impl Cold {
    fn set(storage: Storage, migration: MigrationTuning) -> Self {
        let stage = Stage::set(Lab::builder().storage(storage).migration(migration));
        let large = stage.api().create_flavor(LARGE, 2, 160, 2).unwrap();
        Self { stage, large }
    }

    fn act(&self, id: &str, action: &Value) -> anyhow::Result<()> {
        self.api().action(id, action)
    }

    fn home(&self, id: &str) -> anyhow::Result<String> {
        self.api().server(id)?.host.context("it is on no host")
    }

    fn other(&self, host: &str) -> String {
        self.lab.host_names().iter().find(|name| *name != host).unwrap().clone()
    }

    fn begin(&self, id: &str, kind: Kind) -> anyhow::Result<()> {
        self.act(
            id,
            &match kind {
                Kind::Migrate => json!({ "migrate": null }),
                Kind::Resize => json!({ "resize": { "flavorRef": self.large } }),
            },
        )
    }

    fn decide(&self, id: &str, decision: Decision, status: &str) -> anyhow::Result<()> {
        self.act(
            id,
            &match decision {
                Decision::Confirm => json!({ "confirmResize": null }),
                Decision::Revert => json!({ "revertResize": null }),
            },
        )?;
        self.api().wait_for_status(id, status, SETTLED).map(drop)
    }

    /// Blocks on the guest's disk, and how many there are. Enough of them that some were flushed, which the
    /// guest does once a second: others may be lost with its host.
    fn write(&self, id: &str) -> anyhow::Result<Stat> {
        let agent = self.lab.agent(&self.api().server(id)?)?;
        agent.write_disk(400)?;
        let written = until(Deadline::after(BOOT), "blocks to be written", || {
            let stat = agent.stat()?;
            Ok((stat.blocks_written >= 1_000).then_some(stat))
        })?;
        agent.write_disk(0)?;
        Ok(written)
    }

    /// The guest runs on `host`, and has on its disk what it had written before.
    fn check_runs(&self, id: &str, host: &str, blocks: u64) -> anyhow::Result<()> {
        let agent = self.lab.agent(&self.api().server(id)?)?;
        let stat = until(Deadline::after(BOOT), "the guest to answer", || Ok(agent.verify().ok()))?;
        let seen = format!("{} blocks, {} errors", stat.verified_blocks, stat.block_errors);
        let intact = stat.block_errors == 0 && stat.verified_blocks >= blocks;
        let running = self.lab.hosts_running(id)?;
        all_hold(&[
            Check::new("its disk has what it wrote", intact, seen),
            Check::new("it runs there alone", running == [host.to_owned()], format!("{running:?}")),
        ])
    }

    /// At rest on `host` for good: nothing else of it anywhere.
    fn check_rests(&self, id: &str, host: &str) -> anyhow::Result<()> {
        self.check_consistent()?;
        let held = self.api().allocations(id)?;
        ensure!(held.len() == 1 && held[0].host == host, "held: {held:?}");
        all_hold(&[self.lab.check_files(id, host)?])?;
        let others: Vec<PathBuf> = self.strays(id)?;
        ensure!(others.is_empty(), "left over: {others:?}");
        Ok(())
    }

    /// Directories that only a move under way or undecided has.
    fn strays(&self, id: &str) -> anyhow::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for host in self.lab.host_names() {
            for file in self.lab.host(host)?.instance_files(self.lab.storage())? {
                let top =
                    file.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
                if top.starts_with(id) && top != id {
                    found.push(file);
                }
            }
        }
        Ok(found)
    }

    /// One row of the matrix.
    fn row(&self, kind: Kind, decision: Decision, running: bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        let id = self.boot()?;
        let (source, size) = (self.home(&id)?, self.size(&id)?);
        let written = self.write(&id)?.blocks_written.min(200);
        let status = if running { "ACTIVE" } else { "SHUTOFF" };
        if !running {
            self.act(&id, &json!({ "os-stop": null }))?;
            self.api().wait_for_status(&id, status, SETTLED)?;
        }
        self.begin(&id, kind)?;
        self.api().wait_for_status(&id, "VERIFY_RESIZE", SETTLED)?;
        let destination = self.home(&id)?;
        ensure!(destination != source, "it has not moved");
        if running {
            self.check_runs(&id, &destination, written / 2)?;
            let expected = if kind == Kind::Resize { (2, 160) } else { size };
            ensure!(self.size(&id)? == expected, "{:?} is not {expected:?}", self.size(&id)?);
            ensure!(self.lab.vcpus(&destination, &id)? == expected.0, "the guest's processors");
        }
        self.decide(&id, decision, status)?;
        let home = if decision == Decision::Confirm { destination } else { source };
        ensure!(self.home(&id)? == home, "it is at {}", self.home(&id)?);
        self.check_rests(&id, &home)?;
        if !running {
            self.act(&id, &json!({ "os-start": null }))?;
            self.api().wait_for_status(&id, "ACTIVE", SETTLED)?;
        }
        self.check_runs(&id, &home, written / 2)?;
        self.api().delete_server(&id, SETTLED)?;
        all_hold(&self.lab.check_gone(&id)?)?;
        let took = begun.elapsed().as_secs_f64();
        eprintln!("{kind:?}, {decision:?}, running {running}: well after {took:.1} s");
        Ok(())
    }

    /// Processors and MiB, by the server's flavor.
    fn size(&self, id: &str) -> anyhow::Result<(i64, i64)> {
        let server = self.api().get(&format!("/v2.1/servers/{id}"))?;
        let flavor = &server["server"]["flavor"];
        Ok((flavor["vcpus"].as_i64().context("vcpus")?, flavor["ram"].as_i64().context("ram")?))
    }

    fn matrix(&self) {
        let mut failed = Vec::new();
        for kind in [Kind::Migrate, Kind::Resize] {
            for decision in [Decision::Confirm, Decision::Revert] {
                for running in [true, false] {
                    if let Err(error) = self.row(kind, decision, running) {
                        failed
                            .push(format!("{kind:?}, {decision:?}, running {running}: {error:#}"));
                        let _ = self.delete_all();
                    }
                }
            }
        }
        assert!(failed.is_empty(), "{}\nlogs: {}", failed.join("\n"), self.lab.logs().display());
    }

    /// The host is lost and forced down, its guest is made again elsewhere; then the host comes back.
    fn evacuate(&self, lost: Lost) -> anyhow::Result<()> {
        let id = self.boot()?;
        let written = self.write(&id)?.blocks_written.min(200);
        let source = self.home(&id)?;
        let destination = self.other(&source);
        match lost {
            Lost::Dead => self.lab.kill_host(&source)?,
            Lost::CutOff => self.cables(&source, Lab::cut_link)?,
        }
        self.api().force_down(&source, true)?;
        self.act(&id, &json!({ "evacuate": {} }))?;
        // From 2.95 on it stays off.
        self.api().wait_for_status(&id, "SHUTOFF", SETTLED)?;
        ensure!(self.home(&id)? == destination, "it is at {}", self.home(&id)?);
        self.act(&id, &json!({ "os-start": null }))?;
        self.api().wait_for_status(&id, "ACTIVE", SETTLED)?;
        let kept = if self.lab.storage() == Storage::Shared { written / 2 } else { 0 };
        match lost {
            Lost::Dead => {
                self.check_runs(&id, &destination, kept)?;
                self.lab.power_on_host(&source)?;
            }
            Lost::CutOff => {
                let running = self.lab.hosts_running(&id)?;
                ensure!(running.len() == 2, "the stale copy runs, too: {running:?}");
                self.cables(&source, Lab::heal_link)?;
            }
        }
        until(Deadline::after(SETTLED), "the old host to clean up", || {
            let latest = self.api().migrations(&id)?.into_iter().next().context("no migration")?;
            Ok((latest.status == "completed").then_some(()))
        })?;
        self.api().force_down(&source, false)?;
        self.check_rests(&id, &destination)?;
        self.check_runs(&id, &destination, kept)?;
        self.api().delete_server(&id, SETTLED)
    }

    /// Does `what` to all of a host's cables.
    fn cables(
        &self,
        host: &str,
        what: fn(&Lab, &str, Link) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        [Link::Management, Link::Tenant]
            .into_iter()
            .try_for_each(|link| what(&self.lab, host, link))
    }
}

#[test]
fn every_move_of_a_stopped_disk_over_shared_storage() {
    let cold = Cold::set(Storage::Shared, MigrationTuning::default());
    cold.matrix();
}

#[test]
fn every_move_of_a_stopped_disk_with_local_disks() {
    let cold = Cold::set(Storage::Local, MigrationTuning::default());
    cold.matrix();
}

#[test]
fn a_guest_is_evacuated_over_shared_storage() {
    let cold = Cold::set(Storage::Shared, MigrationTuning::default());
    cold.evacuate(Lost::Dead).unwrap_or_else(|error| panic!("{error:#}"));
}

/// What was written before a move is read after it, wherever the guest is; and when the volume is taken away, it is gone.
#[test]
fn a_volume_goes_with_its_guest() {
    let cold = Cold::set(Storage::Local, MigrationTuning::default());
    let run = || -> anyhow::Result<()> {
        let volume = cold.lab.serve_volume(1, 64)?;
        let id = cold.boot()?;
        let source = cold.home(&id)?;
        let destination = cold.other(&source);
        let agent = cold.lab.agent(&cold.api().server(&id)?)?;
        let reads = |version: u64| -> anyhow::Result<()> {
            let what = format!("version {version} on the volume");
            let found = until(Deadline::after(BOOT), &what, || Ok(agent.read_volume().ok()))?;
            ensure!(found == version, "the volume is of version {found}, not {version}");
            Ok(())
        };
        cold.write(&id)?;
        ensure!(agent.read_volume().is_err(), "it has a volume already");
        cold.lab.attach_volume(&id, &volume, SETTLED)?;
        until(Deadline::after(BOOT), "the guest to see the volume", || {
            Ok(agent.fill_volume(1).ok())
        })?;
        ensure!(volume.is_written()?, "nothing has reached the server");

        cold.api().live_migrate(&id, Some(&destination), BlockMigration::Auto)?;
        let moved = cold.api().wait_for_migration(&id, SETTLED)?;
        ensure!(moved.status == "completed", "{}", moved.status);
        reads(1)?;
        agent.fill_volume(2)?;

        cold.begin(&id, Kind::Resize)?;
        cold.api().wait_for_status(&id, "VERIFY_RESIZE", SETTLED)?;
        reads(2)?;
        agent.fill_volume(3)?;
        cold.decide(&id, Decision::Revert, "ACTIVE")?;
        // The way back is for the guest's own disk: what is on the volume stays.
        reads(3)?;

        cold.begin(&id, Kind::Migrate)?;
        cold.api().wait_for_status(&id, "VERIFY_RESIZE", SETTLED)?;
        cold.decide(&id, Decision::Confirm, "ACTIVE")?;
        reads(3)?;
        cold.check_rests(&id, &source)?;

        cold.lab.kill_host(&source)?;
        cold.api().force_down(&source, true)?;
        cold.act(&id, &json!({ "evacuate": {} }))?;
        cold.api().wait_for_status(&id, "SHUTOFF", SETTLED)?;
        cold.act(&id, &json!({ "os-start": null }))?;
        cold.api().wait_for_status(&id, "ACTIVE", SETTLED)?;
        reads(3)?;
        cold.lab.power_on_host(&source)?;
        until(Deadline::after(SETTLED), "the old host to clean up", || {
            let latest = cold.api().migrations(&id)?.into_iter().next().context("no migration")?;
            Ok((latest.status == "completed").then_some(()))
        })?;
        cold.api().force_down(&source, false)?;

        cold.lab.detach_volume(&id, &volume, SETTLED)?;
        ensure!(agent.read_volume().is_err(), "it still has the volume");
        // Also a server that is shut off is given one, and a deletion frees it.
        cold.act(&id, &json!({ "os-stop": null }))?;
        cold.api().wait_for_status(&id, "SHUTOFF", SETTLED)?;
        cold.lab.attach_volume(&id, &volume, SETTLED)?;
        cold.act(&id, &json!({ "os-start": null }))?;
        cold.api().wait_for_status(&id, "ACTIVE", SETTLED)?;
        reads(3)?;
        cold.api().delete_server(&id, SETTLED)?;
        cold.lab.wait_for_volume(&volume, "available", SETTLED)?;
        cold.check_consistent()
    };
    run().unwrap_or_else(|error| panic!("{error:#}\nlogs: {}", cold.lab.logs().display()));
}

/// The disk that tells a guest of itself is made anew by each host, and is the same to the last byte: a guest that
/// moves while it runs may have it mounted.
#[test]
fn a_guest_is_told_the_same_wherever_it_goes() {
    let cold = Cold::set(Storage::Local, MigrationTuning::default());
    let run = || -> anyhow::Result<()> {
        let asked = [("config_drive", json!(true)), ("user_data", json!("I2Nsb3VkLWNvbmZpZwo="))];
        let id = cold.boot_with(&asked)?;
        let source = cold.home(&id)?;
        let destination = cold.other(&source);
        let drive = |host: &str| -> anyhow::Result<Vec<u8>> {
            let file = cold.lab.host(host)?.instances_dir(Storage::Local).join(&id).join("config");
            std::fs::read(&file).with_context(|| format!("reading {}", file.display()))
        };
        let first = drive(&source)?;
        // Read by somebody else's program.
        let copy = cold.lab.dir().join("config-drive");
        std::fs::write(&copy, &first)?;
        let output = std::process::Command::new("mtype")
            .arg("-i")
            .arg(&copy)
            .arg("::openstack/latest/user_data")
            .output()?;
        ensure!(output.stdout == b"#cloud-config\n", "{output:?}");

        cold.api().live_migrate(&id, Some(&destination), BlockMigration::Auto)?;
        let moved = cold.api().wait_for_migration(&id, SETTLED)?;
        ensure!(moved.status == "completed", "{}", moved.status);
        ensure!(drive(&destination)? == first, "after the live migration it is another");
        let blocks = cold.lab.host(&destination)?.virsh(&["domblklist", &id])?;
        ensure!(blocks.contains("vdzz"), "{blocks}");
        cold.check_rests(&id, &destination)?;

        cold.begin(&id, Kind::Migrate)?;
        cold.api().wait_for_status(&id, "VERIFY_RESIZE", SETTLED)?;
        cold.decide(&id, Decision::Confirm, "ACTIVE")?;
        ensure!(drive(&source)? == first, "after the cold migration it is another");
        cold.check_rests(&id, &source)?;
        cold.api().delete_server(&id, SETTLED)?;
        all_hold(&cold.lab.check_gone(&id)?)
    };
    run().unwrap_or_else(|error| panic!("{error:#}\nlogs: {}", cold.lab.logs().display()));
}

/// Over shared storage the stale copy's lock on the disk would keep the new one from starting.
#[test]
fn a_guest_with_local_disks_is_evacuated_also_when_its_host_still_runs_it() {
    let cold = Cold::set(Storage::Local, MigrationTuning::default());
    for lost in [Lost::Dead, Lost::CutOff] {
        cold.evacuate(lost).unwrap_or_else(|error| panic!("{lost:?}: {error:#}"));
    }
}

/// At 1 MiB a second, the megabytes that the guest has written take some seconds.
#[test]
fn faults_while_a_disk_travels_end_well() {
    let slow = MigrationTuning { bandwidth_mib_s: Some(1), ..MigrationTuning::default() };
    let cold = Cold::set(Storage::Local, slow);
    let travelling = |id: &str| {
        until(Deadline::after(SETTLED), "the disk to travel", || {
            let latest = cold.api().migrations(id)?.into_iter().next().context("no migration")?;
            let latest = cold.api().migration(id, &latest.uuid)?;
            Ok((latest.figures.disk_bytes.unwrap_or_default() > 0).then_some(()))
        })
    };
    let run = || -> anyhow::Result<()> {
        let id = cold.boot()?;
        let written = cold.write(&id)?.blocks_written.min(200);
        let source = cold.home(&id)?;
        let destination = cold.other(&source);

        cold.begin(&id, Kind::Migrate)?;
        travelling(&id)?;
        cold.lab.restart(&Unit::compute(&source))?;
        cold.api().wait_for_status(&id, "VERIFY_RESIZE", SETTLED)?;
        cold.check_runs(&id, &destination, written / 2)?;
        eprintln!("source's compute killed: went on");
        cold.decide(&id, Decision::Revert, "ACTIVE")?;
        cold.check_rests(&id, &source)?;
        cold.check_runs(&id, &source, written / 2)?;

        cold.begin(&id, Kind::Migrate)?;
        travelling(&id)?;
        cold.lab.restart(&Unit::compute(&destination))?;
        cold.api().wait_for_status(&id, "VERIFY_RESIZE", SETTLED)?;
        cold.check_runs(&id, &destination, written / 2)?;
        eprintln!("destination's compute killed: went on");
        cold.decide(&id, Decision::Revert, "ACTIVE")?;
        cold.check_rests(&id, &source)?;

        cold.begin(&id, Kind::Migrate)?;
        travelling(&id)?;
        cold.api().delete_server(&id, SETTLED)?;
        all_hold(&cold.lab.check_gone(&id)?)?;
        cold.check_consistent()?;
        eprintln!("deleted: gone");

        // Waits for a decision, and the source is gone for now.
        let id = cold.boot()?;
        let source = cold.home(&id)?;
        cold.begin(&id, Kind::Migrate)?;
        cold.api().wait_for_status(&id, "VERIFY_RESIZE", SETTLED)?;
        cold.lab.kill_host(&source)?;
        cold.api().delete_server(&id, SETTLED)?;
        cold.lab.start_host(&source)?;
        cold.check_consistent()?;
        all_hold(&cold.lab.check_gone(&id)?)?;
        eprintln!("deleted in VERIFY_RESIZE with the source down: gone when it was back");
        Ok(())
    };
    run().unwrap_or_else(|error| panic!("{error:#}\nlogs: {}", cold.lab.logs().display()));
}
