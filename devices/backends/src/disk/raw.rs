//! Raw image files and block devices.
//!
//! Contract: as [`Disk`]. A file opened for writing is locked against a second writer. A file whose
//! length is not a whole number of sectors ends in a sector padded with zeros; writing that sector
//! makes it whole.

use super::{Disk, SECTOR, check_range};
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Most sectors of a disk: what 48-bit LBA can name.
pub const MAX_SECTORS: u64 = 1 << 48;

/// How an image is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads and writes go to the file.
    ReadWrite,
    /// The file is never written.
    ReadOnly,
}

/// Why an image cannot be used. Displays as the end of a sentence that begins with the path.
#[derive(Debug)]
pub enum OpenError {
    /// It is a directory.
    Directory,
    /// It is neither a file nor a block device.
    NotAFile,
    /// It has no bytes.
    Empty,
    /// It has more sectors than 48-bit LBA can name.
    TooLarge,
    /// It may be read but not written.
    ReadOnly,
    /// Another process has it open for writing.
    InUse,
    /// It is an image of another format.
    Format(&'static str),
    /// The host says so.
    Io(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => f.write_str("is a directory, not a disk image"),
            Self::NotAFile => f.write_str("is neither a file nor a block device"),
            Self::Empty => f.write_str("is empty: a disk needs at least one sector of 512 bytes"),
            Self::TooLarge => f.write_str("is too large: a disk has at most 2^48 sectors"),
            Self::ReadOnly => f.write_str(
                "is read-only: make it writable, or use --snapshot to throw writes away",
            ),
            Self::InUse => f.write_str("is in use by another process that writes to it"),
            Self::Format(name) => {
                write!(f, "is a {name} image: only raw images are supported, convert it first")
            }
            Self::Io(e) if e.kind() == io::ErrorKind::NotFound => f.write_str("does not exist"),
            Self::Io(e) => write!(f, "cannot be opened: {e}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::IsADirectory => Self::Directory,
            _ => Self::Io(e),
        }
    }
}

/// A raw image.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    /// Bytes in the file; the last sector may be cut.
    len: u64,
    path: PathBuf,
    access: Access,
    /// Others read the storage, which has what was written after a flush only.
    write_through: bool,
    /// Somebody else had the lock when it was wanted.
    unlocked: bool,
}

impl RawDisk {
    /// Opens the image at `path`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, access: Access) -> Result<Self, OpenError> {
        let kind = std::fs::metadata(path)?.file_type();
        if kind.is_dir() {
            return Err(OpenError::Directory);
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::NotAFile);
        }
        let mut file = if access == Access::ReadWrite {
            let file = open_writable(path)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse),
                Err(TryLockError::Error(e)) => log::debug!("{}: no lock: {e}", path.display()),
                Ok(()) => {}
            }
            file
        } else {
            File::open(path)?
        };
        let len = file.seek(SeekFrom::End(0))?;
        if len == 0 {
            return Err(OpenError::Empty);
        }
        if len.div_ceil(SECTOR as u64) > MAX_SECTORS {
            return Err(OpenError::TooLarge);
        }
        if let Some(name) = foreign_format(&mut file)? {
            return Err(OpenError::Format(name));
        }
        Ok(Self { file, len, path: path.into(), access, write_through: false, unlocked: false })
    }

    /// Bytes by which the file misses a whole number of sectors.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.len.next_multiple_of(SECTOR as u64) - self.len
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Whether a file is on a file system of this computer alone, whose cache all its readers see. Of
/// block devices and of file systems that are not known this cannot be told.
fn is_local(file: &File) -> bool {
    // ext2 to ext4, XFS, Btrfs, F2FS, ZFS, tmpfs, ramfs, overlayfs: statfs(2).
    const LOCAL: [u32; 8] = [
        0xEF53,
        0x5846_5342,
        0x9123_683E,
        0xF2F5_2010,
        0x2FC1_2FC1,
        0x0102_1994,
        0x8584_58F6,
        0x794C_7630,
    ];
    let plain = file.metadata().is_ok_and(|metadata| metadata.is_file());
    plain && rustix::fs::fstatfs(file).is_ok_and(|found| LOCAL.contains(&(found.f_type as u32)))
}

