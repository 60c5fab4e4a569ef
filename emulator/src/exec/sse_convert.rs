//! SSE conversions among integers, singles and doubles, MMX registers included.

use super::int::Int;
use super::sse::{Bank, Mmx, Xmm, in_memory};
use super::sse_float::{
    doubles, float, from_doubles, from_singles, singles, with_double, with_single,
};
use crate::core::Core;
use crate::op::{Exit, Handler, Op, run};
use crate::softfloat::{
    Env, Format, convert, from_i32, from_i64, to_i32, to_i32_truncate, to_i64, to_i64_truncate,
};
use iced_x86::{Code, Instruction, Mnemonic};

/// Two 32-bit results in the low half.
#[inline(always)]
fn pair(a: i32, b: i32) -> u128 {
    u128::from(a as u32) | u128::from(b as u32) << 32
}

/// The two low 32-bit integers.
#[inline(always)]
fn integers(value: u128) -> [i32; 2] {
    [value as i32, (value >> 32) as i32]
}

fn packed(i: &Instruction, a: u8) -> Option<Handler> {
    use Mnemonic as M;
    Some(match i.mnemonic() {
        M::Cvtss2sd => float!(4, i, a, |env, a, b| with_double(a, convert(env, b as u32))),
        M::Cvtsd2ss => float!(8, i, a, |env, a, b| with_single(a, convert(env, b as u64))),
        M::Cvtps2pd => float!(8, i, a, |env, _, b| {
            let b = singles(b);
            let low = convert(env, b[0]);
            from_doubles([low, convert(env, b[1])])
        }),
        M::Cvtpd2ps => float!(16, i, a, |env, _, b| {
            let b = doubles(b);
            let low = convert(env, b[0]);
            from_singles([low, convert(env, b[1]), 0, 0])
        }),
        M::Cvtdq2ps => float!(16, i, a, |env, _, b| {
            from_singles(singles(b).map(|lane| from_i32(env, lane as i32)))
        }),
        M::Cvtdq2pd => float!(8, i, a, |env, _, b| {
            from_doubles(integers(b).map(|lane| from_i32(env, lane)))
        }),
        M::Cvtps2dq => float!(16, i, a, |env, _, b| {
            from_singles(singles(b).map(|lane| to_i32(env, lane) as u32))
        }),
        M::Cvttps2dq => float!(16, i, a, |env, _, b| {
            from_singles(singles(b).map(|lane| to_i32_truncate(env, lane) as u32))
        }),
        M::Cvtpd2dq => float!(16, i, a, |env, _, b| {
            let [low, high] = doubles(b).map(|lane| to_i32(env, lane));
            pair(low, high)
        }),
        M::Cvttpd2dq => float!(16, i, a, |env, _, b| {
            let [low, high] = doubles(b).map(|lane| to_i32_truncate(env, lane));
            pair(low, high)
        }),
        _ => return None,
    })
}

/// CVTSI2SS (`N` = 4) and CVTSI2SD (`N` = 8) from a register or memory.
fn from_integer<T: Int, const N: usize, const MEMORY: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        let value = if MEMORY { core.read_mem::<T, 1>(op)? } else { T::reg(&core.cpu, op.regs[1]) };
        let value = value.sx() as i64;
        let a = Xmm::get(core, op.regs[0]);
        let mut env = Env::from_mxcsr(core.cpu.mxcsr);
        let result = if N == 4 {
            with_single(a, from_i64(&mut env, value))
        } else {
            with_double(a, from_i64(&mut env, value))
        };
        core.sse_raise(&env)?;
        Xmm::set(core, op.regs[0], result);
        Ok(())
    })
}

#[inline(always)]
fn integer_of<F: Format, const WIDE: bool, const TRUNCATE: bool>(env: &mut Env, value: F) -> u64 {
    match (WIDE, TRUNCATE) {
        (false, false) => u64::from(to_i32(env, value) as u32),
        (false, true) => u64::from(to_i32_truncate(env, value) as u32),
        (true, false) => to_i64(env, value) as u64,
        (true, true) => to_i64_truncate(env, value) as u64,
    }
}

/// CVTSS2SI (`N` = 4), CVTSD2SI (`N` = 8) and the truncating ones.
fn to_integer<const N: usize, const WIDE: bool, const TRUNCATE: bool, const MEMORY: bool>(
    core: &mut Core,
    ops: &[Op],
) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        let b = if MEMORY { core.load_part::<N, 1>(op)? } else { Xmm::get(core, op.regs[1]) };
        let mut env = Env::from_mxcsr(core.cpu.mxcsr);
        let value = if N == 4 {
            integer_of::<u32, WIDE, TRUNCATE>(&mut env, b as u32)
        } else {
            integer_of::<u64, WIDE, TRUNCATE>(&mut env, b as u64)
        };
        core.sse_raise(&env)?;
        core.cpu.regs[usize::from(op.regs[0] & 31)] = value;
        Ok(())
    })
}

