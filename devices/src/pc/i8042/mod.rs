//! The PS/2 keyboard controller at ports 60h and 64h, with a keyboard and a mouse.
//!
//! Contract: bytes take no time on the wires; a byte that waits enters the output buffer with
//! [`I8042::load`], which must follow every access, after the interrupt lines have been taken: so
//! each byte makes an edge of its own. The system reset pulse waits in [`I8042::take_reset`].

mod keyboard;
mod mouse;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use keyboard::Keyboard;
use mouse::Mouse;
use serde::{Deserialize, Serialize};

const STATUS_OUTPUT_FULL: u8 = 0x01;
const STATUS_SYSTEM: u8 = 0x04;
const STATUS_COMMAND: u8 = 0x08;
/// The keyboard lock is open.
const STATUS_UNLOCKED: u8 = 0x10;
const STATUS_AUX: u8 = 0x20;

/// Controller command byte.
const CCB_KEYBOARD_INTERRUPT: u8 = 0x01;
const CCB_MOUSE_INTERRUPT: u8 = 0x02;
const CCB_SYSTEM: u8 = 0x04;
const CCB_KEYBOARD_OFF: u8 = 0x10;
const CCB_MOUSE_OFF: u8 = 0x20;
const CCB_TRANSLATE: u8 = 0x40;

/// Output port P2.
const P2_NO_RESET: u8 = 0x01;
const P2_A20: u8 = 0x02;
const P2_MOUSE_FULL: u8 = 0x20;
const P2_KEYBOARD_FULL: u8 = 0x10;
/// Keyboard data and clock high.
const P2_IDLE: u8 = 0xC0;
/// Input port P1: unlocked, colour display, no manufacturing jumper, 512 KiB on board.
const P1: u8 = 0xF0;

/// Where the byte in the output buffer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum From {
    Controller,
    Keyboard,
    Mouse,
}

/// Most bytes that the controller itself has to say.
const RESPONSES: usize = 16;

/// The controller and what is plugged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042 {
    keyboard: Keyboard,
    mouse: Mouse,
    /// Internal RAM; byte 0 is the command byte.
    ram: [u8; 32],
    /// The last write went to port 64h.
    command_written: bool,
    /// A command that takes a byte at port 60h.
    pending: Option<u8>,
    output: Option<(u8, From)>,
    last_output: u8,
    responses: VecDeque<(u8, From)>,
    /// The next translated scan code is a break code.
    translating_break: bool,
    p2: u8,
    reset: bool,
}

impl Default for I8042 {
    fn default() -> Self {
        let mut ram = [0; 32];
        ram[0] = CCB_KEYBOARD_OFF | CCB_MOUSE_OFF;
        Self {
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
            ram,
            command_written: false,
            pending: None,
            output: None,
            last_output: 0,
            responses: VecDeque::new(),
            translating_break: false,
            p2: P2_NO_RESET | P2_A20,
            reset: false,
        }
    }
}

impl I8042 {
    /// The keyboard's interrupt line (IRQ 1).
    #[inline]
    pub fn keyboard_irq(&self) -> bool {
        let full = self.output.is_some_and(|(_, from)| from != From::Mouse);
        full && self.ram[0] & CCB_KEYBOARD_INTERRUPT != 0
    }

    /// The mouse's interrupt line (IRQ 12).
    #[inline]
    pub fn mouse_irq(&self) -> bool {
        let full = self.output.is_some_and(|(_, from)| from == From::Mouse);
        full && self.ram[0] & CCB_MOUSE_INTERRUPT != 0
    }

    /// The controller's A20 output.
    pub fn a20(&self) -> bool {
        self.p2 & P2_A20 != 0
    }

    /// Takes a request for a system reset.
    pub fn take_reset(&mut self) -> bool {
        core::mem::take(&mut self.reset)
    }

    /// Scan codes of set 2 from the keys.
    pub fn keys(&mut self, codes: &[u8]) {
        self.keyboard.keys(codes);
    }

    /// The mouse moved or a button changed.
    pub fn pointer(&mut self, dx: i16, dy: i16, buttons: u8) {
        self.mouse.pointer(dx, dy, buttons);
    }

