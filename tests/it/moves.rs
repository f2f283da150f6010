//! Operations from end to end, over simulated hypervisors.

use reqwest::{Method, StatusCode};
use serde_json::json;
use whimbrel_test_utils::{wait_for, wait_until};
use whimbrel_virt::fake::FakeConfig;

use crate::cloud::{Cloud, PATIENCE};

/// A host whose guests take long to move, because they dirty memory faster than it is sent.
pub(crate) fn slow() -> FakeConfig {
    FakeConfig { bandwidth_mib_s: 10, dirty_rate_mib_s: 40, ..FakeConfig::default() }
}

/// A host whose guests take about two seconds to move.
pub(crate) fn brisk() -> FakeConfig {
    FakeConfig { bandwidth_mib_s: 32, ..FakeConfig::default() }
}

fn refusing(call: &str) -> FakeConfig {
    FakeConfig { refuse: vec![call.to_owned()], ..FakeConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_boots_moves_stops_starts_reboots_and_goes() {
    let hosts = [("a", FakeConfig::default()), ("b", FakeConfig::default())];
    let cloud = Cloud::start(&hosts).await;
    let id = cloud.boot().await;
    let source = cloud.server(&id).await["OS-EXT-SRV-ATTR:host"].as_str().unwrap().to_owned();
    let other = if source == "a" { "b" } else { "a" };
    cloud.assert_rests_on(&id, &source).await;

    cloud.live_migrate(&id, None).await;
    let migration = cloud.wait_for_migration(&id, "completed").await;
    assert_eq!(migration["dest_compute"], other);
    cloud.assert_rests_on(&id, other).await;

    for (action, status) in [
        (json!({ "os-stop": null }), "SHUTOFF"),
        (json!({ "os-start": null }), "ACTIVE"),
        (json!({ "reboot": { "type": "HARD" } }), "ACTIVE"),
    ] {
        let (code, body) = cloud.action(&id, action).await;
        assert_eq!(code, StatusCode::ACCEPTED, "{body}");
        cloud.wait_for_status(&id, status).await;
    }
    let actions = cloud.get(&format!("/v2.1/servers/{id}/os-instance-actions")).await;
    let actions = actions["instanceActions"].as_array().unwrap().clone();
    let names: Vec<_> = actions.iter().rev().map(|one| one["action"].as_str().unwrap()).collect();
    assert_eq!(names, ["create", "live-migration", "stop", "start", "reboot"]);
    let request = actions[3]["request_id"].as_str().unwrap();
    let one = cloud.get(&format!("/v2.1/servers/{id}/os-instance-actions/{request}")).await;
    let events = one["instanceAction"]["events"].as_array().unwrap().clone();
    assert_eq!(events.len(), 7, "{events:?}");
    assert!(events.iter().all(|event| event["result"] == "Success"), "{events:?}");

    cloud.delete(&id).await;
    cloud.wait_until_gone(&id).await;
    cloud.assert_gone(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_a_host_refuses_is_cleaned_up_and_tried_on_the_next() {
    // The refusing host is the larger one, so it comes first.
    let large = FakeConfig { memory_mib: 1 << 20, ..refusing("spawn") };
    let cloud = Cloud::start(&[("a", large), ("b", FakeConfig::default())]).await;
    let id = cloud.boot().await;
    cloud.assert_rests_on(&id, "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_no_host_can_do_says_why_and_holds_nothing() {
    let cloud = Cloud::start(&[("a", refusing("spawn")), ("b", refusing("spawn"))]).await;
    let id = cloud.ask_for_server().await;
    let server = cloud.wait_for_status(&id, "ERROR").await;
    let why = server["fault"]["message"].as_str().unwrap();
    assert!(why.contains("No valid host was found") && why.contains("spawn"), "{why}");
    assert!(server["OS-EXT-SRV-ATTR:host"].is_null());
    assert_eq!(cloud.allocations(&id).await, []);
    cloud.assert_settled().await;
    cloud.delete(&id).await;
    cloud.wait_until_gone(&id).await;
    cloud.assert_gone(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_refuses_is_passed_over() {
    let larger = |call| FakeConfig { memory_mib: 1 << 20, ..refusing(call) };
    let hosts = [
        ("a", FakeConfig::default()),
        ("b", larger("check_can_live_migrate_destination")),
        ("c", FakeConfig::default()),
    ];
    let cloud = Cloud::start(&hosts).await;
    let mut new = cloud.new_server();
    new["server"]["host"] = json!("a");
    let (status, made) = cloud.ask(Method::POST, "/v2.1/servers", Some(new)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{made}");
    let id = made["server"]["id"].as_str().unwrap().to_owned();
    cloud.wait_for_status(&id, "ACTIVE").await;
    cloud.live_migrate(&id, None).await;
    assert_eq!(cloud.wait_for_migration(&id, "completed").await["dest_compute"], "c");
    cloud.assert_rests_on(&id, "c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_leaves_the_guest_where_it_was() {
    let cloud = Cloud::start(&[("a", slow()), ("b", slow())]).await;
    let id = cloud.boot().await;
    let source = cloud.server(&id).await["OS-EXT-SRV-ATTR:host"].as_str().unwrap().to_owned();
    cloud.live_migrate(&id, None).await;
    let path = format!("/v2.1/servers/{id}/migrations");
    let number = wait_for("progress", PATIENCE, async || {
        let all = cloud.get(&path).await;
        let one = all["migrations"][0].clone();
        one["memory_processed_bytes"].as_i64().filter(|bytes| *bytes > 0).map(|_| one["id"].clone())
    })
    .await;
    let (status, _) = cloud.ask(Method::DELETE, &format!("{path}/{number}"), None).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    cloud.wait_for_migration(&id, "cancelled").await;
    cloud.assert_rests_on(&id, &source).await;
    // It moves as if nothing had been.
    cloud.live_migrate(&id, None).await;
    let number = cloud.wait_for_migration(&id, "running").await["id"].clone();
    let force = Some(json!({ "force_complete": null }));
    let (status, body) = cloud.ask(Method::POST, &format!("{path}/{number}/action"), force).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    let done = cloud.wait_for_migration(&id, "completed").await;
    cloud.assert_rests_on(&id, done["dest_compute"].as_str().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_deleted_in_the_middle_of_its_migration() {
    let cloud = Cloud::start(&[("a", slow()), ("b", slow())]).await;
    let id = cloud.boot().await;
    cloud.live_migrate(&id, None).await;
    cloud.wait_for_migration(&id, "running").await;
    cloud.delete(&id).await;
    assert_eq!(cloud.server(&id).await["OS-EXT-STS:task_state"], "deleting");
    cloud.delete(&id).await;
    cloud.wait_until_gone(&id).await;
    cloud.assert_gone(&id).await;
    assert_eq!(cloud.migration(&id).await["status"], "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_deleted_in_the_middle_of_its_boot() {
    let cloud = Cloud::start(&[("a", FakeConfig::default())]).await;
    for _ in 0..10 {
        let id = cloud.ask_for_server().await;
        cloud.delete(&id).await;
        cloud.wait_until_gone(&id).await;
        wait_until("everything to be settled", PATIENCE, async || cloud.hosts_of(&id).is_empty())
            .await;
        cloud.assert_gone(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_migrate_the_same_server_at_once_one_is_heard() {
    let cloud = Cloud::start(&[("a", slow()), ("b", slow())]).await;
    let id = cloud.boot().await;
    let ask = || {
        let action = json!({ "os-migrateLive": { "host": null, "block_migration": "auto" } });
        cloud.action(&id, action)
    };
    let answers = futures::future::join_all((0..20).map(|_| ask())).await;
    let count = |code| answers.iter().filter(|(status, _)| *status == code).count();
    assert_eq!((count(StatusCode::ACCEPTED), count(StatusCode::CONFLICT)), (1, 19), "{answers:?}");
}

/// The hosts have room for four guests in all; eight are asked for at once.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_never_promised_more_than_they_have() {
    let small = FakeConfig { memory_mib: 128, disk_gib: 2, ..FakeConfig::default() };
    let cloud = Cloud::start(&[("a", small.clone()), ("b", small)]).await;
    let asked = (0..8).map(|_| cloud.ask_for_server());
    let ids = futures::future::join_all(asked).await;
    let mut active = 0;
    for id in &ids {
        let server = wait_for("a boot to end", PATIENCE, async || {
            let server = cloud.server(id).await;
            server["OS-EXT-STS:task_state"].is_null().then_some(server)
        })
        .await;
        active += usize::from(server["status"] == "ACTIVE");
    }
    // Disk is what runs out: 2 GiB each, 1 GiB a guest.
    assert_eq!(active, 4);
    cloud.assert_settled().await;
}
