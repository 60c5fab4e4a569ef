//! Throw-away writes over a disk that stays as it is (`--snapshot`).
//!
//! Contract: as [`Disk`]; the disk below is only read. What is written goes to an unnamed temporary
//! file that disappears with the process, however it ends, so the host's memory does not grow with
//! the guest's writes.

use super::{Disk, SECTOR, check_range};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A set of sectors.
#[derive(Clone, Debug, Default)]
pub struct SectorSet {
    /// 64 sectors a word; absent is empty.
    words: BTreeMap<u64, u64>,
}

impl SectorSet {
    /// Whether `sector` is in the set.
    #[must_use]
    pub fn contains(&self, sector: u64) -> bool {
        self.words.get(&(sector / 64)).is_some_and(|word| word >> (sector % 64) & 1 == 1)
    }

    /// Whether all of `count` sectors from `first` are in the set.
    #[must_use]
    pub fn contains_all(&self, first: u64, count: u64) -> bool {
        (first..first + count).all(|sector| self.contains(sector))
    }

    /// Adds `count` sectors from `first`.
    pub fn insert(&mut self, first: u64, count: u64) {
        for sector in first..first + count {
            *self.words.entry(sector / 64).or_default() |= 1 << (sector % 64);
        }
    }

    /// Takes `count` sectors from `first` out.
    pub fn remove(&mut self, first: u64, count: u64) {
        for sector in first..first + count {
            if let Some(word) = self.words.get_mut(&(sector / 64)) {
                *word &= !(1 << (sector % 64));
            }
        }
    }

    /// The first sector at or after `from` that is in the set.
    #[must_use]
    pub fn next(&self, from: u64) -> Option<u64> {
        self.words.range(from / 64..).find_map(|(&word, &bits)| {
            let skipped = if word == from / 64 { from % 64 } else { 0 };
            let bits = bits & (u64::MAX << skipped);
            (bits != 0).then(|| word * 64 + u64::from(bits.trailing_zeros()))
        })
    }

    /// Splits `count` sectors from `first` into runs of (first, count, whether in the set).
    pub fn runs(&self, first: u64, count: u64) -> Vec<(u64, u64, bool)> {
        let mut runs: Vec<(u64, u64, bool)> = Vec::new();
        for sector in first..first + count {
            let inside = self.contains(sector);
            match runs.last_mut() {
                Some((_, n, same)) if *same == inside => *n += 1,
                _ => runs.push((sector, 1, inside)),
            }
        }
        runs
    }
}

/// A disk whose writes are thrown away in the end.
#[derive(Debug)]
pub struct Overlay<D> {
    below: D,
    written: SectorSet,
    file: File,
}

impl<D: Disk> Overlay<D> {
    /// Throw-away writes over `below`.
    ///
    /// # Errors
    /// No temporary file can be made.
    pub fn new(below: D) -> io::Result<Self> {
        Ok(Self { below, written: SectorSet::default(), file: unnamed_file()? })
    }
}

/// Where large temporary files go: `$TMPDIR`, else `/var/tmp`, which is not in memory.
fn directories() -> impl Iterator<Item = PathBuf> {
    let named = std::env::var_os("TMPDIR").map(PathBuf::from);
    named.into_iter().chain(["/var/tmp", "/tmp"].map(PathBuf::from))
}

/// A file without a name, open for reading and writing.
///
/// # Errors
/// No directory for temporary files can be written.
pub fn unnamed_file() -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    let mut failure = io::Error::other("no directory for temporary files");
    for directory in directories() {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match open(&directory, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => return Ok(File::from(file)),
            Err(e) => failure = e.into(),
        }
        // File systems without O_TMPFILE: a named file, removed at once.
        let name = directory.join(format!(".ftemu-overlay-{}", std::process::id()));
        if let Ok(file) = File::options().read(true).write(true).create_new(true).open(&name) {
            std::fs::remove_file(&name)?;
            return Ok(file);
        }
    }
    Err(failure)
}

impl<D: Disk> Disk for Overlay<D> {
    fn sectors(&self) -> u64 {
        self.below.sectors()
    }

    fn read(&mut self, lba: u64, data: &mut [u8]) -> io::Result<()> {
        check_range(self.sectors(), lba, data.len())?;
        let mut at = 0;
        for (first, count, written) in self.written.runs(lba, (data.len() / SECTOR) as u64) {
            let part = &mut data[at..at + count as usize * SECTOR];
            at += part.len();
            if written {
                self.file.read_exact_at(part, first * SECTOR as u64)?;
            } else {
                self.below.read(first, part)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> io::Result<()> {
        check_range(self.sectors(), lba, data.len())?;
        self.file.write_all_at(data, lba * SECTOR as u64)?;
        self.written.insert(lba, (data.len() / SECTOR) as u64);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn next_data(&mut self, lba: u64) -> u64 {
        let below = self.below.next_data(lba);
        self.written.next(lba).map_or(below, |written| written.min(below))
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryDisk;
    use super::*;

    #[test]
    fn fulfils_the_contract() {
        let below = MemoryDisk::new(vec![0xAA; 200 * SECTOR]);
        super::super::contract(&mut Overlay::new(below).expect("overlay"));
    }

    #[test]
    fn reads_mix_both_layers_and_the_lower_stays() {
        let below = MemoryDisk::new(vec![1; 8 * SECTOR]);
        let mut disk = Overlay::new(below).expect("overlay");
        disk.write(2, &[2; SECTOR]).expect("write");
        disk.write(5, &[3; 2 * SECTOR]).expect("write");
        let mut back = vec![0; 8 * SECTOR];
        disk.read(0, &mut back).expect("read");
        let firsts: Vec<u8> = back.chunks(SECTOR).map(|sector| sector[0]).collect();
        assert_eq!(firsts, [1, 1, 2, 1, 1, 3, 3, 1]);
        let Overlay { mut below, .. } = disk;
        below.read(0, &mut back).expect("read");
        assert!(back.iter().all(|&byte| byte == 1));
    }

    #[test]
    fn sector_sets_hold_what_was_put_in() {
        let mut set = SectorSet::default();
        set.insert(60, 10);
        set.remove(64, 2);
        assert_eq!(
            set.runs(58, 14),
            [(58, 2, false), (60, 4, true), (64, 2, false), (66, 4, true), (70, 2, false)]
        );
        assert_eq!(
            [0, 61, 64, 66, 70].map(|from| set.next(from)),
            [Some(60), Some(61), Some(66), Some(66), None]
        );
        assert!(set.contains_all(60, 4) && !set.contains_all(60, 5));
    }
}
