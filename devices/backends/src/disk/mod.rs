//! Disks: storage behind one trait, and the worker thread that serves a machine's requests.
//!
//! Contract: sectors are 512 bytes; a read returns what the last completed write put there; after
//! [`Disk::flush`] all completed writes survive a crash of the host where the storage can.

pub mod blocks;
pub mod fault;
pub mod fence;
pub mod fingerprint;
pub mod memory;
pub mod nbd;
pub mod overlay;
pub mod raw;
pub mod sync;
pub mod worker;

use fence::Fence;
use std::io;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// Storage of whole sectors.
pub trait Disk: Send {
    /// Size in sectors.
    fn sectors(&self) -> u64;

    /// Reads `data.len() / 512` sectors from `lba`.
    ///
    /// # Errors
    /// A range outside the disk, or the host's failure.
    fn read(&mut self, lba: u64, data: &mut [u8]) -> io::Result<()>;

    /// Writes whole sectors at `lba`.
    ///
    /// # Errors
    /// A range outside the disk, or the host's failure; the range then holds old or new data.
    fn write(&mut self, lba: u64, data: &[u8]) -> io::Result<()>;

    /// Makes all completed writes durable.
    ///
    /// # Errors
    /// The host's failure.
    fn flush(&mut self) -> io::Result<()>;

    /// A sector at or after `lba` before which, from `lba` on, all is zero: where the host stores
    /// data next, if it can tell; the disk's size if there is no more.
    fn next_data(&mut self, lba: u64) -> u64 {
        lba
    }

    /// The disk is another computer's, too: completed writes are where it can read them.
    fn share(&mut self) {}

    /// Another computer may have written: later reads give that, as far as the host can tell.
    fn drop_cache(&mut self) {}

    /// Asks `fence` before each write that is made again on its own account, or late; the first
    /// attempt is the caller's to ask for.
    fn guard(&mut self, _fence: &Fence) {}

    /// Lets a disk that was opened for reading be written from here on: its machine goes live.
    ///
    /// # Errors
    /// The host does not permit it; the disk stays as it was, and writes fail.
    fn make_writable(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<D: Disk + ?Sized> Disk for Box<D> {
    fn sectors(&self) -> u64 {
        (**self).sectors()
    }

    fn read(&mut self, lba: u64, data: &mut [u8]) -> io::Result<()> {
        (**self).read(lba, data)
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> io::Result<()> {
        (**self).write(lba, data)
    }

    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }

    fn next_data(&mut self, lba: u64) -> u64 {
        (**self).next_data(lba)
    }

    fn share(&mut self) {
        (**self).share();
    }

    fn drop_cache(&mut self) {
        (**self).drop_cache();
    }

    fn guard(&mut self, fence: &Fence) {
        (**self).guard(fence);
    }

    fn make_writable(&mut self) -> io::Result<()> {
        (**self).make_writable()
    }
}

/// Checks that `len` bytes from `lba` are whole sectors inside a disk of `sectors`.
fn check_range(sectors: u64, lba: u64, len: usize) -> io::Result<()> {
    let count = (len / SECTOR) as u64;
    if !len.is_multiple_of(SECTOR) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not whole sectors"));
    }
    match lba.checked_add(count) {
        Some(end) if end <= sectors => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "sectors outside the disk")),
    }
}

/// What every disk must do; called by the tests of each.
#[cfg(test)]
pub(crate) fn contract(disk: &mut dyn Disk) {
    let sectors = disk.sectors();
    assert!(sectors >= 16, "the contract needs 16 sectors");
    let pattern = |seed: u8, n: usize| -> Vec<u8> {
        (0..n * SECTOR).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
    };
    let mut back = vec![0; 4 * SECTOR];

    disk.write(3, &pattern(1, 4)).expect("write");
    disk.read(3, &mut back).expect("read");
    assert_eq!(back, pattern(1, 4), "a read returns what was written");

    disk.write(5, &pattern(2, 1)).expect("overwrite");
    disk.read(3, &mut back).expect("read");
    assert_eq!(back[..2 * SECTOR], pattern(1, 4)[..2 * SECTOR], "neighbours stay");
    assert_eq!(back[2 * SECTOR..3 * SECTOR], pattern(2, 1)[..]);
    assert_eq!(back[3 * SECTOR..], pattern(1, 4)[3 * SECTOR..]);

    disk.write(sectors - 1, &pattern(3, 1)).expect("last sector");
    disk.read(sectors - 1, &mut back[..SECTOR]).expect("last sector");
    assert_eq!(back[..SECTOR], pattern(3, 1)[..]);

    disk.flush().expect("flush");
    disk.read(5, &mut back[..SECTOR]).expect("read after flush");
    assert_eq!(back[..SECTOR], pattern(2, 1)[..]);

    disk.write(0, &[]).expect("nothing is a whole number of sectors");
    for (lba, len) in [
        (sectors, SECTOR),
        (sectors - 1, 2 * SECTOR),
        (u64::MAX, SECTOR),
        (u64::MAX - 1, 4 * SECTOR),
        (0, 100),
    ] {
        assert!(disk.read(lba, &mut vec![0; len]).is_err(), "read {lba} {len}");
        assert!(disk.write(lba, &vec![0; len]).is_err(), "write {lba} {len}");
    }
    disk.read(sectors - 1, &mut back[..SECTOR]).expect("refused writes change nothing");
    assert_eq!(back[..SECTOR], pattern(3, 1)[..]);
}
