//! Conformance: every ring-3 instruction form of the guest CPU, run on the host's CPU and in the
//! emulator.
//!
//! A form is an opcode with its operand kinds in a mode ([`forms`]). For each form, cases are
//! generated from a seed ([`generate`], [`operands`], [`values`]), run on the host ([`native`]) and
//! in the guest ([`guest`]), and compared ([`compare`]) but for what the manuals leave undefined
//! ([`undefined`]).
#![deny(unsafe_code)]

pub mod absent;
pub mod compare;
pub mod forms;
pub mod generate;
pub mod guest;
pub mod layout;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod native;
pub mod operands;
pub mod run;
pub mod sequence;
pub mod state;
pub mod undefined;
pub mod values;
