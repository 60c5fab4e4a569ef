//! Moving lanes about: pack, unpack, shuffle, blend, align, widen, insert and extract.

use core::array::from_fn;

super::kernels! {
    /// Narrows signed words to signed bytes with saturation.
    packsswb(a, b: [i16; 8]) -> [i8; 16] {
        from_fn(|i| (if i < 8 { a[i] } else { b[i - 8] }).clamp(-128, 127) as i8)
    }

    /// Narrows signed words to unsigned bytes with saturation.
    packuswb(a, b: [i16; 8]) -> [u8; 16] {
        from_fn(|i| (if i < 8 { a[i] } else { b[i - 8] }).clamp(0, 255) as u8)
    }

    /// Narrows signed doublewords to signed words with saturation.
    packssdw(a, b: [i32; 4]) -> [i16; 8] {
        from_fn(|i| (if i < 4 { a[i] } else { b[i - 4] }).clamp(-0x8000, 0x7fff) as i16)
    }

    /// Narrows signed doublewords to unsigned words with saturation.
    packusdw(a, b: [i32; 4]) -> [u16; 8] {
        from_fn(|i| (if i < 4 { a[i] } else { b[i - 4] }).clamp(0, 0xffff) as u16)
    }

}

/// Moves the bytes of a quadword apart, to the even ones of 128 bits.
#[inline]
fn spread_bytes(x: u64) -> u128 {
    let x = spread_words(x);
    (x | x << 8) & 0x00ff_00ff_00ff_00ff_00ff_00ff_00ff_00ff
}

/// The same for words.
#[inline]
fn spread_words(x: u64) -> u128 {
    let x = spread_doublewords(x);
    (x | x << 16) & 0x0000_ffff_0000_ffff_0000_ffff_0000_ffff
}

/// The same for doublewords.
#[inline]
fn spread_doublewords(x: u64) -> u128 {
    u128::from(x & 0xffff_ffff) | u128::from(x >> 32) << 64
}

macro_rules! interleave {
    ($($low:ident $high:ident $spread:ident $width:literal $lanes:literal;)*) => {$(
        #[doc = concat!("Interleaves the ", $lanes, " of the low halves.")]
        pub fn $low(a: u128, b: u128) -> u128 {
            $spread(a as u64) | $spread(b as u64) << $width
        }

        #[doc = concat!("Interleaves the ", $lanes, " of the high halves.")]
        pub fn $high(a: u128, b: u128) -> u128 {
            $low(a >> 64, b >> 64)
        }
    )*};
}

interleave! {
    punpcklbw punpckhbw spread_bytes 8 "bytes";
    punpcklwd punpckhwd spread_words 16 "words";
    punpckldq punpckhdq spread_doublewords 32 "doublewords";
}

/// The low quadwords side by side.
pub fn punpcklqdq(a: u128, b: u128) -> u128 {
    join_mmx(a, b)
}

/// The high quadwords side by side.
pub fn punpckhqdq(a: u128, b: u128) -> u128 {
    a >> 64 | b >> 64 << 64
}

/// Bytes of `a` by eight indexes, of which `mask` counts.
#[inline]
fn pick_bytes(a: &[u8; 16], indexes: u64, mask: u8) -> u64 {
    indexes.to_le_bytes().into_iter().rev().fold(0, |bytes, index| {
        let byte = if index & 0x80 != 0 { 0 } else { a[usize::from(index & mask & 15)] };
        bytes << 8 | u64::from(byte)
    })
}

/// Picks bytes of `a` by the indexes in `b`.
pub fn pshufb(a: u128, b: u128) -> u128 {
    let bytes = a.to_le_bytes();
    let low = pick_bytes(&bytes, b as u64, 15);
    u128::from(low) | u128::from(pick_bytes(&bytes, (b >> 64) as u64, 15)) << 64
}

/// The same among eight bytes.
pub fn pshufb_mmx(a: u128, b: u128) -> u128 {
    pick_bytes(&a.to_le_bytes(), b as u64, 7).into()
}

