//! The command line of every service.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{self, Configuration, Sources};
use crate::health::ManagementConfig;
use crate::probe;

#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Args {
    /// The configuration file, in TOML. `WHIMBREL__SECTION__KEY` in the environment overrides a value of it.
    #[arg(long, short, global = true)]
    config: Option<PathBuf>,
    /// Override one value: `--set log.level=debug`. May be repeated. Secrets do not belong here: everybody sees them.
    #[arg(long, value_name = "SECTION.KEY=VALUE", global = true, action = ArgAction::Append)]
    set: Vec<String>,
    /// Without one, the service runs.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
    /// Ask the running service whether it is ready; exit status 1 if not.
    Probe {
        /// Ask only whether it lives.
        #[arg(long)]
        live: bool,
        /// Where it is: `name:port`. Without it, where the configuration says.
        #[arg(long)]
        at: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say what is wrong with it; exit status 2 if anything is.
    Check,
    /// Print all of it with defaults; secrets are masked.
    Print,
    /// Print all keys with their meaning, as Markdown.
    Reference,
}

impl Args {
    pub(crate) fn read(name: &'static str) -> Self {
        let matches = Self::command().name(name).bin_name(name).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    pub(crate) fn sources(&self) -> Sources {
        Sources::of_process(self.config.as_deref(), self.set.clone())
    }
}

/// Carries out a command other than running.
pub(crate) fn carry_out<C: Configuration>(
    name: &'static str,
    command: &Command,
    sources: &Sources,
    management: fn(&C) -> &ManagementConfig,
) -> ExitCode {
    if matches!(command, Command::Config { what: ConfigCommand::Reference }) {
        say(&config::reference::<C>(name));
        return ExitCode::SUCCESS;
    }
    if let Command::Probe { live, at: Some(place) } = command {
        return match place.to_socket_addrs().map(|mut found| found.next()) {
            Ok(Some(address)) => probe(name, address, *live),
            Ok(None) => failed(name, &format!("{place} has no address")),
            Err(error) => failed(name, &format!("{place}: {error}")),
        };
    }
    let loaded = match config::load::<C>(sources) {
        Ok(loaded) => loaded,
        Err(error) => {
            complain(name, &error.to_string());
            return ExitCode::from(2);
        }
    };
    match command {
        Command::Config { what: ConfigCommand::Print } => match config::print(&loaded) {
            Ok(text) => say(&text),
            Err(error) => return failed(name, &error),
        },
        Command::Config { .. } => say("the configuration is good\n"),
        Command::Probe { live, .. } => {
            let Some(address) = management(&loaded).listen else {
                return failed(name, "management.listen is not set, so there is nobody to ask");
            };
            return probe(name, address, *live);
        }
    }
    ExitCode::SUCCESS
}

fn failed(name: &str, message: &str) -> ExitCode {
    complain(name, message);
    ExitCode::FAILURE
}

fn probe(name: &str, address: SocketAddr, live: bool) -> ExitCode {
    match probe::fetch(address, if live { "/livez" } else { "/readyz" }) {
        Ok((200, body)) => {
            say(&body);
            ExitCode::SUCCESS
        }
        Ok((_, body)) => failed(name, body.trim_end()),
        Err(error) => failed(name, &format!("no answer at {address}: {error}")),
    }
}

#[expect(clippy::print_stdout, reason = "this is what the command is for")]
fn say(text: &str) {
    print!("{text}");
}

/// For what goes wrong before there are logs.
#[expect(clippy::print_stderr, reason = "before there are logs")]
pub(crate) fn complain(name: &str, message: &str) {
    for line in message.lines() {
        eprintln!("{name}: {line}");
    }
}
