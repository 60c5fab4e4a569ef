//! SHL, SHR, SAR, ROL and ROR by an immediate or CL; SHLD and SHRD whose flags nobody can see.

use super::{is_memory, operand, register};
use crate::asm::Rm;
use crate::asm::alu::{AND, CMP, OR, XOR};
use crate::asm::reg::*;
use crate::classify::shift_count;
use crate::flags::{AF_CLEAR, Kind};
use crate::layout::{in_memory, place, word};
use crate::translate::Translator;
use emulator::cpu;
use iced_x86::{Instruction, Mnemonic as M, OpKind};

pub fn lower(t: &mut Translator, i: &Instruction) -> bool {
    if matches!(t.now.mnemonic, M::Shld | M::Shrd) {
        double(t, i);
        return true;
    }
    let op = match t.now.mnemonic {
        M::Rol => 0,
        M::Ror => 1,
        M::Shl | M::Sal => 4,
        M::Shr => 5,
        M::Sar => 7,
        _ => return false,
    };
    match shift_count(i) {
        Some(n) if op < 2 => rotate(t, i, op, n),
        Some(n) => by(t, i, op, n),
        None if op < 2 => rotate_by_cl(t, i, op),
        None => by_cl(t, i, op),
    }
    true
}

fn by(t: &mut Translator, i: &Instruction, op: u8, n: u8) {
    let s = t.now.size;
    if is_memory(i, 0) {
        let rm = t.access(i, s, true, false);
        t.a.shift(op, s, rm, n);
    } else {
        t.change(register(i, 0), s, |t, rm| t.a.shift(op, s, rm, n));
    }
    let kind = match op {
        _ if n == 1 => Kind::ShiftOne,
        4 => Kind::ShiftLeft,
        _ => Kind::ShiftRight,
    };
    t.produced(kind, None);
}

fn by_cl(t: &mut Translator, i: &Instruction, op: u8) {
    let s = t.now.size;
    let Rm::Reg(count) = place(cpu::RCX) else { unreachable!("RCX lives in a register") };
    if !t.flags_live() {
        match operand(i, 0) {
            Rm::Reg(host) => t.a.shiftx(op, s, host, host, count),
            memory => {
                t.a.load(s, RDX, memory);
                t.a.shiftx(op, s, RDX, RDX, count);
                t.a.store(8, memory, RDX);
            }
        }
        t.flags_dead();
        return;
    }
    t.save_flags();
    t.a.load(4, RCX, Rm::Reg(count));
    if s == 4 && matches!(operand(i, 0), Rm::Reg(_)) {
        // Even a count of 0 clears the upper half.
        let Rm::Reg(host) = operand(i, 0) else { return };
        t.a.load(4, host, Rm::Reg(host));
    }
    t.a.alu_imm(AND, 4, Rm::Reg(RCX), if s == 8 { 63 } else { 31 });
    let none = t.a.jcc_near(4);
    let n = register(i, 0);
    if op == 5 {
        t.a.alu_imm(CMP, 4, Rm::Reg(RCX), 1);
        let one = t.a.jcc_near(4);
        t.change(n, s, |t, rm| t.a.shift_cl(op, s, rm));
        Kind::ShiftRight.save(t.a);
        let done = t.a.jmp_near();
        t.a.bind(one);
        t.change(n, s, |t, rm| t.a.shift(op, s, rm, 1));
        Kind::ShiftOne.save(t.a);
        t.a.bind(done);
    } else {
        t.change(n, s, |t, rm| t.a.shift_cl(op, s, rm));
        if op == 4 { Kind::ShiftLeft } else { Kind::ShiftRight }.save(t.a);
    }
    if s == 4 && !matches!(operand(i, 0), Rm::Reg(_)) {
        let done = t.a.jmp_near();
        t.a.bind(none);
        t.a.load(4, RDX, place(n.into()));
        t.a.store(8, place(n.into()), RDX);
        t.a.bind(done);
    } else {
        t.a.bind(none);
    }
    t.only_in_word();
}

/// CF and OF change, the others stay.
fn rotate(t: &mut Translator, i: &Instruction, op: u8, n: u8) {
    let s = t.now.size;
    let r = register(i, 0);
    let live = t.flags_live();
    if live {
        t.save_flags();
    }
    t.spoil();
    t.change(r, s, |t, rm| t.a.shift(op, s, rm, n));
    if !live {
        t.flags_dead();
        return;
    }
    // RCX: CF, RDX: OF.
    let bits = 8 * s;
    t.a.load(8, RCX, place(r.into()));
    t.a.load(8, RDX, Rm::Reg(RCX));
    if op == 0 {
        t.a.shift(5, s, Rm::Reg(RDX), bits - 1);
        t.a.alu_imm(AND, 4, Rm::Reg(RCX), 1);
        t.a.alu_from(XOR, 4, RDX, Rm::Reg(RCX));
    } else {
        t.a.shift(5, s, Rm::Reg(RDX), bits - 2);
        t.a.load(4, RCX, Rm::Reg(RDX));
        t.a.shift(5, 4, Rm::Reg(RCX), 1);
        t.a.alu_from(XOR, 4, RDX, Rm::Reg(RCX));
        t.a.alu_imm(AND, 4, Rm::Reg(RDX), 1);
    }
    t.a.shift(4, 4, Rm::Reg(RCX), 8);
    t.a.alu_from(OR, 4, RDX, Rm::Reg(RCX));
    t.a.load(4, RAX, in_memory(word::FLAGS));
    t.a.alu_imm(AND, 4, Rm::Reg(RAX), 0xFE00 | AF_CLEAR as i32);
    t.a.alu_from(OR, 4, RAX, Rm::Reg(RDX));
    t.a.store(4, in_memory(word::FLAGS), RAX);
    t.only_in_word();
}

/// Nobody can see the flags: [`crate::classify::is_blind`].
fn rotate_by_cl(t: &mut Translator, i: &Instruction, op: u8) {
    assert!(!t.flags_live(), "flags may be seen");
    let s = t.now.size;
    t.spoil();
    t.a.load(4, RCX, place(cpu::RCX));
    t.change(register(i, 0), s, |t, rm| t.a.shift_cl(op, s, rm));
    t.flags_dead();
}

/// SHLD and SHRD of registers; nobody can see the flags: [`crate::classify::is_blind`].
fn double(t: &mut Translator, i: &Instruction) {
    assert!(!t.flags_live(), "flags may be seen");
    let s = t.now.size;
    t.spoil();
    let from = t.host_of(register(i, 1), RAX);
    let by_cl = i.op2_kind() == OpKind::Register;
    if by_cl {
        t.a.load(4, RCX, place(cpu::RCX));
    }
    let opcode = if t.now.mnemonic == M::Shld { 0xA4 } else { 0xAC };
    t.change(register(i, 0), s, |t, rm| {
        t.a.map_0f(0, opcode + u8::from(by_cl), s, from, rm);
        if !by_cl {
            t.a.fixed([i.immediate8()]);
        }
    });
    t.flags_dead();
}
