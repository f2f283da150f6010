//! The source's part of a move: start the job or follow the one that runs, and say what became of it.
//!
//! The job belongs to libvirt and goes on without this service. A job that this service started is over
//! when its call returns; any other one, and any that ended in doubt, is judged by what the hosts say
//! ([`crate::verdict`]).

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, MissedTickBehavior};
use virt_sys as sys;
use whimbrel_messages::report::JobStats;
use whimbrel_model::InstanceId;
use whimbrel_virt::{DriverError, JobOutcome, JobProgress, LiveMigrationJob};

use crate::connection::OpenConnection;
use crate::domain_read;
use crate::domains::{self, DomainState, PausedFor};
use crate::driver::LibvirtDriver;
use crate::epochs::Right;
use crate::error::Doing;
use crate::files;
use crate::job_stats::job_stats;
use crate::migrate_plan::{self, MigrationPlan, SharedStorage};
pub(crate) use crate::move_control::Jobs;
use crate::move_control::MoveControl;
use crate::raw::{self, DomainEvent, DomainEventKind};
use crate::verdict::{DestinationView, SourceView, Verdict, judge};

/// How long libvirt may be away while a job is followed; it is restarted in less.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the final figures may come after the job's end.
const STATS_WAIT: Duration = Duration::from_millis(100);
/// How long a broken post-copy is left to mend itself, and between attempts to help.
const MEND_INTERVAL: Duration = Duration::from_secs(5);

/// How the call that runs a job ended.
enum Ran {
    /// The guest is at the destination.
    Moved,
    /// No job was started: one runs already, or the guest is not in a state to move.
    NotStarted,
    /// It was called off before it began.
    CalledOff,
    /// libvirt says why it failed, or was gone before it could.
    Failed(String),
}

/// What is seen of a move from time to time.
struct Look {
    view: SourceView,
    progress: JobProgress,
}

impl LibvirtDriver {
    /// `live_migration`.
    pub(crate) async fn move_guest(
        &self,
        job: &LiveMigrationJob,
        resume: bool,
        progress: &watch::Sender<JobProgress>,
    ) -> Result<JobOutcome, DriverError> {
        let id = job.instance.id;
        let control = self.jobs.enter(id);
        let mut events = self.hypervisor.events();
        let why = if resume {
            "the migration ended while the service was away".to_owned()
        } else {
            match self.run_job(job, &control, progress).await? {
                Ran::Moved => {
                    let stats = self.final_stats(id, &mut events).await;
                    return self.moved(job, stats).await;
                }
                Ran::CalledOff => return Ok(JobOutcome::Aborted),
                Ran::NotStarted => "the guest is not in a state to migrate".to_owned(),
                Ran::Failed(why) => why,
            }
        };
        self.follow(job, &control, progress, &mut events, why).await
    }

    /// Runs the job to its end, telling how far it is.
    async fn run_job(
        &self,
        job: &LiveMigrationJob,
        control: &MoveControl,
        progress: &watch::Sender<JobProgress>,
    ) -> Result<Ran, DriverError> {
        let id = job.instance.id;
        let waiting = self.move_permits.acquire();
        let _permit = tokio::select! {
            permit = waiting => permit.expect("the permits are never closed"),
            () = control.aborted() => return Ok(Ran::CalledOff),
        };
        let plan = self.plan(job).await?;
        let (epoch, abort) = (job.owner_epoch, control.clone());
        let ran = self
            .hypervisor
            .long_call("libvirt-migrate", move |open| start_job(open, id, plan, epoch, &abort))?;
        let ran = tokio::select! {
            ran = ran => ran,
            never = self.tell_progress(id, control, progress) => match never {},
        };
        match ran {
            Ok(outcome) => outcome?,
            Err(_) => Err(DriverError::Unavailable("the migration's thread is gone".to_owned())),
        }
    }

