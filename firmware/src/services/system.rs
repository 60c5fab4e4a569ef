//! INT 15h: memory, A20, block move, waits, system configuration.
//!
//! Contract: functions that do not exist return AH=86h with CF set.

use super::memory_map::{Kind, ranges};
use super::{clock, mouse};
use crate::layout::{BIOS_SEGMENT, EBDA_SEGMENT};
use crate::pc::{Call, Pc, Status};
use crate::rom::entry;

/// "SMAP", the signature of E820h.
const SMAP: u32 = 0x534D_4150;
const SYSTEM_CONTROL: u16 = 0x92;

/// INT 15h.
pub fn call(call: &mut Call<'_>) -> Status {
    match call.ax {
        0xE801 => memory_sizes(call, false),
        0xE820 => memory_map(call),
        0xE881 => memory_sizes(call, true),
        _ => return by_ah(call),
    }
    Status::Done
}

fn by_ah(call: &mut Call<'_>) -> Status {
    match call.ah() {
        0x24 => a20(call),
        // Keyboard intercept: the scan code stays as it is.
        0x4F => call.set_cf(true),
        // Device open, close, program end; SysReq; device wait and post: nothing to do.
        0x80..=0x82 | 0x85 | 0x90 | 0x91 => {
            call.set_ah(0);
            call.set_cf(false);
        }
        0x83 => event_wait(call),
        0x86 => return clock::wait(call),
        0x87 => block_move(call),
        0x88 => {
            let kib = (extended_bytes(&call.pc) / 1024).min(0xFC00);
            call.ax = kib as u16;
            call.set_cf(false);
        }
        0xC0 => {
            call.set_es(BIOS_SEGMENT);
            call.set_bx(entry::CONFIG_TABLE);
            call.set_ah(0);
            call.set_cf(false);
        }
        0xC1 => {
            call.set_es(EBDA_SEGMENT);
            call.set_cf(false);
        }
        0xC2 => mouse::call(call),
        _ => call.unsupported(),
    }
    Status::Done
}

/// AH=24h: the A20 gate by port 92h.
fn a20(call: &mut Call<'_>) {
    let state = call.pc.in8(SYSTEM_CONTROL);
    call.set_cf(false);
    match call.al() {
        0 => call.pc.out8(SYSTEM_CONTROL, state & !0x03),
        1 => call.pc.out8(SYSTEM_CONTROL, state & !0x01 | 0x02),
        2 => call.set_al(state >> 1 & 1),
        3 => call.set_bx(0x0003),
        _ => {
            call.unsupported();
            return;
        }
    }
    call.set_ah(0);
}

/// AH=83h: AL=0 starts a wait of CX:DX microseconds with the flag at ES:BX, AL=1 cancels it.
fn event_wait(call: &mut Call<'_>) {
    call.set_cf(false);
    match call.al() {
        0 => {
            let us = u32::from(call.cx()) << 16 | u32::from(call.dx());
            let flag = (call.es(), call.bx());
            let started = clock::start_wait(&mut call.pc, us, flag);
            call.set_cf(!started);
        }
        1 => clock::end_wait(&mut call.pc, false),
        _ => call.unsupported(),
    }
}

/// AH=87h: moves CX words between the segments at ES:SI+10h and +18h.
fn block_move(call: &mut Call<'_>) {
    let table = call.es_at(call.si());
    let base = |pc: &mut Pc<'_>, descriptor: u64| {
        let low = u64::from(pc.read32(table + descriptor + 2) & 0x00FF_FFFF);
        low | u64::from(pc.read8(table + descriptor + 7)) << 24
    };
    let (from, to) = (base(&mut call.pc, 0x10), base(&mut call.pc, 0x18));
    let length = usize::from(call.cx()) * 2;
    if call.cx() > 0x8000 {
        call.set_ah(0x02);
        call.set_cf(true);
        return;
    }
    let mut block = alloc::vec![0; length];
    call.pc.read(from, &mut block);
    call.pc.write(to, &block);
    call.set_ah(0);
    call.set_cf(false);
    call.set_zf(true);
}

/// Usable bytes above 1 MiB without a gap.
fn extended_bytes(pc: &Pc<'_>) -> u64 {
    let map = ranges(pc.ram.size());
    map.iter()
        .find(|range| range.base == 0x10_0000 && range.kind == Kind::Usable)
        .map_or(0, |range| range.length)
}

/// E801h and E881h: KiB between 1 and 16 MiB, and 64-KiB blocks above.
fn memory_sizes(call: &mut Call<'_>, long: bool) {
    let bytes = extended_bytes(&call.pc);
    let below = (bytes.min(15 << 20) / 1024) as u32;
    let above = (bytes.saturating_sub(15 << 20) >> 16) as u32;
    if long {
        call.set_eax(below);
        call.set_ebx(above);
        call.set_ecx(below);
        call.set_edx(above);
    } else {
        call.ax = below as u16;
        call.set_cx(below as u16);
        call.set_bx(above as u16);
        call.set_dx(above as u16);
    }
    call.set_cf(false);
}

/// E820h: EBX is the number of the next range.
fn memory_map(call: &mut Call<'_>) {
    let map = ranges(call.pc.ram.size());
    let range = usize::try_from(call.ebx()).ok().and_then(|index| map.get(index));
    let (Some(range), true) = (range, call.edx() == SMAP && call.ecx() >= 20) else {
        call.unsupported();
        return;
    };
    let mut entry = [0u8; 24];
    entry[0..8].copy_from_slice(&range.base.to_le_bytes());
    entry[8..16].copy_from_slice(&range.length.to_le_bytes());
    entry[16..20].copy_from_slice(&(range.kind as u32).to_le_bytes());
    entry[20] = 1;
    let length = if call.ecx() >= 24 { 24 } else { 20 };
    let at = call.es_at(call.di());
    call.pc.write(at, &entry[..length]);
    let next = call.ebx() + 1;
    call.set_ebx(if next as usize == map.len() { 0 } else { next });
    call.set_ecx(length as u32);
    call.set_eax(SMAP);
    call.set_cf(false);
}
