//! Loads of segment registers, LDTR and TR (SDM 2B MOV, SDM 3A 3.4, 5.6).

use crate::lab::*;
use emulator::cpu::{CS, DS, ES, GS, RAX, SS};

/// MOV DS, AX; HLT with this descriptor at FREE and this selector.
fn load_ds(cpl: u8, raw: u64, selector: u16) -> Lab {
    let mut lab = Lab::new(Protected, cpl);
    lab.gdt(FREE, raw).code("8E D8 F4");
    lab.cpu().regs[RAX] = selector.into();
    lab
}

#[test]
fn data_segment_loads() {
    let flat = |access| descriptor(0x1234_5678, 0xF_FFFF, access, 0xC);
    // access byte, CPL, RPL, vector (0: loads)
    let cases: [(u8, u8, u16, u8); 22] = [
        (0x93, 0, 0, 0),
        (0x92, 0, 0, 0),
        (0x91, 0, 0, 0),  // read-only data
        (0x97, 0, 0, 0),  // expand-down
        (0x9B, 0, 0, 0),  // readable code
        (0x99, 0, 0, 13), // execute-only code
        (0x9D, 0, 0, 13), // execute-only conforming
        (0x9F, 0, 0, 0),  // readable conforming
        (0x13, 0, 0, 11), // not present
        (0x1B, 0, 0, 11),
        (0x93, 0, 3, 13), // RPL > DPL
        (0xF3, 0, 3, 0),
        (0xF3, 3, 3, 0),
        (0xF3, 3, 0, 0),
        (0x93, 3, 3, 13), // CPL > DPL
        (0x93, 3, 0, 13),
        (0x9F, 3, 3, 0), // conforming code: any level
        (0xB3, 0, 1, 0),
        (0xB3, 0, 2, 13),
        (0x8B, 0, 0, 13), // TSS
        (0x82, 0, 0, 13), // LDT
        (0x8C, 0, 0, 13), // call gate
    ];
    for (access, cpl, rpl, vector) in cases {
        let mut lab = load_ds(cpl, flat(access), FREE | rpl);
        if vector != 0 {
            let f = lab.faults(vector, FREE.into(), CODE);
            assert_eq!(f.flags & 1 << 16, 1 << 16, "RF");
            continue;
        }
        if cpl == 3 {
            // HLT at level 3 faults after the load.
            lab.faults(13, 0, CODE + 2);
        } else {
            lab.done();
        }
        let ds = lab.cpu().segs[DS];
        assert_eq!((ds.selector, ds.base, ds.limit), (FREE | rpl, 0x1234_5678, u32::MAX));
        let raw = lab.get::<8>(GDT + u64::from(FREE));
        assert_eq!(raw >> 40 & 0xFF, u64::from(access | 1), "accessed bit");
    }
}

#[test]
fn null_and_out_of_table() {
    for rpl in 0..4 {
        let mut lab = load_ds(0, 0, rpl);
        lab.done();
        assert!(!lab.cpu().segs[DS].usable);
        assert_eq!(lab.cpu().segs[DS].selector, rpl);
    }
    let mut lab = load_ds(0, 0, 0x7F8);
    lab.faults(13, 0x7F8, CODE);
    let mut lab = load_ds(0, 0, 0x800);
    lab.faults(13, 0x800, CODE);
    let mut lab = load_ds(0, 0, 0xC); // LDT not loaded
    lab.faults(13, 0xC, CODE);
    // A null segment faults where it is used: mov ax,[0]
    let mut lab = Lab::new(Protected, 0);
    lab.code("31 C0 8E D8 A1 00 00 03 00 F4");
    lab.faults(13, 0, CODE + 4);
}

#[test]
fn stack_segment_loads() {
    let cases: [(u8, u8, u16, u8); 10] = [
        (0x93, 0, 0, 0),
        (0x97, 0, 0, 0),
        (0x91, 0, 0, 13),
        (0x9B, 0, 0, 13),
        (0x13, 0, 0, 12), // not present: #SS
        (0xF3, 0, 3, 13), // RPL != CPL
        (0xF3, 0, 0, 13), // DPL != CPL
        (0xF3, 3, 3, 0),
        (0x93, 3, 3, 13),
        (0x93, 0, 1, 13),
    ];
    for (access, cpl, rpl, vector) in cases {
        let mut lab = Lab::new(Protected, cpl);
        lab.gdt(FREE, descriptor(0, 0xF_FFFF, access, 0xC)).code("8E D0 F4");
        lab.cpu().regs[RAX] = (FREE | rpl).into();
        match vector {
            0 if cpl == 3 => drop(lab.faults(13, 0, CODE + 2)),
            0 => lab.done(),
            _ => drop(lab.faults(vector, FREE.into(), CODE)),
        }
        if vector == 0 && cpl == 0 {
            assert_eq!(lab.cpu().segs[SS].selector, FREE | rpl);
        }
    }
    for selector in 0..4 {
        let mut lab = Lab::new(Protected, 0);
        lab.code("8E D0 F4").cpu().regs[RAX] = selector;
        lab.faults(13, 0, CODE);
    }
    // 64-bit mode takes a null SS below level 3, with RPL = CPL.
    let mut lab = Lab::new(Long, 0);
    lab.code("8E D0 F4").cpu().regs[RAX] = 0;
    lab.done();
    let mut lab = Lab::new(Long, 0);
    lab.code("8E D0 F4").cpu().regs[RAX] = 1;
    lab.faults(13, 0, CODE);
    let mut lab = Lab::new(Long, 3);
    lab.code("8E D0 F4").cpu().regs[RAX] = 3;
    lab.faults(13, 0, CODE);
}

