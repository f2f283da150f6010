//! What holds whatever happens: random inputs, in any order, at any time.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use proptest::prelude::*;
use serde_json::json;
use whimbrel_messages::{Dir, Outcome};
use whimbrel_saga::{Effect, EntryKind, Input, PeerHealth, Phase, StuckReason};

use crate::machine::{Machine, already_done, done, garbled, refused};
use crate::toy::{Call, Toy};

const STEPS: [&str; 7] = ["choose", "check", "prepare", "move", "finish", "tidy", "call"];

/// One thing that happens, and how long after the one before.
#[derive(Clone, Debug)]
enum Event {
    /// The current request is answered.
    Answer(Outcome),
    /// Something else is answered, or the same a second time.
    Stray(i32, &'static str, Dir, Outcome),
    Wake(PeerHealth),
    /// Woken at the time it asked for.
    Due(PeerHealth),
    Cancel,
    GiveUp,
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        12 => Just(done()),
        4 => Just(refused()),
        2 => Just(Outcome::Expired),
        2 => Just(already_done()),
        1 => Just(garbled()),
    ]
}

fn health() -> impl Strategy<Value = PeerHealth> {
    prop_oneof![3 => Just(PeerHealth::Up), 1 => Just(PeerHealth::Down)]
}

fn dir() -> impl Strategy<Value = Dir> {
    prop_oneof![Just(Dir::Do), Just(Dir::Undo)]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => outcome().prop_map(Event::Answer),
        6 => (0..3, prop::sample::select(&STEPS[..]), dir(), outcome())
            .prop_map(|(round, step, dir, outcome)| Event::Stray(round, step, dir, outcome)),
        3 => health().prop_map(Event::Wake),
        6 => health().prop_map(Event::Due),
        1 => Just(Event::Cancel),
        1 => prop::bool::weighted(0.1)
            .prop_map(|really| if really { Event::GiveUp } else { Event::Cancel }),
    ]
}

fn feed(saga: &mut Machine, event: Event) {
    saga.now += TimeDelta::milliseconds(10);
    match event {
        Event::Answer(outcome) => saga.answer(outcome),
        Event::Stray(round, step, dir, outcome) => saga.reply(round, step, dir, outcome),
        Event::Wake(health) => saga.input(Input::Wake(health)),
        Event::Due(_) if saga.row.phase.is_terminal() => saga.wake(),
        Event::Due(health) => saga.due(health),
        Event::Cancel => saga.cancel(),
        Event::GiveUp => saga.input(Input::GiveUp(StuckReason::TransactionFailed, String::new())),
    };
}

/// What was asked of whom, to be compared at the end.
#[derive(Default)]
struct Ledger {
    /// By round: steps whose undo was not asked or put off after they were asked.
    open: BTreeMap<i32, Vec<String>>,
    pivot_done: bool,
}

impl Ledger {
    /// Notes the effects of one input and checks what must hold of them.
    fn check(&mut self, before: &Machine, after: &Machine) {
        let row = &after.row;
        assert_eq!(row.wake_at.is_none(), row.phase.is_terminal(), "I2");
        assert!(row.attempt >= before.row.attempt && row.round >= before.row.round);
        let entries = after.effects.iter().filter(|effect| matches!(effect, Effect::Record(_)));
        assert!(entries.count() <= 1);
        let noted = after.entry().map(|entry| entry.changes.clone()).unwrap_or_default();
        assert_eq!(noted, after.changes(), "the history says what changed");
        if before.row.phase.is_terminal() {
            assert_eq!((row, &after.effects), (&before.row, &vec![]));
        }
        if row.phase != before.row.phase {
            assert!(after.entry().is_some(), "every change of phase is in the history");
        }
        assert!(after.sent().len() <= 1);
        for effect in &after.effects {
            match effect {
                Effect::Send(asked) => {
                    let says = (asked.step.as_str(), asked.dir, asked.round, asked.attempt);
                    assert_eq!(says, (&*row.step, row.dir, row.round, row.attempt));
                    assert!(asked.attempt > before.row.attempt);
                    assert!(row.wake_at.is_some_and(|at| at > after.now));
                    self.asked(asked.round, &asked.step, asked.dir);
                }
                Effect::Defer(asked) => self.asked(asked.round, &asked.step, asked.dir),
                Effect::Change(_) | Effect::Record(_) => {}
            }
        }
        let past = after.entry().is_some_and(|entry| {
            entry.step == "move" && matches!(entry.kind, EntryKind::Done | EntryKind::FoundDone)
        });
        self.pivot_done |= past;
        if self.pivot_done {
            assert!(matches!(row.phase, Phase::Running | Phase::Completed | Phase::Stuck));
        }
        if row.phase == Phase::Unwound || row.round > before.row.round {
            let open = self.open.remove(&before.row.round).unwrap_or_default();
            assert_eq!(open, Vec::<String>::new(), "asked and never undone");
        }
    }

    fn asked(&mut self, round: i32, step: &str, dir: Dir) {
        let open = self.open.entry(round).or_default();
        if dir == Dir::Undo {
            assert!(!self.pivot_done, "nothing is undone past the pivot");
            open.retain(|other| other != step);
        } else if step != "choose" && !open.iter().any(|other| other == step) {
            // `choose` is undone by its changes alone.
            open.push(step.to_owned());
        }
    }
}

fn holds(mut saga: Machine, events: Vec<Event>) {
    let mut ledger = Ledger::default();
    for event in std::iter::once(Event::Wake(PeerHealth::Up)).chain(events) {
        let before = saga.clone();
        let could_cancel = before.can_cancel();
        let cancels = matches!(event, Event::Cancel);
        feed(&mut saga, event.clone());
        ledger.check(&before, &saga);
        if cancels {
            assert_eq!(could_cancel, saga.row != before.row, "can_cancel says what cancel does");
        }
        let mut again = before;
        feed(&mut again, event);
        assert_eq!((&again.row, &again.effects), (&saga.row, &saga.effects), "it is a function");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_toy_keeps_every_rule(
        start_over: bool,
        unprepared: bool,
        events in prop::collection::vec(event(), 0..60),
    ) {
        holds(Machine::new(&Toy { start_over, unprepared, ..Toy::default() }), events);
    }

    #[test]
    fn the_call_keeps_every_rule(events in prop::collection::vec(event(), 0..20)) {
        holds(Machine::new(&Call {}), events);
    }

    #[test]
    fn whatever_the_state_column_holds_it_never_panics(
        keys in prop::collection::vec("[a-z_]{1,10}", 0..4),
        number: i32,
    ) {
        let mut saga = Machine::new(&Toy::default());
        saga.row.state = keys.into_iter().map(|key| (key, json!(number))).collect();
        saga.wake();
        prop_assert_eq!(saga.row.wake_at.is_none(), saga.row.phase.is_terminal());
    }
}
