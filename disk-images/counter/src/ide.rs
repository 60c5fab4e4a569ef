//! The disk: master of the primary IDE channel by bus-master DMA (PIIX3 datasheet 2.7;
//! ATA/ATAPI-4).
//!
//! One command at a time: start it, go on with other work, and ask [`Disk::poll`] after interrupt
//! 14. An error of the disk is fatal: a counter that cannot be stored must not go on counting.

use crate::cpu::{in8, in16, out8, out32};
use crate::dma::DmaArray;
use crate::{interrupts, pci, pic};

/// Bytes in a sector.
pub const SECTOR_BYTES: usize = 512;

const DATA: u16 = 0x1F0;
const SECTOR_COUNT: u16 = 0x1F2;
const LBA_LOW: u16 = 0x1F3;
const LBA_MIDDLE: u16 = 0x1F4;
const LBA_HIGH: u16 = 0x1F5;
const DEVICE: u16 = 0x1F6;
const STATUS: u16 = 0x1F7;
const COMMAND: u16 = 0x1F7;
const ALTERNATE_STATUS: u16 = 0x3F6;
const DEVICE_CONTROL: u16 = 0x3F6;

const STATUS_ERROR: u8 = 0x01;
const STATUS_DATA_REQUEST: u8 = 0x08;
const STATUS_FAULT: u8 = 0x20;
const STATUS_BUSY: u8 = 0x80;
const DEVICE_LBA: u8 = 0xE0;
const NO_INTERRUPTS: u8 = 0x02;

const IDENTIFY_DEVICE: u8 = 0xEC;
const READ_DMA: u8 = 0xC8;
const WRITE_DMA: u8 = 0xCA;
const FLUSH_CACHE: u8 = 0xE7;

const BUS_MASTER_START: u8 = 0x01;
const BUS_MASTER_TO_MEMORY: u8 = 0x08;
const BUS_MASTER_ERROR: u8 = 0x02;
const BUS_MASTER_INTERRUPT: u8 = 0x04;
const LAST_REGION: u64 = 1 << 63;

/// The disk, its bus-master registers and one sector of DMA memory.
pub struct Disk {
    bus_master: u16,
    region: DmaArray<u64>,
    sector: DmaArray<u8>,
    sectors: u32,
    running: Option<u8>,
}

impl Disk {
    /// Finds the controller, identifies the disk and opens its interrupt.
    pub fn new() -> Self {
        let controller =
            pci::find(|function| function.class() == 0x0101 && function.interface() & 0x80 != 0)
                .expect("there must be an IDE controller with bus-master DMA");
        controller.enable(pci::COMMAND_IO | pci::COMMAND_MASTER);
        let mut disk = Disk {
            bus_master: (controller.bar(4) & 0xFFF0) as u16,
            region: DmaArray::new(1, 4096),
            sector: DmaArray::new(SECTOR_BYTES, 4096),
            sectors: 0,
            running: None,
        };
        disk.identify();
        pic::unmask(pic::IDE_LINE);
        disk
    }

    /// The disk's size in sectors.
    pub fn sectors(&self) -> u32 {
        self.sectors
    }

    /// Reads the size by IDENTIFY DEVICE, without interrupts.
    fn identify(&mut self) {
        out8(DEVICE_CONTROL, NO_INTERRUPTS);
        out8(DEVICE, DEVICE_LBA);
        wait_while_busy();
        out8(COMMAND, IDENTIFY_DEVICE);
        let status = wait_while_busy();
        assert!(
            status & (STATUS_ERROR | STATUS_DATA_REQUEST) == STATUS_DATA_REQUEST,
            "there must be a disk on the primary IDE channel (status {status:#x})"
        );
        let words = [(); 256].map(|()| in16(DATA));
        self.sectors = u32::from(words[60]) | u32::from(words[61]) << 16;
        in8(STATUS); // acknowledges the interrupt that nobody saw
        out8(DEVICE_CONTROL, 0);
    }

    fn start(&mut self, command: u8, lba: u32) {
        assert!(self.running.is_none(), "one disk command at a time");
        self.running = Some(command);
        let transfers = command != FLUSH_CACHE;
        let to_memory = if command == READ_DMA { BUS_MASTER_TO_MEMORY } else { 0 };
        self.clear_bus_master();
        if transfers {
            assert!(lba < self.sectors, "sector {lba} is beyond the end of the disk");
            let address = u64::from(self.sector.physical());
            self.region.write(0, LAST_REGION | (SECTOR_BYTES as u64) << 32 | address);
            out32(self.bus_master + 4, self.region.physical());
            out8(self.bus_master, to_memory);
        }
        wait_while_busy();
        out8(DEVICE, DEVICE_LBA | (lba >> 24) as u8 & 0x0F);
        out8(SECTOR_COUNT, 1);
        out8(LBA_LOW, lba as u8);
        out8(LBA_MIDDLE, (lba >> 8) as u8);
        out8(LBA_HIGH, (lba >> 16) as u8);
        out8(COMMAND, command);
        if transfers {
            out8(self.bus_master, to_memory | BUS_MASTER_START);
        }
    }

    /// Stops the bus master and clears its interrupt and error bits (written as ones).
    fn clear_bus_master(&self) {
        out8(self.bus_master, 0);
        out8(
            self.bus_master + 2,
            in8(self.bus_master + 2) | BUS_MASTER_INTERRUPT | BUS_MASTER_ERROR,
        );
    }

    /// Starts writing `data` to sector `lba`.
    pub fn start_write(&mut self, lba: u32, data: &[u8; SECTOR_BYTES]) {
        self.sector.slice_mut(0, SECTOR_BYTES).copy_from_slice(data);
        self.start(WRITE_DMA, lba);
    }

    /// Starts FLUSH CACHE: when it is done, everything written before is on stable storage.
    pub fn start_flush(&mut self) {
        self.start(FLUSH_CACHE, 0);
    }

    /// After interrupt 14: whether the running command is done.
    pub fn poll(&mut self) -> bool {
        let Some(command) = self.running else {
            in8(STATUS);
            return false;
        };
        let bus_status = in8(self.bus_master + 2);
        if command != FLUSH_CACHE && bus_status & BUS_MASTER_INTERRUPT == 0 {
            return false;
        }
        let status = in8(STATUS); // acknowledges the interrupt
        if status & STATUS_BUSY != 0 {
            return false;
        }
        self.clear_bus_master();
        assert!(
            status & (STATUS_ERROR | STATUS_FAULT) == 0 && bus_status & BUS_MASTER_ERROR == 0,
            "disk command {command:#x} failed (status {status:#x}, bus master {bus_status:#x})"
        );
        self.running = None;
        true
    }

    /// Reads sector `lba` and waits for it. Only for the start, before the main loop runs.
    pub fn read_now(&mut self, lba: u32) -> [u8; SECTOR_BYTES] {
        self.start(READ_DMA, lba);
        while !self.poll() {
            interrupts::wait_for_line(pic::IDE_LINE);
        }
        let mut data = [0; SECTOR_BYTES];
        data.copy_from_slice(self.sector.slice(0, SECTOR_BYTES));
        data
    }
}

/// Waits until the disk accepts a command (it does whenever none runs) and returns its status.
fn wait_while_busy() -> u8 {
    for _ in 0..50_000_000 {
        let status = in8(ALTERNATE_STATUS);
        if status & STATUS_BUSY == 0 {
            return status;
        }
    }
    panic!("the disk stays busy");
}
