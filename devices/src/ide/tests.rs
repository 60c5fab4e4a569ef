//! Tests of the IDE interface through its registers.

use super::*;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

const BSY: u8 = 0x80;
const DRDY: u8 = 0x40;
const DF: u8 = 0x20;
const DSC: u8 = 0x10;
const DRQ: u8 = 0x08;
const ERR: u8 = 0x01;
const READY: u8 = DRDY | DSC;

const ABRT: u8 = 0x04;
const IDNF: u8 = 0x10;
const UNC: u8 = 0x40;

const START: u32 = 1;
const TO_MEMORY: u32 = 8;
const EOT: u32 = 1 << 31;

/// The interface, memory, and a medium for each drive whose byte is a function of its place.
struct Rig {
    ide: Ide,
    ram: Ram,
    outputs: VecDeque<Output>,
    channel: usize,
}

fn pattern(lba: u64, sectors: u32) -> Vec<u8> {
    let start = lba as usize * SECTOR;
    (start..start + sectors as usize * SECTOR).map(|at| (at * 7 + at / 512) as u8).collect()
}

impl Rig {
    fn with(disks: [Option<u64>; 4]) -> Self {
        let mut ide = Ide::new(&disks);
        let mut ram = Ram::new(1 << 20, &[0; 1 << 16]);
        let mut outputs = VecDeque::new();
        ide.set_master(&mut ram, &mut outputs, true);
        Self { ide, ram, outputs, channel: 0 }
    }

    fn new() -> Self {
        Self::with([Some(300_000_000), None, None, None])
    }

    fn read(&mut self, register: u8) -> u8 {
        self.ide.command_read(self.channel, register, 1) as u8
    }

    fn write(&mut self, register: u8, value: u8) {
        let at = (register, 1);
        let (ram, outputs) = (&mut self.ram, &mut self.outputs);
        self.ide.command_write(ram, outputs, self.channel, at, u32::from(value));
    }

    fn status(&self) -> u8 {
        self.ide.alternate_status(self.channel)
    }

    fn interrupt(&self) -> bool {
        self.ide.interrupt(self.channel)
    }

    /// Issues a 28-bit LBA command.
    fn lba28(&mut self, code: u8, lba: u32, count: u8) {
        let [a, b, c, d] = lba.to_le_bytes();
        for (register, value) in [(2, count), (3, a), (4, b), (5, c), (6, 0xE0 | d), (7, code)] {
            self.write(register, value);
        }
    }

    /// Issues a 48-bit command.
    fn lba48(&mut self, code: u8, lba: u64, count: u16) {
        let lba = lba.to_le_bytes();
        let [low, high] = count.to_le_bytes();
        let order = [(2, high), (3, lba[3]), (4, lba[4]), (5, lba[5])];
        for (register, value) in order.into_iter().chain([
            (2, low),
            (3, lba[0]),
            (4, lba[1]),
            (5, lba[2]),
            (6, 0x40),
            (7, code),
        ]) {
            self.write(register, value);
        }
    }

    fn command(&mut self, code: u8, features: u8, count: u8) {
        self.write(1, features);
        self.write(2, count);
        self.write(7, code);
    }

    fn data_in(&mut self, bytes: usize) -> Vec<u8> {
        (0..bytes / 4)
            .flat_map(|_| self.ide.command_read(self.channel, 0, 4).to_le_bytes())
            .collect()
    }

    fn data_out(&mut self, data: &[u8]) {
        for word in data.chunks_exact(2) {
            let value = u32::from(u16::from_le_bytes([word[0], word[1]]));
            let (ram, outputs) = (&mut self.ram, &mut self.outputs);
            self.ide.command_write(ram, outputs, self.channel, (0, 2), value);
        }
    }

    fn request(&mut self) -> (u8, u64, DiskOperation) {
        match self.outputs.pop_front() {
            Some(Output::Disk { disk, request, operation }) => (disk, request, operation),
            other => panic!("expected a disk request, not {other:?}"),
        }
    }

