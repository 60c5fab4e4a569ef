//! Finds the IDE drives.
//!
//! Contract: a stage per drive lies in the EBDA, so that POST can wait while a drive is busy.
//! Signatures and IDENTIFY: ATA/ATAPI-6, 9.12 and 8.15.

use crate::layout::{EBDA, bda, ebda};
use crate::pc::{Pc, Status};
use crate::services::drive::{Drive, SLOTS, command_block, control};
use crate::services::{transfer, video};

/// Value of the stage when all drives are known.
pub const STAGES: u8 = SLOTS * 2;

const BSY: u8 = 0x80;
const DRQ: u8 = 0x08;
const ERR: u8 = 0x01;

/// Software reset of both channels.
pub fn reset(pc: &mut Pc<'_>) {
    pc.write(EBDA + ebda::DRIVES, &[0; 0x80]);
    pc.write(EBDA + ebda::DRIVE_ORDER, &[0xFF; SLOTS as usize]);
    transfer::clear(pc);
    for slot in [0, 2] {
        pc.out8(control(slot), 0x0C);
        pc.out8(control(slot), 0x08);
    }
}

/// Asks each drive who it is.
pub fn detect(pc: &mut Pc<'_>) -> Status {
    loop {
        let stage = pc.ebda8(ebda::POST_STAGE);
        if stage >= STAGES {
            return Status::Done;
        }
        let slot = stage / 2;
        let base = command_block(slot);
        if stage.is_multiple_of(2) {
            if pc.in8(control(slot)) & BSY != 0 && answers(pc, base, slot) {
                return Status::Wait;
            }
            let present = answers(pc, base, slot) && is_ata(pc, base);
            let skip = if present { 1 } else { 2 };
            if present {
                pc.out8(base + 7, 0xEC);
            }
            pc.set_ebda8(ebda::POST_STAGE, stage + skip);
            continue;
        }
        let status = pc.in8(control(slot));
        if status & BSY != 0 {
            return Status::Wait;
        }
        let status = pc.in8(base + 7);
        if status & (DRQ | ERR) == DRQ {
            identify(pc, base, slot);
        }
        pc.set_ebda8(ebda::POST_STAGE, stage + 1);
    }
}

/// Selects the drive and looks for a register file that is not a floating bus.
fn answers(pc: &mut Pc<'_>, base: u16, slot: u8) -> bool {
    pc.out8(base + 6, 0xA0 | (slot & 1) << 4);
    let status = pc.in8(base + 7);
    status != 0xFF && status != 0 && status & 0x7F != 0x7F
}

/// Whether the signature after reset is that of an ATA drive.
fn is_ata(pc: &mut Pc<'_>, base: u16) -> bool {
    (pc.in8(base + 4), pc.in8(base + 5)) == (0, 0)
}

fn identify(pc: &mut Pc<'_>, base: u16, slot: u8) {
    let mut words = [0; 256];
    for word in &mut words {
        *word = pc.in16(base);
    }
    pc.in8(base + 7);
    let drive = Drive::from_identify(slot, &words);
    if drive.total == 0 {
        return;
    }
    drive.store(pc);
    let count = pc.bda8(bda::DISK_COUNT).min(SLOTS - 1);
    pc.set_ebda8(ebda::DRIVE_ORDER + u64::from(count), slot);
    pc.set_bda8(bda::DISK_COUNT, count + 1);
    if count < 2 {
        parameter_table(pc, &drive, count);
    }
    extension_table(pc, &drive);
}

/// Fixed-disk parameter table behind INT 41h and 46h (RBIL, table 03196; translated form).
fn parameter_table(pc: &mut Pc<'_>, drive: &Drive, index: u8) {
    let (t, own) = (drive.translated, drive.own);
    let mut table = [0; 16];
    table[0..2].copy_from_slice(&t.cylinders.to_le_bytes());
    table[2] = t.heads as u8;
    table[3] = 0xA0;
    table[4] = own.sectors as u8;
    table[5..7].copy_from_slice(&0xFFFFu16.to_le_bytes());
    table[8] = 0xC0 | if own.heads > 8 { 0x08 } else { 0 };
    table[9..11].copy_from_slice(&own.cylinders.to_le_bytes());
    table[11] = own.heads as u8;
    table[12..14].copy_from_slice(&t.cylinders.to_le_bytes());
    table[14] = t.sectors as u8;
    let sum = table.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    table[15] = sum.wrapping_neg();
    pc.write(EBDA + ebda::DISK_PARAMETERS + u64::from(index) * 16, &table);
}

/// Device parameter table extension (Phoenix EDD 3.0, table 6).
fn extension_table(pc: &mut Pc<'_>, drive: &Drive) {
    let mut table = [0; 16];
    table[0..2].copy_from_slice(&drive.command_block().to_le_bytes());
    table[2..4].copy_from_slice(&drive.control().to_le_bytes());
    table[4] = 0xE0 | (drive.slot & 1) << 4;
    table[5] = 0xCB;
    table[6] = drive.irq();
    table[7] = 1;
    table[10..12].copy_from_slice(&0x0010u16.to_le_bytes());
    table[14] = 0x30;
    let sum = table[..15].iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    table[15] = sum.wrapping_neg();
    pc.write(EBDA + ebda::DPTE + u64::from(drive.slot) * 16, &table);
}

/// Prints the drives.
pub fn announce(pc: &mut Pc<'_>) {
    for index in 0..SLOTS {
        if let Some(drive) = Drive::by_number(pc, 0x80 + index)
            .filter(|_| u64::from(index) < u64::from(pc.bda8(bda::DISK_COUNT)))
        {
            video::print(pc, b"Disk ");
            video::print(pc, &[b'0' + index]);
            video::print(pc, b": ");
            let mib = drive.total >= 10 * 2048;
            video::print_number(pc, if mib { drive.total / 2048 } else { drive.total / 2 });
            video::print(pc, if mib { b" MiB\r\n" } else { b" KiB\r\n" });
        }
    }
}
