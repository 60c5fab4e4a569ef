//! LODS, STOS, MOVS, SCAS and CMPS without a prefix that repeats them, upwards.

use crate::asm::Rm;
use crate::asm::alu::CMP;
use crate::asm::reg::*;
use crate::classify::{Writes, is_narrow};
use crate::flags::Kind;
use crate::groups::Key;
use crate::layout::{in_memory, place, word};
use crate::translate::Translator;
use emulator::cpu::flags::DF;
use emulator::cpu::{self, RDI, RSI};
use iced_x86::{Code, Instruction, OpKind, Register};

/// What a string instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// RSI's element to the accumulator.
    Load,
    /// The accumulator to RDI's element.
    Store,
    /// RSI's element to RDI's.
    Move,
    /// Accumulator and RDI's element.
    Scan,
    /// RSI's element and RDI's.
    Compare,
}

impl Form {
    fn reads_source(self) -> bool {
        matches!(self, Form::Load | Form::Move | Form::Compare)
    }

    fn has_destination(self) -> bool {
        self != Form::Load
    }

    /// Whether all status flags are set.
    pub fn sets_flags(self) -> bool {
        matches!(self, Form::Scan | Form::Compare)
    }

    /// General registers written.
    pub fn writes(self) -> Writes {
        Writes::always(
            u32::from(self.reads_source()) << RSI
                | u32::from(self.has_destination()) << RDI
                | u32::from(self == Form::Load) << cpu::RAX,
        )
    }
}

/// The form of `i` and the bytes of an element, if it is of this family.
pub fn form(i: &Instruction) -> Option<(Form, u8)> {
    use Code::*;
    let found = match i.code() {
        Lodsb_AL_m8 => (Form::Load, 1),
        Lodsw_AX_m16 => (Form::Load, 2),
        Lodsd_EAX_m32 => (Form::Load, 4),
        Lodsq_RAX_m64 => (Form::Load, 8),
        Stosb_m8_AL => (Form::Store, 1),
        Stosw_m16_AX => (Form::Store, 2),
        Stosd_m32_EAX => (Form::Store, 4),
        Stosq_m64_RAX => (Form::Store, 8),
        Movsb_m8_m8 => (Form::Move, 1),
        Movsw_m16_m16 => (Form::Move, 2),
        Movsd_m32_m32 => (Form::Move, 4),
        Movsq_m64_m64 => (Form::Move, 8),
        Scasb_AL_m8 => (Form::Scan, 1),
        Scasw_AX_m16 => (Form::Scan, 2),
        Scasd_EAX_m32 => (Form::Scan, 4),
        Scasq_RAX_m64 => (Form::Scan, 8),
        Cmpsb_m8_m8 => (Form::Compare, 1),
        Cmpsw_m16_m16 => (Form::Compare, 2),
        Cmpsd_m32_m32 => (Form::Compare, 4),
        Cmpsq_m64_m64 => (Form::Compare, 8),
        _ => return None,
    };
    let repeated = i.has_rep_prefix() || i.has_repne_prefix();
    let wide = |kind| match kind {
        OpKind::MemorySegRSI | OpKind::MemoryESRDI => !is_narrow(i),
        OpKind::MemorySegESI | OpKind::MemoryESEDI => is_narrow(i),
        // The accumulator.
        kind => kind == OpKind::Register,
    };
    let other = match i.memory_segment() {
        Register::FS | Register::GS => true,
        Register::CS => is_narrow(i),
        _ => false,
    };
    let usual = wide(i.op0_kind()) && wide(i.op1_kind()) && !repeated;
    (usual && !(found.0.reads_source() && other)).then_some(found)
}

/// Lowers `i`, if it is of this family.
pub fn lower(t: &mut Translator, i: &Instruction) -> bool {
    let Some((form, s)) = form(i) else { return false };
    t.spoil();
    t.a.test_imm(4, super::system::system_flags(), DF as i32);
    t.miss(5);
    let Rm::Reg(accumulator) = place(cpu::RAX) else { unreachable!("RAX lives in a register") };
    match form {
        Form::Load => {
            let rm = element(t, RSI, s, false);
            t.a.load(s, accumulator, rm);
        }
        Form::Store => {
            let rm = element(t, RDI, s, true);
            t.a.store(s, rm, accumulator);
        }
        Form::Scan => {
            let rm = element(t, RDI, s, false);
            t.a.alu_from(CMP, s, accumulator, rm);
        }
        Form::Move | Form::Compare => {
            let rm = element(t, RSI, s, false);
            t.a.load(s, RDX, rm);
            t.a.store(8, in_memory(word::SPILL), RDX);
            let rm = element(t, RDI, s, form == Form::Move);
            t.a.load(8, RDX, in_memory(word::SPILL));
            if form == Form::Move {
                t.a.store(s, rm, RDX);
            } else {
                t.a.alu_from(CMP, s, RDX, rm);
            }
        }
    }
    for (n, moves) in [(RSI, form.reads_source()), (RDI, form.has_destination())] {
        if moves {
            let Rm::Reg(host) = place(n) else { unreachable!("both live in registers") };
            t.a.lea(t.word(), host, Rm::Mem(host, s.into()));
        }
    }
    if form.sets_flags() {
        t.produced(Kind::Arithmetic, None);
    }
    true
}

/// The element that a register points to, checked.
fn element(t: &mut Translator, register: usize, s: u8, write: bool) -> Rm {
    let la = t.linear(Key::register(register), 0);
    t.check(la, s, write, false)
}
