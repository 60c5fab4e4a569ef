//! The 256 bytes of configuration space of one PCI function.
//!
//! Contract: each bit is read-only, writable, or cleared by writing one, as the function's
//! constructor said; there are no side effects. Base address registers size themselves by their
//! write masks (PCI 2.1 section 6.2.5.1).

use crate::octets::Octets;
use serde::{Deserialize, Serialize};

/// Command register bits, PCI 2.1 section 6.2.2.
mod command {
    pub const IO: u8 = 1 << 0;
    pub const MEMORY: u8 = 1 << 1;
    pub const MASTER: u8 = 1 << 2;
}

const COMMAND: u8 = 0x04;
const STATUS: u8 = 0x06;
const HEADER_TYPE: u8 = 0x0E;
const BAR: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
const INTERRUPT_LINE: u8 = 0x3C;
const INTERRUPT_PIN: u8 = 0x3D;
/// Status bit 4: a capability list is there.
const STATUS_CAPABILITIES: u8 = 1 << 4;
/// Status bit 3: an interrupt is pending (PCI 2.3).
const STATUS_INTERRUPT: u8 = 1 << 3;
/// Base address register bit 0: I/O space.
const BAR_IO: u8 = 1;

/// Configuration space of one function.
#[derive(Serialize, Deserialize)]
pub struct ConfigSpace {
    bytes: Octets<256>,
    power_on: Octets<256>,
    writable: Octets<256>,
    write_one_to_clear: Octets<256>,
}

/// Constructors: each call describes one register.
impl ConfigSpace {
    /// A function with the identity `vendor:device`, 24-bit `class` code and `revision`, that
    /// decodes and drives nothing.
    pub fn new(vendor: u16, device: u16, class: u32, revision: u8) -> Self {
        let mut config = Self {
            bytes: Octets::default(),
            power_on: Octets::default(),
            writable: Octets::default(),
            write_one_to_clear: Octets::default(),
        };
        config.set_power_on(0x00, &vendor.to_le_bytes());
        config.set_power_on(0x02, &device.to_le_bytes());
        config.set_power_on(0x08, &(class << 8 | u32::from(revision)).to_le_bytes());
        config.write_one_to_clear[usize::from(STATUS) + 1] = 0xF9;
        config
    }

    fn set_power_on(&mut self, offset: u8, value: &[u8]) {
        let at = usize::from(offset);
        self.power_on[at..at + value.len()].copy_from_slice(value);
        self.bytes[at..at + value.len()].copy_from_slice(value);
    }

    /// The registers from `offset` on read as `value` and cannot be written.
    #[must_use]
    pub fn read_only(mut self, offset: u8, value: &[u8]) -> Self {
        self.set_power_on(offset, value);
        self
    }

    /// The byte at `offset` is `value` at power-on; the bits of `mask` are writable.
    #[must_use]
    pub fn register(mut self, offset: u8, value: u8, mask: u8) -> Self {
        self.set_power_on(offset, &[value]);
        self.writable[usize::from(offset)] = mask;
        self
    }

    /// The bits of `mask` at `offset` are cleared by writing ones.
    #[must_use]
    pub fn clear_by_one(mut self, offset: u8, mask: u8) -> Self {
        self.write_one_to_clear[usize::from(offset)] = mask;
        self
    }

    /// Several functions in this device.
    #[must_use]
    pub fn multi_function(self) -> Self {
        self.read_only(HEADER_TYPE, &[0x80])
    }

    /// Command register: `value` at power-on, the bits of `mask` writable.
    #[must_use]
    pub fn command(self, value: u16, mask: u16) -> Self {
        let ([v0, v1], [m0, m1]) = (value.to_le_bytes(), mask.to_le_bytes());
        self.register(COMMAND, v0, m0).register(COMMAND + 1, v1, m1)
    }

    /// Status register at power-on.
    #[must_use]
    pub fn status(self, value: u16) -> Self {
        self.read_only(STATUS, &value.to_le_bytes())
    }

    /// Subsystem vendor and device.
    #[must_use]
    pub fn subsystem(self, vendor: u16, device: u16) -> Self {
        self.read_only(0x2C, &vendor.to_le_bytes()).read_only(0x2E, &device.to_le_bytes())
    }

    /// Uses interrupt pin `pin` (1 = INTA#); the interrupt line register is for software.
    #[must_use]
    pub fn interrupt(self, pin: u8) -> Self {
        self.read_only(INTERRUPT_PIN, &[pin]).register(INTERRUPT_LINE, 0, 0xFF)
    }

    /// Base address register `n`: 32-bit memory of `size` bytes (a power of two, at least 16).
    #[must_use]
    pub fn memory_bar(mut self, n: u8, size: u32) -> Self {
        let at = usize::from(BAR + 4 * n);
        self.writable[at..at + 4].copy_from_slice(&(!(size - 1)).to_le_bytes());
        self
    }

    /// Base address register `n`: `size` I/O ports (a power of two, at least 4).
    #[must_use]
    pub fn io_bar(mut self, n: u8, size: u32) -> Self {
        self.set_power_on(BAR + 4 * n, &[BAR_IO]);
        self.memory_bar(n, size)
    }

