//! Talking to the program in the guest, over UDP from the switch: it says what it has found, and is told how
//! fast to write.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::switch::Switch;
use crate::wait::{Deadline, until};

const PORT: u16 = 7777;
/// A request that was lost is sent again after this long.
const RESEND: Duration = Duration::from_millis(500);
/// Looking at every page and block takes an emulated guest a while.
const VERIFY_PATIENCE: Duration = Duration::from_secs(30);

/// The program in a guest.
#[derive(Debug)]
pub struct Agent {
    address: Ipv4Addr,
    socket: UdpSocket,
}

/// What the program in a guest says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Changes with each boot.
    pub boot: String,
    /// Everything else, by name: `n`, `rate`, `pages_written`, `page_errors`, …
    pub numbers: BTreeMap<String, u64>,
}

impl Stat {
    /// One of the numbers; 0 if the guest doesn't say it.
    pub fn number(&self, name: &str) -> u64 {
        self.numbers.get(name).copied().unwrap_or_default()
    }

    /// Pages and blocks that are not what they must be.
    pub fn errors(&self) -> u64 {
        self.number("page_errors") + self.number("block_errors")
    }

    fn read(text: &str) -> anyhow::Result<Self> {
        let pairs = || text.split_whitespace().filter_map(|word| word.split_once('='));
        let value = |key: &str| pairs().find(|(name, _)| *name == key).map(|(_, value)| value);
        if text.starts_with("error=") {
            bail!("the guest refuses: {text}");
        }
        let boot = value("boot").with_context(|| format!("the guest said '{text}'"))?.to_owned();
        let numbers = pairs()
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect();
        Ok(Self { boot, numbers })
    }
}

impl Agent {
    pub(crate) fn new(switch: &Switch, address: Ipv4Addr) -> anyhow::Result<Self> {
        let socket = switch.udp_to(SocketAddr::from((address, PORT)))?;
        Ok(Self { address, socket })
    }

    /// What the guest says of itself.
    ///
    /// # Errors
    /// When it doesn't answer within `patience`.
    pub fn stat(&self, patience: Duration) -> anyhow::Result<Stat> {
        self.ask("stat", RESEND, patience)
    }

    /// Makes the guest rewrite memory: so many MiB, at so many MiB a second.
    ///
    /// # Errors
    /// When it refuses or doesn't answer.
    pub fn dirty_memory(&self, working_set_mib: u32, mib_s: u32) -> anyhow::Result<Stat> {
        let patience = Duration::from_secs(10);
        // A large working set is filled before the answer.
        self.ask(&format!("wset {working_set_mib}"), Duration::from_secs(5), patience)?;
        self.ask(&format!("rate {mib_s}"), RESEND, patience)
    }

    /// Makes the guest write to its disk, so many blocks of 4 KiB a second.
    ///
    /// # Errors
    /// When it refuses or doesn't answer.
    pub fn write_disk(&self, blocks_s: u32) -> anyhow::Result<Stat> {
        // The guest may still be looking at its disk.
        let deadline = Deadline::after(Duration::from_secs(10));
        let request = format!("disk {blocks_s}");
        until(deadline, &format!("{} to write to its disk", self.address), || {
            match self.ask(&request, RESEND, Duration::from_secs(5)) {
                Err(error) if error.to_string().contains("no-disk") => Ok(None),
                other => other.map(Some),
            }
        })
    }

    /// Makes the guest look at every page and block that it has written.
    ///
    /// # Errors
    /// When it doesn't answer. Damage is not an error here: see [`Stat::errors`].
    pub fn verify(&self) -> anyhow::Result<Stat> {
        self.ask("verify", VERIFY_PATIENCE / 3, VERIFY_PATIENCE)
    }

    fn ask(&self, request: &str, resend: Duration, patience: Duration) -> anyhow::Result<Stat> {
        let mut buffer = [0; 1500];
        self.socket.set_nonblocking(true)?;
        // An answer that came too late is not one to this request.
        while self.socket.recv(&mut buffer).is_ok() {}
        self.socket.set_nonblocking(false)?;
        self.socket.set_read_timeout(Some(resend))?;
        until(Deadline::after(patience), &format!("{} to answer '{request}'", self.address), || {
            // Both fail while the guest or the way to it is down.
            let answer = self
                .socket
                .send(request.as_bytes())
                .and_then(|_| self.socket.recv(&mut buffer))
                .ok()
                .and_then(|length| buffer.get(..length));
            answer.map(|bytes| Stat::read(&String::from_utf8_lossy(bytes))).transpose()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let stat = Stat::read("boot=b uptime_ms=5 page_errors=1 block_errors=2 verified_pages=9").unwrap();
        assert_eq!((stat.boot.as_str(), stat.errors(), stat.number("verified_pages")), ("b", 3, 9));
        assert!(Stat::read("error=no-disk").unwrap_err().to_string().contains("no-disk"));
        assert!(Stat::read("").is_err());
    }
}
