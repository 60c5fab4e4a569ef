//! What random programs have found, as short programs on both engines.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod engines;

use devices::time::Icount;
use emulator::cpu::{CS, FS, RAX, RBX, RCX, RDI, RDX, RSI, RSP};
use emulator::machine::{Machine, Stop};
use engines::{check, machine, translate};
use lockstep::guest;

#[test]
fn a_repetition_across_pages_that_overwrites_itself() {
    // rep movsb with its prefix at the end of a page: the first iteration makes it F3 90, PAUSE;
    // then nop; jmp to it
    let at = guest::CODE + 0xFFF;
    let code = [0xF3, 0xA4, 0x90, 0xEB, 0xFD];
    let machine = check(6, || {
        let registers = [(RSI, guest::DATA), (RDI, at + 1), (RCX, 8)];
        let mut machine = machine(at, &code, &registers);
        guest::store(&mut machine.core_mut().ram, guest::DATA, &[0x90; 8]);
        machine
    });
    assert_eq!(machine.core().cpu.regs[RCX], 7);
}

#[test]
fn flags_behind_a_pushfq_that_needs_no_check() {
    // pop rcx; add [rsp+8],rax; mov [rsp+16],rcx; pushfq; mov rdx,[rsp+24]; jz to the start;
    // inc ebx; jmp to the start
    let code = [
        0x59, 0x48, 0x01, 0x44, 0x24, 0x08, 0x48, 0x89, 0x4C, 0x24, 0x10, 0x9C, 0x48, 0x8B, 0x54,
        0x24, 0x18, 0x74, 0xED, 0xFF, 0xC3, 0xEB, 0xE9,
    ];
    for word in [0u64, 1] {
        check(400, || {
            let registers = [(RAX, 0), (RSP, guest::DATA + 0x800)];
            let mut machine = machine(guest::CODE, &code, &registers);
            let ram = &mut machine.core_mut().ram;
            guest::store(ram, guest::DATA + 0x810, &word.to_le_bytes());
            machine
        });
    }
}

#[test]
fn code_of_both_widths_at_one_address() {
    // Each on a page of its own, so that X is found by what is known of its page: call rsi;
    // jmp far [DATA] to B. B: call esi; jmp far to the start. X: in 64-bit code inc rax;
    // add rbx,rax; ret; in 32-bit code dec eax; inc eax; dec eax; add ebx,eax; ret
    let start = guest::CODE;
    let (there, called) = (start + 0x1000, start + 0x2000);
    let first = [&[0xFF, 0xD6, 0xFF, 0x2C, 0x25][..], &(guest::DATA as u32).to_le_bytes()].concat();
    let far =
        |to: u64, selector: u16| [&(to as u32).to_le_bytes()[..], &selector.to_le_bytes()].concat();
    let second = [&[0xFF, 0xD6, 0xEA][..], &far(start, guest::KERNEL_CODE64)].concat();
    let rounds = 40;
    let machine = check(12 * rounds, || {
        let registers = [(RAX, 5), (RBX, 0), (RSI, called), (RSP, guest::DATA + 0x800)];
        let mut machine = machine(start, &first, &registers);
        let ram = &mut machine.core_mut().ram;
        guest::store(ram, there, &second);
        guest::store(ram, called, &[0x48, 0xFF, 0xC0, 0x48, 0x01, 0xC3, 0xC3]);
        guest::store(ram, guest::DATA, &far(there, guest::KERNEL_CODE32));
        machine
    });
    // Each round adds 6 and then 5.
    assert_eq!(machine.core().cpu.regs[RBX], 11 * rounds);
}

/// Makes the code to be executed 32-bit code; FS begins in the data.
fn narrow(machine: &mut Machine) {
    let core = machine.core_mut();
    core.cpu.segs[CS].access = 0xC09B;
    core.cpu.segs[CS].selector = guest::KERNEL_CODE32;
    core.cpu.segs[FS].base = guest::DATA + 0x100;
    core.update_mode();
}

