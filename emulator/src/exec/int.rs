//! Integers of the four operand sizes, registers and effective addresses.

use crate::core::Core;
use crate::cpu::{Cpu, FLAT};
use crate::exception::Trap;
use crate::op::Op;

/// An operand size.
pub trait Int: Copy + Eq + Ord + 'static {
    /// Bits.
    const BITS: u32;
    /// Bytes.
    const SIZE: u64;
    /// The low bits of `v`.
    fn of(v: u64) -> Self;
    /// Zero-extended.
    fn zx(self) -> u64;
    /// Sign-extended.
    fn sx(self) -> u64;
    /// Reads a register operand.
    fn reg(cpu: &Cpu, reg: u8) -> Self;
    /// Writes a register operand; 32-bit writes clear the upper half (SDM 1 3.4.1.1).
    fn set_reg(cpu: &mut Cpu, reg: u8, v: Self);
    /// Reads memory that the TLB knows.
    fn load_fast(core: &Core, la: u64) -> Option<Self>;
    /// Writes memory that the TLB knows; false: nothing was done.
    fn store_fast(core: &mut Core, la: u64, v: Self) -> bool;
    /// Changes memory that the TLB knows; `None`: nothing was done.
    fn modify_fast<R>(core: &mut Core, la: u64, f: impl FnOnce(Self) -> (Self, R)) -> Option<R>;
    /// Reads memory.
    fn load(core: &mut Core, op: &Op, la: u64) -> Result<Self, Trap>;
    /// Reads memory that will be written.
    fn load_for_write(core: &mut Core, op: &Op, la: u64) -> Result<Self, Trap>;
    /// Writes memory.
    fn store(core: &mut Core, op: &Op, la: u64, v: Self) -> Result<(), Trap>;
}

/// Operand number of AH, CH, DH, BH: the register they are part of, plus this.
pub const HIGH_BYTE: u8 = 0x20;

macro_rules! memory {
    ($t:ident) => {
        #[inline(always)]
        fn load_fast(core: &Core, la: u64) -> Option<Self> {
            core.load_fast(la).map($t::from_le_bytes)
        }
        #[inline(always)]
        fn store_fast(core: &mut Core, la: u64, v: Self) -> bool {
            match core.store_fast(la) {
                Some(place) => {
                    *place = v.to_le_bytes();
                    true
                }
                None => false,
            }
        }
        #[inline(always)]
        fn modify_fast<R>(
            core: &mut Core,
            la: u64,
            f: impl FnOnce(Self) -> (Self, R),
        ) -> Option<R> {
            let place = core.store_fast(la)?;
            let (new, rest) = f($t::from_le_bytes(*place));
            *place = new.to_le_bytes();
            Some(rest)
        }
        #[inline(always)]
        fn load(core: &mut Core, op: &Op, la: u64) -> Result<Self, Trap> {
            core.load(op, la).map($t::from_le_bytes)
        }
        #[inline(always)]
        fn load_for_write(core: &mut Core, op: &Op, la: u64) -> Result<Self, Trap> {
            core.load_for_write(op, la).map($t::from_le_bytes)
        }
        #[inline(always)]
        fn store(core: &mut Core, op: &Op, la: u64, v: Self) -> Result<(), Trap> {
            core.store(op, la, v.to_le_bytes())
        }
    };
}
macro_rules! sizes {
    ($t:ident $signed:ident) => {
        const BITS: u32 = $t::BITS;
        const SIZE: u64 = $t::BITS as u64 / 8;
        #[inline(always)]
        fn of(v: u64) -> Self {
            v as $t
        }
        #[inline(always)]
        fn zx(self) -> u64 {
            self as u64
        }
        #[inline(always)]
        fn sx(self) -> u64 {
            self as $signed as i64 as u64
        }
    };
}

impl Int for u8 {
    sizes!(u8 i8);
    memory!(u8);
    #[inline(always)]
    fn reg(cpu: &Cpu, reg: u8) -> Self {
        (cpu.regs[usize::from(reg & 31)] >> ((reg >> 5) << 3)) as u8
    }
    #[inline(always)]
    fn set_reg(cpu: &mut Cpu, reg: u8, v: Self) {
        let shift = (reg >> 5) << 3;
        let r = &mut cpu.regs[usize::from(reg & 31)];
        *r = (*r & !(0xFF << shift)) | u64::from(v) << shift;
    }
}
impl Int for u16 {
    sizes!(u16 i16);
    memory!(u16);
    #[inline(always)]
    fn reg(cpu: &Cpu, reg: u8) -> Self {
        cpu.regs[usize::from(reg & 31)] as u16
    }
    #[inline(always)]
    fn set_reg(cpu: &mut Cpu, reg: u8, v: Self) {
        let r = &mut cpu.regs[usize::from(reg & 31)];
        *r = (*r & !0xFFFF) | u64::from(v);
    }
}
impl Int for u32 {
    sizes!(u32 i32);
    memory!(u32);
    #[inline(always)]
    fn reg(cpu: &Cpu, reg: u8) -> Self {
        cpu.regs[usize::from(reg & 31)] as u32
    }
    #[inline(always)]
    fn set_reg(cpu: &mut Cpu, reg: u8, v: Self) {
        cpu.regs[usize::from(reg & 31)] = u64::from(v);
    }
}
impl Int for u64 {
    sizes!(u64 i64);
    memory!(u64);
    #[inline(always)]
    fn reg(cpu: &Cpu, reg: u8) -> Self {
        cpu.regs[usize::from(reg & 31)]
    }
    #[inline(always)]
    fn set_reg(cpu: &mut Cpu, reg: u8, v: Self) {
        cpu.regs[usize::from(reg & 31)] = v;
    }
}