    fn done(&mut self, disk: u8, request: u64, result: DiskResult) {
        self.ide.disk_done(&mut self.ram, &mut self.outputs, disk, request, result);
    }

    /// Serves the waiting request as a good medium.
    fn serve(&mut self) -> DiskOperation {
        let (disk, request, operation) = self.request();
        let result = match operation {
            DiskOperation::Read { lba, sectors } => DiskResult::Data(pattern(lba, sectors)),
            _ => DiskResult::Done,
        };
        self.done(disk, request, result);
        operation
    }

    fn bus_master(&mut self, offset: u8, size: u8, value: u32) {
        let (ram, outputs) = (&mut self.ram, &mut self.outputs);
        self.ide.bus_master_write(ram, outputs, (offset, size), value);
    }

    fn bus_master_status(&self) -> u32 {
        self.ide.bus_master_read(2, 1)
    }

    /// Writes descriptors to `table` and points the bus master at it.
    fn descriptors(&mut self, table: u32, descriptors: &[(u32, u32)]) {
        for (n, (address, flags)) in descriptors.iter().enumerate() {
            let at = u64::from(table) + 8 * n as u64;
            self.ram.dma_write(at, &address.to_le_bytes());
            self.ram.dma_write(at + 4, &flags.to_le_bytes());
        }
        self.bus_master(4, 4, table);
    }

    fn memory(&self, pa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.dma_read(pa, &mut bytes);
        bytes
    }
}

#[test]
fn signature_and_identity() {
    let mut rig = Rig::new();
    let registers: Vec<u8> = (1..8).map(|register| rig.read(register)).collect();
    assert_eq!(registers, [1, 1, 1, 0, 0, 0xA0, READY]);
    rig.write(6, 0xA0);
    rig.write(7, 0xEC);
    assert!(rig.interrupt());
    assert_eq!(rig.read(7), READY | DRQ);
    assert!(!rig.interrupt(), "reading the status acknowledges");
    let data = rig.data_in(512);
    assert_eq!(rig.status(), READY);
    let word = |n: usize| u16::from_le_bytes([data[2 * n], data[2 * n + 1]]);
    assert_eq!((word(1), word(3), word(6)), (16_383, 16, 63));
    assert_eq!(u32::from(word(60)) | u32::from(word(61)) << 16, 0x0FFF_FFFF);
    assert_eq!(u32::from(word(100)) | u32::from(word(101)) << 16, 300_000_000);
    assert_eq!(word(49) & 0x0300, 0x0300, "LBA and DMA");
    assert_eq!(word(83) & 0xC400, 0x4400, "48-bit addresses");
    assert_eq!(word(63), 0x0407);
    let text: Vec<u8> = (27..47).flat_map(|n| word(n).to_be_bytes()).collect();
    assert_eq!(&text, b"FTEMU HARDDISK                          ");
    assert_eq!(data.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)), 0);
}

#[test]
fn sectors_by_pio_in() {
    let mut rig = Rig::new();
    rig.lba28(0x20, 1000, 3);
    assert_eq!(rig.read(7), BSY | DRDY);
    assert_eq!(rig.read(4), BSY | DRDY, "registers show the status while busy");
    assert!(!rig.interrupt());
    assert_eq!(rig.serve(), DiskOperation::Read { lba: 1000, sectors: 3 });
    let mut data = Vec::new();
    for _ in 0..3 {
        assert!(rig.interrupt());
        assert_eq!(rig.read(7), READY | DRQ);
        assert!(!rig.interrupt());
        data.extend(rig.data_in(512));
    }
    assert_eq!(data, pattern(1000, 3));
    assert_eq!(rig.read(7), READY);
    assert!(!rig.interrupt(), "none at the end");
    assert_eq!(rig.data_in(4), [0; 4]);
}

