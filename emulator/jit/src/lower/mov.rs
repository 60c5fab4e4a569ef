//! MOV, MOVZX, MOVSX, MOVSXD, LEA, XCHG, BSWAP, CDQE and its kin, SETcc, CMOVcc, NOT, and what does
//! nothing.

use super::{is_memory, is_register, operand, register};
use crate::asm::Rm;
use crate::asm::reg::*;
use crate::classify::{does_nothing, is_selector};
use crate::layout::{cpu_field, place};
use crate::translate::Translator;
use core::mem::offset_of;
use emulator::cpu::{self, Cpu, Segment};

use iced_x86::{Instruction, Mnemonic as M, Register};

pub fn lower(t: &mut Translator, i: &Instruction) -> bool {
    match t.now.mnemonic {
        M::Mov if is_selector(i) => selector(t, i),
        M::Mov => mov(t, i),
        M::Movzx => extend(t, i, false),
        M::Movsx | M::Movsxd => extend(t, i, true),
        M::Lea => lea(t, i),
        M::Xchg => xchg(t, i),
        M::Not => not(t, i),
        M::Bswap => {
            let host = t.host_of(register(i, 0), RDX);
            t.a.bswap(t.now.size, host);
            t.write(register(i, 0), 8, host);
        }
        M::Cdqe | M::Cwde => {
            let Rm::Reg(host) = place(cpu::RAX) else { return false };
            if t.now.mnemonic == M::Cdqe {
                t.a.extend(true, 8, 4, host, Rm::Reg(host));
            } else {
                t.a.extend(true, 4, 2, host, Rm::Reg(host));
            }
        }
        M::Cdq | M::Cqo => {
            let (Rm::Reg(low), Rm::Reg(high)) = (place(cpu::RAX), place(cpu::RDX)) else {
                return false;
            };
            let s = if t.now.mnemonic == M::Cqo { 8 } else { 4 };
            t.spoil();
            t.a.load(s, high, Rm::Reg(low));
            t.a.shift(7, s, Rm::Reg(high), 8 * s - 1);
        }
        _ if does_nothing(i) => {}
        _ if t.now.condition.is_some() && t.now.size == 1 => set(t, i),
        _ if t.now.condition.is_some() => cmov(t, i),
        _ => return false,
    }
    true
}

fn mov(t: &mut Translator, i: &Instruction) {
    let s = t.now.size;
    if is_memory(i, 0) {
        let rm = t.access(i, s, true, false);
        if is_register(i, 1) {
            let from = t.host_of(register(i, 1), RDX);
            t.a.store(s, rm, from);
        } else {
            t.a.store_imm(s, rm, i.immediate(1) as i32);
        }
    } else if is_memory(i, 1) {
        let rm = t.access(i, s, false, false);
        t.assign(register(i, 0), s, |t, to| t.a.load(s, to, rm));
    } else if is_register(i, 1) {
        let from = operand(i, 1);
        match (operand(i, 0), from) {
            (Rm::Reg(to), from) => t.a.load(s, to, from),
            (to, Rm::Reg(from)) if s != 4 => t.a.store(s, to, from),
            (to, from) => {
                t.a.load(s, RDX, from);
                t.a.store(if s == 4 { 8 } else { s }, to, RDX);
            }
        }
    } else {
        immediate(t, register(i, 0), s, i.immediate(1));
    }
}

/// MOV from a segment register: a word to memory, else as wide as the register.
fn selector(t: &mut Translator, i: &Instruction) {
    let n = i.op1_register() as usize - Register::ES as usize;
    let from =
        offset_of!(Cpu, segs) + n * core::mem::size_of::<Segment>() + offset_of!(Segment, selector);
    if is_memory(i, 0) {
        let rm = t.access(i, 2, true, true);
        t.a.extend(false, 4, 2, RDX, cpu_field(from));
        t.a.store(2, rm, RDX);
    } else {
        t.a.extend(false, 4, 2, RDX, cpu_field(from));
        t.write(register(i, 0), t.now.size, RDX);
    }
}

