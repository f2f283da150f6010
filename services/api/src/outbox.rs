//! Publishes what a transaction has put into the outbox, right after it. What is lost here is sent by the
//! conductor's sweeper, and the saga begins by its own wake-up at the latest.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use whimbrel_db::{Database, OutboxMessage, delete_outbox};
use whimbrel_rpc::{Outgoing, Published, Publisher};

/// Messages published in one burst at most.
const BURST: usize = 64;

/// Takes messages to publish.
#[derive(Clone)]
pub struct Sender(mpsc::UnboundedSender<OutboxMessage>);

impl Sender {
    /// A sender whose messages go to the returned end; for tests.
    pub fn to_nobody() -> (Self, mpsc::UnboundedReceiver<OutboxMessage>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    pub(crate) fn send(&self, message: OutboxMessage) {
        // Its receiver ends only with the process; the message is in the database.
        let _ = self.0.send(message);
    }
}

/// Starts the task. Not bounded, but there is one message for each request, and those are.
pub(crate) fn start(database: Database, publisher: Publisher) -> (Sender, JoinHandle<()>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Sender(sender), tokio::spawn(run(receiver, database, publisher)))
}

async fn run(
    mut receiver: mpsc::UnboundedReceiver<OutboxMessage>,
    database: Database,
    publisher: Publisher,
) {
    let mut burst = Vec::new();
    while receiver.recv_many(&mut burst, BURST).await > 0 {
        let messages: Vec<Outgoing> = burst.iter().map(outgoing).collect();
        let published = publisher.publish_all(&messages).await;
        let done: Vec<_> = burst
            .drain(..)
            .zip(published)
            .filter(|(_, published)| *published != Published::Unknown)
            .map(|(message, _)| message.id)
            .collect();
        let deleted = match database.connection().await {
            Ok(mut connection) => delete_outbox(&mut connection, &done).await,
            Err(error) => Err(error),
        };
        if let Err(error) = deleted {
            tracing::warn!(%error, "sent messages stay in the outbox; they will be sent again");
        }
    }
}

fn outgoing(message: &OutboxMessage) -> Outgoing {
    Outgoing {
        message_id: message.id,
        exchange: message.exchange.clone(),
        routing_key: message.routing_key.clone(),
        body: message.body.clone().into_bytes(),
        mandatory: message.mandatory,
        persistent: true,
        headers: Vec::new(),
        expiration_ms: None,
    }
}
