//! SSE to SSE4.1 on XMM registers: as the same instruction of the host, on XMM0 and XMM1.
//!
//! Contract: guest XMM registers live in memory. What rounds or raises exceptions runs under the
//! guest's MXCSR, which is in force while [`word::FLOAT`] is set: the interpreter sets it at the
//! first such instruction if all exceptions are masked. Only instructions whose result the SDM
//! defines in full are here.

use super::{is_memory, register};
use crate::asm::Rm;
use crate::flags::Kind;
use crate::layout::{self, in_memory, place, word};
use crate::translate::Translator;
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

/// How an instruction is emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Moves all 16 bytes.
    Whole,
    /// Moves the low 4 or 8 bytes from or to memory; loads clear the rest.
    Scalar(u8),
    /// Moves 8 bytes between memory and the low (0) or high half.
    Half(u8),
    /// MOVD, MOVQ between XMM and general registers, or MOVQ between XMM registers.
    General,
    /// `op xmm, xmm/m`.
    Integer,
    /// The same under MXCSR.
    Float,
    /// `op xmm, imm`.
    Shift,
    /// Sets EFLAGS.
    Compare,
    /// From an XMM register to a general one under MXCSR.
    ToInteger,
    /// From a general register or memory to an XMM register under MXCSR.
    FromInteger,
    /// MOVMSKPS and kin.
    Mask,
}

fn xmm(i: &Instruction, n: u32) -> bool {
    i.op_kind(n) == OpKind::Register && i.op_register(n).is_xmm()
}

/// The class of `i`, if it is of this family.
pub fn class(i: &Instruction) -> Option<Class> {
    if !(xmm(i, 0) || i.op_count() > 1 && xmm(i, 1)) {
        return None;
    }
    let memory = is_memory(i, 0) || i.op_count() > 1 && is_memory(i, 1);
    Some(match i.mnemonic() {
        M::Movaps
        | M::Movapd
        | M::Movdqa
        | M::Movups
        | M::Movupd
        | M::Movdqu
        | M::Lddqu
        | M::Movntdq
        | M::Movntps
        | M::Movntpd => Class::Whole,
        M::Movss if memory => Class::Scalar(4),
        M::Movsd | M::Movq if memory => Class::Scalar(8),
        M::Movd if memory => Class::Scalar(4),
        M::Movlps | M::Movlpd if memory => Class::Half(0),
        M::Movhps | M::Movhpd if memory => Class::Half(8),
        M::Movd | M::Movq => Class::General,
        M::Psllw | M::Pslld | M::Psllq | M::Psrlw | M::Psrld | M::Psrlq | M::Psraw | M::Psrad
            if !xmm(i, 1) && !memory =>
        {
            Class::Shift
        }
        M::Pslldq | M::Psrldq => Class::Shift,
        M::Comisd | M::Comiss | M::Ucomisd | M::Ucomiss => Class::Compare,
        M::Cvttsd2si | M::Cvtsd2si | M::Cvttss2si | M::Cvtss2si => Class::ToInteger,
        M::Cvtsi2sd | M::Cvtsi2ss => Class::FromInteger,
        M::Movmskps | M::Movmskpd | M::Pmovmskb => Class::Mask,
        m if !xmm(i, 0) || !(xmm(i, 1) || is_memory(i, 1)) => {
            debug_assert!(m != M::INVALID);
            return None;
        }
        m if float(m) => Class::Float,
        m if integer(m) => Class::Integer,
        _ => return None,
    })
}

/// Whether it depends on MXCSR.
pub fn uses_mxcsr(i: &Instruction) -> bool {
    let class = class(i);
    matches!(class, Some(Class::Float | Class::Compare | Class::ToInteger | Class::FromInteger))
}

#[rustfmt::skip]
fn float(m: M) -> bool {
    use M::*;
    matches!(
        m,
        Addss | Addsd | Addps | Addpd | Subss | Subsd | Subps | Subpd
            | Mulss | Mulsd | Mulps | Mulpd | Divss | Divsd | Divps | Divpd
            | Sqrtss | Sqrtsd | Sqrtps | Sqrtpd | Minss | Minsd | Minps | Minpd
            | Maxss | Maxsd | Maxps | Maxpd | Cmpss | Cmpsd | Cmpps | Cmppd
            | Cvtss2sd | Cvtsd2ss | Cvtps2pd | Cvtpd2ps | Cvtdq2ps | Cvtdq2pd
            | Cvtps2dq | Cvttps2dq | Cvtpd2dq | Cvttpd2dq
    )
}

