//! System instructions: control and debug registers, MSRs, TLB, time, identification, HLT,
//! interrupt flag, FS/GS bases, random numbers, extended control register.

use super::int::Int;
use super::{Context, operand_size, size_of};
use crate::core::{Core, canonical};
use crate::cpu::cpuid::{ARCH_CAPABILITIES, cpuid};
use crate::cpu::flags::{AC, CF, IF, VIF, VIP};
use crate::cpu::msr::{MTRR_PAIRS, fixed_mtrr, number as msr};
use crate::cpu::{CS, FS, GS, RAX, RCX, RDX, cr0, cr4, efer};
use crate::exception::{self, Trap};
use crate::op::{Exit, Handler, Op, run, run_last};
use crate::sized;
use devices::time::VirtualNs;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// Ends the block: something that the outer loop looks at may have changed.
fn event(
    core: &mut Core,
    ops: &[Op],
    work: impl FnOnce(&mut Core, &Op) -> Result<(), Trap>,
) -> Exit {
    run_last(core, ops, Exit::Event, |core, op| {
        work(core, op)?;
        Ok(core.next_rip(op))
    })
}

impl Core {
    /// The guest's TSC at virtual time `now`.
    pub fn tsc(&self, now: VirtualNs) -> u64 {
        now.0.wrapping_add(self.cpu.msrs.tsc_offset)
    }

    /// Writes CR0 (SDM 3A 2.5, 4.1.1, 9.8.5).
    ///
    /// # Errors
    /// #GP(0) for combinations that are not allowed.
    pub fn write_cr0(&mut self, value: u64) -> Result<(), Trap> {
        let old = self.cpu.cr0;
        let known = cr0::PE
            | cr0::MP
            | cr0::EM
            | cr0::TS
            | cr0::NE
            | cr0::WP
            | cr0::AM
            | cr0::NW
            | cr0::CD
            | cr0::PG;
        let new = (value & known) | cr0::ET;
        let paging = new & cr0::PG != 0;
        if value >> 32 != 0
            || (paging && new & cr0::PE == 0)
            || (new & cr0::NW != 0 && new & cr0::CD == 0)
            || (!paging && self.mode.bits == 64)
            || (!paging && self.cpu.cr4 & cr4::PCIDE != 0)
        {
            return Err(self.fault(exception::GP));
        }
        if paging && old & cr0::PG == 0 {
            if self.cpu.efer & efer::LME != 0 {
                let tss_16 = self.cpu.tr.usable && self.cpu.tr.kind() & 8 == 0;
                if self.cpu.cr4 & cr4::PAE == 0 || self.cpu.segs[CS].long() || tss_16 {
                    return Err(self.fault(exception::GP));
                }
                self.cpu.efer |= efer::LMA;
            } else if self.cpu.cr4 & cr4::PAE != 0 {
                self.load_pdptes(self.cpu.cr3)?;
            }
        } else if paging
            && (old ^ new) & (cr0::CD | cr0::NW) != 0
            && self.cpu.cr4 & cr4::PAE != 0
            && !self.cpu.long_mode()
        {
            self.load_pdptes(self.cpu.cr3)?;
        }
        if !paging {
            self.cpu.efer &= !efer::LMA;
        }
        self.cpu.cr0 = new;
        if (old ^ new) & (cr0::PG | cr0::WP | cr0::PE) != 0 {
            self.flush_tlb();
        }
        self.update_mode();
        Ok(())
    }

