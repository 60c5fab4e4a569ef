//! Far JMP, CALL, RET and IRET (SDM 3A 5.8, 6.12.1, 20.2; SDM 2A CALL, IRET, RET).

use crate::lab::*;
use emulator::cpu::flags::{AC, ID, IF, IOPL, NT, RF, TF, VIF, VM};
use emulator::cpu::{CS, DS, ES, RAX, RSP, SS};

/// Selector and offset for far transfers by memory operand at DATA.
fn pointer(lab: &mut Lab, offset: u32, selector: u16) {
    lab.write(DATA, &offset.to_le_bytes());
    lab.write(DATA + 4, &selector.to_le_bytes());
}

#[test]
fn direct_far_jumps() {
    let target = CODE + 0x100;
    for (access, rpl, cpl, vector) in [
        (0x9B, 0, 0, 0),
        (0x99, 0, 0, 0),
        (0x9B, 3, 0, 13), // RPL > CPL
        (0xFB, 0, 0, 13), // DPL > CPL
        (0xFB, 3, 3, 0),
        (0xFB, 0, 3, 0),
        (0x9B, 3, 3, 13),
        (0x9F, 3, 3, 0), // conforming
        (0xFF, 0, 0, 13),
        (0x1B, 0, 0, 11),
        (0x93, 0, 0, 13),
        (0x82, 0, 0, 13),
    ] {
        let mut lab = Lab::new(Protected, cpl);
        lab.gdt(FREE, descriptor(0, 0xF_FFFF, access, 0xC));
        lab.code("FF 2D 00 00 03 00").code_at(target, "F4");
        pointer(&mut lab, target as u32, FREE | rpl);
        match vector {
            0 if cpl == 3 => drop(lab.faults(13, 0, target)),
            0 => lab.done(),
            _ => drop(lab.faults(vector, FREE.into(), CODE)),
        }
        if vector == 0 && cpl == 0 {
            assert_eq!(lab.cpu().segs[CS].selector, FREE, "RPL becomes CPL");
        }
    }
    // Null, beyond the table, and a target beyond the limit
    for (selector, offset, code) in [(0, 0, 0), (3, 0, 0), (0x7F8, 0, 0x7F8), (FREE, 0x1_0000, 0)] {
        let mut lab = Lab::new(Protected, 0);
        lab.gdt(FREE, descriptor(0, 0xFFFF, 0x9B, 4)).code("FF 2D 00 00 03 00");
        pointer(&mut lab, offset, selector);
        lab.faults(13, code, CODE);
    }
    // A 32-bit pointer is written into 16-bit code; L and D together
    let mut lab = Lab::new(Long, 0);
    lab.gdt(FREE, descriptor(0, 0xF_FFFF, 0x9B, 0xE)).code("FF 2C 25 00 00 03 00");
    pointer(&mut lab, CODE as u32, FREE);
    lab.faults(13, FREE.into(), CODE);
}

