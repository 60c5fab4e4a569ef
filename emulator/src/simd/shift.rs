//! Packed shifts. Counts beyond the lane give zero, or the sign for arithmetic shifts.

/// `pattern` in every lane of its width.
#[inline(always)]
const fn repeat(pattern: u64, width: u32) -> u128 {
    let mut value = 0;
    let mut at = 0;
    while at < 128 {
        value |= (pattern as u128) << at;
        at += width;
    }
    value
}

#[inline(always)]
fn left<const WIDTH: u32>(a: u128, count: u64) -> u128 {
    if count >= u64::from(WIDTH) {
        return 0;
    }
    let ones = const { repeat(1, WIDTH) };
    // What comes out of the lane below: the low bits of each lane.
    let strangers = ones.wrapping_mul((1 << count) - 1);
    a << count & !strangers
}

#[inline(always)]
fn right<const WIDTH: u32>(a: u128, count: u64) -> u128 {
    if count >= u64::from(WIDTH) {
        return 0;
    }
    let ones = const { repeat(1, WIDTH) };
    let kept = u64::MAX >> (64 - WIDTH) >> count;
    a >> count & ones.wrapping_mul(u128::from(kept))
}

#[inline(always)]
fn right_signed<const WIDTH: u32>(a: u128, count: u64) -> u128 {
    let count = count.min(u64::from(WIDTH) - 1);
    let shifted = right::<WIDTH>(a, count);
    // Where the sign has come to; from there up, ones: sign * (2^(count + 1) - 1).
    let sign = shifted & const { repeat(1 << (WIDTH - 1), WIDTH) } >> count;
    shifted | sign.wrapping_mul((2 << count) - 1)
}

macro_rules! shifts {
    ($($name:ident $shift:ident $width:literal $doc:literal;)*) => {$(
        #[doc = $doc]
        pub fn $name(a: u128, count: u64) -> u128 {
            $shift::<$width>(a, count)
        }
    )*};
}

shifts! {
    psllw left 16 "Words left.";
    pslld left 32 "Doublewords left.";
    psllq left 64 "Quadwords left.";
    psrlw right 16 "Words right.";
    psrld right 32 "Doublewords right.";
    psrlq right 64 "Quadwords right.";
    psraw right_signed 16 "Words right, copying the sign.";
    psrad right_signed 32 "Doublewords right, copying the sign.";
}

/// The whole value left by bytes (PSLLDQ).
pub fn pslldq(a: u128, bytes: u8) -> u128 {
    a.checked_shl(u32::from(bytes) * 8).unwrap_or(0)
}

/// The whole value right by bytes (PSRLDQ).
pub fn psrldq(a: u128, bytes: u8) -> u128 {
    a.checked_shr(u32::from(bytes) * 8).unwrap_or(0)
}
