//! The destination's ear: where disks arrive. It remembers nothing; tickets are files, so a service that was
//! restarted takes what its predecessor made ready for.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;
use whimbrel_disk_carry::{Place, Receiver};
use whimbrel_virt::DriverError;

use super::TICKET;
use crate::driver::LibvirtDriver;
use crate::error::Doing;
use crate::paths::ROOT_DISK;

/// Started when it is first needed, or at once if something is on its way.
#[derive(Debug, Default)]
pub(crate) struct DiskReceiver(Mutex<Option<Receiver>>);

impl LibvirtDriver {
    /// Starts to listen, if it does not yet, and says where.
    pub(crate) fn listen_for_disks(&self) -> Result<String, DriverError> {
        // Held while it starts: of two moves that come first, one listens and the other finds it listening.
        let mut started = self.disk_receiver.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(receiver) = &*started {
            return Ok(receiver.address().to_string());
        }
        let address = &self.config.migration_address;
        let address = if address.contains(':') { format!("[{address}]") } else { address.clone() };
        let instances = self.paths.instances().to_owned();
        let place: Arc<Place> = Arc::new(move |ticket, name, _| place(&instances, ticket, name));
        let at = format!("{address}:{}", self.config.migration.disk_port);
        let receiver = Receiver::start(&at, &place).doing("listen for disks")?;
        Ok(started.insert(receiver).address().to_string())
    }

    /// After a restart: disks may be on their way.
    pub(crate) fn listen_if_expected(&self) -> Result<(), DriverError> {
        let expects =
            !tickets(self.paths.instances()).doing("look for moves under way")?.is_empty();
        if expects { self.listen_for_disks().map(drop) } else { Ok(()) }
    }
}

/// Directories that take disks, each with its ticket.
fn tickets(instances: &Path) -> std::io::Result<Vec<(PathBuf, Uuid)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(instances)? {
        let directory = entry?.path();
        let is_incoming = directory.to_str().is_some_and(|path| path.contains(".incoming."));
        if is_incoming && let Ok(text) = std::fs::read_to_string(directory.join(TICKET)) {
            found.extend(text.trim().parse().map(|ticket| (directory, ticket)));
        }
    }
    Ok(found)
}

fn place(instances: &Path, ticket: Uuid, name: &str) -> Result<PathBuf, String> {
    if name != ROOT_DISK {
        return Err(format!("no disk '{name}' is expected"));
    }
    let known = tickets(instances).map_err(|error| error.to_string())?;
    let found = known.into_iter().find(|(_, its)| *its == ticket);
    let (directory, _) = found.ok_or("no move of that ticket is expected here")?;
    Ok(directory.join(name))
}
