//! Resize and cold migration: the guest is shut down, its disks are carried, it starts elsewhere, or here, and
//! waits for somebody to confirm or revert.
//!
//! Until the destination has made the guest, all of it is at the source, and every way back leads there. So
//! making it is the pivot, and only with it does the right to run the guest move.

use serde::{Deserialize, Serialize};
use whimbrel_messages::compute::{
    FenceResize, FinishResize, FinishRevertResize, InstanceSpec, PowerReply, PrepResize,
    PrepResizeReply, ResizeInstance, ResizeInstanceReply, RevertResize,
};
use whimbrel_messages::scheduler::SelectDestinations;
use whimbrel_messages::{Fault, FaultCode, Peer};
use whimbrel_model::{
    Change, FlavorSnapshot, HostName, InstanceEvent, MigrationEvent, MigrationId, PowerState,
};
use whimbrel_saga::{Bug, Saga, Step, ask};

use crate::{compute, gave_up, known, scheduler, shown, with_tried};

/// Destinations that are tried before a move is given up. Nova's `[scheduler] max_attempts`.
const MAX_HOSTS: usize = 3;
/// How long preparing may take, in milliseconds; covers the first fetch of an image.
const PREPARE_MS: i64 = 60_000;
/// How often the source is asked again about disks under way, in milliseconds. It ignores the question while
/// they travel, so this bounds only how late a lost answer is noticed.
const CARRY_MS: i64 = 5_000;
/// How long making the guest at the destination may take before it is asked again, in milliseconds.
const FINISH_MS: i64 = 30_000;

/// A guest on its way to another host or size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Resize {
    /// The guest, in its old size.
    pub instance: InstanceSpec,
    /// The move.
    pub migration_id: MigrationId,
    /// Where it is.
    pub source: HostName,
    /// The token it runs under there.
    pub source_epoch: i64,
    /// What it will be; the old one for a cold migration.
    pub flavor: FlavorSnapshot,
    /// Whether it runs, and so is to be started again.
    pub start: bool,
    /// How long its operating system is given to shut down, in milliseconds.
    pub timeout_ms: i64,
    /// The only host that may be chosen, if somebody asked for one.
    #[serde(default)]
    pub requested_host: Option<HostName>,
    /// Whether it may stay where it is.
    #[serde(default)]
    pub same_host: bool,
    /// The destination chosen in this round.
    #[serde(default)]
    pub destination: Option<HostName>,
    /// Destinations that could not take it, and why.
    #[serde(default)]
    pub tried: Vec<(HostName, String)>,
    /// What the destination made ready.
    #[serde(default)]
    pub prepared: Option<PrepResizeReply>,
    /// What has arrived there.
    #[serde(default)]
    pub carried: Option<ResizeInstanceReply>,
    /// What the destination says of the guest at the end.
    #[serde(default)]
    pub power: PowerState,
    /// The source was forced down in the middle of it: when it is back it has the guest, but may not start it, as it
    /// may have been made again elsewhere.
    #[serde(default)]
    pub source_lost: bool,
}

impl Resize {
    /// The token that the guest is to run under at the destination of this round. Every round has its own.
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

    fn at_source(&self) -> Result<Peer, Bug> {
        compute(&self.source)
    }

    /// The guest in its new size.
    fn resized(&self) -> InstanceSpec {
        InstanceSpec { resources: self.flavor.resources, ..self.instance.clone() }
    }

    fn start_over(&mut self, fault: &Fault) -> bool {
        // Once its disks have travelled, whatever went wrong would go wrong again.
        let early = self.prepared.is_none() || fault.code == FaultCode::MigrationPreCheck;
        let Some(host) = self.destination.take() else { return false };
        self.tried.push((host, fault.message.clone()));
        self.prepared = None;
        self.carried = None;
        let elsewhere = matches!(fault.code, FaultCode::MigrationPreCheck | FaultCode::TimedOut);
        elsewhere && early && self.requested_host.is_none() && self.tried.len() < MAX_HOSTS
    }

    fn choose() -> Step<Self> {
        ask("select-destination", scheduler, |s: &Self| {
            let here = (!s.same_host).then(|| s.source.clone());
            let tried = s.tried.iter().map(|(host, _)| host.clone());
            Ok(SelectDestinations {
                instance_id: s.instance.id,
                migration_id: Some(s.migration_id),
                resources: s.flavor.resources,
                // A guest that is shut off can start on another hypervisor or processor.
                source: None,
                requested_host: s.requested_host.clone(),
                excluded: here.into_iter().chain(tried).collect(),
            })
        })
        .learn(|s, reply| s.destination = Some(reply.host))
        .done(|s| Ok(vec![Change::Destination(s.host()?.clone())]))
        .undone(|s| {
            let mut changes = vec![Change::RevertMove];
            if s.destination.is_some() {
                // A clean-up of this round may still be on its way when the next move begins.
                changes.push(Change::Own { host: s.source.clone(), epoch: s.epoch() });
                changes.push(Change::Migration(MigrationEvent::Reschedule));
                changes.push(Change::Instance(InstanceEvent::ResizeRescheduled));
            }
            Ok(changes)
        })
        .retry(Self::start_over)
        .end()
    }

