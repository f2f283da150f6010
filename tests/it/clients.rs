//! The real OpenStack clients against all services with simulated hypervisors: every command that concerns servers,
//! migrations, hosts, flavors, images and networks.

use std::process::Stdio;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use whimbrel_virt::fake::FakeConfig;

use crate::client_session::{Clients, PATIENCE, folder, hosts, nobody, python};
use crate::cloud::{Cloud, Login};
use crate::moves::{brisk, slow};

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_made_changed_and_deleted_by_their_names() {
    let cloud = Cloud::start(&hosts()).await;
    let mut clients = Clients::start(&cloud, &nobody()).await;
    let data = std::env::temp_dir().join(format!("image-{}", uuid::Uuid::new_v4()));
    std::fs::write(&data, vec![1u8; 8192]).unwrap();
    let file = data.display();
    clients
        .all(&format!(
            "openstack image create --disk-format raw --container-format bare --file {file} --public tiny-os
             openstack image set --property os_distro=tiny --tag small tiny-os
             openstack image list --name tiny-os
             openstack image save --file {file}.copy tiny-os
             openstack keypair create --private-key {file}.key mine
             openstack keypair list
             openstack keypair show mine
             openstack server group create --policy anti-affinity apart
             openstack server group list"
        ))
        .await;
    assert_eq!(std::fs::read(format!("{file}.copy")).unwrap(), vec![1u8; 8192]);
    let image = clients.json("image show tiny-os").await;
    assert_eq!(image["properties"]["os_distro"], "tiny");
    let group = clients.json("server group show apart").await["id"].as_str().unwrap().to_owned();

    let common = format!(
        "server create --image tiny-os --flavor small --network net --key-name mine --hint group={group}"
    );
    let first = clients
        .json(&format!("{common} --property color=red --tag web --description hello --wait first"))
        .await;
    assert_eq!((&first["status"], &first["key_name"]), (&json!("ACTIVE"), &json!("mine")));
    clients.json(&format!("{common} --wait second")).await;
    let show = |name: &str| format!("server show {name}");
    let first = clients.json(&show("first")).await;
    let second = clients.json(&show("second")).await;
    let host = "OS-EXT-SRV-ATTR:host";
    assert_ne!(first[host], second[host], "servers of one group that are to be apart");
    assert_eq!(
        clients.json("server group show apart").await["members"].as_array().unwrap().len(),
        2
    );
    assert_eq!(clients.json("port list --server first").await.as_array().unwrap().len(), 1);

    lists_are_filtered(&mut clients).await;
    a_server_is_changed(&cloud, &mut clients, first["id"].as_str().unwrap()).await;
    clients
        .all(
            "openstack server delete --wait web1
             openstack server delete --wait second
             openstack server group delete apart
             openstack keypair delete mine",
        )
        .await;
    for name in [String::new(), ".copy".to_owned(), ".key".to_owned()] {
        let _ = std::fs::remove_file(format!("{file}{name}"));
    }
}

