//! A guest of a few lines that does what real ones do: computes, reads the clock, halts, talks and
//! uses a disk.
//!
//! Contract: as `Guest`; its path depends on every input, on time and on every sector that it
//! reads.

use backends::disk::SECTOR;
use devices::io::{DiskOperation, DiskResult, Input, Output};
use devices::time::{Clock, Icount, VirtualNs};
use drivers::guest::Guest;
use emulator::machine::{Digest, Stop};
use std::collections::VecDeque;

/// Sectors of its disk.
pub const SECTORS: u64 = 64;
/// Something happens at multiples of this count.
const PERIOD: u64 = 500;
/// Requests it has outstanding at most.
const REQUESTS: u64 = 4;

/// The guest. The byte `q` on its console makes it power off, `x` leave by isa-debug-exit, `r`
/// reset.
pub struct Toy {
    icount: u64,
    clock: Clock,
    state: u64,
    halted: bool,
    timer: Option<VirtualNs>,
    outputs: VecDeque<Output>,
    asked: u64,
    answered: u64,
    stop: Option<Stop>,
    /// Never halts.
    pub restless: bool,
}

impl Toy {
    pub fn new(seed: u64) -> Self {
        Self {
            icount: 0,
            clock: Clock::default(),
            state: seed,
            halted: false,
            timer: None,
            outputs: VecDeque::new(),
            asked: 0,
            answered: 0,
            stop: None,
            restless: false,
        }
    }

    fn mix(&mut self, value: u64) {
        self.state = (self.state ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        bytes.iter().for_each(|&byte| self.mix(byte.into()));
    }

    fn ask(&mut self, operation: DiskOperation) {
        if self.asked.saturating_sub(self.answered) < REQUESTS {
            self.outputs.push_back(Output::Disk { disk: 0, request: self.asked, operation });
            self.asked += 1;
        }
    }

    /// What happens at a multiple of the period.
    fn act(&mut self) {
        self.mix(self.now().0);
        let (what, lba) = (self.state % 64, self.state >> 32 & (SECTORS - 4) & !3);
        match what {
            0 => {
                let bytes = self.state.to_le_bytes().to_vec();
                self.outputs.push_back(Output::ConsoleTx { port: 0, bytes });
            }
            1 => self.ask(DiskOperation::Read { lba, sectors: (what >> 8) as u32 % 3 + 1 }),
            2 => self.ask(DiskOperation::Write { lba, data: vec![self.state as u8; 2 * SECTOR] }),
            3 => self.ask(DiskOperation::Flush),
            4 if !self.restless => {
                self.halted = true;
                self.timer = Some(self.now().after(self.state % 3_000_000 + 1));
            }
            5 if !self.restless && self.asked > self.answered => {
                self.halted = true;
                self.timer = None;
            }
            _ => {}
        }
    }
}

impl Guest for Toy {
    fn icount(&self) -> Icount {
        Icount(self.icount)
    }

    fn now(&self) -> VirtualNs {
        self.clock.now(Icount(self.icount))
    }

    fn run(&mut self, until: Icount) -> Stop {
        loop {
            if !self.outputs.is_empty() {
                return Stop::Output;
            }
            if let Some(stop) = self.stop.take() {
                return stop;
            }
            if self.halted {
                return Stop::Halted(self.timer);
            }
            if self.icount >= until.0 {
                return Stop::Reached;
            }
            self.icount += (PERIOD - self.icount % PERIOD).min(until.0 - self.icount);
            if self.icount.is_multiple_of(PERIOD) {
                self.act();
            }
        }
    }

    fn idle_to(&mut self, to: VirtualNs) {
        if !self.halted {
            return;
        }
        let to = self.timer.map_or(to, |timer| timer.min(to));
        self.clock.skip_to(Icount(self.icount), to);
        if self.timer.is_some_and(|timer| timer <= self.now()) {
            self.timer = None;
            self.halted = false;
            self.mix(self.now().0);
        }
    }

    fn inject(&mut self, input: Input) {
        self.mix(self.icount);
        self.mix(self.now().0);
        match input {
            Input::ConsoleRx { bytes, .. } => {
                self.mix_bytes(&bytes);
                self.stop = match bytes.last() {
                    Some(b'q') => Some(Stop::PowerOff),
                    Some(b'x') => Some(Stop::DebugExit(0x21)),
                    Some(b'r') => Some(Stop::Reset),
                    _ => None,
                };
            }
            Input::DiskDone { request, result, .. } => {
                self.mix(request);
                self.answered += 1;
                match result {
                    DiskResult::Data(data) => self.mix_bytes(&data),
                    DiskResult::Done => self.mix(1),
                    DiskResult::Failed => self.mix(2),
                }
            }
            Input::ClockRate(rate) => self.clock.set_rate(Icount(self.icount), rate),
            Input::Entropy(seed) => self.mix_bytes(&seed),
            Input::NetRx { frame, .. } => self.mix_bytes(&frame),
            Input::WallClock(ns) => self.mix(ns),
            _ => self.mix(3),
        }
        self.halted = false;
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn digest(&mut self) -> Digest {
        let timer = self.timer.map_or(u64::MAX, |timer| timer.0);
        let devices = vec![("timer".into(), timer.into()), ("disk".into(), self.asked.into())];
        Digest { cpu: self.state.into(), devices, ram: 0 }
    }
}
