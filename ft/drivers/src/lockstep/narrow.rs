//! From a difference to the instruction that makes it.
//!
//! Contract: the way from the last equal state is gone again, cut into smaller and smaller pieces
//! as long as the difference shows in them: an engine may be wrong only where it runs for a while.

use super::listing::list;
use super::twins::Twins;
use super::{Call, Lockstep};
use devices::time::Icount;
use emulator::machine::Stop;
use std::collections::VecDeque;
use std::fmt::Write;

/// Lengths of the pieces.
const STEPS: [u64; 6] = [1 << 16, 1 << 12, 1 << 8, 1 << 5, 1 << 3, 1];

/// Stops at every `step` instructions between two counts.
#[derive(Clone, Copy, Debug)]
struct Cut {
    from: u64,
    to: u64,
    step: u64,
}

/// A piece of the way on which the machines went apart.
struct Found {
    /// The last count at which they were the same.
    good: u64,
    /// The count at which they are not.
    bad: u64,
    /// Number of the piece.
    piece: u64,
    twins: Twins,
}

/// The first count after `at` at which to stop.
fn next_stop(cuts: &[Cut], at: u64) -> u64 {
    let after = |cut: &Cut| match at < cut.from {
        true => cut.from,
        false => cut.from + ((at - cut.from) / cut.step + 1) * cut.step,
    };
    cuts.iter().filter(|cut| at < cut.to).map(after).min().unwrap_or(u64::MAX)
}

impl Lockstep {
    /// Says where and how the machines went apart.
    pub(super) fn narrow(&self) -> String {
        let [a, b] = [&self.twins.reference, &self.twins.tested].map(|m| m.icount().0);
        let (mut good, mut bad) = (self.base.icount, a.max(b));
        let mut cuts = Vec::new();
        let mut found = self.retry(&cuts, u64::MAX);
        for step in STEPS {
            let finer = Cut { from: good, to: bad, step };
            let tried: Vec<Cut> = cuts.iter().copied().chain([finer]).collect();
            if bad - good > step
                && let Some(again) = self.retry(&tried, good)
            {
                (good, bad) = (again.good, again.bad);
                (cuts, found) = (tried, Some(again));
            }
        }
        match found {
            Some(found) => self.report(&cuts, found),
            None => format!(
                "the engines differ between icount {good} and {bad}, but not when they go that \
                 way again"
            ),
        }
    }

    /// The machines at the beginning of the way.
    fn start(&self) -> Twins {
        let config = self.twins.reference.config();
        let new = || self.base.machine(config).expect("it was made from such a machine");
        let (reference, mut tested) = (new(), new());
        (self.install)(&mut tested);
        Twins { reference, tested }
    }

    /// Goes the way again. The state is the same up to `good`; from there on it is compared as a
    /// whole at each stop.
    fn retry(&self, cuts: &[Cut], good: u64) -> Option<Found> {
        let mut twins = self.start();
        let mut last = if good == u64::MAX { self.base.icount } else { good };
        let mut piece = 0;
        let found = |good, piece, twins: Twins| {
            let bad = twins.reference.icount().0.max(twins.tested.icount().0);
            Some(Found { good, bad, piece, twins })
        };
        for call in &self.calls {
            let Call::Run(until) = call else {
                if !replay(&mut twins, call) {
                    return found(last, piece, twins);
                }
                continue;
            };
            loop {
                let to = until.0.min(next_stop(cuts, twins.reference.icount().0));
                piece += 1;
                let stop = twins.run(Icount(to));
                let here = twins.reference.icount().0;
                if stop.is_none() || (here >= good && !twins.are_same()) {
                    return found(last, piece, twins);
                }
                if here >= good {
                    last = here;
                }
                if stop != Some(Stop::Reached) || here >= until.0 {
                    break;
                }
            }
        }
        // What is compared only at the end.
        if twins.are_same() { None } else { found(last, piece, twins) }
    }

    /// What is known of the difference that `found` shows.
    fn report(&self, cuts: &[Cut], mut found: Found) -> String {
        let Found { good, bad, piece, .. } = found;
        let mut text = format!(
            "the engines differ at icount {bad}; at {good} they were the same\n  {}",
            found.twins.describe()
        );
        let listing = self.listing(cuts, piece, bad);
        let left_out = (bad - good).saturating_sub(listing.len() as u64);
        let _ = write!(text, "\n  executed between the two");
        if left_out > 0 {
            let _ = write!(text, ", the last {} instructions", listing.len());
        }
        for line in listing {
            let _ = write!(text, "\n  {line}");
        }
        text
    }

    /// The instructions of a piece of the way, as the reference executes them.
    fn listing(&self, cuts: &[Cut], wanted: u64, bad: u64) -> VecDeque<String> {
        let mut twins = self.start();
        let mut piece = 0;
        let mut lines = VecDeque::new();
        for call in &self.calls {
            let Call::Run(until) = call else {
                replay(&mut twins, call);
                continue;
            };
            loop {
                let to = until.0.min(next_stop(cuts, twins.reference.icount().0));
                piece += 1;
                if piece == wanted {
                    list(&mut twins.reference, bad, &mut lines);
                    return lines;
                }
                let stop = twins.reference.run(Icount(to));
                twins.tested.run(Icount(to));
                if stop != Stop::Reached || to >= until.0 {
                    break;
                }
            }
        }
        lines
    }
}

/// Does what the driver did; whether both machines took it alike.
fn replay(twins: &mut Twins, call: &Call) -> bool {
    match call {
        Call::Run(_) => true,
        Call::Idle(to) => twins.idle_to(*to),
        Call::Inject(input) => {
            twins.inject(input.clone());
            true
        }
        Call::Poll => twins.poll_output().is_some(),
    }
}
