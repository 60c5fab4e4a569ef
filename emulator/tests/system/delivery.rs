//! Interrupt and exception delivery (SDM 3A 6.10-6.15, 20.1-20.3).

use crate::lab::*;
use emulator::cpu::flags::{AC, IF, NT, RF, TF, VIF, VIP, VM};
use emulator::cpu::{RAX, RSP, SS, TableRegister, cr4};

#[test]
fn gates_of_protected_mode() {
    // (gate, CPL, vector, code): INT 40h = 40h*8+2
    let idt = 0x40 * 8 + 2;
    let at = HANDLERS + 0x400;
    for (raw, cpl, vector, code) in [
        (gate(CODE32, at, 0xEE, 0), 3, 0x40, 0),
        (gate(CODE32, at, 0xEF, 0), 3, 0x40, 0),
        (gate(CODE32, at, 0x8E, 0), 0, 0x40, 0),
        (gate(CODE32, at, 0x8E, 0), 3, 13, idt), // DPL < CPL
        (gate(CODE32, at, 0x6E, 0), 3, 11, idt), // not present
        (gate(CODE32, at, 0x2E, 0), 3, 13, idt), // privilege comes first
        (gate(CODE32, at, 0xEC, 0), 3, 13, idt), // call gate
        (gate(CODE32, at, 0xE9, 0), 3, 13, idt), // TSS
        (gate(CODE32, at, 0xFE, 0), 3, 13, idt), // S set
        (0, 0, 13, idt),
        (gate(0, at, 0xEE, 0), 3, 13, 0),
        (gate(0x7F8, at, 0xEE, 0), 3, 13, 0x7F8),
        (gate(DATA0, at, 0xEE, 0), 3, 13, u64::from(DATA0)),
        (gate(FREE, at, 0xEE, 0), 3, 11, u64::from(FREE)),
        (gate(USER32, at, 0xEE, 0), 0, 13, u64::from(USER32 & !3)), // DPL > CPL
        (gate(FREE + 8, at, 0xEE, 0), 0, 13, 0),                    // beyond the limit
        (gate(0xC, at, 0xEE, 0), 0, 13, 0xC),                       // TI
    ] {
        let mut lab = Lab::new(Protected, cpl);
        lab.raw_gate(0x40, raw).code("CD 40");
        lab.gdt(FREE, descriptor(0, 0xF_FFFF, 0x1B, 0xC));
        lab.gdt(FREE + 8, descriptor(0, 0xFF, 0x9B, 0x4));
        let rip = if vector == 0x40 { CODE + 2 } else { CODE };
        lab.faults(vector, code, rip);
    }
}

#[test]
fn interrupt_and_trap_gates_and_flags() {
    for (access, want) in [(0xEE, 0), (0xEF, IF)] {
        let mut lab = Lab::new(Protected, 0);
        lab.gate(0x40, CODE32, access).code("CD 40").cpu().flags.set(IF | NT | AC);
        let f = lab.faults(0x40, 0, CODE + 2);
        assert_eq!(f.flags, IF | NT | AC | 2);
        let now = lab.cpu().flags.get();
        assert_eq!(now & (IF | NT | TF | RF | AC), want | AC);
    }
}

#[test]
fn sixteen_bit_gates() {
    let mut lab = Lab::new(Protected, 3);
    lab.raw_gate(0x40, gate(CODE32, 0x5555_0000 | (HANDLERS + 0x400), 0xE6, 0)).code("CD 40");
    assert_eq!(lab.run(), Vector(0x40), "only 16 bits of the offset count");
    let f = lab.frame::<2>();
    assert_eq!((f.rip, f.cs), ((CODE + 2) & 0xFFFF, USER32.into()));
    assert_eq!((f.rsp, f.ss), (STACK3 & 0xFFFF, USER_DATA.into()));
    assert_eq!(lab.reg(RSP), STACK - 10);
}

