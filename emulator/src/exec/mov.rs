//! Moves: MOV, MOVZX, MOVSX, LEA, XCHG, XADD, CMPXCHG, BSWAP, MOVBE, CMOVcc, SETcc, CBW to CQO,
//! XLAT, and the flag moves.

use super::int::{Int, WIDE};
use super::{Form, condition_number, form, operand_size, size_of};
use crate::core::Core;
use crate::cpu::flags::{AF, CF, DF, PF, SF, ZF};
use crate::cpu::{RAX, RBX, RCX, RDX};
use crate::exception;
use crate::op::{Exit, Handler, Op, next, run};
use crate::{by_condition, sized, sized_ea};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

fn mov_rr<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = T::reg(&core.cpu, op.regs[1]);
        T::set_reg(&mut core.cpu, op.regs[0], v);
        Ok(())
    })
}

fn mov_ri<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        T::set_reg(&mut core.cpu, op.regs[0], T::of(op.imm));
        Ok(())
    })
}

fn mov_rm<T: Int, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    if let Some(la) = core.plain_ea::<A>(&ops[0])
        && let Some(v) = T::load_fast(core, la)
    {
        T::set_reg(&mut core.cpu, ops[0].regs[0], v);
        return next(core, ops);
    }
    mov_rm_slow::<T, A>(core, ops)
}

#[inline(never)]
fn mov_rm_slow<T: Int, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = core.read_mem::<T, A>(op)?;
        T::set_reg(&mut core.cpu, op.regs[0], v);
        Ok(())
    })
}

fn mov_mr<T: Int, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    if let Some(la) = core.plain_ea::<A>(&ops[0]) {
        let v = T::reg(&core.cpu, ops[0].regs[1]);
        if T::store_fast(core, la, v) {
            return next(core, ops);
        }
    }
    mov_mr_slow::<T, A>(core, ops)
}

#[inline(never)]
fn mov_mr_slow<T: Int, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = T::reg(&core.cpu, op.regs[1]);
        core.write_mem::<T, A>(op, v)
    })
}

fn mov_mi<T: Int, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    if let Some(la) = core.plain_ea::<A>(&ops[0])
        && T::store_fast(core, la, T::of(ops[0].imm))
    {
        return next(core, ops);
    }
    mov_mi_slow::<T, A>(core, ops)
}

#[inline(never)]
fn mov_mi_slow<T: Int, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| core.write_mem::<T, A>(op, T::of(op.imm)))
}

/// Memory operand that is a base register and a displacement, in 64-bit mode without a segment
/// base: the most frequent kind.
#[inline(always)]
fn plain(core: &Core, op: &Op) -> u64 {
    core.cpu.regs[usize::from(op.base & 31)].wrapping_add(op.disp)
}

fn mov_rm_plain<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    if let Some(v) = T::load_fast(core, plain(core, &ops[0])) {
        T::set_reg(&mut core.cpu, ops[0].regs[0], v);
        return next(core, ops);
    }
    mov_rm_slow::<T, WIDE>(core, ops)
}

fn mov_mr_plain<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    let v = T::reg(&core.cpu, ops[0].regs[1]);
    if T::store_fast(core, plain(core, &ops[0]), v) {
        return next(core, ops);
    }
    mov_mr_slow::<T, WIDE>(core, ops)
}

/// A 64-bit-mode memory operand without index and without FS or GS.
fn is_plain(i: &Instruction, address: u8) -> bool {
    address == 0
        && i.memory_index() == Register::None
        && !matches!(i.memory_segment(), Register::FS | Register::GS)
}

/// Extension from `S` to `T`, by sign where `SIGN`.
#[inline(always)]
fn extend<S: Int, T: Int, const SIGN: bool>(v: S) -> T {
    T::of(if SIGN { v.sx() } else { v.zx() })
}

fn movx_r<S: Int, T: Int, const SIGN: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = S::reg(&core.cpu, op.regs[1]);
        T::set_reg(&mut core.cpu, op.regs[0], extend::<S, T, SIGN>(v));
        Ok(())
    })
}

fn movx_m<S: Int, T: Int, const A: u8, const SIGN: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    if let Some(la) = core.plain_ea::<A>(&ops[0])
        && let Some(v) = S::load_fast(core, la)
    {
        T::set_reg(&mut core.cpu, ops[0].regs[0], extend::<S, T, SIGN>(v));
        return next(core, ops);
    }
    movx_m_slow::<S, T, A, SIGN>(core, ops)
}

