//! Two machines that do the same, and the state from which their way can be gone again.

use devices::io::{Input, Output};
use devices::ram::PAGE;
use devices::time::{Icount, VirtualNs};
use emulator::cpu::BLOCK_RIP;
use emulator::fingerprint::{Fingerprint, first_difference};
use emulator::machine::{Config, ConfigError, Machine, Stop};
use emulator::snapshot::{Loader, is_zero};

/// Status flags and others by their bits.
const FLAGS: [(u64, &str); 16] = [
    (0, "CF"),
    (2, "PF"),
    (4, "AF"),
    (6, "ZF"),
    (7, "SF"),
    (8, "TF"),
    (9, "IF"),
    (10, "DF"),
    (11, "OF"),
    (14, "NT"),
    (16, "RF"),
    (17, "VM"),
    (18, "AC"),
    (19, "VIF"),
    (20, "VIP"),
    (21, "ID"),
];

/// The reference, and a machine with the engine that is tested.
pub struct Twins {
    /// With the interpreter.
    pub reference: Machine,
    /// With the other engine.
    pub tested: Machine,
}

impl Twins {
    /// Runs both. `None`: they came to something else.
    pub fn run(&mut self, until: Icount) -> Option<Stop> {
        let stop = self.reference.run(until);
        let same = self.tested.run(until) == stop && self.are_at_the_same();
        same.then_some(stop)
    }

    /// Lets time pass in both; whether it did so alike.
    pub fn idle_to(&mut self, to: VirtualNs) -> bool {
        self.reference.idle_to(to);
        self.tested.idle_to(to);
        self.reference.now() == self.tested.now()
    }

    /// Applies `input` to both.
    pub fn inject(&mut self, input: Input) {
        self.reference.inject(input.clone());
        self.tested.inject(input);
    }

    /// The oldest output of both, if there is one; `None`: they differ.
    pub fn poll_output(&mut self) -> Option<Option<Output>> {
        let output = self.reference.poll_output();
        (self.tested.poll_output() == output).then_some(output)
    }

    /// Whether counts, clocks and CPUs are the same.
    pub fn are_at_the_same(&mut self) -> bool {
        let (a, b) = (&mut self.reference, &mut self.tested);
        // What only a running block needs is no state.
        a.core_mut().cpu.regs[BLOCK_RIP] = 0;
        b.core_mut().cpu.regs[BLOCK_RIP] = 0;
        let same = a.icount() == b.icount() && a.now() == b.now();
        same && a.core().cpu == b.core().cpu
    }

    /// Whether everything is the same. Cost: the pages written since the last call.
    pub fn are_same(&mut self) -> bool {
        self.are_at_the_same() && self.reference.digest() == self.tested.digest()
    }

    /// Names what differs.
    pub fn describe(&mut self) -> String {
        let (a, b) = (fingerprint(&mut self.reference), fingerprint(&mut self.tested));
        let mut found = Vec::new();
        if let (Some(a), Some(b)) = (&a, &b)
            && let Some(text) = first_difference(a, b)
        {
            let text = text.replace(" here", " with the interpreter");
            found.push(text.replace(" there", " with the engine under test"));
        }
        found.extend(self.flags());
        if let (Some(a), Some(b)) = (&a, &b) {
            found.extend(self.memory(a, b));
        }
        match found.is_empty() {
            true => "the reason to stop, or an output".into(),
            false => found.join("; "),
        }
    }

    /// The flags that differ.
    fn flags(&self) -> Option<String> {
        let [a, b] = [&self.reference, &self.tested].map(|m| m.core().cpu.flags.get());
        let named = FLAGS.iter().filter(|(bit, _)| (a ^ b) >> bit & 1 != 0);
        let names: Vec<String> = named
            .map(|(bit, name)| format!("{name} is {} instead of {}", b >> bit & 1, a >> bit & 1))
            .collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// The first byte of memory that differs.
    fn memory(&self, a: &Fingerprint, b: &Fingerprint) -> Option<String> {
        let page = a.pages.iter().zip(&b.pages).position(|(a, b)| a != b)? as u32;
        let (a, b) = (self.reference.page(page), self.tested.page(page));
        let at = a.iter().zip(b).position(|(a, b)| a != b)?;
        let from = at & !7;
        let quad = |page: &[u8]| u64::from_le_bytes(page[from..from + 8].try_into().expect("8"));
        let place = devices::ram::physical(u64::from(page) * PAGE as u64 + from as u64);
        Some(format!("at {place:#x} are {:#018x} instead of {:#018x}", quad(b), quad(a)))
    }
}

fn fingerprint(machine: &mut Machine) -> Option<Fingerprint> {
    machine.keep_history(1);
    machine.digest();
    let found = machine.state_at(machine.icount());
    machine.keep_history(0);
    found
}

/// A machine's whole state, kept up by the pages that change.
pub struct Base {
    /// Its count.
    pub icount: u64,
    pages: Vec<Option<Box<[u8; PAGE]>>>,
    state: Vec<u8>,
}

impl Base {
    /// The state of `machine`, whose changes are listed from here on.
    pub fn of(machine: &mut Machine) -> Self {
        let pages = (0..machine.pages()).map(|page| content(machine, page)).collect();
        machine.track_dirty(true);
        Self { icount: machine.icount().0, pages, state: machine.save_state() }
    }

    /// The state of the same machine, later.
    pub fn renew(&mut self, machine: &mut Machine) {
        for page in machine.take_dirty_pages() {
            if let Some(kept) = self.pages.get_mut(page as usize) {
                *kept = content(machine, page);
            }
        }
        self.icount = machine.icount().0;
        self.state = machine.save_state();
    }

    /// A machine in this state.
    ///
    /// # Errors
    /// Never for the configuration of the machine it was taken from.
    pub fn machine(&self, config: &Config) -> Result<Machine, ConfigError> {
        let mut loader = Loader::new(config)?;
        for (page, content) in self.pages.iter().enumerate() {
            match content {
                Some(bytes) => loader.load_page(page as u32, bytes)?,
                None => loader.load_page(page as u32, &[0; PAGE])?,
            }
        }
        loader.finish(&self.state)
    }
}

fn content(machine: &Machine, page: u32) -> Option<Box<[u8; PAGE]>> {
    let used = machine.is_touched(page) && !is_zero(machine.page(page));
    used.then(|| Box::new(*machine.page(page)))
}