#[test]
fn errors_while_delivering() {
    // The fault's own gate is bad: EXT is set, then #DF pushes 0.
    let mut lab = Lab::new(Protected, 0);
    lab.raw_gate(6, 0).code("0F 0B");
    let f = lab.faults(13, 6 * 8 + 3, CODE);
    assert_eq!(f.flags & RF, RF);
    // #GP while delivering #NP is a double fault
    let mut lab = Lab::new(Protected, 0);
    lab.raw_gate(11, 0).gdt(FREE, descriptor(0, 0, 0x13, 0)).code("8E D8");
    lab.cpu().regs[RAX] = FREE.into();
    lab.faults(8, 0, CODE);
    // … and a third one is a shutdown
    let mut lab = Lab::new(Protected, 0);
    lab.raw_gate(13, 0).raw_gate(8, 0).code("CD 40").raw_gate(0x40, 0);
    assert_eq!(lab.run(), Reset);
    // benign first: #UD then #GP is just #GP
    let mut lab = Lab::new(Protected, 0);
    lab.raw_gate(6, gate(0x7F8, 0, 0x8E, 0)).code("0F 0B");
    lab.faults(13, 0x7F8 | 1, CODE);
    // INT n through a bad gate has EXT clear, INT1 set
    let mut lab = Lab::new(Protected, 0);
    lab.raw_gate(1, 0).code("F1");
    lab.faults(13, 8 + 3, CODE);
    let mut lab = Lab::new(Protected, 0);
    lab.raw_gate(3, 0).code("CC");
    lab.faults(13, 3 * 8 + 2, CODE);
    // beyond the IDT
    let mut lab = Lab::new(Protected, 0);
    lab.code("CD 80").cpu().idtr.limit = 0x80 * 8 + 6;
    lab.faults(13, 0x80 * 8 + 2, CODE);
    // page fault while delivering a page fault
    let mut lab = Lab::new(Paged32, 0);
    lab.code("A1 00 00 05 00").set_pte(0x5_0000, 0);
    lab.raw_gate(14, gate(CODE32, 0, 0x8E, 0)).set_pte(IDT, IDT);
    assert_eq!(lab.run(), Reset, "the IDT is not there for #DF either");
    // contributory, then page fault: serial (SDM 3A table 6-5)
    let mut lab = Lab::new(Paged32, 3);
    lab.code("F4").set_pte(STACK1 - 1, 0);
    lab.gdt(FREE, descriptor(0, 0xF_FFFF, 0xBB, 0xC));
    lab.gdt(FREE + 8, descriptor(0, 0xF_FFFF, 0xB3, 0xC));
    lab.write(TSS + 16, &(FREE + 9).to_le_bytes());
    lab.gate(13, FREE + 1, 0xEE);
    lab.faults(14, 2, CODE);
    assert_eq!(lab.cpu().cr2, STACK1 - 4);
}

