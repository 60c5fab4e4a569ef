//! x87 arithmetic, comparisons and transcendental functions.

use core::cmp::Ordering;

use super::Form;
use super::x87::{C0, C1, C2, C3, INDEFINITE};
use crate::core::Core;
use crate::cpu::flags;
use crate::exception::Trap;
use crate::op::{Exit, Handler, Op, run};
use crate::softfloat::x87::Quotient;
use crate::softfloat::{self, Class, DENORMAL, DIVIDE_BY_ZERO, Env, F80, INVALID, x87};
use iced_x86::{Instruction, MemorySize, Mnemonic};

const ADD: u8 = 0;
const MUL: u8 = 1;
const SUB: u8 = 2;
const SUB_REVERSED: u8 = 3;
const DIV: u8 = 4;
const DIV_REVERSED: u8 = 5;

/// `a K b`.
#[inline(always)]
fn compute<const K: u8>(env: &mut Env, a: F80, b: F80) -> F80 {
    match K {
        ADD => x87::add(env, a, b),
        MUL => x87::mul(env, a, b),
        SUB => x87::sub(env, a, b),
        SUB_REVERSED => x87::sub(env, b, a),
        DIV => x87::div(env, a, b),
        _ => x87::div(env, b, a),
    }
}

/// Stores a result in ST(`to`) and pops if asked.
#[inline(always)]
fn finish(core: &mut Core, op: &Op, env: &Env, to: u8, value: F80, pop: bool) {
    if core.x87_raise(op, env) {
        core.cpu.fpu.set_st(to, value);
        if pop {
            core.cpu.fpu.pop();
        }
    }
}

/// The masked response to an empty operand.
fn underflow(core: &mut Core, op: &Op, to: u8, pop: bool) {
    if core.x87_stack_fault(op, false) {
        core.cpu.fpu.set_st(to, INDEFINITE);
        if pop {
            core.cpu.fpu.pop();
        }
    }
}

/// Two stack registers, the first of them ST(`op.regs[0]`).
fn registers<const K: u8, const POP: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let (to, from) = (op.regs[0], op.regs[1]);
        let fpu = &core.cpu.fpu;
        if fpu.is_empty(to) || fpu.is_empty(from) {
            underflow(core, op, to, POP);
            return Ok(());
        }
        let mut env = fpu.env();
        let value = compute::<K>(&mut env, fpu.st(to), fpu.st(from));
        finish(core, op, &env, to, value, POP);
        Ok(())
    })
}

/// A number in memory.
trait Number: 'static {
    /// Reads it.
    fn load<const A: u8>(core: &mut Core, op: &Op) -> Result<Self, Trap>
    where
        Self: Sized;
    /// As a double-extended number, and whether it is denormal.
    fn widen(self) -> (F80, bool);
}

macro_rules! number {
    ($name:ident: $int:ty, |$value:ident| $widen:expr) => {
        struct $name($int);

        impl Number for $name {
            #[inline(always)]
            fn load<const A: u8>(core: &mut Core, op: &Op) -> Result<Self, Trap> {
                let la = core.ea::<A>(op, size_of::<$int>() as u64, false)?;
                core.load(op, la).map(|bytes| Self(<$int>::from_le_bytes(bytes)))
            }

            #[inline(always)]
            fn widen(self) -> (F80, bool) {
                let $value = self.0;
                $widen
            }
        }
    };
}

number!(Single: u32, |value| x87::widen(value));
number!(Double: u64, |value| x87::widen(value));
number!(Word: i16, |value| (x87::int_to_f80(value.into()), false));
number!(Doubleword: i32, |value| (x87::int_to_f80(value.into()), false));

/// Raises denormal for a memory operand, unless a NaN, an invalid operation or a division by zero
/// takes precedence (SDM 1 4.9.2).
#[inline(always)]
fn note_denormal(env: &mut Env, denormal: bool, other: F80) {
    if denormal
        && env.flags & (INVALID | DIVIDE_BY_ZERO) == 0
        && !matches!(other.class(), Class::Quiet)
    {
        env.raise(DENORMAL);
    }
}

fn memory<M: Number, const A: u8, const K: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        let operand = M::load::<A>(core, op)?;
        core.note_x87(op);
        core.note_x87_data(op);
        let fpu = &core.cpu.fpu;
        if fpu.is_empty(0) {
            underflow(core, op, 0, false);
            return Ok(());
        }
        let mut env = fpu.env();
        let (a, (b, denormal)) = (fpu.st(0), operand.widen());
        let value = compute::<K>(&mut env, a, b);
        note_denormal(&mut env, denormal, a);
        finish(core, op, &env, 0, value, false);
        Ok(())
    })
}