#[rustfmt::skip]
fn integer(m: M) -> bool {
    use M::*;
    matches!(
        m,
        Movss | Movsd | Movhlps | Movlhps
            | Pxor | Por | Pand | Pandn | Xorps | Xorpd | Orps | Orpd
            | Andps | Andpd | Andnps | Andnpd
            | Paddb | Paddw | Paddd | Paddq | Psubb | Psubw | Psubd | Psubq
            | Paddsb | Paddsw | Paddusb | Paddusw | Psubsb | Psubsw | Psubusb | Psubusw
            | Pcmpeqb | Pcmpeqw | Pcmpeqd | Pcmpeqq | Pcmpgtb | Pcmpgtw | Pcmpgtd
            | Pminub | Pmaxub | Pminsw | Pmaxsw | Pminsb | Pmaxsb | Pminuw | Pmaxuw
            | Pminsd | Pmaxsd | Pminud | Pmaxud
            | Pmullw | Pmulhw | Pmulhuw | Pmuludq | Pmulld | Pmuldq | Pmaddwd
            | Pavgb | Pavgw | Psadbw | Packsswb | Packssdw | Packuswb | Packusdw
            | Punpcklbw | Punpcklwd | Punpckldq | Punpcklqdq
            | Punpckhbw | Punpckhwd | Punpckhdq | Punpckhqdq
            | Pshufd | Pshuflw | Pshufhw | Pshufb | Palignr
            | Psllw | Pslld | Psllq | Psrlw | Psrld | Psrlq | Psraw | Psrad
            | Unpcklps | Unpcklpd | Unpckhps | Unpckhpd | Shufps | Shufpd
    )
}

/// Encoding of the guest's instruction.
struct Encoding {
    prefix: u8,
    opcode: u32,
    /// ModRM.reg, where it extends the opcode.
    extension: u8,
}

/// Takes the instruction's bytes apart: mandatory prefix, opcode. `None` for what is not of the map
/// 0F.
fn encoding(bytes: &[u8]) -> Option<Encoding> {
    let (mut size, mut repeat) = (0, 0);
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            0x66 => size = 0x66,
            b @ (0xF2 | 0xF3) => repeat = b,
            0x26 | 0x2E | 0x36 | 0x3E | 0x64 | 0x65 | 0x67 | 0x40..=0x4F => {}
            0x0F => break,
            _ => return None,
        }
        at += 1;
    }
    let second = *bytes.get(at + 1)?;
    let (opcode, next) = if second == 0x38 || second == 0x3A {
        (0x0F_0000 | u32::from(second) << 8 | u32::from(*bytes.get(at + 2)?), at + 3)
    } else {
        (0x0F00 | u32::from(second), at + 2)
    };
    let extension = bytes.get(next)? >> 3 & 7;
    Some(Encoding { prefix: if repeat != 0 { repeat } else { size }, opcode, extension })
}

pub fn lower(t: &mut Translator, i: &Instruction) -> bool {
    let Some(class) = class(i) else { return false };
    let Some(e) = encoding(t.instruction_bytes()) else { return false };
    t.spoil();
    if uses_mxcsr(i) {
        t.a.alu_imm(crate::asm::alu::CMP, 4, in_memory(word::FLOAT), 0);
        t.miss(4);
    } else {
        t.a.alu_imm(crate::asm::alu::CMP, 1, layout::sse_blocked(), 0);
        t.miss(5);
    }
    match class {
        Class::Whole => whole(t, i),
        Class::Scalar(s) => scalar(t, i, s),
        Class::Half(from) => half(t, i, from),
        Class::General => general(t, i),
        Class::Integer | Class::Float => binary(t, i, &e),
        Class::Shift => {
            let to = layout::xmm(register(i, 0));
            t.a.sse(0, 0x0F10, 4, 0, to);
            t.a.sse(0x66, e.opcode, 4, e.extension, Rm::Reg(0));
            t.a.raw(&[i.immediate(1) as u8]);
            t.a.sse(0, 0x0F11, 4, 0, to);
        }
        Class::Compare => {
            let rm = second(t, i);
            t.a.sse(0, 0x0F10, 4, 0, layout::xmm(register(i, 0)));
            t.a.sse(e.prefix, e.opcode, 4, 0, rm);
            t.produced(Kind::Arithmetic, None);
        }
        Class::ToInteger => {
            let rm = second(t, i);
            let s = crate::classify::size(i);
            t.assign(register(i, 0), s, |t, to| t.a.sse(e.prefix, e.opcode, s, to, rm));
        }
        Class::FromInteger => from_integer(t, i, &e),
        Class::Mask => {
            t.a.sse(0, 0x0F10, 4, 0, layout::xmm(register(i, 1)));
            t.assign(register(i, 0), 4, |t, to| {
                t.a.sse(e.prefix, e.opcode, 4, to, Rm::Reg(0));
            });
        }
    }
    true
}

/// The memory operand of `size` bytes; of 16 it must be aligned, if `aligned`.
fn memory(t: &mut Translator, i: &Instruction, size: u8, write: bool, aligned: bool) -> Rm {
    let la = t.address(i);
    if aligned && size == 16 {
        t.a.test_imm(1, Rm::Reg(la), 15);
        t.miss(5);
    }
    t.check(la, size, write, false)
}

/// The second operand: the register's place, or memory; what must be aligned is in XMM1.
fn second(t: &mut Translator, i: &Instruction) -> Rm {
    if !is_memory(i, 1) {
        return layout::xmm(register(i, 1));
    }
    let size = i.memory_size().size() as u8;
    let rm = memory(t, i, size, false, true);
    if size == 16 {
        t.a.sse(0, 0x0F10, 4, 1, rm);
        return Rm::Reg(1);
    }
    rm
}

