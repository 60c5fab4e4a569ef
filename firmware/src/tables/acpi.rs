//! ACPI: RSDP, RSDT, XSDT, FADT, FACS, MADT; the DSDT comes from [`super::dsdt`].
//!
//! ACPI specification 6.5, chapter 5.2. Registers and values are those of the PIIX4's power
//! management (82371AB, chapter 7) at the base that POST programs.

use super::{Facts, checksum, dsdt};
use crate::post::pci::{PMBASE, SCI};
use acpi_tables::sdt::Sdt;
use alloc::vec;
use alloc::vec::Vec;

const OEM: [u8; 6] = *b"FTEMU ";
const TABLE: [u8; 8] = *b"FTEMUPC ";
const REVISION: u32 = 1;
/// SMI command port, and what it takes to turn ACPI on and off.
const SMI_COMMAND: u32 = 0xB2;
const ACPI_ENABLE: u8 = 0xF1;
const ACPI_DISABLE: u8 = 0xF0;
/// GPE0 status and enable registers (GPSTS, GPEN).
const GPE0: u16 = PMBASE + 0x0C;

/// A table with its header; `body` follows the header.
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut sdt = Sdt::new(*signature, 36, revision, OEM, TABLE, REVISION);
    sdt.append_slice(body);
    sdt.update_checksum();
    sdt.as_slice().to_vec()
}

/// The RSDP for the BIOS segment, and all other tables to be written at `base`.
pub fn build(facts: &Facts, base: u64) -> (Vec<u8>, Vec<u8>) {
    let mut bytes = Vec::new();
    let mut place = |table: Vec<u8>| {
        bytes.resize(bytes.len().next_multiple_of(64), 0);
        let at = base + bytes.len() as u64;
        bytes.extend(table);
        at
    };
    let facs = place(facs());
    let dsdt = place(table(b"DSDT", 2, &dsdt::build(facts)));
    let fadt = place(table(b"FACP", 3, &fadt(facs as u32, dsdt as u32)));
    let madt = place(table(b"APIC", 3, &madt()));
    let listed = [fadt, madt];
    let short: Vec<u8> = listed.iter().flat_map(|&at| (at as u32).to_le_bytes()).collect();
    let long: Vec<u8> = listed.iter().flat_map(|at| at.to_le_bytes()).collect();
    let rsdt = place(table(b"RSDT", 1, &short));
    let xsdt = place(table(b"XSDT", 1, &long));
    (rsdp(rsdt as u32, xsdt), bytes)
}

fn rsdp(rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut rsdp = b"RSD PTR \0".to_vec();
    rsdp.extend(OEM);
    rsdp.push(2);
    rsdp.extend(rsdt.to_le_bytes());
    rsdp.extend(36u32.to_le_bytes());
    rsdp.extend(xsdt.to_le_bytes());
    rsdp.extend([0; 4]);
    rsdp[8] = checksum(&rsdp[..20]);
    rsdp[32] = checksum(&rsdp);
    rsdp
}

fn facs() -> Vec<u8> {
    let mut facs = vec![0; 64];
    facs[0..4].copy_from_slice(b"FACS");
    facs[4..8].copy_from_slice(&64u32.to_le_bytes());
    facs[32] = 1;
    facs
}

