//! `whimbrel-compute`: the compute service's process.

use whimbrel_compute::Config;

fn main() -> std::process::ExitCode {
    whimbrel_service::main("whimbrel-compute", |config: &Config| &config.log, whimbrel_compute::run)
}
