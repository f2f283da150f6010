//! What every Whimbrel process does alike: configuration, logs, signals, the exit status.

mod config;
mod error_chain;
mod logs;
mod shutdown;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde::de::DeserializeOwned;

pub use config::{ConfigError, load};
pub use error_chain::ErrorChain;
pub use logs::{LogConfig, LogFormat};
pub use shutdown::Shutdown;

/// Arguments of every service.
#[derive(Debug, Parser)]
struct Args {
    /// The configuration file, in TOML. Each value can be overridden by an environment variable
    /// `WHIMBREL__SECTION__KEY`.
    #[arg(long, short)]
    config: PathBuf,
}

/// The `main` of a service: reads its configuration, starts logs and the runtime, and runs it until it ends or
/// is told to stop.
///
/// The exit status is 0 after a stop that was asked for, 1 when the service failed, 2 when it could not start
/// because of its arguments or configuration.
pub fn main<C, F>(name: &'static str, log: fn(&C) -> &LogConfig, run: F) -> ExitCode
where
    C: DeserializeOwned,
    F: AsyncFnOnce(C, Shutdown) -> anyhow::Result<()>,
{
    let args = Args::parse();
    let config = match load::<C>(&args.config) {
        Ok(config) => config,
        Err(error) => {
            complain(name, &ErrorChain(&error).to_string());
            return ExitCode::from(2);
        }
    };
    if let Err(error) = logs::start(log(&config)) {
        complain(name, &error);
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(name, &format!("can't start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "{name} starts");
    let ended = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        run(config, shutdown).await
    });
    // Blocking calls of a hypervisor are not waited for: what they do goes on without us.
    runtime.shutdown_background();
    match ended {
        Ok(()) => {
            tracing::info!("{name} stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{name} failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "before there are logs")]
fn complain(name: &str, message: &str) {
    eprintln!("{name}: {message}");
}
