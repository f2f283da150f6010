//! Being told to stop.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Knows whether the process was told to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown {
    told: watch::Receiver<bool>,
}

impl Shutdown {
    /// Told by SIGTERM or SIGINT. Must be called inside a runtime.
    ///
    /// # Errors
    /// When signals can't be received.
    pub fn on_signals() -> anyhow::Result<Self> {
        let mut terminate = signal(SignalKind::terminate()).context("receiving SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("receiving SIGINT")?;
        let (tell, told) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("told to stop");
            tell.send_replace(true);
            tell.closed().await;
        });
        Ok(Self { told })
    }

    /// Told by `told`, for tests and for services in one process.
    pub fn on(told: watch::Receiver<bool>) -> Self {
        Self { told }
    }

    /// Returns once told.
    pub async fn wait(&mut self) {
        // A sender that is gone can't tell any more; the process is ending anyway.
        let _ = self.told.wait_for(|told| *told).await;
    }
}
