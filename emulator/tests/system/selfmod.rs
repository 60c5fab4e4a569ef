//! Code that changes while it runs, and instructions at awkward places (SDM 3A 11.6).

use crate::lab::*;
use emulator::accelerator::Accelerator;
use emulator::core::Core;
use emulator::cpu::{RAX, RBP, RBX, RCX, RDI, RDX, RSI};
use emulator::engine::Engine;
use emulator::op::Exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

#[test]
fn the_next_instruction() {
    for mode in [Protected, Paged32, Long] {
        // mov byte [edi],40h-form: the NOP that follows becomes INC EAX / with REX in 64-bit CLD
        let mut lab = Lab::new(mode, 0);
        lab.code("C6 07 FD 90 F4").cpu().regs[RDI] = CODE + 3;
        lab.done();
        assert_ne!(lab.cpu().flags.get() & 1 << 10, 0, "{mode:?}: STD ran");
    }
}

#[test]
fn the_block_itself_in_a_loop() {
    // loop: add eax,imm8 ; inc byte [its immediate] ; dec ecx ; jnz loop
    for mode in [Protected, Paged32, Long] {
        let mut lab = Lab::new(mode, 0);
        lab.code("83 C0 01 FE 07 83 E9 01 75 F6 F4");
        lab.cpu().regs[RDI] = CODE + 2;
        lab.cpu().regs[RCX] = 10;
        lab.done();
        assert_eq!(lab.reg(RAX), (1..=10).sum::<u64>());
    }
}

#[test]
fn another_page_and_an_alias() {
    let function = 0x5_0000;
    for alias in [function, 0x5_1000] {
        let mut lab = Lab::new(Long, 0);
        lab.set_pte(0x5_1000, function | 7);
        lab.code_at(function, "B0 11 C3");
        // call; mov bl,al; mov byte [rdi+1],22h; call; hlt
        lab.code("FF D6 88 C3 C6 47 01 22 FF D6 F4");
        (lab.cpu().regs[RSI], lab.cpu().regs[RDI]) = (function, alias);
        lab.done();
        assert_eq!((lab.reg(3) & 0xFF, lab.reg(RAX) & 0xFF), (0x11, 0x22));
    }
}

#[test]
fn a_repetition_across_pages_that_overwrites_itself() {
    // rep movsb with its prefix at the end of a page: its first iteration makes it F3 90, PAUSE
    for mode in [Protected, Long] {
        let mut lab = Lab::new(mode, 0);
        // lea eax,[edi-1]; jmp eax
        lab.code("8D 47 FF FF E0").code_at(0x5_0FFF, "F3 A4 F4");
        lab.write(DATA, &[0x90, 0xF4, 0xF4, 0xF4]);
        (lab.cpu().regs[RSI], lab.cpu().regs[RDI]) = (DATA, 0x5_1000);
        lab.cpu().regs[RCX] = 4;
        lab.done();
        assert_eq!((lab.reg(RCX), lab.reg(RDI)), (3, 0x5_1001), "{mode:?}");
    }
}

#[test]
fn an_instruction_across_pages() {
    // mov eax,imm32 at the end of a page; the immediate on the next page changes
    for mode in [Protected, Long] {
        let mut lab = Lab::new(mode, 0);
        lab.code_at(0x5_0FFE, "B8 01 02 03 04 C3");
        lab.code("FF D6 89 C3 C7 07 99 88 77 66 FF D6 F4");
        (lab.cpu().regs[RSI], lab.cpu().regs[RDI]) = (0x5_0FFE, 0x5_0FFF);
        lab.done();
        assert_eq!((lab.reg(3), lab.reg(RAX)), (0x0403_0201, 0x6677_8899));
    }
    // the second page is missing: #PF there, RIP at the instruction's start
    for (tail, needs) in [("B8 01", true), ("0F 0B", false), ("90 90", true)] {
        let mut lab = Lab::new(Long, 0);
        lab.code("FF E6").code_at(0x5_0FFE, tail).set_pte(0x5_1000, 0);
        lab.cpu().regs[RSI] = 0x5_0FFE;
        if needs {
            let rip = if tail == "90 90" { 0x5_1000 } else { 0x5_0FFE };
            lab.faults(14, 0x10, rip);
            assert_eq!(lab.cpu().cr2, 0x5_1000);
        } else {
            lab.faults(6, 0, 0x5_0FFE);
        }
    }
}

#[test]
fn code_written_by_strings_and_pushes() {
    // rep movsb over the code that runs next
    let mut lab = Lab::new(Protected, 0);
    lab.code("F3 A4 90 90 90 90 F4").code_at(DATA, "40 40 40 40");
    let cpu = lab.cpu();
    (cpu.regs[RCX], cpu.regs[RSI], cpu.regs[RDI]) = (4, DATA, CODE + 2);
    lab.done();
    assert_eq!(lab.reg(RAX), 4);
    // push over the code that runs next
    let mut lab = Lab::new(Protected, 0);
    lab.code("68 40 40 40 40 90 90 90 90 F4").cpu().regs[4] = CODE + 9;
    lab.done();
    assert_eq!(lab.reg(RAX), 4);
}

