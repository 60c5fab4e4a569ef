//! The standard PS/2 mouse: two axes, three buttons.
//!
//! Contract: movement is gathered and sent when the last packet has gone, whatever the sample
//! rate; in remote mode only when asked for.

use alloc::collections::VecDeque;
use serde::{Deserialize, Serialize};

const ACKNOWLEDGE: u8 = 0xFA;
const ERROR: u8 = 0xFE;
const SELF_TEST_PASSED: u8 = 0xAA;
/// The identity of a mouse without wheel.
const IDENTITY: u8 = 0x00;
/// Largest movement in a packet: 9 bits, two's complement.
const REACH: i32 = 255;
/// Movement that is kept at most.
const GATHERED: i32 = 1 << 20;

/// The mouse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mouse {
    to_send: VecDeque<u8>,
    last_sent: u8,
    /// A command that takes a parameter.
    pending: Option<u8>,
    wrap: bool,
    remote: bool,
    reporting: bool,
    scaling: bool,
    resolution: u8,
    sample_rate: u8,
    dx: i32,
    dy: i32,
    buttons: u8,
    /// Something has changed since the last packet.
    changed: bool,
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            to_send: VecDeque::new(),
            last_sent: 0,
            pending: None,
            wrap: false,
            remote: false,
            reporting: false,
            scaling: false,
            resolution: 2,
            sample_rate: 100,
            dx: 0,
            dy: 0,
            buttons: 0,
            changed: false,
        }
    }
}

/// The 2:1 scaling of stream mode.
fn scaled(counts: i32) -> i32 {
    match counts.abs() {
        0 | 1 | 3 => counts,
        2 => counts.signum(),
        4 => 6 * counts.signum(),
        5 => 9 * counts.signum(),
        _ => 2 * counts,
    }
}

impl Mouse {
    /// The next byte to the controller.
    pub(super) fn send(&mut self) -> Option<u8> {
        if self.to_send.is_empty() && self.reporting && !self.remote && !self.wrap && self.changed {
            self.packet(self.scaling);
        }
        let byte = self.to_send.pop_front()?;
        self.last_sent = byte;
        Some(byte)
    }

    pub(super) fn pointer(&mut self, dx: i16, dy: i16, buttons: u8) {
        if !self.reporting && !self.remote {
            self.buttons = buttons & 7;
            return;
        }
        self.dx = (self.dx + i32::from(dx)).clamp(-GATHERED, GATHERED);
        self.dy = (self.dy + i32::from(dy)).clamp(-GATHERED, GATHERED);
        self.changed |= dx != 0 || dy != 0 || buttons & 7 != self.buttons;
        self.buttons = buttons & 7;
    }

    fn packet(&mut self, scale: bool) {
        let (dx, dy) = (self.dx.clamp(-REACH, REACH), self.dy.clamp(-REACH, REACH));
        self.dx -= dx;
        self.dy -= dy;
        self.changed = self.dx != 0 || self.dy != 0;
        let value = |counts: i32| if scale { scaled(counts) } else { counts };
        let (dx, dy) = (value(dx), value(dy));
        let sign = |counts: i32, bit: u8| if counts < 0 { bit } else { 0 };
        let overflow = |counts: i32, bit: u8| if counts.abs() > REACH { bit } else { 0 };
        let flags = sign(dx, 0x10) | sign(dy, 0x20) | overflow(dx, 0x40) | overflow(dy, 0x80);
        self.to_send.extend([flags | 0x08 | self.buttons, dx as u8, dy as u8]);
    }

    /// A byte from the controller.
    pub(super) fn receive(&mut self, byte: u8) {
        if self.wrap && byte != 0xFF && byte != 0xEC {
            self.to_send.push_back(byte);
            self.to_send.truncate(16);
            return;
        }
        // A command cuts off what is being sent.
        self.to_send.clear();
        match self.pending.take() {
            Some(0xE8) if byte <= 3 => {
                self.resolution = byte;
                self.to_send.push_back(ACKNOWLEDGE);
            }
            Some(0xF3) if byte <= 200 => {
                self.sample_rate = byte;
                self.to_send.push_back(ACKNOWLEDGE);
            }
            _ => self.command(byte),
        }
    }

    fn forget_movement(&mut self) {
        self.dx = 0;
        self.dy = 0;
        self.changed = false;
    }

    fn command(&mut self, command: u8) {
        if !matches!(command, 0xE6..=0xEC | 0xEE | 0xF0 | 0xF2..=0xF6 | 0xFE | 0xFF) {
            self.to_send.push_back(ERROR);
            return;
        }
        if command == 0xFE {
            self.to_send.push_back(self.last_sent);
            return;
        }
        self.to_send.push_back(ACKNOWLEDGE);
        match command {
            0xE6 => self.scaling = false,
            0xE7 => self.scaling = true,
            0xE8 | 0xF3 => self.pending = Some(command),
            0xE9 => self.status(),
            0xEA => {
                self.remote = false;
                self.forget_movement();
            }
            0xEB => self.packet(false),
            0xEC => self.wrap = false,
            0xEE => self.wrap = true,
            0xF0 => {
                self.remote = true;
                self.forget_movement();
            }
            0xF2 => self.to_send.push_back(IDENTITY),
            0xF4 => {
                self.reporting = true;
                self.forget_movement();
            }
            0xF5 => self.reporting = false,
            0xF6 => self.set_defaults(),
            _ => {
                self.set_defaults();
                self.to_send.extend([SELF_TEST_PASSED, IDENTITY]);
            }
        }
    }

    fn set_defaults(&mut self) {
        let to_send = core::mem::take(&mut self.to_send);
        *self = Self { to_send, buttons: self.buttons, ..Self::default() };
    }

    fn status(&mut self) {
        let (left, right, middle) =
            (self.buttons & 1, self.buttons >> 1 & 1, self.buttons >> 2 & 1);
        let modes = u8::from(self.remote) << 6
            | u8::from(self.reporting) << 5
            | u8::from(self.scaling) << 4
            | left << 2
            | middle << 1
            | right;
        self.to_send.extend([modes, self.resolution, self.sample_rate]);
    }
}
