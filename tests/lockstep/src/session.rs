//! Sessions: programs on two machines, the interpreter's and the one that is tested.
//!
//! Contract: everything follows from the seed. The tested machine runs in slices of its own, loses
//! its caches and changes its engine on the way; at counts that both reach, CPUs and memory are
//! compared, and now and then digests. What a session finds is gone through again in fixed steps,
//! to name the instructions.

use crate::guest::{self, REACH};
use crate::program::{Program, generate, magnitude};
use conformance::values::Rng;
use devices::time::Icount;
use drivers::lockstep::listing::list;
use drivers::lockstep::twins::Twins;
use emulator::accelerator::Accelerator;
use emulator::machine::{Machine, Stop};
use std::collections::VecDeque;

/// Makes an engine with room for so many bytes of code.
pub type Make<'a> = &'a dyn Fn(usize) -> Option<Box<dyn Accelerator>>;

/// Sizes of code caches: some hold a few blocks only.
const CAPACITIES: [usize; 5] = [1 << 14, 1 << 16, 1 << 20, 1 << 22, 1 << 24];
/// Looks at halted guests that nothing wakes.
const PATIENCE: u32 = 64;
/// Comparisons between two digests.
const DIGESTS: u64 = 24;
/// Instructions between two comparisons when a difference is looked for.
const STEPS: [u64; 8] = [4, 8, 16, 32, 64, 256, 2048, 1 << 20];

/// What a session did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Instructions compared.
    pub instructions: u64,
    /// Faults and ticks after which programs went on elsewhere.
    pub restarts: u64,
    /// Programs.
    pub programs: u64,
    /// Blocks that tested engines have translated.
    pub blocks: u64,
    /// Times that they have entered translated code.
    pub entries: u64,
}

impl Counts {
    /// Adds those of another session.
    pub fn add(&mut self, other: Self) {
        self.instructions += other.instructions;
        self.restarts += other.restarts;
        self.programs += other.programs;
        self.blocks += other.blocks;
        self.entries += other.entries;
    }
}

/// Instructions of a program.
fn length(seed: u64, number: u64) -> u64 {
    1000 + Rng::new(seed ^ number << 32).below(30_000)
}

/// Whether a machine got to the count.
fn go(machine: &mut Machine, to: u64) -> Result<(), Stop> {
    // Halts without an instruction between them.
    let (mut halts, mut last) = (0, machine.icount());
    while halts < PATIENCE {
        match machine.run(Icount(to)) {
            Stop::Reached => return Ok(()),
            Stop::Output => while machine.poll_output().is_some() {},
            Stop::Halted(Some(at)) => machine.idle_to(at),
            stop => return Err(stop),
        }
        halts = if machine.icount() == last { halts + 1 } else { 0 };
        last = machine.icount();
    }
    Err(Stop::Halted(None))
}

struct Session<'a> {
    seed: u64,
    make: Make<'a>,
    rng: Rng,
    capacity: usize,
    twins: Twins,
    comparisons: u64,
    /// Blocks and entries of engines that are gone.
    translated: (u64, u64),
}

/// Runs `programs` programs under `seed`.
///
/// # Errors
/// What differs, and where.
pub fn run(seed: u64, programs: u64, make: Make) -> Result<Counts, String> {
    let mut rng = Rng::new(!seed);
    let capacity = rng.pick(&CAPACITIES);
    let twins = Twins { reference: guest::machine(), tested: guest::machine() };
    let mut session =
        Session { seed, make, rng, capacity, twins, comparisons: 0, translated: (0, 0) };
    session.attach();
    let mut counts = Counts::default();
    for number in 0..programs {
        let program = generate(seed, number);
        let from = session.twins.reference.icount().0;
        if let Err((good, bad)) = session.program(&program, number) {
            return Err(session.explain(number, good, bad));
        }
        counts.instructions += session.twins.reference.icount().0 - from;
        counts.restarts += guest::restarts(&session.twins.reference);
        counts.programs += 1;
    }
    session.engine(None);
    (counts.blocks, counts.entries) = session.translated;
    Ok(counts)
}