    fn prepare() -> Step<Self> {
        ask("prep-resize", Self::at_destination, |s| {
            Ok(PrepResize {
                instance: s.resized(),
                migration_id: s.migration_id,
                source: s.source.clone(),
                owner_epoch: s.epoch(),
            })
        })
        .deadline(PREPARE_MS)
        .learn(|s, reply| s.prepared = Some(reply))
        // Reached only when the guest was never made there, or the fence says that it never will be.
        .undo_deferrable(|s| {
            Ok(RevertResize {
                instance_id: s.instance.id,
                migration_id: s.migration_id,
                owner_epoch: s.epoch(),
                timeout_ms: 0,
                // By then the undo of the next step has taken it back.
                keep_guest: s.host()? == &s.source,
                keep_disks: false,
            })
        })
        .end()
    }

    fn carry() -> Step<Self> {
        ask("resize-instance", Self::at_source, |s| {
            Ok(ResizeInstance {
                instance: s.instance.clone(),
                migration_id: s.migration_id,
                destination: s.host()?.clone(),
                prepared: known(s.prepared.as_ref(), "what the destination made ready")?.clone(),
                owner_epoch: s.epoch(),
                timeout_ms: s.timeout_ms,
            })
        })
        .deadline(CARRY_MS)
        // The guest and all of its disks are there: nobody else can say what became of them.
        .tries(i32::MAX)
        .entering(|_| {
            Ok(vec![
                Change::Instance(InstanceEvent::CarryDisks),
                Change::Migration(MigrationEvent::Carry),
            ])
        })
        .learn(|s, reply| s.carried = Some(reply))
        .undo_deferrable_when_fenced(|s| {
            Ok(FinishRevertResize {
                instance: s.instance.clone(),
                migration_id: s.migration_id,
                owner_epoch: s.epoch(),
                start: s.start && !s.source_lost,
            })
        })
        .when_put_off(|s| s.source_lost = true)
        .end()
    }

    /// The destination makes the guest. Its undo is answered with "it never will, and nothing of it is left
    /// there", or "it already has".
    fn finish() -> Step<Self> {
        ask("finish-resize", Self::at_destination, |s| {
            Ok(FinishResize {
                instance: s.resized(),
                migration_id: s.migration_id,
                carried: known(s.carried.as_ref(), "what has arrived")?.clone(),
                owner_epoch: s.epoch(),
                start: s.start,
            })
        })
        .pivot()
        .deadline(FINISH_MS)
        .entering(|_| {
            Ok(vec![
                Change::Instance(InstanceEvent::FinishResize),
                Change::Migration(MigrationEvent::Arrive),
            ])
        })
        .learn(|s, PowerReply { power_state }| s.power = power_state)
        .undo_deferrable_when_fenced(|s| {
            Ok(FenceResize {
                instance_id: s.instance.id,
                migration_id: s.migration_id,
                owner_epoch: s.epoch(),
            })
        })
        .done(|s| {
            let stats = known(s.carried.as_ref(), "what has arrived")?.stats;
            Ok(vec![
                Change::Own { host: s.host()?.clone(), epoch: s.epoch() },
                Change::Size(s.flavor.clone()),
                Change::Outcome {
                    total_ms: Some(stats.shutdown_ms + stats.copy_ms),
                    downtime_ms: None,
                    memory_bytes: None,
                    disk_bytes: Some(stats.bytes),
                },
            ])
        })
        .end()
    }
}

impl Saga for Resize {
    const NAME: &'static str = "resize";
    const VERSION: i16 = 1;

    fn steps() -> Vec<Step<Self>> {
        vec![Self::choose(), Self::prepare(), Self::carry(), Self::finish()]
    }

    fn completed(&self) -> Result<Vec<Change>, Bug> {
        Ok(vec![
            Change::Migration(MigrationEvent::Finish),
            Change::Instance(InstanceEvent::Resized),
            Change::Power(self.power),
        ])
    }

    fn unwound(&self, fault: &Fault, cancelled: bool) -> Vec<Change> {
        let called_off = cancelled || fault.code == FaultCode::Cancelled;
        let event = if called_off { MigrationEvent::Cancel } else { MigrationEvent::Fail };
        let instance = Change::Instance(InstanceEvent::ResizeFailed);
        vec![Change::Migration(event), instance, shown(&with_tried(fault, &self.tried))]
    }

    fn stuck(fault: &Fault) -> Vec<Change> {
        gave_up(fault)
    }
}
