//! One transaction: many inputs, their sagas, and all that follows from them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncConnection;
use uuid::Uuid;
use whimbrel_messages::{Command, Fault, Peer, SagaHint, StepKey};
use whimbrel_model::{
    Change, InstanceEvent, InstanceId, MigrationStatus, RequestId, SagaId, VolumeEvent,
};
use whimbrel_saga::{Asked, Effect, Entry, Input, PeerHealth, Phase, Registry, Row, Saga};
use whimbrel_sagas::Delete;

use super::changes::{
    Claim, InstanceRow, MigrationRow, apply_to_instance, apply_to_migration, is_of_migration,
};
use super::load::{Loaded, load_locked};
use super::rows::{lock_instances, lock_migrations};
use super::write;
use crate::reports::{hosts_forced_down, hosts_not_up};
use crate::{Connection, Database, DbError, OutboxMessage};

/// How far above an instance's token a deletion's is, so that it is above every token that the guest ever
/// ran under, even of rounds that were undone.
const DELETE_EPOCH: i64 = 8;
/// A saga that follows another is woken by a message; if that is lost, after this time.
const FOLLOWS_MS: i64 = 2_000;

/// A saga that waits for a host which was forced down is looked at again after this time.
const FENCED_MS: i64 = 1_000;

/// What has happened to one saga.
#[derive(Clone, Debug)]
pub struct Work {
    /// The saga.
    pub saga_id: SagaId,
    /// What.
    pub input: Input,
}

/// What a transaction has left to do.
#[derive(Debug, Default)]
pub struct Batch {
    /// Messages to publish; they are in the outbox until they are confirmed.
    pub outgoing: Vec<OutboxMessage>,
    /// Sagas that have ended.
    pub ended: Vec<Ended>,
    /// Sagas that had ended before, or never were.
    pub inactive: Vec<SagaId>,
    /// Sagas of definitions that this binary does not know; left for others.
    pub unknown: Vec<SagaId>,
}

/// A saga that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Which.
    pub saga_id: SagaId,
    /// Its definition's name.
    pub name: String,
    /// Its instance.
    pub instance_id: InstanceId,
    /// How.
    pub phase: Phase,
    /// Why, unless it completed.
    pub fault: Option<Fault>,
    /// The request that began it.
    pub request_id: RequestId,
}

/// One saga in this transaction.
struct Current {
    saga: Loaded,
    entries: Vec<Entry>,
    changes: Vec<Change>,
    sends: Vec<Asked>,
    defers: Vec<Asked>,
    touched: bool,
}

/// Everything to write.
#[derive(Default)]
pub(super) struct Writes {
    pub(super) sagas: Vec<Row>,
    pub(super) history: Vec<(Uuid, Entry)>,
    pub(super) outbox: Vec<OutboxMessage>,
    pub(super) obligations: Vec<(String, Uuid, Command)>,
    pub(super) instances: BTreeMap<Uuid, InstanceRow>,
    pub(super) migrations: BTreeMap<Uuid, MigrationRow>,
    pub(super) claims: Vec<(Claim, Uuid, Option<Uuid>)>,
    pub(super) volumes: Vec<(Uuid, Uuid, VolumeEvent)>,
    pub(super) follow_ups: Vec<write::NewSaga>,
    pub(super) confirmed: Vec<Uuid>,
}

/// Feeds `work` to its sagas in one transaction, and deletes the outbox rows `confirmed` with it.
///
/// # Errors
/// When the transaction fails; nothing has happened then.
pub async fn advance_batch(
    database: &Database,
    registry: &Registry,
    work: &[Work],
    confirmed: &[Uuid],
    down_after_ms: i64,
) -> Result<Batch, DbError> {
    let mut connection = database.connection().await?;
    connection
        .transaction(async |connection| {
            let ids: BTreeSet<Uuid> = work.iter().map(|work| work.saga_id.0).collect();
            let ids: Vec<Uuid> = ids.into_iter().collect();
            let mut batch = Batch::default();
            let (now, loaded) = load_locked(connection, &ids).await?;
            let down = peers_down(connection, registry, &loaded, now, down_after_ms).await?;
            let found: BTreeSet<Uuid> = loaded.iter().map(|saga| saga.row.id.0).collect();
            let inactive = ids.iter().filter(|id| !found.contains(id)).map(|id| SagaId(*id));
            batch.inactive = inactive.collect();
            let mut current = advance_all(loaded, registry, work, &down, now, &mut batch);
            ask_no_fenced_host(connection, &mut current, now).await?;
            let mut writes = Writes { confirmed: confirmed.to_vec(), ..Writes::default() };
            change_rows(connection, &current, &mut writes).await?;
            follow_up(&current, &mut writes, now);
            for saga in &mut current {
                collect(saga, &mut writes, now);
            }
            write::all(connection, &writes).await?;
            let ended = current.iter().filter(|saga| saga.saga.row.phase.is_terminal());
            batch.ended = ended.map(Current::ended).collect();
            batch.outgoing = writes.outbox;
            Ok(batch)
        })
        .await
}

