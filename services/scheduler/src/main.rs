//! `whimbrel-scheduler`: the scheduler's process.

fn main() -> std::process::ExitCode {
    whimbrel_service::main("whimbrel-scheduler", whimbrel_scheduler::run)
}
