//! One ATA drive: its registers, and data moving in and out of it.
//!
//! Contract: ATA/ATAPI-6 (T13/1410D) chapters 6 to 9, as a drive whose commands take no time but
//! for accesses to the medium. The commands themselves are in `commands`.

use super::bus_master::{BusMaster, Direction};
use super::{Requests, SECTOR};
use crate::io::{DiskOperation, DiskResult};
use crate::ram::Ram;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Status register bits (section 7.15).
pub(super) mod status {
    pub const BSY: u8 = 1 << 7;
    pub const DRDY: u8 = 1 << 6;
    pub const DF: u8 = 1 << 5;
    pub const DSC: u8 = 1 << 4;
    pub const DRQ: u8 = 1 << 3;
    pub const ERR: u8 = 1 << 0;
}

/// Error register bits (section 7.11).
pub(super) mod error {
    pub const UNC: u8 = 1 << 6;
    pub const IDNF: u8 = 1 << 4;
    pub const ABRT: u8 = 1 << 2;
}

/// Device register: addresses are LBA.
pub(super) const DEVICE_LBA: u8 = 1 << 6;
/// Largest block of READ and WRITE MULTIPLE, in sectors.
pub(super) const MULTIPLE_MAX: u8 = 16;
/// Transfer mode after power-on: multiword DMA 2.
const MODE_POWER_ON: u8 = 0x22;

const READY: u8 = status::DRDY | status::DSC;

/// Sectors on the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extent {
    pub lba: u64,
    pub sectors: u32,
}

impl Extent {
    /// Size in bytes; no command moves more than 65,536 sectors.
    fn bytes(self) -> usize {
        self.sectors.min(65_536) as usize * SECTOR
    }
}

/// What becomes of data that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ReadFor {
    /// Blocks of this many sectors through the data register.
    Pio(u8),
    Dma,
    /// Nothing: READ VERIFY.
    Verify,
}

/// What the drive is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Activity {
    Idle,
    /// The medium reads.
    Read(Extent, ReadFor),
    /// The host reads the buffer through the data register in blocks of this many bytes.
    PioIn(u32),
    /// The host fills a block of the extent through the data register.
    PioOut(Extent, u8),
    /// The medium takes the first block of the extent.
    PioWrite(Extent, u8),
    /// The buffer waits for the bus master.
    DmaIn,
    /// The buffer fills from the bus master.
    DmaOut(Extent),
    /// The medium takes the extent, or flushes.
    Commit(Extent),
}

/// A register with the previous content that 48-bit commands use.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Latch {
    pub now: u8,
    pub previous: u8,
}

impl Latch {
    fn write(&mut self, value: u8) {
        self.previous = self.now;
        self.now = value;
    }

    fn set(&mut self, value: u8) {
        *self = Self { now: value, previous: 0 };
    }

    fn get(self, high_order: bool) -> u8 {
        if high_order { self.previous } else { self.now }
    }

    pub(super) fn word(self) -> u16 {
        u16::from_be_bytes([self.previous, self.now])
    }
}

/// One drive.
#[derive(Serialize, Deserialize)]
pub(super) struct Drive {
    /// Index of the disk, 0-3.
    pub disk: u8,
    pub sectors: u64,
    pub features: Latch,
    pub count: Latch,
    pub lba_low: Latch,
    pub lba_mid: Latch,
    pub lba_high: Latch,
    pub device: u8,
    /// Device control bit 7: the previous content of the registers is read.
    pub high_order: bool,
    pub status: u8,
    pub error: u8,
    /// The drive requests an interrupt.
    pub intrq: bool,
    pub heads: u8,
    pub sectors_per_track: u8,
    /// Sectors of a block of READ and WRITE MULTIPLE; 0 disabled.
    pub multiple: u8,
    pub transfer_mode: u8,
    pub write_cache: bool,
    pub look_ahead: bool,
    pub smart: bool,
    /// SET FEATURES CCh: a software reset restores power-on settings.
    pub revert: bool,
    /// What CHECK POWER MODE answers.
    pub power_mode: u8,
    pub asleep: bool,
    pub activity: Activity,
    /// The request that the drive waits for.
    pub pending: Option<u64>,
    #[serde(with = "crate::fixed::bytes")]
    pub buffer: Vec<u8>,
    pub position: u32,
    /// End of the PIO block being read.
    pub block_end: u32,
}

