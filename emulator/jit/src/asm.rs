//! The emitter: x86-64 instructions as bytes.
//!
//! Contract: instructions are appended to [`Asm::bytes`], which will lie at [`Asm::base`]. Operand
//! sizes are in bytes (1, 2, 4 or 8). Byte registers are always AL-R15B, never AH-BH. Nothing here
//! knows of guests.

/// Host registers by number.
pub mod reg {
    #![allow(missing_docs)]
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RBX: u8 = 3;
    pub const RSP: u8 = 4;
    pub const RBP: u8 = 5;
    pub const RSI: u8 = 6;
    pub const RDI: u8 = 7;
    pub const R8: u8 = 8;
    pub const R9: u8 = 9;
    pub const R10: u8 = 10;
    pub const R11: u8 = 11;
    pub const R12: u8 = 12;
    pub const R13: u8 = 13;
    pub const R14: u8 = 14;
    pub const R15: u8 = 15;
}

/// A register or memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rm {
    /// A register.
    Reg(u8),
    /// Base and displacement.
    Mem(u8, i32),
    /// Base, index (not RSP), log2 of the scale, displacement.
    Sib(u8, u8, u8, i32),
    /// Index, log2 of the scale, displacement; no base.
    Index(u8, u8, i32),
}

/// Binary operations by bits 5:3 of their opcodes.
pub mod alu {
    #![allow(missing_docs)]
    pub const ADD: u8 = 0;
    pub const OR: u8 = 1;
    pub const ADC: u8 = 2;
    pub const SBB: u8 = 3;
    pub const AND: u8 = 4;
    pub const SUB: u8 = 5;
    pub const XOR: u8 = 6;
    pub const CMP: u8 = 7;
}

/// A place in the code that a jump leads to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Label {
    at: Option<usize>,
}

/// A jump whose target is to be filled in.
#[derive(Clone, Copy, Debug)]
pub struct Jump {
    /// Offset of its displacement.
    pub at: usize,
    short: bool,
}

/// Up to eight bytes of an instruction, the first in the lowest.
#[derive(Clone, Copy, Default)]
struct Encoded {
    bytes: u64,
    len: u32,
}

impl Encoded {
    #[inline(always)]
    fn byte(&mut self, b: u8) {
        self.bytes |= u64::from(b) << (8 * self.len);
        self.len += 1;
    }

    #[inline(always)]
    fn dword(&mut self, v: i32) {
        self.bytes |= u64::from(v as u32) << (8 * self.len);
        self.len += 4;
    }

    fn operand(&mut self, reg: u8, rm: Rm) {
        let reg = (reg & 7) << 3;
        match rm {
            Rm::Reg(r) => self.byte(0xC0 | reg | (r & 7)),
            Rm::Mem(base, disp) => {
                let sib = base & 7 == 4;
                let mode = displacement_mode(base, disp);
                self.byte(mode | reg | (base & 7));
                if sib {
                    self.byte(0x24);
                }
                self.displacement(mode, disp);
            }
            Rm::Sib(base, index, scale, disp) => {
                let mode = displacement_mode(base, disp);
                self.byte(mode | reg | 4);
                self.byte(scale << 6 | (index & 7) << 3 | (base & 7));
                self.displacement(mode, disp);
            }
            Rm::Index(index, scale, disp) => {
                self.byte(reg | 4);
                self.byte(scale << 6 | (index & 7) << 3 | 5);
                self.dword(disp);
            }
        }
    }

    fn displacement(&mut self, mode: u8, disp: i32) {
        match mode {
            0x40 => self.byte(disp as u8),
            0x80 => self.dword(disp),
            _ => {}
        }
    }
}

/// Code in the making.
#[derive(Default)]
pub struct Asm {
    /// The code so far.
    pub bytes: Vec<u8>,
    /// Address of its first byte where it will be executed.
    pub base: usize,
}

impl Asm {
    /// No code, to be executed at `base`.
    pub fn new(base: usize) -> Self {
        Self { bytes: Vec::with_capacity(4096), base }
    }

    /// Address of the next instruction.
    pub fn here(&self) -> usize {
        self.base + self.bytes.len()
    }

    #[inline(always)]
    fn byte(&mut self, b: u8) {
        self.bytes.push(b);
    }

    /// Appends what was put together.
    #[inline(always)]
    fn append(&mut self, e: Encoded) {
        self.bytes.reserve(8);
        let len = self.bytes.len();
        debug_assert!(e.len <= 8, "{} bytes at once", e.len);
        // SAFETY: room for 8 bytes behind the last one was just reserved; `len` grows over bytes
        // that were written, at most 8.
        unsafe {
            self.bytes.as_mut_ptr().add(len).cast::<u64>().write_unaligned(e.bytes.to_le());
            self.bytes.set_len(len + e.len.min(8) as usize);
        }
    }

    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn dword(&mut self, v: i32) {
        self.raw(&v.to_le_bytes());
    }

