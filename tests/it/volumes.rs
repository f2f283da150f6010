//! Volumes: a guest is given one, keeps it over every move, and gives it back.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use whimbrel_test_utils::wait_until;
use whimbrel_virt::fake::FakeConfig;

use crate::cloud::{Cloud, PATIENCE};
use crate::cold_moves::{two, with};

impl Cloud {
    async fn register(&self, export: &str) -> String {
        let server = json!({ "host": "10.0.0.7", "port": 10809 });
        let source = json!({ "protocol": "nbd", "server": server, "export": export });
        let new = json!({ "volume": { "name": export, "size_gib": 1, "source": source } });
        let (status, made) = self.ask(Method::POST, "/v1/volumes", Some(new)).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        made["volume"]["id"].as_str().unwrap().to_owned()
    }

    async fn attach(&self, id: &str, volume: &str) -> (StatusCode, Value) {
        let body = json!({ "volumeAttachment": { "volumeId": volume } });
        let path = format!("/v2.1/servers/{id}/os-volume_attachments");
        self.ask(Method::POST, &path, Some(body)).await
    }

    async fn detach(&self, id: &str, volume: &str) -> StatusCode {
        let path = format!("/v2.1/servers/{id}/os-volume_attachments/{volume}");
        self.ask(Method::DELETE, &path, None).await.0
    }

    async fn volume(&self, volume: &str) -> Value {
        self.get(&format!("/v3/default/volumes/{volume}")).await["volume"].clone()
    }

