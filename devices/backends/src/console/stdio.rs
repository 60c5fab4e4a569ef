//! A serial port on standard input and output.
//!
//! Contract: on a terminal, raw mode and Ctrl-A escapes; otherwise bytes pass as they are. The end
//! of standard input is the end of typing, not of the machine.

use super::escape::EscapeFilter;
use super::{Console, ConsoleEvent, Full, Writer, terminal};
use crate::wake::{Closed, Post};
use std::io::{self, Read};

/// Opens the console of `port` on standard input and output; `full` says what happens when output
/// is not taken. Keep the [`terminal::RawMode`] until the end.
///
/// # Errors
/// The host has no thread to spare, or the terminal refuses.
pub fn open(
    port: u8,
    full: Full,
    post: Post<ConsoleEvent>,
) -> io::Result<(Console, Option<terminal::RawMode>)> {
    let raw = if terminal::is_terminal() { Some(terminal::raw_mode()?) } else { None };
    let filter = raw.is_some().then(EscapeFilter::default);
    std::thread::Builder::new()
        .name("stdin".into())
        .stack_size(128 * 1024)
        .spawn(move || read(port, filter, &post))?;
    Ok((output(full)?, raw))
}

/// Opens standard output alone.
///
/// # Errors
/// The host has no thread to spare.
pub fn output(full: Full) -> io::Result<Console> {
    Ok(Console::Writer(Writer::spawn("stdout", io::stdout(), full)?))
}

fn read(port: u8, mut filter: Option<EscapeFilter>, post: &Post<ConsoleEvent>) {
    let mut buffer = [0; 4096];
    let mut stdin = io::stdin().lock();
    loop {
        let bytes = match stdin.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => &buffer[..n],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => {
                log::warn!("standard input: {e}");
                return;
            }
        };
        if deliver(port, &mut filter, bytes, post).is_err() {
            return;
        }
    }
}

fn deliver(
    port: u8,
    filter: &mut Option<EscapeFilter>,
    typed: &[u8],
    post: &Post<ConsoleEvent>,
) -> Result<(), Closed> {
    let (bytes, commands) = match filter {
        Some(filter) => filter.feed(typed),
        None => (typed.to_vec(), Vec::new()),
    };
    if !bytes.is_empty() {
        post.send(ConsoleEvent::Bytes { port, bytes })?;
    }
    commands.into_iter().try_for_each(|command| post.send(ConsoleEvent::Command(command)))
}
