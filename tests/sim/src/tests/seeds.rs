//! Many random runs, and the replay of one.

use std::collections::BTreeMap;

use clap::ValueEnum;

use crate::seeds::first_failure;
use crate::shrink::shrink;
use crate::world::{Broken, Sim, Story};

fn holds(story: Story, seeds: u64) -> BTreeMap<String, u64> {
    let (failure, ends) = first_failure(story, 0..seeds, None);
    if let Some((seed, violation)) = failure {
        let name = story.to_possible_value().expect("none is skipped");
        panic!(
            "{story:?}, seed {seed}: {violation}\nreplay it: \
             cargo run -p whimbrel-sim -- --seed {seed} --story {} --shrink",
            name.get_name()
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
    let ends = holds(Story::Life, 8_000);
    for saga in ["boot", "start", "stop", "reboot", "live-migrate"] {
        for phase in ["completed", "unwound"] {
            let end = format!("{saga} {phase}");
            assert!(ends.get(&end).is_some_and(|count| *count > 100), "{end}: {ends:?}");
        }
    }
}

#[test]
fn whatever_becomes_of_the_hosts_rows_and_guest_agree() {
    let ends = holds(Story::Losses, 10_000);
    let sagas = ["live-migrate", "resize", "confirm-resize", "revert-resize", "evacuate", "delete"];
    for what in sagas.map(|saga| format!("{saga} completed")).into_iter().chain([
        "live-migrate unwound".to_owned(),
        "resize unwound".to_owned(),
        "resize deferred".to_owned(),
        "evacuate unwound".to_owned(),
        "evacuate deferred".to_owned(),
    ]) {
        assert!(ends.get(&what).is_some_and(|count| *count > 100), "{what}: {ends:?}");
    }
}

#[test]
fn whatever_happens_between_two_hosts_that_are_often_away_rows_and_guest_agree() {
    let ends = holds(Story::ThereAndBack, 2_000);
    for what in ["completed", "unwound", "deferred", "new round"] {
        let what = format!("live-migrate {what}");
        assert!(ends.get(&what).is_some_and(|count| *count > 600), "{what}: {ends:?}");
    }
}

/// Runs that have found what was wrong in the services (docs/reliability.md tells of each).
const REGRESSIONS: [(Story, u64); 7] = [
    (Story::ThereAndBack, 9),
    (Story::Losses, 751),
    (Story::Losses, 2_920),
    (Story::Losses, 5_515),
    (Story::Losses, 8_292),
    (Story::Losses, 9_200),
    (Story::Losses, 20_781_000_010_962),
];

#[test]
fn what_was_wrong_once_is_not_wrong_again() {
    for (story, seed) in REGRESSIONS {
        let end = Sim::random(story, seed, None).run();
        assert!(end.is_ok(), "{story:?}, seed {seed}: {end:?}");
    }
}

#[test]
fn a_run_that_fails_shrinks_to_what_its_failure_needs() {
    let (story, broken) = (Story::Life, Some(Broken::NoTombstone));
    let (failure, _) = first_failure(story, 0..20_000, broken);
    let (seed, _) = failure.expect("it is noticed");
    let less = shrink(story, seed, broken).expect("it still fails");
    assert!(!less.violation.is_empty());
    assert!(less.trace.contains("VIOLATION"), "{}", less.trace);
    assert!(!less.mask.events.is_empty() || !less.mask.kinds.is_empty());
}

#[test]
fn a_run_is_the_same_whenever_it_is_replayed() {
    for story in Story::ALL {
        let trace = || {
            let mut sim = Sim::random(story, 7, None).traced();
            let end = sim.run();
            (end, sim.trace())
        };
        assert_eq!(trace(), trace());
    }
}
