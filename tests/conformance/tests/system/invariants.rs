//! The machine's invariants: however it is run, its state at a given instruction is the same.
//!
//! The program uses interrupts, HLT, the clock, repeated strings, SSE and x87, faults, page-table
//! changes and code that changes itself. Reference: run straight from checkpoint to checkpoint.

use crate::bench::{Bench, CODE, IDT};
use conformance::values::Rng;
use devices::time::Icount;
use emulator::machine::{Digest, Machine, Stop};

/// The routine whose code the program changes.
const ROUTINE: u64 = 0x11_2000;
const HANDLERS: u64 = 0xB000;
const CHECKPOINTS: u64 = 24;
const DISTANCE: u64 = 25_000;

/// The main program, at [`CODE`].
#[rustfmt::skip]
const PROGRAM: &[u8] = &[
    // Local APIC off, so that the 8259 reaches the CPU.
    0xB9, 0x1B, 0x00, 0x00, 0x00, // mov ecx,0x1B
    0x0F, 0x32, // rdmsr
    0x80, 0xE4, 0xF7, // and ah,0xF7
    0x0F, 0x30, // wrmsr
    // Interrupt controller: vectors from 0x20, all but IRQ 0 masked. Timer: channel 0 every 60
    // clocks.
    0xB0, 0x11, // mov al,0x11
    0xE6, 0x20, // out 0x20,al
    0xB0, 0x20, // mov al,0x20
    0xE6, 0x21, // out 0x21,al
    0xB0, 0x04, // mov al,0x4
    0xE6, 0x21, // out 0x21,al
    0xB0, 0x01, // mov al,0x1
    0xE6, 0x21, // out 0x21,al
    0xB0, 0xFE, // mov al,0xfe
    0xE6, 0x21, // out 0x21,al
    0xB0, 0x34, // mov al,0x34
    0xE6, 0x43, // out 0x43,al
    0xB0, 0x3C, // mov al,0x3c
    0xE6, 0x40, // out 0x40,al
    0xB0, 0x00, // mov al,0x0
    0xE6, 0x40, // out 0x40,al
    0xDB, 0xE3, // fninit
    0x31, 0xDB, // xor ebx,ebx
    0xFB, // sti
    0x48, 0xFF, 0xC3, // inc rbx
    0xBF, 0x00, 0x00, 0x11, 0x00, // mov edi,0x110000
    0xB9, 0x2C, 0x01, 0x00, 0x00, // mov ecx,0x12c
    0x89, 0xD8, // mov eax,ebx
    0xF3, 0xAA, // rep stos BYTE PTR es:[rdi],al
    0xBE, 0x00, 0x00, 0x11, 0x00, // mov esi,0x110000
    0xBF, 0x00, 0x10, 0x11, 0x00, // mov edi,0x111000
    0xB9, 0x01, 0x01, 0x00, 0x00, // mov ecx,0x101
    0xF3, 0xA4, // rep movs BYTE PTR es:[rdi],BYTE PTR ds:[rsi]
    0x48, 0x69, 0xC3, 0xB1, 0x79, 0x37, 0x1E, // imul rax,rbx,0x1e3779b1
    0x48, 0xC1, 0xC8, 0x0D, // ror rax,0xd
    0x48, 0x31, 0x04, 0x25, 0x08, 0x10, 0x11, 0x00, // xor QWORD PTR ds:0x111008,rax
    0xF3, 0x0F, 0x6F, 0x04, 0x25, 0x01, 0x00, 0x11, 0x00, // movdqu xmm0,XMMWORD PTR ds:0x110001
    0x66, 0x0F, 0xFE, 0xC8, // paddd xmm1,xmm0
    0xF2, 0x48, 0x0F, 0x2A, 0xD3, // cvtsi2sd xmm2,rbx
    0xF2, 0x0F, 0x51, 0xDA, // sqrtsd xmm3,xmm2
    0xF2, 0x0F, 0x58, 0xE3, // addsd xmm4,xmm3
    0xF3, 0x0F, 0x7F, 0x24, 0x25, 0x41, 0x10, 0x11, 0x00, // movdqu XMMWORD PTR ds:0x111041,xmm4
    0xDF, 0x2C, 0x25, 0x08, 0x10, 0x11, 0x00, // fild QWORD PTR ds:0x111008
    0xD9, 0xE1, // fabs
    0xD9, 0xFA, // fsqrt
    0xDB, 0x3C, 0x25, 0x60, 0x10, 0x11, 0x00, // fstp TBYTE PTR ds:0x111060
    0xFE, 0x04, 0x25, 0x01, 0x20, 0x11, 0x00, // inc BYTE PTR ds:0x112001
    0xE8, 0x59, 0xAF, 0x10, 0x00, // call 10b000 <again+0x10afdb>
    0x48, 0x01, 0xC2, // add rdx,rax
    0x31, 0xC9, // xor ecx,ecx
    0xF7, 0xF1, // div ecx
    0xF6, 0xC3, 0x07, // test bl,0x7
    0x75, 0x01, // jne a8 <again+0x83>
    0xF4, // hlt
    0xF6, 0xC3, 0x03, // test bl,0x3
    0x75, 0x17, // jne c4 <again+0x9f>
    0xFF, 0x04, 0x25, 0x04, 0x30, 0x11, 0x00, // inc DWORD PTR ds:0x113004
    0x80, 0x24, 0x25, 0x98, 0x48, 0x00, 0x00, 0xFE, // and BYTE PTR ds:0x4898,0xfe
    0x0F, 0x01, 0x3C, 0x25, 0x00, 0x30, 0x11, 0x00, // invlpg BYTE PTR ds:0x113000
    0x0F, 0x31, // rdtsc
    0x48, 0x01, 0x04, 0x25, 0x80, 0x10, 0x11, 0x00, // add QWORD PTR ds:0x111080,rax
    0xE4, 0x40, // in al,0x40
    0x00, 0x04, 0x25, 0x88, 0x10, 0x11, 0x00, // add BYTE PTR ds:0x111088,al
    0x48, 0x0F, 0xC7, 0xF0, // rdrand rax
    0x48, 0x31, 0x04, 0x25, 0x90, 0x10, 0x11, 0x00, // xor QWORD PTR ds:0x111090,rax
    0x9C, // pushf
    0x58, // pop rax
    0x48, 0x01, 0x04, 0x25, 0x98, 0x10, 0x11, 0x00, // add QWORD PTR ds:0x111098,rax
    0x48, 0x3B, 0x1C, 0x25, 0x08, 0x10, 0x11, 0x00, // cmp rbx,QWORD PTR ds:0x111008
    0x0F, 0x82, 0x2A, 0xFF, 0xFF, 0xFF, // jb 25 <again>
    0xE9, 0x25, 0xFF, 0xFF, 0xFF, // jmp 25 <again>
];

