//! Signals that end or stop the program, as messages.
//!
//! Contract: SIGINT, SIGTERM and SIGHUP are posted, so that the program ends in order; SIGTSTP
//! gives the terminal back before the process stops, and takes it again when it goes on.

use crate::console::terminal;
use crate::wake::Post;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use std::io;

/// A request to end, with the number of the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminate(pub u8);

/// Watches for signals on a thread of its own.
///
/// # Errors
/// The host refuses handlers or a thread.
pub fn watch(post: Post<Terminate>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT])?;
    std::thread::Builder::new().name("signals".into()).stack_size(128 * 1024).spawn(move || {
        let mut seen = 0;
        for signal in signals.forever() {
            match signal {
                SIGTSTP => {
                    terminal::restore();
                    let _ = signal_hook::low_level::emulate_default_handler(SIGTSTP);
                }
                SIGCONT => terminal::resume(),
                _ => {
                    seen += 1;
                    if seen > 1 {
                        // The first one was not heeded: something hangs. Leave all the same.
                        terminal::restore();
                        std::process::exit(128 + signal);
                    }
                    let _ = post.send(Terminate(signal as u8));
                }
            }
        }
    })?;
    Ok(())
}
