//! A migration's status: the statuses, the events, and the only function that moves between them.
//!
//! The diagrams in `docs/states/` are generated from it, one for each type. The texts are Nova's. Whimbrel gives
//! the last three a sharper meaning than Nova does (docs/adr/0003): `cancelled` and `failed` mean that the
//! guest is as it was before, `error` that an operator must look.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, VariantArray};

/// What kind of move a migration is.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    VariantArray,
    JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum MigrationType {
    /// The guest runs on while its memory travels.
    LiveMigration,
    /// The guest is shut off while its disks travel; its size stays.
    Migration,
    /// The guest gets another size, mostly on another host.
    Resize,
    /// The guest is made again elsewhere, since its host is lost.
    Evacuation,
}

/// How far a migration has come.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    VariantArray,
    JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum MigrationStatus {
    /// Recorded; a destination is being chosen.
    Accepted,
    /// A destination has room and is being checked and prepared.
    Preparing,
    /// The hypervisor is moving the guest.
    Running,
    /// The guest runs at the destination and fetches the rest of its memory from the source.
    #[serde(rename = "running (post-copy)")]
    #[strum(serialize = "running (post-copy)")]
    RunningPostCopy,
    /// The guest runs at the destination and nothing of it is left at the source.
    Completed,
    /// A destination for a guest that is to be shut down, or is lost, is chosen and prepared.
    PreMigrating,
    /// The guest is shut off and its disks travel.
    #[serde(rename = "migrating")]
    #[strum(serialize = "migrating")]
    Migrating,
    /// The disks are at the destination, which makes the guest from them.
    PostMigrating,
    /// The guest is at the destination; the source keeps what it needs to take it back.
    Finished,
    /// The rollback point at the source is being removed.
    Confirming,
    /// The guest is at the destination for good.
    Confirmed,
    /// The guest is on its way back.
    Reverting,
    /// The guest is at the source again, as before.
    Reverted,
    /// The guest is at the destination; its lost host has not yet removed what it has of it.
    Done,
    /// Called off. The guest runs at the source as before.
    Cancelled,
    /// It could not be done. The guest runs at the source as before.
    Failed,
    /// It can go neither on nor back. An operator must look.
    Error,
}

/// What can happen to a migration.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    Display,
    VariantArray,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum MigrationEvent {
    /// A destination was chosen.
    Prepare,
    /// What was begun at the destination is undone.
    Reschedule,
    /// The hypervisor starts to move the guest.
    Start,
    /// The guest has switched over before its memory did.
    PostCopy,
    /// All is done.
    Complete,
    /// The guest is shut down and its disks travel.
    Carry,
    /// The disks have arrived.
    Arrive,
    /// The guest is at the destination.
    Finish,
    /// Somebody has decided that it stays there.
    Confirm,
    /// Nothing is left at the source.
    Confirmed,
    /// Somebody has decided that it goes back.
    Revert,
    /// It is at the source again.
    Reverted,
    /// It could not be taken back; it is at the destination as before.
    RevertFailed,
    /// The guest was made again elsewhere.
    Rebuilt,
    /// The guest was deleted before anybody decided.
    Abandon,
    /// It was called off and undone.
    Cancel,
    /// It failed and was undone.
    Fail,
    /// It can go neither on nor back.
    GiveUp,
}

/// An event that the status does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event {event} is not allowed in migration status {from}")]
pub struct IllegalMigrationEvent {
    /// The status it met.
    pub from: MigrationStatus,
    /// The event.
    pub event: MigrationEvent,
}

impl MigrationStatus {
    /// The status in which a migration of `kind` is recorded.
    pub fn first(kind: MigrationType) -> Self {
        match kind {
            MigrationType::LiveMigration | MigrationType::Evacuation => Self::Accepted,
            MigrationType::Migration | MigrationType::Resize => Self::PreMigrating,
        }
    }

