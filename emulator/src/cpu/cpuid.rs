//! CPUID: exactly what this CPU offers (SDM 2A, CPUID).
//!
//! Contract: a feature bit is set if and only if its instructions are implemented.

use super::{Cpu, cr4};

/// Family 6, model 143, stepping 8: a server model for which Linux has no erratum workaround.
pub const SIGNATURE: u32 = 0x0008_06F8;

/// Crystal clock in hertz (leaf 15h); the LAPIC timer counts it.
pub const CRYSTAL_HZ: u32 = 25_000_000;
/// TSC in hertz: one tick per virtual nanosecond.
pub const TSC_HZ: u64 = 1_000_000_000;
/// Bits of a physical address.
pub const PHYSICAL_BITS: u32 = 40;

const FEATURES_ECX: u32 = 1 // SSE3
    | 1 << 1 // PCLMULQDQ
    | 1 << 9 // SSSE3
    | 1 << 13 // CMPXCHG16B
    | 1 << 17 // PCID
    | 1 << 19 // SSE4.1
    | 1 << 20 // SSE4.2
    | 1 << 22 // MOVBE
    | 1 << 23 // POPCNT
    | 1 << 24 // TSC deadline
    | 1 << 25 // AES
    | 1 << 26 // XSAVE
    | 1 << 30 // RDRAND
    | 1 << 31; // hypervisor present
const FEATURES_EDX: u32 = 1 // FPU
    | 1 << 1 // VME
    | 1 << 2 // DE
    | 1 << 3 // PSE
    | 1 << 4 // TSC
    | 1 << 5 // MSR
    | 1 << 6 // PAE
    | 1 << 7 // MCE
    | 1 << 8 // CX8
    | 1 << 9 // APIC
    | 1 << 11 // SEP
    | 1 << 12 // MTRR
    | 1 << 13 // PGE
    | 1 << 14 // MCA
    | 1 << 15 // CMOV
    | 1 << 16 // PAT
    | 1 << 17 // PSE-36
    | 1 << 19 // CLFSH
    | 1 << 23 // MMX
    | 1 << 24 // FXSR
    | 1 << 25 // SSE
    | 1 << 26; // SSE2
const LEAF7_EBX: u32 = 1 // FSGSBASE
    | 1 << 1 // TSC_ADJUST
    | 1 << 3 // BMI1
    | 1 << 7 // SMEP
    | 1 << 8 // BMI2
    | 1 << 9 // ERMS
    | 1 << 10 // INVPCID
    | 1 << 13 // FPU CS and DS deprecated
    | 1 << 18 // RDSEED
    | 1 << 19 // ADX
    | 1 << 20; // SMAP
const LEAF7_ECX: u32 = 1 << 2 // UMIP
    | 1 << 22; // RDPID
const LEAF7_EDX: u32 = 1 << 4 // FSRM
    | 1 << 26 // IBRS and IBPB
    | 1 << 29; // ARCH_CAPABILITIES
const EXTENDED_ECX: u32 = 1 // LAHF in 64-bit mode
    | 1 << 5 // LZCNT
    | 1 << 8; // PREFETCHW
const EXTENDED_EDX: u32 = 1 << 11 // SYSCALL
    | 1 << 20 // NX
    | 1 << 26 // 1-GiB pages
    | 1 << 27 // RDTSCP
    | 1 << 29; // long mode

/// IA32_ARCH_CAPABILITIES: an interpreter speculates nothing, so every leak is declared absent
/// (RDCL_NO, IBRS_ALL, RSBA clear, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR/FBSDP/PSDP_NO,
/// BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO).
pub const ARCH_CAPABILITIES: u64 = 1
    | 1 << 1
    | 1 << 3 // skip L1D flush on VM entry
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62; // ITS_NO

const BRAND: &[u8; 48] = b"ftemu virtual CPU @ 1.00GHz\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// EAX, EBX, ECX, EDX of `leaf` and `subleaf`.
pub fn cpuid(cpu: &Cpu, leaf: u32, subleaf: u32) -> [u32; 4] {
    const MAX_BASIC: u32 = 0x16;
    const MAX_EXTENDED: u32 = 0x8000_0008;
    match leaf {
        0 => [MAX_BASIC, word(b"Genu"), word(b"ntel"), word(b"ineI")],
        1 => {
            let osxsave = u32::from(cpu.cr4 & cr4::OSXSAVE != 0) << 27;
            [SIGNATURE, 0x0001_0800, FEATURES_ECX | osxsave, FEATURES_EDX]
        }
        2 => [0x00FF_FF01, 0, 0, 0],
        4 => cache(subleaf),
        7 if subleaf == 0 => [0, LEAF7_EBX, LEAF7_ECX, LEAF7_EDX],
        0xB => match subleaf {
            0 => [0, 1, 0x100, 0],
            1 => [0, 1, 0x201, 0],
            _ => [0, 0, subleaf & 0xFF, 0],
        },
        0xD => match subleaf {
            0 => [3, 576, 576, 0],
            1 => [0, 0, 0, 0],
            _ => [0; 4],
        },
        0x15 => [1, (TSC_HZ / u64::from(CRYSTAL_HZ)) as u32, CRYSTAL_HZ, 0],
        0x16 => [1000, 1000, 100, 0],
        0x4000_0000 => [0x4000_0010, word(b"ftem"), word(b"uFT "), word(b"2026")],
        0x4000_0010 => [(TSC_HZ / 1000) as u32, CRYSTAL_HZ / 1000, 0, 0],
        0x4000_0001..=0x4000_000F => [0; 4],
        0x8000_0000 => [MAX_EXTENDED, 0, 0, 0],
        0x8000_0001 => {
            // SYSCALL is reported in 64-bit mode only (SDM 2A)
            let edx = if cpu.code64() { EXTENDED_EDX } else { EXTENDED_EDX & !(1 << 11) };
            [0, 0, EXTENDED_ECX, edx]
        }
        0x8000_0002..=0x8000_0004 => {
            let at = (leaf - 0x8000_0002) as usize * 16;
            core::array::from_fn(|i| word(&BRAND[at + 4 * i..at + 4 * i + 4]))
        }
        0x8000_0006 => [0, 0, 0x0800_6040, 0],
        0x8000_0007 => [0, 0, 0, 1 << 8], // invariant TSC
        0x8000_0008 => [PHYSICAL_BITS | 48 << 8, 0, 0, 0],
        _ if leaf > MAX_BASIC && leaf < 0x4000_0000 => cpuid(cpu, MAX_BASIC, subleaf),
        _ => [0; 4],
    }
}

/// Deterministic cache parameters: 32 KiB L1 data and code, 2 MiB L2, 32 MiB L3. A large L3 makes
/// C libraries copy big buffers with REP MOVSB instead of non-temporal stores.
fn cache(subleaf: u32) -> [u32; 4] {
    let describe = |kind: u32, level: u32, ways: u32, sets: u32| {
        [kind | level << 5 | 1 << 8, 63 | (ways - 1) << 22, sets - 1, 0]
    };
    match subleaf {
        0 => describe(1, 1, 8, 64),
        1 => describe(2, 1, 8, 64),
        2 => describe(3, 2, 16, 2048),
        3 => describe(3, 3, 16, 32768),
        _ => [0; 4],
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}