#[test]
fn call_gates_change_level_and_copy_parameters() {
    // push 1..3; lcall gate; at level 0: hlt
    let mut lab = Lab::new(Protected, 3);
    let target = CODE + 0x200;
    lab.gdt(FREE, gate(CODE32, target, 0xEC, 3));
    lab.code("6A 01 6A 02 6A 03 9A 00 00 00 00 63 00").code_at(target, "F4");
    lab.done();
    let sp = lab.reg(RSP);
    assert_eq!(sp, STACK - 28);
    let words: Vec<u64> = (0..7).map(|n| lab.get::<4>(sp + 4 * n)).collect();
    assert_eq!(words, [CODE + 13, USER32.into(), 3, 2, 1, STACK3 - 12, USER_DATA.into()]);
    assert_eq!((lab.cpu().cpl, lab.cpu().segs[SS].selector), (0, DATA0));
    // and back by RET 12: both stacks drop the parameters
    let mut lab = Lab::new(Protected, 3);
    lab.gdt(FREE, gate(CODE32, target, 0xEC, 3));
    lab.code("6A 01 6A 02 6A 03 9A 00 00 00 00 63 00 CD 80").code_at(target, "CA 0C 00");
    let f = lab.faults(0x80, 0, CODE + 15);
    assert_eq!((f.cs, f.ss, f.rsp), (USER32.into(), USER_DATA.into(), STACK3));
    // same level: no switch, no parameters
    let mut lab = Lab::new(Protected, 0);
    lab.gdt(FREE, gate(CODE32, target, 0x8C, 3));
    lab.code("6A 01 9A 00 00 00 00 60 00").code_at(target, "F4");
    lab.done();
    assert_eq!(lab.reg(RSP), STACK - 12);
    // 16-bit gate pushes words
    let mut lab = Lab::new(Protected, 3);
    let target16 = 0x9F00; // only 16 bits of offset
    lab.gdt(FREE, gate(CODE32, target16 | 0x7_0000, 0xE4, 1));
    lab.code("66 68 34 12 9A 00 00 00 00 63 00").code_at(target16, "F4");
    lab.done();
    let sp = lab.reg(RSP);
    let words: Vec<u64> = (0..5).map(|n| lab.get::<2>(sp + 2 * n)).collect();
    assert_eq!(
        words,
        [(CODE + 11) & 0xFFFF, USER32.into(), 0x1234, (STACK3 - 2) & 0xFFFF, USER_DATA.into()]
    );
    // jmp through a gate never changes the level
    let mut lab = Lab::new(Protected, 3);
    lab.gdt(FREE, gate(CODE32, target, 0xEC, 0)).code("EA 00 00 00 00 63 00");
    lab.faults(13, CODE32.into(), CODE);
    // conforming target: the level stays
    let mut lab = Lab::new(Protected, 3);
    lab.gdt(FREE, gate(FREE + 8, target, 0xEC, 0));
    lab.gdt(FREE + 8, descriptor(0, 0xF_FFFF, 0x9F, 0xC));
    lab.code("9A 00 00 00 00 63 00").code_at(target, "CD 80");
    let f = lab.faults(0x80, 0, target + 2);
    assert_eq!((f.cs, f.rsp), (u64::from(FREE + 8) | 3, STACK3 - 8));
}

#[test]
fn call_gate_faults() {
    let target = CODE + 0x200;
    // (gate access, gate's selector, vector, code)
    for (access, selector, vector, code) in [
        (0x8C, CODE32, 13, FREE), // gate DPL < CPL
        (0x6C, CODE32, 11, FREE), // gate not present
        (0xEC, 0, 13, 0),
        (0xEC, 0x7F8, 13, 0x7F8),
        (0xEC, DATA0, 13, DATA0),
        (0xEC, FREE + 8, 11, FREE + 8), // target not present
    ] {
        let mut lab = Lab::new(Protected, 3);
        lab.gdt(FREE, gate(selector, target, access, 0));
        lab.gdt(FREE + 8, descriptor(0, 0xF_FFFF, 0x1B, 0xC));
        lab.code("9A 00 00 00 00 63 00");
        lab.faults(vector, code.into(), CODE);
    }
    // The inner stack: bad selectors are #TS, not present #SS, too small #SS.
    // These use level 1 (its code at FREE+8), so that the fault itself finds a good stack.
    for (raw, selector, sp, vector, code) in [
        (descriptor(0, 0xF_FFFF, 0xB3, 0xC), 0u16, STACK1, 10, 0u16),
        (descriptor(0, 0xF_FFFF, 0x93, 0xC), FREE + 17, STACK1, 10, FREE + 16),
        (descriptor(0, 0xF_FFFF, 0xB1, 0xC), FREE + 17, STACK1, 10, FREE + 16),
        (descriptor(0, 0xF_FFFF, 0xB3, 0xC), FREE + 16, STACK1, 10, FREE + 16),
        (descriptor(0, 0xF_FFFF, 0x33, 0xC), FREE + 17, STACK1, 12, FREE + 16),
        (descriptor(0, 0xFFF, 0xB3, 0x4), FREE + 17, STACK1, 12, FREE + 16),
    ] {
        let mut lab = Lab::new(Protected, 3);
        lab.gdt(FREE, gate(FREE + 9, target, 0xEC, 0));
        lab.gdt(FREE + 8, descriptor(0, 0xF_FFFF, 0xBB, 0xC)).gdt(FREE + 16, raw);
        lab.write(TSS + 12, &(sp as u32).to_le_bytes());
        lab.write(TSS + 16, &selector.to_le_bytes());
        lab.code("9A 00 00 00 00 63 00");
        let f = lab.faults(vector, code.into(), CODE);
        assert_eq!((f.cs, f.rsp), (USER32.into(), STACK3));
    }
    // The good case, to level 1
    let mut lab = Lab::new(Protected, 3);
    lab.gdt(FREE, gate(FREE + 9, target, 0xEC, 0));
    lab.gdt(FREE + 8, descriptor(0, 0xF_FFFF, 0xBB, 0xC));
    lab.gdt(FREE + 16, descriptor(0, 0xF_FFFF, 0xB3, 0xC));
    lab.write(TSS + 16, &(FREE + 17).to_le_bytes());
    lab.code("9A 00 00 00 00 63 00").code_at(target, "CD 80");
    let f = lab.faults(0x80, 0, target + 2);
    assert_eq!((f.cs, f.ss, f.rsp), (u64::from(FREE + 9), u64::from(FREE + 17), STACK1 - 16));
}

