//! A volume's state: disks that live on storage of the network and are attached to guests.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, VariantArray};

/// Whether a guest has it. Texts are Cinder's.
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
pub enum VolumeStatus {
    /// No guest has it.
    Available,
    /// A guest is being given it.
    Attaching,
    /// A guest has it.
    InUse,
    /// It is being taken from a guest.
    Detaching,
}

/// What can happen to a volume.
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
pub enum VolumeEvent {
    /// A guest is to have it.
    BeginAttach,
    /// The guest has it.
    Attached,
    /// The guest could not be given it.
    AttachFailed,
    /// It is to be taken from its guest.
    BeginDetach,
    /// The guest no longer has it.
    Detached,
    /// The guest did not let go of it.
    DetachFailed,
}

/// An event that the status does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event {event} is not allowed for a volume that is {from}")]
pub struct IllegalVolumeEvent {
    /// The status it met.
    pub from: VolumeStatus,
    /// The event.
    pub event: VolumeEvent,
}

impl VolumeStatus {
    /// The status after `event`.
    ///
    /// # Errors
    /// When the event is not allowed in this status.
    pub fn on(self, event: VolumeEvent) -> Result<Self, IllegalVolumeEvent> {
        use VolumeEvent as E;
        match (self, event) {
            (Self::Available, E::BeginAttach) => Ok(Self::Attaching),
            (Self::Attaching, E::Attached) | (Self::Detaching, E::DetachFailed) => Ok(Self::InUse),
            (Self::Attaching, E::AttachFailed) | (Self::Detaching, E::Detached) => {
                Ok(Self::Available)
            }
            (Self::InUse, E::BeginDetach) => Ok(Self::Detaching),
            _ => Err(IllegalVolumeEvent { from: self, event }),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::*;

    #[test]
    fn diagram_is_current() {
        let mut diagram = String::from("stateDiagram-v2\n    [*] --> available\n");
        for from in VolumeStatus::VARIANTS {
            for event in VolumeEvent::VARIANTS {
                if let Ok(to) = from.on(*event) {
                    let [from, to] = [from, &to].map(|status| status.to_string().replace('-', "_"));
                    diagram += &format!("    {from} --> {to}: {event}\n");
                }
            }
        }
        expect_file!["../../../docs/states/volume.mmd"].assert_eq(&diagram);
    }

    /// What is under way ends in both ways, and in nothing else.
    #[test]
    fn an_operation_ends_well_or_as_it_was() {
        for (begin, end, fail) in [
            (VolumeEvent::BeginAttach, VolumeEvent::Attached, VolumeEvent::AttachFailed),
            (VolumeEvent::BeginDetach, VolumeEvent::Detached, VolumeEvent::DetachFailed),
        ] {
            let mut from = VolumeStatus::VARIANTS.iter().filter(|from| from.on(begin).is_ok());
            let (from, None) = (from.next().expect("a status to begin in"), from.next()) else {
                panic!("{begin} is allowed in two")
            };
            let under_way = from.on(begin).expect("allowed");
            assert_eq!(under_way.on(fail), Ok(*from));
            assert_ne!(under_way.on(end), Ok(*from));
            let ends = VolumeEvent::VARIANTS.iter().filter(|event| under_way.on(**event).is_ok());
            assert_eq!(ends.count(), 2);
        }
    }
}
