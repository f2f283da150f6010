//! What users do to the guest: they boot, start, stop, reboot, move and delete it, and change their minds.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;
use whimbrel_messages::compute::{ImageSpec, InstanceSpec, RebootKind};
use whimbrel_model::{
    DiskFormat, HostName, ImageId, InstanceEvent, InstanceId, InstanceState, MigrationEvent,
    MigrationId, MigrationStatus, MigrationType, PowerState, Resources, VmState,
};
use whimbrel_saga::Saga as _;
use whimbrel_sagas::{
    Boot, Confirm, Delete, Evacuate, LiveMigrate, Reboot, Resize, Revert, Start, Stop,
};

use super::agent::CLOCK_SKEW_MS;
use super::driver::Guest;
use super::{Broken, Chaos, Event, HOSTS, Sim, name, number};
use crate::rows::{INSTANCE, MigrationRow};

/// Something that a user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Boot,
    /// Whatever makes sense once nothing else is going on.
    Anything,
    Start,
    Stop,
    Reboot,
    RebootHard,
    LiveMigrate,
    /// To that host and no other.
    LiveMigrateTo(usize),
    /// To another host, or to the same with a chance.
    Resize {
        same_host: bool,
    },
    Confirm,
    Revert,
    /// As soon as its host was forced down.
    Evacuate,
    Delete,
}

/// What a random run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Story {
    /// One live migration.
    Move,
    /// A whole life, from boot on.
    Life,
    /// A life among hosts that lose power, are forced down, and return, or do not.
    Losses,
    /// Moves between two hosts that are often away, one after another as soon as the rows allow it.
    ThereAndBack,
}

/// A host takes at least this long to start again, in milliseconds.
const BOOT_MS: i64 = 30_000;

impl Story {
    pub(crate) const ALL: [Self; 4] = [Self::Move, Self::Life, Self::Losses, Self::ThereAndBack];
}

pub(crate) fn instance() -> InstanceSpec {
    InstanceSpec {
        id: InstanceId(INSTANCE),
        name: "guest".to_owned(),
        resources: Resources { vcpus: 1, memory_mib: 64, disk_gib: 1 },
        image: ImageSpec {
            id: ImageId(Uuid::from_u128(3)),
            format: DiskFormat::Qcow2,
            sha256: String::new(),
            size: 1,
            virtual_size: 1,
        },
        ports: Vec::new(),
        volumes: Vec::new(),
        config_drive: None,
    }
}

fn begins(op: Op) -> InstanceEvent {
    match op {
        Op::Start => InstanceEvent::BeginStart,
        Op::Stop => InstanceEvent::BeginStop,
        Op::Reboot => InstanceEvent::BeginReboot,
        Op::RebootHard => InstanceEvent::BeginRebootHard,
        Op::LiveMigrate | Op::LiveMigrateTo(_) => InstanceEvent::BeginLiveMigration,
        Op::Delete => InstanceEvent::BeginDelete,
        Op::Resize { .. } => InstanceEvent::BeginResize,
        Op::Confirm => InstanceEvent::BeginConfirm,
        Op::Revert => InstanceEvent::BeginRevert,
        Op::Evacuate => InstanceEvent::BeginEvacuate,
        Op::Boot | Op::Anything => unreachable!("neither is asked of a guest at rest"),
    }
}

impl Sim {
    /// A world where the guest runs, or is shut off, at the first host.
    pub(crate) fn with_guest(mut self, running: bool) -> Self {
        let vm = if running { VmState::Active } else { VmState::Stopped };
        let row = &mut self.rows.instance;
        row.state = InstanceState { vm, task: None };
        row.power = if running { PowerState::Running } else { PowerState::Shutdown };
        row.host = Some(name(0));
        row.owner_epoch = 1;
        self.rows.claims = BTreeMap::from([(INSTANCE, name(0))]);
        let first = &mut self.hosts[0].hypervisor;
        first.guest = Some(Guest { running, epoch: 1, persistent: true });
        first.seen = 1;
        self
    }