    /// An instruction with a ModRM byte. `opcode` has up to three bytes, `0F` and `0F38` included;
    /// `prefix` is a mandatory prefix or 0. `bytes` says which of the operands (1: reg, 2: rm) are
    /// byte registers.
    fn modrm(&mut self, prefix: u8, opcode: u32, size: u8, bytes: u8, reg: u8, rm: Rm) {
        let mut e = Encoded::default();
        if size == 2 {
            e.byte(0x66);
        }
        if prefix != 0 {
            e.byte(prefix);
        }
        let (b, x) = match rm {
            Rm::Reg(r) | Rm::Mem(r, _) => (r, 0),
            Rm::Sib(b, i, ..) => (b, i),
            Rm::Index(i, ..) => (0, i),
        };
        let rex = u8::from(size == 8) << 3 | (reg >> 3) << 2 | (x >> 3) << 1 | b >> 3;
        let low_byte =
            (bytes & 1 != 0 && reg >= 4) || (bytes & 2 != 0 && matches!(rm, Rm::Reg(r) if r >= 4));
        if rex != 0 || low_byte {
            e.byte(0x40 | rex);
        }
        if opcode > 0xFFFF {
            e.byte((opcode >> 16) as u8);
        }
        if opcode > 0xFF {
            e.byte((opcode >> 8) as u8);
        }
        e.byte(opcode as u8);
        self.append(e);
        let mut e = Encoded::default();
        e.operand(reg, rm);
        self.append(e);
    }

    fn plain(&mut self, opcode: u32, size: u8, reg: u8, rm: Rm) {
        // Of the one-byte opcodes those with bit 0 clear are the byte forms.
        if size == 1 {
            self.modrm(0, opcode & !1, 1, 3, reg, rm);
        } else {
            self.modrm(0, opcode, size, 0, reg, rm);
        }
    }

    /// `op rm, reg`.
    pub fn alu_to(&mut self, op: u8, size: u8, rm: Rm, reg: u8) {
        self.plain(u32::from(op << 3 | 1), size, reg, rm);
    }

    /// `op reg, rm`.
    pub fn alu_from(&mut self, op: u8, size: u8, reg: u8, rm: Rm) {
        self.plain(u32::from(op << 3 | 3), size, reg, rm);
    }

    /// `op rm, imm`, of which `size` bytes (at most 4, sign-extended) count.
    pub fn alu_imm(&mut self, op: u8, size: u8, rm: Rm, imm: i32) {
        let short = i32::from(imm as i8) == imm;
        if size == 1 {
            self.modrm(0, 0x80, 1, 2, op, rm);
            self.byte(imm as u8);
        } else if short {
            self.modrm(0, 0x83, size, 0, op, rm);
            self.byte(imm as u8);
        } else {
            self.modrm(0, 0x81, size, 0, op, rm);
            self.immediate(size, imm);
        }
    }

    fn immediate(&mut self, size: u8, imm: i32) {
        match size {
            1 => self.byte(imm as u8),
            2 => self.raw(&(imm as i16).to_le_bytes()),
            _ => self.dword(imm),
        }
    }

    /// `test rm, reg`.
    pub fn test(&mut self, size: u8, rm: Rm, reg: u8) {
        self.plain(0x85, size, reg, rm);
    }

    /// `test rm, imm`.
    pub fn test_imm(&mut self, size: u8, rm: Rm, imm: i32) {
        self.unary(0, size, rm);
        self.immediate(size, imm);
    }

    /// The group of F6/F7: 0 TEST (without its immediate), 2 NOT, 3 NEG, 4 MUL, 5 IMUL, 6 DIV,
    /// 7 IDIV.
    pub fn unary(&mut self, op: u8, size: u8, rm: Rm) {
        if size == 1 {
            self.modrm(0, 0xF6, 1, 2, op, rm);
        } else {
            self.modrm(0, 0xF7, size, 0, op, rm);
        }
    }

    /// INC (0) or DEC (1).
    pub fn step(&mut self, op: u8, size: u8, rm: Rm) {
        if size == 1 {
            self.modrm(0, 0xFE, 1, 2, op, rm);
        } else {
            self.modrm(0, 0xFF, size, 0, op, rm);
        }
    }

    /// `mov reg, rm`.
    pub fn load(&mut self, size: u8, reg: u8, rm: Rm) {
        self.plain(0x8B, size, reg, rm);
    }

