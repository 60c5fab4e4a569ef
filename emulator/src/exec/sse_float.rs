//! SSE floating-point arithmetic and comparisons, packed and scalar.

use core::cmp::Ordering;

use super::sse::{Bank, Xmm, in_memory, vector};
use crate::core::Core;
use crate::cpu::flags;
use crate::op::{Exit, Handler, Op, run};
use crate::softfloat::{self, Env, sse};
use iced_x86::{Code, Instruction, Mnemonic};

/// A function of two registers that may raise floating-point exceptions.
pub trait Float: 'static {
    /// The masked result.
    fn compute(env: &mut Env, a: u128, b: u128, imm: u8) -> u128;
}

fn registers<F: Float>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        let mut env = Env::from_mxcsr(core.cpu.mxcsr);
        let (a, b) = (Xmm::get(core, op.regs[0]), Xmm::get(core, op.regs[1]));
        let value = F::compute(&mut env, a, b, op.imm as u8);
        core.sse_raise(&env)?;
        Xmm::set(core, op.regs[0], value);
        Ok(())
    })
}

fn memory<F: Float, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        let b = core.load_aligned::<A>(op)?;
        let mut env = Env::from_mxcsr(core.cpu.mxcsr);
        let value = F::compute(&mut env, Xmm::get(core, op.regs[0]), b, op.imm as u8);
        core.sse_raise(&env)?;
        Xmm::set(core, op.regs[0], value);
        Ok(())
    })
}

fn part<F: Float, const N: usize, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        let b = core.load_part::<N, A>(op)?;
        let mut env = Env::from_mxcsr(core.cpu.mxcsr);
        let value = F::compute(&mut env, Xmm::get(core, op.regs[0]), b, op.imm as u8);
        core.sse_raise(&env)?;
        Xmm::set(core, op.regs[0], value);
        Ok(())
    })
}

/// Picks the operand form; a memory operand has `N` bytes, and 16 must be aligned.
pub fn select<F: Float, const N: usize>(i: &Instruction, address: u8) -> Handler {
    match (in_memory(i, 1), N, address) {
        (false, _, _) => registers::<F>,
        (true, 16, 0) => memory::<F, 0>,
        (true, 16, _) => memory::<F, 1>,
        (true, _, 0) => part::<F, N, 0>,
        (true, _, _) => part::<F, N, 1>,
    }
}

/// Makes a kernel of an expression and picks its operand form.
macro_rules! float {
    ($n:literal, $i:expr, $address:expr,
        |$env:ident, $a:pat_param, $b:pat_param $(, $imm:ident)?| $body:expr) => {{
        struct Kernel;
        impl $crate::exec::sse_float::Float for Kernel {
            #[inline(always)]
            fn compute($env: &mut Env, $a: u128, $b: u128, _imm: u8) -> u128 {
                $(let $imm = _imm;)?
                $body
            }
        }
        $crate::exec::sse_float::select::<Kernel, $n>($i, $address)
    }};
}
pub(super) use float;

/// The four singles of a register.
#[inline(always)]
pub fn singles(value: u128) -> [u32; 4] {
    [0, 1, 2, 3].map(|i| (value >> (32 * i)) as u32)
}

/// The two doubles of a register.
#[inline(always)]
pub fn doubles(value: u128) -> [u64; 2] {
    [value as u64, (value >> 64) as u64]
}

/// A register of four singles.
#[inline(always)]
pub fn from_singles(lanes: [u32; 4]) -> u128 {
    let [a, b, c, d] = lanes.map(u128::from);
    a | b << 32 | c << 64 | d << 96
}

/// A register of two doubles.
#[inline(always)]
pub fn from_doubles(lanes: [u64; 2]) -> u128 {
    u128::from(lanes[0]) | u128::from(lanes[1]) << 64
}

/// `a` with its low single replaced.
#[inline(always)]
pub fn with_single(a: u128, low: u32) -> u128 {
    a & !u128::from(u32::MAX) | u128::from(low)
}

