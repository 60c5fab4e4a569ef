//! The 8254 interval timer at ports 40h-43h, and port 61h, which gates channel 2.
//!
//! Contract: a channel is a closed function of time since its count was loaded, so nothing happens
//! per tick. Channel 0's edges are taken lazily with [`Pit8254::sync`]; whoever can observe them
//! asks [`Pit8254::next_edge`] for the time of the next one.

use crate::time::VirtualNs;
use serde::{Deserialize, Serialize};

/// Input clock of the three channels.
pub const HZ: u64 = 1_193_182;

/// Which bytes of a count the guest reads and writes (RW1, RW0 of the control word).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Access {
    Low = 1,
    High = 2,
    Both = 3,
}

/// What the counting element does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Counting {
    /// No count since the control word, or no trigger yet. The counting element holds this value.
    Idle(u32),
    /// Loaded at this tick (or to be loaded at it, if it is still to come).
    Since(u64),
    /// GATE is low: this many ticks had passed since loading.
    Held(u64),
}

/// One channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Channel {
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
    /// Count that waits for the end of the period (modes 2, 3) or for a trigger (modes 1, 5).
    next: Option<u32>,
    counting: Counting,
}

impl Channel {
    fn new(gate: bool) -> Self {
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
            counting: Counting::Idle(0),
        }
    }

    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 65_536 }
    }

    fn periodic(&self) -> bool {
        self.mode == 2 || self.mode == 3
    }

    /// Puts a count that waits for the end of the period in force if that has come.
    fn settle(&mut self, tick: u64) {
        if let (Some(next), Counting::Since(start)) = (self.next, self.counting)
            && self.periodic()
            && tick >= start + u64::from(self.count)
        {
            self.counting = Counting::Since(start + u64::from(self.count));
            self.count = next;
            self.next = None;
        }
    }

    /// Ticks since the count was loaded; `None` before that.
    fn elapsed(&self, tick: u64) -> Option<u64> {
        match self.counting {
            Counting::Idle(_) => None,
            Counting::Since(start) => tick.checked_sub(start),
            Counting::Held(elapsed) => Some(elapsed),
        }
    }

    fn output(&self, tick: u64) -> bool {
        let n = u64::from(self.count);
        let held = matches!(self.counting, Counting::Held(_));
        let Some(elapsed) = self.elapsed(tick) else { return self.mode != 0 };
        match self.mode {
            0 | 1 => elapsed >= n,
            // A count of 1 is not allowed in modes 2 and 3: the output stays high.
            2 => held || n == 1 || elapsed % n != n - 1,
            3 => held || elapsed % n < n.div_ceil(2),
            _ => elapsed != n,
        }
    }

    /// The first tick after `tick` at which the output changes, and whether it rises.
    fn next_edge(&self, tick: u64) -> Option<(u64, bool)> {
        let Counting::Since(start) = self.counting else { return None };
        let n = u64::from(self.count);
        let first = |edges: [(u64, bool); 2]| {
            let mut later = edges.iter().filter(|(at, _)| *at > tick);
            later.next().copied()
        };
        match self.mode {
            0 => first([(start + n, true), (start + n, true)]),
            1 => first([(start, false), (start + n, true)]),
            4 | 5 => first([(start + n, false), (start + n + 1, true)]),
            _ if n == 1 => None,
            _ => {
                let low = if self.mode == 2 { n - 1 } else { n.div_ceil(2) };
                let cycle = tick.checked_sub(start).map_or(0, |elapsed| elapsed / n);
                let base = start + cycle * n;
                first([(base + low, false), (base + n, true)])
            }
        }
    }

    /// The counting element as binary.
    fn element(&self, tick: u64) -> u32 {
        let Some(elapsed) = self.elapsed(tick) else {
            return if let Counting::Idle(value) = self.counting { value } else { self.count };
        };
        let n = u64::from(self.count);
        let left = match self.mode {
            2 => n - elapsed % n,
            3 => {
                let half = n.div_ceil(2);
                let phase = elapsed % n;
                let in_half = if phase < half { phase } else { phase - half };
                n - n % 2 - 2 * in_half
            }
            _ => {
                let modulus = u64::from(self.modulus());
                (n + modulus - elapsed % modulus) % modulus
            }
        };
        left as u32 % self.modulus()
    }

    fn read_back(&self, tick: u64) -> u16 {
        let value = self.element(tick) as u16;
        if !self.bcd {
            return value;
        }
        (value % 10)
            | ((value / 10 % 10) << 4)
            | (value / 100 % 10) << 8
            | (value / 1000 % 10) << 12
    }

    fn status(&self, tick: u64) -> u8 {
        let to_come = matches!(self.counting, Counting::Since(start) if tick < start);
        let null = to_come || self.next.is_some() || matches!(self.counting, Counting::Idle(_));
        u8::from(self.output(tick)) << 7
            | u8::from(null) << 6
            | (self.access as u8) << 4
            | self.mode << 1
            | u8::from(self.bcd)
    }

    fn write_control(&mut self, tick: u64, value: u8) {
        let access = match value >> 4 & 3 {
            0 => {
                if self.latched_count.is_none() {
                    self.latched_count = Some(self.read_back(tick));
                }
                return;
            }
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
        self.counting = Counting::Idle(element % self.modulus());
    }

    fn write_count(&mut self, tick: u64, value: u8) {
        let raw = match (self.access, self.low_byte) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::Both, None) => {
                self.low_byte = Some(value);
                if self.mode == 0 {
                    // The first byte stops counting and takes OUT low.
                    self.counting = Counting::Idle(self.element(tick));
                }
                return;
            }
            (Access::Both, Some(low)) => u16::from(value) << 8 | u16::from(low),
        };
        self.low_byte = None;
        let count = if self.bcd {
            let digit = |n: u16| u32::from(raw >> (4 * n) & 0xF);
            (digit(3) * 1000 + digit(2) * 100 + digit(1) * 10 + digit(0)) % 10_000
        } else {
            u32::from(raw)
        };
        self.load(tick, if count == 0 { self.modulus() } else { count });
    }

    fn load(&mut self, tick: u64, count: u32) {
        let counts_now = matches!(self.counting, Counting::Since(start) if tick >= start);
        match self.mode {
            1 | 5 => self.next = Some(count),
            // A forbidden count of 1 has no period whose end could be waited for.
            2 | 3 if counts_now && self.count > 1 => self.next = Some(count),
            _ => {
                self.count = count;
                self.next = None;
                self.counting =
                    if self.gate { Counting::Since(tick + 1) } else { Counting::Held(0) };
            }
        }
    }

    fn set_gate(&mut self, tick: u64, gate: bool) {
        if self.gate == gate {
            return;
        }
        self.gate = gate;
        match (self.mode, gate, self.counting) {
            (1 | 5, true, _) => {
                if let Some(next) = self.next.take() {
                    self.count = next;
                } else if matches!(self.counting, Counting::Idle(_)) {
                    return;
                }
                self.counting = Counting::Since(tick + 1);
            }
            (0 | 2 | 3 | 4, false, Counting::Since(start)) => {
                self.counting = Counting::Held(tick.saturating_sub(start));
            }
            (0 | 4, true, Counting::Held(elapsed)) if elapsed > 0 && elapsed <= tick => {
                self.counting = Counting::Since(tick - elapsed);
            }
            (0 | 2 | 3 | 4, true, Counting::Held(_)) => {
                if let Some(next) = self.next.take() {
                    self.count = next;
                }
                self.counting = Counting::Since(tick + 1);
            }
            _ => {}
        }
    }

    fn read(&mut self, tick: u64) -> u8 {
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

/// What channel 0 did since it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edges {
    /// OUT rose at least once.
    pub rose: bool,
    /// Level of OUT now.
    pub level: bool,
}

