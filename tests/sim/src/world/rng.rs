//! Randomness from a seed (splitmix64: Steele, Lea, Flood 2014), the same on every machine.

#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// A time from `from` to just below `to`, in milliseconds.
    pub(crate) fn ms(&mut self, from: i64, to: i64) -> i64 {
        from + i64::try_from(self.below(to.abs_diff(from))).expect("a span of time")
    }

    /// True in `n` of a thousand cases.
    pub(crate) fn chance(&mut self, n: u64) -> bool {
        self.below(1_000) < n
    }

    /// A time whose order of magnitude is random, up to `2^bits` milliseconds.
    pub(crate) fn magnitude(&mut self, bits: u64) -> i64 {
        let bits = self.below(bits + 1);
        self.ms(0, 1 << bits)
    }
}
