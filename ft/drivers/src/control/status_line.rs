//! A status line on the user's terminal.
//!
//! Contract: it is there only if standard error is a terminal on which the guest does not write. It
//! asks the machine twice a second, as `ftemu ctl … status` would; a terminal that is stopped
//! (Ctrl-S) stops nobody but the thread here.

use super::server::request;
use super::{ControlRequest, Reply, Request};
use backends::wake::Post;
use rustix::fs::fstat;
use rustix::termios::{isatty, tcgetwinsize};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Columns of a terminal that does not say.
const COLUMNS: usize = 80;
/// Between two looks.
const PERIOD: Duration = Duration::from_millis(500);
/// Clears the line.
pub const CLEAR: &str = "\r\x1b[K";

/// There is text on the line where messages go.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// Whether there is a status line: a message must then begin with [`CLEAR`].
#[must_use]
pub fn is_shown() -> bool {
    SHOWN.load(Ordering::Relaxed)
}

/// Whether the line is no longer wanted.
type Ended = Arc<(Mutex<bool>, Condvar)>;

/// The line, until it is dropped.
#[derive(Debug)]
pub struct StatusLine(Ended);

impl StatusLine {
    /// A line on standard error, about the machine that reads `post`'s mailbox. `None`: standard
    /// error is no terminal, or the guest's serial port is on the same one.
    #[must_use]
    pub fn open(serial_on_stdio: bool, post: Post<ControlRequest>) -> Option<Self> {
        let stderr = io::stderr();
        let shared = || same_device(stderr.as_fd(), io::stdout().as_fd());
        if !isatty(&stderr) || serial_on_stdio && shared() {
            return None;
        }
        let ended = Ended::default();
        let theirs = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name("status line".into()).stack_size(128 * 1024);
        thread.spawn(move || show(&theirs, &post, io::stderr())).ok()?;
        Some(Self(ended))
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_one();
        if SHOWN.swap(false, Ordering::Relaxed) {
            let _ = io::stderr().write_all(CLEAR.as_bytes());
        }
    }
}

fn same_device(a: BorrowedFd, b: BorrowedFd) -> bool {
    match (fstat(a), fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino, a.st_rdev) == (b.st_dev, b.st_ino, b.st_rdev),
        // Rather no line than one in the guest's text.
        _ => true,
    }
}

fn show(ended: &Ended, post: &Post<ControlRequest>, mut terminal: impl Write + AsFd) {
    loop {
        let reply = request(Request::Status {}, post);
        let over = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *over {
            return;
        }
        if let Reply::Status(status) = reply {
            let columns = tcgetwinsize(&terminal).map_or(COLUMNS, |size| usize::from(size.ws_col));
            SHOWN.store(true, Ordering::Relaxed);
            let _ = terminal.write_all(drawn(&status.line(), columns).as_bytes());
        }
        let result = ended.1.wait_timeout_while(over, PERIOD, |over| !*over);
        if *result.unwrap_or_else(PoisonError::into_inner).0 {
            return;
        }
    }
}

/// Replaces the line; what comes next then starts where it does.
fn drawn(line: &str, columns: usize) -> String {
    let columns = if columns == 0 { COLUMNS } else { columns };
    let cut: String = line.chars().take(columns - 1).collect();
    format!("\r{cut}\x1b[K\r")
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use backends::wake::{Bell, mailbox};
    use std::io::Read;
    use std::os::unix::net::UnixStream;

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

    #[test]
    fn it_asks_again_and_again_until_it_is_dropped() {
        let (post, requests) = mailbox::<ControlRequest>(4, Bell::new().waker());
        let (terminal, mut screen) = UnixStream::pair().expect("sockets");
        let ended = Ended::default();
        let theirs = Arc::clone(&ended);
        let thread = std::thread::spawn(move || show(&theirs, &post, terminal));
        for epoch in [1, 2] {
            let asked = requests.recv().expect("asked");
            let status = Status { epoch, ..Status::default() };
            let line = drawn(&status.line(), COLUMNS);
            asked.respond.answer(Reply::Status(Box::new(status)));
            let mut shown = vec![0; line.len()];
            screen.read_exact(&mut shown).expect("shown");
            assert_eq!(String::from_utf8_lossy(&shown), line);
        }
        drop(StatusLine(ended));
        // It may have asked once more.
        drop(requests);
        thread.join().expect("ended");
    }
}
