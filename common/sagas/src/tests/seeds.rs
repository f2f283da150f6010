//! Many random runs, and the replay of one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::sim::{Broken, Sim, Story};

/// Runs `story` with each seed, on as many threads as there are processors, until one fails.
pub(crate) fn first_failure(
    story: Story,
    seeds: std::ops::Range<u64>,
    broken: Option<Broken>,
) -> (Option<(u64, String)>, BTreeMap<String, u64>) {
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    let lowest = AtomicU64::new(u64::MAX);
    let lowest = &lowest;
    let run = |first: u64| {
        let mut ends = BTreeMap::<String, u64>::new();
        for seed in (seeds.start + first..seeds.end).step_by(usize::try_from(threads).expect("few"))
        {
            if seed > lowest.load(Ordering::Relaxed) {
                break;
            }
            let mut sim = Sim::random(story, seed, broken);
            if let Err(violation) = sim.run() {
                lowest.fetch_min(seed, Ordering::Relaxed);
                return (Some((seed, violation)), ends);
            }
            for saga in &sim.sagas {
                *ends.entry(format!("{} {}", saga.name, saga.row.phase)).or_default() += 1;
                let rounds = (1..=saga.row.round).map(|_| "new round".to_owned());
                for what in saga.history.iter().map(|entry| entry.kind.to_string()).chain(rounds) {
                    *ends.entry(format!("{} {what}", saga.name)).or_default() += 1;
                }
            }
        }
        (None, ends)
    };
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads).map(|first| scope.spawn(move || run(first))).collect();
        let mut failure = None;
        let mut all = BTreeMap::new();
        for handle in runs {
            let (failed, ends) = handle.join().expect("a run does not panic");
            failure = [failure, failed].into_iter().flatten().min();
            for (end, count) in ends {
                *all.entry(end).or_default() += count;
            }
        }
        (failure, all)
    })
}

fn holds(story: Story, seeds: u64) -> BTreeMap<String, u64> {
    let (failure, ends) = first_failure(story, 0..seeds, None);
    if let Some((seed, violation)) = failure {
        panic!(
            "{story:?}, seed {seed}: {violation}\nreplay it: \
             WHIMBREL_SIM_SEED={seed} cargo test -p whimbrel-sagas replay -- --nocapture"
        );
    }
    ends
}

#[test]
fn whatever_happens_to_a_move_rows_and_guest_agree() {
    let ends = holds(Story::Move, 10_000);
    let all = [
        "completed",
        "unwound",
        "refused",
        "asked_again",
        "timed_out",
        "undone",
        "found_done",
        "deferred",
        "cancelled",
        "new round",
    ];
    for what in all {
        let what = format!("live-migrate {what}");
        assert!(ends.get(&what).is_some_and(|count| *count > 100), "{what}: {ends:?}");
    }
}

#[test]
fn whatever_happens_in_a_guests_life_rows_and_guest_agree() {
    let ends = holds(Story::Life, 10_000);
    for saga in ["boot", "start", "stop", "reboot", "live-migrate"] {
        for phase in ["completed", "unwound"] {
            let end = format!("{saga} {phase}");
            assert!(ends.get(&end).is_some_and(|count| *count > 100), "{end}: {ends:?}");
        }
    }
}

#[test]
fn whatever_happens_between_two_hosts_that_are_often_away_rows_and_guest_agree() {
    let ends = holds(Story::ThereAndBack, 3_000);
    for what in ["completed", "unwound", "deferred", "new round"] {
        let what = format!("live-migrate {what}");
        assert!(ends.get(&what).is_some_and(|count| *count > 1_000), "{what}: {ends:?}");
    }
}

/// With `WHIMBREL_SIM_SEED` set: that seed again, with everything that happens. Else nothing.
#[test]
fn replay() {
    let Ok(seed) = std::env::var("WHIMBREL_SIM_SEED") else { return };
    let seed = seed.parse().expect("WHIMBREL_SIM_SEED is a number");
    for story in [Story::Move, Story::Life, Story::ThereAndBack] {
        let mut sim = Sim::random(story, seed, None).traced();
        let end = sim.run();
        println!("--- {story:?}, seed {seed}\n{}\n--- {end:?}", sim.trace());
    }
}
