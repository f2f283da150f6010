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
//! Requests come over UDP, port 7777: `stat`, `rate N`, `wset N`, `disk N`, `verify`; see `answer`.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const PORT: u16 = 7777;
const HEARTBEAT: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(10);
const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;
const PAGES_PER_MIB: usize = 256;
/// Which words of a page change with its version: one in each cache line keeps emulated CPUs from being the limit.
const STRIDE: usize = 8;
const FIRST_WSET_MIB: usize = 8;
/// Left to the kernel when the working set grows.
const SPARE_MIB: usize = 16;
const DATA_PARTITION: &str = "/dev/vda2";
const O_DIRECT: i32 = 0o40000;
/// "WHIMBREL" as a number: tells a written block from an empty one.
const MAGIC: u64 = 0x5748_494d_4252_454c;

/// 4 KiB of memory or disk: magic, index, version, checksum, then words that follow from index and version.
#[repr(align(4096))]
struct Page([u64; WORDS]);

/// A well-mixed function of its input (the finalizer of splitmix64).
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn word(seed: u64, at: usize) -> u64 {
    mix(seed ^ ((at as u64) << 40))
}

fn seed(index: u64, version: u64) -> u64 {
    mix(index ^ mix(version))
}

impl Page {
    fn zeroed() -> Self {
        Self([0; WORDS])
    }

    /// Writes every word.
    fn fill(&mut self, index: u64, version: u64) {
        let constant = seed(index, 0);
        for at in 4..WORDS {
            self.0[at] = word(constant, at);
        }
        self.0[0] = MAGIC;
        self.0[1] = index;
        self.advance(version);
    }

    /// Makes a filled page the next version of itself.
    fn advance(&mut self, version: u64) {
        let varying = seed(self.0[1], version);
        for at in (STRIDE..WORDS).step_by(STRIDE) {
            self.0[at] = word(varying, at);
        }
        self.0[2] = version;
        self.0[3] = self.checksum();
    }

    fn checksum(&self) -> u64 {
        let header = self.0[0] ^ self.0[1].rotate_left(17) ^ self.0[2].rotate_left(31);
        (STRIDE..WORDS).step_by(STRIDE).fold(header, |sum, at| sum.rotate_left(5) ^ self.0[at])
    }

    /// Whether it is this page in this version, by header and checksum.
    fn looks_right(&self, index: u64, version: u64) -> bool {
        self.0[..3] == [MAGIC, index, version] && self.0[3] == self.checksum()
    }

    /// The same for every single word.
    fn is_right(&self, index: u64, version: u64) -> bool {
        let (constant, varying) = (seed(index, 0), seed(index, version));
        self.looks_right(index, version)
            && (4..WORDS).all(|at| {
                let expected = if at % STRIDE == 0 { varying } else { constant };
                self.0[at] == word(expected, at)
            })
    }
}

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

/// The working set, rewritten in order, round and round.
struct Memory {
    pages: Vec<Page>,
    versions: Vec<u64>,
    next: usize,
}

impl Memory {
    fn resize(&mut self, mib: usize) {
        let wanted = mib * PAGES_PER_MIB;
        self.pages.truncate(wanted);
        self.versions.truncate(wanted);
        self.pages.shrink_to_fit();
        self.pages.reserve_exact(wanted - self.pages.len());
        for index in self.pages.len()..wanted {
            self.pages.push(Page::zeroed());
            self.pages[index].fill(index as u64, 1);
            self.versions.push(1);
        }
        self.next = 0;
    }

    fn rewrite(&mut self, count: usize, counters: &Counters) {
        for _ in 0..count.min(self.pages.len()) {
            let index = self.next;
            self.next = (index + 1) % self.pages.len();
            let (page, version) = (&mut self.pages[index], &mut self.versions[index]);
            let right = page.looks_right(index as u64, *version);
            *version += 1;
            if right {
                page.advance(*version);
            } else {
                add(&counters.page_errors, 1);
                page.fill(index as u64, *version);
            }
            add(&counters.pages_checked, 1);
            add(&counters.pages_written, 1);
        }
    }

