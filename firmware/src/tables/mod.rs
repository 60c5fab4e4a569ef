//! The tables that POST leaves for operating systems.
//!
//! Contract: the same machine gives the same bytes. ACPI's tables lie at the end of low RAM; what
//! is searched for by signature lies in the BIOS segment below the code.

mod acpi;
mod dsdt;
mod mp;
mod pir;
mod smbios;

use crate::layout::{BIOS, EBDA, bda, ebda};
use crate::pc::Pc;
use crate::rom::entry;
use crate::services::memory_map;
use alloc::vec::Vec;

/// First byte of the tables in the BIOS segment.
const FIRST: u64 = BIOS + 0x1000;
/// The code follows.
const END: u64 = BIOS + entry::BODIES as u64;
/// The last megabyte's 16-KiB steps that the BIOS segment covers.
const SHADOW_STEPS: u16 = 0xF000;

/// What the tables say about the machine.
pub(crate) struct Facts {
    /// RAM in bytes.
    pub ram: u64,
    /// UARTs that answer: index and port.
    pub serial: Vec<(u8, u16)>,
}

/// The part of the BIOS segment that takes tables, on 16-byte boundaries.
struct Area {
    next: u64,
}

impl Area {
    fn put(&mut self, pc: &mut Pc<'_>, table: &[u8]) -> u64 {
        let at = self.next;
        assert!(at + table.len() as u64 <= END, "tables reach the code");
        pc.write(at, table);
        self.next = (at + table.len() as u64).next_multiple_of(16);
        at
    }
}

/// Writes all tables.
pub fn install(pc: &mut Pc<'_>) {
    let facts = Facts { ram: pc.ram.size(), serial: serial_ports(pc) };
    let writable = pc.ram.shadow_writable();
    pc.ram.set_shadow_writable(writable | SHADOW_STEPS);
    let mut area = Area { next: FIRST };
    if let Some(base) = memory_map::acpi_base(facts.ram) {
        let (rsdp, tables) = acpi::build(&facts, base);
        pc.write(base, &tables);
        area.put(pc, &rsdp);
        pc.write(EBDA + ebda::ACPI_BASE, &(base as u32).to_le_bytes());
    }
    area.put(pc, &pir::routing());
    area.put(pc, &pir::bios32_directory());
    let mp_at = area.next;
    area.put(pc, &mp::build(mp_at as u32));
    let smbios_at = area.next;
    area.put(pc, &smbios::build(&facts, smbios_at as u32));
    pc.ram.set_shadow_writable(writable);
}

fn serial_ports(pc: &mut Pc<'_>) -> Vec<(u8, u16)> {
    let mut found = Vec::new();
    for index in 0..4 {
        let port = pc.bda16(bda::SERIAL + 2 * index);
        if let Some(index) = [0x3F8, 0x2F8, 0x3E8, 0x2E8].iter().position(|&base| base == port) {
            found.push((index as u8, port));
        }
    }
    found
}

/// The byte that makes the sum of `bytes` zero.
pub(crate) fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)).wrapping_neg()
}

#[cfg(test)]
pub(crate) fn facts() -> Facts {
    Facts { ram: 5 << 30, serial: alloc::vec![(0, 0x3F8), (1, 0x2F8)] }
}
