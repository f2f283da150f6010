//! The source's part of a move: start the job or follow the one that runs, and say what became of it.
//!
//! The job belongs to libvirt and goes on without this service. A job that this service started is over
//! when its call returns; any other one, and any that ended in doubt, is judged by what the hosts say
//! ([`crate::verdict`]).

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use virt_sys as sys;
use whimbrel_model::InstanceId;
use whimbrel_virt::{DriverError, JobOutcome, JobProgress, LiveMigrationJob};

use crate::connection::OpenConnection;
use crate::domain_read;
use crate::domains::{self, DomainState, PausedFor};
use crate::driver::LibvirtDriver;
use crate::error::Doing;
use crate::files;
use crate::job_stats::job_stats;
use crate::migrate_plan::{self, MigrationPlan, SharedStorage};
pub(crate) use crate::move_control::Jobs;
use crate::move_control::MoveControl;
use crate::raw;
use crate::verdict::SourceView;

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
pub(crate) struct Look {
    /// What is judged.
    pub(crate) view: SourceView,
    /// What is told.
    pub(crate) progress: JobProgress,
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
            "no migration runs: it ended, or never began, while the service was away".to_owned()
        } else {
            match self.run_job(job, &control, progress).await? {
                Ran::Moved => {
                    let stats = self.final_stats(id, &mut events).await;
                    return Ok(self.moved(job, stats).await);
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

    pub(crate) async fn plan(&self, job: &LiveMigrationJob) -> Result<MigrationPlan, DriverError> {
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
    pub(crate) async fn look(
        &self,
        id: InstanceId,
        control: &MoveControl,
    ) -> Result<Look, DriverError> {
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
