//! The software floating point against the host's x87 and SSE units: values and flags, for random
//! and edge-case operands in every rounding mode. Transcendental functions, which processors
//! disagree about in the last place, may differ by one unit in it.
#![cfg(target_arch = "x86_64")]

mod operands;
mod sse;
mod transcendental;
mod x87;