/// The timer and the speaker gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pit8254 {
    channels: [Channel; 3],
    /// Port 61h bits 3:0: gate 2, speaker data, parity and channel-check masks.
    port_61: u8,
    /// Tick and level of channel 0's output at the last [`Pit8254::sync`].
    synced: u64,
    level: bool,
}

impl Default for Pit8254 {
    fn default() -> Self {
        Self {
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            port_61: 0,
            synced: 0,
            level: true,
        }
    }
}

/// Ticks between refresh requests of the classic AT: 15.085 microseconds.
const REFRESH_TICKS: u64 = 18;

impl Pit8254 {
    /// Looks at channel 0's output: must come before any access that changes it.
    pub fn sync(&mut self, now: VirtualNs) -> Edges {
        let tick = now.ticks(HZ);
        let edges = self.edges_until(tick);
        self.channels[0].settle(tick);
        self.synced = tick;
        self.level = edges.level;
        edges
    }

    fn edges_until(&self, tick: u64) -> Edges {
        let mut channel = self.channels[0].clone();
        let mut rose = false;
        // At most: one edge, the end of a period that puts a new count in force, and one more.
        let mut at = self.synced;
        for _ in 0..4 {
            match channel.next_edge(at) {
                Some((edge, rises)) if edge <= tick => {
                    rose |= rises;
                    at = edge;
                    channel.settle(at);
                }
                _ => break,
            }
        }
        channel.settle(tick);
        let level = channel.output(tick);
        Edges { rose: rose || (level && !self.level), level }
    }

