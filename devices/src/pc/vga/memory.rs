//! The CPU's window to video memory: address maps, latches, write and read modes.
//!
//! Contract: as IBM's VGA: chain-4 keeps the byte of address `a` in plane `a & 3` at `a & !3`,
//! odd/even that in plane `a & 1` at `a & !1`.

use super::{MISC_RAM, Vga, graphics, sequencer};

/// Where the window begins, in legacy video memory.
const WINDOW: u64 = 0xA_0000;

impl Vga {
    /// Whether the memory answers at physical address `pa`, and the offset within its map.
    #[inline]
    fn mapped(&self, pa: u64) -> Option<u32> {
        if self.misc & MISC_RAM == 0 {
            return None;
        }
        let offset = pa.wrapping_sub(WINDOW) as u32;
        match self.graphics[graphics::MISCELLANEOUS] >> 2 & 3 {
            0 => Some(offset & 0x1_FFFF),
            1 => (offset < 0x1_0000).then_some(offset),
            2 => (0x1_0000..0x1_8000).contains(&offset).then_some(offset & 0x7FFF),
            _ => (offset >= 0x1_8000).then_some(offset & 0x7FFF),
        }
    }

    fn chain_4(&self) -> bool {
        self.sequencer[sequencer::MEMORY_MODE] & 0x08 != 0
    }

    /// Reads a byte at physical address `pa` in A0000h-BFFFFh.
    #[inline]
    pub fn read_memory(&mut self, pa: u64) -> u8 {
        let Some(offset) = self.mapped(pa) else { return 0xFF };
        let mode = self.graphics[graphics::MODE];
        let (at, plane) = if self.chain_4() {
            (offset & 0xFFFC, offset & 3)
        } else if mode & 0x10 != 0 {
            let page = u32::from(self.graphics[graphics::READ_MAP]) & 2;
            (offset & 0xFFFE, page | offset & 1)
        } else {
            (offset & 0xFFFF, u32::from(self.graphics[graphics::READ_MAP]))
        };
        let at = at as usize * 4;
        self.latch.copy_from_slice(&self.memory[at..at + 4]);
        if mode & 0x08 == 0 {
            return self.latch[plane as usize & 3];
        }
        // Read mode 1: a one where all planes that matter match the colour.
        let color = self.graphics[graphics::COLOR_COMPARE];
        let care = self.graphics[graphics::COLOR_DONT_CARE];
        (0..4).filter(|plane| care >> plane & 1 != 0).fold(0xFF, |equal, plane| {
            let wanted = if color >> plane & 1 != 0 { 0xFF } else { 0x00 };
            equal & !(self.latch[plane] ^ wanted)
        })
    }

    /// Writes a byte at physical address `pa` in A0000h-BFFFFh.
    #[inline]
    pub fn write_memory(&mut self, pa: u64, value: u8) {
        let Some(offset) = self.mapped(pa) else { return };
        let mut planes = self.sequencer[sequencer::MAP_MASK];
        let at = if self.chain_4() {
            planes &= 1 << (offset & 3);
            offset & 0xFFFC
        } else if self.sequencer[sequencer::MEMORY_MODE] & 0x04 == 0 {
            planes &= if offset & 1 != 0 { 0b1010 } else { 0b0101 };
            offset & 0xFFFE
        } else {
            offset & 0xFFFF
        };
        let data = self.write_data(value);
        let at = at as usize * 4;
        for (plane, data) in data.into_iter().enumerate() {
            if planes >> plane & 1 != 0 {
                self.memory[at + plane] = data;
            }
        }
    }

    /// What a write of `value` puts into the four planes.
    fn write_data(&self, value: u8) -> [u8; 4] {
        let registers = &self.graphics;
        let rotated = value.rotate_right(u32::from(registers[graphics::ROTATE] & 7));
        let mut mask = registers[graphics::BIT_MASK];
        let spread = |bits: u8, plane: usize| if bits >> plane & 1 != 0 { 0xFF } else { 0x00 };
        let mut data = [0; 4];
        for (plane, data) in data.iter_mut().enumerate() {
            *data = match registers[graphics::MODE] & 3 {
                0 if registers[graphics::ENABLE_SET_RESET] >> plane & 1 == 0 => rotated,
                0 => spread(registers[graphics::SET_RESET], plane),
                1 => self.latch[plane],
                2 => spread(value, plane),
                _ => spread(registers[graphics::SET_RESET], plane),
            };
        }
        match registers[graphics::MODE] & 3 {
            1 => return data,
            3 => mask &= rotated,
            _ => {}
        }
        for (plane, data) in data.iter_mut().enumerate() {
            let latch = self.latch[plane];
            let combined = match registers[graphics::ROTATE] >> 3 & 3 {
                0 => *data,
                1 => *data & latch,
                2 => *data | latch,
                _ => *data ^ latch,
            };
            *data = combined & mask | latch & !mask;
        }
        data
    }
}
