//! Properties of the whole board under random accesses: nothing panics or hangs, and the state
//! does not depend on how often the board is asked to advance.

use super::*;
use crate::io::DiskResult;
use proptest::prelude::*;

/// What happens to the board.
#[derive(Clone, Debug)]
enum Event {
    PortRead(u16, u8),
    PortWrite(u16, u8, u32),
    MmioRead(u64, u8),
    MmioWrite(u64, u8, u64),
    WriteMsr(u32, u64),
    Acknowledge,
    Cr8(u8),
    Ferr(bool),
    Input(Input),
    /// Time passes.
    Wait(u64),
    Reset,
}

/// Ports that something answers, with a few that nothing does.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        4 => prop::sample::select(vec![
            0x20u16, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70,
            0x71, 0x72, 0x73, 0x80, 0x92, 0xB2, 0xB3, 0xE9, 0xF0, 0xF4, 0xCF8, 0xCF9, 0xCFC,
        ]),
        2 => 0u16..0x100,
        3 => prop::sample::select(vec![0x3F8u16, 0x2F8, 0x3E8, 0x2E8, 0x1F0, 0x170])
            .prop_flat_map(|base| base..base + 8),
        2 => 0x3B0u16..0x3E0,
        2 => 0xB000u16..0xB040,
        1 => any::<u16>(),
    ]
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0u64..0x40).prop_map(|register| 0xFEE0_0000 + register * 16),
        2 => prop::sample::select(vec![0xFEC0_0000u64, 0xFEC0_0010]),
        2 => 0xA_0000u64..0xC_0000,
        1 => 0xFEB0_0000u64..0xFEB0_8000,
        1 => any::<u64>(),
    ]
}

fn size() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![1u8, 2, 4])
}

/// Small numbers, since registers are small, and all others.
fn value() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..0x100, 0u32..0x2000, any::<u32>()]
}

fn input() -> impl Strategy<Value = Input> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let disk_result = prop_oneof![
        bytes().prop_map(DiskResult::Data),
        Just(DiskResult::Done),
        Just(DiskResult::Failed)
    ];
    prop_oneof![
        (0u8..5, bytes()).prop_map(|(port, bytes)| Input::ConsoleRx { port, bytes }),
        (0u8..3, bytes()).prop_map(|(nic, frame)| Input::NetRx { nic, frame }),
        bytes().prop_map(Input::Key),
        any::<(i16, i16, u8)>().prop_map(|(dx, dy, buttons)| Input::Pointer { dx, dy, buttons }),
        (0u8..5, 0u64..4, disk_result).prop_map(|(disk, request, result)| Input::DiskDone {
            disk,
            request,
            result
        }),
        prop::sample::select(vec![PowerInput::Button, PowerInput::Reset, PowerInput::Off])
            .prop_map(Input::Power),
        (0u64..1 << 62).prop_map(Input::WallClock),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (port(), size()).prop_map(|(port, size)| Event::PortRead(port, size)),
        12 => (port(), size(), value()).prop_map(|(port, size, v)| Event::PortWrite(port, size, v)),
        2 => (address(), size()).prop_map(|(pa, size)| Event::MmioRead(pa, size)),
        6 => (address(), prop::sample::select(vec![4u8, 4, 4, 1, 2, 8]), value())
            .prop_map(|(pa, size, v)| Event::MmioWrite(pa, size, v.into())),
        1 => (prop::sample::select(vec![0x1Bu32, 0x6E0, 0x10]), 0u64..20_000_000)
            .prop_map(|(msr, v)| Event::WriteMsr(msr, v)),
        3 => Just(Event::Acknowledge),
        1 => (0u8..16).prop_map(Event::Cr8),
        1 => any::<bool>().prop_map(Event::Ferr),
        2 => input().prop_map(Event::Input),
        8 => (0u64..3_000_000).prop_map(Event::Wait),
        1 => (0u64..20_000_000_000).prop_map(Event::Wait),
        1 => Just(Event::Reset),
    ]
}

struct Rig {
    board: Board,
    ram: Ram,
    now: VirtualNs,
    /// The board's state was made up: time need not go on.
    damaged: bool,
    /// Asks the board to advance so many times between two deadlines as well.
    nagging: u64,
}

