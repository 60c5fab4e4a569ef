//! Whether the channel's user lives, seen from the channel's threads.
//!
//! Contract: a user counts as alive for a time after each [`Life::beat`]; without [`Life::keep`] it
//! never does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The user's life.
#[derive(Debug)]
pub(super) struct Life {
    began: Instant,
    /// Nanoseconds since then of the last sign.
    last: AtomicU64,
    beat: AtomicU64,
    grace: AtomicU64,
}

impl Life {
    pub(super) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self { began: Instant::now(), last: zero(), beat: zero(), grace: zero() }
    }

    pub(super) fn keep(&self, beat: Duration, grace: Duration) {
        self.beat();
        self.grace.store(grace.as_nanos() as u64, Ordering::Relaxed);
        self.beat.store(beat.as_nanos() as u64, Ordering::Relaxed);
    }

    /// The user lives.
    pub(super) fn beat(&self) {
        self.last.store(self.began.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// After how long a silence a sign of life is due, if signs are wanted.
    pub(super) fn silence(&self) -> Option<Duration> {
        let beat = self.beat.load(Ordering::Relaxed);
        (beat > 0).then(|| Duration::from_nanos(beat))
    }

    pub(super) fn is_alive(&self) -> bool {
        let now = self.began.elapsed().as_nanos() as u64;
        let last = self.last.load(Ordering::Relaxed);
        now.saturating_sub(last) < self.grace.load(Ordering::Relaxed)
    }
}
