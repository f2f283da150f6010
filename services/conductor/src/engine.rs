//! Runs batches: the transaction, then the messages; and what to do when a transaction fails.

use std::sync::Mutex;
use std::time::Duration;

use uuid::Uuid;
use whimbrel_db::saga_log::{Batch, Ended, Work, advance_batch, note_failure, set_stuck};
use whimbrel_db::{Connection, Database, DbError, OutboxMessage, delete_outbox};
use whimbrel_model::SagaId;
use whimbrel_rpc::{Outgoing, Published, Publisher};
use whimbrel_saga::{Input, Phase, Registry, StuckReason};
use whimbrel_service::ErrorChain;

use crate::ConductorConfig;

/// A saga whose transaction fails this often on its own is stuck.
const FAILURES: i32 = 5;
/// A batch is tried this often before its sagas are tried one by one, if another try may help.
const TRIES: u32 = 3;
/// The longest pause between two tries while the database can't be reached.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What all workers share.
pub(crate) struct Engine {
    pub(crate) database: Database,
    pub(crate) publisher: Publisher,
    pub(crate) registry: Registry,
    pub(crate) down_after_ms: i64,
    /// Outbox rows whose messages the broker has, to be deleted with the next transaction.
    confirmed: Mutex<Vec<Uuid>>,
}

impl Engine {
    pub(crate) fn new(database: Database, publisher: Publisher, config: &ConductorConfig) -> Self {
        Self {
            database,
            publisher,
            registry: whimbrel_sagas::registry(),
            down_after_ms: config.service_down_time_ms,
            confirmed: Mutex::default(),
        }
    }

