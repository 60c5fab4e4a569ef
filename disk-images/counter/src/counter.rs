//! The counter on the disk.
//!
//! Two slots, sectors 8 and 16 (4 KiB apart, so that no physical sector holds both), are written in
//! turn. A slot is
//!
//! | bytes    | contents                                            |
//! |----------|-----------------------------------------------------|
//! | 0..8     | `FTCOUNT1`                                          |
//! | 8..16    | sequence number, little-endian, one more each write |
//! | 16..24   | the counter, little-endian                          |
//! | 24..508  | zero                                                |
//! | 508..512 | CRC-32 (IEEE) of bytes 0..508, little-endian        |
//!
//! At the start the valid slot with the higher sequence number counts, so a write that was torn
//! loses nothing that was acknowledged. Two slots of zeroes are a disk that was never counted on. A
//! number is acknowledged after its slot was written and the disk's cache flushed; increments that
//! come meanwhile share the next write.

use crate::ide::{Disk, SECTOR_BYTES};

const SLOT_LBAS: [u32; 2] = [8, 16];
const MAGIC: &[u8; 8] = b"FTCOUNT1";
const CRC_AT: usize = SECTOR_BYTES - 4;

/// What a slot holds.
#[derive(Clone, Copy, Default)]
struct Record {
    sequence: u64,
    value: u64,
}

/// What the disk is doing for the counter.
#[derive(Clone, Copy)]
enum Storing {
    Nothing,
    Writing(Record),
    Flushing(Record),
}

/// The counter and its disk.
pub struct Counter {
    disk: Disk,
    durable: Record,
    assigned: u64,
    storing: Storing,
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// CRC-32 as in IEEE 802.3 and zlib.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| crc >> 8 ^ CRC_TABLE[usize::from(crc as u8 ^ *byte)];
    !bytes.iter().fold(!0, step)
}

fn u64_at(sector: &[u8; SECTOR_BYTES], offset: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&sector[offset..offset + 8]);
    u64::from_le_bytes(bytes)
}

impl Record {
    fn encode(self) -> [u8; SECTOR_BYTES] {
        let mut sector = [0; SECTOR_BYTES];
        sector[0..8].copy_from_slice(MAGIC);
        sector[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        sector[16..24].copy_from_slice(&self.value.to_le_bytes());
        let crc = crc32(&sector[..CRC_AT]);
        sector[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        sector
    }

    fn decode(sector: &[u8; SECTOR_BYTES]) -> Option<Self> {
        let is_valid =
            sector[0..8] == *MAGIC && sector[CRC_AT..] == crc32(&sector[..CRC_AT]).to_le_bytes();
        is_valid.then(|| Record { sequence: u64_at(sector, 8), value: u64_at(sector, 16) })
    }

    /// The sector that this record belongs in.
    fn lba(self) -> u32 {
        SLOT_LBAS[(self.sequence % 2) as usize]
    }
}

impl Counter {
    /// Reads the counter from `disk`.
    pub fn load(mut disk: Disk) -> Self {
        let sectors = SLOT_LBAS.map(|lba| disk.read_now(lba));
        let newest = sectors.iter().filter_map(Record::decode).max_by_key(|record| record.sequence);
        let is_blank = sectors.iter().flatten().all(|byte| *byte == 0);
        assert!(newest.is_some() || is_blank, "both copies of the counter on the disk are damaged");
        let durable = newest.unwrap_or_default();
        Counter { disk, durable, assigned: durable.value, storing: Storing::Nothing }
    }

    /// Counts up and returns the new number, which may be told to nobody before
    /// [`Counter::durable`] has reached it.
    pub fn increment(&mut self) -> u64 {
        self.assigned += 1;
        self.assigned
    }

    /// The last number given out.
    pub fn assigned(&self) -> u64 {
        self.assigned
    }

    /// The number that is safe on the disk.
    pub fn durable(&self) -> u64 {
        self.durable.value
    }

    /// How often the counter was written to this disk.
    pub fn writes(&self) -> u64 {
        self.durable.sequence
    }

    /// The disk's size in sectors.
    pub fn disk_sectors(&self) -> u32 {
        self.disk.sectors()
    }

    /// Starts a write if a number waits for one and the disk is free.
    pub fn store(&mut self) {
        if matches!(self.storing, Storing::Nothing) && self.assigned > self.durable.value {
            let record = Record { sequence: self.durable.sequence + 1, value: self.assigned };
            self.disk.start_write(record.lba(), &record.encode());
            self.storing = Storing::Writing(record);
        }
    }

    /// After interrupt 14: takes the next step of the write under way.
    pub fn on_disk_interrupt(&mut self) {
        if !self.disk.poll() {
            return;
        }
        match self.storing {
            Storing::Writing(record) => {
                self.disk.start_flush();
                self.storing = Storing::Flushing(record);
            }
            Storing::Flushing(record) => {
                self.durable = record;
                self.storing = Storing::Nothing;
            }
            Storing::Nothing => {}
        }
    }
}
