//! Packed addition, subtraction, comparison, minimum and maximum on all lanes at once.
//!
//! The top bit of each lane is computed apart, so that no carry passes from lane to lane
//! (Lamport, "Multiple byte processing with full-word instructions", 1975).

/// The top bit of every lane of `width` bits.
const fn tops(width: u32) -> u128 {
    let mut mask = 0;
    let mut at = width;
    while at <= 128 {
        mask |= 1 << (at - 1);
        at += width;
    }
    mask
}

#[inline(always)]
fn add<const WIDTH: u32>(a: u128, b: u128) -> u128 {
    let top = const { tops(WIDTH) };
    (a & !top).wrapping_add(b & !top) ^ ((a ^ b) & top)
}

#[inline(always)]
fn sub<const WIDTH: u32>(a: u128, b: u128) -> u128 {
    let top = const { tops(WIDTH) };
    (a | top).wrapping_sub(b & !top) ^ ((a ^ !b) & top)
}

/// Fills every lane whose top bit is set in `bits` with ones; other bits of `bits` are clear.
#[inline(always)]
fn fill<const WIDTH: u32>(bits: u128) -> u128 {
    bits | bits.wrapping_sub(bits >> (WIDTH - 1))
}

#[inline(always)]
fn equal<const WIDTH: u32>(a: u128, b: u128) -> u128 {
    let top = const { tops(WIDTH) };
    let difference = a ^ b;
    let nonzero = (difference & !top).wrapping_add(!top) | difference;
    fill::<WIDTH>(!nonzero & top)
}

/// Lanes of ones where `a < b`, unsigned.
#[inline(always)]
fn below<const WIDTH: u32>(a: u128, b: u128) -> u128 {
    let top = const { tops(WIDTH) };
    let borrow = !a & b | (!a | b) & sub::<WIDTH>(a, b);
    fill::<WIDTH>(borrow & top)
}

/// Lanes of ones where `a > b`, signed.
#[inline(always)]
fn greater<const WIDTH: u32>(a: u128, b: u128) -> u128 {
    let top = const { tops(WIDTH) };
    below::<WIDTH>(b ^ top, a ^ top)
}

#[inline(always)]
fn select(mask: u128, a: u128, b: u128) -> u128 {
    a & mask | b & !mask
}

/// Averages, rounding up: (a | b) - (a ^ b) / 2.
#[inline(always)]
fn average<const WIDTH: u32>(a: u128, b: u128) -> u128 {
    let top = const { tops(WIDTH) };
    sub::<WIDTH>(a | b, (a ^ b) >> 1 & !top)
}

macro_rules! each_width {
    ($($width:literal $lanes:literal:
        $add:ident $sub:ident $equal:ident $greater:ident;)*) => {$(
        #[doc = concat!("Adds ", $lanes, ".")]
        pub fn $add(a: u128, b: u128) -> u128 {
            add::<$width>(a, b)
        }

        #[doc = concat!("Subtracts ", $lanes, ".")]
        pub fn $sub(a: u128, b: u128) -> u128 {
            sub::<$width>(a, b)
        }

        #[doc = concat!("All ones where ", $lanes, " are equal.")]
        pub fn $equal(a: u128, b: u128) -> u128 {
            equal::<$width>(a, b)
        }

        #[doc = concat!("All ones where signed ", $lanes, " of `a` are greater.")]
        pub fn $greater(a: u128, b: u128) -> u128 {
            greater::<$width>(a, b)
        }
    )*};
}

each_width! {
    8 "bytes": paddb psubb pcmpeqb pcmpgtb;
    16 "words": paddw psubw pcmpeqw pcmpgtw;
    32 "doublewords": paddd psubd pcmpeqd pcmpgtd;
    64 "quadwords": paddq psubq pcmpeqq pcmpgtq;
}

macro_rules! extremes {
    ($($width:literal $lanes:literal: $min:ident $max:ident $umin:ident $umax:ident;)*) => {$(
        #[doc = concat!("The smaller signed ", $lanes, ".")]
        pub fn $min(a: u128, b: u128) -> u128 {
            select(greater::<$width>(a, b), b, a)
        }

        #[doc = concat!("The larger signed ", $lanes, ".")]
        pub fn $max(a: u128, b: u128) -> u128 {
            select(greater::<$width>(a, b), a, b)
        }

        #[doc = concat!("The smaller unsigned ", $lanes, ".")]
        pub fn $umin(a: u128, b: u128) -> u128 {
            select(below::<$width>(a, b), a, b)
        }

        #[doc = concat!("The larger unsigned ", $lanes, ".")]
        pub fn $umax(a: u128, b: u128) -> u128 {
            select(below::<$width>(a, b), b, a)
        }
    )*};
}

extremes! {
    8 "bytes": pminsb pmaxsb pminub pmaxub;
    16 "words": pminsw pmaxsw pminuw pmaxuw;
    32 "doublewords": pminsd pmaxsd pminud pmaxud;
}

macro_rules! unsigned_saturation {
    ($($width:literal $lanes:literal: $add:ident $sub:ident $average:ident;)*) => {$(
        #[doc = concat!("Adds unsigned ", $lanes, " with saturation.")]
        pub fn $add(a: u128, b: u128) -> u128 {
            let sum = add::<$width>(a, b);
            sum | below::<$width>(sum, a)
        }

        #[doc = concat!("Subtracts unsigned ", $lanes, " with saturation.")]
        pub fn $sub(a: u128, b: u128) -> u128 {
            sub::<$width>(a, b) & !below::<$width>(a, b)
        }

        #[doc = concat!("Averages unsigned ", $lanes, ", rounding up.")]
        pub fn $average(a: u128, b: u128) -> u128 {
            average::<$width>(a, b)
        }
    )*};
}

unsigned_saturation! {
    8 "bytes": paddusb psubusb pavgb;
    16 "words": paddusw psubusw pavgw;
}