/// Sagas that are due and wait for a host that is not up, and how that host does.
async fn peers_down(
    connection: &mut Connection,
    registry: &Registry,
    loaded: &[Loaded],
    now: DateTime<Utc>,
    down_after_ms: i64,
) -> Result<BTreeMap<SagaId, PeerHealth>, DbError> {
    let mut waiting = Vec::new();
    for saga in loaded.iter().filter(|saga| saga.row.wake_at.is_some_and(|at| at <= now)) {
        let definition = registry.get(&saga.name, saga.version);
        if let Some(Peer::Compute(host)) = definition.and_then(|known| known.waits_for(&saga.row)) {
            waiting.push((saga.row.id, host));
        }
    }
    if waiting.is_empty() {
        return Ok(BTreeMap::new());
    }
    let names: Vec<String> = waiting.iter().map(|(_, host)| host.to_string()).collect();
    let not_up = hosts_not_up(connection, &names, down_after_ms).await?;
    let health = |(id, host)| not_up.get(&host).map(|health| (id, *health));
    Ok(waiting.into_iter().filter_map(health).collect())
}

/// Takes back what would be asked of a host that was forced down: whoever said so relies on it that nothing starts a
/// guest there, even when it is back and answers. At its next look the engine sees how the host does, and puts off
/// what is still owed.
async fn ask_no_fenced_host(
    connection: &mut Connection,
    current: &mut [Current],
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    let asked = |saga: &Current| match &saga.sends.as_slice().last()?.to {
        Peer::Compute(host) => Some(host.clone()),
        Peer::Scheduler => None,
    };
    let names: BTreeSet<String> =
        current.iter().filter_map(asked).map(|host| host.to_string()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = names.into_iter().collect();
    let fenced = hosts_forced_down(connection, &names).await?;
    for saga in current.iter_mut() {
        if asked(saga).is_some_and(|host| fenced.contains(host.as_str())) {
            saga.sends.clear();
            saga.saga.row.wake_at = Some(now + TimeDelta::milliseconds(FENCED_MS));
        }
    }
    Ok(())
}

/// Runs the engine over every saga that this binary knows.
fn advance_all(
    loaded: Vec<Loaded>,
    registry: &Registry,
    work: &[Work],
    down: &BTreeMap<SagaId, PeerHealth>,
    now: DateTime<Utc>,
    batch: &mut Batch,
) -> Vec<Current> {
    let mut inputs: BTreeMap<SagaId, Vec<&Input>> = BTreeMap::new();
    for work in work {
        inputs.entry(work.saga_id).or_default().push(&work.input);
    }
    let mut all = Vec::with_capacity(loaded.len());
    for saga in loaded {
        let Some(definition) = registry.get(&saga.name, saga.version) else {
            batch.unknown.push(saga.row.id);
            continue;
        };
        let mut current = Current {
            entries: Vec::new(),
            changes: Vec::new(),
            sends: Vec::new(),
            defers: Vec::new(),
            touched: false,
            saga,
        };
        let cancel = current.saga.cancel_requested.then_some(&Input::Cancel);
        let arrived = inputs.get(&current.saga.row.id).into_iter().flatten().copied();
        for input in cancel.into_iter().chain(arrived) {
            let before = current.saga.row.clone();
            let input = match input {
                Input::Wake(_) => {
                    Input::Wake(down.get(&before.id).copied().unwrap_or(PeerHealth::Up))
                }
                other => other.clone(),
            };
            let (row, effects) = definition.advance(before.clone(), input, now);
            current.touched |= row != before;
            current.saga.row = row;
            current.absorb(effects);
        }
        if current.touched {
            all.push(current);
        }
    }
    all
}

impl Current {
    fn ended(&self) -> Ended {
        let saga = &self.saga;
        Ended {
            saga_id: saga.row.id,
            name: saga.name.clone(),
            instance_id: saga.instance_id,
            phase: saga.row.phase,
            fault: saga.row.fault.clone(),
            request_id: saga.request_id.clone(),
        }
    }

    /// Whether the instance's row is needed: to change it, or to see whether a deletion follows.
    fn concerns_instance(&self) -> bool {
        self.saga.row.phase.is_terminal()
            || self.changes.iter().any(|change| !is_of_migration(change))
    }

    fn absorb(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                // Only the last request counts: an earlier one is of a step that is already over.
                Effect::Send(asked) => self.sends = vec![asked],
                Effect::Defer(asked) => self.defers.push(asked),
                Effect::Change(change) => self.changes.push(change),
                Effect::Record(entry) => self.entries.push(entry),
            }
        }
        if self.saga.row.phase.is_terminal() {
            self.sends.clear();
        }
    }
}

