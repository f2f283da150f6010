//! The private servers: they come up, survive what faults do to them, and leave nothing.

use std::path::PathBuf;
use std::time::Instant;

use whimbrel_lab::servers::{Durability, Servers};

fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("whimbrel-{name}-{}", std::process::id()))
}

#[test]
fn both_servers_survive_a_crash_and_leave_nothing() {
    let directory = directory("servers");
    let begun = Instant::now();
    let servers = Servers::start(&directory, Durability::Throwaway).unwrap();
    println!("started in {:?}", begun.elapsed());

    servers
        .database()
        .query("whimbrel", "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
        .unwrap();
    servers.create_vhost("kept").unwrap();
    servers.create_vhost("gone").unwrap();
    servers.delete_vhost("gone").unwrap();

    let database_before = servers.database().process_id().unwrap();
    let begun = Instant::now();
    servers.database().kill().unwrap();
    assert_eq!(servers.database().process_id(), None);
    servers.database().start().unwrap();
    println!("database killed and started in {:?}", begun.elapsed());
    assert_ne!(servers.database().process_id(), Some(database_before));
    assert_eq!(servers.database().query("whimbrel", "SELECT n FROM kept").unwrap(), "7");

    let begun = Instant::now();
    servers.broker().kill().unwrap();
    assert_eq!(servers.broker().process_id(), None);
    servers.broker().start().unwrap();
    println!("broker killed and started in {:?}", begun.elapsed());
    servers.delete_vhost("kept").unwrap();
    assert!(servers.delete_vhost("gone").is_err());

    let begun = Instant::now();
    let processes = [servers.database().process_id(), servers.broker().process_id()];
    servers.remove().unwrap();
    println!("removed in {:?}", begun.elapsed());
    for process in processes {
        assert!(!PathBuf::from(format!("/proc/{}", process.unwrap())).exists());
    }
    assert!(!directory.exists());
}
