//! AMQP: connections that heal, publishing with confirms, consuming in batches. The only crate that names lapin.
//!
//! Each process has two connections, so that a broker that blocks publishers does not starve
//! acknowledgements. Neither recovers by lapin's own means, which do not heal a channel that the broker
//! closed; whatever fails is dropped and built anew, with a jittered pause (docs/adr/0004).

mod config;
mod consume;
mod definitions;
mod link;
mod outgoing;
mod publish;
mod topology;

use std::sync::Arc;

pub use config::AmqpConfig;
pub use consume::{Deliveries, Delivery};
pub use definitions::{Agent, CONTROL_USER, Definitions, agent_user};
use link::{Link, Pause};
pub use outgoing::Outgoing;
pub use publish::{Published, Publisher};
pub use topology::{Topology, exchange, queue};

/// How long a service that starts waits for the broker.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// What can go wrong with the broker.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The broker can't be reached, or refuses us.
    #[error("the broker can't be reached while {doing}")]
    Broker {
        /// What was being done.
        doing: &'static str,
        /// How it failed.
        #[source]
        source: lapin::Error,
    },
    /// The broker did not answer in time.
    #[error("the broker did not answer while {0}")]
    TimedOut(&'static str),
    /// It can't be tried with these settings.
    #[error("{0}")]
    Settings(String),
}

impl RpcError {
    /// Whether another try can't go better: the settings are wrong, or one side does not trust the other's
    /// certificate.
    fn is_final(&self) -> bool {
        match self {
            Self::Settings(_) => true,
            Self::Broker { source, .. } => match source.kind() {
                lapin::ErrorKind::IOError(error) => error.kind() == std::io::ErrorKind::InvalidData,
                _ => false,
            },
            Self::TimedOut(_) => false,
        }
    }

    /// Whether the broker says that we may not.
    fn is_refusal(&self) -> bool {
        const ACCESS_REFUSED: u16 = 403;
        match self {
            Self::Broker { source, .. } => match source.kind() {
                lapin::ErrorKind::ProtocolError(error) => error.get_id() == ACCESS_REFUSED,
                _ => false,
            },
            _ => false,
        }
    }

    fn broker(doing: &'static str) -> impl Fn(lapin::Error) -> Self {
        move |source| Self::Broker { doing, source }
    }
}

/// Tries again for a minute.
async fn patiently<F>(call: impl Fn() -> F) -> Result<(), RpcError>
where
    F: Future<Output = Result<(), RpcError>>,
{
    let begun = std::time::Instant::now();
    let mut pause = Pause::default();
    loop {
        match call().await {
            Err(error) if !error.is_final() && begun.elapsed() < PATIENCE => {
                tracing::warn!(error = &error as &dyn std::error::Error, "trying again");
            }
            ended => return ended,
        }
        pause.wait().await;
    }
}

/// A process's two connections to the broker. Cheap to clone.
#[derive(Clone)]
pub struct Amqp {
    consuming: Arc<Link>,
    publishing: Arc<Link>,
    publisher: Publisher,
}

impl Amqp {
    /// Connects as `name`, which the broker's own tools show. A broker that is just starting is waited for.
    ///
    /// # Errors
    /// When the broker can't be reached for a minute. Later losses heal by themselves.
    pub async fn connect(config: &AmqpConfig, name: &str) -> Result<Self, RpcError> {
        let consuming = Arc::new(Link::new(config, &format!("{name} consuming")));
        let publishing = Arc::new(Link::new(config, &format!("{name} publishing")));
        patiently(|| consuming.connect()).await?;
        patiently(|| publishing.connect()).await?;
        let publisher = Publisher::new(Arc::clone(&publishing));
        Ok(Self { consuming, publishing, publisher })
    }

    /// Makes the exchanges and queues that a service needs. Does nothing where they are. A user who may not make them
    /// finds them there, or fails.
    ///
    /// # Errors
    /// When the broker can't be reached for a minute, or has them with other arguments.
    pub async fn declare(&self, topology: Topology) -> Result<(), RpcError> {
        patiently(|| self.declare_once(&topology)).await
    }

    async fn declare_once(&self, topology: &Topology) -> Result<(), RpcError> {
        let channel = topology.ensure(&self.consuming).await?;
        let closed = channel.close(200, "declared".into()).await;
        closed.map_err(RpcError::broker("closing a channel"))
    }

    /// For sending.
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// Consumes `queue`, at most `prefetch` messages unacknowledged. Goes on for as long as it lives: what the
    /// broker ends is begun anew.
    ///
    /// # Errors
    /// When it can't be begun for a minute.
    pub async fn consume(&self, queue: &str, prefetch: u16) -> Result<Deliveries, RpcError> {
        Deliveries::start(Arc::clone(&self.consuming), self.publisher.clone(), queue, prefetch)
            .await
    }

    /// Whether both connections stand and every consumer consumes.
    pub fn is_ready(&self) -> bool {
        self.consuming.is_ready() && self.publishing.is_ready()
    }

    /// As [`Amqp::is_ready`], after a try to build anew what is lost: a service that only publishes would else learn of
    /// a lost connection only when it has something to say.
    ///
    /// # Errors
    /// With what is wrong, when it is not ready.
    pub async fn ready(self) -> Result<(), String> {
        for link in [&self.consuming, &self.publishing] {
            if !link.stands().await {
                link.connect().await.map_err(|error| error.to_string())?;
            }
        }
        if self.is_ready() { Ok(()) } else { Err("a consumer is not consuming".to_owned()) }
    }

    /// Closes both connections. Unacknowledged messages go back to their queues.
    pub async fn close(&self) {
        self.consuming.close().await;
        self.publishing.close().await;
    }
}