#[test]
fn stacks_of_inner_levels() {
    // TSS too small, bad SS0 in every way: #TS with EXT clear for INT; then delivery of #TS
    // itself needs the same stack, so a task-less machine shuts down.
    for (ss, limit) in [(0, 0x67), (0x7F8, 0x67), (USER_DATA, 0x67), (DATA0, 8)] {
        let mut lab = Lab::new(Protected, 3);
        lab.write(TSS + 8, &ss.to_le_bytes());
        lab.code("CD 80").cpu().tr.limit = limit;
        assert_eq!(lab.run(), Reset);
    }
    // From level 3 to level 1 with a bad SS1; the fault goes to level 0.
    for (ss, raw, vector, code) in [
        (0u16, 0, 10, 0u64),
        (FREE | 1, descriptor(0, 0xF_FFFF, 0x93, 0xC), 10, FREE.into()),
        (FREE | 1, descriptor(0, 0xF_FFFF, 0x33, 0xC), 12, FREE.into()),
        (FREE | 1, descriptor(0, 0xFF, 0xB3, 4), 12, FREE.into()),
    ] {
        let mut lab = Lab::new(Protected, 3);
        lab.gdt(FREE, raw).gdt(FREE + 8, descriptor(0, 0xF_FFFF, 0xBB, 0xC));
        lab.write(TSS + 16, &ss.to_le_bytes());
        lab.gate(0x80, FREE + 9, 0xEE).code("CD 80");
        let f = lab.faults(vector, code, CODE);
        assert_eq!((f.rsp, f.ss, f.cs), (STACK3, USER_DATA.into(), USER32.into()));
        // for an exception EXT is set
        let mut lab = Lab::new(Protected, 3);
        lab.gdt(FREE, raw).gdt(FREE + 8, descriptor(0, 0xF_FFFF, 0xBB, 0xC));
        lab.write(TSS + 16, &ss.to_le_bytes());
        lab.gate(6, FREE + 9, 0xEE).code("0F 0B");
        lab.faults(vector, code | 1, CODE);
    }
}

#[test]
fn long_mode_delivery() {
    // same level: SS:RSP pushed, RSP aligned to 16
    let mut lab = Lab::new(Long, 0);
    lab.code("CD 80").cpu().regs[RSP] = STACK - 3;
    let f = lab.faults(0x80, 0, CODE + 2);
    assert_eq!((f.rsp, f.ss, lab.reg(RSP)), (STACK - 3, DATA0.into(), STACK - 16 - 40));
    assert_eq!(lab.cpu().segs[SS].selector, DATA0, "SS stays without a change of level");
    // from level 3: RSP0, null SS
    let mut lab = Lab::new(Long, 3);
    lab.code("CD 80");
    let f = lab.faults(0x80, 0, CODE + 2);
    assert_eq!((f.rsp, f.ss, lab.reg(RSP)), (STACK3, USER_DATA.into(), STACK - 40));
    assert_eq!((lab.cpu().segs[SS].selector, lab.cpu().segs[SS].usable), (0, false));
    // IST 2
    let mut lab = Lab::new(Long, 0);
    lab.put(TSS + 0x24 + 8, STACK1 + 7);
    lab.raw_gate(0x80, gate(CODE64, HANDLERS + 0x800, 0xEE, 2)).code("CD 80");
    let f = lab.faults(0x80, 0, CODE + 2);
    assert_eq!((f.rsp, lab.reg(RSP)), (STACK, STACK1 - 40));
    // from compatibility mode
    let mut lab = Lab::new(Compat, 3);
    lab.code("CD 80");
    let f = lab.faults(0x80, 0, CODE + 2);
    assert_eq!((f.cs, f.rsp), (USER32.into(), STACK3));
}

#[test]
fn long_mode_delivery_faults() {
    let idt = 0x80 * 8 + 2;
    for (raw, high, vector, code) in [
        (gate(CODE32, HANDLERS, 0xEE, 0), 0, 13, u64::from(CODE32)), // not 64-bit code
        (gate(CODE64, HANDLERS, 0xE6, 0), 0, 13, idt),               // 286 gate
        (gate(TASK, 0, 0xE5, 0), 0, 13, idt),                        // task gate
        (gate(CODE64, HANDLERS, 0x6E, 0), 0, 11, idt),
        (gate(CODE64, HANDLERS, 0xEE, 0), 0x8000, 13, 0), // not canonical
        (gate(0, HANDLERS, 0xEE, 0), 0, 13, 0),
    ] {
        let mut lab = Lab::new(Long, 0);
        lab.raw_gate(0x80, raw).put(IDT + 0x808, high);
        lab.code("CD 80");
        lab.faults(vector, code, CODE);
    }
    // a non-canonical stack pointer in the TSS: #SS(0)
    let mut lab = Lab::new(Long, 0);
    lab.put(TSS + 0x24, 1 << 47);
    lab.raw_gate(0x80, gate(CODE64, HANDLERS + 0x800, 0xEE, 1)).code("CD 80");
    lab.faults(12, 0, CODE);
    // beyond the TSS: #TS(TR)
    let mut lab = Lab::new(Long, 0);
    lab.cpu().tr.limit = 0x2A;
    lab.raw_gate(0x80, gate(CODE64, HANDLERS + 0x800, 0xEE, 1)).code("CD 80");
    lab.faults(10, TASK.into(), CODE);
    // a page fault on the IST stack is a plain #PF for INT n
    let mut lab = Lab::new(Long, 0);
    lab.put(TSS + 0x24, 0x6_0000);
    lab.set_pte(0x5_F000, 0);
    lab.raw_gate(0x80, gate(CODE64, HANDLERS + 0x800, 0xEE, 1)).code("CD 80");
    lab.faults(14, 2, CODE);
    assert_eq!(lab.cpu().cr2, 0x5_FFF8);
}

