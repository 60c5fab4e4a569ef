//! The output rule: an output leaves when the backup has the log that explains it.
//!
//! Contract: outputs leave in order; an output made when the log had `n` entries leaves when `n`
//! are acknowledged, and executed, if it needs that.

use crate::types::OutputNo;
use alloc::collections::VecDeque;

/// Outputs on their way out.
#[derive(Debug)]
pub(super) struct Gate {
    made: OutputNo,
    released: OutputNo,
    held: VecDeque<Held>,
}

/// Outputs up to a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    upto: OutputNo,
    /// Entries that the backup must have.
    received: u64,
    /// Entries that it must have executed.
    executed: u64,
}

impl Gate {
    /// A gate after `made` outputs, of which those below `released` have left.
    pub(super) fn new(made: OutputNo, released: OutputNo) -> Self {
        Self { made, released, held: VecDeque::new() }
    }

    /// `count` outputs were made, which the first `received` entries of the log explain, and for
    /// which the first `executed` have to be executed.
    pub(super) fn hold(&mut self, count: u64, received: u64, executed: u64) {
        self.made.0 += count;
        match self.held.back_mut() {
            Some(last) if last.received == received && last.executed == executed => {
                last.upto = self.made;
            }
            _ => self.held.push_back(Held { upto: self.made, received, executed }),
        }
    }

    /// The backup has the first `received` entries, and has executed the first `executed`; what may
    /// leave now, up to a number.
    pub(super) fn acknowledged(&mut self, received: u64, executed: u64) -> Option<OutputNo> {
        let before = self.released;
        while let Some(held) = self.held.front() {
            if held.received > received || held.executed > executed {
                break;
            }
            self.released = held.upto;
            self.held.pop_front();
        }
        (self.released > before).then_some(self.released)
    }

    /// Nothing holds any longer; what may leave now, up to a number.
    pub(super) fn open(&mut self) -> Option<OutputNo> {
        self.held.clear();
        let before = core::mem::replace(&mut self.released, self.made);
        (self.released > before).then_some(self.released)
    }

    pub(super) fn made(&self) -> OutputNo {
        self.made
    }

    pub(super) fn released(&self) -> OutputNo {
        self.released
    }

    pub(super) fn held(&self) -> u64 {
        self.made.0 - self.released.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_leave_in_order_when_their_entries_are_there() {
        let mut gate = Gate::new(OutputNo(5), OutputNo(5));
        gate.hold(1, 10, 0);
        gate.hold(2, 10, 0);
        gate.hold(1, 12, 0);
        assert_eq!(gate.acknowledged(9, 0), None);
        assert_eq!(gate.acknowledged(11, 0), Some(OutputNo(8)));
        assert_eq!(gate.acknowledged(11, 11), None);
        assert_eq!((gate.held(), gate.made()), (1, OutputNo(9)));
        assert_eq!(gate.open(), Some(OutputNo(9)));
        assert_eq!(gate.open(), None);
    }

    #[test]
    fn some_wait_until_their_entries_are_executed() {
        let mut gate = Gate::new(OutputNo(0), OutputNo(0));
        gate.hold(1, 5, 0);
        gate.hold(1, 5, 5);
        gate.hold(1, 6, 0);
        assert_eq!(gate.acknowledged(6, 4), Some(OutputNo(1)), "and those behind it wait, too");
        assert_eq!(gate.acknowledged(6, 5), Some(OutputNo(3)));
    }
}
