//! Takes commands from the host's queue, and sees to it that they really come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use uuid::Uuid;
use whimbrel_messages::Peer;
use whimbrel_rpc::{Amqp, Delivery, Outgoing, exchange};
use whimbrel_service::Shutdown;
use whimbrel_virt::ComputeDriver;

use crate::dispatch::Agent;

/// Commands that the broker hands over before any is acknowledged.
const PREFETCH: u16 = 128;
/// How often the agent sends itself a message.
const PROBE: Duration = Duration::from_secs(5);
/// Without one of its own messages for this long it no longer trusts its consumer: the queue may be gone, or
/// the channel half dead.
const DEAF: Duration = Duration::from_secs(20);

/// A message of the agent to itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Probe {
    probe: Uuid,
}

/// Consumes until told to stop. With `restarted`, the host was, and what lies in its queue is of the time before: it may
/// ask for the start of a guest that has been made again elsewhere since. All of it is dropped, up to the agent's own
/// first message; what is still wanted is asked for again. Returns the background part that ended unasked, if one did.
pub(crate) async fn consume<D: ComputeDriver>(
    agent: &Arc<Agent<D>>,
    amqp: &Amqp,
    restarted: bool,
    background: &mut JoinSet<&'static str>,
    shutdown: &mut Shutdown,
) -> anyhow::Result<Option<&'static str>> {
    let queue = Peer::Compute(agent.host.clone()).routing_key();
    let mut deliveries = amqp.consume(&queue, PREFETCH).await.context("consuming commands")?;
    let publisher = amqp.publisher();
    let mut probes = tokio::time::interval(PROBE);
    let mut heard = Instant::now();
    let mut of_before = restarted;
    loop {
        tokio::select! {
            delivery = deliveries.next() => match delivery {
                Some(delivery) if is_probe(&delivery) => {
                    heard = Instant::now();
                    of_before = false;
                    delivery.ack().await;
                }
                Some(delivery) if of_before => {
                    tracing::info!("dropping a command of before the host's restart");
                    delivery.ack().await;
                }
                Some(delivery) => agent.dispatch(delivery),
                None => return Ok(Some("the consumer")),
            },
            _ = probes.tick() => {
                if heard.elapsed() > DEAF {
                    tracing::warn!("none of our own messages came back; consuming anew");
                    deliveries.restart();
                    heard = Instant::now();
                }
                let publisher = publisher.clone();
                let probe = probe(&queue);
                agent.track(async move { drop(publisher.publish_all(&[probe]).await) });
            }
            ended = background.join_next() => {
                return Ok(Some(ended.and_then(Result::ok).unwrap_or("a part that panicked")));
            }
            () = shutdown.wait() => return Ok(None),
        }
    }
}

fn is_probe(delivery: &Delivery) -> bool {
    delivery.body.len() < 100 && serde_json::from_slice::<Probe>(&delivery.body).is_ok()
}

fn probe(queue: &str) -> Outgoing {
    let probe = Probe { probe: Uuid::now_v7() };
    Outgoing {
        message_id: probe.probe,
        exchange: exchange::COMMAND.to_owned(),
        routing_key: queue.to_owned(),
        body: serde_json::to_vec(&probe).expect("a probe is plain data"),
        mandatory: true,
        persistent: false,
        headers: Vec::new(),
        expiration_ms: Some(60_000),
    }
}
