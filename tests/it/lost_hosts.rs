//! Hosts that die for good, or are only silent: what was going on ends, and nothing is given away that a silent host may
//! still use.

use reqwest::StatusCode;
use serde_json::json;
use whimbrel_test_utils::wait_until;
use whimbrel_virt::fake::FakeConfig;

use crate::cloud::{Cloud, PATIENCE};
use crate::cold_moves::{slow, two, with};
use crate::faults::moving;
use crate::moves::brisk;

impl Cloud {
    /// The host is dead, and somebody has said so.
    async fn lose(&mut self, host: &str) {
        self.kill(host).await;
        self.wait_until_down(host).await;
        assert_eq!(self.force_down(host, true).await.0, StatusCode::OK);
    }

    /// What was going on has ended with the guest on a lost host; it is made again elsewhere, and what the lost host
    /// still has of it goes when it is back.
    async fn evacuate_from(&mut self, id: &str, lost: &str, to: &str, config: FakeConfig) {
        wait_until("the move to end", PATIENCE, async || {
            self.server(id).await["OS-EXT-STS:task_state"].is_null()
        })
        .await;
        assert_eq!(self.server(id).await["OS-EXT-SRV-ATTR:host"], lost);
        self.does(id, json!({ "evacuate": {} }), StatusCode::OK).await;
        self.wait_for_migration(id, "done").await;
        self.start_compute(lost, config);
        self.wait_for_migration(id, "completed").await;
        self.wait_until_nothing_is_owed().await;
        self.assert_rests_on(id, to).await;
        assert_eq!(self.leftovers(id), Vec::<String>::new());
    }
}

