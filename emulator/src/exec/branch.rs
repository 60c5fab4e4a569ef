//! Near branches: Jcc, JMP, CALL, RET, LOOPcc, JCXZ.

use super::Context;
use super::condition_number;
use super::int::Int;
use crate::core::{Core, canonical};
use crate::cpu::{self, BLOCK_RIP, RCX, RSP};
use crate::exception::{self, Trap};
use crate::op::{Exit, Handler, Op, leave, next, run_last};
use crate::{by_condition, sized};
use iced_x86::{Instruction, Mnemonic, OpKind};

/// The target of a direct branch.
#[inline(always)]
fn target(core: &Core, op: &Op) -> u64 {
    core.mask_rip(core.cpu.regs[BLOCK_RIP].wrapping_add(op.imm))
}

/// Direct branches of 16-bit operand size keep 16 bits of the target; those outside 64-bit mode
/// check it against the limit of CS.
#[inline(always)]
fn narrow(core: &mut Core, op: &Op, rip: u64) -> Result<u64, Trap> {
    let rip = if op.size == 2 { rip & 0xFFFF } else { rip };
    check_target(core, rip)
}

/// #GP(0) for a target outside the code segment.
#[inline(always)]
pub fn check_target(core: &mut Core, rip: u64) -> Result<u64, Trap> {
    let ok = if core.mode.bits == 64 {
        canonical(rip)
    } else {
        rip <= u64::from(core.cpu.segs[cpu::CS].limit)
    };
    if ok { Ok(rip) } else { Err(core.fault(exception::GP)) }
}

/// Jcc in 64-bit mode: the target is canonical (or the fetch faults).
fn jcc<const C: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    if super::condition::<C>(&core.cpu.flags) {
        let rip = target(core, &ops[0]);
        leave(core, &ops[0], rip, Exit::Next)
    } else {
        next(core, ops)
    }
}

fn jcc_any<const C: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    if super::condition::<C>(&core.cpu.flags) {
        run_last(core, ops, Exit::Next, |core, op| narrow(core, op, target(core, op)))
    } else {
        next(core, ops)
    }
}

/// JMP that the decoder followed: the block goes on at its target.
pub fn followed(core: &mut Core, ops: &[Op]) -> Exit {
    if ops.len() > 1 {
        return next(core, ops);
    }
    jmp_direct(core, ops)
}

fn jmp_direct(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Next, |core, op| narrow(core, op, target(core, op)))
}

fn jmp_r<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Next, |core, op| {
        let rip = T::reg(&core.cpu, op.regs[0]).zx();
        check_target(core, rip)
    })
}

fn jmp_m<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Next, |core, op| {
        let rip = core.read_mem::<T, 1>(op)?.zx();
        check_target(core, rip)
    })
}

fn jmp_m_wide(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Next, |core, op| {
        let rip = core.read_mem::<u64, 0>(op)?;
        check_target(core, rip)
    })
}

impl Core {
    /// CALL: pushes the address of the next instruction, and checks the target only then; memory
    /// below the stack keeps the push even if the target is wrong, as on a real CPU.
    fn call<T: Int>(&mut self, op: &Op, rip: u64) -> Result<u64, Trap> {
        let sp = self.cpu.regs[RSP];
        let back = self.next_rip(op);
        self.push_operand::<T>(op, T::of(back))?;
        let checked = check_target(self, rip);
        if checked.is_err() {
            self.cpu.regs[RSP] = sp;
        }
        checked
    }
}

fn call_direct<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Next, |core, op| {
        let rip = target(core, op);
        core.call::<T>(op, if op.size == 2 { rip & 0xFFFF } else { rip })
    })
}

/// CALL in 64-bit mode: RSP is the whole stack pointer.
fn call_64(core: &mut Core, ops: &[Op]) -> Exit {
    let op = &ops[0];
    let back =
        core.cpu.regs[BLOCK_RIP].wrapping_add_signed(op.offset.into()).wrapping_add(op.len.into());
    let sp = core.cpu.regs[RSP].wrapping_sub(8);
    if !u64::store_fast(core, sp, back) {
        return call_64_slow(core, ops);
    }
    core.cpu.regs[RSP] = sp;
    let rip = core.cpu.regs[BLOCK_RIP].wrapping_add(op.imm);
    leave(core, op, rip, Exit::Next)
}

#[inline(never)]
fn call_64_slow(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Next, |core, op| {
        let back = core.next_rip(op);
        core.push::<u64>(op, back)?;
        Ok(target(core, op))
    })
}

fn call_r<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Next, |core, op| {
        let rip = T::reg(&core.cpu, op.regs[0]).zx();
        core.call::<T>(op, rip)
    })
}

fn call_m<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Next, |core, op| {
        let rip = core.read_mem::<T, 1>(op)?.zx();
        core.call::<T>(op, rip)
    })
}

fn ret<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Next, |core, op| {
        let (rip, sp) = core.peek::<T>(op, 0)?;
        let rip = check_target(core, rip.zx())?;
        core.set_sp(sp.wrapping_add(op.imm));
        Ok(rip)
    })
}