    async fn plan(&self, job: &LiveMigrationJob) -> Result<MigrationPlan, DriverError> {
        let instances = self.paths.instances().to_owned();
        let network = files::blocking("ask for the kind of file system", move || {
            files::is_network_filesystem(&instances)
        })
        .await?;
        let storage = if network { SharedStorage::Visible } else { SharedStorage::Hidden };
        Ok(migrate_plan::plan(&self.config.migration, job, storage))
    }

    /// Tells how far the job is until it is dropped, and asks again for what was asked too early.
    async fn tell_progress(
        &self,
        id: InstanceId,
        control: &MoveControl,
        progress: &watch::Sender<JobProgress>,
    ) -> Infallible {
        let interval = Duration::from_millis(self.config.migration.poll_interval_ms);
        let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.look(id, control).await {
                Ok(look) if look.view.has_job => drop(progress.send_replace(look.progress)),
                Ok(_) => {}
                Err(error) => tracing::debug!(instance.id = %id, %error, "no figures of the move"),
            }
        }
    }

    /// Looks at the source, and does there what was asked for but could not be done yet.
    async fn look(&self, id: InstanceId, control: &MoveControl) -> Result<Look, DriverError> {
        let control = control.clone();
        let post_copy_permitted = self.config.migration.post_copy;
        self.hypervisor
            .call("look at the migration", move |connect| {
                let Some(domain) = domains::find(connect, id)? else {
                    let view = SourceView { state: None, has_job: false };
                    return Ok(Look { view, progress: JobProgress::default() });
                };
                // The job first: a state read after it is at least as new.
                let job = domains::job(&domain, false)?;
                let state = domains::state(&domain)?;
                let has_job = job.is_some();
                if has_job {
                    control.carry_out(&domain, state, post_copy_permitted);
                }
                let post_copy = matches!(
                    state,
                    Some(DomainState::Paused(PausedFor::PostCopy | PausedFor::PostCopyFailed))
                );
                let stats = job.map(|(_, values)| job_stats(&values)).unwrap_or_default();
                let view = SourceView { state, has_job };
                Ok(Look { view, progress: JobProgress { stats, post_copy } })
            })
            .await
    }

    /// Follows a job that nobody waits for, until the hosts say what became of it.
    async fn follow(
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
        let mut mend_at: Option<Instant> = None;
        loop {
            let verdict = match self.judge_now(job, control, progress).await {
                Err(DriverError::Unavailable(text)) => {
                    let since = *silent_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > PATIENCE {
                        return Err(DriverError::Unavailable(text));
                    }
                    Verdict::Going
                }
                verdict => {
                    silent_since = None;
                    verdict?
                }
            };
            match verdict {
                Verdict::Going | Verdict::AskDestination => mend_at = None,
                Verdict::Broken => {
                    let at = *mend_at.get_or_insert_with(|| Instant::now() + MEND_INTERVAL);
                    if Instant::now() >= at {
                        self.mend_post_copy(job).await;
                        mend_at = None;
                    }
                }
                Verdict::Moved => {
                    let stats = match stats {
                        Some(stats) => Some(stats),
                        None => self.final_stats(id, events).await,
                    };
                    return self.moved(job, stats).await;
                }
                Verdict::Ended => return Ok(JobOutcome::Failed(format!("the guest ended: {why}"))),
                Verdict::Stayed | Verdict::StayedHalted => {
                    let halted = verdict == Verdict::StayedHalted || control.has_halted();
                    return self.stayed(id, control, halted, why).await;
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
                let there = self.ask_destination(job).await?;
                Ok(judge(look.view, Some(there)))
            }
            verdict => Ok(verdict),
        }
    }

    async fn ask_destination(
        &self,
        job: &LiveMigrationJob,
    ) -> Result<DestinationView, DriverError> {
        let id = job.instance.id;
        self.hypervisor
            .call_other_host(&job.listen.destination_uri, move |connect| {
                let Some(domain) = domains::find(connect, id)? else {
                    return Ok(DestinationView::of(None, false));
                };
                let state = domains::state(&domain)?;
                Ok(DestinationView::of(state, domains::has_job(&domain)?))
            })
            .await
    }

    /// Asks libvirt to take a broken post-copy up again. Where it is not broken for good it mends itself,
    /// and libvirt refuses; both are seen at the next look.
    async fn mend_post_copy(&self, job: &LiveMigrationJob) {
        let id = job.instance.id;
        let outcome = async {
            let plan = self.plan(job).await?.resuming_post_copy();
            tracing::warn!(instance.id = %id, "taking a broken post-copy up again");
            self.hypervisor.long_call("libvirt-mend", move |open| {
                let domain = domains::get(open.connect(), id)?;
                raw::migrate_to_uri3(&domain, &plan.destination_uri, &plan.parameters, plan.flags)
                    .doing("take the post-copy up again")
            })
        };
        match outcome.await {
            Ok(done) => match tokio::time::timeout(PATIENCE, done).await {
                Ok(Ok(Ok(Ok(())))) => tracing::info!(instance.id = %id, "the post-copy is over"),
                other => tracing::warn!(instance.id = %id, ?other, "the post-copy is still broken"),
            },
            Err(error) => tracing::warn!(instance.id = %id, %error, "the post-copy stays broken"),
        }
    }

    /// The figures of a job that succeeded: libvirt sends them when it is over, and keeps them for as long
    /// as the source's definition.
    async fn final_stats(
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
        (kind == sys::VIR_DOMAIN_JOB_COMPLETED).then(|| job_stats(&values))
    }

    /// The guest is at the destination; from here on a start of it here is refused.
    async fn moved(
        &self,
        job: &LiveMigrationJob,
        stats: Option<JobStats>,
    ) -> Result<JobOutcome, DriverError> {
        self.epochs.admit(job.instance.id, job.owner_epoch, Right::Touch).await?;
        Ok(JobOutcome::Completed(stats))
    }

    /// The guest is here; it runs again if the move had halted it.
    async fn stayed(
        &self,
        id: InstanceId,
        control: &MoveControl,
        halted: bool,
        why: String,
    ) -> Result<JobOutcome, DriverError> {
        if halted {
            self.hypervisor
                .call("let the guest run again", move |connect| {
                    let domain = domains::get(connect, id)?;
                    match domains::state(&domain)? {
                        Some(DomainState::Paused(_)) => domains::resume(&domain),
                        _ => Ok(()),
                    }
                })
                .await?;
        }
        if control.is_aborted() { Ok(JobOutcome::Aborted) } else { Ok(JobOutcome::Failed(why)) }
    }
}

