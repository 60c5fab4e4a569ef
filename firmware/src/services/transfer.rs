//! Moving sectors between a drive and guest memory, across waits: by the bus master where the
//! buffer allows it, else through the data register.
//!
//! Contract: one transfer at a time; its state lies in the EBDA between two polls, so a snapshot in
//! the middle of one goes on. The drive interrupts when it has data; the stub sleeps until then.
//! Commands: ATA/ATAPI-6, clause 8; bus master: Programming Interface for Bus Master IDE 1.0.

use super::drive::{Drive, SLOTS};
use crate::layout::{EBDA, ebda};
use crate::pc::Pc;
use crate::post::pci::{self, Function};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// Drive to memory.
    Read = 1,
    /// Memory to drive.
    Write = 2,
    /// Check that sectors can be read.
    Verify = 3,
}

/// How far the transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The drive is busy.
    Waiting,
    /// All sectors are moved.
    Done,
    /// The INT 13h status of the failure.
    Failed(u8),
}

/// A transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Slot of the drive.
    pub slot: u8,
    /// What to do.
    pub operation: Operation,
    /// Next sector.
    pub lba: u64,
    /// Sectors left.
    pub left: u32,
    /// Sectors of the current command that are still to be moved.
    in_command: u16,
    /// Physical address of the next sector.
    pub buffer: u64,
    /// Base port of the bus master's channel, 0: by PIO.
    bus_master: u16,
}

const SECTOR: usize = 512;
/// Sectors per command: the most that a 28-bit command takes.
const CHUNK: u32 = 256;
const BSY: u8 = 0x80;
const DF: u8 = 0x20;
const DRQ: u8 = 0x08;
const ERR: u8 = 0x01;
// Bus master command and status.
const BM_START: u8 = 0x01;
const BM_TO_MEMORY: u8 = 0x08;
const BM_ERROR: u8 = 0x02;
const BM_INTERRUPT: u8 = 0x04;

/// Begins `left` sectors from `lba`; the caller has checked that they are on the drive.
pub fn start(
    pc: &mut Pc<'_>,
    drive: &Drive,
    operation: Operation,
    lba: u64,
    left: u32,
    buffer: u64,
) -> Progress {
    if left == 0 {
        return Progress::Done;
    }
    let bus_master = match operation {
        Operation::Verify => 0,
        _ => bus_master(pc, drive.slot, buffer, u64::from(left) * SECTOR as u64),
    };
    let mut transfer =
        Transfer { slot: drive.slot, operation, lba, left, in_command: 0, buffer, bus_master };
    command(pc, drive, &mut transfer);
    advance(pc, drive, transfer)
}

/// Goes on with the transfer in the EBDA.
pub fn poll(pc: &mut Pc<'_>) -> Progress {
    let loaded = load(pc);
    let Some((transfer, drive)) =
        loaded.and_then(|t| Drive::load(pc, t.slot).map(|drive| (t, drive)))
    else {
        return Progress::Failed(0xBB);
    };
    advance(pc, &drive, transfer)
}

fn advance(pc: &mut Pc<'_>, drive: &Drive, mut transfer: Transfer) -> Progress {
    loop {
        let status = pc.in8(drive.control());
        if status & BSY != 0 {
            store(pc, &transfer);
            return Progress::Waiting;
        }
        // Reading the status proper takes the interrupt back.
        let status = pc.in8(drive.command_block() + 7);
        if transfer.bus_master != 0 {
            let failed = pc.in8(transfer.bus_master + 2) & BM_ERROR != 0;
            if status & DRQ != 0 && !failed {
                store(pc, &transfer);
                return Progress::Waiting;
            }
            pc.out8(transfer.bus_master, 0);
            pc.out8(transfer.bus_master + 2, BM_ERROR | BM_INTERRUPT);
            if failed {
                clear(pc);
                return Progress::Failed(0x20);
            }
        }
        if status & (ERR | DF) != 0 {
            clear(pc);
            return Progress::Failed(failure(pc, drive, status));
        }
        if transfer.operation == Operation::Verify || transfer.bus_master != 0 {
            let moved = u64::from(transfer.in_command);
            transfer.lba += moved;
            transfer.buffer = transfer.buffer.wrapping_add(moved * SECTOR as u64);
            transfer.in_command = 0;
        } else if transfer.in_command > 0 {
            if status & DRQ == 0 {
                store(pc, &transfer);
                return Progress::Waiting;
            }
            move_sector(pc, drive, &mut transfer);
            // A write is over when the drive is no longer busy with its last sector.
            if transfer.operation == Operation::Write || transfer.in_command > 0 {
                continue;
            }
        }
        if transfer.left == 0 {
            pc.in8(drive.command_block() + 7);
            clear(pc);
            return Progress::Done;
        }
        command(pc, drive, &mut transfer);
    }
}

