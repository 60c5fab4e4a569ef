//! The 8254 interval timer at ports 40h-43h, and port 61h, which gates channel 2.
//!
//! Contract: a channel is a closed function of time since its count was loaded, so nothing happens
//! per tick. Channel 0's edges are taken lazily with [`Pit8254::sync`]; whoever can observe them
//! asks [`Pit8254::next_edge`] for the time of the next one.

mod channel;
#[cfg(test)]
mod tests;

use crate::time::VirtualNs;
use channel::Channel;
use serde::{Deserialize, Serialize};

/// Input clock of the three channels.
pub const HZ: u64 = 1_193_182;

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
    synced: i64,
    level: bool,
    /// When it next changes and when it next rises.
    next_change: Option<VirtualNs>,
    next_rise: Option<VirtualNs>,
}

impl Default for Pit8254 {
    fn default() -> Self {
        Self {
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            port_61: 0,
            synced: 0,
            level: true,
            next_change: None,
            next_rise: None,
        }
    }
}

/// Ticks between refresh requests of the classic AT: 15.085 microseconds.
const REFRESH_TICKS: i64 = 18;

fn tick_at(now: VirtualNs) -> i64 {
    now.ticks(HZ) as i64
}

impl Pit8254 {
    /// Looks at channel 0's output: must come before any access that changes it.
    pub fn sync(&mut self, now: VirtualNs) -> Edges {
        let tick = tick_at(now);
        let edges = self.edges_until(tick);
        self.channels[0].settle(tick);
        self.synced = tick;
        self.level = edges.level;
        self.find_next_edges();
        edges
    }

    fn edges_until(&self, tick: i64) -> Edges {
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
    #[inline]
    pub fn next_edge(&self, falls_too: bool) -> Option<VirtualNs> {
        if falls_too { self.next_change } else { self.next_rise }
    }

    fn find_next_edges(&mut self) {
        let time = |at: i64| VirtualNs::of_tick(at.max(0) as u64, HZ);
        let first = self.channels[0].next_edge(self.synced);
        self.next_change = first.map(|(at, _)| time(at));
        self.next_rise = match first {
            Some((fall, false)) => {
                let mut channel = self.channels[0].clone();
                channel.settle(fall);
                channel.next_edge(fall).map(|(at, _)| time(at))
            }
            _ => self.next_change,
        };
    }

    /// Reads port 40h-43h or 61h.
    pub fn read(&mut self, now: VirtualNs, port: u16) -> u8 {
        let tick = tick_at(now);
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
        let tick = tick_at(now);
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

    fn write_read_back(&mut self, tick: i64, value: u8) {
        for (n, channel) in self.channels.iter_mut().enumerate() {
            if value & (2 << n) == 0 {
                continue;
            }
            if value & 0x20 == 0 {
                channel.latch_count(tick);
            }
            if value & 0x10 == 0 {
                channel.latch_status(tick);
            }
        }
    }
}