/// Lane `i` of `width` bits.
#[inline]
fn lane(value: u128, width: u32, i: u32) -> u128 {
    value >> (width * i) & ((1 << width) - 1)
}

/// For the packing and horizontal instructions of MMX: the lanes of both operands side by side,
/// so that the low half of the 128-bit result is the MMX result.
#[inline]
pub fn join_mmx(a: u128, b: u128) -> u128 {
    a & u128::from(u64::MAX) | b << 64
}

/// Picks doublewords (PSHUFD).
pub fn pshufd(b: u128, imm: u8) -> u128 {
    let pick = |i: u32| lane(b, 32, u32::from(imm >> (2 * i) & 3)) << (32 * i);
    pick(0) | pick(1) | pick(2) | pick(3)
}

/// Picks words of the low half (PSHUFLW, and PSHUFW for MMX).
pub fn pshuflw(b: u128, imm: u8) -> u128 {
    let pick = |i: u32| lane(b, 16, u32::from(imm >> (2 * i) & 3)) << (16 * i);
    b >> 64 << 64 | pick(0) | pick(1) | pick(2) | pick(3)
}

/// Picks words of the high half (PSHUFHW).
pub fn pshufhw(b: u128, imm: u8) -> u128 {
    pshuflw(b.rotate_left(64), imm).rotate_left(64)
}

/// Two doublewords of `a`, then two of `b` (SHUFPS).
pub fn shufps(a: u128, b: u128, imm: u8) -> u128 {
    let pick = |from: u128, i: u32| lane(from, 32, u32::from(imm >> (2 * i) & 3)) << (32 * i);
    pick(a, 0) | pick(a, 1) | pick(b, 2) | pick(b, 3)
}

/// One quadword of `a`, then one of `b` (SHUFPD).
pub fn shufpd(a: u128, b: u128, imm: u8) -> u128 {
    lane(a, 64, u32::from(imm & 1)) | lane(b, 64, u32::from(imm >> 1 & 1)) << 64
}

/// The high halves change places: `a`'s goes to the low half (MOVHLPS).
pub fn movhlps(a: u128, b: u128) -> u128 {
    a >> 64 << 64 | b >> 64
}

/// The low half of `b` goes to the high half (MOVLHPS, MOVHPS, MOVHPD).
pub fn movlhps(a: u128, b: u128) -> u128 {
    join_mmx(a, b)
}

/// Bytes from the middle of `a:b` (PALIGNR).
pub fn palignr(a: u128, b: u128, imm: u8) -> u128 {
    let bits = u32::from(imm) * 8;
    match bits {
        0 => b,
        1..128 => b >> bits | a << (128 - bits),
        128..256 => a >> (bits - 128),
        _ => 0,
    }
}

/// PALIGNR among eight bytes.
pub fn palignr_mmx(a: u128, b: u128, imm: u8) -> u128 {
    let both = a << 64 | b & u128::from(u64::MAX);
    both.checked_shr(u32::from(imm) * 8).unwrap_or(0) & u128::from(u64::MAX)
}

/// The mask whose lanes of `width` bits are ones where `bits` has a one.
fn spread(bits: u8, width: u32) -> u128 {
    (0..128 / width)
        .filter(|i| bits >> i & 1 != 0)
        .fold(0, |mask, i| mask | ((1 << width) - 1) << (width * i))
}

/// The mask whose lanes of `width` bits are ones where the top bit of `value`'s lane is.
fn spread_signs(value: u128, width: u32) -> u128 {
    (0..128 / width)
        .filter(|i| value >> (width * i + width - 1) & 1 != 0)
        .fold(0, |mask, i| mask | ((1 << width) - 1) << (width * i))
}

#[inline]
fn select(a: u128, b: u128, mask: u128) -> u128 {
    a & !mask | b & mask
}

/// Words of `b` where the immediate has ones (PBLENDW).
pub fn pblendw(a: u128, b: u128, imm: u8) -> u128 {
    select(a, b, spread(imm, 16))
}

