//! The memory map that INT 15h AX=E820h reports.

use crate::layout::{ACPI_MIN_RAM, ACPI_RESERVED, BIOS, EBDA};
use alloc::vec::Vec;
use devices::ram::{HIGH, HOLE};

/// Type of a range (ACPI 6.5, table 15.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// RAM for the system.
    Usable = 1,
    /// Not to be used.
    Reserved = 2,
    /// ACPI tables: usable once they are read.
    Acpi = 3,
}

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub length: u64,
    /// What it is.
    pub kind: Kind,
}

/// Where the ACPI tables lie in a machine with `ram` bytes; `None`: it is too small for them.
pub fn acpi_base(ram: u64) -> Option<u64> {
    (ram >= ACPI_MIN_RAM).then(|| ram.min(HOLE) - ACPI_RESERVED)
}

/// The map of a machine with `ram` bytes, in ascending order.
pub fn ranges(ram: u64) -> Vec<Range> {
    let low = ram.min(HOLE);
    let acpi = acpi_base(ram);
    let usable_end = acpi.unwrap_or(low);
    let mut map = Vec::new();
    let mut add = |base: u64, end: u64, kind| {
        if end > base {
            map.push(Range { base, length: end - base, kind });
        }
    };
    add(0, EBDA, Kind::Usable);
    add(EBDA, 0xA_0000, Kind::Reserved);
    add(BIOS, 0x10_0000, Kind::Reserved);
    add(0x10_0000, usable_end, Kind::Usable);
    if let Some(acpi) = acpi {
        add(acpi, acpi + ACPI_RESERVED, Kind::Acpi);
    }
    add(0xFEC0_0000, 0xFEC0_1000, Kind::Reserved);
    add(0xFEE0_0000, 0xFEE0_1000, Kind::Reserved);
    add(0xFFFC_0000, HIGH, Kind::Reserved);
    add(HIGH, HIGH + (ram - low), Kind::Usable);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_accounts_for_all_ram_in_order() {
        for ram in [1 << 20, 2 << 20, 64 << 20, 3 << 30, (3 << 30) + (1 << 20), 8 << 30] {
            let map = ranges(ram);
            assert!(map.windows(2).all(|p| p[0].base + p[0].length <= p[1].base));
            let counted: u64 =
                map.iter().filter(|r| r.base < HOLE || r.base >= HIGH).map(|r| r.length).sum();
            // A0000-EFFFF is not in the map.
            assert_eq!(counted, ram - 0x5_0000);
        }
    }
}
