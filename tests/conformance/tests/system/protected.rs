//! 32-bit protected mode: limits, types, call gates, returns to outer rings, and hardware task
//! switches (SDM 3A chapters 5 and 7).

use crate::bench::{
    Bench, CODE, CS32, DS0, Ended, FREE, GDT, OWN, RING0_STACK, TR, TSS, USER_CODE, USER_CS32,
    USER_DS, check, fault,
};
use emulator::cpu;

const LOAD: &[u8] = &[0x8B, 0x08];
const STORE: &[u8] = &[0x89, 0x08];
const SS: u8 = 12;
const GP: u8 = 13;
const NP: u8 = 11;
const TS: u8 = 10;
/// EXT: the error arose in the delivery of an exception.
const EXTERNAL: u32 = 1;

/// DS becomes this segment; EAX the offset.
fn data(b: &mut Bench, descriptor: u64, offset: u64) {
    b.descriptor(OWN, descriptor);
    let segment = b.segment(OWN);
    b.cpu().segs[cpu::DS] = segment;
    b.cpu().regs[cpu::RAX] = offset;
}

#[test]
fn limits_and_types() {
    const UP: u64 = 0x0040_9310_0000_0FFF;
    const DOWN: u64 = 0x0040_9710_0000_0FFF;
    const DOWN_16: u64 = 0x0000_9710_0000_0FFF;
    check(
        Bench::protected,
        &[
            ("last dword", |b| data(b, UP, 0xFFC), LOAD, Ended::Done),
            ("one byte over", |b| data(b, UP, 0xFFD), LOAD, fault(GP, 0)),
            ("beyond", |b| data(b, UP, 0x1000), STORE, fault(GP, 0)),
            ("expand-down, below", |b| data(b, DOWN, 0xFFF), LOAD, fault(GP, 0)),
            ("expand-down, above", |b| data(b, DOWN, 0x1000), LOAD, Ended::Done),
            ("16-bit expand-down, last dword", |b| data(b, DOWN_16, 0xFFFC), LOAD, Ended::Done),
            ("16-bit expand-down, over 64 KiB", |b| data(b, DOWN_16, 0xFFFE), LOAD, fault(GP, 0)),
            ("read-only", |b| data(b, 0x00CF_9100_0000_FFFF, FREE), STORE, fault(GP, 0)),
            ("read-only, read", |b| data(b, 0x00CF_9100_0000_FFFF, FREE), LOAD, Ended::Done),
            ("execute-only through CS", execute_only, &[0x2E, 0x8B, 0x08], fault(GP, 0)),
            ("null DS", |b| b.cpu().segs[cpu::DS].usable = false, LOAD, fault(GP, 0)),
            ("stack limit", |b| stack(b, 0x1000), &[0x50], Ended::Done),
            (
                "code limit",
                |b| b.cpu().segs[cpu::CS].limit = CODE as u32,
                &[0x90, 0x90],
                at(GP, 0, 1),
            ),
            (
                "far jump beyond the limit",
                jump_beyond,
                &[0xEA, 0, 0, 2, 0, OWN as u8, 0],
                fault(GP, 0),
            ),
        ],
    );
}

fn at(vector: u8, error: u32, at: i64) -> Ended {
    Ended::Vector { vector, error, at }
}

fn execute_only(b: &mut Bench) {
    b.descriptor(OWN, 0x00CF_9900_0000_FFFF);
    b.cpu().segs[cpu::CS] = b.segment(OWN);
    b.cpu().regs[cpu::RAX] = FREE;
}

/// A stack segment of 4 KiB. #SS goes to a task of its own, since this stack is of no use.
fn stack(b: &mut Bench, esp: u64) {
    b.descriptor(OWN, 0x0040_9310_0000_0FFF);
    b.cpu().segs[cpu::SS] = b.segment(OWN);
    b.cpu().regs[cpu::RSP] = esp;
    task_gate(b, 12);
}

#[test]
fn stack_limit() {
    let mut b = Bench::protected();
    stack(&mut b, 0x1004);
    assert!(matches!(b.run(&[0x50]), Ended::Vector { vector: SS, error: 0, .. }));
    assert_eq!(b.get(TSS + 0x20, 4), CODE, "EIP of the fault");
    assert_eq!(b.get(TSS + 0x38, 4), 0x1004, "ESP is as before");
}

/// Vector `vector` goes to the task at FREE + 0x8000 whose code is the vector's handler.
fn task_gate(b: &mut Bench, vector: u8) {
    let tss = FREE + 0x8000;
    new_task(b, tss, 0xA000 + 16 * u64::from(vector), OWN + 8);
    b.put64(0x9000 + 8 * u64::from(vector), u64::from(OWN + 8) << 16 | 0x8500 << 32);
}