#[test]
fn inner_stack_is_supervisor_memory() {
    // With paging, a gate's pushes go to pages that level 3 may not touch.
    let mut lab = Lab::new(Paged32, 3);
    let target = CODE + 0x200;
    lab.gdt(FREE, gate(CODE32, target, 0xEC, 0));
    lab.set_pte(STACK - 1, (STACK - 1) & !0xFFF | 3);
    lab.code("9A 00 00 00 00 63 00").code_at(target, "F4");
    lab.done();
    assert_eq!(lab.reg(RSP), STACK - 16);
}

#[test]
fn call_gates_of_long_mode() {
    let target = CODE + 0x200;
    let mut lab = Lab::new(Long, 3);
    lab.gdt(FREE, gate(CODE64, target, 0xEC, 0)).gdt(FREE + 8, 0);
    lab.code("FF 1C 25 00 00 03 00").code_at(target, "F4");
    pointer(&mut lab, 0, FREE | 3);
    lab.done();
    let sp = lab.reg(RSP);
    let words: Vec<u64> = (0..4).map(|n| lab.get::<8>(sp + 8 * n)).collect();
    assert_eq!(words, [CODE + 7, USER64.into(), STACK3, USER_DATA.into()]);
    assert_eq!((lab.cpu().segs[SS].selector, lab.cpu().segs[SS].usable), (0, false));
    // upper half with a type, non-canonical target, 32-bit target
    for (high, selector, code) in
        [(0x100 << 32, CODE64, FREE), (0x8000, CODE64, 0), (0, CODE32, CODE32)]
    {
        let mut lab = Lab::new(Long, 3);
        lab.gdt(FREE, gate(selector, target, 0xEC, 0)).gdt(FREE + 8, high);
        lab.code("FF 1C 25 00 00 03 00");
        pointer(&mut lab, 0, FREE | 3);
        lab.faults(13, code.into(), CODE);
    }
}

#[test]
fn far_returns() {
    let target = CODE + 0x100;
    // (pushed CS, descriptor, vector, code): from level 0
    for (cs, raw, vector, code) in [
        (CODE32, 0, 0, 0),
        (0, 0, 13, 0),
        (0x7F8, 0, 13, 0x7F8),
        (DATA0, 0, 13, DATA0),
        (FREE, descriptor(0, 0xF_FFFF, 0x1B, 0xC), 11, FREE),
        (FREE | 3, descriptor(0, 0xF_FFFF, 0x9B, 0xC), 13, FREE), // DPL != RPL
        (FREE, descriptor(0, 0xFFFF, 0x9B, 0x4), 13, 0),          // beyond the limit
    ] {
        let mut lab = Lab::new(Protected, 0);
        lab.gdt(FREE, raw).code("CB").code_at(target, "F4");
        lab.cpu().regs[RSP] = DATA;
        lab.put(DATA, target | u64::from(cs) << 32);
        if vector == 0 { lab.done() } else { drop(lab.faults(vector, code.into(), CODE)) }
    }
    // to an inner level
    let mut lab = Lab::new(Protected, 3);
    lab.code("CB").cpu().regs[RSP] = DATA;
    lab.put(DATA, target | u64::from(CODE32) << 32);
    lab.faults(13, CODE32.into(), CODE);
}

/// IRET to level 3 with this frame of dwords at DATA.
fn iret_frame(mode: Mode, frame: &[u64], size: usize) -> Lab {
    let mut lab = Lab::new(mode, 0);
    lab.code(if size == 8 { "48 CF" } else { "CF" });
    for (n, v) in frame.iter().enumerate() {
        lab.write(DATA + (n * size) as u64, &v.to_le_bytes()[..size]);
    }
    lab.cpu().regs[RSP] = DATA;
    lab
}

