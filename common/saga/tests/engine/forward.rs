//! Going forward: what is asked, which answers count, what changes with them.

use serde_json::json;
use whimbrel_messages::{Dir, Outcome};
use whimbrel_model::{Change, MigrationEvent};
use whimbrel_saga::{EntryKind, Input, PeerHealth, Phase};

use crate::machine::{Machine, already_done, done, refused};
use crate::toy::{DEADLINE_MS, Toy, host};

#[test]
fn the_first_hint_asks_the_first_step() {
    let mut saga = Machine::new(&Toy::default());
    saga.wake();
    saga.is(Phase::Running, "choose", Dir::Do);
    assert_eq!(saga.sent(), [("choose", Dir::Do)]);
    assert_eq!(saga.noted(), Some(EntryKind::Started));
    assert_eq!(saga.waits_ms(), DEADLINE_MS);
}

#[test]
fn every_ok_asks_the_next_step_and_the_last_completes() {
    let mut saga = Machine::new(&Toy::default());
    saga.wake();
    let steps = ["choose", "check", "prepare", "move", "finish", "tidy"];
    for (at, step) in steps.iter().enumerate() {
        saga.is(Phase::Running, step, Dir::Do);
        saga.answer(done());
        let next: Vec<_> = steps.get(at + 1).map(|next| (*next, Dir::Do)).into_iter().collect();
        assert_eq!(saga.sent(), next);
        assert_eq!(saga.noted(), Some(EntryKind::Done));
    }
    assert_eq!(saga.row.phase, Phase::Completed);
    assert_eq!(saga.changes(), [Change::SettleMove]);
    let state: Toy = serde_json::from_value(saga.row.state).unwrap();
    assert_eq!(state.learnt, [7; 6]);
}

#[test]
fn changes_come_with_the_step_that_makes_them() {
    let mut saga = Machine::at("choose", &Toy::default());
    saga.answer(done());
    assert_eq!(saga.changes(), [Change::Destination(host("a"))]);
    saga.answer(done());
    assert_eq!(saga.changes(), [Change::Migration(MigrationEvent::Prepare)]);
    saga.answer(done());
    assert_eq!(saga.changes(), [Change::Migration(MigrationEvent::Start)]);
    saga.due(PeerHealth::Up);
    assert_eq!(saga.changes(), [], "entering a step happens once, not with every attempt");
    saga.answer(done());
    assert_eq!(saga.changes(), [Change::Own { host: host("a"), epoch: 2 }]);
}

#[test]
fn an_answer_to_another_round_step_or_direction_changes_nothing() {
    for step in ["choose", "check", "move", "finish"] {
        let saga = Machine::at(step, &Toy::default());
        let other = if step == "check" { "choose" } else { "check" };
        for outcome in [done(), already_done(), refused(), Outcome::Expired] {
            let reply = |round, step: &str, dir| {
                let (step, outcome) = (step.to_owned(), outcome.clone());
                saga.ignores(&Input::Reply { round, step, dir, outcome });
            };
            reply(saga.row.round + 1, step, Dir::Do);
            reply(saga.row.round - 1, step, Dir::Do);
            reply(saga.row.round, other, Dir::Do);
            reply(saga.row.round, "no such step", Dir::Do);
            reply(saga.row.round, step, Dir::Undo);
        }
    }
}

#[test]
fn an_answer_before_the_start_changes_nothing() {
    let saga = Machine::new(&Toy::default());
    for (step, dir) in [("", Dir::Do), ("choose", Dir::Do), ("choose", Dir::Undo)] {
        let (step, outcome) = (step.to_owned(), refused());
        saga.ignores(&Input::Reply { round: 0, step, dir, outcome });
    }
}

#[test]
fn the_answer_to_an_earlier_attempt_counts() {
    let mut saga = Machine::at("move", &Toy::default());
    let first = saga.row.attempt;
    saga.due(PeerHealth::Up);
    assert_eq!(saga.row.attempt, first + 1);
    saga.answer(done()).is(Phase::Running, "finish", Dir::Do);
}

#[test]
fn already_done_counts_as_done() {
    let mut saga = Machine::at("prepare", &Toy::default());
    saga.answer(already_done()).is(Phase::Running, "move", Dir::Do);
}

#[test]
fn expired_only_asks_again_sooner() {
    for step in ["choose", "check", "prepare", "move", "finish", "tidy"] {
        let mut saga = Machine::at(step, &Toy::default());
        saga.answer(Outcome::Expired);
        saga.is(Phase::Running, step, Dir::Do);
        assert_eq!(saga.effects, [], "{step}");
        assert!(saga.waits_ms() < DEADLINE_MS, "{step}");
        saga.due(PeerHealth::Up);
        assert_eq!(saga.sent(), [(step, Dir::Do)]);
    }
}

#[test]
fn a_step_whose_condition_does_not_hold_is_passed_over_forth_and_back() {
    let state = Toy { unprepared: true, ..Toy::default() };
    let mut saga = Machine::at("check", &state);
    saga.answer(done());
    assert_eq!(saga.sent(), [("move", Dir::Do)]);
    assert_eq!(saga.changes(), [Change::Migration(MigrationEvent::Start)]);
    saga.answer(refused());
    assert_eq!(saga.sent(), [("move", Dir::Undo)]);
    saga.answer(done());
    assert_eq!(saga.sent(), [("check", Dir::Undo)]);
    assert_eq!(saga.changes(), [], "what was not prepared is not undone");
}

#[test]
fn what_a_newer_binary_has_added_to_the_state_is_kept() {
    let mut saga = Machine::at("check", &Toy::default());
    saga.row.state["added_later"] = json!({ "kept": true });
    saga.answer(done());
    assert_eq!(saga.row.state["added_later"], json!({ "kept": true }));
    assert_eq!(saga.row.state["learnt"], json!([7, 7]));
}

#[test]
fn an_ignored_input_leaves_the_state_as_it_was_written() {
    let mut saga = Machine::at("check", &Toy::default());
    saga.row.state["added_later"] = json!(1);
    saga.ignores(&Input::Wake(PeerHealth::Up));
}

#[test]
fn an_early_hint_does_nothing() {
    let saga = Machine::at("check", &Toy::default());
    saga.ignores(&Input::Wake(PeerHealth::Up));
    saga.ignores(&Input::Wake(PeerHealth::Down));
}