/// Opens a file or block device for reading and writing.
fn open_writable(path: &Path) -> Result<File, OpenError> {
    let file =
        OpenOptions::new().read(true).write(true).open(path).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                if File::open(path).is_ok() =>
            {
                OpenError::ReadOnly
            }
            _ => e.into(),
        })?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.permissions().readonly() {
        // Root may write where the owner said nobody should.
        return Err(OpenError::ReadOnly);
    }
    Ok(file)
}

/// The format of an image that is certainly not raw: its magic number says so, and no boot sector
/// begins like that.
fn foreign_format(file: &mut File) -> io::Result<Option<&'static str>> {
    const MAGICS: [(&[u8], &str); 6] = [
        (b"QFI\xFB", "qcow2"),
        (b"KDMV", "VMDK"),
        (b"vhdxfile", "VHDX"),
        (b"conectix", "VHD"),
        (b"<<< Oracle VM VirtualBox Disk Image", "VDI"),
        (b"\x1F\x8B\x08", "gzip-compressed"),
    ];
    let mut start = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.by_ref().take(64).read_to_end(&mut start)?;
    Ok(MAGICS.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, name)| *name))
}

impl Disk for RawDisk {
    fn sectors(&self) -> u64 {
        self.len.div_ceil(SECTOR as u64)
    }