/// FADT revision 3 (ACPI 2.0) without its header: offsets below are those of the specification.
fn fadt(facs: u32, dsdt: u32) -> Vec<u8> {
    let mut fadt = vec![0; 244];
    let mut put = |at: usize, value: &[u8]| fadt[at..at + value.len()].copy_from_slice(value);
    let pm = u32::from(PMBASE);
    put(36, &facs.to_le_bytes());
    put(40, &dsdt.to_le_bytes());
    put(45, &[1]); // desktop
    put(46, &u16::from(SCI).to_le_bytes());
    put(48, &SMI_COMMAND.to_le_bytes());
    put(52, &[ACPI_ENABLE, ACPI_DISABLE]);
    put(56, &pm.to_le_bytes()); // PM1a event
    put(64, &(pm + 4).to_le_bytes()); // PM1a control
    put(76, &(pm + 8).to_le_bytes()); // PM timer
    put(80, &u32::from(GPE0).to_le_bytes());
    put(88, &[4, 2, 0, 4, 4, 0, 0]); // lengths
    put(96, &0x0FFFu16.to_le_bytes()); // no C2
    put(98, &0x0FFFu16.to_le_bytes()); // no C3
    put(108, &[0x32]); // century register
    put(109, &0x0003u16.to_le_bytes()); // legacy devices, 8042
    // WBINVD, C1, no sleep button, RTC not in the fixed registers, reset register. The power button
    // is fixed hardware, the timer has 24 bits.
    put(112, &(1u32 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10).to_le_bytes());
    let io = |port: u16, bits: u8, access: u8| {
        let mut gas = vec![1, bits, 0, access];
        gas.extend(u64::from(port).to_le_bytes());
        gas
    };
    put(116, &io(0xCF9, 8, 1));
    put(128, &[0x06]); // hard reset
    // X_FIRMWARE_CTRL stays zero: systems that see both addresses take the FACS twice.
    put(140, &u64::from(dsdt).to_le_bytes());
    put(148, &io(PMBASE, 32, 2));
    put(172, &io(PMBASE + 4, 16, 2));
    put(208, &io(PMBASE + 8, 32, 3));
    put(220, &io(GPE0, 32, 1));
    fadt.split_off(36)
}

/// MADT: one local APIC, the I/O APIC, the PIT on pin 2, PCI's interrupts and the SCI level-
/// triggered.
fn madt() -> Vec<u8> {
    let mut madt = Vec::new();
    madt.extend(0xFEE0_0000u32.to_le_bytes());
    madt.extend(1u32.to_le_bytes()); // two 8259s as well
    madt.extend([0, 8, 0, 0, 1, 0, 0, 0]); // processor 0, APIC 0, enabled
    madt.extend([1, 12, super::mp::IOAPIC_ID, 0]);
    madt.extend(0xFEC0_0000u32.to_le_bytes());
    madt.extend(0u32.to_le_bytes());
    let mut source = |irq: u8, gsi: u32, flags: u16| {
        madt.extend([2, 10, 0, irq]);
        madt.extend(gsi.to_le_bytes());
        madt.extend(flags.to_le_bytes());
    };
    source(0, 2, 0);
    for irq in super::mp::LEVEL_LINES {
        source(irq, irq.into(), 0x000D); // active high, level
    }
    madt.extend([4, 6, 0xFF, 0, 0, 1]); // NMI on LINT1 of every processor
    madt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }

    #[test]
    fn every_table_is_reached_and_sums_to_zero() {
        let base = 0xBFFF_0000;
        let (rsdp, tables) = build(&super::super::facts(), base);
        assert!(tables.len() < crate::layout::ACPI_RESERVED as usize);
        assert_eq!((checksum(&rsdp), checksum(&rsdp[..20])), (0, 0));
        let at = |address: u32| (u64::from(address) - base) as usize;
        let table = |address: u32| {
            let start = at(address);
            let length = u32_at(&tables, start + 4) as usize;
            tables[start..start + length].to_vec()
        };
        let rsdt = table(u32_at(&rsdp, 16));
        let xsdt = table(u32_at(&rsdp, 24));
        assert_eq!((&rsdt[..4], &xsdt[..4]), (&b"RSDT"[..], &b"XSDT"[..]));
        let mut signatures = Vec::new();
        for n in 0..2 {
            assert_eq!(u32_at(&rsdt, 36 + 4 * n), u32_at(&xsdt, 36 + 8 * n));
            let found = table(u32_at(&rsdt, 36 + 4 * n));
            assert_eq!(checksum(&found), 0);
            signatures.push(found[..4].to_vec());
        }
        assert_eq!(signatures, [b"FACP", b"APIC"]);
        assert_eq!((checksum(&rsdt), checksum(&xsdt)), (0, 0));
        let fadt = table(u32_at(&rsdt, 36));
        assert_eq!(fadt.len(), 244);
        assert_eq!(checksum(&table(u32_at(&fadt, 40))), 0, "DSDT");
        assert_eq!(&tables[at(u32_at(&fadt, 36))..][..4], b"FACS");
        assert_eq!(u32_at(&fadt, 36) % 64, 0);
    }
}