/// Handlers of the timer (0x20), #DE (which skips the DIV) and #PF (which makes the page present),
/// and the routine.
#[rustfmt::skip]
const TIMER: &[u8] = &[
    0x50, // push rax
    0x48, 0xFF, 0x04, 0x25, 0xA0, 0x10, 0x11, 0x00, // inc qword [0x1110A0]
    0xB0, 0x20, 0xE6, 0x20, // mov al,0x20; out 0x20,al
    0x58, 0x48, 0xCF, // pop rax; iretq
];
#[rustfmt::skip]
const DIVIDE: &[u8] = &[
    0x48, 0x83, 0x04, 0x24, 0x02, // add qword [rsp],2
    0x48, 0xFF, 0x04, 0x25, 0xA8, 0x10, 0x11, 0x00, // inc qword [0x1110A8]
    0x48, 0xCF, // iretq
];
#[rustfmt::skip]
const FAULT: &[u8] = &[
    0x80, 0x0C, 0x25, 0x98, 0x48, 0x00, 0x00, 0x01, // or byte [0x4898],1
    0x48, 0x83, 0xC4, 0x08, // add rsp,8
    0x48, 0xFF, 0x04, 0x25, 0xB0, 0x10, 0x11, 0x00, // inc qword [0x1110B0]
    0x48, 0xCF, // iretq
];
const ADD: &[u8] = &[0xB8, 5, 0, 0, 0, 0xC3]; // mov eax,5; ret

fn start() -> Machine {
    let mut b = Bench::long();
    b.put(CODE, PROGRAM);
    b.put(ROUTINE, ADD);
    for (n, (vector, handler)) in [(0x20, TIMER), (0, DIVIDE), (14, FAULT)].into_iter().enumerate()
    {
        let at = HANDLERS + 0x100 * n as u64;
        b.put(at, handler);
        b.put(IDT + 16 * vector, &(at as u16).to_le_bytes());
    }
    b.cpu().rip = CODE;
    b.into_machine()
}

/// Runs to `until`; while halted, time goes to the next timer.
fn advance(machine: &mut Machine, until: u64) {
    let mut halts = 0;
    while machine.icount().0 < until {
        match machine.run(Icount(until)) {
            Stop::Reached => {}
            Stop::Halted(Some(due)) => {
                halts += 1;
                assert!(halts < 100_000, "nothing wakes the CPU");
                machine.idle_to(due);
            }
            Stop::Output => while machine.poll_output().is_some() {},
            other => panic!("{other:?} at {:?}", machine.icount()),
        }
    }
}

