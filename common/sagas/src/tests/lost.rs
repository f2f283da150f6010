//! What becomes of an operation whose host dies for good in the middle: somebody forces it down, and the operation
//! ends, with the guest where it certainly is, or on the lost host, from which it can be evacuated.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;
use whimbrel_messages::compute::{ImageSpec, InstanceSpec};
use whimbrel_messages::{Dir, Fault, FaultCode, Outcome};
use whimbrel_model::{
    Change, DiskFormat, FlavorSnapshot, HostName, ImageId, InstanceEvent, InstanceId,
    MigrationEvent, MigrationId, PowerState, Resources, SagaId,
};
use whimbrel_saga::{Asked, Definition, Effect, Input, PeerHealth, Phase, Row, Saga};

use crate::{LiveMigrate, Resize, Revert};

/// A saga of ours that waits for the answer to one of its steps.
struct Waiting {
    definition: Arc<dyn Definition>,
    row: Row,
    now: DateTime<Utc>,
    put_off: Vec<Asked>,
    changes: Vec<Change>,
    asked: Option<Asked>,
}

impl Waiting {
    fn at<S: Saga>(step: &'static str, state: &S) -> Self {
        let registry = crate::registry();
        let definition = Arc::clone(registry.get(S::NAME, S::VERSION).expect("it is registered"));
        let now = DateTime::from_timestamp(1_000_000, 0).expect("a time");
        let state = serde_json::to_value(state).expect("plain data");
        let mut row = Row::new(SagaId(Uuid::from_u128(1)), state, now);
        row.phase = Phase::Running;
        row.step = Cow::Borrowed(step);
        let (put_off, changes) = (Vec::new(), Vec::new());
        Self { definition, row, now, put_off, changes, asked: None }
    }

    fn input(&mut self, input: Input) {
        let (row, effects) = self.definition.advance(self.row.clone(), input, self.now);
        self.row = row;
        for effect in effects {
            match effect {
                Effect::Send(asked) => self.asked = Some(asked),
                Effect::Defer(asked) => self.put_off.push(asked),
                Effect::Change(change) => self.changes.push(change),
                Effect::Record(_) => {}
            }
        }
    }

    /// Lets the time pass until somebody looks again, and finds the host in question so.
    fn finds(&mut self, health: PeerHealth) -> &mut Self {
        self.now = self.row.wake_at.expect("it is active");
        self.input(Input::Wake(health));
        self
    }

    fn hears(&mut self, outcome: Outcome) -> &mut Self {
        let (round, step, dir) = (self.row.round, self.row.step.to_string(), self.row.dir);
        self.input(Input::Reply { round, step, dir, outcome });
        self
    }

    fn waits_for(&self) -> (&str, Dir) {
        (&self.row.step, self.row.dir)
    }

    fn owner(&self) -> Option<&HostName> {
        let owns = |change: &'_ Change| matches!(change, Change::Own { .. });
        match self.changes.iter().rev().find(|change| owns(change)) {
            Some(Change::Own { host, .. }) => Some(host),
            _ => None,
        }
    }

    fn has(&self, change: &Change) -> bool {
        self.changes.contains(change)
    }
}

