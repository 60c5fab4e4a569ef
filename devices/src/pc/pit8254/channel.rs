//! One channel of the 8254: six modes as functions of the ticks since the count was loaded.
//!
//! Contract: `tick` never goes back from call to call. A tick is a falling edge of CLK; what is
//! written at a tick is loaded at the next.

use serde::{Deserialize, Serialize};

/// Which bytes of a count the guest reads and writes (RW1, RW0 of the control word).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Access {
    Low = 1,
    High = 2,
    Both = 3,
}

/// What the counting element does. Times are in ticks; a start may lie before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Counting {
    /// No count since the control word, or no trigger yet.
    Idle,
    /// The current count began at this tick (or will at it, if it is still to come).
    Since(i64),
    /// GATE is low: so many ticks had been counted.
    Held(i64),
}

/// A count that waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Next {
    count: u32,
    /// The end of the period, or half period in mode 3; `None`: a trigger.
    at: Option<i64>,
}

/// One channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Channel {
    mode: u8,
    bcd: bool,
    access: Access,
    gate: bool,
    /// Low byte of a two-byte count, once written.
    low_byte: Option<u8>,
    read_high_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
    /// Count in force, 1-65536.
    count: u32,
    next: Option<Next>,
    counting: Counting,
    /// When the counting element is, or was last, loaded from outside of a period; before that it
    /// holds `element_before` and OUT is `level_before`.
    loaded: i64,
    /// Until then the status says that a written count has not been loaded.
    null_until: i64,
    element_before: u32,
    level_before: bool,
}

impl Channel {
    pub(super) fn new(gate: bool) -> Self {
        Self {
            mode: 3,
            bcd: false,
            access: Access::Both,
            gate,
            low_byte: None,
            read_high_next: false,
            latched_count: None,
            latched_status: None,
            count: 65_536,
            next: None,
            counting: Counting::Idle,
            loaded: 0,
            null_until: 0,
            element_before: 0,
            level_before: true,
        }
    }

    fn modulus(&self) -> i64 {
        if self.bcd { 10_000 } else { 65_536 }
    }

    fn n(&self) -> i64 {
        i64::from(self.count.max(1))
    }

    /// Ticks of a period before OUT falls.
    fn high_ticks(&self) -> i64 {
        if self.mode == 2 { self.n() - 1 } else { (self.n() + 1) / 2 }
    }

    /// Puts a count that waits for the end of the period in force if that has come.
    pub(super) fn settle(&mut self, tick: i64) {
        let (Some(Next { count, at: Some(at) }), Counting::Since(start)) =
            (self.next, self.counting)
        else {
            return;
        };
        if tick >= at {
            let at_end = (at - start) % self.n() == 0;
            self.count = count;
            self.next = None;
            let start = if at_end { at } else { at - self.high_ticks() };
            self.counting = Counting::Since(start);
        }
    }

    /// Ticks counted since the count was loaded; `None` before that.
    fn elapsed(&self, tick: i64) -> Option<i64> {
        match self.counting {
            _ if tick < self.loaded => None,
            Counting::Idle => None,
            Counting::Since(start) => Some(tick - start),
            Counting::Held(elapsed) => Some(elapsed),
        }
    }

    pub(super) fn output(&self, tick: i64) -> bool {
        let n = self.n();
        let held = matches!(self.counting, Counting::Held(_));
        let Some(elapsed) = self.elapsed(tick) else { return self.level_before };
        match self.mode {
            0 | 1 => elapsed >= n,
            // A count of 1 is not allowed in modes 2 and 3: the output stays high.
            2 | 3 => held || n == 1 || elapsed % n < self.high_ticks(),
            _ => elapsed != n,
        }
    }

    /// The first tick after `tick` at which the output changes, and whether it rises.
    pub(super) fn next_edge(&self, tick: i64) -> Option<(i64, bool)> {
        let Counting::Since(start) = self.counting else { return None };
        let n = self.n();
        let first = |edges: [(i64, bool); 2]| {
            let mut later = edges.iter().filter(|(at, _)| *at > tick);
            later.next().copied()
        };
        match self.mode {
            0 => first([(start + n, true), (start + n, true)]),
            1 => first([(start, false), (start + n, true)]),
            4 | 5 => first([(start + n, false), (start + n + 1, true)]),
            _ if n == 1 => None,
            _ => {
                let period = (tick - start).max(0) / n;
                let begun = start + period * n;
                first([(begun + self.high_ticks(), false), (begun + n, true)])
            }
        }
    }

    /// The counting element as binary.
    fn element(&self, tick: i64) -> u32 {
        let n = self.n();
        let Some(elapsed) = self.elapsed(tick) else { return self.element_before };
        let left = match self.mode {
            2 => n - elapsed % n,
            3 => {
                let phase = elapsed % n;
                let high = self.high_ticks();
                let in_half = if phase < high { phase } else { phase - high };
                n - n % 2 - 2 * in_half
            }
            _ => n - elapsed,
        };
        left.rem_euclid(self.modulus()) as u32
    }