#[test]
fn code_written_by_dma() {
    // Between two runs a device writes the code; caches stay.
    let mut lab = Lab::new(Protected, 0);
    lab.code("40 40 EB FC");
    assert_eq!(lab.run(), Running);
    let before = lab.reg(RAX);
    lab.code("4B 4B"); // dec ebx, by the path that DMA takes
    lab.go_on(300);
    assert!(lab.reg(3) > 0xFFFF_FF00);
    assert!(lab.reg(RAX) - before <= 2);
}

#[test]
fn length_limit_and_lock() {
    // 15 bytes are fine, 16 are #GP(0)
    let mut lab = Lab::new(Protected, 0);
    lab.code(&("2E".repeat(14) + "40 F4"));
    lab.done();
    let mut lab = Lab::new(Protected, 0);
    lab.code(&("2E".repeat(15) + "40 F4"));
    lab.faults(13, 0, CODE);
    // … also where the 16th byte would be on a missing page
    let mut lab = Lab::new(Long, 0);
    lab.code("FF E6").code_at(0x5_0FF1, &"2E".repeat(15)).set_pte(0x5_1000, 0);
    lab.cpu().regs[RSI] = 0x5_0FF1;
    lab.faults(13, 0, 0x5_0FF1);
    // LOCK: memory destinations of certain instructions only
    for (code, ok) in [
        ("F0 01 07", true),
        ("F0 01 C0", false),
        ("F0 03 07", false),
        ("F0 39 07", false),
        ("F0 0F AB 07", true),
        ("F0 0F A3 07", false),
        ("F0 87 07", true),
        ("F0 88 07", false),
        ("F0 90", false),
        ("F0 FF 07", true),
        ("F0 0F C7 0F", true),
    ] {
        let mut lab = Lab::new(Protected, 0);
        lab.code(&format!("{code} F4")).cpu().regs[RDI] = DATA;
        if ok {
            lab.done();
        } else {
            lab.faults(6, 0, CODE);
        }
    }
}

#[test]
fn a_page_walk_that_sets_a_flag_in_code() {
    // The page table is executed. mov [edi],al; nop; nop: sets the dirty flag of the entry behind
    // it, whose first byte becomes an address-size prefix, 67h, and was DAA, 27h.
    let (code, entry) = (PT + 0x7FC, 0x0003_0027_u32);
    let mut lab = Lab::new(Paged32, 0);
    lab.code("FF E6").code_at(code, "88 07 90 90");
    lab.write(code + 4, &entry.to_le_bytes());
    // 67 00 03 00 F0 F4: add [bp+di],al; add al,dh; hlt
    lab.code_at(code + 8, "F0 F4");
    let cpu = lab.cpu();
    (cpu.regs[RSI], cpu.regs[RDI]) = (code, 0x20_0000);
    (cpu.regs[RAX], cpu.regs[RBX], cpu.regs[RDX], cpu.regs[RBP]) = (0x0A, DATA + 0x100, 0, 0);
    lab.write(0, &[1]);
    lab.done();
    assert_eq!(lab.get::<4>(code + 4), 0x0003_0067);
    assert_eq!(lab.reg(RAX), 0x0A, "DAA makes it 10h");
    assert_eq!((lab.get::<1>(0), lab.get::<1>(DATA)), (0x0B, 0x0A));
}

/// Interprets, and counts what it is told to forget: everything, and pages.
struct Told(Arc<[AtomicU32; 2]>);

impl Accelerator for Told {
    fn run(&mut self, engine: &mut Engine, core: &mut Core) -> Exit {
        engine.run_block(core)
    }

    fn clear(&mut self) {
        self.0[0].fetch_add(1, Relaxed);
    }

    fn drop_page(&mut self, _page: u32) {
        self.0[1].fetch_add(1, Relaxed);
    }
}

#[test]
fn a_full_cache_of_the_interpreter_is_its_own_affair() {
    const LONG: u64 = 0x10_0000;
    const INSTRUCTIONS: usize = 1_000_000;
    let mut lab = Lab::new(Protected, 0);
    lab.code("FF E6").cpu().regs[RSI] = LONG;
    lab.write(LONG, &[0x40; INSTRUCTIONS]);
    lab.write(LONG + INSTRUCTIONS as u64, &[0xFF, 0xE6]);
    lab.sync();
    let told = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
    lab.machine.set_accelerator(Some(Box::new(Told(told.clone()))));
    let before = told[0].load(Relaxed);
    assert_eq!(lab.go_on(2 * INSTRUCTIONS as u64 + 3), Running);
    assert_eq!(lab.reg(RAX), 2 * INSTRUCTIONS as u64);
    let now = [told[0].load(Relaxed), told[1].load(Relaxed)];
    assert_eq!(now, [before, 0], "the interpreter's cache was full many times");
    // What memory holds code is still known: dec eax, where the cache was emptied since.
    lab.write(LONG + 10, &[0x48]);
    assert_eq!(lab.go_on(INSTRUCTIONS as u64 + 1), Running);
    assert_eq!(lab.reg(RAX), 3 * INSTRUCTIONS as u64 - 2);
    assert_eq!(told[1].load(Relaxed), 1);
}
