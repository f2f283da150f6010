//! What is done with a command: known ones are answered from the journal, new ones carried out once.
//!
//! Work of one saga is done one piece after the other. Only what has to reach a running job may overtake it: a
//! fence, and the wish that it completes at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use whimbrel_messages::compute::{
    Fence, FenceResize, LiveMigration, LiveMigrationAbort, LiveMigrationForceComplete,
    ResizeInstance, RollbackLiveMigrationAtDestination as Rollback,
};
use whimbrel_messages::{Command, Dir, Fault, FaultCode, Outcome, Rpc, StepKey};
use whimbrel_model::{HostName, SagaId};
use whimbrel_rpc::{Delivery, Publisher};
use whimbrel_virt::ComputeDriver;

use crate::handlers::{self, Unanswered};
use crate::journal::{Journal, Known};
use crate::replies::Replies;

/// Clocks of hosts may differ from the database's by this much before a command counts as too late.
const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(30);
/// A hypervisor that does not answer is asked again after this time.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a stop waits for short work.
const LAST_WORK: Duration = Duration::from_secs(10);

/// The agent of one host.
pub(crate) struct Agent<D> {
    pub(crate) host: HostName,
    pub(crate) driver: Arc<D>,
    pub(crate) journal: Journal,
    pub(crate) replies: Replies,
    pub(crate) publisher: Publisher,
    /// Something has changed that the next report should say soon.
    pub(crate) changed: Arc<Notify>,
    running: Arc<Mutex<UnderWay>>,
    sagas: Turns<SagaId>,
    guests: Turns<Uuid>,
    short: TaskTracker,
}

/// One lock for each of whatever takes turns.
struct Turns<K>(Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + std::hash::Hash> Turns<K> {
    fn of(&self, key: K) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.0.lock().expect("nobody panics while holding it");
        if all.len() > 1_000 {
            all.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        Arc::clone(all.entry(key).or_default())
    }
}

type UnderWay = HashMap<StepKey, Work>;

/// What others may do about a piece of work that is under way.
struct Work {
    ended: watch::Receiver<()>,
    stop: watch::Sender<bool>,
}

/// A piece of work while it is under way. Dropping it wakes whoever waits for its end.
pub(crate) struct Running {
    key: StepKey,
    all: Arc<Mutex<UnderWay>>,
    /// Whether it should end early: its undo has come.
    pub(crate) stop: watch::Receiver<bool>,
    _ended: watch::Sender<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.all.lock().expect("nobody panics while holding it").remove(&self.key);
    }
}

impl<D: ComputeDriver> Agent<D> {
    pub(crate) fn new(
        host: HostName,
        driver: Arc<D>,
        journal: Journal,
        replies: Replies,
        publisher: Publisher,
        changed: Arc<Notify>,
    ) -> Self {
        Self {
            host,
            driver,
            journal,
            replies,
            publisher,
            changed,
            running: Arc::default(),
            sagas: Turns::default(),
            guests: Turns::default(),
            short: TaskTracker::new(),
        }
    }

    /// Begins to deal with a delivery.
    pub(crate) fn dispatch(self: &Arc<Self>, delivery: Delivery) {
        let this = Arc::clone(self);
        match serde_json::from_slice::<Command>(&delivery.body) {
            Err(error) => {
                let reason = format!("not a command: {error}");
                self.track(async move { delivery.dead_letter(&reason).await });
            }
            // A job may take hours and goes on when the agent is told to stop.
            Ok(command) if is_job(&command.method) => {
                drop(tokio::spawn(async move { this.handle(command, delivery).await }));
            }
            Ok(command) => self.track(async move { this.handle(command, delivery).await }),
        }
    }

