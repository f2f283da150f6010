//! One guest's life: boot, live there and back, then shut off for a cold migration and for resizes, deletion.

use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use whimbrel_lab::api::Server;
use whimbrel_lab::checks::{check_integrity, check_pulse, check_record};
use whimbrel_lab::guest::{Heartbeat, Stat};
use whimbrel_lab::{Agent, BlockMigration, Deadline, Lab, NewServer, Pinger, until};

use super::{Check, Move, Report, next};

const BOOT_PATIENCE: Duration = Duration::from_secs(60);
const MOVE_PATIENCE: Duration = Duration::from_secs(120);
const DELETE_PATIENCE: Duration = Duration::from_secs(30);
/// Memory that the guest rewrites, in MiB.
const WORKING_SET_MIB: u32 = 16;
/// Blocks of 4 KiB that the guest writes each second.
const BLOCKS_S: u32 = 50;

/// What servers are made of.
pub(super) struct Materials {
    pub(super) flavor: String,
    /// A flavor with twice the processors and disk.
    pub(super) large: String,
    pub(super) image: String,
    pub(super) network: String,
    pub(super) dirty_mib_s: u32,
}

/// A move for which the guest is shut off, and what is decided about it.
struct Cold {
    name: &'static str,
    action: Value,
    confirm: bool,
}

impl Cold {
    fn migrate() -> Self {
        Self {
            name: "cold migration: confirmed",
            action: json!({ "migrate": null }),
            confirm: true,
        }
    }

    fn resize(flavor: &str, confirm: bool) -> Self {
        let name = if confirm { "resize: confirmed" } else { "resize: reverted" };
        Self { name, action: json!({ "resize": { "flavorRef": flavor } }), confirm }
    }
}

/// The guest of a round.
struct Subject<'a> {
    lab: &'a Lab,
    storage: &'a str,
    id: String,
    agent: Agent<'a>,
    /// As it was before the first move.
    first: Stat,
}

pub(super) fn run(
    lab: &Lab,
    storage: &str,
    materials: &Materials,
    bar: &ProgressBar,
    report: &mut Report,
) -> anyhow::Result<()> {
    next(bar, &format!("{storage}: booting a server"));
    let server = boot(lab, storage, materials)?;
    next(bar, &format!("{storage}: waiting for the guest's heartbeat"));
    let home = server.host.clone().context("the server is on no host")?;
    let away =
        lab.host_names().iter().find(|name| **name != home).context("only one host")?.clone();
    let beat = lab.console(&home, &server.id)?.wait_for_beat(0, BOOT_PATIENCE)?;
    let agent = lab.agent(&server)?;
    agent.dirty_memory(WORKING_SET_MIB, materials.dirty_mib_s)?;
    let first = agent.write_disk(BLOCKS_S)?;
    let same =
        Check::new("console and network show the same boot", beat.boot == first.boot, &*beat.boot);
    let about = format!("{storage}: boot on {home}");
    report.add(&about, [same]);
    report.add(&about, lab.check_place(&server.id, &home)?);
    report.add(&about, [lab.check_files(&server.id, &home)?]);

    let subject = Subject { lab, storage, id: server.id.clone(), agent, first };
    subject.moves(&home, &away, bar, report)?;
    subject.moves(&away, &home, bar, report)?;
    let large = &materials.large;
    subject.cold(&Cold::migrate(), (&home, &away), bar, report)?;
    subject.cold(&Cold::resize(large, false), (&away, &home), bar, report)?;
    subject.cold(&Cold::resize(large, true), (&away, &home), bar, report)?;

    next(bar, &format!("{storage}: deleting the server"));
    lab.api().delete_server(&server.id, DELETE_PATIENCE)?;
    report.add(&format!("{storage}: deleted"), lab.check_gone(&server.id)?);
    Ok(())
}

fn boot(lab: &Lab, storage: &str, materials: &Materials) -> anyhow::Result<Server> {
    let name = format!("demo-{storage}");
    let id = lab.api().create_server(&NewServer {
        name: &name,
        flavor: &materials.flavor,
        image: &materials.image,
        network: &materials.network,
        host: None,
    })?;
    lab.api().wait_for_status(&id, "ACTIVE", BOOT_PATIENCE)
}

