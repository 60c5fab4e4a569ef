//! The board: wires chips to the port, memory and interrupt lines, and to the outside.
//!
//! Contract: the CPU calls in with the current virtual time; chips never see the bus. After every
//! call that can change an interrupt line or a deadline the CPU asks
//! [`Board::interrupt_pending`] and [`Board::deadline`] again.

mod pci;
mod ports;
#[cfg(test)]
mod properties;
mod sections;
#[cfg(test)]
mod tests;
mod wires;

use crate::ide::Ide;
use crate::io::{Input, Output, PowerInput};
use crate::net::e1000::E1000;
use crate::pc::acpi_pm::AcpiPm;
use crate::pc::dma8237::Dma8237;
use crate::pc::i8042::I8042;
use crate::pc::ioapic::{self, IoApic};
use crate::pc::lapic::Lapic;
use crate::pc::pic8259::Pic8259;
use crate::pc::pit8254::Pit8254;
use crate::pc::rtc_cmos::RtcCmos;
use crate::pc::uart16550::Uart16550;
use crate::pc::vga::{TextScreen, Vga};
use crate::pci::{Bus, functions};
use crate::ram::{self, Ram};
use crate::time::VirtualNs;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use wires::IsaLines;

const MSR_APIC_BASE: u32 = 0x1B;
const MSR_TSC_DEADLINE: u32 = 0x6E0;

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
    pic: Pic8259,
    pit: Pit8254,
    rtc: RtcCmos,
    uarts: Vec<Uart16550>,
    lapic: Lapic,
    ioapic: IoApic,
    i8042: I8042,
    dma: Dma8237,
    pm: AcpiPm,
    vga: Vga,
    pci: Bus,
    ide: Ide,
    nics: Vec<E1000>,
    isa: IsaLines,
    /// The FERR# latch.
    ferr: bool,
    /// Port 92h.
    port_92: u8,
    /// Port CF9h.
    reset_control: u8,
    outputs: VecDeque<Output>,
    signal: Option<Signal>,
    /// INTR to the CPU.
    intr: bool,
    deadline: Option<VirtualNs>,
}

impl Board {
    /// The board after power-on.
    pub fn new(config: &BoardConfig, ram: &mut Ram) -> Self {
        let nics = config.nics.iter().take(functions::NICS_MAX).enumerate();
        let nics: Vec<_> = nics.map(|(n, &mac)| E1000::new(n as u8, mac)).collect();
        let mut board = Self {
            pic: Pic8259::default(),
            pit: Pit8254::default(),
            rtc: RtcCmos::new(ram.size(), ram.size().min(ram::HOLE)),
            uarts: vec![Uart16550::default(); usize::from(config.uarts.min(4))],
            lapic: Lapic::default(),
            ioapic: IoApic::default(),
            i8042: I8042::default(),
            dma: Dma8237::default(),
            pm: AcpiPm::default(),
            vga: Vga::default(),
            pci: functions::standard_bus(nics.len()),
            ide: Ide::new(&config.disks),
            nics,
            isa: IsaLines::default(),
            ferr: false,
            port_92: 0,
            reset_control: 0,
            outputs: VecDeque::new(),
            signal: None,
            intr: false,
            deadline: None,
        };
        board.settle(VirtualNs(0));
        board
    }

    /// Whether this could have become of `Board::new(config)`: for state that comes from outside.
    pub fn has(&self, config: &BoardConfig) -> bool {
        self.uarts.len() == usize::from(config.uarts.min(4))
            && self.nics.len() == config.nics.len().min(functions::NICS_MAX)
            && self.ide.has(&config.disks)
    }

    /// Hard reset: every chip to its power-on state; what the outside has in flight is forgotten.
    /// The clock keeps the time, and its memory.
    pub fn reset(&mut self, ram: &mut Ram, now: VirtualNs) {
        self.pic = Pic8259::default();
        self.pit = Pit8254::default();
        self.rtc.reset(now);
        self.uarts.fill(Uart16550::default());
        self.lapic = Lapic::default();
        self.ioapic = IoApic::default();
        self.i8042 = I8042::default();
        self.dma = Dma8237::default();
        self.pm.reset(now);
        self.vga = Vga::default();
        self.pci.reset();
        self.ide.reset();
        self.nics.iter_mut().for_each(E1000::reset);
        self.isa = IsaLines::default();
        self.ferr = false;
        self.port_92 = 0;
        self.reset_control = 0;
        self.signal = None;
        ram.shadow_rom();
        self.sync_pit(now);
        self.settle(now);
    }

    /// Reads `size` (1, 2 or 4) bytes from `port`; absent devices read as ones.
    pub fn port_read(&mut self, ram: &mut Ram, now: VirtualNs, port: u16, size: u8) -> u32 {
        self.advance(ram, now);
        if let Some(value) = self.ide_data_read(now, port, size) {
            return value;
        }
        let value = self.decode_read(ram, now, port, size);
        self.settle(now);
        value
    }

