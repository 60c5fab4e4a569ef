//! What is translated as one block, and what is not translated at all.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod engines;

use devices::time::Icount;
use emulator::accelerator::Statistics;
use emulator::cpu::{RAX, RBX};
use emulator::machine::{Machine, Stop};
use engines::{check, machine, translate};
use lockstep::guest;

const INC_EAX: [u8; 2] = [0xFF, 0xC0];
const INC_EBX: [u8; 2] = [0xFF, 0xC3];

/// Runs with the JIT up to `count` in runs of `step` instructions; the machine, and what the JIT
/// did.
fn translated(mut machine: Machine, count: u64, step: u64) -> Option<(Machine, Statistics)> {
    if !translate(&mut machine) {
        return None;
    }
    while machine.icount().0 < count {
        let until = Icount(count.min(machine.icount().0 + step));
        assert_eq!(machine.run(until), Stop::Reached);
    }
    let jit = machine.set_accelerator(None).expect("it was given one");
    Some((machine, jit.statistics()))
}

/// Three instructions, then `count` others that are jumped to first; a round has all of them.
fn one_behind_another(count: usize) -> Machine {
    let (front, back) = (guest::CODE, guest::CODE + 6);
    let code = [INC_EBX.repeat(3), INC_EAX.repeat(count)].concat();
    let mut machine = machine(front, &code, &[(RAX, 0), (RBX, 0)]);
    let end = front + code.len() as u64;
    guest::store(&mut machine.core_mut().ram, end, &guest::jump(end, front));
    machine.core_mut().cpu.rip = back;
    machine
}

#[test]
fn a_block_ends_where_a_long_one_begins() {
    for (count, twice) in [(2, true), (7, false), (30, false)] {
        let round = count + 1 + 3;
        let (rounds, first) = (20, count + 1);
        let all = first + rounds * round;
        let machine = check(all, || one_behind_another(count as usize));
        let regs = &machine.core().cpu.regs;
        assert_eq!((regs[RAX], regs[RBX]), ((rounds + 1) * count, 3 * rounds));
        let Some((_, done)) = translated(one_behind_another(count as usize), all, all) else {
            return;
        };
        let expected = if twice { first + round } else { round };
        assert_eq!((done.blocks, done.instructions), (2, expected), "{count}");
    }
}

#[test]
fn what_begins_where_a_run_ended_is_not_translated() {
    let step = 15;
    let Some((machine, done)) = translated(one_behind_another(30), 34 * step, step) else { return };
    assert_eq!(machine.core().cpu.regs[RBX], 3 * step, "each place was the end of a run once");
    assert!(done.blocks <= 2, "{}", done.blocks);
}
