//! Says regularly, and soon after a change, what the host has and which guests are on it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;
use whimbrel_messages::report::{HostReport, Inventory};
use whimbrel_model::HostName;
use whimbrel_rpc::{Outgoing, Publisher};
use whimbrel_virt::{ComputeDriver, DriverError};

use crate::ComputeConfig;

/// Changes within this time are told in one report: a host with hundreds of guests that come and go would else send
/// their whole list several times a second.
const SETTLE: Duration = Duration::from_secs(1);
/// What a host has is looked at this often at most; its guests each time.
const INVENTORY: Duration = Duration::from_secs(10);

pub(crate) struct Reporter<D> {
    driver: Arc<D>,
    publisher: Publisher,
    host: HostName,
    interval: Duration,
    boot_id: Uuid,
    started_at: DateTime<Utc>,
    sequence: i64,
    inventory: Option<(tokio::time::Instant, Inventory)>,
}

impl<D: ComputeDriver> Reporter<D> {
    pub(crate) fn new(driver: Arc<D>, publisher: Publisher, config: &ComputeConfig) -> Self {
        Self {
            driver,
            publisher,
            host: config.host.clone(),
            interval: Duration::from_millis(config.report_interval_ms.max(100)),
            boot_id: Uuid::now_v7(),
            started_at: Utc::now(),
            sequence: 0,
            inventory: None,
        }
    }

    /// Reports until it is dropped. While the hypervisor does not answer there is nothing to say, and the host
    /// counts as down after a while: it could not carry anything out.
    pub(crate) async fn run(mut self, changed: Arc<Notify>) -> &'static str {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = changed.notified() => tokio::time::sleep(SETTLE.min(self.interval)).await,
            }
            match self.report().await {
                Ok(report) => drop(self.publisher.publish_all(&[Outgoing::report(&report)]).await),
                Err(error) => tracing::warn!(%error, "no report"),
            }
        }
    }

    async fn report(&mut self) -> Result<HostReport, DriverError> {
        let observed_at = Utc::now();
        let guests = self.driver.guests().await?;
        let inventory = self.inventory().await?;
        self.sequence += 1;
        Ok(HostReport {
            host: self.host.clone(),
            boot_id: self.boot_id,
            started_at: self.started_at,
            sequence: self.sequence,
            observed_at,
            interval_ms: i64::try_from(self.interval.as_millis()).unwrap_or(i64::MAX),
            inventory,
            guests,
        })
    }

    async fn inventory(&mut self) -> Result<Inventory, DriverError> {
        if let Some((at, known)) = &self.inventory
            && at.elapsed() < INVENTORY
        {
            return Ok(known.clone());
        }
        let inventory = self.driver.inventory().await?;
        self.inventory = Some((tokio::time::Instant::now(), inventory.clone()));
        Ok(inventory)
    }
}
