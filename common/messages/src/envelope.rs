//! What every command and every reply carries around its body.
//!
//! ```text
//!   conductor ── Command{saga_id, round, step, dir, attempt, body} ──▶ scheduler | compute.<host>
//!   conductor ◀─ Reply  {saga_id, round, step, dir, attempt, outcome} ─┘
//! ```
//! A receiver keys its work by [`StepKey`]: the same key is the same work, whatever the attempt.

use std::fmt;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::{Display, EnumString};
use uuid::Uuid;
use whimbrel_model::{HostName, RequestId, SagaId};

/// A method: its name, version and reply are one fact.
pub trait Rpc: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The method's name on the wire.
    const METHOD: &'static str;
    /// Major and minor version. A receiver refuses another major and a higher minor.
    const VERSION: (u16, u16) = (1, 0);
    /// What a successful call answers.
    type Reply: Serialize + DeserializeOwned + JsonSchema + Send + 'static;
}

/// Whether a step is carried out or undone.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Dir {
    /// Carry the step out.
    Do,
    /// Undo it, whether it was carried out or not, and see that it never will be.
    Undo,
}

/// Names one piece of work at a receiver.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub struct StepKey {
    /// The operation.
    pub saga_id: SagaId,
    /// Grows when the operation starts over with another host.
    pub round: i32,
    /// The step's name.
    pub step: String,
    /// Forth or back.
    pub dir: Dir,
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.saga_id, self.round, self.step, self.dir)
    }
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// Any scheduler.
    Scheduler,
    /// The compute service of one host.
    Compute(HostName),
}

impl Peer {
    /// The routing key on the command exchange, which is also the queue's name.
    pub fn routing_key(&self) -> String {
        match self {
            Self::Scheduler => "scheduler".to_owned(),
            Self::Compute(host) => format!("compute.{host}"),
        }
    }
}

/// A request to carry out one step of a saga.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Command {
    /// Unique for each attempt; also the id of its outbox row.
    pub message_id: Uuid,
    /// The method's name.
    pub method: String,
    /// Major and minor version of the body.
    pub version: (u16, u16),
    /// What work this is.
    #[serde(flatten)]
    pub key: StepKey,
    /// Grows with every attempt, over both directions.
    pub attempt: i32,
    /// The HTTP request that began it all.
    pub request_id: RequestId,
    /// After this time the sender no longer waits for this attempt; a receiver that has not begun by
    /// then answers `expired`. By the clock of the database.
    pub deadline: DateTime<Utc>,
    /// When it was written, by the clock of the database.
    pub sent_at: DateTime<Utc>,
    /// It must be done: a refusal is no decision, and is not remembered, since what stands in the way may pass. So are
    /// all undos.
    #[serde(default)]
    pub must: bool,
    /// The request itself, of the method's type.
    pub body: Value,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reply {
    /// Unique for each reply sent.
    pub message_id: Uuid,
    /// The work it is about.
    #[serde(flatten)]
    pub key: StepKey,
    /// The attempt it answers.
    pub attempt: i32,
    /// What became of the work.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What became of a piece of work.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Done. For an undo: it never was, or no longer is, and never will be.
    Ok {
        /// The reply, of the method's reply type.
        body: Value,
    },
    /// Not done and never will be. Journalled like a success and repeated for every later attempt.
    Refused {
        /// Why.
        fault: Fault,
    },
    /// This attempt came too late and was not begun. Says nothing about other attempts.
    Expired,
    /// Only for the undo of a pivot: the pivot has been carried out, this was its reply.
    AlreadyDone {
        /// The pivot's reply.
        body: Value,
    },
}

/// Why something was not done.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, thiserror::Error,
)]
#[error("{message}")]
pub struct Fault {
    /// The kind of fault, for programs.
    pub code: FaultCode,
    /// What happened and what to do about it, for a person.
    pub message: String,
}

impl Fault {
    /// A fault of kind `code`.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Kinds of fault.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Display, EnumString, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FaultCode {
    /// The receiver does not know this method or version.
    UnsupportedVersion,
    /// The body is not what the method asks for.
    Malformed,
    /// No host can take the guest; the message gives the reason per host.
    NoValidHost,
    /// A check before a migration failed.
    MigrationPreCheck,
    /// The undo of this step came first; it is not carried out any more.
    Tombstone,
    /// A newer owner of the guest is known; this request is of the past.
    StaleOwner,
    /// The guest is not there.
    InstanceNotFound,
    /// The image is not what it should be.
    InvalidImage,
    /// The hypervisor refused or failed.
    Hypervisor,
    /// Called off by the user.
    Cancelled,
    /// Not answered in time.
    TimedOut,
    /// Anything else; the message is for operators.
    Internal,
}

/// Tells a conductor that a saga may have something to do. Only a hint: the saga's row suffices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SagaHint {
    /// The saga.
    pub saga_id: SagaId,
}
