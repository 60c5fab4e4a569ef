//! The board: wires chips to the port, memory and interrupt lines, and to the outside.
//!
//! Contract: the CPU calls in with the current virtual time; chips never see the bus. After every
//! call that can change an interrupt line or a deadline the CPU asks
//! [`Board::interrupt_pending`] and [`Board::deadline`] again.

use crate::io::{Input, Output};
use crate::ram::Ram;
use crate::time::VirtualNs;
use alloc::collections::VecDeque;
use serde::{Deserialize, Serialize};

/// What the board asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// Hard reset of CPU and board (port CF9h, ACPI, keyboard controller, triple fault, button).
    Reset,
    /// INIT of the CPU alone (port 92h fast reset): RAM and devices stay.
    Init,
    /// The guest powered itself off, or the plug was pulled.
    PowerOff,
    /// isa-debug-exit: a value was written to port F4h.
    DebugExit(u32),
}

/// What stands on the board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardConfig {
    /// Sizes of the IDE disks in 512-byte sectors (index 0-3: primary master, primary slave, …).
    pub disks: [Option<u64>; 4],
    /// MAC addresses of the e1000 cards.
    pub nics: alloc::vec::Vec<[u8; 6]>,
    /// How many UARTs (1-4).
    pub uarts: u8,
}

/// All chips and the wires between them.
#[derive(Serialize, Deserialize)]
pub struct Board {
    outputs: VecDeque<Output>,
    signal: Option<Signal>,
}

impl Board {
    /// The board after power-on.
    pub fn new(_config: &BoardConfig, _ram: &mut Ram) -> Self {
        Self { outputs: VecDeque::new(), signal: None }
    }

    /// Hard reset: every chip to its power-on state; what the outside has in flight is forgotten.
    pub fn reset(&mut self, _ram: &mut Ram, _now: VirtualNs) {
        self.signal = None;
    }

    /// Reads `size` (1, 2 or 4) bytes from `port`; absent devices read as ones.
    pub fn port_read(&mut self, _ram: &mut Ram, _now: VirtualNs, _port: u16, _size: u8) -> u32 {
        u32::MAX
    }

    /// Writes the low `size` (1, 2 or 4) bytes of `value` to `port`.
    pub fn port_write(
        &mut self,
        _ram: &mut Ram,
        _now: VirtualNs,
        port: u16,
        _size: u8,
        value: u32,
    ) {
        match port {
            0xE9 => self.outputs.push_back(Output::Debug(value as u8)),
            0xF4 => self.signal = Some(Signal::DebugExit(value)),
            _ => {}
        }
    }

    /// Reads `size` (1, 2, 4 or 8) bytes at the physical address `pa`, which no memory backs.
    pub fn mmio_read(&mut self, _ram: &mut Ram, _now: VirtualNs, _pa: u64, _size: u8) -> u64 {
        u64::MAX
    }

    /// Writes the low `size` (1, 2, 4 or 8) bytes of `value` at `pa`, which no memory backs.
    pub fn mmio_write(
        &mut self,
        _ram: &mut Ram,
        _now: VirtualNs,
        _pa: u64,
        _size: u8,
        _value: u64,
    ) {
    }

    /// Takes an input from outside; DMA happens here. (ClockRate and Entropy are the CPU's and do
    /// not come here.)
    pub fn input(&mut self, _ram: &mut Ram, _now: VirtualNs, _input: Input) {}

    /// The next virtual time at which [`Board::advance`] must be called, if any.
    pub fn deadline(&self) -> Option<VirtualNs> {
        None
    }

    /// Lets every timer that is due by `now` fire.
    pub fn advance(&mut self, _ram: &mut Ram, _now: VirtualNs) {}

    /// Whether INTR is asserted to the CPU: a LAPIC vector above TPR, or ExtINT from the PIC.
    pub fn interrupt_pending(&self) -> bool {
        false
    }

    /// The interrupt-acknowledge cycle: the vector to deliver (LAPIC first, else PIC). `None` if
    /// the request went away.
    pub fn acknowledge_interrupt(&mut self, _now: VirtualNs) -> Option<u8> {
        None
    }

    /// Takes a pending NMI (LAPIC LINT1 or NMI delivery mode), if any.
    pub fn take_nmi(&mut self) -> bool {
        false
    }

    /// The task-priority class for CR8 (TPR bits 7:4).
    pub fn cr8(&self) -> u8 {
        0
    }

    /// Writes CR8 (TPR bits 7:4).
    pub fn set_cr8(&mut self, _now: VirtualNs, _class: u8) {}

    /// RDMSR of an MSR that belongs to the board (IA32_APIC_BASE 1Bh, IA32_TSC_DEADLINE 6E0h);
    /// `None`: not the board's.
    pub fn read_msr(&mut self, _now: VirtualNs, _msr: u32) -> Option<u64> {
        None
    }

    /// WRMSR of the same; `None`: not the board's; `Some(false)`: reserved bits, #GP.
    /// `tsc_offset` is guest TSC minus virtual nanoseconds (the TSC runs at 1 GHz).
    pub fn write_msr(
        &mut self,
        _now: VirtualNs,
        _msr: u32,
        _value: u64,
        _tsc_offset: u64,
    ) -> Option<bool> {
        None
    }

    /// State of the A20 gate: false masks address bit 20.
    pub fn a20(&self) -> bool {
        true
    }

    /// FERR#: an unmasked x87 exception with CR0.NE clear raises IRQ 13.
    pub fn set_ferr(&mut self, _now: VirtualNs, _level: bool) {}

    /// Takes what the board asks of the machine.
    pub fn take_signal(&mut self) -> Option<Signal> {
        self.signal.take()
    }

    /// Whether a signal waits.
    #[inline(always)]
    pub fn has_signal(&self) -> bool {
        self.signal.is_some()
    }

    /// Takes the oldest output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether an output waits.
    #[inline(always)]
    pub fn has_output(&self) -> bool {
        !self.outputs.is_empty()
    }
}
