//! Time: IRQ 0, IRQ 8, INT 1Ah, and the waits of INT 15h AH=83h and 86h.
//!
//! Contract: everything follows from the PIT and the RTC, so it needs no log. IBM PC AT technical
//! reference; RBIL INT 1A.

use super::pci_bios;
use crate::layout::bda;
use crate::pc::{Call, Pc, Status};
use crate::post::chips;

/// Ticks of a day: 24 hours at 1193182 / 65536 Hz.
pub const TICKS_PER_DAY: u32 = 0x18_00B0;
/// Microseconds of a period of the RTC at 1024 Hz.
const RTC_PERIOD_US: u32 = 976;
/// RTC register B: periodic interrupt enable.
const PIE: u8 = 0x40;
/// RTC register B: alarm interrupt enable.
const AIE: u8 = 0x20;
/// RTC register B: 24-hour mode.
const HOURS_24: u8 = 0x02;
/// RTC register B: stop for setting.
const SET: u8 = 0x80;

/// IRQ 0: counts, and notes midnight.
pub fn tick(pc: &mut Pc<'_>) {
    let mut ticks = pc.bda32(bda::TICKS).wrapping_add(1);
    if ticks >= TICKS_PER_DAY {
        ticks = 0;
        let days = pc.bda8(bda::MIDNIGHT).saturating_add(1);
        pc.set_bda8(bda::MIDNIGHT, days);
    }
    pc.set_bda32(bda::TICKS, ticks);
}

/// IRQ 8: counts a wait down; true when the alarm rang and the stub must call INT 4Ah.
pub fn rtc_interrupt(pc: &mut Pc<'_>) -> bool {
    let flags = pc.cmos(0x0C) & pc.cmos(0x0B);
    if flags & PIE != 0 && pc.bda8(bda::WAIT_ACTIVE) & 0x01 != 0 {
        let left = pc.bda32(bda::WAIT_COUNT).saturating_sub(RTC_PERIOD_US);
        pc.set_bda32(bda::WAIT_COUNT, left);
        if left == 0 {
            end_wait(pc, true);
        }
    }
    flags & AIE != 0
}

/// Starts a wait of `us` microseconds whose end sets bit 7 of the byte at `flag`; false: one is
/// active.
pub fn start_wait(pc: &mut Pc<'_>, us: u32, flag: (u16, u16)) -> bool {
    if pc.bda8(bda::WAIT_ACTIVE) & 0x01 != 0 {
        return false;
    }
    pc.set_bda32(bda::WAIT_COUNT, us);
    pc.set_bda16(bda::WAIT_FLAG, flag.1);
    pc.set_bda16(bda::WAIT_FLAG + 2, flag.0);
    pc.set_bda8(bda::WAIT_ACTIVE, 0x01);
    let b = pc.cmos(0x0B);
    pc.set_cmos(0x0B, b | PIE);
    chips::unmask(pc, 8);
    true
}

/// Ends a wait: the periodic interrupt goes off; `signal`: the user's flag goes on.
pub fn end_wait(pc: &mut Pc<'_>, signal: bool) {
    let b = pc.cmos(0x0B);
    pc.set_cmos(0x0B, b & !PIE);
    pc.set_bda8(bda::WAIT_ACTIVE, 0);
    if signal {
        let (offset, segment) = (pc.bda16(bda::WAIT_FLAG), pc.bda16(bda::WAIT_FLAG + 2));
        let at = pc.linear(segment, offset);
        let byte = pc.read8(at);
        pc.write8(at, byte | 0x80);
    }
}

/// INT 15h AH=86h: waits CX:DX microseconds.
pub fn wait(call: &mut Call<'_>) -> Status {
    call.set_cf(false);
    if call.again {
        let active = call.pc.bda8(bda::WAIT_ACTIVE) & 0x01 != 0;
        return if active { Status::Wait } else { Status::Done };
    }
    let us = u32::from(call.cx()) << 16 | u32::from(call.dx());
    if us == 0 {
        return Status::Done;
    }
    // The flag of this wait is the byte that says whether one is active.
    if start_wait(&mut call.pc, us, (0x0040, bda::WAIT_ACTIVE as u16)) {
        return Status::Wait;
    }
    call.set_ah(0x83);
    call.set_cf(true);
    Status::Done
}

fn from_bcd(byte: u8) -> u32 {
    u32::from(byte >> 4) * 10 + u32::from(byte & 0x0F)
}

