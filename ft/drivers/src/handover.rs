//! What a live machine's driver tells the driver of its new backup besides the machine's state.

use devices::io::DiskOperation;
use serde::{Deserialize, Serialize};

/// The driver's part of a joining.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// Nanoseconds since 1970 at power-on.
    pub wall_clock: u64,
    /// The rate of the guest's clock.
    pub rate: u64,
    /// Requests that disks have not answered: index of the disk, number and operation, in the order
    /// in which they were made.
    pub requests: Vec<(u8, u64, DiskOperation)>,
}

impl Handover {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("plain data can be encoded")
    }

    /// What [`Handover::encode`] wrote; `None`: it is something else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((handover, [])) => Some(handover),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back() {
        let operation = DiskOperation::Write { lba: 7, data: vec![3; 512] };
        let requests = vec![(1, 9, operation), (0, 10, DiskOperation::Flush)];
        let handover = Handover { wall_clock: 5, rate: 1 << 32, requests };
        let bytes = handover.encode();
        assert_eq!(Handover::decode(&bytes), Some(handover));
        for len in 0..bytes.len() {
            assert_eq!(Handover::decode(&bytes[..len]), None);
        }
    }
}