    /// Fills the output buffer from whoever has something: the controller, then the keyboard, then
    /// the mouse.
    pub fn load(&mut self) {
        while self.output.is_none() {
            if let Some(response) = self.responses.pop_front() {
                self.output = Some(response);
            } else if self.ram[0] & CCB_KEYBOARD_OFF == 0
                && let Some(byte) = self.keyboard.send()
            {
                self.output = self.translate(byte).map(|byte| (byte, From::Keyboard));
            } else if self.ram[0] & CCB_MOUSE_OFF == 0
                && let Some(byte) = self.mouse.send()
            {
                self.output = Some((byte, From::Mouse));
            } else {
                return;
            }
        }
    }

    /// Turns a byte of scan code set 2 into set 1; the prefix of a break code vanishes.
    fn translate(&mut self, byte: u8) -> Option<u8> {
        if self.ram[0] & CCB_TRANSLATE == 0 {
            return Some(byte);
        }
        if byte == 0xF0 {
            self.translating_break = true;
            return None;
        }
        let released = core::mem::take(&mut self.translating_break);
        Some(keyboard::set_1(byte) | if released { 0x80 } else { 0 })
    }

    fn respond(&mut self, byte: u8, from: From) {
        if self.responses.len() < RESPONSES {
            self.responses.push_back((byte, from));
        }
    }

    /// Reads port 60h or 64h.
    pub fn read(&mut self, port: u16) -> u8 {
        if port == 0x60 {
            if let Some((byte, _)) = self.output.take() {
                self.last_output = byte;
            }
            return self.last_output;
        }
        let full = match self.output {
            Some((_, From::Mouse)) => STATUS_OUTPUT_FULL | STATUS_AUX,
            Some(_) => STATUS_OUTPUT_FULL,
            None => 0,
        };
        full | STATUS_UNLOCKED
            | self.ram[0] & CCB_SYSTEM & STATUS_SYSTEM
            | if self.command_written { STATUS_COMMAND } else { 0 }
    }

    /// Writes port 60h or 64h.
    pub fn write(&mut self, port: u16, value: u8) {
        self.command_written = port == 0x64;
        if self.command_written {
            self.pending = None;
            self.command(value);
        } else if let Some(command) = self.pending.take() {
            self.parameter(command, value);
        } else {
            // Writing to the keyboard releases its clock.
            self.ram[0] &= !CCB_KEYBOARD_OFF;
            self.keyboard.receive(value);
        }
    }

    fn command(&mut self, command: u8) {
        match command {
            0x20..=0x3F => self.respond(self.ram[usize::from(command & 0x1F)], From::Controller),
            0x60..=0x7F | 0xD1..=0xD4 => self.pending = Some(command),
            // No password is set.
            0xA4 => self.respond(0xF1, From::Controller),
            0xA7 => self.ram[0] |= CCB_MOUSE_OFF,
            0xA8 => self.ram[0] &= !CCB_MOUSE_OFF,
            // The mouse's and the keyboard's lines are good.
            0xA9 | 0xAB => self.respond(0x00, From::Controller),
            0xAA => {
                self.ram[0] |= CCB_SYSTEM;
                self.output = None;
                self.responses.clear();
                self.respond(0x55, From::Controller);
            }
            0xAD => self.ram[0] |= CCB_KEYBOARD_OFF,
            0xAE => self.ram[0] &= !CCB_KEYBOARD_OFF,
            0xC0 => self.respond(P1, From::Controller),
            0xD0 => self.respond(self.output_port(), From::Controller),
            // Without and with A20, on many controllers.
            0xDD => self.p2 &= !P2_A20,
            0xDF => self.p2 |= P2_A20,
            // Test inputs: keyboard clock and data are high.
            0xE0 => self.respond(0x03, From::Controller),
            // Pulses the output port's bits that are 0.
            0xF0..=0xFF => self.reset |= command & P2_NO_RESET == 0,
            _ => {}
        }
    }

    fn output_port(&self) -> u8 {
        let full = match self.output {
            Some((_, From::Mouse)) => P2_MOUSE_FULL,
            Some(_) => P2_KEYBOARD_FULL,
            None => 0,
        };
        self.p2 | P2_IDLE | full
    }

    fn parameter(&mut self, command: u8, value: u8) {
        match command {
            0x60..=0x7F => self.ram[usize::from(command & 0x1F)] = value,
            0xD1 => {
                self.p2 = value & (P2_NO_RESET | P2_A20);
                self.reset |= value & P2_NO_RESET == 0;
            }
            0xD2 => self.respond(value, From::Keyboard),
            0xD3 => self.respond(value, From::Mouse),
            _ => {
                self.ram[0] &= !CCB_MOUSE_OFF;
                self.mouse.receive(value);
            }
        }
    }
}
