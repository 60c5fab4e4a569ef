//! A thread that writes a console's output.
//!
//! Contract: bytes leave in order; nothing is dropped while the other end takes them; a dead end is
//! left alone.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::time::Duration;

/// Chunks that may wait.
const QUEUE: usize = 64;
/// How long [`Writer::finish`] waits for an end that takes nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// The sending side of a writing thread.
#[derive(Debug)]
pub struct Writer {
    chunks: SyncSender<Vec<u8>>,
    done: Receiver<()>,
}

impl Writer {
    /// Writes to `end` on a thread named `name`.
    ///
    /// # Errors
    /// The host has no thread to spare.
    pub fn spawn(name: &str, mut end: impl Write + Send + 'static) -> io::Result<Self> {
        let (chunks, queue) = sync_channel::<Vec<u8>>(QUEUE);
        let (finished, done) = channel();
        let label = name.to_owned();
        std::thread::Builder::new().name(name.into()).stack_size(128 * 1024).spawn(move || {
            let mut alive = true;
            for chunk in &queue {
                if !alive {
                    continue;
                }
                if let Err(e) = end.write_all(&chunk).and_then(|()| end.flush()) {
                    log::warn!("{label}: output is dropped from here on: {e}");
                    alive = false;
                }
            }
            let _ = finished.send(());
        })?;
        Ok(Self { chunks, done })
    }

    /// Queues `bytes`; waits while the queue is full.
    pub fn write(&mut self, bytes: Vec<u8>) {
        // Fails only if the thread panicked: then there is nowhere to write to.
        let _ = self.chunks.send(bytes);
    }

    /// Waits until everything is written, but not for ever.
    pub fn finish(self) {
        drop(self.chunks);
        let _ = self.done.recv_timeout(PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

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
        let end = Shared::default();
        let mut writer = Writer::spawn("test", end.clone()).expect("thread");
        for n in 0..200u8 {
            writer.write(vec![n; 3]);
        }
        writer.finish();
        let expected: Vec<u8> = (0..200u8).flat_map(|n| [n; 3]).collect();
        assert_eq!(*end.0.lock().expect("not poisoned"), expected);
    }
}
