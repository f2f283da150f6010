//! What hosts tell without being asked: reports, progress, and messages that nobody could read.

use std::collections::BTreeMap;

use anyhow::Context;
use tokio::task::JoinSet;
use uuid::Uuid;
use whimbrel_db::reports::{apply_progress, apply_report, keep_dead_letter, sync_power};
use whimbrel_db::{Database, DbError};
use whimbrel_messages::report::{HostReport, MigrationProgress};
use whimbrel_rpc::{Amqp, Deliveries, Delivery};
use whimbrel_service::ErrorChain;

/// Messages taken at once at most.
const BATCH: usize = 64;
/// Messages that the broker hands over before any is acknowledged.
const PREFETCH: u16 = 200;

/// Starts the consumers.
pub(crate) async fn start(
    tasks: &mut JoinSet<&'static str>,
    amqp: &Amqp,
    database: &Database,
) -> anyhow::Result<()> {
    let consume = async |queue: &str| {
        amqp.consume(queue, PREFETCH).await.with_context(|| format!("consuming {queue}"))
    };
    tasks.spawn(reports(consume("conductor.report").await?, database.clone()));
    tasks.spawn(progress(consume("conductor.progress").await?, database.clone()));
    tasks.spawn(dead_letters(consume("dead").await?, database.clone()));
    Ok(())
}

/// Reads a batch; what can't be read goes to the dead letters.
async fn read<T: serde::de::DeserializeOwned>(batch: Vec<Delivery>) -> Vec<(Delivery, T)> {
    let mut read = Vec::with_capacity(batch.len());
    for delivery in batch {
        match serde_json::from_slice(&delivery.body) {
            Ok(message) => read.push((delivery, message)),
            Err(error) => delivery.dead_letter(&error.to_string()).await,
        }
    }
    read
}

async fn reports(mut deliveries: Deliveries, database: Database) -> &'static str {
    while let Some(batch) = deliveries.next_batch(BATCH).await {
        let batch = read::<HostReport>(batch).await;
        // A host's latest report says it all.
        let latest: BTreeMap<_, _> =
            batch.iter().map(|(_, report)| (report.host.clone(), report)).collect();
        for report in latest.values() {
            if let Err(error) = store(&database, report).await {
                // The next report says it again.
                tracing::warn!(host = %report.host, error = %ErrorChain(&error), "report not stored");
            }
        }
        Delivery::ack_all(batch.into_iter().map(|(delivery, _)| delivery).collect()).await;
    }
    "the consumer of reports"
}

async fn store(database: &Database, report: &HostReport) -> Result<(), DbError> {
    let mut connection = database.connection().await?;
    if apply_report(&mut connection, report).await? {
        sync_power(&mut connection, report).await?;
    }
    Ok(())
}

async fn progress(mut deliveries: Deliveries, database: Database) -> &'static str {
    while let Some(batch) = deliveries.next_batch(BATCH).await {
        let batch = read::<MigrationProgress>(batch).await;
        let latest: BTreeMap<_, _> =
            batch.iter().map(|(_, progress)| (progress.migration_id, progress)).collect();
        for progress in latest.values() {
            let stored = match database.connection().await {
                Ok(mut connection) => apply_progress(&mut connection, progress).await,
                Err(error) => Err(error),
            };
            if let Err(error) = stored {
                tracing::debug!(error = %ErrorChain(&error), "progress not stored");
            }
        }
        Delivery::ack_all(batch.into_iter().map(|(delivery, _)| delivery).collect()).await;
    }
    "the consumer of progress"
}

async fn dead_letters(mut deliveries: Deliveries, database: Database) -> &'static str {
    while let Some(delivery) = deliveries.next().await {
        let body = String::from_utf8_lossy(&delivery.body).into_owned();
        let (queue, reason) = delivery.death();
        tracing::error!(queue, reason, "a message could not be read");
        let kept = match database.connection().await {
            Ok(mut c) => keep_dead_letter(&mut c, Uuid::now_v7(), &queue, &reason, &body).await,
            Err(error) => Err(error),
        };
        match kept {
            Ok(()) => delivery.ack().await,
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), "dead letter not kept yet");
                delivery.requeue().await;
            }
        }
    }
    "the consumer of dead letters"
}
