//! The one place where a result is rounded, overflows or underflows.

use super::{Env, INEXACT, OVERFLOW, ROUNDED_UP, Rounding, UNDERFLOW};

/// What rounding has to know of its destination.
#[derive(Clone, Copy)]
pub struct Dest {
    /// Significand bits, the integer bit included.
    pub precision: u32,
    /// Exponent of the smallest normal number.
    pub emin: i32,
    /// Exponent of the largest finite number.
    pub emax: i32,
    /// What unmasked overflow takes from the exponent and unmasked underflow adds to it;
    /// 0 for destinations that then stay unwritten, whatever comes out.
    pub wrap: i32,
}

/// Shifts right and keeps a sticky bit: bit 0 is set when any bit was lost.
#[inline]
pub fn shift_right_jam(value: u128, count: u32) -> u128 {
    if count == 0 {
        value
    } else if count < 128 {
        value >> count | u128::from(value << (128 - count) != 0)
    } else {
        u128::from(value != 0)
    }
}

/// Rounds `sig * 2^(exp - 127)` to `dest`, where bit 127 of `sig` is set and bit 0 is sticky.
///
/// Returns the exponent and the significand with its integer bit in bit 63. The integer bit is
/// clear for subnormal numbers and zero; infinity is exponent `emax + 1`.
#[inline]
pub fn round(env: &mut Env, dest: Dest, sign: bool, exp: i32, sig: u128) -> (i32, u64) {
    if exp >= dest.emin && exp < dest.emax {
        let (sig, carry) = round_bits(env, dest.precision, sign, sig);
        (exp + carry, sig)
    } else if exp < dest.emin {
        round_tiny(env, dest, sign, exp, sig)
    } else {
        round_large(env, dest, sign, exp, sig)
    }
}

/// Rounds to `precision` bits below bit 127; the second result is 1 when the carry left bit 127.
#[inline]
fn round_bits(env: &mut Env, precision: u32, sign: bool, sig: u128) -> (u64, i32) {
    if precision == 64 {
        return round_64(env, sign, sig);
    }
    let ulp = 1u128 << (128 - precision);
    let low = sig & (ulp - 1);
    if low == 0 {
        return ((sig >> 64) as u64, 0);
    }
    env.raise(INEXACT);
    let half = ulp >> 1;
    let up = match env.rounding() {
        Rounding::Nearest => low > half || low == half && sig & ulp != 0,
        Rounding::Down => sign,
        Rounding::Up => !sign,
        Rounding::Zero => false,
    };
    let truncated = sig - low;
    if !up {
        return ((truncated >> 64) as u64, 0);
    }
    env.raise(ROUNDED_UP);
    match truncated.checked_add(ulp) {
        Some(sig) => ((sig >> 64) as u64, 0),
        None => (1 << 63, 1),
    }
}

/// The same for a whole 64-bit significand, which is the x87's usual case.
#[inline]
fn round_64(env: &mut Env, sign: bool, sig: u128) -> (u64, i32) {
    const HALF: u64 = 1 << 63;
    let (high, low) = ((sig >> 64) as u64, sig as u64);
    if low == 0 {
        return (high, 0);
    }
    env.raise(INEXACT);
    let up = match env.rounding() {
        Rounding::Nearest => low > HALF || low == HALF && high & 1 != 0,
        Rounding::Down => sign,
        Rounding::Up => !sign,
        Rounding::Zero => false,
    };
    if !up {
        return (high, 0);
    }
    env.raise(ROUNDED_UP);
    match high.checked_add(1) {
        Some(high) => (high, 0),
        None => (1 << 63, 1),
    }
}

/// The exponent is below the smallest normal one. Tininess is detected after rounding: with an
/// unbounded exponent the result would still be below the smallest normal number (SDM 1 4.9.1.5).
#[cold]
fn round_tiny(env: &mut Env, dest: Dest, sign: bool, exp: i32, sig: u128) -> (i32, u64) {
    let mut probe = *env;
    let (probe_sig, carry) = round_bits(&mut probe, dest.precision, sign, sig);
    let tiny = exp + carry < dest.emin;
    if tiny && !env.masked(UNDERFLOW) {
        env.flags = probe.flags | UNDERFLOW;
        return (exp + carry + dest.wrap, probe_sig);
    }
    if tiny && env.flush_to_zero() {
        env.raise(UNDERFLOW | INEXACT);
        return (dest.emin, 0);
    }
    let before = env.flags & INEXACT;
    env.flags &= !INEXACT;
    let shifted = shift_right_jam(sig, (dest.emin - exp) as u32);
    let (sig, _) = round_bits(env, dest.precision, sign, shifted);
    if tiny && env.flags & INEXACT != 0 {
        env.raise(UNDERFLOW);
    }
    env.flags |= before;
    (dest.emin, sig)
}

/// The exponent is at or above the largest one.
#[cold]
fn round_large(env: &mut Env, dest: Dest, sign: bool, exp: i32, sig: u128) -> (i32, u64) {
    let before = env.flags;
    let (sig, carry) = round_bits(env, dest.precision, sign, sig);
    let exp = exp + carry;
    if exp <= dest.emax {
        return (exp, sig);
    }
    if !env.masked(OVERFLOW) {
        env.raise(OVERFLOW);
        return (exp - dest.wrap, sig);
    }
    env.flags = before | OVERFLOW | INEXACT;
    let to_infinity = match env.rounding() {
        Rounding::Nearest => true,
        Rounding::Down => sign,
        Rounding::Up => !sign,
        Rounding::Zero => false,
    };
    if to_infinity {
        env.raise(ROUNDED_UP);
        (dest.emax + 1, 1 << 63)
    } else {
        (dest.emax, u64::MAX << (64 - dest.precision))
    }
}
