//! One connection that is built anew when it is lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lapin::runtime::default_runtime;
use lapin::{Channel, Connection, ConnectionProperties};
use rand::Rng;
use tokio::sync::Mutex;

use crate::{AmqpConfig, RpcError};

/// How long a connection or a channel may take to stand.
const CONNECT: Duration = Duration::from_secs(10);
/// Largest frame, in bytes. The client keeps buffers of 64 frames for each connection, which at the broker's own
/// 128 KiB are 8 MiB; a longer message is sent as several frames.
const FRAME_MAX: u32 = 16 * 1_024;
/// The first pause between two tries to heal.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(crate) struct Link {
    config: AmqpConfig,
    url: String,
    name: String,
    connection: Mutex<Option<Connection>>,
    connected: AtomicBool,
    consumers_wanted: AtomicUsize,
    consumers_live: AtomicUsize,
    closed: AtomicBool,
}

impl Link {
    pub(crate) fn new(config: &AmqpConfig, name: &str) -> Self {
        Self {
            config: config.clone(),
            url: with_frame_max(&config.url),
            name: name.to_owned(),
            connection: Mutex::default(),
            connected: AtomicBool::new(false),
            consumers_wanted: AtomicUsize::new(0),
            consumers_live: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        }
    }

    pub(crate) async fn connect(&self) -> Result<(), RpcError> {
        self.channel().await.map(drop)
    }

    /// A new channel, on a new connection if the old one is lost.
    pub(crate) async fn channel(&self) -> Result<Channel, RpcError> {
        let mut connection = self.connection.lock().await;
        if let Some(standing) = connection.as_ref().filter(|known| known.status().connected()) {
            match within("opening a channel", standing.create_channel()).await {
                Ok(channel) => return Ok(channel),
                Err(error) => tracing::debug!(%error, link = self.name, "connection given up"),
            }
        }
        self.connected.store(false, Ordering::Relaxed);
        *connection = None;
        let properties =
            ConnectionProperties::default().with_connection_name(self.name.as_str().into());
        let tls = self.config.tls().await?;
        let runtime = default_runtime().map_err(RpcError::broker("connecting"))?;
        let connecting = Connection::connect_with_config(&self.url, properties, tls, runtime);
        let standing = within("connecting", connecting).await?;
        let channel = within("opening a channel", standing.create_channel()).await?;
        *connection = Some(standing);
        self.connected.store(true, Ordering::Relaxed);
        Ok(channel)
    }

    pub(crate) fn consumer_wanted(&self) {
        self.consumers_wanted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn consumer_lives(&self) {
        self.consumers_live.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn consumer_ended(&self) {
        self.consumers_live.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn is_ready(&self) -> bool {
        let wanted = self.consumers_wanted.load(Ordering::Relaxed);
        self.connected.load(Ordering::Relaxed)
            && self.consumers_live.load(Ordering::Relaxed) == wanted
    }

    pub(crate) async fn stands(&self) -> bool {
        self.connection.lock().await.as_ref().is_some_and(|known| known.status().connected())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Some(connection) = self.connection.lock().await.take() {
            let closed =
                tokio::time::timeout(CONNECT, connection.close(200, "closing".into())).await;
            tracing::debug!(link = self.name, ?closed, "closed");
        }
    }
}

/// Adds the size of frames to a URL, unless it says one.
fn with_frame_max(url: &str) -> String {
    if url.contains("frame_max=") {
        return url.to_owned();
    }
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}frame_max={FRAME_MAX}")
}

/// Awaits an answer of the broker, but not for ever.
pub(crate) async fn within<T>(
    doing: &'static str,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, RpcError> {
    match tokio::time::timeout(CONNECT, call).await {
        Ok(answer) => answer.map_err(RpcError::broker(doing)),
        Err(_) => Err(RpcError::TimedOut(doing)),
    }
}

/// Pauses between tries, longer each time, never two alike.
#[derive(Default)]
pub(crate) struct Pause(u32);

impl Pause {
    pub(crate) async fn wait(&mut self) {
        let longest = (FIRST_PAUSE * 2u32.saturating_pow(self.0)).min(LONGEST_PAUSE);
        self.0 = (self.0 + 1).min(16);
        let share = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep(longest.mul_f64(share)).await;
    }

    pub(crate) fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_small_unless_the_url_says_otherwise() {
        assert_eq!(with_frame_max("amqp://b/%2f"), "amqp://b/%2f?frame_max=16384");
        let told = "amqp://b/%2f?heartbeat=5";
        assert_eq!(with_frame_max(told), format!("{told}&frame_max=16384"));
        let own = "amqp://b/%2f?frame_max=131072";
        assert_eq!(with_frame_max(own), own);
    }
}
