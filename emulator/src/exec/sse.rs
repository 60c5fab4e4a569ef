//! What the MMX and SSE instructions have in common: register banks, operand forms, exceptions.
//!
//! Contract: a kernel is a type that implements [`Vector`] (or one of the traits of the other
//! files); the functions here instantiate it for every operand form. Legacy SSE instructions want
//! 16-byte memory operands aligned, with #GP(0) otherwise (SDM 1 11.4 and the tables 2-20 to 2-24
//! of SDM 2A).

use crate::core::Core;
use crate::cpu::cr4;
use crate::exception::{self, Trap};
use crate::op::{Exit, Handler, Op, next, run};
use crate::softfloat::{EXCEPTIONS, Env};
use iced_x86::{Instruction, OpKind};

/// MMX or XMM registers.
pub trait Bank: 'static {
    /// An instruction on them may run unless [`Core::sse_blocked`]; 16-byte operands are aligned.
    const READY: bool;
    /// Checks that an instruction on them may run.
    fn begin(core: &mut Core) -> Result<(), Trap>;
    /// Reads a register.
    fn get(core: &Core, n: u8) -> u128;
    /// Writes a register.
    fn set(core: &mut Core, n: u8, value: u128);
    /// Notes that an instruction has used the bank without writing it.
    fn touch(core: &mut Core);
    /// What happens before a store, even one that faults.
    fn prepare_store(_: &mut Core) {}
    /// Reads the memory operand, aligned where it has to be.
    fn load<const A: u8>(core: &mut Core, op: &Op) -> Result<u128, Trap>;
}

/// XMM registers.
pub struct Xmm;

impl Bank for Xmm {
    const READY: bool = true;
    #[inline(always)]
    fn begin(core: &mut Core) -> Result<(), Trap> {
        core.check_sse()
    }

    #[inline(always)]
    fn get(core: &Core, n: u8) -> u128 {
        core.cpu.xmm[usize::from(n & 15)]
    }

    #[inline(always)]
    fn set(core: &mut Core, n: u8, value: u128) {
        core.cpu.xmm[usize::from(n & 15)] = value;
    }

    #[inline(always)]
    fn touch(_: &mut Core) {}

    #[inline(always)]
    fn load<const A: u8>(core: &mut Core, op: &Op) -> Result<u128, Trap> {
        core.load_aligned::<A>(op)
    }
}

/// MMX registers: the significands of the x87's (SDM 1 9.5).
pub struct Mmx;

impl Bank for Mmx {
    const READY: bool = false;
    #[inline(always)]
    fn begin(core: &mut Core) -> Result<(), Trap> {
        core.begin_mmx()
    }

    #[inline(always)]
    fn get(core: &Core, n: u8) -> u128 {
        core.cpu.fpu.significand[usize::from(n & 7)].into()
    }

    #[inline(always)]
    fn set(core: &mut Core, n: u8, value: u128) {
        core.enter_mmx();
        let at = usize::from(n & 7);
        core.cpu.fpu.significand[at] = value as u64;
        core.cpu.fpu.sign_exponent[at] = 0xffff;
    }

    #[inline(always)]
    fn touch(core: &mut Core) {
        core.enter_mmx();
    }

    #[inline(always)]
    fn prepare_store(core: &mut Core) {
        core.cpu.fpu.status &= !super::x87::TOP;
    }

    #[inline(always)]
    fn load<const A: u8>(core: &mut Core, op: &Op) -> Result<u128, Trap> {
        core.load_part::<8, A>(op)
    }
}

impl Core {
    /// The x87 becomes an MMX unit: TOP is 0 and no register is empty.
    #[inline(always)]
    pub fn enter_mmx(&mut self) {
        self.cpu.fpu.status &= !super::x87::TOP;
        self.cpu.fpu.valid = 0xff;
    }

    /// Reads a 16-byte operand that must be aligned.
    #[inline(always)]
    pub fn load_aligned<const A: u8>(&mut self, op: &Op) -> Result<u128, Trap> {
        let la = self.ea::<A>(op, 16, false)?;
        if la & 15 != 0 {
            return Err(self.fault(exception::GP));
        }
        self.load(op, la).map(u128::from_le_bytes)
    }

    /// Reads an operand of `N` bytes, zero-extended, at any address.
    #[inline(always)]
    pub fn load_part<const N: usize, const A: u8>(&mut self, op: &Op) -> Result<u128, Trap> {
        let la = self.ea::<A>(op, N as u64, false)?;
        Ok(widen(self.load::<N>(op, la)?))
    }

