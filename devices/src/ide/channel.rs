//! One IDE channel: two drives on a cable, and their bus master.
//!
//! Contract: both drives take register writes; the selected one answers and drives INTRQ. Drive 0
//! answers for an absent drive 1 with a status of 0; with no drive to answer, the bus floats with
//! DD7 pulled down (ATA/ATAPI-6 section 9.16.1).

use super::Requests;
use super::bus_master::BusMaster;
use super::drive::{Activity, Drive, status};
use crate::io::DiskResult;
use crate::ram::Ram;
use serde::{Deserialize, Serialize};

/// Device control: reset both drives.
const SRST: u8 = 1 << 2;
/// Device control: drives do not interrupt.
const NIEN: u8 = 1 << 1;
/// Device control: high order byte.
const HOB: u8 = 1 << 7;
/// EXECUTE DEVICE DIAGNOSTIC.
const DIAGNOSTIC: u8 = 0x90;
/// What a byte of the undriven bus reads as.
const FLOATING: u8 = 0x7F;

/// One channel.
#[derive(Serialize, Deserialize)]
pub(super) struct Channel {
    drives: [Option<Drive>; 2],
    /// Device register: bit 4 selects the drive.
    device: u8,
    control: u8,
    pub(super) bus_master: BusMaster,
}

impl Channel {
    /// A channel whose first drive is disk number `first`.
    pub(super) fn new(first: u8, master: Option<u64>, slave: Option<u64>) -> Self {
        let drive = |n: u8, sectors: Option<u64>| sectors.map(|s| Drive::new(first + n, s));
        Self {
            drives: [drive(0, master), drive(1, slave)],
            device: 0,
            control: 0,
            bus_master: BusMaster::default(),
        }
    }

    /// Number and size in sectors of each drive's disk.
    pub(super) fn disks(&self) -> [Option<(u8, u64)>; 2] {
        self.drives.each_ref().map(|drive| drive.as_ref().map(|d| (d.disk, d.sectors)))
    }

    pub(super) fn reset(&mut self) {
        for drive in self.drives.iter_mut().flatten() {
            *drive = Drive::new(drive.disk, drive.sectors);
        }
        self.device = 0;
        self.control = 0;
        self.bus_master = BusMaster::default();
    }

    fn selected(&self) -> usize {
        usize::from(self.device >> 4 & 1)
    }

    fn drive(&mut self) -> Option<&mut Drive> {
        let selected = self.selected();
        self.drives[selected].as_mut()
    }

    pub(super) fn interrupt(&self) -> bool {
        let requested = self.drives[self.selected()].as_ref().is_some_and(|drive| drive.intrq);
        requested && self.control & NIEN == 0
    }

    pub(super) fn acknowledge(&mut self) -> bool {
        self.drive().is_some_and(|drive| core::mem::take(&mut drive.intrq))
    }

    /// Runs `change` and tells the bus master when the interrupt line rises.
    fn watching<T>(&mut self, change: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.interrupt();
        let result = change(self);
        if !before && self.interrupt() {
            self.bus_master.interrupt_raised();
        }
        result
    }

    #[inline]
    pub(super) fn command_read(&mut self, register: u8, size: u8) -> u32 {
        if register == 0 {
            return self.watching(|channel| channel.data_read(size));
        }
        (0..size.min(8 - register.min(7)))
            .fold(0, |value, n| value | u32::from(self.register_read(register + n)) << (8 * n))
    }

    fn data_read(&mut self, size: u8) -> u32 {
        let Some(drive) = self.drive() else { return 0xFF7F_FF7F };
        match size {
            1 => u32::from(drive.read_data() as u8),
            2 => u32::from(drive.read_data()),
            _ => u32::from(drive.read_data()) | u32::from(drive.read_data()) << 16,
        }
    }

    fn register_read(&mut self, register: u8) -> u8 {
        let value = self.register_peek(register);
        if register == 7
            && let Some(drive) = self.drive()
        {
            drive.intrq = false;
        }
        value
    }

