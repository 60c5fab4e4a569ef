//! Values that differ from run to run, which a replica of this machine must nevertheless see alike.

use crate::cpu::{rdrand, rdtsc};
use crate::rtc::{self, DateTime};
use core::fmt;

/// RDRAND, RDTSC and the real-time clock, read at one moment.
#[derive(Clone, Copy)]
pub struct Sample {
    rdrand: Option<u64>,
    tsc: u64,
    rtc: DateTime,
}

impl Sample {
    /// Reads all three.
    pub fn take() -> Self {
        Sample { rdrand: rdrand(), tsc: rdtsc(), rtc: rtc::now() }
    }

    /// A number that is hard to guess, for the network stack's sequence numbers and ports.
    pub fn seed(&self) -> u64 {
        self.rdrand.unwrap_or(self.tsc)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rdrand {
            Some(number) => write!(f, "rdrand={number:016x}")?,
            None => f.write_str("rdrand=none")?,
        }
        write!(f, " tsc={} rtc={}", self.tsc, self.rtc)
    }
}
