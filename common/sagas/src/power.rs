//! Start, stop and reboot: one call each that can't be taken back, so it is the pivot, and its undo is a fence.

use serde::{Deserialize, Serialize};
use whimbrel_messages::Fault;
use whimbrel_messages::compute::{
    Fence, InstanceSpec, PowerReply, RebootInstance, RebootKind, StartInstance, StopInstance,
};
use whimbrel_model::{Change, HostName, InstanceEvent, InstanceId, PowerState};
use whimbrel_saga::{Bug, Saga, Step, ask};

use crate::{compute, gave_up, shown};

/// Requests for one call before it is fenced off.
const TRIES: i32 = 3;

fn failed(fault: &Fault) -> Vec<Change> {
    vec![Change::Instance(InstanceEvent::PowerFailed), shown(fault)]
}

/// A guest on its way up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The guest.
    pub instance: InstanceSpec,
    /// Where it is.
    pub host: HostName,
    /// The token it runs under.
    pub owner_epoch: i64,
    /// What the host said of it afterwards.
    #[serde(default)]
    pub power: PowerState,
}

impl Saga for Start {
    const NAME: &'static str = "start";
    const VERSION: i16 = 1;

    fn steps() -> Vec<Step<Self>> {
        vec![
            ask(
                "start",
                |s: &Self| compute(&s.host),
                |s| {
                    let instance = s.instance.clone();
                    Ok(StartInstance { instance, owner_epoch: s.owner_epoch })
                },
            )
            .pivot()
            .tries(TRIES)
            .deadline(30_000)
            .learn(|s, PowerReply { power_state }| s.power = power_state)
            .undo_deferrable(|s| Ok(Fence { instance_id: s.instance.id }))
            .end(),
        ]
    }

    fn completed(&self) -> Result<Vec<Change>, Bug> {
        Ok(vec![Change::Instance(InstanceEvent::Started), Change::Power(self.power)])
    }

    fn unwound(&self, fault: &Fault, _cancelled: bool) -> Vec<Change> {
        failed(fault)
    }

    fn stuck(fault: &Fault) -> Vec<Change> {
        gave_up(fault)
    }
}

/// A guest on its way down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stop {
    /// The guest.
    pub instance_id: InstanceId,
    /// Where it is.
    pub host: HostName,
    /// How long its operating system is given, in milliseconds.
    pub timeout_ms: i64,
}

impl Saga for Stop {
    const NAME: &'static str = "stop";
    const VERSION: i16 = 1;

    fn steps() -> Vec<Step<Self>> {
        vec![
            ask(
                "stop",
                |s: &Self| compute(&s.host),
                |s| Ok(StopInstance { instance_id: s.instance_id, timeout_ms: s.timeout_ms }),
            )
            .pivot()
            .tries(TRIES)
            .deadline(90_000)
            .undo_deferrable(|s| Ok(Fence { instance_id: s.instance_id }))
            .end(),
        ]
    }

    fn completed(&self) -> Result<Vec<Change>, Bug> {
        Ok(vec![Change::Instance(InstanceEvent::Stopped), Change::Power(PowerState::Shutdown)])
    }

    fn unwound(&self, fault: &Fault, _cancelled: bool) -> Vec<Change> {
        failed(fault)
    }

    fn stuck(fault: &Fault) -> Vec<Change> {
        gave_up(fault)
    }
}

/// A guest on its way down and up again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reboot {
    /// The guest.
    pub instance: InstanceSpec,
    /// Where it is.
    pub host: HostName,
    /// The token it runs under.
    pub owner_epoch: i64,
    /// How.
    pub kind: RebootKind,
}

impl Saga for Reboot {
    const NAME: &'static str = "reboot";
    const VERSION: i16 = 1;

    fn steps() -> Vec<Step<Self>> {
        vec![
            ask(
                "reboot",
                |s: &Self| compute(&s.host),
                |s| {
                    let instance = s.instance.clone();
                    Ok(RebootInstance { instance, owner_epoch: s.owner_epoch, kind: s.kind })
                },
            )
            .pivot()
            .tries(TRIES)
            .deadline(90_000)
            .undo_deferrable(|s| Ok(Fence { instance_id: s.instance.id }))
            .end(),
        ]
    }

    fn completed(&self) -> Result<Vec<Change>, Bug> {
        Ok(vec![Change::Instance(InstanceEvent::Started), Change::Power(PowerState::Running)])
    }

    fn unwound(&self, fault: &Fault, _cancelled: bool) -> Vec<Change> {
        failed(fault)
    }

    fn stuck(fault: &Fault) -> Vec<Change> {
        gave_up(fault)
    }
}
