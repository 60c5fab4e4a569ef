//! The MC146818 real-time clock with 256 bytes of CMOS memory, ports 70h-73h.
//!
//! Contract: the time registers hold the time before the next update and are brought up to date
//! when they are looked at; flags likewise. A deadline stands only while an enabled interrupt is
//! still to come.

use crate::octets::Octets;
use crate::time::VirtualNs;
use serde::{Deserialize, Serialize};

const SECONDS: usize = 0;
const SECONDS_ALARM: usize = 1;
const MINUTES: usize = 2;
const MINUTES_ALARM: usize = 3;
const HOURS: usize = 4;
const HOURS_ALARM: usize = 5;
const DAY_OF_WEEK: usize = 6;
const DATE: usize = 7;
const MONTH: usize = 8;
const YEAR: usize = 9;
const REG_A: usize = 10;
const REG_B: usize = 11;
const REG_C: usize = 12;
const REG_D: usize = 13;
const CENTURY: usize = 0x32;

const A_UIP: u8 = 0x80;
const B_SET: u8 = 0x80;
const B_UIE: u8 = 0x10;
const B_BINARY: u8 = 0x04;
const B_24H: u8 = 0x02;
/// PF/PIE, AF/AIE and UF/UIE have the same places in registers B and C.
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATE: u8 = 0x10;
const C_IRQF: u8 = 0x80;

/// The 32,768-Hz crystal.
const HZ: u64 = 32_768;
/// UIP rises 244 us before an update cycle, which takes 1,984 us (MC146818 table 5).
const UIP_NS: u64 = 244_000 + 1_984_000;
const DAY: u64 = 86_400;

/// The clock and its memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcCmos {
    cmos: Octets<256>,
    index: u8,
    extended_index: u8,
    /// When the time in the registers next advances; afterwards every second.
    next_update: u64,
    /// Register C's flags up to `flags_at`.
    flags: u8,
    flags_at: u64,
    deadline: Option<VirtualNs>,
}

/// Time registers as numbers, hours 0-23.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Calendar {
    second: u64,
    minute: u64,
    hour: u64,
    day_of_week: u64,
    date: u64,
    month: u64,
    year: u64,
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar, plus 719,468.
fn days_of(year: u64, month: u64, date: u64) -> u64 {
    let year = if month <= 2 { year + 399 } else { year + 400 };
    let month_from_march = (month + 9) % 12;
    let in_year = (153 * month_from_march + 2) / 5 + date - 1;
    let in_era = year % 400 * 365 + year % 400 / 4 - year % 400 / 100 + in_year;
    (year / 400 - 1) * 146_097 + in_era
}

/// The date `days` (as [`days_of`]) as (year, month, date).
fn date_of(days: u64) -> (u64, u64, u64) {
    let in_era = days % 146_097;
    let year = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let date = in_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (days / 146_097 * 400 + year + u64::from(month <= 2), month, date)
}

impl Calendar {
    /// From seconds since 1970-01-01.
    fn of_unix(seconds: u64) -> Self {
        let (year, month, date) = date_of(seconds / DAY + 719_468);
        Self {
            second: seconds % 60,
            minute: seconds / 60 % 60,
            hour: seconds / 3600 % 24,
            // 1970-01-01 was a Thursday; Sunday is 1.
            day_of_week: (seconds / DAY + 4) % 7 + 1,
            date,
            month,
            year,
        }
    }

    fn second_of_day(&self) -> u64 {
        self.hour * 3600 + self.minute * 60 + self.second
    }

    fn advance(&mut self, seconds: u64) {
        let total = self.second_of_day() + seconds;
        let days = total / DAY;
        self.second = total % 60;
        self.minute = total / 60 % 60;
        self.hour = total / 3600 % 24;
        if days > 0 {
            self.day_of_week = (self.day_of_week + 6 + days) % 7 + 1;
            let date = days_of(self.year, self.month.clamp(1, 12), self.date.max(1));
            (self.year, self.month, self.date) = date_of(date + days);
        }
    }
}