/// A 32-bit TSS at `tss`, described by `selector`, that begins at `eip` in ring 0.
fn new_task(b: &mut Bench, tss: u64, eip: u64, selector: u16) {
    b.descriptor(selector, 0x0000_8900_0000_0067 | (tss & 0xFF_FFFF) << 16);
    b.put(tss, &[0; 0x68]);
    let mut field = |offset: u64, value: u32| b.put(tss + offset, &value.to_le_bytes());
    field(0x20, eip as u32);
    field(0x24, 2);
    field(0x38, 0xC000);
    for (n, selector) in [DS0, CS32, DS0, DS0, DS0, DS0].into_iter().enumerate() {
        field(0x48 + 4 * n as u64, selector.into());
    }
    field(0x64, 0x0068_0000);
}

fn jump_beyond(b: &mut Bench) {
    b.descriptor(OWN, 0x0040_9B00_0001_FFFF);
}

#[test]
fn far_transfers() {
    fn own(b: &mut Bench, descriptor: u64) {
        b.descriptor(OWN, descriptor);
    }
    const JUMP: &[u8] = &[0xEA, 0x07, 0x70, 0, 0, OWN as u8, 0];
    check(
        Bench::protected,
        &[
            ("to ring-0 code", |b| own(b, 0x00CF_9B00_0000_FFFF), JUMP, Ended::Done),
            ("to data", |b| own(b, 0x00CF_9300_0000_FFFF), JUMP, fault(GP, 0x60)),
            ("not present", |b| own(b, 0x00CF_1B00_0000_FFFF), JUMP, fault(NP, 0x60)),
            ("to ring-3 code", |b| own(b, 0x00CF_FB00_0000_FFFF), JUMP, fault(GP, 0x60)),
            ("to conforming ring-3 code", |b| own(b, 0x00CF_FF00_0000_FFFF), JUMP, fault(GP, 0x60)),
            ("to conforming code", |b| own(b, 0x00CF_9F00_0000_FFFF), JUMP, Ended::Done),
            ("null", |_| (), &[0xEA, 7, 0x70, 0, 0, 0, 0], fault(GP, 0)),
            ("to an LDT", |b| own(b, 0x0000_8200_0000_FFFF), JUMP, fault(GP, 0x60)),
            ("to a busy TSS", |_| (), &[0xEA, 0, 0, 0, 0, TR as u8, 0], fault(GP, 0x40)),
            (
                "through a gate that is not present",
                |b| own(b, 0x0000_0C00_0010_0000),
                JUMP,
                fault(NP, 0x60),
            ),
        ],
    );
}

/// A ring-3 caller of a call gate with two parameters: they are copied to the inner stack.
#[test]
fn call_gate_copies_parameters() {
    let mut b = Bench::protected().user32();
    b.put64(
        GDT + u64::from(OWN),
        (FREE & 0xFFFF) | u64::from(CS32) << 16 | 0xEC02 << 32 | (FREE >> 16) << 48,
    );
    b.put(FREE, &[0xF4]);
    // push 0x11; push 0x22; call far OWN:0
    let code = [0x6A, 0x11, 0x6A, 0x22, 0x9A, 0, 0, 0, 0, OWN as u8, 0];
    let esp = b.cpu().regs[cpu::RSP];
    assert_eq!(b.run(&code), Ended::Elsewhere(FREE + 1));
    assert_eq!(b.cpu().regs[cpu::RSP], RING0_STACK - 24);
    let frame: [u64; 6] = std::array::from_fn(|n| b.get(RING0_STACK - 24 + 4 * n as u64, 4));
    assert_eq!(frame, [USER_CODE + 11, USER_CS32.into(), 0x22, 0x11, esp - 8, USER_DS.into()]);
}

#[test]
fn far_return_to_ring_3_takes_the_outer_stack() {
    let mut b = Bench::protected();
    b.put(USER_CODE, &[0xF4]);
    let frame = [USER_CODE as u32, USER_CS32.into(), 0xAAAA, 0x30_0000, USER_DS.into()];
    for (n, word) in frame.into_iter().enumerate() {
        b.put(FREE + 4 * n as u64, &word.to_le_bytes());
    }
    b.cpu().regs[cpu::RSP] = FREE;
    // retf 4: releases the parameter on both stacks; ring 3 may not halt
    let ended = b.run(&[0xCA, 4, 0]);
    assert_eq!(ended, at(GP, 0, USER_CODE as i64 - CODE as i64));
    assert_eq!(b.frame()[3], 0x30_0004);
    assert!(!b.cpu().segs[cpu::DS].usable, "ring-0 data segments are dropped");
}

