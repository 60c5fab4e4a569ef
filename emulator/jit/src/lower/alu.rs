//! ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NEG, XADD, CMPXCHG.

use super::{is_memory, register, source};
use crate::asm::Rm;
use crate::asm::alu::*;
use crate::asm::reg::*;
use crate::classify::whole_of;
use crate::flags::{Kind, Recipe, Source};
use crate::layout::place;
use crate::translate::Translator;
use emulator::cpu;
use iced_x86::{Instruction, Mnemonic as M};

/// The condition "carry".
const CARRY: u8 = 2;

pub fn lower(t: &mut Translator, i: &Instruction) -> bool {
    if t.now.high {
        high(t, i);
        return true;
    }
    match t.now.mnemonic {
        M::Add => binary(t, i, ADD),
        M::Or => binary(t, i, OR),
        M::Adc => binary(t, i, ADC),
        M::Sbb => binary(t, i, SBB),
        M::And => binary(t, i, AND),
        M::Sub => binary(t, i, SUB),
        M::Xor => binary(t, i, XOR),
        M::Cmp => binary(t, i, CMP),
        M::Test => test(t, i),
        M::Inc => step(t, i, 0),
        M::Dec => step(t, i, 1),
        M::Neg => neg(t, i),
        M::Xadd => xadd(t, i),
        M::Cmpxchg => cmpxchg(t, i),
        _ => return false,
    }
    true
}

/// TEST, CMP, AND, OR, XOR of AH, BH, CH or DH with an immediate.
fn high(t: &mut Translator, i: &Instruction) {
    let Rm::Reg(host) = place(whole_of(i.op0_register()).into()) else {
        unreachable!("the first four live in registers")
    };
    let v = i.immediate(1) as u8 as i8;
    let op = match t.now.mnemonic {
        M::Test => None,
        M::Cmp => Some(CMP),
        M::And => Some(AND),
        M::Or => Some(OR),
        _ => Some(XOR),
    };
    let Some(op) = op else {
        t.a.rorx(4, RCX, host, 8);
        t.a.test_imm(1, Rm::Reg(RCX), v.into());
        t.produced(Kind::Logic, None);
        return;
    };
    if op == CMP {
        t.a.rorx(4, RCX, host, 8);
        t.a.alu_imm(op, 1, Rm::Reg(RCX), v.into());
    } else {
        // There and back, which leaves the flags.
        t.a.rorx(8, host, host, 8);
        t.a.alu_imm(op, 1, Rm::Reg(host), v.into());
        t.a.rorx(8, host, host, 56);
    }
    t.produced(kind(op), None);
}

fn kind(op: u8) -> Kind {
    if matches!(op, OR | AND | XOR) { Kind::Logic } else { Kind::Arithmetic }
}

/// How the flags of `n op source` can be had again after it.
fn recipe(op: u8, s: u8, n: u8, from: Option<Source>) -> Option<Recipe> {
    let other = from.filter(|&from| from != Source::Register(n));
    match op {
        CMP => from.map(|from| Recipe::Compare(s, n, from)),
        XOR | SUB if from == Some(Source::Register(n)) => Some(Recipe::Zero),
        OR | AND | XOR => Some(Recipe::Test(s, n, Source::Register(n))),
        ADD => other.map(|from| Recipe::Added(s, n, from)),
        SUB => other.map(|from| Recipe::Subtracted(s, n, from)),
        _ => None,
    }
}

fn binary(t: &mut Translator, i: &Instruction, op: u8) {
    let s = t.now.size;
    let carry = op == ADC || op == SBB;
    if is_memory(i, 0) {
        let rm = t.access(i, s, op != CMP, false);
        if carry {
            t.want_flags(CARRY);
        }
        match source(i, 1) {
            Source::Register(r) => {
                let from = t.host_of(r, RDX);
                t.a.alu_to(op, s, rm, from);
            }
            Source::Immediate(v) => t.a.alu_imm(op, s, rm, v),
        }
        t.produced(kind(op), None);
        return;
    }
    let n = register(i, 0);
    let (rm, from) = if is_memory(i, 1) {
        (Some(t.access(i, s, false, false)), None)
    } else {
        (None, Some(source(i, 1)))
    };
    if carry {
        t.want_flags(CARRY);
    }
    match rm {
        Some(rm) => with_register(t, n, s, op, |t, to| t.a.alu_from(op, s, to, rm)),
        None => registers(t, op, s, n, from),
    }
    t.produced(kind(op), recipe(op, s, n, from));
}