#[test]
fn multiple_moves_blocks() {
    let mut rig = Rig::new();
    rig.lba28(0xC4, 0, 1);
    assert_eq!((rig.read(7), rig.read(1)), (READY | ERR, ABRT), "before SET MULTIPLE");
    for (count, good) in [(3, false), (32, false), (8, true), (16, true), (4, true)] {
        rig.command(0xC6, 0, count);
        assert_eq!(rig.read(7) & ERR == 0, good, "{count}");
    }
    rig.lba48(0x29, 200_000_000, 9);
    rig.serve();
    let mut data = Vec::new();
    for sectors in [4, 4, 1] {
        assert!(rig.interrupt());
        rig.read(7);
        data.extend(rig.data_in(512 * sectors));
    }
    assert_eq!(rig.read(7), READY);
    assert_eq!(data, pattern(200_000_000, 9));
    rig.lba28(0xC5, 64, 6);
    assert_eq!(rig.read(7), READY | DRQ);
    assert!(!rig.interrupt(), "not before the first block");
    let source = pattern(5, 6);
    rig.data_out(&source[..4 * 512]);
    assert_eq!(rig.status(), BSY | DRDY);
    let operation = rig.serve();
    assert_eq!(operation, DiskOperation::Write { lba: 64, data: source[..2048].to_vec() });
    assert!(rig.interrupt());
    assert_eq!(rig.read(7), READY | DRQ);
    rig.data_out(&source[2048..]);
    let operation = rig.serve();
    assert_eq!(operation, DiskOperation::Write { lba: 68, data: source[2048..].to_vec() });
    assert!(rig.interrupt());
    assert_eq!(rig.read(7), READY);
}

#[test]
fn addresses() {
    let sectors = 300_000_000u64;
    for (lba, count, good) in [
        (0, 0, true),
        (sectors - 1, 1, true),
        (sectors - 1, 2, false),
        (sectors - 65_536, 0, true),
        (sectors - 65_535, 0, false),
        ((1 << 48) - 1, 1, false),
    ] {
        let mut rig = Rig::new();
        rig.lba48(0x25, lba, count);
        if good {
            let sectors = if count == 0 { 65_536 } else { u32::from(count) };
            assert_eq!(rig.request().2, DiskOperation::Read { lba, sectors });
        } else {
            assert!(rig.outputs.is_empty());
            assert!(rig.interrupt());
            assert_eq!((rig.read(7), rig.read(1)), (READY | ERR, IDNF), "{lba:x}+{count}");
        }
    }
    let mut rig = Rig::new();
    rig.lba28(0x20, 0x0FFF_FF00, 0);
    assert_eq!(rig.request().2, DiskOperation::Read { lba: 0x0FFF_FF00, sectors: 256 });
    rig.ide.device_control(0, 4);
    rig.ide.device_control(0, 0);
    // Cylinder 2, head 3, sector 4 of the default translation; and out of range.
    for (cylinder, head, sector, lba) in [
        (2u16, 3, 4, Some((2 * 16 + 3) * 63 + 3)),
        (16_382, 15, 63, Some(16_383 * 16 * 63 - 1)),
        (16_383, 0, 1, None),
        (0, 0, 0, None),
        (0, 0, 64, None),
    ] {
        let [high, low] = cylinder.to_be_bytes();
        let registers = [(2, 1), (3, sector), (4, low), (5, high), (6, 0xA0 | head), (7, 0x20)];
        for (register, value) in registers {
            rig.write(register, value);
        }
        match lba {
            Some(lba) => {
                assert_eq!(rig.serve(), DiskOperation::Read { lba, sectors: 1 });
                rig.data_in(512);
            }
            None => assert_eq!((rig.read(7), rig.read(1)), (READY | ERR, IDNF)),
        }
    }
}

#[test]
fn other_translation() {
    let mut rig = Rig::new();
    rig.write(6, 0xA7);
    rig.command(0x91, 0, 17);
    assert_eq!(rig.read(7), READY);
    for (register, value) in [(2, 1), (3, 17), (4, 1), (5, 0), (6, 0xA7), (7, 0x20)] {
        rig.write(register, value);
    }
    let lba = (8 + 7) * 17 + 16;
    assert_eq!(rig.serve(), DiskOperation::Read { lba, sectors: 1 });
    rig.data_in(512);
    rig.command(0x91, 0, 0);
    assert_eq!(rig.read(7), READY | ERR);
}

