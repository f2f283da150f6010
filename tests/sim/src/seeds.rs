//! Many random runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::world::{Broken, Sim, Story};

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
