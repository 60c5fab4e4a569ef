//! BT, BTS, BTR, BTC with an immediate on registers; POPCNT, TZCNT, LZCNT, BSF, BSR.

use super::{is_memory, operand, register};
use crate::asm::Rm;
use crate::asm::alu::{AND, OR};
use crate::asm::reg::*;
use crate::classify::shift_count;
use crate::flags::Kind;
use crate::layout::{in_memory, place, word};
use crate::translate::Translator;
use iced_x86::{Instruction, Mnemonic as M};

pub fn lower(t: &mut Translator, i: &Instruction) -> bool {
    match t.now.mnemonic {
        M::Bt => test(t, i, 4),
        M::Bts => test(t, i, 5),
        M::Btr => test(t, i, 6),
        M::Btc => test(t, i, 7),
        M::Popcnt => {
            count(t, i, 0xB8);
            // All flags are defined.
            t.produced(Kind::Arithmetic, None);
        }
        M::Tzcnt => counted(t, i, 0xBC),
        M::Lzcnt => counted(t, i, 0xBD),
        M::Bsf => scan(t, i, 0xBC),
        M::Bsr => scan(t, i, 0xBD),
        _ => return false,
    }
    true
}

/// CF is the bit, the other flags stay.
fn test(t: &mut Translator, i: &Instruction, op: u8) {
    let s = t.now.size;
    let live = t.flags_live();
    if live {
        t.save_flags();
        t.a.call(t.settle());
    }
    match (is_memory(i, 0), shift_count(i)) {
        (true, Some(bit)) => {
            let rm = t.access(i, s, op != 4, false);
            t.a.bit_imm(op, s, rm, bit & (8 * s - 1));
        }
        (true, None) => in_string(t, i, op, s),
        (false, Some(bit)) if op == 4 => t.a.bit_imm(op, s, operand(i, 0), bit & (8 * s - 1)),
        (false, Some(bit)) => {
            t.change(register(i, 0), s, |t, rm| t.a.bit_imm(op, s, rm, bit & (8 * s - 1)));
        }
        (false, None) => {
            let n = register(i, 0);
            let index = t.host_of(register(i, 1), RCX);
            match place(n.into()) {
                Rm::Reg(host) => t.a.bit(op, s, Rm::Reg(host), index),
                memory => {
                    t.a.load(s, RDX, memory);
                    t.a.bit(op, s, Rm::Reg(RDX), index);
                    if op != 4 {
                        t.a.store(8, memory, RDX);
                    }
                }
            }
        }
    }
    t.spoil();
    if !live {
        t.flags_dead();
        return;
    }
    t.a.setcc(2, Rm::Reg(RDX));
    t.a.extend(false, 4, 1, RDX, Rm::Reg(RDX));
    t.a.shift(4, 4, Rm::Reg(RDX), 8);
    t.a.load(4, RAX, in_memory(word::FLAGS));
    t.a.alu_imm(AND, 4, Rm::Reg(RAX), !0x100);
    t.a.alu_from(OR, 4, RAX, Rm::Reg(RDX));
    t.a.store(4, in_memory(word::FLAGS), RAX);
    t.only_in_word();
}

/// A bit of memory that a register selects (SDM 2A, BT, "bit strings").
fn in_string(t: &mut Translator, i: &Instruction, op: u8, s: u8) {
    let index = register(i, 1);
    let la = t.address(i);
    if s == 8 {
        t.a.load(8, RDX, place(index.into()));
    } else {
        t.a.extend(true, 8, 4, RDX, place(index.into()));
    }
    t.a.shift(7, 8, Rm::Reg(RDX), if s == 8 { 6 } else { 5 });
    t.a.lea(t.word(), RAX, Rm::Sib(la, RDX, if s == 8 { 3 } else { 2 }, 0));
    let rm = t.check(RAX, s, op != 4, true);
    t.a.load(s, RAX, rm);
    let index = t.host_of(index, RDX);
    t.a.bit(op, s, Rm::Reg(RAX), index);
    if op != 4 {
        t.a.store(s, rm, RAX);
    }
}

fn from(t: &mut Translator, i: &Instruction) -> Rm {
    if is_memory(i, 1) { t.access(i, t.now.size, false, false) } else { operand(i, 1) }
}

/// The instruction F3 0F `opcode` itself.
fn count(t: &mut Translator, i: &Instruction, opcode: u8) {
    let s = t.now.size;
    let rm = from(t, i);
    t.spoil();
    t.assign(register(i, 0), s, |t, to| t.a.map_0f(0xF3, opcode, s, to, rm));
}

/// CF and ZF are the host's, the others 0.
fn counted(t: &mut Translator, i: &Instruction, opcode: u8) {
    count(t, i, opcode);
    if !t.flags_live() {
        t.flags_dead();
        return;
    }
    t.a.setcc(2, Rm::Reg(RAX));
    t.a.setcc(4, Rm::Reg(RDX));
    t.a.extend(false, 4, 1, RAX, Rm::Reg(RAX));
    t.a.extend(false, 4, 1, RDX, Rm::Reg(RDX));
    t.a.shift(4, 4, Rm::Reg(RAX), 8);
    t.a.shift(4, 4, Rm::Reg(RDX), 14);
    t.a.alu_from(OR, 4, RAX, Rm::Reg(RDX));
    t.a.store(4, in_memory(word::FLAGS), RAX);
    t.only_in_word();
}

/// A zero source leaves the destination; flags as of TEST of the source.
fn scan(t: &mut Translator, i: &Instruction, opcode: u8) {
    let s = t.now.size;
    let rm = from(t, i);
    let live = t.flags_live();
    t.spoil();
    t.a.load(s, RCX, rm);
    t.a.test(s, Rm::Reg(RCX), RCX);
    if live {
        Kind::Logic.save(t.a);
    }
    let none = t.a.jcc_near(4);
    t.assign(register(i, 0), s, |t, to| t.a.map_0f(0, opcode, s, to, Rm::Reg(RCX)));
    t.a.bind(none);
    if live {
        t.only_in_word();
    } else {
        t.flags_dead();
    }
}
