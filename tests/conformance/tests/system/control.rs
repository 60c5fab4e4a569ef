//! Control registers, MSRs, XCR0 and the privileged instructions (SDM 3A 2.5, 2B MOV CR, WRMSR,
//! XSETBV).

use crate::bench::{Bench, Ended, FREE, check, fault};
use crate::segments::to_user;
use emulator::cpu::{self, cr0, cr4};

const MOV_CR0_RAX: &[u8] = &[0x0F, 0x22, 0xC0];
const MOV_CR3_RAX: &[u8] = &[0x0F, 0x22, 0xD8];
const MOV_CR4_RAX: &[u8] = &[0x0F, 0x22, 0xE0];
const MOV_CR8_RAX: &[u8] = &[0x44, 0x0F, 0x22, 0xC0];
const WRMSR: &[u8] = &[0x0F, 0x30];
const RDMSR: &[u8] = &[0x0F, 0x32];
const XSETBV: &[u8] = &[0x0F, 0x01, 0xD1];
const GP: u8 = 13;

fn rax(b: &mut Bench, value: u64) {
    b.cpu().regs[cpu::RAX] = value;
}

fn flip_cr0(b: &mut Bench, bits: u64) {
    let value = b.cpu().cr0 ^ bits;
    rax(b, value);
}

fn flip_cr4(b: &mut Bench, bits: u64) {
    let value = b.cpu().cr4 ^ bits;
    rax(b, value);
}

fn msr(b: &mut Bench, number: u32, value: u64) {
    let regs = &mut b.cpu().regs;
    regs[cpu::RCX] = u64::from(number);
    regs[cpu::RAX] = value & 0xFFFF_FFFF;
    regs[cpu::RDX] = value >> 32;
}

#[test]
fn cr0() {
    check(
        Bench::long,
        &[
            ("unchanged", |b| flip_cr0(b, 0), MOV_CR0_RAX, Ended::Done),
            ("WP off", |b| flip_cr0(b, cr0::WP), MOV_CR0_RAX, Ended::Done),
            ("PG without PE", |b| flip_cr0(b, cr0::PE), MOV_CR0_RAX, fault(GP, 0)),
            ("PG off in 64-bit mode", |b| flip_cr0(b, cr0::PG), MOV_CR0_RAX, fault(GP, 0)),
            ("NW without CD", |b| flip_cr0(b, cr0::NW), MOV_CR0_RAX, fault(GP, 0)),
            ("upper half", |b| flip_cr0(b, 1 << 32), MOV_CR0_RAX, fault(GP, 0)),
            ("ring 3", to_user, MOV_CR0_RAX, fault(GP, 0)),
        ],
    );
}

#[test]
fn cr3_cr4_cr8() {
    check(
        Bench::long,
        &[
            ("CR4 unchanged", |b| flip_cr4(b, 0), MOV_CR4_RAX, Ended::Done),
            ("CR4 reserved", |b| flip_cr4(b, 1 << 31), MOV_CR4_RAX, fault(GP, 0)),
            ("PAE off in long mode", |b| flip_cr4(b, cr4::PAE), MOV_CR4_RAX, fault(GP, 0)),
            ("VMXE is not offered", |b| flip_cr4(b, 1 << 13), MOV_CR4_RAX, fault(GP, 0)),
            ("LA57 is not offered", |b| flip_cr4(b, 1 << 12), MOV_CR4_RAX, fault(GP, 0)),
            ("PCIDE", |b| flip_cr4(b, cr4::PCIDE), MOV_CR4_RAX, Ended::Done),
            ("CR3 reserved", |b| rax(b, 1 << 51), MOV_CR3_RAX, fault(GP, 0)),
            ("CR3 bit 63 without PCIDE", |b| rax(b, 1 << 63 | 0x1000), MOV_CR3_RAX, fault(GP, 0)),
            ("CR3", |b| rax(b, 0x1000), MOV_CR3_RAX, Ended::Done),
            ("CR8", |b| rax(b, 15), MOV_CR8_RAX, Ended::Done),
            ("CR8 reserved", |b| rax(b, 16), MOV_CR8_RAX, fault(GP, 0)),
            ("CR1", |_| (), &[0x0F, 0x22, 0xC8], fault(6, 0)),
            ("CR5", |_| (), &[0x0F, 0x20, 0xE8], fault(6, 0)),
        ],
    );
}

#[test]
fn pcide_needs_a_plain_cr3() {
    let mut b = Bench::long();
    b.cpu().cr3 |= 0x18;
    flip_cr4(&mut b, cr4::PCIDE);
    assert_eq!(b.run(MOV_CR4_RAX), fault(GP, 0));
}