impl Subject<'_> {
    fn moves(
        &self,
        source: &str,
        destination: &str,
        bar: &ProgressBar,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let Self { lab, storage, id, .. } = self;
        let about = format!("{storage}: {source} → {destination}");
        next(bar, &format!("{about}: live-migrating"));
        let before = lab.console(source, id)?.wait_for_beat(0, BOOT_PATIENCE)?;
        let ping = Pinger::start(lab.switch()?, self.agent.address())?;
        let asked = Instant::now();
        lab.api().live_migrate(id, Some(destination), BlockMigration::Auto)?;
        let ended = lab.api().wait_for_migration(id, MOVE_PATIENCE);
        let wall = asked.elapsed();
        let ping = ping.stop()?;
        let migration = ended?;
        report.moves.push(Move {
            storage: (*storage).to_owned(),
            source: source.to_owned(),
            destination: destination.to_owned(),
            status: migration.status.clone(),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            total_ms: migration.figures.total_ms,
            downtime_ms: migration.figures.downtime_ms,
            memory_bytes: migration.figures.memory_bytes,
            disk_bytes: migration.figures.disk_bytes,
            ping,
        });

        next(bar, &format!("{about}: looking where it is"));
        report.add(&about, [check_record(&migration, source, destination, lab.storage())]);
        report.add(&about, lab.check_place(id, destination)?);
        report.add(&about, [lab.check_files(id, destination)?]);
        let answered = ping.sent > ping.lost;
        let seen = format!("{} of {} lost", ping.lost, ping.sent);
        report.add(&about, [Check::new("its pings are counted", answered, seen)]);

        next(bar, &format!("{about}: checking its memory and disk"));
        report.add(&about, [self.check_pulse(&before, source, destination)?]);
        report.add(&about, [check_integrity(&self.first, &self.agent.verify()?)]);
        Ok(())
    }

    fn cold(
        &self,
        cold: &Cold,
        (source, destination): (&str, &str),
        bar: &ProgressBar,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let Self { lab, storage, id, .. } = self;
        let (api, about) = (lab.api(), format!("{storage}: {}", cold.name));
        next(bar, &format!("{about}: moving it"));
        // What was flushed outlives the shutdown; the guest flushes what it writes once a second.
        let before = self.agent.write_disk(0)?;
        let processors = lab.vcpus(source, id)?;
        api.action(id, &cold.action)?;
        api.wait_for_status(id, "VERIFY_RESIZE", MOVE_PATIENCE)?;
        self.wait_until_it_answers()?;
        let moved = lab.vcpus(destination, id)?;
        let decision = if cold.confirm { "confirmResize" } else { "revertResize" };
        next(bar, &format!("{about}: deciding"));
        api.action(id, &json!({ decision: null }))?;
        api.wait_for_status(id, "ACTIVE", MOVE_PATIENCE)?;
        let home = if cold.confirm { destination } else { source };
        let after = self.wait_until_it_answers()?;

        let now = lab.vcpus(home, id)?;
        let grows = cold.action.get("resize").is_some();
        let expected = |there: bool| if grows && there { 2 * processors } else { processors };
        let right = moved == expected(true) && now == expected(cold.confirm);
        let seen = format!("{processors}, {moved} after the move, {now} now");
        report.add(&about, [Check::new("it has the processors of its flavor", right, seen)]);
        report.add(&about, lab.check_place(id, home)?);
        report.add(&about, [lab.check_files(id, home)?]);
        let (blocks, errors) = (after.verified_blocks, after.block_errors);
        let kept = errors == 0 && blocks > 0;
        let seen = format!("{blocks} blocks, {errors} errors, {} written", before.blocks_written);
        report.add(&about, [Check::new("its disk has what it wrote", kept, seen)]);
        self.agent.write_disk(BLOCKS_S)?;
        Ok(())
    }

    /// A guest that starts anew takes a while.
    fn wait_until_it_answers(&self) -> anyhow::Result<Stat> {
        until(Deadline::after(BOOT_PATIENCE), "the guest to answer", || {
            Ok(self.agent.verify().ok())
        })
    }

    /// Waits for a beat on the destination first: a guest that has stopped is one that has no pulse.
    fn check_pulse(
        &self,
        before: &Heartbeat,
        source: &str,
        destination: &str,
    ) -> anyhow::Result<Check> {
        let console = self.lab.console(destination, &self.id)?;
        let went_on = console.wait_for_beat(before.n, Duration::from_secs(10));
        let beats = self.lab.beats_of_move(&self.id, source, destination)?;
        Ok(went_on.map_or_else(
            |error| Check::new("same boot, monotone heartbeat", false, format!("{error:#}")),
            |_| check_pulse(before, &beats),
        ))
    }
}
