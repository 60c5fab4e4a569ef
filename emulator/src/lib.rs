//! The instruction-counted x86-64 CPU and the machine around it.
//!
//! Contract: a pure state machine; every way in is an `Input` at an instruction count, every way
//! out an `Output`.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod accelerator;
pub mod core;
pub mod cpu;
pub mod debug;
pub mod decode;
pub mod digest;
pub mod engine;
pub mod exception;
pub mod exec;
pub mod fingerprint;
mod history;
pub mod interrupt;
pub mod machine;
pub mod mmu;
pub mod op;
pub mod simd;
pub mod snapshot;
pub mod softfloat;