#[test]
fn real_mode() {
    let mut lab = Lab::new(Real, 0);
    lab.code("CD 80").cpu().flags.set(IF | AC | TF);
    // TF: INT clears it, and no trap follows
    assert_eq!(lab.run(), Vector(0x80));
    let f = lab.frame::<2>();
    assert_eq!((f.rip, f.cs, f.flags), (2, 0x1000, IF | TF | 2));
    assert_eq!(lab.cpu().flags.get() & (IF | AC | TF), 0);
    // a vector beyond the table: #GP, which is there
    let mut lab = Lab::new(Real, 0);
    lab.code("CD 80").cpu().idtr.limit = 0x1FF;
    assert_eq!(lab.run(), Vector(13));
    // nothing is there: #GP, #DF, shutdown
    let mut lab = Lab::new(Real, 0);
    lab.code("CD 80").cpu().idtr = TableRegister { base: 0, limit: 0 };
    assert_eq!(lab.run(), Reset);
    // the stack wraps between words, but not within one
    let mut lab = Lab::new(Real, 0);
    lab.code("CD 80").cpu().regs[RSP] = 0;
    assert_eq!(lab.run(), Vector(0x80));
    assert_eq!(lab.reg(RSP), 0xFFFA);
    let mut lab = Lab::new(Real, 0);
    lab.code("CD 80").cpu().regs[RSP] = 1;
    assert_eq!(lab.run(), Reset);
}

#[test]
fn virtual_8086_interrupts() {
    // IOPL 3: through the IDT to level 0
    let mut lab = Lab::new(V86, 3);
    lab.cpu().flags.set(VM | 0x3000 | IF);
    lab.code("CD 80");
    let f = lab.faults(0x80, 0, 2);
    assert_eq!((f.cs, f.flags), (0x1000, VM | 0x3002 | IF));
    assert_eq!(lab.cpu().flags.get() & VM, 0);
    // IOPL < 3: #GP(0), except for INT3
    let mut lab = Lab::new(V86, 3);
    lab.code("CD 80");
    lab.faults(13, 0, 0);
    let mut lab = Lab::new(V86, 3);
    lab.code("CC");
    lab.faults(3, 0, 1);
    // the handler must be at level 0
    let mut lab = Lab::new(V86, 3);
    lab.cpu().flags.set(VM | 0x3000);
    lab.gdt(FREE, descriptor(0, 0xF_FFFF, 0xBB, 0xC)).gate(0x80, FREE, 0xEE).code("CD 80");
    lab.faults(13, FREE.into(), 0);
    // CLI, STI, PUSHF, POPF, IRET fault with IOPL < 3
    for code in ["FA", "FB", "9C", "9D", "CF"] {
        let mut lab = Lab::new(V86, 3);
        lab.code(code);
        lab.faults(13, 0, 0);
    }
}