impl RtcCmos {
    /// A clock at 1970-01-01 whose memory describes `ram_bytes` of RAM, of which
    /// `low_ram_bytes` below the PCI hole.
    pub fn new(ram_bytes: u64, low_ram_bytes: u64) -> Self {
        let mut rtc = Self {
            cmos: Octets::default(),
            index: 0,
            extended_index: 0,
            next_update: VirtualNs::SECOND,
            flags: 0,
            flags_at: 0,
            deadline: None,
        };
        rtc.cmos[REG_A] = 0x26;
        rtc.cmos[REG_B] = B_24H;
        rtc.set_time(VirtualNs(0), 0);
        rtc.set_memory_size(ram_bytes, low_ram_bytes);
        // Equipment: mouse, coprocessor.
        rtc.cmos[0x14] = 0x06;
        let sum: u16 = rtc.cmos[0x10..0x2E].iter().map(|&byte| u16::from(byte)).sum();
        rtc.cmos[0x2E..0x30].copy_from_slice(&sum.to_be_bytes());
        rtc
    }

    fn set_memory_size(&mut self, ram_bytes: u64, low_ram_bytes: u64) {
        let word = |n: u64| (n.min(0xFFFF) as u16).to_le_bytes();
        let extended_kib = word(low_ram_bytes.saturating_sub(1 << 20) >> 10);
        self.cmos[0x15..0x17].copy_from_slice(&word(640));
        self.cmos[0x17..0x19].copy_from_slice(&extended_kib);
        self.cmos[0x30..0x32].copy_from_slice(&extended_kib);
        let above_16_mib = word(low_ram_bytes.saturating_sub(16 << 20) >> 16);
        self.cmos[0x34..0x36].copy_from_slice(&above_16_mib);
        let high = (ram_bytes - low_ram_bytes.min(ram_bytes)) >> 16;
        self.cmos[0x5B..0x5E].copy_from_slice(&high.to_le_bytes()[..3]);
    }

    /// The RESET pin: interrupts are disabled; the clock runs on and the memory stays.
    pub fn reset(&mut self, now: VirtualNs) {
        self.latch(now);
        self.flags = 0;
        self.cmos[REG_B] &= !(PERIODIC | ALARM | UPDATE | 0x08);
        self.index = 0;
        self.extended_index = 0;
        self.set_deadline();
    }

    /// Sets time and date to `unix_ns` nanoseconds since 1970-01-01.
    pub fn set_wall_clock(&mut self, now: VirtualNs, unix_ns: u64) {
        self.latch(now);
        self.set_time(now, unix_ns);
        self.set_deadline();
    }

    fn set_time(&mut self, now: VirtualNs, unix_ns: u64) {
        self.encode(&Calendar::of_unix(unix_ns / VirtualNs::SECOND));
        self.next_update = now.0 + VirtualNs::SECOND - unix_ns % VirtualNs::SECOND;
    }

    /// The interrupt line (IRQ 8).
    #[inline]
    pub fn irq(&self) -> bool {
        self.flags & self.cmos[REG_B] & (PERIODIC | ALARM | UPDATE) != 0
    }

    /// When an interrupt is due.
    #[inline(always)]
    pub fn deadline(&self) -> Option<VirtualNs> {
        self.deadline
    }

    /// Raises the interrupt that is due; without one does nothing.
    pub fn advance(&mut self, now: VirtualNs) {
        if self.deadline.is_some_and(|at| at <= now) {
            self.latch(now);
            self.set_deadline();
        }
    }

    fn dividing(&self) -> bool {
        self.cmos[REG_A] & 0x60 != 0x60
    }

    fn updating(&self) -> bool {
        self.dividing() && self.cmos[REG_B] & B_SET == 0
    }

    /// Updates that happen up to `now`.
    fn updates(&self, now: u64) -> u64 {
        now.checked_sub(self.next_update).map_or(0, |late| late / VirtualNs::SECOND + 1)
    }

