//! Hardware task switches and the I/O permission map (SDM 3A chapter 7, SDM 1 19.5).

use crate::lab::*;
use emulator::cpu::flags::{IF, NT, VM};
use emulator::cpu::{CS, DS, RAX, RSP, SS, cr0};

const NEW: u64 = CODE + 0x400;

/// A machine with an available 32-bit TSS at FREE whose task starts at [`NEW`].
fn lab(cpl: u8) -> Lab {
    let mut lab = Lab::new(Protected, cpl);
    lab.gdt(TASK, descriptor(TSS as u32, 0x2FF, 0x8B, 0));
    lab.gdt(FREE, descriptor(TSS2 as u32, 0x67, 0x89, 0));
    let d = |lab: &mut Lab, at: u64, v: u64| lab.write(TSS2 + at, &(v as u32).to_le_bytes());
    d(&mut lab, 0x20, NEW);
    d(&mut lab, 0x24, 0x202);
    for n in 0..8 {
        d(&mut lab, 0x28 + 4 * n, 0x1000_0000 + n);
    }
    d(&mut lab, 0x38, STACK1);
    for (n, s) in [DATA0, CODE32, DATA0, DATA0, 0, 0].into_iter().enumerate() {
        d(&mut lab, 0x48 + 4 * n as u64, s.into());
    }
    lab.code_at(NEW, "F4");
    lab
}

fn kind(lab: &mut Lab, selector: u16) -> u64 {
    lab.get::<8>(GDT + u64::from(selector)) >> 40 & 0x1F
}

#[test]
fn jump_and_call() {
    for (code, old_busy, nested) in [("EA", 9, false), ("9A", 0xB, true)] {
        let mut lab = lab(0);
        lab.code(&format!("{code} 00 00 00 00 60 00"));
        lab.cpu().regs[RAX] = 0x1234;
        lab.done();
        assert_eq!((kind(&mut lab, TASK), kind(&mut lab, FREE)), (old_busy, 0xB));
        assert_eq!((lab.cpu().tr.selector, lab.cpu().tr.base), (FREE, TSS2));
        assert_eq!(lab.cpu().rip, NEW + 1);
        assert_eq!((lab.reg(RAX), lab.reg(RSP)), (0x1000_0000, STACK1));
        assert_eq!(lab.cpu().flags.get(), 0x202 | if nested { NT } else { 0 });
        assert_ne!(lab.cpu().cr0 & cr0::TS, 0);
        assert_eq!(lab.get::<2>(TSS2), if nested { TASK.into() } else { 0 });
        // the old task's state
        assert_eq!(lab.get::<4>(TSS + 0x20), CODE + 7);
        assert_eq!(lab.get::<4>(TSS + 0x28), 0x1234);
        assert_eq!(lab.get::<2>(TSS + 0x4C), CODE32.into());
        assert_eq!(lab.get::<2>(TSS + 0x54), DATA0.into());
    }
    // through a task gate
    let mut lab = lab(0);
    lab.gdt(FREE + 8, gate(FREE, 0, 0x85, 0)).code("9A 00 00 00 00 68 00");
    lab.done();
    assert_eq!(lab.cpu().rip, NEW + 1);
}

#[test]
fn nested_return() {
    // call the task; it returns; the caller goes on
    let mut lab = lab(0);
    lab.code("9A 00 00 00 00 60 00 40 F4").code_at(NEW, "CF");
    lab.cpu().regs[RAX] = 0x77;
    lab.done();
    assert_eq!((lab.cpu().rip, lab.reg(RAX)), (CODE + 9, 0x78));
    assert_eq!((kind(&mut lab, TASK), kind(&mut lab, FREE)), (0xB, 9));
    assert_eq!(lab.cpu().tr.selector, TASK);
    assert_eq!(lab.get::<4>(TSS2 + 0x24) & NT, 0, "NT is clear in the task that returned");
    assert_eq!(lab.get::<4>(TSS2 + 0x20), NEW + 1);
    // and again: the task goes on behind its IRET
    for (link, vector) in [(0u16, 10), (TASK | 4, 10), (CODE32, 10), (0x7F8, 10)] {
        let mut lab = self::lab(0);
        lab.code("CF").cpu().flags.set(NT);
        lab.write(TSS, &link.to_le_bytes());
        lab.faults(vector, u64::from(link & !3), CODE);
    }
}

#[test]
fn selectors_that_fault() {
    // busy, not present, DPL, local, too small
    for (access, limit, selector, vector) in [
        (0x8B, 0x67, FREE, 13),
        (0x09, 0x67, FREE, 11),
        (0x89, 0x66, FREE, 10),
        (0x81, 0x2A, FREE, 10),
    ] {
        let mut lab = lab(0);
        lab.gdt(FREE, descriptor(TSS2 as u32, limit, access, 0)).code("EA 00 00 00 00 60 00");
        lab.faults(vector, selector.into(), CODE);
        assert_eq!(kind(&mut lab, TASK), 0xB);
    }
    let mut lab = lab(3);
    lab.code("EA 00 00 00 00 60 00");
    lab.faults(13, FREE.into(), CODE);
}

