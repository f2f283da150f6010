//! The conductor: drives the sagas, applies what hosts report, sends what was left unsent.
//!
//! Stateless: any number of replicas, any of them handles any message. Nothing waits in memory; every message
//! is only a hint, and the saga's row suffices to finish the operation.
//!
//! ```text
//!   conductor.reply ─┐                                    ┌─▶ outbox rows ─▶ publish ─▶ confirmed ids
//!   conductor ───────┼─▶ one queue ─▶ worker: transaction ┤                              │
//!   due sagas ───────┘    (as much as has arrived, ≤ 64)  └─▶ acknowledge                ▼
//!                                                                 deleted with the next transaction
//! ```

mod config;
mod engine;
mod figures;
mod inbox;
mod reports;
mod sweepers;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use whimbrel_db::Database;
use whimbrel_rpc::{Amqp, Topology};
use whimbrel_service::{Health, Shutdown};

pub use config::{ConductorConfig, Config};
use engine::Engine;

/// How often the service says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Runs until told to stop. What is under way is finished by this conductor or any other.
///
/// # Errors
/// When the broker or the database can't be reached at the start, or a part of it ends unasked.
pub async fn run(config: Config, mut shutdown: Shutdown) -> anyhow::Result<()> {
    let health = Health::start("whimbrel-conductor", &config.management)?;
    let database = Database::with_generic_plans(&config.database)?;
    health.require("database", {
        let database = database.clone();
        move || database.clone().ready()
    });
    let amqp = Amqp::connect(&config.amqp, "whimbrel-conductor")
        .await
        .context("connecting to the broker")?;
    amqp.declare(Topology::Conductor).await.context("declaring queues")?;
    health.require("broker", {
        let amqp = amqp.clone();
        move || amqp.clone().ready()
    });
    let engine = Arc::new(Engine::new(database.clone(), amqp.publisher(), &config.conductor));

    let mut tasks: JoinSet<&'static str> = JoinSet::new();
    inbox::start(&mut tasks, &amqp, &engine, config.conductor.workers).await?;
    reports::start(&mut tasks, &amqp, &database).await?;
    sweepers::start(&mut tasks, &engine, &config.conductor);
    if health.address().is_some() {
        let down_after_ms = config.conductor.service_down_time_ms;
        tasks.spawn(figures::keep(database.clone(), amqp.clone(), down_after_ms));
    }
    let beat = database.clone();
    tasks.spawn(async move {
        whimbrel_db::heartbeat(beat, "whimbrel-conductor", HEARTBEAT).await;
        "heartbeat"
    });
    health.started();
    tracing::info!(workers = config.conductor.workers, "ready");

    let ended = tokio::select! {
        () = shutdown.wait() => None,
        ended = tasks.join_next() => ended,
    };
    tasks.shutdown().await;
    amqp.close().await;
    match ended {
        None => Ok(()),
        Some(part) => anyhow::bail!("{} ended", part.unwrap_or("a part that panicked")),
    }
}
