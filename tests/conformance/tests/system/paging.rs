//! Page faults and their error codes (SDM 3A 4.6, 4.7), accessed and dirty bits (4.8).

use crate::bench::{Bench, CODE, Ended, FREE, LOW_TABLE, USER_CODE, USER_TABLE, check, fault};
use crate::segments::to_user;
use emulator::cpu::{self, cr0, cr4, efer};

const LOAD: &[u8] = &[0x48, 0x8B, 0x08];
const STORE: &[u8] = &[0x48, 0x89, 0x08];
const JUMP: &[u8] = &[0xFF, 0xE0];
const INCREMENT: &[u8] = &[0x48, 0xFF, 0x00];
const PF: u8 = 14;
const PAGE: u64 = FREE;
const USER_PAGE: u64 = USER_CODE + 0x4000;

/// Gives the page at `address` this entry, and points RAX at it.
fn entry(b: &mut Bench, address: u64, entry: u64) {
    let table = if address >= USER_CODE { USER_TABLE } else { LOW_TABLE };
    b.put64(table + 8 * (address >> 12 & 511), address & !0xFFF | entry);
    b.cpu().regs[cpu::RAX] = address;
}

fn user(b: &mut Bench, address: u64, flags: u64) {
    to_user(b);
    entry(b, address, flags);
}

#[test]
fn supervisor_accesses() {
    const NX: u64 = 1 << 63;
    check(
        Bench::long,
        &[
            ("read, not present", |b| entry(b, PAGE, 0), LOAD, fault(PF, 0)),
            ("write, not present", |b| entry(b, PAGE, 2), STORE, fault(PF, 2)),
            ("read-modify-write is a write", |b| entry(b, PAGE, 0), INCREMENT, fault(PF, 2)),
            ("read, read-only", |b| entry(b, PAGE, 1), LOAD, Ended::Done),
            ("write, read-only, WP", |b| entry(b, PAGE, 1), STORE, fault(PF, 3)),
            ("write, read-only, no WP", no_write_protect, STORE, Ended::Done),
            ("reserved bit", |b| entry(b, PAGE, 1 << 50 | 3), LOAD, fault(PF, 9)),
            ("reserved bit, not present", |b| entry(b, PAGE, 1 << 50 | 2), LOAD, fault(PF, 0)),
            ("read, NX", |b| entry(b, PAGE, NX | 3), LOAD, Ended::Done),
            ("NX without NXE is reserved", no_nxe, LOAD, fault(PF, 9)),
            ("user page, SMAP", |b| smap(b, 0), LOAD, fault(PF, 1)),
            ("user page written, SMAP", |b| smap(b, 0), STORE, fault(PF, 3)),
            ("user page, SMAP and AC", |b| smap(b, 1 << 18), LOAD, Ended::Done),
            ("user page", |b| entry(b, USER_PAGE, 7), STORE, Ended::Done),
        ],
    );
}

fn no_write_protect(b: &mut Bench) {
    b.cpu().cr0 &= !cr0::WP;
    entry(b, PAGE, 1);
}

fn no_nxe(b: &mut Bench) {
    b.cpu().efer &= !efer::NXE;
    entry(b, PAGE, 1 << 63 | 3);
}

fn smap(b: &mut Bench, flags: u64) {
    b.cpu().cr4 |= cr4::SMAP;
    b.cpu().flags.set(2 | flags);
    entry(b, USER_PAGE, 7);
}

#[test]
fn user_accesses() {
    check(
        Bench::long,
        &[
            ("supervisor page", |b| user(b, PAGE, 3), LOAD, fault(PF, 5)),
            ("supervisor page, written", |b| user(b, PAGE, 3), STORE, fault(PF, 7)),
            ("not present", |b| user(b, USER_PAGE, 4), LOAD, fault(PF, 4)),
            ("read-only", |b| user(b, USER_PAGE, 5), STORE, fault(PF, 7)),
            ("read", |b| user(b, USER_PAGE, 5), &[0x8B, 0x08, 0x0F, 0x0B], undefined_after(2)),
            ("no write although WP is off", user_without_wp, STORE, fault(PF, 7)),
        ],
    );
}

/// #UD at `offset`: how ring-3 code ends that may not halt.
fn undefined_after(offset: i64) -> Ended {
    Ended::Vector { vector: 6, error: 0, at: offset }
}

fn user_without_wp(b: &mut Bench) {
    b.cpu().cr0 &= !cr0::WP;
    user(b, USER_PAGE, 5);
}

