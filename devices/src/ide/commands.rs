//! The ATA commands.
//!
//! Contract: ATA/ATAPI-6 chapter 8. Commands that are not here are aborted.

use super::drive::{Activity, DEVICE_LBA, Drive, Extent, MULTIPLE_MAX, ReadFor, error};
use super::{Requests, SECTOR};
use crate::io::DiskOperation;
use alloc::vec;
use alloc::vec::Vec;

/// An extent for commands that address nothing.
const NOWHERE: Extent = Extent { lba: 0, sectors: 0 };

impl Drive {
    /// Executes the command `code`. EXECUTE DEVICE DIAGNOSTIC, which both drives take, is the
    /// channel's.
    pub(super) fn command(&mut self, code: u8, requests: &mut Requests) {
        self.intrq = false;
        if self.asleep {
            return;
        }
        self.stop();
        match code {
            0x20 | 0x21 => self.read(false, ReadFor::Pio(1), requests),
            0x24 => self.read(true, ReadFor::Pio(1), requests),
            0x25 => self.read(true, ReadFor::Dma, requests),
            0x27 => self.read_native_max(true),
            0x29 => self.read(true, ReadFor::Pio(self.multiple), requests),
            0x30 | 0x31 => self.write_pio(false, 1),
            0x34 => self.write_pio(true, 1),
            0x35 => self.write_dma(true),
            0x39 => self.write_pio(true, self.multiple),
            0x40 | 0x41 => self.read(false, ReadFor::Verify, requests),
            0x42 => self.read(true, ReadFor::Verify, requests),
            0x10..=0x1F => self.succeed(), // RECALIBRATE
            0x70..=0x7F => self.seek(),
            0x91 => self.initialize_parameters(),
            0xB0 => self.smart(),
            0xC4 => self.read(false, ReadFor::Pio(self.multiple), requests),
            0xC5 => self.write_pio(false, self.multiple),
            0xC6 => self.set_multiple(),
            0xC8 | 0xC9 => self.read(false, ReadFor::Dma, requests),
            0xCA | 0xCB => self.write_dma(false),
            0xE0 | 0x94 | 0xE2 | 0x96 => self.set_power_mode(0x00),
            0xE1 | 0x95 | 0xE3 | 0x97 => self.set_power_mode(0x80),
            0xE5 | 0x98 => {
                self.succeed();
                self.count.now = self.power_mode;
            }
            0xE6 | 0x99 => {
                self.set_power_mode(0x00);
                self.asleep = true;
            }
            0xE7 | 0xEA => {
                self.submit(requests, Activity::Commit(NOWHERE), DiskOperation::Flush);
            }
            0xEC => {
                let data = self.identify();
                self.offer(data, SECTOR);
            }
            0xEF => self.set_features(),
            0xF8 => self.read_native_max(false),
            _ => self.fail(error::ABRT), // NOP (00h) among them, by definition
        }
    }

    /// The sectors that the registers name, or the error bits.
    fn extent(&self, extended: bool) -> Result<Extent, u8> {
        let (low, mid, high) = (self.lba_low, self.lba_mid, self.lba_high);
        let by_lba = self.device & DEVICE_LBA != 0;
        if extended && !by_lba {
            return Err(error::ABRT);
        }
        let (lba, sectors) = if extended {
            let bytes = [low.now, mid.now, high.now, low.previous, mid.previous, high.previous];
            let lba = bytes.iter().rev().fold(0, |lba, &byte| lba << 8 | u64::from(byte));
            (lba, if self.count.word() == 0 { 65_536 } else { u32::from(self.count.word()) })
        } else {
            let bytes = [low.now, mid.now, high.now, self.device & 0x0F];
            let lba = if by_lba { u64::from(u32::from_le_bytes(bytes)) } else { self.chs()? };
            (lba, if self.count.now == 0 { 256 } else { u32::from(self.count.now) })
        };
        if lba + u64::from(sectors) > self.sectors {
            return Err(error::IDNF);
        }
        Ok(Extent { lba, sectors })
    }

    /// The sector that the registers name by cylinder, head and sector.
    fn chs(&self) -> Result<u64, u8> {
        let cylinder = u16::from_be_bytes([self.lba_high.now, self.lba_mid.now]);
        let (head, sector) = (self.device & 0x0F, self.lba_low.now);
        let valid = sector != 0
            && sector <= self.sectors_per_track
            && head < self.heads
            && cylinder < self.cylinders();
        if !valid {
            return Err(error::IDNF);
        }
        let track = u64::from(cylinder) * u64::from(self.heads) + u64::from(head);
        Ok(track * u64::from(self.sectors_per_track) + u64::from(sector) - 1)
    }