    /// Writes CR3 (SDM 3A 4.10.4.1). Bit 63 keeps the translations of the PCID.
    ///
    /// # Errors
    /// #GP(0) for reserved bits or bad PDPTEs.
    pub fn write_cr3(&mut self, value: u64) -> Result<(), Trap> {
        let pcide = self.cpu.cr4 & cr4::PCIDE != 0;
        let keep = pcide && value >> 63 != 0;
        let value = if pcide { value & !(1 << 63) } else { value };
        if self.cpu.long_mode() {
            if value >> crate::cpu::cpuid::PHYSICAL_BITS != 0 {
                return Err(self.fault(exception::GP));
            }
        } else if self.cpu.cr4 & cr4::PAE != 0 && self.cpu.cr0 & cr0::PG != 0 {
            self.load_pdptes(value)?;
        }
        self.cpu.cr3 = value;
        let pcid = if pcide { (value & 0xFFF) as u16 } else { 0 };
        self.tlb.switch_context(pcid, self.root_page(), keep);
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Result<(), Trap> {
        let known = cr4::VME
            | cr4::PVI
            | cr4::TSD
            | cr4::DE
            | cr4::PSE
            | cr4::PAE
            | cr4::MCE
            | cr4::PGE
            | cr4::PCE
            | cr4::OSFXSR
            | cr4::OSXMMEXCPT
            | cr4::UMIP
            | cr4::FSGSBASE
            | cr4::PCIDE
            | cr4::OSXSAVE
            | cr4::SMEP
            | cr4::SMAP;
        let old = self.cpu.cr4;
        let pcid_on = value & cr4::PCIDE != 0 && old & cr4::PCIDE == 0;
        if value & !known != 0
            || (self.cpu.long_mode() && value & cr4::PAE == 0)
            || (pcid_on && (!self.cpu.long_mode() || self.cpu.cr3 & 0xFFF != 0))
        {
            return Err(self.fault(exception::GP));
        }
        let paging = cr4::PSE | cr4::PAE | cr4::PGE | cr4::SMEP | cr4::PCIDE | cr4::SMAP;
        let changed = old ^ value;
        let pae = cr4::PAE | cr4::PSE | cr4::PGE | cr4::SMEP;
        if changed & pae != 0
            && value & cr4::PAE != 0
            && self.cpu.cr0 & cr0::PG != 0
            && !self.cpu.long_mode()
        {
            self.load_pdptes(self.cpu.cr3)?;
        }
        self.cpu.cr4 = value;
        if changed & paging != 0 {
            self.flush_tlb();
        }
        self.update_mode();
        Ok(())
    }

    fn write_efer(&mut self, value: u64) -> Result<(), Trap> {
        let known = efer::SCE | efer::LME | efer::NXE;
        let old = self.cpu.efer;
        let switched = (old ^ value) & efer::LME != 0;
        if value & !(known | efer::LMA) != 0 || (switched && self.cpu.cr0 & cr0::PG != 0) {
            return Err(self.fault(exception::GP));
        }
        self.cpu.efer = (value & known) | (old & efer::LMA);
        if (old ^ self.cpu.efer) & efer::NXE != 0 {
            self.flush_tlb();
        }
        self.update_mode();
        Ok(())
    }

    fn read_msr(&mut self, number: u32, now: VirtualNs) -> Result<u64, Trap> {
        if let Some(value) = self.board.read_msr(now, number) {
            self.met_device = true;
            return Ok(value);
        }
        let m = &self.cpu.msrs;
        Ok(match number {
            msr::TSC => self.tsc(now),
            msr::TSC_ADJUST => m.tsc_adjust,
            msr::PLATFORM_ID | msr::MCG_CAP => 0,
            msr::SPEC_CTRL => m.spec_ctrl,
            msr::BIOS_SIGN_ID => 1 << 32,
            msr::MTRRCAP => 0x500 | MTRR_PAIRS as u64,
            msr::ARCH_CAPABILITIES => ARCH_CAPABILITIES,
            msr::SYSENTER_CS => m.sysenter_cs,
            msr::SYSENTER_ESP => m.sysenter_esp,
            msr::SYSENTER_EIP => m.sysenter_eip,
            msr::MCG_STATUS => m.mcg_status,
            msr::MISC_ENABLE => m.misc_enable,
            msr::PAT => m.pat,
            msr::MTRR_DEF_TYPE => m.mtrr_def_type,
            msr::EFER => self.cpu.efer,
            msr::STAR => m.star,
            msr::LSTAR => m.lstar,
            msr::CSTAR => m.cstar,
            msr::SFMASK => m.sfmask,
            msr::FS_BASE => self.cpu.segs[FS].base,
            msr::GS_BASE => self.cpu.segs[GS].base,
            msr::KERNEL_GS_BASE => m.kernel_gs_base,
            msr::TSC_AUX => m.tsc_aux,
            n if (msr::MTRR_PHYSBASE0..msr::MTRR_PHYSBASE0 + 16).contains(&n) => {
                m.mtrr_variable[(n - msr::MTRR_PHYSBASE0) as usize]
            }
            n => match fixed_mtrr(n) {
                Some(slot) => m.mtrr_fixed[slot],
                None => return Err(self.fault(exception::GP)),
            },
        })
    }

    fn write_msr(&mut self, number: u32, value: u64, now: VirtualNs) -> Result<(), Trap> {
        if let Some(valid) = self.board.write_msr(now, number, value, self.cpu.msrs.tsc_offset) {
            self.met_device = true;
            return if valid { Ok(()) } else { Err(self.fault(exception::GP)) };
        }
        let needs_canonical = matches!(
            number,
            msr::LSTAR
                | msr::CSTAR
                | msr::FS_BASE
                | msr::GS_BASE
                | msr::KERNEL_GS_BASE
                | msr::SYSENTER_ESP
                | msr::SYSENTER_EIP
        );
        if needs_canonical && !canonical(value) {
            return Err(self.fault(exception::GP));
        }
        self.met_device |= matches!(number, msr::TSC | msr::TSC_ADJUST);
        let m = &mut self.cpu.msrs;
        match number {
            msr::TSC => {
                let offset = value.wrapping_sub(now.0);
                let moved = offset.wrapping_sub(m.tsc_offset);
                m.tsc_adjust = m.tsc_adjust.wrapping_add(moved);
                m.tsc_offset = offset;
                self.board.tsc_offset_changed(now, offset);
            }
            msr::TSC_ADJUST => {
                let moved = value.wrapping_sub(m.tsc_adjust);
                m.tsc_offset = m.tsc_offset.wrapping_add(moved);
                m.tsc_adjust = value;
                let offset = m.tsc_offset;
                self.board.tsc_offset_changed(now, offset);
            }
            msr::SPEC_CTRL if value & !1 == 0 => m.spec_ctrl = value,
            msr::PRED_CMD if value & !1 == 0 => {}
            msr::BIOS_SIGN_ID => {}
            msr::SYSENTER_CS => m.sysenter_cs = value & 0xFFFF_FFFF,
            msr::SYSENTER_ESP => m.sysenter_esp = value,
            msr::SYSENTER_EIP => m.sysenter_eip = value,
            msr::MCG_STATUS => m.mcg_status = value,
            msr::MISC_ENABLE => m.misc_enable = value,
            msr::PAT if value.to_le_bytes().iter().all(|&b| matches!(b, 0 | 1 | 4..=7)) => {
                m.pat = value;
            }
            msr::MTRR_DEF_TYPE if value & !0xCFF == 0 => m.mtrr_def_type = value,
            msr::EFER => return self.write_efer(value),
            msr::STAR => m.star = value,
            msr::LSTAR => m.lstar = value,
            msr::CSTAR => m.cstar = value,
            msr::SFMASK => m.sfmask = value & 0xFFFF_FFFF,
            msr::FS_BASE => self.set_base(FS, value),
            msr::GS_BASE => self.set_base(GS, value),
            msr::KERNEL_GS_BASE => m.kernel_gs_base = value,
            msr::TSC_AUX if value >> 32 == 0 => m.tsc_aux = value,
            n if (msr::MTRR_PHYSBASE0..msr::MTRR_PHYSBASE0 + 16).contains(&n) => {
                m.mtrr_variable[(n - msr::MTRR_PHYSBASE0) as usize] = value;
            }
            n => match fixed_mtrr(n) {
                Some(slot) => m.mtrr_fixed[slot] = value,
                None => return Err(self.fault(exception::GP)),
            },
        }
        Ok(())
    }

    /// Sets the base of FS or GS.
    pub fn set_base(&mut self, seg: usize, base: u64) {
        self.cpu.segs[seg].base = base;
        self.seg_base[seg] = base;
    }
}

fn hlt(core: &mut Core, ops: &[Op]) -> Exit {
    event(core, ops, |core, _| {
        core.privileged()?;
        core.cpu.halted = true;
        Ok(())
    })
}

fn identify(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        let r = &core.cpu.regs;
        let [a, b, c, d] = cpuid(&core.cpu, r[RAX] as u32, r[RCX] as u32);
        core.cpu.regs[RAX] = a.into();
        core.cpu.regs[crate::cpu::RBX] = b.into();
        core.cpu.regs[RCX] = c.into();
        core.cpu.regs[RDX] = d.into();
        Ok(())
    })
}