fn immediate(t: &mut Translator, n: u8, s: u8, v: u64) {
    let v = if s == 4 { v & 0xFFFF_FFFF } else { v };
    match place(n.into()) {
        Rm::Reg(host) if s >= 4 => t.a.set(host, v),
        memory if s >= 4 && v as i32 as i64 as u64 == v => t.a.store_imm(8, memory, v as i32),
        memory if s >= 4 => {
            t.a.set(RDX, v);
            t.a.store(8, memory, RDX);
        }
        to => t.a.store_imm(s, to, v as i32),
    }
}

fn extend(t: &mut Translator, i: &Instruction, sign: bool) {
    let (s, from) = (t.now.size, t.now.source_size);
    let rm = if is_memory(i, 1) { t.access(i, from, false, false) } else { operand(i, 1) };
    // Without a sign 32 bits are enough for 64.
    let s = if !sign && s == 8 { 4 } else { s };
    t.assign(register(i, 0), s, |t, to| {
        if from >= s && s == 2 {
            t.a.load(2, to, rm);
        } else {
            t.a.extend(sign, s, from, to, rm);
        }
    });
}

fn lea(t: &mut Translator, i: &Instruction) {
    let s = t.now.size;
    let rm = t.operand(i);
    let to = register(i, 0);
    match place(to.into()) {
        Rm::Reg(host) if s >= 4 => match rm {
            Some(rm) => t.a.lea(s, host, rm),
            None => {
                let v = i.memory_displacement64();
                t.a.set(host, if s == 4 { v & 0xFFFF_FFFF } else { v });
            }
        },
        _ => {
            match rm {
                Some(rm) => t.a.lea(if s == 8 { 8 } else { 4 }, RDX, rm),
                None => {
                    let v = i.memory_displacement64();
                    t.a.set(RDX, if s == 8 { v } else { v & 0xFFFF_FFFF });
                }
            }
            t.write(to, s, RDX);
        }
    }
}

fn xchg(t: &mut Translator, i: &Instruction) {
    let s = t.now.size;
    if is_memory(i, 0) || is_memory(i, 1) {
        let n = register(i, u32::from(is_memory(i, 0)));
        let rm = t.access(i, s, true, true);
        t.a.load(s, RDX, rm);
        let from = t.host_of(n, RAX);
        t.a.store(s, rm, from);
        t.write(n, s, RDX);
        return;
    }
    let (a, b) = (register(i, 0), register(i, 1));
    t.a.load(8, RDX, place(a.into()));
    t.a.load(8, RAX, place(b.into()));
    if s == 4 {
        t.a.load(4, RDX, Rm::Reg(RDX));
        t.a.load(4, RAX, Rm::Reg(RAX));
    }
    t.write(a, s, RAX);
    t.write(b, s, RDX);
}

fn not(t: &mut Translator, i: &Instruction) {
    let s = t.now.size;
    if is_memory(i, 0) {
        let rm = t.access(i, s, true, false);
        t.a.unary(2, s, rm);
    } else {
        t.change(register(i, 0), s, |t, rm| t.a.unary(2, s, rm));
    }
}

fn set(t: &mut Translator, i: &Instruction) {
    let Some(cc) = t.now.condition else { return };
    let rm = if is_memory(i, 0) { t.access(i, 1, true, true) } else { operand(i, 0) };
    t.want_flags(cc);
    t.a.setcc(cc, rm);
}

fn cmov(t: &mut Translator, i: &Instruction) {
    let Some(cc) = t.now.condition else { return };
    let s = t.now.size;
    let rm = if is_memory(i, 1) { t.access(i, s, false, true) } else { operand(i, 1) };
    t.want_flags(cc);
    let n = register(i, 0);
    match place(n.into()) {
        Rm::Reg(host) => t.a.cmov(cc, s, host, rm),
        memory => {
            t.a.load(8, RDX, memory);
            t.a.cmov(cc, s, RDX, rm);
            t.a.store(if s == 4 { 8 } else { s }, memory, RDX);
        }
    }
}