macro_rules! memory_forms {
    ($i:expr, $address:expr, $f:ident $(, $g:expr)*) => {
        match ($i.memory_size(), $address) {
            (MemorySize::Float32, 0) => $f::<Single, 0 $(, $g)*>,
            (MemorySize::Float32, _) => $f::<Single, 1 $(, $g)*>,
            (MemorySize::Float64, 0) => $f::<Double, 0 $(, $g)*>,
            (MemorySize::Float64, _) => $f::<Double, 1 $(, $g)*>,
            (MemorySize::Int16, 0) => $f::<Word, 0 $(, $g)*>,
            (MemorySize::Int16, _) => $f::<Word, 1 $(, $g)*>,
            (MemorySize::Int32, 0) => $f::<Doubleword, 0 $(, $g)*>,
            (MemorySize::Int32, _) => $f::<Doubleword, 1 $(, $g)*>,
            _ => return None,
        }
    };
}

fn arithmetic<const K: u8>(i: &Instruction, form: Form, address: u8) -> Option<Handler> {
    use Mnemonic as M;
    let pops =
        matches!(i.mnemonic(), M::Faddp | M::Fmulp | M::Fsubp | M::Fsubrp | M::Fdivp | M::Fdivrp);
    Some(match form {
        Form::RegReg if pops => registers::<K, true>,
        Form::RegReg => registers::<K, false>,
        Form::Mem => memory_forms!(i, address, memory, K),
        _ => return None,
    })
}

/// A function of ST0 alone.
trait Unary: 'static {
    fn compute(env: &mut Env, a: F80) -> F80;
}

fn unary<U: Unary>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let fpu = &core.cpu.fpu;
        if fpu.is_empty(0) {
            underflow(core, op, 0, false);
            return Ok(());
        }
        let mut env = fpu.env();
        let value = U::compute(&mut env, fpu.st(0));
        finish(core, op, &env, 0, value, false);
        Ok(())
    })
}

macro_rules! unary {
    ($f:path) => {{
        struct Function;
        impl Unary for Function {
            #[inline(always)]
            fn compute(env: &mut Env, a: F80) -> F80 {
                $f(env, a)
            }
        }
        unary::<Function>
    }};
}

/// A function of ST0 and ST1, whose result replaces ST1 and is popped to, or replaces ST0.
trait Binary: 'static {
    fn compute(env: &mut Env, st0: F80, st1: F80) -> F80;
}

fn binary<B: Binary, const POP: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let to = u8::from(POP);
        let fpu = &core.cpu.fpu;
        if fpu.is_empty(0) || fpu.is_empty(1) {
            underflow(core, op, to, POP);
            return Ok(());
        }
        let mut env = fpu.env();
        let value = B::compute(&mut env, fpu.st(0), fpu.st(1));
        finish(core, op, &env, to, value, POP);
        Ok(())
    })
}

macro_rules! binary {
    ($pop:literal, |$env:ident, $st0:ident, $st1:ident| $body:expr) => {{
        struct Function;
        impl Binary for Function {
            #[inline(always)]
            fn compute($env: &mut Env, $st0: F80, $st1: F80) -> F80 {
                $body
            }
        }
        binary::<Function, $pop>
    }};
}

/// FPREM and FPREM1 (`NEAREST`).
fn remainder<const NEAREST: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let fpu = &core.cpu.fpu;
        if fpu.is_empty(0) || fpu.is_empty(1) {
            underflow(core, op, 0, false);
            core.cpu.fpu.status &= !C2;
            return Ok(());
        }
        let mut env = fpu.env();
        let (a, b) = (fpu.st(0), fpu.st(1));
        let rest = if NEAREST {
            x87::remainder_nearest(&mut env, a, b)
        } else {
            x87::remainder(&mut env, a, b)
        };
        let stored = core.x87_raise(op, &env);
        let fpu = &mut core.cpu.fpu;
        fpu.status &= !C2;
        if stored {
            fpu.set_st(0, rest.value);
            match rest.quotient {
                Quotient::None => {}
                Quotient::Incomplete => fpu.status = fpu.status & !(C0 | C3) | C2,
                Quotient::Low(q) => {
                    let bit = |n: u8, code: u16| if q >> n & 1 != 0 { code } else { 0 };
                    fpu.status &= !(C0 | C3);
                    fpu.status |= bit(2, C0) | bit(1, C3) | bit(0, C1);
                }
            }
        }
        Ok(())
    })
}

