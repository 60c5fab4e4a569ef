//! Bit tests and scans, POPCNT, LZCNT, TZCNT, BMI1 and BMI2.

use super::int::Int;
use super::{Form, form, operand_size};
use crate::core::Core;
use crate::cpu::flags::{CF, Flags, ZF};
use crate::exception::Trap;
use crate::op::{Exit, Handler, Op, run};
use crate::sized;
use iced_x86::{Instruction, Mnemonic, OpKind};

const BT: u8 = 0;
const BTS: u8 = 1;
const BTR: u8 = 2;
const BTC: u8 = 3;

#[inline(always)]
fn change<T: Int, const K: u8>(v: T, bit: u32) -> T {
    let mask = 1u64 << bit;
    T::of(match K {
        BTS => v.zx() | mask,
        BTR => v.zx() & !mask,
        _ => v.zx() ^ mask,
    })
}

/// CF is the bit; the other status flags (undefined but ZF, which stays) stay.
fn test_r<T: Int, const K: u8, const IMM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = T::reg(&core.cpu, op.regs[0]);
        let index = if IMM { op.imm } else { T::reg(&core.cpu, op.regs[1]).zx() };
        let bit = index as u32 & (T::BITS - 1);
        core.cpu.flags.set_cf((v.zx() >> bit) & 1 != 0);
        if K != BT {
            T::set_reg(&mut core.cpu, op.regs[0], change::<T, K>(v, bit));
        }
        Ok(())
    })
}

fn test_m<T: Int, const K: u8, const IMM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let (bit, unit) = if IMM {
            (op.imm as u32 & (T::BITS - 1), 0)
        } else {
            // The register selects a bit anywhere: SDM 2A, BT, "bit strings".
            let index = T::reg(&core.cpu, op.regs[1]).sx() as i64;
            let unit = (index >> T::BITS.trailing_zeros()).wrapping_mul(T::SIZE as i64);
            (index as u32 & (T::BITS - 1), unit)
        };
        let moved = Op { disp: op.disp.wrapping_add_signed(unit), ..*op };
        let la = core.ea_any(&moved, T::SIZE, K != BT)?;
        let v = if K == BT { T::load(core, op, la)? } else { T::load_for_write(core, op, la)? };
        if K != BT {
            T::store(core, op, la, change::<T, K>(v, bit))?;
        }
        core.cpu.flags.set_cf((v.zx() >> bit) & 1 != 0);
        Ok(())
    })
}

fn select<const K: u8>(i: &Instruction) -> Option<Handler> {
    let size = operand_size(i);
    Some(match form(i)? {
        Form::RegReg => sized!(size, test_r, K, false),
        Form::RegImm => sized!(size, test_r, K, true),
        Form::MemReg => sized!(size, test_m, K, false),
        Form::MemImm => sized!(size, test_m, K, true),
        _ => return None,
    })
}

#[inline(always)]
fn source<T: Int, const MEM: bool>(core: &mut Core, op: &Op, n: usize) -> Result<T, Trap> {
    if MEM { core.read_mem::<T, 1>(op) } else { Ok(T::reg(&core.cpu, op.regs[n])) }
}

/// BSF and BSR (`REVERSE`): a zero source sets ZF and leaves the destination (as hosts do). The
/// other status flags, undefined, are those of a TEST of the source with itself.
fn scan<T: Int, const REVERSE: bool, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = source::<T, MEM>(core, op, 1)?.zx();
        let system = core.cpu.flags.system;
        core.cpu.flags = Flags { result: T::of(v).sx(), aux: 0, system };
        if v != 0 {
            let n = if REVERSE { 63 - v.leading_zeros() } else { v.trailing_zeros() };
            T::set_reg(&mut core.cpu, op.regs[0], T::of(n.into()));
        }
        Ok(())
    })
}

/// TZCNT and LZCNT (`LEADING`): CF for a zero source, ZF for a zero result.
fn count<T: Int, const LEADING: bool, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = source::<T, MEM>(core, op, 1)?.zx();
        let n = if v == 0 {
            T::BITS
        } else if LEADING {
            v.leading_zeros() - (64 - T::BITS)
        } else {
            v.trailing_zeros()
        };
        let status = if v == 0 { CF } else { 0 } | if n == 0 { ZF } else { 0 };
        core.cpu.flags.set_status(status);
        T::set_reg(&mut core.cpu, op.regs[0], T::of(n.into()));
        Ok(())
    })
}

fn popcnt<T: Int, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = source::<T, MEM>(core, op, 1)?.zx();
        core.cpu.flags.set_status(if v == 0 { ZF } else { 0 });
        T::set_reg(&mut core.cpu, op.regs[0], T::of(v.count_ones().into()));
        Ok(())
    })
}

/// SF and ZF of `r`, CF given, OF clear; AF and PF (undefined) clear.
fn bmi_flags<T: Int>(core: &mut Core, r: T, cf: bool) {
    let mut status = if r.zx() == 0 { ZF } else { 0 };
    if (r.sx() as i64) < 0 {
        status |= crate::cpu::flags::SF;
    }
    core.cpu.flags.set_status(status | u64::from(cf));
}