/// RDTSC and RDTSCP (`P`).
fn rdtsc<const P: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        if core.cpu.cr4 & cr4::TSD != 0 && core.cpu.cpl != 0 {
            return Err(core.fault(exception::GP));
        }
        let tsc = core.tsc(core.now(op));
        core.cpu.regs[RAX] = tsc & 0xFFFF_FFFF;
        core.cpu.regs[RDX] = tsc >> 32;
        if P {
            core.cpu.regs[RCX] = core.cpu.msrs.tsc_aux;
        }
        Ok(())
    })
}

fn rdpid(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let aux = core.cpu.msrs.tsc_aux;
        u64::set_reg(&mut core.cpu, op.regs[0], aux);
        Ok(())
    })
}

fn rdmsr(core: &mut Core, ops: &[Op]) -> Exit {
    event(core, ops, |core, op| {
        core.privileged()?;
        let now = core.now(op);
        let value = core.read_msr(core.cpu.regs[RCX] as u32, now)?;
        core.cpu.regs[RAX] = value & 0xFFFF_FFFF;
        core.cpu.regs[RDX] = value >> 32;
        Ok(())
    })
}

fn wrmsr(core: &mut Core, ops: &[Op]) -> Exit {
    event(core, ops, |core, op| {
        core.privileged()?;
        let r = &core.cpu.regs;
        let value = (r[RAX] & 0xFFFF_FFFF) | r[RDX] << 32;
        let (number, now) = (r[RCX] as u32, core.now(op));
        core.write_msr(number, value, now)
    })
}

