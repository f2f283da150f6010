//! How a service says that it lives, that it is of use, and what it counts: `/livez`, `/readyz` and `/metrics` on a
//! port of their own, away from callers.
//!
//! They are served by a thread of their own, so that they answer while the service's own runtime is stuck:
//!
//! - `/livez` asks only whether the runtime still turns. It never depends on broker or database: to start a process
//!   again because another is down makes an outage longer.
//! - `/readyz` asks whether what the service needs is there, each with a deadline. `?verbose` lists all.
//! - `/metrics` is what was counted, in the text form of Prometheus.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::figures;

/// The runtime notes the time so often.
const TICK: Duration = Duration::from_secs(1);
/// A runtime that has not turned for this time is stuck.
const STUCK: Duration = Duration::from_secs(30);
/// How long one check of `/readyz` may take.
const CHECK: Duration = Duration::from_secs(5);

/// Health and metrics: where they are served.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ManagementConfig {
    /// Where `/livez`, `/readyz` and `/metrics` are served; nowhere if not given. There is no authentication: keep it
    /// to networks that may know.
    pub listen: Option<SocketAddr>,
}

type Verdict = Result<(), String>;
type Checking = Pin<Box<dyn Future<Output = Verdict> + Send>>;

struct Check {
    name: &'static str,
    run: Box<dyn Fn() -> Checking + Send + Sync>,
}

struct Shared {
    begun: Instant,
    /// When the runtime last turned, in milliseconds since `begun`.
    turned: AtomicU64,
    started: AtomicBool,
    checks: Mutex<Vec<Arc<Check>>>,
    runtime: Handle,
}

/// What a service knows of its own health. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    shared: Arc<Shared>,
    address: Option<SocketAddr>,
}

impl Health {
    /// Serves as `config` says. Must be called inside the service's runtime.
    ///
    /// # Errors
    /// When the address can't be listened on.
    pub fn start(service: &'static str, config: &ManagementConfig) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            turned: AtomicU64::new(0),
            started: AtomicBool::new(false),
            checks: Mutex::default(),
            runtime: Handle::current(),
        });
        let Some(listen) = config.listen else { return Ok(Self { shared, address: None }) };
        figures::install(service)?;
        let listener = std::net::TcpListener::bind(listen)
            .with_context(|| format!("listening on {listen} (management.listen)"))?;
        listener.set_nonblocking(true).context("listening for management")?;
        let address = listener.local_addr().context("listening for management")?;
        let ticking = Arc::downgrade(&shared);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            while let Some(shared) = ticking.upgrade() {
                shared.note_turn();
                drop(shared);
                ticks.tick().await;
            }
        });
        let served = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("management".to_owned())
            .spawn(move || serve(listener, served))
            .context("starting the management thread")?;
        tracing::info!(listen = %address, "health and metrics are served");
        Ok(Self { shared, address: Some(address) })
    }

    /// Where it is served, if it is.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The service is of use only as long as `check` says so.
    pub fn require<F>(&self, name: &'static str, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Verdict> + Send + 'static,
    {
        let check = Check { name, run: Box::new(move || Box::pin(check())) };
        let mut checks = self.shared.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.push(Arc::new(check));
    }

    /// The service has started.
    pub fn started(&self) {
        self.shared.started.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn note_turn(&self) {
        self.turned.store(self.now(), Ordering::Relaxed);
    }

    fn alive(&self) -> Verdict {
        let still = self.now().saturating_sub(self.turned.load(Ordering::Relaxed));
        let still = Duration::from_millis(still);
        if still < STUCK {
            Ok(())
        } else {
            Err(format!("has not turned for {} s", still.as_secs()))
        }
    }

    async fn verdicts(&self) -> Vec<(&'static str, Verdict)> {
        let started = self.started.load(Ordering::Relaxed);
        let mut verdicts = vec![
            ("runtime", self.alive()),
            ("started", if started { Ok(()) } else { Err("still starting".to_owned()) }),
        ];
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // In the service's runtime, where its connections live; all at once.
        let running: Vec<_> =
            checks.iter().map(|check| (check.name, self.runtime.spawn((check.run)()))).collect();
        for (name, task) in running {
            let abort = task.abort_handle();
            let verdict = match tokio::time::timeout(CHECK, task).await {
                Ok(Ok(verdict)) => verdict,
                Ok(Err(_)) => Err("the check broke off".to_owned()),
                Err(_) => {
                    abort.abort();
                    Err(format!("no answer in {} s", CHECK.as_secs()))
                }
            };
            verdicts.push((name, verdict));
        }
        verdicts
    }
}

fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let served =
        tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            runtime.block_on(async move {
                let router = Router::new()
                    .route("/livez", get(live))
                    .route("/readyz", get(ready))
                    .route("/metrics", get(metrics))
                    .with_state(shared);
                axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await
            })
        });
    if let Err(error) = served {
        tracing::error!(%error, "health and metrics are no longer served");
    }
}