/// Moves one sector through the data register.
fn move_sector(pc: &mut Pc<'_>, drive: &Drive, transfer: &mut Transfer) {
    let port = drive.command_block();
    let mut sector = [0; SECTOR];
    if transfer.operation == Operation::Read {
        for word in sector.chunks_exact_mut(2) {
            word.copy_from_slice(&pc.in16(port).to_le_bytes());
        }
        pc.write(transfer.buffer, &sector);
    } else {
        pc.read(transfer.buffer, &mut sector);
        for word in sector.chunks_exact(2) {
            pc.out16(port, u16::from_le_bytes([word[0], word[1]]));
        }
    }
    transfer.buffer = transfer.buffer.wrapping_add(SECTOR as u64);
    transfer.lba += 1;
    transfer.in_command -= 1;
}

/// Issues the command for the next chunk.
fn command(pc: &mut Pc<'_>, drive: &Drive, transfer: &mut Transfer) {
    let count = transfer.left.min(CHUNK);
    transfer.in_command = count as u16;
    transfer.left -= count;
    let base = drive.command_block();
    let lba = transfer.lba;
    let long = lba + u64::from(count) > 1 << 28;
    pc.out8(drive.control(), 0x08);
    let unit = (drive.slot & 1) << 4;
    let byte = |shift: u32| (lba >> shift) as u8;
    if long {
        pc.out8(base + 6, 0xE0 | unit);
        for (offset, value) in
            [(2, (count >> 8) as u8), (3, byte(24)), (4, byte(32)), (5, byte(40))]
        {
            pc.out8(base + offset, value);
        }
    } else {
        pc.out8(base + 6, 0xE0 | unit | byte(24) & 0x0F);
    }
    for (offset, value) in [(2, count as u8), (3, byte(0)), (4, byte(8)), (5, byte(16))] {
        pc.out8(base + offset, value);
    }
    if transfer.bus_master == 0 {
        pc.out8(base + 7, command_code(transfer.operation, long));
        return;
    }
    let read = transfer.operation == Operation::Read;
    let direction = if read { BM_TO_MEMORY } else { 0 };
    write_regions(pc, transfer.buffer, count * SECTOR as u32);
    pc.out8(transfer.bus_master, direction);
    pc.out8(transfer.bus_master + 2, BM_ERROR | BM_INTERRUPT);
    pc.out32(transfer.bus_master + 4, (EBDA + ebda::REGIONS) as u32);
    pc.out8(base + 7, dma_code(read, long));
    pc.out8(transfer.bus_master, direction | BM_START);
}

/// The bus master's channel, if it can reach the whole buffer; 0: it cannot.
///
/// The configuration address register is put back: this may interrupt a configuration access.
fn bus_master(pc: &mut Pc<'_>, slot: u8, buffer: u64, bytes: u64) -> u16 {
    let end = buffer.saturating_add(bytes);
    let low = end <= 0xA_0000;
    let high = buffer >= 0x10_0000 && end <= pc.low_ram();
    let function = pc.ebda8(ebda::IDE_FUNCTION);
    if !(low || high) || !buffer.is_multiple_of(2) || function == 0 {
        return 0;
    }
    let address = pc.in32(0xCF8);
    let command = pci::read16(pc, Function(function), 0x04);
    let base = pci::read32(pc, Function(function), 0x20);
    pc.out32(0xCF8, address);
    let usable = command & 0x05 == 0x05 && base & 0x01 != 0 && (0x100..0xFFF0).contains(&base);
    if usable { (base as u16 & 0xFFF0) + u16::from(slot / 2) * 8 } else { 0 }
}

