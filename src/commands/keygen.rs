//! `ftemu keygen`: a key for a pair.

use super::files;
use crate::cli::KeygenFlags;
use crate::failure::Failure;
use drivers::channel::Key;
use std::io::ErrorKind;

/// Writes a new random key to a file that is not there yet.
pub fn run(flags: &KeygenFlags) -> Result<u8, Failure> {
    let key = Key::generate().map_err(|e| Failure::Host(format!("no random numbers: {e}")))?;
    key.create(&flags.file).map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => Failure::file(&flags.file, "exists already"),
        _ => Failure::file(&flags.file, files::describe(&e)),
    })?;
    Ok(0)
}
