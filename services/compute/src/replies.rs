//! Answers on their way out: as many as are there in one burst, then the acknowledgements.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;
use whimbrel_messages::{Command, Outcome, Reply};
use whimbrel_rpc::{Delivery, Outgoing, Published, Publisher};

/// Answers published in one burst at most.
const BURST: usize = 64;
/// An answer without a delivery that the broker did not take is tried again after this time.
const AGAIN: Duration = Duration::from_millis(500);

/// An answer, and the delivery to acknowledge once the broker has it.
pub(crate) struct Ready {
    message: Outgoing,
    delivery: Option<Delivery>,
}

/// Where answers go.
#[derive(Clone)]
pub(crate) struct Replies {
    sender: mpsc::UnboundedSender<Ready>,
}

impl Replies {
    /// Sends the answer to `command`. The journal has it, so it can be lost without harm.
    pub(crate) fn send(&self, command: &Command, outcome: Outcome, delivery: Option<Delivery>) {
        let reply = Reply {
            message_id: Uuid::now_v7(),
            key: command.key.clone(),
            attempt: command.attempt,
            outcome,
        };
        let ready = Ready { message: Outgoing::reply(&reply), delivery };
        // The receiver is gone only when the process ends; the conductor asks again.
        let _ = self.sender.send(ready);
    }
}

/// Starts the task that publishes. Unbounded, but there is one answer for each delivery at most, and those
/// are bounded by the prefetch, and one for each job.
pub(crate) fn start(tasks: &mut JoinSet<&'static str>, publisher: Publisher) -> Replies {
    let (sender, receiver) = mpsc::unbounded_channel();
    let replies = Replies { sender };
    tasks.spawn(run(receiver, replies.clone(), publisher));
    replies
}

async fn run(
    mut receiver: mpsc::UnboundedReceiver<Ready>,
    replies: Replies,
    publisher: Publisher,
) -> &'static str {
    loop {
        let mut burst = Vec::with_capacity(BURST);
        if receiver.recv_many(&mut burst, BURST).await == 0 {
            return "the sender of replies";
        }
        let (messages, deliveries): (Vec<_>, Vec<_>) =
            burst.into_iter().map(|ready| (ready.message, ready.delivery)).unzip();
        let published = publisher.publish_all(&messages).await;
        let (mut done, mut again) = (Vec::new(), Vec::new());
        for ((message, delivery), published) in messages.into_iter().zip(deliveries).zip(published)
        {
            match (published, delivery) {
                (Published::Confirmed | Published::Returned, delivery) => done.extend(delivery),
                // It comes again, and the journal has the answer.
                (Published::Unknown, Some(delivery)) => delivery.requeue().await,
                (Published::Unknown, None) => again.push(Ready { message, delivery: None }),
            }
        }
        Delivery::ack_all(done).await;
        if !again.is_empty() {
            tokio::time::sleep(AGAIN).await;
            again.into_iter().for_each(|ready| drop(replies.sender.send(ready)));
        }
    }
}
