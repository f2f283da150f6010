//! The rows that changes are applied to, in memory: one instance, its migrations and its allocations.
//!
//! The same meaning as the real ones in the datastore.

use std::collections::BTreeMap;

use uuid::Uuid;
use whimbrel_model::{
    Change, HostName, InstanceState, MigrationId, MigrationStatus, MigrationType, PowerState,
    TaskState, VmState,
};

/// Stands for the instance among the consumers of allocations.
pub(crate) const INSTANCE: Uuid = Uuid::from_u128(1);

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct InstanceRow {
    pub(crate) state: InstanceState,
    pub(crate) host: Option<HostName>,
    pub(crate) owner_epoch: i64,
    pub(crate) power: PowerState,
    pub(crate) delete_requested: bool,
    pub(crate) has_ports: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MigrationRow {
    pub(crate) kind: MigrationType,
    pub(crate) status: MigrationStatus,
    pub(crate) source: HostName,
    pub(crate) destination: Option<HostName>,
    pub(crate) was_running: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rows {
    pub(crate) instance: InstanceRow,
    pub(crate) migrations: BTreeMap<MigrationId, MigrationRow>,
    /// Who holds room where: the instance or one of its migrations.
    pub(crate) claims: BTreeMap<Uuid, HostName>,
}

impl Rows {
    /// A guest that the API has just written down.
    pub(crate) fn new() -> Self {
        Self {
            instance: InstanceRow {
                state: InstanceState::NEW,
                host: None,
                owner_epoch: 0,
                power: PowerState::NoState,
                delete_requested: false,
                has_ports: true,
            },
            migrations: BTreeMap::new(),
            claims: BTreeMap::new(),
        }
    }

    /// Applies one change of a saga that belongs to `migration`, if to any.
    pub(crate) fn apply(
        &mut self,
        change: &Change,
        migration: Option<MigrationId>,
    ) -> Result<(), String> {
        let instance = &mut self.instance;
        match change {
            Change::Instance(event) => {
                instance.state = instance.state.on(*event).map_err(|error| error.to_string())?;
            }
            Change::Migration(event) => {
                if let Some(row) = migration.and_then(|id| self.migrations.get_mut(&id)) {
                    row.status =
                        row.status.on(row.kind, *event).map_err(|error| error.to_string())?;
                }
            }
            Change::Destination(host) => {
                if let Some(row) = migration.and_then(|id| self.migrations.get_mut(&id)) {
                    row.destination = Some(host.clone());
                }
            }
            Change::Power(power) => instance.power = *power,
            Change::Own { host, epoch } => {
                instance.host = Some(host.clone());
                instance.owner_epoch = instance.owner_epoch.max(*epoch);
            }
            Change::Disown => instance.host = None,
            Change::ReleaseAllocations => self.claims.clear(),
            Change::SettleMove => {
                if let Some(id) = migration {
                    self.claims.remove(&id.0);
                }
            }
            Change::RevertMove => {
                if let Some(host) = migration.and_then(|id| self.claims.remove(&id.0)) {
                    self.claims.insert(INSTANCE, host);
                }
            }
            Change::ReleasePorts => instance.has_ports = false,
            // Volumes are not simulated.
            Change::ReleaseVolumes
            | Change::Volume { .. }
            | Change::Outcome { .. }
            | Change::Size(_)
            | Change::Fault { .. }
            | Change::ClearFault => {}
        }
        Ok(())
    }

    /// Asserts what holds of the rows between any two transactions. `active` is whether a saga is active.
    pub(crate) fn check(&self, active: bool) -> Result<(), String> {
        let state = self.instance.state;
        if state.task.is_some() != active {
            return Err(format!(
                "task_state {} while a saga is active: {active}",
                state.task_text()
            ));
        }
        let (mut moving, mut undecided) = (0, 0);
        for row in self.migrations.values().filter(|row| !row.status.is_terminal()) {
            match row.status {
                MigrationStatus::Finished => undecided += 1,
                // The guest is where it is; only the lost host has something left to do.
                MigrationStatus::Done => {}
                _ => moving += 1,
            }
        }
        let waits =
            state.vm == VmState::Resized && matches!(state.task, None | Some(TaskState::Deleting));
        if moving != usize::from(moves(state.task)) || undecided != usize::from(waits) {
            return Err(format!("{} {} and {:?}", state.vm, state.task_text(), self.migrations));
        }
        Ok(())
    }
}

/// Whether this is what goes on while a move is under way or being decided on.
fn moves(task: Option<TaskState>) -> bool {
    matches!(
        task,
        Some(
            TaskState::Migrating
                | TaskState::ResizePrep
                | TaskState::ResizeMigrating
                | TaskState::ResizeFinish
                | TaskState::ResizeConfirming
                | TaskState::ResizeReverting
                | TaskState::Rebuilding
                | TaskState::RebuildSpawning
        )
    )
}
