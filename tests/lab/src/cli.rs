//! The commands.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use whimbrel_lab::servers::ServersCommand;
use whimbrel_lab::{Driver, Lab, Storage};

mod bench;
mod control;
mod demo;
mod fault;
mod manage;
mod signals;
mod soak;
mod status;

use control::Request;
use fault::Fault;

/// Hosts, guests, private servers and faults on one machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a lab that stays until `down`.
    Up(Plan),
    /// End a lab and everything in it; does nothing if it doesn't run.
    Down(Which),
    /// Show what runs in a lab.
    Status {
        #[command(flatten)]
        which: Which,
        /// How.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Make something go wrong in a lab.
    Fault {
        #[command(flatten)]
        which: Which,
        #[command(subcommand)]
        fault: Fault,
    },
    /// Boot guests in a lab of its own, move them, and check from outside that nothing was lost.
    Demo(demo::Options),
    /// Measure: moves of real guests against virsh, and the control plane alone on simulated hosts.
    Bench(bench::Options),
    /// Kill services at random under load, for as long as told, and check after each round that all is well.
    Soak(soak::Options),
    /// A PostgreSQL and a RabbitMQ of the project's own.
    #[command(subcommand)]
    Servers(ServersCommand),
    /// Run a lab in the foreground: what `up` starts.
    #[command(hide = true)]
    Supervise(Plan),
}

#[derive(Clone, Debug, Args)]
struct Which {
    /// The lab's name.
    #[arg(long, default_value = "default")]
    name: String,
}

/// What a lab is to be like.
#[derive(Clone, Debug, Args)]
struct Plan {
    #[command(flatten)]
    which: Which,
    /// How many hosts.
    #[arg(long, default_value_t = 2)]
    hosts: u8,
    /// Where guests' disks are.
    #[arg(long, value_enum, default_value_t = StorageKind::Shared)]
    storage: StorageKind,
    /// Simulated hosts, which need no root.
    #[arg(long)]
    fake: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StorageKind {
    /// In one directory that all hosts have.
    Shared,
    /// On each host's own disk.
    Local,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Plan {
    fn start(&self) -> anyhow::Result<Lab> {
        let storage = match self.storage {
            StorageKind::Shared => Storage::Shared,
            StorageKind::Local => Storage::Local,
        };
        let driver = if self.fake { Driver::Fake(toml::Table::new()) } else { Driver::Libvirt };
        let lab = Lab::builder().name(&self.which.name).hosts(self.hosts);
        lab.storage(storage).driver(driver).start()
    }

    /// The same again as arguments.
    fn arguments(&self) -> anyhow::Result<Vec<String>> {
        let storage = self.storage.to_possible_value().context("a storage without a name")?;
        let hosts = self.hosts.to_string();
        let mut words =
            vec!["--name", &self.which.name, "--hosts", &hosts, "--storage", storage.get_name()];
        if self.fake {
            words.push("--fake");
        }
        Ok(words.into_iter().map(str::to_owned).collect())
    }
}

pub(crate) fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Up(plan) => manage::up(&plan),
        Command::Down(which) => manage::down(&which.name),
        Command::Status { which, format } => status::show(&which.name, format),
        Command::Fault { which, fault } => {
            control::ask(&which.name, &Request::Fault(fault)).map(|said| {
                say(said.as_str().unwrap_or("done"));
                ExitCode::SUCCESS
            })
        }
        Command::Demo(options) => demo::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Servers(command) => command.execute(),
        Command::Supervise(plan) => manage::supervise(&plan),
    };
    done.unwrap_or_else(|error| {
        note(&format!("whimbrel-lab: {error:#}"));
        if whimbrel_lab::is_interrupted() { ExitCode::from(130) } else { ExitCode::FAILURE }
    })
}

fn say(text: &str) {
    // Who no longer listens, as `head`, has heard enough.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// For people only: not part of what programs read.
fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
