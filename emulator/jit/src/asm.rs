//! The emitter: x86-64 instructions as bytes.
//!
//! Contract: instructions are appended to [`Asm::bytes`], which will lie at [`Asm::base`]. Operand
//! sizes are in bytes (1, 2, 4 or 8). Byte registers are always AL-R15B, never AH-BH. Nothing here
//! knows of guests.

use core::ops::{Deref, DerefMut};

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

impl Jump {
    /// One with a displacement of 32 bits at offset `at`.
    pub fn far(at: usize) -> Self {
        Self { at, short: false }
    }
}

/// Room that there always is behind the code: more bytes than an instruction has, and than
/// [`Room`] writes ahead of it.
const ROOM: usize = 64;

/// Code as bytes.
pub struct Code(Vec<u8>);

impl Default for Code {
    fn default() -> Self {
        Self(Vec::with_capacity(4096))
    }
}

impl Deref for Code {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Code {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Code {
    /// Forgets the code.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// What lies behind the code: at least [`ROOM`] bytes.
    #[inline(always)]
    fn room(&mut self) -> *mut u8 {
        debug_assert!(self.0.capacity() - self.0.len() >= ROOM, "the room is kept");
        self.0.spare_capacity_mut().as_mut_ptr().cast()
    }

    /// The first `count` bytes of the room have become code.
    ///
    /// # Safety
    /// They were written, and are no more than [`ROOM`].
    #[inline(always)]
    unsafe fn append(&mut self, count: usize) {
        let len = self.0.len() + count;
        // SAFETY: those before were code, those after were written, says the caller.
        unsafe { self.0.set_len(len) };
        if self.0.capacity() - len < ROOM {
            self.grow();
        }
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        self.0.reserve(4096);
    }
}

/// Where the bytes of an instruction are put, not counted before they are all there. What is not
/// wanted is written as well and overwritten, which saves branches.
struct Room<'a> {
    code: &'a mut Code,
    /// Behind the last byte.
    at: *mut u8,
}

impl<'a> Room<'a> {
    #[inline(always)]
    fn new(code: &'a mut Code) -> Self {
        let at = code.room();
        Self { code, at }
    }

    /// Bytes put so far.
    #[inline(always)]
    fn len(&self) -> usize {
        self.at.addr() - self.code.as_ptr().addr() - self.code.len()
    }

    #[inline(always)]
    fn byte(&mut self, b: u8) {
        self.byte_if(true, b);
    }

    #[inline(always)]
    fn byte_if(&mut self, wanted: bool, b: u8) {
        debug_assert!(self.len() < ROOM, "the room is taken");
        // SAFETY: `new` made room for `ROOM` bytes behind the code; an instruction has at most 15,
        // which the `debug_assert` holds over all forms in the tests of the emitter.
        unsafe {
            self.at.write(b);
            self.at = self.at.add(usize::from(wanted));
        }
    }

    /// The lowest `len` of four bytes.
    #[inline(always)]
    fn dword(&mut self, len: usize, v: u32) {
        debug_assert!(self.len() + 4 <= ROOM && len <= 4, "the room is taken");
        // SAFETY: as in `byte_if`; up to three bytes are written ahead of those that count.
        unsafe {
            self.at.cast::<u32>().write_unaligned(v.to_le());
            self.at = self.at.add(len);
        }
    }

    /// The lowest `len` of eight bytes.
    #[inline(always)]
    fn qword(&mut self, len: usize, v: u64) {
        debug_assert!(self.len() + 8 <= ROOM && len <= 8, "the room is taken");
        // SAFETY: as in `byte_if`.
        unsafe {
            self.at.cast::<u64>().write_unaligned(v.to_le());
            self.at = self.at.add(len);
        }
    }

    /// All of these.
    #[inline(always)]
    fn all<const N: usize>(&mut self, bytes: [u8; N]) {
        debug_assert!(self.len() + N <= ROOM, "the room is taken");
        // SAFETY: as in `byte_if`.
        unsafe {
            self.at.cast::<[u8; N]>().write_unaligned(bytes);
            self.at = self.at.add(N);
        }
    }

