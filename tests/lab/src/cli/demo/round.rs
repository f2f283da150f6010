//! One guest's life: boot, a move there, a move back, deletion.

use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::ProgressBar;
use whimbrel_lab::api::Server;
use whimbrel_lab::checks::{check_integrity, check_pulse, check_record};
use whimbrel_lab::guest::{Heartbeat, Stat};
use whimbrel_lab::{Agent, BlockMigration, Lab, NewServer, Pinger};

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
    pub(super) image: String,
    pub(super) network: String,
    pub(super) dirty_mib_s: u32,
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
