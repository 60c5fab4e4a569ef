//! Interrupt gates, call gates, IRET, SYSCALL and SYSENTER in long mode (SDM 3A 6.12 to 6.15, 5.8).

use crate::bench::{
    Bench, CODE, CS64, DS0, Ended, FREE, IDT, OWN, RING0_STACK, TSS, USER_CODE, USER_CS64, USER_DS,
    check, fault,
};
use crate::segments::to_user;
use emulator::cpu;

const UD2: &[u8] = &[0x0F, 0x0B];
const IRETQ: &[u8] = &[0x48, 0xCF];
const NP: u8 = 11;
const GP: u8 = 13;

#[test]
fn software_interrupts() {
    const INT_50: &[u8] = &[0xCD, 0x50];
    let trap = |vector: u8, length: i64| Ended::Vector { vector, error: 0, at: length };
    check(
        Bench::long,
        &[
            ("INT n", |_| (), INT_50, trap(0x50, 2)),
            ("INT3", |_| (), &[0xCC], trap(3, 1)),
            ("INT1", |_| (), &[0xF1], trap(1, 1)),
            ("gate not present", |b| b.gate64(0x50, 0x0E00, 0), INT_50, fault(NP, 0x50 * 8 + 2)),
            ("not a gate", |b| b.gate64(0x50, 0x8200, 0), INT_50, fault(GP, 0x50 * 8 + 2)),
            ("32-bit task gate", |b| b.gate64(0x50, 0x8500, 0), INT_50, fault(GP, 0x50 * 8 + 2)),
            ("past the IDT", |b| b.cpu().idtr.limit = 0x4FF, INT_50, fault(GP, 0x50 * 8 + 2)),
            ("DPL 0 from ring 3", to_user, INT_50, fault(GP, 0x50 * 8 + 2)),
            ("DPL 3 from ring 3", |b| open_gate(b), INT_50, trap(0x50, 2)),
            ("code segment null", |b| b.put(IDT + 0x502, &[0, 0]), INT_50, fault(GP, 0)),
            ("code segment is data", |b| b.put(IDT + 0x502, &[0x18, 0]), INT_50, fault(GP, 0x18)),
            ("code segment is 32-bit", |b| b.put(IDT + 0x502, &[0x10, 0]), INT_50, fault(GP, 0x10)),
            ("INT3, gate not present", |b| b.gate64(3, 0x0E00, 0), &[0xCC], fault(NP, 3 * 8 + 2)),
        ],
    );
}

fn open_gate(b: &mut Bench) {
    to_user(b);
    b.gate64(0x50, 0xEE00, 0);
}

#[test]
fn faults_in_delivery() {
    check(
        Bench::long,
        &[
            // An exception is external to the program: EXT is set.
            ("#UD, gate not present", |b| b.gate64(6, 0x0E00, 0), UD2, fault(NP, 6 * 8 + 3)),
            ("#UD and #NP, gates not present", two_gates, UD2, fault(8, 0)),
            ("#UD, #NP and #DF", three_gates, UD2, Ended::Reset),
            ("stack not canonical", |b| b.cpu().regs[cpu::RSP] = 1 << 47, UD2, Ended::Reset),
            ("stack not present", |b| b.cpu().regs[cpu::RSP] = 0x4000_0000, UD2, Ended::Reset),
            ("#DF has a stack of its own", double_fault_stack, UD2, fault(8, 0)),
        ],
    );
}

fn two_gates(b: &mut Bench) {
    b.gate64(6, 0x0E00, 0);
    b.gate64(11, 0x0E00, 0);
}

fn three_gates(b: &mut Bench) {
    two_gates(b);
    b.gate64(8, 0x0E00, 0);
}

fn double_fault_stack(b: &mut Bench) {
    b.cpu().regs[cpu::RSP] = 0x4000_0000;
    b.gate64(8, 0x8E00, 1);
    b.put64(TSS + 36, 0xF000);
}

#[test]
fn the_frame_of_an_interrupt() {
    let mut b = Bench::long();
    to_user(&mut b);
    let rsp = b.cpu().regs[cpu::RSP];
    b.cpu().flags.set(0x0A93);
    assert_eq!(b.run(UD2), fault(6, 0));
    let frame = b.frame();
    assert_eq!(frame[0], USER_CODE);
    assert_eq!(frame[1], u64::from(USER_CS64));
    assert_eq!(frame[2] & !(1 << 16), 0x0A93);
    assert_eq!(frame[3], rsp);
    assert_eq!(frame[4], u64::from(USER_DS));
    assert_eq!(b.cpu().regs[cpu::RSP], RING0_STACK - 40);
    assert_eq!(b.cpu().segs[cpu::SS].selector, 0, "SS is null in the new ring");
}

#[test]
fn the_stack_of_a_frame_is_aligned() {
    let mut b = Bench::long();
    b.cpu().regs[cpu::RSP] = 0xCFF7;
    assert_eq!(b.run(UD2), fault(6, 0));
    assert_eq!(b.cpu().regs[cpu::RSP], 0xCFF0 - 40);
    assert_eq!(b.frame()[3], 0xCFF7);
}

#[test]
fn interrupt_gates_clear_if_and_trap_gates_do_not() {
    for (attributes, expected) in [(0x8E00, 0), (0x8F00, 0x200)] {
        let mut b = Bench::long();
        b.gate64(6, attributes, 0);
        b.cpu().flags.set(0x202);
        assert_eq!(b.run(UD2), fault(6, 0));
        assert_eq!(b.cpu().flags.get() & 0x200, expected);
    }
}