    fn read(&mut self, extended: bool, purpose: ReadFor, requests: &mut Requests) {
        if purpose == ReadFor::Pio(0) {
            return self.fail(error::ABRT); // READ MULTIPLE before SET MULTIPLE
        }
        match self.extent(extended) {
            Ok(extent) => {
                let operation = DiskOperation::Read { lba: extent.lba, sectors: extent.sectors };
                self.submit(requests, Activity::Read(extent, purpose), operation);
            }
            Err(error) => self.fail(error),
        }
    }

    fn write_pio(&mut self, extended: bool, block: u8) {
        if block == 0 {
            return self.fail(error::ABRT);
        }
        match self.extent(extended) {
            Ok(extent) => {
                self.error = 0;
                self.demand(extent, block);
            }
            Err(error) => self.fail(error),
        }
    }

    fn write_dma(&mut self, extended: bool) {
        match self.extent(extended) {
            Ok(extent) => {
                self.error = 0;
                self.request_dma(Activity::DmaOut(extent));
            }
            Err(error) => self.fail(error),
        }
    }

    fn seek(&mut self) {
        // The count register has no meaning here.
        let count = core::mem::replace(&mut self.count.now, 1);
        let extent = self.extent(false);
        self.count.now = count;
        match extent {
            Ok(_) => self.succeed(),
            Err(error) => self.fail(error),
        }
    }

    fn initialize_parameters(&mut self) {
        let (heads, sectors) = ((self.device & 0x0F) + 1, self.count.now);
        if sectors == 0 || sectors > 63 {
            return self.fail(error::ABRT);
        }
        self.heads = heads;
        self.sectors_per_track = sectors;
        self.succeed();
    }

    fn set_multiple(&mut self) {
        let count = self.count.now;
        if count > MULTIPLE_MAX || count != 0 && !count.is_power_of_two() {
            self.multiple = 0;
            return self.fail(error::ABRT);
        }
        self.multiple = count;
        self.succeed();
    }

    fn set_power_mode(&mut self, mode: u8) {
        self.power_mode = mode;
        self.succeed();
    }

    fn read_native_max(&mut self, extended: bool) {
        if self.device & DEVICE_LBA == 0 || self.sectors == 0 {
            return self.fail(error::ABRT);
        }
        self.succeed();
        let last = self.sectors - 1;
        let last = if extended { last } else { last.min(0x0FFF_FFFF) };
        let bytes = last.to_le_bytes();
        self.lba_low.now = bytes[0];
        self.lba_mid.now = bytes[1];
        self.lba_high.now = bytes[2];
        if extended {
            self.lba_low.previous = bytes[3];
            self.lba_mid.previous = bytes[4];
            self.lba_high.previous = bytes[5];
        } else {
            self.device = self.device & 0xF0 | bytes[3] & 0x0F;
        }
    }

    fn set_features(&mut self) {
        match self.features.now {
            0x02 => self.write_cache = true,
            0x82 => self.write_cache = false,
            0x03 => match self.count.now {
                0x00 | 0x01 => {} // default PIO mode
                mode @ (0x08..=0x0C | 0x20..=0x22 | 0x40..=0x45) => {
                    // A PIO mode leaves the DMA mode selected.
                    if mode >= 0x20 {
                        self.transfer_mode = mode;
                    }
                }
                _ => return self.fail(error::ABRT),
            },
            0x55 => self.look_ahead = false,
            0xAA => self.look_ahead = true,
            0x66 => self.revert = false,
            0xCC => self.revert = true,
            _ => return self.fail(error::ABRT),
        }
        self.succeed();
    }

    /// SMART (section 8.41): attributes are empty and the drive never predicts a failure.
    fn smart(&mut self) {
        let key = (self.lba_mid.now, self.lba_high.now) == (0x4F, 0xC2);
        if !key || !self.smart && self.features.now != 0xD8 {
            return self.fail(error::ABRT);
        }
        match self.features.now {
            0xD0 => self.offer(smart_data(), SECTOR),
            0xD2 | 0xDA => self.succeed(), // autosave; status: the key stays in the registers
            0xD8 | 0xD9 => {
                self.smart = self.features.now == 0xD8;
                self.succeed();
            }
            _ => self.fail(error::ABRT),
        }
    }
}

/// SMART READ DATA: no attributes, no off-line collection, and the checksum.
fn smart_data() -> Vec<u8> {
    let mut data = vec![0; SECTOR];
    data[0] = 0x10;
    data[511] = 0xF0;
    data
}