async fn live(State(shared): State<Arc<Shared>>, query: RawQuery) -> impl IntoResponse {
    answer("livez", &[("runtime", shared.alive())], &query)
}

async fn ready(State(shared): State<Arc<Shared>>, query: RawQuery) -> impl IntoResponse {
    answer("readyz", &shared.verdicts().await, &query)
}

async fn metrics() -> impl IntoResponse {
    let kind = [("content-type", "text/plain; version=0.0.4; charset=utf-8")];
    (kind, figures::render())
}

/// As Kubernetes' own programs answer: `ok`, or a line for each check.
fn answer(
    endpoint: &str,
    verdicts: &[(&str, Verdict)],
    RawQuery(query): &RawQuery,
) -> (StatusCode, String) {
    let good = verdicts.iter().all(|(_, verdict)| verdict.is_ok());
    let asked = query.iter().flat_map(|query| query.split('&'));
    let verbose = asked.into_iter().any(|word| word == "verbose" || word.starts_with("verbose="));
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if good && !verbose {
        return (status, "ok\n".to_owned());
    }
    let mut text = String::new();
    for (name, verdict) in verdicts {
        match verdict {
            Ok(()) => text += &format!("[+]{name} ok\n"),
            Err(why) => text += &format!("[-]{name} failed: {why}\n"),
        }
    }
    text += &format!("{endpoint} check {}\n", if good { "passed" } else { "failed" });
    (status, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::fetch;

    fn served() -> (Health, SocketAddr) {
        let listen = Some("127.0.0.1:0".parse().unwrap());
        let health = Health::start("whimbrel-test", &ManagementConfig { listen }).unwrap();
        let address = health.address().unwrap();
        (health, address)
    }

    async fn get(address: SocketAddr, path: &'static str) -> (u16, String) {
        tokio::task::spawn_blocking(move || fetch(address, path).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn it_is_alive_before_it_is_ready() {
        let (health, address) = served();
        assert_eq!(get(address, "/livez").await, (200, "ok\n".to_owned()));
        let (status, said) = get(address, "/readyz").await;
        assert!(status == 503 && said.contains("[-]started failed: still starting"), "{said}");
        health.started();
        assert_eq!(get(address, "/readyz").await, (200, "ok\n".to_owned()));
    }

    #[tokio::test]
    async fn what_it_needs_makes_it_unready_but_never_dead() {
        let (health, address) = served();
        health.started();
        health.require("database", || async { Err("it is away".to_owned()) });
        health.require("broker", || async { Ok(()) });
        let (status, said) = get(address, "/readyz").await;
        assert!(status == 503 && said.contains("[-]database failed: it is away"), "{said}");
        assert!(said.contains("[+]broker ok") && said.ends_with("readyz check failed\n"), "{said}");
        assert_eq!(get(address, "/livez?verbose").await.0, 200);
    }

    #[test]
    fn a_runtime_that_is_stuck_is_said_to_be() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (health, address) = runtime.block_on(async { served() });
        // Nobody turns the runtime from here on, as if it were stuck; the answer comes all the same.
        health.shared.turned.store(0, Ordering::Relaxed);
        assert_eq!(fetch(address, "/livez").unwrap().0, 200);
        let shared = Shared {
            begun: Instant::now().checked_sub(STUCK).unwrap(),
            turned: AtomicU64::new(0),
            started: AtomicBool::new(true),
            checks: Mutex::default(),
            runtime: runtime.handle().clone(),
        };
        assert!(shared.alive().unwrap_err().contains("has not turned for 30 s"));
    }

    #[tokio::test]
    async fn metrics_say_who_it_is() {
        let (_health, address) = served();
        let (status, text) = get(address, "/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains("whimbrel_build_info{"), "{text}");
    }
}