/// FSIN and FCOS.
fn sine<const COSINE: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let fpu = &mut core.cpu.fpu;
        if fpu.is_empty(0) {
            fpu.status &= !C2;
            underflow(core, op, 0, false);
            return Ok(());
        }
        let mut env = fpu.env();
        let a = fpu.st(0);
        let value = if COSINE { x87::cos(&mut env, a) } else { x87::sin(&mut env, a) };
        fpu.status &= !(C1 | C2);
        match value {
            Some(value) => finish(core, op, &env, 0, value, false),
            None => fpu.status |= C2,
        }
        Ok(())
    })
}

/// FSINCOS and FPTAN (`TANGENT`): one result replaces ST0, the other is pushed.
fn sine_cosine<const TANGENT: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let fpu = &mut core.cpu.fpu;
        fpu.status &= !(C1 | C2);
        if fpu.is_empty(0) || !fpu.is_empty(7) {
            let overflow = !fpu.is_empty(0);
            if core.x87_stack_fault(op, overflow) {
                core.cpu.fpu.set_st(0, INDEFINITE);
                core.cpu.fpu.push(INDEFINITE);
            }
            return Ok(());
        }
        let mut env = fpu.env();
        let a = fpu.st(0);
        let values = if TANGENT {
            x87::tan(&mut env, a).map(|tangent| {
                let nan = matches!(tangent.class(), Class::Quiet);
                (tangent, if nan { tangent } else { F80::ONE })
            })
        } else {
            x87::sin_cos(&mut env, a)
        };
        let Some((first, second)) = values else {
            fpu.status |= C2;
            return Ok(());
        };
        if core.x87_raise(op, &env) {
            core.cpu.fpu.set_st(0, first);
            core.cpu.fpu.push(second);
        }
        Ok(())
    })
}

/// FXTRACT: the exponent replaces ST0, the significand is pushed.
fn extract(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let fpu = &mut core.cpu.fpu;
        if fpu.is_empty(0) || !fpu.is_empty(7) {
            let overflow = !fpu.is_empty(0);
            if core.x87_stack_fault(op, overflow) {
                core.cpu.fpu.set_st(0, INDEFINITE);
                core.cpu.fpu.push(INDEFINITE);
            }
            return Ok(());
        }
        let mut env = fpu.env();
        let (exponent, significand) = x87::extract(&mut env, fpu.st(0));
        if core.x87_raise(op, &env) {
            core.cpu.fpu.set_st(0, exponent);
            core.cpu.fpu.push(significand);
        }
        Ok(())
    })
}

/// The condition codes of a comparison.
fn condition(order: Option<Ordering>) -> u16 {
    match order {
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => C0,
        Some(Ordering::Equal) => C3,
        None => C0 | C2 | C3,
    }
}

/// Compares ST0 with `b` into the condition codes, then pops.
fn compare(core: &mut Core, op: &Op, env: &mut Env, b: F80, signal: bool, pops: u8) {
    let order = softfloat::compare(env, core.cpu.fpu.st(0), b, signal);
    // Processors write the condition codes even when an exception is unmasked; only the pop waits.
    let stored = core.x87_raise(op, env);
    let fpu = &mut core.cpu.fpu;
    fpu.status = fpu.status & !(C0 | C2 | C3) | condition(order);
    if stored {
        for _ in 0..pops {
            fpu.pop();
        }
    }
}

/// A comparison with an empty register: unordered.
fn compare_empty(core: &mut Core, op: &Op, pops: u8) {
    let stored = core.x87_stack_fault(op, false);
    let fpu = &mut core.cpu.fpu;
    fpu.status |= C0 | C2 | C3;
    if stored {
        for _ in 0..pops {
            fpu.pop();
        }
    }
}

/// FCOM, FUCOM and kin with ST(i).
fn compare_register<const SIGNAL: bool, const POPS: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let fpu = &core.cpu.fpu;
        let from = if POPS == 2 { 1 } else { op.regs[1] };
        if fpu.is_empty(0) || fpu.is_empty(from) {
            compare_empty(core, op, POPS);
            return Ok(());
        }
        let (mut env, b) = (fpu.env(), fpu.st(from));
        compare(core, op, &mut env, b, SIGNAL, POPS);
        Ok(())
    })
}

/// FCOM and FICOM with memory.
fn compare_memory<M: Number, const A: u8, const POPS: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        let operand = M::load::<A>(core, op)?;
        core.note_x87(op);
        core.note_x87_data(op);
        if core.cpu.fpu.is_empty(0) {
            compare_empty(core, op, POPS);
            return Ok(());
        }
        let mut env = core.cpu.fpu.env();
        let (b, denormal) = operand.widen();
        if denormal && !core.cpu.fpu.st(0).class().is_nan() {
            env.raise(DENORMAL);
        }
        compare(core, op, &mut env, b, true, POPS);
        Ok(())
    })
}

