//! Add, multiply, divide, square root, compare and round to integer, for every format.

use core::cmp::Ordering;

use super::format::{Class, Format, Unpacked};
use super::round::{round, shift_right_jam};
use super::{DIVIDE_BY_ZERO, Env, INEXACT, INVALID, ROUNDED_UP, Rounding};

#[inline]
fn finish<F: Format>(env: &mut Env, sign: bool, exp: i32, sig: u128) -> F {
    let dest = F::dest(env);
    let (exp, sig) = round(env, dest, sign, exp, sig);
    F::pack(sign, exp, sig)
}

/// `a + b`, or `a - b` if `subtract`.
#[inline]
pub fn add<F: Format>(env: &mut Env, a: F, b: F, subtract: bool) -> F {
    let (a, mut b) = (a.unpack(env), b.unpack(env));
    if a.class == Class::Normal && b.class == Class::Normal {
        b.sign ^= subtract;
        return add_finite(env, a, b);
    }
    add_special(env, a, b, subtract)
}

fn add_special<F: Format>(env: &mut Env, a: Unpacked, mut b: Unpacked, subtract: bool) -> F {
    if a.is_nan() || b.is_nan() {
        return F::propagate(env, a, b);
    }
    b.sign ^= subtract;
    if a.is_infinite() && b.is_infinite() && a.sign != b.sign {
        return F::invalid(env);
    }
    a.note(env);
    b.note(env);
    if a.is_infinite() || b.is_infinite() {
        return F::infinity(if a.is_infinite() { a.sign } else { b.sign });
    }
    match (a.is_zero(), b.is_zero()) {
        (true, true) if a.sign == b.sign => F::zero(a.sign),
        (true, true) => F::zero(env.rounding() == Rounding::Down),
        (true, false) => finish(env, b.sign, b.exp, u128::from(b.sig) << 64),
        (false, true) => finish(env, a.sign, a.exp, u128::from(a.sig) << 64),
        (false, false) => add_finite(env, a, b),
    }
}

#[inline]
fn add_finite<F: Format>(env: &mut Env, a: Unpacked, b: Unpacked) -> F {
    let (a, b) = if (b.exp, b.sig) > (a.exp, a.sig) { (b, a) } else { (a, b) };
    let large = u128::from(a.sig) << 63;
    let small = shift_right_jam(u128::from(b.sig) << 63, (a.exp - b.exp) as u32);
    if a.sign == b.sign {
        let sum = large + small;
        let shift = sum.leading_zeros();
        return finish(env, a.sign, a.exp + 1 - shift as i32, sum << shift);
    }
    let difference = large - small;
    if difference == 0 {
        return F::zero(env.rounding() == Rounding::Down);
    }
    let shift = difference.leading_zeros();
    finish(env, a.sign, a.exp + 1 - shift as i32, difference << shift)
}

/// `a * b`.
#[inline]
pub fn mul<F: Format>(env: &mut Env, a: F, b: F) -> F {
    let (a, b) = (a.unpack(env), b.unpack(env));
    if a.class != Class::Normal || b.class != Class::Normal {
        if a.is_nan() || b.is_nan() {
            return F::propagate(env, a, b);
        }
        if a.is_infinite() && b.is_zero() || a.is_zero() && b.is_infinite() {
            return F::invalid(env);
        }
        a.note(env);
        b.note(env);
        let sign = a.sign != b.sign;
        if a.is_infinite() || b.is_infinite() {
            return F::infinity(sign);
        }
        if a.is_zero() || b.is_zero() {
            return F::zero(sign);
        }
    }
    let product = u128::from(a.sig) * u128::from(b.sig);
    let shift = product.leading_zeros();
    finish(env, a.sign != b.sign, a.exp + b.exp + 1 - shift as i32, product << shift)
}

/// `a / b`.
pub fn div<F: Format>(env: &mut Env, a: F, b: F) -> F {
    let (a, b) = (a.unpack(env), b.unpack(env));
    if a.class != Class::Normal || b.class != Class::Normal {
        if a.is_nan() || b.is_nan() {
            return F::propagate(env, a, b);
        }
        if a.is_infinite() && b.is_infinite() || a.is_zero() && b.is_zero() {
            return F::invalid(env);
        }
        let sign = a.sign != b.sign;
        if b.is_zero() && !a.is_infinite() {
            env.raise(DIVIDE_BY_ZERO);
            return F::infinity(sign);
        }
        a.note(env);
        b.note(env);
        if a.is_infinite() {
            return F::infinity(sign);
        }
        if a.is_zero() || b.is_infinite() {
            return F::zero(sign);
        }
    }
    let less = a.sig < b.sig;
    let (dividend, divisor) = (u128::from(a.sig) << (63 + u32::from(less)), u128::from(b.sig));
    let quotient = dividend / divisor;
    let rest = dividend - quotient * divisor;
    let guard = u128::from(rest * 2 >= divisor);
    let sticky = u128::from(rest != 0 && rest * 2 != divisor);
    let sig = quotient << 64 | guard << 63 | sticky;
    finish(env, a.sign != b.sign, a.exp - b.exp - i32::from(less), sig)
}

