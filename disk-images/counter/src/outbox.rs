//! What a connection is about to send, and what must be true before it may.

use alloc::vec::Vec;
use core::fmt;

/// A protocol takes no more input while this much waits to be sent.
const FULL_BYTES: usize = 2048;

/// Bytes to send, held back until the counter's last number in them is durable.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    promised: u64,
    closing: bool,
}

impl Outbox {
    /// Says that the bytes contain `number` of the counter.
    pub fn promise(&mut self, number: u64) {
        self.promised = self.promised.max(number);
    }

    /// Says that the connection ends after these bytes.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Whether the connection ends when the outbox is empty.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether a protocol may add to it.
    pub fn takes_more(&self) -> bool {
        !self.closing && self.bytes.len() < FULL_BYTES
    }

    /// Whether everything was sent.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What may be sent now that the counter is durable up to `durable`.
    pub fn sendable(&self, durable: u64) -> &[u8] {
        if self.promised <= durable { &self.bytes[self.sent..] } else { &[] }
    }

    /// Takes note that `len` bytes of what was sendable are sent.
    pub fn mark_sent(&mut self, len: usize) {
        self.sent += len;
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
    }
}

impl fmt::Write for Outbox {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