#[test]
fn interrupts_change_stacks() {
    let mut b = Bench::protected().user32();
    let esp = b.cpu().regs[cpu::RSP];
    assert_eq!(b.run(&[0x0F, 0x0B]), fault(6, 0));
    let frame = b.frame();
    assert_eq!((frame[1], frame[3], frame[4]), (USER_CS32.into(), esp, USER_DS.into()));
    assert_eq!(b.cpu().regs[cpu::RSP], RING0_STACK - 20);
    let mut b = Bench::protected().user32();
    b.put(TSS + 8, &u32::from(USER_DS).to_le_bytes());
    b.gate32(10, 0x8E00);
    task_gate(&mut b, 10);
    assert_eq!(
        b.run(&[0x0F, 0x0B]),
        Ended::Vector {
            vector: TS,
            error: u32::from(USER_DS & !3) | EXTERNAL,
            at: task_at(&mut b)
        }
    );
}

/// Where a task's handler finds the pushed word that [`Bench::frame`] takes for EIP: there is none.
fn task_at(b: &mut Bench) -> i64 {
    b.frame()[0] as i64 - USER_CODE as i64
}

const OTHER_TSS: u64 = FREE + 0x4000;

/// A second task at [`OTHER_TSS`] whose code halts at FREE.
fn second_task(b: &mut Bench) {
    new_task(b, OTHER_TSS, FREE, OWN);
    b.put(FREE, &[0xF4]);
}

#[test]
fn jump_to_a_task() {
    let mut b = Bench::protected();
    second_task(&mut b);
    b.cpu().regs[cpu::RBX] = 0x1234_5678;
    assert_eq!(b.run(&[0xEA, 0, 0, 0, 0, OWN as u8, 0]), Ended::Elsewhere(FREE + 1));
    assert_eq!(b.cpu().tr.selector, OWN);
    assert_eq!(b.get(GDT + u64::from(OWN) + 5, 1), 0x8B, "the new task is busy");
    assert_eq!(b.get(GDT + u64::from(TR) + 5, 1), 0x89, "the old one is not");
    assert_eq!(b.get(TSS + 0x20, 4), CODE + 7, "EIP is saved");
    assert_eq!(b.get(TSS + 0x34, 4), 0x1234_5678, "EBX is saved");
    assert_eq!(b.cpu().cr0 & cpu::cr0::TS, cpu::cr0::TS);
    assert_eq!(b.cpu().flags.get() & 0x4000, 0);
}

#[test]
fn call_of_a_task_and_return() {
    let mut b = Bench::protected();
    second_task(&mut b);
    b.put(FREE, &[0xCF]);
    assert_eq!(b.run(&[0x9A, 0, 0, 0, 0, OWN as u8, 0]), Ended::Done);
    assert_eq!(b.cpu().tr.selector, TR);
    assert_eq!(b.get(OTHER_TSS, 2), u64::from(TR), "the link");
    assert_eq!(b.get(OTHER_TSS + 0x20, 4), FREE + 1, "IRET saves the EIP behind it");
    assert_eq!(b.get(GDT + u64::from(TR) + 5, 1), 0x8B);
    assert_eq!(b.get(GDT + u64::from(OWN) + 5, 1), 0x89);
}

#[test]
fn tasks_that_cannot_be_entered() {
    const JUMP: &[u8] = &[0xEA, 0, 0, 0, 0, OWN as u8, 0];
    check(
        Bench::protected,
        &[
            ("not present", |b| b.descriptor(OWN, 0x0000_0900_0000_0067), JUMP, fault(NP, 0x60)),
            ("limit", |b| b.descriptor(OWN, 0x0000_8910_0000_0066), JUMP, fault(TS, 0x60)),
            ("IRET with NT to a task that is not busy", nested, &[0xCF], fault(TS, 0x60)),
        ],
    );
}

fn nested(b: &mut Bench) {
    second_task(b);
    b.put(TSS, &OWN.to_le_bytes());
    b.cpu().flags.set(0x4002);
}

#[test]
fn task_gate_in_the_idt() {
    let mut b = Bench::protected();
    new_task(&mut b, OTHER_TSS, 0xA000 + 16 * 13, OWN);
    b.put64(0x9000 + 8 * 13, u64::from(OWN) << 16 | 0x8500 << 32);
    // mov ds, [null + 0x800]: #GP(0x800) in the other task, with its error code on that task's
    // stack
    b.cpu().regs[cpu::RAX] = 0x800;
    assert!(matches!(b.run(&[0x8E, 0xD8]), Ended::Vector { vector: 13, error: 0x800, .. }));
    assert_eq!(b.cpu().regs[cpu::RSP], 0xC000 - 4);
    assert_eq!(b.get(TSS + 0x20, 4), CODE, "EIP of the fault is saved");
    assert_ne!(b.cpu().flags.get() & 0x4000, 0, "NT");
}