#[test]
fn a_division_through_a_segment_across_the_end_of_a_page() {
    // idiv dword fs:[ebx]; inc ecx; jmp to the start. The second page is executed first, so that it
    // is known where it is.
    let (page, code) = (guest::CODE + 0x1000, [0x64, 0xF7, 0x3B, 0x41, 0xEB, 0xFA]);
    let machine = check(32, || {
        let registers = [(RAX, 77), (RBX, 0), (RCX, 0), (RDX, 0)];
        let mut machine = machine(page - 2, &code, &registers);
        let core = machine.core_mut();
        core.cpu.rip = page + 1;
        guest::store(&mut core.ram, guest::DATA + 0x100, &[1, 0, 0, 0]);
        narrow(&mut machine);
        machine
    });
    assert_eq!(machine.core().cpu.regs[RCX], 11);
}

#[test]
fn a_segment_of_32_bit_code_that_is_not_open() {
    // mov edx,[DATA]; mov eax,fs:[ebx]; inc ecx; jmp to the start
    let data = (guest::DATA as u32).to_le_bytes();
    let code = [&[0x8B, 0x15][..], &data, &[0x64, 0x8B, 0x03, 0x41, 0xEB, 0xF4]].concat();
    for limit in [u32::MAX, 0x7F] {
        let machine = check(40, || {
            let registers = [(RBX, 0xFFFF_FF90), (RCX, 0)];
            let mut machine = machine(guest::CODE, &code, &registers);
            machine.core_mut().cpu.segs[FS].limit = limit;
            narrow(&mut machine);
            machine
        });
        // The offset wraps around within the segment of 4 GiB.
        let reached = machine.core().cpu.regs[RCX] == 10;
        assert_eq!(reached, limit == u32::MAX);
    }
}

/// Adds up a number, half of which lies on the next page, in EBX; `end` follows.
fn across(upper: u8, end: &[u8]) -> ([u8; 2], Vec<u8>) {
    // mov eax,imm32; add ebx,eax
    ([0xB8, 1], [&[upper, 0, 0, 0x01, 0xC3], end].concat())
}

#[test]
fn an_instruction_on_two_pages_whose_second_page_is_written() {
    let (start, page) = (guest::CODE, guest::CODE + 0x1000);
    // inc ecx; mov [page],cl; jmp to the number
    let disp = (page as u32).to_le_bytes();
    let first = [&[0xFF, 0xC1, 0x88, 0x0C, 0x25][..], &disp, &guest::jump(start + 9, page - 2)];
    let first = first.concat();
    let (number, rest) = across(0, &guest::jump(page + 5, start));
    let rounds = 40;
    // The second page is executed first, so that it is known where it is.
    let machine = check(2 + 6 * rounds, || {
        let registers = [(RAX, 0), (RBX, 0), (RCX, 0), (RSP, guest::DATA + 0x800)];
        let mut machine = machine(page + 3, &rest[3..], &registers);
        let ram = &mut machine.core_mut().ram;
        guest::store(ram, page - 2, &number);
        guest::store(ram, page, &rest[..3]);
        guest::store(ram, start, &first);
        machine
    });
    let sum = (1..=rounds).map(|n| n << 8 | 1).sum::<u64>();
    assert_eq!(machine.core().cpu.regs[RBX], sum);
}

/// How often the second page is exchanged there and back.
const EXCHANGES: u64 = 20;

