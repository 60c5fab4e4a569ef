//! Virtual-8086 mode and real-address mode (SDM 3A chapter 21).

use crate::bench::{
    Bench, CODE, Ended, FREE, RING0_STACK, USER_CODE, USER_CS32, USER_DS, check, fault,
};
use emulator::cpu;

const VM: u64 = 1 << 17;
const GP: u8 = 13;

/// Virtual-8086 mode with all segments 0 and this IOPL.
fn v86(b: &mut Bench, iopl: u64) {
    let cpu = b.cpu();
    for segment in &mut cpu.segs {
        segment.load_real(0);
        segment.limit = 0xFFFF;
        segment.access = 0xF3;
    }
    cpu.cpl = 3;
    cpu.flags.set(2 | VM | iopl << 12);
    cpu.regs[cpu::RSP] = 0xD000;
}

#[test]
fn sensitive_instructions() {
    let int3 = Ended::Vector { vector: 3, error: 0, at: 1 };
    let halted = |at| Ended::Vector { vector: GP, error: 0, at };
    check(
        Bench::protected,
        &[
            ("HLT", |b| v86(b, 3), &[0xF4], fault(GP, 0)),
            ("CLI, IOPL 0", |b| v86(b, 0), &[0xFA], fault(GP, 0)),
            ("CLI, IOPL 3", |b| v86(b, 3), &[0xFA], halted(1)),
            ("PUSHF, IOPL 0", |b| v86(b, 0), &[0x9C], fault(GP, 0)),
            ("PUSHF, IOPL 3", |b| v86(b, 3), &[0x9C], halted(1)),
            ("POPF, IOPL 0", |b| v86(b, 0), &[0x9D], fault(GP, 0)),
            ("INT n, IOPL 0", |b| v86(b, 0), &[0xCD, 0x50], fault(GP, 0)),
            ("INT n, IOPL 3, gate of DPL 0", |b| v86(b, 3), &[0xCD, 0x50], fault(GP, 0x50 * 8 + 2)),
            (
                "INT n, IOPL 3",
                int_allowed,
                &[0xCD, 0x50],
                Ended::Vector { vector: 0x50, error: 0, at: 2 },
            ),
            ("INT3, IOPL 0", breakpoint_allowed, &[0xCC], int3),
            ("IRET, IOPL 0", |b| v86(b, 0), &[0xCF], fault(GP, 0)),
            ("IN, closed by the bitmap", |b| v86(b, 3), &[0xE4, 0x80], fault(GP, 0)),
            ("LLDT", |b| v86(b, 3), &[0x0F, 0x00, 0xD0], fault(6, 0)),
            ("ARPL", |b| v86(b, 3), &[0x63, 0xC0], fault(6, 0)),
            ("LAR", |b| v86(b, 3), &[0x0F, 0x02, 0xC0], fault(6, 0)),
            ("MOV from CR0", |b| v86(b, 3), &[0x0F, 0x20, 0xC0], fault(GP, 0)),
            ("beyond 64 KiB", |b| v86(b, 3), &[0x66, 0xA1, 0xFE, 0xFF], fault(GP, 0)),
        ],
    );
}

fn int_allowed(b: &mut Bench) {
    v86(b, 3);
    b.gate32(0x50, 0xEE00);
}

fn breakpoint_allowed(b: &mut Bench) {
    v86(b, 0);
    b.gate32(3, 0xEE00);
}

#[test]
fn leaving_virtual_8086_mode() {
    let mut b = Bench::protected();
    v86(&mut b, 3);
    for (n, segment) in [(cpu::ES, 0x11), (cpu::DS, 0x22), (cpu::FS, 0x33), (cpu::GS, 0x44)] {
        b.cpu().segs[n].load_real(segment);
    }
    assert_eq!(b.run(&[0x0F, 0x0B]), fault(6, 0));
    assert_eq!(b.cpu().regs[cpu::RSP], RING0_STACK - 36);
    let frame = b.frame();
    assert_eq!((frame[0], frame[1]), (CODE, 0));
    assert_eq!(frame[2] & VM, VM);
    assert_eq!(frame[3..9], [0xD000, 0, 0x11, 0x22, 0x33, 0x44]);
    assert!(
        !b.cpu().segs[cpu::DS].usable && !b.cpu().segs[cpu::GS].usable,
        "data segments are null"
    );
    assert!(!b.cpu().v86());
}

