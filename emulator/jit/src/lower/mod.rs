//! Instructions as host code, a file for each family.
//!
//! Contract: [`lower`] emits what [`crate::classify`] promised; see [`crate::translate`] for the
//! rules. `false`: nothing was emitted.

mod alu;
mod bit;
mod branch;
mod mov;
mod muldiv;
mod shift;
pub mod sse;
mod stack;
pub mod string;
mod system;
pub mod x87;

use crate::asm::Rm;
use crate::asm::reg::*;
use crate::classify::{Family, number};
use crate::flags::Source;
use crate::layout::place;
use crate::translate::Translator;
use iced_x86::{Instruction, OpKind};

/// Emits the instruction.
pub fn lower(t: &mut Translator, i: &Instruction) -> bool {
    match t.now.family {
        Family::Mov => mov::lower(t, i),
        Family::Alu => alu::lower(t, i),
        Family::Branch => branch::lower(t, i),
        Family::Stack => stack::lower(t, i),
        Family::Shift => shift::lower(t, i),
        Family::Bit => bit::lower(t, i),
        Family::MulDiv => muldiv::lower(t, i),
        Family::String => string::lower(t, i),
        Family::Other => {
            sse::lower(t, i)
                || x87::lower(t, i)
                || system::lower(t, i)
                || string::lower(t, i)
                || mov::lower(t, i)
        }
    }
}

/// Guest register of operand `n`.
fn register(i: &Instruction, n: u32) -> u8 {
    number(i.op_register(n))
}

/// Where operand `n`, a register, is.
fn operand(i: &Instruction, n: u32) -> Rm {
    place(register(i, n).into())
}

fn is_memory(i: &Instruction, n: u32) -> bool {
    i.op_kind(n) == OpKind::Memory
}

fn is_register(i: &Instruction, n: u32) -> bool {
    i.op_kind(n) == OpKind::Register
}

/// Operand `n`, a register or an immediate.
fn source(i: &Instruction, n: u32) -> Source {
    if is_register(i, n) {
        Source::Register(register(i, n))
    } else {
        Source::Immediate(i.immediate(n) as i32)
    }
}

impl Translator<'_> {
    /// Writes a guest register from a host register, whose upper half is zero for 4 bytes. Leaves
    /// the flags alone.
    fn write(&mut self, n: u8, size: u8, from: u8) {
        match place(n.into()) {
            Rm::Reg(host) if size >= 4 => self.a.mov(host, from),
            Rm::Reg(host) => self.a.store(size, Rm::Reg(host), from),
            memory if size >= 4 => self.a.store(8, memory, from),
            memory => self.a.store(size, memory, from),
        }
    }

    /// Changes a guest register by an instruction with one operand, which is a register where the
    /// upper half must be cleared.
    fn change(&mut self, n: u8, size: u8, f: impl FnOnce(&mut Self, Rm)) {
        match place(n.into()) {
            Rm::Reg(host) => f(self, Rm::Reg(host)),
            memory if size == 4 => {
                self.a.load(4, RDX, memory);
                f(self, Rm::Reg(RDX));
                self.a.store(8, memory, RDX);
            }
            memory => f(self, memory),
        }
    }

    /// Writes a guest register through an instruction that has a register as its destination and
    /// sets all of it, or its `size` bytes.
    fn assign(&mut self, n: u8, size: u8, f: impl FnOnce(&mut Self, u8)) {
        match place(n.into()) {
            Rm::Reg(host) => f(self, host),
            memory => {
                f(self, RDX);
                self.a.store(if size == 4 { 8 } else { size }, memory, RDX);
            }
        }
    }
}
