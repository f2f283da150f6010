//! Moves in which something dies.

use serde_json::json;

use crate::agent::{Command, Job, Outcome};
use crate::host::{Lab, Pending, Storage, wait_for};
use crate::steer::{assert_arrived, assert_stayed, slow, under_way};

/// A move that something happens to, and what is then said of it. `resume` says how often the service was
/// told to look again, as nothing was known.
async fn outcome(lab: &mut Lab, job: &Job, mut pending: Pending) -> Outcome {
    for _ in 0..5 {
        match pending.get::<Outcome>().await {
            Ok(outcome) => return outcome,
            Err((kind, text)) => {
                assert_eq!(kind, "unavailable", "{text}");
                println!("{text}");
                let again = Command::Live { job: job.clone(), resume: true };
                pending = lab.hosts[0].begin(again).await;
            }
        }
    }
    panic!("the move does not end")
}

async fn fails_and_stays(storage: Storage, fault: impl AsyncFnOnce(&mut Lab, &Job)) {
    let mut lab = Lab::start(storage, slow()).await;
    let (instance, job, pending) = under_way(&mut lab).await;
    fault(&mut lab, &job).await;
    let outcome = outcome(&mut lab, &job, pending).await;
    println!("{outcome:?}");
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    assert_stayed(&mut lab, &job).await;
    lab.end(instance.id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_sources_libvirtd_is_restarted_the_guest_stays() {
    fails_and_stays(Storage::Shared, async |lab, _| {
        lab.hosts[0].kill_libvirtd().await;
        lab.hosts[0].start_libvirtd();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_destinations_libvirtd_is_restarted_the_guest_stays() {
    fails_and_stays(Storage::Local, async |lab, _| {
        lab.hosts[1].kill_libvirtd().await;
        lab.hosts[1].start_libvirtd();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_destinations_emulator_dies_the_guest_stays() {
    fails_and_stays(Storage::Local, async |lab, job| {
        lab.hosts[1].shell(&format!("kill -9 $(cat /run/libvirt/qemu/*{}.pid)", job.instance.id));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_hosts_lose_each_other_for_long_the_guest_stays() {
    fails_and_stays(Storage::Shared, async |lab, job| {
        lab.hosts[1].shell("ip link set eth0 down");
        let id = job.instance.id;
        wait_for("end of the job", || {
            let job = lab.hosts[0].shell(&format!("virsh domjobinfo {id}"));
            job.contains("None").then_some(())
        })
        .await;
        lab.hosts[1].shell("ip link set eth0 up");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_guest_itself_dies_the_move_has_failed_and_its_disk_stays() {
    let mut lab = Lab::start(Storage::Local, slow()).await;
    let (instance, job, pending) = under_way(&mut lab).await;
    let id = instance.id;
    lab.hosts[0].shell(&format!("kill -9 $(cat /run/libvirt/qemu/*{id}.pid)"));
    let outcome = outcome(&mut lab, &job, pending).await;
    println!("{outcome:?} {}", lab.hosts[0].domstate(id));
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    let (migration_id, epoch) = (job.migration_id, job.epoch);
    let rollback = Command::Rollback { id, migration_id, destroy_disks: true, epoch };
    lab.hosts[1].call::<()>(rollback).await.unwrap();
    assert_eq!(lab.hosts[1].files(id), Vec::<String>::new());
    assert!(lab.hosts[0].files(id).contains(&"disk".to_owned()));
    lab.end(id).await;
}

/// A move that has switched to post-copy.
async fn post_copy_under_way() -> (Lab, Job, Pending) {
    let migration = json!({
        // Memory after the switch, too, comes slowly enough to do something in the middle.
        "bandwidth_mib_s": 4, "post_copy_bandwidth_mib_s": 4, "post_copy": true, "poll_interval_ms": 50,
    });
    let mut lab = Lab::start(Storage::Shared, migration).await;
    let (instance, job, pending) = under_way(&mut lab).await;
    lab.hosts[0].call::<()>(Command::Force { id: instance.id }).await.unwrap();
    let switched = lab.hosts[0].progress.wait_for(|seen| seen.is_some_and(|(_, there)| there));
    tokio::time::timeout(std::time::Duration::from_secs(20), switched).await.unwrap().unwrap();
    (lab, job, pending)
}

/// `fault` gives another call to wait for if the first is lost by it.
async fn post_copy_arrives(fault: impl AsyncFnOnce(&mut Lab, &Job) -> Option<Pending>) {
    let (mut lab, job, pending) = post_copy_under_way().await;
    let pending = fault(&mut lab, &job).await.unwrap_or(pending);
    let hurry = lab.hosts[0].hurry_what_is_followed(job.instance.id);
    let outcome = outcome(&mut lab, &job, pending).await;
    hurry.abort();
    println!("{outcome:?}");
    assert!(matches!(outcome, Outcome::Completed(_)), "{outcome:?}");
    assert_arrived(&mut lab, &job).await;
    lab.end(job.instance.id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_copy_can_no_longer_be_called_off() {
    post_copy_arrives(async |lab, job| {
        lab.hosts[0].call::<()>(Command::Abort { id: job.instance.id }).await.unwrap();
        None
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_copy_goes_on_when_the_service_is_killed() {
    post_copy_arrives(async |lab, job| {
        lab.hosts[0].kill().await;
        lab.hosts[0].start_again();
        let again = Command::Live { job: job.clone(), resume: true };
        Some(lab.hosts[0].begin(again).await)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_copy_survives_a_restart_of_the_sources_libvirtd() {
    post_copy_arrives(async |lab, _| {
        lab.hosts[0].kill_libvirtd().await;
        lab.hosts[0].start_libvirtd();
        None
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_copy_whose_hosts_lose_each_other_goes_on() {
    post_copy_arrives(async |lab, job| {
        lab.hosts[1].shell("ip link set eth0 down");
        wait_for("a broken post-copy", || {
            lab.hosts[0].domstate(job.instance.id).contains("failed").then_some(())
        })
        .await;
        lab.hosts[1].shell("ip link set eth0 up");
        None
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_copy_that_broke_is_taken_up_again() {
    post_copy_arrives(async |lab, job| {
        // While the destination's emulator itself waits for a page, it hears nothing, not even the offer to
        // take the copy up again. Later it has all pages of its own.
        let nearly = lab.hosts[0]
            .progress
            .wait_for(|seen| seen.is_some_and(|(stats, _)| stats.memory_processed > 70 << 20));
        tokio::time::timeout(std::time::Duration::from_secs(30), nearly).await.unwrap().unwrap();
        lab.hosts[0].shell(&format!("virsh domjobabort --postcopy {}", job.instance.id));
        None
    })
    .await;
}

/// Earlier than this a break is the end of the guest: its devices are not all there yet.
async fn wait_for_guest_there(lab: &Lab, job: &Job) {
    wait_for("the guest at the destination", || {
        lab.hosts[1].domstate(job.instance.id).contains("running").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_lost_in_post_copy_is_shut_off_and_the_move_has_failed() {
    let (mut lab, job, pending) = post_copy_under_way().await;
    let id = job.instance.id;
    wait_for_guest_there(&lab, &job).await;
    lab.hosts[1].shell(&format!("kill -9 $(cat /run/libvirt/qemu/*{id}.pid)"));
    let outcome = outcome(&mut lab, &job, pending).await;
    println!("{outcome:?} {}", lab.hosts[0].domstate(id));
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    assert!(lab.hosts[0].domstate(id).starts_with("shut off"));
    lab.end(id).await;
}
