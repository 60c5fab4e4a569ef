//! Files that hold the old content or the new after a crash at any instant, never something
//! between.
//!
//! Contract: when [`replace`] returns, the new content survives a power failure, as far as the
//! storage keeps its word.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Makes `content` the file at `path`: a file beside it is written, made durable and renamed. One
/// writer at a time.
///
/// # Errors
/// The host's; the file then has its old content or the new.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_dir(path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Makes the names in a directory durable, where the file system knows of such a thing.
///
/// # Errors
/// The host's.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir).and_then(|dir| dir.sync_all()) {
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

/// The file that becomes the one at `path`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a");
        // What a crash left.
        fs::write(beside(&path), "a longer text from before").expect("write");
        replace(&path, b"one").expect("create");
        assert_eq!(fs::read(&path).expect("read"), b"one");
        replace(&path, b"").expect("replace");
        assert_eq!(fs::read(&path).expect("read"), b"");
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
        assert!(replace(&dir.path().join("no/a"), b"x").is_err());
    }
}
