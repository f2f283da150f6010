//! Services that end in the middle, messages that vanish: every operation still ends, and rightly.

use reqwest::{Method, StatusCode};
use serde_json::json;
use whimbrel_test_utils::wait_until;
use whimbrel_virt::fake::FakeConfig;

use crate::cloud::{Cloud, PATIENCE};
use crate::moves::brisk;

pub(crate) async fn moving(cloud: &Cloud) -> (String, String, String) {
    let id = cloud.boot().await;
    let source = cloud.server(&id).await["OS-EXT-SRV-ATTR:host"].as_str().unwrap().to_owned();
    let destination = if source == "a" { "b" } else { "a" };
    cloud.live_migrate(&id, None).await;
    cloud.wait_for_migration(&id, "running").await;
    (id, source, destination.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_conductor_ends_in_the_middle_and_another_goes_on() {
    let mut cloud = Cloud::start(&[("a", brisk()), ("b", brisk())]).await;
    let (id, _, destination) = moving(&cloud).await;
    cloud.kill("conductor").await;
    cloud.start_conductor("second");
    cloud.wait_for_migration(&id, "completed").await;
    cloud.assert_rests_on(&id, &destination).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_s_agent_ends_in_the_middle_and_follows_the_job_again() {
    let mut cloud = Cloud::start(&[("a", brisk()), ("b", brisk())]).await;
    let (id, source, destination) = moving(&cloud).await;
    cloud.kill(&source).await;
    cloud.start_compute(&source, brisk());
    cloud.wait_for_migration(&id, "completed").await;
    cloud.assert_rests_on(&id, &destination).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_destination_s_agent_ends_in_the_middle_and_comes_back() {
    let mut cloud = Cloud::start(&[("a", brisk()), ("b", brisk())]).await;
    let (id, _, destination) = moving(&cloud).await;
    cloud.kill(&destination).await;
    cloud.start_compute(&destination, brisk());
    cloud.wait_for_migration(&id, "completed").await;
    cloud.assert_rests_on(&id, &destination).await;
}

/// Every message to a conductor is only a hint.
#[tokio::test(flavor = "multi_thread")]
async fn all_connections_are_closed_again_and_again_and_everything_ends() {
    let cloud = Cloud::start(&[("a", brisk()), ("b", brisk())]).await;
    let (id, _, destination) = moving(&cloud).await;
    for _ in 0..3 {
        // The broker lists connections only after a while.
        wait_until("connections to be closed", PATIENCE, async || {
            cloud.broker.close_connections().await.unwrap() > 0
        })
        .await;
        cloud.database.disconnect_all().await.unwrap();
        // Whoever asks in that moment is told to ask again, and nothing worse.
        wait_until("the API to answer", PATIENCE, async || {
            let (status, body) = cloud.ask(Method::GET, "/v2.1/servers", None).await;
            let again = status == StatusCode::SERVICE_UNAVAILABLE;
            assert!(again || status == StatusCode::OK, "{status} {body}");
            !again
        })
        .await;
    }
    cloud.wait_for_migration(&id, "completed").await;
    cloud.assert_rests_on(&id, &destination).await;
}

/// A server on a host that is down goes at once; the host removes the guest when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_that_is_down_owes_is_done_when_it_is_back() {
    let mut cloud = Cloud::start(&[("a", FakeConfig::default())]).await;
    let id = cloud.boot().await;
    cloud.stop("a").await;
    wait_until("the host to be down", PATIENCE, async || {
        let services = cloud.get("/v2.1/os-services?host=a").await;
        services["services"][0]["state"] == "down"
    })
    .await;
    cloud.delete(&id).await;
    cloud.wait_until_gone(&id).await;
    assert_eq!(cloud.hosts_of(&id), ["a"], "the host is down, so the guest is still there");
    let owed = cloud.get("/v1/obligations").await;
    assert_eq!(owed["obligations"][0]["instance_id"], json!(id), "{owed}");

    cloud.start_compute("a", FakeConfig::default());
    wait_until("the host to have done it", PATIENCE, async || {
        cloud.get("/v1/obligations").await["obligations"] == json!([])
    })
    .await;
    cloud.assert_gone(&id).await;
}

/// A saga whose rows contradict it ends as stuck, by itself, and holds up nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_saga_is_stuck_and_alone() {
    let cloud = Cloud::start(&[("a", brisk()), ("b", brisk())]).await;
    let (id, _, destination) = moving(&cloud).await;
    // As if somebody had mended it with SQL.
    let statement = format!("UPDATE migration SET status = 'failed' WHERE instance_id = '{id}'");
    whimbrel_test_utils::tamper(&cloud.database.url(), &statement).await;
    let other = cloud.boot().await;
    cloud.live_migrate(&other, None).await;
    cloud.wait_for_migration(&other, "completed").await;
    let server = cloud.wait_for_status(&id, "ERROR").await;
    let why = server["fault"]["message"].as_str().unwrap();
    assert!(why.contains("transaction_failed"), "{why}");
    // The guest had moved before it came to that, and the row says so.
    assert_eq!(server["OS-EXT-SRV-ATTR:host"], destination.as_str());
    assert_eq!(cloud.hosts_of(&id), [destination.as_str()]);
}

/// A message that nobody can read is kept for an operator and holds up nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_nobody_can_read_is_kept_aside() {
    let cloud = Cloud::start(&[("a", FakeConfig::default())]).await;
    let config = serde_json::from_value(json!({ "url": cloud.broker.url() })).unwrap();
    let amqp = whimbrel_rpc::Amqp::connect(&config, "test").await.unwrap();
    let poison = ["conductor", "scheduler", "compute.a"].map(|queue| whimbrel_rpc::Outgoing {
        message_id: uuid::Uuid::new_v4(),
        exchange: whimbrel_rpc::exchange::COMMAND.to_owned(),
        routing_key: queue.to_owned(),
        body: b"no JSON".to_vec(),
        mandatory: true,
        persistent: true,
        headers: Vec::new(),
        expiration_ms: None,
    });
    let published = amqp.publisher().publish_all(&poison).await;
    assert_eq!(published, [whimbrel_rpc::Published::Confirmed; 3]);
    let kept = "SELECT count(*) = 3 AS holds FROM dead_letter WHERE body = 'no JSON'";
    wait_until("all three to be kept", PATIENCE, async || {
        whimbrel_test_utils::holds(&cloud.database.url(), kept).await
    })
    .await;
    cloud.boot().await;
    amqp.close().await;
}
