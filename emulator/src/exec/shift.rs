//! Shifts and rotates, double shifts, and the BMI2 shifts without flags.

use super::int::Int;
use super::{Form, form, operand_size};
use crate::core::Core;
use crate::cpu::RCX;
use crate::cpu::flags::Flags;
use crate::op::{Exit, Handler, Op, run};
use crate::{sized, sized_ea};
use iced_x86::{Instruction, Mnemonic, OpKind};

const ROL: u8 = 0;
const ROR: u8 = 1;
const RCL: u8 = 2;
const RCR: u8 = 3;
const SHL: u8 = 4;
const SHR: u8 = 5;
const SAR: u8 = 7;

/// Flags with CF and OF replaced.
#[inline(always)]
fn with_carry_overflow(flags: &Flags, cf: bool, of: bool) -> Flags {
    let low = flags.aux & !(3 << 62);
    let aux = low | u64::from(cf) << 63 | u64::from(cf ^ of) << 62;
    Flags { aux, ..*flags }
}

/// Result flags with CF and OF; AF, undefined, is clear.
#[inline(always)]
fn result_flags<T: Int>(flags: &Flags, r: T, cf: bool, of: bool) -> Flags {
    let aux = u64::from(cf) << 63 | u64::from(cf ^ of) << 62;
    Flags { result: r.sx(), aux, system: flags.system }
}

#[inline(always)]
fn msb<T: Int>(v: T) -> bool {
    (v.sx() as i64) < 0
}

/// `v K count`, with the count masked to 5 or 6 bits (SDM 2B, SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR).
/// OF for counts above 1 (undefined) follows the same formula as for 1, as hosts do.
#[inline(always)]
pub fn shift<T: Int, const K: u8>(flags: &Flags, v: T, count: u64) -> (T, Flags) {
    let n = (count & if T::BITS == 64 { 63 } else { 31 }) as u32;
    if n == 0 {
        return (v, *flags);
    }
    shift_some::<T, K>(flags, v, n)
}

/// The same for a masked count that is not 0. CF goes to bit 63 of the carries and CF xor OF to bit
/// 62, so that most kinds need no comparison.
#[inline(always)]
fn shift_some<T: Int, const K: u8>(flags: &Flags, v: T, n: u32) -> (T, Flags) {
    let x = v.zx();
    let top = |r: T| r.sx() >> 63;
    let (r, aux) = match K {
        SHL => {
            let r = T::of(x << n);
            let cf = if n <= T::BITS { x >> (T::BITS - n) & 1 } else { 0 };
            (r, cf << 63 | top(r) << 62)
        }
        SHR => {
            // OF is the top bit for a count of 1, else clear
            let cf = x >> (n - 1) & 1;
            let of = if n == 1 { top(v) } else { 0 };
            (T::of(x >> n), cf << 63 | (cf ^ of) << 62)
        }
        SAR => {
            let s = v.sx() as i64;
            (T::of((s >> n) as u64), ((s >> (n - 1)) as u64 & 1) * (3 << 62))
        }
        _ => return rotate::<T, K>(flags, v, n),
    };
    (r, Flags { result: r.sx(), aux, system: flags.system })
}

/// ROL, ROR, RCL, RCR: CF and OF change, the other flags stay.
#[inline(always)]
fn rotate<T: Int, const K: u8>(flags: &Flags, v: T, n: u32) -> (T, Flags) {
    let x = v.zx();
    let m = n % T::BITS;
    let (r, top) = match K {
        ROL => {
            let r = if m == 0 { v } else { T::of(x << m | x >> (T::BITS - m)) };
            (r, r.zx() << 63 | (r.sx() >> 63) << 62)
        }
        ROR => {
            // CF is the top bit, OF that xor the next one
            let r = if m == 0 { v } else { T::of(x >> m | x << (T::BITS - m)) };
            (r, r.zx() << (64 - T::BITS) & 3 << 62)
        }
        _ => return through_carry::<T, K>(flags, v, n),
    };
    (r, Flags { aux: flags.aux & !(3 << 62) | top, ..*flags })
}

/// RCL and RCR.
fn through_carry<T: Int, const K: u8>(flags: &Flags, v: T, n: u32) -> (T, Flags) {
    let width = T::BITS + 1;
    let n = n % width;
    if n == 0 {
        // CF stays; OF (undefined for these counts) is what the formula gives on the operand
        let cf = flags.cf();
        let of =
            if K == RCL { msb(v) != cf } else { msb(v) != ((v.zx() >> (T::BITS - 2)) & 1 != 0) };
        return (v, with_carry_overflow(flags, cf, of));
    }
    let wide = u128::from(v.zx()) | u128::from(flags.cf()) << T::BITS;
    let mask = (1u128 << width) - 1;
    let left = if K == RCL { n } else { width - n };
    let r = ((wide << left) | (wide >> (width - left))) & mask;
    let cf = r >> T::BITS != 0;
    let r = T::of(r as u64);
    let of = if K == RCL { msb(r) != cf } else { msb(r) != ((r.zx() >> (T::BITS - 2)) & 1 != 0) };
    (r, with_carry_overflow(flags, cf, of))
}

fn ri<T: Int, const K: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = T::reg(&core.cpu, op.regs[0]);
        let (r, flags) = shift::<T, K>(&core.cpu.flags, v, op.imm);
        core.cpu.flags = flags;
        T::set_reg(&mut core.cpu, op.regs[0], r);
        Ok(())
    })
}

/// By an immediate that is not 0 and less than the operand's bits.
fn ri_some<T: Int, const K: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = T::reg(&core.cpu, op.regs[0]);
        let n = (op.imm as u32 & (T::BITS - 1)).max(1);
        let (r, flags) = shift_some::<T, K>(&core.cpu.flags, v, n);
        core.cpu.flags = flags;
        T::set_reg(&mut core.cpu, op.regs[0], r);
        Ok(())
    })
}

