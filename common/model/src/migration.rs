//! A migration's status: the statuses, the events, and the only function that moves between them.
//!
//! `docs/states/live-migration.mmd` is generated from it. The texts are Nova's. Whimbrel gives the last
//! three a sharper meaning than Nova does (docs/adr/0003): `cancelled` and `failed` mean that the guest
//! is as it was before, `error` that an operator must look.

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
    /// Whether nothing more will happen.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Accepted | Self::Preparing | Self::Running | Self::RunningPostCopy => false,
            Self::Completed | Self::Cancelled | Self::Failed | Self::Error => true,
        }
    }

    /// The status after `event`.
    ///
    /// # Errors
    /// When the event is not allowed in this status.
    pub fn on(self, event: MigrationEvent) -> Result<Self, IllegalMigrationEvent> {
        use MigrationEvent as E;
        match (self, event) {
            (Self::Accepted, E::Prepare) => Ok(Self::Preparing),
            (Self::Preparing | Self::Running, E::Reschedule) => Ok(Self::Accepted),
            (Self::Preparing, E::Start) => Ok(Self::Running),
            (Self::Running, E::PostCopy) => Ok(Self::RunningPostCopy),
            (Self::Running | Self::RunningPostCopy, E::Complete) => Ok(Self::Completed),
            (Self::Accepted | Self::Preparing | Self::Running, E::Cancel) => Ok(Self::Cancelled),
            (from, E::Fail) if !from.is_terminal() => Ok(Self::Failed),
            (from, E::GiveUp) if !from.is_terminal() => Ok(Self::Error),
            (from, event) => Err(IllegalMigrationEvent { from, event }),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::*;

    /// Tries every event in every status, so that a new one shows up in the diff.
    #[test]
    fn diagram_is_current() {
        let name = |status: MigrationStatus| match status {
            MigrationStatus::RunningPostCopy => "running_post_copy".to_owned(),
            other => other.to_string(),
        };
        let mut diagram = String::from("stateDiagram-v2\n    [*] --> accepted\n");
        for &from in MigrationStatus::VARIANTS {
            for &event in MigrationEvent::VARIANTS {
                if let Ok(to) = from.on(event) {
                    diagram += &format!("    {} --> {}: {event}\n", name(from), name(to));
                }
            }
        }
        expect_file!["../../../docs/states/live-migration.mmd"].assert_eq(&diagram);
    }

    #[test]
    fn nothing_happens_after_the_end_and_everything_can_end() {
        for &status in MigrationStatus::VARIANTS {
            for &event in MigrationEvent::VARIANTS {
                assert!(!status.is_terminal() || status.on(event).is_err(), "{status} {event}");
            }
            assert!(status.is_terminal() || status.on(MigrationEvent::Fail).is_ok(), "{status}");
        }
    }
}