/// #UD for control registers that are not there, whatever the privilege.
fn existing(core: &mut Core, op: &Op) -> Result<(), Trap> {
    if matches!(op.imm2, 0 | 2 | 3 | 4 | 8) { Ok(()) } else { Err(core.fault(exception::UD)) }
}

/// MOV from CRn; the number is in `imm2`.
fn from_cr(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        existing(core, op)?;
        core.privileged()?;
        let value = match op.imm2 {
            0 => core.cpu.cr0,
            2 => core.cpu.cr2,
            3 => core.cpu.cr3,
            4 => core.cpu.cr4,
            8 => core.board.cr8().into(),
            _ => return Err(core.fault(exception::UD)),
        };
        set_wide(core, op.regs[0], value);
        Ok(())
    })
}

/// Registers of moves to and from control and debug registers are 64 bits in 64-bit mode, else 32.
fn set_wide(core: &mut Core, reg: u8, value: u64) {
    if core.mode.bits == 64 {
        u64::set_reg(&mut core.cpu, reg, value);
    } else {
        u32::set_reg(&mut core.cpu, reg, value as u32);
    }
}

fn wide_reg(core: &Core, reg: u8) -> u64 {
    let v = core.cpu.regs[usize::from(reg & 31)];
    if core.mode.bits == 64 { v } else { v & 0xFFFF_FFFF }
}

