//! Hints and replies on their way to the workers.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use whimbrel_db::reports::meet_obligation;
use whimbrel_db::saga_log::Work;
use whimbrel_messages::{FaultCode, Outcome, Reply, SagaHint, StepKey};
use whimbrel_model::SagaId;
use whimbrel_rpc::{Amqp, Deliveries, Delivery};
use whimbrel_saga::{Input, PeerHealth};

use crate::engine::Engine;

/// Messages taken into one transaction at most.
pub(crate) const BATCH: usize = 64;
/// Messages that the broker hands over from one queue before any is acknowledged.
const PREFETCH: u16 = 200;

/// One message, read.
struct Arrived {
    delivery: Delivery,
    work: Work,
    /// The work that it answers for, if it is an answer that settles it.
    settles: Option<StepKey>,
}

/// Starts consumers and workers.
pub(crate) async fn start(
    tasks: &mut JoinSet<&'static str>,
    amqp: &Amqp,
    engine: &Arc<Engine>,
    workers: usize,
) -> anyhow::Result<()> {
    let (sender, receiver) = mpsc::channel(2 * usize::from(PREFETCH));
    let receiver = Arc::new(Mutex::new(receiver));
    for (queue, read) in [("conductor", hint as Read), ("conductor.reply", reply as Read)] {
        let deliveries =
            amqp.consume(queue, PREFETCH).await.with_context(|| format!("consuming {queue}"))?;
        tasks.spawn(feed(deliveries, read, sender.clone()));
    }
    for _ in 0..workers.max(1) {
        tasks.spawn(work(Arc::clone(&receiver), Arc::clone(engine)));
    }
    Ok(())
}

type Read = fn(&[u8]) -> Result<(Work, Option<StepKey>), serde_json::Error>;

fn hint(body: &[u8]) -> Result<(Work, Option<StepKey>), serde_json::Error> {
    let SagaHint { saga_id } = serde_json::from_slice(body)?;
    Ok((Work { saga_id, input: Input::Wake(PeerHealth::Up) }, None))
}

fn reply(body: &[u8]) -> Result<(Work, Option<StepKey>), serde_json::Error> {
    let Reply { key, outcome, .. } = serde_json::from_slice(body)?;
    let settles = settles(&outcome).then(|| key.clone());
    let StepKey { saga_id, round, step, dir } = key;
    Ok((Work { saga_id, input: Input::Reply { round, step, dir, outcome } }, settles))
}

/// Whether an answer settles work that was put off. A host that refused it still owes it, unless the guest has
/// a newer owner there by now.
fn settles(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Ok { .. } | Outcome::AlreadyDone { .. } => true,
        Outcome::Refused { fault } => fault.code == FaultCode::StaleOwner,
        Outcome::Expired => false,
    }
}

async fn feed(
    mut deliveries: Deliveries,
    read: Read,
    sender: mpsc::Sender<Arrived>,
) -> &'static str {
    while let Some(delivery) = deliveries.next().await {
        match read(&delivery.body) {
            Ok((work, settles)) => {
                if sender.send(Arrived { delivery, work, settles }).await.is_err() {
                    break;
                }
            }
            Err(error) => delivery.dead_letter(&error.to_string()).await,
        }
    }
    "a consumer"
}

async fn work(receiver: Arc<Mutex<mpsc::Receiver<Arrived>>>, engine: Arc<Engine>) -> &'static str {
    loop {
        let mut arrived = Vec::with_capacity(BATCH);
        // Whoever has the receiver takes what is there; the others work meanwhile.
        if receiver.lock().await.recv_many(&mut arrived, BATCH).await == 0 {
            return "a worker";
        }
        handle(&engine, arrived).await;
    }
}

async fn handle(engine: &Engine, arrived: Vec<Arrived>) {
    let mut deliveries = Vec::with_capacity(arrived.len());
    let mut work = Vec::with_capacity(arrived.len());
    let mut settled = Vec::new();
    for Arrived { delivery, work: piece, settles } in arrived {
        deliveries.push(delivery);
        settled.extend(settles);
        work.push(piece);
    }
    let (inactive, outgoing) = engine.process(work).await;
    meet_obligations(engine, &inactive, settled).await;
    // After the commit: what follows from these messages is in the database now.
    tokio::join!(Delivery::ack_all(deliveries), engine.publish(&outgoing));
}

/// An answer to a saga that has ended is for work that was put off for the host.
async fn meet_obligations(engine: &Engine, inactive: &[SagaId], settled: Vec<StepKey>) {
    let inactive: BTreeSet<SagaId> = inactive.iter().copied().collect();
    for key in settled.into_iter().filter(|key| inactive.contains(&key.saga_id)) {
        let met = engine.with_connection(async |c| meet_obligation(c, &key).await).await;
        if met == Some(true) {
            tracing::info!(saga.id = %key.saga_id, step = key.step, "work that was put off is done");
        }
    }
}