/// `a` with its low double replaced.
#[inline(always)]
pub fn with_double(a: u128, low: u64) -> u128 {
    a & !u128::from(u64::MAX) | u128::from(low)
}

#[inline(always)]
fn each_single(a: u128, b: u128, mut f: impl FnMut(u32, u32) -> u32) -> u128 {
    let (a, b) = (singles(a), singles(b));
    from_singles([f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])])
}

#[inline(always)]
fn each_double(a: u128, b: u128, mut f: impl FnMut(u64, u64) -> u64) -> u128 {
    let (a, b) = (doubles(a), doubles(b));
    from_doubles([f(a[0], b[0]), f(a[1], b[1])])
}

/// Addition, multiplication and kin.
fn arithmetic(i: &Instruction, a: u8) -> Option<Handler> {
    use Mnemonic as M;
    macro_rules! ps {
        ($f:path) => {
            float!(16, i, a, |env, a, b| each_single(a, b, |a, b| $f(env, a, b)))
        };
    }
    macro_rules! pd {
        ($f:path) => {
            float!(16, i, a, |env, a, b| each_double(a, b, |a, b| $f(env, a, b)))
        };
    }
    macro_rules! ss {
        ($f:path) => {
            float!(4, i, a, |env, a, b| with_single(a, $f(env, a as u32, b as u32)))
        };
    }
    macro_rules! sd {
        ($f:path) => {
            float!(8, i, a, |env, a, b| with_double(a, $f(env, a as u64, b as u64)))
        };
    }
    Some(match i.mnemonic() {
        M::Addps => ps!(sse::add),
        M::Addpd => pd!(sse::add),
        M::Addss => ss!(sse::add),
        M::Addsd => sd!(sse::add),
        M::Subps => ps!(sse::sub),
        M::Subpd => pd!(sse::sub),
        M::Subss => ss!(sse::sub),
        M::Subsd => sd!(sse::sub),
        M::Mulps => ps!(sse::mul),
        M::Mulpd => pd!(sse::mul),
        M::Mulss => ss!(sse::mul),
        M::Mulsd => sd!(sse::mul),
        M::Divps => ps!(sse::div),
        M::Divpd => pd!(sse::div),
        M::Divss => ss!(sse::div),
        M::Divsd => sd!(sse::div),
        M::Minps => ps!(sse::min),
        M::Minpd => pd!(sse::min),
        M::Minss => ss!(sse::min),
        M::Minsd => sd!(sse::min),
        M::Maxps => ps!(sse::max),
        M::Maxpd => pd!(sse::max),
        M::Maxss => ss!(sse::max),
        M::Maxsd => sd!(sse::max),
        M::Sqrtps => ps!(sqrt_second),
        M::Sqrtpd => pd!(sqrt_second),
        M::Sqrtss => ss!(sqrt_second),
        M::Sqrtsd => sd!(sqrt_second),
        _ => return None,
    })
}

#[inline(always)]
fn sqrt_second<F: sse::Binary>(env: &mut Env, _: F, b: F) -> F {
    sse::sqrt(env, b)
}

/// A mask of ones where the predicate holds.
#[inline(always)]
fn mask_single(env: &mut Env, a: u32, b: u32, predicate: u8) -> u32 {
    u32::from(sse::compare_predicate(env, a, b, predicate)).wrapping_neg()
}

#[inline(always)]
fn mask_double(env: &mut Env, a: u64, b: u64, predicate: u8) -> u64 {
    u64::from(sse::compare_predicate(env, a, b, predicate)).wrapping_neg()
}