    /// A world where all that happens follows from `seed`.
    pub(crate) fn random(story: Story, seed: u64, broken: Option<super::Broken>) -> Self {
        let mut sim = Self::new(Chaos::random(seed), broken);
        for host in 0..HOSTS {
            sim.hosts[host].skew = sim.chaos.rng.ms(-CLOCK_SKEW_MS, CLOCK_SKEW_MS);
        }
        for _ in 0..sim.chaos.rng.below(5) {
            sim.random_outage();
        }
        match story {
            Story::Move => {
                sim = sim.with_guest(true);
                sim.after(0, Event::Wish(Op::LiveMigrate));
                if sim.chaos.rng.chance(400) {
                    sim.random_wish(Event::Cancel);
                }
                if sim.chaos.rng.chance(50) {
                    sim.random_wish(Event::Wish(Op::Delete));
                }
            }
            Story::ThereAndBack => {
                sim = sim.with_guest(true);
                (2..HOSTS).for_each(|host| sim.hosts[host].reports = false);
                for _ in 0..6 {
                    sim.after(0, Event::Wish(Op::LiveMigrate));
                    sim.long_outage();
                }
            }
            Story::Life | Story::Losses => {
                if story == Story::Losses {
                    for _ in 0..=sim.chaos.rng.below(3) {
                        sim.random_loss();
                    }
                }
                if sim.chaos.rng.chance(300) {
                    sim.random_closing();
                }
                match sim.chaos.rng.below(4) {
                    0 => sim = sim.with_guest(true),
                    1 => sim = sim.with_guest(false),
                    _ => sim.after(0, Event::Wish(Op::Boot)),
                }
                for _ in 0..sim.chaos.rng.below(9) {
                    sim.random_wish(Event::Wish(Op::Anything));
                    if sim.chaos.rng.chance(200) {
                        sim.random_wish(Event::Cancel);
                    }
                }
                if sim.chaos.rng.chance(400) {
                    sim.random_wish(Event::Wish(Op::Delete));
                }
            }
        }
        sim
    }

    fn random_wish(&mut self, event: Event) {
        let bits = 4 + self.chaos.rng.below(16);
        let ms = self.chaos.rng.magnitude(bits);
        self.after(ms, event);
    }

    /// One of the first two hosts is away for long enough to be missed.
    fn long_outage(&mut self) {
        let host = usize::from(self.chaos.rng.chance(500));
        let (begins, lasts) = (self.chaos.rng.ms(0, 600_000), self.chaos.rng.ms(60_000, 300_000));
        self.after(begins, Event::Down(host));
        self.after(begins + lasts, Event::Up(host));
    }

    /// A host's service stops for a while, or only its reports do.
    fn random_outage(&mut self) {
        let host = usize::try_from(self.chaos.rng.below(HOSTS as u64)).expect("small");
        let (begins, lasts) = (self.chaos.rng.magnitude(16), self.chaos.rng.magnitude(20));
        if self.chaos.rng.chance(300) {
            self.after(begins, Event::Reports(host, false));
            self.after(begins + lasts, Event::Reports(host, true));
        } else {
            self.after(begins, Event::Down(host));
            self.after(begins + lasts, Event::Up(host));
        }
    }

    /// A host loses power. Most often somebody notices and forces it down; it returns, or never.
    fn random_loss(&mut self) {
        let host = usize::try_from(self.chaos.rng.below(HOSTS as u64)).expect("small");
        let dies = self.chaos.rng.ms(0, 500_000);
        self.after(dies, Event::Dies(host));
        if self.chaos.rng.chance(700) {
            let noticed = dies + self.chaos.rng.magnitude(17);
            self.after(noticed, Event::Fences(host));
            for _ in 0..2 {
                let ms = self.chaos.rng.magnitude(17);
                self.after(noticed + ms, Event::Wish(Op::Evacuate));
            }
            if self.chaos.rng.chance(200) {
                self.hosts[host].gone = true;
                return;
            }
            let returns = noticed + self.chaos.rng.ms(BOOT_MS, 400_000);
            self.after(returns, Event::Boots(host));
            self.after(returns + 10_000, Event::LetsIn(host));
        } else {
            let returns = dies + self.chaos.rng.ms(BOOT_MS, 400_000);
            self.after(returns, Event::Boots(host));
        }
    }

