//! Code that all blocks share: the way in and out, the call of the interpreter, flags.
//!
//! Contract: emitted once, at the start of the code memory.
//!
//! The guest's calls are calls of the host, so that its returns are predicted: above the host's
//! return address, which leads to the code in the caller's block that goes on there, lies the
//! address that the guest returns to. A return whose address is the one pushed last goes there; any
//! other forgets all open calls and looks its target up. So does whatever leaves translated code,
//! and a call when there are too many. The code in the caller's block is an ordinary way out, which
//! asks whether the page is still what it was.

use crate::asm::alu::{ADD, AND, CMP, SUB, XOR};
use crate::asm::reg::*;
use crate::asm::{Asm, Rm};
use crate::cache::JumpTarget;
use crate::flags::OF_DERIVED;
use crate::layout::{
    BUDGET, HOSTS, STATE, TLB, base, fpu_blocked, fpu_control, fpu_status, in_memory, limit, mxcsr,
    rip, sse_blocked, word, xmm,
};
use crate::translate::find;
use core::mem::offset_of;

/// How code comes back, in bits 2:0 of RAX: at an edge (bits 63:3) that leads nowhere yet.
pub const LINK: u64 = 0;
/// The budget does not cover the block (bits 63:3); it is negative, by that much.
pub const OVER: u64 = 1;
/// The interpreter came to an end in bits 63:3; the core is up to date but for the host's
/// registers, which are not needed.
pub const LEFT: u64 = 2;
/// The block (bits 63:3) has SSE instructions that translated code cannot execute as things are;
/// nothing of it was done.
pub const REFUSED: u64 = 3;

/// What the interpreter's call gives back from here on is the address of code to go on with.
pub const LEAST_CODE: i32 = 1 << 12;

/// Exceptions masked, in MXCSR.
const MASKS: i32 = 0x1F80;
/// Control bits of MXCSR.
const CONTROL: i32 = 0xFFC0;

/// An indirect branch leads to [`crate::layout::rip`], which is not in the table of jump targets.
pub const LOST: u64 = 4;

/// Addresses of the shared code.
#[derive(Clone, Copy, Debug, Default)]
pub struct Thunks {
    /// `extern "sysv64" fn(state, code, budget) -> exit`.
    pub enter: usize,
    /// Jumped to with the exit in RAX: stores the guest's registers.
    pub leave: usize,
    /// Called with a site in RAX: the interpreter executes its instruction. Comes back only if the
    /// block goes on behind it; otherwise goes on with another one or leaves.
    pub interpret: usize,
    /// Called: all of the host's flags from the word. Uses RAX.
    pub restore: usize,
    /// Called: the word gets an OF of its own. Uses RAX, RCX, RDX.
    pub settle: usize,
    /// Jumped to: leaves with [`LOST`].
    pub lost: usize,
    /// Jumped to with an address in RAX and an exit in RDX: goes on at the address if it is that of
    /// a translated block, else leaves.
    pub find: usize,
    /// Called: the guest's x87 state comes into the host's; XMM registers do not stay there. Uses
    /// RAX, RCX, RDX.
    pub x87_on: usize,
    /// Called at the start of a block with an exit of kind [`REFUSED`] in RAX: the same, or leaves.
    pub x87_first: usize,
    /// Called: the guest's XMM registers come into the host's. Uses RCX.
    pub vectors_on: usize,
    /// Called at the start of a block with an exit of kind [`REFUSED`] in RAX: the same, or leaves.
    pub vectors_first: usize,
}

const SAVED: [u8; 6] = [RBX, RBP, R12, R13, R14, R15];
/// Bytes of the host's stack that are taken at the start: what a return finds when no call is open,
/// and as many as keep the stack aligned to 16.
const FRAME: i32 = 24;
const _: () = assert!(FRAME % 16 == 8, "with the return address and what is saved");
/// Bytes of the host's stack for open calls, 16 each.
const CALLS: i32 = 64 << 10;

