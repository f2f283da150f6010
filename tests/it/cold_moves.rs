//! Resize, cold migration, what is decided about them, and evacuation, over simulated hypervisors.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use whimbrel_test_utils::{wait_for, wait_until};
use whimbrel_virt::fake::FakeConfig;

use crate::cloud::{Cloud, PATIENCE};

fn refusing(call: &str) -> FakeConfig {
    FakeConfig { refuse: vec![call.to_owned()], ..FakeConfig::default() }
}

/// A disk of 1 GiB takes some four seconds.
pub(crate) fn slow() -> FakeConfig {
    FakeConfig { bandwidth_mib_s: 256, ..FakeConfig::default() }
}

pub(crate) async fn two() -> (Cloud, String, String, String) {
    with([("a", FakeConfig::default()), ("b", FakeConfig::default())]).await
}

/// A server, where it is, and the other host.
pub(crate) async fn with(hosts: [(&str, FakeConfig); 2]) -> (Cloud, String, String, String) {
    let cloud = Cloud::start(&hosts).await;
    let flavor =
        json!({ "flavor": { "name": "big", "id": "2", "ram": 128, "vcpus": 2, "disk": 2 } });
    let (status, body) = cloud.ask(Method::POST, "/v2.1/flavors", Some(flavor)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let mut new = cloud.new_server();
    new["server"]["host"] = json!("a");
    let (status, made) = cloud.ask(Method::POST, "/v2.1/servers", Some(new)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{made}");
    let id = made["server"]["id"].as_str().unwrap().to_owned();
    cloud.wait_for_status(&id, "ACTIVE").await;
    (cloud, id, "a".to_owned(), "b".to_owned())
}

impl Cloud {
    pub(crate) async fn does(&self, id: &str, action: Value, expected: StatusCode) {
        let (status, body) = self.action(id, action.clone()).await;
        assert_eq!(status, expected, "{action}: {body}");
    }

    pub(crate) async fn resize(&self, id: &str) -> Value {
        self.does(id, json!({ "resize": { "flavorRef": "2" } }), StatusCode::ACCEPTED).await;
        self.wait_for_status(id, "VERIFY_RESIZE").await
    }

    /// It waits for a decision: at `destination`, with what it needs for the way back at `source`.
    async fn assert_undecided(&self, id: &str, source: &str, destination: &str) {
        let server = self.server(id).await;
        assert_eq!(server["OS-EXT-SRV-ATTR:host"], destination);
        let migration = self.migration(id).await;
        assert_eq!(migration["status"], "finished");
        assert_eq!(self.hosts_of(id), [destination]);
        let held = self.allocations(id).await;
        let migration = migration["uuid"].as_str().unwrap().to_owned();
        assert_eq!(held.len(), 2, "{held:?}");
        assert!(held.contains(&(id.to_owned(), destination.to_owned())), "{held:?}");
        assert!(held.contains(&(migration, source.to_owned())), "{held:?}");
        self.assert_settled().await;
    }

    async fn flavor_of(&self, id: &str) -> (i64, i64) {
        let server = self.server(id).await;
        let number = |key: &str| server["flavor"][key].as_i64().unwrap();
        (number("vcpus"), number("ram"))
    }

    async fn service_id(&self, host: &str) -> String {
        let all = self.get(&format!("/v2.1/os-services?host={host}")).await;
        all["services"][0]["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn force_down(&self, host: &str, down: bool) -> (StatusCode, Value) {
        let path = format!("/v2.1/os-services/{}", self.service_id(host).await);
        self.ask(Method::PUT, &path, Some(json!({ "forced_down": down }))).await
    }

    pub(crate) async fn wait_until_down(&self, host: &str) {
        wait_until(&format!("{host} to be down"), PATIENCE, async || {
            let all = self.get(&format!("/v2.1/os-services?host={host}")).await;
            all["services"][0]["state"] == "down"
        })
        .await;
    }

    pub(crate) async fn wait_until_nothing_is_owed(&self) {
        wait_until("nothing to be owed", PATIENCE, async || {
            self.get("/v1/obligations").await["obligations"] == json!([])
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resize_is_confirmed() {
    let (cloud, id, source, destination) = two().await;
    cloud.resize(&id).await;
    assert_eq!(cloud.flavor_of(&id).await, (2, 128));
    cloud.assert_undecided(&id, &source, &destination).await;
    cloud.does(&id, json!({ "confirmResize": null }), StatusCode::NO_CONTENT).await;
    cloud.wait_for_status(&id, "ACTIVE").await;
    cloud.assert_rests_on(&id, &destination).await;
    assert_eq!(cloud.migration(&id).await["status"], "confirmed");
    assert_eq!(cloud.leftovers(&id), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resize_is_reverted() {
    let (cloud, id, source, _) = two().await;
    cloud.resize(&id).await;
    cloud.does(&id, json!({ "revertResize": null }), StatusCode::ACCEPTED).await;
    cloud.wait_for_status(&id, "ACTIVE").await;
    cloud.assert_rests_on(&id, &source).await;
    assert_eq!(cloud.flavor_of(&id).await, (1, 64));
    assert_eq!(cloud.migration(&id).await["status"], "reverted");
    assert_eq!(cloud.leftovers(&id), Vec::<String>::new());
    // And it can be done again.
    cloud.resize(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_off_is_moved_and_stays_off() {
    let (cloud, id, source, destination) = two().await;
    cloud.does(&id, json!({ "os-stop": null }), StatusCode::ACCEPTED).await;
    cloud.wait_for_status(&id, "SHUTOFF").await;
    for (decision, code, home) in [
        ("revertResize", StatusCode::ACCEPTED, &source),
        ("confirmResize", StatusCode::NO_CONTENT, &destination),
    ] {
        let to = json!({ "migrate": { "host": destination } });
        cloud.does(&id, to, StatusCode::ACCEPTED).await;
        cloud.wait_for_status(&id, "VERIFY_RESIZE").await;
        cloud.does(&id, json!({ decision: null }), code).await;
        cloud.wait_for_status(&id, "SHUTOFF").await;
        cloud.assert_rests_on(&id, home).await;
        assert_eq!(cloud.migration(&id).await["migration_type"], "migration");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_refused_on_the_way_leaves_the_guest_as_it_was() {
    for (call, at) in [("prep_resize", "b"), ("resize_instance", "a"), ("finish_resize", "b")] {
        let config = |host| if host == at { refusing(call) } else { FakeConfig::default() };
        let (cloud, id, source, _) = with([("a", config("a")), ("b", config("b"))]).await;
        let resize = json!({ "resize": { "flavorRef": "2" } });
        cloud.does(&id, resize, StatusCode::ACCEPTED).await;
        cloud.wait_for_migration(&id, "failed").await;
        cloud.wait_for_status(&id, "ACTIVE").await;
        cloud.assert_rests_on(&id, &source).await;
        assert_eq!(cloud.flavor_of(&id).await, (1, 64), "{call}");
        assert_eq!(cloud.leftovers(&id), Vec::<String>::new(), "{call}");
        let action = cloud.get(&format!("/v2.1/servers/{id}/os-instance-actions")).await;
        assert!(action["instanceActions"][0]["message"].is_string(), "{call}: {action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_killed_while_disks_travel_goes_on() {
    let (mut cloud, id, source, destination) = with([("a", slow()), ("b", slow())]).await;
    cloud.does(&id, json!({ "migrate": null }), StatusCode::ACCEPTED).await;
    cloud.wait_for_migration(&id, "migrating").await;
    cloud.kill(&source).await;
    cloud.start_compute(&source, slow());
    cloud.wait_for_status(&id, "VERIFY_RESIZE").await;
    cloud.assert_undecided(&id, &source, &destination).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_deleted_while_its_disks_travel_and_while_it_waits() {
    let (cloud, id, _, _) = with([("a", slow()), ("b", slow())]).await;
    cloud.does(&id, json!({ "migrate": null }), StatusCode::ACCEPTED).await;
    cloud.wait_for_migration(&id, "migrating").await;
    cloud.delete(&id).await;
    cloud.wait_until_gone(&id).await;
    cloud.assert_gone(&id).await;
    assert_eq!(cloud.leftovers(&id), Vec::<String>::new());

    let id = cloud.boot().await;
    cloud.resize(&id).await;
    cloud.delete(&id).await;
    cloud.wait_until_gone(&id).await;
    cloud.assert_gone(&id).await;
    assert_eq!(cloud.leftovers(&id), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_does_not_wait_for_a_source_that_is_down() {
    let (mut cloud, id, source, destination) = two().await;
    cloud.resize(&id).await;
    cloud.kill(&source).await;
    cloud.wait_until_down(&source).await;
    cloud.does(&id, json!({ "confirmResize": null }), StatusCode::NO_CONTENT).await;
    cloud.wait_for_status(&id, "ACTIVE").await;
    cloud.assert_rests_on(&id, &destination).await;
    assert_ne!(cloud.leftovers(&id), Vec::<String>::new(), "the source still has it");
    cloud.start_compute(&source, FakeConfig::default());
    cloud.wait_until_nothing_is_owed().await;
    assert_eq!(cloud.leftovers(&id), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_evacuated_and_its_host_cleans_up_when_it_is_back() {
    let (mut cloud, id, source, destination) = two().await;
    let evacuate = json!({ "evacuate": {} });
    cloud.does(&id, evacuate.clone(), StatusCode::BAD_REQUEST).await;
    cloud.kill(&source).await;
    cloud.wait_until_down(&source).await;
    // Silent is not dead.
    cloud.does(&id, evacuate.clone(), StatusCode::BAD_REQUEST).await;
    assert_eq!(cloud.force_down(&source, true).await.0, StatusCode::OK);
    cloud.does(&id, evacuate, StatusCode::OK).await;
    cloud.wait_for_migration(&id, "done").await;
    cloud.wait_for_status(&id, "SHUTOFF").await;
    assert_eq!(cloud.server(&id).await["OS-EXT-SRV-ATTR:host"], destination);
    assert_eq!(cloud.force_down(&source, false).await.0, StatusCode::BAD_REQUEST);

    cloud.start_compute(&source, FakeConfig::default());
    cloud.wait_for_migration(&id, "completed").await;
    cloud.assert_rests_on(&id, &destination).await;
    assert_eq!(cloud.force_down(&source, false).await.0, StatusCode::OK);
}

/// The program says yes only once a file is there, as one would whose power switch answers at last.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_answer_is_fenced_before_its_server_is_evacuated() {
    let switch = std::env::temp_dir().join(format!("whimbrel-switch-{}", uuid::Uuid::new_v4()));
    let script = format!(
        "test -e {0} || {{ echo no power switch >&2; exit 1; }}; echo $0 >> {0}",
        switch.display()
    );
    let hook = json!({ "fencing": { "program": "/bin/sh", "arguments": ["-c", script] } });
    let hosts = [("a", FakeConfig::default()), ("b", FakeConfig::default())];
    let mut cloud = Cloud::start_with(&hosts, &hook, None).await;
    let (one, two) = (cloud.boot().await, cloud.boot().await);
    let evacuate = json!({ "evacuate": {} });
    // A host that answers is not fenced, whatever anybody asks for.
    cloud.does(&one, evacuate.clone(), StatusCode::BAD_REQUEST).await;
    let source = cloud.server(&one).await["OS-EXT-SRV-ATTR:host"].as_str().unwrap().to_owned();
    if cloud.hosts_of(&two) != [source.clone()] {
        cloud.live_migrate(&two, Some(&source)).await;
        cloud.wait_for_migration(&two, "completed").await;
    }
    cloud.kill(&source).await;
    cloud.wait_until_down(&source).await;
    let (status, body) = cloud.action(&one, evacuate.clone()).await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    assert!(body.to_string().contains("no power switch"), "{body}");
    let forced = |services: Value| services["services"][0]["forced_down"].clone();
    let path = format!("/v2.1/os-services?host={source}");
    assert_eq!(forced(cloud.get(&path).await), false);

    std::fs::write(&switch, "").unwrap();
    cloud.does(&one, evacuate.clone(), StatusCode::OK).await;
    cloud.does(&two, evacuate, StatusCode::OK).await;
    assert_eq!(forced(cloud.get(&path).await), true);
    // Once for the host, not for each of its servers.
    assert_eq!(std::fs::read_to_string(&switch).unwrap(), format!("{source}\n"));
    std::fs::remove_file(&switch).unwrap();
    for id in [&one, &two] {
        cloud.wait_for_migration(id, "done").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_nobody_decides_on_is_confirmed_after_its_time() {
    let (mut cloud, id, _, destination) = two().await;
    cloud.stop("conductor").await;
    cloud.start_conductor_with("conductor", &json!({ "resize_confirm_window_s": 1 }));
    cloud.resize(&id).await;
    cloud.wait_for_migration(&id, "confirmed").await;
    cloud.wait_for_status(&id, "ACTIVE").await;
    cloud.assert_rests_on(&id, &destination).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let (cloud, id, _, _) = two().await;
    let small =
        json!({ "flavor": { "name": "tiny", "id": "3", "ram": 64, "vcpus": 1, "disk": 0 } });
    cloud.ask(Method::POST, "/v2.1/flavors", Some(small)).await;
    let before = wait_for("everything at rest", PATIENCE, async || {
        let rows = whimbrel_test_utils::everything(&cloud.database.url()).await;
        (!rows.iter().any(|row| row.starts_with("outbox"))).then_some(rows)
    })
    .await;
    let bad = StatusCode::BAD_REQUEST;
    let conflict = StatusCode::CONFLICT;
    for (action, code, says) in [
        (json!({ "resize": { "flavorRef": "1" } }), bad, "must change flavor"),
        (json!({ "resize": { "flavorRef": "9" } }), bad, "could not be found"),
        (json!({ "resize": { "flavorRef": "3" } }), bad, "can't shrink"),
        (json!({ "migrate": { "host": "nowhere" } }), bad, "could not be found"),
        (json!({ "migrate": { "host": "a" } }), bad, "it is there already"),
        (json!({ "confirmResize": null }), conflict, "Cannot 'confirmResize'"),
        (json!({ "revertResize": null }), conflict, "Cannot 'revertResize'"),
        (json!({ "evacuate": {} }), bad, "still in use"),
    ] {
        let (status, body) = cloud.action(&id, action.clone()).await;
        assert_eq!(status, code, "{action}: {body}");
        assert!(body.to_string().contains(says), "{action}: {body}");
    }
    assert_eq!(whimbrel_test_utils::everything(&cloud.database.url()).await, before);
}