/// On its own thread and connection: the whole job.
fn start_job(
    open: &OpenConnection,
    id: InstanceId,
    plan: MigrationPlan,
    owner_epoch: i64,
    control: &MoveControl,
) -> Result<Ran, DriverError> {
    let Some(domain) = domains::find(open.connect(), id)? else { return Ok(Ran::NotStarted) };
    let movable = matches!(
        domains::state(&domain)?,
        Some(DomainState::Running | DomainState::Paused(PausedFor::Other))
    );
    if !movable || domains::has_job(&domain)? {
        return Ok(Ran::NotStarted);
    }
    if plan.max_downtime_ms > 0 {
        domain.migrate_set_max_downtime(plan.max_downtime_ms, 0).doing("limit the downtime")?;
    }
    let flags = sys::VIR_DOMAIN_XML_SECURE | sys::VIR_DOMAIN_XML_MIGRATABLE;
    let xml = domain.get_xml_desc(flags).doing("read the guest's definition")?;
    let plan = plan.with_definition(domain_read::with_epoch(&xml, owner_epoch)?);
    if control.is_aborted() {
        return Ok(Ran::CalledOff);
    }
    match raw::migrate_to_uri3(&domain, &plan.destination_uri, &plan.parameters, plan.flags) {
        Ok(()) => Ok(Ran::Moved),
        Err(error) => Ok(Ran::Failed(error.message().to_owned())),
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
                DomainEventKind::JobCompleted(values) => return Some(job_stats(&values)),
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
