//! A second engine beside the interpreter: what translates guest code to the host's.
//!
//! Contract: an accelerator retires the same instructions with the same effects as
//! [`Engine::run_blocks`]; the guest and the digests cannot tell which one ran. It can be attached
//! and detached at any instruction boundary ([`crate::machine::Machine::set_accelerator`]), because
//! it holds no state of the machine, only caches. Before [`Accelerator::run`] returns, all of the
//! CPU's state is back in the core.

use crate::core::Core;
use crate::engine::Engine;
use crate::op::Exit;
use alloc::vec::Vec;

/// Executes guest code faster than the interpreter, to the same instruction.
pub trait Accelerator: Send {
    /// Retires instructions as [`Engine::run_blocks`] does: until the core's limit is reached
    /// exactly, or an event, or a trap ([`Cause::Alone`](crate::exception::Cause) included). May
    /// come back early with [`Exit::Next`], having made progress or found overwritten code.
    ///
    /// It must not execute code that [`devices::ram::Ram::has_stale_code`] tells of, must mark what
    /// it translates with [`crate::engine::mark_code`], and leaves to
    /// [`Engine::run_blocks`] what it does not translate.
    fn run(&mut self, engine: &mut Engine, core: &mut Core) -> Exit;

    /// Forgets all translated code: no page is marked as holding code any more.
    fn clear(&mut self);

    /// Forgets the translated code of a page of RAM (by number): it was overwritten.
    fn drop_page(&mut self, page: u32);

    /// What was done so far.
    fn statistics(&self) -> Statistics {
        Statistics::default()
    }

    /// Begins or ends counting how often each block is executed; takes effect for blocks that are
    /// translated from now on (begin with an accelerator that is new or cleared).
    fn count_blocks(&mut self, _on: bool) {}

    /// How often each block was executed while counted, in no order.
    fn block_counts(&self) -> Vec<BlockCount> {
        Vec::new()
    }
}

/// What an accelerator did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Blocks translated.
    pub blocks: u64,
    /// Guest instructions translated.
    pub instructions: u64,
    /// Bytes of guest code translated.
    pub guest_bytes: u64,
    /// Bytes of host code made from it.
    pub host_bytes: u64,
    /// Host time in ns that it took.
    pub translating_ns: u64,
    /// Blocks forgotten because their page was overwritten.
    pub dropped: u64,
    /// Times that the whole cache was emptied.
    pub flushes: u64,
    /// Bytes of host code forgotten in these.
    pub evicted_bytes: u64,
    /// Times that translated code was entered.
    pub entries: u64,
    /// Why it was left, by cause.
    pub exits: Vec<(&'static str, u64)>,
}

/// How often a block was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCount {
    /// RIP of its first instruction.
    pub rip: u64,
    /// Offset of its first byte in RAM.
    pub place: usize,
    /// Bits of its mode: 16, 32 or 64.
    pub bits: u8,
    /// Guest instructions in it.
    pub instructions: u32,
    /// How often it was entered.
    pub executed: u64,
    /// Instructions that were not reached in these, because it was left before its end.
    pub skipped: u64,
}
