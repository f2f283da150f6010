//! Consuming: one stream of deliveries that outlives channels, connections and queues.

use std::sync::Arc;
use std::time::Instant;

use futures::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};
use uuid::Uuid;

use crate::link::{Link, Pause, within};
use crate::topology::{exchange, redeclare};
use crate::{Outgoing, PATIENCE, Published, Publisher, RpcError};

const QUEUE_HEADER: &str = "x-whimbrel-queue";
const REASON_HEADER: &str = "x-whimbrel-reason";

/// The messages of one queue, as they come.
pub struct Deliveries {
    link: Arc<Link>,
    publisher: Publisher,
    queue: Arc<str>,
    prefetch: u16,
    /// None while it has to be built anew.
    live: Option<(Channel, Consumer)>,
    pause: Pause,
}

impl Deliveries {
    pub(crate) async fn start(
        link: Arc<Link>,
        publisher: Publisher,
        queue: &str,
        prefetch: u16,
    ) -> Result<Self, RpcError> {
        link.consumer_wanted();
        let mut this = Self {
            link,
            publisher,
            queue: queue.into(),
            prefetch,
            live: None,
            pause: Pause::default(),
        };
        // A broker that has just started may still refuse; later losses heal by themselves.
        let begun = Instant::now();
        while let Err(error) = this.begin().await {
            if begun.elapsed() >= PATIENCE {
                return Err(error);
            }
            tracing::warn!(queue, %error, "not consuming yet");
            this.pause.wait().await;
        }
        Ok(this)
    }

    async fn begin(&mut self) -> Result<(), RpcError> {
        let channel = redeclare(&self.link, &self.queue).await?;
        let qos = channel.basic_qos(self.prefetch, BasicQosOptions::default());
        within("setting the prefetch", qos).await?;
        let consumer = channel.basic_consume(
            (*self.queue).into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = within("consuming", consumer).await?;
        self.live = Some((channel, consumer));
        self.link.consumer_lives();
        self.pause.reset();
        Ok(())
    }

    fn end(&mut self) {
        if self.live.take().is_some() {
            self.link.consumer_ended();
        }
    }

    /// The next message. Waits for it however long it takes, also while the broker is away; none when the
    /// connection was closed by ourselves.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Delivery> {
        loop {
            if self.link.is_closed() {
                return None;
            }
            let Some((_, consumer)) = &mut self.live else {
                self.pause.wait().await;
                if let Err(error) = self.begin().await {
                    tracing::warn!(queue = &*self.queue, %error, "not consuming yet");
                }
                continue;
            };
            match consumer.next().await {
                Some(Ok(delivery)) => return Some(self.wrap(delivery)),
                Some(Err(error)) => {
                    tracing::warn!(queue = &*self.queue, %error, "consumer failed");
                    self.end();
                }
                // The queue was deleted, or the channel is gone.
                None => {
                    tracing::warn!(queue = &*self.queue, "consumer ended");
                    self.end();
                }
            }
        }
    }

    /// Waits for one message, then takes what has already arrived, up to `most`, without waiting.
    pub async fn next_batch(&mut self, most: usize) -> Option<Vec<Delivery>> {
        let mut batch = vec![self.next().await?];
        while batch.len() < most {
            let Some((_, consumer)) = &mut self.live else { break };
            match consumer.next().now_or_never() {
                Some(Some(Ok(delivery))) => batch.push(self.wrap(delivery)),
                Some(Some(Err(_)) | None) => {
                    self.end();
                    break;
                }
                None => break,
            }
        }
        Some(batch)
    }

    /// Stops consuming and begins anew, because the caller has reason to doubt that messages come.
    pub fn restart(&mut self) {
        self.end();
    }

    fn wrap(&self, mut inner: lapin::message::Delivery) -> Delivery {
        Delivery {
            body: std::mem::take(&mut inner.data),
            routing_key: inner.routing_key.to_string(),
            redelivered: inner.redelivered,
            queue: Arc::clone(&self.queue),
            publisher: self.publisher.clone(),
            inner,
        }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.end();
    }
}

/// A message that was received and not acknowledged yet.
pub struct Delivery {
    /// The message.
    pub body: Vec<u8>,
    /// The key it was sent under.
    pub routing_key: String,
    /// It was handed out before, to us or another.
    pub redelivered: bool,
    queue: Arc<str>,
    publisher: Publisher,
    inner: lapin::message::Delivery,
}

impl Delivery {
    /// It is dealt with. If the channel is gone it comes again; receivers are idempotent.
    pub async fn ack(self) {
        let acked = self.inner.acker.ack(BasicAckOptions::default()).await;
        tracing::trace!(queue = &*self.queue, ?acked, "acknowledged");
    }

    /// All of these are dealt with.
    pub async fn ack_all(deliveries: Vec<Self>) {
        futures::future::join_all(deliveries.into_iter().map(Self::ack)).await;
    }

    /// It goes back to the queue.
    pub async fn requeue(self) {
        let nacked =
            self.inner.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await;
        tracing::trace!(queue = &*self.queue, ?nacked, "put back");
    }

    /// Nobody can read it: it goes to the dead letters with the reason, and back to the queue if they can't
    /// be reached.
    pub async fn dead_letter(self, reason: &str) {
        tracing::error!(queue = &*self.queue, reason, "message can't be read");
        let letter = Outgoing {
            message_id: Uuid::now_v7(),
            exchange: exchange::DEAD.to_owned(),
            routing_key: String::new(),
            body: self.body.clone(),
            mandatory: true,
            persistent: true,
            headers: vec![
                (QUEUE_HEADER.to_owned(), self.queue.to_string()),
                (REASON_HEADER.to_owned(), reason.to_owned()),
            ],
            expiration_ms: None,
        };
        match self.publisher.publish_all(&[letter]).await.as_slice() {
            [Published::Confirmed] => self.ack().await,
            _ => self.requeue().await,
        }
    }

    /// Of a dead letter: the queue it comes from and the reason.
    pub fn death(&self) -> (String, String) {
        let headers = self.inner.properties.headers().as_ref();
        let header = |name: &str| match headers.and_then(|headers| headers.inner().get(name)) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            _ => "unknown".to_owned(),
        };
        (header(QUEUE_HEADER), header(REASON_HEADER))
    }
}
