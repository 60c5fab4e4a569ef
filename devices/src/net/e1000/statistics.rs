//! The statistics registers.
//!
//! Contract: software developer's manual section 13.7: 32-bit counters stick at their maximum and
//! clear when read; 64-bit counters clear when their upper half is read. Lengths include the FCS.

use crate::fixed::Fixed;
use serde::{Deserialize, Serialize};

/// The counters by (offset - 4000h) / 4.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Counter {
    Mpc = 0x04,
    Prc64 = 0x17,
    Gprc = 0x1D,
    Bprc = 0x1E,
    Mprc = 0x1F,
    Gptc = 0x20,
    Gorc = 0x22,
    Gotc = 0x24,
    Rnbc = 0x28,
    Roc = 0x2B,
    Xoffrxc = 0x14,
    Xonrxc = 0x12,
    Tor = 0x30,
    Tot = 0x32,
    Tpr = 0x34,
    Tpt = 0x35,
    Ptc64 = 0x36,
    Mptc = 0x3C,
    Bptc = 0x3D,
    Tsctc = 0x3E,
}

/// The counters.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Statistics(Fixed<u32, 64>);

impl Statistics {
    /// Adds one to a 32-bit counter.
    pub(super) fn count(&mut self, counter: Counter) {
        let value = &mut self.0[counter as usize];
        *value = value.saturating_add(1);
    }

    /// Adds to a 64-bit counter.
    pub(super) fn add(&mut self, counter: Counter, octets: usize) {
        let low = counter as usize;
        let value = u64::from(self.0[low]) | u64::from(self.0[low + 1]) << 32;
        let value = value.saturating_add(octets as u64);
        self.0[low] = value as u32;
        self.0[low + 1] = (value >> 32) as u32;
    }

    /// Counts a frame of `len` bytes with FCS in the size classes that begin at `first`.
    pub(super) fn count_size(&mut self, first: Counter, len: usize) {
        let class = match len {
            0..=64 => 0,
            65..=127 => 1,
            128..=255 => 2,
            256..=511 => 3,
            512..=1023 => 4,
            _ => 5,
        };
        let value = &mut self.0[first as usize + class];
        *value = value.saturating_add(1);
    }

    /// Reads the register at `index` (modulo 64).
    pub(super) fn read(&mut self, index: u32) -> u32 {
        let index = index as usize % 64;
        match index {
            0x22 | 0x24 | 0x30 | 0x32 => self.0[index],
            0x23 | 0x25 | 0x31 | 0x33 => {
                self.0[index - 1] = 0;
                core::mem::take(&mut self.0[index])
            }
            _ => core::mem::take(&mut self.0[index]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_stick_and_clear() {
        let mut statistics = Statistics::default();
        statistics.count(Counter::Gprc);
        assert_eq!((statistics.read(0x1D), statistics.read(0x1D)), (1, 0));
        statistics.add(Counter::Tor, 0xFFFF_FFFF);
        statistics.add(Counter::Tor, 2);
        assert_eq!((statistics.read(0x30), statistics.read(0x30)), (1, 1));
        assert_eq!((statistics.read(0x31), statistics.read(0x30)), (1, 0));
        for (len, class) in [(64, 0), (65, 1), (127, 1), (255, 2), (511, 3), (1023, 4), (1518, 5)] {
            statistics.count_size(Counter::Ptc64, len);
            assert_eq!(statistics.read(0x36 + class), 1, "{len}");
        }
    }
}
