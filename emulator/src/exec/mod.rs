//! What instructions do, a file for each family.
//!
//! Contract: one function for each operation and operand form; see [`crate::op`] for how to write
//! one. [`handler`] asks the families in turn; what no family knows raises #UD.

pub mod aes;
pub mod alu;
pub mod bcd;
pub mod bit;
pub mod branch;
pub mod control;
pub mod int;
pub mod io;
pub mod mmx;
pub mod mov;
pub mod muldiv;
pub mod segment;
pub mod shift;
pub mod sse;
pub mod sse_convert;
pub mod sse_float;
pub mod sse_int;
pub mod sse_move;
pub mod sse_text;
pub mod stack;
pub mod state_save;
pub mod string;
pub mod system;
pub mod task;
pub mod transfer;
pub mod x87;
pub mod x87_arith;
pub mod x87_control;
pub mod x87_move;

use crate::core::Core;
use crate::cpu::flags::Flags;
use crate::exception;
use crate::op::{Exit, Handler, Op, run};
use iced_x86::{Instruction, OpKind};

/// Operand forms of integer instructions, by the first two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Two registers.
    RegReg,
    /// Register and immediate.
    RegImm,
    /// Register and memory.
    RegMem,
    /// Memory and register.
    MemReg,
    /// Memory and immediate.
    MemImm,
    /// One register.
    Reg,
    /// One memory operand.
    Mem,
    /// An immediate.
    Imm,
    /// No operand.
    None,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Kind {
    Reg,
    Mem,
    Imm,
}

fn kind(k: OpKind) -> Option<Kind> {
    Some(match k {
        OpKind::Register => Kind::Reg,
        OpKind::Memory => Kind::Mem,
        OpKind::Immediate8
        | OpKind::Immediate8_2nd
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => Kind::Imm,
        _ => return None,
    })
}

/// The form of an instruction, by its first two operands.
pub fn form(i: &Instruction) -> Option<Form> {
    if i.op_count() == 0 {
        return Some(Form::None);
    }
    let first = kind(i.op0_kind())?;
    if i.op_count() == 1 {
        return Some(match first {
            Kind::Reg => Form::Reg,
            Kind::Mem => Form::Mem,
            Kind::Imm => Form::Imm,
        });
    }
    Some(match (first, kind(i.op1_kind())?) {
        (Kind::Reg, Kind::Reg) => Form::RegReg,
        (Kind::Reg, Kind::Imm) => Form::RegImm,
        (Kind::Reg, Kind::Mem) => Form::RegMem,
        (Kind::Mem, Kind::Reg) => Form::MemReg,
        (Kind::Mem, Kind::Imm) => Form::MemImm,
        _ => return None,
    })
}

/// Bytes of the operand in position `n`.
pub fn size_of(i: &Instruction, n: u32) -> usize {
    match i.op_kind(n) {
        OpKind::Register => i.op_register(n).size(),
        OpKind::Memory => i.memory_size().size(),
        _ => 0,
    }
}

/// Bytes of the first operand.
pub fn operand_size(i: &Instruction) -> usize {
    size_of(i, 0)
}

/// Whether condition `C`, the low four bits of a Jcc opcode, holds.
#[inline(always)]
pub fn condition<const C: u8>(f: &Flags) -> bool {
    let holds = match C & 0xE {
        0x0 => f.of(),
        0x2 => f.cf(),
        0x4 => f.zf(),
        0x6 => f.cf() || f.zf(),
        0x8 => f.sf(),
        0xA => f.pf(),
        0xC => f.sf() != f.of(),
        _ => f.zf() || f.sf() != f.of(),
    };
    holds != (C & 1 != 0)
}