fn rc<T: Int, const K: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = T::reg(&core.cpu, op.regs[0]);
        let (r, flags) = shift::<T, K>(&core.cpu.flags, v, core.cpu.regs[RCX] & 0xFF);
        core.cpu.flags = flags;
        T::set_reg(&mut core.cpu, op.regs[0], r);
        Ok(())
    })
}

fn mem<T: Int, const A: u8, const K: u8, const IMM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let count = if IMM { op.imm } else { core.cpu.regs[RCX] & 0xFF };
        core.cpu.flags =
            core.modify_mem::<T, A, _>(op, |core, v| shift::<T, K>(&core.cpu.flags, v, count))?;
        Ok(())
    })
}

fn select<const K: u8>(i: &Instruction, address: u8) -> Option<Handler> {
    let size = operand_size(i);
    Some(match form(i)? {
        Form::RegImm if (1..8 * size as u64).contains(&i.immediate(1)) => {
            sized!(size, ri_some, K)
        }
        Form::RegImm => sized!(size, ri, K),
        Form::RegReg => sized!(size, rc, K),
        Form::MemImm => sized_ea!(size, address, mem, K, true),
        Form::MemReg => sized_ea!(size, address, mem, K, false),
        _ => return None,
    })
}

/// SHLD (`LEFT`) and SHRD (SDM 2B). Counts above the operand size (16-bit operands only,
/// undefined) take the source as what follows, as hosts do.
fn double<T: Int, const LEFT: bool>(flags: &Flags, v: T, src: T, count: u64) -> (T, Flags) {
    let n = (count & if T::BITS == 64 { 63 } else { 31 }) as u32;
    if n == 0 {
        return (v, *flags);
    }
    let bits = T::BITS;
    let (x, s) = (u128::from(v.zx()), u128::from(src.zx()));
    let (r, cf) = if LEFT {
        let (wide, top) =
            if bits == 16 { (x << 32 | s << 16 | x, 48) } else { (x << bits | s, 2 * bits) };
        (T::of((wide >> (top - bits - n)) as u64), (wide >> (top - n)) & 1 != 0)
    } else {
        let wide = x | s << bits;
        let wide = if bits == 16 { wide | x << 32 } else { wide };
        (T::of((wide >> n) as u64), (wide >> (n - 1)) & 1 != 0)
    };
    (r, result_flags(flags, r, cf, msb(r) != msb(v)))
}

fn double_r<T: Int, const LEFT: bool, const IMM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let count = if IMM { op.imm } else { core.cpu.regs[RCX] & 0xFF };
        let (v, src) = (T::reg(&core.cpu, op.regs[0]), T::reg(&core.cpu, op.regs[1]));
        let (r, flags) = double::<T, LEFT>(&core.cpu.flags, v, src, count);
        core.cpu.flags = flags;
        T::set_reg(&mut core.cpu, op.regs[0], r);
        Ok(())
    })
}

fn double_m<T: Int, const LEFT: bool, const IMM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let count = if IMM { op.imm } else { core.cpu.regs[RCX] & 0xFF };
        let src = T::reg(&core.cpu, op.regs[1]);
        core.cpu.flags = core.modify_mem::<T, 1, _>(op, |core, v| {
            double::<T, LEFT>(&core.cpu.flags, v, src, count)
        })?;
        Ok(())
    })
}

fn select_double<const LEFT: bool>(i: &Instruction) -> Option<Handler> {
    let size = operand_size(i);
    let by_cl = i.op2_kind() == OpKind::Register;
    Some(match (form(i)?, by_cl) {
        (Form::RegReg, false) => sized!(size, double_r, LEFT, true),
        (Form::RegReg, true) => sized!(size, double_r, LEFT, false),
        (_, false) => sized!(size, double_m, LEFT, true),
        (_, true) => sized!(size, double_m, LEFT, false),
    })
}

/// SHLX, SHRX, SARX, RORX: no flags. The count is the third operand.
fn flagless<T: Int, const K: u8, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = if MEM { core.read_mem::<T, 1>(op)? } else { T::reg(&core.cpu, op.regs[1]) };
        let count = if K == ROR { op.imm } else { T::reg(&core.cpu, op.regs[2]).zx() };
        let r = shift::<T, K>(&core.cpu.flags, v, count).0;
        T::set_reg(&mut core.cpu, op.regs[0], r);
        Ok(())
    })
}

fn select_flagless<const K: u8>(i: &Instruction) -> Option<Handler> {
    Some(match (operand_size(i), i.op1_kind() == OpKind::Memory) {
        (4, false) => flagless::<u32, K, false>,
        (4, true) => flagless::<u32, K, true>,
        (_, false) => flagless::<u64, K, false>,
        (_, true) => flagless::<u64, K, true>,
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, address: u8) -> Option<Handler> {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Rol => select::<ROL>(i, address),
        M::Ror => select::<ROR>(i, address),
        M::Rcl => select::<RCL>(i, address),
        M::Rcr => select::<RCR>(i, address),
        M::Shl | M::Sal => select::<SHL>(i, address),
        M::Shr => select::<SHR>(i, address),
        M::Sar => select::<SAR>(i, address),
        M::Shld => select_double::<true>(i),
        M::Shrd => select_double::<false>(i),
        M::Shlx => select_flagless::<SHL>(i),
        M::Shrx => select_flagless::<SHR>(i),
        M::Sarx => select_flagless::<SAR>(i),
        M::Rorx => select_flagless::<ROR>(i),
        _ => None,
    }
}