    /// Ticks of the crystal, in phase with the updates.
    fn crystal(&self, now: u64) -> u64 {
        VirtualNs(now + VirtualNs::SECOND - self.next_update % VirtualNs::SECOND).ticks(HZ)
    }

    /// Crystal ticks of a period, as a power of two (RS3-RS0).
    fn period_shift(&self) -> Option<u32> {
        match self.cmos[REG_A] & 0x0F {
            0 => None,
            rate @ 1..=2 => Some(u32::from(rate) + 6),
            rate => Some(u32::from(rate) - 1),
        }
    }

    fn decode_number(&self, raw: u8) -> u64 {
        if self.cmos[REG_B] & B_BINARY != 0 {
            u64::from(raw)
        } else {
            u64::from(raw >> 4) * 10 + u64::from(raw & 0xF)
        }
    }

    fn encode_number(&self, n: u64) -> u8 {
        let n = (n % 100) as u8;
        if self.cmos[REG_B] & B_BINARY != 0 { n } else { ((n / 10) << 4) | (n % 10) }
    }

    fn decode_hour(&self, raw: u8) -> u64 {
        if self.cmos[REG_B] & B_24H != 0 {
            return self.decode_number(raw);
        }
        self.decode_number(raw & 0x7F) % 12 + if raw & 0x80 != 0 { 12 } else { 0 }
    }

    fn encode_hour(&self, hour: u64) -> u8 {
        if self.cmos[REG_B] & B_24H != 0 {
            return self.encode_number(hour);
        }
        let afternoon = if hour >= 12 { 0x80 } else { 0 };
        self.encode_number(if hour.is_multiple_of(12) { 12 } else { hour % 12 }) | afternoon
    }

    fn decode(&self) -> Calendar {
        let number = |at: usize| self.decode_number(self.cmos[at]);
        Calendar {
            second: number(SECONDS),
            minute: number(MINUTES),
            hour: self.decode_hour(self.cmos[HOURS]),
            day_of_week: number(DAY_OF_WEEK),
            date: number(DATE),
            month: number(MONTH),
            year: number(CENTURY) * 100 + number(YEAR),
        }
    }

    fn encode(&mut self, to: &Calendar) {
        self.cmos[SECONDS] = self.encode_number(to.second);
        self.cmos[MINUTES] = self.encode_number(to.minute);
        self.cmos[HOURS] = self.encode_hour(to.hour);
        self.cmos[DAY_OF_WEEK] = self.encode_number(to.day_of_week);
        self.cmos[DATE] = self.encode_number(to.date);
        self.cmos[MONTH] = self.encode_number(to.month);
        self.cmos[YEAR] = self.encode_number(to.year);
        self.cmos[CENTURY] = self.encode_number(to.year / 100);
    }

    /// Updates from now on until the time of day is the alarm's; `None`: never.
    fn updates_to_alarm(&self) -> Option<u64> {
        let wanted = |raw: u8, value: u64, limit: u64| {
            let any = raw & 0xC0 == 0xC0;
            (any || value < limit).then_some((!any).then_some(value))
        };
        let number = |at: usize| self.decode_number(self.cmos[at]);
        let second = wanted(self.cmos[SECONDS_ALARM], number(SECONDS_ALARM), 60)?;
        let minute = wanted(self.cmos[MINUTES_ALARM], number(MINUTES_ALARM), 60)?;
        let raw_hour = self.cmos[HOURS_ALARM];
        let hour = wanted(raw_hour, self.decode_hour(raw_hour), 24)?;
        let misses = |wanted: Option<u64>, value: u64| wanted.is_some_and(|w| w != value);
        let start = self.decode().second_of_day();
        let mut at = start + 1;
        while at <= start + DAY {
            at = if misses(hour, at / 3600 % 24) {
                (at / 3600 + 1) * 3600
            } else if misses(minute, at / 60 % 60) {
                (at / 60 + 1) * 60
            } else if misses(second, at % 60) {
                at + 1
            } else {
                return Some(at - start);
            };
        }
        None
    }

