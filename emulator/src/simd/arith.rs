//! Packed integer arithmetic and comparison (SDM 2B, by mnemonic).

use core::array::from_fn;

pub use super::swar::*;

super::kernels! {
    /// Adds signed bytes with saturation.
    paddsb(a, b: [i8; 16]) -> [i8; 16] { from_fn(|i| a[i].saturating_add(b[i])) }

    /// Subtracts signed bytes with saturation.
    psubsb(a, b: [i8; 16]) -> [i8; 16] { from_fn(|i| a[i].saturating_sub(b[i])) }

    /// Adds signed words with saturation.
    paddsw(a, b: [i16; 8]) -> [i16; 8] { from_fn(|i| a[i].saturating_add(b[i])) }

    /// Subtracts signed words with saturation.
    psubsw(a, b: [i16; 8]) -> [i16; 8] { from_fn(|i| a[i].saturating_sub(b[i])) }

    /// The low halves of word products.
    pmullw(a, b: [u16; 8]) -> [u16; 8] { from_fn(|i| a[i].wrapping_mul(b[i])) }

    /// The low halves of doubleword products.
    pmulld(a, b: [u32; 4]) -> [u32; 4] { from_fn(|i| a[i].wrapping_mul(b[i])) }

    /// The high halves of signed word products.
    pmulhw(a, b: [i16; 8]) -> [i16; 8] {
        from_fn(|i| ((i32::from(a[i]) * i32::from(b[i])) >> 16) as i16)
    }

    /// The high halves of unsigned word products.
    pmulhuw(a, b: [u16; 8]) -> [u16; 8] {
        from_fn(|i| ((u32::from(a[i]) * u32::from(b[i])) >> 16) as u16)
    }

    /// Signed word products, scaled and rounded.
    pmulhrsw(a, b: [i16; 8]) -> [i16; 8] {
        from_fn(|i| ((((i32::from(a[i]) * i32::from(b[i])) >> 14) + 1) >> 1) as i16)
    }

    /// Products of the even unsigned doublewords.
    pmuludq(a, b: [u64; 2]) -> [u64; 2] {
        from_fn(|i| (a[i] & 0xffff_ffff) * (b[i] & 0xffff_ffff))
    }

    /// Products of the even signed doublewords.
    pmuldq(a, b: [i64; 2]) -> [i64; 2] {
        from_fn(|i| i64::from(a[i] as i32) * i64::from(b[i] as i32))
    }

    /// Signed word products, added in pairs.
    pmaddwd(a, b: [i16; 8]) -> [i32; 4] {
        from_fn(|i| {
            let product = |j: usize| i32::from(a[j]) * i32::from(b[j]);
            product(2 * i).wrapping_add(product(2 * i + 1))
        })
    }

    /// Products of unsigned bytes of `a` and signed ones of `b`, added in pairs with saturation.
    pmaddubsw(a, b: [u8; 16]) -> [i16; 8] {
        from_fn(|i| {
            let product = |j: usize| i16::from(a[j]) * i16::from(b[j] as i8);
            product(2 * i).saturating_add(product(2 * i + 1))
        })
    }

    /// Sums of the absolute differences of eight bytes.
    psadbw(a, b: [u8; 16]) -> [u64; 2] {
        from_fn(|i| (8 * i..8 * i + 8).map(|j| u64::from(a[j].abs_diff(b[j]))).sum())
    }

    /// Bytes of `a` with the sign of `b` applied.
    psignb(a, b: [i8; 16]) -> [i8; 16] {
        from_fn(|i| match b[i].signum() { 0 => 0, 1 => a[i], _ => a[i].wrapping_neg() })
    }

    /// Absolute values of the bytes of `b`.
    pabsb(a, b: [i8; 16]) -> [i8; 16] { from_fn(|i| { let _ = a; b[i].wrapping_abs() }) }

    /// Words of `a` with the sign of `b` applied.
    psignw(a, b: [i16; 8]) -> [i16; 8] {
        from_fn(|i| match b[i].signum() { 0 => 0, 1 => a[i], _ => a[i].wrapping_neg() })
    }

    /// Absolute values of the words of `b`.
    pabsw(a, b: [i16; 8]) -> [i16; 8] { from_fn(|i| { let _ = a; b[i].wrapping_abs() }) }

    /// Doublewords of `a` with the sign of `b` applied.
    psignd(a, b: [i32; 4]) -> [i32; 4] {
        from_fn(|i| match b[i].signum() { 0 => 0, 1 => a[i], _ => a[i].wrapping_neg() })
    }

    /// Absolute values of the doublewords of `b`.
    pabsd(a, b: [i32; 4]) -> [i32; 4] { from_fn(|i| { let _ = a; b[i].wrapping_abs() }) }

    /// Adds neighbouring words.
    phaddw(a, b: [i16; 8]) -> [i16; 8] {
        from_fn(|i| {
            let (from, j) = if i < 4 { (&a, 2 * i) } else { (&b, 2 * i - 8) };
            from[j].wrapping_add(from[j + 1])
        })
    }

    /// Adds neighbouring doublewords.
    phaddd(a, b: [i32; 4]) -> [i32; 4] {
        from_fn(|i| {
            let (from, j) = if i < 2 { (&a, 2 * i) } else { (&b, 2 * i - 4) };
            from[j].wrapping_add(from[j + 1])
        })
    }

    /// Adds neighbouring words with saturation.
    phaddsw(a, b: [i16; 8]) -> [i16; 8] {
        from_fn(|i| {
            let (from, j) = if i < 4 { (&a, 2 * i) } else { (&b, 2 * i - 8) };
            from[j].saturating_add(from[j + 1])
        })
    }

    /// Subtracts neighbouring words.
    phsubw(a, b: [i16; 8]) -> [i16; 8] {
        from_fn(|i| {
            let (from, j) = if i < 4 { (&a, 2 * i) } else { (&b, 2 * i - 8) };
            from[j].wrapping_sub(from[j + 1])
        })
    }

    /// Subtracts neighbouring doublewords.
    phsubd(a, b: [i32; 4]) -> [i32; 4] {
        from_fn(|i| {
            let (from, j) = if i < 2 { (&a, 2 * i) } else { (&b, 2 * i - 4) };
            from[j].wrapping_sub(from[j + 1])
        })
    }

    /// Subtracts neighbouring words with saturation.
    phsubsw(a, b: [i16; 8]) -> [i16; 8] {
        from_fn(|i| {
            let (from, j) = if i < 4 { (&a, 2 * i) } else { (&b, 2 * i - 8) };
            from[j].saturating_sub(from[j + 1])
        })
    }
}

