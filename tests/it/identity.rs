//! Who may do what, over HTTP: two projects, four roles.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use whimbrel_virt::fake::FakeConfig;

use crate::cloud::{Cloud, Login};

const ADMIN: (&str, &str) = ("root", "0");
const MANAGER: (&str, &str) = ("mia", "1");
const MEMBER: (&str, &str) = ("max", "2");
const READER: (&str, &str) = ("rita", "3");
/// Of another project.
const STRANGER: (&str, &str) = ("sam", "4");

struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A cloud that knows them all. The administrator is of the project `ops`, the stranger of `other`, all others of
/// `own`.
async fn cloud() -> (Cloud, Folder) {
    let folder = std::env::temp_dir().join(format!("whimbrel-identity-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&folder).unwrap();
    let (mut users, mut roles) = (String::new(), String::new());
    for ((name, password), project, role) in [
        (ADMIN, "ops", "admin"),
        (MANAGER, "own", "manager"),
        (MEMBER, "own", "member"),
        (READER, "own", "reader"),
        (STRANGER, "other", "member"),
    ] {
        users += &format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap());
        roles += &format!("[{name}]\nproject = \"{project}\"\nroles = [\"{role}\"]\n");
    }
    let (users_file, roles_file) = (folder.join("htpasswd"), folder.join("roles.toml"));
    std::fs::write(&users_file, users).unwrap();
    std::fs::write(&roles_file, roles).unwrap();
    let api = json!({
        "auth": "http_basic",
        "http_basic": { "users_file": users_file, "roles_file": roles_file },
    });
    let hosts = [("a", FakeConfig::default()), ("b", FakeConfig::default())];
    (Cloud::start_with(&hosts, &api, Some(ADMIN.into())).await, Folder(folder))
}

/// Method, path, body; then the expected codes for stranger, reader, member, manager, administrator.
type Row = (Method, &'static str, Value, [u16; 5]);

/// `{id}` is a server of the project `own`.
fn rows() -> Vec<Row> {
    let none = Value::Null;
    let action = "/v2.1/servers/{id}/action";
    let to = |host: Value| json!({ "os-migrateLive": { "host": host, "block_migration": "auto" } });
    let missing = "/v2.1/servers/{id}/migrations/77";
    let all = [200, 200, 200, 200, 200];
    let admins = [403, 403, 403, 403, 200];
    vec![
        (Method::GET, "/v2.1/servers", none.clone(), all),
        (Method::GET, "/v2.1/servers/detail?all_tenants=1", none.clone(), admins),
        (Method::GET, "/v2.1/servers/{id}", none.clone(), [404, 200, 200, 200, 200]),
        (Method::GET, "/v2.1/servers/{id}/tags", none.clone(), [404, 200, 200, 200, 200]),
        (Method::GET, "/v2.1/servers/{id}/metadata", none.clone(), [404, 200, 200, 200, 200]),
        (Method::GET, "/v2.1/servers/{id}/os-interface", none.clone(), [404, 200, 200, 200, 200]),
        (
            Method::GET,
            "/v2.1/servers/{id}/os-instance-actions",
            none.clone(),
            [404, 200, 200, 200, 200],
        ),
        (Method::GET, "/v2.1/servers/{id}/migrations", none.clone(), [403, 403, 403, 200, 200]),
        (Method::GET, missing, none.clone(), [403, 403, 403, 404, 404]),
        (Method::DELETE, missing, none.clone(), [403, 403, 403, 404, 404]),
        (Method::PUT, "/v2.1/servers/{id}/tags/t", none.clone(), [404, 403, 201, 204, 204]),
        (
            Method::PUT,
            "/v2.1/servers/{id}",
            json!({"server": {"name": "new"}}),
            [404, 403, 200, 200, 200],
        ),
        (Method::POST, action, json!({"lock": null}), [404, 403, 202, 202, 202]),
        (Method::POST, action, json!({"unlock": null}), [404, 403, 403, 403, 202]),
        (
            Method::POST,
            action,
            json!({"os-resetState": {"state": "active"}}),
            [404, 403, 403, 403, 202],
        ),
        (Method::POST, action, json!({"evacuate": {}}), [404, 403, 403, 403, 400]),
        (Method::POST, action, to(json!("nowhere")), [404, 403, 403, 403, 400]),
        (Method::POST, action, json!({"migrate": {"host": "nowhere"}}), [404, 403, 403, 403, 400]),
        (Method::GET, "/v2.1/os-migrations", none.clone(), [403, 403, 403, 200, 200]),
        (Method::GET, "/v2.1/os-services", none.clone(), admins),
        (Method::GET, "/v2.1/os-hypervisors/detail", none.clone(), admins),
        (Method::GET, "/v2.1/os-aggregates", none.clone(), admins),
        (Method::GET, "/v2.1/os-availability-zone", none.clone(), all),
        (Method::GET, "/v2.1/os-availability-zone/detail", none.clone(), admins),
        (Method::GET, "/v2.1/os-quota-sets/own", none.clone(), [403, 200, 200, 200, 200]),
        (Method::PUT, "/v2.1/os-quota-sets/own", json!({"quota_set": {}}), admins),
        (Method::GET, "/v2.1/limits?tenant_id=own", none.clone(), [403, 200, 200, 200, 200]),
        (Method::GET, "/v2.1/os-keypairs?user_id=max", none.clone(), [403, 403, 200, 403, 200]),
        (Method::GET, "/v2.1/os-server-groups?all_projects=1", none.clone(), admins),
        (Method::GET, "/v2.1/flavors", none.clone(), all),
        (Method::POST, "/v2.1/flavors", json!({}), [403, 403, 403, 403, 400]),
        (Method::GET, "/v2/images", none.clone(), all),
        (
            Method::POST,
            "/v2/images",
            json!({"name": "i", "disk_format": "raw", "visibility": "public"}),
            [403, 403, 403, 403, 201],
        ),
        (Method::GET, "/v2.0/networks", none.clone(), all),
        (Method::POST, "/v2.0/networks", json!({}), [403, 403, 403, 403, 400]),
        (Method::GET, "/v1/consistency", none.clone(), admins),
        // At the end, for it is gone after the first who may.
        (Method::DELETE, "/v2.1/servers/{id}", none, [404, 403, 409, 409, 204]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_does_what_it_may_and_other_projects_see_nothing() {
    let (mut cloud, _folder) = cloud().await;
    cloud.login = Some(MEMBER.into());
    let id = cloud.boot().await;
    for (method, path, body, expected) in rows() {
        let path = path.replace("{id}", &id);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        // What the others may not is tried before what the administrator may.
        let callers = [STRANGER, READER, MEMBER, MANAGER, ADMIN];
        if body.contains("unlock") {
            cloud.login = Some(ADMIN.into());
            cloud.action(&id, json!({ "lock": null })).await;
        }
        if method == Method::DELETE && !path.contains("migrations") {
            cloud.login = Some(ADMIN.into());
            cloud.action(&id, json!({ "lock": null })).await;
        }
        for (caller, code) in callers.into_iter().zip(expected) {
            cloud.login = Some(caller.into());
            let (status, answer) = cloud.ask_as("latest", method.clone(), &path, &body).await;
            assert_eq!(status.as_u16(), code, "{} {method} {path} {body}: {answer}", caller.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_theirs_is_not_shown_to_users() {
    let (mut cloud, _folder) = cloud().await;
    cloud.login = Some(MEMBER.into());
    let id = cloud.boot().await;
    cloud.login = Some(ADMIN.into());
    cloud.live_migrate(&id, None).await;
    let done = cloud.wait_for_migration(&id, "completed").await;
    assert!(done["dest_compute"].is_string());
    let host = cloud.server(&id).await["OS-EXT-SRV-ATTR:host"].clone();
    assert!(host.is_string());

    cloud.login = Some(MANAGER.into());
    assert!(cloud.migration(&id).await["dest_compute"].is_null(), "hosts are for administrators");
    let server = cloud.server(&id).await;
    let fields = server.as_object().unwrap();
    let shown: Vec<_> = fields.keys().filter(|name| name.starts_with("OS-EXT-SRV-ATTR")).collect();
    assert_eq!(shown, ["OS-EXT-SRV-ATTR:hostname"]);
    assert!(!fields.contains_key("host_status"));
    let path = format!("/v2.1/servers/{id}/os-instance-actions");
    let actions = cloud.get(&path).await;
    let request = actions["instanceActions"][0]["request_id"].as_str().unwrap().to_owned();
    let one = cloud.get(&format!("{path}/{request}")).await;
    assert!(one["instanceAction"]["events"][0].get("host").is_none(), "{one}");

    cloud.login = Some(STRANGER.into());
    assert_eq!(cloud.get("/v2.1/servers").await["servers"], json!([]));
    assert_eq!(cloud.get("/v2.0/ports").await["ports"], json!([]));
    // What is heard of administrators only does not widen what others see.
    let listed = cloud.get("/v2.1/servers?project_id=own&deleted=true").await;
    assert_eq!(listed["servers"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_say_who_they_are_learns_versions_only() {
    let (mut cloud, _folder) = cloud().await;
    for login in [None, Some(("root", "wrong")), Some(("nobody", "0"))] {
        cloud.login = login.map(Login::from);
        for (path, code) in [
            ("/", StatusCode::OK),
            ("/v2.1", StatusCode::OK),
            ("/v2.1/", StatusCode::OK),
            ("/livez", StatusCode::OK),
            ("/v2.1/servers", StatusCode::UNAUTHORIZED),
            ("/v2/images", StatusCode::UNAUTHORIZED),
            ("/v2.1/os-magic", StatusCode::UNAUTHORIZED),
        ] {
            assert_eq!(cloud.ask(Method::GET, path, None).await.0, code, "{login:?} {path}");
        }
    }
}
