//! The machine as the firmware sees it: ports, physical memory, data areas; and one call of a
//! service.
//!
//! Contract: nothing here panics whatever the guest has put into registers or memory.

use crate::Registers;
use crate::layout::{BDA, EBDA};
use devices::board::Board;
use devices::ram::{Ram, VGA};
use devices::time::VirtualNs;

/// Carry flag.
pub const CF: u16 = 1;
/// Zero flag.
pub const ZF: u16 = 1 << 6;
/// Interrupt flag.
pub const IF: u16 = 1 << 9;

/// Ports and memory at one instant.
pub struct Pc<'a> {
    /// Guest memory.
    pub ram: &'a mut Ram,
    /// The chips.
    pub board: &'a mut Board,
    /// Virtual time.
    pub now: VirtualNs,
}

impl Pc<'_> {
    /// IN AL, port.
    pub fn in8(&mut self, port: u16) -> u8 {
        self.board.port_read(self.ram, self.now, port, 1) as u8
    }

    /// IN AX, port.
    pub fn in16(&mut self, port: u16) -> u16 {
        self.board.port_read(self.ram, self.now, port, 2) as u16
    }

    /// IN EAX, port.
    pub fn in32(&mut self, port: u16) -> u32 {
        self.board.port_read(self.ram, self.now, port, 4)
    }

    /// OUT port, AL.
    pub fn out8(&mut self, port: u16, value: u8) {
        self.board.port_write(self.ram, self.now, port, 1, value.into());
    }

    /// OUT port, AX.
    pub fn out16(&mut self, port: u16, value: u16) {
        self.board.port_write(self.ram, self.now, port, 2, value.into());
    }

    /// OUT port, EAX.
    pub fn out32(&mut self, port: u16, value: u32) {
        self.board.port_write(self.ram, self.now, port, 4, value);
    }

    /// Reads a CMOS register.
    pub fn cmos(&mut self, register: u8) -> u8 {
        self.out8(0x70, register);
        self.in8(0x71)
    }

    /// Writes a CMOS register.
    pub fn set_cmos(&mut self, register: u8, value: u8) {
        self.out8(0x70, register);
        self.out8(0x71, value);
    }

    /// Reads a 32-bit device register in memory space.
    pub fn mmio_read32(&mut self, at: u64) -> u32 {
        self.board.mmio_read(self.ram, self.now, at, 4) as u32
    }

    /// Writes a 32-bit device register in memory space.
    pub fn mmio_write32(&mut self, at: u64, value: u32) {
        self.board.mmio_write(self.ram, self.now, at, 4, value.into());
    }

    /// The physical address of a real-mode `segment:offset`, as the A20 gate lets it through.
    pub fn linear(&self, segment: u16, offset: u16) -> u64 {
        let linear = (u64::from(segment) << 4) + u64::from(offset);
        if self.board.a20() { linear } else { linear & !(1 << 20) }
    }

    /// Reads physical memory; video memory through the VGA.
    pub fn read(&mut self, mut at: u64, mut out: &mut [u8]) {
        while !out.is_empty() {
            let n = run_length(at, out.len());
            let (head, tail) = out.split_at_mut(n);
            if VGA.contains(&at) {
                let value = self.board.mmio_read(self.ram, self.now, at, n as u8);
                head.copy_from_slice(&value.to_le_bytes()[..n]);
            } else {
                self.ram.dma_read(at, head);
            }
            at = at.wrapping_add(n as u64);
            out = tail;
        }
    }

    /// Writes physical memory; video memory through the VGA.
    pub fn write(&mut self, mut at: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let n = run_length(at, data.len());
            let (head, tail) = data.split_at(n);
            if VGA.contains(&at) {
                let mut value = [0; 8];
                value[..n].copy_from_slice(head);
                let value = u64::from_le_bytes(value);
                self.board.mmio_write(self.ram, self.now, at, n as u8, value);
            } else {
                self.ram.dma_write(at, head);
            }
            at = at.wrapping_add(n as u64);
            data = tail;
        }
    }

    /// One byte of physical memory.
    pub fn read8(&mut self, at: u64) -> u8 {
        let mut bytes = [0; 1];
        self.read(at, &mut bytes);
        bytes[0]
    }

    /// Two bytes of physical memory.
    pub fn read16(&mut self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.read(at, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Four bytes of physical memory.
    pub fn read32(&mut self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Eight bytes of physical memory.
    pub fn read64(&mut self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Stores one byte.
    pub fn write8(&mut self, at: u64, value: u8) {
        self.write(at, &[value]);
    }

    /// Stores two bytes.
    pub fn write16(&mut self, at: u64, value: u16) {
        self.write(at, &value.to_le_bytes());
    }

    /// Stores four bytes.
    pub fn write32(&mut self, at: u64, value: u32) {
        self.write(at, &value.to_le_bytes());
    }

    /// A byte of the BIOS data area.
    pub fn bda8(&mut self, offset: u64) -> u8 {
        self.read8(BDA + offset)
    }

    /// A word of the BIOS data area.
    pub fn bda16(&mut self, offset: u64) -> u16 {
        self.read16(BDA + offset)
    }

    /// A double word of the BIOS data area.
    pub fn bda32(&mut self, offset: u64) -> u32 {
        self.read32(BDA + offset)
    }

    /// Sets a byte of the BIOS data area.
    pub fn set_bda8(&mut self, offset: u64, value: u8) {
        self.write8(BDA + offset, value);
    }

    /// Sets a word of the BIOS data area.
    pub fn set_bda16(&mut self, offset: u64, value: u16) {
        self.write16(BDA + offset, value);
    }

    /// Sets a double word of the BIOS data area.
    pub fn set_bda32(&mut self, offset: u64, value: u32) {
        self.write32(BDA + offset, value);
    }

    /// A byte of the EBDA.
    pub fn ebda8(&mut self, offset: u64) -> u8 {
        self.read8(EBDA + offset)
    }

    /// Sets a byte of the EBDA.
    pub fn set_ebda8(&mut self, offset: u64, value: u8) {
        self.write8(EBDA + offset, value);
    }

    /// Bytes of RAM below the PCI hole.
    pub fn low_ram(&self) -> u64 {
        self.ram.size().min(devices::ram::HOLE)
    }
}

/// How many bytes to move at once: video memory takes aligned accesses of 1, 2, 4 or 8 bytes.
fn run_length(at: u64, len: usize) -> usize {
    if VGA.contains(&at) {
        [8, 4, 2, 1].into_iter().find(|&n| n <= len && at.is_multiple_of(n as u64)).unwrap_or(1)
    } else if at < VGA.start {
        len.min((VGA.start - at) as usize)
    } else {
        len
    }
}

/// How a service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The stub returns to the caller.
    Done,
    /// The stub enables interrupts, halts and asks again.
    Wait,
}

/// An interrupt call from a stub: the caller's registers, with AX and FLAGS in the stack frame.
///
/// The stub has pushed AX; below it lie the IP, CS and FLAGS of the INT instruction.
pub struct Call<'a> {
    /// The machine.
    pub pc: Pc<'a>,
    /// The CPU's registers.
    pub regs: &'a mut Registers,
    /// The caller's AX.
    pub ax: u16,
    /// The caller's FLAGS.
    pub flags: u16,
    /// Whether the stub asks again after a wait.
    pub again: bool,
}

/// Index of a register in [`Registers::gpr`].
#[derive(Clone, Copy)]
enum Gpr {
    A = 0,
    C = 1,
    D = 2,
    B = 3,
    Sp = 4,
    Bp = 5,
    Si = 6,
    Di = 7,
}

const ES: usize = 0;
const SS: usize = 2;
const DS: usize = 3;

macro_rules! word_register {
    ($get:ident, $gpr:expr, $name:literal) => {
        #[doc = concat!("The caller's ", $name, ".")]
        pub fn $get(&self) -> u16 {
            self.regs.gpr[$gpr as usize] as u16
        }
    };
    ($get:ident, $set:ident, $gpr:expr, $name:literal) => {
        word_register!($get, $gpr, $name);
        #[doc = concat!("Sets the caller's ", $name, ".")]
        pub fn $set(&mut self, value: u16) {
            let register = &mut self.regs.gpr[$gpr as usize];
            *register = *register & !0xFFFF | u64::from(value);
        }
    };
}

macro_rules! long_register {
    ($get:ident, $set:ident, $gpr:expr, $name:literal) => {
        #[doc = concat!("The caller's ", $name, ".")]
        pub fn $get(&self) -> u32 {
            self.regs.gpr[$gpr as usize] as u32
        }
        #[doc = concat!("Sets the caller's ", $name, ".")]
        pub fn $set(&mut self, value: u32) {
            self.regs.gpr[$gpr as usize] = value.into();
        }
    };
}

impl<'a> Call<'a> {
    /// Reads the frame.
    pub fn new(mut pc: Pc<'a>, regs: &'a mut Registers, again: bool) -> Self {
        let frame = Frame::of(regs);
        let ax = pc.read16(frame.at(&pc, 0));
        let flags = pc.read16(frame.at(&pc, 6));
        Self { pc, regs, ax, flags, again }
    }

    /// Writes the frame back and tells the stub whether to wait.
    pub fn finish(mut self, status: Status) {
        let frame = Frame::of(self.regs);
        let at = frame.at(&self.pc, 0);
        self.pc.write16(at, self.ax);
        let at = frame.at(&self.pc, 6);
        self.pc.write16(at, self.flags);
        set_carry(self.regs, status == Status::Wait);
    }

    word_register!(bx, set_bx, Gpr::B, "BX");
    word_register!(cx, set_cx, Gpr::C, "CX");
    word_register!(dx, set_dx, Gpr::D, "DX");
    word_register!(si, Gpr::Si, "SI");
    word_register!(di, Gpr::Di, "DI");
    word_register!(bp, set_bp, Gpr::Bp, "BP");
    long_register!(ebx, set_ebx, Gpr::B, "EBX");
    long_register!(ecx, set_ecx, Gpr::C, "ECX");
    long_register!(edx, set_edx, Gpr::D, "EDX");

    /// The caller's EAX: the stub leaves the upper half in the register.
    pub fn eax(&self) -> u32 {
        self.regs.gpr[Gpr::A as usize] as u32 & 0xFFFF_0000 | u32::from(self.ax)
    }

    /// Sets the caller's EAX.
    pub fn set_eax(&mut self, value: u32) {
        let low = self.regs.gpr[Gpr::A as usize] & 0xFFFF;
        self.regs.gpr[Gpr::A as usize] = u64::from(value & 0xFFFF_0000) | low;
        self.ax = value as u16;
    }

    /// The caller's AH.
    pub fn ah(&self) -> u8 {
        (self.ax >> 8) as u8
    }

    /// The caller's AL.
    pub fn al(&self) -> u8 {
        self.ax as u8
    }

    /// Sets the caller's AH.
    pub fn set_ah(&mut self, value: u8) {
        self.ax = self.ax & 0xFF | u16::from(value) << 8;
    }

    /// Sets the caller's AL.
    pub fn set_al(&mut self, value: u8) {
        self.ax = self.ax & 0xFF00 | u16::from(value);
    }

    /// The caller's BH, BL.
    pub fn bh_bl(&self) -> (u8, u8) {
        ((self.bx() >> 8) as u8, self.bx() as u8)
    }

    /// The caller's CH, CL.
    pub fn ch_cl(&self) -> (u8, u8) {
        ((self.cx() >> 8) as u8, self.cx() as u8)
    }

    /// The caller's DH, DL.
    pub fn dh_dl(&self) -> (u8, u8) {
        ((self.dx() >> 8) as u8, self.dx() as u8)
    }

    /// The caller's DS.
    pub fn ds(&self) -> u16 {
        self.regs.segments[DS]
    }

    /// The caller's ES.
    pub fn es(&self) -> u16 {
        self.regs.segments[ES]
    }

    /// Sets the caller's ES.
    pub fn set_es(&mut self, value: u16) {
        self.regs.segments[ES] = value;
    }

    /// Physical address of ES:`offset`.
    pub fn es_at(&self, offset: u16) -> u64 {
        self.pc.linear(self.es(), offset)
    }

    /// Physical address of DS:`offset`.
    pub fn ds_at(&self, offset: u16) -> u64 {
        self.pc.linear(self.ds(), offset)
    }

    /// Sets or clears the caller's carry flag.
    pub fn set_cf(&mut self, set: bool) {
        self.flags = if set { self.flags | CF } else { self.flags & !CF };
    }

    /// Sets or clears the caller's zero flag.
    pub fn set_zf(&mut self, set: bool) {
        self.flags = if set { self.flags | ZF } else { self.flags & !ZF };
    }

    /// Function not supported: AH = 86h, CF set (INT 15h).
    pub fn unsupported(&mut self) {
        self.set_ah(0x86);
        self.set_cf(true);
    }
}

/// The stub's stack.
struct Frame {
    segment: u16,
    sp: u16,
}

impl Frame {
    fn of(regs: &Registers) -> Self {
        Self { segment: regs.segments[SS], sp: regs.gpr[Gpr::Sp as usize] as u16 }
    }

    fn at(&self, pc: &Pc<'_>, offset: u16) -> u64 {
        pc.linear(self.segment, self.sp.wrapping_add(offset))
    }
}

/// Sets or clears CF in the CPU's own flags: the answer to the stub.
pub fn set_carry(regs: &mut Registers, set: bool) {
    regs.flags = if set { regs.flags | u64::from(CF) } else { regs.flags & !u64::from(CF) };
}

/// Leaves the stub's IRET to `segment:offset` with `flags` on a new stack.
pub fn iret_to(
    pc: &mut Pc<'_>,
    regs: &mut Registers,
    stack: (u16, u16),
    target: (u16, u16),
    flags: u16,
) {
    let sp = stack.1.wrapping_sub(6);
    for (offset, value) in [(0, target.1), (2, target.0), (4, flags)] {
        let at = pc.linear(stack.0, sp.wrapping_add(offset));
        pc.write16(at, value);
    }
    regs.segments[SS] = stack.0;
    regs.gpr[Gpr::Sp as usize] = sp.into();
}
