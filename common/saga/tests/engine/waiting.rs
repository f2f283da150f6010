//! No answer: how often it is asked again, how long it waits, and what is put off when the host is down.

use whimbrel_messages::{Dir, FaultCode};
use whimbrel_model::Change;
use whimbrel_saga::{EntryKind, PeerHealth, Phase};

use crate::machine::{Machine, done, refused};
use crate::toy::{Call, DEADLINE_MS, TRIES, Toy};

/// Wakes it when it is due until `dir` is no longer asked; how often it was asked.
fn asked_until_given_up(saga: &mut Machine, limit: usize) -> usize {
    let (step, dir) = (saga.row.step.clone(), saga.row.dir);
    let mut asked = 1;
    while asked < limit {
        saga.due(PeerHealth::Up);
        if (&saga.row.step, saga.row.dir) != (&step, dir) {
            break;
        }
        assert_eq!(saga.noted(), Some(EntryKind::AskedAgain));
        assert_eq!(saga.sent(), [(&*step, dir)]);
        asked += 1;
    }
    asked
}

#[test]
fn a_compensatable_step_is_asked_three_times_and_then_undone() {
    for step in ["check", "prepare"] {
        let mut saga = Machine::at(step, &Toy::default());
        assert_eq!(asked_until_given_up(&mut saga, 100), 3);
        saga.is(Phase::Unwinding, step, Dir::Undo);
        assert_eq!(saga.noted(), Some(EntryKind::TimedOut));
        assert_eq!(saga.sent(), [(step, Dir::Undo)]);
        assert_eq!(saga.row.fault.as_ref().unwrap().code, FaultCode::TimedOut);
    }
}

#[test]
fn from_the_pivot_on_and_on_the_way_back_it_is_asked_until_it_is_known() {
    for step in ["move", "finish", "tidy"] {
        let mut saga = Machine::at(step, &Toy::default());
        assert_eq!(asked_until_given_up(&mut saga, 100), 100);
    }
    for step in ["check", "prepare", "move"] {
        let mut saga = Machine::undoing(step, &Toy::default());
        assert_eq!(asked_until_given_up(&mut saga, 100), 100);
    }
}

#[test]
fn a_pivot_with_bounded_tries_is_fenced_after_them() {
    let mut saga = Machine::new(&Call {});
    saga.wake();
    assert_eq!(asked_until_given_up(&mut saga, 100), usize::try_from(TRIES).unwrap());
    saga.is(Phase::Unwinding, "call", Dir::Undo);
}

#[test]
fn the_waits_grow_up_to_six_deadlines() {
    let mut saga = Machine::at("move", &Toy::default());
    for deadlines in [1, 2, 3, 4, 5, 6, 6, 6] {
        assert_eq!(saga.waits_ms(), deadlines * DEADLINE_MS);
        saga.due(PeerHealth::Up);
    }
}

#[test]
fn on_the_way_back_the_waits_do_not_grow() {
    let mut saga = Machine::undoing("move", &Toy::default());
    for _ in 0..20 {
        assert_eq!(saga.waits_ms(), DEADLINE_MS);
        saga.due(PeerHealth::Up);
    }
}

#[test]
fn an_undo_without_an_answer_is_none_that_is_refused() {
    let mut saga = Machine::undoing("move", &Toy::default());
    for _ in 0..20 {
        saga.due(PeerHealth::Up);
    }
    saga.answer(refused());
    saga.is(Phase::Unwinding, "move", Dir::Undo);
}

#[test]
fn the_next_step_waits_one_deadline_again() {
    let mut saga = Machine::at("check", &Toy::default());
    saga.due(PeerHealth::Up).due(PeerHealth::Up).answer(done());
    assert_eq!(saga.waits_ms(), DEADLINE_MS);
}

#[test]
fn attempts_are_numbered_over_steps_and_directions() {
    let mut saga = Machine::undoing("prepare", &Toy::default());
    assert_eq!(saga.row.attempt, 4);
    saga.due(PeerHealth::Up);
    assert_eq!(saga.row.attempt, 5);
}

#[test]
fn a_compensatable_step_at_a_host_that_is_down_is_undone_without_more_tries() {
    let mut saga = Machine::at("prepare", &Toy::default());
    saga.due(PeerHealth::Down);
    saga.is(Phase::Unwinding, "prepare", Dir::Undo);
}

#[test]
fn a_pivot_at_a_host_that_is_down_is_asked_on_or_fenced_but_never_given_up() {
    let mut saga = Machine::at("move", &Toy::default());
    saga.due(PeerHealth::Down);
    assert_eq!((saga.row.phase, saga.sent()), (Phase::Running, vec![("move", Dir::Do)]));
    let mut saga = Machine::new(&Call {});
    saga.wake().due(PeerHealth::Down);
    assert_eq!(saga.sent(), [("call", Dir::Undo)]);
}

#[test]
fn only_what_says_so_is_put_off_when_the_host_is_down() {
    let mut saga = Machine::at("finish", &Toy::default());
    saga.due(PeerHealth::Down);
    assert_eq!((saga.sent(), saga.deferred().len()), (vec![("finish", Dir::Do)], 0));
    for step in ["prepare", "move"] {
        let mut saga = Machine::undoing(step, &Toy::default());
        saga.due(PeerHealth::Down);
        assert_eq!((saga.sent(), saga.deferred().len()), (vec![(step, Dir::Undo)], 0));
    }
}

#[test]
fn a_deferrable_step_is_put_off_and_the_saga_goes_on() {
    let mut saga = Machine::at("tidy", &Toy::default());
    saga.due(PeerHealth::Down);
    assert_eq!(saga.row.phase, Phase::Completed);
    assert_eq!(saga.noted(), Some(EntryKind::Deferred));
    assert_eq!(saga.sent(), []);
    let deferred = saga.deferred();
    assert_eq!((deferred.len(), &*deferred[0].step, deferred[0].dir), (1, "tidy", Dir::Do));
    assert!(!saga.row.deferred, "past the pivot nothing would start over anyway");
}

#[test]
fn a_deferred_undo_carries_the_key_of_the_undo_that_was_asked() {
    let mut saga = Machine::undoing("check", &Toy::default());
    let (round, attempt) = (saga.row.round, saga.row.attempt);
    saga.due(PeerHealth::Down);
    let deferred = saga.deferred()[0];
    assert_eq!((&*deferred.step, deferred.dir, deferred.round), ("check", Dir::Undo, round));
    assert_eq!((deferred.method.as_str(), deferred.attempt), ("undo", attempt + 1));
    assert_eq!(saga.noted(), Some(EntryKind::Deferred));
}

#[test]
fn after_a_deferred_undo_nothing_starts_over() {
    let mut saga = Machine::undoing("check", &Toy { start_over: true, ..Toy::default() });
    saga.due(PeerHealth::Down);
    assert_eq!((saga.row.phase, saga.row.round), (Phase::Unwound, 0));
    assert_eq!(saga.changes()[0], Change::ReleaseAllocations);
}

#[test]
fn a_host_that_is_up_again_before_the_next_look_is_asked_and_nothing_is_put_off() {
    let mut saga = Machine::undoing("check", &Toy::default());
    saga.due(PeerHealth::Up);
    assert_eq!((saga.sent(), saga.deferred().len()), (vec![("check", Dir::Undo)], 0));
}
