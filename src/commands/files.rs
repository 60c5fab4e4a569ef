//! Files that a machine is made of: kernels and disk images, checked before they are used.

use crate::failure::Failure;
use backends::disk::Disk;
use backends::disk::fingerprint::fingerprint;
use backends::disk::nbd::{NbdAddress, NbdDisk, Patience};
use backends::disk::raw::{Access, RawDisk};
use drivers::session::NamedFile;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Reads a whole file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let metadata = std::fs::metadata(path).map_err(|e| Failure::file(path, describe(&e)))?;
    if metadata.is_dir() {
        return Err(Failure::file(path, "is a directory"));
    }
    if metadata.len() > limit {
        let limit = limit >> 20;
        return Err(Failure::file(path, format!("is too large: {limit} MiB of memory hold it")));
    }
    std::fs::read(path).map_err(|e| Failure::file(path, describe(&e)))
}

/// Why a file cannot be opened, as the end of a sentence.
pub fn describe(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::NotFound => "does not exist".into(),
        std::io::ErrorKind::PermissionDenied => "must not be read or written by this user".into(),
        _ => format!("cannot be used: {e}"),
    }
}

/// Reads a kernel and checks that it is one.
pub fn kernel(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let bytes = read(path, limit)?;
    // The setup header of the Linux boot protocol.
    let boot_flag = bytes.get(0x1FE..0x200) == Some(&[0x55, 0xAA]);
    let header = bytes.get(0x202..0x206) == Some(b"HdrS");
    if !boot_flag || !header {
        return Err(Failure::file(path, "is not a Linux kernel (bzImage)"));
    }
    Ok(bytes)
}

/// Opens a raw image.
pub fn image(path: &Path, access: Access) -> Result<RawDisk, Failure> {
    let disk = RawDisk::open(path, access).map_err(|e| Failure::file(path, e))?;
    if disk.missing() > 0 {
        log::warn!(
            "{}: ends inside a sector; {} bytes of zeros are added",
            path.display(),
            disk.missing()
        );
    }
    Ok(disk)
}

/// Whether a disk argument means an NBD export.
pub fn is_export(path: &Path) -> bool {
    path.to_str().is_some_and(NbdAddress::is_meant)
}

/// The NBD export that a disk argument means, if it means one.
pub fn nbd(path: &Path) -> Result<Option<NbdAddress>, Failure> {
    match path.to_str().filter(|_| is_export(path)) {
        Some(text) => text.parse().map(Some).map_err(Failure::Usage),
        None => Ok(None),
    }
}

/// Opens an NBD export. Who writes to it has its lock on this computer, in the directory `state`.
pub fn export(
    address: &NbdAddress,
    access: Access,
    state: Option<&Path>,
) -> Result<NbdDisk, Failure> {
    let failed = |e: std::io::Error| Failure::Input(format!("{address}: {e}"));
    let mut disk = NbdDisk::open(address, access, Patience::DEFAULT).map_err(failed)?;
    let mut path = export_state(address, state)?.into_os_string();
    path.push(".lock");
    let path = PathBuf::from(path);
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    disk.lock(lock.map_err(|e| Failure::file(&path, describe(&e)))?).map_err(failed)?;
    Ok(disk)
}

/// What stands for an export on this computer, where an image would stand for itself: the path
/// beside which its record and its lock are.
pub fn export_state(address: &NbdAddress, state: Option<&Path>) -> Result<PathBuf, Failure> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = match state {
        Some(dir) => dir.to_owned(),
        None => var("XDG_STATE_HOME")
            .or_else(|| var("HOME").map(|home| home.join(".local/state")))
            .unwrap_or_else(|| "/var/lib".into())
            .join("ftemu"),
    };
    std::fs::create_dir_all(&dir).map_err(|e| {
        Failure::file(&dir, format!("the record of {address} cannot be kept there: {e}"))
    })?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let name: String = address
        .to_string()
        .bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect();
    if name.len() > 200 {
        return Err(Failure::Input(format!("{address}: the name is too long to keep a record of")));
    }
    Ok(dir.join(name))
}

/// Names an image by its content.
pub fn name(path: &Path, disk: &mut RawDisk) -> Result<NamedFile, Failure> {
    let fail = |e| Failure::file(path, format!("cannot be read: {e}"));
    let file = disk.file().try_clone().map_err(fail)?;
    let hash = fingerprint(disk, Some(&file)).map_err(fail)?;
    let len = disk.sectors() * 512;
    Ok(NamedFile { path: absolute(path), len, hash })
}

/// `path` from the root, as a log names it.
pub fn absolute(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.to_string_lossy().into_owned()
}

/// Makes a file to write to.
pub fn create(path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(|e| Failure::file(path, describe(&e)))
}

/// Makes a log; another file that stands there stays as it is.
pub fn create_log(path: &Path) -> Result<File, Failure> {
    if let Ok(found) = File::open(path) {
        use std::io::Read;
        let mut start = Vec::new();
        let read = found.take(8).read_to_end(&mut start);
        if read.is_ok() && !start.is_empty() && start != ft::log::file::MAGIC {
            return Err(Failure::file(path, "is there already and is no log: it is left alone"));
        }
    }
    create(path)
}

/// Where the debug console goes.
pub fn debug(path: &Path) -> Result<Box<dyn Write>, Failure> {
    if path == Path::new("stderr") {
        return Ok(Box::new(std::io::stderr()));
    }
    Ok(Box::new(create(path)?))
}
