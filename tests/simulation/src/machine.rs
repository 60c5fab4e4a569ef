//! The toy machine: deterministic, small, and sensitive to everything that replication can get
//! wrong.
//!
//! Contract: the same state and the same inputs at the same instants give the same outputs, however
//! the run is cut. Each output carries a hash of all inputs and outputs before it, so a lost input,
//! a forked history or a wrong page of RAM shows in what clients see. It serves increments of one
//! counter, which it writes to its disk before it answers.

use crate::rng::mix;
use ft::log::Instant;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Guest nanoseconds per instruction.
pub const NS: u64 = 20_000;
/// Pages of RAM.
pub const PAGES: usize = 24;
/// Words in a page.
pub const WORDS: usize = 8;
/// Clients that the machine knows; each has a block on the disk.
pub const CLIENTS: usize = 4;
/// Pages below this are the program's: the counter, then each client's last request.
const OWN_PAGES: usize = 1 + CLIENTS;

/// A block of the disk: a client's last request, and the counter's value that it got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The request's number.
    pub request: u64,
    /// The answer.
    pub value: u64,
}

/// What comes from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A client wants the counter incremented.
    Request {
        /// Who.
        client: u8,
        /// Its how-manieth.
        request: u64,
    },
    /// A disk write is through.
    DiskDone {
        /// Which.
        id: u64,
        /// Whether the data is on the disk.
        ok: bool,
    },
    /// Somebody pressed the button.
    PowerButton,
}

impl Input {
    /// As bytes of the log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("plain data can be encoded")
    }

    /// From bytes of the log.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// What leaves the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// How many came before.
    pub number: u64,
    /// Guest time.
    pub ns: u64,
    /// Hash of all inputs and outputs so far.
    pub chain: u64,
    /// An answer for a client: who, which request, what value.
    pub reply: Option<(u8, u64, u64)>,
}

impl Output {
    /// Whether it stands for a write to a shared disk over something that the backup reads itself:
    /// some do.
    #[must_use]
    pub fn overwrites(&self) -> bool {
        self.chain.is_multiple_of(8)
    }
}

/// A write on its way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Its number.
    pub id: u64,
    /// Block number: the client.
    pub client: u8,
    /// The data.
    pub block: Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Job {
    Tick,
    Request { client: u8, request: u64 },
    DiskDone { id: u64, ok: bool },
    PowerOff,
}

/// The machine is past the instant that it should run to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past;

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Which boot this is, of all in the simulation: for the checkers.
    pub life: u64,
    icount: u64,
    /// Guest nanoseconds that passed without instructions.
    skipped: u64,
    halted: bool,
    ended: bool,
    accumulator: u64,
    chain: u64,
    /// Next tick, in guest nanoseconds.
    deadline: u64,
    made: u64,
    next_write: u64,
    jobs: VecDeque<Job>,
    /// Instructions that the first job still needs.
    work: u64,
    writing: Vec<Write>,
    ram: Vec<[u64; WORDS]>,
    #[serde(skip)]
    dirty: u64,
    #[serde(skip)]
    outputs: VecDeque<Output>,
    #[serde(skip)]
    issued: Vec<Write>,
}

impl Machine {
    /// Switches a machine on that finds `disk`.
    #[must_use]
    pub fn boot(life: u64, disk: &[Block; CLIENTS]) -> Self {
        let mut ram = vec![[0; WORDS]; PAGES];
        ram[0][0] = disk.iter().map(|block| block.value).max().unwrap_or(0);
        for (page, block) in ram[1..].iter_mut().zip(disk) {
            page[..2].copy_from_slice(&[block.request, block.value]);
        }
        Self {
            life,
            icount: 0,
            skipped: 0,
            halted: false,
            ended: false,
            accumulator: mix(life),
            chain: mix(life ^ 1),
            deadline: 5_000_000,
            made: 0,
            next_write: 0,
            jobs: VecDeque::new(),
            work: 0,
            writing: Vec::new(),
            ram,
            dirty: u64::MAX,
            outputs: VecDeque::new(),
            issued: Vec::new(),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn instant(&self) -> Instant {
        Instant { icount: self.icount, halted_ns: self.halted.then(|| self.ns()) }
    }

    /// Guest time in nanoseconds.
    #[must_use]
    pub fn ns(&self) -> u64 {
        self.icount * NS + self.skipped
    }

    /// Instructions retired.
    #[must_use]
    pub fn icount(&self) -> u64 {
        self.icount
    }

    /// Whether the CPU waits.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// Whether it was switched off.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Outputs made since it was switched on.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.made
    }

    /// Outputs that were not yet taken.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        self.outputs.drain(..).collect()
    }

