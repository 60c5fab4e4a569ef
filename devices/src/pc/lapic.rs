//! The local APIC in xAPIC mode (SDM 3A chapter 11).
//!
//! Contract: interrupts come in by [`Lapic::deliver`], [`Lapic::set_lint0`] and the timer; the CPU
//! sees [`Lapic::intr`]. What must reach other chips (an EOI for the I/O APIC) or the CPU (NMI,
//! INIT) waits in [`Lapic::take_events`]. The timer counts a 25-MHz crystal, as CPUID leaf 15h
//! says; the TSC runs at 1 GHz, one count per virtual nanosecond.

#[cfg(test)]
mod tests;

use crate::pc::ioapic::Message;
use crate::time::VirtualNs;
use serde::{Deserialize, Serialize};

/// Nanoseconds of a crystal clock.
const CRYSTAL_NS: u64 = 40;
/// Integrated APIC, six LVT entries.
const VERSION: u32 = 0x0005_0014;

const BASE_BSP: u64 = 1 << 8;
const BASE_ENABLE: u64 = 1 << 11;
const BASE_RESET: u64 = 0xFEE0_0000 | BASE_ENABLE | BASE_BSP;
/// Address bits of a 40-bit physical address space, enable; BSP is read-only.
const BASE_WRITABLE: u64 = 0xFF_FFFF_F000 | BASE_ENABLE;

const LVT_MASKED: u32 = 1 << 16;
const LVT_LEVEL: u32 = 1 << 15;
const LVT_REMOTE_IRR: u32 = 1 << 14;
const SVR_ENABLE: u32 = 1 << 8;

const FIXED: u8 = 0;
const LOWEST: u8 = 1;
const NMI: u8 = 4;
const INIT: u8 = 5;
const EXTINT: u8 = 7;

const ESR_SEND_ILLEGAL: u32 = 1 << 5;
const ESR_RECEIVE_ILLEGAL: u32 = 1 << 6;
const ESR_REGISTER_ILLEGAL: u32 = 1 << 7;

/// Entries of the local vector table, in the order of their registers from 320h.
const LVT_TIMER: usize = 0;
const LVT_LINT0: usize = 3;
const LVT_LINT1: usize = 4;
const LVT_ERROR: usize = 5;
/// Bits that can be written, apart from the mask bit and the vector.
const LVT_WRITABLE: [u32; 6] = [0x7_00FF, 0x1_07FF, 0x1_07FF, 0x1_A7FF, 0x1_A7FF, 0x1_00FF];

/// What the local APIC asks of the rest of the board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// An EOI of this level-triggered vector goes to the I/O APIC.
    pub eoi: Option<u8>,
    /// INIT reached the CPU.
    pub init: bool,
}

/// What the timer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Timer {
    Stopped,
    /// Loaded with the initial count at this time, which wraps: after a change of the divisor it
    /// may lie before power-on.
    Counting(VirtualNs),
    /// TSC-deadline mode: the value of the MSR, and when it is reached.
    Deadline(u64, VirtualNs),
}

/// 256 bits, one per vector.
type Vectors = [u32; 8];

fn highest(vectors: &Vectors) -> Option<u8> {
    let word = (0..8).rev().find(|&word| vectors[word] != 0)?;
    Some(word as u8 * 32 + 31 - vectors[word].leading_zeros() as u8)
}

fn set(vectors: &mut Vectors, vector: u8, on: bool) {
    let bit = 1 << (vector & 31);
    let word = &mut vectors[usize::from(vector >> 5)];
    *word = if on { *word | bit } else { *word & !bit };
}

fn is_set(vectors: &Vectors, vector: u8) -> bool {
    vectors[usize::from(vector >> 5)] >> (vector & 31) & 1 != 0
}

/// The local APIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lapic {
    base: u64,
    id: u8,
    tpr: u8,
    ldr: u8,
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    esr: u32,
    /// Errors since the last write to ESR.
    errors: u32,
    icr: u64,
    lvt: [u32; 6],
    initial_count: u32,
    divide: u8,
    timer: Timer,
    lint0: bool,
    lint1: bool,
    nmi: bool,
    /// An ExtINT message from the I/O APIC waits for its acknowledge cycle.
    extint: bool,
    events: Events,
    /// Whether IRR has a vector above the processor priority.
    intr: bool,
}

