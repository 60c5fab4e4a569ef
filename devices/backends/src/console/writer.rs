//! A thread that writes a console's output.
//!
//! Contract: bytes leave in order; a dead end is left alone. An end that takes nothing makes the
//! sender wait ([`Full::Wait`]), or loses what is more than [`ROOM`] ([`Full::Drop`]): the sender
//! never waits then, and what does leave are whole calls of [`Writer::write`].

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes that may wait for an end whose sender waits then.
const SHORT: usize = 64 << 10;
/// Bytes that may wait before some are dropped.
pub const ROOM: usize = 1 << 20;
/// How long [`Writer::finish`] waits for an end that takes nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// What happens to output when much waits already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Who writes waits: nothing is lost, and the machine stands still.
    Wait,
    /// It is lost, as on a line that nobody reads.
    Drop,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Bytes that were dropped since the end last took some.
    dropped: u64,
    /// Nothing more comes.
    closed: bool,
    /// The thread has ended.
    over: bool,
}

#[derive(Debug)]
struct Queue {
    name: String,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // The queue is sound between any two statements.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, waiting: MutexGuard<'a, Waiting>) -> MutexGuard<'a, Waiting> {
        self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits, when there is something; `None`: nothing more comes.
    fn take(&self) -> Option<Vec<u8>> {
        let mut waiting = self.lock();
        while waiting.bytes.is_empty() && !waiting.closed {
            waiting = self.wait(waiting);
        }
        let (bytes, dropped) = (std::mem::take(&mut waiting.bytes), waiting.dropped);
        waiting.dropped = 0;
        drop(waiting);
        self.changed.notify_all();
        if dropped > 0 {
            log::warn!("{}: {dropped} bytes were dropped before it was read again", self.name);
        }
        (!bytes.is_empty()).then_some(bytes)
    }
}

/// The sending side of a writing thread.
#[derive(Debug)]
pub struct Writer {
    queue: Arc<Queue>,
    full: Full,
    done: Receiver<()>,
}

/// Lets nobody wait for a thread that is gone, whatever ended it.
struct Over(Arc<Queue>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.changed.notify_all();
    }
}

impl Writer {
    /// Writes to `end` on a thread named `name`.
    ///
    /// # Errors
    /// The host has no thread to spare.
    pub fn spawn(name: &str, mut end: impl Write + Send + 'static, full: Full) -> io::Result<Self> {
        let (waiting, changed) = (Mutex::default(), Condvar::new());
        let queue = Arc::new(Queue { name: name.to_owned(), waiting, changed });
        let (finished, done) = channel();
        let over = Over(Arc::clone(&queue));
        std::thread::Builder::new().name(name.into()).stack_size(128 * 1024).spawn(move || {
            let mut alive = true;
            while let Some(bytes) = over.0.take() {
                if !alive {
                    continue;
                }
                if let Err(e) = end.write_all(&bytes).and_then(|()| end.flush()) {
                    log::warn!("{}: output is dropped from here on: {e}", over.0.name);
                    alive = false;
                }
            }
            let _ = finished.send(());
        })?;
        Ok(Self { queue, full, done })
    }

    /// Queues `bytes`; where there is no room, what [`Full`] says happens.
    pub fn write(&mut self, bytes: &[u8]) {
        let mut waiting = self.queue.lock();
        match self.full {
            Full::Wait => {
                while waiting.bytes.len() >= SHORT && !waiting.over {
                    waiting = self.queue.wait(waiting);
                }
            }
            Full::Drop if waiting.bytes.len() + bytes.len() > ROOM && !waiting.over => {
                if waiting.dropped == 0 {
                    log::warn!("{}: nobody reads it: output is dropped", self.queue.name);
                }
                waiting.dropped += bytes.len() as u64;
                return;
            }
            Full::Drop => {}
        }
        if !waiting.over {
            waiting.bytes.extend_from_slice(bytes);
        }
        drop(waiting);
        self.queue.changed.notify_all();
    }

    /// Nothing more comes.
    fn close(&self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
    }

    /// Waits until everything is written, but not for ever.
    pub fn finish(self) {
        self.close();
        let _ = self.done.recv_timeout(PATIENCE);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::Sender;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(&bytes[..1]);
            Ok(1)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn everything_is_out_when_finish_returns() {
        for full in [Full::Wait, Full::Drop] {
            let end = Shared::default();
            let mut writer = Writer::spawn("test", end.clone(), full).expect("thread");
            for n in 0..200u8 {
                writer.write(&[n; 3]);
            }
            writer.finish();
            let expected: Vec<u8> = (0..200u8).flat_map(|n| [n; 3]).collect();
            assert_eq!(*end.0.lock().expect("not poisoned"), expected);
        }
    }

    /// An end that takes nothing before it is told to; says what it is given.
    struct Stuck(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.1.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_end_that_takes_nothing_loses_output_and_nobody_waits() {
        let ((go, told), (says, said)) = (channel(), channel());
        let mut writer = Writer::spawn("test", Stuck(told, says), Full::Drop).expect("thread");
        let line = [b'x'; 1000];
        for _ in 0..4 * ROOM / line.len() {
            writer.write(&line);
        }
        // The thread may have taken some of it before there was more.
        let mut kept = 0;
        while kept < ROOM - line.len() {
            go.send(()).expect("it waits");
            kept += said.recv().expect("it is read again").len();
        }
        assert!(kept <= 2 * ROOM, "{kept} bytes");
        assert_eq!(kept % line.len(), 0, "whole lines");
        // There is room again when the thread has taken what waited.
        loop {
            writer.write(b"back");
            go.send(()).expect("it waits");
            if said.recv().expect("what waits").ends_with(b"back") {
                break;
            }
        }
        writer.finish();
    }

    #[test]
    fn a_sender_that_waits_goes_on_when_the_end_is_dead() {
        let ((go, told), (says, said)) = (channel::<()>(), channel());
        drop((go, said));
        let mut writer = Writer::spawn("test", Stuck(told, says), Full::Wait).expect("thread");
        for _ in 0..100 {
            writer.write(&[0; SHORT]);
        }
        writer.finish();
    }
}
