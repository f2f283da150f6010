//! Following a move until the hosts say what became of it, and what is to be done then.

use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use virt_sys as sys;
use whimbrel_messages::report::JobStats;
use whimbrel_model::InstanceId;
use whimbrel_virt::{DriverError, JobOutcome, JobProgress, LiveMigrationJob};

use crate::domains::{self, DomainState, PausedFor};
use crate::driver::LibvirtDriver;
use crate::epochs::Right;
use crate::job_stats;
use crate::migrate_destination::has_arrived;
use crate::migrate_mend::Mender;
use crate::move_control::MoveControl;
use crate::raw::{DomainEvent, DomainEventKind};
use crate::verdict::{DestinationView, Verdict, judge};

/// How long libvirt may be away while a job is followed; it is restarted in less.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the final figures may come after the job's end.
const STATS_WAIT: Duration = Duration::from_millis(100);

impl LibvirtDriver {
    /// Follows a job that nobody waits for, until the hosts say what became of it.
    pub(crate) async fn follow(
        &self,
        job: &LiveMigrationJob,
        control: &MoveControl,
        progress: &watch::Sender<JobProgress>,
        events: &mut broadcast::Receiver<DomainEvent>,
        why: String,
    ) -> Result<JobOutcome, DriverError> {
        let id = job.instance.id;
        let mut stats = None;
        let mut silent_since: Option<Instant> = None;
        let mut mender = Mender::default();
        loop {
            let verdict = match self.judge_now(job, control, progress).await {
                Ok(verdict) => {
                    silent_since = None;
                    verdict
                }
                // Whatever went wrong with the question, it is no answer: the job may run, or be over.
                Err(error) => {
                    let since = *silent_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > PATIENCE {
                        return Err(DriverError::Unavailable(error.to_string()));
                    }
                    tracing::warn!(instance.id = %id, %error, "nothing is known of the move; looking again");
                    Verdict::Going
                }
            };
            match verdict {
                Verdict::Going | Verdict::AskDestination => {}
                Verdict::Broken => mender.help(self, job).await,
                Verdict::Moved => {
                    let stats = match stats {
                        Some(stats) => Some(stats),
                        None => self.final_stats(id, events).await,
                    };
                    return Ok(self.moved(job, stats).await);
                }
                Verdict::Lost => return self.lost(id, &why).await,
                Verdict::Ended => return Ok(JobOutcome::Failed(format!("the guest ended: {why}"))),
                Verdict::Stayed | Verdict::StayedHalted => {
                    let halted = verdict == Verdict::StayedHalted || control.has_halted();
                    return self.stayed(job, control, halted, why).await;
                }
            }
            let interval = Duration::from_millis(self.config.migration.poll_interval_ms);
            if let Ok(Some(seen)) = tokio::time::timeout(interval, next_of(id, events)).await {
                stats = Some(seen);
            }
        }
    }

    async fn judge_now(
        &self,
        job: &LiveMigrationJob,
        control: &MoveControl,
        progress: &watch::Sender<JobProgress>,
    ) -> Result<Verdict, DriverError> {
        let look = self.look(job.instance.id, control).await?;
        if look.view.has_job {
            progress.send_replace(look.progress);
        }
        match judge(look.view, None) {
            Verdict::AskDestination => {
                let there = self.ask_destination(job, look.view.state).await?;
                Ok(judge(look.view, Some(there)))
            }
            verdict => Ok(verdict),
        }
    }

    async fn ask_destination(
        &self,
        job: &LiveMigrationJob,
        here: Option<DomainState>,
    ) -> Result<DestinationView, DriverError> {
        let (id, epoch) = (job.instance.id, job.owner_epoch);
        // A post-copy is stored at the destination before its memory has come.
        let stored_is_whole = here != Some(DomainState::Paused(PausedFor::PostCopyFailed));
        self.hypervisor
            .call_other_host(&job.listen.destination_uri, move |connect| {
                // Also one that has shut itself off since: what it wrote there is there.
                if stored_is_whole && has_arrived(connect, id, epoch)? {
                    return Ok(DestinationView::Has);
                }
                let Some(domain) = domains::find(connect, id)? else {
                    return Ok(DestinationView::of(None, false));
                };
                let state = domains::state(&domain)?;
                Ok(DestinationView::of(state, domains::has_job(&domain)?))
            })
            .await
    }