    /// Brings time registers and flags up to date.
    fn latch(&mut self, now: VirtualNs) {
        let now = now.0;
        if self.dividing()
            && let Some(shift) = self.period_shift()
            && self.crystal(now) >> shift > self.crystal(self.flags_at) >> shift
        {
            self.flags |= PERIODIC;
        }
        let updates = self.updates(now);
        if updates > 0 && self.updating() {
            self.flags |= UPDATE;
            if self.updates_to_alarm().is_some_and(|n| n <= updates) {
                self.flags |= ALARM;
            }
            let mut calendar = self.decode();
            calendar.advance(updates);
            self.encode(&calendar);
        }
        self.next_update += updates * VirtualNs::SECOND;
        self.flags_at = now;
    }

    fn set_deadline(&mut self) {
        let waits = self.cmos[REG_B] & !self.flags;
        let mut deadline: Option<u64> = None;
        let mut at = |ns: u64| deadline = Some(deadline.map_or(ns, |d| d.min(ns)));
        if waits & PERIODIC != 0
            && self.dividing()
            && let Some(shift) = self.period_shift()
        {
            let tick = ((self.crystal(self.flags_at) >> shift) + 1) << shift;
            let phase = VirtualNs::SECOND - self.next_update % VirtualNs::SECOND;
            at(VirtualNs::of_tick(tick, HZ).0 - phase);
        }
        if self.updating() {
            if waits & UPDATE != 0 {
                at(self.next_update);
            }
            if waits & ALARM != 0
                && let Some(updates) = self.updates_to_alarm()
            {
                at(self.next_update + (updates - 1) * VirtualNs::SECOND);
            }
        }
        self.deadline = deadline.map(VirtualNs);
    }

    /// Reads port 70h-73h.
    pub fn read(&mut self, now: VirtualNs, port: u16) -> u8 {
        let index = match port {
            0x71 => usize::from(self.index),
            0x73 => usize::from(self.extended_index),
            // The index registers are write-only.
            _ => return 0xFF,
        };
        self.latch(now);
        let value = match index {
            REG_A => {
                let soon = self.updating() && self.next_update - now.0 <= UIP_NS;
                self.cmos[REG_A] | if soon { A_UIP } else { 0 }
            }
            REG_C => {
                let irqf = if self.irq() { C_IRQF } else { 0 };
                irqf | core::mem::take(&mut self.flags)
            }
            // Valid RAM and time.
            REG_D => 0x80,
            _ => self.cmos[index],
        };
        self.set_deadline();
        value
    }