impl Rig {
    fn new(nagging: u64) -> Self {
        let mut ram = Ram::new(2 << 20, &[0; 1 << 16]);
        let disks = [Some(2048), None, Some(100), None];
        let nics = vec![[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
        let board = Board::new(&BoardConfig { disks, nics, uarts: 4 }, &mut ram);
        Self { board, ram, now: VirtualNs(0), damaged: false, nagging }
    }

    /// The interrupt controllers and timers in working order, so that random accesses find
    /// something to disturb.
    fn start(&mut self) {
        let ports = [
            (0x20, 0x11),
            (0x21, 0x20),
            (0x21, 4),
            (0x21, 1),
            (0x21, 0),
            (0xA0, 0x11),
            (0xA1, 0x28),
            (0xA1, 2),
            (0xA1, 1),
            (0xA1, 0),
            (0x43, 0x34),
            (0x40, 0x00),
            (0x40, 0x10),
            (0x70, 11),
            (0x71, 0x72),
            (0x64, 0x60),
            (0x60, 0x47),
            (0x3F9, 0x0F),
            (0x3FC, 0x0B),
        ];
        for (port, value) in ports {
            self.board.port_write(&mut self.ram, self.now, port, 1, value);
        }
        for (pa, value) in
            [(0xF0, 0x1FF), (0x350, 0x700), (0x320, 0x2_0040), (0x3E0, 0xB), (0x380, 50_000)]
        {
            self.board.mmio_write(&mut self.ram, self.now, 0xFEE0_0000 + pa, 4, value);
        }
    }

    fn wait(&mut self, ns: u64) {
        let until = self.now.after(ns);
        for _ in 0..2_000 {
            let due = self.board.deadline().filter(|&at| at <= until);
            let next = due.unwrap_or(until);
            let step = (next.0 - self.now.0.min(next.0)) / (self.nagging + 1);
            for n in 1..=self.nagging {
                self.board.advance(&mut self.ram, VirtualNs(self.now.0 + n * step));
            }
            self.now = self.now.max(next);
            if due.is_none() {
                break;
            }
            self.board.advance(&mut self.ram, self.now);
            let after = self.board.deadline();
            let goes_on = after.is_none_or(|at| at > self.now);
            assert!(goes_on || self.damaged, "time stands still: {after:?}");
        }
        // Too many timers for the rest of the time: it passes in one step.
        self.now = until;
        if self.board.deadline().is_some_and(|at| at <= until) || self.nagging > 0 {
            self.board.advance(&mut self.ram, until);
        }
    }

    /// Applies an event; what the guest sees of it.
    fn apply(&mut self, event: &Event) -> u64 {
        let (board, ram, now) = (&mut self.board, &mut self.ram, self.now);
        match event.clone() {
            Event::PortRead(port, size) => return board.port_read(ram, now, port, size).into(),
            Event::PortWrite(port, size, value) => board.port_write(ram, now, port, size, value),
            Event::MmioRead(pa, size) => return board.mmio_read(ram, now, pa, size),
            Event::MmioWrite(pa, size, value) => board.mmio_write(ram, now, pa, size, value),
            Event::WriteMsr(msr, value) => {
                board.write_msr(now, msr, value, 1_000);
                return board.read_msr(now, msr).unwrap_or(0);
            }
            Event::Acknowledge => {
                return u64::from(board.acknowledge_interrupt(now).map_or(0, |v| v + 1));
            }
            Event::Cr8(class) => board.set_cr8(now, class),
            Event::Ferr(level) => board.set_ferr(now, level),
            Event::Input(input) => board.input(ram, now, input),
            Event::Wait(ns) => self.wait(ns),
            Event::Reset => board.reset(ram, now),
        }
        u64::from(self.board.interrupt_pending()) | u64::from(self.board.take_nmi()) << 1
    }

    fn state(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut state = Vec::new();
        self.board.sections(&mut |name, bytes| state.push((name, bytes.to_vec())));
        state
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn state_does_not_depend_on_how_often_the_board_advances(
        events in prop::collection::vec(event(), 1..120),
        nagging in 1u64..4,
        started: bool,
    ) {
        let (mut calm, mut nagged) = (Rig::new(0), Rig::new(nagging));
        if started {
            calm.start();
            nagged.start();
        }
        for (n, event) in events.iter().enumerate() {
            let (a, b) = (calm.apply(event), nagged.apply(event));
            prop_assert_eq!(a, b, "event {} {:?}", n, event);
            prop_assert_eq!(calm.state(), nagged.state(), "after event {} {:?}", n, event);
        }
        prop_assert_eq!(calm.board.outputs, nagged.board.outputs);
    }

    #[test]
    fn a_saved_board_goes_on_the_same(
        before in prop::collection::vec(event(), 1..60),
        after in prop::collection::vec(event(), 1..60),
    ) {
        let mut rig = Rig::new(0);
        rig.start();
        for event in &before {
            rig.apply(event);
        }
        let saved = rmp_serde::to_vec(&rig.board).expect("a board serializes");
        let board: Board = rmp_serde::from_slice(&saved).expect("and reads back");
        let mut ram = Ram::new(2 << 20, &[0; 1 << 16]);
        for page in 0..rig.ram.pages() {
            let bytes = rig.ram.page(page).try_into().expect("a page");
            ram.load_page(page, bytes);
        }
        ram.set_shadow_writable(rig.ram.shadow_writable());
        let mut copy = Rig { board, ram, now: rig.now, damaged: false, nagging: 0 };
        for event in &after {
            prop_assert_eq!(rig.apply(event), copy.apply(event), "{:?}", event);
        }
        prop_assert_eq!(rig.state(), copy.state());
    }

    #[test]
    fn a_damaged_board_is_refused_or_runs(
        before in prop::collection::vec(event(), 1..40),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        after in prop::collection::vec(event(), 1..60),
    ) {
        let mut rig = Rig::new(0);
        rig.start();
        for event in &before {
            rig.apply(event);
        }
        let mut saved = rmp_serde::to_vec(&rig.board).expect("a board serializes");
        // The large memories are not interesting: damage what is before and behind.
        let small = saved.len() - (1 << 18);
        for (at, byte) in damage {
            let at = at.index(small);
            let at = if at < small / 2 { at } else { at + (1 << 18) };
            saved[at] = byte;
        }
        if let Ok(board) = rmp_serde::from_slice(&saved) {
            rig.board = board;
            rig.damaged = true;
            for event in &after {
                rig.apply(event);
            }
        }
    }
}
