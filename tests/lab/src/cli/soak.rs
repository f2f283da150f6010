//! Kill rounds: all services as processes over simulated hosts, a mixed load, random faults; after each round everything
//! must have ended, and rightly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use clap::Args;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use whimbrel_lab::{Deadline, Driver, Lab, Replica, Unit, is_interrupted};

use super::{manage, note, say, signals};

mod checks;
mod faults;
mod load;

use load::Load;

const HOSTS: u8 = 4;
/// Conductors, and schedulers.
const REPLICAS: u8 = 2;
/// How long everything may take to end after a round.
const PATIENCE: Duration = Duration::from_secs(150);
/// Memory that is no disk: a simulated hypervisor's guests cost nothing to write down.
const WORLDS: &str = "/dev/shm";
/// What simulated guests move with, in MiB a second: a live migration takes half a second, a disk a whole one.
const BANDWIDTH: i64 = 1_024;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The lab's name.
    #[arg(long, default_value = "soak")]
    name: String,
    /// For how long, in seconds. The last round is finished.
    #[arg(long)]
    seconds: u64,
    /// What the rounds' faults and wishes follow from. A new one every second, unless it is said.
    #[arg(long)]
    seed: Option<u64>,
}

/// What has happened.
#[derive(Default)]
struct Totals {
    rounds: u64,
    violations: u64,
    wishes: u64,
    faults: BTreeMap<&'static str, u64>,
    /// From each round's last fault until all has ended, in milliseconds.
    settled: Vec<u128>,
    /// Operations by name and end.
    ended: Vec<String>,
}

struct Soak<'a> {
    lab: &'a Lab,
    world: &'a Path,
    rng: StdRng,
    load: Load<'a>,
    totals: Totals,
}

/// Exit status 0 only if everything held. Without hosts of their own these need no root.
pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    signals::interrupt_on_signals(|| ())?;
    let _lock = manage::own(&options.name)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let seed = options.seed.unwrap_or(now.as_secs());
    let world = world(&options.name);
    let mut fake = toml::Table::new();
    fake.insert("world_dir".to_owned(), world.display().to_string().into());
    fake.insert("bandwidth_mib_s".to_owned(), BANDWIDTH.into());
    note(&format!("kill rounds: starting, seed {seed}"));
    let lab = Lab::builder().name(&options.name).hosts(HOSTS).driver(Driver::Fake(fake));
    let lab = lab.replicas(REPLICAS).start()?;
    let totals = rounds(&lab, &world, seed, Duration::from_secs(options.seconds));
    let stopped = lab.stop();
    let removed = std::fs::remove_dir_all(&world).context("removing the simulated world");
    let totals = totals?;
    stopped.and(removed)?;
    say(&totals.line(seed));
    let all_held = totals.violations == 0 && !is_interrupted();
    Ok(if all_held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn world(name: &str) -> PathBuf {
    Path::new(WORLDS).join(format!("whimbrel-{name}-{}", std::process::id()))
}

fn rounds(lab: &Lab, world: &Path, seed: u64, time: Duration) -> anyhow::Result<Totals> {
    let begun = Instant::now();
    let load = Load::prepare(lab)?;
    let rng = StdRng::seed_from_u64(seed);
    let mut soak = Soak { lab, world, rng, load, totals: Totals::default() };
    while begun.elapsed() < time && !is_interrupted() {
        soak.round().with_context(|| format!("round {} of seed {seed}", soak.totals.rounds))?;
        if soak.totals.violations > 0 {
            // What follows from a state that is wrong says nothing.
            break;
        }
    }
    soak.totals.ended = checks::ended(lab)?;
    Ok(soak.totals)
}

impl Soak<'_> {
    fn round(&mut self) -> anyhow::Result<()> {
        self.totals.rounds += 1;
        self.wish();
        for _ in 0..self.rng.random_range(1..=3) {
            self.pause(400);
            self.fault()?;
            self.wish();
        }
        self.repair()?;
        let begun = Instant::now();
        let deadline = Deadline::after(PATIENCE);
        let ended = loop {
            let open = checks::open(self.lab)?;
            if open.is_empty() || deadline.is_over() {
                break open;
            }
            ensure!(!is_interrupted(), "interrupted");
            std::thread::sleep(Duration::from_millis(50));
        };
        self.totals.settled.push(begun.elapsed().as_millis());
        let mut wrong = ended;
        wrong.append(&mut self.load.complaints);
        if wrong.is_empty() {
            wrong = checks::violations(self.lab, self.world)?;
        }
        for one in &wrong {
            say(&format!("round {}: {one}", self.totals.rounds));
        }
        self.totals.violations += wrong.len() as u64;
        Ok(())
    }

    fn wish(&mut self) {
        let wishes = self.rng.random_range(3..=8);
        for _ in 0..wishes {
            self.load.wish(&mut self.rng);
        }
        self.totals.wishes += wishes;
    }

    /// Waits for up to so many milliseconds.
    fn pause(&mut self, ms: u64) {
        std::thread::sleep(Duration::from_millis(self.rng.random_range(0..=ms)));
    }

    /// A process of ours.
    fn victim(&mut self) -> Unit {
        let hosts = self.lab.host_names();
        let replica = self.rng.random_range(2..=REPLICAS);
        match self.rng.random_range(0..10) {
            0 => Unit::Api,
            1 => Unit::Scheduler,
            2 => Unit::Replica(Replica::Scheduler, replica),
            3 | 4 => Unit::Conductor,
            5 => Unit::Replica(Replica::Conductor, replica),
            _ => Unit::compute(&hosts[self.rng.random_range(0..hosts.len())]),
        }
    }
}

impl Totals {
    fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    fn line(&self, seed: u64) -> String {
        let faults: Vec<String> =
            self.faults.iter().map(|(what, count)| format!("{what} {count}")).collect();
        let mut settled = self.settled.clone();
        settled.sort_unstable();
        let at = |part: usize| settled.get(settled.len() * part / 100).copied().unwrap_or_default();
        format!(
            "real processes: seed {seed}, {} kill rounds, {} requests, {} violations, faults: {}; ended: {}; \
             all has ended after {} ms (p50), {} ms (p99), {} ms (most)",
            self.rounds,
            self.wishes,
            self.violations,
            faults.join(", "),
            self.ended.join(", "),
            at(50),
            at(99),
            settled.last().copied().unwrap_or_default(),
        )
    }
}
