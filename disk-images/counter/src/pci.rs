//! PCI configuration space by mechanism #1 (PCI 2.1, 3.2.2.3.2), bus 0 only: all that an i440FX
//! board has.

use crate::cpu::{in32, out32};

const CONFIG_ADDRESS: u16 = 0xCF8;
const CONFIG_DATA: u16 = 0xCFC;
const COMMAND: u8 = 0x04;
/// Command register: answer port accesses.
pub const COMMAND_IO: u32 = 1;
/// Command register: answer memory accesses.
pub const COMMAND_MEMORY: u32 = 2;
/// Command register: may be bus master.
pub const COMMAND_MASTER: u32 = 4;
const COMMAND_INTX_DISABLE: u32 = 1 << 10;

/// A function of a device on bus 0.
#[derive(Clone, Copy)]
pub struct Function {
    device: u8,
    function: u8,
}

impl Function {
    /// Reads the configuration doubleword at `offset`.
    pub fn read(self, offset: u8) -> u32 {
        self.select(offset);
        in32(CONFIG_DATA)
    }

    /// Writes the configuration doubleword at `offset`.
    pub fn write(self, offset: u8, value: u32) {
        self.select(offset);
        out32(CONFIG_DATA, value);
    }

    fn select(self, offset: u8) {
        let place = u32::from(self.device) << 11 | u32::from(self.function) << 8;
        out32(CONFIG_ADDRESS, 1 << 31 | place | u32::from(offset & 0xFC));
    }

    /// Vendor in the low half, device in the high half; vendor `FFFF` when nothing is there.
    pub fn id(self) -> u32 {
        self.read(0)
    }

    /// Base class in the high byte, subclass in the low byte.
    pub fn class(self) -> u16 {
        (self.read(0x08) >> 16) as u16
    }

    /// The programming interface byte.
    pub fn interface(self) -> u8 {
        (self.read(0x08) >> 8) as u8
    }

    /// Base address register `index`, with its type bits.
    pub fn bar(self, index: u8) -> u32 {
        self.read(0x10 + 4 * index)
    }

    /// The interrupt line that the BIOS chose.
    pub fn interrupt_line(self) -> u8 {
        self.read(0x3C) as u8
    }

    /// Switches on the `COMMAND_` bits given, and the interrupt pin.
    pub fn enable(self, bits: u32) {
        let command = self.read(COMMAND) & 0xFFFF; // the upper half is write-one-to-clear status
        self.write(COMMAND, (command | bits) & !COMMAND_INTX_DISABLE);
    }
}

/// The first function on bus 0 that `wanted` accepts.
pub fn find(wanted: impl Fn(Function) -> bool) -> Option<Function> {
    let functions = (0..32).flat_map(|device| {
        let first = Function { device, function: 0 };
        let several = first.read(0x0C) & 0x80_0000 != 0; // header type, multi-function bit
        (0..if several { 8 } else { 1 }).map(move |function| Function { device, function })
    });
    functions.filter(|function| function.id() & 0xFFFF != 0xFFFF).find(|function| wanted(*function))
}
