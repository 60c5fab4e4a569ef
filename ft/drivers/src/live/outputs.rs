//! What the machine sends out: to the host's ends at once, or when the pair lets it go.

use super::{DISK_LATENCY, Live, Timing};
use crate::guest::Guest;
use crate::recent::Recent;
use crate::record::instant;
use devices::io::{DiskOperation, Output};
use ft::log::Body;

/// Outputs for which nobody waits, and those that come while others are on their way, are told to
/// the pair when the oldest is this old in host ns: under load every message, its answer and the
/// threads that they wake cost more than what is in them.
const PATIENCE: u64 = 300_000;

/// Outputs that the pair has not been told of.
#[derive(Debug, Default)]
pub(super) struct Untold {
    pub(super) count: u64,
    since: u64,
    /// One of them is a frame or a disk's: somebody may be waiting for it.
    urgent: bool,
    /// Others were on their way when the first came.
    crowded: bool,
    /// One of them has to wait until the backup has executed the log up to it.
    pub(super) executed: bool,
}

impl Untold {
    /// Whether the pair is to know now.
    pub(super) fn is_due(&self, now: u64) -> bool {
        let patience = if self.urgent && !self.crowded { 0 } else { PATIENCE };
        self.count > 0 && now >= self.since + patience
    }
}

impl<G: Guest> Live<'_, G> {
    /// Takes what the machine has put out.
    pub(super) fn take_outputs(&mut self) {
        while let Some(output) = self.guest.poll_output() {
            match output {
                Output::Disk { disk, request, operation } => {
                    self.recorder.asked(disk, request, &operation);
                    if let Some(recent) = &mut self.recent {
                        recent.asked(disk, request, &operation);
                    }
                    if let Some(pair) = &mut self.pair {
                        self.untold.executed |= pair.overwrites_unread(disk, &operation);
                        pair.asked(disk, request, &operation);
                        self.requests.insert((disk, request), operation.clone());
                    }
                    self.outstanding += 1;
                    let read = matches!(operation, DiskOperation::Read { .. });
                    if self.config.shared && self.pair.is_some() && !read {
                        self.hold(Output::Disk { disk, request, operation });
                        continue;
                    }
                    self.ends.disks[usize::from(disk)].submit(request, operation);
                    if let Timing::Fixed(_) = self.config.timing {
                        let answer = self.mail.answers.recv().expect("the disk's thread answers");
                        self.due.push_back((self.guest.now().after(DISK_LATENCY), answer));
                    }
                }
                output => {
                    if self.pair.is_none() {
                        let time = self.wall_clock();
                        self.ends.leave(&output, time);
                    } else {
                        self.hold(output);
                    }
                }
            }
        }
    }

    /// Keeps an output until the pair lets it go.
    fn hold(&mut self, output: Output) {
        if self.untold.count == 0 {
            self.untold.since = self.host_ns();
            self.untold.urgent = false;
            self.untold.crowded = !self.held.is_empty();
        }
        self.untold.urgent |= matches!(output, Output::NetTx { .. } | Output::Disk { .. });
        self.untold.count += 1;
        let time = self.wall_clock();
        self.held.push(output, time);
    }

    /// The count at which the next digest is due; the guest must not run past it.
    pub(super) fn next_digest(&self) -> Option<u64> {
        let pair = self.pair.as_ref().and_then(|pair| pair.next_digest());
        [pair, self.recorder.next_digest()].into_iter().flatten().min()
    }

    /// Logs a digest if one is due here.
    pub(super) fn digest_if_due(&mut self) {
        if self.next_digest() != Some(self.guest.icount().0) {
            return self.mind_recent(None);
        }
        let (began, steps) = (self.host_ns(), self.spacing.steps());
        self.recorder.digest_if_due(self.guest, self.halted, steps);
        let halted = self.halted;
        let pair = self.pair.as_mut();
        let check = pair.and_then(|pair| pair.digest_if_due(self.guest, halted, steps));
        // At a fixed rate a run, its log too, is the same every time.
        if self.config.timing == Timing::Paced {
            let (icount, ended) = (self.guest.icount().0, self.host_ns());
            self.spacing.checked(icount, began, ended);
        }
        self.mind_recent(check);
    }

    /// Keeps what a difference from the backup can be looked into with, while there is a backup.
    fn mind_recent(&mut self, check: Option<Vec<u8>>) {
        let Some(pair) = &self.pair else { return };
        if !pair.is_logging() && self.recent.take().is_some() {
            self.guest.machine().map(Recent::end);
        }
        if let (Some(recent), Some(check)) = (&mut self.recent, check) {
            let at = instant(self.guest, self.halted);
            recent.entry(at, &Body::Digest(check));
            if let Some(machine) = self.guest.machine() {
                recent.passed(machine, at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_output_that_is_alone_does_not_wait() {
        let untold = |urgent, crowded| Untold {
            count: 1,
            since: 1000,
            urgent,
            crowded,
            ..Untold::default()
        };
        assert!(!Untold::default().is_due(u64::MAX), "there is none");
        assert!(untold(true, false).is_due(1000), "somebody waits for a frame");
        for waiting in [untold(true, true), untold(false, false), untold(false, true)] {
            assert!(!waiting.is_due(1000 + PATIENCE - 1));
            assert!(waiting.is_due(1000 + PATIENCE));
        }
    }
}