#[test]
fn fetches() {
    let target = |address: u64, error: u32, start: u64| Ended::Vector {
        vector: PF,
        error,
        at: address as i64 - start as i64,
    };
    check(
        Bench::long,
        &[
            ("not present", |b| entry(b, PAGE, 0), JUMP, target(PAGE, 0x10, CODE)),
            ("NX", |b| entry(b, PAGE, 1 << 63 | 3), JUMP, target(PAGE, 0x11, CODE)),
            ("user page, SMEP", smep, JUMP, target(USER_PAGE, 0x11, CODE)),
            (
                "NX in ring 3",
                |b| user(b, USER_PAGE, 1 << 63 | 7),
                JUMP,
                target(USER_PAGE, 0x15, USER_CODE),
            ),
            (
                "supervisor page in ring 3",
                |b| user(b, PAGE, 3),
                JUMP,
                target(PAGE, 0x15, USER_CODE),
            ),
        ],
    );
}

fn smep(b: &mut Bench) {
    b.cpu().cr4 |= cr4::SMEP;
    entry(b, USER_PAGE, 7);
}

#[test]
fn cr2_names_the_first_byte_that_faults() {
    let mut b = Bench::long();
    entry(&mut b, PAGE + 0x1000, 0);
    b.cpu().regs[cpu::RAX] = PAGE + 0xFFD;
    assert_eq!(b.run(STORE), fault(PF, 2));
    assert_eq!(b.cpu().cr2, PAGE + 0x1000);
    assert_eq!(b.get(PAGE + 0xFFD, 3), 0, "nothing is written before the fault");
}

#[test]
fn accessed_and_dirty_bits() {
    let flags = |code: &[u8]| {
        let mut b = Bench::long();
        entry(&mut b, PAGE, 3);
        assert_eq!(b.run(code), Ended::Done);
        b.get(LOW_TABLE + 8 * (PAGE >> 12), 8) & 0x60
    };
    assert_eq!(flags(LOAD), 0x20);
    assert_eq!(flags(STORE), 0x60);
    let mut b = Bench::long();
    entry(&mut b, PAGE, 1);
    assert_eq!(b.run(STORE), fault(PF, 3));
    assert_eq!(b.get(LOW_TABLE + 8 * (PAGE >> 12), 8) & 0x40, 0, "a faulting write leaves D clear");
}

#[test]
fn a_read_then_a_write_sets_the_dirty_bit() {
    let mut b = Bench::long();
    entry(&mut b, PAGE, 3);
    assert_eq!(b.run(&[0x48, 0x8B, 0x08, 0x48, 0x89, 0x08]), Ended::Done);
    assert_eq!(b.get(LOW_TABLE + 8 * (PAGE >> 12), 8) & 0x60, 0x60);
}

/// Translations are kept until they are invalidated: a changed entry counts after INVLPG.
#[test]
fn invlpg_forgets_a_translation() {
    // mov rcx,[rax]; mov qword [rbx],0; invlpg [rax]; mov rcx,[rax]
    let code = [0x48, 0x8B, 0x08, 0x48, 0xC7, 0x03, 0, 0, 0, 0, 0x0F, 0x01, 0x38, 0x48, 0x8B, 0x08];
    let mut b = Bench::long();
    entry(&mut b, PAGE, 3);
    b.cpu().regs[cpu::RBX] = LOW_TABLE + 8 * (PAGE >> 12);
    assert_eq!(b.run(&code), Ended::Vector { vector: PF, error: 0, at: 13 });
}

#[test]
fn addresses_that_are_not_canonical() {
    // #SS needs another stack than the one that is wrong.
    fn at(b: &mut Bench, register: usize, address: u64) {
        b.cpu().regs[register] = address;
        b.gate64(12, 0x8E00, 1);
        b.put64(crate::bench::TSS + 36, 0xF000);
    }
    check(
        Bench::long,
        &[
            ("load", |b| at(b, cpu::RAX, 1 << 47), LOAD, fault(13, 0)),
            (
                "the last byte is not canonical",
                |b| at(b, cpu::RAX, (1 << 47) - 4),
                LOAD,
                fault(13, 0),
            ),
            ("push", |b| at(b, cpu::RSP, 1 << 47 | 0x100), &[0x50], fault(12, 0)),
            ("RSP-based", |b| at(b, cpu::RSP, 1 << 47), &[0x48, 0x8B, 0x04, 0x24], fault(12, 0)),
            ("RBP-based", |b| at(b, cpu::RBP, 1 << 47), &[0x48, 0x8B, 0x45, 0x00], fault(12, 0)),
            ("jump", |b| at(b, cpu::RAX, 1 << 47), JUMP, fault(13, 0)),
        ],
    );
}
