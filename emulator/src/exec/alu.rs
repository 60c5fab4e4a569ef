//! ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NEG, NOT, and CMP or TEST fused with a
//! conditional branch.

use super::int::Int;
use super::{Form, form, operand_size};
use crate::core::Core;
use crate::cpu::flags::Flags;
use crate::op::{Exit, Handler, Op, leave, next, run, trap};
use crate::{sized, sized_ea};
use iced_x86::{Instruction, Mnemonic};

/// Which operation; the numbers are those of the opcode's bits 5:3, TEST is added.
pub mod kind {
    #![allow(missing_docs)]
    pub const ADD: u8 = 0;
    pub const OR: u8 = 1;
    pub const ADC: u8 = 2;
    pub const SBB: u8 = 3;
    pub const AND: u8 = 4;
    pub const SUB: u8 = 5;
    pub const XOR: u8 = 6;
    pub const CMP: u8 = 7;
    pub const TEST: u8 = 8;
}
use kind::*;

/// Carries of an addition or subtraction, as [`Flags::aux`] wants them.
#[inline(always)]
pub fn carries<T: Int>(carry: u64) -> u64 {
    ((carry << (64 - T::BITS)) & 0xC000_0000_0000_0000) | (carry & 8)
}

/// Result and flags of `a K b`.
#[inline(always)]
pub fn alu<T: Int, const K: u8>(flags: &Flags, a: T, b: T) -> (T, Flags) {
    let (x, y) = (a.zx(), b.zx());
    let carry_in = if K == ADC || K == SBB { u64::from(flags.cf()) } else { 0 };
    let (r, aux) = match K {
        ADD | ADC => {
            let r = x.wrapping_add(y).wrapping_add(carry_in);
            (r, carries::<T>((x & y) | ((x | y) & !r)))
        }
        SUB | CMP | SBB => {
            let r = x.wrapping_sub(y).wrapping_sub(carry_in);
            (r, carries::<T>((!x & y) | ((!x | y) & r)))
        }
        OR => (x | y, 0),
        XOR => (x ^ y, 0),
        _ => (x & y, 0),
    };
    let r = T::of(r);
    (r, Flags { result: r.sx(), aux, system: flags.system })
}

fn rr<T: Int, const K: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let (a, b) = (T::reg(&core.cpu, op.regs[0]), T::reg(&core.cpu, op.regs[1]));
        let (r, flags) = alu::<T, K>(&core.cpu.flags, a, b);
        core.cpu.flags = flags;
        if K < CMP {
            T::set_reg(&mut core.cpu, op.regs[0], r);
        }
        Ok(())
    })
}

fn ri<T: Int, const K: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let a = T::reg(&core.cpu, op.regs[0]);
        let (r, flags) = alu::<T, K>(&core.cpu.flags, a, T::of(op.imm));
        core.cpu.flags = flags;
        if K < CMP {
            T::set_reg(&mut core.cpu, op.regs[0], r);
        }
        Ok(())
    })
}

fn rm<T: Int, const A: u8, const K: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    if let Some(la) = core.plain_ea::<A>(&ops[0])
        && let Some(b) = T::load_fast(core, la)
    {
        let op = &ops[0];
        let a = T::reg(&core.cpu, op.regs[0]);
        let (r, flags) = alu::<T, K>(&core.cpu.flags, a, b);
        core.cpu.flags = flags;
        if K < CMP {
            T::set_reg(&mut core.cpu, op.regs[0], r);
        }
        return next(core, ops);
    }
    rm_slow::<T, A, K>(core, ops)
}

#[inline(never)]
fn rm_slow<T: Int, const A: u8, const K: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let b = core.read_mem::<T, A>(op)?;
        let a = T::reg(&core.cpu, op.regs[0]);
        let (r, flags) = alu::<T, K>(&core.cpu.flags, a, b);
        core.cpu.flags = flags;
        if K < CMP {
            T::set_reg(&mut core.cpu, op.regs[0], r);
        }
        Ok(())
    })
}

/// Memory and register or immediate (`IMM`).
fn mx<T: Int, const A: u8, const K: u8, const IMM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    if let Some(la) = core.plain_ea::<A>(&ops[0]) {
        let op = &ops[0];
        let b = if IMM { T::of(op.imm) } else { T::reg(&core.cpu, op.regs[1]) };
        let old = core.cpu.flags;
        let flags = if K >= CMP {
            T::load_fast(core, la).map(|a| alu::<T, K>(&old, a, b).1)
        } else {
            T::modify_fast(core, la, |a| alu::<T, K>(&old, a, b))
        };
        if let Some(flags) = flags {
            core.cpu.flags = flags;
            return next(core, ops);
        }
    }
    mx_slow::<T, A, K, IMM>(core, ops)
}

#[inline(never)]
fn mx_slow<T: Int, const A: u8, const K: u8, const IMM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let b = if IMM { T::of(op.imm) } else { T::reg(&core.cpu, op.regs[1]) };
        if K >= CMP {
            let a = core.read_mem::<T, A>(op)?;
            core.cpu.flags = alu::<T, K>(&core.cpu.flags, a, b).1;
        } else {
            core.cpu.flags =
                core.modify_mem::<T, A, _>(op, |core, a| alu::<T, K>(&core.cpu.flags, a, b))?;
        }
        Ok(())
    })
}

