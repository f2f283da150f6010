//! Moves that are called off, hurried, or watched by a service that dies.

use serde_json::{Value, json};
use whimbrel_messages::compute::InstanceSpec;
use whimbrel_messages::report::Guest;

use crate::agent::{Command, Job, Outcome};
use crate::host::{Host, Lab, Pending, Storage};
use crate::moves::{assert_moved, prepare, settle};

/// Slow enough to do something in the middle, and still sure to end.
pub(crate) fn slow() -> Value {
    json!({ "bandwidth_mib_s": 16, "max_downtime_ms": 3000, "poll_interval_ms": 100 })
}

/// A guest that moves: the job runs and has sent something.
pub(crate) async fn under_way(lab: &mut Lab) -> (InstanceSpec, Job, Pending) {
    let instance = lab.instance();
    let (first, rest) = lab.hosts.split_at_mut(1);
    let (a, b) = (&mut first[0], &mut rest[0]);
    a.call::<()>(Command::Spawn { instance: instance.clone(), epoch: 1 }).await.unwrap();
    a.wait_for_heartbeat(instance.id, 3).await;
    let job = prepare(a, b, &instance, 2).await;
    let pending = a.begin(Command::Live { job: job.clone(), resume: false }).await;
    wait_for_progress(a).await;
    (instance, job, pending)
}

async fn wait_for_progress(host: &mut Host) {
    let moving = host.progress.wait_for(|seen| {
        seen.is_some_and(|(stats, _)| stats.memory_processed + stats.disk_processed > 0)
    });
    tokio::time::timeout(std::time::Duration::from_secs(20), moving).await.unwrap().unwrap();
}

/// The guest runs at the source as before, and nothing of it is at the destination.
pub(crate) async fn assert_stayed(lab: &mut Lab, job: &Job) {
    let id = job.instance.id;
    let rollback = Command::Rollback {
        id,
        migration_id: job.migration_id,
        destroy_disks: job.data.block_migration,
        epoch: job.epoch,
    };
    lab.hosts[1].call::<()>(rollback.clone()).await.unwrap();
    lab.hosts[1].call::<()>(rollback).await.unwrap();
    assert_eq!(lab.hosts[1].domstate(id), "");
    let state = lab.hosts[0].domstate(id);
    assert!(state.starts_with("running"), "{state}");
    let guests: Vec<Guest> = lab.hosts[0].call(Command::Guests).await.unwrap();
    assert!(guests.iter().any(|guest| guest.instance_id == id && !guest.migrating), "{guests:?}");
    let (_, number) = lab.hosts[0].heartbeat(id).unwrap();
    lab.hosts[0].wait_for_heartbeat(id, number).await;
    if lab.is_local() {
        assert_eq!(lab.hosts[1].files(id), Vec::<String>::new());
        assert!(lab.hosts[0].files(id).contains(&"disk".to_owned()));
    } else {
        assert!(lab.hosts[1].files(id).contains(&"disk".to_owned()), "shared disks stay");
    }
}

pub(crate) async fn assert_arrived(lab: &mut Lab, job: &Job) {
    let (first, rest) = lab.hosts.split_at_mut(1);
    settle(&mut first[0], &mut rest[0], job).await;
    assert_moved(&mut first[0], &mut rest[0], job).await;
    let number = rest[0].heartbeat(job.instance.id).map_or(0, |(_, number)| number);
    rest[0].wait_for_heartbeat(job.instance.id, number).await;
}

