//! Consoles: where the bytes of a serial port go on the host.
//!
//! Contract: what is read is posted as a [`ConsoleEvent`] by a thread per console; output is
//! written by another. A reader that is too slow loses output, or delays the machine when 64 KiB
//! or more wait: see [`Full`].

pub mod escape;
pub mod file;
pub mod socket;
pub mod stdio;
pub mod terminal;
mod writer;

pub use writer::{Full, ROOM, Writer};

/// Something a console brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleEvent {
    /// Bytes for the guest's serial port.
    Bytes {
        /// Index of the port.
        port: u8,
        /// In order.
        bytes: Vec<u8>,
    },
    /// The user asked the emulator itself for something.
    Command(escape::Command),
}

/// An open console.
#[derive(Debug)]
pub enum Console {
    /// Output is dropped.
    None,
    /// Output goes to a writer's thread.
    Writer(Writer),
}

impl Console {
    /// Sends `bytes` out.
    pub fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::None => {}
            Self::Writer(writer) => writer.write(bytes),
        }
    }

    /// Waits, within reason, until everything is out.
    pub fn finish(self) {
        match self {
            Self::None => {}
            Self::Writer(writer) => writer.finish(),
        }
    }
}
