//! The PIIX bus master: its registers and the walk of physical region descriptors.
//!
//! Contract: 82371SB section 2.7 and the Bus Master IDE programming interface 1.0. Descriptors are
//! fetched when they are needed; each moves at least two bytes, so a walk is bounded by the data.
//! The engine stops (Active clears) at the end of the table, on a master abort, or when software
//! clears the start bit; a table longer than the data leaves it active.

use crate::ram::{Backing, Ram};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// BMICOM: start.
const START: u8 = 1 << 0;
/// BMICOM: the transfer goes to memory.
const TO_MEMORY: u8 = 1 << 3;
/// BMISTA: the engine runs.
const ACTIVE: u8 = 1 << 0;
/// BMISTA: a memory access was aborted.
const ERROR: u8 = 1 << 1;
/// BMISTA: the drive has raised its interrupt.
const INTERRUPT: u8 = 1 << 2;
/// BMISTA: drive DMA capable, for software.
const CAPABLE: u8 = 3 << 5;

/// End of table, in a descriptor's second double word.
const EOT: u32 = 1 << 31;

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ToMemory,
    FromMemory,
}

/// The registers of one channel.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct BusMaster {
    command: u8,
    status: u8,
    /// BMIDTP.
    table: u32,
    /// The next descriptor.
    next: u32,
    /// What is left of the current region.
    region: u32,
    region_len: u32,
    /// The current region is the table's last.
    last: bool,
}

impl BusMaster {
    pub(super) fn read(&self, register: u8) -> u8 {
        match register {
            0 => self.command,
            2 => self.status,
            4..=7 => self.table.to_le_bytes()[usize::from(register - 4)],
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, register: u8, value: u8) {
        match register {
            0 => self.write_command(value),
            2 => {
                let cleared = value & (ERROR | INTERRUPT);
                self.status = self.status & !cleared & !CAPABLE | value & CAPABLE;
            }
            4..=7 => {
                let shift = 8 * u32::from(register - 4);
                let table = self.table & !(0xFF << shift) | u32::from(value) << shift;
                self.table = table & !3;
            }
            _ => {}
        }
    }

    fn write_command(&mut self, value: u8) {
        let was = self.command & START;
        if was == 0 || value & START == 0 {
            self.command = value & (START | TO_MEMORY);
        }
        if value & START == 0 {
            self.status &= !ACTIVE;
        } else if was == 0 {
            self.status |= ACTIVE;
            self.next = self.table;
            self.region_len = 0;
            self.last = false;
        }
    }

    /// The drive's interrupt line rose.
    pub(super) fn interrupt_raised(&mut self) {
        self.status |= INTERRUPT;
    }

    /// Whether the engine runs in this direction.
    pub(super) fn runs(&self, direction: Direction) -> bool {
        let to_memory = self.command & TO_MEMORY != 0;
        self.status & ACTIVE != 0 && to_memory == (direction == Direction::ToMemory)
    }

    /// Moves `data` to memory and returns how many bytes went.
    pub(super) fn store(&mut self, ram: &mut Ram, data: &[u8]) -> usize {
        let mut done = 0;
        while done < data.len() && self.region_ready(ram) {
            let len = (self.region_len as usize).min(data.len() - done);
            ram.dma_write(u64::from(self.region), &data[done..done + len]);
            done += len;
            self.advance(len);
        }
        self.finish();
        done
    }

    /// Moves bytes from memory to the end of `data` until it holds `total`.
    pub(super) fn fetch(&mut self, ram: &Ram, data: &mut Vec<u8>, total: usize) {
        while data.len() < total && self.region_ready(ram) {
            let at = data.len();
            let len = (self.region_len as usize).min(total - at);
            data.resize(at + len, 0);
            ram.dma_read(u64::from(self.region), &mut data[at..]);
            self.advance(len);
        }
        self.finish();
    }

    /// Makes the current region hold at least a byte of memory; false when the engine stops.
    fn region_ready(&mut self, ram: &Ram) -> bool {
        if self.region_len == 0 {
            if self.last {
                self.status &= !ACTIVE;
                return false;
            }
            if !is_memory(ram, self.next, 8) {
                return self.abort();
            }
            let mut descriptor = [0; 8];
            ram.dma_read(u64::from(self.next), &mut descriptor);
            let [a, b, c, d, e, f, g, h] = descriptor;
            let flags = u32::from_le_bytes([e, f, g, h]);
            self.region = u32::from_le_bytes([a, b, c, d]) & !1;
            self.region_len = match flags & 0xFFFE {
                0 => 0x1_0000,
                len => len,
            };
            self.last = flags & EOT != 0;
            self.next = self.next.wrapping_add(8);
        }
        is_memory(ram, self.region, self.region_len) || self.abort()
    }

    fn abort(&mut self) -> bool {
        self.status = self.status & !ACTIVE | ERROR;
        false
    }

    fn advance(&mut self, len: usize) {
        self.region = self.region.wrapping_add(len as u32);
        self.region_len = self.region_len.saturating_sub(len as u32);
    }

    /// The engine stops by itself when the table ends with the data.
    fn finish(&mut self) {
        if self.region_len == 0 && self.last {
            self.status &= !ACTIVE;
        }
    }
}

/// Whether `len` (at most 64 KiB) bytes at `pa` are memory: nothing else on the bus takes DMA, and
/// no hole is small enough to hide inside.
fn is_memory(ram: &Ram, pa: u32, len: u32) -> bool {
    let last = u64::from(pa) + u64::from(len.max(1)) - 1;
    ram.backing(u64::from(pa)) != Backing::Mmio && ram.backing(last) != Backing::Mmio
}
