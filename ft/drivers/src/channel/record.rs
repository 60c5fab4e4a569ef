//! Records: the encrypted stream after the handshake.
//!
//! Contract: a record is `length: u16 BE` and that many bytes, a Noise transport message whose
//! number is its nonce. Its plaintext is the next piece of the stream of messages (`frame`). A side
//! changes its key (Noise's REKEY) after every [`REKEY_RECORDS`] records. A record that does not
//! decrypt ends the connection.

use super::frame::{self, Assembler, FrameError};
use snow::StatelessTransportState;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, PoisonError, RwLock};

/// Longest Noise message.
const NOISE_MAX: usize = 65_535;
/// Bytes of the authentication tag.
const TAG: usize = 16;
/// Most plaintext in a record.
const PLAIN_MAX: usize = NOISE_MAX - TAG;
/// Records under one key: 64 GiB at most, far from the limits of AES-GCM. Tests see many changes.
const REKEY_RECORDS: u64 = if cfg!(test) { 16 } else { 1 << 20 };
/// Written to the socket in one go.
const WRITE_BYTES: usize = 256 * 1024;
/// Read from the socket in one go.
const READ_BYTES: usize = 256 * 1024;

/// The keys of both directions.
pub(super) type Keys = Arc<RwLock<StatelessTransportState>>;

/// Why nothing more is received.
#[derive(Debug)]
pub enum ReceiveError {
    /// The socket failed.
    Socket(io::Error),
    /// The peer is gone; in the middle of something or not.
    Closed,
    /// A record does not decrypt, or is none.
    Damaged,
    /// The decrypted stream makes no sense.
    Frame(FrameError),
}

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(e) => match e.kind() {
                io::ErrorKind::ConnectionReset => f.write_str("the peer is gone"),
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                    f.write_str("the peer did not answer in time")
                }
                _ => write!(f, "{e}"),
            },
            Self::Closed => f.write_str("the peer closed the connection"),
            Self::Damaged => f.write_str("what arrived is damaged or not from the peer"),
            Self::Frame(e) => e.fmt(f),
        }
    }
}

/// The sending half.
pub(super) struct Sealer {
    keys: Keys,
    nonce: u64,
    plain: Vec<u8>,
    out: Vec<u8>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("nonce", &self.nonce).finish_non_exhaustive()
    }
}

impl Sealer {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, nonce: 0, plain: Vec::new(), out: Vec::new() }
    }

    /// Whether all that was added is written.
    pub(super) fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.out.is_empty()
    }

    /// Adds `message`; writes what has become much.
    pub(super) fn push(&mut self, message: &[u8], sink: &mut impl Write) -> io::Result<()> {
        self.stream(&frame::header(message), sink)?;
        self.stream(message, sink)
    }

    fn stream(&mut self, mut bytes: &[u8], sink: &mut impl Write) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.plain.is_empty() && bytes.len() >= PLAIN_MAX {
                let (piece, rest) = bytes.split_at(PLAIN_MAX);
                self.seal(piece);
                bytes = rest;
            } else {
                let some = bytes.len().min(PLAIN_MAX - self.plain.len());
                let (piece, rest) = bytes.split_at(some);
                self.plain.extend_from_slice(piece);
                bytes = rest;
                if self.plain.len() == PLAIN_MAX {
                    self.seal_plain();
                }
            }
            if self.out.len() >= WRITE_BYTES {
                self.write(sink)?;
            }
        }
        Ok(())
    }

    /// Writes everything that was added.
    pub(super) fn flush(&mut self, sink: &mut impl Write) -> io::Result<()> {
        if !self.plain.is_empty() {
            self.seal_plain();
        }
        self.write(sink)
    }

    /// Writes what is sealed; what `sink` does not take stays for the next time.
    fn write(&mut self, sink: &mut impl Write) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            let rest = &self.out[written..];
            if rest.is_empty() {
                break Ok(());
            }
            match sink.write(rest) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(some) => written += some,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        self.out.drain(..written);
        result
    }

    fn seal_plain(&mut self) {
        let plain = std::mem::take(&mut self.plain);
        self.seal(&plain);
        self.plain = plain;
        self.plain.clear();
    }

    pub(super) fn seal(&mut self, plain: &[u8]) {
        let start = self.out.len();
        let length = plain.len() + TAG;
        self.out.extend_from_slice(&(length as u16).to_be_bytes());
        self.out.resize(start + 2 + length, 0);
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let written = keys.write_message(self.nonce, plain, &mut self.out[start + 2..]);
        assert_eq!(written.ok(), Some(length), "a record of bounded length can be encrypted");
        drop(keys);
        self.nonce += 1;
        if self.nonce.is_multiple_of(REKEY_RECORDS) {
            self.keys.write().unwrap_or_else(PoisonError::into_inner).rekey_outgoing();
        }
    }
}