#[test]
fn model_specific_registers() {
    check(
        Bench::long,
        &[
            ("no such MSR, write", |b| msr(b, 0x1234_5678, 0), WRMSR, fault(GP, 0)),
            ("no such MSR, read", |b| msr(b, 0x1234_5678, 0), RDMSR, fault(GP, 0)),
            ("LSTAR", |b| msr(b, 0xC000_0082, 0xFFFF_8000_0000_0000), WRMSR, Ended::Done),
            ("LSTAR not canonical", |b| msr(b, 0xC000_0082, 1 << 47), WRMSR, fault(GP, 0)),
            ("FS base not canonical", |b| msr(b, 0xC000_0100, 1 << 47), WRMSR, fault(GP, 0)),
            ("kernel GS base not canonical", |b| msr(b, 0xC000_0102, 1 << 63), WRMSR, fault(GP, 0)),
            ("SYSENTER_EIP not canonical", |b| msr(b, 0x176, 1 << 63), WRMSR, fault(GP, 0)),
            ("EFER reserved", |b| msr(b, 0xC000_0080, 0xD03), WRMSR, fault(GP, 0)),
            ("EFER.LME under paging", |b| msr(b, 0xC000_0080, 0xC01), WRMSR, fault(GP, 0)),
            ("EFER.NXE", |b| msr(b, 0xC000_0080, 0x501), WRMSR, Ended::Done),
            ("PAT", |b| msr(b, 0x277, 0x0007_0406_0007_0406), WRMSR, Ended::Done),
            ("PAT type 2", |b| msr(b, 0x277, 2), WRMSR, fault(GP, 0)),
            ("RDMSR in ring 3", to_user, RDMSR, fault(GP, 0)),
            ("WRMSR in ring 3", to_user, WRMSR, fault(GP, 0)),
        ],
    );
}

#[test]
fn xcr0() {
    check(
        Bench::long,
        &[
            ("x87 and SSE", |b| msr(b, 0, 3), XSETBV, Ended::Done),
            ("x87 alone", |b| msr(b, 0, 1), XSETBV, Ended::Done),
            ("without x87", |b| msr(b, 0, 2), XSETBV, fault(GP, 0)),
            ("AVX", |b| msr(b, 0, 7), XSETBV, fault(GP, 0)),
            ("XCR1", |b| msr(b, 1, 3), XSETBV, fault(GP, 0)),
            ("OSXSAVE off", |b| b.cpu().cr4 &= !cr4::OSXSAVE, XSETBV, fault(6, 0)),
            ("XGETBV", |b| msr(b, 0, 0), &[0x0F, 0x01, 0xD0], Ended::Done),
            ("XGETBV of XCR2", |b| msr(b, 2, 0), &[0x0F, 0x01, 0xD0], fault(GP, 0)),
        ],
    );
}

#[test]
fn privileged_in_ring_3() {
    check(
        Bench::long,
        &[
            ("HLT", to_user, &[0xF4], fault(GP, 0)),
            ("CLI", to_user, &[0xFA], fault(GP, 0)),
            ("STI", to_user, &[0xFB], fault(GP, 0)),
            ("CLTS", to_user, &[0x0F, 0x06], fault(GP, 0)),
            ("LMSW", to_user, &[0x0F, 0x01, 0xF0], fault(GP, 0)),
            ("INVD", to_user, &[0x0F, 0x08], fault(GP, 0)),
            ("WBINVD", to_user, &[0x0F, 0x09], fault(GP, 0)),
            ("INVLPG", to_user, &[0x0F, 0x01, 0x38], fault(GP, 0)),
            ("INVPCID", to_user, &[0x66, 0x0F, 0x38, 0x82, 0x00], fault(GP, 0)),
            ("SWAPGS", to_user, &[0x0F, 0x01, 0xF8], fault(GP, 0)),
            ("SYSRET", to_user, &[0x48, 0x0F, 0x07], fault(GP, 0)),
            ("SYSEXIT", to_user, &[0x48, 0x0F, 0x35], fault(GP, 0)),
            ("IN", to_user, &[0xE4, 0x80], fault(GP, 0)),
            ("OUT", to_user, &[0xE6, 0x80], fault(GP, 0)),
            ("RDPMC", to_user, &[0x0F, 0x33], fault(GP, 0)),
            ("MOV from DR7", to_user, &[0x0F, 0x21, 0xF8], fault(GP, 0)),
            ("STAC", to_user, &[0x0F, 0x01, 0xCB], fault(6, 0)),
            ("XSETBV", to_user, XSETBV, fault(GP, 0)),
            ("RDTSC with TSD", tsc_disabled, &[0x0F, 0x31], fault(GP, 0)),
            ("RDTSCP with TSD", tsc_disabled, &[0x0F, 0x01, 0xF9], fault(GP, 0)),
            ("SGDT with UMIP", umip, &[0x0F, 0x01, 0x00], fault(GP, 0)),
            ("SLDT with UMIP", umip, &[0x0F, 0x00, 0xC0], fault(GP, 0)),
            ("STR with UMIP", umip, &[0x0F, 0x00, 0xC8], fault(GP, 0)),
            ("SMSW with UMIP", umip, &[0x0F, 0x01, 0xE0], fault(GP, 0)),
            ("RDFSBASE without FSGSBASE", no_fsgsbase, &[0xF3, 0x0F, 0xAE, 0xC0], fault(6, 0)),
            ("SYSCALL without SCE", no_syscall, &[0x0F, 0x05], fault(6, 0)),
        ],
    );
}

