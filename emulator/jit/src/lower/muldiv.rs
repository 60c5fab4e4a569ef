//! MUL, IMUL, DIV, IDIV.

use super::{is_memory, operand, register};
use crate::asm::Rm;
use crate::asm::alu::CMP;
use crate::asm::reg::*;
use crate::layout::{in_memory, place, word};
use crate::translate::Translator;
use emulator::cpu;
use iced_x86::{Instruction, Mnemonic as M};

pub fn lower(t: &mut Translator, i: &Instruction) -> bool {
    match t.now.mnemonic {
        M::Imul if i.op_count() > 1 => imul(t, i),
        M::Imul => wide(t, i, 5),
        M::Mul => wide(t, i, 4),
        M::Div => div(t, i),
        M::Idiv => idiv(t, i),
        _ => return false,
    }
    true
}

/// Saves CF = OF = OF of the host's flags, AF clear, the others of the product's low half.
fn save(t: &mut Translator, s: u8, low: Rm) {
    if !t.flags_live() {
        t.flags_dead();
        return;
    }
    t.a.setcc(0, Rm::Reg(RCX));
    t.a.load(8, RDX, low);
    t.a.test(s, Rm::Reg(RDX), RDX);
    t.a.lahf();
    // or ah, cl; mov al, cl; or al, AF_CLEAR
    t.a.fixed([0x08, 0xCC, 0x88, 0xC8, 0x0C, crate::flags::AF_CLEAR as u8]);
    t.a.store(4, in_memory(word::FLAGS), RAX);
    t.only_in_word();
}

fn imul(t: &mut Translator, i: &Instruction) {
    let s = t.now.size;
    let rm = if is_memory(i, 1) { t.access(i, s, false, false) } else { operand(i, 1) };
    let n = register(i, 0);
    t.spoil();
    if i.op_count() == 3 {
        let v = i.immediate(2) as i32;
        t.assign(n, s, |t, to| t.a.imul_imm(s, to, rm, v));
    } else {
        match place(n.into()) {
            Rm::Reg(host) => t.a.imul(s, host, rm),
            memory => {
                t.a.load(8, RDX, memory);
                t.a.imul(s, RDX, rm);
                t.a.store(if s == 4 { 8 } else { s }, memory, RDX);
            }
        }
    }
    save(t, s, place(n.into()));
}

/// The double-width product.
fn wide(t: &mut Translator, i: &Instruction, op: u8) {
    let s = t.now.size;
    let rm = if is_memory(i, 0) { t.access(i, s, false, true) } else { operand(i, 0) };
    t.spoil();
    t.a.load(8, RAX, place(cpu::RAX));
    t.a.unary(op, s, rm);
    t.a.store(8, place(cpu::RAX), RAX);
    t.a.store(8, place(cpu::RDX), RDX);
    save(t, s, place(cpu::RAX));
}

/// The interpreter raises #DE.
fn div(t: &mut Translator, i: &Instruction) {
    let s = t.now.size;
    divisor(t, i, s);
    t.a.load(8, RDX, place(cpu::RDX));
    t.a.alu_to(CMP, s, Rm::Reg(RDX), RCX);
    t.miss(3);
    t.a.load(8, RAX, place(cpu::RAX));
    t.a.unary(6, s, Rm::Reg(RCX));
    quotient(t);
}

/// Only dividends that fit the divisor's size, and no division by 0 or -1.
fn idiv(t: &mut Translator, i: &Instruction) {
    let s = t.now.size;
    divisor(t, i, s);
    t.a.lea(s, RDX, Rm::Mem(RCX, 1));
    t.a.alu_imm(CMP, s, Rm::Reg(RDX), 1);
    t.miss(6);
    t.a.load(8, RAX, place(cpu::RAX));
    // cdq or cqo
    if s == 8 {
        t.a.fixed([0x48, 0x99])
    } else {
        t.a.fixed([0x99])
    }
    t.a.alu_from(CMP, s, RDX, place(cpu::RDX));
    t.miss(5);
    t.a.unary(7, s, Rm::Reg(RCX));
    quotient(t);
}

fn divisor(t: &mut Translator, i: &Instruction, s: u8) {
    let rm = if is_memory(i, 0) { t.access(i, s, false, false) } else { operand(i, 0) };
    t.spoil();
    t.a.load(s, RCX, rm);
}

fn quotient(t: &mut Translator) {
    t.a.store(8, place(cpu::RAX), RAX);
    t.a.store(8, place(cpu::RDX), RDX);
}