/// The square root.
pub fn sqrt<F: Format>(env: &mut Env, a: F) -> F {
    let a = a.unpack(env);
    if a.is_nan() {
        return F::propagate_one(env, a);
    }
    if a.is_zero() {
        return F::zero(a.sign);
    }
    if a.sign {
        return F::invalid(env);
    }
    if a.is_infinite() {
        return F::infinity(false);
    }
    a.note(env);
    let radicand = u128::from(a.sig) << (63 + (a.exp & 1));
    let root = radicand.isqrt();
    let rest = radicand - root * root;
    let sig = root << 64 | u128::from(rest > root) << 63 | u128::from(rest != 0);
    finish(env, false, a.exp >> 1, sig)
}

/// Compares; `None` is unordered. A quiet NaN is invalid only if `signal`.
#[inline]
pub fn compare<F: Format>(env: &mut Env, a: F, b: F, signal: bool) -> Option<Ordering> {
    let (a, b) = (a.unpack(env), b.unpack(env));
    if a.is_nan() || b.is_nan() {
        if signal || !(quiet_or_number(a.class) && quiet_or_number(b.class)) {
            env.raise(INVALID);
        }
        return None;
    }
    a.note(env);
    b.note(env);
    Some(order(a, b))
}

fn quiet_or_number(class: Class) -> bool {
    !matches!(class, Class::Signalling | Class::Unsupported)
}

/// The order of two data that are not NaNs.
#[inline]
pub fn order(a: Unpacked, b: Unpacked) -> Ordering {
    if a.is_zero() && b.is_zero() {
        return Ordering::Equal;
    }
    if a.sign != b.sign {
        return if a.sign { Ordering::Less } else { Ordering::Greater };
    }
    let magnitude = match (a.is_zero(), b.is_zero()) {
        (true, _) => Ordering::Less,
        (_, true) => Ordering::Greater,
        _ => (a.exp, a.sig).cmp(&(b.exp, b.sig)),
    };
    if a.sign { magnitude.reverse() } else { magnitude }
}

/// Rounds to an integral value in the same format. Raises invalid for signalling NaNs and
/// inexact; whether a denormal operand counts is the caller's to know (`denormal`).
pub fn round_to_int<F: Format>(env: &mut Env, value: F, denormal: bool) -> F {
    let a = value.unpack(env);
    if a.is_nan() {
        return F::propagate_one(env, a);
    }
    if a.is_infinite() {
        return value;
    }
    if a.is_zero() {
        return F::zero(a.sign);
    }
    if denormal {
        a.note(env);
    }
    if a.exp >= 63 {
        return value;
    }
    let integer = integral_part(env, a);
    if integer == 0 {
        return F::zero(a.sign);
    }
    let shift = integer.leading_zeros();
    F::pack(a.sign, 63 - shift as i32, integer << shift)
}

/// The magnitude of a finite, nonzero number below 2^63, rounded to an integer under `env`.
/// Raises inexact and rounded-up.
pub fn integral_part(env: &mut Env, a: Unpacked) -> u64 {
    debug_assert!(a.exp < 64);
    let fixed = shift_right_jam(u128::from(a.sig) << 64, (63 - a.exp) as u32);
    let (integer, fraction) = ((fixed >> 64) as u64, fixed as u64);
    if fraction == 0 {
        return integer;
    }
    env.raise(INEXACT);
    const HALF: u64 = 1 << 63;
    let up = match env.rounding() {
        Rounding::Nearest => fraction > HALF || fraction == HALF && integer & 1 != 0,
        Rounding::Down => a.sign,
        Rounding::Up => !a.sign,
        Rounding::Zero => false,
    };
    if up {
        env.raise(ROUNDED_UP);
    }
    // The integer part has a fraction below it, so it is under 2^63.
    integer + u64::from(up)
}