fn instance() -> InstanceSpec {
    InstanceSpec {
        id: InstanceId(Uuid::from_u128(1)),
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

fn host(name: &str) -> HostName {
    name.parse().expect("a host's name")
}

fn ok(body: Value) -> Outcome {
    Outcome::Ok { body }
}

fn live_migrate() -> LiveMigrate {
    let state = json!({
        "instance": instance(),
        "migration_id": MigrationId(Uuid::from_u128(2)),
        "source": "source",
        "source_epoch": 1,
        "destination": "destination",
        "data": { "block_migration": true, "disks": [] },
        "listen": { "destination_uri": "", "migrate_uri": null, "listen_address": null },
        "power": PowerState::Running,
    });
    serde_json::from_value(state).expect("a state")
}

fn flavor() -> FlavorSnapshot {
    let resources = instance().resources;
    serde_json::from_value(json!({ "id": "1", "name": "small", "resources": resources }))
        .expect("a flavor")
}

fn resize() -> Resize {
    let state = json!({
        "instance": instance(),
        "migration_id": MigrationId(Uuid::from_u128(2)),
        "source": "source",
        "source_epoch": 1,
        "flavor": flavor(),
        "start": true,
        "timeout_ms": 1,
        "destination": "destination",
        "prepared": { "probe_file": "", "has_base": true, "receiver": "", "ticket": "" },
    });
    serde_json::from_value(state).expect("a state")
}

fn revert() -> Revert {
    Revert {
        instance: instance(),
        migration_id: MigrationId(Uuid::from_u128(2)),
        source: host("source"),
        destination: host("destination"),
        owner_epoch: 2,
        flavor: flavor(),
        start: true,
        timeout_ms: 1,
        power: PowerState::NoState,
        source_lost: false,
    }
}

/// A live migration whose source was forced down, at the moment when the destination is asked.
fn source_lost() -> Waiting {
    let mut saga = Waiting::at("move-guest", &live_migrate());
    saga.finds(PeerHealth::Down);
    assert_eq!(saga.waits_for(), ("move-guest", Dir::Do), "a host that is only silent may move it");
    saga.finds(PeerHealth::Fenced);
    assert_eq!(saga.waits_for(), ("move-guest", Dir::Undo));
    saga.finds(PeerHealth::Fenced);
    assert_eq!(saga.waits_for(), ("prepare-destination", Dir::Undo));
    let asked = saga.asked.as_ref().expect("the destination is asked");
    assert_eq!(asked.body["source_lost"], true);
    assert_eq!(saga.put_off.len(), 1, "the source still has to be fenced");
    saga
}

#[test]
fn a_guest_that_has_reached_the_destination_of_a_lost_source_stays_there() {
    let mut saga = source_lost();
    saga.hears(Outcome::AlreadyDone { body: json!({ "stats": null }) });
    assert_eq!(
        (saga.row.phase, saga.waits_for()),
        (Phase::Running, ("finish-at-destination", Dir::Do))
    );
    assert_eq!(saga.owner(), Some(&host("destination")));
    saga.hears(ok(json!({ "power_state": "running" }))).finds(PeerHealth::Fenced);
    assert_eq!(saga.row.phase, Phase::Completed);
    assert_eq!(saga.put_off.len(), 2, "what is left at the source is removed when it is back");
}

#[test]
fn a_guest_that_has_not_reached_it_is_where_it_was() {
    let mut saga = source_lost();
    saga.hears(ok(json!({})));
    while saga.row.phase == Phase::Unwinding {
        saga.hears(ok(json!({})));
    }
    assert_eq!(saga.row.phase, Phase::Unwound);
    assert_eq!(saga.owner(), Some(&host("source")));
    assert!(saga.has(&Change::Instance(InstanceEvent::MigrationFailed)));
    assert!(saga.has(&Change::Migration(MigrationEvent::Fail)));
}

#[test]
fn a_destination_that_is_only_silent_may_have_the_guest_of_a_lost_source() {
    let mut saga = source_lost();
    for _ in 0..100 {
        saga.finds(PeerHealth::Down);
        assert_eq!(saga.waits_for(), ("prepare-destination", Dir::Undo));
    }
}

#[test]
fn when_both_hosts_are_lost_the_guest_runs_on_neither_when_they_return() {
    let mut saga = source_lost();
    saga.finds(PeerHealth::Fenced);
    while saga.row.phase == Phase::Unwinding {
        saga.finds(PeerHealth::Fenced);
    }
    assert_eq!(saga.row.phase, Phase::Unwound);
    let rollback = saga.put_off.iter().find(|asked| asked.step == "prepare-destination");
    let rollback = rollback.expect("the destination still has to remove the guest");
    assert_eq!(rollback.body["source_lost"], false, "whole or not, it goes");
}

#[test]
fn a_destination_that_is_lost_with_the_guest_keeps_it() {
    let mut saga = Waiting::at("finish-at-destination", &live_migrate());
    saga.finds(PeerHealth::Down);
    assert_eq!(saga.waits_for(), ("finish-at-destination", Dir::Do));
    saga.finds(PeerHealth::Fenced);
    assert_eq!(saga.waits_for(), ("clean-up-source", Dir::Do));
    saga.hears(ok(json!({})));
    assert_eq!(saga.row.phase, Phase::Completed);
}

#[test]
fn a_lost_source_that_shut_a_guest_down_may_not_start_it_when_it_is_back() {
    let mut saga = Waiting::at("resize-instance", &resize());
    saga.finds(PeerHealth::Down);
    assert_eq!(saga.waits_for(), ("resize-instance", Dir::Do));
    saga.finds(PeerHealth::Fenced).finds(PeerHealth::Fenced);
    assert_eq!(saga.waits_for(), ("prep-resize", Dir::Undo));
    let back = saga.put_off.first().expect("it still has to take the guest back");
    assert_eq!(
        (back.method.as_str(), &back.body["start"]),
        ("finish_revert_resize", &json!(false))
    );
    while saga.row.phase == Phase::Unwinding {
        saga.hears(ok(json!({})));
    }
    assert!(saga.has(&Change::Instance(InstanceEvent::ResizeFailed)));
}

#[test]
fn a_revert_goes_on_without_a_lost_destination_even_when_it_was_called_off() {
    for called_off in [false, true] {
        let mut saga = Waiting::at("revert-resize", &revert());
        if called_off {
            saga.input(Input::Cancel);
            assert_eq!(saga.waits_for(), ("revert-resize", Dir::Undo));
            saga.finds(PeerHealth::Down);
            assert_eq!(saga.waits_for(), ("revert-resize", Dir::Undo));
        }
        saga.finds(PeerHealth::Fenced);
        assert_eq!(saga.waits_for(), ("finish-revert-resize", Dir::Do));
        saga.hears(ok(json!({ "power_state": "running" }))).finds(PeerHealth::Fenced);
        assert_eq!(saga.row.phase, Phase::Completed);
        assert_eq!(saga.owner(), Some(&host("source")));
        let steps: Vec<&str> = saga.put_off.iter().map(|asked| asked.step.as_str()).collect();
        assert_eq!(steps, ["revert-resize", "clean-up-destination"]);
    }
}

#[test]
fn a_source_that_is_lost_on_the_way_back_may_not_start_the_guest_when_it_returns() {
    let mut saga = Waiting::at("finish-revert-resize", &revert());
    saga.finds(PeerHealth::Fenced).hears(ok(json!({})));
    assert_eq!(saga.row.phase, Phase::Completed);
    assert_eq!(saga.put_off[0].body["start"], false);
}

#[test]
fn the_disks_at_the_destination_go_only_when_the_source_has_the_guest_again() {
    let mut saga = Waiting::at("revert-resize", &revert());
    saga.finds(PeerHealth::Up);
    assert_eq!(saga.asked.as_ref().map(|asked| &asked.body["keep_disks"]), Some(&json!(true)));
    saga.hears(ok(json!({}))).hears(ok(json!({ "power_state": "running" })));
    let clean = saga.asked.as_ref().expect("the destination cleans up");
    assert_eq!(
        (clean.step.as_str(), &clean.body["keep_disks"]),
        ("clean-up-destination", &json!(false))
    );
}

#[test]
fn what_must_be_done_is_asked_again_when_it_was_refused() {
    let mut saga = Waiting::at("finish-revert-resize", &revert());
    let no_bridge = || Fault::new(FaultCode::Hypervisor, "bridge br0 is not there");
    for _ in 0..10 {
        saga.hears(Outcome::Refused { fault: no_bridge() }).finds(PeerHealth::Up);
        let asked = saga.asked.as_ref().expect("it is asked again");
        assert_eq!((asked.step.as_str(), asked.must), ("finish-revert-resize", true));
    }
    saga.hears(ok(json!({ "power_state": "running" })));
    assert_eq!(saga.waits_for(), ("clean-up-destination", Dir::Do));
}

#[test]
fn a_resize_on_the_same_host_that_is_taken_back_leaves_the_guest_alone() {
    for (destination, keep) in [("source", true), ("destination", false)] {
        let state = Resize { destination: Some(host(destination)), ..resize() };
        let mut saga = Waiting::at("resize-instance", &state);
        let fault = Fault::new(FaultCode::Hypervisor, "no memory");
        saga.hears(Outcome::Refused { fault }).hears(ok(json!({ "power_state": "running" })));
        let undo = saga.asked.as_ref().expect("the destination is asked");
        assert_eq!((undo.step.as_str(), &undo.body["keep_guest"]), ("prep-resize", &json!(keep)));
    }
}
