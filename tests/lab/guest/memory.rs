//! The working set: pages that are rewritten at the rate that was asked for.

use crate::page::{PAGES_PER_MIB, Page};
use crate::{Counters, add};

/// The working set, rewritten in order, round and round.
#[derive(Default)]
pub(crate) struct Memory {
    /// One MiB each: growing never needs room for a copy of what is there.
    chunks: Vec<Box<[Page]>>,
    versions: Vec<u64>,
    next: usize,
}

impl Memory {
    pub(crate) fn mib(&self) -> usize {
        self.chunks.len()
    }

    pub(crate) fn resize(&mut self, mib: usize) {
        self.chunks.truncate(mib);
        while self.chunks.len() < mib {
            let mut chunk: Box<[Page]> = (0..PAGES_PER_MIB).map(|_| Page::zeroed()).collect();
            for (page, index) in chunk.iter_mut().zip(self.chunks.len() * PAGES_PER_MIB..) {
                page.fill(index as u64, 1);
            }
            self.chunks.push(chunk);
        }
        self.versions.resize(mib * PAGES_PER_MIB, 1);
        self.next = 0;
    }

    pub(crate) fn rewrite(&mut self, count: usize, counters: &Counters) {
        for _ in 0..count.min(self.versions.len()) {
            let index = self.next;
            self.next = (index + 1) % self.versions.len();
            let page = &mut self.chunks[index / PAGES_PER_MIB][index % PAGES_PER_MIB];
            let version = &mut self.versions[index];
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
    pub(crate) fn verify(&mut self, counters: &Counters) -> usize {
        let pages = self.chunks.iter_mut().flatten();
        for (index, (page, version)) in pages.zip(&mut self.versions).enumerate() {
            if !page.is_right(index as u64, *version) {
                add(&counters.page_errors, 1);
                *version += 1;
                page.fill(index as u64, *version);
            }
        }
        add(&counters.pages_checked, self.versions.len() as u64);
        self.versions.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn a_wrong_page_is_counted_once() {
        let counters = Counters::default();
        let mut memory = Memory::default();
        memory.resize(1);
        memory.rewrite(300, &counters);
        assert_eq!(memory.verify(&counters), 256);
        assert_eq!(counters.page_errors.load(Relaxed), 0);

        memory.chunks[0][7].0[100] ^= 1;
        memory.verify(&counters);
        memory.verify(&counters);
        memory.rewrite(256, &counters);
        assert_eq!(counters.page_errors.load(Relaxed), 1);
    }

    #[test]
    fn the_working_set_shrinks_and_grows() {
        let counters = Counters::default();
        let mut memory = Memory::default();
        for mib in [2, 1, 3] {
            memory.resize(mib);
            memory.rewrite(10, &counters);
            assert_eq!(memory.verify(&counters), mib * PAGES_PER_MIB);
        }
        assert_eq!(counters.page_errors.load(Relaxed), 0);
    }
}
