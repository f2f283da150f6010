//! `whimbrel-scheduler`: the scheduler's process.

use whimbrel_scheduler::Config;

fn main() -> std::process::ExitCode {
    whimbrel_service::main(
        "whimbrel-scheduler",
        |config: &Config| &config.log,
        whimbrel_scheduler::run,
    )
}
