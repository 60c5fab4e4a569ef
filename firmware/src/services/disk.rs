//! INT 13h: hard disks, by cylinder, head and sector and by sector number (Phoenix EDD 3.0).
//!
//! Contract: bad addresses are refused before the drive is asked; a failed call sets CF and leaves
//! its status in AH and at 40:74.

use super::drive::Drive;
use super::transfer::{self, Operation, Progress};
use crate::layout::{EBDA_SEGMENT, bda, ebda};
use crate::pc::{Call, Pc, Status};
use crate::post::chips;
use crate::post::pci::Function;

/// Invalid function or parameter.
const INVALID: u8 = 0x01;
/// Write to a drive or sector that cannot be.
const NOT_FOUND: u8 = 0x04;
/// No such drive.
const TIMEOUT: u8 = 0x80;

/// IRQ 14 and 15: take the drive's interrupt back, note it at 40:8E.
pub fn interrupt(pc: &mut Pc<'_>, channel: u16) {
    pc.in8(if channel == 0 { 0x1F7 } else { 0x177 });
    pc.set_bda8(bda::DISK_INTERRUPT, 0xFF);
    chips::end_of_interrupt(pc, true);
}

/// INT 13h.
pub fn call(call: &mut Call<'_>) -> Status {
    if call.again {
        let progress = transfer::poll(&mut call.pc);
        return conclude(call, progress);
    }
    let number = call.dx() as u8;
    let function = call.ah();
    if number < 0x80 {
        diskette(call, function);
        return Status::Done;
    }
    let Some(drive) = Drive::by_number(&mut call.pc, number) else {
        match function {
            0x08 => call.set_cx(0),
            0x15 => {
                call.ax = 0;
                call.set_cf(false);
                return Status::Done;
            }
            _ => {}
        }
        let status = if matches!(function, 0x08 | 0x41..=0x49) { INVALID } else { TIMEOUT };
        answer(call, status);
        return Status::Done;
    };
    on_drive(call, function, &drive)
}

fn on_drive(call: &mut Call<'_>, function: u8, drive: &Drive) -> Status {
    match function {
        0x00 | 0x09 | 0x0D | 0x10 | 0x11 | 0x14 => answer(call, 0),
        0x01 => {
            let status = call.pc.bda8(bda::DISK_STATUS);
            call.set_ah(status);
            call.set_cf(status != 0);
        }
        0x02..=0x04 => return by_chs(call, function, drive),
        0x05 => format_track(call, drive),
        0x08 => parameters(call, drive),
        0x0C => {
            let status = chs_to_lba(call, drive).map_or(NOT_FOUND, |_| 0);
            answer(call, status);
        }
        0x15 => {
            let total = sectors_by_chs(drive);
            call.ax = 0x0300;
            call.set_cx((total >> 16) as u16);
            call.set_dx(total as u16);
            call.set_cf(false);
        }
        0x41 if call.bx() == 0x55AA => {
            call.set_bx(0xAA55);
            // Packet calls and EDD; nothing removable.
            call.set_cx(0x0005);
            call.ax = 0x3000 | u16::from(call.al());
            call.set_cf(false);
        }
        0x42..=0x44 | 0x47 => return by_packet(call, function, drive),
        0x48 => extended_parameters(call, drive),
        0x4E => {
            // Set hardware configuration: DMA and prefetch are always as they are.
            let status = if matches!(call.al(), 0..=6) { 0 } else { INVALID };
            answer(call, status);
        }
        _ => answer(call, INVALID),
    }
    Status::Done
}

/// There is no diskette drive.
fn diskette(call: &mut Call<'_>, function: u8) {
    match function {
        0x00 => answer(call, 0),
        0x15 => {
            call.ax = 0;
            call.set_cf(false);
        }
        0x01 | 0x08 | 0x41..=0x4E => {
            if function == 0x08 {
                call.set_bx(0);
                call.set_cx(0);
                call.set_dx(0);
            }
            answer(call, INVALID);
        }
        _ => answer(call, TIMEOUT),
    }
}

/// Status in AH, at 40:74 and in CF.
fn answer(call: &mut Call<'_>, status: u8) {
    call.set_ah(status);
    call.set_cf(status != 0);
    call.pc.set_bda8(bda::DISK_STATUS, status);
}

fn conclude(call: &mut Call<'_>, progress: Progress) -> Status {
    let status = match progress {
        Progress::Waiting => return Status::Wait,
        Progress::Done => 0,
        Progress::Failed(status) => status,
    };
    let packet = call.ah() >= 0x42;
    if status != 0 && packet {
        let at = call.ds_at(call.si().wrapping_add(2));
        call.pc.write16(at, 0);
    } else if status != 0 {
        call.set_al(0);
    }
    answer(call, status);
    Status::Done
}

/// Sectors that cylinders, heads and sectors can name.
fn sectors_by_chs(drive: &Drive) -> u32 {
    let t = drive.translated;
    let all = u64::from(t.cylinders) * u64::from(t.heads) * u64::from(t.sectors);
    all.min(drive.total).min(u32::MAX.into()) as u32
}

/// The sector that CX and DH name; `None`: outside of the drive.
fn chs_to_lba(call: &Call<'_>, drive: &Drive) -> Option<u64> {
    let (ch, cl) = call.ch_cl();
    let (head, _) = call.dh_dl();
    let cylinder = u64::from(ch) | u64::from(cl & 0xC0) << 2;
    let sector = u64::from(cl & 0x3F);
    let t = drive.translated;
    let inside = cylinder < t.cylinders.into()
        && u64::from(head) < t.heads.into()
        && (1..=u64::from(t.sectors)).contains(&sector);
    let track = cylinder * u64::from(t.heads) + u64::from(head);
    inside.then(|| track * u64::from(t.sectors) + sector - 1)
}

