//! IDENTIFY DEVICE data.
//!
//! Contract: ATA/ATAPI-7 section 6.17, with word 217 (nominal media rotation rate) from ATA8-ACS.

use super::SECTOR;
use super::drive::{Drive, MULTIPLE_MAX};
use alloc::vec;
use alloc::vec::Vec;

/// Most sectors that CHS and LBA28 reach.
const LBA28_MAX: u64 = 0x0FFF_FFFF;

impl Drive {
    /// The 512 bytes.
    pub(super) fn identify(&self) -> Vec<u8> {
        let mut words = [0u16; 256];
        self.identify_geometry(&mut words);
        identify_text(&mut words, 10, 20, &[b"FT0000000", &[b'1' + self.disk][..]]);
        identify_text(&mut words, 23, 8, &[b"1.0"]);
        identify_text(&mut words, 27, 40, &[b"FTEMU HARDDISK"]);
        self.identify_features(&mut words);
        let mut data = vec![0; SECTOR];
        for (bytes, word) in data.chunks_exact_mut(2).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        data[510] = 0xA5;
        let sum = data[..511].iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        data[511] = sum.wrapping_neg();
        data
    }

    fn identify_geometry(&self, words: &mut [u16; 256]) {
        words[0] = 0x0040;
        words[1] = self.default_cylinders();
        words[3] = 16;
        words[6] = 63;
        let cylinders = self.cylinders();
        words[53] = 0x0006;
        if cylinders != 0 {
            let current =
                u32::from(cylinders) * u32::from(self.heads) * u32::from(self.sectors_per_track);
            words[53] |= 1;
            words[54] = cylinders;
            words[55] = u16::from(self.heads);
            words[56] = u16::from(self.sectors_per_track);
            words[57] = current as u16;
            words[58] = (current >> 16) as u16;
        }
        let lba28 = self.sectors.min(LBA28_MAX);
        words[60] = lba28 as u16;
        words[61] = (lba28 >> 16) as u16;
        for n in 0..4 {
            words[100 + n] = (self.sectors >> (16 * n)) as u16;
        }
    }

    fn identify_features(&self, words: &mut [u16; 256]) {
        let flag = |on: bool, bit: u16| u16::from(on) << bit;
        words[47] = 0x8000 | u16::from(MULTIPLE_MAX);
        words[48] = 0x0001; // double word I/O
        words[49] = 0x0F00; // IORDY, LBA, DMA
        words[50] = 0x4000;
        words[59] = flag(self.multiple != 0, 8) | u16::from(self.multiple);
        words[63] = 0x0007 | self.selected_mode(0x20) << 8;
        words[64] = 0x0003; // PIO 3 and 4
        words[65..69].fill(120);
        words[80] = 0x00F0; // ATA/ATAPI-4 to 7
        words[82] = 0x4069; // NOP, look-ahead, write cache, power management, SMART
        words[83] = 0x7400; // FLUSH CACHE (EXT), 48-bit addresses
        words[84] = 0x4000;
        words[85] =
            0x4008 | flag(self.smart, 0) | flag(self.write_cache, 5) | flag(self.look_ahead, 6);
        words[86] = 0x3400;
        words[87] = 0x4000;
        words[88] = 0x003F | self.selected_mode(0x40) << 8;
        // Device 0 or 1 by jumper, 80-conductor cable, diagnostics passed.
        words[93] = if self.disk & 1 == 0 { 0x604B } else { 0x6B00 };
        words[217] = 0x0001; // does not rotate
    }

    /// The bit of the transfer mode if one of this class (20h multiword, 40h ultra) is selected.
    fn selected_mode(&self, class: u8) -> u16 {
        if self.transfer_mode & 0xF8 == class { 1 << (self.transfer_mode & 7) } else { 0 }
    }
}

/// Puts text into `len` bytes from word `first` on: padded with spaces, high byte first.
fn identify_text(words: &mut [u16; 256], first: usize, len: usize, parts: &[&[u8]]) {
    let mut text = parts.iter().flat_map(|part| part.iter().copied());
    for word in &mut words[first..first + len / 2] {
        let high = text.next().unwrap_or(b' ');
        let low = text.next().unwrap_or(b' ');
        *word = u16::from_be_bytes([high, low]);
    }
}
