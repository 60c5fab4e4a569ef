//! The pieces of a transfer as bytes.
//!
//! Contract: a header (postcard), then data as it is. Ordinals follow the order of [`Header`]'s
//! variants and are never reused. Lengths are checked before anything is unpacked.

use super::{MAX, TransferError};
use backends::disk::blocks::BLOCK;
use serde::{Deserialize, Serialize};

/// Bytes of a page of RAM.
pub const PAGE: usize = devices::ram::PAGE;
/// Pages with data in a payload at most.
pub const PAGES: usize = 128;
/// Blocks that are asked for or told of in a payload at most.
pub const HASHES: u64 = 1 << 14;
/// Bytes of state in a payload at most.
pub const STATE: usize = 256 * 1024;

/// What stands before the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Header {
    /// Pages of RAM. Data: those that are not zero, in order of the runs.
    Pages {
        /// First page, how many, and whether they are zero.
        runs: Vec<Run>,
        /// The data is an LZ4 block.
        packed: bool,
    },
    /// A block of a disk. Data: its content; nothing for zeros.
    Block {
        /// Index of the disk.
        disk: u8,
        /// Number of the block.
        block: u64,
        /// Bytes of the content.
        len: u32,
        /// The data is an LZ4 block.
        packed: bool,
    },
    /// The source asks for hashes of the sink's disk.
    WantHashes {
        /// Index of the disk.
        disk: u8,
        /// First block.
        first: u64,
        /// How many, [`HASHES`] at most.
        blocks: u64,
    },
    /// The answer, or a part of it.
    Hashes {
        /// Index of the disk.
        disk: u8,
        /// First block.
        first: u64,
        /// How often a hash comes, and the hash.
        runs: Vec<(u32, u128)>,
    },
    /// The machine's state but for RAM, then what the driver wants the other one to know. Data: a
    /// part of these.
    State {
        /// Bytes of the machine's state.
        machine: u32,
        /// Bytes in all.
        total: u32,
    },
    /// From the sink: so many payloads have been taken in.
    Progress(u64),
}

/// Pages in a row: first, how many, and whether all of them are zero.
pub type Run = (u32, u32, bool);

/// Bytes of a payload.
#[must_use]
pub fn encode(header: &Header, data: &[u8]) -> Vec<u8> {
    let mut bytes = postcard::to_allocvec(header).expect("plain data can be encoded");
    bytes.extend_from_slice(data);
    assert!(bytes.len() <= MAX, "every piece is cut to fit");
    bytes
}

/// The payload of the part from `at` on of `bytes`, of which the first `machine` are a machine's
/// state; `None`: that is their end.
#[must_use]
pub fn state_part(bytes: &[u8], at: usize, machine: u32) -> Option<(Vec<u8>, usize)> {
    let part = &bytes[at..bytes.len().min(at + STATE)];
    let header = Header::State { machine, total: bytes.len() as u32 };
    (!part.is_empty()).then(|| (encode(&header, part), part.len()))
}

/// Takes a payload apart.
///
/// # Errors
/// It is none.
pub fn decode(bytes: &[u8]) -> Result<(Header, &[u8]), TransferError> {
    if bytes.len() > MAX {
        return Err(TransferError::Payload("a piece is too long"));
    }
    postcard::take_from_bytes(bytes).map_err(|_| TransferError::Payload("a piece is no piece"))
}

/// `data` compressed, if that makes it smaller, and whether it is.
#[must_use]
pub fn pack(data: &[u8]) -> (Vec<u8>, bool) {
    let packed = lz4_flex::compress(data);
    if packed.len() < data.len() { (packed, true) } else { (data.to_vec(), false) }
}

/// The `len` bytes that [`pack`] was given. The caller bounds `len`.
///
/// # Errors
/// It was not given so many, or the data is damaged.
pub fn unpack(data: &[u8], packed: bool, len: usize) -> Result<Vec<u8>, TransferError> {
    assert!(len <= PAGES * PAGE, "checked before");
    let data = match packed {
        false => data.to_vec(),
        true => lz4_flex::decompress(data, len)
            .map_err(|_| TransferError::Payload("data cannot be decompressed"))?,
    };
    if data.len() == len { Ok(data) } else { Err(TransferError::Payload("data of another length")) }
}

const _: () = assert!(PAGES * PAGE <= MAX / 2 && BLOCK <= PAGES * PAGE);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn data_comes_back() {
        for data in [vec![], vec![7; 5000], (0..5000u32).map(|n| ((n * n) >> 3) as u8).collect()] {
            let (bytes, packed) = pack(&data);
            assert_eq!(unpack(&bytes, packed, data.len()), Ok(data.clone()));
            assert!(unpack(&bytes, packed, data.len() + 1).is_err());
            assert!(data.is_empty() || unpack(&bytes, packed, data.len() - 1).is_err());
        }
        assert!(decode(&vec![0; MAX + 1]).is_err());
    }

    #[test]
    fn headers_come_back() {
        for header in [
            Header::Pages { runs: vec![(0, 160, true), (0x123, 2, false)], packed: true },
            Header::Block { disk: 3, block: 1 << 40, len: 65536, packed: false },
            Header::WantHashes { disk: 0, first: 9, blocks: HASHES },
            Header::Hashes { disk: 0, first: 9, runs: vec![(HASHES as u32, 0), (1, u128::MAX)] },
            Header::State { machine: 7, total: 9 },
            Header::Progress(u64::MAX),
        ] {
            let bytes = encode(&header, b"data");
            assert_eq!(decode(&bytes), Ok((header, &b"data"[..])));
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok((_, data)) = decode(&bytes) {
                let _ = unpack(data, true, PAGE);
            }
        }
    }
}