#[inline(never)]
fn movx_m_slow<S: Int, T: Int, const A: u8, const SIGN: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = core.read_mem::<S, A>(op)?;
        T::set_reg(&mut core.cpu, op.regs[0], extend::<S, T, SIGN>(v));
        Ok(())
    })
}

fn movx<const SIGN: bool>(i: &Instruction, address: u8) -> Option<Handler> {
    let memory = i.op1_kind() == OpKind::Memory;
    macro_rules! pick {
        ($s:ty, $t:ty) => {
            match (memory, address) {
                (false, _) => movx_r::<$s, $t, SIGN>,
                (true, 0) => movx_m::<$s, $t, 0, SIGN>,
                (true, _) => movx_m::<$s, $t, 1, SIGN>,
            }
        };
    }
    Some(match (size_of(i, 1), operand_size(i)) {
        (1, 2) => pick!(u8, u16),
        (1, 4) => pick!(u8, u32),
        (1, 8) => pick!(u8, u64),
        (2, 2) => pick!(u16, u16),
        (2, 4) => pick!(u16, u32),
        (2, 8) => pick!(u16, u64),
        (4, 2) => pick!(u32, u16),
        (4, 4) => pick!(u32, u32),
        (4, 8) => pick!(u32, u64),
        _ => return None,
    })
}

fn lea<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = core.offset(op) & op.address_mask();
        T::set_reg(&mut core.cpu, op.regs[0], T::of(v));
        Ok(())
    })
}

fn xchg_rr<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let (a, b) = (T::reg(&core.cpu, op.regs[0]), T::reg(&core.cpu, op.regs[1]));
        T::set_reg(&mut core.cpu, op.regs[0], b);
        T::set_reg(&mut core.cpu, op.regs[1], a);
        Ok(())
    })
}

fn xchg_mr<T: Int, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let reg = op.regs[0] | op.regs[1];
        let b = T::reg(&core.cpu, reg);
        let a = core.modify_mem::<T, A, _>(op, |_, a| (b, a))?;
        T::set_reg(&mut core.cpu, reg, a);
        Ok(())
    })
}

fn xadd_rr<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let (a, b) = (T::reg(&core.cpu, op.regs[0]), T::reg(&core.cpu, op.regs[1]));
        let (r, flags) = super::alu::alu::<T, 0>(&core.cpu.flags, a, b);
        core.cpu.flags = flags;
        T::set_reg(&mut core.cpu, op.regs[1], a);
        T::set_reg(&mut core.cpu, op.regs[0], r);
        Ok(())
    })
}

fn xadd_mr<T: Int, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let b = T::reg(&core.cpu, op.regs[1]);
        let (flags, a) = core.modify_mem::<T, A, _>(op, |core, a| {
            let (r, flags) = super::alu::alu::<T, 0>(&core.cpu.flags, a, b);
            (r, (flags, a))
        })?;
        core.cpu.flags = flags;
        T::set_reg(&mut core.cpu, op.regs[1], a);
        Ok(())
    })
}

fn cmpxchg_rr<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let old = T::reg(&core.cpu, op.regs[0]);
        let acc = T::reg(&core.cpu, RAX as u8);
        core.cpu.flags = super::alu::alu::<T, 7>(&core.cpu.flags, acc, old).1;
        if acc == old {
            let v = T::reg(&core.cpu, op.regs[1]);
            T::set_reg(&mut core.cpu, op.regs[0], v);
        } else {
            T::set_reg(&mut core.cpu, RAX as u8, old);
        }
        Ok(())
    })
}

fn cmpxchg_mr<T: Int, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let new = T::reg(&core.cpu, op.regs[1]);
        let acc = T::reg(&core.cpu, RAX as u8);
        // The destination is written in any case (SDM 2A, CMPXCHG).
        let old =
            core.modify_mem::<T, A, _>(op, |_, old| (if old == acc { new } else { old }, old))?;
        core.cpu.flags = super::alu::alu::<T, 7>(&core.cpu.flags, acc, old).1;
        if acc != old {
            T::set_reg(&mut core.cpu, RAX as u8, old);
        }
        Ok(())
    })
}

fn cmpxchg8b(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let r = &core.cpu.regs;
        let acc = (r[RAX] & 0xFFFF_FFFF) | r[RDX] << 32;
        let new = (r[RBX] & 0xFFFF_FFFF) | r[RCX] << 32;
        let old =
            core.modify_mem::<u64, 1, _>(op, |_, old| (if old == acc { new } else { old }, old))?;
        set_zf(core, old == acc);
        if old != acc {
            core.cpu.regs[RAX] = old & 0xFFFF_FFFF;
            core.cpu.regs[RDX] = old >> 32;
        }
        Ok(())
    })
}