    /// `mov rm, reg`.
    pub fn store(&mut self, size: u8, rm: Rm, reg: u8) {
        self.plain(0x89, size, reg, rm);
    }

    /// `mov reg, reg` of 64 bits; nothing for the same register.
    pub fn mov(&mut self, to: u8, from: u8) {
        if to != from {
            self.load(8, to, Rm::Reg(from));
        }
    }

    /// `mov rm, imm`, sign-extended from at most 32 bits.
    pub fn store_imm(&mut self, size: u8, rm: Rm, imm: i32) {
        if size == 1 {
            self.modrm(0, 0xC6, 1, 2, 0, rm);
        } else {
            self.modrm(0, 0xC7, size, 0, 0, rm);
        }
        self.immediate(size, imm);
    }

    /// Sets all of a register, leaving the flags alone.
    pub fn set(&mut self, reg: u8, v: u64) {
        if u64::from(v as u32) == v {
            if reg >= 8 {
                self.byte(0x41);
            }
            self.byte(0xB8 | (reg & 7));
            self.dword(v as i32);
        } else if v as i32 as i64 as u64 == v {
            self.store_imm(8, Rm::Reg(reg), v as i32);
        } else {
            self.byte(0x48 | reg >> 3);
            self.byte(0xB8 | (reg & 7));
            self.raw(&v.to_le_bytes());
        }
    }

    /// MOVZX to 32 bits, or MOVSX to `size`, from `from` bytes.
    pub fn extend(&mut self, sign: bool, size: u8, from: u8, reg: u8, rm: Rm) {
        let bytes = if from == 1 { 2 } else { 0 };
        match (sign, from) {
            (false, 1) => self.modrm(0, 0x0FB6, size, bytes, reg, rm),
            (false, 2) => self.modrm(0, 0x0FB7, size, bytes, reg, rm),
            (false, _) => self.load(4, reg, rm),
            (true, 1) => self.modrm(0, 0x0FBE, size, bytes, reg, rm),
            (true, 2) => self.modrm(0, 0x0FBF, size, bytes, reg, rm),
            (true, _) => self.modrm(0, 0x63, size, 0, reg, rm),
        }
    }

    /// `lea reg, rm` of 4 or 8 bytes; a move where that is enough.
    pub fn lea(&mut self, size: u8, reg: u8, rm: Rm) {
        match rm {
            Rm::Mem(base, 0) if size == 8 => self.mov(reg, base),
            Rm::Mem(base, 0) => self.load(size, reg, Rm::Reg(base)),
            Rm::Reg(_) => {}
            _ => self.modrm(0, 0x8D, size, 0, reg, rm),
        }
    }

    /// Shift or rotate by an immediate: 0 ROL, 1 ROR, 2 RCL, 3 RCR, 4 SHL, 5 SHR, 7 SAR.
    pub fn shift(&mut self, op: u8, size: u8, rm: Rm, count: u8) {
        let bytes = if size == 1 { 2 } else { 0 };
        if count == 1 {
            self.modrm(0, if size == 1 { 0xD0 } else { 0xD1 }, size, bytes, op, rm);
        } else {
            self.modrm(0, if size == 1 { 0xC0 } else { 0xC1 }, size, bytes, op, rm);
            self.byte(count);
        }
    }

    /// Shift or rotate by CL.
    pub fn shift_cl(&mut self, op: u8, size: u8, rm: Rm) {
        let bytes = if size == 1 { 2 } else { 0 };
        self.modrm(0, if size == 1 { 0xD2 } else { 0xD3 }, size, bytes, op, rm);
    }

    /// `rorx reg, rm, count` (BMI2): no flags.
    pub fn rorx(&mut self, size: u8, reg: u8, rm: u8, count: u8) {
        // VEX.LZ.F2.0F3A.W F0 /r ib
        self.byte(0xC4);
        self.byte((!reg >> 3 & 1) << 7 | 1 << 6 | (!rm >> 3 & 1) << 5 | 3);
        self.byte(u8::from(size == 8) << 7 | 0x7B);
        self.byte(0xF0);
        self.byte(0xC0 | (reg & 7) << 3 | (rm & 7));
        self.byte(count);
    }

    /// SHLX (`op` 4), SHRX (5) or SARX (7) of `rm` by `count` into `reg` (BMI2): no flags.
    pub fn shiftx(&mut self, op: u8, size: u8, reg: u8, rm: u8, count: u8) {
        let prefix = match op {
            4 => 1,
            5 => 3,
            _ => 2,
        };
        self.byte(0xC4);
        self.byte((!reg >> 3 & 1) << 7 | 1 << 6 | (!rm >> 3 & 1) << 5 | 2);
        self.byte(u8::from(size == 8) << 7 | (!count & 15) << 3 | prefix);
        self.byte(0xF7);
        self.byte(0xC0 | (reg & 7) << 3 | (rm & 7));
    }