/// Doublewords of `b` where the immediate has ones (BLENDPS).
pub fn blendps(a: u128, b: u128, imm: u8) -> u128 {
    select(a, b, spread(imm & 15, 32))
}

/// Quadwords of `b` where the immediate has ones (BLENDPD).
pub fn blendpd(a: u128, b: u128, imm: u8) -> u128 {
    select(a, b, spread(imm & 3, 64))
}

/// Bytes of `b` where the bytes of `mask` are negative (PBLENDVB).
pub fn pblendvb(a: u128, b: u128, mask: u128) -> u128 {
    select(a, b, super::arith::pcmpgtb(0, mask))
}

/// Doublewords of `b` where those of `mask` are negative (BLENDVPS).
pub fn blendvps(a: u128, b: u128, mask: u128) -> u128 {
    select(a, b, spread_signs(mask, 32))
}

/// Quadwords of `b` where those of `mask` are negative (BLENDVPD).
pub fn blendvpd(a: u128, b: u128, mask: u128) -> u128 {
    select(a, b, spread_signs(mask, 64))
}

macro_rules! widen {
    ($($name:ident: $from:ty as $to:ty, $unsigned:ty, $doc:literal;)*) => {$(
        #[doc = $doc]
        pub fn $name(b: u128) -> u128 {
            (0..128 / <$to>::BITS).fold(0, |result, i| {
                let wide = (b >> (<$from>::BITS * i)) as $from as $to as $unsigned;
                result | u128::from(wide) << (<$to>::BITS * i)
            })
        }
    )*};
}

widen! {
    pmovsxbw: i8 as i16, u16, "Sign-extends bytes to words.";
    pmovsxbd: i8 as i32, u32, "Sign-extends bytes to doublewords.";
    pmovsxbq: i8 as i64, u64, "Sign-extends bytes to quadwords.";
    pmovsxwd: i16 as i32, u32, "Sign-extends words to doublewords.";
    pmovsxwq: i16 as i64, u64, "Sign-extends words to quadwords.";
    pmovsxdq: i32 as i64, u64, "Sign-extends doublewords to quadwords.";
    pmovzxbw: u8 as u16, u16, "Zero-extends bytes to words.";
    pmovzxbd: u8 as u32, u32, "Zero-extends bytes to doublewords.";
    pmovzxbq: u8 as u64, u64, "Zero-extends bytes to quadwords.";
    pmovzxwd: u16 as u32, u32, "Zero-extends words to doublewords.";
    pmovzxwq: u16 as u64, u64, "Zero-extends words to quadwords.";
    pmovzxdq: u32 as u64, u64, "Zero-extends doublewords to quadwords.";
}

/// `a` with one lane of `width` bits replaced; the index wraps (PINSRB/W/D/Q).
pub fn insert(a: u128, width: u32, value: u64, index: u8) -> u128 {
    let at = width * (u32::from(index) & (128 / width - 1));
    let mask = ((1u128 << width) - 1) << at;
    select(a, u128::from(value) << at, mask)
}

/// One lane of `width` bits; the index wraps (PEXTRB/W/D/Q, EXTRACTPS).
pub fn extract(a: u128, width: u32, index: u8) -> u64 {
    lane(a, width, u32::from(index) & (128 / width - 1)) as u64
}

/// A doubleword of `b` into a lane of `a`, then lanes zeroed (INSERTPS). For a memory operand
/// bits 7:6 of the immediate must be passed as zero.
pub fn insertps(a: u128, b: u128, imm: u8) -> u128 {
    let inserted = insert(a, 32, extract(b, 32, imm >> 6), imm >> 4 & 3);
    inserted & !spread(imm & 15, 32)
}

/// Even doublewords doubled (MOVSLDUP).
pub fn movsldup(b: u128) -> u128 {
    pshufd(b, 0b10_10_00_00)
}

/// Odd doublewords doubled (MOVSHDUP).
pub fn movshdup(b: u128) -> u128 {
    pshufd(b, 0b11_11_01_01)
}

/// The low quadword doubled (MOVDDUP).
pub fn movddup(b: u128) -> u128 {
    join_mmx(b, b)
}
