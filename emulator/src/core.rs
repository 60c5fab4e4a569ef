//! What an instruction works on: CPU, memory and board, with the caches of the memory system.
//!
//! Contract: instruction functions take `&mut Core`; caches in here (TLB, mode words) are
//! rebuilt from the state by [`Core::update_mode`] and [`Core::flush_tlb`].

use crate::cpu::{self, Cpu, FLAT, cr0, cr4, flags};
use crate::exception::{Cause, Exception, Trap};
use crate::mmu::tlb::Tlb;
use crate::op::Op;
use devices::board::Board;
use devices::ram::Ram;
use devices::time::{Clock, Icount, VirtualNs};

/// CPU, RAM, board and clock.
pub struct Core {
    /// Architectural state.
    pub cpu: Cpu,
    /// Retired instructions; while a block runs, the count at its start.
    pub icount: u64,
    /// No instruction may retire past this count.
    pub limit: u64,
    /// Guest memory.
    pub ram: Ram,
    /// Devices.
    pub board: Board,
    /// Virtual time.
    pub clock: Clock,
    /// Cached translations.
    pub tlb: Tlb,
    /// Why the last instruction was left.
    pub cause: Cause,
    /// An instruction is being executed alone: devices and code pages may be touched.
    pub alone: bool,
    /// A device was accessed since this was last cleared.
    pub met_device: bool,
    /// Base of each segment as addresses use it: 0 for [`FLAT`], and for all but FS and GS in
    /// 64-bit mode.
    pub seg_base: [u64; 8],
    /// What translated code depends on; see [`Core::update_mode`].
    pub mode: Mode,
    /// Data on its way through the slow paths of memory accesses.
    pub scratch: [u8; 16],
    /// Bits of RIP that the code segment's mode has.
    pub rip_mask: u64,
    /// x87, MMX or SSE instructions may fault for CR0 or CR4 reasons.
    pub fpu_blocked: bool,
    /// SSE instructions may fault for CR0 or CR4 reasons.
    pub sse_blocked: bool,
    /// Alignment is checked (CR0.AM, RFLAGS.AC, CPL 3).
    pub align: bool,
    /// Data or I/O breakpoints are enabled: every access is compared.
    pub watching: bool,
    /// Bits of DR6 for the breakpoints that the instruction in execution has hit.
    pub watch_hits: u64,
    /// The instruction in execution began with TF set and will trap when it is done.
    pub single_step: bool,
    /// What else the cached translations rest on: map of memory, A20 gate.
    memory_map: (u64, bool),
    /// Outside 64-bit mode: segments that can be accessed at every offset, data, writable,
    /// expand-up, with a limit of 4 GiB; CS: code, readable, with that limit.
    pub open: [bool; 6],
    /// Bits of physical addresses that the A20 gate lets through, as of
    /// [`Core::refresh_memory_map`].
    pub a20_mask: u64,
    /// For an accelerator while it runs: no part of the machine's state.
    pub accelerator: [u64; 8],
}

/// The part of the CPU's state that translation depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// 16, 32 or 64.
    pub bits: u8,
    /// Stack addresses are 32 bits wide (outside 64-bit mode).
    pub stack32: bool,
    /// CS, DS, ES and SS have base 0 and a limit of 4 GiB, writable where data.
    pub flat: bool,
}

impl Mode {
    /// As a small number, for keys.
    pub fn code(self) -> u32 {
        u32::from(self.bits >> 5) | u32::from(self.stack32) << 2 | u32::from(self.flat) << 3
    }
}

impl Core {
    /// A core around a fresh CPU.
    pub fn new(ram: Ram, board: Board) -> Self {
        let mut core = Self {
            cpu: Cpu::new(),
            icount: 0,
            limit: 0,
            ram,
            board,
            clock: Clock::default(),
            tlb: Tlb::new(),
            cause: Cause::Alone,
            alone: false,
            met_device: false,
            seg_base: [0; 8],
            mode: Mode { bits: 16, stack32: false, flat: false },
            scratch: [0; 16],
            rip_mask: 0xFFFF_FFFF,
            fpu_blocked: false,
            sse_blocked: false,
            align: false,
            watching: false,
            watch_hits: 0,
            single_step: false,
            memory_map: (0, true),
            open: [false; 6],
            a20_mask: u64::MAX,
            accelerator: [0; 8],
        };
        core.update_mode();
        core
    }

    /// Number of the kind of code that runs now, below [`crate::mmu::tlb::CODE_KINDS`].
    #[inline(always)]
    pub fn code_kind(&self) -> usize {
        usize::from(self.cpu.cpl == 3) | usize::from(self.mode.bits != 64) << 1
    }