    /// All bytes are there.
    #[inline(always)]
    fn done(self) {
        let len = self.len();
        // SAFETY: those before `self.at` were written, which are no more than an instruction has.
        unsafe { self.code.append(len) };
    }
}

/// An operand as it is encoded.
struct Operand {
    /// ModRM without its register.
    modrm: u8,
    sib: Option<u8>,
    /// REX.X and REX.B.
    rex: u8,
    disp: i32,
    /// Bytes of the displacement.
    len: usize,
}

impl Operand {
    #[inline(always)]
    fn of(rm: Rm) -> Self {
        match rm {
            Rm::Reg(r) => Self { modrm: 0xC0 | r & 7, sib: None, rex: r >> 3, disp: 0, len: 0 },
            Rm::Mem(base, disp) => {
                let (mode, len) = displacement(base, disp);
                let sib = (base & 7 == 4).then_some(0x24);
                Self { modrm: mode | base & 7, sib, rex: base >> 3, disp, len }
            }
            Rm::Sib(base, index, scale, disp) => {
                let (mode, len) = displacement(base, disp);
                let sib = Some(scale << 6 | (index & 7) << 3 | base & 7);
                let rex = (index >> 3) << 1 | base >> 3;
                Self { modrm: mode | 4, sib, rex, disp, len }
            }
            Rm::Index(index, scale, disp) => {
                let sib = Some(scale << 6 | (index & 7) << 3 | 5);
                Self { modrm: 4, sib, rex: (index >> 3) << 1, disp, len: 4 }
            }
        }
    }
}

/// What an instruction with a ModRM byte is made of, but for its operands: see [`Asm::modrm`].
#[derive(Clone, Copy)]
struct Form {
    prefix: u8,
    opcode: u32,
    size: u8,
    bytes: u8,
    /// Bytes of the immediate.
    immediate: u8,
}

/// Code in the making.
#[derive(Default)]
pub struct Asm {
    /// The code so far.
    pub bytes: Code,
    /// Address of its first byte where it will be executed.
    pub base: usize,
}

impl Asm {
    /// No code, to be executed at `base`.
    pub fn new(base: usize) -> Self {
        Self { bytes: Code::default(), base }
    }

    /// Address of the next instruction.
    pub fn here(&self) -> usize {
        self.base + self.bytes.len()
    }

    #[inline(always)]
    fn byte(&mut self, b: u8) {
        self.fixed([b]);
    }

    /// Appends the first `len` of `bytes`, which are copied at once.
    #[inline(always)]
    pub fn copied<const N: usize>(&mut self, bytes: &[u8; N], len: usize) {
        const { assert!(N <= ROOM, "no more than there is room for") };
        assert!(len <= N, "no more than there is");
        let room = self.bytes.room();
        // SAFETY: there is room for `N` bytes.
        unsafe { room.cast::<[u8; N]>().write_unaligned(*bytes) };
        // SAFETY: they were written just now.
        unsafe { self.bytes.append(len) };
    }

    /// Appends a sequence of which all bytes are known: at once, which matters for those that every
    /// block has.
    #[inline(always)]
    pub fn fixed<const N: usize>(&mut self, bytes: [u8; N]) {
        const { assert!(N <= ROOM, "no more than there is room for") };
        let mut room = Room::new(&mut self.bytes);
        room.all(bytes);
        room.done();
    }

    /// `mov eax, v`, then `call` or `jmp` to an address within 2 GiB.
    fn set_and_go(&mut self, v: u64, opcode: u8, address: usize) {
        let Ok(v) = u32::try_from(v) else {
            self.set(reg::RAX, v);
            self.relative(opcode, address);
            return;
        };
        let next = self.here() + 10;
        let to = (address.wrapping_sub(next) as u32).to_le_bytes();
        let v = v.to_le_bytes();
        self.fixed([0xB8, v[0], v[1], v[2], v[3], opcode, to[0], to[1], to[2], to[3]]);
    }

    /// Sets RAX and calls.
    pub fn call_with(&mut self, v: u64, address: usize) {
        self.set_and_go(v, 0xE8, address);
    }

    /// Sets RAX and jumps.
    pub fn jmp_with(&mut self, v: u64, address: usize) {
        self.set_and_go(v, 0xE9, address);
    }