fn cmpxchg16b(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let la = core.ea_any(op, 16, true)?;
        if la & 15 != 0 {
            return Err(core.fault(exception::GP));
        }
        let old = u128::from_le_bytes(core.load_for_write(op, la)?);
        let r = &core.cpu.regs;
        let acc = u128::from(r[RAX]) | u128::from(r[RDX]) << 64;
        let new = u128::from(r[RBX]) | u128::from(r[RCX]) << 64;
        core.store(op, la, if old == acc { new } else { old }.to_le_bytes())?;
        set_zf(core, old == acc);
        if old != acc {
            core.cpu.regs[RAX] = old as u64;
            core.cpu.regs[RDX] = (old >> 64) as u64;
        }
        Ok(())
    })
}

fn set_zf(core: &mut Core, zf: bool) {
    let status = core.cpu.flags.status();
    core.cpu.flags.set_status(if zf { status | ZF } else { status & !ZF });
}

fn bswap<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = T::reg(&core.cpu, op.regs[0]).zx();
        // 16 bits: undefined; hosts give 0.
        let r = if T::BITS == 16 { 0 } else { v.swap_bytes() >> (64 - T::BITS) };
        T::set_reg(&mut core.cpu, op.regs[0], T::of(r));
        Ok(())
    })
}

fn movbe_rm<T: Int, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = core.read_mem::<T, A>(op)?.zx().swap_bytes() >> (64 - T::BITS);
        T::set_reg(&mut core.cpu, op.regs[0], T::of(v));
        Ok(())
    })
}

fn movbe_mr<T: Int, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = T::reg(&core.cpu, op.regs[1]).zx().swap_bytes() >> (64 - T::BITS);
        core.write_mem::<T, A>(op, T::of(v))
    })
}

fn cmov_rr<T: Int, const C: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let (old, v) = (T::reg(&core.cpu, op.regs[0]), T::reg(&core.cpu, op.regs[1]));
        let v = if super::condition::<C>(&core.cpu.flags) { v } else { old };
        T::set_reg(&mut core.cpu, op.regs[0], v);
        Ok(())
    })
}

fn cmov_rm<T: Int, const C: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = core.read_mem::<T, 1>(op)?;
        let old = T::reg(&core.cpu, op.regs[0]);
        let v = if super::condition::<C>(&core.cpu.flags) { v } else { old };
        T::set_reg(&mut core.cpu, op.regs[0], v);
        Ok(())
    })
}

fn cmov(i: &Instruction) -> Option<Handler> {
    let cc = condition_number(i)?;
    let memory = i.op1_kind() == OpKind::Memory;
    Some(match (operand_size(i), memory) {
        (2, false) => by_condition!(cc, cmov_rr, u16),
        (4, false) => by_condition!(cc, cmov_rr, u32),
        (_, false) => by_condition!(cc, cmov_rr, u64),
        (2, true) => by_condition!(cc, cmov_rm, u16),
        (4, true) => by_condition!(cc, cmov_rm, u32),
        (_, true) => by_condition!(cc, cmov_rm, u64),
    })
}

fn set_r<const C: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = u8::from(super::condition::<C>(&core.cpu.flags));
        u8::set_reg(&mut core.cpu, op.regs[0], v);
        Ok(())
    })
}

fn set_m<const C: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = u8::from(super::condition::<C>(&core.cpu.flags));
        core.write_mem::<u8, 1>(op, v)
    })
}

/// CBW, CWDE, CDQE: the accumulator's lower half `S` to `T`.
fn widen<S: Int, T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        let v = S::reg(&core.cpu, RAX as u8).sx();
        T::set_reg(&mut core.cpu, RAX as u8, T::of(v));
        Ok(())
    })
}

/// CWD, CDQ, CQO: the accumulator's sign to DX.
fn spread<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        let v = (T::reg(&core.cpu, RAX as u8).sx() as i64 >> 63) as u64;
        T::set_reg(&mut core.cpu, RDX as u8, T::of(v));
        Ok(())
    })
}

fn xlat(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let r = &core.cpu.regs;
        let offset = r[RBX].wrapping_add(r[RAX] & 0xFF) & op.address_mask();
        let la = core.linear(usize::from(op.seg), offset, 1, false)?;
        let v = u8::load(core, op, la)?;
        u8::set_reg(&mut core.cpu, RAX as u8, v);
        Ok(())
    })
}

