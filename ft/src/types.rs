//! The units of the protocol.
//!
//! Contract: plain numbers with names; the ones that travel have a fixed form in
//! [`crate::message`].

use serde::{Deserialize, Serialize};

/// Nanoseconds of the host's monotonic clock, from any origin. The protocol compares them with each
/// other only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostNs(pub u64);

impl HostNs {
    /// A millisecond.
    pub const MS: u64 = 1_000_000;

    /// The time `ns` nanoseconds later, saturating.
    #[must_use]
    pub const fn after(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to this time; 0 if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Names a virtual machine, whichever computer it runs on: random, drawn once in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VmId(pub u128);

/// Names one process that runs, or is ready to run, a virtual machine: random, drawn at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId(pub u128);

/// A time in the life of a virtual machine in which its members do not change. One replica is live
/// in an epoch. Who wants to be live in the next must win the arbiter's test-and-set for this one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A connection to another replica, numbered by the driver; numbers are not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conn(pub u64);

/// A position in the sequence of a virtual machine's outputs: how many come before.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct OutputNo(pub u64);
