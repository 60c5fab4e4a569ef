//! x87 loads, stores, exchanges, constants and sign changes.

use super::Form;
use super::condition;
use super::x87::{C1, INDEFINITE};
use crate::core::Core;
use crate::exception::Trap;
use crate::op::{Exit, Handler, Op, run};
use crate::softfloat::{
    self, Env, F80, INVALID, OVERFLOW, PRE_COMPUTATION, Rounding, UNDERFLOW, x87,
};
use iced_x86::{Instruction, MemorySize, Mnemonic};

/// A memory format to load from.
trait Load: 'static {
    fn load<const A: u8>(core: &mut Core, op: &Op) -> Result<Self, Trap>
    where
        Self: Sized;
    fn extend(self, env: &mut Env) -> F80;
}

/// A memory format to store to.
trait Store: 'static {
    /// The value in memory for a register.
    fn round(env: &mut Env, value: F80) -> Self;
    fn store<const A: u8>(self, core: &mut Core, op: &Op) -> Result<(), Trap>;
}

macro_rules! loads {
    ($($name:ident: $size:literal, |$bytes:ident, $env:ident| $extend:expr;)*) => {$(
        struct $name([u8; $size]);

        impl Load for $name {
            #[inline(always)]
            fn load<const A: u8>(core: &mut Core, op: &Op) -> Result<Self, Trap> {
                let la = core.ea::<A>(op, $size, false)?;
                core.load(op, la).map(Self)
            }

            #[inline(always)]
            fn extend(self, $env: &mut Env) -> F80 {
                let $bytes = self.0;
                $extend
            }
        }
    )*};
}

loads! {
    LoadSingle: 4, |bytes, env| x87::extend(env, u32::from_le_bytes(bytes));
    LoadDouble: 8, |bytes, env| x87::extend(env, u64::from_le_bytes(bytes));
    LoadExtended: 10, |bytes, _env| F80::from_bytes(bytes);
    LoadWord: 2, |bytes, _env| x87::int_to_f80(i16::from_le_bytes(bytes).into());
    LoadDoubleword: 4, |bytes, _env| x87::int_to_f80(i32::from_le_bytes(bytes).into());
    LoadQuadword: 8, |bytes, _env| x87::int_to_f80(i64::from_le_bytes(bytes));
    LoadDecimal: 10, |bytes, _env| x87::from_bcd(bytes);
}

macro_rules! stores {
    ($($name:ident: $size:literal, |$env:ident, $value:ident| $round:expr;)*) => {$(
        struct $name([u8; $size]);

        impl Store for $name {
            #[inline(always)]
            fn round($env: &mut Env, $value: F80) -> Self {
                Self($round)
            }

            #[inline(always)]
            fn store<const A: u8>(self, core: &mut Core, op: &Op) -> Result<(), Trap> {
                let la = core.ea::<A>(op, $size, true)?;
                store_bytes(core, op, la, self.0)
            }
        }
    )*};
}

/// Processors write ten bytes in two steps, and a fault may come between them.
#[inline(always)]
fn store_bytes<const N: usize>(
    core: &mut Core,
    op: &Op,
    la: u64,
    bytes: [u8; N],
) -> Result<(), Trap> {
    match (bytes.first_chunk::<8>(), bytes.get(8..)) {
        (Some(first), Some(&[low, high])) => {
            core.store(op, la, *first)?;
            core.store(op, la.wrapping_add(8), [low, high])
        }
        _ => core.store(op, la, bytes),
    }
}

stores! {
    StoreSingle: 4, |env, value| x87::store::<u32>(env, value).to_le_bytes();
    StoreDouble: 8, |env, value| x87::store::<u64>(env, value).to_le_bytes();
    StoreExtended: 10, |_env, value| value.to_bytes();
    StoreWord: 2, |env, value| softfloat::to_i16(env, value).to_le_bytes();
    StoreDoubleword: 4, |env, value| softfloat::to_i32(env, value).to_le_bytes();
    StoreQuadword: 8, |env, value| softfloat::to_i64(env, value).to_le_bytes();
    TruncateWord: 2, |env, value| softfloat::to_i16_truncate(env, value).to_le_bytes();
    TruncateDoubleword: 4, |env, value| softfloat::to_i32_truncate(env, value).to_le_bytes();
    TruncateQuadword: 8, |env, value| softfloat::to_i64_truncate(env, value).to_le_bytes();
    StoreDecimal: 10, |env, value| x87::to_bcd(env, value);
}

