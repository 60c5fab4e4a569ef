//! The mailbox of channels: bounded in bytes, not in messages.
//!
//! Contract: a reader thread that posts a message waits while [`BYTES_MAX`] bytes are waiting
//! already, so that its socket fills and the peer's queue grows instead of this side's memory. What
//! is no message never waits.

use super::ChannelEvent;
use backends::wake::Waker;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of received messages that may wait, besides one message.
pub const BYTES_MAX: usize = 16 << 20;
/// Charged for a message besides its content.
const OVERHEAD: usize = 64;
/// Lines for the user that may wait; more are dropped.
const TROUBLES_MAX: usize = 64;

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<ChannelEvent>,
    bytes: usize,
    troubles: usize,
    /// Threads that wait for room.
    waiters: usize,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    taken: Condvar,
    waker: Waker,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // The queue is sound between any two statements.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The driver's end.
#[derive(Debug)]
pub struct Inbox(Arc<Shared>);

/// The end of the channel's threads.
#[derive(Clone, Debug)]
pub(super) struct Outbox(Arc<Shared>);

/// A mailbox that rings `waker`.
pub(super) fn inbox(waker: Waker) -> (Outbox, Inbox) {
    let shared = Shared { waiting: Mutex::default(), taken: Condvar::new(), waker };
    let shared = Arc::new(shared);
    (Outbox(Arc::clone(&shared)), Inbox(shared))
}

fn cost(event: &ChannelEvent) -> usize {
    match event {
        ChannelEvent::Message { bytes, .. } => bytes.len() + OVERHEAD,
        _ => 0,
    }
}

impl Outbox {
    /// Posts `event` and rings; a message waits for room. `false`: nobody reads any more.
    pub(super) fn post(&self, event: ChannelEvent) -> bool {
        let cost = cost(&event);
        let mut waiting = self.0.lock();
        while cost > 0 && waiting.bytes > 0 && waiting.bytes + cost > BYTES_MAX && !waiting.closed {
            waiting.waiters += 1;
            waiting = self.0.taken.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            waiting.waiters -= 1;
        }
        if waiting.closed {
            return false;
        }
        if matches!(event, ChannelEvent::Trouble(_)) {
            if waiting.troubles >= TROUBLES_MAX {
                return true;
            }
            waiting.troubles += 1;
        }
        waiting.bytes += cost;
        waiting.events.push_back(event);
        drop(waiting);
        self.0.waker.wake();
        true
    }
}

impl Inbox {
    /// The oldest event, if any; never waits.
    #[must_use]
    pub fn try_recv(&self) -> Option<ChannelEvent> {
        let mut waiting = self.0.lock();
        let event = waiting.events.pop_front()?;
        waiting.bytes -= cost(&event);
        waiting.troubles -= usize::from(matches!(event, ChannelEvent::Trouble(_)));
        let wanted = waiting.waiters > 0;
        drop(waiting);
        if wanted {
            self.0.taken.notify_all();
        }
        Some(event)
    }

    /// Whether something waits to be taken.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.0.lock().events.is_empty()
    }

    /// Bytes of messages that wait to be taken.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.0.lock().bytes
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.closed = true;
        waiting.events.clear();
        drop(waiting);
        self.0.taken.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backends::wake::Bell;

    fn message(bytes: usize) -> ChannelEvent {
        ChannelEvent::Message { conn: 1, bytes: vec![0; bytes] }
    }

    #[test]
    fn messages_wait_for_room_and_other_events_do_not() {
        let bell = Bell::new();
        let (out, inbox) = inbox(bell.waker());
        assert!(out.post(message(super::super::MESSAGE_MAX)), "one message always fits");
        let sender = out.clone();
        let thread = std::thread::spawn(move || sender.post(message(1)));
        assert!(out.post(ChannelEvent::Trouble("x".into())));
        assert!(bell.take());
        assert!(matches!(inbox.try_recv(), Some(ChannelEvent::Message { .. })));
        assert!(matches!(inbox.try_recv(), Some(ChannelEvent::Trouble(_))));
        assert!(thread.join().expect("no panic"));
        assert_eq!(inbox.waiting_bytes(), 1 + OVERHEAD);
    }

    #[test]
    fn a_flood_of_trouble_is_bounded() {
        let (out, inbox) = inbox(Bell::new().waker());
        for _ in 0..10_000 {
            assert!(out.post(ChannelEvent::Trouble("x".into())));
        }
        assert_eq!(std::iter::from_fn(|| inbox.try_recv()).count(), TROUBLES_MAX);
    }

    #[test]
    fn nobody_waits_for_a_reader_that_is_gone() {
        let (out, inbox) = inbox(Bell::new().waker());
        assert!(out.post(message(BYTES_MAX)));
        let thread = std::thread::spawn(move || out.post(message(1)));
        drop(inbox);
        assert!(!thread.join().expect("no panic"));
    }
}
