//! The passing of time: waiting while the guest is halted, and keeping its clock with the host's.

use super::{LONGEST_WAIT, Live, RESEED, RUNNING, Sample, Timing, thread_cpu_ns};
use crate::guest::Guest;
use devices::io::Input;
use devices::time::VirtualNs;
use std::io;
use std::time::{Duration, Instant};

/// The backup answers within this time, mostly: a host takes as long to wake a thread.
const ANSWER: Duration = Duration::from_micros(200);
/// Longest wait while a backup joins.
const JOINING_WAIT: Duration = Duration::from_millis(2);

impl<G: Guest> Live<'_, G> {
    /// Begins a sample of the guest's speed: what came before was not its doing.
    pub(super) fn begin_sample(&mut self) {
        self.sample =
            Sample { icount: self.guest.icount().0, wall: self.host_ns(), cpu: thread_cpu_ns() };
    }

    /// Ends a sample that is long enough, and begins the next.
    pub(super) fn end_sample(&mut self, wall: u64, shortest: u64) {
        let begun = self.sample;
        if wall - begun.wall < shortest {
            return;
        }
        self.sample = Sample { icount: self.guest.icount().0, wall, cpu: thread_cpu_ns() };
        let cpu = self.sample.cpu - begun.cpu;
        self.busy_ns += cpu;
        self.pace.ran(self.sample.icount - begun.icount, wall - begun.wall, cpu);
    }

    /// Lets time pass while the CPU is halted, until a timer is due or something has arrived.
    pub(super) fn halt(&mut self, deadline: Option<VirtualNs>) -> io::Result<()> {
        if let Timing::Fixed(_) = self.config.timing {
            let due = self.due.front().map(|(due, _)| *due);
            if let Some(next) = [deadline, due].into_iter().flatten().min() {
                self.guest.idle_to(next);
                self.take_outputs();
                return Ok(());
            }
        }
        self.ends.flush();
        loop {
            let target = self.pace.halted(self.host_ns());
            match deadline {
                Some(deadline) if deadline.0 <= target => self.guest.idle_to(deadline),
                _ if self.mail.bell.is_rung() || self.reseed_is_due() || self.ended.is_some() => {
                    self.guest.idle_to(VirtualNs(target));
                }
                _ if self.transfer() => continue,
                _ => {
                    self.wait(deadline.map(|deadline| deadline.0 - target))?;
                    continue;
                }
            }
            self.take_outputs();
            self.reseed();
            return Ok(());
        }
    }

    /// Waits for `ns` at most, less if something arrives.
    fn wait(&mut self, ns: Option<u64>) -> io::Result<()> {
        let mut time = ns.map_or(LONGEST_WAIT, Duration::from_nanos).min(LONGEST_WAIT);
        if let Some(patience) = self.recorder.patience() {
            time = time.min(patience);
        }
        if let Some(patience) = self.patience() {
            time = time.min(patience);
        }
        if self.joining.is_some() {
            time = time.min(JOINING_WAIT);
        }
        self.end_sample(self.host_ns(), 0);
        if self.held.is_empty() || !self.mail.bell.expect(time.min(ANSWER)) {
            self.mail.bell.wait(Some(time));
        }
        self.resume();
        self.attend_pair();
        self.recorder.tick()
    }

    /// After a wait.
    pub(super) fn resume(&mut self) {
        self.begin_sample();
        self.woken = self.sample.wall;
        self.pace.waited(self.woken);
    }

    /// What need not happen at every slice.
    pub(super) fn look(&mut self, host: u64) -> io::Result<()> {
        self.ends.flush();
        if self.config.timing == Timing::Paced {
            let (target, guest) = (self.pace.target(host), self.guest.now().0);
            if (host - self.woken >= RUNNING || guest > target)
                && let Some(rate) = self.pace.adjust(target, guest)
            {
                self.rate_changes += 1;
                self.inject(Input::ClockRate(rate));
            }
            if let Some(ns) = self.pace.rest(target, guest) {
                self.wait(Some(ns))?;
            }
        }
        self.reseed();
        self.recorder.tick()
    }

    fn reseed_is_due(&self) -> bool {
        self.config.reseed.is_some() && self.seeded.elapsed() >= RESEED
    }

    fn reseed(&mut self) {
        if let Some(seed) = self.config.reseed
            && self.reseed_is_due()
        {
            self.seeded = Instant::now();
            self.inject(Input::Entropy(seed()));
        }
    }
}