    /// Writes port 70h-73h.
    pub fn write(&mut self, now: VirtualNs, port: u16, value: u8) {
        let index = match port {
            0x70 => {
                self.index = value & 0x7F;
                return;
            }
            0x72 => {
                self.extended_index = value;
                return;
            }
            0x71 => usize::from(self.index),
            0x73 => usize::from(self.extended_index),
            _ => return,
        };
        self.latch(now);
        match index {
            REG_A => {
                let held = !self.dividing();
                self.cmos[REG_A] = value & !A_UIP;
                if held && self.dividing() {
                    // The first update follows half a second after the divider starts.
                    self.next_update = now.0 + VirtualNs::SECOND / 2;
                }
            }
            REG_B => {
                self.cmos[REG_B] = value;
                if value & B_SET != 0 {
                    self.cmos[REG_B] &= !B_UIE;
                }
            }
            REG_C | REG_D => {}
            _ => self.cmos[index] = value,
        }
        self.set_deadline();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const SECOND: u64 = VirtualNs::SECOND;
    /// 2026-11-21 20:25:38 UTC, a Saturday.
    const UNIX: u64 = 1_795_292_738;

    fn get(rtc: &mut RtcCmos, ns: u64, index: u8) -> u8 {
        rtc.write(VirtualNs(ns), 0x70, index);
        rtc.read(VirtualNs(ns), 0x71)
    }

    fn set(rtc: &mut RtcCmos, ns: u64, index: u8, value: u8) {
        rtc.write(VirtualNs(ns), 0x70, index);
        rtc.write(VirtualNs(ns), 0x71, value);
    }

    fn at(unix: u64) -> RtcCmos {
        let mut rtc = RtcCmos::new(1 << 26, 1 << 26);
        rtc.set_wall_clock(VirtualNs(0), unix * SECOND);
        rtc
    }

    fn time(rtc: &mut RtcCmos, ns: u64) -> Vec<u8> {
        [0x32, 9, 8, 7, 6, 4, 2, 0].iter().map(|&index| get(rtc, ns, index)).collect()
    }

    #[test]
    fn calendar() {
        // (seconds from 1970, century, year, month, date, day of week, hour, minute, second)
        for (unix, expected) in [
            (0, [0x19, 0x70, 1, 1, 5, 0, 0, 0]),
            (UNIX, [0x20, 0x26, 0x11, 0x21, 7, 0x20, 0x25, 0x38]),
            (951_782_399, [0x20, 0x00, 0x02, 0x28, 2, 0x23, 0x59, 0x59]),
            (951_782_400, [0x20, 0x00, 0x02, 0x29, 3, 0, 0, 0]),
            (4_107_542_400, [0x21, 0x00, 0x03, 0x01, 2, 0, 0, 0]),
            (1_798_761_599, [0x20, 0x26, 0x12, 0x31, 5, 0x23, 0x59, 0x59]),
        ] {
            assert_eq!(time(&mut at(unix), 0), expected, "{unix}");
            let mut earlier = at(unix.saturating_sub(100_000));
            assert_eq!(time(&mut earlier, unix.min(100_000) * SECOND), expected, "{unix}");
        }
    }

    #[test]
    fn formats() {
        // (register B, hour of the day, register 4)
        for (b, hour, raw) in [
            (0x02, 13, 0x13),
            (0x06, 13, 13),
            (0x00, 0, 0x12),
            (0x00, 11, 0x11),
            (0x00, 12, 0x92),
            (0x00, 23, 0x91),
            (0x04, 22, 0x8A),
        ] {
            let mut rtc = RtcCmos::new(1 << 26, 1 << 26);
            set(&mut rtc, 0, 11, b);
            rtc.set_wall_clock(VirtualNs(0), (hour * 3600 + 59 * 60 + 59) * SECOND);
            assert_eq!(get(&mut rtc, 0, 4), raw);
            assert_eq!(get(&mut rtc, 0, 0), if b & 4 != 0 { 59 } else { 0x59 });
            let next = at((hour + 1) % 24 * 3600);
            let mut expected = next.clone();
            expected.cmos[REG_B] = b;
            expected.encode(&next.decode());
            assert_eq!(get(&mut rtc, SECOND, 4), expected.cmos[HOURS], "{b:02X} {hour}");
        }
    }

    #[test]
    fn update_in_progress_and_set() {
        let mut rtc = at(UNIX);
        assert_eq!(get(&mut rtc, 0, 10), 0x26);
        assert_eq!(get(&mut rtc, SECOND - UIP_NS - 1, 10), 0x26);
        assert_eq!(get(&mut rtc, SECOND - UIP_NS, 10), 0xA6);
        assert_eq!(get(&mut rtc, SECOND, 10), 0x26);
        set(&mut rtc, SECOND, 11, 0x82);
        assert_eq!(get(&mut rtc, 9 * SECOND, 0), 0x39);
        set(&mut rtc, 9 * SECOND, 0, 0x10);
        set(&mut rtc, 9 * SECOND + 5, 11, 0x02);
        assert_eq!(get(&mut rtc, 10 * SECOND - 1, 0), 0x10);
        assert_eq!(get(&mut rtc, 10 * SECOND, 0), 0x11);
        // The divider chain held in reset.
        set(&mut rtc, 10 * SECOND + 7, 10, 0x76);
        set(&mut rtc, 20 * SECOND, 10, 0x26);
        assert_eq!(get(&mut rtc, 20 * SECOND + SECOND / 2 - 1, 0), 0x11);
        assert_eq!(get(&mut rtc, 20 * SECOND + SECOND / 2, 0), 0x12);
    }

    #[test]
    fn periodic_rates() {
        // (RS, interrupts in a second)
        for (rs, rate) in [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2)] {
            let mut rtc = at(UNIX);
            set(&mut rtc, 0, 10, 0x20 | rs);
            set(&mut rtc, 0, 11, 0x42);
            let mut seen = 0;
            while let Some(due) = rtc.deadline()
                && due.0 <= SECOND
            {
                rtc.advance(VirtualNs(due.0 - 1));
                assert!(!rtc.irq());
                rtc.advance(due);
                assert!(rtc.irq() && rtc.deadline().is_none());
                assert_eq!(get(&mut rtc, due.0, 12) & 0xC0, 0xC0);
                assert!(!rtc.irq());
                seen += 1;
            }
            assert_eq!(seen, rate);
        }
    }