    /// Leaves the instruction with an exception.
    #[cold]
    #[inline(never)]
    pub fn raise(&mut self, exception: Exception) -> Trap {
        self.cause = Cause::Exception(exception);
        Trap
    }

    /// Leaves the instruction with a fault of `vector`, error code 0.
    #[cold]
    #[inline(never)]
    pub fn fault(&mut self, vector: u8) -> Trap {
        self.raise(Exception::new(vector))
    }

    /// Leaves the instruction with a fault of `vector` and an error code.
    #[cold]
    #[inline(never)]
    pub fn fault_code(&mut self, vector: u8, code: u32) -> Trap {
        self.raise(Exception::coded(vector, code))
    }

    /// Goes on only if the instruction is executed alone; otherwise leaves it, to be retried so.
    #[inline(always)]
    pub fn must_be_alone(&mut self) -> Result<(), Trap> {
        if self.alone {
            return Ok(());
        }
        self.cause = Cause::Alone;
        Err(Trap)
    }

    /// Retired instructions before the instruction `op`.
    #[inline(always)]
    pub fn icount_of(&self, op: &Op) -> u64 {
        self.icount + u64::from(op.index)
    }

    /// Virtual time at the instruction `op`.
    pub fn now(&self, op: &Op) -> VirtualNs {
        self.clock.now(Icount(self.icount_of(op)))
    }

    /// Offset of the next instruction in CS.
    #[inline(always)]
    pub fn next_rip(&self, op: &Op) -> u64 {
        let next = self.cpu.regs[cpu::BLOCK_RIP]
            .wrapping_add_signed(i64::from(op.offset))
            .wrapping_add(u64::from(op.len));
        self.mask_rip(next)
    }

    /// Offset of the instruction itself in CS.
    #[inline(always)]
    pub fn op_rip(&self, op: &Op) -> u64 {
        let rip = self.cpu.regs[cpu::BLOCK_RIP].wrapping_add_signed(i64::from(op.offset));
        self.mask_rip(rip)
    }

    /// `rip` as wide as the code segment makes it.
    #[inline(always)]
    pub fn mask_rip(&self, rip: u64) -> u64 {
        rip & self.rip_mask
    }

    /// Brings the caches of mode and segments up to date; call after any change of CR0, CR4,
    /// EFER, CPL, a segment register or RFLAGS.AC/VM.
    pub fn update_mode(&mut self) {
        let cpu = &self.cpu;
        let code64 = cpu.code64();
        for (base, seg) in self.seg_base.iter_mut().zip(&cpu.segs) {
            *base = seg.base;
        }
        if code64 {
            for seg in [cpu::ES, cpu::CS, cpu::SS, cpu::DS] {
                self.seg_base[seg] = 0;
            }
        }
        self.seg_base[6] = 0;
        self.seg_base[FLAT] = 0;
        self.mode = if code64 {
            Mode { bits: 64, stack32: false, flat: true }
        } else {
            let real = cpu.real_segments();
            for (seg, (open, s)) in self.open.iter_mut().zip(&cpu.segs).enumerate() {
                // Data: writable, expand-up. Code: readable, so that CS overrides need no check.
                *open = s.usable
                    && s.limit == u32::MAX
                    && s.access & 0x80 != 0
                    && if seg == cpu::CS { s.kind() & 2 != 0 } else { s.kind() & 0xE == 2 }
                    && !real;
            }
            let flat = [cpu::CS, cpu::SS, cpu::DS, cpu::ES]
                .iter()
                .all(|&seg| self.open[seg] && cpu.segs[seg].base == 0);
            let bits = if cpu.segs[cpu::CS].big() { 32 } else { 16 };
            Mode { bits, stack32: cpu.segs[cpu::SS].big(), flat }
        };
        self.rip_mask = if code64 { u64::MAX } else { 0xFFFF_FFFF };
        self.fpu_blocked = cpu.cr0 & (cr0::EM | cr0::TS) != 0;
        self.sse_blocked = cpu.cr0 & (cr0::EM | cr0::TS) != 0 || cpu.cr4 & cr4::OSFXSR == 0;
        self.watching = self.watches_data();
        self.select_privilege();
    }

    /// The part of [`Core::update_mode`] that CPL and RFLAGS.AC decide: which translations hold.
    pub fn select_privilege(&mut self) {
        let cpu = &self.cpu;
        let user = cpu.cpl == 3;
        let ac = cpu.flags.system & flags::AC != 0;
        self.align = user && cpu.cr0 & cr0::AM != 0 && ac;
        let smap_off = ac || cpu.cr4 & cr4::SMAP == 0;
        self.tlb.select(user, smap_off, self.align || self.watching);
    }