fn to_cr(core: &mut Core, ops: &[Op]) -> Exit {
    event(core, ops, |core, op| {
        existing(core, op)?;
        core.privileged()?;
        let value = wide_reg(core, op.regs[1]);
        match op.imm2 {
            0 => core.write_cr0(value),
            2 => {
                core.cpu.cr2 = value;
                Ok(())
            }
            3 => core.write_cr3(value),
            4 => core.write_cr4(value),
            8 if value < 16 => {
                let now = core.now(op);
                core.met_device = true;
                core.board.set_cr8(now, value as u8);
                Ok(())
            }
            8 => Err(core.fault(exception::GP)),
            _ => Err(core.fault(exception::UD)),
        }
    })
}

/// The register behind a debug-register number: DR4 and DR5 are aliases unless CR4.DE is set.
fn debug_number(core: &mut Core, n: u16) -> Result<usize, Trap> {
    if matches!(n, 4 | 5) {
        if core.cpu.cr4 & cr4::DE != 0 {
            return Err(core.fault(exception::UD));
        }
        return Ok(usize::from(n) + 2);
    }
    Ok(usize::from(n & 7))
}

/// With DR7.GD an access raises #DB and sets DR6.BD.
fn debug_access(core: &mut Core) -> Result<(), Trap> {
    core.privileged()?;
    if core.cpu.dr[7] & (1 << 13) != 0 {
        let exception = exception::Exception {
            dr6: exception::DR6_BD,
            ..exception::Exception::new(exception::DB)
        };
        return Err(core.raise(exception));
    }
    Ok(())
}

fn from_dr(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let n = debug_number(core, op.imm2)?;
        debug_access(core)?;
        set_wide(core, op.regs[0], core.cpu.dr[n]);
        Ok(())
    })
}

fn to_dr(core: &mut Core, ops: &[Op]) -> Exit {
    event(core, ops, |core, op| {
        let n = debug_number(core, op.imm2)?;
        debug_access(core)?;
        let value = wide_reg(core, op.regs[1]);
        if n >= 6 && value >> 32 != 0 {
            return Err(core.fault(exception::GP));
        }
        core.cpu.dr[n] = match n {
            6 => (value & 0xE00F) | 0xFFFF_0FF0,
            7 => (value & 0xFFFF_23FF) | 0x400,
            _ => value,
        };
        core.update_mode();
        Ok(())
    })
}

fn clts(core: &mut Core, ops: &[Op]) -> Exit {
    event(core, ops, |core, _| {
        core.privileged()?;
        core.cpu.cr0 &= !cr0::TS;
        core.update_mode();
        Ok(())
    })
}

fn lmsw<const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    event(core, ops, |core, op| {
        core.privileged()?;
        let v = if MEM { core.read_mem::<u16, 1>(op)? } else { u16::reg(&core.cpu, op.regs[0]) };
        // PE can be set but not cleared (SDM 2A, LMSW).
        let keep = core.cpu.cr0 & !(cr0::MP | cr0::EM | cr0::TS);
        core.write_cr0(keep | u64::from(v & 0xF))
    })
}

fn smsw<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_umip()?;
        let v = core.cpu.cr0;
        T::set_reg(&mut core.cpu, op.regs[0], T::of(v));
        Ok(())
    })
}

fn smsw_m(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_umip()?;
        core.write_mem::<u16, 1>(op, core.cpu.cr0 as u16)
    })
}

fn invlpg(core: &mut Core, ops: &[Op]) -> Exit {
    event(core, ops, |core, op| {
        core.privileged()?;
        let offset = core.offset(op) & op.address_mask();
        let la = offset.wrapping_add(core.seg_base[usize::from(op.seg & 7)]);
        let la = if core.mode.bits == 64 { la } else { la & 0xFFFF_FFFF };
        if canonical(la) {
            core.tlb.flush_page(la);
        }
        Ok(())
    })
}

