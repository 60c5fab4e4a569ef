//! Decimal adjustments of 16- and 32-bit code: AAA, AAS, AAD, AAM, DAA, DAS, and SALC.

use super::int::Int;
use crate::core::Core;
use crate::cpu::RAX;
use crate::cpu::flags::{AF, CF, PF, SF, ZF};
use crate::exception;
use crate::op::{Exit, Handler, Op, run};
use iced_x86::{Instruction, Mnemonic};

/// SF, ZF and PF of a byte.
fn byte_flags(v: u8) -> u64 {
    let mut flags = if v == 0 { ZF } else { 0 };
    if v & 0x80 != 0 {
        flags |= SF;
    }
    if v.count_ones() & 1 == 0 {
        flags |= PF;
    }
    flags
}

/// AAA and AAS (`SUB`).
fn ascii<const SUB: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        let ax = u16::reg(&core.cpu, RAX as u8);
        let adjust = ax & 0xF > 9 || core.cpu.flags.af();
        let ax = match (adjust, SUB) {
            (false, _) => ax,
            (true, false) => ax.wrapping_add(0x106),
            (true, true) => ax.wrapping_sub(0x106),
        };
        let ax = ax & 0xFF0F;
        let carry = if adjust { AF | CF } else { 0 };
        core.cpu.flags.set_status(carry | byte_flags(ax as u8));
        u16::set_reg(&mut core.cpu, RAX as u8, ax);
        Ok(())
    })
}

/// DAA and DAS (`SUB`).
fn decimal<const SUB: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        let old = u8::reg(&core.cpu, RAX as u8);
        let (old_cf, old_af) = (core.cpu.flags.cf(), core.cpu.flags.af());
        let mut al = old;
        let mut status = 0;
        if al & 0xF > 9 || old_af {
            let (r, carry) = if SUB { al.overflowing_sub(6) } else { al.overflowing_add(6) };
            al = r;
            status |= AF | if old_cf || carry { CF } else { 0 };
        }
        if old > 0x99 || old_cf {
            al = if SUB { al.wrapping_sub(0x60) } else { al.wrapping_add(0x60) };
            status |= CF;
        } else if !SUB {
            status &= !CF;
        }
        core.cpu.flags.set_status(status | byte_flags(al));
        u8::set_reg(&mut core.cpu, RAX as u8, al);
        Ok(())
    })
}

fn aam(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let base = op.imm as u8;
        if base == 0 {
            return Err(core.fault(exception::DE));
        }
        let al = u8::reg(&core.cpu, RAX as u8);
        let ax = u16::from(al / base) << 8 | u16::from(al % base);
        core.cpu.flags.set_status(byte_flags(ax as u8));
        u16::set_reg(&mut core.cpu, RAX as u8, ax);
        Ok(())
    })
}

fn aad(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let ax = u16::reg(&core.cpu, RAX as u8);
        let al = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(op.imm as u8));
        core.cpu.flags.set_status(byte_flags(al));
        u16::set_reg(&mut core.cpu, RAX as u8, al.into());
        Ok(())
    })
}

fn salc(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        let v = if core.cpu.flags.cf() { 0xFF } else { 0 };
        u8::set_reg(&mut core.cpu, RAX as u8, v);
        Ok(())
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction) -> Option<Handler> {
    Some(match i.mnemonic() {
        Mnemonic::Aaa => ascii::<false>,
        Mnemonic::Aas => ascii::<true>,
        Mnemonic::Daa => decimal::<false>,
        Mnemonic::Das => decimal::<true>,
        Mnemonic::Aam => aam,
        Mnemonic::Aad => aad,
        Mnemonic::Salc => salc,
        _ => return None,
    })
}