    /// Writes that were issued since the last call.
    pub fn take_issued(&mut self) -> Vec<Write> {
        core::mem::take(&mut self.issued)
    }

    /// Writes whose end the machine has not seen.
    #[must_use]
    pub fn writing(&self) -> &[Write] {
        &self.writing
    }

    /// Numbers of the pages written since the last call.
    pub fn take_dirty(&mut self) -> Vec<u8> {
        let dirty = core::mem::take(&mut self.dirty);
        (0..PAGES as u8).filter(|page| dirty >> page & 1 != 0).collect()
    }

    /// A page's words.
    #[must_use]
    pub fn page(&self, page: u8) -> [u64; WORDS] {
        self.ram[usize::from(page)]
    }

    /// The machine without its RAM, as bytes.
    #[must_use]
    pub fn registers(&self) -> Vec<u8> {
        let bare = Self { ram: Vec::new(), ..self.clone() };
        postcard::to_allocvec(&bare).expect("plain data can be encoded")
    }

    /// The machine of [`Machine::registers`] and pages.
    #[must_use]
    pub fn assemble(registers: &[u8], ram: Vec<[u64; WORDS]>) -> Option<Self> {
        let mut machine: Self = postcard::from_bytes(registers).ok()?;
        machine.ram = ram;
        machine.dirty = u64::MAX;
        Some(machine)
    }