fn ret_64(core: &mut Core, ops: &[Op]) -> Exit {
    let op = &ops[0];
    let sp = core.cpu.regs[RSP];
    match u64::load_fast(core, sp) {
        Some(rip) if canonical(rip) => {
            core.cpu.regs[RSP] = sp.wrapping_add(8).wrapping_add(op.imm);
            leave(core, op, rip, Exit::Next)
        }
        _ => ret_64_slow(core, ops),
    }
}

#[inline(never)]
fn ret_64_slow(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Next, |core, op| {
        let sp = core.cpu.regs[RSP];
        let rip = u64::load(core, op, sp)?;
        let rip = check_target(core, rip)?;
        core.cpu.regs[RSP] = sp.wrapping_add(8).wrapping_add(op.imm);
        Ok(rip)
    })
}

/// LOOP (`K` = 2), LOOPE (1), LOOPNE (0), JCXZ (3), by the opcode's low bits.
fn count_jump<T: Int, const K: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Next, |core, op| {
        let count = T::reg(&core.cpu, RCX as u8).zx();
        let zf = core.cpu.flags.zf();
        let left = if K == 3 { count } else { T::of(count.wrapping_sub(1)).zx() };
        let taken = match K {
            0 => left != 0 && !zf,
            1 => left != 0 && zf,
            2 => left != 0,
            _ => left == 0,
        };
        let rip = if taken { narrow(core, op, target(core, op))? } else { core.next_rip(op) };
        if K != 3 {
            T::set_reg(&mut core.cpu, RCX as u8, T::of(left));
        }
        Ok(rip)
    })
}

/// Operand size of a near branch in bytes.
fn branch_size(i: &Instruction, bits: u8) -> usize {
    match i.op0_kind() {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        OpKind::NearBranch64 => 8,
        OpKind::Register | OpKind::Memory => super::operand_size(i),
        _ if bits == 64 => 8,
        _ => 4,
    }
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, context: Context) -> Option<Handler> {
    use iced_x86::Code;
    let size = branch_size(i, context.bits);
    let wide = context.bits == 64;
    let counter = |k: u8| -> Handler {
        // The count register has the address size.
        macro_rules! pick {
            ($t:ty) => {
                match k {
                    0 => count_jump::<$t, 0>,
                    1 => count_jump::<$t, 1>,
                    2 => count_jump::<$t, 2>,
                    _ => count_jump::<$t, 3>,
                }
            };
        }
        match counter_bits(i) {
            16 => pick!(u16),
            32 => pick!(u32),
            _ => pick!(u64),
        }
    };
    Some(match i.mnemonic() {
        Mnemonic::Loopne => counter(0),
        Mnemonic::Loope => counter(1),
        Mnemonic::Loop => counter(2),
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => counter(3),
        Mnemonic::Jmp => match i.op0_kind() {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => jmp_direct,
            OpKind::Register => sized!(size, jmp_r),
            OpKind::Memory if is_far(i) => return None,
            OpKind::Memory if wide && size == 8 && context.address == 0 => jmp_m_wide,
            OpKind::Memory => sized!(size, jmp_m),
            _ => return None,
        },
        Mnemonic::Call => match i.op0_kind() {
            OpKind::NearBranch64 if wide => call_64,
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                sized!(size, call_direct)
            }
            OpKind::Register => sized!(size, call_r),
            OpKind::Memory if is_far(i) => return None,
            OpKind::Memory => sized!(size, call_m),
            _ => return None,
        },
        Mnemonic::Ret => match i.code() {
            Code::Retnq | Code::Retnq_imm16 if wide => ret_64,
            Code::Retnw | Code::Retnw_imm16 => ret::<u16>,
            Code::Retnd | Code::Retnd_imm16 => ret::<u32>,
            Code::Retnq | Code::Retnq_imm16 => ret::<u64>,
            _ => return None,
        },
        _ if i.is_jcc_short_or_near() => {
            let cc = condition_number(i)?;
            if wide { by_condition!(cc, jcc) } else { by_condition!(cc, jcc_any) }
        }
        _ => return None,
    })
}

fn is_far(i: &Instruction) -> bool {
    use iced_x86::MemorySize as S;
    matches!(i.memory_size(), S::SegPtr16 | S::SegPtr32 | S::SegPtr64)
}

/// Width of the counter of LOOP and JCXZ.
fn counter_bits(i: &Instruction) -> u8 {
    use iced_x86::Code as C;
    match i.code() {
        C::Loopne_rel8_16_CX
        | C::Loopne_rel8_32_CX
        | C::Loope_rel8_16_CX
        | C::Loope_rel8_32_CX
        | C::Loop_rel8_16_CX
        | C::Loop_rel8_32_CX
        | C::Jcxz_rel8_16
        | C::Jcxz_rel8_32 => 16,
        C::Loopne_rel8_16_RCX
        | C::Loopne_rel8_64_RCX
        | C::Loope_rel8_16_RCX
        | C::Loope_rel8_64_RCX
        | C::Loop_rel8_16_RCX
        | C::Loop_rel8_64_RCX
        | C::Jrcxz_rel8_16
        | C::Jrcxz_rel8_64 => 64,
        _ => 32,
    }
}
