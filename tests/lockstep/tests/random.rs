//! Random programs on the interpreter and the JIT, a bounded number: see the command `lockstep` for
//! any.

use emulator::accelerator::Accelerator;
use emulator::core::Core;
use emulator::engine::Engine;
use emulator::op::Exit;
use jit::Jit;
use lockstep::session::{self, Counts};

/// The interpreter, through the accelerator's door.
struct Interpreter;

impl Accelerator for Interpreter {
    fn run(&mut self, engine: &mut Engine, core: &mut Core) -> Exit {
        engine.run_block(core)
    }

    fn clear(&mut self) {}

    fn drop_page(&mut self, _page: u32) {}
}

fn run(seeds: std::ops::Range<u64>, make: session::Make) -> Counts {
    let mut all = Counts::default();
    for seed in seeds {
        let counts = session::run(seed, 24, make).unwrap_or_else(|text| panic!("{text}"));
        all.add(counts);
    }
    all
}

#[test]
fn the_interpreter_agrees_with_itself_and_programs_are_busy() {
    let counts = run(1000..1003, &|_| {
        let engine: Box<dyn Accelerator> = Box::new(Interpreter);
        Some(engine)
    });
    assert!(counts.instructions > 500_000, "{counts:?}");
    // What faults at once shows little.
    assert!(counts.instructions > 12 * counts.restarts, "{counts:?}");
}

#[test]
fn the_jit_agrees_with_the_interpreter() {
    if Jit::new().is_none() {
        let required = std::env::var_os("FTEMU_GUESTS_REQUIRED").is_some();
        assert!(!required, "this computer cannot run the JIT");
        eprintln!("left out: this computer cannot run the JIT");
        return;
    }
    let counts = run(0..8, &|capacity| {
        let engine: Box<dyn Accelerator> = Box::new(Jit::with_capacity(capacity)?.eager());
        Some(engine)
    });
    // Translated code has run, and often.
    assert!(counts.blocks > 2_000 && counts.entries > 10_000, "{counts:?}");
}
