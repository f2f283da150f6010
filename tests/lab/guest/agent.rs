//! Runs in the guest as its only program. It proves from the inside what a migration must not change.
//!
//! * A heartbeat on the console, ten a second: `HB boot=<id> n=<counter>`.
//! * Memory: a working set of pages, rewritten at a settable rate.
//! * Disk: blocks of the second partition, written at a settable rate, bypassing the guest's page cache.
//!
//! Every page and block says which one it is, in which version, with a checksum. The version that it must be is
//! also kept elsewhere, so that a page or block that went back in time is found as surely as a damaged one. Each
//! is checked before it is rewritten, and all of them on demand.
//!
//! Requests come over UDP, port 7777: `stat`, `rate N`, `wset N`, `disk N`, `verify`, `fill N`, `volume`; see
//! `answer`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

mod disk;
mod memory;
mod page;
mod volume;

use disk::{DATA_PARTITION, Disk};
use memory::Memory;
use page::PAGES_PER_MIB;

const PORT: u16 = 7777;
const HEARTBEAT: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(10);
const FIRST_WSET_MIB: usize = 8;
/// Left to the kernel when the working set grows.
const SPARE_MIB: usize = 16;

#[derive(Default)]
struct Counters {
    heartbeat: AtomicU64,
    rate_mib: AtomicU64,
    wset_mib: AtomicU64,
    disk_rate: AtomicU64,
    pages_written: AtomicU64,
    pages_checked: AtomicU64,
    page_errors: AtomicU64,
    blocks_written: AtomicU64,
    blocks_checked: AtomicU64,
    block_errors: AtomicU64,
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Relaxed);
}

struct Agent {
    boot: String,
    started: Instant,
    counters: Counters,
    memory: Mutex<Memory>,
    /// Absent when the guest has no such partition.
    disk: Mutex<Option<Disk>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a line to the console.
fn say(line: &str) {
    // In one write, so that lines of two threads don't mix.
    let _ = io::stdout().lock().write_all(format!("{line}\n").as_bytes());
}

impl Agent {
    fn heartbeat(&self) {
        let mut next = Instant::now();
        loop {
            let n = self.counters.heartbeat.fetch_add(1, Relaxed) + 1;
            say(&format!("HB boot={} n={n}", self.boot));
            next += HEARTBEAT;
            let now = Instant::now();
            if next < now {
                next = now;
            }
            thread::sleep(next - now);
        }
    }

    /// Calls `work` ten times in a tenth of a second with what is due at `rate` per second.
    fn paced(rate: impl Fn() -> u64, work: impl Fn(usize)) {
        let (mut last, mut due) = (Instant::now(), 0.0);
        loop {
            thread::sleep(TICK);
            let now = Instant::now();
            // After a pause, not everything that was missed at once.
            let elapsed = (now - last).min(TICK * 10).as_secs_f64();
            last = now;
            due += rate() as f64 * elapsed;
            let count = due as usize;
            if count > 0 {
                due -= count as f64;
                work(count);
            }
        }
    }

    fn dirty_memory(&self) {
        Self::paced(
            || self.counters.rate_mib.load(Relaxed) * PAGES_PER_MIB as u64,
            |count| lock(&self.memory).rewrite(count, &self.counters),
        );
    }

    fn write_disk(&self) {
        Self::paced(
            || self.counters.disk_rate.load(Relaxed),
            |count| {
                let written =
                    lock(&self.disk).as_mut().map(|disk| disk.write(count, &self.counters));
                if let Some(Err(error)) = written {
                    add(&self.counters.block_errors, 1);
                    say(&format!("disk writer: {error}"));
                }
            },
        );
    }