#[test]
fn faults_in_the_new_task() {
    // (offset in the TSS, value, vector, error code): the frame is the new task's
    for (at, value, vector, code) in [
        (0x4C, 0u64, 10, 0u64),
        (0x4C, u64::from(DATA0), 10, u64::from(DATA0)),
        (0x50, 0, 10, 0),
        (0x54, u64::from(FREE + 8), 11, u64::from(FREE + 8)),
        (0x54, 0x7F8, 10, 0x7F8),
        (0x60, u64::from(CODE32), 10, u64::from(CODE32)),
    ] {
        let mut lab = lab(0);
        lab.gdt(FREE + 8, descriptor(0, 0xF_FFFF, 0x13, 0xC));
        lab.write(TSS2 + at, &(value as u32).to_le_bytes());
        // the handler is a task too: the faulting context may have no stack
        lab.gdt(FREE + 16, descriptor(TSS2 as u32 + 0x100, 0x67, 0x89, 0));
        let copy: Vec<u8> = (0..0x68).map(|n| lab.get::<1>(TSS + n) as u8).collect();
        lab.write(TSS2 + 0x100, &copy);
        lab.write(TSS2 + 0x120, &(HANDLERS as u32 + 16 * vector).to_le_bytes());
        lab.write(TSS2 + 0x124, &2u32.to_le_bytes());
        lab.write(TSS2 + 0x138, &(STACK1 as u32).to_le_bytes());
        for (n, s) in [DATA0, CODE32, DATA0, DATA0, 0, 0].into_iter().enumerate() {
            lab.write(TSS2 + 0x148 + 4 * n as u64, &s.to_le_bytes());
        }
        lab.raw_gate(vector as u8, gate(FREE + 16, 0, 0x85, 0));
        lab.code("EA 00 00 00 00 60 00");
        assert_eq!(lab.run(), Vector(vector as u8), "{at:#x}={value:#x}");
        assert_eq!(lab.get::<4>(STACK1 - 4), code, "error code");
        assert_eq!(lab.get::<4>(TSS2 + 0x20), NEW, "EIP of the new task");
        assert_eq!(lab.get::<2>(TSS2 + 0x100), FREE.into(), "link");
    }
}

#[test]
fn sixteen_bit_tasks() {
    let mut lab = Lab::new(Protected, 0);
    lab.gdt(FREE, descriptor(TSS2 as u32, 0x2B, 0x81, 0));
    let entry = 0x9F00u16;
    for (at, v) in [(0x0E, entry), (0x10, 0x202), (0x1A, 0x7000)] {
        lab.write(TSS2 + at, &v.to_le_bytes());
    }
    for (n, s) in [DATA16, CODE16, DATA16, DATA16].into_iter().enumerate() {
        lab.write(TSS2 + 0x22 + 2 * n as u64, &s.to_le_bytes());
    }
    lab.write(TSS2 + 0x12, &0xBEEFu16.to_le_bytes());
    lab.code("9A 00 00 00 00 60 00 F4").code_at(entry.into(), "CF");
    lab.cpu().regs[RAX] = 0xABCD_1234;
    lab.done();
    assert_eq!((lab.cpu().rip, lab.reg(RAX)), (CODE + 8, 0xABCD_1234));
    assert_eq!(lab.get::<2>(TSS2 + 0x12), 0xBEEF);
    assert_eq!(kind(&mut lab, FREE), 1);
}

#[test]
fn interrupt_through_a_task_gate() {
    let mut lab = lab(3);
    lab.write(TSS2 + 0x20, &(HANDLERS as u32 + 13 * 16).to_le_bytes());
    lab.raw_gate(13, gate(FREE, 0, 0x85, 0)).code("F4");
    assert_eq!(lab.run(), Vector(13));
    assert_eq!(lab.get::<4>(STACK1 - 4), 0, "error code on the new stack");
    assert_eq!(lab.get::<4>(TSS + 0x20), CODE);
    assert_eq!(lab.get::<4>(TSS + 0x24) >> 16 & 1, 1, "RF in the saved flags of a fault");
    assert_ne!(lab.cpu().flags.get() & NT, 0);
    // bad task gates: #GP or #NP with EXT
    let mut lab = self::lab(0);
    lab.raw_gate(6, gate(CODE32, 0, 0x85, 0)).code("0F 0B");
    lab.faults(13, u64::from(CODE32) | 1, CODE);
    let mut lab = self::lab(0);
    lab.gdt(FREE, descriptor(TSS2 as u32, 0x67, 0x09, 0));
    lab.raw_gate(6, gate(FREE, 0, 0x85, 0)).code("0F 0B");
    lab.faults(11, u64::from(FREE) | 1, CODE);
}

#[test]
fn trap_flag_of_the_task_and_local_breakpoints() {
    let mut lab = lab(0);
    lab.write(TSS2 + 0x64, &[1]);
    lab.code("EA 00 00 00 00 60 00").cpu().dr[7] = 0x703;
    let f = lab.faults(1, 0, NEW);
    assert_eq!(f.cs, CODE32.into());
    assert_ne!(lab.cpu().dr[6] & 1 << 15, 0);
    assert_eq!(lab.cpu().dr[7] & 0x3FF, 0x202, "L bits are cleared, G bits stay");
}