    fn read(&mut self, lba: u64, data: &mut [u8]) -> io::Result<()> {
        check_range(self.sectors(), lba, data.len())?;
        let start = lba * SECTOR as u64;
        let whole = self.len.saturating_sub(start).min(data.len() as u64) as usize;
        let (whole, padding) = data.split_at_mut(whole);
        self.file.read_exact_at(whole, start)?;
        padding.fill(0);
        Ok(())
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> io::Result<()> {
        check_range(self.sectors(), lba, data.len())?;
        if data.is_empty() {
            return Ok(());
        }
        let start = lba * SECTOR as u64;
        self.file.write_all_at(data, start)?;
        self.len = self.len.max(start + data.len() as u64);
        if self.write_through { self.file.sync_data() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        // Who had it may be gone by now.
        if self.unlocked && self.file.try_lock().is_ok() {
            self.unlocked = false;
        }
        self.file.sync_data()
    }

    fn share(&mut self) {
        self.write_through = !is_local(&self.file);
    }

    fn drop_cache(&mut self) {
        use rustix::fs::{Advice, fadvise};
        if let Err(e) = fadvise(&self.file, 0, None, Advice::DontNeed) {
            log::debug!("{}: the host's cache stays: {e}", self.path.display());
        }
    }

    /// The file at the path is opened again, and must be the same. A lock of another process is no
    /// reason to fail: who goes live on a shared image has won it at the arbiter, and the lock may
    /// be that of a computer that is gone.
    fn make_writable(&mut self) -> io::Result<()> {
        if self.access == Access::ReadWrite {
            return Ok(());
        }
        let path = self.path.display();
        let failed = |e: OpenError| io::Error::other(format!("{path} {e}"));
        let file = open_writable(&self.path).map_err(failed)?;
        let identity = |file: &File| file.metadata().map(|m| (m.dev(), m.ino(), m.rdev()));
        if identity(&file)? != identity(&self.file)? {
            return Err(io::Error::other(format!("{path} is another file than it was")));
        }
        if let Err(e) = file.try_lock() {
            log::warn!("{path}: written without a lock: {e}");
            self.unlocked = true;
        }
        self.file = file;
        self.access = Access::ReadWrite;
        self.drop_cache();
        Ok(())
    }

    fn next_data(&mut self, lba: u64) -> u64 {
        use rustix::fs::{SeekFrom, seek};
        match seek(&self.file, SeekFrom::Data(lba.saturating_mul(SECTOR as u64))) {
            Ok(at) => (at / SECTOR as u64).max(lba),
            Err(rustix::io::Errno::NXIO) => self.sectors(),
            Err(_) => lba,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn image(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), bytes).expect("write");
        file
    }

    #[test]
    fn fulfils_the_contract() {
        let file = image(&[0; 16 * SECTOR]);
        let mut disk = RawDisk::open(file.path(), Access::ReadWrite).expect("open");
        super::super::contract(&mut disk);
        drop(disk);
        assert_eq!(std::fs::read(file.path()).expect("read")[3 * SECTOR..][..3], [1, 32, 63]);
    }

    #[test]
    fn a_cut_last_sector_is_padded_and_can_be_written() {
        let file = image(&[9; 15 * SECTOR + 10]);
        let mut disk = RawDisk::open(file.path(), Access::ReadWrite).expect("open");
        assert_eq!((disk.sectors(), disk.missing()), (16, 502));
        let mut last = [1; SECTOR];
        disk.read(15, &mut last).expect("read");
        assert_eq!((last[9], last[10]), (9, 0));
        super::super::contract(&mut disk);
        assert_eq!(std::fs::metadata(file.path()).expect("stat").len(), 16 * SECTOR as u64);
    }

    #[test]
    fn refuses_what_is_not_an_image() {
        let open = |path: &Path| {
            RawDisk::open(path, Access::ReadWrite).expect_err("must be refused").to_string()
        };
        assert_eq!(open(Path::new("/")), "is a directory, not a disk image");
        assert_eq!(open(Path::new("/dev/null")), "is neither a file nor a block device");
        assert_eq!(open(Path::new("/no/such/image")), "does not exist");
        assert!(open(image(b"").path()).starts_with("is empty"));
        assert!(open(image(b"QFI\xFB\0\0\0\x03").path()).starts_with("is a qcow2 image"));
        let locked = image(&[0; 512]);
        let permissions = std::fs::Permissions::from_mode(0o444);
        std::fs::set_permissions(locked.path(), permissions).expect("chmod");
        assert!(open(locked.path()).starts_with("is read-only"));
        RawDisk::open(locked.path(), Access::ReadOnly).expect("reading is allowed");
    }

    #[test]
    fn two_writers_are_refused() {
        let file = image(&[0; 512]);
        let _first = RawDisk::open(file.path(), Access::ReadWrite).expect("open");
        let second = RawDisk::open(file.path(), Access::ReadWrite).expect_err("in use");
        assert!(matches!(second, OpenError::InUse));
        RawDisk::open(file.path(), Access::ReadOnly).expect("readers are not");
    }

    #[test]
    fn a_reader_becomes_the_writer() {
        let file = image(&[0; 16 * SECTOR]);
        let primary = RawDisk::open(file.path(), Access::ReadWrite).expect("open");
        let mut backup = RawDisk::open(file.path(), Access::ReadOnly).expect("open");
        assert!(backup.write(0, &[1; SECTOR]).is_err(), "it only reads");
        // The primary hangs: its lock stays, and the backup that won the arbiter does not mind.
        backup.make_writable().expect("the same file");
        super::super::contract(&mut backup);
        drop(primary);
        drop(backup);

        let mut backup = RawDisk::open(file.path(), Access::ReadOnly).expect("open");
        backup.make_writable().expect("the same file");
        let other = RawDisk::open(file.path(), Access::ReadWrite).expect_err("in use");
        assert!(matches!(other, OpenError::InUse), "the new writer has the lock");
        backup.make_writable().expect("once more changes nothing");
        drop(backup);

        let mut backup = RawDisk::open(file.path(), Access::ReadOnly).expect("open");
        let away = file.path().with_extension("away");
        std::fs::rename(file.path(), &away).expect("rename");
        std::fs::write(file.path(), [0; 16 * SECTOR]).expect("another image");
        let e = backup.make_writable().expect_err("another file");
        assert!(e.to_string().contains("is another file"), "{e}");
        assert!(backup.write(0, &[1; SECTOR]).is_err(), "it stays a reader");
        std::fs::remove_file(away).expect("remove");
    }
}