/// The receiving half.
pub(super) struct Opener {
    keys: Keys,
    nonce: u64,
    raw: Vec<u8>,
    /// What of `raw` is filled and not decrypted yet.
    raw_range: std::ops::Range<usize>,
    plain: Vec<u8>,
    /// What of `plain` is not taken yet.
    plain_range: std::ops::Range<usize>,
    messages: Assembler,
}

impl Opener {
    /// Accepts messages of at most `limit` bytes.
    pub(super) fn new(keys: Keys, limit: usize) -> Self {
        Self {
            keys,
            nonce: 0,
            raw: vec![0; READ_BYTES],
            raw_range: 0..0,
            plain: vec![0; PLAIN_MAX],
            plain_range: 0..0,
            messages: Assembler::new(limit),
        }
    }

    /// Accepts messages of at most `limit` bytes from here on.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.messages.set_limit(limit);
    }

    /// The next message; waits for it.
    pub(super) fn next(&mut self, source: &mut impl Read) -> Result<Vec<u8>, ReceiveError> {
        loop {
            while !self.plain_range.is_empty() {
                let mut piece = &self.plain[self.plain_range.clone()];
                let message = self.messages.take(&mut piece).map_err(ReceiveError::Frame)?;
                self.plain_range.start = self.plain_range.end - piece.len();
                if let Some(message) = message {
                    return Ok(message);
                }
            }
            if !self.open()? {
                self.read(source)?;
            }
        }
    }

    /// Decrypts the next record, if it is there.
    fn open(&mut self) -> Result<bool, ReceiveError> {
        let have = &self.raw[self.raw_range.clone()];
        let Some((length, rest)) = have.split_first_chunk::<2>() else { return Ok(false) };
        let length = usize::from(u16::from_be_bytes(*length));
        // An empty record would be work for nothing.
        if length <= TAG {
            return Err(ReceiveError::Damaged);
        }
        let Some(record) = rest.get(..length) else { return Ok(false) };
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let plain = keys.read_message(self.nonce, record, &mut self.plain);
        drop(keys);
        self.plain_range = 0..plain.map_err(|_| ReceiveError::Damaged)?;
        self.raw_range.start += 2 + length;
        self.nonce += 1;
        if self.nonce.is_multiple_of(REKEY_RECORDS) {
            self.keys.write().unwrap_or_else(PoisonError::into_inner).rekey_incoming();
        }
        Ok(true)
    }

    fn read(&mut self, source: &mut impl Read) -> Result<(), ReceiveError> {
        if self.raw_range.is_empty() {
            self.raw_range = 0..0;
        } else if self.raw_range.start > READ_BYTES / 2 {
            self.raw.copy_within(self.raw_range.clone(), 0);
            self.raw_range = 0..self.raw_range.len();
        }
        loop {
            match source.read(&mut self.raw[self.raw_range.end..]) {
                Ok(0) => return Err(ReceiveError::Closed),
                Ok(some) => {
                    self.raw_range.end += some;
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(ReceiveError::Socket(e)),
            }
        }
    }
}
