//! The host's clock for what another computer waits for.
//!
//! Contract: never back, and unlike `std::time::Instant` it counts while the computer sleeps.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the host was started.
#[must_use]
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
