//! Lockstep: two machines, two engines, the same inputs, and a comparison after every step.
//!
//! Contract: to its driver it is one guest, whose outputs are the reference's. CPU, clock and the
//! reason for each stop are compared after every run, outputs when they are taken, and the whole
//! state every [`INTERVAL`] instructions. At the first difference the way from the last equal
//! state is gone again in ever smaller steps, and [`Guest::failure`] says what was found;
//! the guest has ended then. Costs two engines' time and three times the guest's memory.

pub mod listing;
mod narrow;
pub mod twins;

use crate::guest::Guest;
use devices::io::{Input, Output};
use devices::time::{Icount, VirtualNs};
use emulator::machine::{ConfigError, Digest, Machine, Stop};
use twins::{Base, Twins};

/// Instructions between two comparisons of the whole state.
pub const INTERVAL: u64 = 1_000_000;
/// Calls after which the whole state is compared, however few instructions they took.
const CALLS: usize = 100_000;

/// Gives a machine the engine that is to be tested.
pub type Install = Box<dyn Fn(&mut Machine)>;

/// What the driver did to the guest.
#[derive(Clone, Debug)]
enum Call {
    /// [`Guest::run`].
    Run(Icount),
    /// [`Guest::idle_to`].
    Idle(VirtualNs),
    /// [`Guest::inject`].
    Inject(Input),
    /// [`Guest::poll_output`], which gave one.
    Poll,
}

/// Two machines that should be one.
pub struct Lockstep {
    twins: Twins,
    install: Install,
    /// Where both were the same.
    base: Base,
    /// What was done since.
    calls: Vec<Call>,
    /// When the whole state is compared next.
    due: u64,
    difference: Option<String>,
}

impl Lockstep {
    /// `reference` beside a copy of it with another engine.
    ///
    /// # Errors
    /// If the machine's state cannot be copied.
    pub fn new(mut reference: Machine, install: Install) -> Result<Self, ConfigError> {
        let base = Base::of(&mut reference);
        let mut tested = base.machine(reference.config())?;
        install(&mut tested);
        let due = reference.icount().0 + INTERVAL;
        let twins = Twins { reference, tested };
        Ok(Self { twins, install, base, calls: Vec::new(), due, difference: None })
    }

    /// The machines differ: finds out where.
    fn differ(&mut self) {
        if self.difference.is_some() {
            return;
        }
        let at = self.twins.reference.icount().0;
        log::warn!("the engines differ at icount {at} or before it; looking for the instruction");
        self.difference = Some(self.narrow());
    }

    /// Compares the whole state, and makes it the one to begin from.
    fn compare_all(&mut self) {
        if !self.twins.are_same() {
            return self.differ();
        }
        self.base.renew(&mut self.twins.reference);
        self.calls.clear();
        self.due = self.twins.reference.icount().0 + INTERVAL;
    }
}

impl Guest for Lockstep {
    fn icount(&self) -> Icount {
        self.twins.reference.icount()
    }

    fn now(&self) -> VirtualNs {
        self.twins.reference.now()
    }

    fn run(&mut self, until: Icount) -> Stop {
        loop {
            if self.difference.is_some() {
                return Stop::PowerOff;
            }
            let piece = until.0.min(self.due);
            self.calls.push(Call::Run(Icount(piece)));
            let Some(stop) = self.twins.run(Icount(piece)) else {
                self.differ();
                continue;
            };
            let reached = self.icount().0;
            // Where outputs wait the state is not all that there is.
            if stop == Stop::Reached && (reached >= self.due || self.calls.len() > CALLS) {
                self.compare_all();
            } else if stop != Stop::Reached {
                return stop;
            }
            if reached >= until.0 && self.difference.is_none() {
                return stop;
            }
        }
    }

    fn idle_to(&mut self, to: VirtualNs) {
        if self.difference.is_none() {
            self.calls.push(Call::Idle(to));
            if !self.twins.idle_to(to) {
                self.differ();
            }
        }
    }

    fn inject(&mut self, input: Input) {
        if self.difference.is_none() {
            self.calls.push(Call::Inject(input.clone()));
            self.twins.inject(input);
        }
    }

    fn nic_has_room(&self, nic: u8) -> bool {
        self.twins.reference.nic_has_room(nic)
    }

    fn poll_output(&mut self) -> Option<Output> {
        if self.difference.is_some() {
            return None;
        }
        let Some(output) = self.twins.poll_output() else {
            self.calls.push(Call::Poll);
            self.differ();
            return None;
        };
        if output.is_some() {
            self.calls.push(Call::Poll);
        }
        output
    }

    fn digest(&mut self) -> Digest {
        if self.difference.is_none() && !self.twins.are_same() {
            self.differ();
        }
        self.twins.reference.digest()
    }

    fn machine(&mut self) -> Option<&mut Machine> {
        Some(&mut self.twins.reference)
    }

    fn failure(&self) -> Option<&str> {
        self.difference.as_deref()
    }
}
