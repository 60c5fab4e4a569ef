//! Outputs on their way out.
//!
//! Contract: outputs are numbered from 0 in the machine's life, in the order in which they were
//! made, and leave in this order. What is kept is bounded by whoever makes the machine stand still
//! when too much waits.

use crate::host::Ends;
use devices::io::Output;
use std::collections::VecDeque;

/// An output, and the guest's wall clock when it was made.
#[derive(Clone, Debug)]
struct Made {
    /// `None`: there is nothing left to do for it.
    output: Option<Output>,
    time: u64,
}

/// Outputs that have been made and have not left.
#[derive(Debug, Default)]
pub struct Held {
    queue: VecDeque<Made>,
    /// Number of the next output to be made.
    next: u64,
    /// Outputs below this are gone; it may be ahead of what was made here.
    gone: u64,
}

impl Held {
    /// After `made` outputs, all of which have left.
    #[must_use]
    pub fn after(made: u64) -> Self {
        Self { queue: VecDeque::new(), next: made, gone: made }
    }

    /// Takes an output, made when the guest's wall clock showed `time`.
    pub fn push(&mut self, output: Output, time: u64) {
        if self.next >= self.gone {
            self.queue.push_back(Made { output: Some(output), time });
        }
        self.next += 1;
        self.gone = self.gone.max(self.first());
    }

    /// Outputs below `below` leave. A frame is lost instead, as networks lose them, where the
    /// process has stood still and is not `prompt` any more: the other side may be live by now, and
    /// repeats it.
    pub fn release(&mut self, below: u64, ends: &mut Ends, prompt: impl Fn() -> bool) {
        while self.first() < below
            && let Some(made) = self.queue.pop_front()
        {
            match &made.output {
                Some(Output::NetTx { .. }) if !prompt() => {}
                Some(output) => ends.leave(output, made.time),
                None => {}
            }
        }
        self.gone = self.gone.max(below);
    }

    /// Outputs below `below` have left elsewhere.
    pub fn forget(&mut self, below: u64) {
        while self.first() < below && self.queue.pop_front().is_some() {}
        self.gone = self.gone.max(below);
    }

    /// What is asked of disks is asked in another way.
    pub fn drop_disk_requests(&mut self) {
        for made in &mut self.queue {
            made.output.take_if(|output| matches!(output, Output::Disk { .. }));
        }
    }

    /// How many outputs the machine has made.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.next
    }

    /// Whether something waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Number of the first one that waits, or of the next.
    fn first(&self) -> u64 {
        self.next - self.queue.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backends::net::Network;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<u8>>>);

    impl Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Network for Seen {
        fn send(&mut self, frame: &[u8]) {
            self.0.lock().expect("not poisoned").extend_from_slice(frame);
        }
    }

    #[test]
    fn outputs_leave_once_and_in_order() {
        let seen = Seen::default();
        let mut ends = Ends::default();
        ends.debug = Some(Box::new(seen.clone()));
        let mut held = Held::after(10);
        for byte in 10..15 {
            held.push(Output::Debug(byte), 0);
        }
        held.release(12, &mut ends, || true);
        held.release(11, &mut ends, || true);
        assert_eq!(*seen.0.lock().expect("not poisoned"), [10, 11]);
        held.forget(13);
        held.release(14, &mut ends, || true);
        assert_eq!(*seen.0.lock().expect("not poisoned"), [10, 11, 13]);
        assert_eq!((held.made(), held.is_empty()), (15, false));
        // What has left elsewhere before it was made here.
        held.forget(17);
        for byte in 15..19 {
            held.push(Output::Debug(byte), 0);
        }
        held.release(u64::MAX, &mut ends, || true);
        assert_eq!(*seen.0.lock().expect("not poisoned"), [10, 11, 13, 17, 18]);
    }

    #[test]
    fn frames_are_lost_after_a_standstill() {
        let seen = Seen::default();
        let mut ends = Ends::default();
        ends.debug = Some(Box::new(seen.clone()));
        let mut held = Held::default();
        let sent = Seen::default();
        ends.networks = vec![Box::new(sent.clone())];
        for byte in 0..3 {
            held.push(Output::NetTx { nic: 0, frame: vec![byte] }, 0);
            held.push(Output::Debug(byte), 0);
        }
        // Stopped behind the first frame.
        let asked = std::cell::Cell::new(0);
        let prompt = || asked.replace(asked.get() + 1) == 0;
        held.release(6, &mut ends, prompt);
        assert_eq!(*sent.0.lock().expect("not poisoned"), [0]);
        assert_eq!(*seen.0.lock().expect("not poisoned"), [0, 1, 2]);
        assert!(held.is_empty());
    }
}