#[test]
fn failing_medium() {
    let mut rig = Rig::new();
    for (code, error, status) in [(0x20, UNC, READY | ERR), (0xE7, ABRT, READY | ERR | DF)] {
        rig.lba28(code, 0x0123_4567, 1);
        let (disk, request, _) = rig.request();
        rig.done(disk, request, DiskResult::Failed);
        assert!(rig.interrupt());
        assert_eq!((rig.read(7), rig.read(1)), (status, error), "{code:x}");
    }
    rig.lba48(0x25, 0x0012_3456, 1);
    let (disk, request, _) = rig.request();
    rig.done(disk, request, DiskResult::Data(vec![0; 511]));
    assert_eq!((rig.read(7), rig.read(1)), (READY | ERR, UNC), "data of a wrong size");
    assert_eq!([rig.read(3), rig.read(4), rig.read(5)], [0x56, 0x34, 0x12]);
    rig.lba28(0x30, 5, 1);
    rig.data_out(&[1; 512]);
    let (disk, request, _) = rig.request();
    rig.done(disk, request, DiskResult::Data(Vec::new()));
    assert_eq!((rig.read(7), rig.read(1)), (READY | ERR | DF, ABRT));
}

#[test]
fn stale_completions_are_ignored() {
    let mut rig = Rig::new();
    rig.lba28(0x20, 0, 1);
    let (disk, request, _) = rig.request();
    for (disk, request) in [(disk, request + 1), (1, request), (2, request), (200, request)] {
        rig.done(disk, request, DiskResult::Data(pattern(0, 1)));
        assert_eq!(rig.status(), BSY | DRDY);
    }
    rig.ide.device_control(0, 4);
    assert_eq!(rig.status(), BSY);
    rig.ide.device_control(0, 0);
    rig.done(disk, request, DiskResult::Data(pattern(0, 1)));
    assert_eq!(rig.status(), READY, "forgotten by the reset");
    rig.lba28(0x20, 0, 1);
    assert_ne!(rig.request().1, request, "numbers are never used twice");
    rig.ide.reset();
    rig.lba28(0x20, 0, 1);
    assert!(rig.request().1 > request + 1);
}

#[test]
fn verify_flush_and_commands_without_data() {
    let mut rig = Rig::new();
    rig.lba28(0x40, 77, 2);
    assert_eq!(rig.serve(), DiskOperation::Read { lba: 77, sectors: 2 });
    assert_eq!((rig.interrupt(), rig.read(7)), (true, READY));
    for code in [0xE7, 0xEA] {
        rig.write(7, code);
        assert_eq!(rig.status(), BSY | DRDY);
        assert_eq!(rig.serve(), DiskOperation::Flush);
        assert_eq!((rig.interrupt(), rig.read(7)), (true, READY));
    }
    for (code, features, count, error) in [
        (0x00, 0, 0, Some(ABRT)), // NOP
        (0x08, 0, 0, Some(ABRT)), // DEVICE RESET
        (0x10, 0, 0, None),       // RECALIBRATE
        (0x70, 0, 0, None),       // SEEK
        (0xA1, 0, 0, Some(ABRT)), // IDENTIFY PACKET DEVICE
        (0xEF, 0x02, 0, None),    // write cache
        (0xEF, 0x03, 0x0C, None), // PIO 4
        (0xEF, 0x03, 0x0D, Some(ABRT)),
        (0xEF, 0x03, 0x22, None), // multiword DMA 2
        (0xEF, 0x03, 0x23, Some(ABRT)),
        (0xEF, 0x03, 0x45, None), // ultra DMA 5
        (0xEF, 0x99, 0, Some(ABRT)),
        (0xE0, 0, 0, None),
        (0xF5, 0, 0, Some(ABRT)),
    ] {
        rig.write(6, 0xE0);
        rig.command(code, features, count);
        assert!(rig.interrupt(), "{code:x}");
        let expected = error.map_or((READY, 0), |error| (READY | ERR, error));
        assert_eq!((rig.read(7), rig.read(1)), expected, "{code:x} {features:x} {count:x}");
    }
    rig.command(0xE5, 0, 0x55);
    assert_eq!(rig.read(2), 0, "standby");
    rig.write(7, 0xF8);
    assert_eq!([rig.read(3), rig.read(4), rig.read(5), rig.read(6) & 15], [255, 255, 255, 15]);
    rig.write(7, 0x27);
    assert_eq!([rig.read(3), rig.read(4), rig.read(5)], [0xFF, 0xA2, 0xE1]);
    rig.ide.device_control(0, 0x80);
    assert_eq!([rig.read(3), rig.read(4), rig.read(5)], [0x11, 0, 0], "high order bytes");
    rig.write(6, 0xE0);
    assert_eq!(rig.read(3), 0xFF, "any write ends that");
}

