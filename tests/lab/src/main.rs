//! `whimbrel-lab`: the lab for people.

use std::process::ExitCode;

use clap::Parser;
use whimbrel_lab::servers::ServersCommand;

/// Hosts, guests, private servers and faults on one machine.
#[derive(Debug, Parser)]
#[command(version)]
enum Cli {
    /// A PostgreSQL and a RabbitMQ of the project's own.
    #[command(subcommand)]
    Servers(ServersCommand),
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse() {
        Cli::Servers(command) => command.execute(),
    }
}
