//! Hosts: closed, emptied, given up.

use serde_json::{Value, json};
use whimbrel_test_utils::wait_until;
use whimbrel_virt::fake::FakeConfig;

use crate::cloud::{Cloud, PATIENCE};
use crate::program::Program;

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_emptied_and_what_can_not_go_is_named() {
    let cloud = Cloud::start(&[("a", FakeConfig::default()), ("b", FakeConfig::default())]).await;
    let program = Program::of(&cloud);
    for name in ["one", "two", "off", "undecided"] {
        let create = "server create --image image --flavor small --host a --wait";
        program.ok(&format!("{create} {name}")).await;
    }
    program.ok("server stop --wait off").await;
    // An administrator's own word is not overruled.
    let id = program.json("server show undecided").await["id"].as_str().unwrap().to_owned();
    cloud.action(&id, json!({ "os-resetState": { "state": "error" } })).await;

    let plan = program.json("host drain a --dry-run").await;
    let how = |name: &str| {
        let all = plan.as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap()["how"].clone()
    };
    assert_eq!(
        [how("one"), how("off"), how("undecided")],
        [json!("live"), json!("cold"), json!("")]
    );
    assert_eq!(program.json("host show a").await["status"], "enabled", "a plan changes nothing");

    let (code, out, told) = program.spawn("host drain a --reason repairs -j 3 -f json").end().await;
    assert_eq!(code, 1, "{told}");
    let outcomes: Value = serde_json::from_str(&out).unwrap();
    let left: Vec<&Value> =
        outcomes.as_array().unwrap().iter().filter(|one| one["result"] == "left").collect();
    assert_eq!(left.len(), 1, "{outcomes}");
    assert_eq!(left[0]["name"], "undecided");
    assert!(told.contains("3 of 4") && told.contains("1 of the servers on a could not"), "{told}");
    let host = program.json("host show a").await;
    assert_eq!((&host["status"], &host["reason"]), (&json!("disabled"), &json!("repairs")));
    assert_eq!(program.ok("server list --host a -f value -c name").await, "undecided\n");
    assert_eq!(program.json("server show off").await["status"], "SHUTOFF");

    cloud.action(&id, json!({ "os-resetState": { "state": "active" } })).await;
    program.ok("host drain a").await;
    assert_eq!(program.ok("server list --host a -f value -c name").await, "");
    program.ok("host enable a").await;
    cloud.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_a_lost_host_are_evacuated() {
    let mut cloud =
        Cloud::start(&[("a", FakeConfig::default()), ("b", FakeConfig::default())]).await;
    let program = Program::of(&cloud);
    program.ok("server create --image image --flavor small --host a --wait web").await;
    program.fails("server evacuate --wait web", 3, "HTTP 400").await;
    cloud.kill("a").await;
    wait_until("the host to be down", PATIENCE, async || {
        program.json("host show a").await["state"] == "down"
    })
    .await;
    let told = program.err("host force-down a").await;
    assert!(told.contains("whimbrel server list --host a"), "{told}");
    let told = program.err("server evacuate --start --wait web").await;
    assert!(told.contains("a → b") && told.contains("the server is ACTIVE"), "{told}");
    assert_eq!(program.json("host show a").await["forced_down"], true);
    assert_eq!(program.json("migration show web").await["type"], "evacuation");
    // It has to remove what it still has of the server first.
    program.fails("host force-down --undo a", 3, "start its compute service").await;
}
