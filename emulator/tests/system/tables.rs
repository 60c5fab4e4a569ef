//! Paging structures that change while translations are cached from them, without a flush by the
//! guest: what follows sees the change at once, whatever is known about the pages they are in.

use crate::lab::*;
use emulator::cpu::{RCX, RDI, RDX, RSI, cr4};

/// Two more page tables, for the 2 MiB from [`HIGHER`] on.
const TABLE: u64 = 0xD000;
const OTHER: u64 = 0xE000;
const HIGHER: u64 = 0x20_0000;
/// Entry of the page directory for [`HIGHER`].
const DIRECTORY: u64 = 0x6008;
const PAGE: u64 = 0x5_0000;

/// [`HIGHER`] leads to `DATA` by one table and to `PAGE` by the other, which is not in use.
fn lab(code: &str) -> Lab {
    let mut lab = Lab::new(Mode::Long, 0);
    lab.put(DIRECTORY, TABLE | 7);
    lab.put(TABLE, DATA | 7);
    lab.put(OTHER, PAGE | 7);
    lab.write(PAGE, &[0x11]);
    lab.write(DATA, &[0x22]);
    lab.code(code);
    lab.cpu().regs[RDX] = 0;
    lab.cpu().regs[RDI] = HIGHER;
    lab.cpu().regs[RSI] = DIRECTORY;
    lab.cpu().regs[8] = TABLE;
    lab
}

#[track_caller]
fn check(mut lab: Lab, bl: u64, dx: u64) {
    lab.done();
    assert_eq!((lab.reg(3) & 0xFF, lab.reg(2) & 0xFFFF), (bl, dx));
}

#[test]
fn entry_that_leads_to_a_table_in_use() {
    // mov bl,[rdi]; mov [rsi],rcx; mov dl,[rdi]; hlt
    let mut lab = lab("8A 1F 48 89 0E 8A 17 F4");
    lab.cpu().regs[RCX] = OTHER | 7;
    check(lab, 0x22, 0x11);
}

#[test]
fn entry_that_leads_to_an_idle_table() {
    // mov bl,[rdi]; mov qword [r8],0; mov [rsi],rcx; mov dl,[rdi]; hlt
    let mut lab = lab("8A 1F 49 C7 00 00 00 00 00 48 89 0E 8A 17 F4");
    lab.cpu().regs[RCX] = OTHER | 7;
    check(lab, 0x22, 0x11);
}

#[test]
fn table_that_was_idle_is_watched_again() {
    // mov bl,[rdi]; mov qword [r8],0; mov [r8+16],rcx; mov [r8+16],rcx; mov [r8],rcx;
    // mov dl,[rdi]; mov [r8],rax; mov dh,[rdi]; hlt
    let mut lab =
        lab("8A 1F 49 C7 00 00 00 00 00 49 89 48 10 49 89 48 10 49 89 08 8A 17 49 89 00 8A 37 F4");
    lab.cpu().regs[RCX] = PAGE | 7;
    lab.cpu().regs[0] = DATA | 7;
    check(lab, 0x22, 0x2211);
}

#[test]
fn uppermost_table_of_another_process() {
    // mov cr3,r9; mov bl,[rdi]; mov cr3,r10; mov [rsi],rcx; mov cr3,r9; mov dl,[rdi]; hlt
    let mut lab = lab("41 0F 22 D9 8A 1F 41 0F 22 DA 48 89 0E 41 0F 22 D9 8A 17 F4");
    // Another hierarchy, in which PAGE leads to DATA.
    for (at, v) in [(0xA000, 0xB007), (0xB000, 0xC007), (0xC000, OTHER | 7)] {
        lab.put(at, v);
    }
    for page in 0..256u64 {
        let to = if page << 12 == PAGE { DATA } else { page << 12 };
        lab.put(OTHER + 8 * page, to | 7);
    }
    let cpu = lab.cpu();
    cpu.cr4 |= cr4::PCIDE;
    (cpu.regs[RDI], cpu.regs[RSI], cpu.regs[RCX]) = (PAGE, 0xA000, 0x5007);
    (cpu.regs[9], cpu.regs[10]) = (0xA001 | 1 << 63, TABLES | 1 << 63);
    check(lab, 0x22, 0x11);
}
