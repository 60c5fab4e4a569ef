//! The output rule: an output leaves when the backup has the log that explains it.
//!
//! Contract: outputs leave in order; an output made when the log had `n` entries leaves when `n`
//! are acknowledged.

use crate::types::OutputNo;
use alloc::collections::VecDeque;

/// Outputs on their way out.
#[derive(Debug)]
pub(super) struct Gate {
    made: OutputNo,
    released: OutputNo,
    /// Entries needed, and the outputs that they explain, up to a number; both rise.
    held: VecDeque<(u64, OutputNo)>,
}

impl Gate {
    /// A gate after `made` outputs, of which those below `released` have left.
    pub(super) fn new(made: OutputNo, released: OutputNo) -> Self {
        Self { made, released, held: VecDeque::new() }
    }

    /// `count` outputs were made, which `entries` entries of the log explain.
    pub(super) fn hold(&mut self, count: u64, entries: u64) {
        self.made.0 += count;
        match self.held.back_mut() {
            Some(last) if last.0 == entries => last.1 = self.made,
            _ => self.held.push_back((entries, self.made)),
        }
    }

    /// The backup has the first `entries` entries; what may leave now, up to a number.
    pub(super) fn acknowledged(&mut self, entries: u64) -> Option<OutputNo> {
        let before = self.released;
        while let Some(&(needed, upto)) = self.held.front() {
            if needed > entries {
                break;
            }
            self.released = upto;
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
        gate.hold(1, 10);
        gate.hold(2, 10);
        gate.hold(1, 12);
        assert_eq!(gate.acknowledged(9), None);
        assert_eq!(gate.acknowledged(11), Some(OutputNo(8)));
        assert_eq!(gate.acknowledged(11), None);
        assert_eq!((gate.held(), gate.made()), (1, OutputNo(9)));
        assert_eq!(gate.open(), Some(OutputNo(9)));
        assert_eq!(gate.open(), None);
    }
}