#[test]
fn smart_answers_by_its_key() {
    let mut rig = Rig::new();
    rig.command(0xB0, 0xDA, 0);
    assert_eq!(rig.read(7), READY | ERR);
    rig.write(4, 0x4F);
    rig.write(5, 0xC2);
    rig.command(0xB0, 0xDA, 0);
    assert_eq!([rig.read(7), rig.read(4), rig.read(5)], [READY, 0x4F, 0xC2]);
    rig.command(0xB0, 0xD0, 1);
    let data = rig.data_in(512);
    assert_eq!(data.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)), 0);
    rig.command(0xB0, 0xD9, 0);
    rig.command(0xB0, 0xDA, 0);
    assert_eq!(rig.read(7), READY | ERR, "disabled");
}

#[test]
fn absent_drives() {
    let mut rig = Rig::with([Some(100), None, None, Some(100)]);
    rig.write(6, 0xB0);
    assert_eq!((rig.read(7), rig.status()), (0, 0), "drive 0 answers for drive 1");
    rig.write(7, 0xEC);
    assert!(!rig.interrupt());
    rig.channel = 1;
    assert_eq!(rig.read(7), 0x7F, "nobody answers for an absent drive 0");
    rig.write(6, 0xB0);
    assert_eq!(rig.read(7), READY);
    let mut rig = Rig::with([None; 4]);
    for register in 1..8 {
        rig.write(register, 0x55);
        assert_eq!(rig.read(register), 0x7F);
    }
    rig.ide.device_control(0, 4);
    assert_eq!((rig.status(), rig.interrupt()), (0x7F, false));
}

#[test]
fn two_drives_share_writes_and_not_answers() {
    let mut rig = Rig::with([Some(1000), Some(2000), None, None]);
    rig.write(3, 0x12);
    rig.write(6, 0xF0);
    assert_eq!(rig.read(3), 0x12, "the other took it too");
    rig.lba28(0x20, 1, 1);
    rig.write(6, 0xF0);
    assert_eq!(rig.read(6) & 0x10, 0, "a busy drive holds its register");
    rig.serve();
    assert!(rig.interrupt());
    rig.write(6, 0xF0);
    assert!(!rig.interrupt(), "the selected drive alone drives the line");
    rig.write(7, 0x90);
    assert_eq!((rig.read(6) & 0x10, rig.interrupt()), (0, true), "diagnostics select drive 0");
    assert_eq!([rig.read(1), rig.read(2), rig.read(3)], [1, 1, 1]);
    rig.ide.device_control(0, 2);
    assert!(!rig.interrupt(), "nIEN");
}

#[test]
fn sleeping_until_reset() {
    let mut rig = Rig::new();
    rig.write(7, 0xE6);
    assert!(rig.interrupt());
    rig.lba28(0x20, 0, 1);
    assert!(rig.outputs.is_empty());
    rig.ide.device_control(0, 4);
    rig.ide.device_control(0, 0);
    rig.lba28(0x20, 0, 1);
    assert!(!rig.outputs.is_empty());
}