    /// An instruction with a ModRM byte. `opcode` has up to three bytes, `0F` and `0F38` included;
    /// `prefix` is a mandatory prefix or 0. `bytes` says which of the operands (1: reg, 2: rm) are
    /// byte registers.
    #[inline(always)]
    fn modrm(&mut self, prefix: u8, opcode: u32, size: u8, bytes: u8, reg: u8, rm: Rm) {
        self.whole(Form { prefix, opcode, size, bytes, immediate: 0 }, reg, rm, 0);
    }

    /// The same with an immediate.
    fn whole(&mut self, form: Form, reg: u8, rm: Rm, immediate: i32) {
        let Form { prefix, opcode, size, bytes, .. } = form;
        let operand = Operand::of(rm);
        let mut room = Room::new(&mut self.bytes);
        room.byte_if(size == 2, 0x66);
        room.byte_if(prefix != 0, prefix);
        let rex = u8::from(size == 8) << 3 | (reg >> 3) << 2 | operand.rex;
        // Of SPL, BPL, SIL and DIL, and in passing those behind them.
        let low = (bytes & 1 != 0) & (reg >= 4) | (bytes & 2 != 0) & (operand.modrm >= 0xC4);
        room.byte_if((rex != 0) | low, 0x40 | rex);
        room.byte_if(opcode > 0xFFFF, (opcode >> 16) as u8);
        room.byte_if(opcode > 0xFF, (opcode >> 8) as u8);
        room.byte(opcode as u8);
        room.byte(operand.modrm | (reg & 7) << 3);
        room.byte_if(operand.sib.is_some(), operand.sib.unwrap_or(0));
        room.dword(operand.len, operand.disp as u32);
        room.dword(form.immediate.into(), immediate as u32);
        room.done();
    }

    #[inline]
    fn plain(&mut self, opcode: u8, size: u8, reg: u8, rm: Rm) {
        match size {
            4 | 8 => self.usual(opcode, size, reg, rm),
            _ => self.narrow(opcode, size, reg, rm),
        }
    }

    /// The same with operands of 1 or 2 bytes: of the one-byte opcodes those with bit 0 clear are
    /// the byte forms.
    fn narrow(&mut self, opcode: u8, size: u8, reg: u8, rm: Rm) {
        let (opcode, bytes) = if size == 1 { (opcode & !1, 3) } else { (opcode, 0) };
        self.modrm(0, opcode.into(), size, bytes, reg, rm);
    }

    /// An instruction with one byte of opcode and operands of 4 or 8 bytes: most are, and they fit
    /// a register of the host.
    #[inline]
    fn usual(&mut self, opcode: u8, size: u8, reg: u8, rm: Rm) {
        match rm {
            Rm::Reg(r) => self.registers(opcode, size, reg, r),
            Rm::Mem(base, disp) if base & 7 != 4 => self.based(opcode, size, reg, base, disp),
            _ => self.long(opcode, size, reg, rm),
        }
    }

    fn registers(&mut self, opcode: u8, size: u8, reg: u8, r: u8) {
        let modrm = 0xC0 | (reg & 7) << 3 | r & 7;
        self.short(opcode, size, (reg >> 3) << 2 | r >> 3, modrm.into(), 1);
    }

    fn based(&mut self, opcode: u8, size: u8, reg: u8, base: u8, disp: i32) {
        let (mode, len) = displacement(base, disp);
        let modrm = mode | (reg & 7) << 3 | base & 7;
        let rest = u64::from(disp as u32) << 8 | u64::from(modrm);
        self.short(opcode, size, (reg >> 3) << 2 | base >> 3, rest, 1 + len);
    }

    /// REX if that is needed, the opcode, and `len` bytes of `rest`, at most five.
    #[inline(always)]
    fn short(&mut self, opcode: u8, size: u8, rex: u8, rest: u64, len: usize) {
        let rex = u64::from(u8::from(size == 8) << 3 | rex);
        let plain = rest << 8 | u64::from(opcode);
        let prefixed = rex != 0;
        let mut room = Room::new(&mut self.bytes);
        let bytes = if prefixed { plain << 8 | 0x40 | rex } else { plain };
        room.qword(1 + len + usize::from(prefixed), bytes);
        room.done();
    }

