//! The data side of the vector instructions: pure functions over 128-bit values.
//!
//! Contract: a function bears the mnemonic of its instruction and computes what the SDM's
//! operation section says of it, lane 0 in the low bits. Nothing here knows registers, memory or
//! exceptions. MMX instructions use the same functions on values whose upper half is zero; where
//! an operation is not lane by lane, a `_mmx` variant stands beside it.
//!
//! Values stay in general registers: what is needed often is computed on all lanes at once with
//! masks ([`swar`]), the rest lane by lane with shifts.

pub mod aes;
pub mod arith;
pub mod crc32;
pub mod shift;
pub mod shuffle;
pub mod strings;
pub mod swar;

/// The lanes of a 128-bit value.
trait Lanes {
    fn load(value: u128) -> Self;
    fn store(self) -> u128;
}

macro_rules! lanes {
    ($($lane:ty, $unsigned:ty;)*) => {$(
        impl Lanes for [$lane; 16 / size_of::<$lane>()] {
            #[inline(always)]
            fn load(value: u128) -> Self {
                let halves = [value as u64, (value >> 64) as u64];
                const HALF: usize = 8 / size_of::<$lane>();
                core::array::from_fn(|i| {
                    (halves[i / HALF] >> (<$lane>::BITS as usize * (i & (HALF - 1)))) as $lane
                })
            }

            #[inline(always)]
            fn store(self) -> u128 {
                const HALF: usize = 8 / size_of::<$lane>();
                let mut halves = [0u64; 2];
                for (i, lane) in self.into_iter().enumerate() {
                    let shift = <$lane>::BITS as usize * (i & (HALF - 1));
                    halves[i / HALF] |= u64::from(lane as $unsigned) << shift;
                }
                u128::from(halves[0]) | u128::from(halves[1]) << 64
            }
        }
    )*};
}

lanes! {
    u8, u8; i8, u8; u16, u16; i16, u16; u32, u32; i32, u32; u64, u64; i64, u64;
}

/// Defines functions of two 128-bit values from their effect on lanes.
macro_rules! kernels {
    ($($(#[$meta:meta])* $name:ident($a:ident, $b:ident: [$lane:ty; $n:literal])
        -> [$result:ty; $m:literal] $body:block)*) => {$(
        $(#[$meta])*
        pub fn $name(a: u128, b: u128) -> u128 {
            let $a = <[$lane; $n] as $crate::simd::Lanes>::load(a);
            let $b = <[$lane; $n] as $crate::simd::Lanes>::load(b);
            let result: [$result; $m] = $body;
            $crate::simd::Lanes::store(result)
        }
    )*};
}
use kernels;
