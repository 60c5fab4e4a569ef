//! Single-stepping, debug registers and alignment checks (SDM 3B chapter 17, SDM 3A 6.15 #AC).

use crate::lab::*;
use emulator::cpu::flags::{AC, IF, RF, TF, VM};
use emulator::cpu::{RAX, RSP, cr0, cr4};

const BS: u64 = 1 << 14;
const BD: u64 = 1 << 13;
/// DR6 bits that are always set.
const ONES: u64 = 0xFFFF_0FF0;

#[test]
fn trap_flag() {
    // popf sets TF: the trap comes behind the instruction that follows
    let mut lab = Lab::new(Protected, 0);
    lab.code("68 02 01 00 00 9D 40 40 F4");
    let f = lab.faults(1, 0, CODE + 7);
    assert_eq!((f.flags & TF, f.flags & RF, lab.reg(RAX)), (TF, 0, 1));
    assert_eq!(lab.cpu().dr[6], ONES | BS);
    assert_eq!(lab.cpu().flags.get() & TF, 0);
    // popf that clears TF still traps
    let mut lab = Lab::new(Protected, 0);
    lab.code("9D 40 F4").cpu().flags.set(TF);
    lab.put(DATA, 2);
    lab.cpu().regs[RSP] = DATA;
    let f = lab.faults(1, 0, CODE + 1);
    assert_eq!(f.flags & TF, 0);
    // a faulting instruction does not trap
    let mut lab = Lab::new(Protected, 0);
    lab.code("0F 0B").cpu().flags.set(TF);
    assert_eq!(lab.faults(6, 0, CODE).flags & TF, TF);
    assert_eq!(lab.cpu().dr[6] & BS, 0);
    // INT n clears TF and does not trap
    let mut lab = Lab::new(Protected, 0);
    lab.code("CD 80").cpu().flags.set(TF);
    assert_eq!(lab.faults(0x80, 0, CODE + 2).flags & TF, TF);
    assert_eq!(lab.cpu().dr[6] & BS, 0);
    // each iteration of REP traps, with RF pushed but for the last
    for (count, rip, rf) in [(3, CODE, RF), (1, CODE + 2, 0)] {
        let mut lab = Lab::new(Protected, 0);
        lab.code("F3 AA F4").cpu().flags.set(TF);
        (lab.cpu().regs[1], lab.cpu().regs[7]) = (count, DATA);
        let f = lab.faults(1, 0, rip);
        assert_eq!((f.flags & RF, lab.reg(1)), (rf, count - 1));
    }
    // MOV SS holds the trap back: it comes behind the next instruction
    let mut lab = Lab::new(Protected, 0);
    lab.code("8E D0 40 40").cpu().flags.set(TF);
    lab.cpu().regs[RAX] = DATA0.into();
    lab.faults(1, 0, CODE + 3);
    // STI does not
    let mut lab = Lab::new(Protected, 0);
    lab.code("FB 40 40").cpu().flags.set(TF);
    lab.faults(1, 0, CODE + 1);
    // HLT is left by the trap
    let mut lab = Lab::new(Protected, 0);
    lab.code("F4 90").cpu().flags.set(TF);
    lab.faults(1, 0, CODE + 1);
    // ICEBP is #DB without DR6
    let mut lab = Lab::new(Protected, 0);
    lab.code("F1");
    let f = lab.faults(1, 0, CODE + 1);
    assert_eq!((lab.cpu().dr[6], f.flags & RF), (ONES, 0));
}

#[test]
fn trap_flag_across_iret_and_levels() {
    // iret to level 3 with TF: one instruction there, then the trap
    let mut lab = Lab::new(Protected, 0);
    lab.code("CF").code_at(CODE + 0x100, "40 40");
    for (n, v) in [CODE + 0x100, USER32.into(), TF | 2, STACK3, USER_DATA.into()].iter().enumerate()
    {
        lab.write(DATA + 4 * n as u64, &(*v as u32).to_le_bytes());
    }
    lab.cpu().regs[RSP] = DATA;
    let f = lab.faults(1, 0, CODE + 0x101);
    assert_eq!((f.cs, lab.reg(RAX)), (USER32.into(), 1));
    // SYSCALL with TF in IA32_FMASK enters without a trap, otherwise traps at the target
    for (mask, vector) in [(TF, 6), (0, 1)] {
        let mut lab = Lab::new(Long, 3);
        lab.code("0F 05").code_at(CODE + 0x100, "0F 0B").cpu().flags.set(TF);
        let m = &mut lab.cpu().msrs;
        (m.lstar, m.star, m.sfmask) = (CODE + 0x100, u64::from(CODE64) << 32, mask);
        let f = lab.faults(vector, 0, CODE + 0x100);
        assert_eq!(f.cs, CODE64.into());
    }
    // SYSRET that sets TF traps at once
    let mut lab = Lab::new(Long, 0);
    lab.code("48 0F 07").code_at(CODE + 0x100, "90 90");
    let cpu = lab.cpu();
    (cpu.regs[1], cpu.regs[11], cpu.msrs.star) = (CODE + 0x100, TF | 2, 0x23 << 48);
    let f = lab.faults(1, 0, CODE + 0x100);
    assert_eq!(f.cs, USER64.into());
    // in virtual-8086 mode, too
    let mut lab = Lab::new(V86, 3);
    lab.code("40 40").cpu().flags.set(VM | TF);
    lab.faults(1, 0, 1);
}

