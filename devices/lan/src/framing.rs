//! Frames on a byte stream, with QEMU's framing: a big-endian `u32` length, then the frame.
//!
//! Contract: a reader holds at most one frame and one read's bytes; a writer holds at most its
//! bound and refuses whole frames beyond it.

use crate::ethernet::FRAME_MAX;
use std::io::{self, Read, Write};

/// Bytes of the length.
const PREFIX: usize = 4;
/// Room for one read.
const READ: usize = 256 * 1024;

/// What a read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// This many bytes; fewer than there was room for means that no more wait.
    Some {
        /// Whether the room was filled.
        full: bool,
    },
    /// None for now.
    Later,
    /// The stream is over.
    End,
}

/// Takes frames from a stream.
#[derive(Debug)]
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self { buffer: vec![0; READ], start: 0, end: 0 }
    }
}

impl FrameReader {
    /// Reads once from `stream`.
    ///
    /// # Errors
    /// The host's failure.
    pub fn fill(&mut self, stream: &mut impl Read) -> io::Result<Intake> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let room = &mut self.buffer[self.end..];
        assert!(!room.is_empty(), "the frames were taken before more were read");
        match stream.read(room) {
            Ok(0) => Ok(Intake::End),
            Ok(n) => {
                let full = n == room.len();
                self.end += n;
                Ok(Intake::Some { full })
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Intake::Later),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Intake::Some { full: true }),
            Err(e) => Err(e),
        }
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// An announced length that no frame has; the stream cannot be followed any further.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, Overlong> {
        let have = &self.buffer[self.start..self.end];
        let Some((prefix, rest)) = have.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > FRAME_MAX {
            return Err(Overlong(len));
        }
        if rest.len() < len {
            return Ok(None);
        }
        let at = self.start + PREFIX;
        self.start = at + len;
        Ok(Some(&self.buffer[at..at + len]))
    }
}

/// A frame of this length was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlong(pub usize);

/// Frames on their way to a stream.
#[derive(Debug)]
pub struct FrameQueue {
    bytes: Vec<u8>,
    start: usize,
    bound: usize,
}

impl FrameQueue {
    /// Holds at most `bound` bytes.
    pub fn new(bound: usize) -> Self {
        Self { bytes: Vec::new(), start: 0, bound }
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes for which there is room.
    pub fn room(&self) -> usize {
        self.bound.saturating_sub(self.len())
    }

    /// Appends a frame; tells whether there was room.
    pub fn push(&mut self, frame: &[u8]) -> bool {
        if self.room() < PREFIX + frame.len() {
            return false;
        }
        // What is written already goes before the buffer grows over its bound.
        if self.start > 0 && self.bytes.len() + PREFIX + frame.len() > self.bound {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        self.bytes.extend_from_slice(frame);
        true
    }

    /// Writes what the stream takes.
    ///
    /// # Errors
    /// The host's failure.
    pub fn flush(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while !self.is_empty() {
            match stream.write(&self.bytes[self.start..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.start += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.bytes.clear();
        self.start = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A stream that gives and takes in pieces of the sizes in a list.
    struct Pieces<'a>(&'a [u8], Vec<usize>);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let piece = self.1.pop().unwrap_or(usize::MAX).min(self.0.len()).min(buffer.len());
            buffer[..piece].copy_from_slice(&self.0[..piece]);
            self.0 = &self.0[piece..];
            Ok(piece)
        }
    }

    fn frames(reader: &mut FrameReader) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        while let Some(frame) = reader.next_frame().expect("lengths of frames") {
            seen.push(frame.to_vec());
        }
        seen
    }

    #[test]
    fn a_full_queue_refuses_whole_frames() {
        let mut queue = FrameQueue::new(100);
        assert!(queue.push(&[1; 40]) && queue.push(&[2; 40]));
        assert!(!queue.push(&[3; 40]));
        assert!(queue.push(&[4; 8]));
        let mut written = Vec::new();
        queue.flush(&mut written).expect("memory");
        assert_eq!(written.len(), 100);
        assert_eq!(queue.room(), 100);
    }

    #[test]
    fn a_length_of_no_frame_is_an_error() {
        for len in [FRAME_MAX as u32 + 1, u32::MAX] {
            let mut reader = FrameReader::default();
            reader.fill(&mut &len.to_be_bytes()[..]).expect("memory");
            assert_eq!(reader.next_frame(), Err(Overlong(len as usize)));
        }
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            sent in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..2000), 0..40),
            cuts in proptest::collection::vec(1usize..3000, 0..60),
        ) {
            let mut queue = FrameQueue::new(1 << 20);
            for frame in &sent {
                prop_assert!(queue.push(frame));
            }
            let mut bytes = Vec::new();
            queue.flush(&mut bytes).expect("memory");
            let mut stream = Pieces(&bytes, cuts);
            let mut reader = FrameReader::default();
            let mut seen = Vec::new();
            while reader.fill(&mut stream).expect("memory") != Intake::End {
                seen.extend(frames(&mut reader));
            }
            prop_assert_eq!(seen, sent);
        }

        #[test]
        fn hostile_streams_are_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            let mut reader = FrameReader::default();
            reader.fill(&mut &bytes[..]).expect("memory");
            while let Ok(Some(frame)) = reader.next_frame() {
                prop_assert!(frame.len() <= FRAME_MAX);
            }
        }
    }
}
