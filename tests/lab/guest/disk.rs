//! The disk writer: blocks at random places of the second partition.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::page::{MAGIC, PAGE, PAGES_PER_MIB, Page, mix};
use crate::{Counters, add, say};

pub(crate) const DATA_PARTITION: &str = "/dev/vda2";
/// Reads and writes go to the device itself, not to the guest's memory.
const O_DIRECT: i32 = 0o40000;

/// The second partition. A version of 0 is a block that was never written.
pub(crate) struct Disk {
    device: File,
    versions: Vec<u64>,
    buffer: Box<[Page]>,
    pub(crate) random: u64,
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
        let buffer = (0..PAGES_PER_MIB).map(|_| Page::zeroed()).collect();
        Ok(Self { device, versions: vec![0; sectors * 512 / PAGE], buffer, random: 1 })
    }

    /// Takes over what an earlier boot has written.
    pub(crate) fn adopt(&mut self, counters: &Counters) -> io::Result<()> {
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

    pub(crate) fn write(&mut self, count: usize, counters: &Counters) -> io::Result<()> {
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
    pub(crate) fn verify(&mut self, counters: &Counters) -> io::Result<usize> {
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
