//! The disk writer: blocks at random places of the second partition.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use crate::page::{MAGIC, PAGE, PAGES_PER_MIB, Page, mix};
use crate::{Counters, add, say};

pub(crate) const DATA_PARTITION: &str = "/dev/vda2";
/// Reads and writes go to the device itself, not to the guest's memory.
const O_DIRECT: i32 = 0o40000;
const FLUSH: Duration = Duration::from_secs(1);

/// The second partition. A version of 0 is a block that was never written.
pub(crate) struct Disk {
    device: File,
    versions: Vec<u64>,
    /// Whether what an earlier boot has written is known.
    adopted: bool,
    page: Box<Page>,
    bytes: AlignedBytes,
    random: u64,
    flushed: Instant,
}

impl Disk {
    pub(crate) fn open() -> io::Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(O_DIRECT)
            .open(DATA_PARTITION)?;
        let size = std::fs::read_to_string("/sys/class/block/vda2/size")?;
        let sectors: usize = size.trim().parse().map_err(io::Error::other)?;
        Ok(Self {
            device,
            versions: vec![0; sectors * 512 / PAGE],
            adopted: false,
            page: Box::new(Page::zeroed()),
            bytes: AlignedBytes::new(PAGES_PER_MIB),
            random: 1,
            flushed: Instant::now(),
        })
    }

    pub(crate) fn write(&mut self, count: usize, counters: &Counters) -> io::Result<()> {
        self.adopt(counters)?;
        for _ in 0..count {
            self.random = mix(self.random);
            let block = (self.random % self.versions.len() as u64) as usize;
            self.check_before_rewrite(block, counters)?;
            let version = self.versions[block] + 1;
            self.page.fill(block as u64, version);
            self.page.encode(self.bytes.first(1));
            self.device.write_all_at(self.bytes.first(1), offset(block))?;
            self.versions[block] = version;
            add(&counters.blocks_written, 1);
        }
        // What isn't flushed is lost with a hypervisor that is killed, as with a real disk that loses power.
        if self.flushed.elapsed() > FLUSH {
            self.device.sync_data()?;
            self.flushed = Instant::now();
        }
        Ok(())
    }

    /// Flushes, then reads and checks every block that was ever written. Returns how many those are.
    pub(crate) fn verify(&mut self, counters: &Counters) -> io::Result<usize> {
        self.adopt(counters)?;
        self.device.sync_data()?;
        let mut checked = 0;
        self.each(
            |versions| versions.iter().any(|version| *version > 0),
            |block, version, page| {
                if *version == 0 {
                    return;
                }
                checked += 1;
                if !page.is_right(block, *version) {
                    add(&counters.block_errors, 1);
                    // Counted once; the next write puts it right.
                    *version = 0;
                }
            },
        )?;
        add(&counters.blocks_checked, checked as u64);
        Ok(checked)
    }

    /// Takes over what an earlier boot has written.
    fn adopt(&mut self, counters: &Counters) -> io::Result<()> {
        if self.adopted {
            return Ok(());
        }
        self.each(
            |_| true,
            |block, version, page| {
                let [magic, _, written, ..] = page.0;
                if magic != MAGIC {
                    return;
                }
                if page.is_right(block, written) {
                    *version = written;
                } else {
                    add(&counters.block_errors, 1);
                    say(&format!("block {block} is damaged"));
                }
            },
        )?;
        self.adopted = true;
        Ok(())
    }

    /// Calls `look` with each block that isn't empty, in those MiB that are `wanted`.
    fn each(
        &mut self,
        wanted: impl Fn(&[u64]) -> bool,
        mut look: impl FnMut(u64, &mut u64, &Page),
    ) -> io::Result<()> {
        for first in (0..self.versions.len()).step_by(PAGES_PER_MIB) {
            let end = self.versions.len().min(first + PAGES_PER_MIB);
            let versions = &mut self.versions[first..end];
            if !wanted(versions) {
                continue;
            }
            let bytes = self.bytes.first(versions.len());
            self.device.read_exact_at(bytes, offset(first))?;
            for ((at, version), bytes) in
                versions.iter_mut().enumerate().zip(bytes.chunks_exact(PAGE))
            {
                // Decoding costs an emulated CPU much more than reading.
                if *version > 0 || bytes.starts_with(&MAGIC.to_le_bytes()) {
                    self.page.decode(bytes);
                    look((first + at) as u64, version, &self.page);
                }
            }
        }
        Ok(())
    }

    fn check_before_rewrite(&mut self, block: usize, counters: &Counters) -> io::Result<()> {
        if self.versions[block] == 0 {
            return Ok(());
        }
        self.device.read_exact_at(self.bytes.first(1), offset(block))?;
        self.page.decode(self.bytes.first(1));
        add(&counters.blocks_checked, 1);
        if !self.page.is_right(block as u64, self.versions[block]) {
            add(&counters.block_errors, 1);
        }
        Ok(())
    }
}

fn offset(block: usize) -> u64 {
    (block * PAGE) as u64
}

/// Blocks that start where the kernel wants those that bypass its cache.
struct AlignedBytes {
    bytes: Vec<u8>,
    start: usize,
}

impl AlignedBytes {
    fn new(blocks: usize) -> Self {
        let bytes = vec![0; (blocks + 1) * PAGE];
        let start = bytes.as_ptr().align_offset(PAGE);
        Self { bytes, start }
    }

    fn first(&mut self, blocks: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + blocks * PAGE]
    }
}
