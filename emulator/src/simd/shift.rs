//! Packed shifts. Counts beyond the lane give zero, or the sign for arithmetic shifts.

use core::array::from_fn;

macro_rules! shifts {
    ($($(#[$meta:meta])* $name:ident: [$lane:ty; $n:literal], $limit:literal,
        |$x:ident, $count:ident| $shift:expr;)*) => {$(
        $(#[$meta])*
        pub fn $name(a: u128, count: u64) -> u128 {
            #[inline(never)]
            fn run(out: &mut [u8; 16], a: &[u8; 16], $count: u32) {
                let a = <[$lane; $n] as super::Lanes>::load(a);
                let result: [$lane; $n] = from_fn(|i| { let $x = a[i]; $shift });
                super::Lanes::store(result, out);
            }
            if count > $limit - 1 {
                return overlong::<{ <$lane>::MIN != 0 }>(a, $limit);
            }
            let mut out = [0; 16];
            run(&mut out, &a.to_le_bytes(), count as u32);
            u128::from_le_bytes(out)
        }
    )*};
}

/// What a shift by the lane's width or more gives.
fn overlong<const ARITHMETIC: bool>(a: u128, width: u32) -> u128 {
    match (ARITHMETIC, width) {
        (true, 16) => psraw(a, 15),
        (true, _) => psrad(a, 31),
        (false, _) => 0,
    }
}

shifts! {
    /// Words left.
    psllw: [u16; 8], 16, |x, count| x << count;
    /// Doublewords left.
    pslld: [u32; 4], 32, |x, count| x << count;
    /// Quadwords left.
    psllq: [u64; 2], 64, |x, count| x << count;
    /// Words right.
    psrlw: [u16; 8], 16, |x, count| x >> count;
    /// Doublewords right.
    psrld: [u32; 4], 32, |x, count| x >> count;
    /// Quadwords right.
    psrlq: [u64; 2], 64, |x, count| x >> count;
    /// Words right, copying the sign.
    psraw: [i16; 8], 16, |x, count| x >> count;
    /// Doublewords right, copying the sign.
    psrad: [i32; 4], 32, |x, count| x >> count;
}

/// The whole value left by bytes (PSLLDQ).
pub fn pslldq(a: u128, bytes: u8) -> u128 {
    a.checked_shl(u32::from(bytes) * 8).unwrap_or(0)
}

/// The whole value right by bytes (PSRLDQ).
pub fn psrldq(a: u128, bytes: u8) -> u128 {
    a.checked_shr(u32::from(bytes) * 8).unwrap_or(0)
}