#[test]
fn instruction_breakpoints() {
    // a fault before the instruction, RF clear in its frame; DR6 names all that match
    let mut lab = Lab::new(Protected, 0);
    lab.code("40 40 F4");
    lab.cpu().dr[0] = CODE + 1;
    lab.cpu().dr[3] = CODE + 1;
    lab.cpu().dr[7] |= 1;
    let f = lab.faults(1, 0, CODE + 1);
    assert_eq!((lab.reg(RAX), f.flags & RF), (1, 0));
    assert_eq!(lab.cpu().dr[6], ONES | 9);
    // disabled, and one that is after MOV SS
    let mut lab = Lab::new(Protected, 0);
    lab.code("40 40 F4").cpu().dr[0] = CODE + 1;
    lab.done();
    let mut lab = Lab::new(Protected, 0);
    lab.code("8E D0 40 F4").cpu().dr[0] = CODE + 2;
    lab.cpu().regs[RAX] = DATA0.into();
    lab.cpu().dr[7] |= 2;
    lab.done();
    // the segment base counts
    let mut lab = Lab::new(Real, 0);
    lab.code("40 40 40").cpu().dr[1] = CODE + 2;
    lab.cpu().dr[7] |= 4;
    assert_eq!(lab.run(), Vector(1));
    assert_eq!(lab.frame::<2>().rip, 2);
}

/// DR7 with breakpoint 0 of this kind and length enabled.
fn dr7(kind: u64, len: u64) -> u64 {
    0x402 | kind << 16 | len << 18
}

#[test]
fn data_breakpoints() {
    // code, address, DR7, hit?
    let store = "89 07 40 F4"; // mov [edi],eax; inc eax
    let load = "8B 07 40 F4";
    let add = "01 07 40 F4";
    for (code, at, dr7, hit) in [
        (store, DATA, dr7(1, 3), true),
        (store, DATA, dr7(3, 3), true),
        (load, DATA, dr7(1, 3), false),
        (load, DATA, dr7(3, 3), true),
        (add, DATA, dr7(1, 3), true),
        (store, DATA, dr7(1, 0), true),
        (store, DATA + 3, dr7(1, 0), true),
        (store, DATA + 4, dr7(1, 0), false),
        (store, DATA - 1, dr7(1, 0), false),
        (store, DATA - 4, dr7(1, 3), false),
        (store, DATA - 4, dr7(1, 2), true), // eight bytes, aligned down to DATA-8? no: DATA is aligned
        (store, DATA + 6, dr7(1, 1), false),
        (store, DATA + 7, dr7(1, 3), false), // aligned down to DATA+4
        (store, DATA + 2, dr7(1, 1), true),
    ] {
        let mut lab = Lab::new(Protected, 0);
        lab.code(code);
        let cpu = lab.cpu();
        (cpu.regs[7], cpu.dr[0], cpu.dr[7]) = (DATA, at, dr7);
        // eight-byte breakpoints are aligned down
        let hit = if dr7 >> 18 & 3 == 2 { at & !7 == DATA } else { hit };
        if hit {
            let f = lab.faults(1, 0, CODE + 2);
            assert_eq!((lab.cpu().dr[6], f.flags & RF), (ONES | 1, 0), "{code} {at:#x}");
        } else {
            lab.done();
        }
    }
    // pushes, string instructions after each iteration, pages in between
    let mut lab = Lab::new(Long, 0);
    lab.code("50 F4").cpu().dr[1] = STACK - 8;
    lab.cpu().dr[7] = 0x404 | 1 << 20 | 2 << 22;
    lab.faults(1, 0, CODE + 1);
    let mut lab = Lab::new(Protected, 0);
    lab.code("F3 A4 F4");
    let cpu = lab.cpu();
    (cpu.regs[1], cpu.regs[6], cpu.regs[7]) = (100, DATA, DATA + 0x1000);
    (cpu.dr[0], cpu.dr[7]) = (DATA + 0x1010, dr7(1, 0));
    let f = lab.faults(1, 0, CODE);
    assert_eq!((lab.reg(1), f.flags & RF), (100 - 17, RF));
    // an instruction that faults does not report its accesses
    let mut lab = Lab::new(Paged32, 0);
    lab.code("A5").set_pte(DATA + 0x1000, 0);
    let cpu = lab.cpu();
    (cpu.regs[6], cpu.regs[7]) = (DATA, DATA + 0x1000);
    (cpu.dr[0], cpu.dr[7]) = (DATA, dr7(3, 3));
    lab.faults(14, 2, CODE);
    assert_eq!(lab.cpu().dr[6], ONES);
    // enabled by the guest itself, after the page was cached: mov dr7,ecx; mov [edi],eax
    let mut lab = Lab::new(Protected, 0);
    lab.code("89 07 0F 23 F9 89 07 F4");
    let cpu = lab.cpu();
    (cpu.regs[7], cpu.regs[1], cpu.dr[0]) = (DATA, dr7(1, 3), DATA);
    lab.faults(1, 0, CODE + 7);
    // MOV SS from a watched word: the trap waits for the next instruction (SDM 3A 6.8.3)
    let mut lab = Lab::new(Protected, 0);
    lab.code("8E 17 40 40 F4");
    lab.put(DATA, DATA0.into());
    let cpu = lab.cpu();
    (cpu.regs[7], cpu.dr[0], cpu.dr[7]) = (DATA, DATA, dr7(3, 1));
    lab.faults(1, 0, CODE + 3);
    assert_eq!(lab.reg(RAX), 1);
}

