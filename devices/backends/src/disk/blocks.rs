//! Disks as blocks of 64 KiB: sets of them, their hashes, and which of them one copy lacks.
//!
//! Contract: hashes depend on content only, not on how the host stores holes; a hole costs no
//! reading. Not a defence against forgery: both copies belong to one user.

use super::{Disk, SECTOR};
use std::collections::BTreeMap;
use std::io;
use xxhash_rust::xxh3::xxh3_128;

/// Bytes of a block. The last one of a disk may be shorter.
pub const BLOCK: usize = 64 * 1024;
/// Sectors of a block.
pub const BLOCK_SECTORS: u64 = (BLOCK / SECTOR) as u64;
/// Stands for the hash of a block of zeros.
pub const ZERO: u128 = 0;

/// Blocks of a disk of `sectors`.
#[must_use]
pub const fn count(sectors: u64) -> u64 {
    sectors.div_ceil(BLOCK_SECTORS)
}

/// First sector and bytes of `block`, on a disk of `sectors`; `None`: there is no such block.
#[must_use]
pub fn extent(sectors: u64, block: u64) -> Option<(u64, usize)> {
    let lba = block.checked_mul(BLOCK_SECTORS).filter(|lba| *lba < sectors)?;
    Some((lba, (sectors - lba).min(BLOCK_SECTORS) as usize * SECTOR))
}

/// Whether there are only zeros.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |or, byte| or | byte) == 0)
        && rest.iter().all(|&byte| byte == 0)
}

/// The hash of a block's content.
#[must_use]
pub fn hash(data: &[u8]) -> u128 {
    if is_zero(data) { ZERO } else { xxh3_128(data).max(ZERO + 1) }
}

/// A set of blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockSet {
    /// 64 blocks a word; an absent word is empty, a present one is not.
    words: BTreeMap<u64, u64>,
}

impl BlockSet {
    /// Blocks `0..blocks`.
    #[must_use]
    pub fn all(blocks: u64) -> Self {
        let mut set = Self::default();
        for word in 0..blocks / 64 {
            set.words.insert(word, u64::MAX);
        }
        if !blocks.is_multiple_of(64) {
            set.words.insert(blocks / 64, (1 << (blocks % 64)) - 1);
        }
        set
    }

    /// Adds a block.
    pub fn insert(&mut self, block: u64) {
        *self.words.entry(block / 64).or_default() |= 1 << (block % 64);
    }

    /// Adds the blocks that `bytes` bytes from sector `lba` touch.
    pub fn insert_sectors(&mut self, lba: u64, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let end = lba.saturating_add((bytes as u64).div_ceil(SECTOR as u64));
        for block in lba / BLOCK_SECTORS..end.div_ceil(BLOCK_SECTORS) {
            self.insert(block);
        }
    }

    /// Adds the blocks of `other`.
    pub fn extend(&mut self, other: &Self) {
        for (word, bits) in &other.words {
            *self.words.entry(*word).or_default() |= bits;
        }
    }

    /// Takes a block out.
    pub fn remove(&mut self, block: u64) {
        if let Some(word) = self.words.get_mut(&(block / 64)) {
            *word &= !(1 << (block % 64));
            if *word == 0 {
                self.words.remove(&(block / 64));
            }
        }
    }

    /// Whether `block` is in the set.
    #[must_use]
    pub fn contains(&self, block: u64) -> bool {
        self.words.get(&(block / 64)).is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.words.values().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Takes the first block out.
    pub fn pop_first(&mut self) -> Option<u64> {
        let (word, bits) = self.words.first_key_value()?;
        let block = word * 64 + u64::from(bits.trailing_zeros());
        self.remove(block);
        Some(block)
    }

    /// The blocks in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.words.iter().flat_map(|(word, bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 64 + bit)
        })
    }
}

/// Adds to `lacking` the blocks from `first` on whose hashes differ; what only one side has counts
/// as zeros on the other.
pub fn compare(first: u64, ours: &[u128], theirs: &[u128], lacking: &mut BlockSet) {
    for n in 0..ours.len().max(theirs.len()) {
        let of = |hashes: &[u128]| hashes.get(n).copied().unwrap_or(ZERO);
        if of(ours) != of(theirs) {
            lacking.insert(first + n as u64);
        }
    }
}