/// Emits the shared code; `helper` and `x87` are the addresses of [`crate::run`]'s functions.
pub fn emit(a: &mut Asm, helper: usize, x87: usize) -> Thunks {
    // A return to address 0, when no call is open.
    let none_open = a.here();
    a.load(8, RSP, base());
    a.store(8, rip(), RAX);
    a.set(RAX, LOST);
    let lost = a.jmp_far();

    let mut t = Thunks { enter: a.here(), ..Thunks::default() };
    for r in SAVED {
        a.push(r);
    }
    a.alu_imm(SUB, 8, Rm::Reg(RSP), FRAME);
    a.mov(STATE, RDI);
    a.store(8, base(), RSP);
    a.lea(8, RAX, Rm::Mem(RSP, -CALLS));
    a.store(8, limit(), RAX);
    a.set(RAX, none_open as u64);
    a.store(8, Rm::Mem(RSP, 0), RAX);
    a.store_imm(8, Rm::Mem(RSP, 8), 0);
    a.mov(RAX, RSI);
    a.mov(BUDGET, RDX);
    load(a);
    a.jmp_rm(Rm::Reg(RAX));

    a.bind(lost);
    t.leave = a.here();
    store(a);
    x87_off(a);
    vectors_off(a);
    let leave = a.bytes.len();
    a.store(8, in_memory(word::BUDGET), BUDGET);
    a.load(8, RSP, base());
    a.alu_imm(ADD, 8, Rm::Reg(RSP), FRAME);
    for r in SAVED.into_iter().rev() {
        a.pop(r);
    }
    a.ret();

    t.interpret = a.here();
    store(a);
    x87_off(a);
    vectors_off(a);
    a.load(8, RDI, in_memory(word::CONTEXT));
    a.load(4, RSI, Rm::Reg(RAX));
    a.mov(RDX, BUDGET);
    a.alu_imm(SUB, 8, Rm::Reg(RSP), 8);
    a.set(RAX, helper as u64);
    a.call_rm(Rm::Reg(RAX));
    a.alu_imm(ADD, 8, Rm::Reg(RSP), 8);
    a.test(8, Rm::Reg(RAX), RAX);
    let left = a.jcc_far(5);
    load(a);
    a.ret();
    a.bind(left);
    a.alu_imm(ADD, 8, Rm::Reg(RSP), 8);
    a.alu_imm(CMP, 8, Rm::Reg(RAX), LEAST_CODE);
    let out = a.jcc_far(2);
    a.bind_at(out, leave);
    a.load(8, BUDGET, in_memory(word::BUDGET));
    load(a);
    a.jmp_rm(Rm::Reg(RAX));

    t.restore = a.here();
    a.load(4, RAX, in_memory(word::FLAGS));
    a.test_imm(1, Rm::Reg(RAX), OF_DERIVED as i32);
    let derived = a.jcc_near(5);
    let set = a.label();
    a.shift(4, 1, Rm::Reg(RAX), 7);
    a.alu_to(ADD, 1, Rm::Reg(RAX), RAX);
    a.sahf();
    a.ret();
    a.bind(derived);
    // mov al, ah; shr al, 7; xor al, ah
    a.fixed([0x88, 0xE0, 0xC0, 0xE8, 0x07, 0x30, 0xE0]);
    a.jmp_label(set);

    t.settle = a.here();
    a.load(4, RAX, in_memory(word::FLAGS));
    a.test_imm(1, Rm::Reg(RAX), OF_DERIVED as i32);
    let derived = a.jcc_near(5);
    a.ret();
    a.bind(derived);
    a.load(4, RCX, Rm::Reg(RAX));
    a.shift(5, 4, Rm::Reg(RCX), 8);
    a.load(4, RDX, Rm::Reg(RAX));
    a.shift(5, 4, Rm::Reg(RDX), 15);
    a.alu_from(XOR, 4, RDX, Rm::Reg(RCX));
    a.alu_imm(crate::asm::alu::AND, 4, Rm::Reg(RDX), 1);
    a.alu_imm(crate::asm::alu::AND, 4, Rm::Reg(RAX), !(1 | OF_DERIVED as i32));
    a.alu_from(crate::asm::alu::OR, 4, RAX, Rm::Reg(RDX));
    a.store(4, in_memory(word::FLAGS), RAX);
    a.ret();

    t.lost = a.here();
    a.set(RAX, LOST);
    a.jmp(t.leave);

    t.find = a.here();
    // The exit is wanted again, and RDX is used.
    a.store(8, in_memory(word::SPILL), RDX);
    let misses = find(a);
    a.jmp_rm(Rm::Mem(RCX, offset_of!(JumpTarget, code) as i32));
    for miss in misses {
        a.bind(miss);
    }
    a.load(8, RAX, in_memory(word::SPILL));
    a.jmp(t.leave);
    x87_thunks(a, &mut t, x87);
    vector_thunks(a, &mut t);
    t
}