fn checkpoints(mut to: impl FnMut(&mut Machine, u64)) -> Vec<Digest> {
    let mut machine = start();
    (1..=CHECKPOINTS)
        .map(|n| {
            to(&mut machine, n * DISTANCE);
            assert_eq!(machine.icount(), Icount(n * DISTANCE));
            machine.digest()
        })
        .collect()
}

/// Runs in random steps; before some, does `also`.
fn in_steps(seed: u64, longest: u64, also: impl Fn(&mut Rng, &mut Machine)) -> Vec<Digest> {
    let mut rng = Rng::new(seed);
    checkpoints(|machine, until| {
        while machine.icount().0 < until {
            let step = 1 + rng.below(longest);
            let next = (machine.icount().0 + step).min(until);
            advance(machine, next);
            also(&mut rng, machine);
        }
    })
}

#[test]
fn the_program_does_all_it_should() {
    let mut machine = start();
    advance(&mut machine, CHECKPOINTS * DISTANCE);
    let count = |at: usize| {
        let bytes = machine.core().ram.bytes()[at..at + 8].try_into().expect("8 bytes");
        u64::from_le_bytes(bytes)
    };
    assert!(count(0x11_10A0) > 10, "{} timer interrupts", count(0x11_10A0));
    assert!(count(0x11_10A8) > 100, "{} divide errors", count(0x11_10A8));
    assert!(count(0x11_10B0) > 100, "{} page faults", count(0x11_10B0));
}

#[test]
fn slices_do_not_matter() {
    let reference = checkpoints(advance);
    for seed in 0..6 {
        let longest = [3, 10, 60, 500, 5_000, 40_000][seed as usize];
        assert_eq!(in_steps(seed, longest, |_, _| ()), reference, "steps of up to {longest}");
    }
}

#[test]
fn caches_do_not_matter() {
    let reference = checkpoints(advance);
    for seed in 10..13 {
        let dropped = in_steps(seed, 400, |rng, machine| {
            if rng.one_in(2) {
                machine.drop_caches();
            }
        });
        assert_eq!(dropped, reference, "seed {seed}");
    }
}

#[test]
fn a_snapshot_is_the_whole_state() {
    let reference = checkpoints(advance);
    for seed in 20..22 {
        let reloaded = in_steps(seed, 20_000, |_, machine| {
            let state = machine.save();
            *machine = Machine::load(&state).expect("a state just saved");
        });
        assert_eq!(reloaded, reference, "seed {seed}");
    }
}

/// Changes page tables and does not invalidate: what then is seen must not depend on what is
/// cached.
#[test]
fn changed_page_tables_count_at_once() {
    // again: mov eax,[rbx]; add [rsi],eax; xor byte [rdi+1],0x10 (another frame); mov eax,[rbx];
    // add [rsi],eax; and byte [rdi],0xDF (not accessed); mov eax,[rbx]; mov al,[rdi]; add
    // [rsi+4],al; inc dword [rbx]; and byte [rdi],0xBF (not dirty); inc dword [rbx]; mov al,[rdi];
    // add [rsi+5],al; jmp again
    let code = [
        0x8B, 0x03, 0x01, 0x06, 0x80, 0x77, 0x01, 0x10, 0x8B, 0x03, 0x01, 0x06, 0x80, 0x27, 0xDF,
        0x8B, 0x03, 0x8A, 0x07, 0x00, 0x46, 0x04, 0xFF, 0x03, 0x80, 0x27, 0xBF, 0xFF, 0x03, 0x8A,
        0x07, 0x00, 0x46, 0x05, 0xEB, 0xDC,
    ];
    let digests = |dropped: u64| -> Vec<Digest> {
        let mut b = Bench::long();
        b.put(CODE, &code);
        b.put(0x11_4000, &[1]);
        let cpu = b.cpu();
        cpu.rip = CODE;
        cpu.regs[emulator::cpu::RBX] = 0x11_4000;
        cpu.regs[emulator::cpu::RSI] = 0x11_8000;
        cpu.regs[emulator::cpu::RDI] = crate::bench::LOW_TABLE + 8 * 0x114;
        let mut machine = b.into_machine();
        let mut rng = Rng::new(dropped);
        (1..200)
            .map(|n| {
                advance(&mut machine, n * 37);
                if dropped > 0 && rng.one_in(2) {
                    machine.drop_caches();
                }
                machine.digest()
            })
            .collect()
    };
    let reference = digests(0);
    for seed in 1..4 {
        assert_eq!(digests(seed), reference, "seed {seed}");
    }
}
