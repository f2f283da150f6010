//! What the engine reads and writes: a saga's row, its inputs and its effects.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::{Display, EnumString, VariantArray};
use whimbrel_messages::{Dir, Fault, Outcome, Peer};
use whimbrel_model::{Change, SagaId};

/// How far a saga has come.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    VariantArray,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Phase {
    /// Nothing was asked of anybody yet.
    New,
    /// Going forward.
    Running,
    /// Going back.
    Unwinding,
    /// All was done.
    Completed,
    /// All was undone.
    Unwound,
    /// Neither: an operator must look.
    Stuck,
}

/// A text that names no phase.
pub type UnknownPhase = strum::ParseError;

impl Phase {
    /// Whether nothing more will happen.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Unwound | Self::Stuck)
    }
}

/// A saga as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// Its id.
    pub id: SagaId,
    /// How far it has come.
    pub phase: Phase,
    /// The step that is being asked or undone, by name.
    pub step: Cow<'static, str>,
    /// Forth or back.
    pub dir: Dir,
    /// Grows when it starts over with another host.
    pub round: i32,
    /// Grows with every request, over both directions.
    pub attempt: i32,
    /// Requests for this step in this direction.
    pub tries: i32,
    /// When to look again at the latest. None exactly in a terminal phase (I2).
    pub wake_at: Option<DateTime<Utc>>,
    /// It was called off: it goes back as far as it can and starts no new round.
    pub cancelled: bool,
    /// An undo was put off until its host is back. What it was to undo may still be there, so nothing
    /// starts over elsewhere.
    pub deferred: bool,
    /// The definition's own state.
    pub state: Value,
    /// Why it goes back, or is stuck.
    pub fault: Option<Fault>,
}

impl Row {
    /// A saga that has not begun.
    pub fn new(id: SagaId, state: Value, now: DateTime<Utc>) -> Self {
        Self {
            id,
            phase: Phase::New,
            step: Cow::Borrowed(""),
            dir: Dir::Do,
            round: 0,
            attempt: 0,
            tries: 0,
            wake_at: Some(now),
            cancelled: false,
            deferred: false,
            state,
            fault: None,
        }
    }
}

/// What the conductor knows of the peer that a step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerHealth {
    /// It reports.
    Up,
    /// It has not reported for too long. It may still run.
    Down,
    /// Somebody has forced it down, which says: it runs no guests any more, whatever it thinks.
    Fenced,
}

/// What can happen to a saga.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// A hint, or the clock: look whether there is something to do.
    Wake(PeerHealth),
    /// A peer has answered.
    Reply {
        /// Which round it is about.
        round: i32,
        /// Which step.
        step: String,
        /// Which direction.
        dir: Dir,
        /// What became of it.
        outcome: Outcome,
    },
    /// It is called off.
    Cancel,
    /// It can't be processed, for instance because its rows contradict it n times over.
    GiveUp(StuckReason, String),
}

/// A request of a step, without what the shell adds to make a message of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Asked {
    /// Who is asked.
    pub to: Peer,
    /// The method.
    pub method: String,
    /// Its version.
    pub version: (u16, u16),
    /// The step.
    pub step: String,
    /// Forth or back.
    pub dir: Dir,
    /// The round.
    pub round: i32,
    /// The attempt.
    pub attempt: i32,
    /// How long this attempt may take, in milliseconds.
    pub deadline_ms: i64,
    /// It is past the point of no return, or an undo: it is asked until it is done.
    pub must: bool,
    /// The request.
    pub body: Value,
}

/// What is to be done with a step of the engine, all of it in one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Send a request.
    Send(Asked),
    /// Keep a request for a host that is down until it is back.
    Defer(Asked),
    /// Change a row.
    Change(Change),
    /// Append to the history.
    Record(Entry),
}

/// One entry of a saga's history. The changes made with it are part of it, so that the history of an
/// instance can be folded into its rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// What happened.
    pub kind: EntryKind,
    /// The step it happened to; empty for the saga as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
    /// Forth or back.
    pub dir: Dir,
    /// The round.
    pub round: i32,
    /// The phase afterwards.
    pub phase: Phase,
    /// The step asked next; empty when none is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub next: String,
    /// Who is asked next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
    /// Why, if something went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What changed with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// Kinds of history entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Display, EnumString)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum EntryKind {
    /// The saga began.
    Started,
    /// A step was carried out.
    Done,
    /// A step was refused.
    Refused,
    /// A step was not answered and is asked again.
    AskedAgain,
    /// A step was not answered often enough to be given up.
    TimedOut,
    /// A step was undone, or never was.
    Undone,
    /// The fence of the pivot found it carried out.
    FoundDone,
    /// What had to be done at a host that is down was put off until it is back.
    Deferred,
    /// It was called off.
    Cancelled,
    /// It can go neither on nor back.
    Stuck,
}

/// Why a saga is stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Display, EnumString)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum StuckReason {
    /// A step past the point of no return was refused.
    RetriableRefused,
    /// An undo was refused for good.
    UndoRefused,
    /// A reply could not be read.
    UnreadableReply,
    /// The saga's own state could not be read, or lacks what a step needs.
    UnreadableState,
    /// A step answered that it was already done where that makes no sense.
    UnexpectedReply,
    /// Its transaction failed again and again.
    TransactionFailed,
}