impl Drive {
    pub(super) fn new(disk: u8, sectors: u64) -> Self {
        let zero = Latch::default();
        let mut drive = Self {
            disk,
            sectors: sectors.min((1 << 48) - 1),
            features: zero,
            count: zero,
            lba_low: zero,
            lba_mid: zero,
            lba_high: zero,
            device: 0,
            high_order: false,
            status: 0,
            error: 0,
            intrq: false,
            heads: 16,
            sectors_per_track: 63,
            multiple: 0,
            transfer_mode: MODE_POWER_ON,
            write_cache: true,
            look_ahead: true,
            smart: true,
            revert: true,
            power_mode: 0xFF,
            asleep: false,
            activity: Activity::Idle,
            pending: None,
            buffer: Vec::new(),
            position: 0,
            block_end: 0,
        };
        drive.signature();
        drive
    }

    /// Software reset (section 9.3).
    pub(super) fn soft_reset(&mut self) {
        self.stop();
        if self.revert {
            self.multiple = 0;
            self.transfer_mode = MODE_POWER_ON;
            self.write_cache = true;
            self.look_ahead = true;
        }
        self.asleep = false;
        self.power_mode = 0xFF;
        self.intrq = false;
        self.high_order = false;
        self.signature();
    }

    /// Diagnostics passed, and the signature of a drive without PACKET (section 9.12).
    pub(super) fn signature(&mut self) {
        self.error = 0x01;
        self.status = READY;
        self.count.set(1);
        self.lba_low.set(1);
        self.lba_mid.set(0);
        self.lba_high.set(0);
        self.device = 0;
    }

    /// Whatever was under way is forgotten.
    pub(super) fn stop(&mut self) {
        self.activity = Activity::Idle;
        self.pending = None;
        self.buffer = Vec::new();
        self.position = 0;
        self.block_end = 0;
    }

    /// Cylinders of the default translation with 16 heads of 63 sectors.
    pub(super) fn default_cylinders(&self) -> u16 {
        (self.sectors / (16 * 63)).min(16_383) as u16
    }

    /// Cylinders of the current translation.
    pub(super) fn cylinders(&self) -> u16 {
        let cylinder = u64::from(self.heads) * u64::from(self.sectors_per_track);
        let reachable = self.sectors.min(16_383 * 16 * 63);
        reachable.checked_div(cylinder).map_or(0, |cylinders| cylinders.min(65_535) as u16)
    }

    pub(super) fn busy(&self) -> bool {
        self.status & status::BSY != 0
    }

    /// Reads a register other than data and device; while busy all of them show the status.
    pub(super) fn read_register(&self, register: u8) -> u8 {
        if self.busy() {
            return self.status;
        }
        match register {
            1 => self.error,
            2 => self.count.get(self.high_order),
            3 => self.lba_low.get(self.high_order),
            4 => self.lba_mid.get(self.high_order),
            5 => self.lba_high.get(self.high_order),
            _ => self.status,
        }
    }

    /// Writes a register other than data, device and command.
    pub(super) fn write_register(&mut self, register: u8, value: u8) {
        self.high_order = false;
        if self.busy() {
            return;
        }
        match register {
            1 => self.features.write(value),
            2 => self.count.write(value),
            3 => self.lba_low.write(value),
            4 => self.lba_mid.write(value),
            5 => self.lba_high.write(value),
            _ => {}
        }
    }

    /// The command ends without an error.
    pub(super) fn succeed(&mut self) {
        self.stop();
        self.error = 0;
        self.status = READY;
        self.intrq = true;
    }

    /// The command ends with these error bits.
    pub(super) fn fail(&mut self, error: u8) {
        self.stop();
        self.error = error;
        self.status = READY | status::ERR;
        self.intrq = true;
    }

    /// The medium failed in this extent: its address goes to the registers.
    fn fail_medium(&mut self, extent: Extent, error: u8) {
        self.fail(error);
        let lba = extent.lba.to_le_bytes();
        self.lba_low = Latch { now: lba[0], previous: lba[3] };
        self.lba_mid = Latch { now: lba[1], previous: lba[4] };
        self.lba_high = Latch { now: lba[2], previous: lba[5] };
        self.device = self.device & 0xF0 | lba[3] & 0x0F;
    }

    /// Sends `operation` to the medium; busy until it is done.
    pub(super) fn submit(
        &mut self,
        requests: &mut Requests,
        activity: Activity,
        operation: DiskOperation,
    ) {
        self.pending = Some(requests.submit(self.disk, operation));
        self.activity = activity;
        self.status = READY & !status::DSC | status::BSY;
        self.power_mode = 0xFF;
    }

    /// Offers `data` through the data register in blocks of `block` bytes.
    pub(super) fn offer(&mut self, data: Vec<u8>, block: usize) {
        self.error = 0;
        self.block_end = block.min(data.len()) as u32;
        self.buffer = data;
        self.position = 0;
        self.activity = Activity::PioIn(block as u32);
        self.status = READY | status::DRQ;
        self.intrq = true;
    }