fn binary(t: &mut Translator, i: &Instruction, e: &Encoding) {
    let rm = second(t, i);
    let to = layout::xmm(register(i, 0));
    t.a.sse(0, 0x0F10, 4, 0, to);
    // A scalar move between registers has a register form only, which merges.
    let rm = if matches!(i.mnemonic(), M::Movss | M::Movsd | M::Movhlps | M::Movlhps) {
        t.a.sse(0, 0x0F10, 4, 1, rm);
        Rm::Reg(1)
    } else {
        rm
    };
    let opcode = match e.opcode {
        // The form that has its destination in ModRM.rm.
        0x0F11 => 0x0F10,
        opcode => opcode,
    };
    t.a.sse(e.prefix, opcode, 4, 0, rm);
    if i.op_count() == 3 {
        t.a.raw(&[i.immediate(2) as u8]);
    }
    t.a.sse(0, 0x0F11, 4, 0, to);
}

fn whole(t: &mut Translator, i: &Instruction) {
    use M::{Lddqu, Movdqu, Movupd, Movups};
    let aligned = !matches!(i.mnemonic(), Movups | Movupd | Movdqu | Lddqu);
    if is_memory(i, 0) {
        let rm = memory(t, i, 16, true, aligned);
        t.a.sse(0, 0x0F10, 4, 0, layout::xmm(register(i, 1)));
        t.a.sse(0, 0x0F11, 4, 0, rm);
        return;
    }
    let rm = if is_memory(i, 1) {
        memory(t, i, 16, false, aligned)
    } else {
        layout::xmm(register(i, 1))
    };
    t.a.sse(0, 0x0F10, 4, 0, rm);
    t.a.sse(0, 0x0F11, 4, 0, layout::xmm(register(i, 0)));
}

/// MOVSS or MOVSD as prefix and opcode of the load.
fn scalar_prefix(s: u8) -> u8 {
    if s == 4 { 0xF3 } else { 0xF2 }
}

fn scalar(t: &mut Translator, i: &Instruction, s: u8) {
    if is_memory(i, 0) {
        let rm = memory(t, i, s, true, false);
        t.a.sse(scalar_prefix(s), 0x0F10, 4, 0, layout::xmm(register(i, 1)));
        t.a.sse(scalar_prefix(s), 0x0F11, 4, 0, rm);
    } else {
        let rm = memory(t, i, s, false, false);
        t.a.sse(scalar_prefix(s), 0x0F10, 4, 0, rm);
        t.a.sse(0, 0x0F11, 4, 0, layout::xmm(register(i, 0)));
    }
}

fn half(t: &mut Translator, i: &Instruction, from: u8) {
    // MOVLPS 12 and 13, MOVHPS 16 and 17.
    let load = if from == 0 { 0x0F12 } else { 0x0F16 };
    if is_memory(i, 0) {
        let rm = memory(t, i, 8, true, false);
        t.a.sse(0, 0x0F10, 4, 0, layout::xmm(register(i, 1)));
        t.a.sse(0, load + 1, 4, 0, rm);
    } else {
        let rm = memory(t, i, 8, false, false);
        let to = layout::xmm(register(i, 0));
        t.a.sse(0, 0x0F10, 4, 0, to);
        t.a.sse(0, load, 4, 0, rm);
        t.a.sse(0, 0x0F11, 4, 0, to);
    }
}

/// MOVD and MOVQ without memory operand.
fn general(t: &mut Translator, i: &Instruction) {
    let (to, from) = (i.op0_register(), i.op1_register());
    let wide = |r: Register| if r.is_gpr64() { 8 } else { 4 };
    if to.is_xmm() && from.is_xmm() {
        t.a.sse(0xF3, 0x0F7E, 4, 0, layout::xmm(register(i, 1)));
        t.a.sse(0, 0x0F11, 4, 0, layout::xmm(register(i, 0)));
    } else if to.is_xmm() {
        t.a.sse(0x66, 0x0F6E, wide(from), 0, place(register(i, 1).into()));
        t.a.sse(0, 0x0F11, 4, 0, layout::xmm(register(i, 0)));
    } else {
        let rm = layout::xmm(register(i, 1));
        t.assign(register(i, 0), wide(to), |t, to_host| t.a.load(wide(to), to_host, rm));
    }
}

fn from_integer(t: &mut Translator, i: &Instruction, e: &Encoding) {
    let (rm, s) = if is_memory(i, 1) {
        let s = i.memory_size().size() as u8;
        (memory(t, i, s, false, false), s)
    } else {
        let r = i.op1_register();
        (place(register(i, 1).into()), if r.is_gpr64() { 8 } else { 4 })
    };
    let to = layout::xmm(register(i, 0));
    t.a.sse(0, 0x0F10, 4, 0, to);
    t.a.sse(e.prefix, e.opcode, s, 0, rm);
    t.a.sse(0, 0x0F11, 4, 0, to);
}
