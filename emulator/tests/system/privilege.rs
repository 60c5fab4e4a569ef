//! Privileged instructions, fast system calls and MSRs (SDM 2, SDM 3A 5.8.7, 5.9; SDM 4).

use crate::lab::*;
use emulator::cpu::flags::{AC, IF, RF, TF, VM};
use emulator::cpu::{CS, RAX, RCX, RDX, RSP, SS, cr4, efer};

#[test]
fn privileged_instructions_at_level_3() {
    let codes = [
        ("F4", "hlt"),
        ("0F 20 C0", "mov eax,cr0"),
        ("0F 22 C0", "mov cr0,eax"),
        ("0F 22 D8", "mov cr3,eax"),
        ("0F 21 C0", "mov eax,dr0"),
        ("0F 06", "clts"),
        ("0F 01 F0", "lmsw ax"),
        ("0F 01 17", "lgdt"),
        ("0F 01 1F", "lidt"),
        ("0F 00 D0", "lldt"),
        ("0F 00 D8", "ltr"),
        ("0F 01 3F", "invlpg"),
        ("66 0F 38 82 07", "invpcid"),
        ("0F 08", "invd"),
        ("0F 09", "wbinvd"),
        ("0F 30", "wrmsr"),
        ("0F 32", "rdmsr"),
        ("FA", "cli"),
        ("FB", "sti"),
        ("E4 80", "in"),
        ("E6 80", "out"),
        ("6C", "insb"),
        ("6E", "outsb"),
    ];
    for (code, name) in codes {
        for mode in [Protected, Long, Compat, V86] {
            let mut lab = Lab::new(mode, 3);
            lab.write(TSS + 0x66, &0xFFFFu16.to_le_bytes());
            lab.code(code).cpu().regs[7] = if mode == V86 { 0x3000 } else { DATA };
            let vector = match code {
                "0F 00 D0" | "0F 00 D8" if mode == V86 => 6,
                _ => 13,
            };
            let rip = if mode == V86 { 0 } else { CODE };
            let outcome = lab.run();
            assert_eq!(outcome, Vector(vector), "{name} {mode:?}");
            let f = if lab.long() { lab.frame::<8>() } else { lab.frame::<4>() };
            assert_eq!((f.code, f.rip), (0, rip), "{name} {mode:?}");
        }
    }
    // … which level 0 executes
    for code in ["0F 06", "0F 09", "FA", "0F 01 3F", "E4 80"] {
        let mut lab = Lab::new(Protected, 0);
        lab.code(&format!("{code} F4"));
        lab.done();
    }
}

#[test]
fn umip_and_tsd() {
    for (code, ok_without) in [
        ("0F 01 07", true),
        ("0F 01 0F", true),
        ("0F 00 C0", true),
        ("0F 00 C8", true),
        ("0F 01 E0", true),
    ] {
        for umip in [false, true] {
            for cpl in [0, 3] {
                let mut lab = Lab::new(Protected, cpl);
                lab.cpu().regs[7] = DATA;
                lab.cpu().cr4 |= if umip { cr4::UMIP } else { 0 };
                lab.code(&format!("{code} CC"));
                if umip && cpl == 3 {
                    lab.faults(13, 0, CODE);
                } else {
                    assert!(ok_without);
                    lab.faults(3, 0, CODE + 4);
                }
            }
        }
    }
    for code in ["0F 31", "0F 01 F9"] {
        for (tsd, cpl) in [(true, 0), (true, 3), (false, 3)] {
            let mut lab = Lab::new(Protected, cpl);
            lab.cpu().cr4 |= if tsd { cr4::TSD } else { 0 };
            lab.code(&format!("{code} CC"));
            let vector = if tsd && cpl == 3 { 13 } else { 3 };
            assert_eq!(lab.run(), Vector(vector));
        }
    }
}

#[test]
fn syscall_and_sysret() {
    let entry = CODE + 0x100;
    let mut lab = Lab::new(Long, 3);
    lab.code("0F 05").code_at(entry, "F4");
    let cpu = lab.cpu();
    let m = &mut cpu.msrs;
    (m.lstar, m.star, m.sfmask) = (entry, u64::from(CODE64 | 3) << 32, IF | AC);
    cpu.flags.set(IF | AC | 1);
    lab.done();
    assert_eq!((lab.reg(RCX), lab.reg(11)), (CODE + 2, IF | AC | 3));
    let cpu = lab.cpu();
    assert_eq!((cpu.segs[CS].selector, cpu.segs[SS].selector, cpu.cpl), (CODE64, CODE64 + 8, 0));
    assert_eq!(cpu.flags.get(), 3);
    assert_eq!(cpu.regs[RSP], STACK3, "RSP is the kernel's business");
    // not in compatibility mode, not without EFER.SCE
    let mut lab = Lab::new(Compat, 3);
    lab.code("0F 05");
    lab.faults(6, 0, CODE);
    let mut lab = Lab::new(Long, 3);
    lab.code("0F 05").cpu().efer &= !efer::SCE;
    lab.faults(6, 0, CODE);
    // SYSRET to 64-bit and 32-bit code
    for (code, cs) in [("48 0F 07", 0x33u16), ("0F 07", 0x23)] {
        let mut lab = Lab::new(Long, 0);
        lab.code(code).code_at(entry, "CC");
        let cpu = lab.cpu();
        (cpu.regs[RCX], cpu.regs[11], cpu.msrs.star) = (entry, RF | VM | IF | 2, 0x23 << 48);
        if cs == 0x23 {
            cpu.regs[RCX] |= 0xAB << 32;
        }
        let f = lab.faults(3, 0, entry + 1);
        assert_eq!((f.cs, f.ss, f.flags), (cs.into(), 0x2B, IF | 2));
    }
    // a non-canonical RCX faults at level 0; level 3 may not
    let mut lab = Lab::new(Long, 0);
    lab.code("48 0F 07").cpu().regs[RCX] = 1 << 47;
    let f = lab.faults(13, 0, CODE);
    assert_eq!(f.cs, CODE64.into());
    let mut lab = Lab::new(Long, 3);
    lab.code("48 0F 07");
    lab.faults(13, 0, CODE);
}