    fn read_back(&self, tick: i64) -> u16 {
        let value = self.element(tick) as u16;
        if !self.bcd {
            return value;
        }
        let digit = |power: u16| value / power % 10;
        digit(1000) << 12 | digit(100) << 8 | digit(10) << 4 | digit(1)
    }

    fn status(&self, tick: i64) -> u8 {
        let waits = self.next.is_some() || self.counting == Counting::Idle;
        let null = waits || tick < self.null_until;
        u8::from(self.output(tick)) << 7
            | u8::from(null) << 6
            | (self.access as u8) << 4
            | self.mode << 1
            | u8::from(self.bcd)
    }

    /// Counter latch command.
    pub(super) fn latch_count(&mut self, tick: i64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.read_back(tick));
        }
    }

    /// Status latch of the read-back command.
    pub(super) fn latch_status(&mut self, tick: i64) {
        if self.latched_status.is_none() {
            self.latched_status = Some(self.status(tick));
        }
    }

    pub(super) fn write_control(&mut self, tick: i64, value: u8) {
        let access = match value >> 4 & 3 {
            0 => return self.latch_count(tick),
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        let element = self.element(tick);
        let mode = value >> 1 & 7;
        *self = Self::new(self.gate);
        self.access = access;
        self.mode = if mode > 5 { mode - 4 } else { mode };
        self.bcd = value & 1 != 0;
        self.element_before = i64::from(element).rem_euclid(self.modulus()) as u32;
        self.level_before = self.mode != 0;
    }

    pub(super) fn write_count(&mut self, tick: i64, value: u8) {
        let raw = match (self.access, self.low_byte) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::Both, None) => {
                self.low_byte = Some(value);
                if self.mode == 0 {
                    // The first byte stops counting and takes OUT low.
                    self.element_before = self.element(tick);
                    self.counting = Counting::Idle;
                }
                return;
            }
            (Access::Both, Some(low)) => u16::from(value) << 8 | u16::from(low),
        };
        self.low_byte = None;
        let digit = |n: u16| i64::from(raw >> (4 * n) & 0xF);
        let count = if self.bcd {
            (digit(3) * 1000 + digit(2) * 100 + digit(1) * 10 + digit(0)) % self.modulus()
        } else {
            i64::from(raw)
        };
        self.load(tick, if count == 0 { self.modulus() } else { count } as u32);
    }

    fn load(&mut self, tick: i64, count: u32) {
        let at = match (self.mode, self.counting) {
            (1 | 5, _) => None,
            (2 | 3, Counting::Held(_)) => None,
            // A forbidden count of 1 has no period whose end could be waited for.
            (2 | 3, Counting::Since(start)) if tick >= start && self.count > 1 => {
                if self.mode == 2 {
                    Some(start + ((tick - start) / self.n() + 1) * self.n())
                } else {
                    self.next_edge(tick).map(|(at, _)| at)
                }
            }
            _ => return self.load_at_once(tick, count),
        };
        self.next = Some(Next { count, at });
    }

    /// Loads the counting element at the next tick.
    fn load_at_once(&mut self, tick: i64, count: u32) {
        if tick >= self.loaded {
            self.element_before = self.element(tick);
        }
        self.level_before = self.mode != 0;
        self.count = count;
        self.next = None;
        self.loaded = tick + 1;
        self.null_until = tick + 1;
        self.counting = if self.gate { Counting::Since(tick + 1) } else { Counting::Held(0) };
    }

    pub(super) fn set_gate(&mut self, tick: i64, gate: bool) {
        if self.gate == gate {
            return;
        }
        self.gate = gate;
        match (self.mode, gate, self.counting) {
            (0 | 2 | 3 | 4, false, Counting::Since(start)) => {
                if let Some(next) = &mut self.next {
                    next.at = None;
                }
                self.counting = Counting::Held((tick - start).max(0));
            }
            (0 | 4, true, Counting::Held(elapsed)) => {
                self.counting = Counting::Since(tick.max(self.loaded) - elapsed);
            }
            (1 | 5, true, _) | (2 | 3, true, Counting::Held(_)) => self.trigger(tick),
            _ => {}
        }
    }

    /// A rising GATE: (re)loads the counting element at the next tick.
    fn trigger(&mut self, tick: i64) {
        let level = self.output(tick);
        self.element_before = self.element(tick);
        if let Some(next) = self.next.take() {
            self.count = next.count;
            self.null_until = tick + 1;
        } else if self.counting == Counting::Idle {
            return;
        }
        self.level_before = level;
        self.loaded = tick + 1;
        self.counting = Counting::Since(tick + 1);
    }

    pub(super) fn read(&mut self, tick: i64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let count = self.latched_count.unwrap_or_else(|| self.read_back(tick));
        let high = match self.access {
            Access::Low => false,
            Access::High => true,
            Access::Both => {
                self.read_high_next = !self.read_high_next;
                !self.read_high_next
            }
        };
        if !self.read_high_next {
            self.latched_count = None;
        }
        if high { (count >> 8) as u8 } else { count as u8 }
    }
}
