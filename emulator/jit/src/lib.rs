//! The fast engine: translates guest code of 64-bit mode to code of an x86-64 host.
//!
//! Contract: [`Jit`] is an [`Accelerator`](emulator::accelerator::Accelerator): the same
//! instructions retire with the same effects as in the interpreter. This crate is the one island of
//! unsafe code around the CPU.
//!
//! | file | what |
//! |---|---|
//! | `asm` | host instructions as bytes |
//! | `access` | memory operands: checked with the TLB, or known to be in a page that was |
//! | `groups` | which accesses share a page |
//! | `classify` | what a guest instruction does to flags and registers, whether it is lowered |
//! | `shapes` | what `classify` found before |
//! | `translate` | a block: decoding, flags; `translate/ways`: ways out |
//! | `lower/*` | the families of instructions |
//! | `flags` | where the guest's flags are |
//! | `layout` | which registers and words are what while code runs |
//! | `thunks` | code that all blocks share |
//! | `cache` | blocks, the jumps between them, the table of jump targets |
//! | `x87_image` | the x87 state on its way between guest and host |
//! | `run` | in and out of translated code; calls of the interpreter |
//! | `dispatch` | the engine's loop |

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod access;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod asm;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cache;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod classify;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod dispatch;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod flags;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod groups;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod layout;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod lower;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod memory;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod run;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod shapes;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod thunks;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod translate;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x87_image;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use dispatch::Jit;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod absent;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub use absent::Jit;