    #[test]
    fn alarms() {
        // (alarm hour, minute, second, seconds until it first fires from 20:25:38)
        for (hour, minute, second, delay) in [
            (0x20, 0x25, 0x39, Some(1)),
            (0x20, 0x25, 0x38, Some(86_400)),
            (0xFF, 0xFF, 0x00, Some(22)),
            (0xC0, 0x25, 0x37, Some(3599)),
            (0xFF, 0xFF, 0xFF, Some(1)),
            (0x06, 0x30, 0xFF, Some(36_262)),
            (0x24, 0x00, 0x00, None),
            (0xFF, 0x60, 0x00, None),
        ] {
            let mut rtc = at(UNIX);
            let registers = [(10, 0x20), (5, hour), (3, minute), (1, second), (11, 0x22)];
            for (index, value) in registers {
                set(&mut rtc, 0, index, value);
            }
            assert_eq!(rtc.deadline(), delay.map(|s| VirtualNs(s * SECOND)));
            if let Some(due) = rtc.deadline() {
                rtc.advance(due);
                assert!(rtc.irq());
                assert_eq!(get(&mut rtc, due.0, 12), 0xB0);
                assert_eq!(get(&mut rtc, due.0, 12), 0);
            } else {
                assert_eq!(get(&mut rtc, 90_000 * SECOND, 12), 0x10);
            }
        }
    }

    #[test]
    fn update_ended_interrupt_and_reset() {
        let mut rtc = at(UNIX);
        set(&mut rtc, 0, 11, 0x12);
        assert_eq!(rtc.deadline(), Some(VirtualNs(SECOND)));
        rtc.advance(VirtualNs(SECOND));
        assert!(rtc.irq());
        rtc.reset(VirtualNs(SECOND));
        assert!(!rtc.irq() && rtc.deadline().is_none());
        assert_eq!(get(&mut rtc, SECOND, 11), 0x02);
        assert_eq!(get(&mut rtc, SECOND, 0), 0x39);
    }

    #[test]
    fn memory_sizes() {
        let mut rtc = RtcCmos::new(5 << 30, 3 << 30);
        let mut word =
            |low: u8, high: u8| u16::from_le_bytes([get(&mut rtc, 0, low), get(&mut rtc, 0, high)]);
        assert_eq!(word(0x15, 0x16), 640);
        assert_eq!(word(0x30, 0x31), 0xFFFF);
        assert_eq!(word(0x34, 0x35), ((3_u64 << 14) - (16 << 4)) as u16);
        assert_eq!(word(0x5B, 0x5C), (2_u64 << 30 >> 16) as u16);
        rtc.write(VirtualNs(0), 0x72, 0xC3);
        rtc.write(VirtualNs(0), 0x73, 0x5A);
        assert_eq!(rtc.read(VirtualNs(0), 0x73), 0x5A);
    }
}