    /// Puts a capability `id` at `offset` (a multiple of 4) at the head of the list; its body
    /// follows the two bytes of its header.
    #[must_use]
    pub fn capability(mut self, id: u8, offset: u8, body: &[u8]) -> Self {
        let next = self.bytes[usize::from(CAPABILITIES)];
        self.set_power_on(offset, &[id, next]);
        self.set_power_on(offset + 2, body);
        self.set_power_on(CAPABILITIES, &[offset]);
        let status = self.bytes[usize::from(STATUS)] | STATUS_CAPABILITIES;
        self.set_power_on(STATUS, &[status]);
        self
    }
}

/// Run time.
impl ConfigSpace {
    /// RST#.
    pub fn reset(&mut self) {
        self.bytes.copy_from_slice(&self.power_on[..]);
    }

    /// Reads `size` bytes at `offset`; past the end reads as ones.
    pub fn read(&self, offset: u8, size: u8) -> u32 {
        (0..usize::from(size.min(4))).fold(0, |value, n| {
            let byte = self.bytes.get(usize::from(offset) + n).copied().unwrap_or(0xFF);
            value | u32::from(byte) << (8 * n)
        })
    }

    /// Writes `size` bytes at `offset`, as far as the bits are writable.
    pub fn write(&mut self, offset: u8, size: u8, value: u32) {
        for n in 0..usize::from(size.min(4)) {
            let at = usize::from(offset) + n;
            let new = (value >> (8 * n)) as u8;
            if at < 256 {
                let mask = self.writable[at];
                let kept = self.bytes[at] & !mask & !(new & self.write_one_to_clear[at]);
                self.bytes[at] = kept | new & mask;
            }
        }
    }

    /// The byte at `offset`.
    pub fn byte(&self, offset: u8) -> u8 {
        self.bytes[usize::from(offset)]
    }

    /// Base address register `n` as written, with its type bits.
    #[inline]
    fn bar(&self, n: u8) -> u32 {
        let at = usize::from(BAR) + 4 * usize::from(n.min(5));
        let bytes = &self.bytes[at..at + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    #[inline]
    fn bar_mask(&self, n: u8) -> u32 {
        let at = usize::from(BAR) + 4 * usize::from(n.min(5));
        let bytes = &self.writable[at..at + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// Offset of the physical address `pa` in memory BAR `n`, if the function decodes it.
    #[inline]
    pub fn memory_offset(&self, n: u8, pa: u64) -> Option<u32> {
        let (base, mask) = (self.bar(n), self.bar_mask(n));
        let pa = u32::try_from(pa).ok()?;
        let decodes = self.bytes[usize::from(COMMAND)] & command::MEMORY != 0;
        let hit = decodes && base & 1 == 0 && base != 0 && mask != 0 && pa & mask == base & mask;
        hit.then_some(pa & !mask)
    }

    /// Offset of `port` in I/O BAR `n`, if the function decodes it.
    #[inline]
    pub fn io_offset(&self, n: u8, port: u16) -> Option<u32> {
        let (base, mask) = (self.bar(n), self.bar_mask(n));
        let port = u32::from(port);
        let hit = self.io_enabled()
            && base & u32::from(BAR_IO) != 0
            && base & mask != 0
            && port & mask == base & mask;
        hit.then_some(port & !mask)
    }

    /// Command bit 0: I/O accesses are decoded.
    #[inline]
    pub fn io_enabled(&self) -> bool {
        self.bytes[usize::from(COMMAND)] & command::IO != 0
    }

    /// Command bit 2: the function may be a bus master.
    pub fn bus_master(&self) -> bool {
        self.bytes[usize::from(COMMAND)] & command::MASTER != 0
    }

    /// The interrupt pin: 0 none, 1 INTA#, … 4 INTD#.
    pub fn interrupt_pin(&self) -> u8 {
        self.bytes[usize::from(INTERRUPT_PIN)].min(4)
    }

    /// Shows a pending interrupt in the status register.
    pub fn set_interrupt_status(&mut self, level: bool) {
        let status = &mut self.bytes[usize::from(STATUS)];
        *status = if level { *status | STATUS_INTERRUPT } else { *status & !STATUS_INTERRUPT };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_clear_by_one() {
        let mut config = ConfigSpace::new(0x8086, 0x1234, 0x02_0000, 3)
            .command(0, 0x0147)
            .register(0x40, 0x55, 0x0F)
            .register(0x42, 0xFF, 0)
            .clear_by_one(0x42, 0x30);
        assert_eq!(config.read(8, 4), 0x0200_0003);
        config.write(0, 4, u32::MAX);
        assert_eq!(config.read(0, 4), 0x1234_8086);
        config.write(4, 4, u32::MAX);
        assert_eq!(config.read(4, 4), 0x0147);
        config.write(0x40, 4, 0x0010_00A3);
        assert_eq!(config.read(0x40, 1), 0x53);
        assert_eq!(config.read(0x42, 1), 0xEF);
        config.write(0xFE, 4, u32::MAX);
        assert_eq!(config.read(0xFE, 4), 0xFFFF_0000);
        config.reset();
        assert_eq!(config.read(0x40, 4), 0x00FF_0055);
    }

    #[test]
    fn capability_list_is_linked() {
        let config = ConfigSpace::new(1, 2, 0, 0)
            .capability(1, 0xDC, &[2, 0, 0, 0, 0, 0])
            .capability(9, 0xE4, &[8]);
        assert_eq!(config.read(6, 2) & 0x10, 0x10);
        assert_eq!(config.byte(0x34), 0xE4);
        assert_eq!((config.byte(0xE4), config.byte(0xE5)), (9, 0xDC));
        assert_eq!((config.byte(0xDC), config.byte(0xDD)), (1, 0));
    }
}
