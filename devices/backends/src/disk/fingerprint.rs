//! A fast hash of an image's content, by which a log names the image that it needs.
//!
//! Contract: depends on length and content only, not on how the host stores holes. Not a defence
//! against forgery.

use super::{Disk, SECTOR};
use rustix::fs::SeekFrom;
use std::fs::File;
use std::io;
use xxhash_rust::xxh3::Xxh3;

/// Bytes hashed at a time; chunks of zeros count as absent.
const CHUNK: usize = 64 * 1024;

/// The hash of `disk`; `file` is where its bytes are stored, if in a file, so that holes are
/// skipped unread.
///
/// # Errors
/// The disk cannot be read.
pub fn fingerprint(disk: &mut dyn Disk, file: Option<&File>) -> io::Result<u128> {
    let len = disk.sectors() * SECTOR as u64;
    let mut hash = Xxh3::new();
    hash.update(&len.to_le_bytes());
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < len {
        if let Some(data) = file.and_then(|file| next_data(file, at, len)) {
            at = data / CHUNK as u64 * CHUNK as u64;
            if at >= len {
                break;
            }
        }
        let part = &mut chunk[..(len - at).min(CHUNK as u64) as usize];
        disk.read(at / SECTOR as u64, part)?;
        if part.iter().any(|&byte| byte != 0) {
            hash.update(&at.to_le_bytes());
            hash.update(part);
        }
        at += part.len() as u64;
    }
    Ok(hash.digest128())
}

/// Where the next stored byte at or after `at` is; `len` if there is none; `None` if the host
/// cannot tell.
fn next_data(file: &File, at: u64, len: u64) -> Option<u64> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => Some(data.max(at)),
        Err(rustix::io::Errno::NXIO) => Some(len.next_multiple_of(CHUNK as u64)),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryDisk;
    use super::super::raw::{Access, RawDisk};
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_and_zeros_are_the_same_and_content_is_not() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let len = 40 * CHUNK as u64 + 1536;
        file.as_file().set_len(len).expect("length");
        file.as_file().write_all_at(b"x", 17 * CHUNK as u64 + 5).expect("write");
        let mut sparse = RawDisk::open(file.path(), Access::ReadOnly).expect("open");
        let open = std::fs::File::open(file.path()).expect("open");
        let mut bytes = vec![0; len as usize];
        bytes[17 * CHUNK + 5] = b'x';
        let of = |bytes: &[u8]| {
            fingerprint(&mut MemoryDisk::new(bytes.to_vec()), None).expect("readable")
        };
        assert_eq!(fingerprint(&mut sparse, Some(&open)).expect("readable"), of(&bytes));
        let same = of(&bytes);
        bytes.swap(17 * CHUNK + 5, 18 * CHUNK + 5);
        assert_ne!(same, of(&bytes), "position counts");
        bytes.extend_from_slice(&[0; SECTOR]);
        bytes.swap(17 * CHUNK + 5, 18 * CHUNK + 5);
        assert_ne!(same, of(&bytes), "length counts");
    }
}
