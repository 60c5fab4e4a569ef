//! SSE to SSE4.2, AES and PCLMULQDQ on XMM registers: as the same instructions of the host.
//!
//! Contract: guest XMM registers are in the host's of the same number while [`word::XMM`] is set,
//! which the head of a block with such instructions sees to; then no exception is unmasked. Only
//! what has one answer on every host is here: not RCPPS, RSQRTPS and their kin.

use super::{is_memory, register};
use crate::asm::Rm;
use crate::asm::alu::{AND, CMP};
use crate::asm::reg::*;
use crate::classify::Writes;
use crate::flags::Kind;
use crate::groups::unaligned;
use crate::layout::place;
#[cfg(doc)]
use crate::layout::word;
use crate::translate::Translator;
use emulator::cpu;
use iced_x86::{Instruction, Mnemonic as M, OpKind};
use std::arch::is_x86_feature_detected;

/// What the operands of an instruction are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// XMM registers or memory, in whichever order the opcode says.
    Vectors,
    /// An XMM register, shifted by an immediate.
    Shift,
    /// To an XMM register from a general one or memory.
    From,
    /// To a general register or memory from an XMM register in ModRM.reg.
    To,
    /// To a general register in ModRM.reg from an XMM register or memory.
    Out,
    /// XMM registers or memory, compared into EFLAGS.
    Compare,
    /// The string comparisons.
    Text,
    /// LDMXCSR and STMXCSR.
    Control,
    /// CRC32: general registers and memory.
    Checksum,
    /// MOVNTI: a general register to memory.
    Stream,
}

impl Form {
    /// Whether all status flags are set.
    pub fn sets_flags(self) -> bool {
        matches!(self, Form::Compare | Form::Text)
    }

    /// Whether XMM registers or MXCSR are used.
    pub fn is_vector(self) -> bool {
        !matches!(self, Form::Checksum | Form::Stream)
    }

    /// General registers written.
    pub fn writes(self) -> Writes {
        match self {
            Form::Checksum | Form::To | Form::Out => Writes::FIRST,
            Form::Text => Writes::always(1 << cpu::RCX),
            _ => Writes::always(0),
        }
    }
}

fn is_xmm(i: &Instruction, n: u32) -> bool {
    n < i.op_count() && i.op_kind(n) == OpKind::Register && i.op_register(n).is_xmm()
}

/// The form of `i`, if it is of this family.
pub fn form(i: &Instruction) -> Option<Form> {
    match i.mnemonic() {
        M::Ldmxcsr | M::Stmxcsr => return Some(Form::Control),
        M::Crc32 => return Some(Form::Checksum),
        M::Movnti => return Some(Form::Stream),
        _ => {}
    }
    let (first, second) = (is_xmm(i, 0), is_xmm(i, 1));
    if !first && !second {
        return None;
    }
    // The other operand, of a pair that may be either way round.
    let other = is_xmm(i, if first { 1 } else { 0 }) || is_memory(i, u32::from(first));
    Some(match i.mnemonic() {
        m if either_way(m) && other => Form::Vectors,
        M::Movd | M::Movq if first => Form::From,
        M::Movd | M::Movq => Form::To,
        M::Pextrb | M::Pextrd | M::Pextrq | M::Extractps => Form::To,
        M::Pextrw if is_memory(i, 0) => Form::To,
        // 0F C5 has the general register in ModRM.reg, 0F 3A 15 in ModRM.rm: both give a word.
        M::Pextrw => Form::Out,
        M::Movmskps | M::Movmskpd | M::Pmovmskb => Form::Out,
        M::Cvttsd2si | M::Cvtsd2si | M::Cvttss2si | M::Cvtss2si => Form::Out,
        M::Pinsrb | M::Pinsrw | M::Pinsrd | M::Pinsrq | M::Cvtsi2sd | M::Cvtsi2ss => Form::From,
        M::Comisd | M::Comiss | M::Ucomisd | M::Ucomiss | M::Ptest => Form::Compare,
        M::Pcmpistri | M::Pcmpistrm | M::Pcmpestri | M::Pcmpestrm => Form::Text,
        m if shifts(m) && !other => Form::Shift,
        m if first && other && (floats(m) || integers(m) || moves(m) || shifts(m)) => Form::Vectors,
        m if first && other && ciphers(m) => Form::Vectors,
        _ => return None,
    })
}