/// Locks the rows that change and applies the changes to them.
async fn change_rows(
    connection: &mut Connection,
    current: &[Current],
    writes: &mut Writes,
) -> Result<(), DbError> {
    let changing = || current.iter().filter(|saga| !saga.changes.is_empty());
    let instances = current.iter().filter(|saga| saga.concerns_instance());
    let instances: BTreeSet<Uuid> = instances.map(|saga| saga.saga.instance_id.0).collect();
    let migrations = changing().filter_map(|saga| saga.saga.migration_id);
    let migrations: BTreeSet<Uuid> = migrations.map(|id| id.0).collect();
    writes.instances = lock_instances(connection, &instances).await?;
    writes.migrations = lock_migrations(connection, &migrations).await?;
    for saga in changing() {
        let id = saga.saga.instance_id.0;
        let migration_id = saga.saga.migration_id.map(|id| id.0);
        let mut claims = Vec::new();
        for change in &saga.changes {
            let applied = if is_of_migration(change) {
                let migration = migration_id.and_then(|id| writes.migrations.get_mut(&id));
                migration.map_or(Ok(()), |migration| apply_to_migration(change, migration))
            } else {
                let missing = || DbError::NotFound { kind: "instance", id: id.to_string() };
                let instance = writes.instances.get_mut(&id).ok_or_else(missing)?;
                apply_to_instance(change, instance, &mut claims)
            };
            // A stuck saga says what it can; what its rows do not allow is what made it stuck.
            if saga.saga.row.phase != Phase::Stuck {
                applied?;
            }
            if let Change::Volume { volume_id, event } = change {
                writes.volumes.push((id, volume_id.0, *event));
            }
        }
        writes.claims.extend(claims.into_iter().map(|claim| (claim, id, migration_id)));
    }
    Ok(())
}

/// Starts the deletion that was asked for while another operation was under way.
fn follow_up(current: &[Current], writes: &mut Writes, now: DateTime<Utc>) {
    let ended = current.iter().filter(|saga| saga.saga.row.phase.is_terminal());
    for Current { saga, .. } in ended.filter(|saga| saga.saga.name != Delete::NAME) {
        let Some(instance) = writes.instances.get_mut(&saga.instance_id.0) else { continue };
        if !instance.delete_requested {
            continue;
        }
        let Ok(state) = instance.state.on(InstanceEvent::BeginDelete) else { continue };
        instance.state = state;
        instance.changed = true;
        let migration = saga.migration_id.and_then(|id| writes.migrations.get(&id.0));
        let unsettled = migration.filter(|migration| {
            matches!(migration.status, MigrationStatus::Error | MigrationStatus::Finished)
        });
        let undecided =
            migration.is_some_and(|migration| migration.status == MigrationStatus::Finished);
        let ends =
            unsettled.map(|migration| [Some(&migration.source), migration.destination.as_ref()]);
        let elsewhere =
            ends.into_iter().flatten().flatten().find(|end| Some(*end) != instance.host.as_ref());
        let delete = Delete {
            instance_id: saga.instance_id,
            host: instance.host.clone(),
            other_host: elsewhere.cloned(),
            owner_epoch: instance.owner_epoch + DELETE_EPOCH,
        };
        let id = Uuid::now_v7();
        writes.follow_ups.push(write::NewSaga {
            id,
            name: Delete::NAME,
            version: Delete::VERSION,
            instance_id: saga.instance_id.0,
            migration_id: saga.migration_id.filter(|_| undecided).map(|id| id.0),
            request_id: saga.request_id.to_string(),
            project_id: saga.project_id.clone(),
            user_id: saga.user_id.clone(),
            state: serde_json::to_value(&delete).expect("a saga's state is plain data"),
            wake_at: now + TimeDelta::milliseconds(FOLLOWS_MS),
        });
        let hint = SagaHint { saga_id: SagaId(id) };
        writes.outbox.push(OutboxMessage {
            id: Uuid::now_v7(),
            exchange: "whimbrel.command".to_owned(),
            routing_key: "conductor".to_owned(),
            mandatory: true,
            body: serde_json::to_string(&hint).expect("a hint is plain data"),
        });
    }
}

/// Turns one saga's effects into rows.
fn collect(current: &mut Current, writes: &mut Writes, now: DateTime<Utc>) {
    let saga = &current.saga;
    for asked in current.sends.drain(..) {
        let routing_key = asked.to.routing_key();
        let command = command(saga, asked, now);
        writes.outbox.push(OutboxMessage {
            id: command.message_id,
            exchange: "whimbrel.command".to_owned(),
            routing_key,
            mandatory: true,
            body: serde_json::to_string(&command).expect("a command is plain data"),
        });
    }
    for asked in current.defers.drain(..) {
        if let Peer::Compute(host) = asked.to.clone() {
            let command = command(saga, asked, now);
            writes.obligations.push((host.to_string(), saga.instance_id.0, command));
        }
    }
    writes.history.extend(current.entries.drain(..).map(|entry| (saga.row.id.0, entry)));
    writes.sagas.push(saga.row.clone());
}

fn command(saga: &Loaded, asked: Asked, now: DateTime<Utc>) -> Command {
    Command {
        message_id: Uuid::now_v7(),
        method: asked.method,
        version: asked.version,
        key: StepKey { saga_id: saga.row.id, round: asked.round, step: asked.step, dir: asked.dir },
        attempt: asked.attempt,
        request_id: saga.request_id.clone(),
        deadline: now + TimeDelta::milliseconds(asked.deadline_ms),
        sent_at: now,
        must: asked.must,
        body: asked.body,
    }
}
