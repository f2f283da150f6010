//! `whimbrel`: the command line. A client of the HTTP API and of nothing else.

mod board;
mod cli;
mod client;
mod commands;
mod config;
mod error;
mod model;
mod names;
mod output;
mod progress;
mod wait;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::config::Environment;
use crate::error::Failure;

fn main() -> ExitCode {
    let environment: Environment = std::env::vars().collect();
    let cli = Cli::parse();
    match run(cli, &environment) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            for line in failure.lines() {
                output::note(&line);
            }
            ExitCode::from(failure.kind as u8)
        }
    }
}

fn run(cli: Cli, environment: &Environment) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("The runtime can't be started.").because(error))?;
    runtime.block_on(commands::run(cli, environment))
}
