//! A serial port whose output goes to a file.
//!
//! Contract: the file is made anew; there is no input.

use super::{Console, Full, Writer};
use std::fs::File;
use std::io;
use std::path::Path;

/// Opens the console that writes to `path`.
///
/// # Errors
/// The file cannot be made, or the host has no thread to spare.
pub fn open(path: &Path) -> io::Result<Console> {
    let file = File::create(path)?;
    Ok(Console::Writer(Writer::spawn("serial file", file, Full::Wait)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_in_the_file_after_finish() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("serial.txt");
        std::fs::write(&path, "old").expect("write");
        let mut console = open(&path).expect("open");
        console.write(b"one ");
        console.write(b"two");
        console.finish();
        assert_eq!(std::fs::read(&path).expect("read"), b"one two");
        assert!(open(&directory.path().join("none/serial.txt")).is_err());
    }
}
