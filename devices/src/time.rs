//! Instruction counts and virtual time.
//!
//! Contract: virtual time is a function of the instruction count, of the logged `ClockRate` inputs
//! and of the time skipped while the CPU was halted; of nothing else.

use serde::{Deserialize, Serialize};

/// Retired instructions since power-on; each iteration of a REP string instruction counts as one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Icount(pub u64);

/// Virtual nanoseconds since power-on.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct VirtualNs(pub u64);

impl VirtualNs {
    /// Nanoseconds in a second.
    pub const SECOND: u64 = 1_000_000_000;

    /// The time `ns` nanoseconds later, saturating.
    #[must_use]
    pub const fn after(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// The earlier of two times, where `None` is never.
    #[inline]
    #[must_use]
    pub const fn earlier(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if a.0 < b.0 { a } else { b }),
            (Some(at), None) | (None, Some(at)) => Some(at),
            (None, None) => None,
        }
    }

    /// Ticks of a clock of `hz` hertz that have passed at this time, rounded down.
    #[must_use]
    pub const fn ticks(self, hz: u64) -> u64 {
        // Whole seconds apart from the rest, so that 64 bits do for clocks up to 18 GHz.
        let (seconds, rest) = (self.0 / Self::SECOND, self.0 % Self::SECOND);
        seconds.wrapping_mul(hz).wrapping_add(rest * hz / Self::SECOND)
    }

    /// The first time at which [`ticks`](Self::ticks) of `hz` is at least `ticks`.
    #[must_use]
    pub const fn of_tick(ticks: u64, hz: u64) -> Self {
        let (seconds, rest) = (ticks / hz, ticks % hz);
        let rest = (rest * Self::SECOND).div_ceil(hz);
        Self(seconds.saturating_mul(Self::SECOND).saturating_add(rest))
    }
}

/// Nanoseconds per instruction as a 32.32 fixed-point number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate(pub u64);

impl Rate {
    /// One nanosecond per instruction, the rate at power-on.
    pub const ONE: Self = Self(1 << 32);
    /// The slowest guest: 10 microseconds per instruction.
    pub const MAX: Self = Self(10_000 << 32);
    /// The fastest guest: 1/64 ns per instruction.
    pub const MIN: Self = Self((1 << 32) / 64);

    /// `self` forced into the range that the clock accepts.
    #[must_use]
    pub fn clamped(self) -> Self {
        Self(self.0.clamp(Self::MIN.0, Self::MAX.0))
    }
}

/// The guest's clock: virtual nanoseconds from the instruction count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    base_icount: Icount,
    base_ns: VirtualNs,
    /// Fraction of a nanosecond at the base, in units of 2^-32 ns.
    base_fraction: u32,
    rate: Rate,
}

impl Default for Clock {
    fn default() -> Self {
        Self { base_icount: Icount(0), base_ns: VirtualNs(0), base_fraction: 0, rate: Rate::ONE }
    }
}

impl Clock {
    /// Byte offsets of what [`Clock::now`] uses, for an accelerator: `base_icount`, `base_ns`,
    /// `base_fraction` (32 bits) and `rate`.
    pub const OFFSETS: [usize; 4] = [
        core::mem::offset_of!(Clock, base_icount),
        core::mem::offset_of!(Clock, base_ns),
        core::mem::offset_of!(Clock, base_fraction),
        core::mem::offset_of!(Clock, rate),
    ];

    /// The rate in force.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Virtual time when `icount` instructions have retired.
    #[inline]
    pub fn now(&self, icount: Icount) -> VirtualNs {
        let n = icount.0.wrapping_sub(self.base_icount.0);
        let fixed = u128::from(n) * u128::from(self.rate.0) + u128::from(self.base_fraction);
        VirtualNs(self.base_ns.0.saturating_add((fixed >> 32) as u64))
    }