    /// `imul reg, rm`.
    pub fn imul(&mut self, size: u8, reg: u8, rm: Rm) {
        self.modrm(0, 0x0FAF, size, 0, reg, rm);
    }

    /// `imul reg, rm, imm`.
    pub fn imul_imm(&mut self, size: u8, reg: u8, rm: Rm, imm: i32) {
        self.modrm(0, 0x69, size, 0, reg, rm);
        self.immediate(size, imm);
    }

    /// An instruction of the two-byte map with register destination: `0F opcode`, with a mandatory
    /// prefix or 0.
    pub fn map_0f(&mut self, prefix: u8, opcode: u8, size: u8, reg: u8, rm: Rm) {
        self.modrm(prefix, 0x0F00 | u32::from(opcode), size, 0, reg, rm);
    }

    /// The same of the map `0F 38`.
    pub fn map_0f38(&mut self, prefix: u8, opcode: u8, size: u8, reg: u8, rm: Rm) {
        self.modrm(prefix, 0x0F_3800 | u32::from(opcode), size, 0, reg, rm);
    }

    /// `xadd rm, reg`.
    pub fn xadd(&mut self, size: u8, rm: Rm, reg: u8) {
        let bytes = if size == 1 { 3 } else { 0 };
        self.modrm(0, 0x0FC0 | u32::from(size != 1), size, bytes, reg, rm);
    }

    /// `cmpxchg rm, reg`.
    pub fn cmpxchg(&mut self, size: u8, rm: Rm, reg: u8) {
        let bytes = if size == 1 { 3 } else { 0 };
        self.modrm(0, 0x0FB0 | u32::from(size != 1), size, bytes, reg, rm);
    }

    /// An SSE instruction: mandatory prefix or 0, opcode with `0F`, `0F38` or `0F3A`, `size` 8 for
    /// REX.W.
    pub fn sse(&mut self, prefix: u8, opcode: u32, size: u8, reg: u8, rm: Rm) {
        self.modrm(prefix, opcode, size.max(4), 0, reg, rm);
    }

    /// `crc32 reg, rm` of `size` bytes: the register has 32 bits, or 64 for 8 bytes.
    pub fn crc32(&mut self, size: u8, reg: u8, rm: Rm) {
        if size == 1 {
            self.modrm(0xF2, 0x0F_38F0, 4, 2, reg, rm);
        } else {
            self.modrm(0xF2, 0x0F_38F1, size, 0, reg, rm);
        }
    }

    /// An x87 instruction with a memory operand, or a state to load or store.
    pub fn x87(&mut self, escape: u8, extension: u8, rm: Rm) {
        self.modrm(0, escape.into(), 4, 0, extension, rm);
    }

    /// `ldmxcsr rm`.
    pub fn ldmxcsr(&mut self, rm: Rm) {
        self.modrm(0, 0x0FAE, 4, 0, 2, rm);
    }

    /// `stmxcsr rm`.
    pub fn stmxcsr(&mut self, rm: Rm) {
        self.modrm(0, 0x0FAE, 4, 0, 3, rm);
    }

    /// BT (4), BTS (5), BTR (6) or BTC (7) with an immediate.
    pub fn bit_imm(&mut self, op: u8, size: u8, rm: Rm, bit: u8) {
        self.modrm(0, 0x0FBA, size, 0, op, rm);
        self.byte(bit);
    }

    /// BT (4), BTS (5), BTR (6) or BTC (7) by a register.
    pub fn bit(&mut self, op: u8, size: u8, rm: Rm, reg: u8) {
        self.modrm(0, 0x0F83 | u32::from(op) << 3, size, 0, reg, rm);
    }

    /// `cmovcc reg, rm`.
    pub fn cmov(&mut self, cc: u8, size: u8, reg: u8, rm: Rm) {
        self.map_0f(0, 0x40 | cc, size, reg, rm);
    }

    /// `setcc rm`.
    pub fn setcc(&mut self, cc: u8, rm: Rm) {
        self.modrm(0, 0x0F90 | u32::from(cc), 1, 2, 0, rm);
    }

    /// `bswap reg`.
    pub fn bswap(&mut self, size: u8, reg: u8) {
        let rex = u8::from(size == 8) << 3 | reg >> 3;
        if rex != 0 {
            self.byte(0x40 | rex);
        }
        self.byte(0x0F);
        self.byte(0xC8 | (reg & 7));
    }

