//! PCI configuration: finds the functions of bus 0, assigns their resources and interrupt lines.
//!
//! Contract: the same devices give the same addresses. Ports are given out from C000h upwards,
//! memory from E0000000h upwards, each aligned to its size; what does not fit stays disabled.
//! PCI Local Bus 3.0, 6.2.5; 82371AB (PIIX4) datasheet for PIRQRC and the power-management
//! function.

use crate::layout::ebda;
use crate::pc::Pc;

const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;

/// First port given to a BAR.
pub const IO_BASE: u32 = 0xC000;
/// First memory address given to a BAR.
pub const MEMORY_BASE: u32 = 0xE000_0000;
/// End of the memory window: the IOAPIC follows.
pub const MEMORY_END: u32 = 0xFEC0_0000;
/// ISA interrupt lines of PIRQA-PIRQD.
pub const PIRQ_LINES: [u8; 4] = [10, 10, 11, 11];
/// Line of the ACPI system control interrupt.
pub const SCI: u8 = 9;
/// Base port of the power-management registers.
pub const PMBASE: u16 = 0xB000;
/// Base port of the SMBus registers.
const SMBBASE: u16 = 0xB100;

/// Bus 0, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function(pub u8);

impl Function {
    /// Device number.
    pub fn device(self) -> u8 {
        self.0 >> 3
    }
}

fn select(pc: &mut Pc<'_>, function: Function, register: u8) {
    let address = 0x8000_0000 | u32::from(function.0) << 8 | u32::from(register & 0xFC);
    pc.out32(ADDRESS, address);
}

/// Reads a byte of configuration space.
pub fn read8(pc: &mut Pc<'_>, function: Function, register: u8) -> u8 {
    select(pc, function, register);
    pc.in8(DATA + u16::from(register & 3))
}

/// Reads an aligned word of configuration space.
pub fn read16(pc: &mut Pc<'_>, function: Function, register: u8) -> u16 {
    select(pc, function, register);
    pc.in16(DATA + u16::from(register & 2))
}

/// Reads an aligned double word of configuration space.
pub fn read32(pc: &mut Pc<'_>, function: Function, register: u8) -> u32 {
    select(pc, function, register);
    pc.in32(DATA)
}

/// Writes a byte of configuration space.
pub fn write8(pc: &mut Pc<'_>, function: Function, register: u8, value: u8) {
    select(pc, function, register);
    pc.out8(DATA + u16::from(register & 3), value);
}

/// Writes an aligned word of configuration space.
pub fn write16(pc: &mut Pc<'_>, function: Function, register: u8, value: u16) {
    select(pc, function, register);
    pc.out16(DATA + u16::from(register & 2), value);
}

/// Writes an aligned double word of configuration space.
pub fn write32(pc: &mut Pc<'_>, function: Function, register: u8, value: u32) {
    select(pc, function, register);
    pc.out32(DATA, value);
}

/// The functions of bus 0 after `previous`, in order.
pub fn next(pc: &mut Pc<'_>, previous: Option<Function>) -> Option<Function> {
    let mut number = previous.map_or(0, |f| u16::from(f.0) + 1);
    while let Ok(devfn) = u8::try_from(number) {
        let function = Function(devfn);
        let first = Function(devfn & !7);
        let alone = devfn & 7 != 0
            && (read16(pc, first, 0x00) == 0xFFFF || read8(pc, first, 0x0E) & 0x80 == 0);
        if alone {
            number = (number | 7) + 1;
            continue;
        }
        if read16(pc, function, 0x00) != 0xFFFF {
            return Some(function);
        }
        number += 1;
    }
    None
}

/// Where the next BARs go.
struct Windows {
    io: u32,
    memory: u32,
}

/// Configures every function of bus 0.
pub fn enumerate(pc: &mut Pc<'_>) {
    let mut windows = Windows { io: IO_BASE, memory: MEMORY_BASE };
    let mut at = next(pc, None);
    while let Some(function) = at {
        configure(pc, function, &mut windows);
        at = next(pc, at);
    }
}

