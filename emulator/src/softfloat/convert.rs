//! Conversions among the formats and between them and integers.

use super::arith::integral_part;
use super::format::{Class, Format, Unpacked};
use super::round::round;
use super::{DENORMAL, Env, F80, INVALID, ROUNDED_UP, Rounding};

/// Converts to another format, rounding to it (CVTSD2SS, CVTSS2SD).
pub fn convert<A: Format, B: Format>(env: &mut Env, a: A) -> B {
    let a = a.unpack(env);
    if a.class == Class::Denormal {
        env.raise(DENORMAL);
    }
    rounded(env, a)
}

/// Rounds to the format of a memory operand (FST); a denormal source is not remarked upon.
pub fn store<B: Format>(env: &mut Env, a: F80) -> B {
    let a = a.unpack(env);
    rounded(env, a)
}

fn rounded<B: Format>(env: &mut Env, a: Unpacked) -> B {
    if a.is_nan() {
        return B::propagate_one(env, a);
    }
    if a.is_infinite() {
        return B::infinity(a.sign);
    }
    if a.is_zero() {
        return B::zero(a.sign);
    }
    let dest = B::dest(env);
    let (exp, sig) = round(env, dest, a.sign, a.exp, u128::from(a.sig) << 64);
    B::pack(a.sign, exp, sig)
}

/// Loads a binary32 or binary64 as a double-extended number: exact, whatever the precision
/// control says (FLD from memory).
pub fn extend<A: Format>(env: &mut Env, a: A) -> F80 {
    let a = a.unpack(env);
    if a.is_nan() {
        return F80::propagate_one(env, a);
    }
    a.note(env);
    match a.class {
        Class::Infinity => F80::infinity(a.sign),
        Class::Zero => F80::zero(a.sign),
        _ => F80::pack(a.sign, a.exp, a.sig),
    }
}

/// A binary32 or binary64 operand as a double-extended number, and whether it is denormal. Nothing
/// is raised: a signalling NaN stays one, for the operation to find.
pub fn widen<A: Format>(a: A) -> (F80, bool) {
    let a = a.unpack(&Env::from_fcw(0x37f));
    let value = match a.class {
        Class::Zero => F80::zero(a.sign),
        Class::Infinity => F80::infinity(a.sign),
        Class::Normal | Class::Denormal => F80::pack(a.sign, a.exp, a.sig),
        _ => F80::pack(a.sign, 16384, a.sig),
    };
    (value, a.class == Class::Denormal)
}

/// An integer taken apart: exponent and significand of its magnitude.
fn unpack_int(value: i64) -> (bool, i32, u64) {
    let magnitude = value.unsigned_abs();
    let shift = magnitude.leading_zeros() & 63;
    (value < 0, 63 - shift as i32, magnitude << shift)
}

/// Converts a 64-bit integer, rounding if it does not fit.
#[inline]
pub fn from_i64<F: Format>(env: &mut Env, value: i64) -> F {
    if value == 0 {
        return F::zero(false);
    }
    let (sign, exp, sig) = unpack_int(value);
    let dest = F::dest(env);
    let (exp, sig) = round(env, dest, sign, exp, u128::from(sig) << 64);
    F::pack(sign, exp, sig)
}

/// Converts a 32-bit integer, rounding if it does not fit.
#[inline]
pub fn from_i32<F: Format>(env: &mut Env, value: i32) -> F {
    from_i64(env, i64::from(value))
}

/// Loads an integer as a double-extended number, which is exact (FILD).
#[inline]
pub fn int_to_f80(value: i64) -> F80 {
    if value == 0 {
        return F80::zero(false);
    }
    let (sign, exp, sig) = unpack_int(value);
    F80::pack(sign, exp, sig)
}

/// The integer nearest to `a` under `env` if it is in `min..=max`; else raises invalid alone.
#[inline]
pub fn to_int(env: &mut Env, a: Unpacked, min: i64, max: i64) -> Option<i64> {
    let before = env.flags;
    if a.is_zero() {
        return Some(0);
    }
    if !a.is_nan() && !a.is_infinite() && a.exp < 64 {
        let magnitude = integral_part(env, a);
        let value = if a.sign { -i128::from(magnitude) } else { i128::from(magnitude) };
        if value >= i128::from(min) && value <= i128::from(max) {
            return Some(value as i64);
        }
    }
    env.flags = before & !ROUNDED_UP | INVALID;
    None
}

macro_rules! to_int {
    ($name:ident, $truncate:ident, $int:ty) => {
        /// Converts to an integer under the rounding control; what does not fit raises invalid
        /// and gives the integer indefinite (SDM 1 4.8.3.7 and table 4-1).
        #[inline]
        pub fn $name<F: Format>(env: &mut Env, a: F) -> $int {
            let a = a.unpack(env);
            to_int(env, a, i64::from(<$int>::MIN), i64::from(<$int>::MAX))
                .map_or(<$int>::MIN, |value| value as $int)
        }

        /// The same, truncating.
        #[inline]
        pub fn $truncate<F: Format>(env: &mut Env, a: F) -> $int {
            let rounding = env.rounding();
            env.set_rounding(Rounding::Zero);
            let value = $name(env, a);
            env.set_rounding(rounding);
            value
        }
    };
}

to_int!(to_i16, to_i16_truncate, i16);
to_int!(to_i32, to_i32_truncate, i32);
to_int!(to_i64, to_i64_truncate, i64);