#[test]
fn dma_to_memory_in_either_order() {
    for start_first in [true, false] {
        let mut rig = Rig::new();
        rig.descriptors(0x1000, &[(0x2000, 512), (0x5002, 1024), (0x3_0000, EOT | 512)]);
        rig.lba48(0x25, 40, 4);
        if start_first {
            rig.bus_master(0, 1, START | TO_MEMORY);
            assert_eq!(rig.bus_master_status(), 1);
            rig.serve();
        } else {
            rig.serve();
            assert_eq!((rig.status(), rig.interrupt()), (READY | DRQ, false));
            rig.bus_master(0, 1, START | TO_MEMORY);
        }
        assert!(rig.interrupt());
        assert_eq!(rig.bus_master_status(), 4, "complete: interrupt, not active");
        assert_eq!(rig.status(), READY);
        let data = [rig.memory(0x2000, 512), rig.memory(0x5002, 1024), rig.memory(0x3_0000, 512)];
        assert_eq!(data.concat(), pattern(40, 4));
        rig.bus_master(0, 1, 0);
        rig.bus_master(2, 1, 0x64);
        assert_eq!(rig.bus_master_status(), 0x60);
    }
}

#[test]
fn dma_from_memory_is_copied_when_it_runs() {
    let mut rig = Rig::new();
    let source = pattern(9, 2);
    rig.ram.dma_write(0x8000, &source);
    rig.descriptors(0x1000, &[(0x8000, EOT | 1024)]);
    rig.lba28(0xCA, 7, 2);
    assert_eq!(rig.status(), READY | DRQ);
    assert!(rig.outputs.is_empty());
    rig.bus_master(0, 1, START);
    rig.ram.dma_write(0x8000, &[0; 1024]);
    assert_eq!(rig.status(), BSY | DRDY);
    assert_eq!(rig.bus_master_status(), 0, "the table is at its end");
    assert_eq!(rig.serve(), DiskOperation::Write { lba: 7, data: source });
    assert_eq!((rig.interrupt(), rig.bus_master_status()), (true, 4));
}

#[test]
fn table_longer_than_the_data_stays_active() {
    let mut rig = Rig::new();
    rig.descriptors(0x1000, &[(0x2000, 1024), (0x4000, EOT | 512)]);
    rig.lba28(0xC8, 0, 2);
    rig.bus_master(0, 1, START | TO_MEMORY);
    rig.serve();
    assert_eq!(rig.bus_master_status(), 5);
    rig.bus_master(0, 1, 0);
    assert_eq!(rig.bus_master_status(), 4);
}

#[test]
fn table_shorter_than_the_data_stops_without_interrupt() {
    let mut rig = Rig::new();
    rig.descriptors(0x1000, &[(0x2000, EOT | 512)]);
    rig.lba28(0xC8, 0, 2);
    rig.bus_master(0, 1, START | TO_MEMORY);
    rig.serve();
    assert_eq!((rig.bus_master_status(), rig.interrupt()), (0, false));
    assert_eq!(rig.status(), READY | DRQ);
    // A new table takes the rest.
    rig.bus_master(0, 1, 0);
    rig.descriptors(0x1000, &[(0x4000, EOT | 512)]);
    rig.bus_master(0, 1, START | TO_MEMORY);
    assert_eq!((rig.bus_master_status(), rig.interrupt()), (4, true));
    assert_eq!([rig.memory(0x2000, 512), rig.memory(0x4000, 512)].concat(), pattern(0, 2));
}

#[test]
fn zero_counts_are_64_kib_and_odd_bits_are_dropped() {
    let mut rig = Rig::new();
    rig.descriptors(0x1003, &[]);
    assert_eq!(rig.ide.bus_master_read(4, 4), 0x1000);
    rig.descriptors(0x1000, &[(0x2_0001, 0), (0x4_0000, EOT | 0x1_0000)]);
    rig.lba28(0xC8, 0, 0);
    rig.bus_master(0, 1, START | TO_MEMORY);
    rig.serve();
    assert_eq!(rig.bus_master_status(), 4);
    let data = [rig.memory(0x2_0000, 0x1_0000), rig.memory(0x4_0000, 0x1_0000)].concat();
    assert_eq!(data, pattern(0, 256));
}