/// FTST.
fn test(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        if core.cpu.fpu.is_empty(0) {
            compare_empty(core, op, 0);
            return Ok(());
        }
        let mut env = core.cpu.fpu.env();
        compare(core, op, &mut env, F80::ZERO, true, 0);
        Ok(())
    })
}

/// FCOMI, FUCOMI and kin: into RFLAGS.
fn compare_flags<const SIGNAL: bool, const POP: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let fpu = &core.cpu.fpu;
        let from = op.regs[1];
        let c1 = fpu.status & C1;
        let (stored, order) = if fpu.is_empty(0) || fpu.is_empty(from) {
            (core.x87_stack_fault(op, false), None)
        } else {
            let mut env = fpu.env();
            let order = softfloat::compare(&mut env, fpu.st(0), fpu.st(from), SIGNAL);
            let stored = core.x87_raise(op, &env);
            // C1 is left alone but for stack faults.
            core.cpu.fpu.status |= c1;
            (stored, order)
        };
        core.cpu.flags.set_status(match order {
            Some(Ordering::Greater) => 0,
            Some(Ordering::Less) => flags::CF,
            Some(Ordering::Equal) => flags::ZF,
            None => flags::CF | flags::PF | flags::ZF,
        });
        if stored && POP {
            core.cpu.fpu.pop();
        }
        Ok(())
    })
}

/// FXAM.
fn examine(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let fpu = &mut core.cpu.fpu;
        let value = fpu.st(0);
        let class = match value.class() {
            _ if fpu.is_empty(0) => C3 | C0,
            Class::Unsupported => 0,
            Class::Quiet | Class::Signalling => C0,
            Class::Normal => C2,
            Class::Infinity => C2 | C0,
            Class::Zero => C3,
            Class::Denormal => C3 | C2,
        };
        let sign = if value.sign() { C1 } else { 0 };
        fpu.status = fpu.status & !(C0 | C1 | C2 | C3) | class | sign;
        Ok(())
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, form: Form, address: u8) -> Option<Handler> {
    use Mnemonic as M;
    Some(match i.mnemonic() {
        M::Fadd | M::Faddp | M::Fiadd => arithmetic::<ADD>(i, form, address)?,
        M::Fmul | M::Fmulp | M::Fimul => arithmetic::<MUL>(i, form, address)?,
        M::Fsub | M::Fsubp | M::Fisub => arithmetic::<SUB>(i, form, address)?,
        M::Fsubr | M::Fsubrp | M::Fisubr => arithmetic::<SUB_REVERSED>(i, form, address)?,
        M::Fdiv | M::Fdivp | M::Fidiv => arithmetic::<DIV>(i, form, address)?,
        M::Fdivr | M::Fdivrp | M::Fidivr => arithmetic::<DIV_REVERSED>(i, form, address)?,
        M::Fsqrt => unary!(x87::sqrt),
        M::Frndint => unary!(x87::round_to_int),
        M::F2xm1 => unary!(x87::exp2_minus_1),
        M::Fscale => binary!(false, |env, a, b| x87::scale(env, a, b)),
        M::Fyl2x => binary!(true, |env, a, b| x87::log2_times(env, b, a)),
        M::Fyl2xp1 => binary!(true, |env, a, b| x87::log2_times_plus_1(env, b, a)),
        M::Fpatan => binary!(true, |env, a, b| x87::arctan2(env, b, a)),
        M::Fprem => remainder::<false>,
        M::Fprem1 => remainder::<true>,
        M::Fsin => sine::<false>,
        M::Fcos => sine::<true>,
        M::Fsincos => sine_cosine::<false>,
        M::Fptan => sine_cosine::<true>,
        M::Fxtract => extract,
        M::Fcom | M::Ficom if form == Form::Mem => memory_forms!(i, address, compare_memory, 0),
        M::Fcomp | M::Ficomp if form == Form::Mem => memory_forms!(i, address, compare_memory, 1),
        M::Fcom => compare_register::<true, 0>,
        M::Fcomp => compare_register::<true, 1>,
        M::Fcompp => compare_register::<true, 2>,
        M::Fucom => compare_register::<false, 0>,
        M::Fucomp => compare_register::<false, 1>,
        M::Fucompp => compare_register::<false, 2>,
        M::Fcomi => compare_flags::<true, false>,
        M::Fcomip => compare_flags::<true, true>,
        M::Fucomi => compare_flags::<false, false>,
        M::Fucomip => compare_flags::<false, true>,
        M::Ftst => test,
        M::Fxam => examine,
        _ => return None,
    })
}
