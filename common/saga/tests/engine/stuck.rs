//! Stuck: each way into it has a name, nothing is sent, and nothing happens afterwards.

use serde_json::json;
use whimbrel_messages::{Dir, FaultCode};
use whimbrel_model::{Change, InstanceEvent};
use whimbrel_saga::{EntryKind, Input, PeerHealth, Phase, StuckReason};

use crate::machine::{Machine, already_done, done, garbled, refused};
use crate::toy::Toy;

/// Asserts that the last input ended it, for `reason`.
fn is_stuck(saga: &Machine, reason: StuckReason) {
    assert_eq!((saga.row.phase, saga.row.wake_at), (Phase::Stuck, None));
    assert_eq!((saga.sent(), saga.deferred().len()), (vec![], 0));
    assert_eq!(saga.noted(), Some(EntryKind::Stuck));
    let fault = saga.row.fault.as_ref().expect("it says why");
    assert_eq!(fault.code, FaultCode::Internal);
    assert!(fault.message.starts_with(&reason.to_string()), "{}", fault.message);
    let shown = Change::Fault { code: "internal".to_owned(), message: fault.message.clone() };
    let changes = [Change::Instance(InstanceEvent::GiveUp), shown];
    assert_eq!(saga.changes(), changes, "nothing else that this input would have changed counts");
}

/// Refuses what is asked until the saga gives up; how often that was.
fn refuse_for_good(saga: &mut Machine) -> i32 {
    let mut refusals = 1;
    while !saga.answer(refused()).row.phase.is_terminal() {
        saga.due(PeerHealth::Up);
        refusals += 1;
    }
    refusals
}

#[test]
fn a_retriable_step_that_is_refused_for_good() {
    for step in ["finish", "tidy"] {
        let mut saga = Machine::at(step, &Toy::default());
        let begun = saga.now;
        assert_eq!(refuse_for_good(&mut saga), 20);
        is_stuck(&saga, StuckReason::RetriableRefused);
        assert!(
            (120..300).contains(&(saga.now - begun).num_seconds()),
            "what is in the way may pass"
        );
    }
}

#[test]
fn an_undo_that_is_refused_for_good() {
    for step in ["check", "prepare", "move"] {
        let mut saga = Machine::undoing(step, &Toy::default());
        assert_eq!(refuse_for_good(&mut saga), 20);
        is_stuck(&saga, StuckReason::UndoRefused);
    }
}

#[test]
fn a_reply_that_can_not_be_read() {
    for step in ["choose", "check", "prepare", "move", "finish", "tidy"] {
        let mut saga = Machine::at(step, &Toy::default());
        saga.answer(garbled());
        is_stuck(&saga, StuckReason::UnreadableReply);
    }
    let mut saga = Machine::undoing("move", &Toy::default());
    saga.answer(whimbrel_messages::Outcome::AlreadyDone { body: json!("what?") });
    is_stuck(&saga, StuckReason::UnreadableReply);
}

#[test]
fn a_state_that_can_not_be_read() {
    for input in [Input::Wake(PeerHealth::Up), Input::Cancel] {
        let mut saga = Machine::new(&Toy::default());
        saga.row.state = json!({ "learnt": "nothing" });
        saga.input(input);
        is_stuck(&saga, StuckReason::UnreadableState);
        assert_eq!(saga.row.state, json!({ "learnt": "nothing" }), "kept for the operator");
    }
}

#[test]
fn a_state_that_lacks_what_the_next_step_needs() {
    for step in ["choose", "check", "prepare", "move", "finish", "tidy"] {
        let mut saga = Machine::new(&Toy { broken: Some(step.to_owned()), ..Toy::default() });
        saga.wake();
        while !saga.row.phase.is_terminal() {
            saga.answer(done());
        }
        is_stuck(&saga, StuckReason::UnreadableState);
    }
}

#[test]
fn a_step_that_the_definition_does_not_have() {
    let mut saga = Machine::at("check", &Toy::default());
    saga.row.step = "chcek".into();
    saga.due(PeerHealth::Up);
    is_stuck(&saga, StuckReason::UnreadableState);
}

#[test]
fn already_done_from_an_undo_that_is_no_fence() {
    for step in ["check", "prepare"] {
        let mut saga = Machine::undoing(step, &Toy::default());
        saga.answer(already_done());
        is_stuck(&saga, StuckReason::UnexpectedReply);
    }
}

#[test]
fn a_shell_that_gives_it_up_in_any_phase() {
    let give_up = || Input::GiveUp(StuckReason::TransactionFailed, "ten times".to_owned());
    let state = Toy::default();
    let all = [
        Machine::new(&state),
        Machine::at("check", &state),
        Machine::at("move", &state),
        Machine::at("tidy", &state),
        Machine::undoing("prepare", &state),
    ];
    for mut saga in all {
        saga.input(give_up());
        is_stuck(&saga, StuckReason::TransactionFailed);
    }
}

#[test]
fn a_saga_that_has_ended_ignores_everything() {
    let mut completed = Machine::at("tidy", &Toy::default());
    completed.answer(done());
    let mut unwound = Machine::at("choose", &Toy::default());
    unwound.answer(refused());
    let mut stuck = Machine::at("finish", &Toy::default());
    refuse_for_good(&mut stuck);
    for saga in [completed, unwound, stuck] {
        assert!(saga.row.phase.is_terminal());
        assert!(!saga.can_cancel());
        saga.ignores(&Input::Wake(PeerHealth::Up));
        saga.ignores(&Input::Wake(PeerHealth::Down));
        saga.ignores(&Input::Cancel);
        saga.ignores(&Input::GiveUp(StuckReason::TransactionFailed, String::new()));
        for dir in [Dir::Do, Dir::Undo] {
            for outcome in [done(), refused(), already_done(), garbled()] {
                let (round, step) = (saga.row.round, saga.row.step.to_string());
                saga.ignores(&Input::Reply { round, step, dir, outcome });
            }
        }
    }
}
