//! The formats: how a bit pattern is taken apart, put together, and made a NaN.

use super::round::Dest;
use super::{DENORMAL, Env, F80, INVALID};

/// What kind of datum a bit pattern holds (SDM 1 4.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Plus or minus zero.
    Zero,
    /// A finite number with its integer bit set.
    Normal,
    /// A finite number below the normal range, or an x87 pseudo-denormal.
    Denormal,
    /// Plus or minus infinity.
    Infinity,
    /// A quiet NaN.
    Quiet,
    /// A signalling NaN.
    Signalling,
    /// An x87 encoding that no operation accepts (SDM 1 8.2.2).
    Unsupported,
}

impl Class {
    /// Whether the datum is no number: a NaN, or unsupported.
    #[inline]
    pub const fn is_nan(self) -> bool {
        matches!(self, Self::Quiet | Self::Signalling | Self::Unsupported)
    }
}

/// A datum taken apart. A finite number is `sig * 2^(exp - 63)` with bit 63 of `sig` set; a NaN
/// has its payload below bit 63.
#[derive(Clone, Copy, Debug)]
pub struct Unpacked {
    pub sign: bool,
    pub class: Class,
    pub exp: i32,
    pub sig: u64,
}

impl Unpacked {
    #[inline]
    pub const fn is_nan(&self) -> bool {
        self.class.is_nan()
    }

    #[inline]
    pub fn is_zero(&self) -> bool {
        self.class == Class::Zero
    }

    #[inline]
    pub fn is_infinite(&self) -> bool {
        self.class == Class::Infinity
    }

    /// Raises the denormal-operand exception if this is one.
    #[inline]
    pub fn note(&self, env: &mut Env) {
        if self.class == Class::Denormal {
            env.raise(DENORMAL);
        }
    }
}

/// A floating point format with the NaN rules of the unit that works on it.
pub trait Format: Copy {
    /// The real indefinite QNaN (SDM 1 4.8.3.7).
    const INDEFINITE: Self;

    /// Takes the datum apart; SSE formats read denormals as zero if `env` says so.
    fn unpack(self, env: &Env) -> Unpacked;

    /// Where results of this format are rounded to.
    fn dest(env: &Env) -> Dest;

    /// Puts a rounded result together (see `round`).
    fn pack(sign: bool, exp: i32, sig: u64) -> Self;

    /// The quiet NaN with the sign and the payload (top-aligned below bit 63) of `nan`.
    fn pack_nan(nan: Unpacked) -> Self;

    /// The result of an operation with at least one NaN among its two operands
    /// (SDM 1 table 4-7). Raises invalid for signalling NaNs and unsupported encodings.
    fn propagate(env: &mut Env, a: Unpacked, b: Unpacked) -> Self;

    /// The result of a one-operand operation on a NaN.
    fn propagate_one(env: &mut Env, a: Unpacked) -> Self {
        if a.class != Class::Quiet {
            env.raise(INVALID);
        }
        if a.class == Class::Unsupported { Self::INDEFINITE } else { Self::pack_nan(a) }
    }

    /// An infinity.
    fn infinity(sign: bool) -> Self;

    /// A zero.
    #[inline]
    fn zero(sign: bool) -> Self {
        Self::pack(sign, i32::MIN, 0)
    }

    /// Raises invalid and gives the masked response.
    #[inline]
    fn invalid(env: &mut Env) -> Self {
        env.raise(INVALID);
        Self::INDEFINITE
    }
}