    fn answer(&self, request: &str) -> String {
        let words: Vec<&str> = request.split_whitespace().collect();
        let number = words.get(1).and_then(|number| number.parse::<u64>().ok());
        let done = match (words.first().copied().unwrap_or_default(), number) {
            ("stat", _) => Ok(String::new()),
            ("rate", Some(mib)) => {
                self.counters.rate_mib.store(mib, Relaxed);
                Ok(String::new())
            }
            ("disk", Some(_)) if lock(&self.disk).is_none() => Err("no-disk".to_owned()),
            ("disk", Some(blocks)) => {
                self.counters.disk_rate.store(blocks, Relaxed);
                Ok(String::new())
            }
            ("wset", Some(mib)) => self.resize(mib as usize),
            ("verify", _) => self.verify(),
            ("fill", Some(version)) => volume::fill(version)
                .map(|()| String::new())
                .map_err(|error| format!("volume:{error}")),
            ("volume", _) => match volume::read() {
                Ok(version) => Ok(format!(" volume={version}")),
                Err(error) => Err(format!("volume:{error}")),
            },
            _ => Err("unknown-request".to_owned()),
        };
        match done {
            Ok(extra) => format!("{}{extra}", self.stat()),
            Err(error) => format!("error={error}"),
        }
    }

    fn resize(&self, mib: usize) -> Result<String, String> {
        let mut memory = lock(&self.memory);
        let have = memory.mib();
        if mib == 0 || mib > have && mib - have + SPARE_MIB > available_mib() {
            return Err(format!("out-of-range available={}", available_mib()));
        }
        memory.resize(mib);
        self.counters.wset_mib.store(mib as u64, Relaxed);
        Ok(String::new())
    }

    fn verify(&self) -> Result<String, String> {
        let pages = lock(&self.memory).verify(&self.counters);
        let blocks = match lock(&self.disk).as_mut() {
            Some(disk) => disk.verify(&self.counters).map_err(|error| format!("disk:{error}"))?,
            None => 0,
        };
        Ok(format!(" verified_pages={pages} verified_blocks={blocks}"))
    }

    fn stat(&self) -> String {
        let counters = &self.counters;
        let mut text =
            format!("boot={} uptime_ms={}", self.boot, self.started.elapsed().as_millis());
        for (name, counter) in [
            ("n", &counters.heartbeat),
            ("rate", &counters.rate_mib),
            ("wset", &counters.wset_mib),
            ("disk", &counters.disk_rate),
            ("pages_written", &counters.pages_written),
            ("pages_checked", &counters.pages_checked),
            ("page_errors", &counters.page_errors),
            ("blocks_written", &counters.blocks_written),
            ("blocks_checked", &counters.blocks_checked),
            ("block_errors", &counters.block_errors),
        ] {
            let _ = write!(text, " {name}={}", counter.load(Relaxed));
        }
        text
    }

    fn serve(&self) -> io::Result<()> {
        let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
        let mut buffer = [0; 512];
        loop {
            // An error here is that of an earlier answer whose receiver is gone.
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            let answer = self.answer(&String::from_utf8_lossy(&buffer[..length]));
            let _ = socket.send_to(answer.as_bytes(), from);
        }
    }
}

fn available_mib() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kib.unwrap_or(0) / 1024
}

/// Turns the guest off when its power button is pressed, as an orderly shutdown asks for.
fn watch_power_button() {
    for number in 0..4 {
        let Ok(mut events) = File::open(format!("/dev/input/event{number}")) else { continue };
        thread::spawn(move || {
            // struct input_event: 16 bytes of time, then type (1: key), code (116: power), value (1: pressed).
            let mut event = [0; 24];
            while events.read_exact(&mut event).is_ok() {
                if event[16..21] == [1, 0, 116, 0, 1] {
                    say("power button");
                    let _ = Command::new("/bin/busybox").args(["poweroff", "-f"]).status();
                }
            }
        });
    }
}

fn open_disk() -> Option<Disk> {
    Disk::open()
        .inspect_err(|error| say(&format!("no disk writer: {DATA_PARTITION}: {error}")))
        .ok()
}

fn main() -> io::Result<()> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let agent = Arc::new(Agent {
        boot: boot.trim().to_owned(),
        started: Instant::now(),
        counters: Counters::default(),
        memory: Mutex::default(),
        disk: Mutex::new(open_disk()),
    });
    lock(&agent.memory).resize(FIRST_WSET_MIB);
    agent.counters.wset_mib.store(FIRST_WSET_MIB as u64, Relaxed);
    watch_power_button();
    for work in [Agent::heartbeat, Agent::dirty_memory, Agent::write_disk] {
        let agent = Arc::clone(&agent);
        thread::spawn(move || work(&agent));
    }
    agent.serve()
}