#[test]
fn sysenter_and_sysexit() {
    let entry = CODE + 0x100;
    for mode in [Protected, Compat, Long, V86] {
        let mut lab = Lab::new(mode, 3);
        lab.code("0F 34").code_at(entry, "F4");
        let m = &mut lab.cpu().msrs;
        // CS 8, SS 10h outside long mode; 18h, 20h in it
        m.sysenter_cs = if mode == Protected || mode == V86 { 8 } else { 0x18 };
        (m.sysenter_esp, m.sysenter_eip) = (STACK1, entry);
        let vm = lab.cpu().flags.get() & VM;
        lab.cpu().flags.set(vm | IF | TF ^ TF);
        lab.done();
        let cpu = lab.cpu();
        assert_eq!((cpu.regs[RSP], cpu.rip, cpu.cpl), (STACK1, entry + 1, 0), "{mode:?}");
        assert_eq!(cpu.flags.get() & (IF | VM), 0);
        let cs = cpu.msrs.sysenter_cs as u16;
        assert_eq!((cpu.segs[CS].selector, cpu.segs[SS].selector), (cs, cs + 8));
        // without a selector
        let mut lab = Lab::new(mode, 3);
        lab.code("0F 34");
        lab.faults(13, 0, if mode == V86 { 0 } else { CODE });
    }
    let mut lab = Lab::new(Real, 0);
    lab.code("0F 34").cpu().msrs.sysenter_cs = 8;
    assert_eq!(lab.run(), Vector(13));
    // SYSEXIT: SYSENTER_CS + 16 and + 24, in 64-bit form + 32 and + 40
    for (mode, code, cs) in [(Protected, "0F 35", 0x23u64), (Long, "48 0F 35", 0x33)] {
        let mut lab = Lab::new(mode, 0);
        lab.code(code).code_at(entry, "CC");
        let cpu = lab.cpu();
        cpu.msrs.sysenter_cs = 0x10;
        (cpu.regs[RDX], cpu.regs[RCX]) = (entry, STACK3);
        let f = lab.faults(3, 0, entry + 1);
        assert_eq!((f.cs, f.ss, f.rsp), (cs, cs + 8, STACK3));
    }
    let mut lab = Lab::new(Protected, 3);
    lab.code("0F 35").cpu().msrs.sysenter_cs = 8;
    lab.faults(13, 0, CODE);
    let mut lab = Lab::new(Long, 0);
    lab.code("48 0F 35").cpu().msrs.sysenter_cs = 0x10;
    lab.cpu().regs[RDX] = 1 << 47;
    lab.faults(13, 0, CODE);
}

#[test]
fn model_specific_registers() {
    let bad = 1u64 << 47;
    for (msr, value, faults) in [
        (0xC000_0082u32, bad, true),
        (0xC000_0082, bad - 1, false),
        (0xC000_0083, bad, true),
        (0xC000_0100, bad, true),
        (0xC000_0101, bad, true),
        (0xC000_0102, bad, true),
        (0x175, bad, true),
        (0x176, bad, true),
        (0x174, 0x1234, false),
        (0xC000_0103, 1 << 32, true),
        (0xC000_0103, 7, false),
        (0x277, 0x0007_0406_0007_0406, false),
        (0x277, 2, true),
        (0x277, 8, true),
        (0x2FF, 0xC06, false),
        (0x2FF, 0x1000, true),
        (0x250, 0x0606_0606_0606_0606, false),
        (0x12345, 0, true),
        (0xFE, 0, true), // read-only
        (0x10A, 0, true),
    ] {
        let mut lab = Lab::new(Long, 0);
        lab.code("0F 30 0F 32 F4");
        let cpu = lab.cpu();
        (cpu.regs[RCX], cpu.regs[RAX], cpu.regs[RDX]) =
            (msr.into(), value & 0xFFFF_FFFF, value >> 32);
        if faults {
            lab.faults(13, 0, CODE);
        } else {
            lab.done();
            assert_eq!(lab.reg(RAX) | lab.reg(RDX) << 32, value, "{msr:#x}");
        }
    }
    let mut lab = Lab::new(Long, 0);
    lab.code("0F 32").cpu().regs[RCX] = 0x12345;
    lab.faults(13, 0, CODE);
}

#[test]
fn init_by_port_92() {
    // fast reset: INIT of the CPU alone; RAM stays, execution starts at the reset vector
    let mut lab = Lab::new(Protected, 0);
    lab.write(DATA, &[0x77]);
    lab.code("E4 92 0C 01 E6 92 F4").sync();
    let cr3 = 0x1234_5000;
    lab.cpu().cr3 = cr3;
    for _ in 0..3 {
        lab.step(1);
    }
    let cpu = lab.cpu();
    assert_eq!((cpu.segs[CS].selector, cpu.rip, cpu.cr3), (0xF000, 0xFFF0, 0));
    assert_eq!(cpu.cr0 & 1, 0);
    assert_eq!(lab.get::<1>(DATA), 0x77);
}
