//! The compute service: one per host. Carries out commands on the hypervisor and reports what is on it.
//!
//! ```text
//!   compute.<host> ─▶ dispatch ─▶ journal? ── known ──────────────────────┐
//!                        │ new                                            ▼
//!                        ├─▶ handler ─▶ driver ─▶ journal the answer ─▶ reply ─▶ acknowledge
//!                        └─▶ job (live_migration): journal, acknowledge, run for as long as it takes,
//!                            journal the answer, reply; followed again after a restart
//! ```
//! It never touches the database: a compromised host must not be able to write rows.

mod config;
mod dispatch;
mod fence;
mod handlers;
mod inbox;
mod jobs;
mod journal;
mod reboot;
mod replies;
mod reporter;

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use whimbrel_rpc::{Amqp, Topology};
use whimbrel_service::{Health, Shutdown};
use whimbrel_virt::ComputeDriver;
use whimbrel_virt::fake::FakeDriver;
use whimbrel_virt_libvirt::{HostContext, LibvirtDriver};

pub use config::{ComputeConfig, Config, DriverKind};
use dispatch::Agent;
use journal::Journal;
use reporter::Reporter;

/// Runs until told to stop. Migrations under way go on without it and are followed again at the next start.
///
/// # Errors
/// When the broker, the hypervisor or the state directory can't be used at the start.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    match config.compute.driver {
        DriverKind::Fake => {
            let host = config.compute.host.clone();
            let driver = FakeDriver::new(host, config.fake.clone())
                .context("starting the simulated hypervisor")?;
            serve(config, driver, shutdown).await
        }
        DriverKind::Libvirt => {
            let context = HostContext {
                host: config.compute.host.clone(),
                state_dir: config.compute.state_dir.clone(),
                image_url: config.compute.image_url.clone(),
            };
            let driver = LibvirtDriver::new(config.libvirt.clone(), context)
                .await
                .context("connecting to libvirt")?;
            serve(config, driver, shutdown).await
        }
    }
}

/// Runs the service over `driver`. For tests that bring their own.
///
/// # Errors
/// As [`run`].
pub async fn serve<D: ComputeDriver>(
    config: Config,
    driver: D,
    mut shutdown: Shutdown,
) -> anyhow::Result<()> {
    let health = Health::start("whimbrel-compute", &config.management)?;
    let compute = &config.compute;
    tokio::fs::create_dir_all(&compute.state_dir)
        .await
        .with_context(|| format!("making the state directory {}", compute.state_dir.display()))?;
    let journal = Journal::open(&compute.state_dir.join("journal.jsonl"))
        .await
        .context("opening the journal")?;
    let restarted = reboot::since_last_time(&compute.state_dir)
        .context("looking whether the host was restarted")?;
    let amqp = Amqp::connect(&config.amqp, &format!("whimbrel-compute {}", compute.host))
        .await
        .context("connecting to the broker")?;
    amqp.declare(Topology::Compute(compute.host.clone())).await.context("declaring queues")?;

    health.require("broker", {
        let amqp = amqp.clone();
        move || amqp.clone().ready()
    });
    let mut background: JoinSet<&'static str> = JoinSet::new();
    let replies = replies::start(&mut background, amqp.publisher());
    let driver = Arc::new(driver);
    let changed = Arc::new(Notify::new());
    let reporter = Reporter::new(Arc::clone(&driver), amqp.publisher(), compute);
    background.spawn(reporter.run(Arc::clone(&changed)));
    let agent =
        Agent::new(compute.host.clone(), driver, journal, replies, amqp.publisher(), changed);
    let agent = Arc::new(agent);
    agent.resume_jobs(restarted);
    health.started();
    tracing::info!(host = %compute.host, "ready");
    let ended = inbox::consume(&agent, &amqp, restarted, &mut background, &mut shutdown).await?;
    agent.finish_short_work().await;
    background.shutdown().await;
    amqp.close().await;
    match ended {
        None => Ok(()),
        Some(part) => anyhow::bail!("{part} ended"),
    }
}
