//! Commands typed on the serial port: those of the line protocol and `status`, `poweroff`,
//! `reboot`, `help`.

use crate::line_protocol::LineSession;
use crate::outbox::Outbox;
use crate::serial;
use crate::system::Shared;
use alloc::string::String;

const MAX_LINE_CHARS: usize = 200;

/// What a typed line asks of the whole system.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Print the status.
    Status,
    /// Switch the machine off.
    PowerOff,
    /// Start the machine again.
    Reboot,
}

/// The line being typed and answers that wait for the counter to be stored.
pub struct Console {
    line: String,
    session: LineSession,
    outbox: Outbox,
}

impl Console {
    /// A console with an empty line.
    pub fn new() -> Self {
        Console { line: String::new(), session: LineSession::new(), outbox: Outbox::default() }
    }

    /// Takes a typed byte, echoes it, and at the end of a line runs the command.
    pub fn type_byte(&mut self, byte: u8, shared: &mut Shared) -> Option<Request> {
        match byte {
            b'\r' | b'\n' => {
                serial::write(b"\r\n");
                let line = core::mem::take(&mut self.line);
                return self.command(line.trim(), shared);
            }
            0x08 | 0x7F if self.line.pop().is_some() => {
                serial::write(b"\x08 \x08");
            }
            b' '..=b'~' if self.line.len() < MAX_LINE_CHARS => {
                self.line.push(char::from(byte));
                serial::write(&[byte]);
            }
            _ => {}
        }
        None
    }

    fn command(&mut self, line: &str, shared: &mut Shared) -> Option<Request> {
        match line {
            "" => {}
            "status" => return Some(Request::Status),
            "poweroff" => return Some(Request::PowerOff),
            "reboot" => return Some(Request::Reboot),
            "help" => serial::write(b"status incr get session echo poweroff reboot help\r\n"),
            _ if self.outbox.takes_more() => self.session.command(line, &mut self.outbox, shared),
            _ => serial::write(b"ERR busy\r\n"),
        }
        None
    }

    /// Prints answers whose numbers are stored.
    pub fn print_answers(&mut self, durable: u64) {
        let bytes = self.outbox.sendable(durable);
        if bytes.is_empty() {
            return;
        }
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            serial::write(line.strip_suffix(b"\n").unwrap_or(line));
            serial::write(b"\r\n");
        }
        self.outbox = Outbox::default();
    }
}
