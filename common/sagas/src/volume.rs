//! Volumes: a disk on storage of the network is given to a guest, or taken from it, wherever it is at that time.

use serde::{Deserialize, Serialize};
use whimbrel_messages::Fault;
use whimbrel_messages::compute::{AttachVolume, DetachVolume, Fence, InstanceSpec};
use whimbrel_model::{Change, HostName, InstanceEvent, InstanceId, VolumeEvent, VolumeId};
use whimbrel_saga::{Bug, Saga, Step, ask};

use crate::{compute, gave_up, shown};

/// Requests for one call before it is taken back.
const TRIES: i32 = 3;
/// How long a guest is given to let go of a volume, in milliseconds. The emulator tells it again every few seconds.
const RELEASE_MS: i64 = 60_000;
/// How long one request may take, in milliseconds.
const DEADLINE_MS: i64 = RELEASE_MS + 15_000;

fn both(instance: InstanceEvent, volume_id: VolumeId, event: VolumeEvent) -> Vec<Change> {
    vec![Change::Instance(instance), Change::Volume { volume_id, event }]
}

/// A guest that is given a volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attach {
    /// The guest, as it will be.
    pub instance: InstanceSpec,
    /// Which of its volumes.
    pub volume_id: VolumeId,
    /// Where it is.
    pub host: HostName,
    /// The token it runs under.
    pub owner_epoch: i64,
}

impl Saga for Attach {
    const NAME: &'static str = "attach-volume";
    const VERSION: i16 = 1;

    fn steps() -> Vec<Step<Self>> {
        vec![
            ask(
                "attach-volume",
                |s: &Self| compute(&s.host),
                |s| {
                    let (instance, volume_id) = (s.instance.clone(), s.volume_id);
                    Ok(AttachVolume { instance, volume_id, owner_epoch: s.owner_epoch })
                },
            )
            .tries(TRIES)
            .deadline(30_000)
            // A volume goes to somebody else only when it is certain that this guest does not write to it.
            .undo_deferrable_when_fenced(|s| {
                let (instance_id, volume_id) = (s.instance.id, s.volume_id);
                Ok(DetachVolume { instance_id, volume_id, timeout_ms: RELEASE_MS })
            })
            .end(),
        ]
    }

    fn completed(&self) -> Result<Vec<Change>, Bug> {
        Ok(both(InstanceEvent::Attached, self.volume_id, VolumeEvent::Attached))
    }

    fn unwound(&self, fault: &Fault, _cancelled: bool) -> Vec<Change> {
        let mut changes =
            both(InstanceEvent::AttachFailed, self.volume_id, VolumeEvent::AttachFailed);
        changes.push(shown(fault));
        changes
    }

    fn stuck(fault: &Fault) -> Vec<Change> {
        gave_up(fault)
    }
}

/// A guest that a volume is taken from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Detach {
    /// The guest.
    pub instance_id: InstanceId,
    /// The volume.
    pub volume_id: VolumeId,
    /// Where it is.
    pub host: HostName,
}

impl Saga for Detach {
    const NAME: &'static str = "detach-volume";
    const VERSION: i16 = 1;

    fn steps() -> Vec<Step<Self>> {
        vec![
            ask(
                "detach-volume",
                |s: &Self| compute(&s.host),
                |s| {
                    let (instance_id, volume_id) = (s.instance_id, s.volume_id);
                    Ok(DetachVolume { instance_id, volume_id, timeout_ms: RELEASE_MS })
                },
            )
            .pivot()
            .tries(TRIES)
            .deadline(DEADLINE_MS)
            // A guest that let go of it although nobody heard of that counts as having it: the safe error. Asked for
            // again, the volume is given back at once.
            .undo_deferrable(|s| Ok(Fence { instance_id: s.instance_id }))
            .end(),
        ]
    }

    fn completed(&self) -> Result<Vec<Change>, Bug> {
        Ok(both(InstanceEvent::Detached, self.volume_id, VolumeEvent::Detached))
    }

    fn unwound(&self, fault: &Fault, _cancelled: bool) -> Vec<Change> {
        let mut changes =
            both(InstanceEvent::DetachFailed, self.volume_id, VolumeEvent::DetachFailed);
        changes.push(shown(fault));
        changes
    }

    fn stuck(fault: &Fault) -> Vec<Change> {
        gave_up(fault)
    }
}
