//! Architectural state of the CPU.
//!
//! Contract: everything the guest can observe is here and is serialized; caches are not. Register
//! numbers are those of the ModRM encoding.

pub mod cpuid;
pub mod flags;
pub mod msr;
pub mod random;

use flags::Flags;
use serde::{Deserialize, Serialize};

/// ModRM number of RAX.
pub const RAX: usize = 0;
/// ModRM number of RCX.
pub const RCX: usize = 1;
/// ModRM number of RDX.
pub const RDX: usize = 2;
/// ModRM number of RBX.
pub const RBX: usize = 3;
/// ModRM number of RSP.
pub const RSP: usize = 4;
/// ModRM number of RBP.
pub const RBP: usize = 5;
/// ModRM number of RSI.
pub const RSI: usize = 6;
/// ModRM number of RDI.
pub const RDI: usize = 7;
/// Pseudo register: RIP at the start of the block in execution (base of RIP-relative operands).
pub const BLOCK_RIP: usize = 16;
/// Pseudo register: always zero (absent base or index).
pub const ZERO: usize = 17;

/// Number of ES.
pub const ES: usize = 0;
/// Number of CS.
pub const CS: usize = 1;
/// Number of SS.
pub const SS: usize = 2;
/// Number of DS.
pub const DS: usize = 3;
/// Number of FS.
pub const FS: usize = 4;
/// Number of GS.
pub const GS: usize = 5;
/// Pseudo segment with base 0 and no limit: a flat segment.
pub const FLAT: usize = 7;

/// CR0 bits (SDM 3A 2.5).
pub mod cr0 {
    /// Protection enable.
    pub const PE: u64 = 1;
    /// Monitor coprocessor.
    pub const MP: u64 = 1 << 1;
    /// Emulation.
    pub const EM: u64 = 1 << 2;
    /// Task switched.
    pub const TS: u64 = 1 << 3;
    /// Extension type; always 1.
    pub const ET: u64 = 1 << 4;
    /// Numeric error.
    pub const NE: u64 = 1 << 5;
    /// Write protect.
    pub const WP: u64 = 1 << 16;
    /// Alignment mask.
    pub const AM: u64 = 1 << 18;
    /// Not write-through.
    pub const NW: u64 = 1 << 29;
    /// Cache disable.
    pub const CD: u64 = 1 << 30;
    /// Paging.
    pub const PG: u64 = 1 << 31;
}

/// CR4 bits (SDM 3A 2.5).
pub mod cr4 {
    /// Virtual-8086 mode extensions.
    pub const VME: u64 = 1;
    /// Protected-mode virtual interrupts.
    pub const PVI: u64 = 1 << 1;
    /// Time stamp disable.
    pub const TSD: u64 = 1 << 2;
    /// Debugging extensions.
    pub const DE: u64 = 1 << 3;
    /// Page size extensions.
    pub const PSE: u64 = 1 << 4;
    /// Physical address extension.
    pub const PAE: u64 = 1 << 5;
    /// Machine-check enable.
    pub const MCE: u64 = 1 << 6;
    /// Page global enable.
    pub const PGE: u64 = 1 << 7;
    /// Performance counters in ring 3.
    pub const PCE: u64 = 1 << 8;
    /// FXSAVE support.
    pub const OSFXSR: u64 = 1 << 9;
    /// Unmasked SIMD exceptions.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// User-mode instruction prevention.
    pub const UMIP: u64 = 1 << 11;
    /// FSGSBASE instructions.
    pub const FSGSBASE: u64 = 1 << 16;
    /// Process-context identifiers.
    pub const PCIDE: u64 = 1 << 17;
    /// XSAVE.
    pub const OSXSAVE: u64 = 1 << 18;
    /// Supervisor-mode execution prevention.
    pub const SMEP: u64 = 1 << 20;
    /// Supervisor-mode access prevention.
    pub const SMAP: u64 = 1 << 21;
}

/// EFER bits (SDM 3A 2.2.1).
pub mod efer {
    /// SYSCALL enable.
    pub const SCE: u64 = 1;
    /// Long mode enable.
    pub const LME: u64 = 1 << 8;
    /// Long mode active.
    pub const LMA: u64 = 1 << 10;
    /// Execute-disable enable.
    pub const NXE: u64 = 1 << 11;
}

/// A segment register: selector and descriptor cache (SDM 3A 3.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Linear base.
    pub base: u64,
    /// Limit in bytes, granularity applied.
    pub limit: u32,
    /// Bits 8-23 of the descriptor's second dword, shifted to bit 0: type 0-3, S 4, DPL 5-6, P 7,
    /// AVL 12, L 13, D/B 14, G 15.
    pub access: u16,
    /// False for a null or unusable segment: any access through it is #GP.
    pub usable: bool,
}

impl Segment {
    /// Descriptor privilege level.
    pub fn dpl(&self) -> u8 {
        ((self.access >> 5) & 3) as u8
    }

    /// The D/B bit: 32-bit default.
    pub fn big(&self) -> bool {
        self.access & (1 << 14) != 0
    }

    /// The L bit: 64-bit code.
    pub fn long(&self) -> bool {
        self.access & (1 << 13) != 0
    }

    /// Segment type, bits 0-3.
    pub fn kind(&self) -> u8 {
        (self.access & 15) as u8
    }

