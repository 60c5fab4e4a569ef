//! The terminal's modes: raw while the guest has it, as found on every way out.
//!
//! Contract: [`restore`] may be called at any time, from any thread, more than once; a panic calls
//! it first.

use rustix::termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcsetattr};
use std::io;
use std::sync::{Mutex, Once, PoisonError};

/// The modes found and the modes set, while the terminal is ours.
static MODES: Mutex<Option<(Termios, Termios)>> = Mutex::new(None);
static PANIC_HOOK: Once = Once::new();

/// Restores the terminal when dropped.
#[derive(Debug)]
pub struct RawMode(());

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
        *MODES.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Whether standard input is a terminal.
#[must_use]
pub fn is_terminal() -> bool {
    isatty(rustix::stdio::stdin())
}

/// Puts the terminal on standard input into raw mode: every key goes to the guest, Ctrl-C too.
///
/// # Errors
/// Standard input is no terminal.
pub fn raw_mode() -> io::Result<RawMode> {
    let found = tcgetattr(rustix::stdio::stdin())?;
    let mut raw = found.clone();
    raw.make_raw();
    // A line feed of our own messages still returns the carriage.
    raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
    PANIC_HOOK.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            next(info);
        }));
    });
    tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
    *MODES.lock().unwrap_or_else(PoisonError::into_inner) = Some((found, raw));
    Ok(RawMode(()))
}

/// Gives the terminal back as it was found, if it is ours.
pub fn restore() {
    set(|(found, _)| found);
}

/// Takes the terminal again after [`restore`].
pub fn resume() {
    set(|(_, raw)| raw);
}

fn set(which: impl FnOnce(&(Termios, Termios)) -> &Termios) {
    // Never wait here: a panic may come from the thread that holds the lock.
    if let Ok(modes) = MODES.try_lock()
        && let Some(modes) = modes.as_ref()
    {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, which(modes));
    }
}