/// Moves that load and store.
#[rustfmt::skip]
fn either_way(m: M) -> bool {
    use M::*;
    matches!(
        m,
        Movaps | Movapd | Movdqa | Movups | Movupd | Movdqu | Movss | Movsd | Movq
            | Movlps | Movlpd | Movhps | Movhpd | Movntdq | Movntps | Movntpd
    )
}

/// Moves to XMM registers, and shuffles.
#[rustfmt::skip]
fn moves(m: M) -> bool {
    use M::*;
    matches!(
        m,
        Movhlps | Movlhps | Movddup | Movsldup | Movshdup | Lddqu | Movntdqa
            | Packsswb | Packssdw | Packuswb | Packusdw
            | Punpcklbw | Punpcklwd | Punpckldq | Punpcklqdq
            | Punpckhbw | Punpckhwd | Punpckhdq | Punpckhqdq
            | Unpcklps | Unpcklpd | Unpckhps | Unpckhpd | Shufps | Shufpd
            | Pshufd | Pshuflw | Pshufhw | Pshufb | Palignr | Insertps
            | Pblendw | Blendps | Blendpd | Pblendvb | Blendvps | Blendvpd
            | Pmovsxbw | Pmovsxbd | Pmovsxbq | Pmovsxwd | Pmovsxwq | Pmovsxdq
            | Pmovzxbw | Pmovzxbd | Pmovzxbq | Pmovzxwd | Pmovzxwq | Pmovzxdq
    )
}

/// What depends on MXCSR.
#[rustfmt::skip]
fn floats(m: M) -> bool {
    use M::*;
    matches!(
        m,
        Addss | Addsd | Addps | Addpd | Subss | Subsd | Subps | Subpd
            | Mulss | Mulsd | Mulps | Mulpd | Divss | Divsd | Divps | Divpd
            | Sqrtss | Sqrtsd | Sqrtps | Sqrtpd | Minss | Minsd | Minps | Minpd
            | Maxss | Maxsd | Maxps | Maxpd | Cmpss | Cmpsd | Cmpps | Cmppd
            | Cvtss2sd | Cvtsd2ss | Cvtps2pd | Cvtpd2ps | Cvtdq2ps | Cvtdq2pd
            | Cvtps2dq | Cvttps2dq | Cvtpd2dq | Cvttpd2dq
            | Haddps | Haddpd | Hsubps | Hsubpd | Addsubps | Addsubpd
            | Roundss | Roundsd | Roundps | Roundpd
    )
}

#[rustfmt::skip]
fn integers(m: M) -> bool {
    use M::*;
    matches!(
        m,
        Pxor | Por | Pand | Pandn | Xorps | Xorpd | Orps | Orpd
            | Andps | Andpd | Andnps | Andnpd
            | Paddb | Paddw | Paddd | Paddq | Psubb | Psubw | Psubd | Psubq
            | Paddsb | Paddsw | Paddusb | Paddusw | Psubsb | Psubsw | Psubusb | Psubusw
            | Pcmpeqb | Pcmpeqw | Pcmpeqd | Pcmpeqq | Pcmpgtb | Pcmpgtw | Pcmpgtd | Pcmpgtq
            | Pminub | Pmaxub | Pminsw | Pmaxsw | Pminsb | Pmaxsb | Pminuw | Pmaxuw
            | Pminsd | Pmaxsd | Pminud | Pmaxud
            | Pmullw | Pmulhw | Pmulhuw | Pmulhrsw | Pmuludq | Pmulld | Pmuldq
            | Pmaddwd | Pmaddubsw | Pavgb | Pavgw | Psadbw | Mpsadbw | Phminposuw
            | Psignb | Psignw | Psignd | Pabsb | Pabsw | Pabsd
            | Phaddw | Phaddd | Phaddsw | Phsubw | Phsubd | Phsubsw
    )
}