/// The descriptors of a region of at most 128 KiB; each stays within 64 KiB.
fn write_regions(pc: &mut Pc<'_>, buffer: u64, bytes: u32) {
    let (mut at, mut left) = (buffer as u32, bytes);
    let mut table = [0; 32];
    for entry in table.chunks_exact_mut(8) {
        let length = left.min(0x1_0000 - (at & 0xFFFF));
        left -= length;
        entry[..4].copy_from_slice(&at.to_le_bytes());
        let last = if left == 0 { 1 << 31 } else { 0 };
        entry[4..].copy_from_slice(&(length & 0xFFFE | last).to_le_bytes());
        if left == 0 {
            break;
        }
        at = at.wrapping_add(length);
    }
    pc.write(EBDA + ebda::REGIONS, &table);
}

fn dma_code(read: bool, long: bool) -> u8 {
    match (read, long) {
        (true, false) => 0xC8,
        (true, true) => 0x25,
        (false, false) => 0xCA,
        (false, true) => 0x35,
    }
}

fn command_code(operation: Operation, long: bool) -> u8 {
    match (operation, long) {
        (Operation::Read, false) => 0x20,
        (Operation::Read, true) => 0x24,
        (Operation::Write, false) => 0x30,
        (Operation::Write, true) => 0x34,
        (Operation::Verify, false) => 0x40,
        (Operation::Verify, true) => 0x42,
    }
}

/// The INT 13h status for the drive's error register.
fn failure(pc: &mut Pc<'_>, drive: &Drive, status: u8) -> u8 {
    if status & DF != 0 {
        return 0x20;
    }
    let error = pc.in8(drive.command_block() + 1);
    match error {
        e if e & 0x40 != 0 => 0x10, // UNC: uncorrectable data
        e if e & 0x10 != 0 => 0x04, // IDNF: sector not found
        e if e & 0x04 != 0 => 0x01, // ABRT: the command
        _ => 0xBB,
    }
}

fn store(pc: &mut Pc<'_>, transfer: &Transfer) {
    let mut bytes = [0; 32];
    bytes[0] = transfer.operation as u8;
    bytes[1] = transfer.slot;
    bytes[2..4].copy_from_slice(&transfer.in_command.to_le_bytes());
    bytes[4..8].copy_from_slice(&transfer.left.to_le_bytes());
    bytes[8..16].copy_from_slice(&transfer.lba.to_le_bytes());
    bytes[16..24].copy_from_slice(&transfer.buffer.to_le_bytes());
    bytes[24..26].copy_from_slice(&transfer.bus_master.to_le_bytes());
    pc.write(EBDA + ebda::TRANSFER, &bytes);
}

fn load(pc: &mut Pc<'_>) -> Option<Transfer> {
    let at = EBDA + ebda::TRANSFER;
    let operation = match pc.read8(at) {
        1 => Operation::Read,
        2 => Operation::Write,
        3 => Operation::Verify,
        _ => return None,
    };
    let transfer = Transfer {
        slot: pc.read8(at + 1),
        operation,
        in_command: pc.read16(at + 2),
        left: pc.read32(at + 4),
        lba: pc.read64(at + 8),
        buffer: pc.read64(at + 16),
        bus_master: pc.read16(at + 24),
    };
    // What the guest may have scribbled: bounded, so that sums stay in range and loops end.
    let sane = transfer.slot < SLOTS
        && transfer.in_command <= CHUNK as u16
        && transfer.left <= 0x1_0000
        && transfer.lba <= 1 << 48
        && transfer.bus_master < 0xFFF0;
    sane.then_some(transfer)
}

/// Forgets the transfer.
pub fn clear(pc: &mut Pc<'_>) {
    pc.write(EBDA + ebda::TRANSFER, &[0; 32]);
}
