//! Takes requests from the queue, many at a time, and answers them.

use std::sync::Arc;

use anyhow::Context;
use futures::StreamExt;
use uuid::Uuid;
use whimbrel_db::Database;
use whimbrel_db::scheduling::{Claimed, Wanted, claim_batch};
use whimbrel_messages::scheduler::{SelectDestinations, SelectDestinationsReply};
use whimbrel_messages::{Command, Fault, FaultCode, Outcome, Reply, Rpc};
use whimbrel_rpc::{Amqp, Delivery, Outgoing, Publisher, Topology};
use whimbrel_service::{ErrorChain, Health, Shutdown};

use crate::Config;
use crate::config::SchedulerConfig;
use crate::rank::{explain, rank};

/// Requests taken into one transaction at most.
const BATCH: usize = 64;
/// Requests that the broker hands over before any is acknowledged.
const PREFETCH: u16 = 200;
/// Hosts named in an explanation at most.
const EXPLAINED_HOSTS: usize = 20;
/// How often the service says that it lives.
const HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(10);

/// Runs until told to stop.
///
/// # Errors
/// When the broker or the database can't be reached at the start.
pub async fn run(config: Config, mut shutdown: Shutdown) -> anyhow::Result<()> {
    let health = Health::start("whimbrel-scheduler", &config.management)?;
    let database = Database::with_generic_plans(&config.database)?;
    health.require("database", {
        let database = database.clone();
        move || database.clone().ready()
    });
    let amqp = Amqp::connect(&config.amqp, "whimbrel-scheduler")
        .await
        .context("connecting to the broker")?;
    amqp.declare(Topology::Scheduler).await.context("declaring queues")?;
    health.require("broker", {
        let amqp = amqp.clone();
        move || amqp.clone().ready()
    });
    let mut deliveries = amqp.consume("scheduler", PREFETCH).await.context("consuming requests")?;
    let scheduler = Scheduler {
        database: database.clone(),
        publisher: amqp.publisher(),
        config: Arc::new(config.scheduler),
    };
    let heartbeat = whimbrel_db::heartbeat(database, "whimbrel-scheduler", HEARTBEAT);
    tokio::pin!(heartbeat);
    health.started();
    tracing::info!("ready");
    loop {
        tokio::select! {
            batch = deliveries.next_batch(BATCH) => match batch {
                Some(batch) => scheduler.answer(batch).await,
                None => break,
            },
            () = &mut heartbeat => {}
            () = shutdown.wait() => break,
        }
    }
    amqp.close().await;
    Ok(())
}

struct Scheduler {
    database: Database,
    publisher: Publisher,
    config: Arc<SchedulerConfig>,
}

impl Scheduler {
    async fn answer(&self, batch: Vec<Delivery>) {
        let mut wanted = Vec::with_capacity(batch.len());
        let mut readable = Vec::with_capacity(batch.len());
        let mut replies = Vec::new();
        for delivery in batch {
            match read(&delivery) {
                Ok((command, Ok(request))) => {
                    wanted.push(Wanted { key: command.key.clone(), request });
                    readable.push((delivery, Some(command)));
                }
                Ok((command, Err(fault))) => {
                    replies.push(reply(&command, Outcome::Refused { fault }));
                    readable.push((delivery, None));
                }
                Err(reason) => delivery.dead_letter(&reason).await,
            }
        }
        let rank = |request: &SelectDestinations, hosts: &[_]| rank(request, hosts, &self.config);
        let claimed = claim_batch(
            &self.database,
            &wanted,
            self.config.ratios(),
            self.config.service_down_time_ms,
            &rank,
        )
        .await;
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(error) => {
                // Not acknowledged: the broker hands them out again, and the conductor asks again.
                tracing::error!(error = %ErrorChain(&error), requests = wanted.len(), "claims failed");
                let again = futures::stream::iter(readable);
                again.for_each(|(delivery, _)| delivery.requeue()).await;
                return;
            }
        };
        let commands = readable.iter().filter_map(|(_, command)| command.as_ref());
        for ((command, want), claimed) in commands.zip(&wanted).zip(claimed) {
            replies.extend(outcome(&want.request, claimed).map(|outcome| reply(command, outcome)));
        }
        let outgoing: Vec<Outgoing> = replies.iter().map(Outgoing::reply).collect();
        self.publisher.publish_all(&outgoing).await;
        // A reply that was not confirmed is asked for again; the claim gives the same answer.
        Delivery::ack_all(readable.into_iter().map(|(delivery, _)| delivery).collect()).await;
    }
}

type Read = (Command, Result<SelectDestinations, Fault>);

fn read(delivery: &Delivery) -> Result<Read, String> {
    let command: Command = serde_json::from_slice(&delivery.body)
        .map_err(|error| format!("not a command: {error}"))?;
    let (major, minor) = SelectDestinations::VERSION;
    let known = command.method == SelectDestinations::METHOD
        && command.version.0 == major
        && command.version.1 <= minor;
    if !known {
        let (major, minor) = command.version;
        let message = format!("{} {major}.{minor} is not known here", command.method);
        return Ok((command, Err(Fault::new(FaultCode::UnsupportedVersion, message))));
    }
    let request = serde_json::from_value(command.body.clone())
        .map_err(|error| Fault::new(FaultCode::Malformed, error.to_string()));
    Ok((command, request))
}

fn outcome(request: &SelectDestinations, claimed: Claimed) -> Option<Outcome> {
    match claimed {
        Claimed::Host(host) => {
            tracing::info!(instance.id = %request.instance_id, %host, "chosen");
            let body = serde_json::to_value(SelectDestinationsReply { host });
            Some(Outcome::Ok { body: body.expect("a reply is plain data") })
        }
        Claimed::NoValidHost(refused) => {
            let message = explain(request, &refused, EXPLAINED_HOSTS);
            tracing::info!(instance.id = %request.instance_id, message, "no valid host");
            Some(Outcome::Refused { fault: Fault::new(FaultCode::NoValidHost, message) })
        }
        Claimed::NotWaiting => None,
    }
}

fn reply(command: &Command, outcome: Outcome) -> Reply {
    Reply {
        message_id: Uuid::now_v7(),
        key: command.key.clone(),
        attempt: command.attempt,
        outcome,
    }
}
