//! A post-copy in which the hosts lost each other: the guest stands still, half here and half there, until
//! the two take the copy up again.
//!
//! Often it mends itself: libvirt gives up on a silent host before the emulators do, which go on when the
//! network is back. An attempt to help is then refused, and does no harm.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use whimbrel_virt::{DriverError, LiveMigrationJob};

use crate::domains;
use crate::driver::LibvirtDriver;
use crate::error::Doing;
use crate::raw;

/// Between two attempts.
const INTERVAL: Duration = Duration::from_secs(5);

type Attempt = oneshot::Receiver<Result<Result<(), DriverError>, DriverError>>;

/// The attempts to mend one move. One at a time: it lasts until the copy is whole, or breaks again.
#[derive(Default)]
pub(crate) struct Mender {
    attempt: Option<Attempt>,
    next_at: Option<Instant>,
}

impl Mender {
    /// Helps if it is time to. Does not wait for what comes of it, which is seen at the guest.
    pub(crate) async fn help(&mut self, driver: &LibvirtDriver, job: &LiveMigrationJob) {
        let id = job.instance.id;
        if let Some(attempt) = &mut self.attempt {
            match attempt.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                outcome => {
                    tracing::warn!(instance.id = %id, ?outcome, "the post-copy is still broken");
                }
            }
            self.attempt = None;
        }
        if self.next_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.next_at = Some(Instant::now() + INTERVAL);
        tracing::warn!(instance.id = %id, "taking a broken post-copy up again");
        match begin(driver, job).await {
            Ok(attempt) => self.attempt = Some(attempt),
            Err(error) => tracing::warn!(instance.id = %id, %error, "the post-copy stays broken"),
        }
    }
}

async fn begin(driver: &LibvirtDriver, job: &LiveMigrationJob) -> Result<Attempt, DriverError> {
    let id = job.instance.id;
    let plan = driver.plan(job).await?.resuming_post_copy();
    driver.hypervisor.long_call("libvirt-mend", move |open| {
        let domain = domains::get(open.connect(), id)?;
        raw::migrate_to_uri3(&domain, &plan.destination_uri, &plan.parameters, plan.flags)
            .doing("take the post-copy up again")
    })
}