#[test]
fn io_breakpoints() {
    for (de, port, hit) in [(true, 0x80, true), (false, 0x80, false), (true, 0x81, false)] {
        let mut lab = Lab::new(Protected, 0);
        lab.code("E6 80 40 F4");
        let cpu = lab.cpu();
        (cpu.dr[0], cpu.dr[7]) = (port, dr7(2, 0));
        cpu.cr4 |= if de { cr4::DE } else { 0 };
        if hit {
            lab.faults(1, 0, CODE + 2);
            assert_eq!(lab.cpu().dr[6], ONES | 1);
        } else {
            lab.done();
        }
    }
}

#[test]
fn debug_register_access() {
    // general detect: a fault, BD set, GD cleared
    for code in ["0F 21 C0", "0F 23 C0"] {
        let mut lab = Lab::new(Protected, 0);
        lab.code(code).cpu().dr[7] |= BD;
        let f = lab.faults(1, 0, CODE);
        assert_eq!(f.flags & RF, RF);
        assert_eq!((lab.cpu().dr[6], lab.cpu().dr[7]), (ONES | BD, 0x400));
    }
    // DR4 and DR5 are DR6 and DR7, or nothing with CR4.DE
    let mut lab = Lab::new(Protected, 0);
    lab.code("0F 21 E0 0F 21 EB F4");
    lab.done();
    assert_eq!((lab.reg(RAX), lab.reg(3)), (ONES, 0x400));
    let mut lab = Lab::new(Protected, 0);
    lab.code("0F 21 E0").cpu().cr4 |= cr4::DE;
    lab.faults(6, 0, CODE);
    // reserved bits
    let mut lab = Lab::new(Protected, 0);
    lab.code("0F 23 F0 0F 23 FB 0F 21 F1 0F 21 FA F4");
    (lab.cpu().regs[RAX], lab.cpu().regs[3]) = (0xFFFF_FFFF, 0xFFFF_DC00);
    lab.done();
    assert_eq!((lab.reg(1), lab.reg(2)), (0xFFFF_EFFF, 0xFFFF_0400));
    let mut lab = Lab::new(Long, 0);
    lab.code("0F 23 F8").cpu().regs[RAX] = 1 << 32;
    lab.faults(13, 0, CODE);
    let mut lab = Lab::new(Protected, 3);
    lab.code("0F 21 C0");
    lab.faults(13, 0, CODE);
}

#[test]
fn alignment_checks() {
    for (cpl, am, ac, code, at, faults) in [
        (3, true, true, "8B 07", 2, true),
        (3, true, true, "66 8B 07", 1, true),
        (3, true, true, "66 8B 07", 2, false),
        (3, true, true, "8A 07", 1, false),
        (3, true, true, "89 07", 1, true),
        (3, true, true, "01 07", 1, true),
        (3, false, true, "8B 07", 2, false),
        (3, true, false, "8B 07", 2, false),
        (0, true, true, "8B 07", 2, false),
        (3, true, true, "8B 07", 4, false),
    ] {
        let mut lab = Lab::new(Protected, cpl);
        let end = if cpl == 3 { "CD 80" } else { "F4" };
        lab.code(&format!("{code} {end}"));
        let cpu = lab.cpu();
        cpu.regs[7] = DATA + at;
        cpu.cr0 |= if am { cr0::AM } else { 0 };
        cpu.flags.set(if ac { AC } else { 0 });
        if faults {
            lab.faults(17, 0, CODE);
        } else if cpl == 3 {
            assert_eq!(lab.run(), Vector(0x80));
        } else {
            lab.done();
        }
    }
    // a page fault comes first? No: alignment is checked on the address (SDM 3A table 6-2)
    let mut lab = Lab::new(Paged32, 3);
    lab.code("8B 07").set_pte(DATA, 0);
    lab.cpu().regs[7] = DATA + 1;
    lab.cpu().cr0 |= cr0::AM;
    lab.cpu().flags.set(AC);
    lab.faults(17, 0, CODE);
    // the flag is seen at once after POPF, and gone in the handler
    let mut lab = Lab::new(Protected, 3);
    lab.cpu().cr0 |= cr0::AM;
    lab.code("68 02 00 04 00 9D 8B 07").cpu().regs[7] = DATA + 1;
    let f = lab.faults(17, 0, CODE + 6);
    assert_eq!(f.flags & (AC | IF), AC);
}
