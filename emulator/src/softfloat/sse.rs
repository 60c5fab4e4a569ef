//! What only SSE has: fast paths over host arithmetic, minimum, maximum, predicates.

use core::cmp::Ordering;

pub use super::estimate::{reciprocal, reciprocal_sqrt};

use super::arith;
use super::format::{Class, Format};
use super::{DENORMAL, Env, INEXACT, INVALID, Rounding};

/// A binary32 or binary64 with the host's arithmetic behind it.
pub trait Binary: Format + Eq {
    /// The host's sum.
    fn host_add(self, other: Self) -> Self;
    /// The host's difference.
    fn host_sub(self, other: Self) -> Self;
    /// The host's product.
    fn host_mul(self, other: Self) -> Self;
    /// The host's quotient.
    fn host_div(self, other: Self) -> Self;
    /// Neither zero nor denormal (infinity and NaN pass).
    fn has_exponent(self) -> bool;
    /// A normal number at least a factor of two away from both ends of the range.
    fn is_well_inside(self) -> bool;
    /// Whether the rounded sum `sum` of `a` and `b`, all well inside the range, is exact.
    fn sum_is_exact(a: Self, b: Self, sum: Self) -> bool;
    /// The other sign.
    fn negate(self) -> Self;
    /// The significand with its integer bit, of a normal number.
    fn significand(self) -> u64;
}

macro_rules! binary {
    ($bits:ty, $float:ty, $fraction:literal, $top:literal) => {
        impl Binary for $bits {
            #[inline]
            fn host_add(self, other: Self) -> Self {
                (<$float>::from_bits(self) + <$float>::from_bits(other)).to_bits()
            }

            #[inline]
            fn host_sub(self, other: Self) -> Self {
                (<$float>::from_bits(self) - <$float>::from_bits(other)).to_bits()
            }

            #[inline]
            fn host_mul(self, other: Self) -> Self {
                (<$float>::from_bits(self) * <$float>::from_bits(other)).to_bits()
            }

            #[inline]
            fn host_div(self, other: Self) -> Self {
                (<$float>::from_bits(self) / <$float>::from_bits(other)).to_bits()
            }

            #[inline]
            fn has_exponent(self) -> bool {
                self & ($top << $fraction) != 0
            }

            #[inline]
            fn is_well_inside(self) -> bool {
                // Exponents 2 to top - 2.
                (self >> $fraction & $top).wrapping_sub(2) < $top - 3
            }

            #[inline]
            fn sum_is_exact(a: Self, b: Self, sum: Self) -> bool {
                // Knuth's TwoSum: the error term is exact and zero only for an exact sum.
                let (a, b, s) =
                    (<$float>::from_bits(a), <$float>::from_bits(b), <$float>::from_bits(sum));
                let b_part = s - a;
                let a_part = s - b_part;
                (a - a_part) + (b - b_part) == 0.0
            }

            #[inline]
            fn negate(self) -> Self {
                self ^ 1 << (<$bits>::BITS - 1)
            }

            #[inline]
            fn significand(self) -> u64 {
                (self & ((1 << $fraction) - 1) | 1 << $fraction) as u64
            }
        }
    };
}

binary!(u32, f32, 23, 0xff);
binary!(u64, f64, 52, 0x7ff);

#[cold]
#[inline(never)]
fn add_slow<F: Binary>(env: &mut Env, a: F, b: F, subtract: bool) -> F {
    arith::add(env, a, b, subtract)
}

#[cold]
#[inline(never)]
fn mul_slow<F: Binary>(env: &mut Env, a: F, b: F) -> F {
    arith::mul(env, a, b)
}

#[cold]
#[inline(never)]
fn div_slow<F: Binary>(env: &mut Env, a: F, b: F) -> F {
    arith::div(env, a, b)
}

/// `a + b` (ADDPS and kin).
#[inline]
pub fn add<F: Binary>(env: &mut Env, a: F, b: F) -> F {
    let sum = a.host_add(b);
    let plain = env.nearest() & a.has_exponent() & b.has_exponent() & sum.is_well_inside();
    if !plain {
        return add_slow(env, a, b, false);
    }
    if !env.inexact_is_moot() && !F::sum_is_exact(a, b, sum) {
        env.raise(INEXACT);
    }
    sum
}