    /// Hash of the whole state.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let mut hash = mix(self.life) ^ u64::from(self.halted) ^ u64::from(self.ended) << 1;
        let mut add = |value: u64| hash = mix(hash.rotate_left(7) ^ value);
        for value in [self.icount, self.skipped, self.accumulator, self.chain, self.deadline] {
            add(value);
        }
        for value in [self.made, self.next_write, self.work, self.jobs.len() as u64] {
            add(value);
        }
        for write in &self.writing {
            add(write.id);
            add(write.block.value);
        }
        for page in &self.ram {
            for word in page {
                add(*word);
            }
        }
        u128::from(hash) << 64 | u128::from(mix(hash))
    }

    /// An input takes effect here.
    pub fn inject(&mut self, input: &Input) {
        let word = match *input {
            Input::Request { client, request } => {
                let last = self.ram[1 + usize::from(client)];
                let waits = self.writing.iter().any(|write| write.client == client);
                if request == last[0] && !waits {
                    self.output(Some((client, request, last[1])));
                } else {
                    self.jobs.push_back(Job::Request { client, request });
                }
                mix(request) ^ u64::from(client)
            }
            Input::DiskDone { id, ok } => {
                self.jobs.push_back(Job::DiskDone { id, ok });
                mix(id) ^ u64::from(ok)
            }
            Input::PowerButton => {
                self.jobs.push_back(Job::PowerOff);
                3
            }
        };
        self.chain = mix(self.chain ^ word ^ self.ns());
        self.wake();
    }

    /// Runs live, up to guest time `until`; stops early at an output if `at_output`.
    pub fn run(&mut self, until: u64, at_output: bool) {
        while !self.ended && self.ns() < until {
            if self.halted {
                self.idle(until);
            } else {
                self.execute();
            }
            if at_output && !self.outputs.is_empty() {
                return;
            }
        }
    }

    /// Something reaches the machine that is no input: a mistake, or a broken memory.
    pub fn disturb(&mut self, word: u64) {
        self.accumulator ^= word;
    }

    /// Follows a log to `at`, with at most `budget` instructions. Whether it is there; an error if
    /// it is past it. `loose`: only the count matters.
    ///
    /// # Errors
    /// The machine cannot stand at `at` any more.
    pub fn follow(&mut self, at: Instant, loose: bool, budget: &mut u64) -> Result<bool, Past> {
        loop {
            let here = self.instant();
            if here == at || loose && here.icount == at.icount {
                return Ok(true);
            }
            if here.icount > at.icount || self.ended {
                return Err(Past);
            }
            if here.icount == at.icount {
                match (here.halted_ns, at.halted_ns) {
                    (Some(ns), Some(until)) if ns < until => self.idle(until),
                    (Some(_), None) => self.idle(u64::MAX),
                    _ => return Err(Past),
                }
                continue;
            }
            if self.halted {
                self.idle(u64::MAX);
            } else if *budget == 0 {
                return Ok(false);
            } else {
                *budget -= 1;
                self.execute();
            }
        }
    }

    /// Time passes to `until`, or to the tick, which wakes the CPU.
    fn idle(&mut self, until: u64) {
        let to = until.min(self.deadline);
        self.skipped += to - self.ns();
        self.tick_if_due();
    }

    fn tick_if_due(&mut self) {
        if self.ns() >= self.deadline {
            self.deadline = self.ns() + 4_000_000 + self.accumulator % 40_000_000;
            self.jobs.push_back(Job::Tick);
            self.wake();
        }
    }

    fn wake(&mut self) {
        self.halted = false;
        if self.work == 0 {
            self.work = 3 + self.accumulator % 40;
        }
    }

    fn execute(&mut self) {
        self.accumulator = mix(self.accumulator ^ self.icount);
        let page = OWN_PAGES + (self.accumulator % (PAGES - OWN_PAGES) as u64) as usize;
        let word = (self.accumulator >> 32) as usize % WORDS;
        self.ram[page][word] = self.accumulator;
        self.dirty |= 1 << page;
        self.icount += 1;
        self.work = self.work.saturating_sub(1);
        if self.work == 0 {
            if let Some(job) = self.jobs.pop_front() {
                self.finish(job);
            }
            if self.jobs.is_empty() {
                self.halted = !self.ended;
            } else {
                self.work = 1 + self.accumulator % 30;
            }
        }
        self.tick_if_due();
    }

    fn finish(&mut self, job: Job) {
        match job {
            Job::Tick if !self.accumulator.is_multiple_of(3) => self.output(None),
            Job::Tick => {}
            Job::Request { client, request } => self.increment(client, request),
            Job::DiskDone { id, ok } => {
                let Some(at) = self.writing.iter().position(|write| write.id == id) else { return };
                let write = self.writing.remove(at);
                if ok {
                    let Block { request, value } = write.block;
                    self.output(Some((write.client, request, value)));
                } else {
                    self.write(write.client, write.block);
                }
            }
            Job::PowerOff => {
                self.output(None);
                self.ended = true;
            }
        }
    }

    fn increment(&mut self, client: u8, request: u64) {
        let page = 1 + usize::from(client);
        // An old request, or one that is being written: the answer is out or will come.
        if request <= self.ram[page][0] {
            return;
        }
        self.ram[0][0] += 1;
        let value = self.ram[0][0];
        self.ram[page][..2].copy_from_slice(&[request, value]);
        self.dirty |= 1 | 1 << page;
        self.write(client, Block { request, value });
    }

    fn write(&mut self, client: u8, block: Block) {
        let write = Write { id: self.next_write, client, block };
        self.next_write += 1;
        self.writing.push(write);
        self.issued.push(write);
    }

    fn output(&mut self, reply: Option<(u8, u64, u64)>) {
        let memory = self.ram[(self.accumulator % PAGES as u64) as usize];
        let seen = memory.iter().fold(self.accumulator, |hash, word| mix(hash ^ word));
        let said = reply
            .map_or(0, |(client, request, value)| mix(request ^ u64::from(client) << 56) ^ value);
        self.chain = mix(self.chain ^ seen ^ said ^ self.ns());
        let output = Output { number: self.made, ns: self.ns(), chain: self.chain, reply };
        self.made += 1;
        self.outputs.push_back(output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn a_run_is_the_same_however_it_is_cut() {
        let disk = [Block::default(); CLIENTS];
        let mut one = Machine::boot(1, &disk);
        let mut log = Vec::new();
        let mut rng = Rng::new(7);
        let mut outputs = Vec::new();
        for request in 1..200 {
            one.run(one.ns() + rng.below(9_000_000), rng.one_in(2));
            let input = match one.writing().first() {
                Some(write) => Input::DiskDone { id: write.id, ok: !rng.one_in(4) },
                None => Input::Request { client: rng.below(4) as u8, request },
            };
            log.push((one.instant(), input.clone()));
            one.inject(&input);
            outputs.extend(one.take_outputs());
        }
        let mut two = Machine::boot(1, &disk);
        let mut again = Vec::new();
        for (at, input) in log {
            while !two.follow(at, false, &mut rng.below(10)).expect("not past it") {}
            two.inject(&input);
            again.extend(two.take_outputs());
        }
        assert_eq!((one.digest(), outputs), (two.digest(), again));
        assert!(one.made() > 100);
        let pages = (0..PAGES as u8).map(|page| one.page(page)).collect();
        let three = Machine::assemble(&one.registers(), pages).expect("whole");
        assert_eq!(three.digest(), one.digest());
    }
}
