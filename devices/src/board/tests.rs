//! What only shows when the chips are wired.

use super::*;
use crate::pc::pit8254;

const LAPIC: u64 = 0xFEE0_0000;
const IOAPIC: u64 = 0xFEC0_0000;

struct Pc {
    board: Board,
    ram: Ram,
    now: VirtualNs,
}

impl Pc {
    fn new() -> Self {
        let mut ram = Ram::new(4 << 20, &[0; 1 << 16]);
        let config = BoardConfig { disks: [None; 4], nics: Vec::new(), uarts: 4 };
        let board = Board::new(&config, &mut ram);
        Self { board, ram, now: VirtualNs(0) }
    }

    fn out(&mut self, port: u16, value: u32) {
        self.board.port_write(&mut self.ram, self.now, port, 1, value);
    }

    fn read(&mut self, port: u16) -> u32 {
        self.board.port_read(&mut self.ram, self.now, port, 1)
    }

    fn poke(&mut self, pa: u64, value: u32) {
        self.board.mmio_write(&mut self.ram, self.now, pa, 4, value.into());
    }

    fn peek(&mut self, pa: u64) -> u32 {
        self.board.mmio_read(&mut self.ram, self.now, pa, 4) as u32
    }

    /// Lets time pass to the next deadline.
    fn wait(&mut self) -> VirtualNs {
        self.now = self.board.deadline().expect("a timer runs");
        self.board.advance(&mut self.ram, self.now);
        assert!(self.board.deadline().is_none_or(|next| next > self.now));
        self.now
    }

    /// PICs at vectors 20h and 28h with these masks.
    fn start_pics(&mut self, masks: [u32; 2]) {
        for (port, base, cascade, mask) in [(0x20, 0x20, 4, masks[0]), (0xA0, 0x28, 2, masks[1])] {
            self.out(port, 0x11);
            for value in [base, cascade, 1, mask] {
                self.out(port + 1, value);
            }
        }
    }

    /// LAPIC software-enabled, LINT0 as virtual wire.
    fn start_lapic(&mut self) {
        self.poke(LAPIC + 0xF0, 0x1FF);
        self.poke(LAPIC + 0x350, 0x700);
    }

    fn redirect(&mut self, pin: u32, low: u32) {
        for (register, value) in [(0x11 + 2 * pin, 0), (0x10 + 2 * pin, low)] {
            self.poke(IOAPIC, register);
            self.poke(IOAPIC + 0x10, value);
        }
    }

    /// Channel 0 in mode 2 with this count.
    fn start_pit(&mut self, count: u32) {
        for (port, value) in [(0x43, 0x34), (0x40, count & 0xFF), (0x40, count >> 8)] {
            self.out(port, value);
        }
    }

    fn acknowledge(&mut self) -> Option<u8> {
        self.board.acknowledge_interrupt(self.now)
    }
}

#[test]
fn ticks_go_through_pic_and_virtual_wire() {
    let mut pc = Pc::new();
    pc.start_pics([0xFE, 0xFF]);
    pc.start_pit(1193);
    let first = pc.wait();
    assert_eq!(first, VirtualNs::of_tick(1194, pit8254::HZ));
    assert!(!pc.board.interrupt_pending(), "LINT0 is masked after reset");
    pc.start_lapic();
    assert!(pc.board.interrupt_pending());
    assert_eq!(pc.acknowledge(), Some(0x20));
    assert_eq!(pc.acknowledge(), None);
    pc.out(0x20, 0x20);
    assert_eq!(pc.wait(), VirtualNs::of_tick(1194 + 1193, pit8254::HZ));
    assert_eq!(pc.acknowledge(), Some(0x20));
}

#[test]
fn a_masked_pit_needs_no_deadline_and_is_found_requested() {
    let mut pc = Pc::new();
    pc.start_pics([0xFF, 0xFF]);
    pc.start_lapic();
    pc.start_pit(1193);
    assert_eq!(pc.board.deadline(), None);
    pc.now = VirtualNs(5_100_000);
    pc.out(0x20, 0x0A);
    assert_eq!(pc.read(0x20) & 1, 1);
    pc.out(0x21, 0xFE);
    assert_eq!(pc.acknowledge(), Some(0x20));
}

#[test]
fn ticks_go_to_ioapic_pin_2_and_lapic() {
    let mut pc = Pc::new();
    pc.start_pics([0xFF, 0xFF]);
    pc.start_lapic();
    pc.start_pit(100);
    pc.redirect(2, 0x30);
    for _ in 0..3 {
        pc.wait();
        assert_eq!(pc.acknowledge(), Some(0x30));
        assert!(!pc.board.interrupt_pending());
        pc.poke(LAPIC + 0xB0, 0);
    }
}