fn configure(pc: &mut Pc<'_>, function: Function, windows: &mut Windows) {
    let class = read16(pc, function, 0x0A);
    let id = read32(pc, function, 0x00);
    match (id, class) {
        (_, 0x0600) => return,
        (_, 0x0601) => {
            for (index, line) in PIRQ_LINES.into_iter().enumerate() {
                write8(pc, function, 0x60 + index as u8, line);
            }
            return;
        }
        (0x7113_8086, _) => {
            configure_power_management(pc, function);
            return;
        }
        _ => {}
    }
    let mut decode = assign_bars(pc, function, class == 0x0101, windows);
    if class == 0x0300 {
        decode |= 0x03; // the legacy ranges
    }
    if class == 0x0101 {
        pc.set_ebda8(ebda::IDE_FUNCTION, function.0);
        // Compatibility ports decoded on both channels (82371AB 2.3: IDETIM).
        write16(pc, function, 0x40, 0x8000);
        write16(pc, function, 0x42, 0x8000);
    }
    let pin = read8(pc, function, 0x3D);
    if (1..=4).contains(&pin) {
        let link = usize::from((function.device().wrapping_sub(1)).wrapping_add(pin - 1) & 3);
        write8(pc, function, 0x3C, PIRQ_LINES[link]);
    }
    let command = read16(pc, function, 0x04) | decode | 0x04;
    write16(pc, function, 0x04, command);
}

/// PIIX4 function 3: power-management and SMBus base, both enabled; SCI on IRQ 9.
fn configure_power_management(pc: &mut Pc<'_>, function: Function) {
    write8(pc, function, 0x3C, SCI);
    write32(pc, function, 0x40, u32::from(PMBASE) | 1);
    write8(pc, function, 0x80, 0x01);
    write32(pc, function, 0x90, u32::from(SMBBASE) | 1);
    write8(pc, function, 0xD2, 0x09);
    let command = read16(pc, function, 0x04) | 0x01;
    write16(pc, function, 0x04, command);
}

/// Sizes and assigns the BARs and the ROM; returns the command bits of what was assigned.
fn assign_bars(pc: &mut Pc<'_>, function: Function, ide: bool, windows: &mut Windows) -> u16 {
    let mut decode = if ide { 0x01 } else { 0 };
    if read8(pc, function, 0x0E) & 0x7F != 0 {
        return decode;
    }
    let mut index = 0;
    while index < 6 {
        let register = 0x10 + 4 * index;
        write32(pc, function, register, 0xFFFF_FFFF);
        let mask = read32(pc, function, register);
        index += 1;
        if mask == 0 || mask == 0xFFFF_FFFF {
            continue;
        }
        if mask & 1 != 0 {
            let size = (!(mask & 0xFFFC) & 0xFFFF).wrapping_add(1) & 0xFFFF;
            let base = assign(&mut windows.io, size.max(4), 0x1_0000);
            write32(pc, function, register, base.unwrap_or(0));
            decode |= u16::from(base.is_some());
            continue;
        }
        let size = (!(mask & !0xF)).wrapping_add(1);
        let base = assign(&mut windows.memory, size, MEMORY_END);
        write32(pc, function, register, base.unwrap_or(0));
        decode |= u16::from(base.is_some()) << 1;
        if mask & 0x06 == 0x04 {
            write32(pc, function, register + 4, 0);
            index += 1;
        }
    }
    decode
}

/// Takes `size` bytes, aligned to their size, from a window; `None` when it is full.
fn assign(next: &mut u32, size: u32, end: u32) -> Option<u32> {
    if size == 0 || !size.is_power_of_two() {
        return None;
    }
    let base = next.checked_next_multiple_of(size)?;
    if base.checked_add(size)? > end {
        return None;
    }
    *next = base + size;
    Some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_align_and_end() {
        let mut next = 0xC000;
        assert_eq!(assign(&mut next, 0x40, 0x1_0000), Some(0xC000));
        assert_eq!(assign(&mut next, 0x20, 0x1_0000), Some(0xC040));
        assert_eq!(assign(&mut next, 0x1000, 0x1_0000), Some(0xD000));
        assert_eq!(assign(&mut next, 0x4000, 0x1_0000), None);
        assert_eq!(assign(&mut next, 0, 0x1_0000), None);
        assert_eq!(assign(&mut next, 3, 0x1_0000), None);
        assert_eq!(assign(&mut next, 0x2000, 0x1_0000), Some(0xE000));
    }
}