    /// Asks for the next block of `extent` through the data register.
    pub(super) fn demand(&mut self, extent: Extent, block: u8) {
        self.buffer.clear();
        self.activity = Activity::PioOut(extent, block);
        self.status = READY | status::DRQ;
    }

    /// Waits for the bus master to move data.
    pub(super) fn request_dma(&mut self, activity: Activity) {
        self.position = 0;
        self.activity = activity;
        self.status = READY | status::DRQ;
    }

    /// Reads a word of the data register.
    #[inline]
    pub(super) fn read_data(&mut self) -> u16 {
        let Activity::PioIn(block) = self.activity else { return 0 };
        let at = self.position as usize;
        let word = match self.buffer.get(at..at + 2) {
            Some(bytes) => u16::from_le_bytes([bytes[0], bytes[1]]),
            None => 0,
        };
        self.position = self.position.saturating_add(2);
        if self.position >= self.block_end {
            self.end_of_block_in(block);
        }
        word
    }

    fn end_of_block_in(&mut self, block: u32) {
        if self.position as usize >= self.buffer.len() {
            self.stop();
            self.status = READY;
        } else {
            let end = self.block_end.saturating_add(block.max(2));
            self.block_end = end.min(self.buffer.len() as u32);
            self.intrq = true;
        }
    }

    /// Writes a word of the data register.
    #[inline]
    pub(super) fn write_data(&mut self, word: u16, requests: &mut Requests) {
        let Activity::PioOut(extent, block) = self.activity else { return };
        self.buffer.extend_from_slice(&word.to_le_bytes());
        if self.buffer.len() >= first_block(extent, block).bytes() {
            let data = core::mem::take(&mut self.buffer);
            let operation = DiskOperation::Write { lba: extent.lba, data };
            self.submit(requests, Activity::PioWrite(extent, block), operation);
        }
    }

    /// Takes the completion of a request.
    pub(super) fn disk_done(&mut self, request: u64, result: DiskResult) {
        if self.pending != Some(request) {
            return;
        }
        self.pending = None;
        match (self.activity, result) {
            (Activity::Read(extent, purpose), DiskResult::Data(data))
                if data.len() == extent.bytes() =>
            {
                match purpose {
                    ReadFor::Pio(block) => self.offer(data, usize::from(block) * SECTOR),
                    ReadFor::Dma => {
                        self.buffer = data;
                        self.request_dma(Activity::DmaIn);
                    }
                    ReadFor::Verify => self.succeed(),
                }
            }
            (Activity::Read(extent, _), _) => self.fail_medium(extent, error::UNC),
            (Activity::PioWrite(extent, block), DiskResult::Done) => {
                let sectors = first_block(extent, block).sectors;
                let left = Extent {
                    lba: extent.lba.saturating_add(u64::from(sectors)),
                    sectors: extent.sectors.saturating_sub(sectors),
                };
                if left.sectors == 0 {
                    self.succeed();
                } else {
                    self.demand(left, block);
                    self.intrq = true;
                }
            }
            (Activity::Commit(_), DiskResult::Done) => self.succeed(),
            (Activity::PioWrite(extent, _) | Activity::Commit(extent), _) => {
                self.fail_medium(extent, error::ABRT);
                self.status |= status::DF;
            }
            _ => {}
        }
    }

    /// Lets the bus master move what it can.
    pub(super) fn transfer(
        &mut self,
        ram: &mut Ram,
        bus_master: &mut BusMaster,
        requests: &mut Requests,
    ) {
        match self.activity {
            Activity::DmaIn if bus_master.runs(Direction::ToMemory) => {
                let left = self.buffer.get(self.position as usize..).unwrap_or_default();
                let moved = bus_master.store(ram, left);
                if moved == left.len() {
                    self.succeed();
                } else {
                    self.position += moved as u32;
                }
            }
            Activity::DmaOut(extent) if bus_master.runs(Direction::FromMemory) => {
                bus_master.fetch(ram, &mut self.buffer, extent.bytes());
                if self.buffer.len() >= extent.bytes() {
                    let data = core::mem::take(&mut self.buffer);
                    let operation = DiskOperation::Write { lba: extent.lba, data };
                    self.submit(requests, Activity::Commit(extent), operation);
                }
            }
            _ => {}
        }
    }
}

/// The first block of a multi-sector transfer.
fn first_block(extent: Extent, block: u8) -> Extent {
    Extent { lba: extent.lba, sectors: extent.sectors.min(u32::from(block.max(1))) }
}
