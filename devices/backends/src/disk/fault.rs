//! A disk that fails where it is told to: middleware for tests of error paths.
//!
//! Contract: requests that touch a bad sector fail and change nothing; all others reach the disk
//! below.

use super::{Disk, SECTOR};
use std::io;
use std::ops::Range;

/// A disk with bad sectors.
pub struct FaultDisk<D> {
    below: D,
    bad_reads: Vec<Range<u64>>,
    bad_writes: Vec<Range<u64>>,
    flush_fails: bool,
}

impl<D: Disk> FaultDisk<D> {
    /// `below` without faults yet.
    pub fn new(below: D) -> Self {
        Self { below, bad_reads: Vec::new(), bad_writes: Vec::new(), flush_fails: false }
    }

    /// Reads that touch `sectors` fail from now on.
    pub fn fail_reads(&mut self, sectors: Range<u64>) {
        self.bad_reads.push(sectors);
    }

    /// Writes that touch `sectors` fail from now on.
    pub fn fail_writes(&mut self, sectors: Range<u64>) {
        self.bad_writes.push(sectors);
    }

    /// Flushes fail from now on, or work again.
    pub fn fail_flush(&mut self, fails: bool) {
        self.flush_fails = fails;
    }
}

fn check(bad: &[Range<u64>], lba: u64, len: usize) -> io::Result<()> {
    let end = lba.saturating_add((len / SECTOR) as u64);
    if bad.iter().any(|range| range.start < end && lba < range.end) {
        return Err(io::Error::other("injected medium error"));
    }
    Ok(())
}

impl<D: Disk> Disk for FaultDisk<D> {
    fn sectors(&self) -> u64 {
        self.below.sectors()
    }

    fn read(&mut self, lba: u64, data: &mut [u8]) -> io::Result<()> {
        check(&self.bad_reads, lba, data.len())?;
        self.below.read(lba, data)
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> io::Result<()> {
        check(&self.bad_writes, lba, data.len())?;
        self.below.write(lba, data)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.flush_fails {
            return Err(io::Error::other("injected flush error"));
        }
        self.below.flush()
    }

    fn make_writable(&mut self) -> io::Result<()> {
        self.below.make_writable()
    }

    fn next_data(&mut self, lba: u64) -> u64 {
        self.below.next_data(lba)
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryDisk;
    use super::*;

    #[test]
    fn without_faults_fulfils_the_contract() {
        super::super::contract(&mut FaultDisk::new(MemoryDisk::new(vec![0; 16 * SECTOR])));
    }

    #[test]
    fn fails_only_where_it_is_told_to() {
        let mut disk = FaultDisk::new(MemoryDisk::new(vec![0; 16 * SECTOR]));
        disk.fail_reads(4..5);
        disk.fail_writes(8..10);
        disk.fail_flush(true);
        let mut two = [0; 2 * SECTOR];
        disk.read(2, &mut two).expect("before");
        assert!(disk.read(3, &mut two).is_err());
        assert!(disk.read(4, &mut two).is_err());
        disk.read(5, &mut two).expect("after");
        disk.write(4, &two).expect("bad for reads only");
        assert!(disk.write(9, &two).is_err());
        disk.write(10, &two).expect("after");
        assert!(disk.flush().is_err());
    }
}
