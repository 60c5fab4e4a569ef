//! The double-extended format, and the operations that only the x87 has: scale and extract.

use serde::{Deserialize, Serialize};

use super::arith::integral_part;
use super::convert::int_to_f80;
use super::format::{Class, Format};
use super::round::{Dest, round};
use super::{DIVIDE_BY_ZERO, Env, INEXACT, ROUNDED_UP, Rounding};

/// A double-extended number: sign and exponent, and a significand with an explicit integer bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct F80 {
    /// The sign in bit 15 and the exponent, biased by 16383, below it.
    pub sign_exp: u16,
    /// The significand; bit 63 is the integer bit.
    pub frac: u64,
}

impl F80 {
    /// Plus zero.
    pub const ZERO: Self = Self { sign_exp: 0, frac: 0 };
    /// One.
    pub const ONE: Self = Self { sign_exp: 0x3fff, frac: 1 << 63 };

    /// From ten bytes as in memory.
    pub fn from_bytes(bytes: [u8; 10]) -> Self {
        let [a, b, c, d, e, f, g, h, low, high] = bytes;
        Self {
            sign_exp: u16::from_le_bytes([low, high]),
            frac: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        }
    }

    /// To ten bytes as in memory.
    pub fn to_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.frac.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sign_exp.to_le_bytes());
        bytes
    }

    /// The sign bit.
    #[inline]
    pub const fn sign(self) -> bool {
        self.sign_exp >> 15 != 0
    }

    /// The absolute value, NaNs included (FABS).
    #[inline]
    pub const fn abs(self) -> Self {
        Self { sign_exp: self.sign_exp & 0x7fff, ..self }
    }

    /// The other sign, NaNs included (FCHS).
    #[inline]
    pub const fn negate(self) -> Self {
        Self { sign_exp: self.sign_exp ^ 0x8000, ..self }
    }

    /// A pseudo-denormal as the normal number that it equals; anything else unchanged.
    pub(super) const fn canonical(self) -> Self {
        let pseudo = self.sign_exp & 0x7fff == 0 && self.frac >> 63 != 0;
        Self { sign_exp: self.sign_exp | pseudo as u16, ..self }
    }

    /// What kind of datum this is.
    pub fn class(self) -> Class {
        self.unpack(&Env::from_fcw(0x37f)).class
    }
}

/// `a * 2^n` where `n` is `b` truncated to an integer (FSCALE). The precision control does not
/// apply.
pub fn scale(env: &mut Env, a: F80, b: F80) -> F80 {
    let (value, shift) = (a.unpack(env), b.unpack(env));
    if value.is_nan() || shift.is_nan() {
        return F80::propagate(env, value, shift);
    }
    if shift.is_infinite() {
        if if shift.sign { value.is_infinite() } else { value.is_zero() } {
            return F80::invalid(env);
        }
        value.note(env);
        return if shift.sign { F80::zero(value.sign) } else { F80::infinity(value.sign) };
    }
    value.note(env);
    shift.note(env);
    if value.is_infinite() || value.is_zero() || shift.is_zero() {
        return a.canonical();
    }
    // Beyond this every finite number overflows or vanishes.
    const LIMIT: i32 = 0x1_0000;
    let magnitude = if shift.exp >= 17 {
        LIMIT
    } else {
        let mut truncate = *env;
        truncate.set_rounding(Rounding::Zero);
        (integral_part(&mut truncate, shift) as i32).min(LIMIT)
    };
    let exp = value.exp + if shift.sign { -magnitude } else { magnitude };
    round_far(env, value.sign, exp, u128::from(value.sig) << 64)
}

/// Rounds to 64 bits where even the adjusted exponent of an unmasked exception may be out of
/// range: the result is then infinity or zero (SDM 1 8.5.4, 8.5.5).
pub(super) fn round_far(env: &mut Env, sign: bool, exp: i32, sig: u128) -> F80 {
    let dest = Dest { precision: 64, ..F80::dest(env) };
    let (exp, sig) = round(env, dest, sign, exp, sig);
    if sig >> 63 != 0 && exp > dest.emax + 1 {
        env.raise(INEXACT | ROUNDED_UP);
        F80::infinity(sign)
    } else if sig >> 63 != 0 && exp < dest.emin {
        env.raise(INEXACT);
        env.flags &= !ROUNDED_UP;
        F80::zero(sign)
    } else {
        F80::pack(sign, exp, sig)
    }
}

/// The exponent, as a number, and the significand with exponent zero (FXTRACT).
pub fn extract(env: &mut Env, a: F80) -> (F80, F80) {
    let value = a.unpack(env);
    if value.is_nan() {
        let nan = F80::propagate_one(env, value);
        return (nan, nan);
    }
    if value.is_infinite() {
        return (F80::infinity(false), a);
    }
    if value.is_zero() {
        env.raise(DIVIDE_BY_ZERO);
        return (F80::infinity(true), a);
    }
    value.note(env);
    (int_to_f80(i64::from(value.exp)), F80::pack(value.sign, 0, value.sig))
}
