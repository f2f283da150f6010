//! `whimbrel-conductor`: the conductor's process.

use whimbrel_conductor::Config;

fn main() -> std::process::ExitCode {
    whimbrel_service::main(
        "whimbrel-conductor",
        |config: &Config| &config.log,
        whimbrel_conductor::run,
    )
}