#[test]
fn limits_and_types_at_use() {
    // mov [ES:edi], al / mov al, [ES:edi] with a segment of limit 0FFFh at DATA
    for (access, flags, offset, write, vector) in [
        (0x93, 4, 0xFFF, true, 0),
        (0x93, 4, 0x1000, true, 13),
        (0x93, 4, 0xFFFF_FFFF, false, 13),
        (0x91, 4, 0, true, 13),
        (0x91, 4, 0, false, 0),
        (0x9B, 4, 0, true, 13),
        (0x9B, 4, 0, false, 0),
        (0x97, 4, 0xFFF, true, 13), // expand-down: below the limit faults
        (0x97, 4, 0x1000, true, 0),
        (0x97, 4, 0x1_0000, true, 0),
        (0x97, 0, 0xFFFF, true, 0),
        (0x97, 0, 0x1_0000, true, 13), // B clear: up to 64 KiB
    ] {
        let mut lab = Lab::new(Protected, 0);
        lab.gdt(FREE, descriptor(DATA as u32, 0xFFF, access, flags));
        lab.code(if write { "8E C0 26 88 07 F4" } else { "8E C0 26 8A 07 F4" });
        lab.cpu().regs[RAX] = FREE.into();
        lab.cpu().regs[7] = offset;
        if vector == 0 { lab.done() } else { drop(lab.faults(vector, 0, CODE + 2)) }
    }
    // A word across the limit.
    let mut lab = Lab::new(Protected, 0);
    lab.gdt(FREE, descriptor(DATA as u32, 0xFFF, 0x93, 4)).code("8E C0 66 26 8B 07 F4");
    lab.cpu().regs[RAX] = FREE.into();
    lab.cpu().regs[7] = 0xFFF;
    lab.faults(13, 0, CODE + 2);
    // Through SS the fault is #SS: mov ss,ax; push eax with ESP below the segment
    let mut lab = Lab::new(Protected, 0);
    lab.gdt(FREE, descriptor(DATA as u32, 0xFFF, 0x93, 4));
    lab.gate(12, CODE32, 0x8E).code("8E D0 BC 02 10 00 00 50 F4");
    lab.cpu().regs[RAX] = FREE.into();
    // delivery on the same bad stack: double fault, triple fault
    assert_eq!(lab.run(), Reset);
}

#[test]
fn code_limit() {
    // far jump into a code segment of 16 bytes; runs off its end
    let mut lab = Lab::new(Protected, 0);
    lab.gdt(FREE, descriptor(DATA as u32, 0xF, 0x9B, 4));
    lab.code("EA 00 00 00 00 60 00").code_at(DATA, &"90".repeat(32));
    lab.faults(13, 0, 0x10);
    // the last instruction crosses the limit
    let mut lab = Lab::new(Protected, 0);
    lab.gdt(FREE, descriptor(DATA as u32, 0xF, 0x9B, 4));
    lab.code("EA 00 00 00 00 60 00").code_at(DATA, &("90".repeat(15) + "B8 01 02 03 04"));
    lab.faults(13, 0, 0xF);
    // the same bytes are fine under a larger limit, before and after, without flushing anything
    let mut lab = Lab::new(Protected, 0);
    lab.gdt(FREE, descriptor(DATA as u32, 0xFF, 0x9B, 4));
    lab.gdt(FREE + 8, descriptor(DATA as u32, 0xF, 0x9B, 4));
    lab.code("9A 00 00 00 00 60 00 9A 00 00 00 00 68 00 F4");
    lab.code_at(DATA, &("90".repeat(20) + "CB"));
    lab.faults(13, 0, 0x10);
}

