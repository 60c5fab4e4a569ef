//! Software floating point: every IEEE 754 operation of SSE and the x87, the same on every host.
//!
//! Numbers are bit patterns: `u32` is binary32, `u64` is binary64 and [`F80`] is the x87's
//! double-extended format. Each operation takes an [`Env`], which holds the control bits of
//! MXCSR or of the x87 control word, and collects the exceptions that the operation raised.
//! The algorithms are those published with Berkeley SoftFloat 3e (unpack, compute with guard
//! bits and a sticky bit, round once); the special cases are the SDM's (volume 1, 4.8 and 4.9).
//!
//! Contract:
//! - The result is the *masked* response. The caller looks at [`Env::unmasked`] and decides
//!   whether it may be stored. Only [`F80`] results have a different, bias-adjusted form when
//!   overflow or underflow is unmasked, and they have it here (SDM 1 8.5.4, 8.5.5).
//! - Nothing here depends on the host. Host arithmetic is used for `f32` and `f64` add,
//!   subtract, multiply and divide of normal numbers under round-to-nearest only, which
//!   IEEE 754 specifies exactly; it never sees or makes a NaN.

mod arith;
mod bcd;
mod convert;
mod estimate;
mod f80;
mod format;
mod remainder;
mod round;
pub mod sse;
mod transcendental;
mod wide;
pub mod x87;

pub use arith::compare;
pub use convert::{
    convert, from_i32, from_i64, to_i16, to_i16_truncate, to_i32, to_i32_truncate, to_i64,
    to_i64_truncate,
};
pub use f80::F80;
pub use format::{Class, Format};

/// Invalid operation (IE).
pub const INVALID: u32 = 1 << 0;
/// Denormal operand (DE).
pub const DENORMAL: u32 = 1 << 1;
/// Division by zero (ZE).
pub const DIVIDE_BY_ZERO: u32 = 1 << 2;
/// Overflow (OE).
pub const OVERFLOW: u32 = 1 << 3;
/// Underflow (UE).
pub const UNDERFLOW: u32 = 1 << 4;
/// Inexact result (PE).
pub const INEXACT: u32 = 1 << 5;
/// All six exceptions.
pub const EXCEPTIONS: u32 = 0x3f;
/// The exceptions that are found before the result is computed.
pub const PRE_COMPUTATION: u32 = INVALID | DENORMAL | DIVIDE_BY_ZERO;
/// The result was rounded away from zero: the x87 condition code C1, in its status word place.
pub const ROUNDED_UP: u32 = 1 << 9;

/// The rounding direction, numbered as the RC fields of MXCSR and the x87 control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    Nearest = 0,
    /// Toward minus infinity.
    Down = 1,
    /// Toward plus infinity.
    Up = 2,
    /// Toward zero.
    Zero = 3,
}

impl Rounding {
    /// The direction that the two bits of an RC field name.
    #[inline]
    pub const fn from_bits(rc: u32) -> Self {
        match rc & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

/// The floating point environment of one instruction.
///
/// `control` has the layout of MXCSR, with the x87 precision control in bits 16 and 17.
#[derive(Clone, Copy, Debug)]
pub struct Env {
    control: u32,
    /// The exceptions raised so far, in MXCSR and status word order, and [`ROUNDED_UP`].
    pub flags: u32,
    /// Those of steps that are over, whatever comes after.
    settled: u32,
}

const DAZ: u32 = 1 << 6;
const MASK_SHIFT: u32 = 7;
const RC_SHIFT: u32 = 13;
const FTZ: u32 = 1 << 15;
const PC_SHIFT: u32 = 16;

impl Env {
    /// The environment of an SSE instruction (SDM 1 10.2.3).
    #[inline]
    pub const fn from_mxcsr(mxcsr: u32) -> Self {
        Self { control: mxcsr & 0xffff, flags: 0, settled: 0 }
    }

    /// The environment of an x87 instruction (SDM 1 8.1.5).
    #[inline]
    pub const fn from_fcw(fcw: u16) -> Self {
        let fcw = fcw as u32;
        let control = (fcw & EXCEPTIONS) << MASK_SHIFT
            | (fcw >> 10 & 3) << RC_SHIFT
            | (fcw >> 8 & 3) << PC_SHIFT;
        Self { control, flags: 0, settled: 0 }
    }

    /// The rounding direction.
    #[inline]
    pub const fn rounding(&self) -> Rounding {
        Rounding::from_bits(self.control >> RC_SHIFT)
    }

    /// Rounds in another direction from here on.
    #[inline]
    pub const fn set_rounding(&mut self, rounding: Rounding) {
        self.control = self.control & !(3 << RC_SHIFT) | (rounding as u32) << RC_SHIFT;
    }

    /// The exceptions that were raised and are not masked.
    #[inline]
    pub const fn unmasked(&self) -> u32 {
        self.flags & EXCEPTIONS & !(self.control >> MASK_SHIFT)
    }

    /// The exceptions to record, and [`ROUNDED_UP`]: when one that comes before the computation
    /// is unmasked, the later ones never happened (SDM 1 4.9.2).
    #[inline]
    pub const fn reported(&self) -> u32 {
        if self.unmasked() & PRE_COMPUTATION != 0 {
            self.flags & PRE_COMPUTATION | self.settled
        } else {
            self.flags
        }
    }

    /// Ends a step of an instruction that has several: what was raised stays. False: an unmasked
    /// exception ends the instruction here.
    #[inline]
    pub const fn settle(&mut self) -> bool {
        if self.unmasked() != 0 {
            return false;
        }
        self.settled = self.flags;
        true
    }

    /// Raises exceptions.
    #[inline]
    pub const fn raise(&mut self, flags: u32) {
        self.flags |= flags;
    }

    /// Whether `exception` is masked.
    #[inline]
    pub const fn masked(&self, exception: u32) -> bool {
        self.control >> MASK_SHIFT & exception != 0
    }

    #[inline]
    const fn denormals_are_zero(&self) -> bool {
        self.control & DAZ != 0
    }

    /// Flush-to-zero is in force: it needs underflow to be masked.
    #[inline]
    const fn flush_to_zero(&self) -> bool {
        self.control & FTZ != 0 && self.masked(UNDERFLOW)
    }

    #[inline]
    const fn nearest(&self) -> bool {
        self.control & (3 << RC_SHIFT) == 0
    }

    /// The inexact flag is already set in MXCSR and masked: nobody can see it raised again.
    #[inline]
    const fn inexact_is_moot(&self) -> bool {
        const BITS: u32 = INEXACT | INEXACT << MASK_SHIFT;
        self.control & BITS == BITS
    }

    /// The significand bits that the x87 precision control asks for (SDM 1 8.1.5.2).
    #[inline]
    const fn x87_precision(&self) -> u32 {
        match self.control >> PC_SHIFT & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        }
    }

    /// A copy that computes with the whole 64-bit significand, whatever the precision control.
    #[inline]
    const fn full_precision(&self) -> Self {
        Self { control: self.control | 3 << PC_SHIFT, ..*self }
    }
}