#[test]
fn virtual_8086_extensions() {
    let vme = |flags: u64, code: &str| {
        let mut lab = Lab::new(V86, 3);
        lab.cpu().flags.set(VM | flags);
        lab.cpu().cr4 |= cr4::VME;
        lab.write(TSS + 0x66, &0x88u16.to_le_bytes()); // redirection map at 68h
        lab.code(code);
        lab
    };
    // redirected to the 8086 program: 0:[200h]
    for (flags, pushed, after) in [
        (0x3000 | IF, 0x3002 | IF, 0x3002), // IOPL 3: as in real mode
        (VIF, 0x3002 | IF, 2),              // IOPL 0: VIF stands in for IF
        (IF, 0x3002, 2 | IF),
    ] {
        let mut lab = vme(flags, "CD 80");
        lab.write(0x200, &[0, 2, 0, 0x10]); // 1000:0200
        lab.code_at(CODE + 0x200, "CC");
        let f = lab.faults(3, 0, 0x201);
        assert_eq!(f.flags & !VM, after);
        let at = 0x7000 - 6;
        assert_eq!(f.rsp, at);
        let frame = [lab.get::<2>(at), lab.get::<2>(at + 2), lab.get::<2>(at + 4)];
        assert_eq!(frame, [2, 0x1000, pushed], "flags {flags:#x}");
    }
    // intercepted by the map
    let mut lab = vme(0, "CD 80");
    lab.write(TSS + 0x68 + 0x10, &[1]);
    lab.faults(13, 0, 0);
    // STI with VIP set faults, without sets VIF; PUSHF shows VIF as IF and IOPL 3
    let mut lab = vme(VIP, "FB");
    lab.faults(13, 0, 0);
    let mut lab = vme(0, "FB 9C CC");
    let f = lab.faults(3, 0, 3);
    assert_eq!(f.flags, VM | VIF | 2);
    assert_eq!(lab.get::<2>(0x6FFE), 0x3202);
    let mut lab = vme(VIF, "FA CC");
    assert_eq!(lab.faults(3, 0, 2).flags, VM | 2);
    // POPF may not set TF
    let mut lab = vme(0, "68 00 01 9D");
    lab.faults(13, 0, 3);
    // protected-mode virtual interrupts at level 3
    let mut lab = Lab::new(Protected, 3);
    lab.code("FB CC").cpu().cr4 |= cr4::PVI;
    assert_eq!(lab.faults(3, 0, CODE + 2).flags, VIF | 2);
    let mut lab = Lab::new(Protected, 3);
    lab.code("FB CC").cpu().cr4 |= cr4::PVI;
    lab.cpu().flags.set(VIP);
    lab.faults(13, 0, CODE);
}

/// Unmasks IRQ 4 at vector 24h, lets it through the local APIC, and lets the UART interrupt for a
/// received byte.
fn with_uart(lab: &mut Lab) {
    use devices::time::VirtualNs;
    let core = lab.machine.core_mut();
    let ports = [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xEF)];
    for (port, value) in ports.into_iter().chain([(0x3F9, 1), (0x3FC, 8)]) {
        core.board.port_write(&mut core.ram, VirtualNs(0), port, 1, value);
    }
    for (register, value) in [(0xF0, 0x1FF), (0x350, 0x700)] {
        core.board.mmio_write(&mut core.ram, VirtualNs(0), 0xFEE0_0000 + register, 4, value);
    }
}

/// Receives a byte while the code loops with interrupts disabled.
fn with_pending_interrupt() -> Lab {
    let mut lab = Lab::new(Protected, 0);
    with_uart(&mut lab);
    lab.code("EB FE");
    key(&mut lab);
    assert_eq!(lab.go_on(3_000_000), Running);
    assert!(lab.machine.core().board.interrupt_pending());
    lab
}

fn key(lab: &mut Lab) {
    use devices::io::Input;
    lab.machine.inject(Input::ConsoleRx { port: 0, bytes: vec![65] });
}