fn load<M: Load, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        let operand = M::load::<A>(core, op)?;
        core.note_x87(op);
        core.note_x87_data(op);
        if !core.cpu.fpu.is_empty(7) {
            core.x87_push(op, |_| INDEFINITE);
            return Ok(());
        }
        let mut env = core.cpu.fpu.env();
        let value = operand.extend(&mut env);
        // A denormal operand is loaded even if that is unmasked.
        if core.x87_raise(op, &env) || env.unmasked() & INVALID == 0 {
            core.cpu.fpu.push(value);
        }
        Ok(())
    })
}

/// Stores ST0. What an unmasked exception forbids leaves memory and the stack as they are.
fn store<M: Store, const A: u8, const POP: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        let fpu = &core.cpu.fpu;
        let mut env = fpu.env();
        if fpu.is_empty(0) {
            if env.masked(INVALID) {
                M::round(&mut env, INDEFINITE).store::<A>(core, op)?;
            }
            core.note_x87(op);
            core.note_x87_data(op);
            if core.x87_stack_fault(op, false) && POP {
                core.cpu.fpu.pop();
            }
            return Ok(());
        }
        let value = M::round(&mut env, fpu.st(0));
        let stored = env.unmasked() & (PRE_COMPUTATION | OVERFLOW | UNDERFLOW) == 0;
        if stored {
            value.store::<A>(core, op)?;
        } else {
            // Nothing was rounded.
            env.flags &= !(softfloat::INEXACT | softfloat::ROUNDED_UP);
        }
        core.note_x87(op);
        core.note_x87_data(op);
        core.x87_raise(op, &env);
        if stored && POP {
            core.cpu.fpu.pop();
        }
        Ok(())
    })
}

/// FLD ST(i).
fn load_register(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let fpu = &core.cpu.fpu;
        let from = op.regs[0];
        if fpu.is_empty(from) {
            if core.x87_stack_fault(op, false) {
                core.cpu.fpu.push(INDEFINITE);
            }
            return Ok(());
        }
        let value = fpu.st(from);
        core.x87_push(op, |_| value);
        Ok(())
    })
}

/// FST ST(i), FSTP ST(i).
fn store_register<const POP: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let to = op.regs[0];
        let fpu = &mut core.cpu.fpu;
        fpu.status &= !C1;
        let value = if fpu.is_empty(0) {
            if !core.x87_stack_fault(op, false) {
                return Ok(());
            }
            INDEFINITE
        } else {
            fpu.st(0)
        };
        let fpu = &mut core.cpu.fpu;
        fpu.set_st(to, value);
        if POP {
            fpu.pop();
        }
        Ok(())
    })
}

/// The undocumented FSTPNCE: a store that knows nothing of empty registers.
fn store_unchecked(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let fpu = &mut core.cpu.fpu;
        fpu.status &= !C1;
        if !fpu.is_empty(0) {
            let value = fpu.st(0);
            fpu.set_st(op.regs[0], value);
        }
        fpu.pop();
        Ok(())
    })
}

/// FXCH.
fn exchange(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let with = op.regs[1];
        let fpu = &mut core.cpu.fpu;
        fpu.status &= !C1;
        if fpu.is_empty(0) || fpu.is_empty(with) {
            if !core.x87_stack_fault(op, false) {
                return Ok(());
            }
            let fpu = &mut core.cpu.fpu;
            for i in [0, with] {
                if fpu.is_empty(i) {
                    fpu.set_st(i, INDEFINITE);
                }
            }
        }
        let fpu = &mut core.cpu.fpu;
        let (a, b) = (fpu.st(0), fpu.st(with));
        fpu.set_st(0, b);
        fpu.set_st(with, a);
        Ok(())
    })
}

/// FCMOVcc, by the condition code of the jump that tests the same.
fn conditional<const C: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let from = op.regs[1];
        let fpu = &mut core.cpu.fpu;
        if fpu.is_empty(0) || fpu.is_empty(from) {
            if core.x87_stack_fault(op, false) {
                core.cpu.fpu.set_st(0, INDEFINITE);
            }
        } else if condition::<C>(&core.cpu.flags) {
            let value = fpu.st(from);
            fpu.set_st(0, value);
        }
        Ok(())
    })
}

/// FCHS and FABS (`ABS`).
fn sign<const ABS: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let fpu = &mut core.cpu.fpu;
        fpu.status &= !C1;
        if fpu.is_empty(0) {
            if core.x87_stack_fault(op, false) {
                core.cpu.fpu.set_st(0, INDEFINITE);
            }
        } else {
            let value = fpu.st(0);
            fpu.set_st(0, if ABS { value.abs() } else { value.negate() });
        }
        Ok(())
    })
}

/// A constant: exponent, significand rounded down, and whether nearest is up.
type Constant = (u16, u64, bool);