/// INVPCID (SDM 2A).
fn invpcid(core: &mut Core, ops: &[Op]) -> Exit {
    event(core, ops, |core, op| {
        core.privileged()?;
        let la = core.ea_any(op, 16, false)?;
        let descriptor = u128::from_le_bytes(core.load(op, la)?);
        let kind = wide_reg(core, op.regs[0]);
        let (pcid, la) = (descriptor as u64, (descriptor >> 64) as u64);
        let pcide = core.cpu.cr4 & cr4::PCIDE != 0;
        let bad = kind > 3
            || pcid >> 12 != 0
            || (kind < 2 && !pcide && pcid != 0)
            || (kind == 0 && !canonical(la));
        if bad {
            return Err(core.fault(exception::GP));
        }
        let current = if pcide { core.cpu.cr3 & 0xFFF } else { 0 };
        match kind {
            0 => core.tlb.flush_page(la),
            1 if pcid == current => core.tlb.switch_context(pcid as u16, core.root_page(), false),
            1 => core.tlb.drop_context(pcid as u16),
            _ => {
                core.flush_tlb();
                core.tlb.switch_context(current as u16, core.root_page(), false);
            }
        }
        Ok(())
    })
}

/// INVD, WBINVD: nothing is cached.
fn cache_flush(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| core.privileged())
}

/// CLFLUSH: faults as a read of the byte.
fn clflush(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let la = core.ea_any(op, 1, false)?;
        core.load::<1>(op, la)?;
        Ok(())
    })
}

fn swapgs(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        if core.mode.bits != 64 {
            return Err(core.fault(exception::UD));
        }
        core.privileged()?;
        let base = core.cpu.msrs.kernel_gs_base;
        core.cpu.msrs.kernel_gs_base = core.cpu.segs[GS].base;
        core.set_base(GS, base);
        Ok(())
    })
}

/// RDFSBASE and RDGSBASE; the segment is in `imm2`.
fn read_base<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        if core.cpu.cr4 & cr4::FSGSBASE == 0 {
            return Err(core.fault(exception::UD));
        }
        let base = core.cpu.segs[usize::from(op.imm2)].base;
        T::set_reg(&mut core.cpu, op.regs[0], T::of(base));
        Ok(())
    })
}

fn write_base<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        if core.cpu.cr4 & cr4::FSGSBASE == 0 {
            return Err(core.fault(exception::UD));
        }
        let base = T::reg(&core.cpu, op.regs[0]).zx();
        if !canonical(base) {
            return Err(core.fault(exception::GP));
        }
        core.set_base(usize::from(op.imm2), base);
        Ok(())
    })
}

/// CLI and STI (`SET`) with virtual-8086 and protected-mode virtual interrupts.
fn interrupt_flag<const SET: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    event(core, ops, |core, _| {
        let cpu = &mut core.cpu;
        let level = if cpu.v86() { 3 } else { cpu.cpl };
        if !cpu.protected() || cpu.iopl() >= level {
            let was = cpu.flags.system & IF != 0;
            if SET {
                cpu.flags.system |= IF;
                cpu.shadow = !was;
                cpu.shadow_debug = false;
            } else {
                cpu.flags.system &= !IF;
            }
            return Ok(());
        }
        let virtual_if = if cpu.v86() {
            cpu.cr4 & cr4::VME != 0
        } else {
            cpu.cr4 & cr4::PVI != 0 && cpu.cpl == 3
        };
        if !virtual_if || (SET && cpu.flags.system & VIP != 0) {
            return Err(core.fault(exception::GP));
        }
        if SET {
            cpu.flags.system |= VIF;
        } else {
            cpu.flags.system &= !VIF;
        }
        Ok(())
    })
}

/// CLAC and STAC (`SET`).
fn alignment_flag<const SET: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        if core.cpu.cpl != 0 {
            return Err(core.fault(exception::UD));
        }
        if SET {
            core.cpu.flags.system |= AC;
        } else {
            core.cpu.flags.system &= !AC;
        }
        let off = SET || core.cpu.cr4 & cr4::SMAP == 0;
        core.tlb.select(false, off, core.watching);
        Ok(())
    })
}