    /// Brings `work` to an end: done, or noted as failed. Returns the sagas that were not active. Waits for as
    /// long as the database can't be reached.
    pub(crate) async fn process(&self, work: Vec<Work>) -> (Vec<SagaId>, Vec<OutboxMessage>) {
        match self.transact(&work).await {
            Ok(batch) => self.finish(batch),
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), sagas = work.len(), "batch failed, each saga alone");
                self.one_by_one(work).await
            }
        }
    }

    async fn one_by_one(&self, work: Vec<Work>) -> (Vec<SagaId>, Vec<OutboxMessage>) {
        let mut by_saga = std::collections::BTreeMap::<SagaId, Vec<Work>>::new();
        for piece in work {
            by_saga.entry(piece.saga_id).or_default().push(piece);
        }
        let (mut inactive, mut outgoing) = (Vec::new(), Vec::new());
        for (saga_id, work) in by_saga {
            match self.transact(&work).await {
                Ok(batch) => {
                    let (none, messages) = self.finish(batch);
                    inactive.extend(none);
                    outgoing.extend(messages);
                }
                Err(error) => {
                    let message = ErrorChain(&error).to_string();
                    tracing::error!(saga.id = %saga_id, error = message, "transaction failed");
                    outgoing.extend(self.failed(saga_id, &message).await);
                }
            }
        }
        (inactive, outgoing)
    }

    /// One transaction. Failures of the database itself are waited out.
    async fn transact(&self, work: &[Work]) -> Result<Batch, DbError> {
        let confirmed = std::mem::take(&mut *self.confirmed());
        let mut pause = Duration::from_millis(20);
        let mut tries = 0;
        loop {
            let result =
                advance_batch(&self.database, &self.registry, work, &confirmed, self.down_after_ms)
                    .await;
            let error = match result {
                Ok(batch) => return Ok(batch),
                Err(error) => error,
            };
            tries += 1;
            let unavailable = matches!(error, DbError::Unavailable(_));
            if !unavailable && (!error.is_transient() || tries >= TRIES) {
                self.confirmed().extend(confirmed);
                return Err(error);
            }
            tracing::debug!(error = %ErrorChain(&error), "trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Notes a failure. After too many the saga ends as stuck: with all that its rows allow, or, if even that
    /// can't be written, alone.
    async fn failed(&self, saga_id: SagaId, message: &str) -> Vec<OutboxMessage> {
        let failures = self.with_connection(async |c| note_failure(c, saga_id).await).await;
        if failures.is_none_or(|failures| failures < FAILURES) {
            return Vec::new();
        }
        let reason = StuckReason::TransactionFailed;
        let input = Input::GiveUp(reason, message.to_owned());
        match self.transact(&[Work { saga_id, input }]).await {
            Ok(batch) => self.finish(batch).1,
            Err(error) => {
                tracing::error!(saga.id = %saga_id, error = %ErrorChain(&error), "can't even end it as stuck");
                let message = format!("{reason}: {message}");
                self.with_connection(async |c| set_stuck(c, saga_id, &message).await).await;
                Vec::new()
            }
        }
    }

    /// Something small with a connection; what fails is logged, and left to the next sweep.
    pub(crate) async fn with_connection<T>(
        &self,
        call: impl AsyncFnOnce(&mut Connection) -> Result<T, DbError>,
    ) -> Option<T> {
        let called = match self.database.connection().await {
            Ok(mut connection) => call(&mut connection).await,
            Err(error) => Err(error),
        };
        called
            .inspect_err(
                |error| tracing::warn!(error = %ErrorChain(error), "left to the next sweep"),
            )
            .ok()
    }

    fn finish(&self, batch: Batch) -> (Vec<SagaId>, Vec<OutboxMessage>) {
        batch.ended.iter().for_each(tell);
        for saga_id in &batch.unknown {
            tracing::debug!(saga.id = %saga_id, "of a definition that this conductor does not know");
        }
        (batch.inactive, batch.outgoing)
    }

    /// Publishes messages that are in the outbox. What is not confirmed stays there for the sweeper.
    pub(crate) async fn publish(&self, messages: &[OutboxMessage]) {
        if messages.is_empty() {
            return;
        }
        let outgoing: Vec<Outgoing> = messages.iter().map(outgoing).collect();
        let published = self.publisher.publish_all(&outgoing).await;
        let mut confirmed = self.confirmed();
        for (message, published) in messages.iter().zip(published) {
            match published {
                Published::Confirmed => confirmed.push(message.id),
                // Nobody takes it now: the attempt has failed, and the saga's wake-up asks again.
                Published::Returned => {
                    tracing::warn!(
                        routing_key = message.routing_key,
                        "no queue takes this message"
                    );
                    confirmed.push(message.id);
                }
                Published::Unknown => {}
            }
        }
    }

    /// Deletes confirmed outbox rows that no transaction has taken along.
    pub(crate) async fn flush(&self) {
        let confirmed = std::mem::take(&mut *self.confirmed());
        if confirmed.is_empty() {
            return;
        }
        let deleted = self.with_connection(async |c| delete_outbox(c, &confirmed).await).await;
        if deleted.is_none() {
            self.confirmed().extend(confirmed);
        }
    }

    fn confirmed(&self) -> std::sync::MutexGuard<'_, Vec<Uuid>> {
        self.confirmed.lock().expect("nobody panics while holding it")
    }
}

pub(crate) fn outgoing(message: &OutboxMessage) -> Outgoing {
    Outgoing {
        message_id: message.id,
        exchange: message.exchange.clone(),
        routing_key: message.routing_key.clone(),
        body: message.body.clone().into_bytes(),
        mandatory: message.mandatory,
        persistent: true,
        headers: Vec::new(),
        expiration_ms: None,
    }
}

fn tell(ended: &Ended) {
    let Ended { saga_id, name, instance_id, phase, fault, request_id } = ended;
    let why = fault.as_ref().map(ToString::to_string);
    match phase {
        Phase::Stuck => {
            tracing::error!(saga.id = %saga_id, instance.id = %instance_id, %request_id, why, "{name} is stuck");
        }
        Phase::Unwound => {
            tracing::warn!(saga.id = %saga_id, instance.id = %instance_id, %request_id, why, "{name} was undone");
        }
        _ => {
            tracing::info!(saga.id = %saga_id, instance.id = %instance_id, %request_id, "{name} completed");
        }
    }
}