    /// Writes the low `size` (1, 2 or 4) bytes of `value` to `port`.
    pub fn port_write(&mut self, ram: &mut Ram, now: VirtualNs, port: u16, size: u8, value: u32) {
        self.advance(ram, now);
        if self.ide_data_write(ram, now, port, (size, value)) {
            return;
        }
        self.decode_write(ram, now, port, size, value);
        self.settle(now);
    }

    /// Reads `size` (1, 2, 4 or 8) bytes at the physical address `pa`, which no memory backs.
    pub fn mmio_read(&mut self, ram: &mut Ram, now: VirtualNs, pa: u64, size: u8) -> u64 {
        self.advance(ram, now);
        let offset = pa & 0xFFF;
        if self.lapic.page() == Some(pa - offset) {
            let value = lanes_read(offset, size, |at| self.lapic.read(now, at & !0xF));
            self.settle(now);
            return value;
        }
        if pa - offset == ioapic::BASE {
            return lanes_read(offset, size, |at| self.ioapic.read(at));
        }
        if ram::VGA.contains(&pa) {
            return (0..u64::from(size))
                .fold(0, |value, n| value | u64::from(self.vga.read_memory(pa + n)) << (8 * n));
        }
        self.nic_read(now, pa, size).unwrap_or(u64::MAX)
    }

    /// Writes the low `size` (1, 2, 4 or 8) bytes of `value` at `pa`, which no memory backs.
    pub fn mmio_write(&mut self, ram: &mut Ram, now: VirtualNs, pa: u64, size: u8, value: u64) {
        self.advance(ram, now);
        if ram::VGA.contains(&pa) {
            for (n, byte) in value.to_le_bytes().into_iter().take(usize::from(size)).enumerate() {
                self.vga.write_memory(pa + n as u64, byte);
            }
            return;
        }
        let offset = pa & 0xFFF;
        if self.lapic.page() == Some(pa - offset) {
            // Narrower accesses are undefined (SDM 3A 11.4.1) and ignored.
            if size >= 4 && offset & 0xF == 0 {
                self.lapic.write(now, offset, value as u32);
            }
        } else if pa - offset == ioapic::BASE {
            if offset & 0xF == 0 {
                self.sync_pit(now);
                self.ioapic.write(offset, value as u32);
            }
        } else {
            self.nic_write(ram, now, pa, (size, value));
            return;
        }
        self.settle(now);
    }

    /// Takes an input from outside; DMA happens here. (ClockRate and Entropy are the CPU's and do
    /// not come here.)
    pub fn input(&mut self, ram: &mut Ram, now: VirtualNs, input: Input) {
        self.advance(ram, now);
        match input {
            Input::ConsoleRx { port, bytes } => {
                if let Some(uart) = self.uarts.get_mut(usize::from(port)) {
                    uart.input(now, &bytes);
                }
            }
            Input::NetRx { nic, frame } => {
                if let Some(nic) = self.nics.get_mut(usize::from(nic)) {
                    nic.receive(ram, now, frame);
                    self.wire_pci();
                }
            }
            Input::DiskDone { disk, request, result } => {
                self.ide.disk_done(ram, &mut self.outputs, disk, request, result);
            }
            Input::Key(codes) => {
                self.i8042.keys(&codes);
                self.i8042.load();
            }
            Input::Pointer { dx, dy, buttons } => {
                self.i8042.pointer(dx, dy, buttons);
                self.i8042.load();
            }
            Input::Power(PowerInput::Button) => self.pm.press_power_button(),
            Input::Power(PowerInput::Reset) => self.signal = Some(Signal::Reset),
            Input::Power(PowerInput::Off) => self.signal = Some(Signal::PowerOff),
            Input::WallClock(unix_ns) => self.rtc.set_wall_clock(now, unix_ns),
            Input::ClockRate(_) | Input::Entropy(_) => {}
        }
        self.settle(now);
    }

    /// The next virtual time at which [`Board::advance`] must be called, if any.
    #[inline(always)]
    pub fn deadline(&self) -> Option<VirtualNs> {
        self.deadline
    }

    /// Lets every timer that is due by `now` fire; without one does nothing.
    #[inline]
    pub fn advance(&mut self, ram: &mut Ram, now: VirtualNs) {
        if self.deadline.is_some_and(|at| at <= now) {
            self.advance_nics(ram, now);
            self.fire(now);
        }
    }

    /// Lets all timers fire but the network cards', which move data and need the RAM.
    fn fire(&mut self, now: VirtualNs) {
        self.lapic.advance(now);
        self.rtc.advance(now);
        self.pm.advance(now);
        for uart in &mut self.uarts {
            uart.advance(now);
        }
        if self.pit_deadline().is_some_and(|at| at <= now) {
            self.sync_pit(now);
        }
        self.wire();
        self.set_deadline();
    }

