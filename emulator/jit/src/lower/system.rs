//! SWAPGS, CLI, STI, STAC, CLAC, RDTSC, RDTSCP, PUSHF, CMPXCHG8B, CMPXCHG16B: what kernels execute
//! all the time, as long as it is allowed and nothing follows from it; else the interpreter.

use super::stack::below;
use crate::asm::Rm;
use crate::asm::alu::{ADC, ADD, AND, CMP, OR, SUB};
use crate::asm::reg::*;
use crate::flags::AF_CLEAR;
use crate::layout::{
    BUDGET, HOSTS, TLB, core_field, cpu_field, entry, in_memory, segment_base, word,
};
use crate::translate::Translator;
use core::mem::offset_of;
use devices::time::Clock;
use emulator::core::Core;
use emulator::cpu::flags::{AC, Flags, IF, RF, VM};
use emulator::cpu::msr::Msrs;
use emulator::cpu::{self, Cpu, GS, Segment, cr4};
use emulator::mmu::tlb::{ENTRIES, Tlb};
use iced_x86::{Instruction, Mnemonic as M};

/// Conditions: not equal, equal, carry.
const NE: u8 = 5;
const E: u8 = 4;
const C: u8 = 2;

pub fn lower(t: &mut Translator, i: &Instruction) -> bool {
    match t.now.mnemonic {
        M::Swapgs => swapgs(t),
        M::Cli => cli(t),
        M::Sti => return sti(t),
        M::Stac => access_flag(t, true),
        M::Clac => access_flag(t, false),
        M::Rdtsc => rdtsc(t, false),
        M::Rdtscp => rdtsc(t, true),
        M::Pushfq | M::Pushfd => pushf(t),
        M::Cmpxchg8b => exchange(t, i, 4),
        M::Cmpxchg16b => exchange(t, i, 8),
        _ => return false,
    }
    true
}

/// The flags that are not status flags.
pub fn system_flags() -> Rm {
    cpu_field(offset_of!(Cpu, flags) + offset_of!(Flags, system))
}

/// The interpreter executes the instruction unless the privilege level is 0.
fn privileged(t: &mut Translator) {
    t.spoil();
    t.a.alu_imm(CMP, 1, cpu_field(offset_of!(Cpu, cpl)), 0);
    t.miss(NE);
}

fn swapgs(t: &mut Translator) {
    privileged(t);
    let kernel = cpu_field(offset_of!(Cpu, msrs) + offset_of!(Msrs, kernel_gs_base));
    let segment = offset_of!(Cpu, segs) + GS * size_of::<Segment>();
    let base = cpu_field(segment + offset_of!(Segment, base));
    t.a.load(8, RAX, kernel);
    t.a.load(8, RCX, base);
    t.a.store(8, kernel, RCX);
    t.a.store(8, base, RAX);
    t.a.store(8, segment_base(GS), RAX);
}

fn cli(t: &mut Translator) {
    privileged(t);
    t.a.alu_imm(AND, 4, system_flags(), !(IF as i32));
}

/// The instruction behind it, which interrupts cannot come before, is one of the block, so it will
/// be executed; no interrupt waits to come after that.
fn sti(t: &mut Translator) -> bool {
    if t.left() == 1 {
        return false;
    }
    privileged(t);
    t.a.alu_imm(CMP, 1, in_memory(word::INTERRUPT), 0);
    t.miss(NE);
    t.a.alu_imm(OR, 4, system_flags(), IF as i32);
    true
}

/// STAC (`set`) and CLAC choose between two sets of the TLB.
fn access_flag(t: &mut Translator, set: bool) {
    privileged(t);
    t.a.alu_imm(CMP, 1, core_field(offset_of!(Core, watching)), 0);
    t.miss(NE);
    t.a.test_imm(4, cpu_field(offset_of!(Cpu, cr4)), cr4::SMAP as i32);
    t.miss(E);
    t.a.test_imm(4, system_flags(), AC as i32);
    let done = t.a.jcc_near(if set { NE } else { E });
    let bytes = (ENTRIES as i32) << entry::SHIFT;
    let (op, mask) = if set { (OR, AC as i32) } else { (AND, !(AC as i32)) };
    t.a.alu_imm(op, 4, system_flags(), mask);
    t.a.alu_imm(if set { ADD } else { SUB }, 8, Rm::Reg(TLB), bytes);
    t.a.store(8, in_memory(word::TLB), TLB);
    let chosen = core_field(offset_of!(Core, tlb) + Tlb::SET);
    t.a.store_imm(8, chosen, if set { ENTRIES as i32 } else { 0 });
    t.a.bind(done);
}