    /// The figures of a job that succeeded: libvirt sends them when it is over, and keeps them for as long
    /// as the source's definition.
    pub(crate) async fn final_stats(
        &self,
        id: InstanceId,
        events: &mut broadcast::Receiver<DomainEvent>,
    ) -> Option<JobStats> {
        let deadline = Instant::now() + STATS_WAIT;
        while let Ok(seen) = tokio::time::timeout_at(deadline, next_of(id, events)).await {
            if seen.is_some() {
                return seen;
            }
        }
        let kept = self.hypervisor.call("ask for the migration's figures", move |connect| {
            match domains::find(connect, id)? {
                Some(domain) => domains::job(&domain, true),
                None => Ok(None),
            }
        });
        let (kind, values) = kept.await.ok()??;
        (kind == sys::VIR_DOMAIN_JOB_COMPLETED).then(|| job_stats::final_stats(&values))
    }

    /// The guest is at the destination; from here on a start of it here is refused.
    pub(crate) async fn moved(
        &self,
        job: &LiveMigrationJob,
        stats: Option<JobStats>,
    ) -> JobOutcome {
        let id = job.instance.id;
        // The outcome stands whether or not it can be remembered; the clean-up remembers it, too.
        if let Err(error) = self.epochs.admit(id, job.owner_epoch, Right::Touch).await {
            tracing::warn!(instance.id = %id, %error, "the guest's new fencing token is not remembered");
        }
        JobOutcome::Completed(stats)
    }

    /// Nobody has the guest whole. What is left of it here could never run again, so it is shut off.
    async fn lost(&self, id: InstanceId, why: &str) -> Result<JobOutcome, DriverError> {
        self.hypervisor
            .call("power the guest off", move |connect| {
                domains::power_cut(&domains::get(connect, id)?)
            })
            .await
            .map_err(|error| DriverError::Unavailable(error.to_string()))?;
        Ok(JobOutcome::Failed(format!(
            "the destination lost the guest in the middle of post-copy, and its memory with it; it is shut \
             off here: {why}"
        )))
    }

    /// The guest is here; it runs again if the move had halted it.
    async fn stayed(
        &self,
        job: &LiveMigrationJob,
        control: &MoveControl,
        halted: bool,
        why: String,
    ) -> Result<JobOutcome, DriverError> {
        let id = job.instance.id;
        if halted {
            let unknown = |error: DriverError| DriverError::Unavailable(error.to_string());
            let seen = self.epochs.get(id).await.map_err(unknown)?.seen;
            if seen >= job.owner_epoch {
                return Err(DriverError::Unavailable(format!(
                    "the guest is halted here, and host {} has seen epoch {seen}, so it does not let it run",
                    self.context.host
                )));
            }
            let resumed = self.hypervisor.call("let the guest run again", move |connect| {
                let domain = domains::get(connect, id)?;
                match domains::state(&domain)? {
                    Some(DomainState::Paused(_)) => domains::resume(&domain),
                    _ => Ok(()),
                }
            });
            // Not yet as before, so not over: it is asked again.
            resumed.await.map_err(unknown)?;
        }
        if control.is_aborted() { Ok(JobOutcome::Aborted) } else { Ok(JobOutcome::Failed(why)) }
    }
}

/// Waits for something of note to happen to the guest; the final figures if it is them.
async fn next_of(
    id: InstanceId,
    events: &mut broadcast::Receiver<DomainEvent>,
) -> Option<JobStats> {
    loop {
        match events.recv().await {
            Ok(event) if event.uuid == id.0 => match event.kind {
                DomainEventKind::JobCompleted(values) => {
                    return Some(job_stats::final_stats(&values));
                }
                DomainEventKind::Lifecycle => return None,
                DomainEventKind::MigrationIteration => {}
            },
            Ok(_) => {}
            // Some were missed, so the guest must be looked at.
            Err(broadcast::error::RecvError::Lagged(_)) => return None,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