/// Picks the instance of a function that is generic in its last parameter, the condition code.
#[macro_export]
macro_rules! by_condition {
    ($cc:expr, $f:ident $(, $g:ty)*) => {
        match $cc {
            0 => $f::<$($g,)* 0>, 1 => $f::<$($g,)* 1>, 2 => $f::<$($g,)* 2>,
            3 => $f::<$($g,)* 3>, 4 => $f::<$($g,)* 4>, 5 => $f::<$($g,)* 5>,
            6 => $f::<$($g,)* 6>, 7 => $f::<$($g,)* 7>, 8 => $f::<$($g,)* 8>,
            9 => $f::<$($g,)* 9>, 10 => $f::<$($g,)* 10>, 11 => $f::<$($g,)* 11>,
            12 => $f::<$($g,)* 12>, 13 => $f::<$($g,)* 13>, 14 => $f::<$($g,)* 14>,
            _ => $f::<$($g,)* 15>,
        }
    };
}

/// The condition of a Jcc, SETcc or CMOVcc as the opcode's low four bits.
pub fn condition_number(i: &Instruction) -> Option<u8> {
    use iced_x86::ConditionCode as C;
    Some(match i.condition_code() {
        C::None => return None,
        C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        C::g => 15,
    })
}

/// Raises #UD.
pub fn undefined(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| Err(core.fault(exception::UD)))
}

/// Raises #GP(0): the instruction has more than 15 bytes.
pub fn too_long(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| Err(core.fault(exception::GP)))
}

fn nothing(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |_, _| Ok(()))
}

/// What the decoder tells the families besides the instruction.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// [`int::WIDE`] or [`int::ANY`].
    pub address: u8,
    /// 16, 32 or 64.
    pub bits: u8,
}

/// The function that executes `i`.
pub fn handler(i: &Instruction, context: Context) -> Handler {
    use iced_x86::Mnemonic as M;
    if i.is_invalid() || (i.has_lock_prefix() && !may_lock(i)) {
        return undefined;
    }
    match i.mnemonic() {
        M::Nop
        | M::Pause
        | M::Endbr64
        | M::Endbr32
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw
        | M::Prefetch
        | M::Lfence
        | M::Sfence
        | M::Mfence => return nothing,
        // Reserved NOPs, and what is one on a CPU without it.
        M::Reservednop
        | M::Prefetchwt1
        | M::Prefetchit0
        | M::Prefetchit1
        | M::Cldemote
        | M::Rdsspd
        | M::Rdsspq => return nothing,
        _ => {}
    }
    let a = context.address;
    alu::handler(i, a)
        .or_else(|| mov::handler(i, a))
        .or_else(|| branch::handler(i, context))
        .or_else(|| stack::handler(i, context))
        .or_else(|| shift::handler(i, a))
        .or_else(|| bit::handler(i, a))
        .or_else(|| muldiv::handler(i, a))
        .or_else(|| sse::handler(i, a))
        .or_else(|| x87::handler(i, a))
        .or_else(|| state_save::handler(i))
        .or_else(|| string::handler(i, context))
        .or_else(|| bcd::handler(i))
        .or_else(|| io::handler(i))
        .or_else(|| control::handler(i, context))
        .or_else(|| system::handler(i, context))
        .or_else(|| segment::handler(i, context))
        .or_else(|| transfer::handler(i, context))
        .unwrap_or(undefined)
}

/// Instructions that accept LOCK, with a memory destination (SDM 2A, LOCK).
fn may_lock(i: &Instruction) -> bool {
    use iced_x86::Mnemonic as M;
    i.op0_kind() == OpKind::Memory
        && matches!(
            i.mnemonic(),
            M::Add
                | M::Adc
                | M::And
                | M::Btc
                | M::Btr
                | M::Bts
                | M::Cmpxchg
                | M::Cmpxchg8b
                | M::Cmpxchg16b
                | M::Dec
                | M::Inc
                | M::Neg
                | M::Not
                | M::Or
                | M::Sbb
                | M::Sub
                | M::Xor
                | M::Xadd
                | M::Xchg
        )
        || (i.mnemonic() == M::Xchg && i.op1_kind() == OpKind::Memory)
}
