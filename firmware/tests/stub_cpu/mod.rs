//! A processor that knows just the instructions of the ROM's stubs and of these tests' programs.
//!
//! Contract: real mode only; an instruction that it does not know is a panic with its place. Disk
//! requests are answered from `disks` when the processor halts, so that every wait is a real one.

use devices::board::{Board, BoardConfig};
use devices::io::{DiskOperation, DiskResult, Input, Output};
use devices::ram::Ram;
use devices::time::VirtualNs;
use firmware::{DirectBoot, Registers, SERVICE_PORT};

pub const AX: usize = 0;
pub const CX: usize = 1;
pub const DX: usize = 2;
pub const BX: usize = 3;
const SP: usize = 4;
pub const BP: usize = 5;
pub const SI: usize = 6;
pub const DI: usize = 7;
pub const ES: usize = 0;
const CS: usize = 1;
const SS: usize = 2;
pub const DS: usize = 3;
pub const CF: u64 = 1;
pub const ZF: u64 = 1 << 6;
const IF: u64 = 1 << 9;

/// Why [`StubPc::run`] came back.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// The address to stop at is reached.
    There,
    /// Halted with nothing that could wake it.
    Dead,
}

pub struct StubPc {
    pub ram: Ram,
    pub board: Board,
    pub regs: Registers,
    pub now: VirtualNs,
    pub instructions: u64,
    /// Contents of the disks.
    pub disks: [Vec<u8>; 4],
    /// What came out of the debug console.
    pub debug: String,
    /// What the first serial port has sent.
    pub serial: Vec<u8>,
    /// Disk requests that fail.
    pub bad_sectors: Vec<u64>,
    requests: Vec<(u8, u64, DiskOperation)>,
    /// Targets of far jumps, calls and returns.
    pub entered: Vec<(u16, u16)>,
    /// The four words below the return address at the last far call.
    pub stack_at_far_call: Vec<u16>,
    /// Vectors delivered by the board.
    pub interrupts: Vec<u8>,
}

impl StubPc {
    /// A machine after power-on, at the reset vector.
    pub fn new(ram_bytes: u64, disks: [Vec<u8>; 4], boot: Option<&DirectBoot>) -> Self {
        let mut ram = Ram::new(ram_bytes, &firmware::rom());
        let sectors = |disk: &Vec<u8>| (!disk.is_empty()).then_some(disk.len() as u64 / 512);
        let config = BoardConfig {
            disks: [0, 1, 2, 3].map(|n: usize| sectors(&disks[n])),
            nics: vec![[2, 0, 0, 0, 0, 1]],
            uarts: 2,
        };
        let mut board = Board::new(&config, &mut ram);
        let wall_clock = 1_798_758_327_000_000_000; // 2026-12-31 23:05:27 UTC
        board.input(&mut ram, VirtualNs(0), Input::WallClock(wall_clock));
        firmware::power_on(&mut ram, &mut board, boot).expect("the kernel boots");
        let mut regs = Registers { ip: 0xFFF0, flags: 2, real_mode: true, ..Registers::default() };
        regs.segments[CS] = 0xF000;
        Self {
            ram,
            board,
            regs,
            now: VirtualNs(0),
            instructions: 0,
            disks,
            debug: String::new(),
            serial: vec![],
            bad_sectors: vec![],
            requests: vec![],
            entered: vec![],
            stack_at_far_call: vec![],
            interrupts: vec![],
        }
    }

    fn at(&self, segment: usize, offset: u16) -> u64 {
        (u64::from(self.regs.segments[segment]) << 4) + u64::from(offset)
    }

