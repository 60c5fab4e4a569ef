//! x87 loads, stores, arithmetic, comparisons and moves: as the same instructions of the host.
//!
//! Contract: the guest's x87 state is in the host's x87 while [`word::X87`] is set, which the head
//! of a block with such instructions sees to; then no exception is unmasked, so that even stack
//! faults have the host's masked response. The addresses that the x87 notes are stored beside each
//! instruction. Only what has one answer on every host is here: not transcendental functions and
//! partial remainders.

use super::is_memory;
use crate::asm::Rm;
use crate::asm::alu::{AND, CMP};
use crate::asm::reg::*;
use crate::classify::Writes;
use crate::flags::Kind;
#[cfg(doc)]
use crate::layout::word;
use crate::layout::{fpu_data, fpu_instruction};
use crate::translate::Translator;
use emulator::cpu;
use iced_x86::{Code, Instruction, MemorySize as S, Mnemonic as M, Register};

/// What an instruction needs besides its own encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Registers, or memory that is read.
    Plain,
    /// Memory is written.
    Store,
    /// FCOMI and its kin.
    Compare,
    /// FCMOVcc, by the condition code of the jump that tests the same.
    Conditional(u8),
    /// FNSTSW AX.
    Status,
    /// FLDCW.
    Control,
    /// FNSTCW and FNSTSW to memory.
    Word,
    /// FWAIT: no exception can be pending.
    Wait,
}

impl Form {
    /// Whether the x87 notes the instruction's address.
    fn is_noted(self) -> bool {
        !matches!(self, Form::Status | Form::Control | Form::Word | Form::Wait)
    }
}

/// The form of `i`, if it is of this family.
pub fn form(i: &Instruction) -> Option<Form> {
    let memory = i.op_count() > 0 && is_memory(i, 0);
    if memory && matches!(i.memory_segment(), Register::FS | Register::GS) {
        // The address noted is without the base.
        return None;
    }
    Some(match i.mnemonic() {
        M::Wait => Form::Wait,
        M::Fnstsw if i.code() == Code::Fnstsw_AX => Form::Status,
        M::Fnstsw | M::Fnstcw => Form::Word,
        M::Fldcw => Form::Control,
        M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp if memory => Form::Store,
        M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip => Form::Compare,
        M::Fcmovb => Form::Conditional(2),
        M::Fcmovnb => Form::Conditional(3),
        M::Fcmove => Form::Conditional(4),
        M::Fcmovne => Form::Conditional(5),
        M::Fcmovbe => Form::Conditional(6),
        M::Fcmovnbe => Form::Conditional(7),
        M::Fcmovu => Form::Conditional(10),
        M::Fcmovnu => Form::Conditional(11),
        m if plain(m) && (!memory || i.memory_size() != S::Unknown) => Form::Plain,
        _ => return None,
    })
}

#[rustfmt::skip]
fn plain(m: M) -> bool {
    use M::*;
    matches!(
        m,
        Fld | Fild | Fst | Fstp | Fxch | Fchs | Fabs | Fsqrt | Frndint
            | Fld1 | Fldz | Fldl2t | Fldl2e | Fldpi | Fldlg2 | Fldln2
            | Fadd | Faddp | Fiadd | Fsub | Fsubp | Fisub | Fsubr | Fsubrp | Fisubr
            | Fmul | Fmulp | Fimul | Fdiv | Fdivp | Fidiv | Fdivr | Fdivrp | Fidivr
            | Fcom | Fcomp | Fcompp | Ficom | Ficomp | Fucom | Fucomp | Fucompp | Ftst | Fxam
    )
}

/// The escape byte and ModRM.
fn encoding(bytes: &[u8]) -> Option<(u8, u8)> {
    let at = bytes.iter().position(|b| b & 0xF8 == 0xD8)?;
    Some((bytes[at], *bytes.get(at + 1)?))
}

/// Lowers `i`, if it is of this family.
pub fn lower(t: &mut Translator, i: &Instruction) -> bool {
    let Some(form) = form(i) else { return false };
    if form == Form::Wait {
        return true;
    }
    let Some((escape, modrm)) = encoding(t.instruction_bytes()) else { return false };
    let extension = modrm >> 3 & 7;
    match form {
        Form::Status => {
            t.a.fixed([escape, modrm]);
            t.write(cpu::RAX as u8, 2, RAX);
        }
        Form::Control => {
            let rm = t.access(i, 2, false, true);
            t.a.load(2, RDX, rm);
            // Exceptions that are not masked are the interpreter's affair.
            t.a.alu_imm(AND, 4, Rm::Reg(RDX), 0x3F);
            t.a.alu_imm(CMP, 4, Rm::Reg(RDX), 0x3F);
            t.miss(5);
            t.a.x87(escape, extension, rm);
        }
        Form::Word => {
            let rm = t.access(i, 2, true, false);
            t.a.x87(escape, extension, rm);
        }
        _ if is_memory_form(i) => {
            let la = t.address(i);
            let rm = t.check(la, i.memory_size().size() as u8, form == Form::Store, false);
            t.a.x87(escape, extension, rm);
            t.a.store(8, fpu_data(), la);
        }
        Form::Conditional(cc) => {
            t.want_flags(cc);
            t.a.fixed([escape, modrm]);
        }
        _ => t.a.fixed([escape, modrm]),
    }
    if form.is_noted() && !t.next_notes() {
        note(t, i.ip());
    }
    if form == Form::Compare {
        t.produced(Kind::Arithmetic, None);
    }
    true
}

fn is_memory_form(i: &Instruction) -> bool {
    i.op_count() > 0 && is_memory(i, 0)
}

/// Whether `i` notes its address and cannot fail to be executed.
pub fn always_notes(i: &Instruction) -> bool {
    !is_memory_form(i) && form(i).is_some_and(Form::is_noted)
}

fn note(t: &mut Translator, ip: u64) {
    if ip as i32 as i64 as u64 == ip {
        t.a.store_imm(8, fpu_instruction(), ip as i32);
    } else {
        t.a.set(RAX, ip);
        t.a.store(8, fpu_instruction(), RAX);
    }
}

/// General registers written.
pub fn writes(form: Form) -> Writes {
    Writes::always(if form == Form::Status { 1 << cpu::RAX } else { 0 })
}
