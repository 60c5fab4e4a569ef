//! Calls whose returns go elsewhere: what translated code remembers of them must not show.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod engines;

use emulator::cpu::{RAX, RBX, RCX, RDI, RDX, RSI, RSP};
use emulator::machine::Machine;
use engines::{check, machine};
use lockstep::guest;

const STACK: u64 = guest::DATA + 0x800;
/// Four pages that no program uses.
const TABLES: u64 = 0x12_0000;

/// `call` at `at` to `to`.
fn call(at: u64, to: u64) -> Vec<u8> {
    let displacement = to.wrapping_sub(at + 5) as u32;
    [&[0xE8][..], &displacement.to_le_bytes()].concat()
}

#[test]
fn a_return_to_elsewhere_and_one_without_a_call() {
    // start: call f; inc ebx; jmp start. f: push rsi; ret, to g: inc edx; ret, to behind the call.
    // Every second round f replaces its return address by that of h: add edx,16; jmp start.
    let start = guest::CODE;
    let (f, g, h) = (start + 0x40, start + 0x1080, start + 0x20C0);
    let rounds = 60;
    let machine = check(16 * rounds, || {
        let registers = [(RAX, h), (RBX, 0), (RCX, 0), (RDX, 0), (RSI, g), (RSP, STACK)];
        let mut machine = machine(start, &call(start, f), &registers);
        let ram = &mut machine.core_mut().ram;
        guest::store(ram, start + 5, &[&[0xFF, 0xC3][..], &guest::jump(start + 7, start)].concat());
        // xor ecx,1; jz +4; push rsi; ret; nop; nop; mov [rsp],rax; ret
        let code =
            [0x83, 0xF1, 0x01, 0x74, 0x04, 0x56, 0xC3, 0x90, 0x90, 0x48, 0x89, 0x04, 0x24, 0xC3];
        guest::store(ram, f, &code);
        guest::store(ram, g, &[0xFF, 0xC2, 0xC3]);
        guest::store(ram, h, &[&[0x83, 0xC2, 0x10][..], &guest::jump(h + 3, start)].concat());
        machine
    });
    // Nine instructions in odd rounds, seven in even ones.
    let regs = &machine.core().cpu.regs;
    assert_eq!((regs[RBX], regs[RDX]), (rounds, 17 * rounds));
}

#[test]
fn more_open_calls_than_are_remembered() {
    // start: call next; next: add rsp,8; dec ecx; jnz start; call g; inc ebx; mov ecx,calls;
    // jmp start. g: ret
    let start = guest::CODE;
    let g = start + 0x100;
    // 16 bytes each would not fit the host's stack.
    let calls = 200_000;
    let machine = check(3 * (4 * calls + 5), || {
        let registers = [(RBX, 0), (RCX, calls), (RSP, STACK)];
        let code = [
            &call(start, start + 5)[..],
            &[0x48, 0x83, 0xC4, 0x08, 0xFF, 0xC9, 0x75, 0xF3],
            &call(start + 13, g),
            &[0xFF, 0xC3, 0xB9],
            &(calls as u32).to_le_bytes(),
            &guest::jump(start + 25, start),
        ]
        .concat();
        let mut machine = machine(start, &code, &registers);
        guest::store(&mut machine.core_mut().ram, g, &[0xC3]);
        machine
    });
    assert_eq!(machine.core().cpu.regs[RBX], 3);
}

/// A second set of page tables, where `page` is `other`; the value of CR3 for it.
fn other_tables(machine: &mut Machine, page: u64, other: u64) -> u64 {
    let core = machine.core_mut();
    let (mut from, mut to) = (core.cpu.cr3, TABLES);
    for (shift, replaced) in [(39, None), (30, None), (21, None), (12, Some(other))] {
        let mut table = [0; 4096];
        core.ram.dma_read(from & !0xFFF, &mut table);
        let at = (page >> shift) as usize % 512 * 8;
        let entry = u64::from_le_bytes(table[at..at + 8].try_into().expect("eight bytes"));
        let next = replaced.unwrap_or(to + 0x1000);
        table[at..at + 8].copy_from_slice(&(next | entry & 0xFFF).to_le_bytes());
        guest::store(&mut core.ram, to, &table);
        (from, to) = (entry, to + 0x1000);
    }
    TABLES
}

#[test]
fn a_return_to_a_page_that_is_another_by_then() {
    // start: push rax; pop rax; jmp page. page: call f; add ebx,1 or 16; jmp start.
    // f: xor ecx,1; jz to the ret; mov cr3,rdi; xchg rsi,rdi; mov rdx,[rsp]; ret. So that calls and
    // returns find the stack in the TLB it is accessed before them.
    let (start, page, other) = (guest::CODE, guest::CODE + 0x1000, guest::CODE + 0x3000);
    let f = start + 0x100;
    let rounds = 80;
    let machine = check(21 * rounds / 2, || {
        let registers = [(RBX, 0), (RCX, 0), (RSP, STACK)];
        let code = [&[0x50, 0x58][..], &guest::jump(start + 2, page)].concat();
        let mut machine = machine(start, &code, &registers);
        let tables = other_tables(&mut machine, page, other);
        let core = machine.core_mut();
        core.cpu.regs[RSI] = core.cpu.cr3;
        core.cpu.regs[RDI] = tables;
        let code = [
            0x83, 0xF1, 0x01, 0x74, 0x0A, 0x0F, 0x22, 0xDF, 0x48, 0x87, 0xF7, 0x48, 0x8B, 0x14,
            0x24, 0xC3,
        ];
        guest::store(&mut core.ram, f, &code);
        for (at, add) in [(page, [0x83, 0xC3, 0x01]), (other, [0x83, 0xC3, 0x10])] {
            let code = [&call(page, f)[..], &add, &guest::jump(page + 8, start)].concat();
            guest::store(&mut core.ram, at, &code);
        }
        machine
    });
    assert_eq!(machine.core().cpu.regs[RBX], rounds / 2 * 0x11, "twice in each in turn");
}

#[test]
fn a_return_to_nowhere() {
    // ret, with no call open; and call f; f: mov [rsp],rax; ret
    for target in [0, 1 << 47, 1 << 63 | 1, u64::MAX] {
        for called in [false, true] {
            check(50, || {
                let start = guest::CODE;
                let code = match called {
                    false => vec![0xC3],
                    true => [&call(start, start + 5)[..], &[0x48, 0x89, 0x04, 0x24, 0xC3]].concat(),
                };
                let mut machine = machine(start, &code, &[(RAX, target), (RSP, STACK)]);
                guest::store(&mut machine.core_mut().ram, STACK, &target.to_le_bytes());
                machine
            });
        }
    }
}
