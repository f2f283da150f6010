//! Talking to the program in the guest, from the switch.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::guest::{Request, Stat, query};
use crate::switch::Switch;
use crate::wait::{Deadline, until};

/// Most requests are answered at once, once the guest has booted.
const PATIENCE: Duration = Duration::from_secs(15);
/// Looking at every page and block takes an emulated guest a while.
const VERIFY_PATIENCE: Duration = Duration::from_secs(30);

/// The program in a guest.
#[derive(Debug)]
pub struct Agent<'a> {
    switch: &'a Switch,
    address: Ipv4Addr,
}

impl<'a> Agent<'a> {
    pub(crate) fn new(switch: &'a Switch, address: Ipv4Addr) -> Self {
        Self { switch, address }
    }

    /// The guest's address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Asks it something.
    ///
    /// # Errors
    /// When it doesn't answer within `patience`, or refuses.
    pub fn ask(&self, request: Request, patience: Duration) -> anyhow::Result<Stat> {
        self.switch.inside(|| query(self.address, request, patience))
    }

    /// How things are.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub fn stat(&self) -> anyhow::Result<Stat> {
        self.ask(Request::Stat, PATIENCE)
    }

    /// Makes it rewrite memory: so many MiB, at so many MiB a second.
    ///
    /// # Errors
    /// When it doesn't answer, or doesn't have so much.
    pub fn dirty_memory(&self, working_set_mib: u32, mib_s: u32) -> anyhow::Result<Stat> {
        self.ask(Request::WorkingSet(working_set_mib), PATIENCE)?;
        self.ask(Request::Rate(mib_s), PATIENCE)
    }

    /// Makes it write to its disk, so many blocks of 4 KiB a second.
    ///
    /// # Errors
    /// When it doesn't answer, or has no disk.
    pub fn write_disk(&self, blocks_s: u32) -> anyhow::Result<Stat> {
        // After the boot it may still be looking at its disk, and says that it has none.
        let deadline = Deadline::after(PATIENCE);
        let what = format!("{} to write to its disk", self.address);
        until(deadline, &what, || {
            let done = self.ask(Request::Disk(blocks_s), PATIENCE);
            if done.is_err() && !deadline.is_over() { Ok(None) } else { done.map(Some) }
        })
    }

    /// Makes it write blocks of `version` to the volume that it has, and flush them.
    ///
    /// # Errors
    /// When it doesn't answer, or has no volume.
    pub fn fill_volume(&self, version: u32) -> anyhow::Result<()> {
        self.ask(Request::Fill(version), VERIFY_PATIENCE).map(drop)
    }

    /// The version of the blocks on its volume, all of which it has looked at.
    ///
    /// # Errors
    /// When it doesn't answer, has no volume, or a block is damaged.
    pub fn read_volume(&self) -> anyhow::Result<u64> {
        Ok(self.ask(Request::Volume, VERIFY_PATIENCE)?.volume)
    }

    /// Makes it look at every page and block that it has written. Damage is not an error here: see
    /// [`Stat::is_intact`].
    ///
    /// # Errors
    /// When it doesn't answer.
    pub fn verify(&self) -> anyhow::Result<Stat> {
        self.ask(Request::Verify, VERIFY_PATIENCE)
    }
}
