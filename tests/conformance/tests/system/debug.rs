//! Debug exceptions: single-stepping, breakpoints, general detect (SDM 3B 17.2, 17.3).

use crate::bench::{Bench, CODE, DS0, Ended, FREE, check, fault};
use emulator::cpu;

const DB: u8 = 1;
const TF: u64 = 1 << 8;

fn db(at: i64) -> Ended {
    Ended::Vector { vector: DB, error: 0, at }
}

fn single_step(b: &mut Bench) {
    b.cpu().flags.set(2 | TF);
}

/// Breakpoint 0 at `address`: `kind` 0 execution, 1 write, 3 read or write; `size` in bytes.
fn breakpoint(b: &mut Bench, address: u64, kind: u64, size: u64) {
    let length = match size {
        1 => 0,
        2 => 1,
        8 => 2,
        _ => 3,
    };
    let cpu = b.cpu();
    cpu.dr[0] = address;
    cpu.dr[7] = 0x402 | kind << 16 | length << 18;
    cpu.regs[cpu::RAX] = FREE;
}

#[test]
fn single_steps() {
    check(
        Bench::long,
        &[
            ("after one instruction", single_step, &[0x90, 0x90], db(1)),
            ("after a jump", single_step, &[0xEB, 0x02, 0x90, 0x90, 0x90], db(4)),
            ("a fault comes first", single_step, &[0x0F, 0x0B], fault(6, 0)),
            ("after POPF set TF, one later", popf_sets, &[0x9D, 0x90, 0x90], db(2)),
            ("MOV SS loses it", after_mov_ss, &[0x8E, 0xD2, 0x90, 0x90], db(3)),
            ("after each iteration", rep, &[0xF3, 0xAA, 0x90], db(0)),
        ],
    );
}

fn after_mov_ss(b: &mut Bench) {
    single_step(b);
    b.cpu().regs[cpu::RDX] = DS0.into();
}

fn popf_sets(b: &mut Bench) {
    b.put64(FREE + 0x1000, 2 | TF);
    b.cpu().regs[cpu::RSP] = FREE + 0x1000;
}

fn rep(b: &mut Bench) {
    single_step(b);
    b.cpu().regs[cpu::RCX] = 3;
    b.cpu().regs[cpu::RDI] = FREE;
}

#[test]
fn dr6_tells_the_reason() {
    let mut b = Bench::long();
    single_step(&mut b);
    assert_eq!(b.run(&[0x90, 0x90]), db(1));
    assert_eq!(b.cpu().dr[6] & 0xE00F, 0x4000, "BS");
    assert_eq!(b.cpu().flags.get() & TF, 0, "TF is off in the handler");
    let mut b = Bench::long();
    breakpoint(&mut b, FREE, 1, 4);
    assert_eq!(b.run(&[0x89, 0x08, 0x90]), db(2));
    assert_eq!(b.cpu().dr[6] & 0xE00F, 1, "B0");
}

#[test]
fn data_breakpoints() {
    const STORE: &[u8] = &[0x89, 0x08, 0x90];
    const LOAD: &[u8] = &[0x8B, 0x08, 0x90];
    check(
        Bench::long,
        &[
            ("write", |b| breakpoint(b, FREE, 1, 4), STORE, db(2)),
            ("read does not match a write", |b| breakpoint(b, FREE, 1, 4), LOAD, Ended::Done),
            ("read", |b| breakpoint(b, FREE, 3, 4), LOAD, db(2)),
            ("last byte", |b| breakpoint(b, FREE + 3, 1, 1), STORE, db(2)),
            ("next byte", |b| breakpoint(b, FREE + 4, 1, 1), STORE, Ended::Done),
            ("8 bytes", |b| breakpoint(b, FREE, 1, 8), STORE, db(2)),
            ("disabled", |b| b.cpu().dr[0] = FREE, &[0x90], Ended::Done),
            ("push", push_watched, &[0x50, 0x90], db(1)),
        ],
    );
}

fn push_watched(b: &mut Bench) {
    let rsp = b.cpu().regs[cpu::RSP];
    breakpoint(b, rsp - 8, 1, 8);
}

#[test]
fn instruction_breakpoints() {
    check(
        Bench::long,
        &[
            ("at the second instruction", |b| breakpoint(b, CODE + 1, 0, 1), &[0x90, 0x90], db(1)),
            ("at the first", |b| breakpoint(b, CODE, 0, 1), &[0x90, 0x90], db(0)),
            ("RF suppresses it", resumed, &[0x90, 0x90], Ended::Done),
            (
                "within an instruction",
                |b| breakpoint(b, CODE + 1, 0, 1),
                &[0x66, 0x90],
                Ended::Done,
            ),
        ],
    );
}

fn resumed(b: &mut Bench) {
    breakpoint(b, CODE, 0, 1);
    b.cpu().flags.set(2 | 1 << 16);
}

#[test]
fn debug_registers() {
    const MOV_DR7_RAX: &[u8] = &[0x0F, 0x23, 0xF8];
    check(
        Bench::long,
        &[
            ("DR4 with CR4.DE", |_| (), &[0x0F, 0x21, 0xE0], fault(6, 0)),
            ("DR7, upper half", |b| b.cpu().regs[0] = 1 << 32, MOV_DR7_RAX, fault(13, 0)),
            ("DR6, upper half", |b| b.cpu().regs[0] = 1 << 32, &[0x0F, 0x23, 0xF0], fault(13, 0)),
            ("general detect", |b| b.cpu().dr[7] |= 1 << 13, MOV_DR7_RAX, fault(DB, 0)),
        ],
    );
    let mut b = Bench::long();
    b.cpu().cr4 &= !cpu::cr4::DE;
    b.cpu().dr[6] = 0xFFFF_0FF0;
    assert_eq!(b.run(&[0x0F, 0x21, 0xE0]), Ended::Done, "DR4 is DR6 without CR4.DE");
    assert_eq!(b.cpu().regs[cpu::RAX], 0xFFFF_0FF0);
    let mut b = Bench::long();
    b.cpu().dr[7] |= 1 << 13;
    assert_eq!(b.run(MOV_DR7_RAX), fault(DB, 0));
    assert_eq!(b.cpu().dr[6] & 0xE00F, 0x2000, "BD");
    assert_eq!(b.cpu().dr[7] & 1 << 13, 0, "GD is cleared in the handler");
}
