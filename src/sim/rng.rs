//! Random numbers from a seed.

/// Numbers that look random and are decided by the seed (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66_D1CE_4E5B)
    }
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// A number from `from` to `to`, inclusive.
    pub(crate) fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }
    pub(crate) fn size(&mut self, from: usize, to: usize) -> usize {
        self.range(from as u64, to as u64) as usize
    }
    /// Returns true with this probability, in thousandths.
    pub(crate) fn permille(&mut self, of: u64) -> bool {
        self.next() % 1000 < of
    }
    /// A number up to `most`; every order of magnitude is equally likely.
    pub(crate) fn skewed(&mut self, most: u64) -> u64 {
        let bits = self.range(0, u64::from(64 - most.leading_zeros()));
        self.range(0, (1u64 << bits) - 1).min(most)
    }
}