    /// A real-mode segment (SDM 3A 21.1): base = selector * 16; limit and access stay.
    pub fn load_real(&mut self, selector: u16) {
        self.selector = selector;
        self.base = u64::from(selector) << 4;
        self.usable = true;
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRegister {
    /// Linear base.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// x87 state (SDM 1 8.1). MMX registers are the significands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fpu {
    /// Significands of the physical registers R0-R7.
    pub significand: [u64; 8],
    /// Sign and exponent of the physical registers R0-R7.
    pub sign_exponent: [u16; 8],
    /// Control word.
    pub control: u16,
    /// Status word, TOP included.
    pub status: u16,
    /// A bit for each physical register: 1 = not empty.
    pub valid: u8,
    /// Last instruction pointer.
    pub fip: u64,
    /// Last instruction's CS.
    pub fcs: u16,
    /// Last data pointer.
    pub fdp: u64,
    /// Last data segment.
    pub fds: u16,
    /// Last opcode, 11 bits.
    pub fop: u16,
}

impl Default for Fpu {
    /// As after reset (SDM 3A table 10-1).
    fn default() -> Self {
        Self {
            significand: [0; 8],
            sign_exponent: [0; 8],
            control: 0x40,
            status: 0,
            valid: 0xFF,
            fip: 0,
            fcs: 0,
            fdp: 0,
            fds: 0,
            fop: 0,
        }
    }
}

/// The CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// RAX-R15, then [`BLOCK_RIP`], [`ZERO`] and unused zeros.
    pub regs: [u64; 32],
    /// Address of the next instruction (offset in CS).
    pub rip: u64,
    /// RFLAGS.
    pub flags: Flags,
    /// ES, CS, SS, DS, FS, GS.
    pub segs: [Segment; 6],
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: TableRegister,
    /// Interrupt descriptor table.
    pub idtr: TableRegister,
    /// Current privilege level.
    pub cpl: u8,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// Page-directory-pointer entries, loaded with CR3 in PAE paging (SDM 3A 4.4.1).
    pub pdptes: [u64; 4],
    /// DR0-DR7 (4 and 5 unused).
    pub dr: [u64; 8],
    /// IA32_EFER.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// Model-specific registers without a field elsewhere.
    pub msrs: msr::Msrs,
    /// x87 and MMX.
    pub fpu: Fpu,
    /// XMM0-XMM15.
    pub xmm: [u128; 16],
    /// MXCSR.
    pub mxcsr: u32,
    /// HLT (or shutdown with `shutdown`).
    pub halted: bool,
    /// Triple fault pending: the machine resets.
    pub shutdown: bool,
    /// Interrupts are inhibited for one instruction (after STI, MOV SS, POP SS).
    pub shadow: bool,
    /// The shadow also holds back #DB (MOV SS, POP SS).
    pub shadow_debug: bool,
    /// NMIs are blocked until IRET.
    pub nmi_blocked: bool,
    /// A debug trap for the instruction just executed waits (bits of DR6).
    pub pending_debug: u64,
    /// The instruction count at which RF is in force; later it counts as clear.
    pub resume_at: u64,
    /// Exceptions delivered since an instruction retired, and the instruction count at that time.
    pub delivered: (u32, u64),
    /// RDRAND, RDSEED.
    pub random: random::Random,
}

impl Cpu {
    /// State after power-on or hard reset (SDM 3A 10.1.1).
    pub fn new() -> Self {
        let data = Segment { selector: 0, base: 0, limit: 0xFFFF, access: 0x93, usable: true };
        let mut segs = [data; 6];
        segs[CS] = Segment { selector: 0xF000, base: 0xFFFF_0000, access: 0x9B, ..data };
        let system = Segment { access: 0x82, ..data };
        let mut regs = [0; 32];
        regs[RDX] = u64::from(cpuid::SIGNATURE);
        Self {
            regs,
            rip: 0xFFF0,
            flags: Flags::new(),
            segs,
            ldtr: system,
            tr: Segment { access: 0x8B, ..data },
            gdtr: TableRegister { base: 0, limit: 0xFFFF },
            idtr: TableRegister { base: 0, limit: 0xFFFF },
            cpl: 0,
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            pdptes: [0; 4],
            dr: [0, 0, 0, 0, 0, 0, 0xFFFF_0FF0, 0x400],
            efer: 0,
            xcr0: 1,
            msrs: msr::Msrs::default(),
            fpu: Fpu::default(),
            xmm: [0; 16],
            mxcsr: 0x1F80,
            halted: false,
            shutdown: false,
            shadow: false,
            shadow_debug: false,
            nmi_blocked: false,
            pending_debug: 0,
            resume_at: 0,
            delivered: (0, 0),
            random: random::Random::default(),
        }
    }

    /// IA32_EFER.LMA.
    #[inline(always)]
    pub fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// 64-bit mode: long mode in a code segment with L set.
    #[inline(always)]
    pub fn code64(&self) -> bool {
        self.long_mode() && self.segs[CS].long()
    }

    /// CR0.PE.
    #[inline(always)]
    pub fn protected(&self) -> bool {
        self.cr0 & cr0::PE != 0
    }

    /// Virtual-8086 mode.
    #[inline(always)]
    pub fn v86(&self) -> bool {
        self.flags.system & flags::VM != 0
    }

    /// Real-address or virtual-8086 mode: segments are selector * 16.
    #[inline(always)]
    pub fn real_segments(&self) -> bool {
        !self.protected() || self.v86()
    }

    /// I/O privilege level.
    pub fn iopl(&self) -> u8 {
        ((self.flags.system >> 12) & 3) as u8
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}