/// Effective-address kind: 64-bit mode, 64-bit address.
pub const WIDE: u8 = 0;
/// Effective-address kind: any mode, with segment checks.
pub const ANY: u8 = 1;

impl Op {
    /// The effective-address kind of the memory operand.
    pub fn kind(&self, bits: u8) -> u8 {
        if bits == 64 && self.address_bits == 64 { WIDE } else { ANY }
    }

    /// Mask of the address size.
    #[inline(always)]
    pub fn address_mask(&self) -> u64 {
        u64::MAX >> (64 - u32::from(self.address_bits))
    }
}

impl Core {
    /// Offset of the memory operand in its segment.
    #[inline(always)]
    pub fn offset(&self, op: &Op) -> u64 {
        let base = self.cpu.regs[usize::from(op.base & 31)];
        let index = self.cpu.regs[usize::from(op.index_reg & 31)] << (op.scale & 3);
        base.wrapping_add(index).wrapping_add(op.disp)
    }

    /// Linear address of the memory operand with a 64-bit address in 64-bit mode.
    #[inline(always)]
    pub fn wide(&self, op: &Op) -> u64 {
        self.offset(op).wrapping_add(self.seg_base[usize::from(op.seg & 7)])
    }

    /// Linear address of a memory operand that needs no check of segments: 64-bit mode, or a
    /// 32-bit address in a flat segment.
    #[inline(always)]
    pub fn plain_ea<const A: u8>(&self, op: &Op) -> Option<u64> {
        if A == WIDE {
            Some(self.wide(op))
        } else if usize::from(op.seg) == FLAT && op.address_bits == 32 {
            Some(self.offset(op) & 0xFFFF_FFFF)
        } else {
            None
        }
    }

    /// Linear address of the memory operand; `size` bytes will be accessed.
    #[inline(always)]
    pub fn ea<const A: u8>(&mut self, op: &Op, size: u64, write: bool) -> Result<u64, Trap> {
        match self.plain_ea::<A>(op) {
            Some(la) => Ok(la),
            None => self.ea_any(op, size, write),
        }
    }

    /// The same in every mode.
    #[inline(never)]
    pub fn ea_any(&mut self, op: &Op, size: u64, write: bool) -> Result<u64, Trap> {
        let offset = self.offset(op) & op.address_mask();
        if self.mode.bits == 64 {
            // Canonical form is checked where the TLB misses.
            return Ok(offset.wrapping_add(self.seg_base[usize::from(op.seg & 7)]));
        }
        self.linear(usize::from(op.seg), offset, size, write)
    }

    /// Reads the memory operand.
    #[inline(always)]
    pub fn read_mem<T: Int, const A: u8>(&mut self, op: &Op) -> Result<T, Trap> {
        let la = self.ea::<A>(op, T::SIZE, false)?;
        T::load(self, op, la)
    }

    /// Writes the memory operand.
    #[inline(always)]
    pub fn write_mem<T: Int, const A: u8>(&mut self, op: &Op, v: T) -> Result<(), Trap> {
        let la = self.ea::<A>(op, T::SIZE, true)?;
        T::store(self, op, la, v)
    }

    /// Reads, changes and writes the memory operand. `f` sees the flags as they are and must not
    /// change them before the store is done: it returns them with the new value.
    #[inline(always)]
    pub fn modify_mem<T: Int, const A: u8, R>(
        &mut self,
        op: &Op,
        f: impl FnOnce(&mut Core, T) -> (T, R),
    ) -> Result<R, Trap> {
        let la = self.ea::<A>(op, T::SIZE, true)?;
        let old = T::load_for_write(self, op, la)?;
        let (new, rest) = f(self, old);
        T::store(self, op, la, new)?;
        Ok(rest)
    }
}

/// Picks the instance for an operand size in bytes and an address kind.
#[macro_export]
macro_rules! sized {
    ($size:expr, $f:ident $(, $g:expr)*) => {
        match $size {
            1 => $f::<u8 $(, $g)*>,
            2 => $f::<u16 $(, $g)*>,
            4 => $f::<u32 $(, $g)*>,
            _ => $f::<u64 $(, $g)*>,
        }
    };
}
/// Picks the instance for an operand size in bytes and an address kind.
#[macro_export]
macro_rules! sized_ea {
    ($size:expr, $kind:expr, $f:ident $(, $g:expr)*) => {
        match ($size, $kind) {
            (1, 0) => $f::<u8, 0 $(, $g)*>,
            (2, 0) => $f::<u16, 0 $(, $g)*>,
            (4, 0) => $f::<u32, 0 $(, $g)*>,
            (_, 0) => $f::<u64, 0 $(, $g)*>,
            (1, _) => $f::<u8, 1 $(, $g)*>,
            (2, _) => $f::<u16, 1 $(, $g)*>,
            (4, _) => $f::<u32, 1 $(, $g)*>,
            (_, _) => $f::<u64, 1 $(, $g)*>,
        }
    };
}
