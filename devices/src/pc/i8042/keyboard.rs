//! The AT keyboard: scan code sets 1 and 2, and the commands of the IBM PS/2 reference.
//!
//! Contract: keys arrive as set 2, repeats included. Set 3 is answered with "resend", as by a
//! keyboard without it.

use alloc::collections::VecDeque;
use serde::{Deserialize, Serialize};

const ACKNOWLEDGE: u8 = 0xFA;
const RESEND: u8 = 0xFE;
const SELF_TEST_PASSED: u8 = 0xAA;
/// Reported in place of codes that did not fit.
const OVERRUN: u8 = 0x00;
/// Bytes that may wait; a real keyboard has 16, but nobody types at the speed of a script there.
const BUFFER: usize = 1024;

/// Set 1 of the codes 00h-8Fh of set 2; the others stay as they are.
const SET_1: [u8; 0x90] = [
    0xFF, 0x43, 0x41, 0x3F, 0x3D, 0x3B, 0x3C, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3E, 0x0F, 0x29, 0x59,
    0x65, 0x38, 0x2A, 0x70, 0x1D, 0x10, 0x02, 0x5A, 0x66, 0x71, 0x2C, 0x1F, 0x1E, 0x11, 0x03, 0x5B,
    0x67, 0x2E, 0x2D, 0x20, 0x12, 0x05, 0x04, 0x5C, 0x68, 0x39, 0x2F, 0x21, 0x14, 0x13, 0x06, 0x5D,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5E, 0x6A, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5F,
    0x6B, 0x33, 0x25, 0x17, 0x18, 0x0B, 0x0A, 0x60, 0x6C, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0C, 0x61,
    0x6D, 0x73, 0x28, 0x74, 0x1A, 0x0D, 0x62, 0x6E, 0x3A, 0x36, 0x1C, 0x1B, 0x75, 0x2B, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7A, 0x0E, 0x7B, 0x7C, 0x4F, 0x7D, 0x4B, 0x47, 0x7E, 0x7F, 0x6F,
    0x52, 0x53, 0x50, 0x4C, 0x4D, 0x48, 0x01, 0x45, 0x57, 0x4E, 0x51, 0x4A, 0x37, 0x49, 0x46, 0x54,
    0x80, 0x81, 0x82, 0x41, 0x54, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F,
];

/// The set-1 byte for a byte of set 2 (other than the break prefix).
pub(super) fn set_1(byte: u8) -> u8 {
    SET_1.get(usize::from(byte)).copied().unwrap_or(byte)
}

/// The keyboard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keyboard {
    to_send: VecDeque<u8>,
    last_sent: u8,
    /// A command that takes a parameter.
    pending: Option<u8>,
    scanning: bool,
    set: u8,
    leds: u8,
    typematic: u8,
    breaking: bool,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self {
            to_send: VecDeque::new(),
            last_sent: 0,
            pending: None,
            scanning: true,
            set: 2,
            leds: 0,
            typematic: 0x2B,
            breaking: false,
        }
    }
}

impl Keyboard {
    /// The next byte to the controller.
    pub(super) fn send(&mut self) -> Option<u8> {
        let byte = self.to_send.pop_front()?;
        if byte != RESEND {
            self.last_sent = byte;
        }
        Some(byte)
    }

    pub(super) fn keys(&mut self, codes: &[u8]) {
        if !self.scanning {
            return;
        }
        for &code in codes {
            if self.set == 1 && code == 0xF0 {
                self.breaking = true;
                continue;
            }
            let code = match self.set {
                1 => {
                    let released = core::mem::take(&mut self.breaking);
                    set_1(code) | if released { 0x80 } else { 0 }
                }
                _ => code,
            };
            match self.to_send.len() {
                BUFFER.. => return,
                n if n == BUFFER - 1 => self.to_send.push_back(OVERRUN),
                _ => self.to_send.push_back(code),
            }
        }
    }

    /// A byte from the controller.
    pub(super) fn receive(&mut self, byte: u8) {
        match self.pending.take() {
            Some(command) if byte < 0xED => self.parameter(command, byte),
            // A command in place of the parameter: the first is given up.
            _ => self.command(byte),
        }
    }

    fn answer(&mut self, bytes: &[u8]) {
        // Answers go before codes that still wait, and a new command cuts an old answer short.
        self.to_send.clear();
        self.to_send.extend(bytes);
    }

    fn command(&mut self, command: u8) {
        match command {
            // LEDs, scan code set, typematic rate; types of single keys in set 3.
            0xED | 0xF0 | 0xF3 | 0xFB..=0xFD => {
                self.pending = Some(command);
                self.answer(&[ACKNOWLEDGE]);
            }
            0xEE => self.answer(&[0xEE]),
            0xF2 => self.answer(&[ACKNOWLEDGE, 0xAB, 0x83]),
            0xF4 => {
                self.answer(&[ACKNOWLEDGE]);
                self.scanning = true;
            }
            0xF5 | 0xF6 => {
                let scanning = command == 0xF6 && self.scanning;
                *self = Self { leds: self.leds, scanning, ..Self::default() };
                self.answer(&[ACKNOWLEDGE]);
            }
            // Types of all keys in set 3.
            0xF7..=0xFA => self.answer(&[ACKNOWLEDGE]),
            0xFE => {
                let last = self.last_sent;
                self.to_send.push_front(last);
            }
            0xFF => {
                *self = Self::default();
                self.answer(&[ACKNOWLEDGE, SELF_TEST_PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    fn parameter(&mut self, command: u8, value: u8) {
        match (command, value) {
            (0xF0, 0) => return self.answer(&[ACKNOWLEDGE, self.set]),
            (0xF0, 1 | 2) => self.set = value,
            (0xF0, _) => return self.answer(&[RESEND]),
            (0xED, _) => self.leds = value & 7,
            (0xF3, _) => self.typematic = value & 0x7F,
            _ => {}
        }
        self.answer(&[ACKNOWLEDGE]);
    }
}
