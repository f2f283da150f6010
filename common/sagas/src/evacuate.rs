//! Evacuate: the guest's host is lost, and somebody has seen to it that it no longer runs guests. The guest is
//! made again elsewhere; the lost host removes its stale copy when it comes back.

use serde::{Deserialize, Serialize};
use whimbrel_messages::compute::{InstanceSpec, PostLiveMigration, RebuildInstance, RevertResize};
use whimbrel_messages::scheduler::SelectDestinations;
use whimbrel_messages::{Fault, FaultCode, Peer};
use whimbrel_model::{Change, HostName, InstanceEvent, MigrationEvent, MigrationId, PowerState};
use whimbrel_saga::{Bug, Saga, Step, ask};

use crate::{compute, gave_up, known, scheduler, shown, with_tried};

/// Destinations that are tried before an evacuation is given up.
const MAX_HOSTS: usize = 3;
/// How long making the guest may take before it is asked again, in milliseconds; covers the first fetch of
/// an image.
const REBUILD_MS: i64 = 60_000;
/// How long the lost host is waited for before its part is put off, in milliseconds.
const LOST_MS: i64 = 500;

/// A guest whose host is lost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evacuate {
    /// The guest.
    pub instance: InstanceSpec,
    /// The move.
    pub migration_id: MigrationId,
    /// The lost host.
    pub source: HostName,
    /// The token it ran under there.
    pub source_epoch: i64,
    /// Whether to start it.
    pub start: bool,
    /// The only host that may be chosen, if somebody asked for one.
    #[serde(default)]
    pub requested_host: Option<HostName>,
    /// The destination chosen in this round.
    #[serde(default)]
    pub destination: Option<HostName>,
    /// Destinations that could not make it, and why.
    #[serde(default)]
    pub tried: Vec<(HostName, String)>,
    /// It has its own disk, which the lost host sees, too.
    #[serde(default)]
    pub own_disk: bool,
    /// What the destination says of the guest.
    #[serde(default)]
    pub power: PowerState,
    /// The lost host was back in time and has removed its copy.
    #[serde(default)]
    pub cleared: bool,
}

impl Evacuate {
    /// The token that the guest is to run under at the destination of this round.
    fn epoch(&self) -> i64 {
        let tried = i64::try_from(self.tried.len()).expect("a handful of hosts");
        self.source_epoch + 1 + tried
    }

    fn host(&self) -> Result<&HostName, Bug> {
        known(self.destination.as_ref(), "the destination")
    }

    fn at_destination(&self) -> Result<Peer, Bug> {
        compute(self.host()?)
    }

    fn start_over(&mut self, fault: &Fault) -> bool {
        let Some(host) = self.destination.take() else { return false };
        self.tried.push((host, fault.message.clone()));
        self.requested_host.is_none() && self.tried.len() < MAX_HOSTS
    }

    fn choose() -> Step<Self> {
        ask("select-destination", scheduler, |s: &Self| {
            let tried = s.tried.iter().map(|(host, _)| host.clone());
            Ok(SelectDestinations {
                instance_id: s.instance.id,
                migration_id: Some(s.migration_id),
                resources: s.instance.resources,
                source: None,
                requested_host: s.requested_host.clone(),
                excluded: std::iter::once(s.source.clone()).chain(tried).collect(),
            })
        })
        .learn(|s, reply| s.destination = Some(reply.host))
        .done(|s| {
            Ok(vec![
                Change::Instance(InstanceEvent::RebuildPlaced),
                Change::Migration(MigrationEvent::Prepare),
                Change::Destination(s.host()?.clone()),
            ])
        })
        .undone(|s| {
            let mut changes = vec![Change::RevertMove];
            if s.destination.is_some() {
                changes.push(Change::Own { host: s.source.clone(), epoch: s.epoch() });
                changes.push(Change::Migration(MigrationEvent::Reschedule));
                changes.push(Change::Instance(InstanceEvent::RebuildDisplaced));
            }
            Ok(changes)
        })
        .retry(Self::start_over)
        .end()
    }

    fn rebuild() -> Step<Self> {
        ask("rebuild-instance", Self::at_destination, |s| {
            Ok(RebuildInstance {
                instance: s.instance.clone(),
                migration_id: s.migration_id,
                owner_epoch: s.epoch(),
                start: s.start,
            })
        })
        .deadline(REBUILD_MS)
        .tries(10)
        .learn(|s, reply| {
            s.power = reply.power_state;
            s.own_disk = reply.own_disk;
        })
        // It may run there by now: it must not be made anywhere else before that host has answered.
        .undo_deferrable_when_fenced(|s| {
            Ok(RevertResize {
                instance_id: s.instance.id,
                migration_id: s.migration_id,
                owner_epoch: s.epoch(),
                timeout_ms: 0,
                keep_guest: false,
                keep_disks: false,
            })
        })
        .done(|s| Ok(vec![Change::Own { host: s.host()?.clone(), epoch: s.epoch() }]))
        .end()
    }

    fn clear() -> Step<Self> {
        ask(
            Self::CLEAR,
            |s: &Self| compute(&s.source),
            |s| {
                Ok(PostLiveMigration {
                    instance_id: s.instance.id,
                    migration_id: s.migration_id,
                    destroy_disks: !s.own_disk,
                    owner_epoch: s.epoch(),
                    lost: true,
                })
            },
        )
        .retriable()
        .deferrable()
        .deadline(LOST_MS)
        .learn(|s, _| s.cleared = true)
        .end()
    }

    /// The step that the lost host takes when it is back. Whoever sees its answer then, after the saga's end,
    /// closes the migration.
    pub const CLEAR: &'static str = "clear-source";
}

impl Saga for Evacuate {
    const NAME: &'static str = "evacuate";
    const VERSION: i16 = 1;

    fn steps() -> Vec<Step<Self>> {
        vec![Self::choose(), Self::rebuild(), Self::clear()]
    }

    fn completed(&self) -> Result<Vec<Change>, Bug> {
        let event = if self.start {
            InstanceEvent::EvacuatedRunning
        } else {
            InstanceEvent::EvacuatedStopped
        };
        let mut changes = vec![
            Change::Migration(MigrationEvent::Rebuilt),
            Change::Instance(event),
            Change::Power(self.power),
            Change::ClearFault,
        ];
        if self.cleared {
            changes.push(Change::Migration(MigrationEvent::Complete));
            changes.push(Change::SettleMove);
        }
        Ok(changes)
    }

    fn unwound(&self, fault: &Fault, cancelled: bool) -> Vec<Change> {
        let called_off = cancelled || fault.code == FaultCode::Cancelled;
        let event = if called_off { MigrationEvent::Cancel } else { MigrationEvent::Fail };
        let instance = Change::Instance(InstanceEvent::EvacuateFailed);
        vec![Change::Migration(event), instance, shown(&with_tried(fault, &self.tried))]
    }

    fn stuck(fault: &Fault) -> Vec<Change> {
        gave_up(fault)
    }
}
