//! What happens by the clock: sagas whose time has come, messages left unsent, work that was put off.
//!
//! Each needs no input and may run at any time, on any number of conductors at once.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;
use whimbrel_db::api::{self, Caller};
use whimbrel_db::due_outbox;
use whimbrel_db::reports::due_obligations;
use whimbrel_db::saga_log::{Work, due_sagas};
use whimbrel_messages::Peer;
use whimbrel_model::RequestId;
use whimbrel_rpc::Outgoing;
use whimbrel_saga::{Input, PeerHealth};
use whimbrel_service::ErrorChain;

use crate::ConductorConfig;
use crate::engine::Engine;

/// Rows taken at once at most.
const LIMIT: i64 = 64;
/// How often to look for unsent messages and work that was put off.
const SWEEP: Duration = Duration::from_secs(1);
/// How long confirmed outbox rows may wait for a transaction to take them along.
const FLUSH: Duration = Duration::from_millis(200);
/// How long a host may take for work that was put off, in milliseconds.
const OBLIGATION_MS: i64 = 60_000;

/// Starts the sweepers.
pub(crate) fn start(
    tasks: &mut JoinSet<&'static str>,
    engine: &Arc<Engine>,
    config: &ConductorConfig,
) {
    let sweep = Duration::from_millis(config.sweep_interval_ms.max(10));
    tasks.spawn(every(sweep, Arc::clone(engine), async |engine| sagas(engine).await));
    tasks.spawn(every(SWEEP, Arc::clone(engine), async |engine| outbox(engine).await));
    tasks.spawn(every(SWEEP, Arc::clone(engine), async |engine| obligations(engine).await));
    let window_s = config.resize_confirm_window_s;
    if window_s > 0 {
        tasks.spawn(every(SWEEP, Arc::clone(engine), async move |engine| {
            confirmations(engine, window_s).await;
        }));
    }
    tasks.spawn(every(FLUSH, Arc::clone(engine), async |engine| engine.flush().await));
}

async fn every<F>(period: Duration, engine: Arc<Engine>, sweep: F) -> &'static str
where
    F: AsyncFn(&Engine),
{
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        sweep(&engine).await;
    }
}

async fn sagas(engine: &Engine) {
    let due = engine.with_connection(async |c| due_sagas(c, &engine.registry, LIMIT).await).await;
    let due = due.unwrap_or_default();
    if due.is_empty() {
        return;
    }
    tracing::debug!(sagas = due.len(), "waking");
    let wake = |saga_id| Work { saga_id, input: Input::Wake(PeerHealth::Up) };
    let (_, outgoing) = engine.process(due.into_iter().map(wake).collect()).await;
    engine.publish(&outgoing).await;
}

/// Never inside a transaction: a broker that blocks must not hold locks.
async fn outbox(engine: &Engine) {
    let due = engine.with_connection(async |c| due_outbox(c, LIMIT).await).await;
    if let Some(due) = due.filter(|due| !due.is_empty()) {
        tracing::info!(messages = due.len(), "sending what was left unsent");
        engine.publish(&due).await;
    }
}

/// Confirms resizes and cold migrations that nobody has decided on. Two conductors that see the same one are
/// two callers of the API: the instance's row lets one of them through.
async fn confirmations(engine: &Engine, window_s: i32) {
    let down_after_ms = engine.down_after_ms;
    let due = engine
        .with_connection(async |c| api::due_confirmations(c, window_s, down_after_ms, LIMIT).await)
        .await;
    for id in due.unwrap_or_default() {
        let Some(server) = engine.with_connection(async |c| api::server_get(c, id).await).await
        else {
            continue;
        };
        let caller = Caller {
            project_id: server.project_id.clone(),
            user_id: server.user_id.clone(),
            request_id: RequestId(format!("req-{}", Uuid::new_v4())),
        };
        match api::confirm_resize(&engine.database, &caller, &server).await {
            Ok(started) => {
                tracing::info!(instance.id = %id, saga.id = %started.saga_id, "confirmed after its time");
                engine.publish(&[started.message]).await;
            }
            Err(error) => {
                tracing::debug!(instance.id = %id, error = %ErrorChain(&error), "not confirmed");
            }
        }
    }
}

async fn obligations(engine: &Engine) {
    let down_after_ms = engine.down_after_ms;
    let due =
        engine.with_connection(async |c| due_obligations(c, down_after_ms, LIMIT).await).await;
    let due = due.unwrap_or_default();
    if due.is_empty() {
        return;
    }
    tracing::info!(pieces = due.len(), "sending work that was put off to hosts that are back");
    let now = chrono::Utc::now();
    let outgoing: Vec<Outgoing> = due
        .into_iter()
        .map(|(host, mut command)| {
            command.message_id = Uuid::now_v7();
            command.attempt += 1;
            command.sent_at = now;
            command.deadline = now + TimeDelta::milliseconds(OBLIGATION_MS);
            Outgoing::command(&command, &Peer::Compute(host))
        })
        .collect();
    engine.publisher.publish_all(&outgoing).await;
}