/// A host whose guests write faster than they travel, so their moves do not end.
fn endless() -> FakeConfig {
    FakeConfig { dirty_rate_mib_s: 1_000, working_set_mib: 64, ..brisk() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_source_dies_for_good_in_its_live_migration_is_evacuated() {
    let mut cloud = Cloud::start(&[("a", endless()), ("b", endless())]).await;
    let (id, source, destination) = moving(&cloud).await;
    cloud.lose(&source).await;
    cloud.evacuate_from(&id, &source, &destination, endless()).await;
}

/// The source never said so, but the destination knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_had_moved_before_its_source_died_stays_where_it_is() {
    let mut cloud = Cloud::start(&[("a", brisk()), ("b", brisk())]).await;
    let (id, source, destination) = moving(&cloud).await;
    // What it has begun goes on, as a real hypervisor's job would; nobody is told how it ends.
    cloud.lose(&source).await;
    cloud.wait_for_migration(&id, "completed").await;
    assert_eq!(cloud.server(&id).await["OS-EXT-SRV-ATTR:host"], destination.as_str());
    cloud.start_compute(&source, brisk());
    cloud.wait_until_nothing_is_owed().await;
    cloud.assert_rests_on(&id, &destination).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_source_dies_for_good_while_its_disks_travel_is_evacuated() {
    let (mut cloud, id, source, destination) = with([("a", slow()), ("b", slow())]).await;
    cloud.does(&id, json!({ "migrate": null }), StatusCode::ACCEPTED).await;
    cloud.wait_for_migration(&id, "migrating").await;
    cloud.lose(&source).await;
    cloud.evacuate_from(&id, &source, &destination, slow()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_source_dies_for_good_in_the_middle_can_be_deleted() {
    let mut cloud = Cloud::start(&[("a", brisk()), ("b", brisk())]).await;
    let (id, source, _) = moving(&cloud).await;
    cloud.kill(&source).await;
    cloud.wait_until_down(&source).await;
    cloud.delete(&id).await;
    assert_eq!(cloud.force_down(&source, true).await.0, StatusCode::OK);
    cloud.wait_until_gone(&id).await;
    cloud.start_compute(&source, brisk());
    cloud.wait_until_nothing_is_owed().await;
    cloud.assert_gone(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_silent_host_may_still_run_keeps_its_room_until_that_is_certain() {
    for certain in ["back", "forced down"] {
        let (mut cloud, id, source, _) = two().await;
        cloud.kill(&source).await;
        cloud.wait_until_down(&source).await;
        cloud.delete(&id).await;
        cloud.wait_until_gone(&id).await;
        assert_eq!(cloud.allocations(&id).await, [(id.clone(), source.clone())]);
        cloud.assert_settled().await;
        if certain == "back" {
            cloud.start_compute(&source, FakeConfig::default());
            cloud.wait_until_nothing_is_owed().await;
        } else {
            assert_eq!(cloud.force_down(&source, true).await.0, StatusCode::OK);
        }
        assert_eq!(cloud.allocations(&id).await, []);
    }
}

/// Both ends of the move hold room, the silent one until it has cleaned up.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_waits_for_a_decision_is_deleted_while_its_source_is_silent() {
    let (mut cloud, id, source, _) = two().await;
    cloud.resize(&id).await;
    cloud.kill(&source).await;
    cloud.wait_until_down(&source).await;
    cloud.delete(&id).await;
    cloud.wait_until_gone(&id).await;
    let held = cloud.allocations(&id).await;
    assert!(held.len() == 1 && held[0].1 == source, "{held:?}");
    cloud.start_compute(&source, FakeConfig::default());
    cloud.wait_until_nothing_is_owed().await;
    assert_eq!(cloud.allocations(&id).await, []);
    assert_eq!(cloud.leftovers(&id), Vec::<String>::new());
}

/// What its source keeps may be the only whole copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_not_confirmed_by_itself_to_a_host_that_is_silent() {
    let (mut cloud, id, _, destination) = two().await;
    cloud.resize(&id).await;
    cloud.start_compute("c", FakeConfig::default());
    cloud.start_compute("d", FakeConfig::default());
    cloud.kill(&destination).await;
    cloud.wait_until_down(&destination).await;
    let other = cloud.boot().await;
    cloud.resize(&other).await;
    cloud.stop("conductor").await;
    cloud.start_conductor_with("conductor", &json!({ "resize_confirm_window_s": 1 }));
    cloud.wait_for_migration(&other, "confirmed").await;
    assert_eq!(cloud.server(&id).await["status"], "VERIFY_RESIZE", "it was due before the other");
}

/// As when a deletion ended as stuck: whatever was in its way may be gone by now.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_got_stuck_can_be_asked_for_again() {
    let (cloud, id, _, _) = two().await;
    let statement = format!(
        "UPDATE instance SET delete_requested = true, vm_state = 'error', generation = generation + 1 WHERE id = '{id}'"
    );
    whimbrel_test_utils::tamper(&cloud.database.url(), &statement).await;
    cloud.delete(&id).await;
    cloud.wait_until_gone(&id).await;
    cloud.assert_gone(&id).await;
}

/// Moves that got stuck, one after the other: all of their ends are asked to remove what they may have.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_reaches_every_host_that_may_have_something_of_the_guest() {
    let (mut cloud, id, _, _) = two().await;
    cloud.start_compute("c", FakeConfig::default());
    cloud.start_compute("d", FakeConfig::default());
    wait_until("all hosts to report", PATIENCE, async || {
        let services = cloud.get("/v2.1/os-services?binary=nova-compute").await;
        services["services"].as_array().unwrap().len() == 4
    })
    .await;
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "d")] {
        let statement = format!(
            "INSERT INTO migration (id, instance_id, migration_type, status, source_compute, dest_compute, \
             project_id, user_id) VALUES (gen_random_uuid(), '{id}', 'live-migration', 'error', '{from}', '{to}', \
             'default', 'admin')"
        );
        whimbrel_test_utils::tamper(&cloud.database.url(), &statement).await;
    }
    cloud.delete(&id).await;
    cloud.wait_until_gone(&id).await;
    let owed = cloud.get("/v1/obligations").await;
    let hosts: Vec<&str> = owed["obligations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["host"].as_str().unwrap())
        .collect();
    assert_eq!(hosts, ["c", "d"], "its own host and another are asked at once");
    cloud.wait_until_nothing_is_owed().await;
    cloud.assert_gone(&id).await;
}
