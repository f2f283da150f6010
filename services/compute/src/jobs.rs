//! Live migrations and disks that are carried: long, journalled when they begin, acknowledged at once, taken up
//! again after a restart.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use whimbrel_messages::compute::{LiveMigration, LiveMigrationReply, ResizeInstance};
use whimbrel_messages::report::MigrationProgress;
use whimbrel_messages::{Command, Fault, FaultCode, Outcome, Rpc};
use whimbrel_model::{HostName, InstanceId, MigrationId};
use whimbrel_rpc::{Delivery, Outgoing, Publisher};
use whimbrel_virt::{ComputeDriver, DriverError, JobOutcome, JobProgress, LiveMigrationJob};

use crate::dispatch::{Agent, Running, give_back, tombstone};
use crate::handlers::fault_of;
use crate::journal::Known;

/// Progress is told at most this often.
const PROGRESS: Duration = Duration::from_millis(500);
/// A hypervisor that does not answer is asked again after this time.
const AGAIN: Duration = Duration::from_secs(1);

impl<D: ComputeDriver> Agent<D> {
    /// Begins a job and sees it through.
    pub(crate) async fn start_job(&self, command: Command, delivery: Delivery, running: Running) {
        let turn = self.turn(command.key.saga_id);
        let _turn = turn.lock().await;
        if self.journal.known(&command.key) == Known::Buried {
            return self.replies.send(&command, tombstone(&command), Some(delivery));
        }
        if let Err(error) = self.journal.accept(&command).await {
            return give_back(delivery, &error).await;
        }
        delivery.ack().await;
        self.follow(command, false, running).await;
    }

    /// Takes up the jobs that were under way when the service ended. To be called before any command is taken. With
    /// `restarted`, the host was: its guest may have been made again elsewhere since, so no disks are carried any more.
    pub(crate) fn resume_jobs(self: &Arc<Self>, restarted: bool) {
        for command in self.journal.unfinished() {
            tracing::info!(saga.id = %command.key.saga_id, request_id = %command.request_id,
                "following a migration that was under way");
            // At once, so that a fence that arrives next finds it under way.
            let Some(running) = self.begin(&command.key) else { continue };
            let carries = command.method == ResizeInstance::METHOD;
            if self.journal.is_buried(&command.key) || (restarted && carries) {
                // Its undo has come, or will; what of it is left must not begin anew.
                self.stop(&command.key);
            }
            let this = Arc::clone(self);
            drop(tokio::spawn(async move {
                let turn = this.turn(command.key.saga_id);
                let _turn = turn.lock().await;
                this.follow(command, true, running).await;
            }));
        }
    }

    async fn follow(&self, command: Command, resume: bool, running: Running) {
        let body = command.body.clone();
        let run = if command.method == ResizeInstance::METHOD {
            match serde_json::from_value(body) {
                Ok(request) => Ok(self.carry(request, running.stop.clone()).await),
                Err(error) => Err(error),
            }
        } else {
            match serde_json::from_value(body) {
                Ok(request) => Ok(self.migrate(request, resume).await),
                Err(error) => Err(error),
            }
        };
        let malformed = |error: serde_json::Error| refused(FaultCode::Malformed, error.to_string());
        let outcome = run.unwrap_or_else(malformed);
        while let Err(error) = self.journal.answer(&command.key, &outcome).await {
            tracing::error!(%error, "the journal can't be written; the outcome of a migration waits");
            tokio::time::sleep(AGAIN).await;
        }
        drop(running);
        self.changed.notify_one();
        self.replies.send(&command, outcome, None);
    }

    async fn migrate(&self, request: LiveMigration, mut resume: bool) -> Outcome {
        let (instance_id, migration_id) = (request.instance.id, request.migration_id);
        let job = LiveMigrationJob {
            instance: request.instance,
            migration_id,
            destination: request.destination,
            data: request.migrate_data,
            listen: request.listen,
            owner_epoch: request.owner_epoch,
        };
        tracing::info!(instance.id = %instance_id, migration.id = %migration_id, destination = %job.destination, "migrating");
        let (progress, teller) = self.tell_progress(instance_id, migration_id);
        let ended = loop {
            match self.driver.live_migration(&job, resume, &progress).await {
                Err(DriverError::Unavailable(why)) => {
                    tracing::warn!(migration.id = %migration_id, why, "nothing is known of the job; asking again");
                    // It may have begun: from now on it is only followed.
                    resume = true;
                    tokio::time::sleep(AGAIN).await;
                }
                other => break other,
            }
        };
        drop(progress);
        teller.abort();
        match ended {
            Ok(JobOutcome::Completed(stats)) => {
                tracing::info!(migration.id = %migration_id, "the guest has moved");
                let body = serde_json::to_value(LiveMigrationReply { stats });
                Outcome::Ok { body: body.expect("a reply is plain data") }
            }
            Ok(JobOutcome::Aborted) => {
                refused(FaultCode::Cancelled, "the migration was called off")
            }
            Ok(JobOutcome::Failed(why)) => refused(FaultCode::Hypervisor, why),
            Err(error) => Outcome::Refused { fault: fault_of(&error) },
        }
    }

    /// Shuts a guest down and carries its disks. After a restart it simply goes on from what it finds.
    async fn carry(&self, request: ResizeInstance, stop: watch::Receiver<bool>) -> Outcome {
        let (instance_id, migration_id) = (request.instance.id, request.migration_id);
        tracing::info!(instance.id = %instance_id, migration.id = %migration_id, destination = %request.destination, "carrying disks");
        let (progress, teller) = self.tell_progress(instance_id, migration_id);
        let ended = loop {
            match self.driver.resize_instance(&request, &progress, stop.clone()).await {
                Err(DriverError::Unavailable(why)) if !*stop.borrow() => {
                    tracing::warn!(migration.id = %migration_id, why, "the hypervisor does not answer; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
                other => break other,
            }
        };
        drop(progress);
        teller.abort();
        match ended {
            Ok(reply) => {
                let stats = reply.stats;
                tracing::info!(migration.id = %migration_id, bytes = stats.bytes, copy_ms = stats.copy_ms, "the disks have arrived");
                Outcome::Ok { body: serde_json::to_value(reply).expect("a reply is plain data") }
            }
            Err(error) if *stop.borrow() => refused(FaultCode::Cancelled, error.to_string()),
            Err(error) => Outcome::Refused { fault: fault_of(&error) },
        }
    }

    /// Where a job says how far it is, and who passes that on.
    fn tell_progress(
        &self,
        instance_id: InstanceId,
        migration_id: MigrationId,
    ) -> (watch::Sender<JobProgress>, JoinHandle<()>) {
        let (progress, seen) = watch::channel(JobProgress::default());
        let (host, publisher) = (self.host.clone(), self.publisher.clone());
        let teller = tokio::spawn(tell(seen, instance_id, migration_id, host, publisher));
        (progress, teller)
    }
}

fn refused(code: FaultCode, message: impl Into<String>) -> Outcome {
    Outcome::Refused { fault: Fault::new(code, message) }
}

/// Tells how far the job has come, until it is over.
async fn tell(
    mut seen: watch::Receiver<JobProgress>,
    instance_id: InstanceId,
    migration_id: MigrationId,
    host: HostName,
    publisher: Publisher,
) {
    while seen.changed().await.is_ok() {
        let JobProgress { stats, post_copy } = *seen.borrow_and_update();
        let progress =
            MigrationProgress { migration_id, instance_id, at: Utc::now(), stats, post_copy };
        publisher.publish_all(&[Outgoing::progress(&progress, &host)]).await;
        tokio::time::sleep(PROGRESS).await;
    }
}
