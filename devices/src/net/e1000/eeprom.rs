//! The card's 64-word EEPROM: EERD, and the Microwire interface that software drives by hand.
//!
//! Contract: software developer's manual sections 5.3, 5.6, 13.4.3 and 13.4.4; the device is a
//! 93C46 (READ, WRITE, ERASE, EWEN, EWDS; the all-words commands are not there). The content
//! survives every reset; a write finishes at once.

use crate::fixed::Fixed;
use serde::{Deserialize, Serialize};

/// Words.
const WORDS: usize = 64;
/// All words sum up to this.
const SUM: u16 = 0xBABA;

const SK: u32 = 1 << 0;
const CS: u32 = 1 << 1;
const DI: u32 = 1 << 2;
const DO: u32 = 1 << 3;
const FWE: u32 = 3 << 4;
const REQUEST: u32 = 1 << 6;
const GRANT: u32 = 1 << 7;
const PRESENT: u32 = 1 << 8;

const EERD_START: u32 = 1 << 0;
const EERD_DONE: u32 = 1 << 4;

/// The EEPROM and both its interfaces.
#[derive(Serialize, Deserialize)]
pub(super) struct Eeprom {
    words: Fixed<u16, WORDS>,
    eerd: u32,
    /// EECD as last written.
    eecd: u32,
    /// Bits clocked in since chip select, and how many.
    input: u32,
    input_bits: u8,
    /// Bits still to clock out, most significant first.
    output: u32,
    output_bits: u8,
    data_out: bool,
    write_enabled: bool,
}

impl Eeprom {
    pub(super) fn new(mac: [u8; 6]) -> Self {
        let mut words = [0xFFFF; WORDS];
        for (word, pair) in words.iter_mut().zip(mac.chunks_exact(2)) {
            *word = u16::from_le_bytes([pair[0], pair[1]]);
        }
        words[0x03] = 0x0000; // compatibility
        words[0x08] = 0x4654; // board assembly number
        words[0x09] = 0x0001;
        words[0x0A] = 0x6403; // initialization control 1: load the identities below
        words[0x0B] = 0x001E;
        words[0x0C] = 0x8086;
        words[0x0D] = 0x100E;
        words[0x0E] = 0x8086;
        words[0x0F] = 0x3040; // initialization control 2: symmetric and asymmetric pause
        words[0x24] = 0x0400; // initialization control 3: wake-up enabled, so the link comes up
        words[WORDS - 1] = 0;
        let sum = words.iter().fold(0u16, |sum, &word| sum.wrapping_add(word));
        words[WORDS - 1] = SUM.wrapping_sub(sum);
        Self {
            words: Fixed(words),
            eerd: 0,
            eecd: 0,
            input: 0,
            input_bits: 0,
            output: 0,
            output_bits: 0,
            data_out: true,
            write_enabled: false,
        }
    }

    /// The MAC address in the first three words.
    pub(super) fn mac(&self) -> [u8; 6] {
        let [a, b] = self.words[0].to_le_bytes();
        let [c, d] = self.words[1].to_le_bytes();
        let [e, f] = self.words[2].to_le_bytes();
        [a, b, c, d, e, f]
    }

    /// Device reset: the interfaces, not the content.
    pub(super) fn reset(&mut self) {
        *self = Self { words: self.words, ..Self::new([0; 6]) };
    }

    pub(super) fn read_eerd(&self) -> u32 {
        self.eerd
    }

    pub(super) fn write_eerd(&mut self, value: u32) {
        let address = value & 0xFF00;
        self.eerd = address;
        if value & EERD_START != 0 {
            let word = self.words[(address >> 8) as usize % WORDS];
            self.eerd = u32::from(word) << 16 | address | EERD_DONE;
        }
    }

    pub(super) fn read_eecd(&self) -> u32 {
        let grant = if self.eecd & REQUEST != 0 { GRANT } else { 0 };
        let data_out = if self.data_out { DO } else { 0 };
        self.eecd | grant | data_out | PRESENT
    }

    pub(super) fn write_eecd(&mut self, value: u32) {
        let before = self.eecd;
        self.eecd = value & (SK | CS | DI | FWE | REQUEST);
        if self.eecd & CS == 0 {
            self.input = 0;
            self.input_bits = 0;
            self.output_bits = 0;
            self.data_out = true;
        } else if before & SK == 0 && self.eecd & SK != 0 {
            self.clock(self.eecd & DI != 0);
        }
    }

