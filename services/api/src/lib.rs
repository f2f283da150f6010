//! The HTTP API: OpenStack's Compute API v2.1 with the few calls of the image and network services that go with it.
//!
//! A request is checked against what the database says, written in one transaction with the saga that carries it
//! out, and answered. Nothing is carried out here.

mod auth;
mod body;
#[cfg(test)]
mod compatibility;
mod config;
mod error;
mod fencing;
mod handlers;
mod observe;
mod openapi;
mod outbox;
mod router;
mod state;
mod time;
mod version;
mod views;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::middleware::from_fn;
use whimbrel_db::Database;
use whimbrel_rpc::{Amqp, Topology};
use whimbrel_service::{Health, Shutdown};

pub use auth::Authenticator;
pub use config::{ApiConfig, AuthMode, Config, HttpBasicConfig, KeystoneConfig, Secret};
pub use fencing::{Fencing, FencingConfig};
pub use openapi::document;
pub use outbox::Sender;
pub use router::router;
pub use state::Api;

/// How often the service says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Runs until told to stop; requests under way are answered first.
///
/// # Errors
/// When the broker or the database can't be reached at the start, or the address can't be listened on.
pub async fn run(config: Config, mut shutdown: Shutdown) -> anyhow::Result<()> {
    let listen = config.api.listen;
    let exposed = config.api.auth == AuthMode::None && !listen.ip().is_loopback();
    if exposed && !config.api.allow_insecure_bind {
        anyhow::bail!(
            "api.auth is \"none\", which makes everybody an administrator, and api.listen is {listen}, which \
             others can reach; listen on 127.0.0.1, or set api.allow_insecure_bind = true if you mean it"
        );
    }
    let authenticator = Authenticator::new(&config.api)?;
    tokio::fs::create_dir_all(&config.api.image_dir).await.with_context(|| {
        format!("making the image directory {}", config.api.image_dir.display())
    })?;
    let health = Health::start("whimbrel-api", &config.management)?;
    let database = Database::new(&config.database)?;
    health.require("database", {
        let database = database.clone();
        move || database.clone().ready()
    });
    let amqp =
        Amqp::connect(&config.amqp, "whimbrel-api").await.context("connecting to the broker")?;
    amqp.declare(Topology::Api).await.context("declaring queues")?;
    health.require("broker", {
        let amqp = amqp.clone();
        move || amqp.clone().ready()
    });
    let (sender, sending) = outbox::start(database.clone(), amqp.publisher());
    let (database_of_api, config) = (database.clone(), config.api);
    let fencing = Fencing::new(config.fencing.clone());
    let api = Arc::new(Api { database: database_of_api, config, fencing, authenticator, sender });
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("listening on {listen}"))?;
    health.started();
    tracing::info!(%listen, "ready");
    let server = axum::serve(listener, router(api).layer(from_fn(observe::layer)))
        .with_graceful_shutdown(async move { shutdown.wait().await });
    let heartbeat = whimbrel_db::heartbeat(database, "whimbrel-api", HEARTBEAT);
    tokio::select! {
        served = server => served.context("serving")?,
        () = heartbeat => {}
    }
    // The router is gone, and with it the last one who could send; what it sent is published first.
    sending.await.context("sending the last messages")?;
    amqp.close().await;
    Ok(())
}