#[test]
fn iret_to_an_outer_level() {
    let user = CODE + 0x100;
    let all = 0x3F_7FD5 & !VM & !NT & !TF & !AC;
    let mut lab = iret_frame(Protected, &[user, USER32.into(), all, STACK3, USER_DATA.into()], 4);
    lab.code_at(user, "CD 80").cpu().segs[ES].selector = USER_DATA;
    lab.cpu().segs[ES].access |= 0x60;
    let f = lab.faults(0x80, 0, user + 2);
    assert_eq!(f.flags, (all | 2) & !RF, "all flags from level 0");
    assert_eq!((f.ss, f.rsp), (USER_DATA.into(), STACK3));
    // DS was of level 0: it is null now; ES stays
    assert!(!lab.cpu().segs[DS].usable);
    assert_eq!(lab.cpu().segs[DS].selector, 0);
    assert_eq!(lab.cpu().segs[ES].selector, USER_DATA);
    // bad SS
    for (ss, raw, vector, code) in [
        (0, 0, 13, 0),
        (DATA0, 0, 13, DATA0),
        (0x7F8 | 3, 0, 13, 0x7F8),
        (FREE | 3, descriptor(0, 0xF_FFFF, 0x73, 0xC), 12, FREE),
        (FREE | 3, descriptor(0, 0xF_FFFF, 0xF1, 0xC), 13, FREE),
    ] {
        let mut lab = iret_frame(Protected, &[user, USER32.into(), 2, STACK3, ss.into()], 4);
        lab.gdt(FREE, raw);
        lab.faults(vector, code.into(), CODE);
        assert_eq!(lab.cpu().cpl, 0);
    }
}

#[test]
fn iret_flags_by_level() {
    // From level 3 with IOPL 0: IF and IOPL stay.
    let user = CODE + 0x100;
    for (iopl, want) in [(0, 2 | ID), (3 << 12, 2 | ID | IF | 3 << 12)] {
        let mut lab = Lab::new(Protected, 3);
        lab.code("CF").code_at(user, "CD 80").cpu().regs[RSP] = DATA;
        lab.cpu().flags.set(iopl);
        for (n, v) in [user, USER32.into(), IF | ID | VIF | (iopl ^ IOPL)].iter().enumerate() {
            lab.write(DATA + 4 * n as u64, &(*v as u32).to_le_bytes());
        }
        let f = lab.faults(0x80, 0, user + 2);
        assert_eq!(f.flags, want);
    }
    // 16-bit IRET keeps the upper half
    let mut lab = Lab::new(Protected, 0);
    lab.code("66 CF").code_at(0x9F00, "F4").cpu().regs[RSP] = DATA;
    lab.cpu().flags.set(ID);
    for (n, v) in [0x9F00u16, CODE32, 0x0801].iter().enumerate() {
        lab.write(DATA + 2 * n as u64, &v.to_le_bytes());
    }
    lab.done();
    assert_eq!(lab.cpu().flags.get(), ID | 0x803);
}

#[test]
fn iret_in_long_mode_always_pops_the_stack() {
    let to = CODE + 0x100;
    // same level, a null SS
    let mut lab = iret_frame(Long, &[to, CODE64.into(), 2, 0x2_1000, 0], 8);
    lab.code_at(to, "F4");
    lab.done();
    assert_eq!(lab.reg(RSP), 0x2_1000);
    // null SS is not for level 3, nor for 32-bit code
    for cs in [USER64, USER32, CODE32] {
        let mut lab = iret_frame(Long, &[to, cs.into(), 2, 0x2_1000, 0], 8);
        lab.faults(13, 0, CODE);
    }
    // to compatibility mode and 64-bit mode at level 3
    for (cs, ss) in [(USER64, USER_DATA), (USER32, USER_DATA)] {
        let mut lab = iret_frame(Long, &[to, cs.into(), 0x202, STACK3, ss.into()], 8);
        lab.code_at(to, "CD 80");
        let f = lab.faults(0x80, 0, to + 2);
        assert_eq!((f.cs, f.ss, f.rsp, f.flags), (cs.into(), ss.into(), STACK3, 0x202));
    }
    // non-canonical RIP, NT, both L and D
    let mut lab = iret_frame(Long, &[1 << 47, CODE64.into(), 2, STACK, 0], 8);
    lab.faults(13, 0, CODE);
    let mut lab = iret_frame(Long, &[to, CODE64.into(), 2, STACK, 0], 8);
    lab.cpu().flags.set(NT);
    lab.faults(13, 0, CODE);
    // 32-bit operand size still pops five words
    let mut lab = iret_frame(Long, &[to, CODE64.into(), 2, 0x2_1000, 0], 4);
    lab.code_at(to, "F4");
    lab.done();
    assert_eq!(lab.reg(RSP), 0x2_1000);
}