    /// A rising edge of the clock while selected.
    fn clock(&mut self, data_in: bool) {
        if self.output_bits > 0 {
            self.output_bits -= 1;
            self.data_out = self.output >> self.output_bits.min(31) & 1 != 0;
            return;
        }
        // Zeros before the start bit do not count.
        if self.input_bits == 0 && !data_in || self.input_bits >= 25 {
            return;
        }
        self.input = self.input << 1 | u32::from(data_in);
        self.input_bits += 1;
        if self.input_bits == 9 {
            self.execute();
        } else if self.input_bits == 25 {
            self.store();
        }
    }

    /// Start bit, opcode and address are in.
    fn execute(&mut self) {
        let address = self.input as usize % WORDS;
        match (self.input >> 6 & 3, address >> 4) {
            (0b10, _) => {
                // A zero, then the word.
                self.output = u32::from(self.words[address]);
                self.output_bits = 16;
                self.data_out = false;
                self.input_bits = 0;
                self.input = 0;
            }
            (0b11, _) if self.write_enabled => self.words[address] = 0xFFFF,
            (0b00, 0b11) => self.write_enabled = true,
            (0b00, 0b00) => self.write_enabled = false,
            _ => {}
        }
    }

    /// Sixteen data bits have followed.
    fn store(&mut self) {
        if self.input >> 22 & 3 == 0b01 && self.write_enabled {
            self.words[(self.input >> 16) as usize % WORDS] = self.input as u16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    fn shift_out(eeprom: &mut Eeprom, value: u32, bits: u32) {
        for n in (0..bits).rev() {
            let data = if value >> n & 1 != 0 { DI } else { 0 };
            eeprom.write_eecd(REQUEST | CS | data);
            eeprom.write_eecd(REQUEST | CS | data | SK);
            eeprom.write_eecd(REQUEST | CS | data);
        }
    }

    fn shift_in(eeprom: &mut Eeprom) -> u16 {
        (0..16).fold(0, |value, _| {
            eeprom.write_eecd(REQUEST | CS | SK);
            let bit = eeprom.read_eecd() & DO != 0;
            eeprom.write_eecd(REQUEST | CS);
            value << 1 | u16::from(bit)
        })
    }

    fn read(eeprom: &mut Eeprom, address: u32) -> u16 {
        eeprom.write_eecd(REQUEST | CS);
        shift_out(eeprom, 0b110 << 6 | address, 9);
        assert_eq!(eeprom.read_eecd() & DO, 0, "the dummy zero");
        let word = shift_in(eeprom);
        eeprom.write_eecd(REQUEST);
        word
    }

    #[test]
    fn both_interfaces_read_the_same_and_the_sum_is_right() {
        let mut eeprom = Eeprom::new(MAC);
        let mut sum = 0u16;
        for address in 0..64 {
            eeprom.write_eerd(address << 8 | EERD_START);
            let eerd = eeprom.read_eerd();
            assert_eq!(eerd & 0xFFFF, address << 8 | EERD_DONE);
            assert_eq!(read(&mut eeprom, address), (eerd >> 16) as u16, "word {address}");
            sum = sum.wrapping_add((eerd >> 16) as u16);
        }
        assert_eq!(sum, 0xBABA);
        assert_eq!(read(&mut eeprom, 0), 0x5452);
        assert_eq!(eeprom.mac(), MAC);
    }

    #[test]
    fn writing_needs_the_enable() {
        let mut eeprom = Eeprom::new(MAC);
        let command = |eeprom: &mut Eeprom, value, bits| {
            shift_out(eeprom, value, bits);
            eeprom.write_eecd(REQUEST);
        };
        command(&mut eeprom, 0b101 << 22 | 0x20 << 16 | 0xBEEF, 25);
        assert_eq!(read(&mut eeprom, 0x20), 0xFFFF);
        command(&mut eeprom, 0b100_110000, 9);
        command(&mut eeprom, 0b101 << 22 | 0x20 << 16 | 0xBEEF, 25);
        assert_eq!(read(&mut eeprom, 0x20), 0xBEEF);
        eeprom.reset();
        assert_eq!(read(&mut eeprom, 0x20), 0xBEEF, "content survives");
        command(&mut eeprom, 0b100_110000, 9);
        command(&mut eeprom, 0b111 << 6 | 0x20, 9);
        assert_eq!(read(&mut eeprom, 0x20), 0xFFFF, "erased");
        command(&mut eeprom, 0b100_000000, 9);
        command(&mut eeprom, 0b101 << 22 | 0x20 << 16 | 1, 25);
        assert_eq!(read(&mut eeprom, 0x20), 0xFFFF);
    }

    #[test]
    fn grant_follows_request() {
        let mut eeprom = Eeprom::new(MAC);
        assert_eq!(eeprom.read_eecd() & (GRANT | PRESENT), PRESENT);
        eeprom.write_eecd(REQUEST);
        assert_eq!(eeprom.read_eecd() & GRANT, GRANT);
    }
}