#[rustfmt::skip]
fn shifts(m: M) -> bool {
    use M::*;
    matches!(
        m,
        Psllw | Pslld | Psllq | Psrlw | Psrld | Psrlq | Psraw | Psrad | Pslldq | Psrldq
    )
}

/// What a host with BMI2 may lack.
fn ciphers(m: M) -> bool {
    use M::{Aesdec, Aesdeclast, Aesenc, Aesenclast, Aesimc, Aeskeygenassist, Pclmulqdq};
    match m {
        Aesenc | Aesenclast | Aesdec | Aesdeclast | Aesimc | Aeskeygenassist => {
            is_x86_feature_detected!("aes")
        }
        Pclmulqdq => is_x86_feature_detected!("pclmulqdq"),
        _ => false,
    }
}

/// Encoding of the guest's instruction.
struct Encoding {
    /// The mandatory prefix, or 0.
    prefix: u8,
    opcode: u32,
    /// 8 with REX.W, else 4.
    size: u8,
    /// ModRM.reg without REX, where it extends the opcode.
    extension: u8,
    immediate: Option<u8>,
}

/// Takes the instruction's bytes apart. `None` for what is not of the map 0F.
fn encoding(bytes: &[u8]) -> Option<Encoding> {
    let (mut operand, mut repeat, mut rex) = (0, 0, 0);
    let mut at = 0;
    loop {
        let b = *bytes.get(at)?;
        match b {
            0x66 => operand = b,
            0xF2 | 0xF3 => repeat = b,
            0x26 | 0x2E | 0x36 | 0x3E | 0x64 | 0x65 | 0x67 | 0x40..=0x4F => {}
            0x0F => break,
            _ => return None,
        }
        rex = if b & 0xF0 == 0x40 { b } else { 0 };
        at += 1;
    }
    let second = *bytes.get(at + 1)?;
    let (opcode, next) = if second == 0x38 || second == 0x3A {
        (0x0F_0000 | u32::from(second) << 8 | u32::from(*bytes.get(at + 2)?), at + 3)
    } else {
        (0x0F00 | u32::from(second), at + 2)
    };
    let last = *bytes.last()?;
    let immediate = match opcode {
        // Predicate and rounding: what the rest of the byte says counts for nothing.
        0x0FC2 => Some(last & 7),
        0x0F_3A08..=0x0F_3A0B => Some(last & 15),
        0x0F70..=0x0F73 | 0x0FC4..=0x0FC6 | 0x0F_3A00..=0x0F_3AFF => Some(last),
        _ => None,
    };
    Some(Encoding {
        prefix: if repeat != 0 { repeat } else { operand },
        opcode,
        size: if rex & 8 != 0 { 8 } else { 4 },
        extension: bytes.get(next)? >> 3 & 7,
        immediate,
    })
}

/// Whether the opcode has its destination in ModRM.rm.
fn stores(e: &Encoding) -> bool {
    // F3 0F 7E is a load.
    (e.prefix, e.opcode) == (0x66, 0x0F7E)
        || matches!(e.opcode, 0x0F11 | 0x0F13 | 0x0F17 | 0x0F29 | 0x0F2B | 0x0F7F | 0x0FD6 | 0x0FE7)
}