impl Session<'_> {
    fn attach(&mut self) {
        self.engine((self.make)(self.capacity));
    }

    /// Changes the engine of the tested machine.
    fn engine(&mut self, new: Option<Box<dyn Accelerator>>) {
        if let Some(old) = self.twins.tested.set_accelerator(new) {
            let statistics = old.statistics();
            self.translated.0 += statistics.blocks;
            self.translated.1 += statistics.entries;
        }
    }

    /// Runs a program; an error has the last count at which all was the same, and one at which it
    /// was not.
    fn program(&mut self, program: &Program, number: u64) -> Result<(), (u64, u64)> {
        program.load(&mut self.twins.reference);
        program.load(&mut self.twins.tested);
        let mut good = self.twins.reference.icount().0;
        let end = good + length(self.seed, number);
        while good < end {
            let to = end.min(good + 1 + magnitude(&mut self.rng, 0..13));
            let reached = go(&mut self.twins.reference, to);
            let same = self.go_in_slices(to) == reached;
            let here = self.twins.reference.icount().0;
            if !same || !self.compare(here == end || reached.is_err()) {
                return Err((good, here.max(self.twins.tested.icount().0)));
            }
            if reached.is_err() {
                // Reset, power-off, or halted for ever: the next program begins anew.
                return Ok(());
            }
            good = here;
        }
        Ok(())
    }

    /// Takes the tested machine to a count, with interruptions.
    fn go_in_slices(&mut self, to: u64) -> Result<(), Stop> {
        loop {
            match self.rng.below(400) {
                0..4 => self.twins.tested.drop_caches(),
                4 => self.attach(),
                5 | 6 => self.engine(None),
                7..30 if self.twins.tested.accelerator().is_none() => self.attach(),
                _ => {}
            }
            let here = self.twins.tested.icount().0;
            let slice = match self.rng.below(4) {
                0 => 1 + self.rng.below(8),
                1 => 1 + self.rng.below(100),
                _ => u64::MAX,
            };
            let next = to.min(here.saturating_add(slice));
            go(&mut self.twins.tested, next)?;
            if next == to {
                return Ok(());
            }
        }
    }

    fn compare(&mut self, all: bool) -> bool {
        self.comparisons += 1;
        if all || self.comparisons.is_multiple_of(DIGESTS) {
            return self.twins.are_same();
        }
        let same = self.twins.are_at_the_same();
        let reach = REACH.start as usize..REACH.end as usize;
        let [a, b] = [&self.twins.reference, &self.twins.tested].map(|m| m.core().ram.bytes());
        same && a[reach.clone()] == b[reach]
    }

    /// Goes through the program again on machines without a past.
    fn explain(&mut self, number: u64, good: u64, bad: u64) -> String {
        let seed = self.seed;
        let level = generate(seed, number).level();
        let first = format!(
            "session {seed:#x}, program {number} ({} bits, ring {}): the engines differ \
             between {good} and {bad}\n  {}",
            if level.long { 64 } else { 32 },
            if level.user { 3 } else { 0 },
            self.twins.describe()
        );
        for step in STEPS {
            if let Some(text) = self.again(number, step) {
                return format!("{first}\n {text}");
            }
        }
        format!("{first}\n  but not when the program runs by itself")
    }

    /// The program alone, compared every `step` instructions.
    fn again(&mut self, number: u64, step: u64) -> Option<String> {
        let mut twins = Twins { reference: guest::machine(), tested: guest::machine() };
        drop(twins.tested.set_accelerator((self.make)(self.capacity)));
        let program = generate(self.seed, number);
        program.load(&mut twins.reference);
        program.load(&mut twins.tested);
        let end = length(self.seed, number);
        let mut good = 0;
        while good < end {
            let to = end.min(good + step);
            let reached = go(&mut twins.reference, to);
            let same = go(&mut twins.tested, to) == reached;
            if !same || !twins.are_same() {
                let text = twins.describe();
                let mut machine = guest::machine();
                program.load(&mut machine);
                let _ = go(&mut machine, good);
                let mut lines = VecDeque::new();
                list(&mut machine, to, &mut lines);
                let lines: Vec<String> = lines.into();
                return Some(format!(
                    "alone, between {good} and {to}: {text}\n  {}",
                    lines.join("\n  ")
                ));
            }
            if reached.is_err() {
                return None;
            }
            good = to;
        }
        None
    }
}
