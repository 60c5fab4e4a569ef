//! A status line on the user's terminal.
//!
//! Contract: it is there only if standard error is a terminal on which the guest does not write. A
//! terminal that is stopped (Ctrl-S) stops nobody but the thread here.

use super::Status;
use rustix::fs::fstat;
use rustix::termios::{isatty, tcgetwinsize};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Columns of a terminal that does not say.
const COLUMNS: usize = 80;

#[derive(Debug, Default)]
struct Next {
    line: Option<String>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    next: Mutex<Next>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Next> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The line.
#[derive(Debug)]
pub struct StatusLine(Arc<Shared>);

impl StatusLine {
    /// A line on standard error. `None`: standard error is no terminal, or the guest's serial port
    /// is on the same one.
    #[must_use]
    pub fn open(serial_on_stdio: bool) -> Option<Self> {
        let stderr = io::stderr();
        if !isatty(&stderr) || serial_on_stdio && same_device(stderr.as_fd(), io::stdout().as_fd())
        {
            return None;
        }
        let shared = Arc::new(Shared::default());
        let shown = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("status line".into()).stack_size(64 * 1024);
        thread.spawn(move || show(&shown, io::stderr())).ok()?;
        Some(Self(shared))
    }

    /// Shows `status` if it differs from what is there; never waits. Call it a few times a second.
    pub fn show(&self, status: &Status) {
        self.0.lock().line = Some(status.line());
        self.0.changed.notify_one();
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_one();
    }
}

fn same_device(a: BorrowedFd, b: BorrowedFd) -> bool {
    match (fstat(a), fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino, a.st_rdev) == (b.st_dev, b.st_ino, b.st_rdev),
        // Rather no line than one in the guest's text.
        _ => true,
    }
}

fn show(shared: &Shared, mut terminal: impl Write + AsFd) {
    let mut shown = String::new();
    loop {
        let mut next = shared.lock();
        while next.line.is_none() && !next.ended {
            next = shared.changed.wait(next).unwrap_or_else(PoisonError::into_inner);
        }
        let Some(line) = next.line.take() else { break };
        drop(next);
        if line != shown {
            let columns = tcgetwinsize(&terminal).map_or(COLUMNS, |size| usize::from(size.ws_col));
            let _ = terminal.write_all(drawn(&line, columns).as_bytes());
            let _ = terminal.flush();
            shown = line;
        }
    }
    let _ = terminal.write_all(drawn("", COLUMNS).as_bytes());
}

/// Replaces the line; other messages then start where it does.
fn drawn(line: &str, columns: usize) -> String {
    let columns = if columns == 0 { COLUMNS } else { columns };
    let cut: String = line.chars().take(columns - 1).collect();
    format!("\r{cut}\x1b[K\r")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_never_wraps() {
        assert_eq!(drawn("abcdef", 4), "\rabc\x1b[K\r");
        assert_eq!(drawn("abc", 0), "\rabc\x1b[K\r");
        assert_eq!(drawn("abc", 1), "\r\x1b[K\r");
    }

    #[test]
    fn one_device_is_one_device() {
        let zero = std::fs::File::open("/dev/zero").expect("a device");
        let null = std::fs::File::open("/dev/null").expect("a device");
        assert!(same_device(zero.as_fd(), zero.as_fd()));
        assert!(!same_device(zero.as_fd(), null.as_fd()));
    }
}