/// Lowers `i`, if it is of this family.
pub fn lower(t: &mut Translator, i: &Instruction) -> bool {
    let Some(form) = form(i) else { return false };
    let Some(mut e) = encoding(t.instruction_bytes()) else { return false };
    // Non-temporal moves are ordinary ones: guest memory is not written out of order.
    match (e.prefix, e.opcode) {
        (0x66, 0x0FE7) => e.opcode = 0x0F7F,
        (_, 0x0F2B) => e.opcode = 0x0F29,
        (0x66, 0x0F_382A) => e.opcode = 0x0F6F,
        _ => {}
    }
    match form {
        Form::Vectors => {
            let (reg, rm) = if stores(&e) { (1, 0) } else { (0, 1) };
            let rm = operand(t, i, rm);
            emit(t, &e, e.size, register(i, reg), rm);
        }
        Form::Shift => {
            emit(t, &e, 4, e.extension, Rm::Reg(register(i, 0)));
        }
        Form::From => {
            let rm = operand(t, i, 1);
            emit(t, &e, e.size, register(i, 0), rm);
        }
        Form::To if is_memory(i, 0) => {
            let rm = operand(t, i, 0);
            emit(t, &e, e.size, register(i, 1), rm);
        }
        Form::To => {
            let from = register(i, 1);
            t.assign(register(i, 0), e.size, |t, to| emit(t, &e, e.size, from, Rm::Reg(to)));
        }
        Form::Out => {
            let rm = operand(t, i, 1);
            let extract = e.opcode == 0x0F_3A15;
            t.assign(register(i, 0), e.size, |t, to| match (extract, rm) {
                (true, Rm::Reg(from)) => emit(t, &e, 4, from, Rm::Reg(to)),
                _ => emit(t, &e, e.size, to, rm),
            });
        }
        Form::Compare => {
            let rm = operand(t, i, 1);
            emit(t, &e, 4, register(i, 0), rm);
            t.produced(Kind::Arithmetic, None);
        }
        Form::Text => text(t, i, &e),
        Form::Control => control(t, i),
        Form::Checksum => checksum(t, i),
        Form::Stream => {
            let s = i.memory_size().size() as u8;
            let rm = t.access(i, s, true, false);
            let from = t.host_of(register(i, 1), RDX);
            t.a.store(s, rm, from);
        }
    }
    true
}

fn emit(t: &mut Translator, e: &Encoding, size: u8, reg: u8, rm: Rm) {
    t.a.sse(e.prefix, e.opcode, size, reg, rm);
    if let Some(imm) = e.immediate {
        t.a.fixed([imm]);
    }
}

/// Operand `n`: an XMM register, a general register's place, or memory after its check.
fn operand(t: &mut Translator, i: &Instruction, n: u32) -> Rm {
    if is_xmm(i, n) {
        return Rm::Reg(register(i, n));
    }
    if !is_memory(i, n) {
        return place(register(i, n).into());
    }
    let size = i.memory_size().size() as u8;
    if size == 16 && !unaligned(i) {
        t.access_aligned(i, n == 0)
    } else {
        t.access(i, size, n == 0, false)
    }
}

fn text(t: &mut Translator, i: &Instruction, e: &Encoding) {
    let rm = if is_memory(i, 1) { t.access(i, 16, false, true) } else { Rm::Reg(register(i, 1)) };
    t.spoil();
    if matches!(i.mnemonic(), M::Pcmpestri | M::Pcmpestrm) {
        t.a.load(8, RAX, place(cpu::RAX));
        t.a.load(8, RDX, place(cpu::RDX));
    }
    emit(t, e, e.size, register(i, 0), rm);
    if matches!(i.mnemonic(), M::Pcmpistri | M::Pcmpestri) {
        t.write(cpu::RCX as u8, 8, RCX);
    }
    t.produced(Kind::Arithmetic, None);
}

fn control(t: &mut Translator, i: &Instruction) {
    let rm = t.access(i, 4, i.mnemonic() == M::Stmxcsr, true);
    if i.mnemonic() == M::Stmxcsr {
        t.a.stmxcsr(rm);
        return;
    }
    // Reserved bits fault; exceptions that are not masked are the interpreter's affair.
    t.a.load(4, RDX, rm);
    t.a.alu_imm(AND, 4, Rm::Reg(RDX), 0xFFFF_1F80_u32 as i32);
    t.a.alu_imm(CMP, 4, Rm::Reg(RDX), 0x1F80);
    t.miss(5);
    t.a.ldmxcsr(rm);
}

fn checksum(t: &mut Translator, i: &Instruction) {
    let s = t.now.source_size;
    let rm =
        if is_memory(i, 1) { t.access(i, s, false, false) } else { place(register(i, 1).into()) };
    match place(register(i, 0).into()) {
        Rm::Reg(host) => t.a.crc32(s, host, rm),
        memory => {
            t.a.load(4, RDX, memory);
            t.a.crc32(s, RDX, rm);
            t.a.store(8, memory, RDX);
        }
    }
}
