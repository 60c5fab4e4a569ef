//! The data side of the vector instructions: pure functions over 128-bit values.
//!
//! Contract: a function bears the mnemonic of its instruction and computes what the SDM's
//! operation section says of it, lane 0 in the low bits. Nothing here knows registers, memory or
//! exceptions. MMX instructions use the same functions on values whose upper half is zero; where
//! an operation is not lane by lane, a `_mmx` variant stands beside it.
//!
//! Inner loops work on arrays in memory, behind a call: that is the shape in which compilers turn
//! them into the host's own vector instructions.

pub mod aes;
pub mod arith;
pub mod crc32;
pub mod shift;
pub mod shuffle;
pub mod strings;

/// The lanes of a 128-bit value.
trait Lanes {
    fn load(bytes: &[u8; 16]) -> Self;
    fn store(self, bytes: &mut [u8; 16]);
}

macro_rules! lanes {
    ($($lane:ty)*) => {$(
        impl Lanes for [$lane; 16 / size_of::<$lane>()] {
            #[inline(always)]
            fn load(bytes: &[u8; 16]) -> Self {
                const SIZE: usize = size_of::<$lane>();
                core::array::from_fn(|i| {
                    let lane = core::array::from_fn(|j| bytes[i * SIZE + j]);
                    <$lane>::from_le_bytes(lane)
                })
            }

            #[inline(always)]
            fn store(self, bytes: &mut [u8; 16]) {
                const SIZE: usize = size_of::<$lane>();
                for (to, lane) in bytes.chunks_exact_mut(SIZE).zip(self) {
                    to.copy_from_slice(&lane.to_le_bytes());
                }
            }
        }
    )*};
}

lanes!(u8 i8 u16 i16 u32 i32 u64 i64);

/// Defines functions of two 128-bit values from their effect on lanes.
macro_rules! kernels {
    ($($(#[$meta:meta])* $name:ident($a:ident, $b:ident: [$lane:ty; $n:literal])
        -> [$result:ty; $m:literal] $body:block)*) => {$(
        $(#[$meta])*
        pub fn $name(a: u128, b: u128) -> u128 {
            #[inline(never)]
            fn run(out: &mut [u8; 16], a: &[u8; 16], b: &[u8; 16]) {
                let $a = <[$lane; $n] as $crate::simd::Lanes>::load(a);
                let $b = <[$lane; $n] as $crate::simd::Lanes>::load(b);
                let result: [$result; $m] = $body;
                $crate::simd::Lanes::store(result, out);
            }
            let mut out = [0; 16];
            run(&mut out, &a.to_le_bytes(), &b.to_le_bytes());
            u128::from_le_bytes(out)
        }
    )*};
}
use kernels;
