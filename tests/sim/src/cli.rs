//! What a person types: the replay of a seed, and runs as long as one likes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

use crate::shrink::shrink;
use crate::world::{Sim, Story};

/// The simulated control plane.
#[derive(Debug, Parser)]
#[command(name = "whimbrel-sim")]
struct Arguments {
    /// Replays the run that follows from this number, and prints all that happens.
    #[arg(long)]
    seed: Option<u64>,
    /// What the run is about.
    #[arg(long, value_enum, default_value_t = Story::Losses)]
    story: Story,
    /// Leaves out what the failure of that run does not need.
    #[arg(long)]
    shrink: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one seed after another on all processors. Ends with a line of counts.
    Soak {
        /// For how long, in seconds.
        #[arg(long)]
        seconds: u64,
        /// The first seed. New ones every day, unless it is said.
        #[arg(long)]
        from: Option<u64>,
    },
}

/// Does what the arguments say.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match (&arguments.command, arguments.seed) {
        (Some(Command::Soak { seconds, from }), _) => soak(Duration::from_secs(*seconds), *from),
        (None, Some(seed)) => replay(arguments.story, seed, arguments.shrink),
        (None, None) => {
            let _ = writeln!(io::stderr(), "say --seed N, or soak; --help says more");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

/// Returns whether everything held.
fn replay(story: Story, seed: u64, shrinks: bool) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    if shrinks && let Some(failure) = shrink(story, seed, None) {
        let (events, kinds) = (failure.mask.events.len(), failure.mask.kinds.len());
        writeln!(out, "{}", failure.trace)?;
        writeln!(out, "{events} planned events and {kinds} kinds of faults are left out")?;
        writeln!(out, "{story:?}, seed {seed}: {}", failure.violation)?;
        return Ok(false);
    }
    let mut sim = Sim::random(story, seed, None).traced();
    let end = sim.run();
    writeln!(out, "{}", sim.trace())?;
    match end {
        Ok(()) => writeln!(out, "{story:?}, seed {seed}: everything held")?,
        Err(ref violation) => writeln!(out, "{story:?}, seed {seed}: {violation}")?,
    }
    Ok(end.is_ok())
}

#[derive(Default)]
struct Totals {
    seeds: AtomicU64,
    violations: AtomicU64,
    faults: Mutex<BTreeMap<&'static str, u64>>,
}

fn soak(time: Duration, from: Option<u64>) -> io::Result<bool> {
    // Runs of this day and no other, far above those of the tests.
    let today = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let today = today.map_or(0, |since| since.as_secs() / 86_400);
    let next = AtomicU64::new(from.unwrap_or(today * 1_000_000_000));
    let (begun, totals, stop) = (Instant::now(), Totals::default(), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while begun.elapsed() < time && !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if one(seed, &totals).is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let violations = totals.violations.load(Ordering::Relaxed);
    let faults = totals.faults.lock().expect("nobody panics while holding it");
    let faults: Vec<String> = faults.iter().map(|(what, n)| format!("{what} {n}")).collect();
    writeln!(
        io::stdout(),
        "simulation: {} runs, {violations} violations, faults: {}",
        totals.seeds.load(Ordering::Relaxed),
        faults.join(", ")
    )?;
    Ok(violations == 0 && !stop.load(Ordering::Relaxed))
}

/// One seed, in every story.
fn one(seed: u64, totals: &Totals) -> io::Result<()> {
    for story in Story::ALL {
        let mut sim = Sim::random(story, seed, None);
        let end = sim.run();
        totals.seeds.fetch_add(1, Ordering::Relaxed);
        let mut faults = totals.faults.lock().expect("nobody panics while holding it");
        for (what, count) in &sim.chaos.counts {
            *faults.entry(what).or_default() += count;
        }
        drop(faults);
        if let Err(violation) = end {
            totals.violations.fetch_add(1, Ordering::Relaxed);
            writeln!(io::stdout(), "{story:?}, seed {seed}: {violation}")?;
        }
    }
    Ok(())
}
