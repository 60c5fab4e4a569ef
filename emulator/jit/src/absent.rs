//! The engine on hosts that it cannot be made for: there is none.

use emulator::accelerator::Accelerator;
use emulator::core::Core;
use emulator::engine::Engine;
use emulator::op::Exit;

/// Never made.
pub struct Jit(core::convert::Infallible);

impl Jit {
    /// `None`.
    pub fn new() -> Option<Self> {
        None
    }

    /// `None`.
    pub fn with_capacity(_bytes: usize) -> Option<Self> {
        None
    }

    /// Itself.
    #[must_use]
    pub fn eager(self) -> Self {
        self
    }
}

impl Accelerator for Jit {
    fn run(&mut self, _: &mut Engine, _: &mut Core) -> Exit {
        match self.0 {}
    }

    fn clear(&mut self) {}

    fn drop_page(&mut self, _page: u32) {}
}