macro_rules! sse_format {
    ($bits:ty, $precision:literal, $emax:literal, $indefinite:literal) => {
        impl Format for $bits {
            const INDEFINITE: Self = $indefinite;

            #[inline]
            fn unpack(self, env: &Env) -> Unpacked {
                const FRACTION: u32 = $precision - 1;
                const TOP: $bits = <$bits>::MAX >> (FRACTION + 1);
                let sign = self >> (<$bits>::BITS - 1) != 0;
                let biased = self >> FRACTION & TOP;
                let frac = self & ((1 << FRACTION) - 1);
                let sig = (frac as u64) << (63 - FRACTION);
                let exp = biased as i32 - $emax;
                if biased == 0 {
                    if frac == 0 || env.denormals_are_zero() {
                        return Unpacked { sign, class: Class::Zero, exp: 0, sig: 0 };
                    }
                    let shift = sig.leading_zeros();
                    let exp = 1 - $emax - shift as i32;
                    return Unpacked { sign, class: Class::Denormal, exp, sig: sig << shift };
                }
                let class = if biased != TOP {
                    Class::Normal
                } else if frac == 0 {
                    Class::Infinity
                } else if frac >> (FRACTION - 1) != 0 {
                    Class::Quiet
                } else {
                    Class::Signalling
                };
                Unpacked { sign, class, exp, sig: sig | 1 << 63 }
            }

            #[inline]
            fn dest(_: &Env) -> Dest {
                Dest { precision: $precision, emin: 1 - $emax, emax: $emax, wrap: 0 }
            }

            #[inline]
            fn pack(sign: bool, exp: i32, sig: u64) -> Self {
                const FRACTION: u32 = $precision - 1;
                let top = <$bits>::from(sign) << (<$bits>::BITS - 1);
                let frac = (sig >> (63 - FRACTION)) as $bits & ((1 << FRACTION) - 1);
                let biased = if sig >> 63 == 0 { 0 } else { (exp + $emax) as $bits };
                top | biased << FRACTION | frac
            }

            fn pack_nan(nan: Unpacked) -> Self {
                Self::pack(nan.sign, $emax + 1, nan.sig | 3 << 62)
            }

            #[inline]
            fn infinity(sign: bool) -> Self {
                Self::pack(sign, $emax + 1, 1 << 63)
            }

            fn propagate(env: &mut Env, a: Unpacked, b: Unpacked) -> Self {
                if a.class == Class::Signalling || b.class == Class::Signalling {
                    env.raise(INVALID);
                }
                Self::pack_nan(if a.is_nan() { a } else { b })
            }
        }
    };
}

sse_format!(u32, 24, 127, 0xffc0_0000);
sse_format!(u64, 53, 1023, 0xfff8_0000_0000_0000);

impl Format for F80 {
    const INDEFINITE: Self = Self { sign_exp: 0xffff, frac: 3 << 62 };

    #[inline]
    fn unpack(self, _: &Env) -> Unpacked {
        let sign = self.sign_exp >> 15 != 0;
        let biased = i32::from(self.sign_exp & 0x7fff);
        let sig = self.frac;
        if biased == 0 {
            if sig == 0 {
                return Unpacked { sign, class: Class::Zero, exp: 0, sig };
            }
            let shift = sig.leading_zeros();
            let exp = -16382 - shift as i32;
            return Unpacked { sign, class: Class::Denormal, exp, sig: sig << shift };
        }
        let class = if sig >> 63 == 0 {
            Class::Unsupported
        } else if biased != 0x7fff {
            Class::Normal
        } else if sig == 1 << 63 {
            Class::Infinity
        } else if sig >> 62 == 3 {
            Class::Quiet
        } else {
            Class::Signalling
        };
        Unpacked { sign, class, exp: biased - 16383, sig }
    }

    #[inline]
    fn dest(env: &Env) -> Dest {
        Dest { precision: env.x87_precision(), emin: -16382, emax: 16383, wrap: 24576 }
    }

    #[inline]
    fn pack(sign: bool, exp: i32, sig: u64) -> Self {
        let biased = if sig >> 63 == 0 { 0 } else { (exp + 16383) as u16 };
        Self { sign_exp: u16::from(sign) << 15 | biased, frac: sig }
    }

    fn pack_nan(nan: Unpacked) -> Self {
        Self::pack(nan.sign, 16384, nan.sig | 3 << 62)
    }

    #[inline]
    fn infinity(sign: bool) -> Self {
        Self::pack(sign, 16384, 1 << 63)
    }

    /// The x87 prefers a quiet NaN to a signalling one, then the larger significand, then the
    /// positive one.
    fn propagate(env: &mut Env, a: Unpacked, b: Unpacked) -> Self {
        if a.class == Class::Unsupported || b.class == Class::Unsupported {
            return Self::invalid(env);
        }
        let (a_signals, b_signals) = (a.class == Class::Signalling, b.class == Class::Signalling);
        if a_signals || b_signals {
            env.raise(INVALID);
        }
        let first = match (a.is_nan(), b.is_nan()) {
            (true, false) => true,
            (false, _) => false,
            _ if a_signals != b_signals => b_signals,
            _ if a.sig != b.sig => a.sig > b.sig,
            _ => !a.sign,
        };
        Self::pack_nan(if first { a } else { b })
    }
}