    /// A host takes no new guests for a while.
    fn random_closing(&mut self) {
        let host = usize::try_from(self.chaos.rng.below(HOSTS as u64)).expect("small");
        let (begins, lasts) = (self.chaos.rng.magnitude(17), self.chaos.rng.magnitude(20));
        self.after(begins, Event::Enables(host, false));
        self.after(begins + lasts, Event::Enables(host, true));
    }

    /// What the API does with a wish.
    pub(crate) fn wish(&mut self, op: Op) {
        self.sync_power();
        if op == Op::Delete {
            self.wish_delete();
        } else if op == Op::Boot {
            let boot =
                Boot { instance: instance(), requested_host: None, host: None, tried: Vec::new() };
            self.start(Boot::NAME, serde_json::to_value(&boot).expect("plain data"), None);
        } else if self.rows.instance.delete_requested {
            // The API answers 409.
        } else if op == Op::Anything {
            self.wish_anything();
        } else if self.rows.instance.state.task.is_some() {
            self.wish_later(op);
        } else {
            self.wish_change(op);
        }
    }

    fn wish_later(&mut self, op: Op) {
        let ms = self.chaos.rng.ms(100, 20_000);
        self.after(ms, Event::Wish(op));
    }

    fn wish_delete(&mut self) {
        self.rows.instance.delete_requested = true;
        match self.active() {
            None => self.begin_delete(|_| true),
            Some(saga) if self.sagas[saga].name != Delete::NAME => {
                // A deletion calls off what is going on, or waits for it.
                if self.chaos.rng.chance(500) {
                    self.call_off();
                }
            }
            Some(_) => {}
        }
    }

    fn wish_anything(&mut self) {
        let state = self.rows.instance.state;
        if state.task.is_some() {
            self.wish_later(Op::Anything);
            return;
        }
        let same_host = self.chaos.rng.chance(150);
        let all = [
            Op::Start,
            Op::Stop,
            Op::Reboot,
            Op::RebootHard,
            Op::LiveMigrate,
            Op::Resize { same_host },
            Op::Confirm,
            Op::Revert,
        ];
        let legal: Vec<_> = all.into_iter().filter(|op| state.on(begins(*op)).is_ok()).collect();
        let at = usize::try_from(self.chaos.rng.below(legal.len() as u64)).expect("small");
        if let Some(op) = legal.get(at) {
            self.wish_change(*op);
        }
    }

    fn wish_change(&mut self, op: Op) {
        let event = begins(op);
        let row = &mut self.rows.instance;
        let Some(host) = row.host.clone() else { return };
        let fenced = self.hosts[number(&host)].fenced;
        if op == Op::Evacuate && !fenced && self.broken != Some(Broken::EvacuatesUnfenced) {
            return;
        }
        let runs = row.state.vm == VmState::Active;
        let Ok(state) = row.state.on(event) else { return };
        row.state = state;
        self.changed_at = self.now;
        let (owner_epoch, instance) = (row.owner_epoch, instance());
        let power = PowerState::NoState;
        let state = |state: Result<Value, _>| state.expect("plain data");
        match op {
            Op::Start => {
                let start = Start { instance, host, owner_epoch, power };
                self.start(Start::NAME, state(serde_json::to_value(&start)), None);
            }
            Op::Stop => {
                let stop = Stop { instance_id: instance.id, host, timeout_ms: 1_000 };
                self.start(Stop::NAME, state(serde_json::to_value(&stop)), None);
            }
            Op::Reboot | Op::RebootHard => {
                let kind = if op == Op::Reboot { RebootKind::Soft } else { RebootKind::Hard };
                let reboot = Reboot { instance, host, owner_epoch, kind };
                self.start(Reboot::NAME, state(serde_json::to_value(&reboot)), None);
            }
            Op::LiveMigrateTo(to) => self.begin_move(&host, Some(&name(to))),
            Op::Resize { same_host } => self.begin_resize(&host, runs, same_host),
            Op::Confirm | Op::Revert => self.decide(op),
            Op::Evacuate => self.begin_evacuation(&host, runs),
            _ => self.begin_move(&host, None),
        }
    }

