//! Messages on their way out.

use serde::Serialize;
use uuid::Uuid;
use whimbrel_messages::report::{HostReport, MigrationProgress};
use whimbrel_messages::{Command, Peer, Reply, SagaHint};
use whimbrel_model::HostName;

use crate::topology::{exchange, queue};

/// Progress that nobody took for this long is of no use, in milliseconds.
const PROGRESS_MS: u32 = 30_000;

/// A message to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its id.
    pub message_id: Uuid,
    /// The exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// JSON.
    pub body: Vec<u8>,
    /// Whether it comes back when no queue takes it.
    pub mandatory: bool,
    /// Whether it outlives the broker.
    pub persistent: bool,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// The broker may drop it after this time, in milliseconds.
    pub expiration_ms: Option<u32>,
}

impl Outgoing {
    fn new(id: Uuid, exchange: &str, routing_key: String, message: &impl Serialize) -> Self {
        Self {
            message_id: id,
            exchange: exchange.to_owned(),
            routing_key,
            body: serde_json::to_vec(message).expect("a message is plain data"),
            mandatory: true,
            persistent: true,
            headers: Vec::new(),
            expiration_ms: None,
        }
    }

    /// A request to `peer`.
    pub fn command(command: &Command, peer: &Peer) -> Self {
        Self::new(command.message_id, exchange::COMMAND, peer.routing_key(), command)
    }

    /// An answer.
    pub fn reply(reply: &Reply) -> Self {
        Self::new(reply.message_id, exchange::REPLY, queue::REPLY.to_owned(), reply)
    }

    /// A hint that a saga has something to do.
    pub fn hint(hint: &SagaHint) -> Self {
        Self::new(Uuid::now_v7(), exchange::COMMAND, queue::CONDUCTOR.to_owned(), hint)
    }

    /// A host's report. The next one makes up for a loss.
    pub fn report(report: &HostReport) -> Self {
        let routing_key = format!("report.{}", report.host);
        let message = Self::new(Uuid::now_v7(), exchange::REPORT, routing_key, report);
        Self { mandatory: false, ..message }
    }

    /// How far a migration on `host` has come.
    pub fn progress(progress: &MigrationProgress, host: &HostName) -> Self {
        let routing_key = format!("progress.{host}");
        let message = Self::new(Uuid::now_v7(), exchange::PROGRESS, routing_key, progress);
        Self { mandatory: false, persistent: false, expiration_ms: Some(PROGRESS_MS), ..message }
    }
}
