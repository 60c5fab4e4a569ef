//! What a log says about the machine that it belongs to.
//!
//! Contract: everything that fixes the machine besides its inputs. Large files (kernel, initial RAM
//! disk, disk images that stay as they are) are named by length and content, not included.

use devices::board::BoardConfig;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// A file that a replayer must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedFile {
    /// Where it was.
    pub path: String,
    /// Its length in bytes.
    pub len: u64,
    /// Hash of its content.
    pub hash: u128,
}

impl NamedFile {
    /// Names `content`, found at `path`.
    #[must_use]
    pub fn new(path: &str, content: &[u8]) -> Self {
        Self { path: path.into(), len: content.len() as u64, hash: xxh3_128(content) }
    }

    /// Whether `content` is what is named.
    #[must_use]
    pub fn is(&self, content: &[u8]) -> bool {
        self.len == content.len() as u64 && self.hash == xxh3_128(content)
    }
}

/// A kernel that is booted directly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedBoot {
    /// The bzImage.
    pub kernel: NamedFile,
    /// The initial RAM disk.
    pub initrd: Option<NamedFile>,
    /// Kernel command line.
    pub append: Vec<u8>,
}

/// Where the content of a disk comes from in a replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskSource {
    /// The log holds each sector that the guest read before it wrote it.
    Log,
    /// An image; the length is in bytes, the hash that of `backends::disk::fingerprint`.
    Image(NamedFile),
    /// The guest that is embedded in the program; the hash is that of its image.
    Embedded(u128),
}

/// The machine of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// RAM in bytes.
    pub ram_bytes: u64,
    /// What stands on the board.
    pub board: BoardConfig,
    /// A kernel to boot instead of a disk.
    pub direct_boot: Option<NamedBoot>,
    /// For each disk of the board, in order, where its content comes from.
    pub disks: Vec<DiskSource>,
    /// Hash of the machine's state before the first instruction and input: another build makes
    /// another machine.
    pub initial: u128,
}

impl Session {
    /// Bytes of the log's first entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("plain data can be encoded")
    }

    /// Reads what [`Session::encode`] wrote; `None`: it is something else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((session, [])) => Some(session),
            _ => None,
        }
    }
}

/// A hash of a machine's configuration: two machines with the same one and the same inputs are the
/// same.
#[must_use]
pub fn configuration(config: &emulator::machine::Config) -> u64 {
    let bytes = postcard::to_allocvec(config).expect("plain data can be encoded");
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_comes_back() {
        let session = Session {
            ram_bytes: 1 << 29,
            board: BoardConfig { disks: [Some(9), None, None, None], nics: vec![[2; 6]], uarts: 1 },
            direct_boot: Some(NamedBoot {
                kernel: NamedFile::new("/boot/vmlinuz", b"kernel"),
                initrd: None,
                append: b"quiet".to_vec(),
            }),
            disks: vec![DiskSource::Log, DiskSource::Embedded(7)],
            initial: 1 << 100,
        };
        let bytes = session.encode();
        assert_eq!(Session::decode(&bytes), Some(session));
        for len in 0..bytes.len() {
            assert_eq!(Session::decode(&bytes[..len]), None);
        }
    }
}