    /// [`Asm::usual`] with a SIB byte.
    fn long(&mut self, opcode: u8, size: u8, reg: u8, rm: Rm) {
        let Operand { modrm, sib, rex, disp, len } = Operand::of(rm);
        let rex = u64::from(u8::from(size == 8) << 3 | (reg >> 3) << 2 | rex);
        let mut bytes = u64::from(disp as u32) << (8 * u32::from(sib.is_some()));
        bytes |= u64::from(sib.unwrap_or(0));
        bytes = bytes << 16 | u64::from(modrm | (reg & 7) << 3) << 8 | u64::from(opcode);
        let prefixed = rex != 0;
        bytes = bytes << (8 * u32::from(prefixed)) | if prefixed { 0x40 | rex } else { 0 };
        let mut room = Room::new(&mut self.bytes);
        room.qword(2 + len + usize::from(sib.is_some()) + usize::from(prefixed), bytes);
        room.done();
    }

    /// `op rm, reg`.
    #[inline]
    pub fn alu_to(&mut self, op: u8, size: u8, rm: Rm, reg: u8) {
        self.plain(op << 3 | 1, size, reg, rm);
    }

    /// `op reg, rm`.
    #[inline]
    pub fn alu_from(&mut self, op: u8, size: u8, reg: u8, rm: Rm) {
        self.plain(op << 3 | 3, size, reg, rm);
    }

    /// `op rm, imm`, of which `size` bytes (at most 4, sign-extended) count.
    pub fn alu_imm(&mut self, op: u8, size: u8, rm: Rm, imm: i32) {
        let short = i32::from(imm as i8) == imm;
        let (opcode, bytes, immediate) = match size {
            1 => (0x80, 2, 1),
            _ if short => (0x83, 0, 1),
            _ => (0x81, 0, size.min(4)),
        };
        self.whole(Form { prefix: 0, opcode, size, bytes, immediate }, op, rm, imm);
    }

    /// `test rm, reg`.
    #[inline]
    pub fn test(&mut self, size: u8, rm: Rm, reg: u8) {
        self.plain(0x85, size, reg, rm);
    }

