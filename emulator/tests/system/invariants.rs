//! The machine's invariants on a busy ring-0 guest: slicing `run`, dropping caches, taking digests
//! and saving and loading change nothing, wherever they happen.
//!
//! The guest takes timer interrupts, writes pages that fault, changes page tables without flushing
//! (and adds what it reads through them, accessed and dirty flags included, to a sum), modifies
//! code before and behind itself, repeats string instructions across pages, and reads timers.

use crate::lab::*;
use devices::io::Input;
use devices::time::Icount;
use emulator::cpu::cr0;
use emulator::machine::{Digest, Machine};

/// The guest, assembled to run at [`CODE`]:
///
/// ```text
///         LAPIC on, periodic timer at vector 30h; sti
/// again:  inc r15
///         rep movsb: 5,000 bytes from 50000h to 60000h + 16 * (r15 & 255), over the page at
///           61000h, which the last round unmapped
///         unmap 61000h, invlpg; rep stosq across 61000h
///         clear A of 50000h, read it, add its PTE to rbx; clear D of 60000h, write, add its PTE
///         patch the immediate of the function at 52000h, call it; clear A of its page, call it,
///           add the PTE
///         map 53000h to 54000h and 55000h by turns, add [53000h]; make it read-only, write
///         in 61h; out 80h; rdtsc; LAPIC current count
///         repne scasb, repe cmpsb, pushfq, stores and loads across a page
///         inc the immediate of the next instruction, mov al,imm
///         every 16th round: mov cr3,rax
/// timer:  inc r14; add [50030h],r14; EOI; iretq
/// fault:  set P and W in the PTE of CR2; inc [50040h]; iretq
/// ```
const GUEST: &str = "
bf0000e0fec787f0000000ff010000c787e00300000b000000c7872003000030000200c787800300006100000031db45
31f64531fffb49ffc74489f825ff000000c1e004be000005008db800000600b988130000f3a480242508730000fe0f01
3c2500100600bff00f0600b9090000004c89f8f348ab80242580720000df021c251000050048031c2580720000802425
00730000bf881c250800060048031c250073000044883c2501200500b800200500ffd04801c380242590720000dfb800
200500ffd048031c2590720000813425987200000010000048031c25003005008034259872000002891c251030050080
0c259872000002e461e6800f314831c3bf0000e0fe8b879003000048c1c3074801c3bf00000600b92c01000088d8f2ae
4801cbbe00000500bf00000600b92c010000f3a64811cb9c584801c348891c252000050048891c25fc4f050048031c25
fb4f0500fe0501000000b00100c341f6c70f0f85cefeffff0f20d80f22d8e9c3feffff66662e0f1f8400000000006690
5049ffc64c01342530000500b80000e0fec780b0000000000000005848cf6690500f20d048c1e80c800cc50070000003
ff042540000500584883c40848cf";
const TIMER: u64 = CODE + 0x180;
const FAULT: u64 = CODE + 0x1A0;

pub fn guest() -> Machine {
    let mut lab = Lab::new(Long, 0);
    lab.code(GUEST).code_at(0x5_2000, "B0 00 C3");
    lab.raw_gate(0x30, gate(CODE64, TIMER, 0x8E, 0));
    lab.raw_gate(14, gate(CODE64, FAULT, 0x8E, 0));
    lab.put(0x5000 + 8 * 3, 0xC000_0083); // the APIC's gigabyte
    lab.set_pte(0x5_3000, 0x5_4007);
    lab.put(0x5_5000, 0x1234_5678_9ABC);
    for n in 0..4096 {
        lab.write(0x5_0000 + n, &[((n * 7) >> 3) as u8]);
    }
    lab.cpu().cr0 |= cr0::WP;
    lab.sync();
    lab.machine
}

/// Runs to `end`; the guest never stops otherwise.
pub fn run_to(machine: &mut Machine, end: u64) {
    assert_eq!(machine.run(Icount(end)), emulator::machine::Stop::Reached);
    assert_eq!(machine.icount(), Icount(end));
}

pub const END: u64 = 400_000;

fn straight() -> Digest {
    let mut machine = guest();
    run_to(&mut machine, END);
    let core = machine.core();
    let mut word = [0; 8];
    core.ram.dma_read(0x5_0040, &mut word);
    let faults = u64::from_le_bytes(word);
    let (rounds, interrupts) = (core.cpu.regs[15], core.cpu.regs[14]);
    assert!(rounds > 40 && interrupts > 40 && faults > rounds, "{rounds} {interrupts} {faults}");
    machine.digest()
}

pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[test]
fn slices_change_nothing() {
    let want = straight();
    for (seed, most) in [(1, 2), (2, 7), (3, 100), (4, 5000), (5, 50_000)] {
        let (mut machine, mut dice) = (guest(), Dice(seed));
        let mut at = 0;
        while at < END {
            at = (at + 1 + dice.below(most)).min(END);
            run_to(&mut machine, at);
        }
        assert_eq!(machine.digest(), want, "slices of up to {most}");
    }
}

#[test]
fn dropped_caches_and_digests_change_nothing() {
    let want = straight();
    for (seed, most, digests) in [(1, 20, false), (2, 300, true), (3, 3000, false), (4, 40, true)] {
        let (mut machine, mut dice) = (guest(), Dice(seed));
        let mut at = 0;
        while at < END {
            at = (at + 1 + dice.below(most)).min(END);
            run_to(&mut machine, at);
            if digests && dice.below(8) == 0 {
                machine.digest();
            } else {
                machine.drop_caches();
            }
        }
        assert_eq!(machine.digest(), want, "every {most} at most");
    }
}

#[test]
fn saving_and_loading_change_nothing() {
    let want = straight();
    let (mut machine, mut dice) = (guest(), Dice(9));
    let mut at = 0;
    while at < END {
        at = (at + 1 + dice.below(40_000)).min(END);
        run_to(&mut machine, at);
        let state = machine.save();
        let mut copy = Machine::load(&state).expect("its own state");
        assert_eq!(copy.digest(), machine.digest(), "at {at}");
        if dice.below(2) == 0 {
            machine = copy;
        }
    }
    assert_eq!(machine.digest(), want);
}

#[test]
fn a_digest_names_the_chip_that_differs() {
    let (mut typed, mut silent) = (guest(), guest());
    typed.inject(Input::ConsoleRx { port: 0, bytes: b"x".to_vec() });
    let (typed, silent) = (typed.digest(), silent.digest());
    assert_eq!((typed.cpu, typed.ram), (silent.cpu, silent.ram));
    let differing: Vec<_> = typed.devices.iter().filter(|d| !silent.devices.contains(d)).collect();
    assert_eq!(
        differing.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["uart", "wires"]
    );
}
