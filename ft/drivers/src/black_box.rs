//! A backup's own record of the machine: from its state at joining on, through going live.
//!
//! Contract: each joining begins the file anew, since the machine that came before is worth
//! nothing. A file that cannot be written is told of and given up; the backup goes on.

use crate::record::Recorder;
use crate::session::Session;
use crate::transfer::payload::{Header, decode};
use std::fs::File;
use std::io::{self, Seek};

/// Where the record goes, and what it says of the machine.
#[derive(Debug)]
pub struct BlackBox {
    /// The file, for this side alone.
    pub file: File,
    /// The program.
    pub build: String,
    /// The machine, its disks as [`crate::session::DiskSource::Log`]: whatever the guest reads is
    /// in the record.
    pub session: Session,
}

impl BlackBox {
    /// Begins the record of a joining.
    #[must_use]
    pub fn begin(&self) -> Recorder {
        match self.empty() {
            Ok(file) => Recorder::joining(Box::new(file), &self.build, &self.session),
            Err(e) => {
                log::error!("the record: {e}");
                Recorder::default()
            }
        }
    }

    fn empty(&self) -> io::Result<File> {
        let mut file = self.file.try_clone()?;
        file.set_len(0)?;
        file.rewind()?;
        Ok(file)
    }
}

/// Whether a piece of a transfer is of the machine's state, and not of its disks.
#[must_use]
pub fn is_state(piece: &[u8]) -> bool {
    matches!(decode(piece), Ok((Header::Pages { .. } | Header::State { .. }, _)))
}