    /// The smallest instruction count at which [`now`](Self::now) is at least `at`; `None` past
    /// the end of counting.
    pub fn icount_at(&self, at: VirtualNs) -> Option<Icount> {
        let Some(ns) = at.0.checked_sub(self.base_ns.0) else { return Some(self.base_icount) };
        let fixed = (u128::from(ns) << 32).saturating_sub(u128::from(self.base_fraction));
        // A snapshot may say anything: a rate of 0 would never get there.
        let rate = self.rate.0.max(1);
        // Four seconds ahead and less, that is nearly always, 64 bits do.
        let n = match u64::try_from(fixed) {
            Ok(fixed) => fixed.div_ceil(rate),
            Err(_) => u64::try_from(fixed.div_ceil(u128::from(rate))).ok()?,
        };
        self.base_icount.0.checked_add(n).map(Icount)
    }

    /// Changes the rate from `icount` on; time does not jump.
    pub fn set_rate(&mut self, icount: Icount, rate: Rate) {
        self.rebase(icount);
        self.rate = rate.clamped();
    }

    /// Moves time on to `to` without an instruction: the CPU is halted. Earlier times are ignored.
    pub fn skip_to(&mut self, icount: Icount, to: VirtualNs) {
        // Time that does not move leaves the clock as it is: a halted machine that is looked at
        // more often than another one has the same state.
        if to > self.now(icount) {
            self.rebase(icount);
            self.base_ns = to;
            self.base_fraction = 0;
        }
    }

    fn rebase(&mut self, icount: Icount) {
        let n = icount.0.wrapping_sub(self.base_icount.0);
        let fixed = u128::from(n) * u128::from(self.rate.0) + u128::from(self.base_fraction);
        self.base_ns = VirtualNs(self.base_ns.0.saturating_add((fixed >> 32) as u64));
        self.base_fraction = fixed as u32;
        self.base_icount = icount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_is_the_first_count_that_reaches_it() {
        for rate in [Rate::ONE, Rate(3 << 31), Rate(0x1_2345_6789), Rate::MIN, Rate::MAX] {
            let mut clock = Clock::default();
            clock.set_rate(Icount(17), rate);
            clock.skip_to(Icount(40), VirtualNs(1_000_003));
            clock.set_rate(Icount(1_001), Rate(0x9_8765_4321));
            clock.set_rate(Icount(2_001), rate);
            let now = clock.now(Icount(2_001));
            for ahead in [0, 1, 2, 999, 1_000_000, 54_925_417] {
                let at = now.after(ahead);
                let count = clock.icount_at(at).expect("in range");
                assert!(clock.now(count) >= at);
                assert!(count.0 == 2_001 || clock.now(Icount(count.0 - 1)) < at);
            }
        }
    }

    #[test]
    fn time_that_does_not_move_leaves_no_trace() {
        let mut clock = Clock::default();
        clock.set_rate(Icount(3), Rate(0x1_2345_6789));
        let before = clock.clone();
        let now = clock.now(Icount(1_000));
        clock.skip_to(Icount(1_000), now);
        clock.skip_to(Icount(1_000), VirtualNs(now.0 - 1));
        assert_eq!(clock, before);
        let mut steps = clock.clone();
        for ahead in [1, 5, 5, 3, 9] {
            steps.skip_to(Icount(1_000), now.after(ahead));
        }
        clock.skip_to(Icount(1_000), now.after(9));
        assert_eq!(clock, steps);
    }

    #[test]
    fn ticks_and_their_times_agree() {
        for hz in [32_768, 1_193_182, 3_579_545, 25_000_000, 1_000_000_000] {
            for tick in [0, 1, 2, 65_536, 1 << 30] {
                let at = VirtualNs::of_tick(tick, hz);
                assert_eq!(at.ticks(hz), tick);
                assert!(tick == 0 || VirtualNs(at.0 - 1).ticks(hz) < tick);
            }
        }
    }
}
