//! `whimbrel-amqp`: makes the broker's users, permissions and queues, one user for each host.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use rand::Rng;
use rand::distr::Alphanumeric;
use whimbrel_model::HostName;
use whimbrel_rpc::{Agent, CONTROL_USER, Definitions, agent_user};

/// Makes what the broker is to know of this installation.
#[derive(Parser)]
#[command(name = "whimbrel-amqp", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print definitions for `rabbitmqctl import_definitions`, and write the URL of each user into a file of its own. A
    /// user whose file is there keeps its password, so that hosts can be added later.
    Definitions {
        /// Where services reach the broker: `amqps://name:port`.
        #[arg(long)]
        broker: String,
        /// The virtual host.
        #[arg(long, default_value = "/")]
        vhost: String,
        /// Name of a host, as in its `compute.host`. May be repeated.
        #[arg(long = "host", required = true)]
        hosts: Vec<HostName>,
        /// The directory of URLs: `control.url`, and `compute-HOST.url` for each host. For `amqp.url_file`.
        #[arg(long)]
        urls: PathBuf,
    },
}

fn main() -> ExitCode {
    let Command::Definitions { broker, vhost, hosts, urls } = Args::parse().command;
    match definitions(&broker, &vhost, &hosts, &urls) {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn definitions(
    broker: &str,
    vhost: &str,
    hosts: &[HostName],
    urls: &Path,
) -> anyhow::Result<String> {
    let Some((scheme @ ("amqp" | "amqps"), place)) = broker.trim_end_matches('/').split_once("://")
    else {
        bail!("--broker begins with amqps:// or amqp://");
    };
    if place.contains(['@', '/']) {
        bail!("--broker is only amqps://name:port");
    }
    fs::create_dir_all(urls).with_context(|| urls.display().to_string())?;
    let encoded = vhost.replace('%', "%25").replace('/', "%2f");
    let password_of = |file: String, user: &str| {
        password(&urls.join(file), &|word| format!("{scheme}://{user}:{word}@{place}/{encoded}"))
    };
    let control_password = password_of("control.url".to_owned(), CONTROL_USER)?;
    let mut agents = Vec::new();
    for host in hosts {
        let password = password_of(format!("compute-{host}.url"), &agent_user(host))?;
        agents.push(Agent { host: host.clone(), password });
    }
    let made = Definitions { vhost, control_password: &control_password, agents: &agents };
    Ok(serde_json::to_string_pretty(&made.to_json())?)
}

/// The password in a file with a URL. A file that is not there is written, with a new one.
fn password(file: &Path, url: &dyn Fn(&str) -> String) -> anyhow::Result<String> {
    match fs::read_to_string(file) {
        Ok(known) => {
            let word = known.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
            let word = word.and_then(|(login, _)| login.split_once(':')).map(|(_, word)| word);
            let word = word.filter(|word| known.trim_end() == url(word));
            let word = word.with_context(|| {
                format!("{} holds another URL; remove it for a new password", file.display())
            })?;
            Ok(word.to_owned())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let word: String =
                rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect();
            let mut options = File::options();
            let made = options.write(true).create_new(true).mode(0o600).open(file);
            made.and_then(|mut made| writeln!(made, "{}", url(&word)))
                .with_context(|| format!("writing {}", file.display()))?;
            Ok(word)
        }
        Err(error) => Err(error).with_context(|| file.display().to_string()),
    }
}

#[expect(clippy::print_stdout, reason = "this is what the command is for")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "errors of a command go there")]
fn complain(message: &str) {
    eprintln!("whimbrel-amqp: {message}");
}