/// Reads RTC registers that belong together: again when the second changed meanwhile.
fn read_rtc<const N: usize>(pc: &mut Pc<'_>, registers: [u8; N]) -> [u8; N] {
    registers.map(|register| pc.cmos(register))
}

/// Sets the tick count to the time of day.
pub fn set_ticks_from_rtc(pc: &mut Pc<'_>) {
    let [seconds, minutes, hours] = read_rtc(pc, [0x00, 0x02, 0x04]);
    let of_day = from_bcd(hours).min(23) * 3600 + from_bcd(minutes).min(59) * 60;
    let of_day = of_day + from_bcd(seconds).min(59);
    let ticks = u64::from(of_day) * 1_193_182 / 65_536;
    pc.set_bda32(bda::TICKS, ticks as u32);
    pc.set_bda8(bda::MIDNIGHT, 0);
}

/// INT 1Ah.
pub fn call(call: &mut Call<'_>) {
    match call.ah() {
        0x00 => {
            let ticks = call.pc.bda32(bda::TICKS);
            call.set_cx((ticks >> 16) as u16);
            call.set_dx(ticks as u16);
            let days = call.pc.bda8(bda::MIDNIGHT);
            call.ax = days.into();
            call.pc.set_bda8(bda::MIDNIGHT, 0);
            call.set_cf(false);
        }
        0x01 => {
            let ticks = u32::from(call.cx()) << 16 | u32::from(call.dx());
            call.pc.set_bda32(bda::TICKS, ticks);
            call.pc.set_bda8(bda::MIDNIGHT, 0);
            call.set_ah(0);
            call.set_cf(false);
        }
        0x02 => {
            let [seconds, minutes, hours, b] = read_rtc(&mut call.pc, [0x00, 0x02, 0x04, 0x0B]);
            call.set_cx(u16::from(hours) << 8 | u16::from(minutes));
            call.set_dx(u16::from(seconds) << 8 | u16::from(b & 1));
            call.ax = u16::from(hours);
            call.set_cf(false);
        }
        0x03 => {
            let ((hours, minutes), (seconds, daylight)) = (call.ch_cl(), call.dh_dl());
            let registers = [(0x00, seconds), (0x02, minutes), (0x04, hours)];
            set_rtc(&mut call.pc, &registers, Some(daylight & 1));
            answer(call);
        }
        0x04 => {
            let [day, month, year, century] = read_rtc(&mut call.pc, [0x07, 0x08, 0x09, 0x32]);
            call.set_cx(u16::from(century) << 8 | u16::from(year));
            call.set_dx(u16::from(month) << 8 | u16::from(day));
            answer(call);
        }
        0x05 => {
            let ((century, year), (month, day)) = (call.ch_cl(), call.dh_dl());
            set_rtc(
                &mut call.pc,
                &[(0x07, day), (0x08, month), (0x09, year), (0x32, century)],
                None,
            );
            answer(call);
        }
        0x06 => set_alarm(call),
        0x07 => {
            let b = call.pc.cmos(0x0B);
            call.pc.set_cmos(0x0B, b & !AIE);
            answer(call);
        }
        0xB1 => pci_bios::call(call),
        _ => call.set_cf(true),
    }
}

fn answer(call: &mut Call<'_>) {
    call.set_ah(0);
    call.set_cf(false);
}

/// Stops the clock, writes the registers, and lets it run on.
fn set_rtc(pc: &mut Pc<'_>, registers: &[(u8, u8)], daylight: Option<u8>) {
    let b = pc.cmos(0x0B) & !SET | HOURS_24;
    pc.set_cmos(0x0B, b | SET);
    for &(register, value) in registers {
        pc.set_cmos(register, value);
    }
    let b = daylight.map_or(b, |daylight| b & !1 | daylight);
    pc.set_cmos(0x0B, b);
}

fn set_alarm(call: &mut Call<'_>) {
    let b = call.pc.cmos(0x0B);
    if b & AIE != 0 {
        call.set_cf(true);
        return;
    }
    let ((hours, minutes), (seconds, _)) = (call.ch_cl(), call.dh_dl());
    for (register, value) in [(0x01, seconds), (0x03, minutes), (0x05, hours)] {
        call.pc.set_cmos(register, value);
    }
    call.pc.set_cmos(0x0B, b & !SET | AIE);
    chips::unmask(&mut call.pc, 8);
    answer(call);
}