/// The smallest unsigned word of `b`, and above it its index (PHMINPOSUW).
pub fn phminposuw(b: u128) -> u128 {
    let mut best = (u16::MAX, 0);
    for i in (0..8u8).rev() {
        let word = (b >> (16 * i)) as u16;
        if word <= best.0 {
            best = (word, i);
        }
    }
    u128::from(best.0) | u128::from(best.1) << 16
}

/// Eight sums of absolute differences: a block of four bytes of `b` against every one of eleven
/// bytes of `a`, as the immediate chooses (MPSADBW).
pub fn mpsadbw(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    let (from, block) = (usize::from(imm >> 2 & 1) * 4, usize::from(imm & 3) * 4);
    let mut result = 0;
    for i in 0..8 {
        let sum: u16 = (0..4).map(|j| u16::from(a[from + i + j].abs_diff(b[block + j]))).sum();
        result |= u128::from(sum) << (16 * i);
    }
    result
}

/// The sign bits of the bytes (PMOVMSKB).
pub fn pmovmskb(b: u128) -> u32 {
    const SIGNS: u64 = 0x8080_8080_8080_8080;
    // Gathers bit 7 of each byte in the top byte.
    const GATHER: u64 = 0x0002_0408_1020_4081;
    let gather = |half: u64| ((half & SIGNS).wrapping_mul(GATHER) >> 56) as u32;
    gather(b as u64) | gather((b >> 64) as u64) << 8
}

/// The sign bits of the doublewords (MOVMSKPS).
pub fn movmskps(b: u128) -> u32 {
    (0..4).map(|i| ((b >> (32 * i + 31)) as u32 & 1) << i).sum()
}

/// The sign bits of the quadwords (MOVMSKPD).
pub fn movmskpd(b: u128) -> u32 {
    (b >> 63) as u32 & 1 | ((b >> 127) as u32) << 1
}
