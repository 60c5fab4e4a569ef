//! Time since the start, from the time-stamp counter, whose rate is measured once against the ACPI
//! timer.

use crate::cpu::{in32, rdtsc};
use crate::interrupts;

/// The ACPI power-management timer's rate (ACPI 6.5, 4.8.3.3).
const PM_TIMER_HZ: u64 = 3_579_545;
/// The timer has at least 24 bits.
const PM_TIMER_MASK: u32 = 0xFF_FFFF;
const CALIBRATION_TICKS: u64 = 5;
/// Binary digits after the point of `micros_per_cycle`.
const FRACTION_BITS: u32 = 44;

/// The monotonic clock.
pub struct Clock {
    origin: u64,
    hz: u64,
    micros_per_cycle: u64,
}

/// The counter and the timer read at nearly the same moment: the tightest of a few tries.
fn read_both(pm_timer: u16) -> (u64, u32) {
    let tries = [(); 5].map(|()| {
        let before = rdtsc();
        let timer = in32(pm_timer) & PM_TIMER_MASK;
        (rdtsc() - before, before, timer)
    });
    let (_, cycles, timer) = tries.into_iter().min().expect("five tries");
    (cycles, timer)
}

impl Clock {
    /// Measures the time-stamp counter over 50 ms of the timer at port `pm_timer`.
    pub fn calibrate(pm_timer: u16) -> Self {
        let (origin, timer_start) = read_both(pm_timer);
        interrupts::wait_ticks(CALIBRATION_TICKS);
        let (cycles_end, timer_end) = read_both(pm_timer);
        let timer = u64::from(timer_end.wrapping_sub(timer_start) & PM_TIMER_MASK).max(1);
        let hz = ((cycles_end - origin) * PM_TIMER_HZ / timer).max(1_000_000);
        let micros_per_cycle = ((1_000_000u128 << FRACTION_BITS) / u128::from(hz)) as u64;
        Clock { origin, hz, micros_per_cycle }
    }

    /// Cycles of the time-stamp counter in a second.
    pub fn hz(&self) -> u64 {
        self.hz
    }

    /// Microseconds since the start.
    pub fn now(&self) -> u64 {
        let cycles = rdtsc().wrapping_sub(self.origin);
        ((u128::from(cycles) * u128::from(self.micros_per_cycle)) >> FRACTION_BITS) as u64
    }
}