#[test]
fn iret_to_virtual_8086_mode() {
    let frame = [0x100, 0x1000, VM | 0x3202, 0x7000, 0x2000, 0x3000, 0x3100, 0x3200, 0x3300];
    let mut lab = iret_frame(Protected, &frame, 4);
    lab.code_at(CODE + 0x100, "CD 80");
    let f = lab.faults(0x80, 0, 0x102);
    assert_eq!((f.cs, f.flags, f.rsp, f.ss), (0x1000, VM | 0x3202, 0x7000, 0x2000));
    let sp = lab.reg(RSP);
    let segs: Vec<u64> = (5..9).map(|n| lab.get::<4>(sp + 4 * n)).collect();
    assert_eq!(segs, [0x3000, 0x3100, 0x3200, 0x3300]);
    assert!(!lab.cpu().segs[DS].usable, "null after leaving virtual-8086 mode");
    // VM is ignored at level 3
    let mut lab = Lab::new(Protected, 3);
    lab.code("CF").code_at(CODE + 0x100, "CD 80").cpu().regs[RSP] = DATA;
    for (n, v) in [CODE + 0x100, USER32.into(), VM | 2].iter().enumerate() {
        lab.write(DATA + 4 * n as u64, &(*v as u32).to_le_bytes());
    }
    let f = lab.faults(0x80, 0, CODE + 0x102);
    assert_eq!(f.flags, 2);
}

#[test]
fn rf_and_nmi_unblocking() {
    // IRET that faults unblocks NMIs all the same
    let mut lab = iret_frame(Protected, &[CODE, 0, 2], 4);
    lab.cpu().nmi_blocked = true;
    lab.faults(13, 0, CODE);
    assert!(!lab.cpu().nmi_blocked);
    // RF loaded by IRET holds for one instruction only: nop; int 80h pushes it clear, and a
    // breakpoint on the first instruction does not fire
    let to = CODE + 0x100;
    let mut lab = iret_frame(Protected, &[to, CODE32.into(), RF | 2], 4);
    lab.code_at(to, "90 40 EB FC");
    lab.cpu().dr[0] = to;
    lab.cpu().dr[7] |= 1;
    let f = lab.faults(1, 0, to);
    assert_eq!((lab.reg(RAX), f.flags & RF), (1, 0), "second time round");
}

#[test]
fn real_and_v86_far_transfers() {
    let mut lab = Lab::new(Real, 0);
    // call 1000:0020; hlt ... 20: retf
    lab.code("9A 20 00 00 10 F4").code_at(CODE + 0x20, "CB");
    assert_eq!(lab.run(), Done);
    assert_eq!((lab.cpu().rip, lab.reg(RSP)), (6, 0x8000));
    // a 32-bit offset beyond 64 KiB
    let mut lab = Lab::new(Real, 0);
    lab.code("66 EA 00 00 01 00 00 10");
    assert_eq!(lab.run(), Vector(13));
    assert_eq!(lab.get::<2>(0x7FFA), 0);
    // IRET in virtual-8086 mode with IOPL < 3
    let mut lab = Lab::new(V86, 3);
    lab.code("CF");
    lab.faults(13, 0, 0);
    // with IOPL 3 it works and keeps IOPL and VM
    let mut lab = Lab::new(V86, 3);
    lab.cpu().flags.set(VM | 3 << 12);
    lab.code("CF").code_at(CODE + 0x100, "CD 80").cpu().regs[RSP] = 0x6000;
    lab.write(0x6000, &[0, 1, 0, 0x10, 0x02, 0x02]);
    let f = lab.faults(0x80, 0, 0x102);
    assert_eq!(f.flags, VM | 0x3202);
}