    /// Whether nothing more will happen.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Accepted
            | Self::Preparing
            | Self::Running
            | Self::RunningPostCopy
            | Self::PreMigrating
            | Self::Migrating
            | Self::PostMigrating
            | Self::Finished
            | Self::Confirming
            | Self::Reverting
            | Self::Done => false,
            Self::Completed
            | Self::Confirmed
            | Self::Reverted
            | Self::Cancelled
            | Self::Failed
            | Self::Error => true,
        }
    }

    /// Every status after which nothing more will happen.
    pub fn terminal() -> impl Iterator<Item = Self> {
        Self::VARIANTS.iter().copied().filter(|status| status.is_terminal())
    }

    /// The status after `event` of a migration of `kind`.
    ///
    /// # Errors
    /// When the event is not allowed in this status.
    pub fn on(
        self,
        kind: MigrationType,
        event: MigrationEvent,
    ) -> Result<Self, IllegalMigrationEvent> {
        use MigrationEvent as E;
        let next = match kind {
            _ if event == E::GiveUp && !self.is_terminal() => Some(Self::Error),
            MigrationType::LiveMigration => self.live(event),
            MigrationType::Migration | MigrationType::Resize => self.cold(event),
            MigrationType::Evacuation => self.evacuation(event),
        };
        next.ok_or(IllegalMigrationEvent { from: self, event })
    }

    fn live(self, event: MigrationEvent) -> Option<Self> {
        use MigrationEvent as E;
        match (self, event) {
            (Self::Accepted, E::Prepare) => Some(Self::Preparing),
            (Self::Preparing | Self::Running | Self::RunningPostCopy, E::Reschedule) => {
                Some(Self::Accepted)
            }
            (Self::Preparing, E::Start) => Some(Self::Running),
            (Self::Running, E::PostCopy) => Some(Self::RunningPostCopy),
            (Self::Running | Self::RunningPostCopy, E::Complete) => Some(Self::Completed),
            (Self::Accepted | Self::Preparing | Self::Running, E::Cancel) => Some(Self::Cancelled),
            (Self::Accepted | Self::Preparing | Self::Running | Self::RunningPostCopy, E::Fail) => {
                Some(Self::Failed)
            }
            _ => None,
        }
    }

    fn cold(self, event: MigrationEvent) -> Option<Self> {
        use MigrationEvent as E;
        match (self, event) {
            (Self::PreMigrating | Self::Migrating | Self::PostMigrating, E::Reschedule) => {
                Some(Self::PreMigrating)
            }
            (Self::PreMigrating, E::Carry) => Some(Self::Migrating),
            (Self::Migrating, E::Arrive) => Some(Self::PostMigrating),
            (Self::PostMigrating, E::Finish) => Some(Self::Finished),
            (Self::PreMigrating | Self::Migrating | Self::PostMigrating, E::Cancel) => {
                Some(Self::Cancelled)
            }
            (Self::PreMigrating | Self::Migrating | Self::PostMigrating, E::Fail) => {
                Some(Self::Failed)
            }
            (Self::Finished, E::Confirm) => Some(Self::Confirming),
            (Self::Confirming, E::Confirmed) => Some(Self::Confirmed),
            (Self::Finished, E::Revert) => Some(Self::Reverting),
            (Self::Reverting, E::Reverted) => Some(Self::Reverted),
            (Self::Reverting, E::RevertFailed) => Some(Self::Finished),
            (Self::Finished, E::Abandon) => Some(Self::Confirmed),
            _ => None,
        }
    }

    fn evacuation(self, event: MigrationEvent) -> Option<Self> {
        use MigrationEvent as E;
        match (self, event) {
            (Self::Accepted, E::Prepare) => Some(Self::PreMigrating),
            (Self::PreMigrating, E::Reschedule) => Some(Self::Accepted),
            (Self::PreMigrating, E::Rebuilt) => Some(Self::Done),
            (Self::Done, E::Complete) => Some(Self::Completed),
            (Self::Accepted | Self::PreMigrating, E::Fail) => Some(Self::Failed),
            (Self::Accepted | Self::PreMigrating, E::Cancel) => Some(Self::Cancelled),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::*;

    /// Every status that a chain of events leads to from the first.
    fn reachable(kind: MigrationType) -> Vec<MigrationStatus> {
        let mut seen = vec![MigrationStatus::first(kind)];
        let mut at = 0;
        while let Some(&from) = seen.get(at) {
            for &event in MigrationEvent::VARIANTS {
                if let Ok(to) = from.on(kind, event)
                    && !seen.contains(&to)
                {
                    seen.push(to);
                }
            }
            at += 1;
        }
        MigrationStatus::VARIANTS.iter().copied().filter(|status| seen.contains(status)).collect()
    }

    fn diagram(kind: MigrationType) -> String {
        let name = |status: MigrationStatus| match status {
            MigrationStatus::RunningPostCopy => "running_post_copy".to_owned(),
            other => other.to_string().replace('-', "_"),
        };
        let first = MigrationStatus::first(kind);
        let mut diagram = format!("stateDiagram-v2\n    [*] --> {}\n", name(first));
        for from in reachable(kind) {
            for &event in MigrationEvent::VARIANTS {
                if let Ok(to) = from.on(kind, event) {
                    diagram += &format!("    {} --> {}: {event}\n", name(from), name(to));
                }
            }
        }
        diagram
    }

    #[test]
    fn diagrams_are_current() {
        expect_file!["../../../docs/states/live-migration.mmd"]
            .assert_eq(&diagram(MigrationType::LiveMigration));
        let resize = diagram(MigrationType::Resize);
        expect_file!["../../../docs/states/resize.mmd"].assert_eq(&resize);
        assert_eq!(
            resize,
            diagram(MigrationType::Migration),
            "a cold migration is a resize to the same size"
        );
        expect_file!["../../../docs/states/evacuation.mmd"]
            .assert_eq(&diagram(MigrationType::Evacuation));
    }

    #[test]
    fn nothing_happens_after_the_end_and_everything_can_end() {
        for &kind in MigrationType::VARIANTS {
            for status in reachable(kind) {
                for &event in MigrationEvent::VARIANTS {
                    let next = status.on(kind, event);
                    assert!(!status.is_terminal() || next.is_err(), "{kind} {status} {event}");
                }
                let given_up = status.on(kind, MigrationEvent::GiveUp);
                assert!(status.is_terminal() || given_up.is_ok(), "{kind} {status}");
            }
        }
    }

    #[test]
    fn every_status_and_event_is_of_use() {
        for &status in MigrationStatus::VARIANTS {
            let used =
                MigrationType::VARIANTS.iter().any(|&kind| reachable(kind).contains(&status));
            assert!(used, "{status}");
        }
        for &event in MigrationEvent::VARIANTS {
            let used = MigrationType::VARIANTS
                .iter()
                .any(|&kind| reachable(kind).iter().any(|status| status.on(kind, event).is_ok()));
            assert!(used, "{event}");
        }
    }
}
