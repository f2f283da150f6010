//! Pings a guest from the switch, many times a second, to see how long a move silences it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::switch::Switch;

/// The time between two pings.
const INTERVAL: Duration = Duration::from_millis(10);
/// How long answers to the last pings are waited for.
const LINGER: Duration = Duration::from_millis(500);

/// What came of the pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PingReport {
    /// Pings sent.
    pub sent: u32,
    /// Pings that were not answered.
    pub lost: u32,
    /// The longest time between two answers, in milliseconds.
    pub longest_silence_ms: u64,
}

/// Pings until it is told to stop.
#[derive(Debug)]
pub struct Pinger {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<PingReport>>,
}

impl Pinger {
    /// Starts to ping `address` from the switch, every 10 ms.
    ///
    /// # Errors
    /// When the socket can't be opened.
    pub fn start(switch: &Switch, address: Ipv4Addr) -> anyhow::Result<Self> {
        let socket = switch.inside(icmp_socket)?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("ping".to_owned())
            .spawn(move || ping(&socket, address, &told))?;
        Ok(Self { stop, thread })
    }

    /// Stops, and says what came of it.
    ///
    /// # Errors
    /// When pings could not be sent at all.
    pub fn stop(self) -> anyhow::Result<PingReport> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the pinging thread panicked"))?
    }
}

fn icmp_socket() -> anyhow::Result<UdpSocket> {
    let fd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)
        .context("opening an ICMP socket")?;
    // Only for its `send_to` and `recv`, which are those of any datagram socket.
    let socket = UdpSocket::from(fd);
    socket.set_read_timeout(Some(Duration::from_millis(1)))?;
    Ok(socket)
}

fn ping(socket: &UdpSocket, address: Ipv4Addr, told: &AtomicBool) -> anyhow::Result<PingReport> {
    let id: u16 = rand::random();
    let mut tally = Tally::default();
    let mut next = Instant::now();
    let mut stopping: Option<Instant> = None;
    loop {
        let now = Instant::now();
        if stopping.is_none() && told.load(Ordering::Relaxed) {
            stopping = Some(now);
        }
        let over = |since: Instant| now.duration_since(since) > LINGER;
        if stopping.is_some_and(|since| tally.all_answered() || over(since)) {
            return Ok(tally.report());
        }
        if stopping.is_none() && now >= next {
            // Fails while there is no route or the neighbour is not known: such a ping is lost.
            let _ = socket.send_to(&echo_request(id, tally.next()), SocketAddr::from((address, 0)));
            next += INTERVAL;
            // After a pause of this very process, pings are not sent in a burst.
            next = next.max(now);
        }
        let mut packet = [0; 256];
        if let Ok(length) = socket.recv(&mut packet)
            && let Some(number) = echo_reply(packet.get(..length).unwrap_or_default(), address, id)
        {
            tally.answered(number, Instant::now());
        }
    }
}

/// Which pings were answered, and when.
#[derive(Debug, Default)]
struct Tally {
    answered: Vec<bool>,
    last: Option<Instant>,
    longest: Duration,
}

impl Tally {
    fn next(&mut self) -> u16 {
        self.answered.push(false);
        u16::try_from((self.answered.len() - 1) & 0xffff).unwrap_or_default()
    }

    fn answered(&mut self, number: u16, at: Instant) {
        // Numbers wrap; an answer belongs to the latest ping of its number.
        let newest = self.answered.len().saturating_sub(1);
        let behind = (newest & 0xffff).wrapping_sub(usize::from(number)) & 0xffff;
        let Some(slot) = newest.checked_sub(behind).and_then(|index| self.answered.get_mut(index))
        else {
            return;
        };
        *slot = true;
        if let Some(last) = self.last {
            self.longest = self.longest.max(at.duration_since(last));
        }
        self.last = Some(at);
    }

    fn all_answered(&self) -> bool {
        self.answered.iter().all(|answered| *answered)
    }

    fn report(&self) -> PingReport {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        PingReport {
            sent: count(self.answered.len()),
            lost: count(self.answered.iter().filter(|answered| !**answered).count()),
            longest_silence_ms: u64::try_from(self.longest.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

fn echo_request(id: u16, number: u16) -> [u8; 16] {
    let mut packet = [0; 16];
    packet[0] = 8;
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&number.to_be_bytes());
    packet[8..].copy_from_slice(b"whimbrel");
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The number of the ping that an IP packet answers, if it is ours.
fn echo_reply(packet: &[u8], from: Ipv4Addr, id: u16) -> Option<u16> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    if packet.get(12..16)? != from.octets() {
        return None;
    }
    let icmp = packet.get(header..)?;
    let ours = *icmp.first()? == 0 && icmp.get(4..6)? == id.to_be_bytes();
    let number: [u8; 2] = icmp.get(6..8)?.try_into().ok()?;
    ours.then(|| u16::from_be_bytes(number))
}

fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            let low = pair.get(1).copied().unwrap_or_default();
            u32::from(u16::from_be_bytes([pair.first().copied().unwrap_or_default(), low]))
        })
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded & 0xffff).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_with_its_checksum_sums_to_nothing() {
        assert_eq!(checksum(&echo_request(0x1234, 77)), 0);
    }

    #[test]
    fn only_the_guest_s_own_answer_counts() {
        let guest = Ipv4Addr::new(10, 78, 3, 4);
        let mut packet = vec![0x45; 20];
        packet[12..16].copy_from_slice(&guest.octets());
        packet.extend(echo_request(9, 300));
        packet[20] = 0;
        assert_eq!(echo_reply(&packet, guest, 9), Some(300));
        assert_eq!(echo_reply(&packet, guest, 8), None);
        assert_eq!(echo_reply(&packet, Ipv4Addr::new(10, 78, 3, 5), 9), None);
        assert_eq!(echo_reply(&packet[..24], guest, 9), None);
    }

    #[test]
    fn silence_and_loss_are_counted() {
        let mut tally = Tally::default();
        let start = Instant::now();
        for number in 0..4 {
            assert_eq!(tally.next(), number);
        }
        tally.answered(0, start);
        tally.answered(3, start + Duration::from_millis(250));
        assert!(!tally.all_answered());
        assert_eq!(tally.report(), PingReport { sent: 4, lost: 2, longest_silence_ms: 250 });
    }
}
