//! A few kill rounds of real processes. More of them: `make soak`.

use std::process::Command;

#[test]
fn services_are_killed_under_load_and_everything_ends_rightly() {
    let name = format!("t-soak-{}", std::process::id());
    let output = Command::new(env!("CARGO_BIN_EXE_whimbrel-lab"))
        .args(["soak", "--seconds", "20", "--seed", "1", "--name", &name])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{said}{why}");
    assert!(said.contains(", 0 violations, "), "{said}");
    let logs = whimbrel_lab::labs_dir().join(&name);
    std::fs::remove_dir_all(logs).unwrap();
    std::fs::remove_file(whimbrel_lab::labs_dir().join(format!("{name}.lock"))).unwrap();
}
