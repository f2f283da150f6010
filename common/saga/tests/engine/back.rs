//! Going back: what is undone, what the pivot's fence decides, when it starts over.

use whimbrel_messages::{Dir, Fault, FaultCode, Outcome};
use whimbrel_model::{Change, MigrationEvent};
use whimbrel_saga::{EntryKind, Input, PeerHealth, Phase};

use crate::machine::{Machine, already_done, done, garbled, refused};
use crate::toy::{MAX_HOSTS, Toy, host};

fn again() -> Toy {
    Toy { start_over: true, ..Toy::default() }
}

/// Undoes all that is left to undo.
fn undo_all(saga: &mut Machine) -> Vec<String> {
    let mut undone = Vec::new();
    while saga.row.phase == Phase::Unwinding {
        undone.push(saga.row.step.to_string());
        saga.answer(done());
    }
    undone
}

#[test]
fn a_refused_step_is_undone_too_and_then_those_before_it() {
    let mut saga = Machine::at("prepare", &Toy::default());
    saga.answer(refused());
    assert_eq!(saga.noted(), Some(EntryKind::Refused));
    assert_eq!(saga.sent(), [("prepare", Dir::Undo)]);
    saga.answer(done());
    assert_eq!(saga.changes(), [Change::Migration(MigrationEvent::Reschedule)]);
    assert_eq!(saga.sent(), [("check", Dir::Undo)]);
    saga.answer(done());
    let fail = Change::Migration(MigrationEvent::Fail);
    assert_eq!(saga.changes(), [Change::ReleaseAllocations, fail]);
    assert_eq!(saga.row.phase, Phase::Unwound);
    assert_eq!(saga.row.fault, Some(Fault::new(FaultCode::Hypervisor, "no")));
}

#[test]
fn a_refused_first_step_ends_the_saga_at_once() {
    let mut saga = Machine::at("choose", &Toy::default());
    saga.answer(refused());
    assert_eq!((saga.row.phase, saga.sent()), (Phase::Unwound, vec![]));
    assert_eq!(saga.changes()[0], Change::ReleaseAllocations, "the claim may have been made");
}

#[test]
fn an_answer_to_the_step_itself_is_ignored_while_it_is_undone() {
    for step in ["check", "prepare", "move"] {
        let saga = Machine::undoing(step, &Toy::default());
        for outcome in [done(), already_done(), refused(), Outcome::Expired, garbled()] {
            let step = step.to_owned();
            saga.ignores(&Input::Reply { round: 0, step, dir: Dir::Do, outcome });
        }
    }
}

#[test]
fn a_refused_pivot_is_fenced_and_only_the_fence_decides() {
    let mut saga = Machine::at("move", &Toy::default());
    saga.answer(refused());
    assert_eq!(saga.sent(), [("move", Dir::Undo)]);
    assert_eq!(saga.changes(), []);
    assert_eq!(undo_all(&mut saga), ["move", "prepare", "check"]);
    assert_eq!(saga.row.phase, Phase::Unwound);
}

#[test]
fn a_pivot_that_its_fence_finds_carried_out_goes_forward() {
    let mut saga = Machine::undoing("move", &Toy::default());
    saga.answer(already_done());
    saga.is(Phase::Running, "finish", Dir::Do);
    assert_eq!(saga.noted(), Some(EntryKind::FoundDone));
    assert_eq!(saga.changes(), [Change::Own { host: host("a"), epoch: 2 }]);
    assert_eq!(saga.sent(), [("finish", Dir::Do)]);
    assert_eq!(saga.row.fault, None, "what went wrong did not");
    let state: Toy = serde_json::from_value(saga.row.state.clone()).unwrap();
    assert_eq!(state.learnt.last(), Some(&8), "the fence's answer is the pivot's reply");
    saga.answer(done()).answer(done());
    assert_eq!(saga.row.phase, Phase::Completed);
}

#[test]
fn an_undo_that_expired_is_asked_again_and_nothing_else() {
    for step in ["check", "prepare", "move"] {
        let mut saga = Machine::undoing(step, &Toy::default());
        saga.answer(Outcome::Expired);
        assert_eq!(saga.effects, []);
        saga.due(PeerHealth::Up);
        assert_eq!(saga.sent(), [(step, Dir::Undo)]);
        assert_eq!(saga.row.phase, Phase::Unwinding);
    }
}

#[test]
fn a_refused_undo_is_asked_again_after_a_pause() {
    let mut saga = Machine::undoing("prepare", &Toy::default());
    saga.answer(refused());
    assert_eq!(saga.effects, []);
    saga.due(PeerHealth::Up);
    assert_eq!(saga.sent(), [("prepare", Dir::Undo)]);
    saga.answer(done());
    saga.is(Phase::Unwinding, "check", Dir::Undo);
}

#[test]
fn once_all_is_undone_it_starts_over_in_a_new_round() {
    let mut saga = Machine::undoing("check", &again());
    saga.answer(done());
    saga.is(Phase::Running, "choose", Dir::Do);
    assert_eq!(saga.row.round, 1);
    assert_eq!(saga.row.fault, None);
    assert_eq!(saga.changes(), [Change::ReleaseAllocations], "undone before it starts over");
    assert_eq!(saga.sent(), [("choose", Dir::Do)]);
    for (step, dir) in [("choose", Dir::Do), ("check", Dir::Undo)] {
        let (step, outcome) = (step.to_owned(), done());
        saga.ignores(&Input::Reply { round: 0, step, dir, outcome });
    }
}

#[test]
fn rounds_are_bounded() {
    let mut saga = Machine::new(&again());
    saga.wake();
    let mut rounds = 0;
    while !saga.row.phase.is_terminal() {
        rounds = rounds.max(saga.row.round + 1);
        let fails = saga.row.step == "check" && saga.row.dir == Dir::Do;
        saga.answer(if fails { refused() } else { done() });
    }
    assert_eq!(saga.row.phase, Phase::Unwound);
    assert_eq!(usize::try_from(rounds).unwrap(), MAX_HOSTS);
}

#[test]
fn a_fault_that_another_host_would_not_mend_starts_nothing_over() {
    let mut saga = Machine::at("check", &again());
    saga.answer(Outcome::Refused { fault: Fault::new(FaultCode::NoValidHost, "no") });
    assert_eq!(undo_all(&mut saga), ["check"]);
    assert_eq!((saga.row.phase, saga.row.round), (Phase::Unwound, 0));
}
