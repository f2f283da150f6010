//! `whimbrel-api`: the HTTP API's process.

use whimbrel_api::Config;

fn main() -> std::process::ExitCode {
    whimbrel_service::main("whimbrel-api", |config: &Config| &config.log, whimbrel_api::run)
}
