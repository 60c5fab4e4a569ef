//! The interrupt wires of the board: chips to PIC and I/O APIC, those to the local APIC and CPU.
//!
//! Contract: ISA interrupt `n` goes to PIC input `n` and I/O APIC pin `n`; the PIT's to pin 2. PCI
//! interrupts arrive on ISA lines by the ISA bridge's routing. Lines are asserted or not; their
//! polarity is not modelled.

use super::Board;
use crate::pci::functions;
use crate::time::VirtualNs;
use serde::{Deserialize, Serialize};

/// Who pulls at an ISA interrupt line; the lines are wired-OR, so each keeps its own word: chips
/// with a line of their own; COM3 and COM4, which share the lines of COM1 and COM2; PCI by the ISA
/// bridge's routing; SCI.
const SOURCES: usize = 4;
const PCI: usize = 2;
/// ISA interrupt lines.
const IRQ_TIMER: u8 = 0;
const IRQ_KEYBOARD: u16 = 1;
const IRQ_COM2: u16 = 3;
const IRQ_COM1: u16 = 4;
const IRQ_RTC: u16 = 8;
const IRQ_SCI: u16 = 9;
const IRQ_MOUSE: u16 = 12;
const IRQ_FERR: u16 = 13;
const IRQ_IDE: u16 = 14;
/// The I/O APIC pin of the PIT.
const PIN_TIMER: u8 = 2;

/// Levels of the ISA interrupt lines, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IsaLines {
    by_source: [u16; SOURCES],
    asserted: u16,
}

impl Board {
    /// Takes the lines of every source; the PCI ones are those of the last [`Board::wire_pci`].
    fn set_isa_lines(&mut self, by_source: [u16; SOURCES]) {
        if by_source == self.isa.by_source {
            return;
        }
        self.isa.by_source = by_source;
        let asserted = by_source.into_iter().fold(0, |all, lines| all | lines);
        let mut changed = asserted ^ self.isa.asserted;
        self.isa.asserted = asserted;
        while changed != 0 {
            let irq = changed.trailing_zeros() as u8;
            changed &= changed - 1;
            self.set_irq(irq, asserted >> irq & 1 != 0);
        }
    }

    fn set_irq(&mut self, irq: u8, level: bool) {
        self.pic.set_line(irq, level);
        match irq {
            IRQ_TIMER => self.ioapic.set_line(PIN_TIMER, level),
            PIN_TIMER => {}
            _ => self.ioapic.set_line(irq, level),
        }
    }

    /// Takes the lines of the chips on the ISA bus.
    pub(super) fn wire_isa(&mut self) {
        let rtc = self.rtc.irq();
        if rtc && self.isa.asserted & 1 << IRQ_RTC == 0 {
            self.pm.rtc_alarm();
        }
        let uart = |n: usize| u16::from(self.uarts.get(n).is_some_and(|uart| uart.irq()));
        let second = uart(2) << IRQ_COM1 | uart(3) << IRQ_COM2;
        let isa = uart(0) << IRQ_COM1
            | uart(1) << IRQ_COM2
            | u16::from(self.i8042.keyboard_irq()) << IRQ_KEYBOARD
            | u16::from(self.i8042.mouse_irq()) << IRQ_MOUSE
            | u16::from(rtc) << IRQ_RTC
            | u16::from(self.ferr) << IRQ_FERR
            | u16::from(self.ide.interrupt(0)) << IRQ_IDE
            | u16::from(self.ide.interrupt(1)) << (IRQ_IDE + 1);
        let sci = u16::from(self.pm.sci()) << IRQ_SCI;
        let pci = self.isa.by_source[PCI];
        self.set_isa_lines([isa, second, pci, sci]);
    }

    /// Takes the network cards' interrupt pins through PIRQA-PIRQD. Comes after everything that
    /// changes a pin.
    pub(super) fn wire_pci(&mut self) {
        let mut changed = false;
        for (n, nic) in self.nics.iter().enumerate() {
            changed |= self.pci.set_interrupt(functions::nic(n as u8), nic.interrupt());
        }
        if changed {
            self.route_pci();
        }
    }

    /// Takes PIRQA-PIRQD to the ISA lines.
    pub(super) fn route_pci(&mut self) {
        let mut by_source = self.isa.by_source;
        by_source[PCI] = self.pci.isa_interrupts();
        self.set_isa_lines(by_source);
    }

    /// Takes what the PIT's channel 0 did since the last time. Comes before and after each access
    /// to the PIT, and before each access that shows or hides its interrupt.
    pub(super) fn sync_pit(&mut self, now: VirtualNs) {
        let edges = self.pit.sync(now);
        if edges.rose {
            self.set_irq(IRQ_TIMER, false);
            self.set_irq(IRQ_TIMER, true);
        }
        self.set_irq(IRQ_TIMER, edges.level);
    }

    /// When the PIT's interrupt line next does something that anybody can see.
    pub(super) fn pit_deadline(&self) -> Option<VirtualNs> {
        let to_pic = self.pic.unmasked(IRQ_TIMER);
        let to_ioapic = self.ioapic.unmasked(PIN_TIMER);
        if !to_pic && !to_ioapic {
            return None;
        }
        // A falling edge withdraws a request.
        let falls_too = to_pic && self.pic.requested(IRQ_TIMER)
            || to_ioapic && self.ioapic.level_triggered(PIN_TIMER);
        self.pit.next_edge(falls_too)
    }

    /// Carries levels and messages from chip to chip until the CPU sees them.
    pub(super) fn wire(&mut self) {
        self.wire_isa();
        let events = self.lapic.take_events();
        if let Some(vector) = events.eoi {
            self.ioapic.end_of_interrupt(vector);
        }
        self.ioapic.service(|message| self.lapic.deliver(message));
        self.lapic.set_lint0(self.pic.intr());
        if self.lapic.take_events().init || events.init {
            self.signal = Some(super::Signal::Init);
        }
        let pic = self.pic.intr() && self.lapic.lint0_is_extint();
        self.intr = self.lapic.intr() || pic || self.lapic.extint();
    }
}
