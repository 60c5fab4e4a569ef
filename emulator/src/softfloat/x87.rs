//! The operations of the x87, on [`F80`].

pub use super::bcd::{from_bcd, to_bcd};
pub use super::convert::{extend, int_to_f80, store, widen};
pub use super::f80::{extract, scale};
pub use super::remainder::{Quotient, Remainder, remainder, remainder_nearest};
pub use super::transcendental::{
    arctan2, cos, exp2_minus_1, log2_times, log2_times_plus_1, sin, sin_cos, tan,
};

use super::{Env, F80, arith};

/// `a + b` (FADD).
pub fn add(env: &mut Env, a: F80, b: F80) -> F80 {
    arith::add(env, a, b, false)
}

/// `a - b` (FSUB).
pub fn sub(env: &mut Env, a: F80, b: F80) -> F80 {
    arith::add(env, a, b, true)
}

/// `a * b` (FMUL).
pub fn mul(env: &mut Env, a: F80, b: F80) -> F80 {
    arith::mul(env, a, b)
}

/// `a / b` (FDIV).
pub fn div(env: &mut Env, a: F80, b: F80) -> F80 {
    arith::div(env, a, b)
}

/// The square root (FSQRT).
pub fn sqrt(env: &mut Env, a: F80) -> F80 {
    arith::sqrt(env, a)
}

/// Rounds to an integral value (FRNDINT).
pub fn round_to_int(env: &mut Env, a: F80) -> F80 {
    arith::round_to_int(env, a, true)
}