/// Hashes up to `most` blocks from `first`, and reads no more than `reads` of them: holes are
/// skipped. Fewer, but at least one, come back when `reads` or the disk is at its end.
///
/// # Errors
/// The disk cannot be read.
pub fn hashes(disk: &mut dyn Disk, first: u64, most: u64, reads: u32) -> io::Result<Vec<u128>> {
    let sectors = disk.sectors();
    let mut found = Vec::new();
    let mut data = vec![0; BLOCK];
    let mut left = reads.max(1);
    let end = count(sectors).min(first.saturating_add(most));
    let mut block = first;
    while block < end {
        let next = disk.next_data(block * BLOCK_SECTORS) / BLOCK_SECTORS;
        if next > block {
            let holes = next.min(end) - block;
            found.resize(found.len() + holes as usize, ZERO);
            block += holes;
            continue;
        }
        if left == 0 {
            break;
        }
        left -= 1;
        let (lba, len) = extent(sectors, block).expect("it is before the end");
        disk.read(lba, &mut data[..len])?;
        found.push(hash(&data[..len]));
        block += 1;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryDisk;
    use super::super::overlay::Overlay;
    use super::super::raw::{Access, RawDisk};
    use super::*;
    use std::os::unix::fs::FileExt;

    fn all_hashes(disk: &mut dyn Disk, most: u64, reads: u32) -> Vec<u128> {
        let blocks = count(disk.sectors());
        let mut found: Vec<u128> = Vec::new();
        while (found.len() as u64) < blocks {
            let more = hashes(disk, found.len() as u64, most, reads).expect("readable");
            assert!(!more.is_empty() && more.len() as u64 <= most);
            found.extend(more);
        }
        found
    }

    #[test]
    fn all_kinds_of_disks_have_the_same_hashes() {
        let len = 20 * BLOCK + 5 * SECTOR;
        let mut bytes = vec![0; len];
        bytes[7 * BLOCK + 9] = 1;
        bytes[12 * BLOCK - 1] = 2;
        bytes[len - 1] = 3;
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        file.as_file().set_len(len as u64).expect("length");
        for at in [7 * BLOCK + 9, 12 * BLOCK - 1, len - 1] {
            file.as_file().write_all_at(&bytes[at..=at], at as u64).expect("write");
        }
        let expected = all_hashes(&mut MemoryDisk::new(bytes.clone()), 1000, 1000);
        assert_eq!(expected.len(), 21);
        assert_eq!(expected.iter().filter(|&&hash| hash != ZERO).count(), 3);
        let raw = || RawDisk::open(file.path(), Access::ReadOnly).expect("open");
        for (most, reads) in [(1000, 1000), (3, 1), (1, 1), (1000, 2)] {
            assert_eq!(all_hashes(&mut raw(), most, reads), expected, "{most} {reads}");
        }
        let empty = MemoryDisk::new(vec![0; len]);
        let mut overlay = Overlay::new(empty).expect("overlay");
        for (n, sector) in bytes.chunks(SECTOR).enumerate() {
            if !is_zero(sector) {
                overlay.write(n as u64, sector).expect("write");
            }
        }
        assert_eq!(all_hashes(&mut overlay, 4, 2), expected);
        let mut over_raw = Overlay::new(raw()).expect("overlay");
        assert_eq!(all_hashes(&mut over_raw, 100, 100), expected);
        over_raw.write(40, &[9; SECTOR]).expect("write");
        let mut lacking = BlockSet::default();
        compare(0, &all_hashes(&mut over_raw, 100, 100), &expected, &mut lacking);
        assert_eq!(lacking.iter().collect::<Vec<_>>(), [0]);
    }

    /// A file system that knows holes need not be read at all.
    #[test]
    fn a_sparse_image_costs_what_its_data_costs() {
        struct Counting(RawDisk, u32);
        impl Disk for Counting {
            fn sectors(&self) -> u64 {
                self.0.sectors()
            }
            fn read(&mut self, lba: u64, data: &mut [u8]) -> io::Result<()> {
                self.1 += 1;
                self.0.read(lba, data)
            }
            fn write(&mut self, lba: u64, data: &[u8]) -> io::Result<()> {
                self.0.write(lba, data)
            }
            fn flush(&mut self) -> io::Result<()> {
                self.0.flush()
            }
            fn next_data(&mut self, lba: u64) -> u64 {
                self.0.next_data(lba)
            }
        }
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        file.as_file().set_len(2 << 30).expect("length");
        file.as_file().write_all_at(b"data", 1 << 30).expect("write");
        let raw = RawDisk::open(file.path(), Access::ReadOnly).expect("open");
        let mut disk = Counting(raw, 0);
        let found = all_hashes(&mut disk, u64::MAX, 4);
        assert_eq!((found.len(), found.iter().filter(|&&h| h != ZERO).count()), (32768, 1));
        assert!((1..64).contains(&disk.1), "{} blocks were read", disk.1);
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        let mut set = BlockSet::default();
        set.insert_sectors(127, 2 * SECTOR);
        set.insert_sectors(64 * 128, SECTOR);
        set.insert_sectors(1000, 0);
        assert_eq!((set.len(), set.iter().collect::<Vec<_>>()), (3, vec![0, 1, 64]));
        let mut other = BlockSet::all(65);
        assert_eq!((other.len(), other.contains(64), other.contains(65)), (65, true, false));
        other.remove(64);
        other.remove(70);
        other.extend(&set);
        assert_eq!(other, BlockSet::all(65));
        assert_eq!([set.pop_first(), set.pop_first()], [Some(0), Some(1)]);
        assert_eq!([set.pop_first(), set.pop_first()], [Some(64), None]);
        assert!(set.is_empty() && set == BlockSet::default());
    }

    #[test]
    fn extents_end_with_the_disk() {
        assert_eq!((count(1), count(128), count(129)), (1, 1, 2));
        assert_eq!(extent(129, 0), Some((0, BLOCK)));
        assert_eq!(extent(129, 1), Some((128, SECTOR)));
        assert_eq!((extent(129, 2), extent(129, u64::MAX)), (None, None));
    }
}