    /// `xchg rm, reg`.
    pub fn xchg(&mut self, size: u8, rm: Rm, reg: u8) {
        self.plain(0x87, size, reg, rm);
    }

    /// LAHF.
    pub fn lahf(&mut self) {
        self.byte(0x9F);
    }

    /// SAHF.
    pub fn sahf(&mut self) {
        self.byte(0x9E);
    }

    /// CMC.
    pub fn cmc(&mut self) {
        self.byte(0xF5);
    }

    /// `mov ah, [base+disp]`.
    pub fn load_ah(&mut self, base: u8, disp: i32) {
        self.modrm(0, 0x8A, 1, 0, 4, Rm::Mem(base, disp));
    }

    /// PUSH of a 64-bit register.
    pub fn push(&mut self, reg: u8) {
        if reg >= 8 {
            self.byte(0x41);
        }
        self.byte(0x50 | (reg & 7));
    }

    /// POP of a 64-bit register.
    pub fn pop(&mut self, reg: u8) {
        if reg >= 8 {
            self.byte(0x41);
        }
        self.byte(0x58 | (reg & 7));
    }

    /// RET.
    pub fn ret(&mut self) {
        self.byte(0xC3);
    }

    /// `jmp rm`.
    pub fn jmp_rm(&mut self, rm: Rm) {
        self.modrm(0, 0xFF, 4, 0, 4, rm);
    }

    /// `call rm`.
    pub fn call_rm(&mut self, rm: Rm) {
        self.modrm(0, 0xFF, 4, 0, 2, rm);
    }

    /// `call` to an address within 2 GiB.
    pub fn call(&mut self, address: usize) {
        self.byte(0xE8);
        self.relative(address);
    }

    /// `jmp` to an address within 2 GiB.
    pub fn jmp(&mut self, address: usize) {
        self.byte(0xE9);
        self.relative(address);
    }

    fn relative(&mut self, address: usize) {
        let next = self.here() + 4;
        self.dword(address.wrapping_sub(next) as i32);
    }

    /// `jmp` with a 32-bit displacement, to be bound.
    pub fn jmp_far(&mut self) -> Jump {
        self.byte(0xE9);
        self.dword(0);
        Jump { at: self.bytes.len() - 4, short: false }
    }

    /// `jcc` with a 32-bit displacement, to be bound.
    pub fn jcc_far(&mut self, cc: u8) -> Jump {
        self.byte(0x0F);
        self.byte(0x80 | cc);
        self.dword(0);
        Jump { at: self.bytes.len() - 4, short: false }
    }

    /// `jcc` with an 8-bit displacement, to be bound nearby.
    pub fn jcc_near(&mut self, cc: u8) -> Jump {
        self.byte(0x70 | cc);
        self.byte(0);
        Jump { at: self.bytes.len() - 1, short: true }
    }

    /// `jmp` with an 8-bit displacement, to be bound nearby.
    pub fn jmp_near(&mut self) -> Jump {
        self.byte(0xEB);
        self.byte(0);
        Jump { at: self.bytes.len() - 1, short: true }
    }

    /// Makes `jump` lead here.
    pub fn bind(&mut self, jump: Jump) {
        let to = self.bytes.len();
        self.bind_at(jump, to);
    }

    /// Makes `jump` lead to the offset `to`.
    pub fn bind_at(&mut self, jump: Jump, to: usize) {
        if jump.short {
            let d = to as i64 - (jump.at as i64 + 1);
            assert!((-128..128).contains(&d), "a near jump of {d} bytes");
            self.bytes[jump.at] = d as u8;
        } else {
            let d = to as i64 - (jump.at as i64 + 4);
            self.bytes[jump.at..jump.at + 4].copy_from_slice(&(d as i32).to_le_bytes());
        }
    }

    /// Jumps back to `label`, which is bound.
    pub fn jmp_label(&mut self, label: Label) {
        let at = label.at.expect("bound before it is used");
        self.jmp(self.base + at);
    }

    /// A label for the next instruction.
    pub fn label(&self) -> Label {
        Label { at: Some(self.bytes.len()) }
    }
}

/// ModRM.mod for a base register and a displacement: none, 8 or 32 bits.
fn displacement_mode(base: u8, disp: i32) -> u8 {
    if disp == 0 && base & 7 != 5 {
        0
    } else if i32::from(disp as i8) == disp {
        0x40
    } else {
        0x80
    }
}

#[cfg(test)]
#[path = "asm_tests.rs"]
mod tests;
