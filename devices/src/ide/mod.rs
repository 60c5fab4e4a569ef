//! The PIIX3 IDE interface: two channels of two drives, and the bus master.
//!
//! Contract: registers in, data through [`Ram`] and [`Output`]; ports, PCI gating and interrupt
//! lines are the board's. Medium accesses leave as [`Output::Disk`] and come back through
//! [`Ide::disk_done`]; until then the drive is busy. Read data enters guest memory only in
//! `disk_done` or when the guest starts the bus master; write data is copied out when the bus
//! master runs, or at the end of a PIO block. A drive has one request in flight; a completion that
//! it does not wait for is ignored.

mod bus_master;
mod channel;
mod commands;
mod drive;
mod identify;
#[cfg(test)]
mod tests;

use crate::io::{DiskOperation, DiskResult, Output};
use crate::ram::Ram;
use alloc::collections::VecDeque;
use channel::Channel;
use serde::{Deserialize, Serialize};

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 512;

/// Where drives leave their requests.
pub(crate) struct Requests<'a> {
    next: &'a mut u64,
    outputs: &'a mut VecDeque<Output>,
}

impl Requests<'_> {
    fn submit(&mut self, disk: u8, operation: DiskOperation) -> u64 {
        let request = *self.next;
        *self.next = request.wrapping_add(1);
        self.outputs.push_back(Output::Disk { disk, request, operation });
        request
    }
}

/// Both channels.
#[derive(Serialize, Deserialize)]
pub struct Ide {
    channels: [Channel; 2],
    /// Number of the next disk request; never reset.
    next_request: u64,
    /// The PCI function may be a bus master.
    master: bool,
}

impl Ide {
    /// Drives of the given sizes in sectors (primary master, primary slave, secondary …) after
    /// power-on.
    pub fn new(disks: &[Option<u64>; 4]) -> Self {
        let channel = |n: u8| Channel::new(n * 2, disks[n as usize * 2], disks[n as usize * 2 + 1]);
        Self { channels: [channel(0), channel(1)], next_request: 1, master: false }
    }

    /// Whether these are its drives: sizes in sectors.
    pub fn has(&self, disks: &[Option<u64>; 4]) -> bool {
        let drives = self.channels.iter().flat_map(Channel::disks);
        let numbered = |(size, n): (Option<u64>, u8)| size.map(|sectors| (n, sectors));
        drives.eq(disks.iter().copied().zip(0..4).map(numbered))
    }

    /// RST#: drives and bus master to their power-on state; requests in flight are forgotten.
    pub fn reset(&mut self) {
        self.master = false;
        for channel in &mut self.channels {
            channel.reset();
        }
    }

    /// Reads `size` bytes from command block register `register` (0-7).
    pub fn command_read(&mut self, channel: usize, register: u8, size: u8) -> u32 {
        self.channels[channel & 1].command_read(register, size)
    }

    /// Writes `size` bytes to command block register `register` (0-7).
    pub fn command_write(
        &mut self,
        ram: &mut Ram,
        outputs: &mut VecDeque<Output>,
        channel: usize,
        (register, size): (u8, u8),
        value: u32,
    ) {
        let mut requests = Requests { next: &mut self.next_request, outputs };
        let channel = &mut self.channels[channel & 1];
        channel.command_write(register, size, value, &mut requests);
        channel.transfer(ram, self.master, &mut requests);
    }

    /// Ends the selected drive's interrupt request, as a command does, and says whether there was
    /// one.
    pub fn acknowledge(&mut self, channel: usize) -> bool {
        self.channels[channel & 1].acknowledge()
    }

    /// Reads the alternate status register.
    pub fn alternate_status(&self, channel: usize) -> u8 {
        self.channels[channel & 1].alternate_status()
    }

    /// Writes the device control register.
    pub fn device_control(&mut self, channel: usize, value: u8) {
        self.channels[channel & 1].device_control(value);
    }

    /// Reads `size` bytes at `offset` (0-15) of the bus master registers.
    pub fn bus_master_read(&self, offset: u8, size: u8) -> u32 {
        (0..size.min(4)).fold(0, |value, n| {
            let at = offset.wrapping_add(n) & 0x0F;
            let byte = self.channels[usize::from(at >> 3)].bus_master.read(at & 7);
            value | u32::from(byte) << (8 * n)
        })
    }

    /// Writes `size` bytes at `offset` (0-15) of the bus master registers.
    pub fn bus_master_write(
        &mut self,
        ram: &mut Ram,
        outputs: &mut VecDeque<Output>,
        (offset, size): (u8, u8),
        value: u32,
    ) {
        let mut requests = Requests { next: &mut self.next_request, outputs };
        for n in 0..size.min(4) {
            let at = offset.wrapping_add(n) & 0x0F;
            let channel = &mut self.channels[usize::from(at >> 3)];
            channel.bus_master.write(at & 7, (value >> (8 * n)) as u8);
            channel.transfer(ram, self.master, &mut requests);
        }
    }

    /// Sets whether the PCI function may be a bus master.
    pub fn set_master(&mut self, ram: &mut Ram, outputs: &mut VecDeque<Output>, master: bool) {
        self.master = master;
        let mut requests = Requests { next: &mut self.next_request, outputs };
        for channel in &mut self.channels {
            channel.transfer(ram, master, &mut requests);
        }
    }

    /// Takes the completion of a disk request.
    pub fn disk_done(
        &mut self,
        ram: &mut Ram,
        outputs: &mut VecDeque<Output>,
        disk: u8,
        request: u64,
        result: DiskResult,
    ) {
        let Some(channel) = self.channels.get_mut(usize::from(disk >> 1)) else { return };
        let mut requests = Requests { next: &mut self.next_request, outputs };
        channel.disk_done(usize::from(disk & 1), request, result);
        channel.transfer(ram, self.master, &mut requests);
    }

    /// The level of a channel's interrupt line.
    pub fn interrupt(&self, channel: usize) -> bool {
        self.channels[channel & 1].interrupt()
    }
}
