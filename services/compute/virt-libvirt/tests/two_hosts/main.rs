//! The driver against real libvirt, on two hosts.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of it is tests, also what clippy takes for something else"
)]

mod agent;
mod checks;
mod faults;
mod guest;
mod host;
mod moves;
mod steer;

/// Not a test: the process that the others start inside a host.
#[test]
#[ignore = "started by the other tests, inside a host"]
fn agent() {
    let Ok(setup) = std::env::var(agent::SETUP) else { return };
    let setup = serde_json::from_str(&setup).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(agent::run(setup));
    // The harness would write its summary to a pipe that nobody reads any more.
    std::process::exit(0);
}