    /// Checks every word of every page; what is wrong is counted once and put right.
    fn verify(&mut self, counters: &Counters) -> usize {
        for (index, (page, version)) in self.pages.iter_mut().zip(&mut self.versions).enumerate() {
            if !page.is_right(index as u64, *version) {
                add(&counters.page_errors, 1);
                *version += 1;
                page.fill(index as u64, *version);
            }
        }
        add(&counters.pages_checked, self.pages.len() as u64);
        self.pages.len()
    }
}

/// The second partition. A version of 0 is a block that was never written.
struct Disk {
    device: File,
    versions: Vec<u64>,
    buffer: Box<[Page]>,
    random: u64,
}

impl Disk {
    fn open() -> io::Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(O_DIRECT)
            .open(DATA_PARTITION)?;
        let size = std::fs::read_to_string("/sys/class/block/vda2/size")?;
        let sectors: usize = size.trim().parse().map_err(io::Error::other)?;
        let buffer = (0..PAGES_PER_MIB).map(|_| Page::zeroed()).collect();
        Ok(Self { device, versions: vec![0; sectors * 512 / PAGE], buffer, random: 1 })
    }

    /// Takes over what an earlier boot has written.
    fn adopt(&mut self, counters: &Counters) -> io::Result<()> {
        for first in (0..self.versions.len()).step_by(PAGES_PER_MIB) {
            for at in 0..self.read_mib(first)? {
                let [magic, index, version, ..] = self.buffer[at].0;
                if magic != MAGIC {
                    continue;
                }
                if self.buffer[at].is_right((first + at) as u64, version) {
                    self.versions[first + at] = version;
                } else {
                    add(&counters.block_errors, 1);
                    say(&format!("block {} is damaged: it says index={index}", first + at));
                }
            }
        }
        Ok(())
    }

    /// Reads up to a MiB into the buffer, from this block on. Returns the number of blocks read.
    fn read_mib(&mut self, first: usize) -> io::Result<usize> {
        let count = PAGES_PER_MIB.min(self.versions.len() - first);
        let mut bytes = AlignedBytes::new(count);
        self.device.read_exact_at(bytes.as_mut(), (first * PAGE) as u64)?;
        for (page, bytes) in self.buffer.iter_mut().zip(bytes.as_mut().chunks_exact(PAGE)) {
            for (word, bytes) in page.0.iter_mut().zip(bytes.chunks_exact(8)) {
                *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
            }
        }
        Ok(count)
    }

    fn write(&mut self, count: usize, counters: &Counters) -> io::Result<()> {
        for _ in 0..count {
            self.random = mix(self.random);
            let block = (self.random % self.versions.len() as u64) as usize;
            self.check_one(block, counters)?;
            let version = self.versions[block] + 1;
            self.buffer[0].fill(block as u64, version);
            let mut bytes = AlignedBytes::new(1);
            for (bytes, word) in bytes.as_mut().chunks_exact_mut(8).zip(&self.buffer[0].0) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            self.device.write_all_at(bytes.as_mut(), (block * PAGE) as u64)?;
            self.versions[block] = version;
            add(&counters.blocks_written, 1);
        }
        Ok(())
    }

    fn check_one(&mut self, block: usize, counters: &Counters) -> io::Result<()> {
        if self.versions[block] == 0 {
            return Ok(());
        }
        let mut bytes = AlignedBytes::new(1);
        self.device.read_exact_at(bytes.as_mut(), (block * PAGE) as u64)?;
        for (word, bytes) in self.buffer[0].0.iter_mut().zip(bytes.as_mut().chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
        add(&counters.blocks_checked, 1);
        if !self.buffer[0].is_right(block as u64, self.versions[block]) {
            add(&counters.block_errors, 1);
        }
        Ok(())
    }

    /// Reads and checks every block that was ever written.
    fn verify(&mut self, counters: &Counters) -> io::Result<usize> {
        let mut checked = 0;
        for first in (0..self.versions.len()).step_by(PAGES_PER_MIB) {
            let end = self.versions.len().min(first + PAGES_PER_MIB);
            if self.versions[first..end].iter().all(|version| *version == 0) {
                continue;
            }
            for at in 0..self.read_mib(first)? {
                let version = &mut self.versions[first + at];
                if *version == 0 {
                    continue;
                }
                checked += 1;
                if !self.buffer[at].is_right((first + at) as u64, *version) {
                    add(&counters.block_errors, 1);
                    // Counted once; the next write puts it right.
                    *version = 0;
                }
            }
        }
        add(&counters.blocks_checked, checked as u64);
        Ok(checked)
    }
}

