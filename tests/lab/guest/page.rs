//! 4 KiB that can tell whether they are what they must be.

pub(crate) const PAGE: usize = 4096;
pub(crate) const PAGES_PER_MIB: usize = 256;
const WORDS: usize = PAGE / 8;
/// Which words of a page change with its version: one in each cache line keeps emulated CPUs from being the limit.
const STRIDE: usize = 8;
/// "WHIMBREL" as a number: tells a written block from an empty one.
pub(crate) const MAGIC: u64 = 0x5748_494d_4252_454c;

/// 4 KiB of memory or disk: magic, index, version, checksum, then words that follow from index and version.
#[repr(align(4096))]
pub(crate) struct Page(pub(crate) [u64; WORDS]);

/// A well-mixed function of its input (the finalizer of splitmix64).
pub(crate) fn mix(value: u64) -> u64 {
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
    pub(crate) fn zeroed() -> Self {
        Self([0; WORDS])
    }

    /// Writes every word.
    pub(crate) fn fill(&mut self, index: u64, version: u64) {
        let constant = seed(index, 0);
        for at in 4..WORDS {
            self.0[at] = word(constant, at);
        }
        self.0[0] = MAGIC;
        self.0[1] = index;
        self.advance(version);
    }

    /// Makes a filled page the next version of itself.
    pub(crate) fn advance(&mut self, version: u64) {
        let varying = seed(self.0[1], version);
        for at in (STRIDE..WORDS).step_by(STRIDE) {
            self.0[at] = word(varying, at);
        }
        self.0[2] = version;
        self.0[3] = self.checksum();
    }

    /// As it is on the disk.
    pub(crate) fn encode(&self, bytes: &mut [u8]) {
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(&self.0) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }

    pub(crate) fn decode(&mut self, bytes: &[u8]) {
        for (word, bytes) in self.0.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
    }

    fn checksum(&self) -> u64 {
        let header = self.0[0] ^ self.0[1].rotate_left(17) ^ self.0[2].rotate_left(31);
        (STRIDE..WORDS).step_by(STRIDE).fold(header, |sum, at| sum.rotate_left(5) ^ self.0[at])
    }

    /// Whether it is this page in this version, by header and checksum.
    pub(crate) fn looks_right(&self, index: u64, version: u64) -> bool {
        self.0[..3] == [MAGIC, index, version] && self.0[3] == self.checksum()
    }

    /// The same for every single word.
    pub(crate) fn is_right(&self, index: u64, version: u64) -> bool {
        let (constant, varying) = (seed(index, 0), seed(index, version));
        self.looks_right(index, version)
            && (4..WORDS).all(|at| {
                let expected = if at % STRIDE == 0 { varying } else { constant };
                self.0[at] == word(expected, at)
            })
    }
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
}
