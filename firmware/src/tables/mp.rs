//! The MultiProcessor specification 1.4 tables: one processor, ISA and PCI interrupts to the I/O
//! APIC.

use super::checksum;
use crate::post::pci::{PIRQ_LINES, SCI};
use alloc::vec::Vec;

/// ID of the I/O APIC: the one after the only processor's.
pub const IOAPIC_ID: u8 = 1;
/// Lines that PCI and the SCI may use: level-triggered.
pub const LEVEL_LINES: [u8; 4] = [5, 9, 10, 11];
/// Lines that the interrupt links may take.
pub const LINK_CHOICES: [u8; 3] = [5, 10, 11];

/// The link (0 = PIRQA) of a device's interrupt pin (0 = INTA#): rotated by the slot.
pub fn link_of(device: u8, pin: u8) -> usize {
    usize::from((device.wrapping_sub(1)).wrapping_add(pin) & 3)
}

const PCI_BUS: u8 = 0;
const ISA_BUS: u8 = 1;

/// The floating pointer followed by the configuration table, for address `at`.
pub fn build(at: u32) -> Vec<u8> {
    let mut bytes = b"_MP_".to_vec();
    bytes.extend((at + 16).to_le_bytes());
    bytes.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    bytes[10] = checksum(&bytes);
    bytes.extend(configuration());
    bytes
}

fn configuration() -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count = 0u16;
    let mut add = |entry: &[u8]| {
        entries.extend(entry);
        count += 1;
    };
    // Processor: enabled bootstrap; signature and features as CPUID of a generic family 6.
    let mut processor = [0; 20];
    processor[2] = 0x14;
    processor[3] = 0x03;
    processor[4..8].copy_from_slice(&0x0000_0600u32.to_le_bytes());
    processor[8..12].copy_from_slice(&0x0000_0201u32.to_le_bytes());
    add(&processor);
    add(&[1, PCI_BUS, b'P', b'C', b'I', b' ', b' ', b' ']);
    add(&[1, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    let mut ioapic = [2, IOAPIC_ID, 0x11, 1, 0, 0, 0, 0];
    ioapic[4..8].copy_from_slice(&0xFEC0_0000u32.to_le_bytes());
    add(&ioapic);
    for device in 1..32u8 {
        for pin in 0..4u8 {
            let line = PIRQ_LINES[link_of(device, pin)];
            let line = if (device, pin) == (1, 0) { SCI } else { line };
            interrupt(&mut add, 0x000D, PCI_BUS, device << 2 | pin, line);
        }
    }
    for irq in 0..16u8 {
        match irq {
            0 => interrupt(&mut add, 0, ISA_BUS, 0, 2),
            2 => {}
            irq if PIRQ_LINES.contains(&irq) => {}
            irq if irq == SCI => interrupt(&mut add, 0x000D, ISA_BUS, irq, irq),
            irq => interrupt(&mut add, 0, ISA_BUS, irq, irq),
        }
    }
    // Local: ExtINT on LINT0, NMI on LINT1.
    add(&[4, 3, 0, 0, ISA_BUS, 0, 0xFF, 0]);
    add(&[4, 1, 0, 0, ISA_BUS, 0, 0xFF, 1]);
    header(&entries, count)
}

fn interrupt(add: &mut impl FnMut(&[u8]), flags: u16, bus: u8, source: u8, pin: u8) {
    let [low, high] = flags.to_le_bytes();
    add(&[3, 0, low, high, bus, source, IOAPIC_ID, pin]);
}

fn header(entries: &[u8], count: u16) -> Vec<u8> {
    let mut table = b"PCMP".to_vec();
    table.extend((44 + entries.len() as u16).to_le_bytes());
    table.extend([4, 0]);
    table.extend(b"FTEMU   FTEMU PC    ");
    table.extend([0; 6]);
    table.extend(count.to_le_bytes());
    table.extend(0xFEE0_0000u32.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries);
    table[7] = checksum(&table);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_match_the_count_and_the_length() {
        let bytes = build(0xF_1000);
        assert_eq!(checksum(&bytes[..16]), 0);
        let table = &bytes[16..];
        assert_eq!(checksum(table), 0);
        assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
        let (mut at, mut count) = (44, 0);
        while at < table.len() {
            at += if table[at] == 0 { 20 } else { 8 };
            count += 1;
        }
        assert_eq!(at, table.len());
        assert_eq!(u16::from_le_bytes([table[34], table[35]]), count);
    }

    #[test]
    fn pins_rotate_with_the_slot() {
        assert_eq!((link_of(1, 0), link_of(2, 0), link_of(3, 0), link_of(3, 3)), (0, 1, 2, 1));
    }
}
