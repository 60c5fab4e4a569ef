//! PUSH, POP, LEAVE.

use super::{is_memory, is_register, register};
use crate::asm::reg::*;
use crate::asm::{Asm, Rm};
use crate::layout::{in_memory, place, word};
use crate::translate::Translator;
use emulator::cpu;
use iced_x86::{Instruction, Mnemonic as M};

pub fn lower(t: &mut Translator, i: &Instruction) -> bool {
    match i.mnemonic() {
        M::Push => push(t, i),
        M::Pop => pop(t, i),
        M::Leave => leave(t),
        _ => return false,
    }
    true
}

/// The host register of RSP.
pub fn pointer() -> u8 {
    match place(cpu::RSP) {
        Rm::Reg(host) => host,
        _ => unreachable!("RSP lives in a register"),
    }
}

/// The eight bytes below the stack pointer, to be written.
pub fn below(t: &mut Translator) -> Rm {
    t.access_stack(cpu::RSP, -8, true)
}

/// Adds to the stack pointer; leaves the flags alone.
pub fn adjust(a: &mut Asm, by: i32) {
    a.lea(8, pointer(), Rm::Mem(pointer(), by));
}

fn push(t: &mut Translator, i: &Instruction) {
    if is_memory(i, 0) {
        let rm = t.access(i, 8, false, false);
        t.a.load(8, RDX, rm);
        t.a.store(8, in_memory(word::SPILL), RDX);
        let top = below(t);
        t.a.load(8, RDX, in_memory(word::SPILL));
        t.a.store(8, top, RDX);
    } else {
        let top = below(t);
        if is_register(i, 0) {
            let from = t.host_of(register(i, 0), RDX);
            t.a.store(8, top, from);
        } else {
            t.a.store_imm(8, top, i.immediate(0) as i32);
        }
    }
    adjust(&mut t.a, -8);
}

fn pop(t: &mut Translator, i: &Instruction) {
    let top = t.access_stack(cpu::RSP, 0, false);
    let n = register(i, 0);
    t.assign(n, 8, |t, to| t.a.load(8, to, top));
    if usize::from(n) != cpu::RSP {
        adjust(&mut t.a, 8);
    }
}

fn leave(t: &mut Translator) {
    let Rm::Reg(frame) = place(cpu::RBP) else { unreachable!("RBP lives in a register") };
    let top = t.access_stack(cpu::RBP, 0, false);
    t.a.lea(8, pointer(), Rm::Mem(frame, 8));
    t.a.load(8, frame, top);
}
