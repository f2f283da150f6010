//! `whimbrel-db`: brings a database to the schema that this release expects, or says what is missing.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Brings a database to the schema that this release expects.
#[derive(Parser)]
#[command(name = "whimbrel-db", version)]
struct Args {
    /// `postgres://user@host:port/database`. Better by the environment: arguments are seen by everybody.
    #[arg(long, env = "WHIMBREL__DATABASE__URL", hide_env_values = true)]
    url: Option<String>,
    /// A file that holds the URL.
    #[arg(long, env = "WHIMBREL__DATABASE__URL_FILE", conflicts_with = "url")]
    url_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Apply what is missing. Safe while services run and from several processes at once.
    Migrate,
    /// Say what is missing; exit status 1 if anything is.
    #[command(alias = "check")]
    Status,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let url = match url(&args) {
        Ok(url) => url,
        Err(said) => {
            complain(&said);
            return ExitCode::from(2);
        }
    };
    let done = match args.command {
        Command::Migrate => whimbrel_db::run_migrations(&url).await.map(|applied| {
            say(&applied, "applied");
            ExitCode::SUCCESS
        }),
        Command::Status => whimbrel_db::pending_migrations(&url).await.map(|pending| {
            say(&pending, "missing");
            if pending.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }),
    };
    done.unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        ExitCode::from(2)
    })
}

fn url(args: &Args) -> Result<String, String> {
    match (&args.url, &args.url_file) {
        (Some(url), _) => Ok(url.clone()),
        (None, Some(file)) => std::fs::read_to_string(file)
            .map(|text| text.trim_end().to_owned())
            .map_err(|error| format!("{}: {error}", file.display())),
        (None, None) => {
            Err("say where the database is: --url-file, --url, or the environment".to_owned())
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is what the command is for")]
fn say(names: &[String], what: &str) {
    if names.is_empty() {
        println!("up to date");
    }
    for name in names {
        println!("{what}: {name}");
    }
}

#[expect(clippy::print_stderr, reason = "errors of a command go there")]
fn complain(message: &str) {
    eprintln!("whimbrel-db: {message}");
}
