//! The two 8237A DMA controllers and the page registers of the AT: registers alone, since nothing
//! on this board asks for ISA DMA.
//!
//! Contract: addresses and counts go through the byte flip-flop; software requests never start a
//! transfer, so current and base registers are equal until written.

use serde::{Deserialize, Serialize};

/// One 8237A.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Controller {
    /// Set: the next byte is the high one.
    high_byte: bool,
    /// Base and current address, then base and current word count, by channel.
    words: [u16; 8],
    command: u8,
    /// Software requests, a bit a channel.
    request: u8,
    mode: [u8; 4],
    mask: u8,
}

impl Controller {
    fn new() -> Self {
        Self { mask: 0x0F, ..Self::default() }
    }

    fn read(&mut self, register: u16) -> u8 {
        match register {
            0..=7 => {
                let [low, high] = self.words[usize::from(register)].to_le_bytes();
                self.high_byte = !self.high_byte;
                if self.high_byte { low } else { high }
            }
            // Status: requests in the high half, no terminal counts.
            8 => self.request << 4,
            0xF => 0xF0 | self.mask,
            // The temporary register is empty; the others are write-only.
            0xD => 0,
            _ => 0xFF,
        }
    }

    fn write(&mut self, register: u16, value: u8) {
        let channel = value & 3;
        let with = |bits: u8, on: bool| {
            if on { bits | 1 << channel } else { bits & !(1 << channel) }
        };
        match register {
            0..=7 => {
                let word = &mut self.words[usize::from(register)];
                let mut bytes = word.to_le_bytes();
                bytes[usize::from(self.high_byte)] = value;
                *word = u16::from_le_bytes(bytes);
                self.high_byte = !self.high_byte;
            }
            8 => self.command = value,
            9 => self.request = with(self.request, value & 4 != 0),
            0xA => self.mask = with(self.mask, value & 4 != 0),
            0xB => self.mode[usize::from(channel)] = value,
            0xC => self.high_byte = false,
            0xD => {
                let words = self.words;
                *self = Self { words, mode: self.mode, ..Self::new() };
            }
            0xE => self.mask = 0,
            _ => self.mask = value & 0x0F,
        }
    }
}

/// Both controllers and the page registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dma8237 {
    controllers: [Controller; 2],
    /// Ports 80h-8Fh.
    pages: [u8; 16],
}

impl Default for Dma8237 {
    fn default() -> Self {
        Self { controllers: [Controller::new(), Controller::new()], pages: [0; 16] }
    }
}

impl Dma8237 {
    /// Reads port 00h-0Fh, 80h-8Fh or C0h-DFh.
    pub fn read(&mut self, port: u16) -> u8 {
        match port {
            0x00..=0x0F => self.controllers[0].read(port),
            0x80..=0x8F => self.pages[usize::from(port - 0x80)],
            0xC0..=0xDF => self.controllers[1].read((port - 0xC0) / 2),
            _ => 0xFF,
        }
    }

    /// Writes the same ports.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x00..=0x0F => self.controllers[0].write(port, value),
            0x80..=0x8F => self.pages[usize::from(port - 0x80)] = value,
            0xC0..=0xDF => self.controllers[1].write((port - 0xC0) / 2, value),
            _ => {}
        }
    }

    /// The last power-on self-test code (port 80h, a spare page register).
    pub fn post_code(&self) -> u8 {
        self.pages[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flip_flop_and_clear() {
        for (base, step) in [(0x00, 1), (0xC0, 2)] {
            let mut dma = Dma8237::default();
            let at = |register: u16| base + register * step;
            dma.write(at(5), 0x34);
            dma.write(at(5), 0x12);
            assert_eq!((dma.read(at(5)), dma.read(at(5))), (0x34, 0x12));
            assert_eq!(dma.read(at(5)), 0x34);
            dma.write(at(0xC), 0);
            assert_eq!(dma.read(at(5)), 0x34, "the flip-flop was cleared");
            dma.write(at(0xD), 0);
            assert_eq!((dma.read(at(5)), dma.read(at(5))), (0x34, 0x12));
        }
    }

    #[test]
    fn masks_requests_and_pages() {
        let mut dma = Dma8237::default();
        assert_eq!(dma.read(0x0F), 0xFF);
        dma.write(0x0A, 2);
        assert_eq!(dma.read(0x0F), 0xFB);
        dma.write(0x0E, 0);
        assert_eq!(dma.read(0x0F), 0xF0);
        dma.write(0xDE, 5);
        assert_eq!(dma.read(0xDE), 0xF5);
        dma.write(0x09, 7);
        assert_eq!(dma.read(0x08), 0x80);
        dma.write(0x0D, 0);
        assert_eq!((dma.read(0x08), dma.read(0x0F)), (0, 0xFF));
        for port in 0x80..0x90 {
            dma.write(port, port as u8 ^ 0x5A);
        }
        assert!((0x80..0x90).all(|port| dma.read(port) == port as u8 ^ 0x5A));
        assert_eq!(dma.post_code(), 0x80 ^ 0x5A);
    }
}
