//! The machine as the drivers see it.
//!
//! Contract: as `emulator::machine::Machine`, which is the one implementation outside tests.

use devices::io::{Input, Output};
use devices::time::{Icount, VirtualNs};
use emulator::machine::{Digest, Machine, Stop};

/// Something that runs by instruction counts and takes inputs.
pub trait Guest {
    /// Retired instructions.
    fn icount(&self) -> Icount;
    /// Virtual time.
    fn now(&self) -> VirtualNs;
    /// Executes until `until` at the latest.
    fn run(&mut self, until: Icount) -> Stop;
    /// While halted, lets time pass to `to` or to the first timer that wakes the CPU.
    fn idle_to(&mut self, to: VirtualNs);
    /// Applies `input` here and now.
    fn inject(&mut self, input: Input);
    /// Whether a frame injected now for this network card finds room.
    fn nic_has_room(&self, _nic: u8) -> bool {
        true
    }
    /// Takes the oldest output.
    fn poll_output(&mut self) -> Option<Output>;
    /// Hash of the whole state.
    fn digest(&mut self) -> Digest;
    /// Why it has ended before its time: it is not to be trusted any more.
    fn failure(&self) -> Option<&str> {
        None
    }
    /// The whole machine, to be transferred; `None`: it cannot be.
    fn machine(&mut self) -> Option<&mut Machine> {
        None
    }
}

impl Guest for Machine {
    fn icount(&self) -> Icount {
        Machine::icount(self)
    }

    fn now(&self) -> VirtualNs {
        Machine::now(self)
    }

    fn run(&mut self, until: Icount) -> Stop {
        Machine::run(self, until)
    }

    fn idle_to(&mut self, to: VirtualNs) {
        Machine::idle_to(self, to);
    }

    fn inject(&mut self, input: Input) {
        Machine::inject(self, input);
    }

    fn nic_has_room(&self, nic: u8) -> bool {
        Machine::nic_has_room(self, nic)
    }

    fn poll_output(&mut self) -> Option<Output> {
        Machine::poll_output(self)
    }

    fn digest(&mut self) -> Digest {
        Machine::digest(self)
    }

    fn machine(&mut self) -> Option<&mut Machine> {
        Some(self)
    }
}

impl Guest for Box<dyn Guest> {
    fn icount(&self) -> Icount {
        (**self).icount()
    }

    fn now(&self) -> VirtualNs {
        (**self).now()
    }

    fn run(&mut self, until: Icount) -> Stop {
        (**self).run(until)
    }

    fn idle_to(&mut self, to: VirtualNs) {
        (**self).idle_to(to);
    }

    fn inject(&mut self, input: Input) {
        (**self).inject(input);
    }

    fn nic_has_room(&self, nic: u8) -> bool {
        (**self).nic_has_room(nic)
    }

    fn poll_output(&mut self) -> Option<Output> {
        (**self).poll_output()
    }

    fn digest(&mut self) -> Digest {
        (**self).digest()
    }

    fn failure(&self) -> Option<&str> {
        (**self).failure()
    }

    fn machine(&mut self) -> Option<&mut Machine> {
        (**self).machine()
    }
}
