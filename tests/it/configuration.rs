//! The reference of the configuration, and what packaging says about it.

use std::path::{Path, PathBuf};

use expect_test::expect_file;
use whimbrel_service::config::{Sources, load, reference};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the repository").to_owned()
}

#[test]
fn the_reference_matches_the_types() {
    let mut page = String::from(
        "# Configuration\n\nEvery key of every service. Generated from the types; how values are given is in \
         [operations.md](operations.md).\n\n",
    );
    page += &reference::<whimbrel_api::Config>("whimbrel-api");
    page += "\n";
    page += &reference::<whimbrel_conductor::Config>("whimbrel-conductor");
    page += "\n";
    page += &reference::<whimbrel_scheduler::Config>("whimbrel-scheduler");
    page += "\n";
    page += &reference::<whimbrel_compute::Config>("whimbrel-compute");
    expect_file![repository().join("docs/configuration.md")].assert_eq(&page);
}

/// Every variable that `docker-compose.yml` sets is one that its service knows.
#[test]
fn services_know_the_variables_of_compose() {
    let text = std::fs::read_to_string(repository().join("docker-compose.yml")).expect("compose");
    let mut variables: Vec<(String, String)> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| line.starts_with("WHIMBREL__")) {
        let (name, value) = line.split_once(": ").expect("a variable with a value");
        // Secrets are not here; that a file is named is enough.
        match name.strip_suffix("URL_FILE") {
            Some(stem) => variables.push((format!("{stem}URL"), "amqp://u:p@h/v".to_owned())),
            None => variables.push((name.to_owned(), value.to_owned())),
        }
    }
    assert!(variables.len() > 10, "{variables:?}");
    let of = |sections: &[&str]| Sources {
        environment: variables
            .iter()
            .filter(|(name, _)| {
                sections.iter().any(|section| name.starts_with(&format!("WHIMBREL__{section}__")))
            })
            .cloned()
            .collect(),
        ..Sources::default()
    };
    let common = ["LOG", "MANAGEMENT", "AMQP", "DATABASE"];
    load::<whimbrel_api::Config>(&of(&[&common[..], &["API"]].concat())).expect("api");
    load::<whimbrel_conductor::Config>(&of(&common)).expect("conductor");
    load::<whimbrel_scheduler::Config>(&of(&common)).expect("scheduler");
    load::<whimbrel_compute::Config>(&of(&["LOG", "MANAGEMENT", "AMQP", "COMPUTE", "FAKE"]))
        .expect("compute");
}

/// A unit that is installed keeps the service away from what it does not need.
#[test]
fn systemd_units_are_hardened() {
    for service in ["api", "conductor", "scheduler", "compute", "migrate"] {
        let name = format!("deploy/systemd/whimbrel-{service}.service");
        let unit = std::fs::read_to_string(repository().join(&name)).expect("a unit");
        for setting in [
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "RestrictNamespaces=yes",
            "MemoryDenyWriteExecute=yes",
            "SystemCallFilter=@system-service",
        ] {
            assert!(unit.contains(setting), "{name} lacks {setting}");
        }
        assert!(!unit.contains("://"), "{name} holds a URL");
        let agent = service == "compute";
        assert_eq!(unit.contains("KillMode=process"), agent, "{name}: who outlives it?");
        assert_eq!(unit.contains("database_url"), !agent, "{name}: who sees the database?");
        assert_eq!(unit.contains("User=whimbrel"), !agent, "{name}: who is root?");
    }
}