fn select<const K: u8>(i: &Instruction, address: u8) -> Option<Handler> {
    let size = operand_size(i);
    Some(match form(i)? {
        Form::RegReg => sized!(size, rr, K),
        Form::RegImm => sized!(size, ri, K),
        Form::RegMem => sized_ea!(size, address, rm, K),
        Form::MemReg => sized_ea!(size, address, mx, K, false),
        Form::MemImm => sized_ea!(size, address, mx, K, true),
        _ => return None,
    })
}

/// INC (`D` = 1) or DEC: CF stays.
#[inline(always)]
fn step<T: Int, const DEC: bool>(flags: &Flags, a: T) -> (T, Flags) {
    let (r, mut new) =
        if DEC { alu::<T, SUB>(flags, a, T::of(1)) } else { alu::<T, ADD>(flags, a, T::of(1)) };
    new.set_cf(flags.cf());
    (r, new)
}

fn step_r<T: Int, const DEC: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let a = T::reg(&core.cpu, op.regs[0]);
        let (r, flags) = step::<T, DEC>(&core.cpu.flags, a);
        core.cpu.flags = flags;
        T::set_reg(&mut core.cpu, op.regs[0], r);
        Ok(())
    })
}

fn step_m<T: Int, const A: u8, const DEC: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.cpu.flags =
            core.modify_mem::<T, A, _>(op, |core, a| step::<T, DEC>(&core.cpu.flags, a))?;
        Ok(())
    })
}

fn neg_r<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let a = T::reg(&core.cpu, op.regs[0]);
        let (r, flags) = alu::<T, SUB>(&core.cpu.flags, T::of(0), a);
        core.cpu.flags = flags;
        T::set_reg(&mut core.cpu, op.regs[0], r);
        Ok(())
    })
}

fn neg_m<T: Int, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.cpu.flags =
            core.modify_mem::<T, A, _>(op, |core, a| alu::<T, SUB>(&core.cpu.flags, T::of(0), a))?;
        Ok(())
    })
}

fn not_r<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let a = T::reg(&core.cpu, op.regs[0]);
        T::set_reg(&mut core.cpu, op.regs[0], T::of(!a.zx()));
        Ok(())
    })
}

fn not_m<T: Int, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| core.modify_mem::<T, A, _>(op, |_, a| (T::of(!a.zx()), ())))
}

/// XOR or SUB of a register with itself: the usual way to clear it.
fn clear<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        T::set_reg(&mut core.cpu, op.regs[0], T::of(0));
        core.cpu.flags.result = 0;
        core.cpu.flags.aux = 0;
        Ok(())
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, address: u8) -> Option<Handler> {
    use Mnemonic as M;
    let same = form(i) == Some(Form::RegReg) && i.op0_register() == i.op1_register();
    match i.mnemonic() {
        M::Xor | M::Sub if same => Some(sized!(operand_size(i), clear)),
        M::Add => select::<ADD>(i, address),
        M::Or => select::<OR>(i, address),
        M::Adc => select::<ADC>(i, address),
        M::Sbb => select::<SBB>(i, address),
        M::And => select::<AND>(i, address),
        M::Sub => select::<SUB>(i, address),
        M::Xor => select::<XOR>(i, address),
        M::Cmp => select::<CMP>(i, address),
        M::Test => select::<TEST>(i, address),
        M::Inc | M::Dec | M::Neg | M::Not => one_operand(i, address),
        _ => None,
    }
}

fn one_operand(i: &Instruction, address: u8) -> Option<Handler> {
    let size = operand_size(i);
    let memory = form(i)? == Form::Mem;
    Some(match (i.mnemonic(), memory) {
        (Mnemonic::Inc, false) => sized!(size, step_r, false),
        (Mnemonic::Inc, true) => sized_ea!(size, address, step_m, false),
        (Mnemonic::Dec, false) => sized!(size, step_r, true),
        (Mnemonic::Dec, true) => sized_ea!(size, address, step_m, true),
        (Mnemonic::Neg, false) => sized!(size, neg_r),
        (Mnemonic::Neg, true) => sized_ea!(size, address, neg_m),
        (Mnemonic::Not, false) => sized!(size, not_r),
        (_, _) => sized_ea!(size, address, not_m),
    })
}

/// Whether condition `C` (the opcode's low four bits) holds for the comparison `a K b`, whose
/// flags are `flags`.
#[inline(always)]
fn holds<T: Int, const K: u8, const C: u8>(a: T, b: T, flags: &Flags) -> bool {
    if K == CMP {
        let (s, t) = (a.sx() as i64, b.sx() as i64);
        match C {
            2 => a < b,
            3 => a >= b,
            4 => a == b,
            5 => a != b,
            6 => a <= b,
            7 => a > b,
            0xC => s < t,
            0xD => s >= t,
            0xE => s <= t,
            0xF => s > t,
            _ => super::condition::<C>(flags),
        }
    } else {
        let r = flags.result;
        match C {
            4 | 6 => r == 0,
            5 | 7 => r != 0,
            8 | 0xC => (r as i64) < 0,
            9 | 0xD => (r as i64) >= 0,
            0xE => (r as i64) <= 0,
            0xF => (r as i64) > 0,
            _ => super::condition::<C>(flags),
        }
    }
}

