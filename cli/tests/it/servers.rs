//! Servers and migrations.

use serde_json::{Value, json};
use whimbrel_virt::fake::FakeConfig;

use crate::cloud::Cloud;
use crate::program::{Program, nobody};

/// A host whose guests take about two seconds to move.
fn brisk() -> FakeConfig {
    FakeConfig { bandwidth_mib_s: 32, ..FakeConfig::default() }
}

/// A host whose guests never arrive by themselves.
fn slow() -> FakeConfig {
    FakeConfig { bandwidth_mib_s: 10, dirty_rate_mib_s: 40, ..FakeConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_made_moved_and_deleted() {
    let hosts = [("a", FakeConfig::default()), ("b", FakeConfig::default())];
    let cloud = Cloud::start(&hosts).await;
    let program = Program::of(&cloud);
    let create = "server create --image image --flavor small --network net";
    let made = program.json(&format!("{create} --property k=v --tag t --wait web")).await;
    assert_eq!((&made["status"], &made["properties"]), (&json!("ACTIVE"), &json!({ "k": "v" })));
    let id = made["id"].as_str().unwrap().to_owned();

    names_are_resolved(&program, create, &id).await;
    it_moves(&cloud, &program, &id).await;
    lists_are_printed_in_every_format(&program, &id).await;
    what_is_refused_says_what_to_do(&program).await;

    program.ok("server stop --wait web").await;
    assert_eq!(cloud.server(&id).await["status"], "SHUTOFF");
    program.ok("server start --wait web").await;
    program.ok("server reboot --hard --wait web").await;
    let events = program.json("event list web").await;
    assert_eq!(events[0]["action"], "reboot");
    let steps = program.json("event show web").await;
    assert_eq!(steps[0]["result"], "Success", "{steps}");
    program.ok("server delete --wait web").await;
    cloud.assert_gone(&id).await;
}

/// `id` is the server `web`.
async fn names_are_resolved(program: &Program, create: &str, id: &str) {
    assert_eq!(program.json("server show web").await["id"], id);
    assert_eq!(program.json(&format!("server show {id}")).await["name"], "web");
    program.fails("server show w.b", 3, "There is no server with the name or id 'w.b'").await;
    program.ok(&format!("{create} --wait twin")).await;
    program.ok(&format!("{create} --wait twin")).await;
    let said = program.fails("server stop twin", 3, "There are 2 servers with the name").await;
    assert_eq!(said.matches("by its id: ").count(), 2, "{said}");
    let ids = program.ok("server list --name ^twin$ -f value -c id").await;
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!(ids.len(), 2);
    program.ok(&format!("server delete --wait {} {}", ids[0], ids[1])).await;
}

/// Live there and back, cold and back, and to another size.
async fn it_moves(cloud: &Cloud, program: &Program, id: &str) {
    let here = cloud.server(id).await["OS-EXT-SRV-ATTR:host"].as_str().unwrap().to_owned();
    let there = if here == "a" { "b" } else { "a" };
    let told = program.err("server migrate --live --wait web").await;
    assert!(told.contains(&format!("{here} → {there}")) && told.contains("completed"), "{told}");
    cloud.assert_rests_on(id, there).await;
    let told = program.err(&format!("server migrate --live --host {here} web")).await;
    assert!(told.contains("whimbrel migration watch web"), "{told}");
    program.ok("migration watch web").await;
    cloud.assert_rests_on(id, &here).await;

    let told = program.err("server migrate --wait web").await;
    assert!(told.contains("whimbrel server confirm web"), "{told}");
    program.ok("server revert --wait web").await;
    cloud.assert_rests_on(id, &here).await;
    program.ok("flavor create --vcpus 2 --ram 128 --disk 2 big").await;
    program.ok("server resize --flavor big --wait web").await;
    program.ok("server confirm --wait web").await;
    assert_eq!(program.json("server show web").await["flavor"], "big");
    let all = program.json("server migrations web").await;
    let kinds: Vec<&Value> = all.as_array().unwrap().iter().map(|one| &one["type"]).collect();
    assert_eq!(kinds, ["resize", "migration", "live-migration", "live-migration"]);
    let last = program.json("migration show web").await;
    assert_eq!((&last["status"], &last["server_id"]), (&json!("confirmed"), &json!(id)));
}

async fn lists_are_printed_in_every_format(program: &Program, id: &str) {
    let line = program.ok("server list -f value -c name -c status").await;
    assert_eq!(line, "web\tACTIVE\n");
    let yaml = program.ok("server list -f yaml -c id").await;
    assert_eq!(yaml, format!("- id: {id}\n"));
    let table = program.ok("server list -c name -c flavor").await;
    assert_eq!(table, "name  flavor\n────  ──────\nweb   big\n");
    program.fails("server list -c colour", 2, "There are: id, name, status").await;
    for (command, column, expected) in [
        ("host list", "host", "a\nb\n"),
        ("hypervisor list", "name", "a\nb\n"),
        ("flavor list", "name", "small\nbig\n"),
        ("image list", "name", "image\n"),
        ("network list", "cidr", "10.78.0.0/16\n"),
    ] {
        let told = program.ok(&format!("{command} -f value -c {column}")).await;
        let (mut told, mut expected): (Vec<_>, Vec<_>) =
            (told.lines().collect(), expected.lines().collect());
        told.sort_unstable();
        expected.sort_unstable();
        assert_eq!(told, expected, "{command}");
    }
    for show in [
        "host show a",
        "hypervisor show b",
        "flavor show big",
        "image show image",
        "network show net",
    ] {
        program.json(show).await;
    }
}

async fn what_is_refused_says_what_to_do(program: &Program) {
    let nowhere = "server migrate --live --host nowhere web";
    program.fails(nowhere, 3, "Compute host nowhere could not be found. (HTTP 400").await;
    program.fails("server start web", 3, "next: Look at what it is doing now").await;
    program.fails("server evacuate web", 3, "HTTP 400, request req-").await;
    program.fails("server migrate web --block-migration", 2, "--live").await;
    program.fails("--os-cloud nope server list", 2, "There are: test").await;
    let silent = format!("--os-endpoint {} server list", nobody());
    program.fails(&silent, 4, "can't be reached").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_is_watched_called_off_and_forced() {
    let cloud = Cloud::start(&[("a", slow()), ("b", slow())]).await;
    let program = Program::of(&cloud);
    let id = cloud.boot().await;

    let child = program.spawn("server migrate --live --wait guest");
    let migration = cloud.wait_for_migration(&id, "running").await;
    child.interrupt();
    let (code, _, told) = child.end().await;
    assert_eq!(code, 130, "{told}");
    let number = migration["id"].to_string();
    assert!(told.contains(&format!("whimbrel migration abort {number}")), "{told}");
    assert_eq!(cloud.migration(&id).await["status"], "running", "only the watching ends");

    let running = program.json("migration list --status running").await;
    assert_eq!(running.as_array().unwrap().len(), 1);
    program
        .fails(&format!("migration watch {number} --timeout 1"), 5, "time for waiting is over")
        .await;
    let watching = program.spawn("migration watch");
    program.ok(&format!("migration abort --wait {number}")).await;
    let (code, _, told) = watching.end().await;
    assert_eq!(code, 1, "{told}");
    assert!(told.contains(&format!("Migration {number} ended as cancelled")), "{told}");

    let waiting = program.spawn("server migrate --live --wait guest");
    let forced = cloud.wait_for_migration(&id, "running").await;
    program.ok("migration force-complete --wait guest").await;
    let (code, _, told) = waiting.end().await;
    assert_eq!(code, 0, "{told}");
    let shown = program.json(&format!("migration show {}", forced["uuid"].as_str().unwrap())).await;
    assert_eq!(shown["status"], "completed");
    assert!(shown["downtime_ms"].is_u64(), "{shown}");
    cloud.assert_rests_on(&id, shown["destination"].as_str().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_migration_tells_how_fast_it_is_and_when_it_will_end() {
    let cloud = Cloud::start(&[("a", brisk()), ("b", brisk())]).await;
    let program = Program::of(&cloud);
    cloud.boot().await;
    let told = program.err("server migrate --live --wait guest").await;
    for part in
        ["guest: running, ", " %, ", "MiB/s, ", "MiB left, ETA 0:0", "completed, ", "took 0:0"]
    {
        assert!(told.contains(part), "'{part}' is not in {told}");
    }
    assert_eq!(
        program.err("-q server migrate --live --wait guest").await,
        "",
        "nothing but errors"
    );
}
