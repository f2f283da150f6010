//! What callers do wrong is answered with the right code and a text that helps, and changes nothing.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use whimbrel_test_utils::wait_until;
use whimbrel_virt::fake::FakeConfig;

use crate::cloud::{Cloud, PATIENCE};

struct Row {
    what: &'static str,
    version: &'static str,
    method: Method,
    path: String,
    body: String,
    code: u16,
    says: &'static str,
}

#[expect(clippy::needless_pass_by_value, reason = "a table reads better without references")]
fn post(what: &'static str, path: &str, body: impl ToString, code: u16, says: &'static str) -> Row {
    let (path, body) = (path.to_owned(), body.to_string());
    Row { what, version: "2.96", method: Method::POST, path, body, code, says }
}

fn get(what: &'static str, path: &str, code: u16, says: &'static str) -> Row {
    Row { method: Method::GET, ..post(what, path, "", code, says) }
}

fn migrate(host: impl Into<Value>) -> String {
    json!({ "os-migrateLive": { "host": host.into(), "block_migration": "auto" } }).to_string()
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn of_servers(id: &str, image: &str) -> Vec<Row> {
    let action = format!("/v2.1/servers/{id}/action");
    let unknown = "/v2.1/servers/00000000-0000-0000-0000-000000000001";
    let server = |change: Value| {
        let mut server = json!({
            "name": "x", "imageRef": image, "flavorRef": "1", "networks": "none",
        });
        server.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({ "server": server })
    };
    let servers = "/v2.1/servers";
    vec![
        post(
            "unknown host",
            &action,
            migrate("nowhere"),
            400,
            "Compute host nowhere could not be found",
        ),
        post("the host it is on", &action, migrate("a"), 400, "it is there already"),
        post("a disabled host", &action, migrate("b"), 400, "disabled (repairs)"),
        post("a host that is down", &action, migrate("c"), 400, "down"),
        post("malformed JSON", &action, "{\"os-start\": nul", 400, "not JSON"),
        post(
            "more than one action",
            &action,
            json!({"os-start": null, "os-stop": null}),
            400,
            "exactly one",
        ),
        post("unknown action", &action, json!({"fly": null}), 400, "no such action: fly"),
        post(
            "wrong type",
            &action,
            json!({"os-migrateLive": {"host": 7, "block_migration": true}}),
            400,
            "host",
        ),
        post(
            "unknown key",
            &action,
            json!({"os-migrateLive": {"host": null, "block_migration": true, "x": 1}}),
            400,
            "x",
        ),
        post(
            "start of what runs",
            &action,
            json!({"os-start": null}),
            409,
            "while it is in vm_state active",
        ),
        post(
            "unknown kind of reboot",
            &action,
            json!({"reboot": {"type": "KICK"}}),
            400,
            "SOFT or HARD",
        ),
        post(
            "unknown server",
            &format!("{unknown}/action"),
            migrate(Value::Null),
            404,
            "could not be found",
        ),
        get("unknown server", unknown, 404, "could not be found"),
        get("a name for an id", "/v2.1/servers/guest", 404, "could not be found"),
        Row { method: Method::DELETE, ..get("unknown server", unknown, 404, "could not be found") },
        Row { version: "2.9999", ..get("unknown microversion", servers, 406, "maximum is 2.96") },
        Row { version: "2.x", ..get("malformed microversion", servers, 400, "invalid format") },
        get(
            "unknown migration",
            &format!("{servers}/{id}/migrations/77"),
            404,
            "could not be found",
        ),
        get("unknown path", "/v2.1/os-magic", 404, "nothing at"),
        Row { method: Method::PUT, ..get("wrong method", servers, 405, "method") },
        post("no name", servers, server(json!({"name": ""})), 400, "name"),
        post("unknown flavor", servers, server(json!({"flavorRef": "none"})), 400, "flavor none"),
        post(
            "unknown image",
            servers,
            server(json!({"imageRef": "00000000-0000-0000-0000-000000000002"})),
            400,
            "image",
        ),
        post(
            "unknown network",
            servers,
            server(json!({"networks": [{"uuid": "nope"}]})),
            400,
            "Network nope",
        ),
        post(
            "no networks",
            servers,
            json!({"server": {"name": "x", "imageRef": image, "flavorRef": "1"}}),
            400,
            "networks is missing",
        ),
        post("unknown key", servers, server(json!({"wings": 2})), 400, "wings"),
        post("too many at once", servers, server(json!({"max_count": 101})), 400, "must be 1"),
        post("unknown key pair", servers, server(json!({"key_name": "x"})), 400, "key_name"),
        post(
            "unknown zone",
            servers,
            server(json!({"availability_zone": "moon"})),
            400,
            "availability zone",
        ),
        post("no server", servers, json!({}), 400, "server"),
        post("unknown host", servers, server(json!({"host": "nowhere"})), 400, "nowhere"),
        get(
            "marker of nothing",
            "/v2.1/servers?marker=00000000-0000-0000-0000-000000000003",
            400,
            "marker",
        ),
        get("limit that is none", "/v2.1/servers?limit=many", 400, "limit"),
    ]
}

fn of_others() -> Vec<Row> {
    let flavor = |change: Value| {
        let mut flavor = json!({"name": "f", "ram": 1, "vcpus": 1, "disk": 1});
        flavor.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({ "flavor": flavor })
    };
    let network = |cidr: &str| json!({"network": {"name": "n", "provider:physical_network": "br0", "cidr": cidr}});
    vec![
        post("no memory", "/v2.1/flavors", flavor(json!({"ram": 0})), 400, "ram"),
        post(
            "a name that is taken",
            "/v2.1/flavors",
            flavor(json!({"name": "small"})),
            409,
            "already exists",
        ),
        get("unknown flavor", "/v2.1/flavors/none", 404, "could not be found"),
        post(
            "a format that is none",
            "/v2/images",
            json!({"name": "x", "disk_format": "vmdk"}),
            400,
            "disk_format",
        ),
        get("unknown image", "/v2/images/x", 404, "could not be found"),
        post("a range that is none", "/v2.0/networks", network("10.0.0.1/24"), 400, "cidr"),
        post(
            "a name that is taken",
            "/v2.0/networks",
            json!({"network": {"name": "net", "provider:physical_network": "br0", "cidr": "10.9.0.0/24"}}),
            409,
            "already exists",
        ),
        Row {
            method: Method::PUT,
            ..post(
                "unknown service",
                "/v2.1/os-services/00000000-0000-0000-0000-000000000004",
                json!({"status": "disabled"}),
                404,
                "could not be found",
            )
        },
        get("unknown hypervisor", "/v2.1/os-hypervisors/x", 404, "could not be found"),
        Row { version: "2.36", ..get("a proxy that went", "/v2.1/images", 404, "2.36") },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_answered_rightly_and_changes_nothing() {
    let hosts = ["a", "b", "c"].map(|name| (name, FakeConfig::default()));
    let mut cloud = Cloud::start(&hosts).await;
    let mut new = cloud.new_server();
    new["server"]["host"] = json!("a");
    let (_, made) = cloud.ask(Method::POST, "/v2.1/servers", Some(new)).await;
    let id = made["server"]["id"].as_str().unwrap().to_owned();
    cloud.wait_for_status(&id, "ACTIVE").await;
    let services = cloud.get("/v2.1/os-services?host=b").await;
    let path = format!("/v2.1/os-services/{}", services["services"][0]["id"].as_str().unwrap());
    let disable = json!({ "status": "disabled", "disabled_reason": "repairs" });
    assert_eq!(cloud.ask(Method::PUT, &path, Some(disable)).await.0, StatusCode::OK);
    cloud.stop("c").await;
    wait_until("host c to be down", PATIENCE, async || {
        cloud.get("/v2.1/os-services?host=c").await["services"][0]["state"] == "down"
    })
    .await;

    let before = whimbrel_test_utils::everything(&cloud.database.url()).await;
    for row in of_servers(&id, &cloud.image).into_iter().chain(of_others()) {
        let Row { what, version, method, path, body, code, says } = row;
        let (status, answer) = cloud.ask_as(version, method, &path, &body).await;
        let told = answer.to_string();
        assert_eq!(status.as_u16(), code, "{what}: {path} {told}");
        assert!(told.contains(says), "{what}: {path}: '{says}' is not in {told}");
    }
    let after = whimbrel_test_utils::everything(&cloud.database.url()).await;
    assert_eq!(before, after, "something was changed");
}