fn scalar(i: &Instruction) -> Option<Handler> {
    let memory = in_memory(i, 1);
    macro_rules! from {
        ($int:ty, $n:literal) => {
            if memory { from_integer::<$int, $n, true> } else { from_integer::<$int, $n, false> }
        };
    }
    macro_rules! to {
        ($n:literal, $wide:literal, $truncate:literal) => {
            if memory {
                to_integer::<$n, $wide, $truncate, true>
            } else {
                to_integer::<$n, $wide, $truncate, false>
            }
        };
    }
    Some(match i.code() {
        Code::Cvtsi2ss_xmm_rm32 => from!(u32, 4),
        Code::Cvtsi2ss_xmm_rm64 => from!(u64, 4),
        Code::Cvtsi2sd_xmm_rm32 => from!(u32, 8),
        Code::Cvtsi2sd_xmm_rm64 => from!(u64, 8),
        Code::Cvtss2si_r32_xmmm32 => to!(4, false, false),
        Code::Cvtss2si_r64_xmmm32 => to!(4, true, false),
        Code::Cvtsd2si_r32_xmmm64 => to!(8, false, false),
        Code::Cvtsd2si_r64_xmmm64 => to!(8, true, false),
        Code::Cvttss2si_r32_xmmm32 => to!(4, false, true),
        Code::Cvttss2si_r64_xmmm32 => to!(4, true, true),
        Code::Cvttsd2si_r32_xmmm64 => to!(8, false, true),
        Code::Cvttsd2si_r64_xmmm64 => to!(8, true, true),
        _ => return None,
    })
}

/// CVTPI2PS (`N` = 4) and CVTPI2PD (`N` = 8): two integers of an MMX register or of memory.
fn from_mmx<const N: usize, const MEMORY: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        let b = if MEMORY {
            core.load_part::<8, 1>(op)?
        } else {
            core.begin_mmx()?;
            Mmx::get(core, op.regs[1])
        };
        let mut env = Env::from_mxcsr(core.cpu.mxcsr);
        let [low, high] = integers(b);
        let a = Xmm::get(core, op.regs[0]);
        let value = if N == 4 {
            let low: u32 = from_i32(&mut env, low);
            let high: u32 = from_i32(&mut env, high);
            with_double(a, u64::from(low) | u64::from(high) << 32)
        } else {
            from_doubles([low, high].map(|lane| from_i32(&mut env, lane)))
        };
        if !MEMORY {
            core.enter_mmx();
        }
        core.sse_raise(&env)?;
        Xmm::set(core, op.regs[0], value);
        Ok(())
    })
}

/// CVTPS2PI (`N` = 4), CVTPD2PI (`N` = 8) and the truncating ones.
fn to_mmx<const N: usize, const TRUNCATE: bool, const MEMORY: bool>(
    core: &mut Core,
    ops: &[Op],
) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        core.begin_mmx()?;
        let b = match (MEMORY, N) {
            (false, _) => Xmm::get(core, op.regs[1]),
            (true, 4) => core.load_part::<8, 1>(op)?,
            (true, _) => core.load_aligned::<1>(op)?,
        };
        let mut env = Env::from_mxcsr(core.cpu.mxcsr);
        let value = if N == 4 {
            let low = integer_of::<u32, false, TRUNCATE>(&mut env, b as u32);
            low | integer_of::<u32, false, TRUNCATE>(&mut env, (b >> 32) as u32) << 32
        } else {
            let low = integer_of::<u64, false, TRUNCATE>(&mut env, b as u64);
            low | integer_of::<u64, false, TRUNCATE>(&mut env, (b >> 64) as u64) << 32
        };
        core.enter_mmx();
        core.sse_raise(&env)?;
        Mmx::set(core, op.regs[0], value.into());
        Ok(())
    })
}

fn mmx(i: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    Some(match (i.mnemonic(), in_memory(i, 1)) {
        (M::Cvtpi2ps, false) => from_mmx::<4, false>,
        (M::Cvtpi2ps, true) => from_mmx::<4, true>,
        (M::Cvtpi2pd, false) => from_mmx::<8, false>,
        (M::Cvtpi2pd, true) => from_mmx::<8, true>,
        (M::Cvtps2pi, false) => to_mmx::<4, false, false>,
        (M::Cvtps2pi, true) => to_mmx::<4, false, true>,
        (M::Cvttps2pi, false) => to_mmx::<4, true, false>,
        (M::Cvttps2pi, true) => to_mmx::<4, true, true>,
        (M::Cvtpd2pi, false) => to_mmx::<8, false, false>,
        (M::Cvtpd2pi, true) => to_mmx::<8, false, true>,
        (M::Cvttpd2pi, false) => to_mmx::<8, true, false>,
        (M::Cvttpd2pi, true) => to_mmx::<8, true, true>,
        _ => return None,
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, address: u8) -> Option<Handler> {
    packed(i, address).or_else(|| scalar(i)).or_else(|| mmx(i))
}
