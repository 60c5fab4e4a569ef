//! Inputs as the bytes of a log entry.
//!
//! Contract: a header of a few bytes (postcard), then the data as it is. Data of disk reads is left
//! to [`crate::copy`]: it goes into the log only where the replayer cannot know it. Ordinals follow
//! the order of [`Header`]'s variants and are never reused.

use devices::io::{Input, PowerInput};
use devices::time::Rate;
use serde::{Deserialize, Serialize};

/// What stands before the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Header {
    /// Data: the frame.
    NetRx {
        /// Index of the card.
        nic: u8,
    },
    /// Data: the bytes.
    ConsoleRx {
        /// Index of the UART.
        port: u8,
    },
    /// Data: the scan codes.
    Key,
    /// As the input.
    Pointer {
        /// To the right.
        dx: i16,
        /// Upwards.
        dy: i16,
        /// Bit mask.
        buttons: u8,
    },
    /// Data: see [`Answer`].
    DiskDone {
        /// Index of the disk.
        disk: u8,
        /// Number of the request.
        request: u64,
        /// How it ended.
        answer: Answer,
    },
    /// Nanoseconds per instruction, in units of [`crate::pace::STEP`].
    ClockRateSteps(u32),
    /// As [`Rate`].
    ClockRate(u64),
    /// Data: 32 bytes.
    Entropy,
    /// As the input.
    Power(PowerInput),
    /// As the input.
    WallClock(u64),
}

/// How a disk request ended, as the log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// A write or flush is complete.
    Done,
    /// The request failed.
    Failed,
    /// A read whose sectors the replayer knows.
    Known,
    /// A read; data: LZ4 block of the sectors that the replayer does not know, in order.
    Data,
    /// A read of a disk that the log's reader reads, too; data: 64 bits of the hash of what was
    /// read.
    Hash,
}

/// Bytes of most headers.
const HEADER_MANY: usize = 16;

/// Bytes of an entry.
#[must_use]
pub fn encode(header: &Header, data: &[u8]) -> Vec<u8> {
    let bytes = Vec::with_capacity(HEADER_MANY + data.len());
    let mut bytes = postcard::to_extend(header, bytes).expect("plain data can be encoded");
    bytes.extend_from_slice(data);
    bytes
}

/// Takes an entry apart; `None`: it is none.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<(Header, &[u8])> {
    postcard::take_from_bytes(bytes).ok()
}

/// The entry of every input but the answers of disks.
#[must_use]
pub fn encode_input(input: &Input) -> Option<Vec<u8>> {
    let (header, data): (Header, &[u8]) = match input {
        Input::NetRx { nic, frame } => (Header::NetRx { nic: *nic }, frame),
        Input::ConsoleRx { port, bytes } => (Header::ConsoleRx { port: *port }, bytes),
        Input::Key(codes) => (Header::Key, codes),
        Input::Pointer { dx, dy, buttons } => {
            (Header::Pointer { dx: *dx, dy: *dy, buttons: *buttons }, &[])
        }
        Input::ClockRate(rate) => (encode_rate(*rate), &[]),
        Input::Entropy(seed) => (Header::Entropy, seed),
        Input::Power(power) => (Header::Power(*power), &[]),
        Input::WallClock(ns) => (Header::WallClock(*ns), &[]),
        Input::DiskDone { .. } => return None,
    };
    Some(encode(&header, data))
}

fn encode_rate(rate: Rate) -> Header {
    match u32::try_from(rate.0 / crate::pace::STEP) {
        Ok(steps) if rate.0.is_multiple_of(crate::pace::STEP) => Header::ClockRateSteps(steps),
        _ => Header::ClockRate(rate.0),
    }
}

/// The input of every entry but the answers of disks; `None`: it is none. Data stays where it is.
#[must_use]
pub fn decode_input(mut bytes: Vec<u8>) -> Option<Input> {
    let (header, data) = decode(&bytes)?;
    let (start, plain) = (bytes.len() - data.len(), data.is_empty());
    let entropy = data.try_into();
    let mut data = || {
        bytes.drain(..start);
        std::mem::take(&mut bytes)
    };
    Some(match header {
        Header::NetRx { nic } => Input::NetRx { nic, frame: data() },
        Header::ConsoleRx { port } => Input::ConsoleRx { port, bytes: data() },
        Header::Key => Input::Key(data()),
        Header::Pointer { dx, dy, buttons } if plain => Input::Pointer { dx, dy, buttons },
        Header::ClockRateSteps(steps) if plain => {
            Input::ClockRate(Rate(u64::from(steps) * crate::pace::STEP))
        }
        Header::ClockRate(rate) if plain => Input::ClockRate(Rate(rate)),
        Header::Entropy => Input::Entropy(entropy.ok()?),
        Header::Power(power) if plain => Input::Power(power),
        Header::WallClock(ns) if plain => Input::WallClock(ns),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn inputs_come_back_and_are_small() {
        for (input, size) in [
            (Input::NetRx { nic: 1, frame: vec![1, 2, 3] }, 5),
            (Input::ConsoleRx { port: 0, bytes: b"ls".to_vec() }, 4),
            (Input::Key(vec![0x1C]), 2),
            (Input::Pointer { dx: -1, dy: 300, buttons: 7 }, 5),
            (Input::ClockRate(Rate(5 << 32)), 3),
            (Input::ClockRate(Rate((5 << 32) + 1)), 6),
            (Input::ClockRate(Rate::MAX), 5),
            (Input::Entropy([9; 32]), 33),
            (Input::Power(PowerInput::Reset), 2),
            (Input::WallClock(1_800_000_000_000_000_000), 10),
        ] {
            let bytes = encode_input(&input).expect("no answer of a disk");
            assert_eq!(bytes.len(), size, "{input:?}");
            assert_eq!(decode_input(bytes), Some(input));
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_input(bytes);
        }
    }
}
