//! A running machine on its way to a new backup: what goes into the opaque pieces of a joining.
//!
//! Contract: sans-IO. [`source::Source`] stands beside the live machine and makes payloads for
//! [`sink::Sink`] on the other side, which makes a few for the source; the driver carries payloads
//! in order, and the requests of both to the workers of the disks. Every payload is at most [`MAX`]
//! bytes. What the other side sends gives a typed error at worst, and no more memory than the
//! machine and a window of payloads.

pub mod disks;
pub mod payload;
pub mod ram;
pub mod sink;
pub mod source;

use std::fmt;

/// Longest payload in bytes.
pub const MAX: usize = 1 << 20;

/// A disk of the machine: index and size in sectors.
pub type DiskSize = (u8, u64);

/// Why a transfer cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferError {
    /// The other side sent something that is no payload, or not one that fits.
    Payload(&'static str),
    /// The state is not that of a machine of this configuration.
    State(String),
    /// A disk cannot be read or written here.
    Disk(u8, String),
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload(what) => write!(f, "the other side's state transfer is damaged: {what}"),
            Self::State(why) => write!(f, "the transferred state cannot be used: {why}"),
            Self::Disk(disk, why) => write!(f, "disk {disk}: {why}"),
        }
    }
}

impl std::error::Error for TransferError {}
