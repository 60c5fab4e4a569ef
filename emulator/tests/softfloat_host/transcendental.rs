//! The transcendental functions: special cases and flags as the host has them, values within one
//! unit in the last place of the host's.

use core::arch::asm;

use emulator::softfloat::{Env, F80, INEXACT, PRE_COMPUTATION, ROUNDED_UP, UNDERFLOW, x87};

use crate::operands::Random;
use crate::x87::host;

const ROUNDS: usize = 40_000;
/// C2: the argument is out of range.
const INCOMPLETE: u16 = 0x400;

/// How many representable numbers lie between two of the same sign.
fn distance(a: F80, b: F80) -> u64 {
    if a.sign() != b.sign() {
        return u64::MAX;
    }
    let rank = |x: F80| i128::from(x.sign_exp & 0x7fff) << 63 | i128::from(x.frac & !(1 << 63));
    u64::try_from((rank(a) - rank(b)).abs()).unwrap_or(u64::MAX)
}

fn check(
    name: &str,
    a: F80,
    b: F80,
    fcw: u16,
    host: impl Fn(u16, F80, F80) -> (F80, F80, u16),
    soft: impl Fn(&mut Env, F80, F80) -> Option<F80>,
) {
    let (top, _, status) = host(fcw, a, b);
    let mut env = Env::from_fcw(fcw);
    let value = soft(&mut env, a, b);
    let context = || format!("{name} {a:x?} {b:x?} {fcw:#x}: host {top:x?} {status:#x} {value:x?}");
    assert_eq!(value.is_none(), status & INCOMPLETE != 0, "{}", context());
    let Some(value) = value else { return };
    // Rounding may go the other way within the last place, so inexact alone is compared.
    let seen = !(ROUNDED_UP | UNDERFLOW | INEXACT) as u16 & 0x3f;
    assert_eq!(env.reported() as u16 & seen, status & seen, "{}", context());
    if env.unmasked() & PRE_COMPUTATION == 0 {
        assert!(distance(value, top) <= 1, "{}", context());
    }
}

fn operands(random: &mut Random, low: i32, high: i32) -> (F80, F80, u16) {
    let fcw = random.fcw() | 0x3f;
    if random.below(4) == 0 {
        (random.f80(), random.f80(), fcw)
    } else {
        (random.f80_between(low, high), random.f80_between(-40, 40), fcw)
    }
}

#[test]
fn sine_and_cosine() {
    let (sin, cos) = (host!("fsin"), host!("fcos"));
    let mut random = Random::new(21);
    for _ in 0..ROUNDS {
        let (a, b, fcw) = operands(&mut random, -40, 62);
        check("fsin", a, b, fcw, sin, |env, a, _| x87::sin(env, a));
        check("fcos", a, b, fcw, cos, |env, a, _| x87::cos(env, a));
        let mut env = Env::from_fcw(fcw);
        let both = x87::sin_cos(&mut env, a);
        let mut env = Env::from_fcw(fcw);
        assert_eq!(both.map(|pair| pair.0), x87::sin(&mut env, a), "{a:x?}");
        assert_eq!(both.map(|pair| pair.1), x87::cos(&mut env, a), "{a:x?}");
    }
}

#[test]
fn tangent() {
    // FPTAN pushes a one, which the host's macro would read first.
    let tan = host!("fptan\nfxch st(1)");
    let mut random = Random::new(22);
    for _ in 0..ROUNDS {
        let (a, b, fcw) = operands(&mut random, -40, 62);
        if a.sign_exp & 0x7fff >= 0x3fff + 63 && a.sign_exp & 0x7fff != 0x7fff {
            continue;
        }
        check("fptan", a, b, fcw, tan, |env, a, _| x87::tan(env, a));
    }
}

#[test]
fn arctangent() {
    let atan = host!("fpatan\nfld1");
    let atan = |fcw, a, b| {
        let (_, top, status) = atan(fcw, a, b);
        (top, top, status)
    };
    let mut random = Random::new(23);
    for _ in 0..ROUNDS {
        let (a, b, fcw) = operands(&mut random, -40, 40);
        check("fpatan", a, b, fcw, atan, |env, a, b| Some(x87::arctan2(env, b, a)));
    }
}

#[test]
fn exponential() {
    let exp = host!("f2xm1");
    let mut random = Random::new(24);
    for _ in 0..ROUNDS {
        let (a, b, fcw) = operands(&mut random, -70, -1);
        if matches!(a.sign_exp & 0x7fff, 0x3fff..0x7fff) {
            continue;
        }
        check("f2xm1", a, b, fcw, exp, |env, a, _| Some(x87::exp2_minus_1(env, a)));
    }
}

#[test]
fn logarithm() {
    let log = host!("fyl2x\nfld1");
    let log = |fcw, a, b| {
        let (_, top, status) = log(fcw, a, b);
        (top, top, status)
    };
    let mut random = Random::new(25);
    for _ in 0..ROUNDS {
        let (a, b, fcw) = operands(&mut random, -2, 2);
        check("fyl2x", a, b, fcw, log, |env, a, b| Some(x87::log2_times(env, b, a)));
        check("fyl2x", a.abs(), b, fcw, log, |env, a, b| Some(x87::log2_times(env, b, a)));
    }
}

#[test]
fn logarithm_plus_1() {
    let log = host!("fyl2xp1\nfld1");
    let log = |fcw, a, b| {
        let (_, top, status) = log(fcw, a, b);
        (top, top, status)
    };
    let mut random = Random::new(26);
    for _ in 0..ROUNDS {
        let (a, b, fcw) = operands(&mut random, -60, -3);
        if matches!(a.sign_exp & 0x7fff, 0x3ffd..0x7fff) {
            continue;
        }
        check("fyl2xp1", a, b, fcw, log, |env, a, b| Some(x87::log2_times_plus_1(env, b, a)));
    }
}
