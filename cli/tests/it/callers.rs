//! The program says who its user is: with a password of their own, and with a token of a real Keystone.

use serde_json::json;
use whimbrel_virt::fake::FakeConfig;

use crate::cloud::{Cloud, Login};
use crate::keystone::Keystone;
use crate::program::Program;

#[tokio::test(flavor = "multi_thread")]
async fn a_password_comes_from_variables_or_files_and_is_told_to_nobody() {
    let folder = std::env::temp_dir().join(format!("whimbrel-callers-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&folder).unwrap();
    let hash = |password: &str| bcrypt::hash(password, 4).unwrap();
    let users = format!("root:{}\nrita:{}\n", hash("sesame-1"), hash("sesame-2"));
    let roles = "[root]\nproject = \"ops\"\nroles = [\"admin\"]\n[rita]\nproject = \"ops\"\nroles = [\"reader\"]\n";
    std::fs::write(folder.join("htpasswd"), users).unwrap();
    std::fs::write(folder.join("roles.toml"), roles).unwrap();
    let api = json!({ "auth": "http_basic", "http_basic": {
        "users_file": folder.join("htpasswd"), "roles_file": folder.join("roles.toml"),
    } });
    let login = Some(Login::Password("root", "sesame-1"));
    let cloud = Cloud::start_with(&[("a", FakeConfig::default())], &api, login).await;
    std::fs::remove_dir_all(&folder).unwrap();

    let without = json!({ "auth_type": "http_basic", "auth": {
        "endpoint": format!("{}/v2.1", cloud.url()), "username": "root",
    } });
    let program = Program::with(&without);
    program.fails("host list", 2, "set OS_PASSWORD").await;
    let right = Program::with(&without).variable("OS_PASSWORD", "sesame-1");
    assert_eq!(right.ok("host list -f value -c host").await, "a\n");
    let secure = json!({ "clouds": { "test": { "auth": { "password": "sesame-1" } } } });
    program.file("secure.json", &secure.to_string());
    assert_eq!(program.ok("host list -f value -c host").await, "a\n");

    let wrong = Program::with(&without).variable("OS_PASSWORD", "guess-me");
    let said = wrong.fails("host list", 4, "HTTP 401").await;
    assert!(!said.contains("guess-me"), "{said}");
    let reader = Program::with(&without).variable("OS_PASSWORD", "sesame-2");
    let said = reader.fails("--os-username rita host disable a", 3, "HTTP 403").await;
    assert!(said.contains("next: Ask for a higher role") && !said.contains("sesame"), "{said}");
    assert_eq!(reader.ok("--os-username rita server list").await, "");

    // Variables alone.
    let variables = Program::with(&json!({}))
        .variable("OS_AUTH_TYPE", "http_basic")
        .variable("OS_ENDPOINT", &cloud.url())
        .variable("OS_USERNAME", "root")
        .variable("OS_PASSWORD", "sesame-1");
    assert_eq!(variables.ok("hypervisor list -f value -c name").await, "a\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_keystone_gives_the_token_and_the_catalog() {
    let keystone = Keystone::start().await;
    let url = keystone.url.clone();
    let user = json!({ "name": "admin", "domain": { "id": "default" }, "password": "secret" });
    let body = json!({ "auth": {
        "identity": { "methods": ["password"], "password": { "user": user } },
        "scope": { "project": { "name": "admin", "domain": { "id": "default" } } },
    } });
    let answer = keystone.ask(None, "/auth/tokens", &body).await;
    let token = answer.headers()["x-subject-token"].to_str().unwrap().to_owned();
    let issued: serde_json::Value = answer.json().await.unwrap();
    let api = json!({ "auth": "keystone", "keystone": {
        "url": url, "username": "admin", "password": "secret", "project_name": "admin",
    } });
    let login = Some(Login::Token(token.clone()));
    let cloud = Cloud::start_with(&[("a", FakeConfig::default())], &api, login).await;

    // The catalog says where the rest is.
    let service = json!({ "service": { "type": "compute", "name": "whimbrel" } });
    let service = keystone.ask(Some(&token), "/services", &service).await;
    let service: serde_json::Value = service.json().await.unwrap();
    let endpoint = json!({ "endpoint": {
        "service_id": service["service"]["id"], "interface": "public", "region_id": "test",
        "url": format!("{}/v2.1", cloud.url()),
    } });
    keystone.ask(Some(&token), "/endpoints", &endpoint).await;
    let password = json!({ "auth_type": "password", "region_name": "test", "auth": {
        "auth_url": url, "username": "admin", "password": "secret", "project_name": "admin",
    } });
    let program = Program::with(&password);
    assert_eq!(program.ok("host list -f value -c host").await, "a\n");
    assert_eq!(program.ok("image list -f value -c name").await, "image\n");
    program
        .fails("--os-region-name elsewhere host list", 2, "is the region or interface another")
        .await;

    let id = issued["token"]["user"]["id"].as_str().unwrap();
    let wanted = json!({ "application_credential": { "name": "ci", "unrestricted": false } });
    let path = format!("/users/{id}/application_credentials");
    let made = keystone.ask(Some(&token), &path, &wanted).await;
    let made: serde_json::Value = made.json().await.unwrap();
    let made = &made["application_credential"];
    for own in [
        json!({ "application_credential_id": made["id"] }),
        json!({ "application_credential_name": "ci", "username": "admin" }),
    ] {
        let mut auth = own;
        auth["auth_url"] = json!(url);
        auth["application_credential_secret"] = made["secret"].clone();
        let program =
            Program::with(&json!({ "auth_type": "v3applicationcredential", "auth": auth }));
        assert_eq!(program.ok("host list -f value -c host").await, "a\n");
    }
    let wrong = Program::with(&password).variable("OS_CLOUD", "");
    wrong.fails("--os-username nobody server list", 4, "The identity service says").await;
}