#[test]
fn task_in_virtual_8086_mode_and_other_cr3() {
    let mut lab = lab(0);
    lab.write(TSS2 + 0x24, &((VM | 2) as u32).to_le_bytes());
    lab.write(TSS2 + 0x20, &0x10u32.to_le_bytes());
    lab.write(TSS2 + 0x38, &0x6000u32.to_le_bytes());
    lab.write(TSS2 + 0x4C, &0x1000u16.to_le_bytes());
    lab.write(TSS2 + 4, &(STACK as u32).to_le_bytes());
    lab.write(TSS2 + 8, &DATA0.to_le_bytes());
    lab.code("EA 00 00 00 00 60 00 90 90 90 90 90 90 90 90 90 CC");
    let f = lab.faults(3, 0, 0x11);
    assert_eq!((f.cs, f.flags & VM, f.rsp), (0x1000, VM, 0x6000));
    // CR3 comes from the TSS
    let mut lab = Lab::new(Paged32, 0);
    lab.gdt(FREE, descriptor(TSS2 as u32, 0x67, 0x89, 0));
    for (at, v) in [(0x1C, 0x5000u64), (0x20, NEW), (0x24, 2), (0x38, STACK1)] {
        lab.write(TSS2 + at, &(v as u32).to_le_bytes());
    }
    for (n, s) in [DATA0, CODE32, DATA0, DATA0, 0, 0].into_iter().enumerate() {
        lab.write(TSS2 + 0x48 + 4 * n as u64, &s.to_le_bytes());
    }
    // page directory at 5000h, page table at 6000h: NEW's page is at 3_2000h
    lab.write(0x5000, &0x6007u32.to_le_bytes());
    for page in 0..64u32 {
        let to = if u64::from(page) == NEW >> 12 { 0x32 } else { page };
        lab.write(0x6000 + 4 * u64::from(page), &(to << 12 | 7).to_le_bytes());
    }
    lab.code_at(0x3_2000 + (NEW & 0xFFF), "40 F4").code("EA 00 00 00 00 60 00");
    lab.cpu().regs[RAX] = 5;
    lab.done();
    assert_eq!((lab.reg(RAX), lab.cpu().cr3), (1, 0x5000));
}

#[test]
fn io_permission_map() {
    // in al,dx at level 3: allowed only where the map has a 0 bit
    let run = |mode: Mode, code: &str, port: u16, map: &[u8], limit: u32, flags: u64| {
        let mut lab = Lab::new(mode, 3);
        lab.write(TSS + 0x68, map);
        lab.code(code).cpu().regs[2] = port.into();
        lab.cpu().tr.limit = limit;
        let vm = lab.cpu().flags.get() & VM;
        lab.cpu().flags.set(flags | vm);
        let outcome = lab.run();
        let f = if lab.long() { lab.frame::<8>() } else { lab.frame::<4>() };
        (outcome, f.rip & 0xFFF)
    };
    for mode in [Protected, Long, V86] {
        let len = 1;
        let done = (Vector(3), len + 1);
        let denied = (Vector(13), 0);
        let open = [0u8; 32];
        assert_eq!(run(mode, "EC CC", 0x80, &open, 0x2FF, 0), done, "{mode:?}");
        let mut map = [0; 32];
        map[0x10] = 1;
        assert_eq!(run(mode, "EC CC", 0x80, &map, 0x2FF, 0), denied);
        assert_eq!(run(mode, "EC CC", 0x81, &map, 0x2FF, 0), done);
        // a word access looks at both ports, across bytes of the map
        map[0x10] = 0;
        map[0x11] = 1;
        let word = if mode == V86 { "ED CC" } else { "66 ED CC" };
        let n = if mode == V86 { 2 } else { 3 };
        assert_eq!(run(mode, word, 0x87, &map, 0x2FF, 0), denied);
        assert_eq!(run(mode, word, 0x86, &map, 0x2FF, 0), (Vector(3), n));
        // beyond the limit; two bytes are always read
        assert_eq!(run(mode, "EC CC", 0x80, &open, 0x68 + 0x10, 0), denied);
        assert_eq!(run(mode, "EC CC", 0x80, &open, 0x68 + 0x11, 0), done);
        assert_eq!(run(mode, "EC CC", 0x80, &open, 0x66, 0), denied);
        // IOPL counts in protected mode only
        map[0x10] = 1;
        let wanted = if mode == V86 { denied } else { done };
        assert_eq!(run(mode, "EC CC", 0x80, &map, 0x2FF, 0x3000), wanted);
    }
}

#[test]
fn interrupt_flag_is_of_the_task() {
    let mut lab = lab(0);
    lab.code("EA 00 00 00 00 60 00").cpu().flags.set(0);
    lab.done();
    assert_ne!(lab.cpu().flags.get() & IF, 0);
    assert_eq!(lab.cpu().segs[CS].selector, CODE32);
    assert_eq!(lab.cpu().segs[DS].selector, DATA0);
    assert_eq!(lab.cpu().segs[SS].selector, DATA0);
}
