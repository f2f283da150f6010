//! The tests of the tests: with a rule switched off, the simulator must notice.

use crate::seeds::first_failure;
use crate::world::{Broken, Story};

/// Runs in which it must be noticed. The rarest of them takes a fifth of it.
const SEEDS: u64 = 20_000;

/// Asserts that runs of `story` break a rule once `broken` is off, and that the first to break says `expected`.
fn noticed(story: Story, broken: Broken, expected: &str) {
    let (failure, _) = first_failure(story, 0..SEEDS, Some(broken));
    let Some((seed, violation)) = failure else {
        panic!("{broken:?}: nobody noticed in {SEEDS} runs of {story:?}");
    };
    println!("{broken:?}: {story:?}, seed {seed}: {violation}");
    assert!(violation.contains(expected), "{broken:?}, seed {seed}: {violation}");
}

#[test]
fn an_undo_that_leaves_no_tombstone_is_noticed() {
    noticed(Story::Life, Broken::NoTombstone, "is carried out after its undo");
}

#[test]
fn an_abort_that_is_answered_while_the_job_runs_is_noticed() {
    noticed(Story::Move, Broken::AbortBeforeTheEnd, "");
}

#[test]
fn a_request_that_came_too_late_and_is_refused_is_noticed() {
    noticed(Story::ThereAndBack, Broken::ExpiredIsRefused, "");
}

#[test]
fn a_refusal_that_is_not_remembered_is_noticed() {
    noticed(Story::Life, Broken::RefusalsForgotten, "twice");
}

#[test]
fn a_receiver_that_is_not_idempotent_is_noticed() {
    noticed(Story::Move, Broken::NotIdempotent, "twice");
}

#[test]
fn a_receiver_that_forgets_what_it_began_is_noticed() {
    noticed(Story::Move, Broken::BeginningsForgotten, "twice");
}

#[test]
fn a_host_that_looks_at_no_token_is_noticed() {
    noticed(Story::Losses, Broken::NoEpochs, "");
}

#[test]
fn an_engine_that_ignores_the_direction_is_noticed() {
    noticed(Story::Move, Broken::DirIgnored, "");
}

#[test]
fn an_engine_that_ignores_the_round_is_noticed() {
    noticed(Story::Losses, Broken::RoundIgnored, "holds");
}

#[test]
fn a_pivot_that_is_not_fenced_is_noticed() {
    noticed(Story::Move, Broken::NoFence, "");
}

#[test]
fn starting_over_after_a_deferred_undo_makes_two_guests() {
    noticed(Story::Life, Broken::RoundAfterDeferral, "the guest runs twice");
}

#[test]
fn a_claim_for_a_saga_that_no_longer_waits_is_noticed() {
    noticed(Story::Move, Broken::ClaimsForAnyone, "holds");
}

#[test]
fn messages_that_leave_before_the_commit_are_noticed() {
    noticed(Story::Losses, Broken::OutboxSkipped, "");
}

#[test]
fn nobody_who_looks_at_what_is_due_is_noticed() {
    noticed(Story::Move, Broken::NobodyLooks, "has not ended");
}

#[test]
fn an_undo_past_the_pivot_is_noticed() {
    noticed(Story::Losses, Broken::UndoPastPivot, "");
}

#[test]
fn taking_silence_for_a_fence_is_noticed() {
    noticed(Story::Losses, Broken::SilentIsFenced, "");
}

#[test]
fn a_queue_that_outlives_a_restart_is_noticed() {
    noticed(Story::Losses, Broken::QueueOutlivesRestart, "runs twice");
}

#[test]
fn an_evacuation_from_a_host_that_may_live_is_noticed() {
    noticed(Story::Losses, Broken::EvacuatesUnfenced, "runs twice");
}

#[test]
fn work_put_off_and_forgotten_is_noticed() {
    noticed(Story::Life, Broken::ObligationsForgotten, "left");
}

#[test]
fn a_host_let_in_before_it_has_cleaned_up_is_noticed() {
    noticed(Story::Losses, Broken::LetInTooEarly, "");
}

#[test]
fn rests_that_outlive_newer_tokens_are_noticed() {
    noticed(Story::ThereAndBack, Broken::RestsOutliveTokens, "left");
}

#[test]
fn asking_a_host_that_was_forced_down_is_noticed() {
    noticed(Story::Losses, Broken::FencedAreAsked, "runs twice");
}
