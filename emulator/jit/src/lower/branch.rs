//! Jcc, JMP, CALL, RET.

use super::stack::below;
use super::{is_memory, operand};
use crate::asm::Rm;
use crate::asm::reg::*;
use crate::classify::is_direct;
use crate::translate::Translator;
use emulator::cpu;
use iced_x86::{Instruction, Mnemonic as M};

pub fn lower(t: &mut Translator, i: &Instruction) -> bool {
    let direct = is_direct(i);
    match t.now.mnemonic {
        M::Jmp if direct => {
            t.save_flags();
            t.edge(i.near_branch_target());
        }
        M::Jmp => {
            target(t, i);
            t.indirect();
        }
        M::Call if direct => {
            t.save_flags();
            let top = below(t);
            push_return(t, i, top);
            t.call(i.next_ip(), Some(i.near_branch_target()));
        }
        M::Call => {
            target(t, i);
            t.indirect_later();
            let top = below(t);
            push_return(t, i, top);
            t.call(i.next_ip(), None);
        }
        M::Ret => {
            t.save_flags();
            let top = t.access_stack(cpu::RSP, 0, false);
            t.a.load(t.word(), RAX, top);
            let more = if i.op_count() == 1 { i.immediate(0) as i32 & 0xFFFF } else { 0 };
            t.give_back(i32::from(t.word()) + more);
        }
        _ => {
            let Some(cc) = t.now.condition else { return false };
            if !t.now.jcc {
                return false;
            }
            t.branch(cc, i.near_branch_target());
        }
    }
    true
}

/// The target of an indirect branch to RAX; the flags to the word.
fn target(t: &mut Translator, i: &Instruction) {
    t.save_flags();
    let rm = if is_memory(i, 0) { t.access(i, t.word(), false, false) } else { operand(i, 0) };
    t.a.load(t.word(), RAX, rm);
    t.spoil();
}

fn push_return(t: &mut Translator, i: &Instruction, top: Rm) {
    let back = i.next_ip();
    if t.word() == 4 || back as i32 as i64 as u64 == back {
        t.a.store_imm(t.word(), top, back as i32);
    } else {
        t.a.set(RDX, back);
        t.a.store(8, top, RDX);
    }
    t.adjust(-i32::from(t.word()));
}