const CONSTANTS: [Constant; 7] = [
    (0x3fff, 1 << 63, false),
    (0x4000, 0xd49a_784b_cd1b_8afe, false),
    (0x3fff, 0xb8aa_3b29_5c17_f0bb, true),
    (0x4000, 0xc90f_daa2_2168_c234, true),
    (0x3ffd, 0x9a20_9a84_fbcf_f798, true),
    (0x3ffe, 0xb172_17f7_d1cf_79ab, true),
    (0, 0, false),
];

/// FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2 and FLDZ, in the order of their opcodes. The
/// rounding control chooses between the two neighbours (SDM 1 8.3.8).
fn constant<const N: usize>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        core.x87_push(op, |env| {
            let (sign_exp, frac, nearest_up) = CONSTANTS[N];
            let exact = N == 0 || N == 6;
            let up = match env.rounding() {
                Rounding::Nearest => nearest_up,
                Rounding::Up => !exact,
                Rounding::Down | Rounding::Zero => false,
            };
            F80 { sign_exp, frac: frac + u64::from(up) }
        });
        Ok(())
    })
}

macro_rules! by_address {
    ($address:expr, $f:ident, $m:ident $(, $g:expr)*) => {
        if $address == 0 { $f::<$m, 0 $(, $g)*> } else { $f::<$m, 1 $(, $g)*> }
    };
}

fn loads(i: &Instruction, address: u8) -> Option<Handler> {
    use Mnemonic as M;
    Some(match (i.mnemonic(), i.memory_size()) {
        (M::Fld, MemorySize::Float32) => by_address!(address, load, LoadSingle),
        (M::Fld, MemorySize::Float64) => by_address!(address, load, LoadDouble),
        (M::Fld, MemorySize::Float80) => by_address!(address, load, LoadExtended),
        (M::Fild, MemorySize::Int16) => by_address!(address, load, LoadWord),
        (M::Fild, MemorySize::Int32) => by_address!(address, load, LoadDoubleword),
        (M::Fild, MemorySize::Int64) => by_address!(address, load, LoadQuadword),
        (M::Fbld, _) => by_address!(address, load, LoadDecimal),
        _ => return None,
    })
}

fn stores(i: &Instruction, address: u8) -> Option<Handler> {
    use MemorySize as S;
    use Mnemonic as M;
    let a = address;
    Some(match (i.mnemonic(), i.memory_size()) {
        (M::Fst, S::Float32) => by_address!(a, store, StoreSingle, false),
        (M::Fst, S::Float64) => by_address!(a, store, StoreDouble, false),
        (M::Fstp, S::Float32) => by_address!(a, store, StoreSingle, true),
        (M::Fstp, S::Float64) => by_address!(a, store, StoreDouble, true),
        (M::Fstp, S::Float80) => by_address!(a, store, StoreExtended, true),
        (M::Fist, S::Int16) => by_address!(a, store, StoreWord, false),
        (M::Fist, S::Int32) => by_address!(a, store, StoreDoubleword, false),
        (M::Fistp, S::Int16) => by_address!(a, store, StoreWord, true),
        (M::Fistp, S::Int32) => by_address!(a, store, StoreDoubleword, true),
        (M::Fistp, S::Int64) => by_address!(a, store, StoreQuadword, true),
        (M::Fisttp, S::Int16) => by_address!(a, store, TruncateWord, true),
        (M::Fisttp, S::Int32) => by_address!(a, store, TruncateDoubleword, true),
        (M::Fisttp, S::Int64) => by_address!(a, store, TruncateQuadword, true),
        (M::Fbstp, _) => by_address!(a, store, StoreDecimal, true),
        _ => return None,
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, form: Form, address: u8) -> Option<Handler> {
    use Mnemonic as M;
    if form == Form::Mem {
        return loads(i, address).or_else(|| stores(i, address));
    }
    Some(match i.mnemonic() {
        M::Fld => load_register,
        M::Fst => store_register::<false>,
        M::Fstp => store_register::<true>,
        M::Fstpnce => store_unchecked,
        M::Fxch => exchange,
        M::Fcmovb => conditional::<2>,
        M::Fcmovnb => conditional::<3>,
        M::Fcmove => conditional::<4>,
        M::Fcmovne => conditional::<5>,
        M::Fcmovbe => conditional::<6>,
        M::Fcmovnbe => conditional::<7>,
        M::Fcmovu => conditional::<10>,
        M::Fcmovnu => conditional::<11>,
        M::Fchs => sign::<false>,
        M::Fabs => sign::<true>,
        M::Fld1 => constant::<0>,
        M::Fldl2t => constant::<1>,
        M::Fldl2e => constant::<2>,
        M::Fldpi => constant::<3>,
        M::Fldlg2 => constant::<4>,
        M::Fldln2 => constant::<5>,
        M::Fldz => constant::<6>,
        _ => return None,
    })
}