    /// Forgets translations if the map of memory, the A20 gate or (by DMA) a paging structure
    /// changed.
    pub fn refresh_memory_map(&mut self) {
        let map = (self.ram.generation(), self.board.a20());
        if self.memory_map != map {
            self.memory_map = map;
            self.a20_mask = if map.1 { u64::MAX } else { !(1 << 20) };
            self.flush_tlb();
        }
        if self.ram.has_table_work() {
            self.flush_stale_tables();
        }
    }

    /// The A20 gate, as of the last [`Core::refresh_memory_map`].
    #[inline(always)]
    pub fn a20(&self) -> bool {
        self.memory_map.1
    }

    /// Whether RFLAGS.RF is in force: it was loaded, or a repeated instruction was left
    /// unfinished, just before this instruction. (What completes clears RF: SDM 3B 17.3.1.1.)
    pub fn resuming(&self) -> bool {
        self.cpu.flags.system & flags::RF != 0 && self.cpu.resume_at == self.icount
    }

    /// Clears RF if an instruction was completed since it was set.
    #[inline(always)]
    pub fn settle_resume(&mut self) {
        if (self.cpu.flags.system & flags::RF != 0 || self.cpu.resume_at != 0) && !self.resuming() {
            self.cpu.flags.system &= !flags::RF;
            self.cpu.resume_at = 0;
        }
    }

    /// Linear address of `offset` in `seg`, checked against type and limit (SDM 3A 5.3, 5.5).
    /// `size` bytes are accessed.
    ///
    /// # Errors
    /// #GP(0), or #SS(0) for SS.
    pub fn linear(&mut self, seg: usize, offset: u64, size: u64, write: bool) -> Result<u64, Trap> {
        if self.mode.bits == 64 {
            let la = self.seg_base[seg].wrapping_add(offset);
            if !canonical(la) || !canonical(la.wrapping_add(size - 1)) {
                return Err(self.segment_fault(seg));
            }
            return Ok(la);
        }
        if seg == FLAT {
            return Ok(offset & 0xFFFF_FFFF);
        }
        let s = self.cpu.segs[seg];
        let last = offset.wrapping_add(size - 1);
        let in_limit = if s.kind() & 0xC == 4 && s.access & 0x10 != 0 {
            // expand-down: valid above the limit, up to 64 KiB or 4 GiB
            let top = if s.big() { 0xFFFF_FFFF } else { 0xFFFF };
            offset > u64::from(s.limit) && last <= top && last >= offset
        } else {
            // With a limit of 4 GiB, CPUs wrap around (SDM 3A 5.3 leaves it open).
            last <= u64::from(s.limit) || s.limit == u32::MAX
        };
        let real = self.cpu.real_segments();
        let type_ok = real || if write { s.kind() & 0xA == 2 } else { s.kind() & 0xA != 8 };
        if !in_limit || !s.usable || !type_ok {
            return Err(self.segment_fault(seg));
        }
        Ok(s.base.wrapping_add(offset) & 0xFFFF_FFFF)
    }

    #[cold]
    fn segment_fault(&mut self, seg: usize) -> Trap {
        let vector = if seg == cpu::SS { crate::exception::SS } else { crate::exception::GP };
        self.fault(vector)
    }

    /// Checks that x87 and MMX instructions may run: #NM, or #UD for MMX with CR0.EM.
    #[inline(always)]
    pub fn check_fpu(&mut self) -> Result<(), Trap> {
        if self.fpu_blocked { Err(self.fault(crate::exception::NM)) } else { Ok(()) }
    }

    /// Checks that SSE instructions may run: #UD for CR0.EM or CR4.OSFXSR, #NM for CR0.TS.
    #[inline(always)]
    pub fn check_sse(&mut self) -> Result<(), Trap> {
        if self.sse_blocked { Err(self.sse_fault()) } else { Ok(()) }
    }

    #[cold]
    fn sse_fault(&mut self) -> Trap {
        if self.cpu.cr0 & cr0::EM != 0 || self.cpu.cr4 & cr4::OSFXSR == 0 {
            self.fault(crate::exception::UD)
        } else {
            self.fault(crate::exception::NM)
        }
    }
}

/// Whether a linear address is canonical for 48 bits.
#[inline(always)]
pub fn canonical(la: u64) -> bool {
    ((la << 16) as i64 >> 16) as u64 == la
}