/// Of the servers `first` and `second`.
async fn lists_are_filtered(clients: &mut Clients) {
    for (filter, expected) in [
        ("", vec!["second", "first"]),
        ("--name ^fir", vec!["first"]),
        ("--tags web", vec!["first"]),
        ("--not-tags web", vec!["second"]),
        ("--status ACTIVE --long", vec!["second", "first"]),
        ("--status ERROR", vec![]),
        ("--host nowhere", vec![]),
        ("--image tiny-os --flavor small --all-projects", vec!["second", "first"]),
        ("--limit 1", vec!["second"]),
        ("--changes-since 2020-01-01T00:00:00Z", vec!["second", "first"]),
        ("--changes-before 2020-01-01T00:00:00Z", vec![]),
        ("--sort-column Name", vec!["first", "second"]),
        ("--locked", vec![]),
        ("--no-name-lookup", vec!["second", "first"]),
    ] {
        let listed = clients.json(&format!("server list {filter}")).await;
        let names: Vec<&str> =
            listed.as_array().unwrap().iter().map(|row| row["Name"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "server list {filter}");
    }
}

/// Server `first`, with this id, becomes `web1`.
async fn a_server_is_changed(cloud: &Cloud, clients: &mut Clients, id: &str) {
    clients
        .all(
            "openstack server set --name web1 --property size=9 --tag db --description bye first
             openstack server unset --property color --tag web web1
             openstack server lock --reason repairs web1",
        )
        .await;
    let web = clients.json("server show web1").await;
    assert_eq!(web["properties"], json!({ "size": "9" }));
    assert_eq!((&web["tags"], &web["locked_reason"]), (&json!(["db"]), &json!("repairs")));
    clients
        .all(
            "openstack server unlock web1
             openstack server stop web1",
        )
        .await;
    cloud.wait_for_status(id, "SHUTOFF").await;
    clients.ok("openstack server start web1").await;
    cloud.wait_for_status(id, "ACTIVE").await;
    clients
        .all(
            "openstack server reboot --wait web1
             openstack server reboot --hard --wait web1
             openstack server event list --long web1
             openstack server set --state error --auto-approve web1
             openstack server set --state active --auto-approve web1",
        )
        .await;
    let events = clients.json("server event list web1").await;
    let request = events[0]["Request ID"].as_str().unwrap().to_owned();
    clients.ok(&format!("openstack server event show web1 {request}")).await;
    clients.fails("openstack server show nobody", "No Server found").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_moved_and_resized() {
    let cloud = Cloud::start(&[("a", brisk()), ("b", brisk())]).await;
    let mut clients = Clients::start(&cloud, &nobody()).await;
    clients
        .all(
            "openstack flavor create --id 2 --ram 128 --vcpus 2 --disk 2 big
             openstack server create --image image --flavor small --network net --wait guest
             openstack server migrate --live-migration --wait guest
             openstack server migrate --wait guest
             openstack server migration confirm guest",
        )
        .await;
    let id = clients.json("server show guest").await["id"].as_str().unwrap().to_owned();
    cloud.wait_for_status(&id, "ACTIVE").await;
    let here = cloud.server(&id).await["OS-EXT-SRV-ATTR:host"].as_str().unwrap().to_owned();
    let other = if here == "a" { "b" } else { "a" };
    clients
        .ok(&format!("openstack server migrate --live-migration --host {other} --wait guest"))
        .await;
    cloud.assert_rests_on(&id, other).await;
    clients
        .all(
            "openstack server resize --flavor big --wait guest
             openstack server resize revert guest",
        )
        .await;
    cloud.wait_for_status(&id, "ACTIVE").await;
    clients
        .all(
            "openstack server resize --flavor big --wait guest
             openstack server resize confirm guest",
        )
        .await;
    cloud.wait_for_status(&id, "ACTIVE").await;
    assert_eq!(clients.json("server show guest").await["flavor"]["name"], "big");
    clients
        .all(
            "openstack server migration list
             openstack server migration list --server guest --type live-migration
             openstack server migration list --server guest --status completed",
        )
        .await;
    let all = clients.json("server migration list --server guest").await;
    assert_eq!(all.as_array().unwrap().len(), 5, "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn live_migrations_are_shown_aborted_and_forced() {
    let cloud = Cloud::start(&[("a", slow()), ("b", slow())]).await;
    let mut clients = Clients::start(&cloud, &nobody()).await;
    let id = cloud.boot().await;
    clients.ok("openstack server migrate --live-migration guest").await;
    let migration = cloud.wait_for_migration(&id, "running").await;
    let (number, uuid) = (migration["id"].clone(), migration["uuid"].as_str().unwrap().to_owned());
    clients
        .all(&format!(
            "openstack server migration show guest {uuid}
             openstack server migration abort guest {number}"
        ))
        .await;
    cloud.wait_for_migration(&id, "cancelled").await;
    clients.ok("openstack server migrate --live-migration guest").await;
    let number = cloud.wait_for_migration(&id, "running").await["id"].clone();
    clients.ok(&format!("openstack server migration force complete guest {number}")).await;
    let done = cloud.wait_for_migration(&id, "completed").await;
    cloud.assert_rests_on(&id, done["dest_compute"].as_str().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_a_lost_host_are_evacuated() {
    let mut cloud = Cloud::start(&hosts()).await;
    let mut clients = Clients::start(&cloud, &nobody()).await;
    let id = cloud.boot().await;
    let lost = cloud.server(&id).await["OS-EXT-SRV-ATTR:host"].as_str().unwrap().to_owned();
    cloud.stop(&lost).await;
    clients.ok(&format!("openstack compute service set --down {lost} nova-compute")).await;
    clients.ok("openstack server evacuate guest").await;
    cloud.wait_for_migration(&id, "done").await;
    assert_ne!(cloud.server(&id).await["OS-EXT-SRV-ATTR:host"], json!(lost));
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_look_after_hosts_flavors_and_limits() {
    let cloud = Cloud::start(&hosts()).await;
    let mut clients = Clients::start(&cloud, &nobody()).await;
    clients
        .all(
            "openstack compute service list --long
             openstack compute service set --disable --disable-reason repairs c nova-compute
             openstack compute service set --enable c nova-compute
             openstack hypervisor list --long
             openstack hypervisor show a
             openstack hypervisor stats show
             openstack aggregate create --zone north --property ssd=true fast
             openstack aggregate add host fast a
             openstack aggregate set --property quick=yes --name faster fast
             openstack aggregate unset --property quick faster
             openstack aggregate list --long
             openstack availability zone list --compute --long
             openstack server create --image image --flavor small --network net --availability-zone north --wait zoned
             openstack flavor create --id 7 --ram 64 --vcpus 1 --disk 1 --private --property a=b secret
             openstack flavor set --property c=d --description hidden secret
             openstack flavor unset --property a secret
             openstack flavor list --all --long
             openstack flavor show secret
             openstack flavor delete secret
             openstack network list
             openstack network show net
             openstack subnet list
             openstack subnet show net
             openstack port list
             openstack limits show --absolute
             openstack limits show --rate
             openstack extension list --compute",
        )
        .await;
    let zoned = clients.json("server show zoned").await;
    assert_eq!(zoned["OS-EXT-SRV-ATTR:host"], "a");
    assert_eq!(zoned["OS-EXT-AZ:availability_zone"], "north");
    // Clients that ask nobody who they are can't name a project.
    let one = Some(json!({ "quota_set": { "instances": 1 } }));
    let (set, _) = cloud.ask(Method::PUT, "/v2.1/os-quota-sets/default", one).await;
    assert_eq!(set, StatusCode::OK);
    clients
        .fails(
            "openstack server create --image image --flavor small --network net more",
            "Quota exceeded",
        )
        .await;
    clients.fails("openstack aggregate remove host faster a", "asked for the zone").await;
    clients
        .all(
            "openstack server delete --wait zoned
             openstack aggregate remove host faster a
             openstack aggregate delete faster",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_what_tempest_expects_of_its_version() {
    let mut own = hosts().to_vec();
    own.push(("spare", FakeConfig { memory_mib: 1024, ..FakeConfig::default() }));
    let cloud = Cloud::start(&own).await;
    let id = cloud.boot().await;
    cloud.live_migrate(&id, None).await;
    cloud.wait_for_migration(&id, "completed").await;
    let judged = tokio::process::Command::new(python())
        .arg(folder().join("schemas.py"))
        .arg(format!("{}/v2.1", cloud.url()))
        .output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success(), "{told}{}", String::from_utf8_lossy(&judged.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_real_keystone_are_taken() {
    let data = std::env::temp_dir().join(format!("keystone-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&data).unwrap();
    let mut keystone = tokio::process::Command::new(python())
        .arg(folder().join("identity_service.py"))
        .arg(&data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(keystone.stdout.take().unwrap()).lines();
    let auth_url = lines.next_line().await.unwrap().expect("Keystone starts");
    let login = |user: &str, password: &str, project: &str| {
        json!({ "auth_type": "password", "auth": {
            "auth_url": auth_url, "username": user, "password": password, "project_name": project,
            "user_domain_id": "default", "project_domain_id": "default",
        } })
    };
    let api = json!({ "auth": "keystone", "keystone": {
        "url": auth_url, "username": "admin", "password": "secret", "project_name": "admin",
        "cache_ms": 500,
    } });
    let token = Login::Token(token(&auth_url).await);
    let cloud = Cloud::start_with(&[("a", slow()), ("b", slow())], &api, Some(token)).await;
    let mut admin = Clients::start(&cloud, &login("admin", "secret", "admin")).await;
    admin
        .all(
            "openstack project create demo
             openstack user create --project demo --password pass demo
             openstack role add --project demo --user demo member
             openstack quota show --compute
             openstack quota set --instances 5 demo
             openstack compute service list",
        )
        .await;
    let mut demo = Clients::start(&cloud, &login("demo", "pass", "demo")).await;
    demo.ok("openstack server create --image image --flavor small --network net --wait mine").await;
    demo.fails("openstack compute service list", "Policy").await;
    demo.fails("openstack server list --all-projects", "Policy").await;
    assert_eq!(demo.json("server list").await.as_array().unwrap().len(), 1);
    assert_eq!(admin.json("server list").await, json!([]));
    assert_eq!(admin.json("server list --all-projects").await.as_array().unwrap().len(), 1);
    demo.ok("openstack limits show --absolute").await;
    older_client(&cloud, &mut admin).await;
    // A token of theirs counts no longer than it is remembered.
    let issued = demo.json("token issue").await["id"].as_str().unwrap().to_owned();
    let mut cloud = cloud;
    cloud.login = Some(Login::Token(issued.clone()));
    assert_eq!(cloud.get("/v2.1/servers").await["servers"].as_array().unwrap().len(), 1);
    demo.ok(&format!("openstack token revoke {issued}")).await;
    whimbrel_test_utils::wait_until("the token to be refused", PATIENCE, async || {
        cloud.ask(Method::GET, "/v2.1/servers", None).await.0 == StatusCode::UNAUTHORIZED
    })
    .await;
    drop(keystone);
    let _ = std::fs::remove_dir_all(&data);
}

/// The older client needs an identity service to speak at all.
async fn older_client(cloud: &Cloud, admin: &mut Clients) {
    let servers = admin.json("server list --all-projects").await;
    let id = servers[0]["ID"].as_str().unwrap().to_owned();
    admin.ok(&format!("nova live-migration {id}")).await;
    let number = cloud.wait_for_migration(&id, "running").await["id"].clone();
    admin
        .all(&format!(
            "nova server-migration-list {id}
             nova server-migration-show {id} {number}
             nova live-migration-abort {id} {number}"
        ))
        .await;
    cloud.wait_for_migration(&id, "cancelled").await;
    let host = cloud.server(&id).await["OS-EXT-SRV-ATTR:host"].as_str().unwrap().to_owned();
    admin.ok(&format!("nova host-evacuate-live {host}")).await;
    let number = cloud.wait_for_migration(&id, "running").await["id"].clone();
    admin.ok(&format!("nova live-migration-force-complete {id} {number}")).await;
    cloud.wait_for_migration(&id, "completed").await;
    admin
        .all(&format!(
            "nova list --all-tenants
             nova show {id}
             nova migration-list
             nova instance-action-list {id}
             nova service-list
             nova hypervisor-list
             nova hypervisor-servers a
             nova aggregate-list
             nova availability-zone-list
             nova flavor-list
             nova limits
             nova quota-show
             nova server-group-list
             nova keypair-list
             nova version-list"
        ))
        .await;
}

/// A token of the administrator.
async fn token(auth_url: &str) -> String {
    let user = json!({ "name": "admin", "domain": { "id": "default" }, "password": "secret" });
    let body = json!({ "auth": {
        "identity": { "methods": ["password"], "password": { "user": user } },
        "scope": { "project": { "name": "admin", "domain": { "id": "default" } } },
    } });
    let asked = reqwest::Client::new().post(format!("{auth_url}/auth/tokens")).json(&body).send();
    let answer = asked.await.unwrap();
    answer.headers()["x-subject-token"].to_str().unwrap().to_owned()
}
