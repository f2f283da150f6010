//! Boot: choose a host, make the guest there; if that host can't, clean up and try the next.

use serde::{Deserialize, Serialize};
use whimbrel_messages::compute::{BuildAndRunInstance, InstanceSpec, TerminateInstance};
use whimbrel_messages::scheduler::SelectDestinations;
use whimbrel_messages::{Fault, Peer};
use whimbrel_model::{Change, HostName, InstanceEvent, PowerState};
use whimbrel_saga::{Bug, Saga, Step, ask};

use crate::{compute, gave_up, known, scheduler, shown, with_tried};

/// Hosts that are tried before a boot is given up.
const MAX_HOSTS: usize = 3;

/// A new guest on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Boot {
    /// The guest.
    pub instance: InstanceSpec,
    /// The only host that may be chosen, if somebody asked for one.
    #[serde(default)]
    pub requested_host: Option<HostName>,
    /// The host chosen in this round.
    #[serde(default)]
    pub host: Option<HostName>,
    /// Hosts that could not make it, and why.
    #[serde(default)]
    pub tried: Vec<(HostName, String)>,
}

impl Boot {
    fn epoch(&self) -> i64 {
        i64::try_from(self.tried.len()).expect("a handful of hosts") + 1
    }

    fn peer(&self) -> Result<Peer, Bug> {
        compute(known(self.host.as_ref(), "the host")?)
    }
}

impl Saga for Boot {
    const NAME: &'static str = "boot";
    const VERSION: i16 = 1;

    fn steps() -> Vec<Step<Self>> {
        vec![
            ask("select-destination", scheduler, |s: &Self| {
                Ok(SelectDestinations {
                    instance_id: s.instance.id,
                    migration_id: None,
                    resources: s.instance.resources,
                    source: None,
                    requested_host: s.requested_host.clone(),
                    excluded: s.tried.iter().map(|(host, _)| host.clone()).collect(),
                })
            })
            .learn(|s, reply| s.host = Some(reply.host))
            .done(|s| {
                let host = known(s.host.as_ref(), "the host")?.clone();
                let own = Change::Own { host, epoch: s.epoch() };
                Ok(vec![Change::Instance(InstanceEvent::Placed), own])
            })
            .undone(|s| {
                let mut changes = vec![Change::ReleaseAllocations];
                if s.host.is_some() {
                    changes.push(Change::Instance(InstanceEvent::Displaced));
                    changes.push(Change::Disown);
                }
                Ok(changes)
            })
            .retry(|s, fault| {
                let Some(host) = s.host.take() else { return false };
                s.tried.push((host, fault.message.clone()));
                s.requested_host.is_none() && s.tried.len() < MAX_HOSTS
            })
            .end(),
            ask("build-and-run", Self::peer, |s| {
                Ok(BuildAndRunInstance { instance: s.instance.clone(), owner_epoch: s.epoch() })
            })
            // Covers the first fetch of an image; a host at work ignores a repeated request.
            .deadline(60_000)
            .tries(10)
            .undo_deferrable(|s| {
                Ok(TerminateInstance { instance_id: s.instance.id, owner_epoch: s.epoch() })
            })
            .end(),
        ]
    }

    fn completed(&self) -> Result<Vec<Change>, Bug> {
        Ok(vec![Change::Instance(InstanceEvent::Booted), Change::Power(PowerState::Running)])
    }

    fn unwound(&self, fault: &Fault, _cancelled: bool) -> Vec<Change> {
        let told = with_tried(fault, &self.tried);
        vec![Change::Instance(InstanceEvent::BootFailed), shown(&told)]
    }

    fn stuck(fault: &Fault) -> Vec<Change> {
        gave_up(fault)
    }
}
