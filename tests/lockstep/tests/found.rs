//! What random programs have found, as short programs on both engines.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use devices::time::Icount;
use drivers::lockstep::twins::Twins;
use emulator::cpu::{RAX, RCX, RDI, RSI, RSP};
use emulator::machine::{Machine, Stop};
use jit::Jit;
use lockstep::{guest, program};

/// A supervisor's machine in 64-bit mode about to execute `code` at `at`.
fn machine(at: u64, code: &[u8], registers: &[(usize, u64)]) -> Machine {
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

/// Both engines execute `count` instructions at once and come to the same.
fn check(count: u64, make: impl Fn() -> Machine) -> Machine {
    let mut twins = Twins { reference: make(), tested: make() };
    let Some(jit) = Jit::with_capacity(1 << 20) else {
        let required = std::env::var_os("FTEMU_GUESTS_REQUIRED").is_some();
        assert!(!required, "this computer cannot run the JIT");
        eprintln!("left out: this computer cannot run the JIT");
        return twins.reference;
    };
    drop(twins.tested.set_accelerator(Some(Box::new(jit.eager()))));
    for machine in [&mut twins.reference, &mut twins.tested] {
        assert_eq!(machine.run(Icount(count)), Stop::Reached);
    }
    assert!(twins.are_same(), "{}", twins.describe());
    twins.reference
}

#[test]
fn a_repetition_across_pages_that_overwrites_itself() {
    // rep movsb with its prefix at the end of a page: the first iteration makes it F3 90, PAUSE;
    // then nop; jmp to it
    let at = guest::CODE + 0xFFF;
    let code = [0xF3, 0xA4, 0x90, 0xEB, 0xFD];
    let machine = check(6, || {
        let registers = [(RSI, guest::DATA), (RDI, at + 1), (RCX, 8)];
        let mut machine = machine(at, &code, &registers);
        guest::store(&mut machine.core_mut().ram, guest::DATA, &[0x90; 8]);
        machine
    });
    assert_eq!(machine.core().cpu.regs[RCX], 7);
}

#[test]
fn flags_behind_a_pushfq_that_needs_no_check() {
    // pop rcx; add [rsp+8],rax; mov [rsp+16],rcx; pushfq; mov rdx,[rsp+24]; jz to the start;
    // inc ebx; jmp to the start
    let code = [
        0x59, 0x48, 0x01, 0x44, 0x24, 0x08, 0x48, 0x89, 0x4C, 0x24, 0x10, 0x9C, 0x48, 0x8B, 0x54,
        0x24, 0x18, 0x74, 0xED, 0xFF, 0xC3, 0xEB, 0xE9,
    ];
    for word in [0u64, 1] {
        check(400, || {
            let registers = [(RAX, 0), (RSP, guest::DATA + 0x800)];
            let mut machine = machine(guest::CODE, &code, &registers);
            let ram = &mut machine.core_mut().ram;
            guest::store(ram, guest::DATA + 0x810, &word.to_le_bytes());
            machine
        });
    }
}