    fn record(&mut self, kind: MigrationType, source: &HostName, was_running: bool) -> MigrationId {
        let id = MigrationId(Uuid::from_u128(0x2000 + self.rows.migrations.len() as u128));
        let (status, destination) = (MigrationStatus::first(kind), None);
        let source = source.clone();
        let row = MigrationRow { kind, status, source, destination, was_running };
        self.rows.migrations.insert(id, row);
        id
    }

    fn begin_move(&mut self, source: &HostName, requested_host: Option<&HostName>) {
        let id = self.record(MigrationType::LiveMigration, source, true);
        let state = json!({
            "instance": instance(),
            "migration_id": id,
            "source": source,
            "source_epoch": self.rows.instance.owner_epoch,
            "requested_host": requested_host,
        });
        self.start(LiveMigrate::NAME, state, Some(id));
    }

    fn begin_resize(&mut self, source: &HostName, start: bool, same_host: bool) {
        let cold = !same_host && self.chaos.rng.chance(500);
        let kind = if cold { MigrationType::Migration } else { MigrationType::Resize };
        let id = self.record(kind, source, start);
        let state = json!({
            "instance": instance(),
            "migration_id": id,
            "source": source,
            "source_epoch": self.rows.instance.owner_epoch,
            "flavor": flavor(),
            "start": start,
            "timeout_ms": 1_000,
            "same_host": same_host,
        });
        self.start(Resize::NAME, state, Some(id));
    }

    /// Keeps a finished move, or takes it back.
    fn decide(&mut self, op: Op) {
        let finished = |row: &&mut MigrationRow| row.status == MigrationStatus::Finished;
        let found = self.rows.migrations.iter_mut().find(|(_, row)| finished(row));
        let (id, row) = found.expect("the state of the instance says so");
        let event =
            if op == Op::Confirm { MigrationEvent::Confirm } else { MigrationEvent::Revert };
        row.status = row.status.on(row.kind, event).expect("it is finished");
        let (id, row) = (*id, row.clone());
        let instance_row = &self.rows.instance;
        if op == Op::Confirm {
            let running = instance_row.power == PowerState::Running;
            let instance_id = instance().id;
            let confirm = Confirm { instance_id, migration_id: id, source: row.source, running };
            let state = serde_json::to_value(&confirm).expect("plain data");
            self.start(Confirm::NAME, state, Some(id));
        } else {
            let revert = Revert {
                instance: instance(),
                migration_id: id,
                source: row.source,
                destination: row.destination.expect("it is finished"),
                owner_epoch: instance_row.owner_epoch,
                flavor: serde_json::from_value(flavor()).expect("a flavor"),
                start: row.was_running,
                timeout_ms: 1_000,
                power: PowerState::NoState,
                source_lost: false,
            };
            let state = serde_json::to_value(&revert).expect("plain data");
            self.start(Revert::NAME, state, Some(id));
        }
    }

    fn begin_evacuation(&mut self, source: &HostName, start: bool) {
        let id = self.record(MigrationType::Evacuation, source, start);
        let state = json!({
            "instance": instance(),
            "migration_id": id,
            "source": source,
            "source_epoch": self.rows.instance.owner_epoch,
            "start": start,
        });
        self.start(Evacuate::NAME, state, Some(id));
    }

    /// A user calls off whatever is going on, where the API offers that.
    pub(super) fn cancel(&mut self) {
        let decided = |saga: usize| [Confirm::NAME, Revert::NAME].contains(&self.sagas[saga].name);
        if self.active().is_some_and(|saga| !decided(saga)) {
            self.call_off();
        }
    }

    fn call_off(&mut self) {
        let Some(saga) = self.active().filter(|saga| self.sagas[*saga].name != Delete::NAME) else {
            return;
        };
        self.sagas[saga].cancel_requested = true;
        self.after(1, Event::Hint(saga));
        self.after(1_500, Event::Sweep(saga));
    }
}

fn flavor() -> Value {
    json!({ "id": "1", "name": "small", "resources": instance().resources })
}