/// RDTSC, and RDTSCP: virtual time as [`Clock::now`] has it.
fn rdtsc(t: &mut Translator, processor: bool) {
    t.spoil();
    t.a.test_imm(4, cpu_field(offset_of!(Cpu, cr4)), cr4::TSD as i32);
    t.miss(NE);
    let clock = |offset| core_field(offset_of!(Core, clock) + offset);
    let [base_icount, base_ns, fraction, rate] = Clock::OFFSETS;
    let left = t.left();
    let a = &mut t.a;
    a.load(8, RAX, core_field(offset_of!(Core, limit)));
    a.lea(8, RCX, Rm::Mem(BUDGET, left));
    a.alu_from(SUB, 8, RAX, Rm::Reg(RCX));
    a.alu_from(SUB, 8, RAX, clock(base_icount));
    a.unary(4, 8, clock(rate));
    a.load(4, RCX, clock(fraction));
    a.alu_from(ADD, 8, RAX, Rm::Reg(RCX));
    a.alu_imm(ADC, 8, Rm::Reg(RDX), 0);
    // shrd rax, rdx, 32
    a.fixed([0x48, 0x0F, 0xAC, 0xD0, 0x20]);
    a.alu_from(ADD, 8, RAX, clock(base_ns));
    t.miss(C);
    let msr = |offset| cpu_field(offset_of!(Cpu, msrs) + offset);
    let a = &mut t.a;
    a.alu_from(ADD, 8, RAX, msr(offset_of!(Msrs, tsc_offset)));
    a.load(4, HOSTS[cpu::RAX], Rm::Reg(RAX));
    a.shift(5, 8, Rm::Reg(RAX), 32);
    a.load(4, HOSTS[cpu::RDX], Rm::Reg(RAX));
    if processor {
        a.load(8, HOSTS[cpu::RCX], msr(offset_of!(Msrs, tsc_aux)));
    }
}

fn pushf(t: &mut Translator) {
    t.save_flags();
    let settle = t.settle();
    t.a.call(settle);
    let top = below(t);
    let a = &mut t.a;
    let Rm::Mem(base, disp) = in_memory(word::FLAGS) else { unreachable!("a word is in memory") };
    a.extend(false, 4, 1, RDX, Rm::Mem(base, disp + 1));
    a.alu_imm(AND, 4, Rm::Reg(RDX), 0xD5);
    a.test_imm(1, Rm::Mem(base, disp), AF_CLEAR as i32);
    let has_af = a.jcc_near(E);
    a.alu_imm(AND, 4, Rm::Reg(RDX), !0x10);
    a.bind(has_af);
    a.test_imm(1, Rm::Mem(base, disp), 1);
    let no_of = a.jcc_near(E);
    a.alu_imm(OR, 4, Rm::Reg(RDX), cpu::flags::OF as i32);
    a.bind(no_of);
    a.alu_from(OR, 8, RDX, system_flags());
    a.alu_imm(AND, 8, Rm::Reg(RDX), !((VM | RF) as i32));
    let s = t.word();
    t.a.store(s, top, RDX);
    t.adjust(-i32::from(s));
}

/// CMPXCHG8B and CMPXCHG16B, of halves of `s` bytes, without LOCK or with it: nobody else accesses
/// memory in the middle of an instruction.
fn exchange(t: &mut Translator, i: &Instruction, s: u8) {
    t.save_flags();
    let la = t.address(i);
    // The registers that are written may be what the address is made of.
    if s == 8 {
        let rm = t.check_aligned(la, true);
        t.a.lea(8, RCX, rm);
    } else {
        t.check(la, 2 * s, true, true);
    }
    let (rm, high) = (Rm::Mem(RCX, 0), Rm::Mem(RCX, s.into()));
    let a = &mut t.a;
    let host = |n: usize| HOSTS[n];
    a.load(s, RDX, rm);
    a.alu_from(CMP, s, RDX, Rm::Reg(host(cpu::RAX)));
    let low_differs = a.jcc_near(NE);
    a.load(s, RDX, high);
    a.alu_from(CMP, s, RDX, Rm::Reg(host(cpu::RDX)));
    let high_differs = a.jcc_near(NE);
    a.store(s, rm, host(cpu::RBX));
    a.store(s, high, host(cpu::RCX));
    a.alu_imm(OR, 4, in_memory(word::FLAGS), ZF_WORD);
    let done = a.jmp_near();
    a.bind(low_differs);
    a.bind(high_differs);
    a.load(s, host(cpu::RAX), rm);
    a.load(s, host(cpu::RDX), high);
    a.alu_imm(AND, 4, in_memory(word::FLAGS), !ZF_WORD);
    a.bind(done);
    t.only_in_word();
}

/// ZF in the word of flags.
const ZF_WORD: i32 = (cpu::flags::ZF as i32) << 8;