fn by_chs(call: &mut Call<'_>, function: u8, drive: &Drive) -> Status {
    let count = u32::from(call.al());
    let operation = operation(function);
    let lba = chs_to_lba(call, drive);
    let Some(lba) = lba.filter(|lba| lba + u64::from(count) <= drive.total) else {
        call.set_al(0);
        answer(call, NOT_FOUND);
        return Status::Done;
    };
    if count == 0 || count > 128 && operation != Operation::Verify {
        call.set_al(0);
        answer(call, INVALID);
        return Status::Done;
    }
    let buffer = call.es_at(call.bx());
    let progress = transfer::start(&mut call.pc, drive, operation, lba, count, buffer);
    conclude(call, progress)
}

fn operation(function: u8) -> Operation {
    match function & 0x0F {
        0x02 => Operation::Read,
        0x03 => Operation::Write,
        _ => Operation::Verify,
    }
}

/// A drive with embedded format: the track exists or not.
fn format_track(call: &mut Call<'_>, drive: &Drive) {
    let first = call.cx() & 0xFFC0 | 1;
    let cx = call.cx();
    call.set_cx(first);
    let status = chs_to_lba(call, drive).map_or(NOT_FOUND, |_| 0);
    call.set_cx(cx);
    answer(call, status);
}

fn parameters(call: &mut Call<'_>, drive: &Drive) {
    let t = drive.translated;
    let last = t.cylinders.min(1024) - 1;
    call.set_cx((last & 0xFF) << 8 | (last >> 2) & 0xC0 | t.sectors);
    let count = call.pc.bda8(bda::DISK_COUNT);
    call.set_dx((t.heads - 1) << 8 | u16::from(count));
    call.ax = 0;
    answer(call, 0);
}

/// EDD disk address packet: size, count, buffer, first sector.
fn by_packet(call: &mut Call<'_>, function: u8, drive: &Drive) -> Status {
    let at = call.ds_at(call.si());
    let size = call.pc.read8(at);
    if size < 0x10 {
        answer(call, INVALID);
        return Status::Done;
    }
    let count = u32::from(call.pc.read16(at + 2));
    let (offset, segment) = (call.pc.read16(at + 4), call.pc.read16(at + 6));
    let lba = call.pc.read64(at + 8);
    let buffer = if (offset, segment) == (0xFFFF, 0xFFFF) && size >= 0x18 {
        call.pc.read64(at + 16)
    } else {
        call.pc.linear(segment, offset)
    };
    let end = lba.checked_add(count.into());
    if end.is_none_or(|end| end > drive.total) {
        call.pc.write16(at + 2, 0);
        answer(call, NOT_FOUND);
        return Status::Done;
    }
    if function == 0x47 {
        answer(call, 0);
        return Status::Done;
    }
    if function == 0x43 && call.al() > 2 {
        answer(call, INVALID);
        return Status::Done;
    }
    let progress = transfer::start(&mut call.pc, drive, operation(function), lba, count, buffer);
    conclude(call, progress)
}

/// EDD AH=48h: as much of the result as the caller's buffer takes.
fn extended_parameters(call: &mut Call<'_>, drive: &Drive) {
    let at = call.ds_at(call.si());
    let size = call.pc.read16(at);
    if size < 0x1A {
        answer(call, INVALID);
        return;
    }
    let mut result = [0u8; 0x4A];
    let length = match size {
        0x4A.. => 0x4A,
        0x42..=0x49 => 0x42,
        0x1E..=0x41 => 0x1E,
        _ => 0x1A,
    };
    let own = drive.own;
    // DMA boundary errors are handled; the geometry is valid while the drive is within its reach.
    let valid = drive.total <= 16_383 * 16 * 63 && own.cylinders != 0;
    result[0..2].copy_from_slice(&(length as u16).to_le_bytes());
    result[2..4].copy_from_slice(&(1 | u16::from(valid) << 1).to_le_bytes());
    for (index, value) in [own.cylinders, own.heads, own.sectors].into_iter().enumerate() {
        let value = if valid { u32::from(value) } else { 0 };
        result[4 + 4 * index..8 + 4 * index].copy_from_slice(&value.to_le_bytes());
    }
    result[16..24].copy_from_slice(&drive.total.to_le_bytes());
    result[24..26].copy_from_slice(&512u16.to_le_bytes());
    let table = ebda::DPTE as u16 + u16::from(drive.slot) * 16;
    result[26..28].copy_from_slice(&table.to_le_bytes());
    result[28..30].copy_from_slice(&EBDA_SEGMENT.to_le_bytes());
    device_path(&mut call.pc, drive, length, &mut result);
    call.pc.write(at, &result[..length]);
    answer(call, 0);
}

/// Device path: on PCI, bus 0, the IDE function; ATA, master or slave.
fn device_path(pc: &mut Pc<'_>, drive: &Drive, length: usize, result: &mut [u8; 0x4A]) {
    if length < 0x42 {
        return;
    }
    result[30..32].copy_from_slice(&0xBEDDu16.to_le_bytes());
    result[32] = (length - 30) as u8;
    result[36..40].copy_from_slice(b"PCI ");
    result[40..48].copy_from_slice(b"ATA     ");
    let function = Function(pc.ebda8(ebda::IDE_FUNCTION));
    result[49] = function.device();
    result[50] = function.0 & 7;
    result[51] = drive.slot / 2;
    result[56] = drive.slot & 1;
    let sum = result[30..length - 1].iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    result[length - 1] = sum.wrapping_neg();
}
