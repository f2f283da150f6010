//! Delete: ask whoever may have something of the guest to remove it. Always goes forward; a host that is
//! down removes it when it is back.

use serde::{Deserialize, Serialize};
use whimbrel_messages::compute::TerminateInstance;
use whimbrel_messages::{Fault, Peer};
use whimbrel_model::{Change, HostName, InstanceEvent, InstanceId, MigrationEvent, PowerState};
use whimbrel_saga::{Bug, Saga, Step, ask};

use crate::{compute, gave_up, known};

/// A guest on its way out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delete {
    /// The guest.
    pub instance_id: InstanceId,
    /// The host that owns it, if any.
    #[serde(default)]
    pub host: Option<HostName>,
    /// Another host that may have something of it, after a migration that nobody settled or decided on.
    #[serde(default)]
    pub other_host: Option<HostName>,
    /// Above every token that it ever ran under.
    pub owner_epoch: i64,
}

impl Delete {
    fn peer(&self) -> Result<Peer, Bug> {
        compute(known(self.host.as_ref(), "the host")?)
    }

    fn other_peer(&self) -> Result<Peer, Bug> {
        compute(known(self.other_host.as_ref(), "the other host")?)
    }

    #[expect(clippy::unnecessary_wraps, reason = "the shape of a step's request")]
    fn request(&self) -> Result<TerminateInstance, Bug> {
        Ok(TerminateInstance { instance_id: self.instance_id, owner_epoch: self.owner_epoch })
    }
}

impl Saga for Delete {
    const NAME: &'static str = "delete";
    const VERSION: i16 = 1;

    fn steps() -> Vec<Step<Self>> {
        vec![
            ask("terminate", Self::peer, Self::request)
                .when(|s| s.host.is_some())
                .retriable()
                .deferrable()
                .deadline(20_000)
                .end(),
            ask("terminate-other", Self::other_peer, Self::request)
                .when(|s| s.other_host.is_some())
                .retriable()
                .deferrable()
                .deadline(20_000)
                .end(),
        ]
    }

    fn completed(&self) -> Result<Vec<Change>, Bug> {
        Ok(vec![
            Change::Instance(InstanceEvent::Deleted),
            // A move that nobody has confirmed or reverted; else the saga has no migration.
            Change::Migration(MigrationEvent::Abandon),
            Change::Power(PowerState::NoState),
            Change::Disown,
            Change::ReleaseAllocations,
            Change::ReleasePorts,
            Change::ReleaseVolumes,
        ])
    }

    fn unwound(&self, fault: &Fault, _cancelled: bool) -> Vec<Change> {
        // Only a deletion that was called off before it began; the API offers no such call.
        gave_up(fault)
    }

    fn stuck(fault: &Fault) -> Vec<Change> {
        gave_up(fault)
    }
}
