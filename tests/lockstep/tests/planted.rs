//! Engines with a mistake are found out, and the mistake is named.

use devices::time::Icount;
use drivers::guest::Guest;
use drivers::lockstep::Lockstep;
use emulator::accelerator::Accelerator;
use emulator::core::Core;
use emulator::cpu::flags::AF;
use emulator::engine::Engine;
use emulator::machine::{Machine, Stop};
use emulator::op::Exit;
use lockstep::{guest, program, session};

/// Interprets, and makes a mistake.
#[derive(Clone, Copy)]
struct Wrong(fn(&mut Core, u64));

impl Accelerator for Wrong {
    fn run(&mut self, engine: &mut Engine, core: &mut Core) -> Exit {
        let from = core.icount;
        let exit = engine.run_block(core);
        (self.0)(core, from);
        exit
    }

    fn clear(&mut self) {}

    fn drop_page(&mut self, _page: u32) {}
}

/// Interprets one instruction at a time, and forgets AF of each INC r64.
struct Forgets;

impl Accelerator for Forgets {
    fn run(&mut self, engine: &mut Engine, core: &mut Core) -> Exit {
        let limit = core.limit;
        if core.icount >= limit {
            return Exit::Next;
        }
        let la = core.code_address(core.cpu.rip);
        let increments = core.fetch_place(la).is_ok_and(|at| {
            let bytes = &core.ram.bytes()[at..at + 3];
            bytes[0] & 0xF8 == 0x48 && bytes[1] == 0xFF && bytes[2] & 0xF8 == 0xC0
        });
        core.limit = core.icount + 1;
        let exit = engine.run_blocks(core);
        core.limit = limit;
        if increments && exit == Exit::Next {
            let flags = core.cpu.flags.get();
            core.cpu.flags.set(flags & !AF);
        }
        exit
    }

    fn clear(&mut self) {}

    fn drop_page(&mut self, _page: u32) {}
}

/// A machine that is about to begin a program.
fn machine() -> Machine {
    let mut machine = guest::machine();
    let programs = (0..100).map(|number| program::generate(5, number));
    let long = programs.into_iter().find(|program| program.level().long);
    long.expect("one of them").load(&mut machine);
    machine
}

/// What comes of running a machine against an engine.
fn found(install: impl Fn(&mut Machine) + 'static, instructions: u64) -> Option<String> {
    let mut both = Lockstep::new(machine(), Box::new(install)).expect("a copy");
    while both.icount().0 < instructions {
        let until = instructions.min(both.icount().0 + 20_000);
        match both.run(Icount(until)) {
            Stop::Halted(Some(at)) => both.idle_to(at),
            Stop::Output => while both.poll_output().is_some() {},
            Stop::Reached => {}
            _ => break,
        }
    }
    both.failure().map(String::from)
}

fn wrong(mistake: fn(&mut Core, u64)) -> impl Fn(&mut Machine) {
    move |machine| drop(machine.set_accelerator(Some(Box::new(Wrong(mistake)))))
}

#[test]
fn an_engine_without_a_mistake_passes() {
    assert_eq!(found(wrong(|_, _| ()), 2_500_000), None);
}

#[test]
fn a_wrong_register_is_named() {
    let text = found(
        // Again and again, since the program may load the register.
        wrong(|core, _| {
            if core.icount >= 30_000 {
                core.cpu.regs[9] = 0x0123_4567_89AB_CDEF;
            }
        }),
        100_000,
    );
    let text = text.expect("found");
    assert!(text.contains("register r9: ") && text.contains("with the interpreter"), "{text}");
    assert!(text.contains("the engines differ at icount 300"), "{text}");
}

#[test]
fn a_wrong_byte_of_memory_is_named_where_it_was_written() {
    let text = found(
        wrong(|core, from| {
            if from < 700_000 && core.icount >= 700_000 {
                core.ram.dma_write(0x30_0123, &[1]);
            }
        }),
        1_100_000,
    );
    let text = text.expect("found at the end of the interval");
    assert!(text.contains("page 0x300 "), "{text}");
    assert!(text.contains("at 0x300120 are 0x0000000001000000 instead of 0x"), "{text}");
    assert!(text.contains("the engines differ at icount 700"), "{text}");
}

#[test]
fn a_wrong_count_is_noticed() {
    let text = found(
        wrong(|core, from| {
            if from < 33_333 && core.icount >= 33_333 && core.icount < core.limit {
                core.icount += 1;
            }
        }),
        100_000,
    );
    assert!(text.expect("found").contains("the engines differ at icount 333"));
}

#[test]
fn a_wrong_flag_is_brought_down_to_the_instruction() {
    let install = |machine: &mut Machine| drop(machine.set_accelerator(Some(Box::new(Forgets))));
    let mut both = Lockstep::new(increments(), Box::new(install)).expect("a copy");
    both.run(Icount(50_000));
    let text = both.failure().expect("found");
    assert!(text.contains("AF is 0 instead of 1"), "{text}");
    let listed: Vec<&str> = text.lines().skip(3).collect();
    assert_eq!(listed.len(), 1, "{text}");
    assert!(listed[0].ends_with("48ffc0  inc rax"), "{text}");
}

/// A machine that increments RAX and adds up the flags for ever.
fn increments() -> Machine {
    let mut machine = machine();
    let core = machine.core_mut();
    // inc rax; pushfq; add rcx,[rsp]; pop rbx; jmp
    let code = [0x48, 0xFF, 0xC0, 0x9C, 0x48, 0x03, 0x0C, 0x24, 0x5B, 0xEB, 0xF5];
    core.ram.dma_write(guest::CODE, &code);
    core.cpu.regs[..3].fill(0);
    core.cpu.rip = guest::CODE;
    core.update_mode();
    machine
}

#[test]
fn sessions_find_mistakes_and_go_through_them_again() {
    let make = |_| {
        let engine: Box<dyn Accelerator> = Box::new(Forgets);
        Some(engine)
    };
    let text = (1..40).find_map(|seed| session::run(seed, 4, &make).err()).expect("found");
    assert!(text.contains("AF is "), "{text}");
    assert!(text.contains("alone, between ") && text.contains("inc r"), "{text}");
}
