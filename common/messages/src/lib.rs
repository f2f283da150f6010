//! Everything that crosses AMQP: the envelope, one struct per method, replies, reports and progress.
//!
//! A type's JSON Schema is checked in under `schemas/amqp/` and a test keeps the two equal. A minor version
//! adds fields with `#[serde(default)]`; a major one is a new struct beside the old.

pub mod compute;
mod envelope;
pub mod report;
pub mod scheduler;

pub use envelope::{Command, Dir, Fault, FaultCode, Outcome, Peer, Reply, Rpc, SagaHint, StepKey};
