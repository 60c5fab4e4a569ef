//! How bad things are: which faults a seed brings, and how often.
//!
//! Contract: each fault is absent in a good part of the seeds, so that rare paths are not drowned
//! by common ones.

use crate::rng::Rng;
use ft::types::HostNs;

/// A millisecond.
pub const MS: u64 = HostNs::MS;

/// Kinds of faults that strike now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process dies, its system lives: connections are reset.
    Kill,
    /// A computer loses power: nobody is told.
    PowerLoss,
    /// A process stands still for a while.
    Pause,
    /// One direction of a link is blocked.
    BlockOneWay,
    /// Both directions of a link are blocked.
    BlockBothWays,
    /// A computer reaches nobody.
    Isolate,
    /// A connection is reset.
    Reset,
    /// A connection is reset, and one side notices late.
    HalfOpen,
    /// A second connection between the same two.
    SecondConnection,
    /// A computer cannot reach the arbiter, or gets no answers.
    ArbiterCut,
    /// The arbiter stops for all.
    ArbiterSilent,
    /// A machine executes slowly for a while.
    Slow,
    /// The user promotes a backup.
    Promote,
    /// The user detaches a replica.
    Detach,
    /// A state transfer breaks at the driver.
    TransferBreaks,
}

impl Fault {
    const ALL: [Self; 15] = [
        Self::Kill,
        Self::PowerLoss,
        Self::Pause,
        Self::BlockOneWay,
        Self::BlockBothWays,
        Self::Isolate,
        Self::Reset,
        Self::HalfOpen,
        Self::SecondConnection,
        Self::ArbiterCut,
        Self::ArbiterSilent,
        Self::Slow,
        Self::Promote,
        Self::Detach,
        Self::TransferBreaks,
    ];
}

/// Rates and kinds.
#[derive(Clone, Debug)]
pub struct Weather {
    /// What may strike; a kind stands here as often as it is likely.
    pub faults: Vec<Fault>,
    /// Mean time between two faults.
    pub between: u64,
    /// Millionths: death before an action is carried out.
    pub crash_at_action: u64,
    /// Millionths: a pause before an action is carried out.
    pub pause_at_action: u64,
    /// Millionths: death between two outputs of one release.
    pub crash_at_output: u64,
    /// One-way delay: least, and spread.
    pub delay: (u64, u64),
    /// Millionths of messages that take much longer.
    pub spikes: u64,
    /// Millionths of frames to and from clients that are lost.
    pub client_loss: u64,
    /// Millionths of disk writes that fail.
    pub disk_errors: u64,
    /// The arbiter's time for an answer, most.
    pub arbiter_delay: u64,
    /// Millionths of answers of the arbiter that are lost.
    pub arbiter_loss: u64,
    /// Mean time between a death and the next start.
    pub restart: u64,
    /// When somebody presses the power button, if ever.
    pub power_off: Option<u64>,
    /// When it clears up.
    pub until: u64,
}

impl Weather {
    /// Nothing goes wrong.
    #[must_use]
    pub fn fair() -> Self {
        Self {
            faults: Vec::new(),
            between: 1000 * MS,
            crash_at_action: 0,
            pause_at_action: 0,
            crash_at_output: 0,
            delay: (MS / 5, MS),
            spikes: 0,
            client_loss: 0,
            disk_errors: 0,
            arbiter_delay: 5 * MS,
            arbiter_loss: 0,
            restart: 200 * MS,
            power_off: None,
            until: 0,
        }
    }

    /// What a seed brings.
    #[must_use]
    pub fn of(rng: &mut Rng) -> Self {
        let mut faults = Vec::new();
        for fault in Fault::ALL {
            if rng.one_in(2) {
                let weight = rng.range(1, 4);
                faults.extend((0..weight).map(|_| fault));
            }
        }
        let rare = |rng: &mut Rng, all: &[u64]| rng.pick(all);
        Self {
            faults,
            between: rng.pick(&[100, 300, 700, 1500]) * MS,
            crash_at_action: rare(rng, &[0, 0, 200, 1000, 4000]),
            pause_at_action: rare(rng, &[0, 0, 200, 1500]),
            crash_at_output: rare(rng, &[0, 2000, 10_000, 40_000]),
            delay: (rng.range(20, 3000) * 1000, rng.pick(&[1, 3, 10, 60]) * MS),
            spikes: rare(rng, &[0, 0, 1000, 20_000]),
            client_loss: rare(rng, &[0, 10_000, 200_000]),
            disk_errors: rare(rng, &[0, 0, 20_000, 300_000]),
            arbiter_delay: rng.pick(&[2, 20, 150, 900]) * MS,
            arbiter_loss: rare(rng, &[0, 0, 100_000, 500_000]),
            restart: rng.pick(&[50, 400, 1500, 4000]) * MS,
            power_off: rng.one_in(10).then(|| rng.range(500, 15_000) * MS),
            until: rng.range(3000, 12_000) * MS,
        }
    }
}
