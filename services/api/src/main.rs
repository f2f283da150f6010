//! `whimbrel-api`: the HTTP API's process.

fn main() -> std::process::ExitCode {
    whimbrel_service::main("whimbrel-api", whimbrel_api::run)
}
