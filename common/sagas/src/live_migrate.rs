//! Live migration: the guest runs on while its memory, and its local disks if need be, travel.

use serde::{Deserialize, Serialize};
use whimbrel_messages::compute::{
    BlockMigration, CheckCanLiveMigrateDestination, CheckCanLiveMigrateSource,
    CleanUpLiveMigrationCheck, DestinationCheck, InstanceSpec, LiveMigration, LiveMigrationAbort,
    MigrateData, PostLiveMigration, PostLiveMigrationAtDestination, PreLiveMigration,
    PreLiveMigrationReply, RollbackLiveMigrationAtDestination,
};
use whimbrel_messages::report::JobStats;
use whimbrel_messages::scheduler::SelectDestinations;
use whimbrel_messages::{Fault, FaultCode, Peer};
use whimbrel_model::{Change, HostName, InstanceEvent, MigrationEvent, MigrationId, PowerState};
use whimbrel_saga::{Bug, Saga, Step, ask};

use crate::{compute, gave_up, known, scheduler};

/// The step in which the guest changes hosts.
const MOVE: &str = "move-guest";
/// Destinations that are tried before a move is given up.
const MAX_HOSTS: usize = 3;
/// How long a check or a preparation may take, in milliseconds.
const PREPARE_MS: i64 = 30_000;
/// How often the source is asked again about a job under way, in milliseconds. It ignores the question while
/// the job runs, so this bounds only how late a lost answer is noticed.
const JOB_MS: i64 = 5_000;

/// A guest on its way to another host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LiveMigrate {
    /// The guest.
    pub instance: InstanceSpec,
    /// The move.
    pub migration_id: MigrationId,
    /// Where it is.
    pub source: HostName,
    /// The token it runs under there.
    pub source_epoch: i64,
    /// The only host that may be chosen, if somebody asked for one.
    #[serde(default)]
    pub requested_host: Option<HostName>,
    /// Whether local disks are to be copied.
    #[serde(default)]
    pub block_migration: BlockMigration,
    /// The destination chosen in this round.
    #[serde(default)]
    pub destination: Option<HostName>,
    /// Destinations that could not take it, and why.
    #[serde(default)]
    pub tried: Vec<(HostName, String)>,
    /// What the destination found.
    #[serde(default)]
    pub check: Option<DestinationCheck>,
    /// What source and destination agreed on.
    #[serde(default)]
    pub data: Option<MigrateData>,
    /// Where the destination listens.
    #[serde(default)]
    pub listen: Option<PreLiveMigrationReply>,
    /// The figures of the finished job.
    #[serde(default)]
    pub stats: Option<JobStats>,
    /// What the destination says of the guest at the end.
    #[serde(default)]
    pub power: PowerState,
    /// The source was forced down in the middle of the move: only the destination can say whether the guest has moved.
    #[serde(default)]
    pub source_lost: bool,
    /// The destination, too: nobody can say, and wherever it comes back it is not to run.
    #[serde(default)]
    pub destination_lost: bool,
}

impl LiveMigrate {
    /// The token that the guest is to run under at the destination of this round. Every round has its
    /// own, so that a deferred clean-up of an earlier one can't hit a later guest.
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

    fn data(&self) -> Result<&MigrateData, Bug> {
        known(self.data.as_ref(), "what the hosts agreed on")
    }

    fn copies_disks(&self) -> bool {
        self.data.as_ref().is_some_and(|data| data.block_migration)
    }

    fn start_over(&mut self, fault: &Fault) -> bool {
        // A source that gives no answer would give none for another destination either.
        let at_source = self.check.is_some() && self.data.is_none();
        let Some(host) = self.destination.take() else { return false };
        self.tried.push((host, fault.message.clone()));
        self.check = None;
        self.data = None;
        self.listen = None;
        let elsewhere = match fault.code {
            FaultCode::MigrationPreCheck => true,
            FaultCode::TimedOut => !at_source,
            _ => false,
        };
        elsewhere && self.requested_host.is_none() && self.tried.len() < MAX_HOSTS
    }

    fn outcome(&self) -> Change {
        Change::Outcome {
            total_ms: self.stats.map(|stats| stats.elapsed_ms),
            downtime_ms: self.stats.map(|stats| stats.downtime_ms),
            memory_bytes: self.stats.map(|stats| stats.memory_processed),
            disk_bytes: self.stats.map(|stats| stats.disk_processed),
        }
    }

    fn choose() -> Step<Self> {
        ask("select-destination", scheduler, |s: &Self| {
            Ok(SelectDestinations {
                instance_id: s.instance.id,
                migration_id: Some(s.migration_id),
                resources: s.instance.resources,
                source: Some(s.source.clone()),
                requested_host: s.requested_host.clone(),
                excluded: s.tried.iter().map(|(host, _)| host.clone()).collect(),
            })
        })
        .learn(|s, reply| s.destination = Some(reply.host))
        .done(|s| {
            let destination = Change::Destination(s.host()?.clone());
            Ok(vec![Change::Migration(MigrationEvent::Prepare), destination])
        })
        .undone(|s| {
            let mut changes = vec![Change::RevertMove];
            if s.destination.is_some() {
                // A clean-up of this round may still be on its way when the next move begins.
                changes.push(Change::Own { host: s.source.clone(), epoch: s.epoch() });
                changes.push(Change::Migration(MigrationEvent::Reschedule));
            }
            Ok(changes)
        })
        .retry(Self::start_over)
        .end()
    }