/// CMPPS and kin, and ROUNDPS and kin.
fn with_immediate(i: &Instruction, a: u8) -> Option<Handler> {
    Some(match i.code() {
        Code::Cmpps_xmm_xmmm128_imm8 => float!(16, i, a, |env, a, b, imm| {
            each_single(a, b, |a, b| mask_single(env, a, b, imm & 7))
        }),
        Code::Cmppd_xmm_xmmm128_imm8 => float!(16, i, a, |env, a, b, imm| {
            each_double(a, b, |a, b| mask_double(env, a, b, imm & 7))
        }),
        Code::Cmpss_xmm_xmmm32_imm8 => float!(4, i, a, |env, a, b, imm| {
            with_single(a, mask_single(env, a as u32, b as u32, imm & 7))
        }),
        Code::Cmpsd_xmm_xmmm64_imm8 => float!(8, i, a, |env, a, b, imm| {
            with_double(a, mask_double(env, a as u64, b as u64, imm & 7))
        }),
        Code::Roundps_xmm_xmmm128_imm8 => float!(16, i, a, |env, _, b, imm| {
            each_single(b, b, |_, b| sse::round_imm(env, b, imm))
        }),
        Code::Roundpd_xmm_xmmm128_imm8 => float!(16, i, a, |env, _, b, imm| {
            each_double(b, b, |_, b| sse::round_imm(env, b, imm))
        }),
        Code::Roundss_xmm_xmmm32_imm8 => {
            float!(4, i, a, |env, a, b, imm| with_single(a, sse::round_imm(env, b as u32, imm)))
        }
        Code::Roundsd_xmm_xmmm64_imm8 => {
            float!(8, i, a, |env, a, b, imm| with_double(a, sse::round_imm(env, b as u64, imm)))
        }
        Code::Dpps_xmm_xmmm128_imm8 => float!(16, i, a, |env, a, b, imm| dpps(env, a, b, imm)),
        Code::Dppd_xmm_xmmm128_imm8 => float!(16, i, a, |env, a, b, imm| dppd(env, a, b, imm)),
        _ => return None,
    })
}

/// The dot product of singles (SDM 2A DPPS).
fn dpps(env: &mut Env, a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (singles(a), singles(b));
    let mut product = |i: usize| {
        if imm >> (4 + i) & 1 != 0 { sse::mul(env, a[i], b[i]) } else { 0 }
    };
    let t = [product(0), product(1), product(2), product(3)];
    // An unmasked exception ends the operation after each step.
    if !env.settle() {
        return 0;
    }
    // Every lane adds its neighbour's product to its own first, then the other half's sum: the
    // order decides whose NaN survives.
    let pairs = [0, 1, 2, 3].map(|i: usize| sse::add(env, t[i ^ 1], t[i]));
    if !env.settle() {
        return 0;
    }
    let sums = [0, 1, 2, 3].map(|i: usize| sse::add(env, pairs[i], pairs[i ^ 2]));
    from_singles([0, 1, 2, 3].map(|i| if imm >> i & 1 != 0 { sums[i] } else { 0 }))
}

/// The dot product of doubles (SDM 2A DPPD).
fn dppd(env: &mut Env, a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (doubles(a), doubles(b));
    let mut product = |i: usize| {
        if imm >> (4 + i) & 1 != 0 { sse::mul(env, a[i], b[i]) } else { 0 }
    };
    let t = [product(0), product(1)];
    if !env.settle() {
        return 0;
    }
    let sums = [sse::add(env, t[0], t[1]), sse::add(env, t[1], t[0])];
    from_doubles([0, 1].map(|i| if imm >> i & 1 != 0 { sums[i] } else { 0 }))
}

/// HADDPS and HSUBPS: neighbours of `a`, then of `b`.
#[inline(always)]
fn across_singles(env: &mut Env, a: u128, b: u128, f: impl Fn(&mut Env, u32, u32) -> u32) -> u128 {
    let (a, b) = (singles(a), singles(b));
    let low = [f(env, a[0], a[1]), f(env, a[2], a[3])];
    let high = [f(env, b[0], b[1]), f(env, b[2], b[3])];
    from_singles([low[0], low[1], high[0], high[1]])
}

#[inline(always)]
fn across_doubles(env: &mut Env, a: u128, b: u128, f: impl Fn(&mut Env, u64, u64) -> u64) -> u128 {
    let (a, b) = (doubles(a), doubles(b));
    let low = f(env, a[0], a[1]);
    from_doubles([low, f(env, b[0], b[1])])
}