#[test]
fn pop_and_lds_restart() {
    // pop ds with a bad selector leaves ESP
    let mut lab = Lab::new(Protected, 0);
    lab.code("6A 60 1F F4").gdt(FREE, descriptor(0, 0, 0x13, 0));
    lab.faults(11, FREE.into(), CODE + 2);
    assert_eq!(lab.reg(4), STACK - 4 - 16);
    // lds eax,[DATA]: register and segment change together or not at all
    let mut lab = Lab::new(Protected, 0);
    lab.code("B8 11 11 11 11 C5 05 00 00 03 00 F4").gdt(FREE, descriptor(0, 0, 0x13, 0));
    lab.write(DATA, &[1, 2, 3, 4, FREE as u8, 0]);
    lab.faults(11, FREE.into(), CODE + 5);
    assert_eq!(lab.reg(RAX), 0x1111_1111);
    assert_eq!(lab.cpu().segs[DS].selector, DATA0);
}

#[test]
fn ldt_and_task_register() {
    // lldt ax; mov es, cx; hlt
    let mut lab = Lab::new(Protected, 0);
    lab.gdt(FREE, descriptor(LDT as u32, 0xF, 0x82, 0)).code("0F 00 D0 8E C1 F4");
    lab.put(LDT + 8, descriptor(0x77000, 0xFF, 0x93, 4));
    lab.cpu().regs[RAX] = FREE.into();
    lab.cpu().regs[1] = 0xC;
    lab.done();
    assert_eq!(lab.cpu().segs[ES].base, 0x77000);
    for (raw, selector, vector, code) in [
        (descriptor(LDT as u32, 0xF, 0x02, 0), FREE, 11, FREE),
        (descriptor(LDT as u32, 0xF, 0x89, 0), FREE, 13, FREE),
        (0, FREE | 4, 13, FREE | 4),
        (0, 0x7F8, 13, 0x7F8),
    ] {
        let mut lab = Lab::new(Protected, 0);
        lab.gdt(FREE, raw).code("0F 00 D0 F4").cpu().regs[RAX] = selector.into();
        lab.faults(vector, code.into(), CODE);
    }
    // LTR marks the descriptor busy, and refuses a busy one.
    for (access, vector) in [(0x89, 0), (0x8B, 13), (0x81, 0), (0x83, 13), (0x09, 11), (0x82, 13)] {
        let mut lab = Lab::new(Protected, 0);
        lab.gdt(FREE, descriptor(TSS2 as u32, 0x67, access, 0)).code("0F 00 D8 F4");
        lab.cpu().regs[RAX] = FREE.into();
        if vector == 0 {
            lab.done();
            let raw = lab.get::<8>(GDT + u64::from(FREE));
            assert_eq!(raw >> 40 & 0xFF, u64::from(access | 2));
        } else {
            lab.faults(vector, FREE.into(), CODE);
        }
    }
    let mut lab = Lab::new(Protected, 0);
    lab.code("0F 00 D8 F4").cpu().regs[RAX] = 0;
    lab.faults(13, 0, CODE);
    // Long mode: 16-byte descriptors with a canonical base.
    for (high, vector) in [(0xFFFF_8000, 0), (0x8000, 13), (0x100 << 32, 13)] {
        let mut lab = Lab::new(Long, 0);
        lab.gdt(FREE, descriptor(0, 0x67, 0x89, 0)).gdt(FREE + 8, high);
        lab.code("0F 00 D8 F4").cpu().regs[RAX] = FREE.into();
        if vector == 0 {
            lab.done();
            assert_eq!(lab.cpu().tr.base, 0xFFFF_8000_0000_0000);
        } else {
            lab.faults(vector, FREE.into(), CODE);
        }
    }
    // LLDT and LTR do not exist in real and virtual-8086 mode.
    for mode in [Real, V86] {
        let mut lab = Lab::new(mode, 0);
        lab.code("0F 00 D0");
        assert_eq!(lab.run(), Vector(6));
    }
}

