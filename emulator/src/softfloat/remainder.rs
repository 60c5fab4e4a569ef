//! The partial remainders FPREM and FPREM1.

use super::format::Format;
use super::{Env, F80, INEXACT, round};

/// What a partial remainder gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remainder {
    /// The remainder, or a number congruent to it that is closer to it than the dividend was.
    pub value: F80,
    /// What is known of the quotient.
    pub quotient: Quotient,
}

/// The quotient of a partial remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotient {
    /// There is none: the operation is invalid, or an operand is a NaN.
    None,
    /// The reduction is not complete yet (C2).
    Incomplete,
    /// Its low three bits.
    Low(u8),
}

/// FPREM: the quotient is truncated (SDM 2 FPREM).
pub fn remainder(env: &mut Env, a: F80, b: F80) -> Remainder {
    partial(env, a, b, false)
}

/// FPREM1: the quotient is rounded to nearest, as IEEE 754 wants (SDM 2 FPREM1).
pub fn remainder_nearest(env: &mut Env, a: F80, b: F80) -> Remainder {
    partial(env, a, b, true)
}

fn partial(env: &mut Env, a: F80, b: F80, nearest: bool) -> Remainder {
    let done = |value, quotient| Remainder { value, quotient: Quotient::Low(quotient) };
    let (x, y) = (a.unpack(env), b.unpack(env));
    if x.is_nan() || y.is_nan() {
        return Remainder { value: F80::propagate(env, x, y), quotient: Quotient::None };
    }
    if x.is_infinite() || y.is_zero() {
        return Remainder { value: F80::invalid(env), quotient: Quotient::None };
    }
    x.note(env);
    y.note(env);
    if x.is_zero() {
        return done(F80::zero(x.sign), 0);
    }
    if y.is_infinite() {
        return done(a.canonical(), 0);
    }
    let distance = x.exp - y.exp;
    if distance < -1 || distance < 0 && !nearest {
        return done(store(env, x.sign, x.exp, x.sig), 0);
    }
    if distance >= 64 {
        // Reduce by a part that leaves the exponents less far apart (32 to 63 bits at a time).
        let bits = distance & 31 | 32;
        let rest = reduce(x.sig, y.sig, bits).1;
        let value = match rest {
            0 => F80::zero(x.sign),
            _ => {
                let shift = rest.leading_zeros() as i32 - 64;
                let exp = x.exp - bits - shift;
                store(env, x.sign, exp, ((rest << 64) << shift >> 64) as u64)
            }
        };
        return Remainder { value, quotient: Quotient::Incomplete };
    }
    finish(env, x.sign, x.sig, y.exp, y.sig, distance, nearest)
}

/// Quotient and remainder of `x * 2^bits` by `y` for `bits` up to 63.
fn reduce(x: u64, y: u64, bits: i32) -> (u64, u128) {
    let dividend = u128::from(x) << bits;
    let quotient = dividend / u128::from(y);
    (quotient as u64, dividend - quotient * u128::from(y))
}

/// The whole reduction, for exponents `distance` (-1 to 63) apart.
fn finish(
    env: &mut Env,
    sign: bool,
    x: u64,
    y_exp: i32,
    y: u64,
    distance: i32,
    nearest: bool,
) -> Remainder {
    // In units of half the last place of y, so that a distance of -1 stays whole.
    let divisor = u128::from(y) << 1;
    let (mut quotient, mut rest) = if distance < 0 {
        (0, u128::from(x))
    } else {
        let (quotient, rest) = reduce(x, y, distance);
        (quotient, rest << 1)
    };
    let mut negative = sign;
    if nearest {
        let twice = rest << 1;
        if twice > divisor || twice == divisor && quotient & 1 != 0 {
            quotient = quotient.wrapping_add(1);
            rest = divisor - rest;
            negative = !sign;
        }
    }
    let value = if rest == 0 {
        F80::zero(sign)
    } else {
        let shift = rest.leading_zeros();
        let sig = ((rest << shift) >> 64) as u64;
        store(env, negative, y_exp + 63 - shift as i32, sig)
    };
    Remainder { value, quotient: Quotient::Low((quotient & 7) as u8) }
}

/// Remainders are exact, but tiny ones may underflow when that is unmasked.
fn store(env: &mut Env, sign: bool, exp: i32, sig: u64) -> F80 {
    let mut full = env.full_precision();
    let dest = F80::dest(&full);
    let (exp, sig) = round::round(&mut full, dest, sign, exp, u128::from(sig) << 64);
    debug_assert!(full.flags & !env.flags & INEXACT == 0);
    env.flags = full.flags;
    F80::pack(sign, exp, sig)
}
