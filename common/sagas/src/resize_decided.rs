//! What follows a resize or cold migration: it is confirmed, or reverted.

use serde::{Deserialize, Serialize};
use whimbrel_messages::Fault;
use whimbrel_messages::compute::{
    ConfirmResize, Fence, FinishRevertResize, InstanceSpec, PowerReply, RevertResize,
};
use whimbrel_model::{
    Change, FlavorSnapshot, HostName, InstanceEvent, InstanceId, MigrationEvent, MigrationId,
    PowerState,
};
use whimbrel_saga::{Bug, Saga, Step, ask};

use crate::{compute, gave_up, shown};

/// A move that somebody has decided to keep.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Confirm {
    /// The guest.
    pub instance_id: InstanceId,
    /// The move.
    pub migration_id: MigrationId,
    /// Where it came from.
    pub source: HostName,
    /// Whether the guest runs, as far as is known.
    pub running: bool,
}

impl Saga for Confirm {
    const NAME: &'static str = "confirm-resize";
    const VERSION: i16 = 1;

    fn steps() -> Vec<Step<Self>> {
        vec![
            ask(
                "confirm-resize",
                |s: &Self| compute(&s.source),
                |s| Ok(ConfirmResize { instance_id: s.instance_id, migration_id: s.migration_id }),
            )
            .retriable()
            .deferrable()
            .end(),
        ]
    }

    fn completed(&self) -> Result<Vec<Change>, Bug> {
        let event = if self.running {
            InstanceEvent::ConfirmedRunning
        } else {
            InstanceEvent::ConfirmedStopped
        };
        Ok(vec![
            Change::Migration(MigrationEvent::Confirmed),
            Change::Instance(event),
            Change::SettleMove,
        ])
    }

    fn unwound(&self, fault: &Fault, _cancelled: bool) -> Vec<Change> {
        // Only a confirmation that was called off before it began; the API offers no such call.
        gave_up(fault)
    }

    fn stuck(fault: &Fault) -> Vec<Change> {
        gave_up(fault)
    }
}

/// A move that somebody has decided to take back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Revert {
    /// The guest, in its old size.
    pub instance: InstanceSpec,
    /// The move.
    pub migration_id: MigrationId,
    /// Where it came from and goes back to.
    pub source: HostName,
    /// Where it is.
    pub destination: HostName,
    /// The token it runs under there.
    pub owner_epoch: i64,
    /// Its flavor before the move.
    pub flavor: FlavorSnapshot,
    /// Whether it ran before the move, and so is to be started.
    pub start: bool,
    /// How long its operating system is given to shut down, in milliseconds.
    pub timeout_ms: i64,
    /// What the source says of the guest at the end.
    #[serde(default)]
    pub power: PowerState,
    /// The source was forced down in the middle of it: when it is back it may not start the guest, as it may have
    /// been made again elsewhere.
    #[serde(default)]
    pub source_lost: bool,
}

impl Revert {
    /// The token that it is to run under at the source again.
    fn epoch(&self) -> i64 {
        self.owner_epoch + 1
    }
}

impl Saga for Revert {
    const NAME: &'static str = "revert-resize";
    const VERSION: i16 = 1;

    fn steps() -> Vec<Step<Self>> {
        vec![
            ask(
                "revert-resize",
                |s: &Self| compute(&s.destination),
                |s| {
                    Ok(RevertResize {
                        instance_id: s.instance.id,
                        migration_id: s.migration_id,
                        owner_epoch: s.owner_epoch,
                        timeout_ms: s.timeout_ms,
                        keep_guest: false,
                        // Until the source has taken the guest back, they are a whole copy of it.
                        keep_disks: true,
                    })
                },
            )
            .pivot()
            .deadline(90_000)
            .undo(|s| Ok(Fence { instance_id: s.instance.id }))
            // A host that is down may still run the guest, unless somebody has seen to it that it does not.
            .deferrable_when_fenced()
            .done(|s| {
                Ok(vec![
                    Change::Own { host: s.source.clone(), epoch: s.epoch() },
                    Change::Size(s.flavor.clone()),
                ])
            })
            .end(),
            ask(
                "finish-revert-resize",
                |s: &Self| compute(&s.source),
                |s| {
                    Ok(FinishRevertResize {
                        instance: s.instance.clone(),
                        migration_id: s.migration_id,
                        owner_epoch: s.epoch(),
                        start: s.start && !s.source_lost,
                    })
                },
            )
            .retriable()
            .deadline(30_000)
            .deferrable_when_fenced()
            .when_put_off(|s| s.source_lost = true)
            .learn(|s, PowerReply { power_state }| s.power = power_state)
            .end(),
            ask(
                "clean-up-destination",
                |s: &Self| compute(&s.destination),
                |s| {
                    Ok(RevertResize {
                        instance_id: s.instance.id,
                        migration_id: s.migration_id,
                        owner_epoch: s.owner_epoch,
                        timeout_ms: 0,
                        keep_guest: s.destination == s.source,
                        keep_disks: false,
                    })
                },
            )
            .retriable()
            .deferrable()
            .end(),
        ]
    }

    fn completed(&self) -> Result<Vec<Change>, Bug> {
        let event = if self.start {
            InstanceEvent::RevertedRunning
        } else {
            InstanceEvent::RevertedStopped
        };
        Ok(vec![
            Change::Migration(MigrationEvent::Reverted),
            Change::Instance(event),
            Change::Power(self.power),
            Change::RevertMove,
        ])
    }

    fn unwound(&self, fault: &Fault, _cancelled: bool) -> Vec<Change> {
        vec![
            Change::Migration(MigrationEvent::RevertFailed),
            Change::Instance(InstanceEvent::RevertFailed),
            shown(fault),
        ]
    }

    fn stuck(fault: &Fault) -> Vec<Change> {
        gave_up(fault)
    }
}
