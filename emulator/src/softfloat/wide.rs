//! Numbers with 128 significant bits, in which the transcendental functions are computed.
//!
//! Each operation errs by at most a few units in the last of the 128 places, downward; that
//! leaves some fifty bits of room below the 64 that a result is rounded to.

use super::f80::round_far;
use super::format::Unpacked;
use super::round::shift_right_jam;
use super::{Env, F80, Format, INEXACT, UNDERFLOW};

/// `sig * 2^(exp - 127)` with bit 127 of `sig` set, or zero.
#[derive(Clone, Copy, Debug)]
pub struct Wide {
    pub negative: bool,
    pub exp: i32,
    pub sig: u128,
}

impl Wide {
    pub const ZERO: Self = Self { negative: false, exp: 0, sig: 0 };
    pub const ONE: Self = Self::constant(0, 1 << 127);

    pub const fn constant(exp: i32, sig: u128) -> Self {
        Self { negative: false, exp, sig }
    }

    pub const fn from_unpacked(value: Unpacked) -> Self {
        Self { negative: value.sign, exp: value.exp, sig: (value.sig as u128) << 64 }
    }

    /// `value * 2^exp`.
    pub const fn from_int(negative: bool, value: u128, exp: i32) -> Self {
        if value == 0 {
            return Self::ZERO;
        }
        let shift = value.leading_zeros();
        Self { negative, exp: exp + 127 - shift as i32, sig: value << shift }
    }

    pub const fn negate(self) -> Self {
        Self { negative: !self.negative, ..self }
    }

    pub const fn abs(self) -> Self {
        Self { negative: false, ..self }
    }

    pub const fn is_zero(self) -> bool {
        self.sig == 0
    }

    /// Times `2^shift`.
    pub const fn scaled(self, shift: i32) -> Self {
        Self { exp: self.exp + shift, ..self }
    }

    pub fn add(self, other: Self) -> Self {
        if other.is_zero() {
            return self;
        }
        if self.is_zero() {
            return other;
        }
        let (large, small) = if (other.exp, other.sig) > (self.exp, self.sig) {
            (other, self)
        } else {
            (self, other)
        };
        let distance = (large.exp - small.exp) as u32;
        let (sum, exp) = if large.negative == small.negative {
            let sum = (large.sig >> 1) + shift_right_jam(small.sig, distance.saturating_add(1));
            (sum, large.exp + 1)
        } else if distance == 0 {
            (large.sig - small.sig, large.exp)
        } else {
            // One more bit than fits is needed only when nothing cancels beyond it.
            let low = shift_right_jam(small.sig, distance);
            (large.sig - low, large.exp)
        };
        if sum == 0 {
            return Self::ZERO;
        }
        let shift = sum.leading_zeros();
        Self { negative: large.negative, exp: exp - shift as i32, sig: sum << shift }
    }

    pub fn sub(self, other: Self) -> Self {
        self.add(other.negate())
    }

    pub fn mul(self, other: Self) -> Self {
        if self.is_zero() || other.is_zero() {
            return Self::ZERO;
        }
        let high = multiply_high(self.sig, other.sig);
        let shift = high.leading_zeros();
        Self {
            negative: self.negative != other.negative,
            exp: self.exp + other.exp + 1 - shift as i32,
            sig: high << shift,
        }
    }

    /// By a number that is not zero.
    pub fn div(self, other: Self) -> Self {
        if self.is_zero() {
            return self;
        }
        let less = self.sig < other.sig;
        let mut rest = if less { self.sig } else { self.sig - other.sig };
        let mut quotient = u128::from(!less);
        for _ in 0..127 + u32::from(less) {
            let carry = rest >> 127 != 0;
            rest <<= 1;
            let fits = carry || rest >= other.sig;
            if fits {
                rest = rest.wrapping_sub(other.sig);
            }
            quotient = quotient << 1 | u128::from(fits);
        }
        Self {
            negative: self.negative != other.negative,
            exp: self.exp - other.exp - i32::from(less),
            sig: quotient,
        }
    }

    /// By a small number that is not zero.
    pub fn div_small(self, divisor: u32) -> Self {
        if self.is_zero() {
            return self;
        }
        let quotient = self.sig / u128::from(divisor);
        let shift = quotient.leading_zeros();
        Self { exp: self.exp - shift as i32, sig: quotient << shift, ..self }
    }

    /// Rounds to the 64 bits of a register, through 68 bits: a result that is closer to a
    /// representable number than processors compute counts as that number in every rounding
    /// mode. An `inexact` result is never reported as exact.
    pub fn round(self, env: &mut Env, inexact: bool) -> F80 {
        if self.is_zero() {
            return F80::zero(self.negative);
        }
        const LOW: u128 = (1 << 60) - 1;
        let (mut exp, mut sig) = (self.exp, self.sig);
        if inexact {
            env.raise(INEXACT);
            let (sum, carry) = sig.overflowing_add(LOW / 2 + 1);
            sig = if carry { 1 << 127 } else { sum & !LOW };
            exp += i32::from(carry);
        }
        let value = round_far(env, self.negative, exp, sig);
        if inexact && value.sign_exp & 0x7fff == 0 {
            env.raise(UNDERFLOW);
        }
        value
    }
}

/// The upper half of a 256-bit product, short by at most two units.
fn multiply_high(a: u128, b: u128) -> u128 {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let (middle, other) = (a1 * b0, a0 * b1);
    let carry = ((middle & LOW) + (other & LOW) + ((a0 * b0) >> 64)) >> 64;
    a1 * b1 + (middle >> 64) + (other >> 64) + carry
}