/// Bytes that start where the kernel wants those that bypass its cache.
struct AlignedBytes {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBytes {
    fn new(blocks: usize) -> Self {
        let length = blocks * PAGE;
        let bytes = vec![0; length + PAGE];
        let start = bytes.as_ptr().align_offset(PAGE);
        Self { bytes, start, length }
    }

    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
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
        let opened = Disk::open().and_then(|mut disk| {
            disk.adopt(&self.counters)?;
            disk.random = mix(self.started.elapsed().as_nanos() as u64);
            Ok(disk)
        });
        match opened {
            Ok(disk) => *lock(&self.disk) = Some(disk),
            Err(error) => return say(&format!("no disk writer: {DATA_PARTITION}: {error}")),
        }
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
            _ => Err("unknown-request".to_owned()),
        };
        match done {
            Ok(extra) => format!("{}{extra}", self.stat()),
            Err(error) => format!("error={error}"),
        }
    }

    fn resize(&self, mib: usize) -> Result<String, String> {
        let mut memory = lock(&self.memory);
        let have = memory.pages.len() / PAGES_PER_MIB;
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

fn main() -> io::Result<()> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let agent = Arc::new(Agent {
        boot: boot.trim().to_owned(),
        started: Instant::now(),
        counters: Counters::default(),
        memory: Mutex::new(Memory { pages: Vec::new(), versions: Vec::new(), next: 0 }),
        disk: Mutex::new(None),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_went_back_in_time_is_wrong() {
        let mut page = Page::zeroed();
        page.fill(3, 1);
        assert!(page.is_right(3, 1));
        page.advance(2);
        assert!(page.is_right(3, 2));
        assert!(!page.looks_right(3, 1));
        assert!(!page.looks_right(4, 2));
    }

    #[test]
    fn one_changed_bit_anywhere_is_found() {
        for at in 0..WORDS {
            let mut page = Page::zeroed();
            page.fill(9, 5);
            page.0[at] ^= 1 << (at % 64);
            assert!(!page.is_right(9, 5), "word {at}");
        }
    }

    #[test]
    fn a_wrong_page_is_counted_once() {
        let counters = Counters::default();
        let mut memory = Memory { pages: Vec::new(), versions: Vec::new(), next: 0 };
        memory.resize(1);
        memory.rewrite(300, &counters);
        assert_eq!(memory.verify(&counters), 256);
        assert_eq!(counters.page_errors.load(Relaxed), 0);

        memory.pages[7].0[100] ^= 1;
        memory.verify(&counters);
        memory.verify(&counters);
        memory.rewrite(256, &counters);
        assert_eq!(counters.page_errors.load(Relaxed), 1);
    }

    #[test]
    fn the_working_set_shrinks_and_grows() {
        let counters = Counters::default();
        let mut memory = Memory { pages: Vec::new(), versions: Vec::new(), next: 0 };
        for mib in [2, 1, 3] {
            memory.resize(mib);
            memory.rewrite(10, &counters);
            assert_eq!(memory.verify(&counters), mib * PAGES_PER_MIB);
        }
        assert_eq!(counters.page_errors.load(Relaxed), 0);
    }
}