/// The operation on a guest register, which is in a host register for it.
fn with_register(t: &mut Translator, n: u8, s: u8, op: u8, f: impl FnOnce(&mut Translator, u8)) {
    match place(n.into()) {
        Rm::Reg(host) => f(t, host),
        memory => {
            t.a.load(8, RDX, memory);
            f(t, RDX);
            if op != CMP {
                t.a.store(if s == 4 { 8 } else { s }, memory, RDX);
            }
        }
    }
}

fn registers(t: &mut Translator, op: u8, s: u8, n: u8, from: Option<Source>) {
    let to = place(n.into());
    let direct = matches!(to, Rm::Reg(_)) || s != 4 || op == CMP;
    match from {
        Some(Source::Immediate(v)) if direct => t.a.alu_imm(op, s, to, v),
        Some(Source::Immediate(v)) => {
            with_register(t, n, s, op, |t, to| t.a.alu_imm(op, s, Rm::Reg(to), v));
        }
        Some(Source::Register(r)) => match (to, place(r.into())) {
            (to, Rm::Reg(from)) if direct => t.a.alu_to(op, s, to, from),
            (_, from) => with_register(t, n, s, op, |t, to| t.a.alu_from(op, s, to, from)),
        },
        None => {}
    }
}

fn test(t: &mut Translator, i: &Instruction) {
    let s = t.now.size;
    let from = source(i, 1);
    if is_memory(i, 0) {
        let rm = t.access(i, s, false, false);
        match from {
            Source::Register(r) => {
                let from = t.host_of(r, RDX);
                t.a.test(s, rm, from);
            }
            Source::Immediate(v) => t.a.test_imm(s, rm, v),
        }
        t.produced(Kind::Logic, None);
        return;
    }
    let n = register(i, 0);
    match from {
        Source::Register(r) => {
            let from = t.host_of(r, RDX);
            t.a.test(s, place(n.into()), from);
        }
        Source::Immediate(v) => t.a.test_imm(s, place(n.into()), v),
    }
    t.produced(Kind::Logic, Some(Recipe::Test(s, n, from)));
}

/// INC (0) or DEC (1): CF stays.
fn step(t: &mut Translator, i: &Instruction, op: u8) {
    let s = t.now.size;
    let live = t.flags_live();
    let rm = if is_memory(i, 0) { Some(t.access(i, s, true, false)) } else { None };
    if live {
        t.want_flags(CARRY);
    }
    match rm {
        Some(rm) => t.a.step(op, s, rm),
        None => t.change(register(i, 0), s, |t, rm| t.a.step(op, s, rm)),
    }
    if live {
        t.produced(Kind::Arithmetic, None);
    } else {
        t.flags_dead();
    }
}

fn neg(t: &mut Translator, i: &Instruction) {
    let s = t.now.size;
    if is_memory(i, 0) {
        let rm = t.access(i, s, true, false);
        t.a.unary(3, s, rm);
        t.produced(Kind::Arithmetic, None);
    } else {
        let n = register(i, 0);
        t.change(n, s, |t, rm| t.a.unary(3, s, rm));
        t.produced(Kind::Arithmetic, Some(Recipe::Negated(s, n)));
    }
}

fn xadd(t: &mut Translator, i: &Instruction) {
    let s = t.now.size;
    let n = register(i, 1);
    let rm = t.access(i, s, true, true);
    t.a.load(8, RDX, place(n.into()));
    t.a.xadd(s, rm, RDX);
    t.write(n, s, RDX);
    t.produced(Kind::Arithmetic, None);
}

fn cmpxchg(t: &mut Translator, i: &Instruction) {
    let s = t.now.size;
    let rm = t.access(i, s, true, true);
    let Rm::Reg(accumulator) = place(cpu::RAX) else { unreachable!("RAX lives in a register") };
    let new = t.host_of(register(i, 1), RDX);
    t.a.mov(RAX, accumulator);
    t.a.cmpxchg(s, rm, new);
    match s {
        // Of a 32-bit accumulator the upper half is cleared only where it is written.
        4 => t.a.cmov(5, 8, accumulator, Rm::Reg(RAX)),
        _ => t.a.store(s, Rm::Reg(accumulator), RAX),
    }
    t.produced(Kind::Arithmetic, None);
}
