//! What a saga's changes mean for its rows. Pure: rows in memory in, rows in memory out.

use whimbrel_model::{
    Change, FlavorSnapshot, HostName, InstanceEvent, InstanceState, MigrationStatus, MigrationType,
    PowerState,
};

use crate::DbError;

/// An instance's row as far as sagas change it.
#[derive(Clone, Debug)]
pub(super) struct InstanceRow {
    pub(super) state: InstanceState,
    pub(super) host: Option<HostName>,
    pub(super) owner_epoch: i64,
    pub(super) seen_generation: i64,
    pub(super) delete_requested: bool,
    pub(super) power: Option<PowerState>,
    /// The new flavor, if it changes.
    pub(super) flavor: Option<FlavorSnapshot>,
    /// Some(None) clears the fault.
    pub(super) fault: Option<Option<(String, String)>>,
    pub(super) launched: bool,
    pub(super) deleted: bool,
    pub(super) changed: bool,
}

impl InstanceRow {
    pub(super) fn new(
        state: InstanceState,
        host: Option<HostName>,
        owner_epoch: i64,
        seen_generation: i64,
        delete_requested: bool,
    ) -> Self {
        Self {
            state,
            host,
            owner_epoch,
            seen_generation,
            delete_requested,
            power: None,
            flavor: None,
            fault: None,
            launched: false,
            deleted: false,
            changed: false,
        }
    }
}

/// A finished move's figures.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OutcomeFigures {
    pub(super) total_ms: Option<i64>,
    pub(super) downtime_ms: Option<i64>,
    pub(super) memory_bytes: Option<i64>,
    pub(super) disk_bytes: Option<i64>,
}

/// A migration's row as far as sagas change it.
#[derive(Clone, Debug)]
pub(super) struct MigrationRow {
    pub(super) kind: MigrationType,
    pub(super) status: MigrationStatus,
    pub(super) source: HostName,
    pub(super) destination: Option<HostName>,
    pub(super) seen_generation: i64,
    pub(super) outcome: OutcomeFigures,
    pub(super) changed: bool,
}

impl MigrationRow {
    pub(super) fn new(
        kind: MigrationType,
        status: MigrationStatus,
        source: HostName,
        destination: Option<HostName>,
        seen_generation: i64,
    ) -> Self {
        let outcome = OutcomeFigures::default();
        Self { kind, status, source, destination, seen_generation, outcome, changed: false }
    }
}

/// What a change asks of the allocation and port tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claim {
    /// All of the instance goes.
    Release,
    /// The migration's share goes.
    Settle,
    /// The instance's share at the destination goes, the migration's becomes the instance's.
    Revert,
    /// The instance's addresses go.
    Ports,
    /// The instance's volumes are free.
    Volumes,
}

/// Whether a change is one of the migration's row; all others are of the instance's.
pub(super) fn is_of_migration(change: &Change) -> bool {
    matches!(change, Change::Migration(_) | Change::Destination(_) | Change::Outcome { .. })
}

/// Applies a change that is not the migration's.
///
/// # Errors
/// When the model does not allow it: the whole transaction is off.
pub(super) fn apply_to_instance(
    change: &Change,
    instance: &mut InstanceRow,
    claims: &mut Vec<Claim>,
) -> Result<(), DbError> {
    match change {
        Change::Instance(event) => {
            instance.state = instance.state.on(*event)?;
            instance.launched |= *event == InstanceEvent::Booted;
            instance.deleted |= *event == InstanceEvent::Deleted;
        }
        Change::Power(power) => instance.power = Some(*power),
        Change::Own { host, epoch } => {
            instance.host = Some(host.clone());
            instance.owner_epoch = instance.owner_epoch.max(*epoch);
        }
        Change::Disown => instance.host = None,
        Change::Size(flavor) => instance.flavor = Some(flavor.clone()),
        Change::Fault { code, message } => {
            instance.fault = Some(Some((code.clone(), message.clone())));
        }
        Change::ClearFault => instance.fault = Some(None),
        Change::ReleaseAllocations => claims.push(Claim::Release),
        Change::SettleMove => claims.push(Claim::Settle),
        Change::RevertMove => claims.push(Claim::Revert),
        Change::ReleasePorts => claims.push(Claim::Ports),
        Change::ReleaseVolumes => claims.push(Claim::Volumes),
        Change::Migration(_)
        | Change::Destination(_)
        | Change::Outcome { .. }
        | Change::Volume { .. } => return Ok(()),
    }
    instance.changed = true;
    Ok(())
}

/// Applies a change that is the migration's.
///
/// # Errors
/// When the model does not allow it: the whole transaction is off.
pub(super) fn apply_to_migration(
    change: &Change,
    migration: &mut MigrationRow,
) -> Result<(), DbError> {
    match change {
        Change::Migration(event) => {
            migration.status = migration.status.on(migration.kind, *event)?;
        }
        Change::Destination(host) => migration.destination = Some(host.clone()),
        Change::Outcome { total_ms, downtime_ms, memory_bytes, disk_bytes } => {
            migration.outcome = OutcomeFigures {
                total_ms: *total_ms,
                downtime_ms: *downtime_ms,
                memory_bytes: *memory_bytes,
                disk_bytes: *disk_bytes,
            };
        }
        _ => return Ok(()),
    }
    migration.changed = true;
    Ok(())
}
