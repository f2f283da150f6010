//! Fences: the undo of what can't be taken back. The answer is "it never will", or "it already has".

use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use whimbrel_messages::compute::{FenceResize, LiveMigrationAbort, RevertResize};
use whimbrel_messages::{Command, Dir, Fault, FaultCode, Outcome, Rpc, StepKey};
use whimbrel_rpc::Delivery;
use whimbrel_virt::{ComputeDriver, DriverError};

use crate::dispatch::{Agent, Running, give_back};
use crate::handlers::fault_of;
use crate::journal::Known;

/// A job that does not end is asked to stop again after this time: it may not have been far enough to hear.
const AGAIN: Duration = Duration::from_millis(500);

impl<D: ComputeDriver> Agent<D> {
    /// Answers only when what it fences is over.
    pub(crate) async fn fence(&self, command: Command, delivery: Delivery, running: Running) {
        // From here on what was not begun never will be: work that waits for its turn looks again.
        if let Err(error) = self.journal.bury(&command.key).await {
            return give_back(delivery, &error).await;
        }
        let fenced = StepKey { dir: Dir::Do, ..command.key.clone() };
        let mut delivery = Some(delivery);
        while let Some(ended) = self.under_way(&fenced) {
            // A job may take its time; the message must not wait for it.
            if let Some(delivery) = delivery.take() {
                delivery.ack().await;
            }
            if command.method == LiveMigrationAbort::METHOD {
                self.abort(&command).await;
            }
            wait(ended).await;
        }
        let outcome = match self.journal.known(&fenced) {
            Known::Answered(Outcome::Ok { body }) => Outcome::AlreadyDone { body },
            _ if command.method == FenceResize::METHOD => self.remove_half_made(&command).await,
            _ => Outcome::Ok { body: json!({}) },
        };
        if let Err(error) = self.remember(&command, &outcome).await {
            match delivery {
                Some(delivery) => give_back(delivery, &error).await,
                None => {
                    tracing::error!(%error, "the journal can't be written; it is asked for again");
                }
            }
            return;
        }
        drop(running);
        self.changed.notify_one();
        self.replies.send(&command, outcome, delivery);
    }

    /// A guest that was being made when the service or its request was lost may be there, and may even run.
    async fn remove_half_made(&self, command: &Command) -> Outcome {
        let request = match serde_json::from_value::<FenceResize>(command.body.clone()) {
            Ok(request) => RevertResize {
                instance_id: request.instance_id,
                migration_id: request.migration_id,
                owner_epoch: request.owner_epoch,
                timeout_ms: 0,
                keep_guest: false,
                keep_disks: false,
            },
            Err(error) => {
                let message = format!("{} can't be read: {error}", command.method);
                return Outcome::Refused { fault: Fault::new(FaultCode::Malformed, message) };
            }
        };
        loop {
            match self.driver.revert_resize(&request).await {
                Ok(()) => return Outcome::Ok { body: json!({}) },
                Err(DriverError::Unavailable(why)) => {
                    tracing::warn!(why, "nothing is known of a half-made guest; asking again");
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => return Outcome::Refused { fault: fault_of(&error) },
            }
        }
    }

    async fn abort(&self, command: &Command) {
        let request = serde_json::from_value::<LiveMigrationAbort>(command.body.clone());
        let aborted = match request {
            Ok(request) => self.driver.live_migration_abort(request.instance_id).await,
            Err(error) => return tracing::error!(%error, "an abort that can't be read"),
        };
        if let Err(error) = aborted {
            tracing::warn!(%error, "the job was not asked to stop; trying again");
        }
    }
}

async fn wait(mut ended: watch::Receiver<()>) {
    // An error means that the sender is gone: the work is over.
    let _ = tokio::time::timeout(AGAIN, ended.changed()).await;
}
