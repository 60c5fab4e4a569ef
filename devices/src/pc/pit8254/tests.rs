//! The closed forms against a model that steps from clock to clock, as the datasheet tells it.

use super::*;
use alloc::vec::Vec;

/// Channel 2 with its gate, one CLK at a time; binary counts written in full.
struct Model {
    mode: u8,
    gate: bool,
    out: bool,
    element: i64,
    /// CR, once a count was written.
    count: Option<i64>,
    /// The counting element is loaded at the next CLK.
    load: bool,
    loaded: bool,
    /// Modes 0, 1, 4, 5: zero has not been reached since loading.
    armed: bool,
    /// The count of the running period (mode 3).
    current: i64,
    null: bool,
}

impl Model {
    fn control(&mut self, mode: u8) {
        self.mode = mode;
        self.out = mode != 0;
        self.count = None;
        self.load = false;
        self.loaded = false;
        self.armed = false;
        self.null = true;
    }

    fn count(&mut self, count: i64) {
        let count = if count == 0 { 65_536 } else { count };
        let first = self.count.replace(count).is_none();
        self.null = true;
        match self.mode {
            0 => {
                self.out = false;
                self.load = true;
            }
            4 => {
                self.load = true;
                self.out = true;
            }
            2 | 3 => self.load |= first,
            _ => {}
        }
    }

    fn set_gate(&mut self, gate: bool) {
        let rises = gate && !self.gate;
        self.gate = gate;
        if matches!(self.mode, 2 | 3) && !gate && self.loaded {
            self.out = true;
        }
        if rises && self.count.is_some() && matches!(self.mode, 1 | 2 | 3 | 5) {
            self.load = true;
        }
    }

    fn reload(&mut self) {
        let count = self.count.expect("written");
        self.current = count;
        self.element = if self.mode == 3 { count - count % 2 } else { count };
        self.null = false;
    }

    fn clock(&mut self) {
        if self.load {
            self.load = false;
            self.loaded = true;
            self.armed = true;
            self.reload();
            match self.mode {
                1 => self.out = false,
                2..=5 => self.out = true,
                _ => {}
            }
            return;
        }
        let counts = self.gate || matches!(self.mode, 1 | 5);
        if !self.loaded || !counts {
            return;
        }
        match self.mode {
            2 => {
                self.element -= 1;
                self.out = self.element != 1;
                if self.element == 0 {
                    self.out = true;
                    self.reload();
                }
            }
            3 => {
                self.element -= 2;
                // An odd count's high half lasts a clock longer.
                let over = if self.out && self.current % 2 == 1 { -2 } else { 0 };
                if self.element == over {
                    self.out = !self.out;
                    self.reload();
                }
            }
            _ => {
                self.element = (self.element - 1).rem_euclid(65_536);
                let zero = self.element == 0 && self.armed;
                self.armed &= !zero;
                self.out = match self.mode {
                    0 | 1 => self.out || zero,
                    _ => !zero,
                };
            }
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % n
    }
}

fn at(tick: u64) -> VirtualNs {
    VirtualNs::of_tick(tick, HZ)
}

/// (element, status) of channel 2 by the read-back command.
fn read_back(pit: &mut Pit8254, tick: u64) -> (u16, u8) {
    pit.write(at(tick), 0x43, 0xC8);
    let status = pit.read(at(tick), 0x42);
    (u16::from_le_bytes([pit.read(at(tick), 0x42), pit.read(at(tick), 0x42)]), status)
}

#[test]
fn all_modes_agree_with_the_model() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut pit = Pit8254::default();
        let mut model = Model {
            mode: 3,
            gate: false,
            out: true,
            element: 0,
            count: None,
            load: false,
            loaded: false,
            armed: false,
            current: 0,
            null: true,
        };
        let mut history = Vec::new();
        for tick in 1_000..2_500 {
            model.clock();
            let event = random.below(60);
            if event == 0 {
                let mode = random.below(6) as u8;
                history.push((tick, "mode", u64::from(mode)));
                pit.write(at(tick), 0x43, 0xB0 | mode << 1);
                model.control(mode);
            } else if event < 4 {
                let range = [3, 20, 300][random.below(3) as usize];
                let count = 2 + random.below(range);
                history.push((tick, "count", count));
                pit.write(at(tick), 0x42, count as u8);
                pit.write(at(tick), 0x42, (count >> 8) as u8);
                model.count(count as i64);
            } else if event < 7 {
                history.push((tick, "gate", event & 1));
                pit.write(at(tick), 0x61, event as u8 & 1);
                model.set_gate(event & 1 != 0);
            }
            if model.loaded {
                let (element, status) = read_back(&mut pit, tick);
                let expected = (model.element as u16, model.out, model.null);
                let got = (element, status & 0x80 != 0, status & 0x40 != 0);
                assert_eq!(got, expected, "seed {seed} tick {tick} {history:?}");
            }
        }
    }
}

