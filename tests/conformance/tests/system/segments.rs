//! Loads of segment and table registers (SDM 2A MOV, LLDT, LTR; 3A 5.5 to 5.7, 6.15).

use crate::bench::{Bench, DS0, Ended, FREE, GDT, OWN, TR, USER_DS, check, fault};
use emulator::cpu;

const MOV_DS_AX: &[u8] = &[0x8E, 0xD8];
const MOV_SS_AX: &[u8] = &[0x8E, 0xD0];
const MOV_FS_AX: &[u8] = &[0x8E, 0xE0];
const LLDT_AX: &[u8] = &[0x0F, 0x00, 0xD0];
const LTR_AX: &[u8] = &[0x0F, 0x00, 0xD8];
const NP: u8 = 11;
const SS: u8 = 12;
const GP: u8 = 13;

fn load(b: &mut Bench, selector: u16, descriptor: u64) {
    b.descriptor(OWN, descriptor);
    b.cpu().regs[cpu::RAX] = u64::from(selector);
}

#[test]
fn data_segments() {
    check(
        Bench::long,
        &[
            ("null DS", |b| b.cpu().regs[0] = 3, MOV_DS_AX, Ended::Done),
            ("flat DS", |b| b.cpu().regs[0] = u64::from(DS0), MOV_DS_AX, Ended::Done),
            ("outer DS", |b| b.cpu().regs[0] = u64::from(USER_DS), MOV_DS_AX, Ended::Done),
            ("readable code", |b| load(b, OWN, 0x00CF_9B00_0000_FFFF), MOV_DS_AX, Ended::Done),
            (
                "execute-only code",
                |b| load(b, OWN, 0x00CF_9900_0000_FFFF),
                MOV_DS_AX,
                fault(GP, 0x60),
            ),
            ("not present", |b| load(b, OWN, 0x00CF_1300_0000_FFFF), MOV_DS_AX, fault(NP, 0x60)),
            (
                "RPL over DPL",
                |b| load(b, OWN | 3, 0x00CF_9300_0000_FFFF),
                MOV_DS_AX,
                fault(GP, 0x60),
            ),
            (
                "conforming code",
                |b| load(b, OWN | 3, 0x00CF_9F00_0000_FFFF),
                MOV_DS_AX,
                Ended::Done,
            ),
            (
                "system descriptor",
                |b| load(b, OWN, 0x0000_8900_0000_0067),
                MOV_FS_AX,
                fault(GP, 0x60),
            ),
            ("past the GDT", |b| b.cpu().regs[0] = 0x400, MOV_FS_AX, fault(GP, 0x400)),
            ("no LDT", |b| b.cpu().regs[0] = 0x0C, MOV_DS_AX, fault(GP, 0x0C)),
            ("MOV to CS", |_| (), &[0x8E, 0xC8], fault(6, 0)),
        ],
    );
}

#[test]
fn a_loaded_descriptor_is_marked_accessed() {
    let mut b = Bench::long();
    load(&mut b, OWN, 0x00CF_9200_0000_FFFF);
    assert_eq!(b.run(MOV_DS_AX), Ended::Done);
    assert_eq!(b.get(GDT + u64::from(OWN) + 5, 1), 0x93);
}

#[test]
fn stack_segments() {
    check(
        Bench::long,
        &[
            ("null in ring 0", |b| b.cpu().regs[0] = 0, MOV_SS_AX, Ended::Done),
            ("null with RPL 1 in ring 0", |b| b.cpu().regs[0] = 1, MOV_SS_AX, fault(GP, 0)),
            ("flat", |b| b.cpu().regs[0] = u64::from(DS0), MOV_SS_AX, Ended::Done),
            ("outer", |b| b.cpu().regs[0] = u64::from(USER_DS), MOV_SS_AX, fault(GP, 0x28)),
            ("not present", |b| load(b, OWN, 0x00CF_1300_0000_FFFF), MOV_SS_AX, fault(SS, 0x60)),
            ("read-only", |b| load(b, OWN, 0x00CF_9100_0000_FFFF), MOV_SS_AX, fault(GP, 0x60)),
            ("code", |b| load(b, OWN, 0x00CF_9B00_0000_FFFF), MOV_SS_AX, fault(GP, 0x60)),
        ],
    );
    check(
        Bench::protected,
        &[
            ("null in protected mode", |b| b.cpu().regs[0] = 0, MOV_SS_AX, fault(GP, 0)),
            (
                "flat in protected mode",
                |b| b.cpu().regs[0] = u64::from(DS0),
                MOV_SS_AX,
                Ended::Done,
            ),
        ],
    );
}

#[test]
fn table_registers() {
    check(
        Bench::long,
        &[
            ("LLDT null", |b| b.cpu().regs[0] = 0, LLDT_AX, Ended::Done),
            ("LLDT of data", |b| b.cpu().regs[0] = u64::from(DS0), LLDT_AX, fault(GP, 0x18)),
            ("LLDT of an LDT selector", |b| b.cpu().regs[0] = 4, LLDT_AX, fault(GP, 4)),
            ("LLDT", |b| load(b, OWN, 0x0000_8210_0000_00FF), LLDT_AX, Ended::Done),
            ("LLDT not present", |b| load(b, OWN, 0x0000_0210_0000_00FF), LLDT_AX, fault(NP, 0x60)),
            ("LTR null", |b| b.cpu().regs[0] = 0, LTR_AX, fault(GP, 0)),
            ("LTR busy", |b| b.cpu().regs[0] = u64::from(TR), LTR_AX, fault(GP, 0x40)),
            ("LTR", |b| load(b, OWN, 0x0000_8910_0000_0067), LTR_AX, Ended::Done),
            ("LTR not present", |b| load(b, OWN, 0x0000_0910_0000_0067), LTR_AX, fault(NP, 0x60)),
            ("LLDT in ring 3", |b| to_user(b), LLDT_AX, fault(GP, 0)),
            ("LTR in ring 3", |b| to_user(b), LTR_AX, fault(GP, 0)),
            (
                "LGDT, base not canonical",
                |b| pointer(b, 1 << 47),
                &[0x0F, 0x01, 0x10],
                fault(GP, 0),
            ),
            (
                "LIDT, base not canonical",
                |b| pointer(b, 1 << 47),
                &[0x0F, 0x01, 0x18],
                fault(GP, 0),
            ),
            ("LGDT", |b| pointer(b, GDT), &[0x0F, 0x01, 0x10], Ended::Done),
        ],
    );
}

fn pointer(b: &mut Bench, base: u64) {
    b.cpu().regs[cpu::RAX] = FREE;
    b.put(FREE, &0x3FFu16.to_le_bytes());
    b.put64(FREE + 2, base);
}

/// Ring 3, 64-bit, within [`check`].
pub fn to_user(b: &mut Bench) {
    b.set_segments(crate::bench::USER_CS64, USER_DS);
    b.cpu().regs[cpu::RSP] = crate::bench::USER_CODE + 0x2000;
}

#[test]
fn ltr_marks_the_descriptor_busy() {
    let mut b = Bench::long();
    load(&mut b, OWN, 0x0000_8910_0000_0067);
    assert_eq!(b.run(LTR_AX), Ended::Done);
    assert_eq!(b.get(GDT + u64::from(OWN) + 5, 1), 0x8B);
    assert_eq!((b.cpu().tr.base, b.cpu().tr.limit), (0x10_0000, 0x67));
}
