//! The PCI interrupt routing table ($PIR) and the BIOS32 service directory (_32_).
//!
//! Microsoft PCI IRQ Routing Table Specification 1.0; Standard BIOS 32-bit Service Directory 0.4.

use super::checksum;
use super::mp::{LINK_CHOICES, link_of};
use crate::layout::BIOS;
use crate::rom;
use alloc::vec::Vec;

/// Slots listed.
const SLOTS: u8 = 8;
/// The ISA bridge: device 1, function 0.
const ROUTER: u8 = 1 << 3;

/// $PIR: per device, for each pin, the PIRQRC register and the lines it may take.
pub fn routing() -> Vec<u8> {
    let mut table = b"$PIR".to_vec();
    table.extend(0x0100u16.to_le_bytes());
    table.extend((32 + 16 * u16::from(SLOTS)).to_le_bytes());
    table.extend([0, ROUTER]);
    table.extend(0u16.to_le_bytes());
    table.extend(0x7000_8086u32.to_le_bytes()); // compatible with the PIIX3's router
    table.extend([0; 4 + 11 + 1]);
    let lines = LINK_CHOICES.iter().fold(0u16, |lines, &line| lines | 1 << line);
    for device in 1..=SLOTS {
        table.extend([0, device << 3]);
        for pin in 0..4 {
            table.push(0x60 + link_of(device, pin) as u8);
            table.extend(lines.to_le_bytes());
        }
        table.extend([if device == 1 { 0 } else { device }, 0]);
    }
    table[31] = checksum(&table);
    table
}

/// The service directory: where the 32-bit entry is.
pub fn bios32_directory() -> Vec<u8> {
    let (_, bodies) = rom::build();
    let mut header = b"_32_".to_vec();
    header.extend((BIOS as u32 + u32::from(bodies.bios32)).to_le_bytes());
    header.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    header[10] = checksum(&header);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_sums() {
        let table = routing();
        assert_eq!(usize::from(u16::from_le_bytes([table[6], table[7]])), table.len());
        assert_eq!(checksum(&table), 0);
        assert_eq!((bios32_directory().len(), checksum(&bios32_directory())), (16, 0));
    }
}