/// `a - b` (SUBPS and kin).
#[inline]
pub fn sub<F: Binary>(env: &mut Env, a: F, b: F) -> F {
    let sum = a.host_sub(b);
    let plain = env.nearest() & a.has_exponent() & b.has_exponent() & sum.is_well_inside();
    if !plain {
        return add_slow(env, a, b, true);
    }
    if !env.inexact_is_moot() && !F::sum_is_exact(a, b.negate(), sum) {
        env.raise(INEXACT);
    }
    sum
}

/// `a * b` (MULPS and kin).
#[inline]
pub fn mul<F: Binary>(env: &mut Env, a: F, b: F) -> F {
    let product = a.host_mul(b);
    let plain = env.nearest() & a.has_exponent() & b.has_exponent() & product.is_well_inside();
    if !plain {
        return mul_slow(env, a, b);
    }
    if !env.inexact_is_moot() && !product_is(a, b, product) {
        env.raise(INEXACT);
    }
    product
}

/// `a / b` (DIVPS and kin).
#[inline]
pub fn div<F: Binary>(env: &mut Env, a: F, b: F) -> F {
    let quotient = a.host_div(b);
    let plain = env.nearest()
        & a.has_exponent()
        & b.has_exponent()
        & a.is_well_inside()
        & quotient.is_well_inside();
    if !plain {
        return div_slow(env, a, b);
    }
    if !env.inexact_is_moot() && !product_is(quotient, b, a) {
        env.raise(INEXACT);
    }
    quotient
}

/// Whether `a * b` is exactly `product`, which it is to within rounding: the exact product has
/// the same odd part.
#[inline]
fn product_is<F: Binary>(a: F, b: F, product: F) -> bool {
    let exact = u128::from(a.significand()) * u128::from(b.significand());
    let rounded = u128::from(product.significand());
    exact >> exact.trailing_zeros() == rounded >> rounded.trailing_zeros()
}

/// The square root (SQRTPS and kin).
#[inline]
pub fn sqrt<F: Binary>(env: &mut Env, a: F) -> F {
    arith::sqrt(env, a)
}

/// The smaller operand; the second one for NaNs and for two zeros (MINPS).
#[inline]
pub fn min<F: Binary>(env: &mut Env, a: F, b: F) -> F {
    pick(env, a, b, Ordering::Less)
}

/// The larger operand; the second one for NaNs and for two zeros (MAXPS).
#[inline]
pub fn max<F: Binary>(env: &mut Env, a: F, b: F) -> F {
    pick(env, a, b, Ordering::Greater)
}

#[inline]
fn pick<F: Binary>(env: &mut Env, a: F, b: F, wanted: Ordering) -> F {
    let (x, y) = (a.unpack(env), b.unpack(env));
    let ordered = !x.is_nan() && !y.is_nan();
    if ordered {
        x.note(env);
        y.note(env);
    } else {
        env.raise(INVALID);
    }
    let (value, unpacked) = if ordered && arith::order(x, y) == wanted { (a, x) } else { (b, y) };
    // A denormal that counts as zero leaves as zero.
    if unpacked.class == Class::Zero { F::zero(unpacked.sign) } else { value }
}

/// One of the eight predicates of CMPPS and kin (SDM 2 table 3-1).
#[inline]
pub fn compare_predicate<F: Binary>(env: &mut Env, a: F, b: F, predicate: u8) -> bool {
    let signal = matches!(predicate & 3, 1 | 2);
    let order = arith::compare(env, a, b, signal);
    let holds = match predicate & 3 {
        0 => order == Some(Ordering::Equal),
        1 => order == Some(Ordering::Less),
        2 => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        _ => order.is_none(),
    };
    holds != (predicate & 4 != 0)
}

/// Rounds to an integral value as the immediate of ROUNDPS says (SDM 2 ROUNDPS): bit 2 takes the
/// rounding control of MXCSR instead of bits 1:0, bit 3 suppresses the inexact exception.
pub fn round_imm<F: Binary>(env: &mut Env, a: F, imm: u8) -> F {
    let mut local = *env;
    if imm & 4 == 0 {
        local.set_rounding(Rounding::from_bits(u32::from(imm)));
    }
    let value = arith::round_to_int(&mut local, a, false);
    let hidden = if imm & 8 != 0 { INEXACT | DENORMAL } else { DENORMAL };
    env.raise(local.flags & !env.flags & !hidden);
    value
}
