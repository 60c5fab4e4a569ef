//! The log as a file: a magic number and version, then frames.
//!
//! Contract: what was written up to any moment can be read up to the last whole frame; a file that
//! was cut, or was being written when its writer died, is no error but an end.

use super::entry::{Body, Entry, Instant};
use super::frame::{FrameError, FrameReader, FrameWriter};
use alloc::vec::Vec;
use core::fmt;

/// First bytes of a log.
pub const MAGIC: [u8; 8] = *b"ftemulog";
/// Version of everything after the magic number.
pub const VERSION: u32 = 3;
/// The oldest version that can be read: it lacks the kinds of entries of the later ones.
pub const OLDEST: u32 = 2;
/// Bytes before the first frame.
const HEADER: usize = 12;
/// A frame is closed when it holds this many bytes.
const FRAME_BYTES: usize = 64 * 1024;

/// Makes the bytes of a log file.
#[derive(Clone, Debug)]
pub struct LogWriter {
    frames: FrameWriter,
    ready: Vec<u8>,
}

impl Default for LogWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl LogWriter {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        let ready = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        Self { frames: FrameWriter::default(), ready }
    }

    /// Adds an entry and returns its number.
    ///
    /// # Panics
    /// If entries are not in order, or `body` is larger than a frame may be.
    pub fn push(&mut self, at: Instant, body: &Body) -> u64 {
        let seq = self.frames.push(at, body);
        if self.frames.pending() >= FRAME_BYTES {
            self.flush();
        }
        seq
    }

    /// Closes the frame being made, so that [`LogWriter::take`] returns all entries.
    pub fn flush(&mut self) {
        if let Some(frame) = self.frames.take() {
            self.ready.extend_from_slice(&frame);
        }
    }

    /// Whether entries wait for [`LogWriter::flush`].
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.frames.pending() > 0
    }

    /// Takes the bytes that are ready to be written.
    pub fn take(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.ready)
    }

    /// Entries so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.frames.next_seq()
    }
}

/// Why a log cannot be read. Displays as the end of a sentence that begins with the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// It does not begin with [`MAGIC`].
    NotALog,
    /// It is of another version.
    Version(u32),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotALog => f.write_str("is not an ftemu log"),
            Self::Version(version) => {
                write!(f, "is a log of version {version}, and this ftemu reads version {VERSION}")
            }
        }
    }
}

impl core::error::Error for ReadError {}

/// How a log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// After a whole frame.
    Clean,
    /// Inside a frame: the writer died, or the file was cut. So many bytes are left over.
    Cut(usize),
    /// At bytes that are no frame.
    Damaged(FrameError),
}

/// Reads a log file from its bytes, given piece by piece.
#[derive(Clone, Debug, Default)]
pub struct LogReader {
    header: Vec<u8>,
    frames: FrameReader,
    damage: Option<FrameError>,
}

impl LogReader {
    /// A reader at the beginning.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes to [`LogReader::push`] at most next; 0: an entry waits, or nothing more can
    /// be read.
    #[must_use]
    pub fn wanted(&self) -> usize {
        if self.header.len() < HEADER {
            return HEADER - self.header.len();
        }
        if self.damage.is_some() { 0 } else { self.frames.wanted().unwrap_or(0) }
    }

    /// Adds bytes of the file, not more than [`LogReader::wanted`].
    ///
    /// # Errors
    /// The file is no log of this version.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        if self.header.len() < HEADER {
            self.header.extend_from_slice(bytes);
            return self.check_header();
        }
        self.frames.push(bytes);
        Ok(())
    }

    fn check_header(&self) -> Result<(), ReadError> {
        let (magic, version) = self.header.split_at(self.header.len().min(MAGIC.len()));
        if !MAGIC.starts_with(magic) {
            return Err(ReadError::NotALog);
        }
        match version.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)) {
            None | Some(OLDEST..=VERSION) => Ok(()),
            Some(other) => Err(ReadError::Version(other)),
        }
    }

    /// Takes the next entry; `None`: more bytes are needed, or there are no more entries.
    pub fn next_entry(&mut self) -> Option<Entry> {
        if self.damage.is_some() {
            return None;
        }
        self.frames.next_entry().unwrap_or_else(|damage| {
            self.damage = Some(damage);
            None
        })
    }

    /// How the log ended, once the file has no more bytes.
    ///
    /// # Errors
    /// The file ended before its header did: it is no log.
    pub fn tail(&self) -> Result<Tail, ReadError> {
        if self.header.len() < HEADER {
            return Err(ReadError::NotALog);
        }
        Ok(match (self.damage, self.frames.wanted()) {
            (Some(damage), _) | (None, Err(damage)) => Tail::Damaged(damage),
            _ if self.frames.unfinished() > 0 => Tail::Cut(self.frames.unfinished()),
            _ => Tail::Clean,
        })
    }
}
