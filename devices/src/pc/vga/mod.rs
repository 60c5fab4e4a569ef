//! An IBM VGA: register sets, 256 KiB of planar memory, and its screen as text.
//!
//! Contract: nothing is drawn; what the guest reads back is what a VGA would give, retrace bits
//! included, which follow from the virtual time and the programmed timing. A front end asks for
//! [`Vga::text_screen`].

mod memory;
#[cfg(test)]
mod tests;
mod text;

use crate::octets::Octets;
use crate::time::VirtualNs;
use serde::{Deserialize, Serialize};
pub use text::{Cell, TextScreen};

/// Bytes of video memory: four planes of 64 KiB.
const MEMORY: usize = 1 << 18;

/// Indices into the register sets.
mod sequencer {
    pub const MAP_MASK: usize = 2;
    pub const MEMORY_MODE: usize = 4;
}
mod graphics {
    pub const SET_RESET: usize = 0;
    pub const ENABLE_SET_RESET: usize = 1;
    pub const COLOR_COMPARE: usize = 2;
    pub const ROTATE: usize = 3;
    pub const READ_MAP: usize = 4;
    pub const MODE: usize = 5;
    pub const MISCELLANEOUS: usize = 6;
    pub const COLOR_DONT_CARE: usize = 7;
    pub const BIT_MASK: usize = 8;
}
mod crtc {
    pub const HORIZONTAL_TOTAL: usize = 0x00;
    pub const HORIZONTAL_END: usize = 0x01;
    pub const VERTICAL_TOTAL: usize = 0x06;
    pub const OVERFLOW: usize = 0x07;
    pub const MAXIMUM_SCAN_LINE: usize = 0x09;
    pub const CURSOR_START: usize = 0x0A;
    pub const CURSOR_END: usize = 0x0B;
    pub const START_HIGH: usize = 0x0C;
    pub const CURSOR_HIGH: usize = 0x0E;
    pub const RETRACE_START: usize = 0x10;
    pub const RETRACE_END: usize = 0x11;
    pub const VERTICAL_END: usize = 0x12;
    pub const OFFSET: usize = 0x13;
    pub const UNDERLINE: usize = 0x14;
    pub const MODE: usize = 0x17;
}

/// Registers that exist in each set, and the bits that they keep.
const SEQUENCER_BITS: [u8; 5] = [0x03, 0x3D, 0x0F, 0x3F, 0x0E];
const GRAPHICS_BITS: [u8; 9] = [0x0F, 0x0F, 0x0F, 0x1F, 0x03, 0x7B, 0x0F, 0x0F, 0xFF];
const CRTC_REGISTERS: usize = 0x19;
const ATTRIBUTE_REGISTERS: usize = 0x15;

const MISC_COLOR: u8 = 0x01;
const MISC_RAM: u8 = 0x02;
/// Display-enable and vertical-retrace of input status 1.
const STATUS_BLANK: u8 = 0x01;
const STATUS_RETRACE: u8 = 0x08;

/// The adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vga {
    misc: u8,
    feature: u8,
    sequencer_index: u8,
    sequencer: [u8; 5],
    graphics_index: u8,
    graphics: [u8; 9],
    crtc_index: u8,
    crtc: [u8; CRTC_REGISTERS],
    /// Index and palette-address-source bit.
    attribute_index: u8,
    attribute: [u8; ATTRIBUTE_REGISTERS],
    /// The next write to 3C0h is data.
    attribute_data: bool,
    dac: Octets<768>,
    dac_mask: u8,
    dac_reading: bool,
    /// Index times three plus component.
    dac_read: u16,
    dac_write: u16,
    /// The bytes of the last read, a plane each.
    latch: [u8; 4],
    /// Plane `p` of offset `n` at `4 n + p`.
    memory: Octets<MEMORY>,
}

impl Default for Vga {
    fn default() -> Self {
        Self {
            misc: 0,
            feature: 0,
            sequencer_index: 0,
            sequencer: [0; 5],
            graphics_index: 0,
            graphics: [0; 9],
            crtc_index: 0,
            crtc: [0; CRTC_REGISTERS],
            attribute_index: 0,
            attribute: [0; ATTRIBUTE_REGISTERS],
            attribute_data: false,
            dac: Octets::default(),
            dac_mask: 0xFF,
            dac_reading: false,
            dac_read: 0,
            dac_write: 0,
            latch: [0; 4],
            memory: Octets::default(),
        }
    }
}

impl Vga {
    /// Reads port 3B0h-3DFh.
    pub fn read(&mut self, now: VirtualNs, port: u16) -> u8 {
        match port {
            0x3C0 => self.attribute_index,
            0x3C1 => {
                let index = usize::from(self.attribute_index & 0x1F);
                self.attribute.get(index).copied().unwrap_or(0)
            }
            // Input status 0: switch sense, a colour display.
            0x3C2 => 0x10,
            0x3C4 => self.sequencer_index,
            0x3C5 => self.sequencer.get(usize::from(self.sequencer_index)).copied().unwrap_or(0),
            0x3C6 => self.dac_mask,
            0x3C7 => {
                if self.dac_reading {
                    3
                } else {
                    0
                }
            }
            0x3C8 => (self.dac_write / 3) as u8,
            0x3C9 => {
                let value = self.dac[usize::from(self.dac_read) % 768];
                self.dac_read = (self.dac_read + 1) % 768;
                value
            }
            0x3CA => self.feature,
            0x3CC => self.misc,
            0x3CE => self.graphics_index,
            0x3CF => self.graphics.get(usize::from(self.graphics_index)).copied().unwrap_or(0),
            _ => self.read_relocated(now, port),
        }
    }