#[test]
fn level_interrupts_come_again_until_the_device_is_served() {
    let mut pc = Pc::new();
    pc.start_lapic();
    pc.redirect(8, 0x8041);
    for (port, value) in [(0x70, 11), (0x71, 0x12)] {
        pc.out(port, value);
    }
    pc.wait();
    for _ in 0..2 {
        assert_eq!(pc.acknowledge(), Some(0x41));
        assert_eq!(pc.acknowledge(), None);
        pc.poke(LAPIC + 0xB0, 0);
    }
    assert_eq!(pc.acknowledge(), Some(0x41));
    pc.out(0x70, 12);
    assert_eq!(pc.read(0x71), 0x90 | 0x40);
    pc.poke(LAPIC + 0xB0, 0);
    assert!(!pc.board.interrupt_pending());
}

#[test]
fn tsc_deadline_and_priorities() {
    let mut pc = Pc::new();
    pc.start_lapic();
    pc.poke(LAPIC + 0x320, 0x4_0050);
    let offset = 1_000_u64.wrapping_neg();
    assert_eq!(pc.board.write_msr(pc.now, 0x6E0, 500, offset), Some(true));
    assert_eq!(pc.board.read_msr(pc.now, 0x6E0), Some(0));
    assert_eq!(pc.board.deadline(), None, "the TSC is far beyond");
    assert_eq!(pc.acknowledge(), Some(0x50));
    pc.poke(LAPIC + 0xB0, 0);
    pc.now = VirtualNs(2_000);
    pc.board.write_msr(pc.now, 0x6E0, 1_500, offset);
    assert_eq!(pc.wait(), VirtualNs(2_500));
    assert_eq!(pc.board.read_msr(pc.now, 0x6E0), Some(0));
    pc.board.set_cr8(pc.now, 5);
    assert!(!pc.board.interrupt_pending());
    assert_eq!((pc.peek(LAPIC + 0x80), pc.board.cr8()), (0x50, 5));
    pc.board.set_cr8(pc.now, 4);
    assert_eq!(pc.acknowledge(), Some(0x50));
    assert_eq!(pc.peek(LAPIC + 0xA0), 0x50);
    pc.poke(LAPIC + 0x300, 0x4_0040);
    assert!(!pc.board.interrupt_pending(), "a self IPI of lower priority");
    pc.poke(LAPIC + 0xB0, 0);
    assert_eq!(pc.acknowledge(), None, "CR8 is 4");
    pc.board.set_cr8(pc.now, 0);
    assert_eq!(pc.acknowledge(), Some(0x40));
}

#[test]
fn serial_output_is_one_output_and_thre_pulses() {
    let mut pc = Pc::new();
    pc.start_pics([0xEF, 0xFF]);
    pc.start_lapic();
    pc.out(0x3FC, 0x0B);
    pc.out(0x3F9, 0x02);
    for byte in b"hi!" {
        assert_eq!(pc.acknowledge(), Some(0x24));
        pc.out(0x20, 0x20);
        pc.out(0x3F8, u32::from(*byte));
    }
    assert_eq!(pc.acknowledge(), Some(0x24));
    let bytes = b"hi!".to_vec();
    assert_eq!(pc.board.poll_output(), Some(Output::ConsoleTx { port: 0, bytes }));
    assert!(!pc.board.has_output());
}

#[test]
fn signals() {
    for (port, values, expected) in [
        (0xF4, &[0x31][..], Some(Signal::DebugExit(0x31))),
        (0x92, &[0x02, 0x03], Some(Signal::Init)),
        (0x92, &[0x02], None),
        (0xCF9, &[0x02, 0x06], Some(Signal::Reset)),
        (0xCF9, &[0x04], Some(Signal::Init)),
        (0xCF9, &[0x02], None),
    ] {
        let mut pc = Pc::new();
        for &value in values {
            pc.out(port, value);
        }
        assert_eq!(pc.board.has_signal(), expected.is_some());
        assert_eq!(pc.board.take_signal(), expected, "{port:X} {values:X?}");
    }
    for (input, expected) in
        [(PowerInput::Reset, Signal::Reset), (PowerInput::Off, Signal::PowerOff)]
    {
        let mut pc = Pc::new();
        pc.board.input(&mut pc.ram, VirtualNs(1), Input::Power(input));
        assert_eq!(pc.board.take_signal(), Some(expected));
    }
}

#[test]
fn apic_base() {
    let mut pc = Pc::new();
    let mut base = |value| pc.board.write_msr(VirtualNs(0), 0x1B, value, 0);
    assert_eq!(base(0xFEE0_0D00), Some(false), "x2APIC is not there");
    assert_eq!(base(1 << 40), Some(false));
    assert_eq!(base(0xFED0_0800), Some(true));
    assert_eq!(pc.board.read_msr(VirtualNs(0), 0x1B), Some(0xFED0_0900));
    assert_eq!(pc.peek(0xFED0_0030), 0x0005_0014);
    assert_eq!(pc.peek(LAPIC + 0x30), u32::MAX);
    pc.board.write_msr(VirtualNs(0), 0x1B, 0xFEE0_0000, 0);
    assert_eq!(pc.peek(LAPIC + 0x30), u32::MAX);
    pc.start_pics([0xFE, 0xFF]);
    pc.start_pit(10);
    pc.wait();
    assert_eq!(pc.acknowledge(), Some(0x20), "without APIC the PIC is wired to the CPU");
}
