//! The line protocol of port 7777 and of the serial console: a command a line, an answer a line.
//!
//! `INCR`, `GET`, `SESSION`, `ECHO text`, `QUIT`, in either case; lines end in LF or CR LF and hold
//! at most 1,024 bytes. Anything else is answered by a line that starts with `ERR`. Answers come in
//! the order of the commands.

use crate::outbox::Outbox;
use crate::session::Sample;
use crate::system::Shared;
use alloc::vec::Vec;
use core::fmt::Write;

const MAX_LINE_BYTES: usize = 1024;

/// One client's conversation.
pub struct LineSession {
    opened: Sample,
    line: Vec<u8>,
    is_too_long: bool,
}

impl LineSession {
    /// A conversation that begins now.
    pub fn new() -> Self {
        LineSession { opened: Sample::take(), line: Vec::new(), is_too_long: false }
    }

    /// Takes bytes of the client, as many as `outbox` has room to answer, and returns how many it
    /// took.
    pub fn receive(&mut self, bytes: &[u8], outbox: &mut Outbox, shared: &mut Shared) -> usize {
        for (index, byte) in bytes.iter().enumerate() {
            if !outbox.takes_more() {
                return index;
            }
            match byte {
                b'\n' => self.end_line(outbox, shared),
                _ if self.line.len() < MAX_LINE_BYTES => self.line.push(*byte),
                _ => self.is_too_long = true,
            }
        }
        bytes.len()
    }

    fn end_line(&mut self, outbox: &mut Outbox, shared: &mut Shared) {
        let line = core::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if core::mem::take(&mut self.is_too_long) {
            answer(outbox, format_args!("ERR line too long"));
        } else {
            match str::from_utf8(line) {
                Ok(line) => self.command(line, outbox, shared),
                Err(_) => answer(outbox, format_args!("ERR not UTF-8")),
            }
        }
    }

    /// Answers one command.
    pub fn command(&mut self, line: &str, outbox: &mut Outbox, shared: &mut Shared) {
        let (name, text) = line.split_once(' ').unwrap_or((line, ""));
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        if is("INCR") {
            let number = shared.counter.increment();
            outbox.promise(number);
            answer(outbox, format_args!("{number}"));
        } else if is("GET") {
            let number = shared.counter.assigned();
            outbox.promise(number);
            answer(outbox, format_args!("{number}"));
        } else if is("SESSION") {
            let (boot, opened, now) = (&shared.boot, &self.opened, Sample::take());
            answer(outbox, format_args!("SESSION boot: {boot}; opened: {opened}; now: {now}"));
        } else if is("ECHO") {
            answer(outbox, format_args!("{text}"));
        } else if is("QUIT") {
            answer(outbox, format_args!("BYE"));
            outbox.close();
        } else {
            answer(
                outbox,
                format_args!("ERR unknown command; try INCR, GET, SESSION, ECHO text, QUIT"),
            );
        }
    }
}

fn answer(outbox: &mut Outbox, text: core::fmt::Arguments<'_>) {
    writeln!(outbox, "{text}").expect("an outbox takes all text");
}
