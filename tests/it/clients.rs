//! The real OpenStack clients, as their users run them, against all services with simulated hypervisors.
//!
//! `tests/clients/set-up.sh` installs them into a virtual environment, once; `tests/clients/session.py` runs one
//! command after the other in one process, because loading the clients takes seconds.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use whimbrel_virt::fake::FakeConfig;

use crate::cloud::Cloud;
use crate::moves::{brisk, slow};

/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(90);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// What a command answered.
#[derive(Debug)]
struct Answer {
    code: i64,
    out: String,
    err: String,
}

/// The clients, for one cloud.
struct Clients {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    settings: PathBuf,
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        let _ = std::fs::remove_file(&self.settings);
    }
}

impl Clients {
    /// For whoever `auth` says: a part of `clouds.yaml`, in JSON, which is YAML as well.
    async fn start(cloud: &Cloud, auth: &Value) -> Self {
        let set_up = Command::new(folder().join("set-up.sh")).output().expect("set-up.sh runs");
        assert!(set_up.status.success(), "{}", String::from_utf8_lossy(&set_up.stderr));
        let environment = PathBuf::from(String::from_utf8(set_up.stdout).unwrap().trim());
        let url = cloud.url();
        let mut own = json!({
            "identity_api_version": "3",
            "volume_api_version": "3",
            "compute_endpoint_override": format!("{url}/v2.1"),
            "image_endpoint_override": format!("{url}/v2"),
            "network_endpoint_override": format!("{url}/v2.0"),
        });
        own.as_object_mut().unwrap().extend(auth.as_object().unwrap().clone());
        own["auth"]["endpoint"] = json!(format!("{url}/v2.1"));
        let settings = std::env::temp_dir().join(format!("clouds-{}.yaml", uuid::Uuid::new_v4()));
        std::fs::write(&settings, json!({ "clouds": { "test": own } }).to_string()).unwrap();
        let mut child = tokio::process::Command::new(environment.join("bin/python"))
            .arg(folder().join("session.py"))
            .env("OS_CLIENT_CONFIG_FILE", &settings)
            .env("OS_CLOUD", "test")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the clients start");
        let commands = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, commands, answers, settings }
    }

    async fn run(&mut self, line: &str) -> Answer {
        let words: Vec<&str> = line.split_whitespace().collect();
        let line_in = format!("{}\n", json!(words));
        self.commands.write_all(line_in.as_bytes()).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, self.answers.next_line()).await;
        let answer = answer.unwrap_or_else(|_| panic!("{line}: no answer")).unwrap();
        let answer: Value = serde_json::from_str(&answer.expect("the clients go on")).unwrap();
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        Answer { code: answer["code"].as_i64().unwrap(), out: text("out"), err: text("err") }
    }

    /// Runs a command that must work; its output.
    async fn ok(&mut self, line: &str) -> String {
        let answer = self.run(line).await;
        assert_eq!(answer.code, 0, "{line}\n{}\n{}", answer.out, answer.err);
        answer.out
    }

    /// Runs a command that must work; its output, which is JSON.
    async fn json(&mut self, line: &str) -> Value {
        let out = self.ok(&format!("openstack {line} -f json")).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}: {out}"))
    }

    /// Runs each of some commands; all must work.
    async fn all(&mut self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.ok(line).await;
        }
    }

    /// Runs a command that must fail, and say so.
    async fn fails(&mut self, line: &str, says: &str) {
        let answer = self.run(line).await;
        assert_ne!(answer.code, 0, "{line}\n{}", answer.out);
        assert!(answer.err.contains(says), "{line}: '{says}' is not in {}", answer.err);
    }
}

fn nobody() -> Value {
    json!({ "auth_type": "none", "auth": {} })
}

fn hosts() -> [(&'static str, FakeConfig); 3] {
    ["a", "b", "c"].map(|name| (name, FakeConfig::default()))
}

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
             openstack keypair delete mine
             openstack image delete tiny-os",
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
async fn live_migrations_are_shown_aborted_and_forced_by_both_clients() {
    let cloud = Cloud::start(&[("a", slow()), ("b", slow())]).await;
    let mut clients = Clients::start(&cloud, &nobody()).await;
    let id = cloud.boot().await;
    clients.ok("openstack server migrate --live-migration guest").await;
    let migration = cloud.wait_for_migration(&id, "running").await;
    let (number, uuid) = (migration["id"].clone(), migration["uuid"].as_str().unwrap().to_owned());
    clients
        .all(&format!(
            "openstack server migration show guest {number}
             openstack server migration show guest {uuid}
             nova server-migration-list guest
             nova server-migration-show guest {number}
             openstack server migration abort guest {number}"
        ))
        .await;
    cloud.wait_for_migration(&id, "cancelled").await;
    clients.ok("nova live-migration guest").await;
    let number = cloud.wait_for_migration(&id, "running").await["id"].clone();
    clients.ok(&format!("nova live-migration-abort guest {number}")).await;
    cloud.wait_for_migration(&id, "cancelled").await;
    clients.ok("nova host-evacuate-live a").await;
    clients.ok("nova host-evacuate-live b").await;
    let number = cloud.wait_for_migration(&id, "running").await["id"].clone();
    clients.ok(&format!("openstack server migration force complete guest {number}")).await;
    let done = cloud.wait_for_migration(&id, "completed").await;
    cloud.assert_rests_on(&id, done["dest_compute"].as_str().unwrap()).await;
    clients.ok("nova live-migration guest").await;
    let number = cloud.wait_for_migration(&id, "running").await["id"].clone();
    clients.ok(&format!("nova live-migration-force-complete guest {number}")).await;
    cloud.wait_for_migration(&id, "completed").await;
    clients
        .all("nova migration-list\n nova list\n nova show guest\n nova instance-action-list guest")
        .await;
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
             openstack flavor set --property c=d --description hidden --project other secret
             openstack flavor unset --property a --project other secret
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
             openstack extension list --compute
             nova service-list
             nova hypervisor-list
             nova hypervisor-servers a
             nova aggregate-list
             nova availability-zone-list
             nova flavor-list
             nova limits
             nova quota-show --tenant default
             nova quota-update --instances 1 default
             nova server-group-list
             nova keypair-list
             nova version-list",
        )
        .await;
    let zoned = clients.json("server show zoned").await;
    assert_eq!(zoned["OS-EXT-SRV-ATTR:host"], "a");
    assert_eq!(zoned["OS-EXT-AZ:availability_zone"], "north");
    clients
        .fails(
            "openstack server create --image image --flavor small --network net more",
            "Quota exceeded",
        )
        .await;
    clients.fails("openstack aggregate remove host faster a", "availability").await;
    clients
        .all(
            "openstack server delete --wait zoned
             openstack aggregate remove host faster a
             openstack aggregate delete faster
             nova quota-delete --tenant default",
        )
        .await;
}