#[test]
fn entering_by_iret() {
    let mut b = Bench::protected();
    b.put(0x1_0010, &[0x0F, 0x0B]);
    let frame = [0x10u32, 0x1000, (VM | 2) as u32, 0x8000, 0x2000, 0x11, 0x22, 0x33, 0x44];
    for (n, word) in frame.into_iter().enumerate() {
        b.put(FREE + 4 * n as u64, &word.to_le_bytes());
    }
    b.cpu().regs[cpu::RSP] = FREE;
    let ended = b.run(&[0xCF]);
    assert_eq!(ended, Ended::Vector { vector: 6, error: 0, at: 0x10 - CODE as i64 });
    assert_eq!(b.frame()[1..], [0x1000, b.frame()[2], 0x8000, 0x2000, 0x11, 0x22, 0x33, 0x44]);
}

#[test]
fn iret_in_ring_3_does_not_enter_it() {
    let mut b = Bench::protected().user32();
    for (n, word) in
        [USER_CODE as u32 + 1, USER_CS32.into(), (VM | 2) as u32].into_iter().enumerate()
    {
        b.put(USER_CODE + 0x1000 + 4 * n as u64, &word.to_le_bytes());
    }
    b.cpu().regs[cpu::RSP] = USER_CODE + 0x1000;
    assert_eq!(b.run(&[0xCF]), Ended::Vector { vector: GP, error: 0, at: 1 });
    assert_eq!(
        (b.frame()[1], b.frame()[2] & VM, b.frame()[4]),
        (USER_CS32.into(), 0, USER_DS.into())
    );
}

#[test]
fn real_mode() {
    let vector = |vector, at| Ended::Vector { vector, error: 0, at };
    check(
        Bench::real,
        &[
            ("INT n", |_| (), &[0xCD, 0x50], vector(0x50, 2)),
            ("#UD", |_| (), &[0x0F, 0x0B], vector(6, 0)),
            ("#DE", |_| (), &[0xF7, 0xF1], vector(0, 0)),
            ("word at 0xFFFF", |_| (), &[0xA1, 0xFF, 0xFF], vector(13, 0)),
            ("stack wraps", |b| b.cpu().regs[cpu::RSP] = 0, &[0x50], Ended::Done),
            ("stack at 1", |b| b.cpu().regs[cpu::RSP] = 1, &[0x50], Ended::Reset),
            ("LLDT", |_| (), &[0x0F, 0x00, 0xD0], vector(6, 0)),
            ("IVT limit", |b| b.cpu().idtr.limit = 0x100, &[0xCD, 0x50], vector(13, 0)),
            ("segment load", |b| b.cpu().regs[0] = 0x1234, &[0x8E, 0xD8], Ended::Done),
            ("HLT", |_| (), &[0x90], Ended::Done),
        ],
    );
    let mut b = Bench::real();
    b.cpu().regs[cpu::RAX] = 0x1234;
    assert_eq!(b.run(&[0x8E, 0xD8]), Ended::Done);
    assert_eq!(b.cpu().segs[cpu::DS].base, 0x1_2340);
}

#[test]
fn protected_mode_is_entered_and_left() {
    // mov eax,cr0; or al,1; mov cr0,eax; jmp 0x10:next (32-bit); next: hlt
    let mut b = Bench::real();
    let code =
        [0x0F, 0x20, 0xC0, 0x0C, 0x01, 0x0F, 0x22, 0xC0, 0x66, 0xEA, 0x10, 0x70, 0, 0, 0x10, 0];
    assert_eq!(b.run(&code), Ended::Done);
    assert_eq!(b.cpu().segs[cpu::CS].selector, 0x10);
    assert!(b.cpu().segs[cpu::CS].big());
}