#[test]
fn halt_and_interrupt_shadows() {
    // sti; hlt; wakes up behind HLT
    let mut lab = Lab::new(Protected, 0);
    with_uart(&mut lab);
    lab.code("FB F4 90");
    assert_eq!(lab.run(), Done);
    key(&mut lab);
    let mut outcome = lab.go_on(100_000);
    for _ in 0..50 {
        if outcome == Vector(0x24) {
            break;
        }
        let next = devices::time::VirtualNs(lab.machine.now().0 + 100_000);
        lab.machine.idle_to(next);
        outcome = lab.go_on(1000);
    }
    assert_eq!(outcome, Vector(0x24));
    let f = lab.frame::<4>();
    assert_eq!((f.rip, f.flags & (IF | RF)), (CODE + 2, IF));
    // pending before STI: taken after the instruction that follows it; MOV SS, POP SS likewise
    for (code, rip) in [("FB 40 40 40", 2), ("FB FA 40 F4", 0), ("FB 8E D0 40 40", 4)] {
        let mut lab = with_pending_interrupt();
        lab.cpu().regs[RAX] = DATA0.into();
        lab.code(code);
        let outcome = lab.run();
        if rip == 0 {
            assert_eq!(outcome, Done, "STI; CLI leaves no window");
        } else {
            assert_eq!(outcome, Vector(0x24), "{code}");
            assert_eq!(lab.frame::<4>().rip, CODE + rip, "{code}");
        }
    }
    // IF set already: no shadow, but MOV SS has one
    let mut lab = with_pending_interrupt();
    lab.cpu().flags.set(IF);
    lab.run();
    assert_eq!(lab.frame::<4>().rip, CODE);
}

#[test]
fn repeated_instructions_push_rf() {
    let mut lab = with_pending_interrupt();
    // sti; rep movsb: taken after the first iteration
    lab.code("FB F3 A4 F4").cpu().rip = CODE;
    let cpu = lab.cpu();
    (cpu.regs[1], cpu.regs[6], cpu.regs[7]) = (10, DATA, DATA + 64);
    assert_eq!(lab.run(), Vector(0x24));
    let f = lab.frame::<4>();
    assert_eq!((f.rip, f.flags & RF, lab.reg(1)), (CODE + 1, RF, 9));
}

#[test]
fn nmi_blocking() {
    use devices::time::VirtualNs;
    // LINT1 as NMI is not wired to a source here: send one by the ICR to itself.
    let mut lab = Lab::new(Protected, 0);
    let core = lab.machine.core_mut();
    core.board.mmio_write(&mut core.ram, VirtualNs(0), 0xFEE0_00F0, 4, 0x1FF);
    // mov dword [FEE00300],4_0400 | self shorthand; nop; nop
    lab.code("C7 05 00 03 E0 FE 00 44 00 00 90 90 F4");
    assert_eq!(lab.run(), Vector(2));
    assert!(lab.cpu().nmi_blocked);
    assert_eq!(lab.frame::<4>().rip, CODE + 10);
    // a second one waits for IRET
    let mut lab = Lab::new(Protected, 0);
    let core = lab.machine.core_mut();
    core.board.mmio_write(&mut core.ram, VirtualNs(0), 0xFEE0_00F0, 4, 0x1FF);
    lab.code("C7 05 00 03 E0 FE 00 44 00 00 90 F4");
    lab.cpu().nmi_blocked = true;
    lab.done();
    lab.code("CF").cpu().rip = CODE;
    lab.cpu().halted = false;
    lab.cpu().regs[RSP] = DATA;
    for (n, v) in [CODE + 0x100, CODE32.into(), 2].iter().enumerate() {
        lab.write(DATA + 4 * n as u64, &(*v as u32).to_le_bytes());
    }
    assert_eq!(lab.run(), Vector(2));
    assert_eq!(lab.frame::<4>().rip, CODE + 0x100);
}