impl Default for Lapic {
    fn default() -> Self {
        Self {
            base: BASE_RESET,
            id: 0,
            tpr: 0,
            ldr: 0,
            dfr: 0xFFFF_FFFF,
            svr: 0xFF,
            isr: [0; 8],
            tmr: [0; 8],
            irr: [0; 8],
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [LVT_MASKED; 6],
            initial_count: 0,
            divide: 0,
            timer: Timer::Stopped,
            lint0: false,
            lint1: false,
            nmi: false,
            extint: false,
            events: Events::default(),
            intr: false,
        }
    }
}

impl Lapic {
    /// The physical page at which the registers stand, or `None` when the APIC is off.
    #[inline(always)]
    pub fn page(&self) -> Option<u64> {
        (self.base & BASE_ENABLE != 0).then_some(self.base & !0xFFF)
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Writes IA32_APIC_BASE; false: reserved bits, #GP. Switching the APIC off and on again puts
    /// it in its power-up state (SDM 3A 11.4.3).
    pub fn set_base(&mut self, value: u64) -> bool {
        if value & !(BASE_WRITABLE | BASE_BSP) != 0 {
            return false;
        }
        if value & BASE_ENABLE == 0 && self.base & BASE_ENABLE != 0 {
            let (lint0, lint1, nmi) = (self.lint0, self.lint1, self.nmi);
            *self = Self { lint0, lint1, nmi, ..Self::default() };
        }
        self.base = value & BASE_WRITABLE | BASE_BSP;
        true
    }

    fn hardware_enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    /// Whether a vector waits that the processor priority admits.
    #[inline(always)]
    pub fn intr(&self) -> bool {
        self.intr
    }

    /// Whether the level at LINT0 goes to the CPU as ExtINT: the APIC is off, or LINT0 is
    /// programmed as a virtual wire.
    pub fn lint0_is_extint(&self) -> bool {
        let lvt = self.lvt[LVT_LINT0];
        !self.hardware_enabled() || lvt & (LVT_MASKED | 0x700) == 0x700
    }

    /// Whether an ExtINT from the I/O APIC waits.
    pub fn extint(&self) -> bool {
        self.extint
    }

    /// The acknowledge cycle for that ExtINT has been run.
    pub fn clear_extint(&mut self) {
        self.extint = false;
    }

    /// Takes a pending NMI.
    pub fn take_nmi(&mut self) -> bool {
        core::mem::take(&mut self.nmi)
    }

    /// Whether an NMI waits.
    #[inline(always)]
    pub fn nmi(&self) -> bool {
        self.nmi
    }

    /// Takes what other chips must hear.
    #[inline]
    pub fn take_events(&mut self) -> Events {
        core::mem::take(&mut self.events)
    }

    /// The processor priority (PPR).
    fn ppr(&self) -> u8 {
        let serving = highest(&self.isr).unwrap_or(0) & 0xF0;
        if self.tpr & 0xF0 >= serving { self.tpr } else { serving }
    }

    fn update(&mut self) {
        let wanted = highest(&self.irr).unwrap_or(0) & 0xF0;
        self.intr = wanted > self.ppr() & 0xF0;
    }

    /// The acknowledge cycle: moves the most urgent vector into service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        if !self.intr {
            return None;
        }
        let vector = highest(&self.irr)?;
        set(&mut self.irr, vector, false);
        set(&mut self.isr, vector, true);
        self.update();
        Some(vector)
    }

    /// Task priority.
    pub fn tpr(&self) -> u8 {
        self.tpr
    }

    /// Sets the task priority.
    pub fn set_tpr(&mut self, tpr: u8) {
        self.tpr = tpr;
        self.update();
    }

    fn addressed(&self, logical: bool, destination: u8) -> bool {
        if !logical {
            return destination == self.id || destination == 0xFF;
        }
        if destination == 0xFF {
            return true;
        }
        match self.dfr >> 28 {
            0xF => destination & self.ldr != 0,
            0x0 => destination >> 4 == self.ldr >> 4 && destination & self.ldr & 0x0F != 0,
            _ => false,
        }
    }

    /// A message on the APIC bus; whether it was accepted.
    pub fn deliver(&mut self, message: Message) -> bool {
        if !self.hardware_enabled() || !self.addressed(message.logical, message.destination) {
            return false;
        }
        self.accept(message.delivery, message.vector, message.level)
    }

    fn accept(&mut self, delivery: u8, vector: u8, level: bool) -> bool {
        match delivery {
            FIXED | LOWEST => {
                if self.svr & SVR_ENABLE == 0 {
                    return false;
                }
                if vector < 16 {
                    self.error(ESR_RECEIVE_ILLEGAL);
                    return true;
                }
                set(&mut self.irr, vector, true);
                set(&mut self.tmr, vector, level);
                self.update();
            }
            NMI => self.nmi = true,
            INIT => self.events.init = true,
            EXTINT => self.extint = true,
            // There is no system-management mode, and the only processor is running.
            _ => {}
        }
        true
    }

    fn error(&mut self, bits: u32) {
        self.errors |= bits;
        let lvt = self.lvt[LVT_ERROR];
        if lvt & LVT_MASKED == 0 && lvt as u8 >= 16 {
            self.accept(FIXED, lvt as u8, false);
        }
    }

    /// Sets LINT0, the INT output of the PIC.
    pub fn set_lint0(&mut self, high: bool) {
        let rises = high && !self.lint0;
        self.lint0 = high;
        self.local_interrupt(LVT_LINT0, high, rises);
    }

    /// Sets LINT1, the NMI line of the board.
    pub fn set_lint1(&mut self, high: bool) {
        let rises = high && !self.lint1;
        self.lint1 = high;
        self.local_interrupt(LVT_LINT1, high, rises);
    }

    fn local_interrupt(&mut self, entry: usize, high: bool, rises: bool) {
        if !self.hardware_enabled() {
            // LINT1 is the CPU's NMI pin (SDM 3A 11.4.3).
            self.nmi |= rises && entry == LVT_LINT1;
            return;
        }
        let lvt = self.lvt[entry];
        let delivery = (lvt >> 8 & 7) as u8;
        if lvt & LVT_MASKED != 0 || delivery == EXTINT {
            return;
        }
        if delivery != FIXED {
            if rises {
                self.accept(delivery, lvt as u8, false);
            }
        } else if lvt & LVT_LEVEL == 0 {
            if rises {
                self.accept(FIXED, lvt as u8, false);
            }
        } else if high && lvt & LVT_REMOTE_IRR == 0 && self.accept(FIXED, lvt as u8, true) {
            self.lvt[entry] |= LVT_REMOTE_IRR;
        }
    }

    fn end_of_interrupt(&mut self) {
        let Some(vector) = highest(&self.isr) else { return };
        set(&mut self.isr, vector, false);
        if is_set(&self.tmr, vector) {
            self.events.eoi = Some(vector);
            for (entry, high) in [(LVT_LINT0, self.lint0), (LVT_LINT1, self.lint1)] {
                if self.lvt[entry] & LVT_REMOTE_IRR != 0 && self.lvt[entry] as u8 == vector {
                    self.lvt[entry] &= !LVT_REMOTE_IRR;
                    self.local_interrupt(entry, high, false);
                }
            }
        }
        self.update();
    }

    fn send_ipi(&mut self) {
        let icr = self.icr as u32;
        let delivery = (icr >> 8 & 7) as u8;
        let vector = icr as u8;
        let to_self = match icr >> 18 & 3 {
            0 => self.addressed(icr >> 11 & 1 != 0, (self.icr >> 56) as u8),
            1 | 2 => true,
            _ => false,
        };
        let level = icr & (1 << 15) != 0;
        let deasserted = icr & (1 << 14) == 0;
        if delivery == INIT && level && deasserted {
            // INIT level de-assert only synchronises arbitration IDs.
            return;
        }
        if matches!(delivery, FIXED | LOWEST) && vector < 16 {
            self.error(ESR_SEND_ILLEGAL);
        } else if to_self && delivery != EXTINT {
            self.accept(delivery, vector, false);
        }
    }

    // ---- timer ----

    fn deadline_mode(&self) -> bool {
        self.lvt[LVT_TIMER] >> 17 & 3 == 2
    }

    fn periodic(&self) -> bool {
        self.lvt[LVT_TIMER] >> 17 & 3 == 1
    }

    /// Nanoseconds per count (divide configuration register).
    fn count_ns(&self) -> u64 {
        let code = (self.divide & 3) | (self.divide & 8) >> 1;
        CRYSTAL_NS * if code == 7 { 1 } else { 2 << code }
    }

    fn period_ns(&self) -> u64 {
        u64::from(self.initial_count) * self.count_ns()
    }

    fn expiry(&self) -> Option<VirtualNs> {
        match self.timer {
            Timer::Stopped => None,
            Timer::Counting(start) => Some(VirtualNs(start.0.wrapping_add(self.period_ns()))),
            Timer::Deadline(_, at) => Some(at),
        }
    }

    /// When the timer interrupts. A masked timer counts unseen.
    #[inline]
    pub fn deadline(&self) -> Option<VirtualNs> {
        if self.lvt[LVT_TIMER] & LVT_MASKED != 0 { None } else { self.expiry() }
    }

    /// Moves the timer past expiries up to `now`; whether there was one.
    fn expire(&mut self, now: VirtualNs) -> bool {
        if self.expiry().is_none_or(|at| at > now) {
            return false;
        }
        self.timer = match self.timer {
            Timer::Counting(start) if self.periodic() && self.initial_count != 0 => {
                let period = self.period_ns();
                Timer::Counting(VirtualNs(now.0.wrapping_sub(now.0.wrapping_sub(start.0) % period)))
            }
            _ => Timer::Stopped,
        };
        true
    }

    /// Raises the timer's interrupt if it is due; otherwise does nothing.
    pub fn advance(&mut self, now: VirtualNs) {
        if self.deadline().is_some_and(|at| at <= now) && self.expire(now) {
            self.accept(FIXED, self.lvt[LVT_TIMER] as u8, false);
        }
    }

    fn current_count(&self, now: VirtualNs) -> u32 {
        let Timer::Counting(start) = self.timer else { return 0 };
        let passed = now.0.wrapping_sub(start.0) / self.count_ns();
        let count = u64::from(self.initial_count);
        if passed < count {
            (count - passed) as u32
        } else if self.periodic() && count != 0 {
            (count - passed % count) as u32
        } else {
            0
        }
    }

    fn write_initial_count(&mut self, now: VirtualNs, value: u32) {
        if self.deadline_mode() {
            return;
        }
        self.initial_count = value;
        self.timer = if value == 0 { Timer::Stopped } else { Timer::Counting(now) };
    }

    /// Divides the rest of the count by the new divisor.
    fn write_divide(&mut self, now: VirtualNs, value: u8) {
        self.expire(now);
        let left = self.current_count(now);
        self.divide = value & 0x0B;
        if let Timer::Counting(_) = self.timer {
            let passed = u64::from(self.initial_count - left.min(self.initial_count));
            let since = now.0.wrapping_sub(passed * self.count_ns());
            self.timer = Timer::Counting(VirtualNs(since));
        }
    }

    fn write_lvt_timer(&mut self, now: VirtualNs, value: u32) {
        self.expire(now);
        let deadline_before = self.deadline_mode();
        self.lvt[LVT_TIMER] = value;
        if self.deadline_mode() != deadline_before {
            // A change to or from TSC-deadline mode disarms the timer (SDM 3A 11.5.4.1).
            self.timer = Timer::Stopped;
        }
    }

    /// IA32_TSC_DEADLINE.
    pub fn tsc_deadline(&mut self, now: VirtualNs) -> u64 {
        self.expire_unseen(now);
        if let Timer::Deadline(value, _) = self.timer { value } else { 0 }
    }

    fn expire_unseen(&mut self, now: VirtualNs) {
        if self.lvt[LVT_TIMER] & LVT_MASKED != 0 {
            self.expire(now);
        }
    }

    /// Writes IA32_TSC_DEADLINE; `tsc_offset` is TSC minus virtual nanoseconds. Ignored in other
    /// timer modes.
    pub fn set_tsc_deadline(&mut self, now: VirtualNs, value: u64, tsc_offset: u64) {
        if !self.deadline_mode() || !self.hardware_enabled() {
            return;
        }
        self.timer = if value == 0 { Timer::Stopped } else { at_tsc(now, value, tsc_offset) };
    }

    /// The TSC was written: an armed deadline moves with it.
    pub fn tsc_offset_changed(&mut self, now: VirtualNs, tsc_offset: u64) {
        self.expire_unseen(now);
        if let Timer::Deadline(value, _) = self.timer {
            self.timer = at_tsc(now, value, tsc_offset);
        }
    }

    // ---- registers ----

    /// Reads the register at `offset` in the page (a multiple of 16).
    pub fn read(&mut self, now: VirtualNs, offset: u64) -> u32 {
        let word = (offset >> 4 & 7) as usize;
        match offset >> 4 {
            0x02 => u32::from(self.id) << 24,
            0x03 => VERSION,
            0x08 => u32::from(self.tpr),
            // Arbitration priority, and remote read: not in this generation.
            0x09 | 0x0C => 0,
            0x0A => u32::from(self.ppr()),
            0x0D => u32::from(self.ldr) << 24,
            0x0E => self.dfr,
            0x0F => self.svr,
            0x10..=0x17 => self.isr[word],
            0x18..=0x1F => self.tmr[word],
            0x20..=0x27 => self.irr[word],
            0x28 => self.esr,
            0x30 => self.icr as u32,
            0x31 => (self.icr >> 32) as u32,
            register @ 0x32..=0x37 => self.lvt[(register - 0x32) as usize],
            0x38 => self.initial_count,
            0x39 => self.current_count(now),
            0x3E => u32::from(self.divide),
            // EOI is write-only and reads as 0.
            0x0B => 0,
            _ => {
                self.error(ESR_REGISTER_ILLEGAL);
                0
            }
        }
    }

    /// Writes the register at `offset` in the page (a multiple of 16).
    pub fn write(&mut self, now: VirtualNs, offset: u64, value: u32) {
        match offset >> 4 {
            0x02 => self.id = (value >> 24) as u8,
            0x08 => self.set_tpr(value as u8),
            0x0B => self.end_of_interrupt(),
            0x0D => self.ldr = (value >> 24) as u8,
            0x0E => self.dfr = value | 0x0FFF_FFFF,
            0x0F => self.write_svr(value),
            0x28 => self.esr = core::mem::take(&mut self.errors),
            0x30 => {
                // Delivery status is read-only: sending takes no time.
                self.icr = self.icr & !0xFFFF_FFFF | u64::from(value & 0x000C_CFFF);
                self.send_ipi();
            }
            0x31 => self.icr = self.icr & 0xFFFF_FFFF | u64::from(value & 0xFF00_0000) << 32,
            register @ 0x32..=0x37 => self.write_lvt(now, (register - 0x32) as usize, value),
            0x38 => self.write_initial_count(now, value),
            0x3E => self.write_divide(now, value as u8),
            // Read-only registers.
            0x03 | 0x09 | 0x0A | 0x0C | 0x10..=0x27 | 0x39 => {}
            _ => self.error(ESR_REGISTER_ILLEGAL),
        }
    }

    fn write_svr(&mut self, value: u32) {
        // Focus checking (bit 9) is kept; EOI-broadcast suppression is not offered.
        self.svr = value & 0x3FF;
        if self.svr & SVR_ENABLE == 0 {
            for lvt in &mut self.lvt {
                *lvt |= LVT_MASKED;
            }
        }
    }

    fn write_lvt(&mut self, now: VirtualNs, entry: usize, value: u32) {
        let mut value = value & LVT_WRITABLE[entry] | self.lvt[entry] & LVT_REMOTE_IRR;
        if self.svr & SVR_ENABLE == 0 {
            value |= LVT_MASKED;
        }
        if value & LVT_LEVEL == 0 {
            value &= !LVT_REMOTE_IRR;
        }
        match entry {
            LVT_TIMER => self.write_lvt_timer(now, value),
            LVT_LINT0 | LVT_LINT1 => {
                self.lvt[entry] = value;
                let high = if entry == LVT_LINT0 { self.lint0 } else { self.lint1 };
                // A level that already stands is seen when the entry is unmasked.
                self.local_interrupt(entry, high, false);
            }
            _ => self.lvt[entry] = value,
        }
    }
}

/// A timer armed for the TSC value `value`: in the past, it is due at once.
fn at_tsc(now: VirtualNs, value: u64, tsc_offset: u64) -> Timer {
    let tsc = now.0.wrapping_add(tsc_offset);
    Timer::Deadline(value, now.after(value.saturating_sub(tsc)))
}