    fn check() -> Vec<Step<Self>> {
        vec![
            ask("check-destination", Self::at_destination, |s| {
                Ok(CheckCanLiveMigrateDestination {
                    instance: s.instance.clone(),
                    migration_id: s.migration_id,
                    source: s.source.clone(),
                    block_migration: s.block_migration,
                })
            })
            .deadline(PREPARE_MS)
            .learn(|s, reply| s.check = Some(reply))
            .undo_deferrable(|s| Ok(CleanUpLiveMigrationCheck { migration_id: s.migration_id }))
            .end(),
            ask("check-source", Self::at_source, |s| {
                Ok(CheckCanLiveMigrateSource {
                    instance: s.instance.clone(),
                    migration_id: s.migration_id,
                    destination: s.host()?.clone(),
                    block_migration: s.block_migration,
                    destination_check: known(s.check.as_ref(), "the destination's check")?.clone(),
                })
            })
            .deadline(PREPARE_MS)
            .learn(|s, reply| s.data = Some(reply))
            .end(),
        ]
    }

    fn prepare() -> Step<Self> {
        ask("prepare-destination", Self::at_destination, |s| {
            Ok(PreLiveMigration {
                instance: s.instance.clone(),
                migration_id: s.migration_id,
                source: s.source.clone(),
                migrate_data: s.data()?.clone(),
                owner_epoch: s.epoch(),
            })
        })
        .deadline(2 * PREPARE_MS)
        .learn(|s, reply| s.listen = Some(reply))
        // The guest's safety does not depend on it: it is reached only when the move never began or
        // the source's fence says that it never will happen. Unless the source is lost: then the guest may be here.
        .undo_deferrable(|s| {
            Ok(RollbackLiveMigrationAtDestination {
                instance_id: s.instance.id,
                migration_id: s.migration_id,
                destroy_disks: s.copies_disks(),
                owner_epoch: s.epoch(),
                source_lost: s.source_lost && !s.destination_lost,
            })
        })
        .undo_unsafe_when_down(|s| s.source_lost)
        .undo_may_find(MOVE)
        .when_put_off(|s| s.destination_lost = true)
        .end()
    }

    /// The guest changes hosts. Its undo asks the source to abort, and the source answers either "it never
    /// will" or "it already has".
    fn move_guest() -> Step<Self> {
        ask(MOVE, Self::at_source, |s| {
            Ok(LiveMigration {
                instance: s.instance.clone(),
                migration_id: s.migration_id,
                destination: s.host()?.clone(),
                migrate_data: s.data()?.clone(),
                listen: known(s.listen.as_ref(), "where the destination listens")?.clone(),
                owner_epoch: s.epoch(),
            })
        })
        .pivot()
        .deadline(JOB_MS)
        .learn(|s, reply| s.stats = reply.stats)
        .undo_deferrable_when_fenced(|s| {
            Ok(LiveMigrationAbort { instance_id: s.instance.id, migration_id: s.migration_id })
        })
        .when_put_off(|s| s.source_lost = true)
        .entering(|_| Ok(vec![Change::Migration(MigrationEvent::Start)]))
        .done(|s| Ok(vec![Change::Own { host: s.host()?.clone(), epoch: s.epoch() }, s.outcome()]))
        .end()
    }

    fn settle() -> Vec<Step<Self>> {
        vec![
            ask("finish-at-destination", Self::at_destination, |s| {
                Ok(PostLiveMigrationAtDestination {
                    instance: s.instance.clone(),
                    migration_id: s.migration_id,
                    owner_epoch: s.epoch(),
                })
            })
            .retriable()
            .deferrable_when_fenced()
            .learn(|s, reply| s.power = reply.power_state)
            .end(),
            ask("clean-up-source", Self::at_source, |s| {
                Ok(PostLiveMigration {
                    instance_id: s.instance.id,
                    migration_id: s.migration_id,
                    destroy_disks: s.copies_disks(),
                    owner_epoch: s.epoch(),
                    lost: false,
                })
            })
            .retriable()
            .deferrable()
            .end(),
        ]
    }
}

impl Saga for LiveMigrate {
    const NAME: &'static str = "live-migrate";
    const VERSION: i16 = 1;

    fn steps() -> Vec<Step<Self>> {
        let mut steps = vec![Self::choose()];
        steps.extend(Self::check());
        steps.push(Self::prepare());
        steps.push(Self::move_guest());
        steps.extend(Self::settle());
        steps
    }

    fn completed(&self) -> Result<Vec<Change>, Bug> {
        Ok(vec![
            Change::Migration(MigrationEvent::Complete),
            Change::Instance(InstanceEvent::Migrated),
            Change::Power(self.power),
            Change::SettleMove,
        ])
    }

    fn unwound(&self, fault: &Fault, cancelled: bool) -> Vec<Change> {
        let called_off = cancelled || fault.code == FaultCode::Cancelled;
        let event = if called_off { MigrationEvent::Cancel } else { MigrationEvent::Fail };
        vec![Change::Migration(event), Change::Instance(InstanceEvent::MigrationFailed)]
    }

    fn stuck(fault: &Fault) -> Vec<Change> {
        gave_up(fault)
    }
}
