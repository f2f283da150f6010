//! All that the model allows is right, and each rule is needed for it.

use crate::search::{Report, explore};
use crate::state::{Bounds, Mutant};

const TWO_HOSTS: Bounds = Bounds { hosts: 2, moves: 2, losses: 2 };
const THREE_HOSTS: Bounds = Bounds { hosts: 3, moves: 2, losses: 2 };

const TWICE: &str = "the guest runs twice";
const ELSEWHERE: &str = "at rest the guest runs where its row does not say";
const OFF: &str = "at rest the guest does not run, and nobody has lost power";
const LEFT: &str = "something of the guest is left elsewhere, and nobody owes its removal";

fn search(bounds: Bounds, mutant: Option<Mutant>) -> Report {
    let report = explore(bounds, mutant);
    let Report { states, steps, time, violation } = &report;
    println!("{bounds:?}, {mutant:?}: {states} states, {steps} steps, {time:?}");
    if let Some(violation) = violation {
        println!("{}: {:?}", violation.rule, violation.way);
    }
    report
}

fn holds(bounds: Bounds, mutant: Option<Mutant>) {
    assert_eq!(search(bounds, mutant).violation, None);
}

/// With the rule taken out, `expected` no longer holds.
fn needed(mutant: Mutant, expected: &str) {
    let violation = search(THREE_HOSTS, Some(mutant)).violation.expect("a rule that is needed");
    assert_eq!(violation.rule, expected);
}

#[test]
fn two_hosts() {
    holds(TWO_HOSTS, None);
}

#[test]
fn two_hosts_and_three_moves() {
    holds(Bounds { moves: 3, losses: 1, ..TWO_HOSTS }, None);
}

#[test]
fn three_hosts() {
    holds(THREE_HOSTS, None);
}

#[test]
fn an_undo_leaves_a_tombstone() {
    needed(Mutant::NoTombstone, LEFT);
}

#[test]
fn hosts_look_at_tokens() {
    needed(Mutant::NoEpochs, OFF);
}

#[test]
fn what_an_undo_left_alone_is_looked_at_again() {
    needed(Mutant::RemembersWhatStayed, LEFT);
}

#[test]
fn nothing_is_undone_past_the_pivot() {
    needed(Mutant::UndoPastPivot, ELSEWHERE);
}

#[test]
fn the_pivot_s_undo_waits_for_the_end() {
    needed(Mutant::NoFence, ELSEWHERE);
}

#[test]
fn a_host_is_forced_down_before_its_guests_are_evacuated() {
    needed(Mutant::EvacuatesUnfenced, TWICE);
}

#[test]
fn silence_is_no_fence() {
    needed(Mutant::SilentIsFenced, ELSEWHERE);
}

#[test]
fn a_host_that_was_forced_down_is_asked_nothing() {
    needed(Mutant::AsksFenced, ELSEWHERE);
}

#[test]
fn a_queue_ends_with_its_host_s_power() {
    needed(Mutant::QueueOutlivesRestart, ELSEWHERE);
}

/// In the code it is the age of a request, and not the destination, that says so: see the crate's documentation.
#[test]
fn what_is_expected_ends_with_its_host_s_power() {
    needed(Mutant::ArrivalsOutliveRestart, ELSEWHERE);
}

#[test]
fn a_host_that_is_back_starts_nothing_by_itself() {
    needed(Mutant::StartsStaleCopies, TWICE);
}

#[test]
fn what_was_put_off_is_kept() {
    needed(Mutant::ObligationsForgotten, LEFT);
}

/// Three rules have others behind them: a stale copy is in the way of a new guest until it is removed, tokens stop what
/// comes twice, and only a host that was forced down owes the removal of a guest that may run.
#[test]
fn some_rules_are_a_second_line() {
    for mutant in [Mutant::LetInTooEarly, Mutant::NoJournal, Mutant::RoundAfterDeferral] {
        holds(TWO_HOSTS, Some(mutant));
    }
}
