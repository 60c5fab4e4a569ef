//! Networks: where the frames of a network card go on the host.
//!
//! Contract: frames are whole Ethernet frames without FCS, at most [`MAX_FRAME`] bytes. What
//! arrives is posted by a thread; when the guest does not keep up, frames wait in the host's socket
//! and are dropped there, as on a wire.

pub mod capture;
pub mod stream;
pub mod tap;

/// Longest frame that is passed on: a jumbo frame of the 82540EM.
pub const MAX_FRAME: usize = 16 * 1024;

/// The host's end of a network.
pub trait Network: Send {
    /// Sends a frame; drops it if the host cannot take it now.
    fn send(&mut self, frame: &[u8]);
}

/// A frame for a network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Index of the card.
    pub nic: u8,
    /// Destination address first.
    pub frame: Vec<u8>,
}