    async fn wait_for_volume(&self, volume: &str, status: &str) {
        wait_until(&format!("the volume to be {status}"), PATIENCE, async || {
            self.volume(volume).await["status"] == status
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_goes_wherever_its_server_goes() {
    let (cloud, id, a, b) = two().await;
    let (first, second) = (cloud.register("first").await, cloud.register("second").await);
    let (status, body) = cloud.attach(&id, &first).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["volumeAttachment"]["device"], "/dev/vdb");
    cloud.wait_for_volume(&first, "in-use").await;
    cloud.wait_for_status(&id, "ACTIVE").await;
    assert_eq!(cloud.attach(&id, &second).await.1["volumeAttachment"]["device"], "/dev/vdc");
    cloud.wait_for_volume(&second, "in-use").await;
    let server = cloud.wait_for_status(&id, "ACTIVE").await;
    assert_eq!(server["os-extended-volumes:volumes_attached"].as_array().unwrap().len(), 2);
    let both = [first.clone(), second.clone()];
    assert_eq!(cloud.volumes_on(&a, &id), both);

    cloud.live_migrate(&id, None).await;
    cloud.wait_for_migration(&id, "completed").await;
    assert_eq!(cloud.volumes_on(&b, &id), both);
    cloud.resize(&id).await;
    assert_eq!(cloud.volumes_on(&a, &id), both);
    // Nothing is plugged into or out of a server that waits for a decision.
    assert_eq!(cloud.detach(&id, &first).await, StatusCode::CONFLICT);
    cloud.does(&id, json!({ "revertResize": null }), StatusCode::ACCEPTED).await;
    cloud.wait_for_status(&id, "ACTIVE").await;
    assert_eq!(cloud.volumes_on(&b, &id), both);

    assert_eq!(cloud.detach(&id, &first).await, StatusCode::ACCEPTED);
    cloud.wait_for_volume(&first, "available").await;
    cloud.wait_for_status(&id, "ACTIVE").await;
    assert_eq!(cloud.volumes_on(&b, &id), std::slice::from_ref(&second));
    assert_eq!(cloud.detach(&id, &first).await, StatusCode::NOT_FOUND);
    // The name that has become free is given out again.
    assert_eq!(cloud.attach(&id, &first).await.1["volumeAttachment"]["device"], "/dev/vdb");
    cloud.wait_for_volume(&first, "in-use").await;
    cloud.wait_for_status(&id, "ACTIVE").await;

    cloud.delete(&id).await;
    cloud.wait_until_gone(&id).await;
    cloud.assert_gone(&id).await;
    for volume in [&first, &second] {
        assert_eq!(cloud.volume(volume).await["status"], "available");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_refuses_leaves_everything_as_it_was() {
    let refusing =
        |call: &str| FakeConfig { refuse: vec![call.to_owned()], ..FakeConfig::default() };
    let (mut cloud, id, a, _) =
        with([("a", refusing("attach_volume")), ("b", FakeConfig::default())]).await;
    let volume = cloud.register("data").await;
    assert_eq!(cloud.attach(&id, &volume).await.0, StatusCode::OK);
    cloud.wait_for_volume(&volume, "available").await;
    cloud.wait_for_status(&id, "ACTIVE").await;
    assert_eq!(cloud.volumes_on(&a, &id), Vec::<String>::new());
    cloud.assert_rests_on(&id, &a).await;

    cloud.stop(&a).await;
    cloud.start_compute(&a, refusing("detach_volume"));
    wait_until("the host to be up", PATIENCE, async || {
        cloud.attach(&id, &volume).await.0 == StatusCode::OK
    })
    .await;
    cloud.wait_for_volume(&volume, "in-use").await;
    cloud.wait_for_status(&id, "ACTIVE").await;
    assert_eq!(cloud.detach(&id, &volume).await, StatusCode::ACCEPTED);
    cloud.wait_for_volume(&volume, "in-use").await;
    cloud.wait_for_status(&id, "ACTIVE").await;
    assert_eq!(cloud.volumes_on(&a, &id), [volume]);
    cloud.assert_rests_on(&id, &a).await;
}

/// A guest on a silent host may write to its volume: nobody else is given it before that is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_not_free_before_its_deleted_server_is_gone_for_certain() {
    let (mut cloud, id, a, _) = two().await;
    let volume = cloud.register("data").await;
    assert_eq!(cloud.attach(&id, &volume).await.0, StatusCode::OK);
    cloud.wait_for_volume(&volume, "in-use").await;
    cloud.wait_for_status(&id, "ACTIVE").await;
    cloud.kill(&a).await;
    cloud.wait_until_down(&a).await;
    cloud.delete(&id).await;
    cloud.wait_until_gone(&id).await;
    assert_eq!(cloud.volume(&volume).await["status"], "in-use");
    cloud.start_compute(&a, FakeConfig::default());
    cloud.wait_for_volume(&volume, "available").await;
    cloud.wait_until_nothing_is_owed().await;
    cloud.assert_gone(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_attached_is_refused_and_changes_nothing() {
    let (cloud, id, _, _) = two().await;
    let other = cloud.boot().await;
    let volume = cloud.register("data").await;
    assert_eq!(cloud.attach(&id, &volume).await.0, StatusCode::OK);
    cloud.wait_for_volume(&volume, "in-use").await;
    cloud.wait_for_status(&id, "ACTIVE").await;
    let none = uuid::Uuid::new_v4().to_string();
    let (bad, missing) = (StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND);
    for (server, wanted, code, says) in [
        (&other, volume.as_str(), bad, "must be available"),
        (&other, none.as_str(), missing, "could not be found"),
        (&none, volume.as_str(), missing, "could not be found"),
        (&other, "data", bad, "volumeId"),
    ] {
        let (status, body) = cloud.attach(server, wanted).await;
        assert_eq!(status, code, "{body}");
        assert!(body.to_string().contains(says), "{body}");
    }
    let (status, body) = cloud.ask(Method::DELETE, &format!("/v1/volumes/{volume}"), None).await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    // Its bytes are one volume's only.
    let source = json!({ "protocol": "nbd", "server": { "host": "10.0.0.7", "port": 10809 }, "export": "data" });
    let again = json!({ "volume": { "size_gib": 1, "source": source } });
    assert_eq!(cloud.ask(Method::POST, "/v1/volumes", Some(again)).await.0, StatusCode::CONFLICT);
    cloud.assert_settled().await;
}