fn andn<T: Int, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let b = source::<T, MEM>(core, op, 2)?;
        let r = T::of(!T::reg(&core.cpu, op.regs[1]).zx() & b.zx());
        bmi_flags(core, r, false);
        T::set_reg(&mut core.cpu, op.regs[0], r);
        Ok(())
    })
}

fn bextr<T: Int, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = source::<T, MEM>(core, op, 1)?.zx();
        let control = T::reg(&core.cpu, op.regs[2]).zx();
        let (start, len) = (control as u32 & 0xFF, (control >> 8) as u32 & 0xFF);
        let shifted = v.checked_shr(start).unwrap_or(0);
        let r = T::of(if len >= 64 { shifted } else { shifted & ((1 << len) - 1) });
        core.cpu.flags.set_status(if r.zx() == 0 { ZF } else { 0 });
        T::set_reg(&mut core.cpu, op.regs[0], r);
        Ok(())
    })
}

const BLSI: u8 = 0;
const BLSMSK: u8 = 1;

/// BLSI, BLSMSK, BLSR.
fn lowest<T: Int, const K: u8, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = source::<T, MEM>(core, op, 1)?.zx();
        let r = T::of(match K {
            BLSI => v & v.wrapping_neg(),
            BLSMSK => v ^ v.wrapping_sub(1),
            _ => v & v.wrapping_sub(1),
        });
        bmi_flags(core, r, if K == BLSI { v != 0 } else { v == 0 });
        T::set_reg(&mut core.cpu, op.regs[0], r);
        Ok(())
    })
}

fn bzhi<T: Int, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = source::<T, MEM>(core, op, 1)?;
        let n = T::reg(&core.cpu, op.regs[2]).zx() as u32 & 0xFF;
        let r = if n < T::BITS { T::of(v.zx() & ((1 << n) - 1)) } else { v };
        bmi_flags(core, r, n >= T::BITS);
        T::set_reg(&mut core.cpu, op.regs[0], r);
        Ok(())
    })
}

/// PDEP and PEXT (`EXTRACT`).
fn scatter<T: Int, const EXTRACT: bool, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let mut mask = source::<T, MEM>(core, op, 2)?.zx();
        let v = T::reg(&core.cpu, op.regs[1]).zx();
        let (mut r, mut k) = (0u64, 0);
        while mask != 0 {
            let bit = mask.trailing_zeros();
            if EXTRACT {
                r |= ((v >> bit) & 1) << k;
            } else {
                r |= ((v >> k) & 1) << bit;
            }
            k += 1;
            mask &= mask - 1;
        }
        T::set_reg(&mut core.cpu, op.regs[0], T::of(r));
        Ok(())
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, _address: u8) -> Option<Handler> {
    use Mnemonic as M;
    let size = operand_size(i);
    let memory = |n| i.op_kind(n) == OpKind::Memory;
    Some(match i.mnemonic() {
        M::Bt => return select::<BT>(i),
        M::Bts => return select::<BTS>(i),
        M::Btr => return select::<BTR>(i),
        M::Btc => return select::<BTC>(i),
        M::Bsf if memory(1) => sized!(size, scan, false, true),
        M::Bsf => sized!(size, scan, false, false),
        M::Bsr if memory(1) => sized!(size, scan, true, true),
        M::Bsr => sized!(size, scan, true, false),
        M::Tzcnt if memory(1) => sized!(size, count, false, true),
        M::Tzcnt => sized!(size, count, false, false),
        M::Lzcnt if memory(1) => sized!(size, count, true, true),
        M::Lzcnt => sized!(size, count, true, false),
        M::Popcnt if memory(1) => sized!(size, popcnt, true),
        M::Popcnt => sized!(size, popcnt, false),
        M::Andn if memory(2) => sized!(size, andn, true),
        M::Andn => sized!(size, andn, false),
        M::Bextr if memory(1) => sized!(size, bextr, true),
        M::Bextr => sized!(size, bextr, false),
        M::Blsi if memory(1) => sized!(size, lowest, BLSI, true),
        M::Blsi => sized!(size, lowest, BLSI, false),
        M::Blsmsk if memory(1) => sized!(size, lowest, BLSMSK, true),
        M::Blsmsk => sized!(size, lowest, BLSMSK, false),
        M::Blsr if memory(1) => sized!(size, lowest, 2, true),
        M::Blsr => sized!(size, lowest, 2, false),
        M::Bzhi if memory(1) => sized!(size, bzhi, true),
        M::Bzhi => sized!(size, bzhi, false),
        M::Pdep if memory(2) => sized!(size, scatter, false, true),
        M::Pdep => sized!(size, scatter, false, false),
        M::Pext if memory(2) => sized!(size, scatter, true, true),
        M::Pext => sized!(size, scatter, true, false),
        _ => return None,
    })
}
