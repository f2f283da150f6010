//! Giving a guest a volume, and taking it away.
//!
//! A disk is known by its serial number, which is the volume's id, so that each call can look whether it was carried
//! out before. What runs and what is stored are looked at each by itself: a crash can come in between.

use std::time::Duration;

use tokio::time::Instant;
use virt::domain::Domain;
use virt_sys as sys;
use whimbrel_messages::compute::InstanceSpec;
use whimbrel_model::{InstanceId, VolumeId};
use whimbrel_virt::DriverError;

use crate::domain_read;
use crate::domain_xml::{device_xml, serial, volume_xml};
use crate::domains;
use crate::driver::LibvirtDriver;
use crate::epochs::Right;
use crate::error::Doing;
use crate::xml_tree::Element;

/// How often a guest that is to let go of a volume is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How often it is told again: while it boots, it does not listen. Not sooner, since a second press on the button of
/// a PCIe slot within five seconds takes the first one back.
const ASK_INTERVAL: Duration = Duration::from_secs(10);

/// Which of a guest's two definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// What its emulator has.
    Live,
    /// What it is started with.
    Stored,
}

impl Side {
    fn flag(self) -> u32 {
        match self {
            Self::Live => sys::VIR_DOMAIN_AFFECT_LIVE,
            Self::Stored => sys::VIR_DOMAIN_AFFECT_CONFIG,
        }
    }

    /// Whether the guest has one.
    fn exists(self, domain: &Domain) -> Result<bool, DriverError> {
        const DOING: &str = "ask for the guest's state";
        match self {
            Self::Live => domain.is_active().doing(DOING),
            Self::Stored => domain.is_persistent().doing(DOING),
        }
    }

    /// The name that the volume has there.
    fn device(self, domain: &Domain, volume_id: VolumeId) -> Result<Option<String>, DriverError> {
        if !self.exists(domain)? {
            return Ok(None);
        }
        let flags = if self == Self::Stored { sys::VIR_DOMAIN_XML_INACTIVE } else { 0 };
        let xml = domain.get_xml_desc(flags).doing("read the guest's definition")?;
        Ok(domain_read::disk_of_serial(&Element::parse(&xml)?, &serial(volume_id)))
    }
}

impl LibvirtDriver {
    /// `attach_volume`.
    pub(crate) async fn plug_volume(
        &self,
        instance: &InstanceSpec,
        volume_id: VolumeId,
        owner_epoch: i64,
    ) -> Result<(), DriverError> {
        let id = instance.id;
        self.epochs.admit(id, owner_epoch, Right::Own).await?;
        let volume = instance.volumes.iter().find(|volume| volume.id == volume_id);
        let none = || DriverError::Refused(format!("volume {volume_id} is not one of the guest's"));
        let xml = volume_xml(volume.ok_or_else(none)?);
        self.hypervisor
            .call("attach a volume", move |connect| {
                let domain = domains::get(connect, id)?;
                let mut flags = 0;
                for side in [Side::Live, Side::Stored] {
                    if side.exists(&domain)? && side.device(&domain, volume_id)?.is_none() {
                        flags |= side.flag();
                    }
                }
                if flags != 0 {
                    domain.attach_device_flags(&xml, flags).doing("attach the volume")?;
                }
                Ok(())
            })
            .await
    }

    /// `detach_volume`. The guest's operating system has a say: a disk is not torn away from it.
    pub(crate) async fn unplug_volume(
        &self,
        id: InstanceId,
        volume_id: VolumeId,
        timeout: Duration,
    ) -> Result<(), DriverError> {
        let deadline = Instant::now() + timeout;
        let mut ask_at = Instant::now();
        loop {
            let ask = Instant::now() >= ask_at;
            if ask {
                ask_at = Instant::now() + ASK_INTERVAL;
            }
            let let_go = self
                .hypervisor
                .call("detach a volume", move |connect| {
                    let Some(domain) = domains::find(connect, id)? else { return Ok(true) };
                    let_go(&domain, volume_id, ask)
                })
                .await?;
            if let_go {
                break;
            }
            if Instant::now() >= deadline {
                return Err(DriverError::Refused(format!(
                    "the guest did not let go of volume {volume_id} within {} s: unmount it in the guest, or shut \
                     the guest off, and try again",
                    timeout.as_secs()
                )));
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_INTERVAL)).await;
        }
        self.hypervisor
            .call("forget a volume", move |connect| {
                let Some(domain) = domains::find(connect, id)? else { return Ok(()) };
                let Some(device) = Side::Stored.device(&domain, volume_id)? else { return Ok(()) };
                let flags = Side::Stored.flag();
                domain
                    .detach_device_flags(&device_xml(&device), flags)
                    .doing("forget the volume")?;
                Ok(())
            })
            .await
    }
}

/// Whether the emulator no longer has the volume. With `ask`, the guest is told to let go of it.
fn let_go(domain: &Domain, volume_id: VolumeId, ask: bool) -> Result<bool, DriverError> {
    let Some(device) = Side::Live.device(domain, volume_id)? else { return Ok(true) };
    if ask && let Err(error) = domain.detach_device_flags(&device_xml(&device), Side::Live.flag()) {
        // It is being unplugged already, or the guest was shut off meanwhile: the next look tells.
        tracing::debug!(error = error.message(), "the guest can't be told to let go of a volume");
    }
    Ok(Side::Live.device(domain, volume_id)?.is_none())
}