/// Horizontal and alternating operations, and the approximations.
fn others(i: &Instruction, a: u8) -> Option<Handler> {
    use Mnemonic as M;
    Some(match i.mnemonic() {
        M::Haddps => float!(16, i, a, |env, a, b| across_singles(env, a, b, sse::add)),
        M::Hsubps => float!(16, i, a, |env, a, b| across_singles(env, a, b, sse::sub)),
        M::Haddpd => float!(16, i, a, |env, a, b| across_doubles(env, a, b, sse::add)),
        M::Hsubpd => float!(16, i, a, |env, a, b| across_doubles(env, a, b, sse::sub)),
        M::Addsubps => float!(16, i, a, |env, a, b| {
            let (a, b) = (singles(a), singles(b));
            let (first, second) = (sse::sub(env, a[0], b[0]), sse::add(env, a[1], b[1]));
            let (third, fourth) = (sse::sub(env, a[2], b[2]), sse::add(env, a[3], b[3]));
            from_singles([first, second, third, fourth])
        }),
        M::Addsubpd => float!(16, i, a, |env, a, b| {
            let (a, b) = (doubles(a), doubles(b));
            let low = sse::sub(env, a[0], b[0]);
            from_doubles([low, sse::add(env, a[1], b[1])])
        }),
        M::Rcpps => {
            vector!(select::<Xmm>(i, a), |_, b| from_singles(singles(b).map(sse::reciprocal)))
        }
        M::Rsqrtps => vector!(select::<Xmm>(i, a), |_, b| {
            from_singles(singles(b).map(sse::reciprocal_sqrt))
        }),
        M::Rcpss => vector!(select_part::<Xmm, 4>(i, a), |a, b| {
            with_single(a, sse::reciprocal(b as u32))
        }),
        M::Rsqrtss => vector!(select_part::<Xmm, 4>(i, a), |a, b| {
            with_single(a, sse::reciprocal_sqrt(b as u32))
        }),
        _ => return None,
    })
}

/// COMISS, COMISD, UCOMISS and UCOMISD, into RFLAGS.
fn compare<const N: usize, const SIGNAL: bool, const MEMORY: bool>(
    core: &mut Core,
    ops: &[Op],
) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        let b = if MEMORY { core.load_part::<N, 1>(op)? } else { Xmm::get(core, op.regs[1]) };
        let a = Xmm::get(core, op.regs[0]);
        let mut env = Env::from_mxcsr(core.cpu.mxcsr);
        let order = if N == 4 {
            softfloat::compare(&mut env, a as u32, b as u32, SIGNAL)
        } else {
            softfloat::compare(&mut env, a as u64, b as u64, SIGNAL)
        };
        core.sse_raise(&env)?;
        core.cpu.flags.set_status(match order {
            Some(Ordering::Greater) => 0,
            Some(Ordering::Less) => flags::CF,
            Some(Ordering::Equal) => flags::ZF,
            None => flags::CF | flags::PF | flags::ZF,
        });
        Ok(())
    })
}

fn comparisons(i: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    Some(match (i.mnemonic(), in_memory(i, 1)) {
        (M::Comiss, false) => compare::<4, true, false>,
        (M::Comiss, true) => compare::<4, true, true>,
        (M::Comisd, false) => compare::<8, true, false>,
        (M::Comisd, true) => compare::<8, true, true>,
        (M::Ucomiss, false) => compare::<4, false, false>,
        (M::Ucomiss, true) => compare::<4, false, true>,
        (M::Ucomisd, false) => compare::<8, false, false>,
        (M::Ucomisd, true) => compare::<8, false, true>,
        _ => return None,
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, address: u8) -> Option<Handler> {
    arithmetic(i, address)
        .or_else(|| with_immediate(i, address))
        .or_else(|| others(i, address))
        .or_else(|| comparisons(i))
}