    /// Brings wires and deadline up to date after an access.
    fn settle(&mut self, now: VirtualNs) {
        self.wire();
        self.set_deadline();
        if self.deadline.is_some_and(|at| at <= now) {
            self.fire(now);
        }
    }

    fn set_deadline(&mut self) {
        let mut deadline = VirtualNs::earlier(self.lapic.deadline(), self.rtc.deadline());
        deadline = VirtualNs::earlier(deadline, self.pm.deadline());
        deadline = VirtualNs::earlier(deadline, self.pit_deadline());
        for uart in &self.uarts {
            deadline = VirtualNs::earlier(deadline, uart.deadline());
        }
        for nic in &self.nics {
            deadline = VirtualNs::earlier(deadline, nic.deadline());
        }
        self.deadline = deadline;
    }

    /// Whether INTR is asserted to the CPU: a LAPIC vector above TPR, or ExtINT from the PIC.
    #[inline(always)]
    pub fn interrupt_pending(&self) -> bool {
        self.intr
    }

    /// The interrupt-acknowledge cycle: the vector to deliver (LAPIC first, else PIC). `None` if
    /// the request went away.
    pub fn acknowledge_interrupt(&mut self, now: VirtualNs) -> Option<u8> {
        if !self.intr {
            return None;
        }
        let vector = self.lapic.acknowledge().or_else(|| {
            self.lapic.clear_extint();
            self.pic.acknowledge()
        });
        self.settle(now);
        vector
    }

    /// Takes a pending NMI (LAPIC LINT1 or NMI delivery mode), if any.
    pub fn take_nmi(&mut self) -> bool {
        self.lapic.take_nmi()
    }

    /// Whether an NMI waits.
    #[inline(always)]
    pub fn nmi_pending(&self) -> bool {
        self.lapic.nmi()
    }

    /// The task-priority class for CR8 (TPR bits 7:4).
    pub fn cr8(&self) -> u8 {
        self.lapic.tpr() >> 4
    }

    /// Writes CR8 (TPR bits 7:4).
    pub fn set_cr8(&mut self, now: VirtualNs, class: u8) {
        self.lapic.set_tpr(class << 4);
        self.settle(now);
    }

    /// RDMSR of an MSR that belongs to the board (IA32_APIC_BASE 1Bh, IA32_TSC_DEADLINE 6E0h);
    /// `None`: not the board's.
    pub fn read_msr(&mut self, now: VirtualNs, msr: u32) -> Option<u64> {
        match msr {
            MSR_APIC_BASE => Some(self.lapic.base()),
            MSR_TSC_DEADLINE => Some(self.lapic.tsc_deadline(now)),
            _ => None,
        }
    }

    /// WRMSR of the same; `None`: not the board's; `Some(false)`: reserved bits, #GP.
    /// `tsc_offset` is guest TSC minus virtual nanoseconds (the TSC runs at 1 GHz).
    pub fn write_msr(
        &mut self,
        now: VirtualNs,
        msr: u32,
        value: u64,
        tsc_offset: u64,
    ) -> Option<bool> {
        let valid = match msr {
            MSR_APIC_BASE => self.lapic.set_base(value),
            MSR_TSC_DEADLINE => {
                self.lapic.set_tsc_deadline(now, value, tsc_offset);
                true
            }
            _ => return None,
        };
        self.settle(now);
        Some(valid)
    }

    /// The guest wrote its TSC: `tsc_offset` is the new difference to virtual nanoseconds. An
    /// armed TSC deadline moves with it.
    pub fn tsc_offset_changed(&mut self, now: VirtualNs, tsc_offset: u64) {
        self.lapic.tsc_offset_changed(now, tsc_offset);
        self.settle(now);
    }

    /// State of the A20 gate: false masks address bit 20.
    #[inline(always)]
    pub fn a20(&self) -> bool {
        self.i8042.a20() || self.port_92 & ports::PORT_92_A20 != 0
    }

    /// What the VGA shows, if it is in a text mode.
    pub fn text_screen(&self) -> Option<TextScreen> {
        self.vga.text_screen()
    }

    /// The last power-on self-test code (port 80h).
    pub fn post_code(&self) -> u8 {
        self.dma.post_code()
    }

    /// FERR#: an unmasked x87 exception with CR0.NE clear raises IRQ 13.
    pub fn set_ferr(&mut self, now: VirtualNs, level: bool) {
        self.ferr = level;
        self.settle(now);
    }

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

/// Reads `size` bytes from a window of doubleword registers: those that lie in the first
/// doubleword, zeros beyond.
fn lanes_read(offset: u64, size: u8, read: impl FnOnce(u64) -> u32) -> u64 {
    let value = u64::from(read(offset & !3)) >> (8 * (offset & 3));
    if size >= 8 { value } else { value & ((1 << (8 * u64::from(size))) - 1) }
}