/// In and out of [`word::X87`].
fn x87_thunks(a: &mut Asm, t: &mut Thunks, helper: usize) {
    t.x87_first = a.here();
    a.alu_imm(CMP, 1, fpu_blocked(), 0);
    let blocked = a.jcc_far(5);
    a.extend(false, 4, 2, RCX, fpu_control());
    a.alu_imm(AND, 4, Rm::Reg(RCX), 0x3F);
    a.alu_imm(CMP, 4, Rm::Reg(RCX), 0x3F);
    let unmasked = a.jcc_far(5);
    a.test_imm(1, fpu_status(), 0x80);
    let pending = a.jcc_far(5);
    t.x87_on = a.here();
    store(a);
    vectors_off(a);
    a.load(8, RDI, in_memory(word::CONTEXT));
    a.alu_imm(SUB, 8, Rm::Reg(RSP), 8);
    a.set(RAX, helper as u64);
    a.call_rm(Rm::Reg(RAX));
    a.alu_imm(ADD, 8, Rm::Reg(RSP), 8);
    load(a);
    a.load(8, RCX, in_memory(word::CONTEXT));
    a.x87(0xDD, 4, Rm::Mem(RCX, 0)); // FRSTOR
    a.store_imm(4, in_memory(word::X87), 1);
    a.ret();
    for jump in [blocked, unmasked, pending] {
        a.bind(jump);
    }
    a.alu_imm(ADD, 8, Rm::Reg(RSP), 8);
    a.jmp(t.leave);
}

/// Stores the guest's x87 state, if it is in the host's, and leaves an empty one there. Uses RCX.
fn x87_off(a: &mut Asm) {
    a.alu_imm(CMP, 4, in_memory(word::X87), 0);
    let off = a.jcc_far(4);
    a.load(8, RCX, in_memory(word::CONTEXT));
    a.x87(0xDD, 6, Rm::Mem(RCX, 0)); // FNSAVE
    a.store_imm(4, in_memory(word::X87), 2);
    a.bind(off);
}

/// In and out of [`word::XMM`].
fn vector_thunks(a: &mut Asm, t: &mut Thunks) {
    t.vectors_first = a.here();
    a.alu_imm(CMP, 1, sse_blocked(), 0);
    let blocked = a.jcc_far(5);
    a.load(4, RCX, mxcsr());
    a.alu_imm(AND, 4, Rm::Reg(RCX), MASKS);
    a.alu_imm(CMP, 4, Rm::Reg(RCX), MASKS);
    let unmasked = a.jcc_far(5);
    t.vectors_on = a.here();
    vectors_on(a);
    a.ret();
    a.bind(blocked);
    a.bind(unmasked);
    a.alu_imm(ADD, 8, Rm::Reg(RSP), 8);
    a.jmp(t.leave);
}

/// See [`word::XMM`]. Uses RCX.
fn vectors_on(a: &mut Asm) {
    for n in 0..16 {
        a.sse(0, 0x0F28, 4, n, xmm(n));
    }
    a.store_imm(4, in_memory(word::XMM), 1);
    // Reading MXCSR is cheaper than writing it.
    a.stmxcsr(in_memory(word::SEEN_MXCSR));
    a.load(4, RCX, in_memory(word::SEEN_MXCSR));
    a.alu_from(CMP, 4, RCX, mxcsr());
    let same = a.jcc_near(4);
    a.ldmxcsr(mxcsr());
    a.bind(same);
}

/// Stores the guest's XMM registers if they are in the host's; the host may compute then. Uses RCX.
fn vectors_off(a: &mut Asm) {
    a.alu_imm(CMP, 4, in_memory(word::XMM), 0);
    let off = a.jcc_far(4);
    for n in 0..16 {
        a.sse(0, 0x0F29, 4, n, xmm(n));
    }
    a.store_imm(4, in_memory(word::XMM), 0);
    a.stmxcsr(mxcsr());
    a.load(4, RCX, mxcsr());
    a.alu_imm(AND, 4, Rm::Reg(RCX), CONTROL);
    a.alu_imm(CMP, 4, Rm::Reg(RCX), MASKS);
    let usual = a.jcc_near(4);
    a.ldmxcsr(in_memory(word::HOST_MXCSR));
    a.bind(usual);
    a.bind(off);
}

/// Loads what lives in host registers.
fn load(a: &mut Asm) {
    for (n, host) in HOSTS.into_iter().enumerate() {
        a.load(8, host, in_memory(n));
    }
    a.load(8, TLB, in_memory(word::TLB));
}

/// Stores the guest's registers that live in host registers.
fn store(a: &mut Asm) {
    for (n, host) in HOSTS.into_iter().enumerate() {
        a.store(8, in_memory(n), host);
    }
}