    /// Does `work` besides, and waits for it when told to stop.
    pub(crate) fn track(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.short.spawn(work));
    }

    /// Waits for short work, but not for ever: what is not done is asked for again.
    pub(crate) async fn finish_short_work(&self) {
        self.short.close();
        if tokio::time::timeout(LAST_WORK, self.short.wait()).await.is_err() {
            tracing::warn!("stopping with work under way; it is asked for again");
        }
    }

    async fn handle(&self, command: Command, delivery: Delivery) {
        let known = match self.journal.known(&command.key) {
            Known::Answered(outcome) => outcome,
            Known::Buried => tombstone(&command),
            // Under way: the answer comes when it is over.
            Known::Accepted => return delivery.ack().await,
            Known::New => return self.handle_new(command, delivery).await,
        };
        self.replies.send(&command, known, Some(delivery));
    }

    async fn handle_new(&self, command: Command, delivery: Delivery) {
        let Some(running) = self.begin(&command.key) else { return delivery.ack().await };
        if let Err(fault) = handlers::known_version(&command) {
            let outcome = Outcome::Refused { fault };
            return self.replies.send(&command, outcome, Some(delivery));
        }
        if Utc::now() > command.deadline + CLOCK_SKEW {
            return self.replies.send(&command, Outcome::Expired, Some(delivery));
        }
        tracing::debug!(saga.id = %command.key.saga_id, request_id = %command.request_id,
            step = command.key.step, dir = %command.key.dir, method = command.method, "begun");
        match command.method.as_str() {
            LiveMigration::METHOD | ResizeInstance::METHOD => {
                self.start_job(command, delivery, running).await;
            }
            Fence::METHOD | FenceResize::METHOD | LiveMigrationAbort::METHOD => {
                self.fence(command, delivery, running).await;
            }
            _ => self.carry_out(command, delivery, running).await,
        }
    }

    async fn carry_out(&self, command: Command, delivery: Delivery, running: Running) {
        if command.key.dir == Dir::Undo {
            self.stop(&StepKey { dir: Dir::Do, ..command.key.clone() });
        }
        let turn = self.turn(command.key.saga_id);
        let _turn = if command.method == LiveMigrationForceComplete::METHOD {
            None
        } else {
            Some(turn.lock().await)
        };
        let guest = self.turn_of_guest(&command);
        let _guest = match &guest {
            Some(turn) if command.method != LiveMigrationForceComplete::METHOD => {
                Some(turn.lock().await)
            }
            _ => None,
        };
        if command.key.dir == Dir::Undo {
            // Before the work, so that no late request can come after it.
            if let Err(error) = self.journal.bury(&command.key).await {
                return give_back(delivery, &error).await;
            }
        } else if self.journal.known(&command.key) == Known::Buried {
            return self.replies.send(&command, tombstone(&command), Some(delivery));
        }
        let outcome = loop {
            match handlers::carry_out(&*self.driver, &command).await {
                Ok(outcome) => break outcome,
                Err(Unanswered(why)) if Utc::now() > command.deadline => {
                    tracing::warn!(
                        method = command.method,
                        why,
                        "not answered; it is asked for again"
                    );
                    return delivery.ack().await;
                }
                Err(Unanswered(_)) => tokio::time::sleep(AGAIN).await,
            }
        };
        if let Outcome::Refused { fault } = &outcome {
            tracing::warn!(saga.id = %command.key.saga_id, request_id = %command.request_id,
                method = command.method, %fault, "refused");
        }
        if let Err(error) = self.remember(&command, &outcome).await {
            return give_back(delivery, &error).await;
        }
        drop(running);
        self.changed.notify_one();
        self.replies.send(&command, outcome, Some(delivery));
    }

    /// Notes an answer, unless it refuses what must be done: what stands in the way may pass, and whoever asks again
    /// gets another try. Nor that a destination found the guest arrived and left it: that is looked up again, and by then
    /// the guest may have to go, as its host was lost before anybody heard the answer.
    pub(crate) async fn remember(
        &self,
        command: &Command,
        outcome: &Outcome,
    ) -> std::io::Result<()> {
        match outcome {
            Outcome::Refused { .. } if command.must || command.key.dir == Dir::Undo => Ok(()),
            Outcome::AlreadyDone { .. } if command.method == Rollback::METHOD => Ok(()),
            _ => self.journal.answer(&command.key, outcome).await,
        }
    }

    /// Marks a piece of work as under way; none if it already is.
    pub(crate) fn begin(&self, key: &StepKey) -> Option<Running> {
        let mut all = self.running.lock().expect("nobody panics while holding it");
        if all.contains_key(key) {
            return None;
        }
        let (ended, wait) = watch::channel(());
        let (stop, stopped) = watch::channel(false);
        all.insert(key.clone(), Work { ended: wait, stop });
        let all = Arc::clone(&self.running);
        Some(Running { key: key.clone(), all, stop: stopped, _ended: ended })
    }

    /// Asks a piece of work to end early, if it is under way and can.
    pub(crate) fn stop(&self, key: &StepKey) {
        let all = self.running.lock().expect("nobody panics while holding it");
        if let Some(work) = all.get(key) {
            work.stop.send_replace(true);
        }
    }

    /// For waiting for the end of a piece of work, if it is under way.
    pub(crate) fn under_way(&self, key: &StepKey) -> Option<watch::Receiver<()>> {
        let all = self.running.lock().expect("nobody panics while holding it");
        all.get(key).map(|work| work.ended.clone())
    }

    /// What the work of one saga takes turns by.
    pub(crate) fn turn(&self, saga_id: SagaId) -> Arc<tokio::sync::Mutex<()>> {
        self.sagas.of(saga_id)
    }

    /// What short work on one guest takes turns by, of whatever sagas: work that was put off long ago may come beside
    /// a new saga's. Jobs take no such turn, as what ends them must not wait for them.
    fn turn_of_guest(&self, command: &Command) -> Option<Arc<tokio::sync::Mutex<()>>> {
        let id =
            command.body.get("instance_id").or_else(|| command.body.pointer("/instance/id"))?;
        Some(self.guests.of(id.as_str()?.parse().ok()?))
    }
}

/// Work that may take hours: acknowledged when it begins, answered when it is over.
fn is_job(method: &str) -> bool {
    matches!(method, LiveMigration::METHOD | ResizeInstance::METHOD)
}

pub(crate) fn tombstone(command: &Command) -> Outcome {
    let message = format!("{} was undone before it was begun", command.method);
    Outcome::Refused { fault: Fault::new(FaultCode::Tombstone, message) }
}

/// The journal can't be written: nothing may be answered. The command goes back to the queue.
pub(crate) async fn give_back(delivery: Delivery, error: &std::io::Error) {
    tracing::error!(%error, "the journal can't be written");
    tokio::time::sleep(AGAIN).await;
    delivery.requeue().await;
}
