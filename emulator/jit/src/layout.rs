//! Where things are while translated code runs: host registers, and words beside the CPU's.
//!
//! Contract: RBP points into [`Cpu::regs`], so that guest registers and the words below are reached
//! with one byte of displacement. The words live in the unused part of that array while code runs,
//! and are zero whenever [`crate::Jit`] is not running.

use crate::asm::Rm;
use crate::asm::reg::*;
use core::mem::offset_of;
use emulator::core::Core;
use emulator::cpu::{Cpu, Fpu};

/// The budget: instructions that may still retire, those of the block in execution taken off.
pub const BUDGET: u8 = R15;
/// The TLB's entries of the set in use.
pub const TLB: u8 = R14;
/// Points [`BIAS`] bytes beyond the start of the guest's registers.
pub const STATE: u8 = RBP;
/// See [`STATE`].
pub const BIAS: i32 = 128;
/// Guest registers (the first of them) that live in host registers. RAX, RCX and RDX are scratch.
pub const HOSTS: [u8; 9] = [RBX, RSI, RDI, R8, R9, R10, R11, R12, R13];

/// Numbers of the words in [`Cpu::regs`].
pub mod word {
    #![allow(missing_docs)]
    /// Status flags: see [`crate::flags`].
    pub const FLAGS: usize = 18;
    /// Revision of TLB tags in the lower and the upper half of the address space.
    pub const REVISION: usize = 19;
    /// Entries of the TLB.
    pub const TLB: usize = 21;
    /// The numbers of code pages for the privilege in force: see [`crate::cache`].
    pub const NUMBERS: usize = 22;
    /// Other than 0: an interrupt waits to be allowed.
    pub const INTERRUPT: usize = 23;
    /// The table of jump targets.
    pub const JUMPS: usize = 24;
    /// What [`crate::run`]'s functions get.
    pub const CONTEXT: usize = 25;
    /// The budget, on the way out.
    pub const BUDGET: usize = 26;
    /// A value in the middle of an instruction.
    pub const SPILL: usize = 27;
    /// Other than 0: the guest's XMM registers are in the host's, and its MXCSR is in force, with
    /// all exceptions masked. The instructions are not blocked.
    pub const XMM: usize = 28;
    /// MXCSR as the host wants it.
    pub const HOST_MXCSR: usize = 29;
    /// MXCSR as it is.
    pub const SEEN_MXCSR: usize = 30;
    /// 1: the guest's x87 state is in the host's x87, with all exceptions masked, and the
    /// instructions are not blocked. 2: it is in [`crate::run`]'s image.
    pub const X87: usize = 31;
    pub const END: usize = 32;
}

/// The guest's general register or a word, in memory.
pub fn in_memory(n: usize) -> Rm {
    Rm::Mem(STATE, disp(n))
}

/// Displacement from [`STATE`] of the guest's register or word `n`.
pub const fn disp(n: usize) -> i32 {
    n as i32 * 8 - BIAS
}

/// Where guest register `n` is while code runs.
pub fn place(n: usize) -> Rm {
    match HOSTS.get(n) {
        Some(&host) => Rm::Reg(host),
        None => in_memory(n),
    }
}

fn from_state(offset: usize) -> i32 {
    let regs = offset_of!(Core, cpu) + offset_of!(Cpu, regs);
    offset as i32 - regs as i32 - BIAS
}

/// What lies at `offset` of the core.
pub fn core_field(offset: usize) -> Rm {
    Rm::Mem(STATE, from_state(offset))
}

/// What lies at `offset` of [`Cpu`].
pub fn cpu_field(offset: usize) -> Rm {
    core_field(offset_of!(Core, cpu) + offset)
}

/// Where a block keeps an address of the host: see [`crate::groups`].
pub fn slot(n: usize) -> Rm {
    const { assert!(crate::groups::SLOTS <= 4) };
    accelerator(n)
}

/// RSP while no call is open: see [`crate::thunks`].
pub fn base() -> Rm {
    accelerator(4)
}

/// RSP below which no further call is remembered.
pub fn limit() -> Rm {
    accelerator(5)
}

fn accelerator(n: usize) -> Rm {
    core_field(offset_of!(Core, accelerator) + 8 * n)
}

/// The guest's RIP: while code runs of no meaning, but where it is left with
/// [`crate::thunks::LOST`].
pub fn rip() -> Rm {
    Rm::Mem(STATE, from_state(offset_of!(Core, cpu) + offset_of!(Cpu, rip)))
}

/// The base of a segment (by number), as addresses use it.
pub fn segment_base(n: usize) -> Rm {
    Rm::Mem(STATE, from_state(offset_of!(Core, seg_base) + 8 * n))
}

/// [`Core::open`] of a segment, a byte.
pub fn segment_open(n: usize) -> Rm {
    Rm::Mem(STATE, from_state(offset_of!(Core, open) + n))
}

/// An XMM register.
pub fn xmm(n: u8) -> Rm {
    let offset = offset_of!(Core, cpu) + offset_of!(Cpu, xmm);
    Rm::Mem(STATE, from_state(offset + 16 * usize::from(n)))
}

/// The guest's MXCSR.
pub fn mxcsr() -> Rm {
    Rm::Mem(STATE, from_state(offset_of!(Core, cpu) + offset_of!(Cpu, mxcsr)))
}

fn fpu(offset: usize) -> Rm {
    Rm::Mem(STATE, from_state(offset_of!(Core, cpu) + offset_of!(Cpu, fpu) + offset))
}

/// The x87's control word.
pub fn fpu_control() -> Rm {
    fpu(offset_of!(Fpu, control))
}

/// The x87's status word.
pub fn fpu_status() -> Rm {
    fpu(offset_of!(Fpu, status))
}

/// The x87's instruction pointer.
pub fn fpu_instruction() -> Rm {
    fpu(offset_of!(Fpu, fip))
}

/// The x87's data pointer.
pub fn fpu_data() -> Rm {
    fpu(offset_of!(Fpu, fdp))
}

/// [`Core::fpu_blocked`], a byte.
pub fn fpu_blocked() -> Rm {
    Rm::Mem(STATE, from_state(offset_of!(Core, fpu_blocked)))
}

/// [`Core::sse_blocked`], a byte.
pub fn sse_blocked() -> Rm {
    Rm::Mem(STATE, from_state(offset_of!(Core, sse_blocked)))
}

/// Byte offset in a TLB entry, as the TLB lays it out.
pub mod entry {
    use core::mem::offset_of;
    use emulator::mmu::tlb::Entry;
    /// log2 of the size.
    pub const SHIFT: u32 = size_of::<Entry>().trailing_zeros();
    /// Tag for reads.
    pub const READ: i32 = offset_of!(Entry, read) as i32;
    /// Tag for writes.
    pub const WRITE: i32 = offset_of!(Entry, write) as i32;
    /// Host address minus linear address.
    pub const HOST: i32 = offset_of!(Entry, host) as i32;
    const _: () = assert!(size_of::<Entry>().is_power_of_two());
}