    /// The same for a 64-bit address in 64-bit mode, if the TLB knows the page.
    #[inline(always)]
    pub fn part_fast<const N: usize>(&self, op: &Op) -> Option<u128> {
        self.load_fast::<N>(self.wide(op)).map(widen)
    }

    /// The same for 16 aligned bytes.
    #[inline(always)]
    pub fn aligned_fast(&self, op: &Op) -> Option<u128> {
        let la = self.wide(op);
        if la & 15 != 0 {
            return None;
        }
        self.load_fast(la).map(u128::from_le_bytes)
    }

    /// Writes a 16-byte operand that must be aligned.
    #[inline(always)]
    pub fn store_aligned<const A: u8>(&mut self, op: &Op, value: u128) -> Result<(), Trap> {
        let la = self.ea::<A>(op, 16, true)?;
        if la & 15 != 0 {
            return Err(self.fault(exception::GP));
        }
        self.store(op, la, value.to_le_bytes())
    }

    /// Writes the low `N` bytes of a value, at any address.
    #[inline(always)]
    pub fn store_part<const N: usize, const A: u8>(
        &mut self,
        op: &Op,
        value: u128,
    ) -> Result<(), Trap> {
        let la = self.ea::<A>(op, N as u64, true)?;
        self.store(op, la, narrow::<N>(value))
    }

    /// Records the exceptions of an SSE instruction.
    ///
    /// # Errors
    /// #XM for an unmasked one, or #UD without CR4.OSXMMEXCPT; then no result may be written.
    #[inline(always)]
    pub fn sse_raise(&mut self, env: &Env) -> Result<(), Trap> {
        if env.flags & EXCEPTIONS == 0 { Ok(()) } else { self.sse_exceptions(env) }
    }

    #[inline(never)]
    fn sse_exceptions(&mut self, env: &Env) -> Result<(), Trap> {
        self.cpu.mxcsr |= env.reported() & EXCEPTIONS;
        if env.unmasked() == 0 {
            return Ok(());
        }
        let vector =
            if self.cpu.cr4 & cr4::OSXMMEXCPT != 0 { exception::XM } else { exception::UD };
        Err(self.fault(vector))
    }
}

/// Up to 16 little-endian bytes as a number. By halves: a vector built on the stack would wait for
/// the store buffer.
#[inline(always)]
pub fn widen<const N: usize>(bytes: [u8; N]) -> u128 {
    if let Some(b) = bytes.first_chunk::<16>() {
        return u128::from_le_bytes(*b);
    }
    if let Some(b) = bytes.first_chunk::<8>() {
        return u64::from_le_bytes(*b).into();
    }
    if let Some(b) = bytes.first_chunk::<4>() {
        return u32::from_le_bytes(*b).into();
    }
    bytes.iter().rev().fold(0, |wide, &b| wide << 8 | u128::from(b))
}

/// The low `N` bytes.
#[inline(always)]
pub fn narrow<const N: usize>(value: u128) -> [u8; N] {
    let (whole, half, quarter) =
        (value.to_le_bytes(), (value as u64).to_le_bytes(), (value as u32).to_le_bytes());
    match N {
        0..=4 => *quarter.first_chunk().unwrap_or(&[0; N]),
        5..=8 => *half.first_chunk().unwrap_or(&[0; N]),
        _ => *whole.first_chunk().unwrap_or(&[0; N]),
    }
}

/// A function of two registers, the result replacing the first one.
pub trait Vector: 'static {
    /// The result.
    fn compute(a: u128, b: u128) -> u128;
}

/// A function of two registers and an immediate.
pub trait VectorImm: 'static {
    /// The result.
    fn compute(a: u128, b: u128, imm: u8) -> u128;
}

fn registers<B: Bank, V: Vector>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        B::begin(core)?;
        let (a, b) = (B::get(core, op.regs[0]), B::get(core, op.regs[1]));
        B::set(core, op.regs[0], V::compute(a, b));
        Ok(())
    })
}

fn memory<B: Bank, V: Vector, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    if A == 0
        && B::READY
        && !core.sse_blocked
        && let Some(b) = core.aligned_fast(&ops[0])
    {
        let a = B::get(core, ops[0].regs[0]);
        B::set(core, ops[0].regs[0], V::compute(a, b));
        return next(core, ops);
    }
    memory_slow::<B, V, A>(core, ops)
}