#[inline(always)]
fn branch_if(core: &mut Core, ops: &[Op], taken: bool) -> Exit {
    if taken {
        let op = &ops[0];
        let rip = core.cpu.regs[crate::cpu::BLOCK_RIP].wrapping_add(op.target());
        let rip = core.mask_rip(rip);
        leave(core, op, rip, Exit::Next)
    } else {
        next(core, ops)
    }
}

fn fused_rr<T: Int, const K: u8, const C: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    let op = &ops[0];
    let (a, b) = (T::reg(&core.cpu, op.regs[0]), T::reg(&core.cpu, op.regs[1]));
    let flags = alu::<T, K>(&core.cpu.flags, a, b).1;
    core.cpu.flags = flags;
    branch_if(core, ops, holds::<T, K, C>(a, b, &flags))
}

fn fused_ri<T: Int, const K: u8, const C: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    let op = &ops[0];
    let (a, b) = (T::reg(&core.cpu, op.regs[0]), T::of(op.imm));
    let flags = alu::<T, K>(&core.cpu.flags, a, b).1;
    core.cpu.flags = flags;
    branch_if(core, ops, holds::<T, K, C>(a, b, &flags))
}

/// Memory with an immediate (`FORM` 0), a register (1), or a register with memory (2).
fn fused_mem<T: Int, const K: u8, const C: u8, const FORM: u8>(
    core: &mut Core,
    ops: &[Op],
) -> Exit {
    match T::load_fast(core, core.wide(&ops[0])) {
        Some(m) => fused_with::<T, K, C, FORM>(core, ops, m),
        None => fused_slow::<T, K, C, FORM>(core, ops),
    }
}

#[inline(never)]
fn fused_slow<T: Int, const K: u8, const C: u8, const FORM: u8>(
    core: &mut Core,
    ops: &[Op],
) -> Exit {
    match core.read_mem::<T, 0>(&ops[0]) {
        Ok(m) => fused_with::<T, K, C, FORM>(core, ops, m),
        Err(_) => trap(core, &ops[0]),
    }
}

#[inline(always)]
fn fused_with<T: Int, const K: u8, const C: u8, const FORM: u8>(
    core: &mut Core,
    ops: &[Op],
    m: T,
) -> Exit {
    let op = &ops[0];
    let (a, b) = match FORM {
        0 => (m, T::of(op.imm)),
        1 => (m, T::reg(&core.cpu, op.regs[1])),
        _ => (T::reg(&core.cpu, op.regs[0]), m),
    };
    let flags = alu::<T, K>(&core.cpu.flags, a, b).1;
    core.cpu.flags = flags;
    branch_if(core, ops, holds::<T, K, C>(a, b, &flags))
}

fn fused_at<const K: u8, const C: u8>(i: &Instruction, address: u8) -> Option<Handler> {
    let size = operand_size(i);
    let form = form(i)?;
    if size == 2 {
        return None;
    }
    macro_rules! pick {
        ($f:ident $(, $form:literal)?) => {
            match size {
                1 => $f::<u8, K, C $(, $form)?>,
                4 => $f::<u32, K, C $(, $form)?>,
                _ => $f::<u64, K, C $(, $form)?>,
            }
        };
    }
    Some(match form {
        Form::RegReg => pick!(fused_rr),
        Form::RegImm => pick!(fused_ri),
        Form::MemImm if address == 0 => pick!(fused_mem, 0),
        Form::MemReg if address == 0 => pick!(fused_mem, 1),
        Form::RegMem if address == 0 => pick!(fused_mem, 2),
        _ => return None,
    })
}

fn fused_kind<const K: u8>(i: &Instruction, address: u8, condition: u8) -> Option<Handler> {
    match condition {
        2 => fused_at::<K, 2>(i, address),
        3 => fused_at::<K, 3>(i, address),
        4 => fused_at::<K, 4>(i, address),
        5 => fused_at::<K, 5>(i, address),
        6 => fused_at::<K, 6>(i, address),
        7 => fused_at::<K, 7>(i, address),
        8 => fused_at::<K, 8>(i, address),
        9 => fused_at::<K, 9>(i, address),
        0xC => fused_at::<K, 0xC>(i, address),
        0xD => fused_at::<K, 0xD>(i, address),
        0xE => fused_at::<K, 0xE>(i, address),
        0xF => fused_at::<K, 0xF>(i, address),
        _ => None,
    }
}

/// The function for CMP or TEST `i` followed by a branch on `condition`, where there is one.
pub fn fused(i: &Instruction, address: u8, condition: u8) -> Option<Handler> {
    match i.mnemonic() {
        Mnemonic::Cmp => fused_kind::<CMP>(i, address, condition),
        Mnemonic::Test => fused_kind::<TEST>(i, address, condition),
        _ => None,
    }
}