async fn abort_leaves_the_guest(storage: Storage) {
    let mut lab = Lab::start(storage, slow()).await;
    let (instance, job, pending) = under_way(&mut lab).await;
    lab.hosts[0].call::<()>(Command::Abort { id: instance.id }).await.unwrap();
    assert_eq!(pending.get::<Outcome>().await.unwrap(), Outcome::Aborted);
    assert_stayed(&mut lab, &job).await;
    // And the next one goes through.
    lab.end(instance.id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_move_leaves_the_guest_where_it_was() {
    abort_leaves_the_guest(Storage::Shared).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_move_leaves_no_copy_of_a_disk() {
    abort_leaves_the_guest(Storage::Local).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_was_killed_takes_its_move_up_again() {
    let mut lab = Lab::start(Storage::Shared, slow()).await;
    let (instance, job, _lost) = under_way(&mut lab).await;
    lab.hosts[0].kill().await;
    lab.hosts[0].start_again();
    let guests: Vec<Guest> = lab.hosts[0].call(Command::Guests).await.unwrap();
    assert!(guests.iter().any(|guest| guest.instance_id == instance.id && guest.migrating));
    let pending = lab.hosts[0].begin(Command::Live { job: job.clone(), resume: true }).await;
    wait_for_progress(&mut lab.hosts[0]).await;
    let outcome = pending.get::<Outcome>().await.unwrap();
    let Outcome::Completed(Some(stats)) = outcome else { panic!("{outcome:?}") };
    assert!(stats.downtime_ms > 0 && stats.memory_processed > 0, "{stats:?}");
    assert_arrived(&mut lab, &job).await;
    lab.end(instance.id).await;
}

/// What is told of a move that ended while the service was away, and `after` that something else happened.
async fn told_of_a_move_that_ended_unseen(after: impl AsyncFnOnce(&Host)) -> Outcome {
    let mut lab = Lab::start(Storage::Shared, slow()).await;
    let (instance, job, _lost) = under_way(&mut lab).await;
    lab.hosts[0].kill().await;
    let host = &lab.hosts[0];
    crate::host::wait_for("end of the move", || {
        host.domstate(instance.id).starts_with("shut off").then_some(())
    })
    .await;
    after(host).await;
    lab.hosts[0].start_again();
    let live = Command::Live { job: job.clone(), resume: true };
    let outcome: Outcome = lab.hosts[0].call(live).await.unwrap();
    assert_arrived(&mut lab, &job).await;
    lab.end(instance.id).await;
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_ended_while_the_service_was_away_is_told_with_its_figures() {
    let outcome = told_of_a_move_that_ended_unseen(async |_| ()).await;
    assert!(matches!(outcome, Outcome::Completed(Some(_))), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_the_sources_libvirt_has_forgotten_is_asked_for_at_the_destination() {
    let restart = async |host: &Host| {
        host.kill_libvirtd().await;
        host.start_libvirtd();
        let state = host.shell("virsh domstate --reason $(virsh list --all --name | head -1)");
        assert!(state.contains("unknown"), "{state}");
    };
    let outcome = told_of_a_move_that_ended_unseen(restart).await;
    assert_eq!(outcome, Outcome::Completed(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_the_source_knows_nothing_of_is_asked_for_at_the_destination() {
    let forget = async |host: &Host| {
        host.shell("virsh undefine $(virsh list --all --name | head -1)");
    };
    let outcome = told_of_a_move_that_ended_unseen(forget).await;
    assert_eq!(outcome, Outcome::Completed(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_was_called_off_while_the_service_was_away_has_failed() {
    let mut lab = Lab::start(Storage::Local, slow()).await;
    let (instance, job, _lost) = under_way(&mut lab).await;
    lab.hosts[0].kill().await;
    lab.hosts[0].shell(&format!("virsh domjobabort {}", instance.id));
    lab.hosts[0].start_again();
    let live = Command::Live { job: job.clone(), resume: true };
    let outcome: Outcome = lab.hosts[0].call(live).await.unwrap();
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    assert_stayed(&mut lab, &job).await;
    lab.end(instance.id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_never_began_has_failed() {
    let mut lab = Lab::start(Storage::Shared, json!({})).await;
    let instance = lab.instance();
    let (first, rest) = lab.hosts.split_at_mut(1);
    let (a, b) = (&mut first[0], &mut rest[0]);
    a.call::<()>(Command::Spawn { instance: instance.clone(), epoch: 1 }).await.unwrap();
    a.wait_for_heartbeat(instance.id, 1).await;
    let job = prepare(a, b, &instance, 2).await;
    let outcome: Outcome = a.call(Command::Live { job: job.clone(), resume: true }).await.unwrap();
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    assert_stayed(&mut lab, &job).await;
    lab.end(instance.id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hurried_move_halts_the_guest_which_then_runs_at_the_destination() {
    let mut lab = Lab::start(Storage::Shared, slow()).await;
    let (instance, job, pending) = under_way(&mut lab).await;
    lab.hosts[0].call::<()>(Command::Force { id: instance.id }).await.unwrap();
    println!("{}", lab.hosts[0].domstate(instance.id));
    let outcome = pending.get::<Outcome>().await.unwrap();
    assert!(matches!(outcome, Outcome::Completed(Some(_))), "{outcome:?}");
    println!("{outcome:?} {}", lab.hosts[1].domstate(instance.id));
    assert_arrived(&mut lab, &job).await;
    lab.end(instance.id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hurried_move_that_is_then_called_off_lets_the_guest_run() {
    let mut lab = Lab::start(Storage::Shared, slow()).await;
    let (instance, job, pending) = under_way(&mut lab).await;
    let id = instance.id;
    lab.hosts[0].call::<()>(Command::Force { id }).await.unwrap();
    assert!(lab.hosts[0].domstate(id).starts_with("paused"));
    lab.hosts[0].call::<()>(Command::Abort { id }).await.unwrap();
    assert_eq!(pending.get::<Outcome>().await.unwrap(), Outcome::Aborted);
    assert_stayed(&mut lab, &job).await;
    lab.end(id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hurried_move_switches_to_post_copy_where_that_is_permitted() {
    let mut migration = slow();
    migration["post_copy"] = json!(true);
    let mut lab = Lab::start(Storage::Shared, migration).await;
    let (instance, job, pending) = under_way(&mut lab).await;
    lab.hosts[0].call::<()>(Command::Force { id: instance.id }).await.unwrap();
    let outcome = pending.get::<Outcome>().await.unwrap();
    let Outcome::Completed(Some(stats)) = outcome else { panic!("{outcome:?}") };
    println!("{stats:?}");
    assert_arrived(&mut lab, &job).await;
    lab.end(instance.id).await;
}