    /// Ports that stand at 3Bxh for monochrome and at 3Dxh for colour.
    fn relocated(&self, port: u16) -> Option<u16> {
        let base = if self.misc & MISC_COLOR != 0 { 0x3D0 } else { 0x3B0 };
        (port & 0xFFF0 == base).then_some(port & 0xF)
    }

    fn read_relocated(&mut self, now: VirtualNs, port: u16) -> u8 {
        match self.relocated(port) {
            Some(0x4) => self.crtc_index,
            Some(0x5) => self.crtc.get(usize::from(self.crtc_index)).copied().unwrap_or(0),
            Some(0xA) => {
                self.attribute_data = false;
                self.input_status_1(now)
            }
            _ => 0xFF,
        }
    }

    /// Writes port 3B0h-3DFh.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x3C0 => {
                let index = usize::from(self.attribute_index & 0x1F);
                if !self.attribute_data {
                    self.attribute_index = value & 0x3F;
                } else if let Some(register) = self.attribute.get_mut(index) {
                    // The palette proper can be written only while it is off the screen.
                    if index >= 0x10 || self.attribute_index & 0x20 == 0 {
                        *register = value;
                    }
                }
                self.attribute_data = !self.attribute_data;
            }
            0x3C2 => self.misc = value,
            0x3C4 => self.sequencer_index = value & 0x07,
            0x3C5 => store(&mut self.sequencer, &SEQUENCER_BITS, self.sequencer_index, value),
            0x3C6 => self.dac_mask = value,
            0x3C7 => {
                self.dac_read = u16::from(value) * 3;
                self.dac_reading = true;
            }
            0x3C8 => {
                self.dac_write = u16::from(value) * 3;
                self.dac_reading = false;
            }
            0x3C9 => {
                self.dac[usize::from(self.dac_write) % 768] = value & 0x3F;
                self.dac_write = (self.dac_write + 1) % 768;
            }
            0x3CE => self.graphics_index = value & 0x0F,
            0x3CF => store(&mut self.graphics, &GRAPHICS_BITS, self.graphics_index, value),
            _ => match self.relocated(port) {
                Some(0x4) => self.crtc_index = value & 0x3F,
                Some(0x5) => self.write_crtc(value),
                Some(0xA) => self.feature = value & 0x0B,
                _ => {}
            },
        }
    }

    fn write_crtc(&mut self, value: u8) {
        let index = usize::from(self.crtc_index);
        let protected = self.crtc[crtc::RETRACE_END] & 0x80 != 0;
        if index == crtc::OVERFLOW && protected {
            // Only line compare bit 8.
            self.crtc[index] = self.crtc[index] & !0x10 | value & 0x10;
        } else if index < CRTC_REGISTERS && !(protected && index < crtc::OVERFLOW) {
            self.crtc[index] = value;
        }
    }

    /// A vertical CRTC value with its high bits from the overflow register.
    fn vertical(&self, register: usize, bit_8: u32, bit_9: u32) -> u64 {
        let overflow = self.crtc[crtc::OVERFLOW];
        u64::from(self.crtc[register])
            | u64::from(overflow >> bit_8 & 1) << 8
            | u64::from(overflow >> bit_9 & 1) << 9
    }

    /// Last line that is displayed.
    fn vertical_end(&self) -> u64 {
        self.vertical(crtc::VERTICAL_END, 1, 6)
    }

    /// Where the beam is.
    fn input_status_1(&self, now: VirtualNs) -> u8 {
        let clock = if self.misc & 0x0C == 0x04 { 28_322_000 } else { 25_175_000 };
        let dots = if self.sequencer[1] & 1 != 0 { 8 } else { 9 };
        let halved = u64::from(self.sequencer[1] >> 3 & 1);
        let line = (u64::from(self.crtc[crtc::HORIZONTAL_TOTAL]) + 5) * (dots << halved);
        let lines = self.vertical(crtc::VERTICAL_TOTAL, 0, 5) + 2;
        let beam = now.ticks(clock) % (line * lines);
        let (x, y) = (beam % line, beam / line);
        let shown = (u64::from(self.crtc[crtc::HORIZONTAL_END]) + 1) * (dots << halved);
        let blank = x >= shown || y > self.vertical_end();
        let start = self.vertical(crtc::RETRACE_START, 2, 7);
        // The end is given by its low four bits; 0 lines means 16.
        let length = match (u64::from(self.crtc[crtc::RETRACE_END]).wrapping_sub(start)) & 0xF {
            0 => 16,
            length => length,
        };
        let retrace = (start..start + length).contains(&y);
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        bit(blank || retrace, STATUS_BLANK) | bit(retrace, STATUS_RETRACE)
    }
}

/// Writes register `index` of a set as far as register and bits exist.
fn store(registers: &mut [u8], bits: &[u8], index: u8, value: u8) {
    let index = usize::from(index);
    if let (Some(register), Some(bits)) = (registers.get_mut(index), bits.get(index)) {
        *register = value & bits;
    }
}
