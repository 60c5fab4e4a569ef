//! The log: what happened to a machine from outside, each with the instruction at which it took
//! effect.
//!
//! Contract: a machine given the entries of a log in order ends in the state that the log
//! describes. The same bytes are a file ([`crate::log::file`]) and, frame by frame, the logging
//! channel. docs/log-format.md describes them.

pub mod codec;
pub mod entry;
pub mod file;
pub mod frame;
mod varint;

pub use entry::{Body, Entry, Instant};
pub use file::{LogReader, LogWriter, ReadError};
