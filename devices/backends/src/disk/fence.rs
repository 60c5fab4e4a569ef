//! The leave to write to storage that another computer can write, too.
//!
//! Contract: [`Fence::wait`] is called right before each write. It returns at once while this side
//! may write, waits while that is not known, and fails when it never may again. Between its return
//! and the moment at which the storage takes the data nobody looks any more: who is stopped exactly
//! there, or has given the data to a kernel that is slow, writes late all the same.

use crate::clock::now_ns;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Whether this side may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// It may: nobody else does.
    Open,
    /// It may before this time of [`now_ns`].
    Until(u64),
    /// It may not, for now.
    Closed,
}

#[derive(Debug)]
struct State {
    leave: Leave,
    /// Others may write before this.
    alone_from: u64,
    /// Nothing changes any more.
    last: bool,
}

/// One for all disks of a machine; clones share it.
#[derive(Clone, Debug)]
pub struct Fence(Arc<(Mutex<State>, Condvar)>);

impl Default for Fence {
    fn default() -> Self {
        Self::new()
    }
}

impl Fence {
    /// Closed.
    #[must_use]
    pub fn new() -> Self {
        let state = State { leave: Leave::Closed, alone_from: u64::MAX, last: false };
        Self(Arc::new((Mutex::new(state), Condvar::new())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().expect("nobody panics at the fence")
    }

    /// Whether this side may write from here on.
    pub fn set(&self, leave: Leave) {
        let mut state = self.state();
        if state.leave != leave {
            state.leave = leave;
            self.0.1.notify_all();
        }
    }

    /// Others may write before this time, so this side does not.
    pub fn alone_from(&self, time: u64) {
        self.state().alone_from = time;
        self.0.1.notify_all();
    }

    /// Nothing will change any more: who waits gives up.
    pub fn last(&self) {
        self.state().last = true;
        self.0.1.notify_all();
    }

    /// Waits until this side may write.
    ///
    /// # Errors
    /// It never may again.
    pub fn wait(&self) -> io::Result<()> {
        let mut state = self.state();
        loop {
            let now = now_ns();
            let allowed = match state.leave {
                Leave::Open => true,
                Leave::Until(time) => now < time,
                Leave::Closed => false,
            };
            state = match state.alone_from.checked_sub(now).filter(|left| *left > 0) {
                None if allowed => return Ok(()),
                // A time that has come one day; before, it only has to be waited for.
                Some(left) if allowed && state.alone_from < u64::MAX => {
                    let left = Duration::from_nanos(left);
                    self.0.1.wait_timeout(state, left).expect("nobody panics at the fence").0
                }
                _ if state.last => {
                    let text = "the other side may be live: nothing is written any more";
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
                }
                _ => self.0.1.wait(state).expect("nobody panics at the fence"),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn it_opens_closes_and_ends() {
        let fence = Fence::new();
        let (post, mail) = channel();
        let waiting = fence.clone();
        let writer = std::thread::spawn(move || {
            while waiting.wait().is_ok() {
                post.send(now_ns()).expect("the test waits");
                waiting.set(Leave::Closed);
            }
        });
        fence.set(Leave::Open);
        assert!(mail.recv_timeout(Duration::from_millis(20)).is_err(), "others may write");
        let time = now_ns() + 30_000_000;
        fence.alone_from(time);
        assert!(mail.recv_timeout(LONG).expect("it writes") >= time);
        fence.set(Leave::Until(now_ns()));
        assert!(mail.recv_timeout(Duration::from_millis(20)).is_err(), "that is over");
        let until = now_ns() + LONG.as_nanos() as u64;
        fence.set(Leave::Until(until));
        assert!(mail.recv_timeout(LONG).expect("it writes") < until);
        fence.last();
        writer.join().expect("it gives up");
        // What is still allowed is allowed to the end.
        fence.set(Leave::Open);
        fence.wait().expect("open");
    }
}
