//! What is asked of a move while it runs: to stop, or to come to its end.
//!
//! A wish may come before the job is far enough for it. So it is kept here, and carried out again at each
//! look at the job until it took effect.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;
use virt::domain::Domain;
use whimbrel_model::InstanceId;
use whimbrel_virt::DriverError;

use crate::domains::{self, DomainState, PausedFor};
use crate::driver::LibvirtDriver;
use crate::raw;

/// The wishes about one move.
#[derive(Clone, Debug, Default)]
pub(crate) struct MoveControl(Arc<Wishes>);

#[derive(Debug, Default)]
struct Wishes {
    abort: AtomicBool,
    force: AtomicBool,
    /// The guest was halted to bring the move to its end.
    halted: AtomicBool,
    aborted: Notify,
}

impl MoveControl {
    /// Whether it is to stop.
    pub(crate) fn is_aborted(&self) -> bool {
        self.0.abort.load(Ordering::SeqCst)
    }

    /// Whether the guest was halted to bring the move to its end.
    pub(crate) fn has_halted(&self) -> bool {
        self.0.halted.load(Ordering::SeqCst)
    }

    /// Waits until it is to stop.
    pub(crate) async fn aborted(&self) {
        let notified = self.0.aborted.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_aborted() {
            notified.await;
        }
    }

    fn abort(&self) {
        self.0.abort.store(true, Ordering::SeqCst);
        self.0.aborted.notify_waiters();
    }

    /// Carries out what is wished, as far as the job, which runs, is ready for it.
    pub(crate) fn carry_out(
        &self,
        domain: &Domain,
        state: Option<DomainState>,
        post_copy_permitted: bool,
    ) {
        let in_post_copy = matches!(
            state,
            Some(DomainState::Paused(PausedFor::PostCopy | PausedFor::PostCopyFailed))
        );
        if in_post_copy {
            // It can't be stopped any more, and goes as fast as it can.
            return;
        }
        let outcome = if self.is_aborted() {
            raw::abort_job(domain)
        } else if !self.0.force.load(Ordering::SeqCst) {
            return;
        } else if post_copy_permitted {
            raw::start_post_copy(domain)
        } else if state == Some(DomainState::Running) {
            self.0.halted.store(true, Ordering::SeqCst);
            domain.suspend().map(drop)
        } else {
            return;
        };
        if let Err(error) = outcome {
            tracing::debug!(error = error.message(), "the migration is not ready for it yet");
        }
    }
}

/// The moves that this host drives now.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Mutex<HashMap<InstanceId, Weak<Wishes>>>);

impl Jobs {
    /// The control of a guest's move, for as long as somebody has it.
    pub(crate) fn enter(&self, id: InstanceId) -> MoveControl {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|_, wishes| wishes.strong_count() > 0);
        if let Some(wishes) = jobs.get(&id).and_then(Weak::upgrade) {
            return MoveControl(wishes);
        }
        let control = MoveControl::default();
        jobs.insert(id, Arc::downgrade(&control.0));
        control
    }

    fn get(&self, id: InstanceId) -> Option<MoveControl> {
        let jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.get(&id).and_then(Weak::upgrade).map(MoveControl)
    }
}

impl LibvirtDriver {
    /// `live_migration_abort`.
    pub(crate) async fn abort_move(&self, id: InstanceId) -> Result<(), DriverError> {
        let control = self.jobs.get(id).unwrap_or_default();
        control.abort();
        self.carry_out_now(id, control).await
    }

    /// `live_migration_force_complete`.
    pub(crate) async fn force_move(&self, id: InstanceId) -> Result<(), DriverError> {
        let control = self.jobs.get(id).unwrap_or_default();
        control.0.force.store(true, Ordering::SeqCst);
        self.carry_out_now(id, control).await
    }

    async fn carry_out_now(&self, id: InstanceId, control: MoveControl) -> Result<(), DriverError> {
        let post_copy_permitted = self.config.migration.post_copy;
        self.hypervisor
            .call("steer the migration", move |connect| {
                let Some(domain) = domains::find(connect, id)? else { return Ok(()) };
                if domains::has_job(&domain)? {
                    let state = domains::state(&domain)?;
                    control.carry_out(&domain, state, post_copy_permitted);
                }
                Ok(())
            })
            .await
    }
}