    pub fn read16(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.ram.dma_read(at, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    pub fn read32(&self, at: u64) -> u32 {
        u32::from(self.read16(at)) | u32::from(self.read16(at + 2)) << 16
    }

    pub fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.dma_read(at, &mut bytes);
        bytes
    }

    fn push(&mut self, value: u16) {
        let sp = (self.regs.gpr[SP] as u16).wrapping_sub(2);
        self.regs.gpr[SP] = sp.into();
        let at = self.at(SS, sp);
        self.ram.dma_write(at, &value.to_le_bytes());
    }

    fn pop(&mut self) -> u16 {
        let sp = self.regs.gpr[SP] as u16;
        self.regs.gpr[SP] = sp.wrapping_add(2).into();
        self.read16(self.at(SS, sp))
    }

    fn set16(&mut self, register: usize, value: u16) {
        let gpr = &mut self.regs.gpr[register];
        *gpr = *gpr & !0xFFFF | u64::from(value);
    }

    fn set_al(&mut self, value: u8) {
        self.regs.gpr[AX] = self.regs.gpr[AX] & !0xFF | u64::from(value);
    }

    fn fetch(&mut self) -> u8 {
        let at = self.at(CS, self.regs.ip as u16);
        self.regs.ip = u64::from((self.regs.ip as u16).wrapping_add(1));
        self.bytes(at, 1)[0]
    }

    fn fetch16(&mut self) -> u16 {
        u16::from_le_bytes([self.fetch(), self.fetch()])
    }

    fn jump(&mut self, distance: u16) {
        self.regs.ip = u64::from((self.regs.ip as u16).wrapping_add(distance));
    }

    fn far(&mut self, segment: u16, offset: u16) {
        self.entered.push((segment, offset));
        self.regs.segments[CS] = segment;
        self.regs.ip = offset.into();
    }

    pub fn interrupt(&mut self, vector: u8) {
        self.push(self.regs.flags as u16);
        self.push(self.regs.segments[CS]);
        self.push(self.regs.ip as u16);
        self.regs.flags &= !IF;
        let entry = self.read32(u64::from(vector) * 4);
        self.far((entry >> 16) as u16, entry as u16);
    }

    /// Calls INT `vector` with the current registers and runs until it returns.
    pub fn call(&mut self, vector: u8) {
        self.far(0x0000, 0x0600);
        self.regs.segments[SS] = 0x9000;
        self.set16(SP, 0x8000);
        self.regs.flags |= IF;
        self.interrupt(vector);
        assert_eq!(self.run((0x0000, 0x0600), 100_000), Stop::There, "INT {vector:#x}");
        assert_eq!(self.regs.gpr[SP] as u16, 0x8000);
    }

    pub fn carry(&self) -> bool {
        self.regs.flags & CF != 0
    }

    pub fn get(&self, register: usize) -> u16 {
        self.regs.gpr[register] as u16
    }

    /// Runs until CS:IP is `there`.
    pub fn run(&mut self, there: (u16, u16), limit: u64) -> Stop {
        let end = self.instructions + limit;
        while self.instructions < end {
            if (self.regs.segments[CS], self.regs.ip as u16) == there {
                return Stop::There;
            }
            if self.regs.flags & IF != 0 && self.deliver() {
                continue;
            }
            let opcode = self.fetch();
            self.instructions += 1;
            self.now = self.now.after(1);
            if opcode == 0xF4 {
                if !self.halt() {
                    return Stop::Dead;
                }
            } else {
                self.execute(opcode);
            }
            self.drain();
        }
        panic!("no end at {:x}:{:x}: {}", self.regs.segments[CS], self.regs.ip, self.debug);
    }

    /// Executes one instruction without looking for interrupts.
    pub fn step(&mut self) {
        let opcode = self.fetch();
        self.execute(opcode);
    }

    fn deliver(&mut self) -> bool {
        self.board.advance(&mut self.ram, self.now);
        if !self.board.interrupt_pending() {
            return false;
        }
        let Some(vector) = self.board.acknowledge_interrupt(self.now) else { return false };
        self.interrupts.push(vector);
        self.interrupt(vector);
        true
    }

    /// Waits for an interrupt: answers disk requests first, then lets time pass.
    fn halt(&mut self) -> bool {
        if self.regs.flags & IF == 0 {
            return false;
        }
        for _ in 0..1000 {
            self.board.advance(&mut self.ram, self.now);
            if self.board.interrupt_pending() {
                return true;
            }
            if !self.requests.is_empty() {
                self.answer();
                continue;
            }
            let Some(at) = self.board.deadline() else { return false };
            self.now = self.now.max(at);
        }
        false
    }

    fn drain(&mut self) {
        while let Some(output) = self.board.poll_output() {
            match output {
                Output::ConsoleTx { port: 0, bytes } => self.serial.extend(bytes),
                Output::Debug(byte) => self.debug.push(byte.into()),
                Output::Disk { disk, request, operation } => {
                    self.requests.push((disk, request, operation));
                }
                _ => {}
            }
        }
    }

    fn answer(&mut self) {
        let (disk, request, operation) = self.requests.remove(0);
        let content = &mut self.disks[usize::from(disk)];
        let result = match operation {
            DiskOperation::Read { lba, sectors } => {
                let span = lba..lba + u64::from(sectors);
                if self.bad_sectors.iter().any(|bad| span.contains(bad)) {
                    DiskResult::Failed
                } else {
                    let first = lba as usize * 512;
                    DiskResult::Data(content[first..first + sectors as usize * 512].to_vec())
                }
            }
            DiskOperation::Write { lba, data } => {
                let first = lba as usize * 512;
                content[first..first + data.len()].copy_from_slice(&data);
                DiskResult::Done
            }
            DiskOperation::Flush => DiskResult::Done,
        };
        self.board.input(&mut self.ram, self.now, Input::DiskDone { disk, request, result });
        self.drain();
    }

    fn execute(&mut self, opcode: u8) {
        match opcode {
            0x1E => self.push(self.regs.segments[DS]),
            0x1F => self.regs.segments[DS] = self.pop(),
            0x31 => {
                assert_eq!(self.fetch(), 0xC0, "xor ax, ax");
                self.set16(AX, 0);
            }
            0x50..=0x57 => self.push(self.regs.gpr[usize::from(opcode & 7)] as u16),
            0x58..=0x5F => {
                let value = self.pop();
                self.set16(usize::from(opcode & 7), value);
            }
            0x72 | 0x73 | 0xEB => {
                let distance = self.fetch() as i8 as u16;
                let taken = opcode == 0xEB || self.carry() == (opcode == 0x72);
                if taken {
                    self.jump(distance);
                }
            }
            0x83 => {
                assert_eq!(self.fetch(), 0xC4, "add sp");
                let value = self.fetch();
                self.set16(SP, (self.regs.gpr[SP] as u16).wrapping_add(value.into()));
            }
            0x88 => {
                assert_eq!(self.fetch(), 0xC4, "mov ah, al");
                let al = self.regs.gpr[AX] & 0xFF;
                self.set16(AX, (al << 8 | al) as u16);
            }
            0x8E => match self.fetch() {
                0xD0 => self.regs.segments[SS] = self.regs.gpr[AX] as u16,
                0xD8 => self.regs.segments[DS] = self.regs.gpr[AX] as u16,
                other => panic!("mov sreg {other:#x}"),
            },
            0xB0 => {
                let value = self.fetch();
                self.set_al(value);
            }
            0xB4 => {
                let value = self.fetch();
                self.regs.gpr[AX] = self.regs.gpr[AX] & !0xFF00 | u64::from(value) << 8;
            }
            0xB8..=0xBF => {
                let value = self.fetch16();
                self.set16(usize::from(opcode & 7), value);
            }
            _ => self.execute_control(opcode),
        }
    }

    fn execute_control(&mut self, opcode: u8) {
        match opcode {
            0xCB => {
                let (offset, segment) = (self.pop(), self.pop());
                self.far(segment, offset);
            }
            0xCD => {
                let vector = self.fetch();
                self.interrupt(vector);
            }
            0xCF => {
                let (offset, segment, flags) = (self.pop(), self.pop(), self.pop());
                self.far(segment, offset);
                self.regs.flags = flags.into();
            }
            0xE4 => {
                let port = self.fetch();
                let value = self.board.port_read(&mut self.ram, self.now, port.into(), 1);
                self.set_al(value as u8);
            }
            0xE6 => {
                let port = u16::from(self.fetch());
                let al = self.regs.gpr[AX] as u8;
                if port == SERVICE_PORT {
                    let (ram, board) = (&mut self.ram, &mut self.board);
                    firmware::service(al, &mut self.regs, ram, board, self.now);
                } else {
                    self.board.port_write(&mut self.ram, self.now, port, 1, al.into());
                }
            }
            0xE9 => {
                let distance = self.fetch16();
                self.jump(distance);
            }
            0xEA => {
                let (offset, segment) = (self.fetch16(), self.fetch16());
                self.far(segment, offset);
            }
            0xF9 => self.regs.flags |= CF,
            0xFA => self.regs.flags &= !IF,
            // The shadow of STI: the next instruction comes first.
            0xFB => {
                self.regs.flags |= IF;
                let next = self.fetch();
                self.instructions += 1;
                if next == 0xF4 {
                    assert!(self.halt(), "nothing wakes the processor: {}", self.debug);
                } else {
                    self.execute(next);
                }
            }
            0xFF => self.execute_indirect(),
            other => panic!("{other:#x} at {:x}:{:x}", self.regs.segments[CS], self.regs.ip),
        }
    }

    fn execute_indirect(&mut self) {
        let (kind, offset) = (self.fetch(), self.fetch16());
        let at = self.at(DS, offset);
        match kind {
            0x36 => self.push(self.read16(at)),
            0x2E => self.far(self.read16(at + 2), self.read16(at)),
            0x1E => {
                let sp = self.get(SP);
                self.stack_at_far_call =
                    (0..4).map(|n| self.read16(self.at(SS, sp + 2 * n))).collect();
                self.push(self.regs.segments[CS]);
                self.push(self.regs.ip as u16);
                self.far(self.read16(at + 2), self.read16(at));
            }
            other => panic!("FF /{other:#x}"),
        }
    }
}
