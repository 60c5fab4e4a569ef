//! Decoded instructions: what the interpreter executes.
//!
//! Contract: a block is a run of [`Op`]s. Each holds its function; the function does the work and
//! then calls that of the next one ([`next`]), so that a run needs no dispatch loop. The slice that
//! is handed on ends where the run must stop: a shorter slice is how the engine stops at an exact
//! count.
//!
//! How to write an instruction: a `fn name(core: &mut Core, ops: &[Op]) -> Exit` whose body is
//! `run(core, ops, |core, op| { …; Ok(()) })`. In the closure: read everything, fault with
//! `Err(core.fault(…))` or through `?`, and only then change registers, flags or memory, because
//! the instruction may be retried. Register it in the family's `handler(&Instruction)`.

use crate::core::Core;
use crate::cpu::BLOCK_RIP;
use crate::exception::Trap;

/// The function of an instruction.
pub type Handler = fn(&mut Core, &[Op]) -> Exit;

/// How a run of instructions ended. RIP and the instruction count are up to date in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// At the end of the block or at a branch; go on at RIP.
    Next,
    /// The instruction changed what decides about interrupts, time or mode: look around first.
    Event,
    /// The instruction at RIP was left; the cause is in the core.
    Trap,
}

/// A decoded instruction (or two that were fused).
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// Executes it and what follows in the slice.
    pub exec: Handler,
    /// Immediate, sign-extended; for direct branches the target relative to the block's start.
    pub imm: u64,
    /// Displacement of the memory operand.
    pub disp: u64,
    /// Register numbers by operand position. 8-bit registers AH-BH are 4-bit number + 0x20 steps:
    /// see [`crate::exec::int`].
    pub regs: [u8; 4],
    /// Base register of the memory operand.
    pub base: u8,
    /// Index register.
    pub index_reg: u8,
    /// log2 of the scale.
    pub scale: u8,
    /// Segment of the memory operand, or FLAT.
    pub seg: u8,
    /// Offset of the instruction from the block's start.
    pub offset: i16,
    /// Length of the instruction in bytes.
    pub len: u8,
    /// Instructions before this one in the block.
    pub index: u8,
    /// How many instructions it retires (2 when fused).
    pub count: u8,
    /// Address size in bits (16, 32, 64).
    pub address_bits: u8,
    /// Operand size in bytes (2, 4 or 8), where the instruction has one.
    pub size: u8,
    /// LOCK, REP, REPNE; see the constants.
    pub prefixes: u8,
    /// Second immediate (ENTER, far pointers' selector).
    pub imm2: u16,
    /// Target of a fused branch relative to the block's start.
    pub target: i32,
}

impl Op {
    /// [`Op::target`] as an addend.
    #[inline(always)]
    pub fn target(&self) -> u64 {
        i64::from(self.target) as u64
    }
}

/// LOCK prefix.
pub const LOCK: u8 = 1;
/// REP or REPE prefix.
pub const REP: u8 = 2;
/// REPNE prefix.
pub const REPNE: u8 = 4;

/// Runs one instruction's work and goes on to the next.
#[inline(always)]
pub fn run(
    core: &mut Core,
    ops: &[Op],
    work: impl FnOnce(&mut Core, &Op) -> Result<(), Trap>,
) -> Exit {
    match work(core, &ops[0]) {
        Ok(()) => next(core, ops),
        Err(Trap) => trap(core, &ops[0]),
    }
}

/// Runs an instruction that sets RIP itself or ends its block for another reason.
#[inline(always)]
pub fn run_last(
    core: &mut Core,
    ops: &[Op],
    exit: Exit,
    work: impl FnOnce(&mut Core, &Op) -> Result<u64, Trap>,
) -> Exit {
    match work(core, &ops[0]) {
        Ok(rip) => leave(core, &ops[0], rip, exit),
        Err(Trap) => trap(core, &ops[0]),
    }
}

/// Goes on to the next instruction of the slice, or leaves at its end.
#[inline(always)]
pub fn next(core: &mut Core, ops: &[Op]) -> Exit {
    let rest = &ops[1..];
    match rest.first() {
        Some(op) => (op.exec)(core, rest),
        None => end(core, &ops[0]),
    }
}

/// Leaves the block after `op`, at `rip`.
#[inline(always)]
pub fn leave(core: &mut Core, op: &Op, rip: u64, exit: Exit) -> Exit {
    core.cpu.rip = rip;
    core.icount += u64::from(op.index) + u64::from(op.count);
    exit
}

#[inline(never)]
fn end(core: &mut Core, op: &Op) -> Exit {
    let rip = core.next_rip(op);
    leave(core, op, rip, Exit::Next)
}

/// Leaves the block before `op`.
#[cold]
#[inline(never)]
pub fn trap(core: &mut Core, op: &Op) -> Exit {
    core.cpu.rip = core.mask_rip(core.cpu.regs[BLOCK_RIP].wrapping_add_signed(op.offset.into()));
    core.icount += u64::from(op.index);
    Exit::Trap
}
