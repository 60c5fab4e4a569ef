//! How a run ended, and what it cost.
//!
//! Contract: plain data for the command to print.

use devices::time::{Icount, VirtualNs};
use emulator::machine::Digest;
use ft::event::Halt;
use serde::{Deserialize, Serialize};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// The guest powered itself off.
    PowerOff,
    /// The guest wrote this value to isa-debug-exit.
    DebugExit(u32),
    /// The guest was reset, and was to end then.
    Reset,
    /// The instruction count asked for is reached.
    Icount,
    /// The user asked for the end.
    Quit,
    /// A signal asked for the end.
    Signal(u8),
    /// The end of a log that was not closed.
    LogEnd,
    /// Another replica is live, in this epoch.
    Superseded(u64),
    /// This backup's machine went another way than the primary's.
    Diverged,
    /// The user took this replica out of its pair.
    Detached,
    /// This backup could not follow.
    Unusable,
    /// The machine ended on the other side before this one had it.
    NotJoined,
}

impl Exit {
    /// How a run ended that the protocol ended.
    #[must_use]
    pub fn of(halt: &Halt) -> Self {
        match halt {
            Halt::Ended => Self::PowerOff,
            Halt::Superseded { epoch, .. } => Self::Superseded(epoch.0),
            Halt::Diverged { .. } => Self::Diverged,
            Halt::Detached => Self::Detached,
            Halt::Unusable(_) => Self::Unusable,
        }
    }

    /// One word for it.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::PowerOff => "power-off".into(),
            Self::DebugExit(value) => format!("debug-exit {value}"),
            Self::Reset => "reset".into(),
            Self::Icount => "icount".into(),
            Self::Quit => "quit".into(),
            Self::Signal(number) => format!("signal {number}"),
            Self::LogEnd => "log-end".into(),
            Self::Superseded(epoch) => format!("superseded in epoch {epoch}"),
            Self::Diverged => "diverged".into(),
            Self::Detached => "detached".into(),
            Self::Unusable => "unusable".into(),
            Self::NotJoined => "the machine ended before this side had it".into(),
        }
    }

    /// The exit status of the process: 0, for isa-debug-exit `value` (value << 1) | 1 as QEMU, for
    /// a signal 128 and its number.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::DebugExit(value) => (value << 1 | 1) as u8,
            Self::Signal(number) => 128 | number,
            Self::Superseded(_) => 6,
            Self::Diverged => 7,
            Self::Detached => 8,
            Self::Unusable => 9,
            Self::NotJoined => 11,
            _ => 0,
        }
    }
}

/// How a run ended, and what it cost.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub exit: Exit,
    /// Instructions.
    pub icount: Icount,
    /// Guest time.
    pub guest: VirtualNs,
    /// Host nanoseconds from the first instruction to the last.
    pub host_ns: u64,
    /// Processor time in ns that the machine's thread has used.
    pub busy_ns: u64,
    /// Bytes of the log written or read.
    pub log_bytes: u64,
    /// Entries of the log written or read.
    pub log_entries: u64,
    /// The largest distance between the guest's and the host's clock, after the first second, while
    /// the guest ran; 0 for a run that is not paced.
    pub clock_error_ns: u64,
    /// Changes of the clock's rate.
    pub rate_changes: u64,
    /// The state at the end.
    pub digest: Digest,
}