    /// `test rm, imm`.
    pub fn test_imm(&mut self, size: u8, rm: Rm, imm: i32) {
        let (opcode, bytes) = if size == 1 { (0xF6, 2) } else { (0xF7, 0) };
        let immediate = size.min(4);
        self.whole(Form { prefix: 0, opcode, size, bytes, immediate }, 0, rm, imm);
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
    #[inline]
    pub fn load(&mut self, size: u8, reg: u8, rm: Rm) {
        self.plain(0x8B, size, reg, rm);
    }

    /// `mov rm, reg`.
    #[inline]
    pub fn store(&mut self, size: u8, rm: Rm, reg: u8) {
        self.plain(0x89, size, reg, rm);
    }

    /// `mov reg, reg` of 64 bits; nothing for the same register.
    #[inline]
    pub fn mov(&mut self, to: u8, from: u8) {
        if to != from {
            self.load(8, to, Rm::Reg(from));
        }
    }

    /// `mov rm, imm`, sign-extended from at most 32 bits.
    pub fn store_imm(&mut self, size: u8, rm: Rm, imm: i32) {
        let (opcode, bytes) = if size == 1 { (0xC6, 2) } else { (0xC7, 0) };
        let immediate = size.min(4);
        self.whole(Form { prefix: 0, opcode, size, bytes, immediate }, 0, rm, imm);
    }

    /// Sets all of a register, leaving the flags alone.
    pub fn set(&mut self, reg: u8, v: u64) {
        if u64::from(v as u32) == v {
            let mut room = Room::new(&mut self.bytes);
            room.byte_if(reg >= 8, 0x41);
            room.byte(0xB8 | (reg & 7));
            room.dword(4, v as u32);
            room.done();
        } else if v as i32 as i64 as u64 == v {
            self.store_imm(8, Rm::Reg(reg), v as i32);
        } else {
            let mut room = Room::new(&mut self.bytes);
            room.byte(0x48 | reg >> 3);
            room.byte(0xB8 | (reg & 7));
            room.qword(8, v);
            room.done();
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
    #[inline]
    pub fn lea(&mut self, size: u8, reg: u8, rm: Rm) {
        match rm {
            Rm::Mem(base, 0) if size == 8 => self.mov(reg, base),
            Rm::Mem(base, 0) => self.load(size, reg, Rm::Reg(base)),
            Rm::Reg(_) => {}
            _ => self.usual(0x8D, size, reg, rm),
        }
    }

    /// Shift or rotate by an immediate: 0 ROL, 1 ROR, 2 RCL, 3 RCR, 4 SHL, 5 SHR, 7 SAR.
    pub fn shift(&mut self, op: u8, size: u8, rm: Rm, count: u8) {
        let (bytes, immediate) = (if size == 1 { 2 } else { 0 }, u8::from(count != 1));
        let opcode = if count == 1 { 0xD0 } else { 0xC0 } | u32::from(size != 1);
        self.whole(Form { prefix: 0, opcode, size, bytes, immediate }, op, rm, count.into());
    }

    /// Shift or rotate by CL.
    pub fn shift_cl(&mut self, op: u8, size: u8, rm: Rm) {
        let bytes = if size == 1 { 2 } else { 0 };
        self.modrm(0, if size == 1 { 0xD2 } else { 0xD3 }, size, bytes, op, rm);
    }

    /// `rorx reg, rm, count` (BMI2): no flags.
    pub fn rorx(&mut self, size: u8, reg: u8, rm: u8, count: u8) {
        // VEX.LZ.F2.0F3A.W F0 /r ib
        let map = (!reg >> 3 & 1) << 7 | 1 << 6 | (!rm >> 3 & 1) << 5 | 3;
        let modrm = 0xC0 | (reg & 7) << 3 | (rm & 7);
        self.fixed([0xC4, map, u8::from(size == 8) << 7 | 0x7B, 0xF0, modrm, count]);
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
        let form = Form { prefix: 0, opcode: 0x69, size, bytes: 0, immediate: size.min(4) };
        self.whole(form, reg, rm, imm);
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
        let form = Form { prefix: 0, opcode: 0x0FBA, size, bytes: 0, immediate: 1 };
        self.whole(form, op, rm, bit.into());
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
        self.relative(0xE8, address);
    }

    /// `jmp` to an address within 2 GiB.
    pub fn jmp(&mut self, address: usize) {
        self.relative(0xE9, address);
    }

    fn relative(&mut self, opcode: u8, address: usize) {
        let next = self.here() + 5;
        let mut room = Room::new(&mut self.bytes);
        room.byte(opcode);
        room.dword(4, address.wrapping_sub(next) as u32);
        room.done();
    }

    /// `jmp` with a 32-bit displacement, to be bound.
    pub fn jmp_far(&mut self) -> Jump {
        let mut room = Room::new(&mut self.bytes);
        room.byte(0xE9);
        room.dword(4, 0);
        room.done();
        Jump::far(self.bytes.len() - 4)
    }

    /// `call` with a 32-bit displacement, to be bound.
    pub fn call_far(&mut self) -> Jump {
        self.fixed([0xE8, 0, 0, 0, 0]);
        Jump::far(self.bytes.len() - 4)
    }

    /// PUSH of an immediate, sign-extended to 64 bits.
    pub fn push_imm(&mut self, v: i32) {
        let v = v.to_le_bytes();
        self.fixed([0x68, v[0], v[1], v[2], v[3]]);
    }

    /// `jcc` with a 32-bit displacement, to be bound.
    pub fn jcc_far(&mut self, cc: u8) -> Jump {
        let mut room = Room::new(&mut self.bytes);
        room.byte(0x0F);
        room.byte(0x80 | cc);
        room.dword(4, 0);
        room.done();
        Jump::far(self.bytes.len() - 4)
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
            let place = self.bytes[jump.at..].first_chunk_mut().expect("the jump is there");
            *place = (to.wrapping_sub(jump.at + 4) as u32).to_le_bytes();
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

/// ModRM.mod for a base register and a displacement, of which so many bytes are needed.
#[inline(always)]
fn displacement(base: u8, disp: i32) -> (u8, usize) {
    let some = u8::from((disp != 0) | (base & 7 == 5));
    let long = u8::from(i32::from(disp as i8) != disp);
    ((some + long) << 6, usize::from(some + 3 * long))
}

#[cfg(test)]
#[path = "asm_tests.rs"]
mod tests;
