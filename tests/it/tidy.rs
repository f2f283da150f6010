//! Rules of the house that a compiler does not check.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the repository").to_owned()
}

/// Direct dependencies of each of our crates, development ones left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let all = package["dependencies"].as_array().expect("dependencies").iter();
            let normal = all.filter(|dependency| dependency["kind"].is_null()).map(name);
            (name(package), normal.collect())
        })
        .collect()
}

/// All of our crates that `root` depends on, itself included.
fn ours(root: &str, all: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut todo = vec![root.to_owned()];
    while let Some(next) = todo.pop() {
        if found.insert(next.clone()) {
            todo.extend(all[&next].iter().filter(|name| all.contains_key(*name)).cloned());
        }
    }
    found
}

const SERVICES: [&str; 4] =
    ["whimbrel-api", "whimbrel-conductor", "whimbrel-scheduler", "whimbrel-compute"];

#[test]
fn no_service_depends_on_another() {
    let all = dependencies();
    for service in SERVICES {
        let reached = ours(service, &all);
        for other in SERVICES.into_iter().filter(|other| *other != service) {
            assert!(!reached.contains(other), "{service} depends on {other}");
        }
    }
}

#[test]
fn each_outside_world_is_named_by_one_crate() {
    let owners: [(&str, &[&str]); 8] = [
        ("lapin", &["whimbrel-rpc"]),
        ("diesel", &["whimbrel-db", "whimbrel-test-utils"]),
        ("diesel-async", &["whimbrel-db", "whimbrel-test-utils"]),
        ("diesel_migrations", &["whimbrel-db"]),
        ("axum", &["whimbrel-api", "whimbrel-service"]),
        ("utoipa", &["whimbrel-api"]),
        ("virt", &["whimbrel-virt-libvirt"]),
        ("virt-sys", &["whimbrel-virt-libvirt"]),
    ];
    for (name, dependencies) in dependencies() {
        for (outside, owners) in owners {
            let allowed = owners.contains(&name.as_str());
            assert!(allowed || !dependencies.contains(outside), "{name} names {outside}");
        }
    }
}

#[test]
fn the_rules_and_the_engine_touch_no_outside_world() {
    let all = dependencies();
    let outside =
        ["tokio", "lapin", "diesel", "diesel-async", "axum", "reqwest", "virt", "nix", "rand"];
    for pure in ["whimbrel-model", "whimbrel-messages", "whimbrel-saga", "whimbrel-sagas"] {
        for name in ours(pure, &all) {
            for outside in outside {
                assert!(!all[&name].contains(outside), "{pure} reaches {outside} through {name}");
            }
        }
    }
}

/// The command line is a client of the HTTP API, and knows nothing else of us.
#[test]
fn the_command_line_depends_on_nothing_of_ours() {
    let all = dependencies();
    assert_eq!(ours("whimbrel-cli", &all), BTreeSet::from(["whimbrel-cli".to_owned()]));
    for name in all.keys().filter(|name| *name != "whimbrel-cli") {
        assert!(!all[name].contains("whimbrel-cli"), "{name} depends on the command line");
    }
}

/// A compromised host must not be able to write rows: a host reports, the conductor writes.
#[test]
fn compute_does_not_reach_the_database() {
    assert!(!ours("whimbrel-compute", &dependencies()).contains("whimbrel-db"));
}

#[test]
fn only_the_libvirt_crate_may_hold_unsafe_code() {
    for file in rust_files(&repository()) {
        let text = std::fs::read_to_string(&file).expect("a file that can be read");
        let inside = file.starts_with(repository().join("services/compute/virt-libvirt"));
        let marks = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
        // This file names the marks.
        let here = file.ends_with("tests/it/tidy.rs");
        let found = marks.iter().find(|mark| text.contains(**mark));
        assert!(inside || here || found.is_none(), "{}: {found:?}", file.display());
    }
}

#[test]
fn one_file_is_one_idea() {
    for file in rust_files(&repository()) {
        let lines =
            std::fs::read_to_string(&file).expect("a file that can be read").lines().count();
        assert!(lines <= 500, "{} has {lines} lines; split it by noun", file.display());
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
