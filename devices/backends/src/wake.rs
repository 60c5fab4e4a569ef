//! Mailboxes that wake the machine's thread: how host threads hand over what happened.
//!
//! Contract: a message posted before [`Bell::wait`] makes it return at once; none is lost between
//! polling and waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::Thread;
use std::time::Duration;

/// Wakes the thread that created the [`Bell`].
#[derive(Clone, Debug)]
pub struct Waker {
    rung: Arc<AtomicBool>,
    thread: Thread,
}

impl Waker {
    /// Makes the current or next [`Bell::wait`] return.
    pub fn wake(&self) {
        if !self.rung.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }
}

/// The waiting side; stays on the thread that created it.
#[derive(Debug)]
pub struct Bell {
    waker: Waker,
}

impl Default for Bell {
    fn default() -> Self {
        Self::new()
    }
}

impl Bell {
    /// A bell for the current thread.
    #[must_use]
    pub fn new() -> Self {
        let rung = Arc::new(AtomicBool::new(false));
        Self { waker: Waker { rung, thread: std::thread::current() } }
    }

    /// A handle that rings this bell.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Whether the bell was rung since the last [`Bell::take`].
    #[inline]
    #[must_use]
    pub fn is_rung(&self) -> bool {
        self.waker.rung.load(Ordering::Relaxed)
    }

    /// Stops the ringing, and says whether there was any. Poll the mailboxes after this.
    pub fn take(&self) -> bool {
        self.waker.rung.swap(false, Ordering::Acquire)
    }

    /// Waits for a short `time` without sleeping, which spares the host the waking; whoever wants
    /// the processor gets it. Whether the bell has rung.
    pub fn expect(&self, time: Duration) -> bool {
        let begun = std::time::Instant::now();
        while !self.is_rung() && begun.elapsed() < time {
            std::thread::yield_now();
        }
        self.is_rung()
    }

    /// Waits until the bell rings or `timeout` (`None`: for ever) has passed. Does not stop the
    /// ringing.
    pub fn wait(&self, timeout: Option<Duration>) {
        let deadline = timeout.map(|t| std::time::Instant::now() + t);
        while !self.is_rung() {
            match deadline {
                None => std::thread::park(),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(std::time::Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    std::thread::park_timeout(left);
                }
            }
        }
    }
}

/// The posting end of a mailbox.
#[derive(Debug)]
pub struct Post<T> {
    sender: SyncSender<T>,
    waker: Waker,
}

impl<T> Clone for Post<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), waker: self.waker.clone() }
    }
}

/// The machine's side is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl<T> Post<T> {
    /// Posts `message` and rings; waits while the mailbox is full.
    ///
    /// # Errors
    /// [`Closed`] when nobody reads the mailbox any more.
    pub fn send(&self, message: T) -> Result<(), Closed> {
        let message = match self.sender.try_send(message) {
            Ok(()) => {
                self.waker.wake();
                return Ok(());
            }
            Err(TrySendError::Disconnected(_)) => return Err(Closed),
            Err(TrySendError::Full(message)) => message,
        };
        // What is in the mailbox was announced when it was posted.
        self.sender.send(message).map_err(|_| Closed)?;
        self.waker.wake();
        Ok(())
    }
}

/// A mailbox of at most `capacity` messages that rings `waker`.
#[must_use]
pub fn mailbox<T>(capacity: usize, waker: Waker) -> (Post<T>, Receiver<T>) {
    let (sender, receiver) = sync_channel(capacity);
    (Post { sender, waker }, receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_is_lost_between_polling_and_waiting() {
        let bell = Bell::new();
        let (post, mail) = mailbox::<u32>(4, bell.waker());
        let sender = std::thread::spawn(move || (0..10_000).try_for_each(|n| post.send(n)));
        let mut next = 0;
        while next < 10_000 {
            bell.wait(None);
            bell.take();
            while let Ok(n) = mail.try_recv() {
                assert_eq!(n, next);
                next += 1;
            }
        }
        assert_eq!(sender.join().expect("sender"), Ok(()));
    }

    #[test]
    fn wait_ends_with_its_timeout() {
        let bell = Bell::new();
        bell.wait(Some(Duration::from_millis(1)));
        assert!(!bell.take());
    }

    #[test]
    fn what_is_expected_is_not_waited_for_longer_than_it_takes() {
        let bell = Bell::new();
        assert!(!bell.expect(Duration::from_millis(1)));
        let waker = bell.waker();
        let ringer = std::thread::spawn(move || waker.wake());
        assert!(bell.expect(Duration::from_secs(60)));
        ringer.join().expect("ringer");
        assert!(bell.expect(Duration::ZERO) && bell.take(), "it goes on ringing");
    }

    #[test]
    fn posting_to_nobody_is_an_error() {
        let bell = Bell::new();
        let (post, mail) = mailbox::<u32>(1, bell.waker());
        drop(mail);
        assert_eq!(post.send(1), Err(Closed));
    }
}
