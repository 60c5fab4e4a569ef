//! Interrupt causes, masks and throttling.
//!
//! Contract: software developer's manual sections 13.4.17 to 13.4.21 and 3.2.7.1: the line is
//! asserted while an unmasked cause is set; with ITR set, two assertions are at least its interval
//! apart, measured from assertion to assertion. Reading ICR clears it.

use super::registers::cause;
use crate::time::VirtualNs;
use serde::{Deserialize, Serialize};

/// Unit of ITR in nanoseconds.
const ITR_UNIT_NS: u64 = 256;

/// The interrupt logic.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Interrupt {
    causes: u32,
    mask: u32,
    interval: u16,
    line: bool,
    /// The line is not asserted before this time.
    holdoff: VirtualNs,
}

impl Interrupt {
    /// The level of the interrupt pin.
    pub(super) fn line(&self) -> bool {
        self.line
    }

    /// When the line will be asserted, if it waits for the throttle.
    pub(super) fn deadline(&self) -> Option<VirtualNs> {
        (self.causes & self.mask != 0 && !self.line).then_some(self.holdoff)
    }

    /// Brings the line up to date.
    pub(super) fn update(&mut self, now: VirtualNs) {
        if self.causes & self.mask == 0 {
            self.line = false;
        } else if !self.line && now >= self.holdoff {
            self.line = true;
            self.holdoff = now.after(u64::from(self.interval) * ITR_UNIT_NS);
        }
    }

    /// Sets causes: an event, or a write of ICS.
    pub(super) fn set(&mut self, now: VirtualNs, causes: u32) {
        self.causes |= causes & cause::ALL;
        self.update(now);
    }

    /// Reads ICR.
    pub(super) fn read_icr(&mut self, now: VirtualNs) -> u32 {
        let causes = core::mem::take(&mut self.causes);
        self.update(now);
        causes
    }

    /// Writes ICR: ones clear.
    pub(super) fn write_icr(&mut self, now: VirtualNs, value: u32) {
        self.causes &= !value;
        self.update(now);
    }

    pub(super) fn mask(&self) -> u32 {
        self.mask
    }

    /// Writes IMS (`set`) or IMC.
    pub(super) fn write_mask(&mut self, now: VirtualNs, value: u32, set: bool) {
        self.mask = if set { self.mask | value & cause::ALL } else { self.mask & !value };
        self.update(now);
    }

    pub(super) fn interval(&self) -> u16 {
        self.interval
    }

    /// Writes ITR; an interval under way is measured anew from its beginning.
    pub(super) fn write_interval(&mut self, now: VirtualNs, interval: u16) {
        let began = self.holdoff.0.saturating_sub(u64::from(self.interval) * ITR_UNIT_NS);
        self.holdoff = VirtualNs(began).after(u64::from(interval) * ITR_UNIT_NS);
        self.interval = interval;
        self.update(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_read_clear() {
        let now = VirtualNs(0);
        let mut interrupt = Interrupt::default();
        interrupt.set(now, cause::RXT0 | cause::TXDW | 1 << 30);
        assert!(!interrupt.line());
        interrupt.write_mask(now, u32::MAX, true);
        assert_eq!(interrupt.mask(), cause::ALL);
        assert!(interrupt.line());
        interrupt.write_mask(now, cause::RXT0, false);
        assert!(interrupt.line());
        interrupt.write_icr(now, cause::TXDW);
        assert!(!interrupt.line());
        assert_eq!(interrupt.read_icr(now), cause::RXT0);
        assert_eq!(interrupt.read_icr(now), 0);
    }

    #[test]
    fn throttle_separates_assertions() {
        let mut interrupt = Interrupt::default();
        interrupt.write_mask(VirtualNs(0), cause::RXT0, true);
        interrupt.write_interval(VirtualNs(0), 4);
        interrupt.set(VirtualNs(2000), cause::RXT0);
        assert!(interrupt.line(), "the first is immediate");
        interrupt.read_icr(VirtualNs(2100));
        interrupt.set(VirtualNs(2200), cause::RXT0);
        assert!(!interrupt.line());
        assert_eq!(interrupt.deadline(), Some(VirtualNs(2000 + 4 * 256)));
        interrupt.update(VirtualNs(3023));
        assert!(!interrupt.line());
        interrupt.update(VirtualNs(3024));
        assert!(interrupt.line());
        assert_eq!(interrupt.deadline(), None);
        interrupt.read_icr(VirtualNs(3030));
        interrupt.set(VirtualNs(3040), cause::RXT0);
        interrupt.write_interval(VirtualNs(3050), 0);
        assert!(interrupt.line(), "switching the throttle off releases");
    }
}