    /// When channel 0's output next rises, or, if `falls_too`, next changes.
    pub fn next_edge(&self, falls_too: bool) -> Option<VirtualNs> {
        let mut channel = self.channels[0].clone();
        let (mut at, mut rises) = channel.next_edge(self.synced)?;
        if !rises && !falls_too {
            channel.settle(at);
            (at, rises) = channel.next_edge(at)?;
        }
        (rises || falls_too).then(|| VirtualNs::of_tick(at, HZ))
    }

    /// Reads port 40h-43h or 61h.
    pub fn read(&mut self, now: VirtualNs, port: u16) -> u8 {
        let tick = now.ticks(HZ);
        match port {
            0x40..=0x42 => {
                let channel = &mut self.channels[usize::from(port - 0x40)];
                channel.settle(tick);
                channel.read(tick)
            }
            0x61 => {
                self.channels[2].settle(tick);
                let refresh = (tick / REFRESH_TICKS) & 1;
                let out = self.channels[2].output(tick);
                self.port_61 | (refresh as u8) << 4 | u8::from(out) << 5
            }
            // The control register cannot be read (8254, Read Operations).
            _ => 0xFF,
        }
    }

    /// Writes port 40h-43h or 61h.
    pub fn write(&mut self, now: VirtualNs, port: u16, value: u8) {
        let tick = now.ticks(HZ);
        for channel in &mut self.channels {
            channel.settle(tick);
        }
        match port {
            0x40..=0x42 => self.channels[usize::from(port - 0x40)].write_count(tick, value),
            0x43 if value >> 6 == 3 => self.write_read_back(tick, value),
            0x43 => self.channels[usize::from(value >> 6)].write_control(tick, value),
            0x61 => {
                self.port_61 = value & 0x0F;
                self.channels[2].set_gate(tick, value & 1 != 0);
            }
            _ => {}
        }
    }

    fn write_read_back(&mut self, tick: u64, value: u8) {
        for (n, channel) in self.channels.iter_mut().enumerate() {
            if value & (2 << n) == 0 {
                continue;
            }
            if value & 0x20 == 0 && channel.latched_count.is_none() {
                channel.latched_count = Some(channel.read_back(tick));
            }
            if value & 0x10 == 0 && channel.latched_status.is_none() {
                channel.latched_status = Some(channel.status(tick));
            }
        }
    }
}
