//! Calling a saga off: before the pivot it unwinds, at the pivot it fences, after it nothing happens.

use whimbrel_messages::{Dir, Fault, FaultCode};
use whimbrel_model::{Change, MigrationEvent};
use whimbrel_saga::{EntryKind, Input, PeerHealth, Phase};

use crate::machine::{Machine, already_done, done};
use crate::toy::Toy;

#[test]
fn before_the_start_it_ends_at_once_and_nobody_is_asked() {
    let mut saga = Machine::new(&Toy::default());
    assert!(saga.can_cancel());
    saga.cancel();
    assert_eq!(saga.row.phase, Phase::Unwound);
    assert_eq!(saga.sent(), []);
    assert_eq!(saga.changes(), [Change::Migration(MigrationEvent::Cancel)]);
    assert_eq!(saga.noted(), Some(EntryKind::Cancelled));
}

#[test]
fn before_the_pivot_it_unwinds_from_the_step_under_way() {
    for step in ["check", "prepare"] {
        let mut saga = Machine::at(step, &Toy { start_over: true, ..Toy::default() });
        assert!(saga.can_cancel());
        saga.cancel();
        assert_eq!(saga.noted(), Some(EntryKind::Cancelled));
        assert_eq!(saga.sent(), [(step, Dir::Undo)]);
        while saga.row.phase == Phase::Unwinding {
            saga.answer(done());
        }
        assert_eq!(saga.row.phase, Phase::Unwound, "what was called off starts nothing over");
        assert_eq!(saga.row.fault, Some(Fault::new(FaultCode::Cancelled, "called off")));
        assert_eq!(saga.changes().last(), Some(&Change::Migration(MigrationEvent::Cancel)));
    }
}

#[test]
fn at_the_pivot_it_fences_and_the_fence_may_find_it_too_late() {
    let mut saga = Machine::at("move", &Toy::default());
    assert!(saga.can_cancel());
    saga.cancel();
    assert_eq!(saga.sent(), [("move", Dir::Undo)]);
    saga.answer(already_done()).is(Phase::Running, "finish", Dir::Do);
    assert!(!saga.can_cancel());
    saga.ignores(&Input::Cancel);
}

#[test]
fn at_the_pivot_it_unwinds_when_the_fence_says_it_never_will() {
    let mut saga = Machine::at("move", &Toy { start_over: true, ..Toy::default() });
    saga.cancel().answer(done()).answer(done()).answer(done());
    assert_eq!((saga.row.phase, saga.row.round), (Phase::Unwound, 0));
}

#[test]
fn after_the_pivot_it_changes_nothing() {
    for step in ["finish", "tidy"] {
        let saga = Machine::at(step, &Toy::default());
        assert!(!saga.can_cancel());
        saga.ignores(&Input::Cancel);
    }
}

#[test]
fn a_second_time_changes_nothing() {
    for step in ["check", "prepare", "move"] {
        let mut saga = Machine::at(step, &Toy::default());
        saga.cancel();
        assert!(!saga.can_cancel());
        saga.ignores(&Input::Cancel);
    }
}

#[test]
fn while_it_unwinds_it_asks_nothing_more_and_starts_nothing_over() {
    let mut saga = Machine::undoing("prepare", &Toy { start_over: true, ..Toy::default() });
    assert!(saga.can_cancel());
    saga.cancel();
    assert_eq!(saga.sent(), []);
    saga.is(Phase::Unwinding, "prepare", Dir::Undo);
    saga.answer(done()).answer(done());
    assert_eq!((saga.row.phase, saga.row.round), (Phase::Unwound, 0));
    assert_eq!(saga.changes().last(), Some(&Change::Migration(MigrationEvent::Cancel)));
}

#[test]
fn in_a_later_round_it_unwinds_that_round() {
    let mut saga = Machine::undoing("check", &Toy { start_over: true, ..Toy::default() });
    saga.answer(done()).answer(done());
    saga.is(Phase::Running, "check", Dir::Do);
    assert_eq!(saga.row.round, 1);
    saga.cancel();
    assert_eq!(saga.sent(), [("check", Dir::Undo)]);
    saga.answer(done());
    assert_eq!((saga.row.phase, saga.row.round), (Phase::Unwound, 1));
}

#[test]
fn it_holds_while_the_fence_is_asked_again() {
    let mut saga = Machine::at("move", &Toy::default());
    saga.cancel().due(PeerHealth::Up);
    assert_eq!(saga.sent(), [("move", Dir::Undo)]);
    saga.due(PeerHealth::Down);
    assert_eq!(saga.sent(), [("move", Dir::Undo)], "the guest's safety depends on this fence");
}
