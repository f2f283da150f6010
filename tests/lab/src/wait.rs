//! Waiting for a condition, with a deadline.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Whether the person at the terminal wants it to end. Concerns the whole process.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes every [`until`] of this process fail, those under way too.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether [`interrupt`] was called.
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A moment after which waiting is given up.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    patience: Duration,
}

impl Deadline {
    /// `patience` from now.
    pub fn after(patience: Duration) -> Self {
        Self { at: Instant::now() + patience, patience }
    }

    /// What is left of it.
    pub fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Whether it is over.
    pub fn is_over(self) -> bool {
        self.left().is_zero()
    }
}

/// Looks again and again until `look` finds what is waited for, and returns that.
///
/// # Errors
/// When `look` fails, when the process was interrupted, or when the deadline is over: `what` says what was
/// waited for.
pub fn until<T>(
    deadline: Deadline,
    what: &str,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    until_done(deadline, what, || {
        if is_interrupted() {
            bail!("interrupted while waiting for {what}");
        }
        look()
    })
}

/// As [`until`], but an interrupt does not end it: for what is done to clean up.
///
/// # Errors
/// When `look` fails, or when the deadline is over.
pub fn until_done<T>(
    deadline: Deadline,
    what: &str,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if deadline.is_over() {
            bail!("waited {:.1} s for {what} in vain", deadline.patience.as_secs_f64());
        }
        std::thread::sleep(INTERVAL);
    }
}
