//! A disk in the host's memory: for tests, and for images embedded in the program.
//!
//! Contract: as [`Disk`]; nothing survives the process.

use super::{Disk, SECTOR, check_range};
use std::io;

/// A disk held in memory.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    bytes: Vec<u8>,
}

impl MemoryDisk {
    /// A disk with this content, padded with zeros to whole sectors.
    #[must_use]
    pub fn new(mut bytes: Vec<u8>) -> Self {
        bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
        Self { bytes }
    }
}

impl Disk for MemoryDisk {
    fn sectors(&self) -> u64 {
        (self.bytes.len() / SECTOR) as u64
    }

    fn read(&mut self, lba: u64, data: &mut [u8]) -> io::Result<()> {
        check_range(self.sectors(), lba, data.len())?;
        let start = lba as usize * SECTOR;
        data.copy_from_slice(&self.bytes[start..start + data.len()]);
        Ok(())
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> io::Result<()> {
        check_range(self.sectors(), lba, data.len())?;
        let start = lba as usize * SECTOR;
        self.bytes[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fulfils_the_contract() {
        super::super::contract(&mut MemoryDisk::new(vec![0; 20 * SECTOR]));
    }

    #[test]
    fn pads_to_whole_sectors() {
        let mut disk = MemoryDisk::new(vec![7; SECTOR + 1]);
        assert_eq!(disk.sectors(), 2);
        let mut back = [0xFF; SECTOR];
        disk.read(1, &mut back).expect("read");
        assert_eq!((back[0], back[1]), (7, 0));
    }
}
