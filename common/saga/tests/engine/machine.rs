//! Drives one saga by hand and keeps what the last input led to.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;
use whimbrel_messages::{Dir, Fault, FaultCode, Outcome};
use whimbrel_model::{Change, SagaId};
use whimbrel_saga::{
    Asked, Definition, Effect, Entry, EntryKind, Input, PeerHealth, Phase, Registry, Row, Saga,
};

use crate::toy::{Call, Toy};

/// A saga, a clock, and the effects of the last input.
#[derive(Clone)]
pub(crate) struct Machine {
    definition: Arc<dyn Definition>,
    pub(crate) row: Row,
    pub(crate) now: DateTime<Utc>,
    pub(crate) effects: Vec<Effect>,
}

pub(crate) fn done() -> Outcome {
    Outcome::Ok { body: json!({ "number": 7 }) }
}

pub(crate) fn already_done() -> Outcome {
    Outcome::AlreadyDone { body: json!({ "number": 8 }) }
}

pub(crate) fn refused() -> Outcome {
    Outcome::Refused { fault: Fault::new(FaultCode::Hypervisor, "no") }
}

pub(crate) fn garbled() -> Outcome {
    Outcome::Ok { body: json!({ "number": "seven" }) }
}

impl Machine {
    pub(crate) fn new<S: Saga + Serialize>(state: &S) -> Self {
        let registry = Registry::default().with::<Toy>().with::<Call>();
        let definition = registry.get(S::NAME, S::VERSION).expect("both toys are registered");
        let now = DateTime::from_timestamp(1_000_000, 0).expect("a time");
        let state = serde_json::to_value(state).expect("plain data");
        let row = Row::new(SagaId(Uuid::from_u128(1)), state, now);
        Self { definition: Arc::clone(definition), row, now, effects: Vec::new() }
    }

    /// A toy that asks `step`.
    pub(crate) fn at(step: &str, state: &Toy) -> Self {
        let mut machine = Self::new(state);
        machine.wake();
        while machine.row.step != step {
            machine.answer(done());
            assert_eq!(machine.row.phase, Phase::Running, "{step} is never asked");
        }
        machine
    }

    /// A toy that undoes `step` because it was refused.
    pub(crate) fn undoing(step: &str, state: &Toy) -> Self {
        let mut machine = Self::at(step, state);
        machine.answer(refused());
        assert_eq!((machine.row.phase, machine.row.dir), (Phase::Unwinding, Dir::Undo));
        assert_eq!(machine.row.step, step);
        machine
    }

    pub(crate) fn input(&mut self, input: Input) -> &mut Self {
        let (row, effects) = self.definition.advance(self.row.clone(), input, self.now);
        self.row = row;
        self.effects = effects;
        self
    }

    pub(crate) fn wake(&mut self) -> &mut Self {
        self.input(Input::Wake(PeerHealth::Up))
    }

    /// Lets the time pass until somebody has to look, and looks.
    pub(crate) fn due(&mut self, health: PeerHealth) -> &mut Self {
        self.now = self.row.wake_at.expect("an active saga has a time to wake");
        self.input(Input::Wake(health))
    }

    /// Answers what is being asked.
    pub(crate) fn answer(&mut self, outcome: Outcome) -> &mut Self {
        let (step, dir) = (self.row.step.to_string(), self.row.dir);
        self.reply(self.row.round, &step, dir, outcome)
    }

    pub(crate) fn reply(
        &mut self,
        round: i32,
        step: &str,
        dir: Dir,
        outcome: Outcome,
    ) -> &mut Self {
        self.input(Input::Reply { round, step: step.to_owned(), dir, outcome })
    }

    pub(crate) fn cancel(&mut self) -> &mut Self {
        self.input(Input::Cancel)
    }

    pub(crate) fn can_cancel(&self) -> bool {
        self.definition.can_cancel(&self.row)
    }

    /// What the last input had sent: step and direction.
    pub(crate) fn sent(&self) -> Vec<(&str, Dir)> {
        let sent = self.effects.iter().filter_map(|effect| match effect {
            Effect::Send(asked) => Some((asked.step.as_str(), asked.dir)),
            _ => None,
        });
        sent.collect()
    }

    /// What the last input had put off.
    pub(crate) fn deferred(&self) -> Vec<&Asked> {
        let deferred = self.effects.iter().filter_map(|effect| match effect {
            Effect::Defer(asked) => Some(asked),
            _ => None,
        });
        deferred.collect()
    }

    /// What the last input changed.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let changes = self.effects.iter().filter_map(|effect| match effect {
            Effect::Change(change) => Some(change.clone()),
            _ => None,
        });
        changes.collect()
    }

    /// What the last input noted.
    pub(crate) fn entry(&self) -> Option<&Entry> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Record(entry) => Some(entry),
            _ => None,
        })
    }

    pub(crate) fn noted(&self) -> Option<EntryKind> {
        self.entry().map(|entry| entry.kind)
    }

    /// Milliseconds until somebody has to look.
    pub(crate) fn waits_ms(&self) -> i64 {
        let wake_at = self.row.wake_at.expect("an active saga has a time to wake");
        (wake_at - self.now).num_milliseconds()
    }

    /// Asserts that `input` changes nothing at all.
    pub(crate) fn ignores(&self, input: &Input) {
        let mut other = self.clone();
        other.now += TimeDelta::milliseconds(1);
        other.input(input.clone());
        assert_eq!(other.row, self.row, "{input:?}");
        assert_eq!(other.effects, [], "{input:?}");
    }

    pub(crate) fn is(&self, phase: Phase, step: &str, dir: Dir) {
        assert_eq!((self.row.phase, &*self.row.step, self.row.dir), (phase, step, dir));
    }
}
