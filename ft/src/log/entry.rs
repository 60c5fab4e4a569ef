//! What an entry of the log says.
//!
//! Contract: ordinals of bodies are fixed; a new one is added at the end and none is reused.

use alloc::string::String;
use alloc::vec::Vec;

/// Digests are taken whenever the instruction count is a multiple of this.
pub const DIGEST_INTERVAL: u64 = 10_000_000;

/// When an entry takes effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instant {
    /// Instructions retired before it.
    pub icount: u64,
    /// Virtual nanoseconds, if the CPU was halted: time then moves without instructions. Otherwise
    /// time follows from the count.
    pub halted_ns: Option<u64>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position in the log, from 0.
    pub seq: u64,
    /// When it takes effect.
    pub at: Instant,
    /// What it says.
    pub body: Body,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// An input to the machine, opaque to the log.
    Input(Vec<u8>),
    /// The machine has executed this far and no input came before.
    Progress,
    /// A check of the machine's state, opaque to the log.
    Digest(Vec<u8>),
    /// The machine as it was switched on: the first entry of a log.
    Start {
        /// The program that wrote the log.
        build: String,
        /// What the machine is made of, opaque to the log.
        config: Vec<u8>,
    },
    /// The machine stopped: the last entry of a log that was closed in order. How it stopped,
    /// opaque to the log.
    End(Vec<u8>),
    /// A piece of a machine's state, opaque to the log: a log of a machine in the middle of its
    /// life has them after its start.
    Snapshot(Vec<u8>),
    /// The whole state in a form that can be compared, opaque to the log: it names what differs.
    State(Vec<u8>),
}

impl Body {
    /// The number of this kind of entry on the wire.
    #[must_use]
    pub fn ordinal(&self) -> u8 {
        match self {
            Self::Input(_) => 0,
            Self::Progress => 1,
            Self::Digest(_) => 2,
            Self::Start { .. } => 3,
            Self::End(_) => 4,
            Self::Snapshot(_) => 5,
            Self::State(_) => 6,
        }
    }
}