#[test]
fn aborts_set_the_error_bit() {
    for (table, descriptor) in
        [(0x1000, (0xD000_0000, EOT | 512)), (0x1000, (0xA_0000, EOT | 512)), (0xD000_0000, (0, 0))]
    {
        let mut rig = Rig::new();
        rig.descriptors(table, &[descriptor]);
        rig.lba28(0xC8, 0, 1);
        rig.bus_master(0, 1, START | TO_MEMORY);
        rig.serve();
        assert_eq!((rig.bus_master_status(), rig.interrupt()), (2, false), "{table:x}");
        assert_eq!(rig.status(), READY | DRQ);
    }
}

#[test]
fn direction_start_bit_and_bus_mastering_gate() {
    let mut rig = Rig::new();
    rig.descriptors(0x1000, &[(0x2000, EOT | 512)]);
    rig.lba28(0xC8, 3, 1);
    rig.serve();
    rig.bus_master(0, 1, START);
    assert_eq!((rig.bus_master_status(), rig.interrupt()), (1, false), "the wrong way");
    rig.bus_master(0, 1, START | TO_MEMORY);
    assert_eq!(rig.ide.bus_master_read(0, 1), 1, "not while started");
    rig.bus_master(0, 1, TO_MEMORY);
    let (ram, outputs) = (&mut rig.ram, &mut rig.outputs);
    rig.ide.set_master(ram, outputs, false);
    rig.bus_master(0, 1, START | TO_MEMORY);
    assert_eq!((rig.bus_master_status(), rig.interrupt()), (1, false));
    let (ram, outputs) = (&mut rig.ram, &mut rig.outputs);
    rig.ide.set_master(ram, outputs, true);
    assert_eq!((rig.bus_master_status(), rig.interrupt()), (4, true));
    assert_eq!(rig.memory(0x2000, 512), pattern(3, 1));
}

#[test]
fn channels_are_apart() {
    let mut rig = Rig::with([Some(100), None, Some(100), None]);
    rig.channel = 1;
    rig.ram.dma_write(0x1000, &[0x00, 0x20, 0, 0, 0, 2, 0, 0x80]);
    rig.bus_master(0x0C, 4, 0x1000);
    rig.lba28(0xC8, 1, 1);
    rig.bus_master(8, 1, START | TO_MEMORY);
    assert_eq!(rig.request().0, 2);
    assert_eq!(rig.ide.bus_master_read(8, 4), 0x0001_0009);
    assert_eq!(rig.ide.bus_master_read(0, 4), 0);
}

