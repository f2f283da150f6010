//! What the commands do.

pub(crate) mod drain;
pub(crate) mod event;
pub(crate) mod flavor;
pub(crate) mod host;
pub(crate) mod hypervisor;
pub(crate) mod image;
pub(crate) mod manual;
pub(crate) mod migration;
pub(crate) mod network;
pub(crate) mod server;
mod server_create;
mod server_moves;

use std::io::IsTerminal;

use serde_json::Value;

use crate::board::Board;
use crate::cli::{Cli, Command};
use crate::client::Client;
use crate::config::{Environment, Settings};
use crate::error::Failure;
use crate::output::{Fields, List, Output, colours};
use crate::wait::Watch;

/// What all commands need.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) board: Board,
    pub(crate) output: Output,
}

impl Session {
    pub(crate) fn watch(&self, timeout: Option<u64>) -> Watch<'_> {
        Watch::new(&self.client, timeout)
    }

    pub(crate) fn list(&self, list: &List) -> Result<(), Failure> {
        self.output.list(list)
    }

    pub(crate) fn show(&self, fields: &Fields) -> Result<(), Failure> {
        self.output.show(fields)
    }
}

/// Carries a command out; the exit status.
pub(crate) async fn run(cli: Cli, environment: &Environment) -> Result<u8, Failure> {
    let command = match cli.command {
        Command::Completion(completion) => return manual::completion(&completion),
        Command::Man(man) => return manual::man(&man),
        other => other,
    };
    let settings = Settings::read(&cli.cloud.said(), environment)?;
    let client = Client::connect(&settings).await?;
    let board = Board::new(environment, cli.quiet);
    let mut output = cli.output;
    output.colours = colours(std::io::stdout().is_terminal(), environment);
    let session = Session { client, board, output };
    match command {
        Command::Server(command) => server::run(&session, command).await?,
        Command::Migration(command) => migration::run(&session, command).await?,
        Command::Host(command) => host::run(&session, command).await?,
        Command::Hypervisor(command) => hypervisor::run(&session, command).await?,
        Command::Flavor(command) => flavor::run(&session, command).await?,
        Command::Image(command) => image::run(&session, command).await?,
        Command::Network(command) => network::run(&session, command).await?,
        Command::Event(command) => event::run(&session, command).await?,
        Command::Completion(_) | Command::Man(_) => {}
    }
    Ok(0)
}

/// Does something for each of several; all are tried, and the worst that happened is what comes out.
pub(crate) async fn each<T, F: Future<Output = Result<(), Failure>>>(
    session: &Session,
    all: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> F,
) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for result in futures::future::join_all(all.into_iter().map(work)).await {
        failures.extend(result.err());
    }
    // The last one is told by whoever called.
    let last = failures.pop();
    for line in failures.iter().flat_map(Failure::lines) {
        session.board.note(&line);
    }
    last.map_or(Ok(()), Err)
}

/// Fields of an object, by the names that they are shown by.
pub(crate) fn fields(value: &Value, names: &[(&'static str, &str)]) -> Fields {
    names.iter().map(|(shown, name)| (*shown, value[name].clone().into())).collect()
}

/// A list of objects with such fields.
pub(crate) fn listing(values: &[Value], names: &[(&'static str, &str)]) -> List {
    let row =
        |value: &Value| fields(value, names).into_iter().map(|(_, cell)| cell).collect::<Vec<_>>();
    List {
        columns: names.iter().map(|(shown, _)| *shown).collect(),
        rows: values.iter().map(row).collect(),
    }
}