fn tsc_disabled(b: &mut Bench) {
    to_user(b);
    b.cpu().cr4 |= cr4::TSD;
}

fn umip(b: &mut Bench) {
    to_user(b);
    b.cpu().cr4 |= cr4::UMIP;
    rax(b, crate::bench::USER_CODE + 0x800);
}

fn no_fsgsbase(b: &mut Bench) {
    to_user(b);
    b.cpu().cr4 &= !cr4::FSGSBASE;
}

fn no_syscall(b: &mut Bench) {
    to_user(b);
    b.cpu().efer &= !1;
}

#[test]
fn floating_point_switches() {
    const ADDPS: &[u8] = &[0x0F, 0x58, 0xC1];
    const PADDB_MMX: &[u8] = &[0x0F, 0xFC, 0xC1];
    const FLD1: &[u8] = &[0xD9, 0xE8];
    const FWAIT: &[u8] = &[0x9B];
    check(
        Bench::long,
        &[
            ("SSE, TS", |b| b.cpu().cr0 |= cr0::TS, ADDPS, fault(7, 0)),
            ("MMX, TS", |b| b.cpu().cr0 |= cr0::TS, PADDB_MMX, fault(7, 0)),
            ("x87, TS", |b| b.cpu().cr0 |= cr0::TS, FLD1, fault(7, 0)),
            ("SSE, EM", |b| b.cpu().cr0 |= cr0::EM, ADDPS, fault(6, 0)),
            ("MMX, EM", |b| b.cpu().cr0 |= cr0::EM, PADDB_MMX, fault(6, 0)),
            ("x87, EM", |b| b.cpu().cr0 |= cr0::EM, FLD1, fault(7, 0)),
            ("SSE, no OSFXSR", |b| b.cpu().cr4 &= !cr4::OSFXSR, ADDPS, fault(6, 0)),
            ("FWAIT, TS and MP", |b| b.cpu().cr0 |= cr0::TS | cr0::MP, FWAIT, fault(7, 0)),
            ("FWAIT, TS, no MP", wait_without_mp, FWAIT, Ended::Done),
            (
                "XSAVE, no OSXSAVE",
                |b| b.cpu().cr4 &= !cr4::OSXSAVE,
                &[0x0F, 0xAE, 0x20],
                fault(6, 0),
            ),
            ("#XM without OSXMMEXCPT", simd_error, &[0x0F, 0x5E, 0xC1], fault(6, 0)),
        ],
    );
}

fn wait_without_mp(b: &mut Bench) {
    b.cpu().cr0 |= cr0::TS;
    b.cpu().cr0 &= !cr0::MP;
}

fn simd_error(b: &mut Bench) {
    let cpu = b.cpu();
    cpu.cr4 &= !cr4::OSXMMEXCPT;
    cpu.mxcsr = 0;
}

#[test]
fn invpcid_types_and_addresses() {
    const INVPCID: &[u8] = &[0x66, 0x0F, 0x38, 0x82, 0x08];
    fn descriptor(b: &mut Bench, kind: u64, pcid: u64, address: u64) {
        b.put64(FREE, pcid);
        b.put64(FREE + 8, address);
        b.cpu().regs[cpu::RAX] = FREE;
        b.cpu().regs[cpu::RCX] = kind;
    }
    check(
        Bench::long,
        &[
            ("type 2", |b| descriptor(b, 2, 0, 0), INVPCID, Ended::Done),
            ("type 3", |b| descriptor(b, 3, 0, 0), INVPCID, Ended::Done),
            ("type 4", |b| descriptor(b, 4, 0, 0), INVPCID, fault(GP, 0)),
            ("reserved bits", |b| descriptor(b, 2, 1 << 12, 0), INVPCID, fault(GP, 0)),
            ("address not canonical", |b| descriptor(b, 0, 0, 1 << 47), INVPCID, fault(GP, 0)),
            ("PCID without PCIDE", |b| descriptor(b, 1, 1, 0), INVPCID, fault(GP, 0)),
            ("INVLPG not canonical", |b| rax(b, 1 << 47), &[0x0F, 0x01, 0x38], Ended::Done),
        ],
    );
}