fn lahf(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        let v = (core.cpu.flags.status() & 0xFF) as u8 | 2;
        u8::set_reg(&mut core.cpu, super::int::HIGH_BYTE, v);
        Ok(())
    })
}

fn sahf(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        let v = u64::from(u8::reg(&core.cpu, super::int::HIGH_BYTE));
        let low = SF | ZF | AF | PF | CF;
        let status = core.cpu.flags.status();
        core.cpu.flags.set_status((status & !low) | (v & low));
        Ok(())
    })
}

fn carry<const V: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        core.cpu.flags.set_cf(V);
        Ok(())
    })
}

fn cmc(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        let cf = core.cpu.flags.cf();
        core.cpu.flags.set_cf(!cf);
        Ok(())
    })
}

fn direction<const V: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        if V {
            core.cpu.flags.system |= DF;
        } else {
            core.cpu.flags.system &= !DF;
        }
        Ok(())
    })
}

fn mov(i: &Instruction, address: u8) -> Option<Handler> {
    let general = |n| i.op_kind(n) != OpKind::Register || i.op_register(n).is_gpr();
    if !(general(0) && general(1)) {
        return None; // segment, control and debug registers
    }
    let size = operand_size(i);
    Some(match form(i)? {
        Form::RegReg => sized!(size, mov_rr),
        Form::RegImm => sized!(size, mov_ri),
        Form::RegMem if is_plain(i, address) => sized!(size, mov_rm_plain),
        Form::MemReg if is_plain(i, address) => sized!(size, mov_mr_plain),
        Form::RegMem => sized_ea!(size, address, mov_rm),
        Form::MemReg => sized_ea!(size, address, mov_mr),
        Form::MemImm => sized_ea!(size, address, mov_mi),
        _ => return None,
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, address: u8) -> Option<Handler> {
    use Mnemonic as M;
    let size = operand_size(i);
    Some(match i.mnemonic() {
        M::Mov => return mov(i, address),
        M::Movzx => return movx::<false>(i, address),
        M::Movsx | M::Movsxd => return movx::<true>(i, address),
        M::Lea => sized!(size, lea),
        M::Xchg => match form(i)? {
            Form::RegReg => sized!(size, xchg_rr),
            _ => sized_ea!(size, address, xchg_mr),
        },
        M::Xadd => match form(i)? {
            Form::RegReg => sized!(size, xadd_rr),
            _ => sized_ea!(size, address, xadd_mr),
        },
        M::Cmpxchg => match form(i)? {
            Form::RegReg => sized!(size, cmpxchg_rr),
            _ => sized_ea!(size, address, cmpxchg_mr),
        },
        M::Cmpxchg8b => cmpxchg8b,
        M::Cmpxchg16b => cmpxchg16b,
        M::Bswap => sized!(size, bswap),
        M::Movbe => match form(i)? {
            Form::RegMem => sized_ea!(size, address, movbe_rm),
            _ => sized_ea!(size, address, movbe_mr),
        },
        M::Cbw => widen::<u8, u16>,
        M::Cwde => widen::<u16, u32>,
        M::Cdqe => widen::<u32, u64>,
        M::Cwd => spread::<u16>,
        M::Cdq => spread::<u32>,
        M::Cqo => spread::<u64>,
        M::Xlatb => xlat,
        M::Lahf => lahf,
        M::Sahf => sahf,
        M::Clc => carry::<false>,
        M::Stc => carry::<true>,
        M::Cmc => cmc,
        M::Cld => direction::<false>,
        M::Std => direction::<true>,
        _ if i.is_cmovcc_like() => return cmov(i),
        _ if i.is_setcc_like() => {
            let cc = condition_number(i)?;
            if i.op0_kind() == OpKind::Memory {
                by_condition!(cc, set_m)
            } else {
                by_condition!(cc, set_r)
            }
        }
        _ => return None,
    })
}

/// CMOVcc and SETcc by mnemonic.
trait Conditional {
    fn is_cmovcc_like(&self) -> bool;
    fn is_setcc_like(&self) -> bool;
}

impl Conditional for Instruction {
    fn is_cmovcc_like(&self) -> bool {
        condition_number(self).is_some()
            && self.op_count() == 2
            && self.op0_kind() == OpKind::Register
            && self.op0_register().is_gpr()
    }
    fn is_setcc_like(&self) -> bool {
        condition_number(self).is_some()
            && self.op_count() == 1
            && matches!(self.op0_kind(), OpKind::Register | OpKind::Memory)
    }
}
