//! RCPPS and RSQRTPS: one fixed answer on every host.
//!
//! Processors differ in these approximations; the SDM only bounds the relative error by
//! 1.5 * 2^-12. Here the result is the reciprocal (square root) correctly rounded to 13
//! significant bits, an error of at most 2^-13. No exception is raised; denormal operands count
//! as zero and tiny results become zero (SDM 2 RCPPS, RSQRTPS). MXCSR is not consulted.

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0x7f80_0000;
const INDEFINITE: u32 = 0xffc0_0000;

/// The approximate reciprocal of a binary32.
pub fn reciprocal(a: u32) -> u32 {
    let (sign, magnitude) = (a & SIGN, a & !SIGN);
    if magnitude > INFINITY {
        return a | 1 << 22;
    }
    if magnitude == INFINITY {
        return sign;
    }
    let biased = magnitude >> 23;
    if biased == 0 {
        return sign | INFINITY;
    }
    let sig = u64::from(magnitude & 0x7f_ffff | 0x80_0000);
    // 1 / (sig / 2^23), in units of 2^-13: from 2^12 (exclusive) to 2^13.
    let quotient = ((1u64 << 37) / sig + 1) >> 1;
    let exp = 253 - biased as i32;
    let (exp, quotient) = if quotient == 1 << 13 { (exp + 1, 1 << 12) } else { (exp, quotient) };
    if exp < 1 {
        return sign;
    }
    sign | (exp as u32) << 23 | (quotient as u32 & 0xfff) << 11
}

/// The approximate reciprocal square root of a binary32.
pub fn reciprocal_sqrt(a: u32) -> u32 {
    let (sign, magnitude) = (a & SIGN, a & !SIGN);
    if magnitude > INFINITY {
        return a | 1 << 22;
    }
    let biased = magnitude >> 23;
    if biased == 0 {
        return sign | INFINITY;
    }
    if sign != 0 {
        return INDEFINITE;
    }
    if magnitude == INFINITY {
        return 0;
    }
    let odd = (biased & 1) ^ 1;
    let sig = u64::from(magnitude & 0x7f_ffff | 0x80_0000) << odd;
    // 1 / sqrt(sig / 2^23) with sig / 2^23 in [1, 4), in units of 2^-14: from 2^13 to 2^14.
    let root = ((1u64 << 53) / sig).isqrt();
    let rounded = (root + 2) >> 2;
    let exp = 126 - (biased as i32 - 127 - odd as i32) / 2;
    let (exp, rounded) = if rounded >= 1 << 13 { (exp + 1, rounded >> 1) } else { (exp, rounded) };
    (exp as u32) << 23 | (rounded as u32 & 0xfff) << 11
}
