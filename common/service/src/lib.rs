//! What every Whimbrel process does alike: configuration, logs, health, metrics, signals, the exit status.

mod cli;
pub mod config;
mod error_chain;
mod figures;
mod health;
mod logs;
mod probe;
mod shutdown;

use std::process::ExitCode;

use cli::{Args, complain};
pub use config::Configuration;
pub use error_chain::ErrorChain;
pub use health::{Health, ManagementConfig};
pub use logs::{LogConfig, LogFormat};
pub use metrics;
pub use shutdown::Shutdown;

/// The parts of a service's configuration that every service has.
pub trait CommonConfig: Configuration {
    /// Section `[log]`.
    fn log(&self) -> &LogConfig;
    /// Section `[management]`.
    fn management(&self) -> &ManagementConfig;
}

/// The `main` of a service: reads its configuration, starts logs and the runtime, and runs it until it ends or
/// is told to stop.
///
/// The exit status is 0 after a stop that was asked for, 1 when the service failed, 2 when it could not start
/// because of its arguments or configuration.
pub fn main<C, F>(name: &'static str, run: F) -> ExitCode
where
    C: CommonConfig,
    F: AsyncFnOnce(C, Shutdown) -> anyhow::Result<()>,
{
    let args = Args::read(name);
    if let Some(command) = &args.command {
        return cli::carry_out(name, command, &args.sources(), C::management);
    }
    let config = match config::load::<C>(&args.sources()) {
        Ok(config) => config,
        Err(error) => {
            complain(name, &error.to_string());
            return ExitCode::from(2);
        }
    };
    if let Err(error) = logs::start(config.log()) {
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
