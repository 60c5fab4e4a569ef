//! Frames: entries in bundles, each with its length and checksum.
//!
//! Contract: a frame is `u32` payload length, `u32` CRC-32 of the payload (both little-endian),
//! payload. The payload is a [`Base`] and the entries that follow from it, so each frame stands for
//! itself. A receiver holds at most one frame of [`MAX_PAYLOAD`] bytes.

use super::codec::{Base, decode, encode};
use super::entry::{Body, Entry, Instant};
use alloc::vec::Vec;

/// Longest payload: the largest disk request (32 MiB) with room to spare.
pub const MAX_PAYLOAD: usize = 40 << 20;
/// Bytes before the payload.
pub const HEADER: usize = 8;
/// Bytes that are reserved for a frame at most, before it is known how long it will be.
const ROOM_MAX: usize = 64 << 10;

/// Why the bytes at this place are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The length is over [`MAX_PAYLOAD`].
    TooLong,
    /// The checksum does not match.
    Checksum,
    /// The payload does not hold entries.
    Payload,
}

/// Bundles entries into frames.
#[derive(Clone, Debug, Default)]
pub struct FrameWriter {
    base: Base,
    frame: Vec<u8>,
    /// Room for the next frame: the last one's length.
    room: usize,
}

impl FrameWriter {
    /// A writer whose first entry has number `base.seq`.
    #[must_use]
    pub fn new(base: Base) -> Self {
        Self { base, ..Self::default() }
    }

    /// Adds an entry to the frame being made and returns its number.
    ///
    /// # Panics
    /// If entries are not in order.
    pub fn push(&mut self, at: Instant, body: &Body) -> u64 {
        if self.frame.is_empty() {
            self.frame.reserve(self.room);
            self.frame.resize(HEADER, 0);
            self.base.put(&mut self.frame);
        }
        let seq = self.base.seq;
        encode(&mut self.base, at, body, &mut self.frame);
        seq
    }

    /// Bytes of the frame so far.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.frame.len()
    }

    /// Number of the next entry.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.base.seq
    }

    /// Takes the frame, if it has entries.
    ///
    /// # Panics
    /// If the payload is over [`MAX_PAYLOAD`]: one entry must not be larger.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        if self.frame.is_empty() {
            return None;
        }
        let mut frame = core::mem::take(&mut self.frame);
        self.room = frame.len().min(ROOM_MAX);
        let len = frame.len() - HEADER;
        assert!(len <= MAX_PAYLOAD, "an entry of {len} bytes is too large for the log");
        let checksum = crc32fast::hash(&frame[HEADER..]);
        frame[..4].copy_from_slice(&(len as u32).to_le_bytes());
        frame[4..HEADER].copy_from_slice(&checksum.to_le_bytes());
        Some(frame)
    }
}

/// The entries of one whole frame that follows `base`, which moves past them.
///
/// # Errors
/// The bytes are not one frame, or another one must come before it; `base` is not moved.
pub fn decode_frame(base: &mut Base, bytes: &[u8]) -> Result<Vec<Entry>, FrameError> {
    let mut reader = FrameReader { base: *base, ..FrameReader::default() };
    reader.push(bytes);
    match reader.payload_len()? {
        Some(len) if HEADER + len == bytes.len() && len > 0 => {}
        _ => return Err(FrameError::Payload),
    }
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        entries.push(entry);
    }
    if entries.is_empty() {
        return Err(FrameError::Payload);
    }
    *base = reader.base;
    Ok(entries)
}

/// Takes entries out of a stream of frames.
#[derive(Clone, Debug, Default)]
pub struct FrameReader {
    /// The frame that is arriving.
    bytes: Vec<u8>,
    /// The payload that is being read, and how far.
    payload: Vec<u8>,
    read: usize,
    base: Base,
}

impl FrameReader {
    /// How many bytes to [`FrameReader::push`] at most until an entry can come; 0 if one waits.
    ///
    /// # Errors
    /// The frame that has begun is too long to be one.
    pub fn wanted(&self) -> Result<usize, FrameError> {
        if self.read < self.payload.len() {
            return Ok(0);
        }
        match self.payload_len()? {
            None => Ok(HEADER - self.bytes.len()),
            Some(len) => Ok(HEADER + len - self.bytes.len()),
        }
    }

    /// Adds bytes of the stream. Not more than [`FrameReader::wanted`].
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next entry; `None`: more bytes are needed.
    ///
    /// # Errors
    /// The bytes are no frame; nothing more can be read.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, FrameError> {
        while self.read == self.payload.len() {
            if !self.open_frame()? {
                return Ok(None);
            }
        }
        let mut rest = &self.payload[self.read..];
        let entry = decode(&mut self.base, &mut rest).ok_or(FrameError::Payload)?;
        self.read = self.payload.len() - rest.len();
        Ok(Some(entry))
    }

    /// Bytes of a frame that is not whole yet.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.bytes.len()
    }

    fn payload_len(&self) -> Result<Option<usize>, FrameError> {
        let Some(len) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*len) as usize;
        if len > MAX_PAYLOAD {
            return Err(FrameError::TooLong);
        }
        Ok((self.bytes.len() >= HEADER).then_some(len))
    }

    /// Goes on to the frame in `bytes`, if it is whole.
    fn open_frame(&mut self) -> Result<bool, FrameError> {
        let Some(len) = self.payload_len()? else { return Ok(false) };
        if self.bytes.len() < HEADER + len {
            return Ok(false);
        }
        let (header, payload) = self.bytes.split_at(HEADER);
        if crc32fast::hash(payload).to_le_bytes() != header[4..] {
            return Err(FrameError::Checksum);
        }
        let mut rest = payload;
        let base = Base::take(&mut rest).ok_or(FrameError::Payload)?;
        let last = self.base;
        if base.seq != last.seq || base.icount < last.icount || base.ns < last.ns {
            return Err(FrameError::Payload);
        }
        self.read = HEADER + payload.len() - rest.len();
        self.payload = core::mem::take(&mut self.bytes);
        self.base = base;
        Ok(true)
    }
}
