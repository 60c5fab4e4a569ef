//! The fast engine: translates guest code of 64-bit mode to code of an x86-64 host.
//!
//! Contract: [`Jit`] is an [`Accelerator`]: the same instructions retire with the same effects as in
//! the interpreter. This crate is the one island of unsafe code around the CPU.

use emulator::accelerator::Accelerator;
use emulator::core::Core;
use emulator::engine::Engine;
use emulator::op::Exit;

/// Translated code and the ways to find it.
pub struct Jit {}

impl Jit {
    /// An empty cache; `None` where the host is not an x86-64 CPU that it can be made for.
    pub fn new() -> Option<Self> {
        None
    }

    /// The same with room for about `bytes` of translated code.
    pub fn with_capacity(_bytes: usize) -> Option<Self> {
        None
    }
}

impl Accelerator for Jit {
    fn run(&mut self, engine: &mut Engine, core: &mut Core) -> Exit {
        engine.run_blocks(core)
    }

    fn clear(&mut self) {}

    fn drop_page(&mut self, _page: u32) {}
}