/// RDRAND and RDSEED always have a value: CF is set.
fn random<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = core.cpu.random.draw();
        T::set_reg(&mut core.cpu, op.regs[0], T::of(v));
        core.cpu.flags.set_status(CF);
        Ok(())
    })
}

fn xgetbv(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        if core.cpu.cr4 & cr4::OSXSAVE == 0 {
            return Err(core.fault(exception::UD));
        }
        if core.cpu.regs[RCX] as u32 != 0 {
            return Err(core.fault(exception::GP));
        }
        core.cpu.regs[RAX] = core.cpu.xcr0 & 0xFFFF_FFFF;
        core.cpu.regs[RDX] = core.cpu.xcr0 >> 32;
        Ok(())
    })
}

fn xsetbv(core: &mut Core, ops: &[Op]) -> Exit {
    event(core, ops, |core, _| {
        if core.cpu.cr4 & cr4::OSXSAVE == 0 {
            return Err(core.fault(exception::UD));
        }
        core.privileged()?;
        let r = &core.cpu.regs;
        let value = (r[RAX] & 0xFFFF_FFFF) | r[RDX] << 32;
        if r[RCX] as u32 != 0 || value & 1 == 0 || value & !3 != 0 {
            return Err(core.fault(exception::GP));
        }
        core.cpu.xcr0 = value;
        Ok(())
    })
}

/// RDPMC: there are no counters.
fn rdpmc(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| Err(core.fault(exception::GP)))
}

fn is_control(r: Register) -> bool {
    r.is_cr()
}

fn moves(i: &Instruction) -> Option<Handler> {
    let (a, b) = (i.op0_register(), i.op1_register());
    Some(if is_control(a) {
        to_cr
    } else if is_control(b) {
        from_cr
    } else if a.is_dr() {
        to_dr
    } else if b.is_dr() {
        from_dr
    } else {
        return None;
    })
}

/// The number of the control or debug register, or the segment of the FS/GS base instructions,
/// for [`Op::imm2`].
pub fn named(i: &Instruction) -> Option<u16> {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Mov => [i.op0_register(), i.op1_register()]
            .into_iter()
            .find(|r| r.is_cr() || r.is_dr())
            .map(|r| r.number() as u16),
        M::Rdfsbase | M::Wrfsbase => Some(FS as u16),
        M::Rdgsbase | M::Wrgsbase => Some(GS as u16),
        _ => None,
    }
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, _context: Context) -> Option<Handler> {
    use Mnemonic as M;
    let memory = i.op_count() > 0 && i.op0_kind() == OpKind::Memory;
    Some(match i.mnemonic() {
        M::Mov => return moves(i),
        M::Hlt => hlt,
        M::Cpuid => identify,
        M::Rdtsc => rdtsc::<false>,
        M::Rdtscp => rdtsc::<true>,
        M::Rdpid => rdpid,
        M::Rdmsr => rdmsr,
        M::Wrmsr => wrmsr,
        M::Rdpmc => rdpmc,
        M::Clts => clts,
        M::Lmsw if memory => lmsw::<true>,
        M::Lmsw => lmsw::<false>,
        M::Smsw if memory => smsw_m,
        M::Smsw => sized!(operand_size(i), smsw),
        M::Invlpg => invlpg,
        M::Invpcid => invpcid,
        M::Invd | M::Wbinvd | M::Wbnoinvd => cache_flush,
        M::Clflush => clflush,
        M::Swapgs => swapgs,
        M::Rdfsbase | M::Rdgsbase => sized!(size_of(i, 0), read_base),
        M::Wrfsbase | M::Wrgsbase => sized!(size_of(i, 0), write_base),
        M::Cli => interrupt_flag::<false>,
        M::Sti => interrupt_flag::<true>,
        M::Clac => alignment_flag::<false>,
        M::Stac => alignment_flag::<true>,
        M::Rdrand | M::Rdseed => sized!(operand_size(i), random),
        M::Xgetbv => xgetbv,
        M::Xsetbv => xsetbv,
        _ => return None,
    })
}