fn iret_frame(b: &mut Bench, frame: [u64; 5]) {
    b.cpu().regs[cpu::RSP] = FREE + 0x1000;
    for (n, word) in frame.into_iter().enumerate() {
        b.put64(FREE + 0x1000 + 8 * n as u64, word);
    }
}

#[test]
fn iret() {
    fn to(b: &mut Bench, rip: u64, cs: u16, ss: u16) {
        iret_frame(b, [rip, cs.into(), 2, 0xC000, ss.into()]);
    }
    let user = Ended::Vector { vector: GP, error: 0, at: USER_CODE as i64 - CODE as i64 };
    check(
        Bench::long,
        &[
            ("to the same ring", |b| to(b, CODE + 2, CS64, DS0), IRETQ, Ended::Done),
            ("to the same ring, null SS", |b| to(b, CODE + 2, CS64, 0), IRETQ, Ended::Done),
            ("to ring 3", |b| to_ring3(b), IRETQ, user),
            ("CS null", |b| to(b, CODE, 0, DS0), IRETQ, fault(GP, 0)),
            ("CS is data", |b| to(b, CODE, DS0, DS0), IRETQ, fault(GP, 0x18)),
            ("CS past the GDT", |b| to(b, CODE, 0x800, DS0), IRETQ, fault(GP, 0x800)),
            ("CS not present", |b| not_present(b), IRETQ, fault(NP, 0x60)),
            ("RIP not canonical", |b| to(b, 1 << 47, CS64, DS0), IRETQ, fault(GP, 0)),
            (
                "ring 3 with a ring-0 SS",
                |b| to(b, USER_CODE, USER_CS64, DS0),
                IRETQ,
                fault(GP, 0x18),
            ),
            ("32-bit ring 3 with null SS", |b| to(b, USER_CODE, 0x23, 3), IRETQ, fault(GP, 0)),
            ("NT in long mode", |b| b.cpu().flags.set(0x4002), IRETQ, fault(GP, 0)),
        ],
    );
    fn to_ring3(b: &mut Bench) {
        b.put(USER_CODE, &[0xF4]);
        to(b, USER_CODE, USER_CS64, USER_DS);
    }
    fn not_present(b: &mut Bench) {
        b.descriptor(OWN, 0x00AF_1B00_0000_FFFF);
        to(b, CODE, OWN, DS0);
    }
}

#[test]
fn syscall_and_sysret() {
    let mut b = Bench::long();
    to_user(&mut b);
    let cpu = b.cpu();
    cpu.msrs.star = 0x0013_0008_0000_0000;
    cpu.msrs.lstar = FREE;
    cpu.msrs.sfmask = 0x300;
    cpu.flags.set(0x203);
    b.put(FREE, &[0xF4]);
    assert_eq!(b.run(&[0x0F, 0x05]), Ended::Elsewhere(FREE + 1));
    let cpu = b.cpu();
    assert_eq!(cpu.regs[cpu::RCX], USER_CODE + 2);
    assert_eq!(cpu.regs[11] & 0x301, 0x201);
    assert_eq!(cpu.flags.get() & 0x301, 1);
    assert_eq!((cpu.segs[cpu::CS].selector, cpu.segs[cpu::SS].selector, cpu.cpl), (0x08, 0x10, 0));
    // And back: STAR[63:48] is 0x13, so CS becomes 0x23 and SS 0x1B.
    b.put(USER_CODE + 2, &[0xF4]);
    assert_eq!(
        b.run(&[0x48, 0x0F, 0x07]),
        Ended::Vector { vector: GP, error: 0, at: (USER_CODE + 2) as i64 - CODE as i64 }
    );
    assert_eq!((b.frame()[1], b.frame()[4]), (0x23, 0x1B));
}

#[test]
fn sysret_to_an_address_that_is_not_canonical_faults_in_ring_0() {
    let mut b = Bench::long();
    b.cpu().regs[cpu::RCX] = 1 << 47;
    assert_eq!(b.run(&[0x48, 0x0F, 0x07]), fault(GP, 0));
    assert_eq!(b.frame()[1], u64::from(CS64));
}

#[test]
fn call_gate_from_ring_3() {
    let mut b = Bench::long();
    to_user(&mut b);
    // A 64-bit call gate with DPL 3 to FREE.
    b.put64(
        0x8000 + u64::from(OWN),
        (FREE & 0xFFFF) | 0x08 << 16 | 0xEC00 << 32 | (FREE >> 16) << 48,
    );
    b.put64(0x8000 + u64::from(OWN) + 8, 0);
    b.put(FREE, &[0xF4]);
    let rsp = b.cpu().regs[cpu::RSP];
    b.put(USER_CODE + 0x100, &[0, 0, 0, 0, OWN as u8, 0]);
    b.cpu().regs[cpu::RAX] = USER_CODE + 0x100;
    assert_eq!(b.run(&[0xFF, 0x18]), Ended::Elsewhere(FREE + 1));
    assert_eq!(b.cpu().regs[cpu::RSP], RING0_STACK - 32);
    let frame: [u64; 4] = std::array::from_fn(|n| b.get(RING0_STACK - 32 + 8 * n as u64, 8));
    assert_eq!(frame, [USER_CODE + 2, u64::from(USER_CS64), rsp, u64::from(USER_DS)]);
}