/// One step of somebody who writes anything anywhere.
#[derive(Clone, Debug)]
enum Step {
    Command(bool, u8, u8, u32),
    Read(bool, u8, u8),
    Control(bool, u8),
    BusMaster(u8, u8, u32),
    Data(bool, u16),
    Done(u8, u64, u8),
    Serve,
    Descriptor(u16, u32, u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let codes = prop::sample::select(vec![
        0x20, 0x24, 0x25, 0x29, 0x30, 0x34, 0x35, 0x39, 0xC4, 0xC5, 0xC6, 0xC8, 0xCA, 0xEC, 0xE7,
    ]);
    let register = prop_oneof![0..8u8, Just(2), Just(6)];
    let step = prop_oneof![
        4 => (any::<bool>(), register, prop::sample::select(vec![1, 2, 4]), any::<u32>())
            .prop_map(|(channel, r, size, value)| Step::Command(channel, r, size, value)),
        4 => (any::<bool>(), codes).prop_map(|(ch, code)| Step::Command(ch, 7, 1, code)),
        2 => (any::<bool>(), 0..8u8, prop::sample::select(vec![1, 2, 4]))
            .prop_map(|(channel, r, size)| Step::Read(channel, r, size)),
        1 => (any::<bool>(), any::<u8>()).prop_map(|(channel, v)| Step::Control(channel, v)),
        3 => (0..16u8, prop::sample::select(vec![1, 2, 4]), any::<u32>())
            .prop_map(|(at, size, value)| Step::BusMaster(at, size, value & 0xF_FFFF)),
        2 => (any::<bool>(), 0..2000u16).prop_map(|(channel, n)| Step::Data(channel, n)),
        1 => (0..5u8, 0..20u64, any::<u8>()).prop_map(|(d, r, kind)| Step::Done(d, r, kind)),
        4 => Just(Step::Serve),
        2 => (any::<u16>(), any::<u32>(), any::<u32>())
            .prop_map(|(at, a, b)| Step::Descriptor(at, a & 0x1F_FFFF, b)),
    ];
    prop::collection::vec(step, 1..120)
}

impl Rig {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Command(channel, register, size, value) => {
                let (ram, outputs) = (&mut self.ram, &mut self.outputs);
                let at = (register, size);
                self.ide.command_write(ram, outputs, usize::from(channel), at, value);
            }
            Step::Read(channel, register, size) => {
                self.ide.command_read(usize::from(channel), register, size);
            }
            Step::Control(channel, value) => self.ide.device_control(usize::from(channel), value),
            Step::BusMaster(offset, size, value) => self.bus_master(offset, size, value),
            Step::Data(channel, words) => {
                for n in 0..words {
                    let (ram, outputs) = (&mut self.ram, &mut self.outputs);
                    let value = u32::from(n);
                    self.ide.command_write(ram, outputs, usize::from(channel), (0, 2), value);
                    self.ide.command_read(usize::from(channel), 0, 4);
                }
            }
            Step::Done(disk, request, kind) => {
                let result = match kind & 3 {
                    0 => DiskResult::Failed,
                    1 => DiskResult::Done,
                    n => DiskResult::Data(vec![n; usize::from(kind) * 8]),
                };
                self.done(disk, request, result);
            }
            Step::Serve => {
                if !self.outputs.is_empty() {
                    self.serve();
                }
            }
            Step::Descriptor(at, address, flags) => {
                self.ram.dma_write(u64::from(at) * 8, &address.to_le_bytes());
                self.ram.dma_write(u64::from(at) * 8 + 4, &flags.to_le_bytes());
            }
        }
    }

    fn state(&self) -> Vec<u8> {
        rmp_serde::to_vec(&self.ide).expect("serializes")
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Anything anywhere: no panic, at most one request a step and drive, and a saved and loaded
    /// interface goes on as the original.
    #[test]
    fn anything_goes_and_saving_changes_nothing(steps in steps(), save_at in 0..120usize) {
        let disks = [Some(5000), Some(70_000), None, Some(300)];
        let mut rig = Rig::with(disks);
        let mut twin = Rig::with(disks);
        for (n, step) in steps.iter().enumerate() {
            if n == save_at {
                twin.ide = rmp_serde::from_slice(&rig.state()).expect("reads back");
            }
            let waiting = rig.outputs.len();
            rig.step(step);
            twin.step(step);
            let words = if let Step::Data(_, words) = step { usize::from(*words) } else { 0 };
            prop_assert!(rig.outputs.len() <= waiting + 4 + words / 256);
            prop_assert_eq!(&rig.outputs, &twin.outputs);
        }
        prop_assert_eq!(rig.state(), twin.state());
        prop_assert!(rig.ram.bytes() == twin.ram.bytes());
    }

    /// States that no run makes: no panic.
    #[test]
    fn damaged_states_do_not_panic(steps in steps(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut rig = Rig::with([Some(5000), Some(70_000), None, Some(300)]);
        let (before, after) = steps.split_at(steps.len() / 2);
        before.iter().for_each(|step| rig.step(step));
        let mut state = rig.state();
        let at = at.index(state.len());
        state[at] = byte;
        if let Ok(ide) = rmp_serde::from_slice(&state) {
            rig.ide = ide;
            after.iter().for_each(|step| rig.step(step));
        }
    }
}