#[test]
fn lar_lsl_verr_verw() {
    // mov ebp,ecx; lar eax,ecx; setz bl; lsl edx,ecx; setz bh; verr bp; setz ch; verw bp; setz cl
    let run = |raw: u64, selector: u16, mode: Mode| {
        let mut lab = Lab::new(mode, 0);
        lab.gdt(FREE, raw);
        lab.code(
            "89 CD 0F 02 C1 0F 94 C3 0F 03 D1 0F 94 C7 0F 00 E5 0F 94 C5 0F 00 ED 0F 94 C1 F4",
        );
        lab.cpu().regs[1] = selector.into();
        lab.done();
        lab
    };
    // (access, lar, lsl, verr, verw) in protected mode
    for (access, lar, lsl, verr, verw) in [
        (0x93, true, true, true, true),
        (0x91, true, true, true, false),
        (0x99, true, true, false, false),
        (0x9B, true, true, true, false),
        (0x81, true, true, false, false),
        (0x82, true, true, false, false),
        (0x84, true, false, false, false),
        (0x85, true, false, false, false),
        (0x86, false, false, false, false),
        (0x89, true, true, false, false),
        (0x8C, true, false, false, false),
        (0x8E, false, false, false, false),
        (0x80, false, false, false, false),
    ] {
        let mut lab = run(descriptor(0, 0x123, access, 4), FREE, Protected);
        let got =
            (lab.reg(3) & 0xFF, lab.reg(3) >> 8 & 0xFF, lab.reg(1) >> 8 & 0xFF, lab.reg(1) & 0xFF);
        let want = (u64::from(lar), u64::from(lsl), u64::from(verr), u64::from(verw));
        assert_eq!(got, want, "access {access:#x}");
        if lar {
            assert_eq!(lab.reg(RAX), u64::from(access) << 8 | 4 << 20);
        }
        if lsl {
            assert_eq!(lab.reg(2), 0x123);
        }
    }
    // Granularity, RPL, null
    let mut lab = run(descriptor(0, 0x123, 0x93, 0xC), FREE, Protected);
    assert_eq!(lab.reg(2), 0x12_3FFF);
    let mut lab = run(descriptor(0, 0x123, 0x93, 0xC), FREE | 3, Protected);
    assert_eq!(lab.reg(3) & 0xFFFF, 0);
    let mut lab = run(0, 0, Protected);
    assert_eq!(lab.reg(3) & 0xFFFF, 0);
    // Long mode: no 16-bit TSS, no task gate
    for (access, lar) in [(0x81, 0), (0x85, 0), (0x89, 1), (0x82, 1), (0x84, 0), (0x8C, 1)] {
        let mut lab = run(descriptor(0, 0x123, access, 0), FREE, Long);
        assert_eq!(lab.reg(3) & 0xFF, lar, "access {access:#x}");
    }
}

#[test]
fn descriptor_tables_restart_and_widths() {
    // lgdt with 16-bit operand size loads 24 bits of base
    let mut lab = Lab::new(Protected, 0);
    lab.code("66 0F 01 15 00 00 03 00 F4").write(DATA, &[0xFF, 0x07, 0, 0x10, 0, 0xAB]);
    lab.done();
    assert_eq!((lab.cpu().gdtr.base, lab.cpu().gdtr.limit), (0x1000, 0x7FF));
    // 64-bit mode: non-canonical base
    let mut lab = Lab::new(Long, 0);
    lab.code("0F 01 14 25 00 00 03 00 F4").write(DATA, &[0xFF, 7, 0, 0, 0, 0, 0, 0x80, 0, 0]);
    lab.faults(13, 0, CODE);
    // sgdt stores limit and base
    let mut lab = Lab::new(Long, 0);
    lab.code("0F 01 04 25 00 00 03 00 F4");
    lab.done();
    assert_eq!(lab.get::<8>(DATA), 0x7FF | GDT << 16);
    // CS cannot be loaded by MOV
    let mut lab = Lab::new(Protected, 0);
    lab.code("8E C8 F4");
    lab.faults(6, 0, CODE);
    assert_eq!(lab.cpu().segs[CS].selector, CODE32);
}

#[test]
fn bases_of_fs_and_gs() {
    // mov gs,ax in 64-bit mode loads the base's low half and clears the upper
    let mut lab = Lab::new(Long, 0);
    lab.gdt(FREE, descriptor(0x1234_0000, 0xFF, 0x93, 0)).code("8E E8 F4");
    lab.cpu().regs[RAX] = FREE.into();
    lab.cpu().segs[GS].base = 0xFFFF_FFFF_0000_0000;
    lab.done();
    assert_eq!(lab.cpu().segs[GS].base, 0x1234_0000);
    // SWAPGS, and its privilege
    let mut lab = Lab::new(Long, 0);
    lab.code("0F 01 F8 F4").cpu().msrs.kernel_gs_base = 0xFFFF_8000_0000_1000;
    lab.cpu().segs[GS].base = 0x1000;
    lab.done();
    assert_eq!(lab.cpu().segs[GS].base, 0xFFFF_8000_0000_1000);
    assert_eq!(lab.cpu().msrs.kernel_gs_base, 0x1000);
    let mut lab = Lab::new(Long, 3);
    lab.code("0F 01 F8");
    lab.faults(13, 0, CODE);
    let mut lab = Lab::new(Protected, 0);
    lab.code("0F 01 F8");
    lab.faults(6, 0, CODE);
    // WRGSBASE: #UD without CR4.FSGSBASE, #GP for a non-canonical base
    let mut lab = Lab::new(Long, 3);
    lab.code("F3 48 0F AE D8");
    lab.faults(6, 0, CODE);
    let mut lab = Lab::new(Long, 3);
    lab.code("F3 48 0F AE D8").cpu().cr4 |= 1 << 16;
    lab.cpu().regs[RAX] = 1 << 47;
    lab.faults(13, 0, CODE);
}
