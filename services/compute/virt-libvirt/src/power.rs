//! Starting, stopping and restarting a guest.

use std::time::Duration;

use tokio::time::Instant;
use virt::domain::Domain;
use whimbrel_messages::compute::{InstanceSpec, RebootKind};
use whimbrel_model::{InstanceId, PowerState};
use whimbrel_virt::DriverError;

use crate::domains::{self, DomainState};
use crate::driver::LibvirtDriver;
use crate::epochs::Right;
use crate::error::Doing;
use crate::files;

/// How often a guest that shuts down is looked at when no event says that it did.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often its operating system is told again: while it boots, it does not listen.
const ASK_INTERVAL: Duration = Duration::from_secs(10);

impl LibvirtDriver {
    pub(crate) async fn power_on_guest(
        &self,
        instance: &InstanceSpec,
        owner_epoch: i64,
    ) -> Result<(), DriverError> {
        let id = instance.id;
        self.epochs.admit(id, owner_epoch, Right::Own).await?;
        if !files::exists(&self.paths.root_disk(id)).await? {
            return Err(DriverError::NotFound(id));
        }
        self.check_bridges(instance)?;
        // The stored definition has the guest's PCI layout and is kept; one that was lost is made anew.
        let xml = self.definition(instance, owner_epoch);
        self.hypervisor
            .call("start the guest", move |connect| {
                let domain = match domains::find(connect, id)? {
                    Some(domain) => domain,
                    None => Domain::define_xml(connect, &xml).doing("define the guest")?,
                };
                domains::set_owner_epoch(&domain, id, owner_epoch)?;
                domains::start(&domain)
            })
            .await
    }

    pub(crate) async fn power_off_guest(
        &self,
        id: InstanceId,
        timeout: Duration,
    ) -> Result<(), DriverError> {
        if !timeout.is_zero() && self.shut_down(id, timeout).await? {
            return Ok(());
        }
        self.hypervisor
            .call("power the guest off", move |connect| {
                domains::power_cut(&domains::get(connect, id)?)
            })
            .await
    }

    pub(crate) async fn reboot_guest(
        &self,
        instance: &InstanceSpec,
        owner_epoch: i64,
        kind: RebootKind,
    ) -> Result<(), DriverError> {
        // Refused before anything is switched off.
        self.epochs.admit(instance.id, owner_epoch, Right::Own).await?;
        let timeout = match kind {
            RebootKind::Soft => Duration::from_millis(self.config.soft_reboot_timeout_ms),
            RebootKind::Hard => Duration::ZERO,
        };
        match self.power_off_guest(instance.id, timeout).await {
            Ok(()) | Err(DriverError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        self.power_on_guest(instance, owner_epoch).await
    }

    pub(crate) async fn guest_power_state(
        &self,
        id: InstanceId,
    ) -> Result<PowerState, DriverError> {
        let state = self.guest_state(id).await?;
        Ok(state.ok_or(DriverError::NotFound(id))?.power_state())
    }

    /// What the guest does, if libvirt knows it.
    pub(crate) async fn guest_state(
        &self,
        id: InstanceId,
    ) -> Result<Option<DomainState>, DriverError> {
        self.hypervisor
            .call("ask for the guest's state", move |connect| match domains::find(connect, id)? {
                Some(domain) => domains::state(&domain),
                None => Ok(None),
            })
            .await
    }

    /// Asks the guest's operating system to shut down; whether it did within `timeout`.
    async fn shut_down(&self, id: InstanceId, timeout: Duration) -> Result<bool, DriverError> {
        let deadline = Instant::now() + timeout;
        let mut events = self.hypervisor.events();
        let mut ask_at = Instant::now();
        loop {
            let ask = Instant::now() >= ask_at;
            if ask {
                ask_at = Instant::now() + ASK_INTERVAL;
            }
            let active = self
                .hypervisor
                .call("shut the guest down", move |connect| {
                    let domain = domains::get(connect, id)?;
                    let active = domain.is_active().doing("ask for the guest's state")?;
                    if active
                        && ask
                        && let Err(error) = domain.shutdown()
                    {
                        // A guest that is halted or has no ACPI can't hear; the power cut comes anyway.
                        tracing::debug!(error = error.message(), "the guest can't be asked");
                    }
                    Ok(active)
                })
                .await?;
            if !active {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            let look_at = deadline.min(now + LOOK_INTERVAL);
            let about_this_guest = async {
                // After an error (events were missed) the guest is looked at, too.
                while events.recv().await.is_ok_and(|event| event.uuid != id.0) {}
            };
            let _ = tokio::time::timeout_at(look_at, about_this_guest).await;
        }
    }
}
