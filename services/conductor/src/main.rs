//! `whimbrel-conductor`: the conductor's process.

fn main() -> std::process::ExitCode {
    whimbrel_service::main("whimbrel-conductor", whimbrel_conductor::run)
}
