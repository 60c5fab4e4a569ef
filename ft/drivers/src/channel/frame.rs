//! Messages as a stream of bytes: length, CRC, content.
//!
//! Contract: this is the plaintext; records of the encrypted stream are cut without regard to
//! messages. A header is `length: u32 LE` and `crc: u32 LE` (CRC-32 of the length's four bytes and
//! the content: whatever the computers' memories do to a message on its way shows). No memory is
//! reserved for bytes that have not arrived.

use std::fmt;

/// Longest message, bytes.
pub const MESSAGE_MAX: usize = 48 << 20;
/// Before every message.
pub const HEADER: usize = 8;
/// Reserved at most before a byte of the message is there.
const FIRST_RESERVE: usize = 1 << 20;

/// What is wrong with a stream of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Longer than is agreed.
    TooLong(usize),
    /// The CRC does not fit.
    Damaged,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(bytes) => write!(f, "a message of {bytes} bytes is too long"),
            Self::Damaged => f.write_str("a message is damaged (its CRC does not fit)"),
        }
    }
}

/// The header of `message`.
///
/// # Panics
/// The message is longer than [`MESSAGE_MAX`].
#[must_use]
pub fn header(message: &[u8]) -> [u8; HEADER] {
    assert!(message.len() <= MESSAGE_MAX, "a message of {} bytes", message.len());
    let length = (message.len() as u32).to_le_bytes();
    let crc = crc(length, message).to_le_bytes();
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&length);
    header[4..].copy_from_slice(&crc);
    header
}

fn crc(length: [u8; 4], message: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(message);
    hasher.finalize()
}

/// Puts messages together from pieces of the stream.
#[derive(Debug)]
pub struct Assembler {
    header: [u8; HEADER],
    /// Bytes of the header that are there.
    have: usize,
    /// The message that is being received.
    message: Vec<u8>,
    limit: usize,
}

impl Assembler {
    /// Accepts messages of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { header: [0; HEADER], have: 0, message: Vec::new(), limit: limit.min(MESSAGE_MAX) }
    }

    /// Accepts messages of at most `limit` bytes from here on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(MESSAGE_MAX);
    }

    /// Takes bytes from the front of `piece`; gives the message that they complete, if any. Call
    /// again until `piece` is empty: a piece may hold several messages.
    ///
    /// # Errors
    /// [`FrameError`]: nothing after it can be understood.
    pub fn take(&mut self, piece: &mut &[u8]) -> Result<Option<Vec<u8>>, FrameError> {
        if self.have < HEADER {
            let some = piece.len().min(HEADER - self.have);
            let (front, rest) = piece.split_at(some);
            self.header[self.have..self.have + some].copy_from_slice(front);
            self.have += some;
            *piece = rest;
            if self.have < HEADER {
                return Ok(None);
            }
            let length = self.length();
            if length > self.limit {
                return Err(FrameError::TooLong(length));
            }
            self.message = Vec::with_capacity(length.min(FIRST_RESERVE));
        }
        let some = piece.len().min(self.length() - self.message.len());
        let (front, rest) = piece.split_at(some);
        self.reserve(some);
        self.message.extend_from_slice(front);
        *piece = rest;
        if self.message.len() < self.length() {
            return Ok(None);
        }
        self.complete().map(Some)
    }

    /// Room for `some` more bytes, doubling, but never beyond the message's length.
    fn reserve(&mut self, some: usize) {
        let needed = self.message.len() + some;
        if needed > self.message.capacity() {
            let doubled = (self.message.capacity() * 2).clamp(needed, self.length());
            self.message.reserve_exact(doubled - self.message.len());
        }
    }

    fn length(&self) -> usize {
        let [a, b, c, d, ..] = self.header;
        u32::from_le_bytes([a, b, c, d]) as usize
    }

    fn complete(&mut self) -> Result<Vec<u8>, FrameError> {
        let [a, b, c, d, expected @ ..] = self.header;
        if crc([a, b, c, d], &self.message).to_le_bytes() != expected {
            return Err(FrameError::Damaged);
        }
        self.have = 0;
        Ok(std::mem::take(&mut self.message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(messages: &[Vec<u8>]) -> Vec<u8> {
        messages.iter().flat_map(|m| [&header(m)[..], m].concat()).collect()
    }

    /// All messages of `bytes`, given in pieces of `size` bytes.
    fn assemble(bytes: &[u8], size: usize, limit: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut assembler = Assembler::new(limit);
        let mut found = Vec::new();
        for mut piece in bytes.chunks(size) {
            while !piece.is_empty() {
                found.extend(assembler.take(&mut piece)?);
            }
        }
        Ok(found)
    }

    #[test]
    fn a_long_length_reserves_nothing_before_its_bytes_are_there() {
        let mut assembler = Assembler::new(MESSAGE_MAX);
        let mut header: &[u8] = &[0, 0, 0, 2, 0, 0, 0, 0];
        assert_eq!(assembler.take(&mut header), Ok(None));
        assert!(assembler.message.capacity() <= FIRST_RESERVE);
        let mut header: &[u8] = &[0xFF; 8];
        let error = FrameError::TooLong(u32::MAX as usize);
        assert_eq!(Assembler::new(usize::MAX).take(&mut header), Err(error));
    }

    #[test]
    fn a_message_ends_with_its_last_byte() {
        assert_eq!(assemble(&stream(&[vec![], vec![1], vec![]]), 1, 9).expect("sound").len(), 3);
    }

    proptest! {
        #[test]
        fn messages_survive_any_cutting(messages: Vec<Vec<u8>>, size in 1usize..300) {
            let found = assemble(&stream(&messages), size, 1 << 20);
            prop_assert_eq!(found, Ok(messages));
        }

        #[test]
        fn one_changed_bit_shows(message: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = stream(std::slice::from_ref(&message));
            bytes[at.index(message.len() + HEADER)] ^= 1 << bit;
            let found = assemble(&bytes, 64, 1 << 20);
            prop_assert!(!matches!(found, Ok(messages) if messages.contains(&message)));
        }

        #[test]
        fn hostile_bytes_end_in_an_error_or_in_waiting(bytes: Vec<u8>, size in 1usize..64) {
            for message in assemble(&bytes, size, 16).into_iter().flatten() {
                prop_assert!(message.len() <= 16);
            }
        }
    }
}