#[test]
fn channel_0_edges_are_those_of_its_output() {
    for (control, count) in
        [(0x30, 5), (0x34, 2), (0x34, 7), (0x36, 2), (0x36, 7), (0x36, 8), (0x38, 5), (0x34, 1)]
    {
        let mut pit = Pit8254::default();
        pit.write(at(10), 0x43, control);
        pit.write(at(10), 0x40, count);
        pit.write(at(10), 0x40, 0);
        pit.sync(at(10));
        let mut eager = pit.clone();
        let mut level = eager.sync(at(10)).level;
        let mut rises = Vec::new();
        for tick in 11..60 {
            let out = eager.channels[0].output(tick);
            if out != level {
                assert_eq!(eager.next_edge(true), Some(at(tick as u64)), "{control:X}");
                if out {
                    rises.push(tick);
                }
                eager.sync(at(tick as u64));
            }
            level = out;
        }
        // Looked at only now and then, the same edges are found.
        let mut lazy = pit.clone();
        for tick in (11..60).step_by(6) {
            let edges = lazy.sync(at(tick as u64));
            let expected = rises.iter().any(|rise| (tick - 5..=tick).contains(rise));
            assert_eq!(edges.rose, expected, "{control:X} {count} {tick}");
        }
        let mut waiting = pit.clone();
        let mut found = Vec::new();
        while let Some(due) = waiting.next_edge(false)
            && due < at(60)
        {
            assert!(waiting.sync(due).rose);
            found.push(tick_at(due));
        }
        assert_eq!(found, rises, "{control:X} {count}");
    }
}

#[test]
fn a_new_count_waits_for_the_end_of_the_period() {
    let mut pit = Pit8254::default();
    for value in [0x34, 100, 0] {
        pit.write(at(0), if value == 0x34 { 0x43 } else { 0x40 }, value);
    }
    pit.sync(at(0));
    pit.sync(at(1_050));
    pit.write(at(1_050), 0x40, 10);
    pit.write(at(1_050), 0x40, 0);
    pit.sync(at(1_050));
    let mut edges = Vec::new();
    for _ in 0..3 {
        let due = pit.next_edge(false).expect("periodic");
        pit.sync(due);
        edges.push(tick_at(due));
    }
    assert_eq!(edges, [1_101, 1_111, 1_121]);
}

#[test]
fn access_modes_latches_and_bcd() {
    let mut pit = Pit8254::default();
    // High byte only: 5 x 256.
    pit.write(at(0), 0x43, 0x60);
    pit.write(at(0), 0x41, 5);
    assert_eq!(pit.read(at(2), 0x41), 0x04, "5FFh - 100h");
    // BCD 1000, one tick after loading 999.
    pit.write(at(10), 0x43, 0x71);
    pit.write(at(10), 0x41, 0x00);
    pit.write(at(10), 0x41, 0x10);
    pit.write(at(12), 0x43, 0x40);
    pit.write(at(15), 0x43, 0x40);
    assert_eq!((pit.read(at(20), 0x41), pit.read(at(20), 0x41)), (0x99, 0x09));
    pit.write(at(20), 0x43, 0xE4);
    assert_eq!(pit.read(at(20), 0x41), 0x31, "status: low, counting, two bytes, mode 0, BCD");
    pit.write(at(1_011), 0x43, 0xE4);
    assert_eq!(pit.read(at(1_011), 0x41), 0xB1);
    assert_eq!(pit.read(at(1_012), 0x41), 0x99, "it wraps to 9999");
    assert_eq!(pit.read(at(0), 0x43), 0xFF);
}

#[test]
fn port_61() {
    let mut pit = Pit8254::default();
    pit.write(at(0), 0x43, 0xB6);
    pit.write(at(0), 0x42, 100);
    pit.write(at(0), 0x42, 0);
    pit.write(at(0), 0x61, 0xFF);
    assert_eq!(pit.read(at(1), 0x61), 0x2F);
    assert_eq!(pit.read(at(51), 0x61) & 0x2F, 0x0F);
    assert_eq!(pit.read(at(101), 0x61) & 0x2F, 0x2F);
    pit.write(at(160), 0x61, 0);
    assert_eq!(pit.read(at(160), 0x61) & 0x2F, 0x20, "gate low: output high");
    let toggles = (0..1000)
        .filter(|&n| (pit.read(at(200 + n), 0x61) ^ pit.read(at(201 + n), 0x61)) & 0x10 != 0);
    assert_eq!(toggles.count(), 1000 / 18);
}
