//! Random slices, for tests that show that slicing `run` changes nothing.
//!
//! Contract: the same seed gives the same lengths; lengths are spread over all magnitudes up to
//! 2^24.

/// A generator of slice lengths (xorshift64*).
#[derive(Clone, Debug)]
pub struct Slices(u64);

impl Slices {
    /// Slices from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Length of the next slice in instructions: at least 1.
    pub fn length(&mut self) -> u64 {
        let magnitude = self.number() % 25;
        self.number() % (1 << magnitude) + 1
    }
}
