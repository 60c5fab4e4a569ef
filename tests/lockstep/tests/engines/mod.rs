//! Short programs on both engines.

use devices::time::Icount;
use drivers::lockstep::twins::Twins;
use emulator::machine::{Machine, Stop};
use jit::Jit;
use lockstep::{guest, program};

/// A supervisor's machine in 64-bit mode about to execute `code` at `at`.
pub fn machine(at: u64, code: &[u8], registers: &[(usize, u64)]) -> Machine {
    let long = |seed: &u64| {
        let level = program::generate(*seed, 0).level();
        level.long && !level.user
    };
    let seed = (0..100).find(long).expect("one of them");
    let mut machine = guest::machine();
    program::generate(seed, 0).load(&mut machine);
    let core = machine.core_mut();
    guest::store(&mut core.ram, at, code);
    core.cpu.flags.set(2);
    core.cpu.rip = at;
    for &(n, value) in registers {
        core.cpu.regs[n] = value;
    }
    core.update_mode();
    machine
}

/// Gives a machine the JIT; false where that cannot be.
pub fn translate(machine: &mut Machine) -> bool {
    let Some(jit) = Jit::with_capacity(1 << 20) else {
        let required = std::env::var_os("FTEMU_GUESTS_REQUIRED").is_some();
        assert!(!required, "this computer cannot run the JIT");
        eprintln!("left out: this computer cannot run the JIT");
        return false;
    };
    drop(machine.set_accelerator(Some(Box::new(jit.eager()))));
    true
}

/// Both engines execute `count` instructions at once and come to the same.
pub fn check(count: u64, make: impl Fn() -> Machine) -> Machine {
    let mut twins = Twins { reference: make(), tested: make() };
    if !translate(&mut twins.tested) {
        return twins.reference;
    }
    for machine in [&mut twins.reference, &mut twins.tested] {
        assert_eq!(machine.run(Icount(count)), Stop::Reached);
    }
    assert!(twins.are_same(), "{}", twins.describe());
    twins.reference
}
