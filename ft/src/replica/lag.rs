//! How far the backup's execution is behind, and how fast the primary may run.
//!
//! Contract: the lag is the host's time since the primary was where the backup is. Between half of
//! the largest lag and all of it the primary's share of the time falls smoothly; it stops when
//! buffers are full, and goes on when they are half empty.

use super::Config;
use crate::event::Pace;
use crate::message::Ack;
use crate::types::HostNs;
use alloc::collections::VecDeque;

/// Points of the primary's path that are remembered.
const POINTS: usize = 1024;
/// Smallest share of the time, in thousandths.
const LEAST: u64 = 50;
/// Steps in which the share changes, in thousandths.
const STEP: u64 = 50;

/// The distance to the backup.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// Counts of the primary, and when it was there.
    path: VecDeque<(u64, HostNs)>,
    /// Frames that are not acknowledged: the number of the entry after, bytes, when sent.
    sent: VecDeque<(u64, u64, HostNs)>,
    sent_bytes: u64,
    waiting_bytes: u64,
    lag: u64,
    full: bool,
    round_trip: u64,
}

impl Lag {
    /// The primary is at `icount`.
    pub(super) fn passed(&mut self, icount: u64, now: HostNs) {
        if self.path.back().is_none_or(|&(last, _)| last < icount) {
            if self.path.len() == POINTS {
                // Every second point will do for what is long ago.
                let mut n = 0;
                self.path.retain(|_| {
                    n += 1;
                    n % 2 == 0
                });
            }
            self.path.push_back((icount, now));
        }
    }

    /// A frame of `bytes` that ends before entry `next` was sent.
    pub(super) fn sent(&mut self, next: u64, bytes: u64, now: HostNs) {
        self.sent.push_back((next, bytes, now));
        self.sent_bytes += bytes;
    }

    /// The backup has answered.
    pub(super) fn acknowledged(&mut self, ack: &Ack, now: HostNs) {
        while let Some(&(next, bytes, at)) = self.sent.front() {
            if next > ack.received {
                break;
            }
            self.sent.pop_front();
            self.sent_bytes -= bytes;
            let sample = now.since(at);
            self.round_trip = match self.round_trip {
                0 => sample,
                old => (old * 7 + sample) / 8,
            };
        }
        self.waiting_bytes = ack.waiting_bytes;
        while self.path.get(1).is_some_and(|&(icount, _)| icount <= ack.icount) {
            self.path.pop_front();
        }
        self.lag = match self.path.front() {
            // Where the primary was last is where the backup is: it knows of nothing more to do.
            Some(&(icount, _)) if self.path.len() == 1 && icount <= ack.icount => 0,
            Some(&(_, at)) => now.since(at),
            None => 0,
        };
    }

    /// How fast to run.
    pub(super) fn pace(&mut self, config: &Config) -> Pace {
        let limit = if self.full { config.buffer_bytes / 2 } else { config.buffer_bytes };
        let far = config.lag_max.saturating_mul(if self.full { 2 } else { 10 });
        self.full = self.sent_bytes > limit || self.waiting_bytes > limit || self.lag > far;
        if self.full {
            return Pace::Stop;
        }
        let (half, over) = (config.lag_max / 2, self.lag.saturating_sub(config.lag_max / 2));
        if over == 0 {
            return Pace::Full;
        }
        let share = 1000 - (over.saturating_mul(1000) / half.max(1)).min(1000 - LEAST);
        Pace::Share((share / STEP * STEP).max(LEAST) as u16)
    }

    /// The lag in nanoseconds.
    pub(super) fn lag(&self) -> u64 {
        self.lag
    }

    /// From sending a frame to its acknowledgement, in nanoseconds, smoothed.
    pub(super) fn round_trip(&self) -> u64 {
        self.round_trip
    }

    /// Bytes that are not acknowledged.
    pub(super) fn unacknowledged(&self) -> u64 {
        self.sent_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ReplicaId;

    fn ack(received: u64, icount: u64) -> Ack {
        Ack { received, executed: received, icount, ..Ack::default() }
    }

    #[test]
    fn the_lag_is_the_time_since_the_primary_was_there() {
        let mut lag = Lag::default();
        for ms in 0..200 {
            lag.passed(ms * 1000, HostNs(ms * HostNs::MS));
        }
        let now = HostNs(200 * HostNs::MS);
        lag.acknowledged(&ack(0, 130_500), now);
        assert_eq!(lag.lag(), 70 * HostNs::MS);
        let config = Config::new(ReplicaId(1));
        assert_eq!(lag.pace(&config), Pace::Share(600));
        lag.acknowledged(&ack(0, 199_000), now);
        assert_eq!((lag.lag(), lag.pace(&config)), (0, Pace::Full));
    }

    #[test]
    fn full_buffers_stop_the_primary_until_they_are_half_empty() {
        let mut lag = Lag::default();
        let mut config = Config::new(ReplicaId(1));
        config.buffer_bytes = 1000;
        for n in 1..=11 {
            lag.sent(n, 100, HostNs(n));
        }
        assert_eq!(lag.pace(&config), Pace::Stop);
        lag.acknowledged(&ack(5, 0), HostNs(50));
        assert_eq!((lag.unacknowledged(), lag.pace(&config)), (600, Pace::Stop));
        lag.acknowledged(&ack(6, 0), HostNs(60));
        assert_eq!(lag.pace(&config), Pace::Full);
        assert!(lag.round_trip() > 0);
    }
}
