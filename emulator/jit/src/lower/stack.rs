//! PUSH, POP, LEAVE.

use super::{is_memory, is_register, register};
use crate::asm::Rm;
use crate::asm::reg::*;
use crate::layout::{in_memory, place, word};
use crate::translate::Translator;
use emulator::cpu;
use iced_x86::{Instruction, Mnemonic as M};

pub fn lower(t: &mut Translator, i: &Instruction) -> bool {
    match t.now.mnemonic {
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

/// The word below the stack pointer, to be written.
pub fn below(t: &mut Translator) -> Rm {
    t.access_stack(cpu::RSP, -i32::from(t.word()), true)
}

impl Translator<'_> {
    /// Adds to the stack pointer; leaves the flags alone.
    pub fn adjust(&mut self, by: i32) {
        if by != 0 {
            self.a.lea(self.word(), pointer(), Rm::Mem(pointer(), by));
        }
    }
}

fn push(t: &mut Translator, i: &Instruction) {
    let s = t.word();
    if is_memory(i, 0) {
        let rm = t.access(i, s, false, false);
        t.a.load(s, RDX, rm);
        t.a.store(8, in_memory(word::SPILL), RDX);
        let top = below(t);
        t.a.load(8, RDX, in_memory(word::SPILL));
        t.a.store(s, top, RDX);
    } else {
        let top = below(t);
        if is_register(i, 0) {
            let from = t.host_of(register(i, 0), RDX);
            t.a.store(s, top, from);
        } else {
            t.a.store_imm(s, top, i.immediate(0) as i32);
        }
    }
    t.adjust(-i32::from(s));
}

fn pop(t: &mut Translator, i: &Instruction) {
    let top = t.access_stack(cpu::RSP, 0, false);
    let n = register(i, 0);
    let s = t.word();
    t.assign(n, s, |t, to| t.a.load(s, to, top));
    if usize::from(n) != cpu::RSP {
        t.adjust(s.into());
    }
}

fn leave(t: &mut Translator) {
    let Rm::Reg(frame) = place(cpu::RBP) else { unreachable!("RBP lives in a register") };
    let top = t.access_stack(cpu::RBP, 0, false);
    let s = t.word();
    t.a.lea(s, pointer(), Rm::Mem(frame, s.into()));
    t.a.load(s, frame, top);
}
