//! When a machine that is being transferred while it runs has been sent often enough.
//!
//! Contract: pure; time and rates are arguments. Pre-copy sends all of memory once, then again and
//! again what the guest has changed meanwhile, until what is left fits a short pause. A guest that
//! changes memory faster than it can be sent is slowed step by step, and in the end stopped with
//! more left than one would like: it always ends.

/// How long and how hard to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Cut over when the pause will be this short.
    pub pause_ns: u64,
    /// What a pause costs besides sending what is left.
    pub fixed_ns: u64,
    /// Cut over after this many rounds, whatever is left.
    pub rounds: u32,
    /// A round that leaves more than this many thousandths of what the round before left was in
    /// vain.
    pub progress: u16,
    /// Rounds in vain before the guest is slowed once more.
    pub patience: u32,
    /// The guest's share of the time is never less, in thousandths.
    pub share_min: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pause_ns: 20_000_000,
            fixed_ns: 4_000_000,
            rounds: 40,
            progress: 800,
            patience: 2,
            share_min: 50,
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on sending; the guest runs for so many thousandths of the time.
    Continue {
        /// 1000: as it can.
        share: u16,
    },
    /// Stop the guest and send the rest.
    CutOver,
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// 0 until everything was sent once, then how often what had changed was taken.
    pub round: u32,
    /// Bytes that the other side lacks, those on their way included.
    pub remaining: u64,
    /// Bytes a millisecond that can be read, sent and taken in.
    pub rate: u64,
}

/// The decision, from one look to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precopy {
    limits: Limits,
    share: u16,
    /// The round of the last look, and what was left as it began.
    round: u32,
    began_with: u64,
    in_vain: u32,
    forced: bool,
}

/// The guest's share of the time falls to so many thousandths of itself.
const SLOWER: u32 = 600;

impl Precopy {
    /// Before the first byte is sent.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, share: 1000, round: 0, began_with: u64::MAX, in_vain: 0, forced: false }
    }

    /// How long the guest would stand still, in nanoseconds, if it were stopped now.
    #[must_use]
    pub fn pause_ns(&self, standing: &Standing) -> u64 {
        let ms = 1_000_000u64.saturating_mul(standing.remaining) / standing.rate.max(1);
        ms.saturating_add(self.limits.fixed_ns)
    }

    /// Decides. To be asked often; at least once in each round.
    pub fn decide(&mut self, standing: &Standing) -> Decision {
        if standing.round > 0 && self.pause_ns(standing) <= self.limits.pause_ns {
            return Decision::CutOver;
        }
        if standing.round > self.round {
            self.next_round(standing);
        }
        if self.forced { Decision::CutOver } else { Decision::Continue { share: self.share } }
    }

    fn next_round(&mut self, standing: &Standing) {
        let enough = (u128::from(self.began_with) * u128::from(self.limits.progress) / 1000) as u64;
        self.in_vain = if standing.remaining > enough { self.in_vain + 1 } else { 0 };
        self.round = standing.round;
        self.began_with = standing.remaining;
        if self.in_vain >= self.limits.patience.max(1) {
            self.in_vain = 0;
            self.forced = self.share <= self.limits.share_min;
            let slower = (u32::from(self.share) * SLOWER / 1000) as u16;
            self.share = slower.max(self.limits.share_min);
        }
        self.forced |= standing.round >= self.limits.rounds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sends to a machine of `bytes` that changes `dirty` bytes a millisecond, of a working set of
    /// `hot`, at full speed; gives rounds, the lowest share, and the bytes left at cut-over.
    fn simulate(limits: Limits, rate: u64, bytes: u64, dirty: u64, hot: u64) -> (u32, u16, u64) {
        let mut policy = Precopy::new(limits);
        let (mut left, mut round, mut share) = (bytes, 0, 1000);
        for _ in 0..10_000 {
            match policy.decide(&Standing { round, remaining: left, rate }) {
                Decision::CutOver => return (round, share, left),
                Decision::Continue { share: now } => share = now,
            }
            let ms = left / rate + 1;
            left = (dirty * ms * u64::from(share) / 1000).min(hot);
            round += 1;
        }
        panic!("it never ends");
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_quiet_guest_is_cut_over_in_the_second_round() {
        let (rounds, share, left) = simulate(Limits::default(), 100_000, 512 * MIB, 10, 50 * MIB);
        assert_eq!((rounds, share), (1, 1000));
        assert!(left <= 16 * 100_000);
    }

    #[test]
    fn a_busy_guest_shrinks_the_rest_from_round_to_round() {
        // 30 MB/s of new dirt, 100 MB/s to send.
        let (rounds, share, left) =
            simulate(Limits::default(), 100_000, 512 * MIB, 30_000, 400 * MIB);
        assert!((3..10).contains(&rounds) && share == 1000, "{rounds} {share}");
        assert!(left <= 16 * 100_000);
    }

    #[test]
    fn a_guest_that_outruns_the_channel_is_slowed() {
        let (rounds, share, left) =
            simulate(Limits::default(), 100_000, 512 * MIB, 200_000, 400 * MIB);
        assert!(share < 500 && rounds < 30, "{rounds} {share}");
        assert!(left <= 16 * 100_000, "{left}");
    }

    #[test]
    fn what_cannot_be_won_ends() {
        let limits = Limits::default();
        let (rounds, share, left) = simulate(limits, 10, 512 * MIB, 1_000_000, 400 * MIB);
        assert!(rounds <= limits.rounds && share == limits.share_min && left > 0);
    }

    #[test]
    fn nothing_is_cut_over_before_all_was_sent_once() {
        let mut policy = Precopy::new(Limits::default());
        let standing = Standing { round: 0, remaining: 0, rate: u64::MAX };
        assert_eq!(policy.decide(&standing), Decision::Continue { share: 1000 });
        assert_eq!(policy.decide(&Standing { round: 1, ..standing }), Decision::CutOver);
    }

    #[test]
    fn the_pause_counts_what_is_on_its_way() {
        let policy = Precopy::new(Limits::default());
        let standing = Standing { round: 1, remaining: 1_000_000, rate: 100_000 };
        assert_eq!(policy.pause_ns(&standing), 14_000_000);
        let stuck = Standing { rate: 0, remaining: u64::MAX, ..standing };
        assert!(policy.pause_ns(&stuck) > 1 << 60);
    }

    proptest! {
        #[test]
        fn it_always_ends(
            rate in 1u64..1_000_000,
            bytes: u32,
            dirty in 0u64..10_000_000,
            hot: u32,
        ) {
            let limits = Limits::default();
            let (rounds, share, _) = simulate(limits, rate, bytes.into(), dirty, hot.into());
            prop_assert!(rounds <= limits.rounds && share >= limits.share_min);
        }
    }
}
