//! The generator behind RDRAND and RDSEED.
//!
//! Contract: a function of the logged entropy alone, so replay gives the same values. ChaCha20
//! (RFC 8439 2.3) in counter mode under a key that each `Entropy` input is mixed into.

use serde::{Deserialize, Serialize};

/// Generator state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Random {
    key: [u32; 8],
    counter: u64,
    block: [u64; 8],
    left: u8,
}

impl Random {
    /// Mixes 32 bytes of outside entropy into the key.
    pub fn reseed(&mut self, entropy: &[u8; 32]) {
        for (word, bytes) in self.key.iter_mut().zip(entropy.chunks_exact(4)) {
            *word ^= u32::from_le_bytes(bytes.try_into().expect("chunks of 4"));
        }
        let fresh = self.chacha();
        self.key.copy_from_slice(&fresh[..8]);
        self.left = 0;
    }

    /// The next 64 random bits.
    pub fn draw(&mut self) -> u64 {
        if self.left == 0 {
            let words = self.chacha();
            for (out, pair) in self.block.iter_mut().zip(words.chunks_exact(2)) {
                *out = u64::from(pair[0]) | u64::from(pair[1]) << 32;
            }
            self.left = 8;
        }
        self.left -= 1;
        core::mem::take(&mut self.block[usize::from(self.left)])
    }

    fn chacha(&mut self) -> [u32; 16] {
        let mut start = [0; 16];
        start[..4].copy_from_slice(&[0x6170_7865, 0x3320_646E, 0x7962_2D32, 0x6B20_6574]);
        start[4..12].copy_from_slice(&self.key);
        start[12] = self.counter as u32;
        start[13] = (self.counter >> 32) as u32;
        self.counter += 1;
        let mut x = start;
        for _ in 0..10 {
            for (a, b, c, d) in [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)] {
                quarter(&mut x, a, b, c, d);
            }
            for (a, b, c, d) in [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)] {
                quarter(&mut x, a, b, c, d);
            }
        }
        for (out, s) in x.iter_mut().zip(start) {
            *out = out.wrapping_add(s);
        }
        x
    }
}

fn quarter(x: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    x[a] = x[a].wrapping_add(x[b]);
    x[d] = (x[d] ^ x[a]).rotate_left(16);
    x[c] = x[c].wrapping_add(x[d]);
    x[b] = (x[b] ^ x[c]).rotate_left(12);
    x[a] = x[a].wrapping_add(x[b]);
    x[d] = (x[d] ^ x[a]).rotate_left(8);
    x[c] = x[c].wrapping_add(x[d]);
    x[b] = (x[b] ^ x[c]).rotate_left(7);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarter_round_of_rfc_8439() {
        let mut x = [0; 16];
        x[..4].copy_from_slice(&[0x1111_1111, 0x0102_0304, 0x9B8D_6F43, 0x0123_4567]);
        quarter(&mut x, 0, 1, 2, 3);
        assert_eq!(x[..4], [0xEA2A_92F4, 0xCB1C_F8CE, 0x4581_472E, 0x5881_C4BB]);
    }

    #[test]
    fn entropy_decides_the_values() {
        let (mut a, mut b) = (Random::default(), Random::default());
        a.reseed(&[1; 32]);
        b.reseed(&[1; 32]);
        assert_eq!(a.draw(), b.draw());
        b.reseed(&[2; 32]);
        assert_ne!(a.draw(), b.draw());
    }
}
