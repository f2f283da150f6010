//! Publishing: all at once, one wait for all confirms, never for ever.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::Mutex;

use crate::link::{Link, within};
use crate::{Outgoing, RpcError};

/// A broker that blocks publishers neither confirms nor fails; it is not waited for longer than this.
const CONFIRM: Duration = Duration::from_secs(10);

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The broker has it.
    Confirmed,
    /// No queue takes it.
    Returned,
    /// Nobody knows: the connection was lost, the broker refused it or took too long.
    Unknown,
}

/// For sending. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    link: Arc<Link>,
    channel: Arc<Mutex<Option<Channel>>>,
}

impl Publisher {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, channel: Arc::default() }
    }

    /// Publishes all of `messages` and waits once for all confirms, at most ten seconds. The answers are in
    /// the order of the messages.
    pub async fn publish_all(&self, messages: &[Outgoing]) -> Vec<Published> {
        if messages.is_empty() {
            return Vec::new();
        }
        let mut published = vec![Published::Unknown; messages.len()];
        let work = self.send(messages, &mut published);
        let failed = match tokio::time::timeout(CONFIRM, work).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(RpcError::TimedOut("publishing")),
        };
        if let Some(error) = failed {
            let lost = published.iter().filter(|known| **known == Published::Unknown).count();
            tracing::warn!(%error, messages = lost, "not known whether these were published");
            *self.channel.lock().await = None;
        }
        published
    }

    async fn send(
        &self,
        messages: &[Outgoing],
        published: &mut [Published],
    ) -> Result<(), RpcError> {
        let channel = self.channel().await?;
        let mut confirms = Vec::with_capacity(messages.len());
        for message in messages {
            let confirm = channel.basic_publish(
                ShortString::from(message.exchange.as_str()),
                ShortString::from(message.routing_key.as_str()),
                BasicPublishOptions {
                    mandatory: message.mandatory,
                    ..BasicPublishOptions::default()
                },
                &message.body,
                properties(message),
            );
            confirms.push(confirm.await.map_err(RpcError::broker("publishing"))?);
        }
        // A returned message is attached to some confirm, not always to its own: its id tells.
        let mut returned = HashSet::new();
        for (confirm, known) in confirms.into_iter().zip(published.iter_mut()) {
            let confirmation = confirm.await.map_err(RpcError::broker("waiting for a confirm"))?;
            if let Confirmation::Ack(back) = confirmation {
                *known = Published::Confirmed;
                let id = back.and_then(|back| back.delivery.properties.message_id().clone());
                returned.extend(id.map(|id| id.to_string()));
            }
        }
        for (message, known) in messages.iter().zip(published.iter_mut()) {
            if returned.contains(&message.message_id.to_string()) {
                *known = Published::Returned;
            }
        }
        Ok(())
    }

    async fn channel(&self) -> Result<Channel, RpcError> {
        let mut channel = self.channel.lock().await;
        if let Some(standing) = channel.as_ref().filter(|known| known.status().connected()) {
            return Ok(standing.clone());
        }
        let new = self.link.channel().await?;
        within("asking for confirms", new.confirm_select(ConfirmSelectOptions::default())).await?;
        *channel = Some(new.clone());
        Ok(new)
    }
}

fn properties(message: &Outgoing) -> BasicProperties {
    let mut properties = BasicProperties::default()
        .with_message_id(message.message_id.to_string().into())
        .with_content_type("application/json".into())
        .with_delivery_mode(if message.persistent { 2 } else { 1 });
    if let Some(ms) = message.expiration_ms {
        properties = properties.with_expiration(ms.to_string().into());
    }
    if !message.headers.is_empty() {
        let mut headers = FieldTable::default();
        for (name, value) in &message.headers {
            let value = AMQPValue::LongString(LongString::from(value.as_str()));
            headers.insert(name.as_str().into(), value);
        }
        properties = properties.with_headers(headers);
    }
    properties
}