/// Goes around twice over the end of a page, exchanges the second page, and so on: `last` are the
/// two bytes at the end of the first, `rest(n)` the second page up to `add ebx,eax`: together
/// `count` instructions. Gives back the sum.
fn exchanged(last: [u8; 2], count: u64, rest: impl Fn(u8) -> Vec<u8>) -> u64 {
    let (start, page, other) = (guest::CODE, guest::CODE + 0x1000, guest::CODE + 0x3000);
    // xor qword [entry],page^other; invlpg [page]; mov ecx,2; jmp to the last bytes
    let entry = (guest::page_entry(page) as u32).to_le_bytes();
    let first = [
        &[0x48, 0x81, 0x34, 0x25][..],
        &entry,
        &((page ^ other) as u32).to_le_bytes(),
        &[0x0F, 0x01, 0x3C, 0x25],
        &(page as u32).to_le_bytes(),
        &[0xB9, 2, 0, 0, 0],
        &guest::jump(start + 25, page - 2),
    ]
    .concat();
    let second = |n| {
        // add ebx,eax; dec ecx; jnz to the last bytes; jmp to the start
        let rest = rest(n);
        let add = page + rest.len() as u64;
        let back = (page - 2).wrapping_sub(add + 6) as u8;
        let end = [&[0x01, 0xC3, 0xFF, 0xC9, 0x75, back][..], &guest::jump(add + 6, start)];
        (add, [&rest[..], &end.concat()].concat())
    };
    let inner = 2 * (count + 3);
    // The last bytes are reached first while it is known where the second page is.
    let machine = check(4 + inner + 2 * EXCHANGES * (5 + inner), || {
        let registers = [(RAX, 0), (RBX, 0), (RCX, 3), (RSP, guest::DATA + 0x800)];
        let (add, bytes) = second(3);
        let mut machine = machine(start, &first, &registers);
        let core = machine.core_mut();
        core.cpu.rip = add;
        guest::store(&mut core.ram, page - 2, &last);
        guest::store(&mut core.ram, page, &bytes);
        guest::store(&mut core.ram, other, &second(7).1);
        machine
    });
    machine.core().cpu.regs[RBX]
}

#[test]
fn an_instruction_on_two_pages_whose_second_page_is_exchanged() {
    // mov eax,imm32
    let sum = exchanged([0xB8, 1], 1, |n| vec![n, 0, 0]);
    assert_eq!(sum, 2 * 0x301 + EXCHANGES * 2 * (0x301 + 0x701));
}

#[test]
fn an_instruction_on_a_page_that_is_exchanged_behind_one_that_ends_a_page() {
    // 66 nop; mov eax,imm32
    let sum = exchanged([0x66, 0x90], 2, |n| vec![0xB8, 1, n, 0, 0]);
    assert_eq!(sum, 2 * 0x301 + EXCHANGES * 2 * (0x301 + 0x701));
}

#[test]
fn a_handler_that_cannot_be_fetched_on_a_stack_of_its_own() {
    // inc ecx; mov eax,[absent]
    let absent = guest::DATA + 0x1000 * guest::ABSENT_PAGE;
    let code = [&[0xFF, 0xC1, 0x8B, 0x04, 0x25][..], &(absent as u32).to_le_bytes()].concat();
    let [interpreted, translated] = [false, true].map(|jit| {
        let mut machine = machine(guest::CODE, &code, &[(RCX, 0)]);
        guest::lead(&mut machine.core_mut().ram, 14, absent);
        if jit {
            translate(&mut machine);
        }
        (machine.run(Icount(100)), machine.core().icount)
    });
    assert_eq!(interpreted, (Stop::Reset, 1));
    assert_eq!(translated, interpreted);
}

#[test]
fn a_pair_that_is_not_exchanged_where_its_address_is_overwritten() {
    // mov [rdi+40h],cl; cmpxchg8b or cmpxchg16b [rax] or [rdx]; jmp to itself
    for (rex, modrm) in [(0x40, 0x08), (0x40, 0x0A), (0x48, 0x08), (0x48, 0x0A)] {
        let machine = check(10, || {
            // After the store the TLB has the page for the code under test.
            let code = [0x88, 0x4F, 0x40, rex, 0x0F, 0xC7, modrm, 0xEB, 0xFE];
            let at = guest::DATA + 0x100;
            let registers = [(RAX, at), (RBX, 1), (RCX, 2), (RDX, at), (RDI, at)];
            let mut machine = machine(guest::CODE, &code, &registers);
            let values = [[0x11; 8], [0x22; 8]].concat();
            guest::store(&mut machine.core_mut().ram, at, &values);
            machine
        });
        let (low, high) = if rex == 0x48 {
            (0x1111_1111_1111_1111, 0x2222_2222_2222_2222)
        } else {
            (0x1111_1111, 0x1111_1111)
        };
        assert_eq!((machine.core().cpu.regs[RAX], machine.core().cpu.regs[RDX]), (low, high));
    }
}
