//! The 82093AA I/O APIC: 24 inputs, register window at FEC00000h.
//!
//! Contract: inputs are set by [`IoApic::set_line`] as asserted or not (INTPOL is kept but the
//! board's lines have no polarity); messages are handed to the local APIC in
//! [`IoApic::service`], which must follow every change.

use serde::{Deserialize, Serialize};

/// Where the registers stand.
pub const BASE: u64 = 0xFEC0_0000;
/// Inputs.
pub const PINS: u8 = 24;

const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Vector, modes, polarity, trigger, mask and destination; status bits are read-only.
const WRITABLE: u64 = 0xFF00_0000_0001_AFFF;
const VERSION: u32 = (PINS as u32 - 1) << 16 | 0x11;

/// An interrupt message on its way to a local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Interrupt vector.
    pub vector: u8,
    /// 0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT, 7 ExtINT.
    pub delivery: u8,
    /// Logical destination mode.
    pub logical: bool,
    /// Level-triggered.
    pub level: bool,
    /// Destination field.
    pub destination: u8,
}

/// The I/O APIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApic {
    id: u8,
    select: u8,
    lines: u32,
    /// Edges that wait for delivery.
    edges: u32,
    /// Pins by the bits of their entries, for a quick look.
    masked: u32,
    level: u32,
    remote_irr: u32,
    redirection: [u64; PINS as usize],
}

impl Default for IoApic {
    fn default() -> Self {
        Self {
            id: 0,
            select: 0,
            lines: 0,
            edges: 0,
            masked: (1 << PINS) - 1,
            level: 0,
            remote_irr: 0,
            redirection: [MASKED; PINS as usize],
        }
    }
}

impl IoApic {
    /// Sets input `pin` asserted or not. Edges at a masked input are lost (82093AA 3.2.4).
    pub fn set_line(&mut self, pin: u8, asserted: bool) {
        let bit = 1 << pin;
        let rises = asserted && self.lines & bit == 0;
        self.lines = if asserted { self.lines | bit } else { self.lines & !bit };
        let entry = self.redirection[usize::from(pin)];
        if rises && entry & (LEVEL | MASKED) == 0 {
            self.edges |= bit;
        }
    }

    /// Whether `pin` is unmasked.
    #[inline]
    pub fn unmasked(&self, pin: u8) -> bool {
        self.redirection[usize::from(pin)] & MASKED == 0
    }

    /// Whether `pin` is level-triggered.
    pub fn level_triggered(&self, pin: u8) -> bool {
        self.redirection[usize::from(pin)] & LEVEL != 0
    }

    /// The pins that want to send.
    #[inline]
    fn waiting(&self) -> u32 {
        let levels = self.lines & self.level & !self.remote_irr;
        (levels | self.edges & !self.level) & !self.masked
    }

    fn classify(&mut self, pin: usize) {
        let entry = self.redirection[pin];
        let set = |bits: &mut u32, flag: u64| {
            *bits = *bits & !(1 << pin) | u32::from(entry & flag != 0) << pin;
        };
        set(&mut self.masked, MASKED);
        set(&mut self.level, LEVEL);
        set(&mut self.remote_irr, REMOTE_IRR);
    }

    /// Offers each message that wants to go out to `deliver`, which says whether a local APIC
    /// accepted it. A level-triggered one that nobody accepts is tried again at the next call.
    pub fn service(&mut self, mut deliver: impl FnMut(Message) -> bool) {
        let mut waiting = self.waiting();
        while waiting != 0 {
            let pin = waiting.trailing_zeros() as usize;
            waiting &= waiting - 1;
            // Only pins that exist are ever classified as unmasked.
            let Some(entry) = self.redirection.get_mut(pin) else { break };
            let message = Message {
                vector: *entry as u8,
                delivery: (*entry >> 8 & 7) as u8,
                logical: *entry >> 11 & 1 != 0,
                level: *entry & LEVEL != 0,
                destination: (*entry >> 56) as u8,
            };
            if deliver(message) && message.level {
                *entry |= REMOTE_IRR;
            }
            self.edges &= !(1 << pin);
            self.classify(pin);
        }
    }