#[inline(never)]
fn memory_slow<B: Bank, V: Vector, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        B::begin(core)?;
        let b = B::load::<A>(core, op)?;
        let a = B::get(core, op.regs[0]);
        B::set(core, op.regs[0], V::compute(a, b));
        Ok(())
    })
}

/// A register and a part of one in memory, `N` bytes.
fn part<B: Bank, V: Vector, const N: usize, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    if A == 0
        && B::READY
        && !core.sse_blocked
        && let Some(b) = core.part_fast::<N>(&ops[0])
    {
        let a = B::get(core, ops[0].regs[0]);
        B::set(core, ops[0].regs[0], V::compute(a, b));
        return next(core, ops);
    }
    part_slow::<B, V, N, A>(core, ops)
}

#[inline(never)]
fn part_slow<B: Bank, V: Vector, const N: usize, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        B::begin(core)?;
        let b = core.load_part::<N, A>(op)?;
        let a = B::get(core, op.regs[0]);
        B::set(core, op.regs[0], V::compute(a, b));
        Ok(())
    })
}

fn registers_imm<B: Bank, V: VectorImm>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        B::begin(core)?;
        let (a, b) = (B::get(core, op.regs[0]), B::get(core, op.regs[1]));
        B::set(core, op.regs[0], V::compute(a, b, op.imm as u8));
        Ok(())
    })
}

fn memory_imm<B: Bank, V: VectorImm, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        B::begin(core)?;
        let b = B::load::<A>(core, op)?;
        let a = B::get(core, op.regs[0]);
        B::set(core, op.regs[0], V::compute(a, b, op.imm as u8));
        Ok(())
    })
}

/// Whether the operand in position `n` is in memory.
pub fn in_memory(i: &Instruction, n: u32) -> bool {
    i.op_kind(n) == OpKind::Memory
}

/// Picks the operand form of a kernel on one bank.
pub fn select<B: Bank, V: Vector>(i: &Instruction, address: u8) -> Handler {
    match (in_memory(i, 1), address) {
        (false, _) => registers::<B, V>,
        (true, 0) => memory::<B, V, 0>,
        (true, _) => memory::<B, V, 1>,
    }
}

/// The same for a memory operand of `N` bytes, which need not be aligned.
pub fn select_part<B: Bank, V: Vector, const N: usize>(i: &Instruction, address: u8) -> Handler {
    match (in_memory(i, 1), address) {
        (false, _) => registers::<B, V>,
        (true, 0) => part::<B, V, N, 0>,
        (true, _) => part::<B, V, N, 1>,
    }
}

/// The same for a kernel with an immediate.
pub fn select_imm<B: Bank, V: VectorImm>(i: &Instruction, address: u8) -> Handler {
    match (in_memory(i, 1), address) {
        (false, _) => registers_imm::<B, V>,
        (true, 0) => memory_imm::<B, V, 0>,
        (true, _) => memory_imm::<B, V, 1>,
    }
}

/// Makes a kernel type of an expression in two values and gives it to a selector.
macro_rules! vector {
    ($select:ident::<$($bank:ident)? $(, $n:literal)?>($i:expr, $address:expr),
        |$a:pat_param, $b:pat_param| $body:expr) => {{
        struct Kernel;
        impl $crate::exec::sse::Vector for Kernel {
            #[inline(always)]
            fn compute($a: u128, $b: u128) -> u128 {
                $body
            }
        }
        $crate::exec::sse::$select::<$($bank,)? Kernel $(, $n)?>($i, $address)
    }};
}
pub(super) use vector;

/// The same with an immediate.
macro_rules! vector_imm {
    ($bank:ident, $i:expr, $address:expr, |$a:pat_param, $b:pat_param, $imm:pat_param| $body:expr) => {{
        struct Kernel;
        impl $crate::exec::sse::VectorImm for Kernel {
            #[inline(always)]
            fn compute($a: u128, $b: u128, $imm: u8) -> u128 {
                $body
            }
        }
        $crate::exec::sse::select_imm::<$bank, Kernel>($i, $address)
    }};
}
pub(super) use vector_imm;

/// The function for an MMX or SSE instruction.
pub fn handler(i: &Instruction, address: u8) -> Option<Handler> {
    super::sse_move::handler(i, address)
        .or_else(|| super::sse_int::handler(i, address))
        .or_else(|| super::sse_float::handler(i, address))
        .or_else(|| super::sse_convert::handler(i, address))
        .or_else(|| super::sse_text::handler(i, address))
        .or_else(|| super::mmx::handler(i, address))
        .or_else(|| super::aes::handler(i, address))
}
