//! SMBIOS 2.8: types 0, 1, 3, 4, 16, 17, 19, 32, 127 (DMTF DSP0134).

use super::{Facts, checksum};
use alloc::vec::Vec;
use devices::ram::{HIGH, HOLE};

const MAKER: &str = "ftemu";

/// Collects structures.
struct Structures {
    bytes: Vec<u8>,
    count: u16,
    largest: u16,
}

impl Structures {
    /// Adds a structure: its formatted part after the header, and its strings.
    fn add(&mut self, kind: u8, handle: u16, body: &[u8], strings: &[&str]) {
        let start = self.bytes.len();
        self.bytes.extend([kind, body.len() as u8 + 4]);
        self.bytes.extend(handle.to_le_bytes());
        self.bytes.extend(body);
        for string in strings {
            self.bytes.extend(string.as_bytes());
            self.bytes.push(0);
        }
        if strings.is_empty() {
            self.bytes.push(0);
        }
        self.bytes.push(0);
        self.count += 1;
        self.largest = self.largest.max((self.bytes.len() - start) as u16);
    }
}

/// The entry point followed by the structures, for address `at`.
pub fn build(facts: &Facts, at: u32) -> Vec<u8> {
    let mut all = Structures { bytes: Vec::new(), count: 0, largest: 0 };
    bios(&mut all);
    system(&mut all);
    processor(&mut all);
    memory(&mut all, facts.ram);
    all.add(32, 0x2000, &[0, 0, 0, 0, 0, 0, 0], &[]);
    all.add(127, 0x7F00, &[], &[]);
    let mut entry = b"_SM_\0\x1F\x02\x08".to_vec();
    entry.extend(all.largest.to_le_bytes());
    entry.extend([0; 6]);
    entry.extend(b"_DMI_\0");
    entry.extend((all.bytes.len() as u16).to_le_bytes());
    entry.extend((at + 32).to_le_bytes());
    entry.extend(all.count.to_le_bytes());
    entry.push(0x28);
    entry[21] = checksum(&entry[16..31]);
    entry[4] = checksum(&entry[..31]);
    entry.push(0);
    entry.extend(all.bytes);
    entry
}

fn bios(all: &mut Structures) {
    let mut body = [0u8; 20];
    body[0] = 1;
    body[1] = 2;
    body[2..4].copy_from_slice(&0xF000u16.to_le_bytes());
    body[4] = 3;
    body[5] = 0; // 64 KiB
    // PCI, boot from disk selectable, EDD, INT 10h; ACPI, virtual machine.
    let characteristics = 1u64 << 7 | 1 << 16 | 1 << 19 | 1 << 30;
    body[6..14].copy_from_slice(&characteristics.to_le_bytes());
    body[14] = 0x01;
    body[15] = 0x10;
    body[16] = 0;
    body[17] = 1;
    body[18] = 0xFF;
    body[19] = 0xFF;
    all.add(0, 0x0000, &body, &[MAKER, "0.1", "11/01/2026"]);
}

fn system(all: &mut Structures) {
    let mut body = [0u8; 23];
    body[0..3].copy_from_slice(&[1, 2, 3]);
    body[4..20].copy_from_slice(b"ftemu-machine-01");
    body[20] = 0x06; // power switch
    body[22] = 2;
    all.add(1, 0x0100, &body, &[MAKER, "Standard PC (i440FX + PIIX)", "1.0"]);
    let chassis = [1, 1, 2, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    all.add(3, 0x0300, &chassis, &[MAKER, "1.0"]);
}

fn processor(all: &mut Structures) {
    let mut body = [0u8; 38];
    body[0] = 1; // CPU 0
    body[1] = 3; // central processor
    body[2] = 1; // other family
    body[3] = 2;
    body[12] = 3;
    body[13] = 0;
    body[16..18].copy_from_slice(&1000u16.to_le_bytes());
    body[18..20].copy_from_slice(&1000u16.to_le_bytes());
    body[20] = 0x41; // populated, enabled
    body[21] = 1;
    for at in [22, 24, 26] {
        body[at..at + 2].copy_from_slice(&0xFFFFu16.to_le_bytes());
    }
    body[31] = 1;
    body[32] = 1;
    body[33] = 1;
    body[34..36].copy_from_slice(&0x0004u16.to_le_bytes()); // 64-bit
    body[36] = 1;
    all.add(4, 0x0400, &body, &["CPU 0", MAKER, "1.0"]);
}

fn memory(all: &mut Structures, ram: u64) {
    let kib = (ram / 1024).min(0x7FFF_FFFF) as u32;
    let mut array = [0u8; 19];
    array[0] = 3; // system board
    array[1] = 3; // system memory
    array[2] = 3; // no error correction
    array[3..7].copy_from_slice(&kib.to_le_bytes());
    array[7..9].copy_from_slice(&0xFFFEu16.to_le_bytes());
    array[9..11].copy_from_slice(&1u16.to_le_bytes());
    all.add(16, 0x1000, &array, &[]);
    let mib = ram >> 20;
    let mut device = [0u8; 36];
    device[0..2].copy_from_slice(&0x1000u16.to_le_bytes());
    device[2..4].copy_from_slice(&0xFFFEu16.to_le_bytes());
    for at in [4, 6] {
        device[at..at + 2].copy_from_slice(&64u16.to_le_bytes());
    }
    let (size, extended) =
        if mib < 0x7FFF { (mib as u16, 0) } else { (0x7FFF, mib.min(0x7FFF_FFFF) as u32) };
    device[8..10].copy_from_slice(&size.to_le_bytes());
    device[10] = 9; // DIMM
    device[12] = 1;
    device[14] = 7; // RAM
    device[15..17].copy_from_slice(&0x0002u16.to_le_bytes());
    device[19] = 2;
    device[24..28].copy_from_slice(&extended.to_le_bytes());
    all.add(17, 0x1100, &device, &["DIMM 0", MAKER]);
    let low = ram.min(HOLE);
    range(all, 0x1300, 0, low);
    if ram > low {
        range(all, 0x1301, HIGH, HIGH + (ram - low));
    }
}

/// Type 19: an address range of the memory array, in KiB, ends included.
fn range(all: &mut Structures, handle: u16, start: u64, end: u64) {
    let mut body = [0u8; 27];
    body[0..4].copy_from_slice(&((start / 1024) as u32).to_le_bytes());
    body[4..8].copy_from_slice(&((end / 1024 - 1) as u32).to_le_bytes());
    body[8..10].copy_from_slice(&0x1000u16.to_le_bytes());
    body[10] = 1;
    all.add(19, handle, &body, &[]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn structures_can_be_walked_to_the_end() {
        let bytes = build(&super::super::facts(), 0xF_2000);
        assert_eq!((checksum(&bytes[..31]), checksum(&bytes[16..31])), (0, 0));
        let length = usize::from(u16::from_le_bytes([bytes[22], bytes[23]]));
        let table = &bytes[32..];
        assert_eq!(table.len(), length);
        let (mut at, mut kinds) = (0, vec![]);
        while at < length {
            kinds.push(table[at]);
            at += usize::from(table[at + 1]);
            while table[at..at + 2] != [0, 0] {
                at += 1;
            }
            at += 2;
        }
        assert_eq!(kinds, [0, 1, 3, 4, 16, 17, 19, 19, 32, 127]);
        assert_eq!(u16::from_le_bytes([bytes[28], bytes[29]]), kinds.len() as u16);
    }
}