    fn register_peek(&self, register: u8) -> u8 {
        if self.control & SRST != 0 && self.drives.iter().any(Option::is_some) {
            return status::BSY;
        }
        let selected = self.selected();
        match (&self.drives[selected], &self.drives[0]) {
            (Some(drive), _) if register == 6 && !drive.busy() => {
                drive.device & 0x4F | 0xA0 | (selected as u8) << 4
            }
            (Some(drive), _) => drive.read_register(register),
            (None, Some(_)) if register == 7 => 0,
            (None, Some(_)) if register == 6 => self.device | 0xA0,
            (None, Some(master)) => master.read_register(register),
            (None, None) => FLOATING,
        }
    }

    pub(super) fn alternate_status(&self) -> u8 {
        self.register_peek(7)
    }

    #[inline]
    pub(super) fn command_write(
        &mut self,
        register: u8,
        size: u8,
        value: u32,
        requests: &mut Requests,
    ) {
        self.watching(|channel| {
            if register == 0 {
                return channel.data_write(size, value, requests);
            }
            for n in 0..size.min(8 - register.min(7)) {
                channel.register_write(register + n, (value >> (8 * n)) as u8, requests);
            }
        });
    }

    fn data_write(&mut self, size: u8, value: u32, requests: &mut Requests) {
        let Some(drive) = self.drive() else { return };
        drive.write_data(value as u16, requests);
        if size == 4 {
            drive.write_data((value >> 16) as u16, requests);
        }
    }

    fn register_write(&mut self, register: u8, value: u8, requests: &mut Requests) {
        if self.control & SRST != 0 {
            return;
        }
        match register {
            7 => self.command(value, requests),
            6 => {
                // The selected drive alone can hold its register against the host.
                if self.drive().is_none_or(|drive| !drive.busy()) {
                    self.device = value;
                    for drive in self.drives.iter_mut().flatten() {
                        drive.device = value;
                        drive.high_order = false;
                    }
                }
            }
            _ => {
                for drive in self.drives.iter_mut().flatten() {
                    drive.write_register(register, value);
                }
            }
        }
    }

    fn command(&mut self, code: u8, requests: &mut Requests) {
        if self.drive().is_some_and(|drive| drive.busy()) {
            return;
        }
        if code == DIAGNOSTIC {
            self.device = 0;
            for drive in self.drives.iter_mut().flatten() {
                drive.stop();
                drive.signature();
                drive.intrq = true;
            }
        } else if let Some(drive) = self.drive() {
            drive.high_order = false;
            drive.command(code, requests);
        }
    }

    pub(super) fn device_control(&mut self, value: u8) {
        self.watching(|channel| {
            let was = core::mem::replace(&mut channel.control, value);
            for drive in channel.drives.iter_mut().flatten() {
                drive.high_order = value & HOB != 0;
                if value & SRST != 0 && was & SRST == 0 {
                    drive.soft_reset();
                }
            }
            if value & SRST != 0 {
                channel.device = 0;
            }
        });
    }

    pub(super) fn disk_done(&mut self, drive: usize, request: u64, result: DiskResult) {
        self.watching(|channel| {
            if let Some(drive) = &mut channel.drives[drive & 1] {
                drive.disk_done(request, result);
            }
        });
    }

    /// Lets the bus master move what the selected drive offers or asks for.
    pub(super) fn transfer(&mut self, ram: &mut Ram, master: bool, requests: &mut Requests) {
        let waits = |drive: &Drive| matches!(drive.activity, Activity::DmaIn | Activity::DmaOut(_));
        let selected = self.selected();
        if !master || !self.drives[selected].as_ref().is_some_and(waits) {
            return;
        }
        self.watching(|channel| {
            let Channel { drives, bus_master, .. } = channel;
            if let Some(drive) = &mut drives[selected] {
                drive.transfer(ram, bus_master, requests);
            }
        });
    }
}
