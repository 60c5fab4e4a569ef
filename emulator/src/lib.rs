//! The instruction-counted x86-64 CPU and the machine around it.
//!
//! Contract: a pure state machine; every way in is an `Input` at an instruction count, every way out an `Output`.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod machine;
pub mod simd;
pub mod softfloat;