    /// An EOI for `vector` from a local APIC.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..usize::from(PINS) {
            let entry = &mut self.redirection[pin];
            if *entry & LEVEL != 0 && *entry as u8 == vector {
                *entry &= !REMOTE_IRR;
                self.classify(pin);
            }
        }
    }

    /// Reads the aligned doubleword at `offset` in the window.
    pub fn read(&self, offset: u64) -> u32 {
        match offset & 0xF0 {
            0x00 => u32::from(self.select),
            0x10 => match self.select {
                // The arbitration ID follows the ID (82093AA 3.2.3).
                0 | 2 => u32::from(self.id) << 24,
                1 => VERSION,
                select @ 0x10..0x40 => {
                    let entry = self.redirection[usize::from(select - 0x10) / 2];
                    (entry >> (32 * (select & 1))) as u32
                }
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Writes the aligned doubleword at `offset` in the window.
    pub fn write(&mut self, offset: u64, value: u32) {
        match (offset & 0xF0, self.select) {
            (0x00, _) => self.select = value as u8,
            (0x10, 0) => self.id = (value >> 24) as u8 & 0x0F,
            (0x10, select @ 0x10..0x40) => {
                let pin = usize::from(select - 0x10) / 2;
                let shift = 32 * (select & 1);
                let keep = !(0xFFFF_FFFF << shift) | !WRITABLE;
                let entry = &mut self.redirection[pin];
                *entry = *entry & keep | u64::from(value) << shift & WRITABLE;
                if *entry & LEVEL == 0 {
                    // An edge-triggered entry has no remote IRR.
                    *entry &= !REMOTE_IRR;
                } else {
                    self.edges &= !(1 << pin);
                }
                self.classify(pin);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ioapic: &mut IoApic, register: u8, value: u32) {
        ioapic.write(0x00, u32::from(register));
        ioapic.write(0x10, value);
    }

    fn get(ioapic: &mut IoApic, register: u8) -> u32 {
        ioapic.write(0x00, u32::from(register));
        ioapic.read(0x10)
    }

    fn pin(ioapic: &mut IoApic, pin: u8, low: u32) {
        set(ioapic, 0x11 + 2 * pin, 0x0500_0000);
        set(ioapic, 0x10 + 2 * pin, low);
    }

    #[test]
    fn registers() {
        let mut ioapic = IoApic::default();
        // (register, written, read)
        for (register, written, read) in [
            (0x00, 0xFFFF_FFFF, 0x0F00_0000),
            (0x01, 0, 0x0017_0011),
            (0x02, 0, 0x0F00_0000),
            (0x10, 0xFFFF_FFFF, 0x0001_AFFF),
            (0x11, 0xFFFF_FFFF, 0xFF00_0000),
            (0x3F, 0x1200_0000, 0x1200_0000),
            (0x40, 0x1200_0000, 0),
        ] {
            set(&mut ioapic, register, written);
            assert_eq!(get(&mut ioapic, register), read, "{register:02X}");
        }
        assert_eq!(get(&mut IoApic::default(), 0x3E), 0x0001_0000);
    }

    fn take(ioapic: &mut IoApic) -> Option<Message> {
        let mut taken = None;
        ioapic.service(|message| {
            assert_eq!(taken.replace(message), None);
            true
        });
        taken
    }

    #[test]
    fn edges_are_sent_once_and_lost_when_masked() {
        let mut ioapic = IoApic::default();
        ioapic.set_line(4, true);
        ioapic.set_line(4, false);
        pin(&mut ioapic, 4, 0x0000_0931);
        assert_eq!(take(&mut ioapic), None);
        ioapic.set_line(4, true);
        ioapic.set_line(4, true);
        let message =
            Message { vector: 0x31, delivery: 1, logical: true, level: false, destination: 5 };
        assert_eq!(take(&mut ioapic), Some(message));
        assert_eq!(take(&mut ioapic), None);
    }

    #[test]
    fn levels_wait_for_the_end_of_interrupt() {
        let mut ioapic = IoApic::default();
        ioapic.set_line(11, true);
        pin(&mut ioapic, 11, 0x0000_A041);
        ioapic.service(|_| false);
        assert!(take(&mut ioapic).is_some_and(|message| message.level));
        assert_eq!(get(&mut ioapic, 0x26), 0x0000_E041);
        assert_eq!(take(&mut ioapic), None);
        ioapic.end_of_interrupt(0x40);
        assert_eq!(take(&mut ioapic), None);
        ioapic.end_of_interrupt(0x41);
        assert!(take(&mut ioapic).is_some());
        ioapic.set_line(11, false);
        ioapic.end_of_interrupt(0x41);
        assert_eq!(take(&mut ioapic), None);
        // Changing to edge and back clears a stuck remote IRR.
        ioapic.set_line(11, true);
        assert!(take(&mut ioapic).is_some());
        pin(&mut ioapic, 11, 0x0001_2041);
        pin(&mut ioapic, 11, 0x0000_A041);
        assert!(take(&mut ioapic).is_some());
    }
}
