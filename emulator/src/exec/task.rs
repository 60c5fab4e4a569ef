//! Hardware task switches (SDM 3A chapter 7).

use super::segment::{Descriptor, code_of};
use crate::core::Core;
use crate::cpu::flags::{NT, VM};
use crate::cpu::{CS, DS, ES, FS, GS, SS, Segment, cr0, cr4};
use crate::exception::{self, Trap};
use crate::mmu::By;

/// What caused a task switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// JMP: the old task becomes available.
    Jump,
    /// CALL: nested.
    Call,
    /// Interrupt or exception through a task gate: nested.
    Interrupt,
    /// IRET with NT: back to the linked task.
    Return,
}

/// The registers that a TSS holds.
#[derive(Default)]
struct Saved {
    cr3: u32,
    eip: u32,
    eflags: u32,
    gpr: [u32; 8],
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl Core {
    /// Follows a selector to an available TSS for JMP, CALL or an interrupt.
    ///
    /// # Errors
    /// #GP, #NP or #TS as the SDM's table 7-1 has it.
    pub fn available_tss(
        &mut self,
        selector: u16,
        vector: u8,
        e: u32,
    ) -> Result<(Descriptor, u16), Trap> {
        let code = code_of(selector) | e;
        if selector & 4 != 0 || selector & !3 == 0 {
            return Err(self.fault_code(vector, code));
        }
        let d = self.descriptor_or(selector, vector, e)?;
        if d.is_segment() || !matches!(d.kind(), 1 | 9) {
            return Err(self.fault_code(vector, code));
        }
        if !d.present() {
            return Err(self.fault_code(exception::NP, code));
        }
        Ok((d, selector))
    }

    /// Switches to the task of the TSS descriptor `d`. RIP is that of the next instruction;
    /// `flags` are saved for the old task; `e` is the EXT bit.
    ///
    /// # Errors
    /// Before TR changes: the old task's exceptions, and nothing has happened. Afterwards: the new
    /// task's.
    pub fn switch_task(
        &mut self,
        d: Descriptor,
        selector: u16,
        why: Why,
        flags: u64,
        e: u32,
    ) -> Result<(), Trap> {
        self.must_be_alone()?;
        let wide = d.kind() & 8 != 0;
        if d.limit() < if wide { 0x67 } else { 0x2B } {
            return Err(self.fault_code(exception::TS, code_of(selector) | e));
        }
        let base = d.base();
        let new = self.read_tss(base, wide)?;
        self.probe_tss(base, d.at, why)?;
        self.save_task(why, flags)?;
        let old_selector = self.cpu.tr.selector;
        if why != Why::Return {
            let busy = [(d.raw >> 40) as u8 | 2];
            self.system_store(d.at.wrapping_add(5), &busy)?;
        }
        if matches!(why, Why::Call | Why::Interrupt) {
            self.system_store(base, &old_selector.to_le_bytes())?;
        }
        let mut tr = d.segment(selector);
        tr.access |= 2;
        self.cpu.tr = tr;
        self.cpu.cr0 |= cr0::TS;
        self.load_task(&new, why)
    }

    /// Faults for whatever the switch will write, before it writes anything.
    fn probe_tss(&mut self, base: u64, at: u64, why: Why) -> Result<(), Trap> {
        let tr = self.cpu.tr;
        let (first, last) = if tr.kind() & 8 != 0 { (0x20, 0x5D) } else { (0x0E, 0x29) };
        for offset in [first, last] {
            self.probe_linear(tr.base.wrapping_add(offset), By::System)?;
        }
        if matches!(why, Why::Jump | Why::Return) {
            let old = u64::from(tr.selector & 0xFFF8) + 5;
            self.probe_linear(self.cpu.gdtr.base.wrapping_add(old), By::System)?;
        }
        if why != Why::Return {
            self.probe_linear(at.wrapping_add(5), By::System)?;
        }
        if matches!(why, Why::Call | Why::Interrupt) {
            self.probe_linear(base, By::System)?;
            self.probe_linear(base.wrapping_add(1), By::System)?;
        }
        Ok(())
    }

    fn read_tss(&mut self, base: u64, wide: bool) -> Result<Saved, Trap> {
        let mut saved = Saved::default();
        if wide {
            let mut word =
                |at: u64| self.system_load(base.wrapping_add(at)).map(u32::from_le_bytes);
            saved.cr3 = word(0x1C)?;
            saved.eip = word(0x20)?;
            saved.eflags = word(0x24)?;
            for n in 0..8 {
                saved.gpr[n] = word(0x28 + 4 * n as u64)?;
            }
            for n in 0..6 {
                saved.selectors[n] = word(0x48 + 4 * n as u64)? as u16;
            }
            saved.ldt = word(0x60)? as u16;
            saved.trap = word(0x64)? & 1 != 0;
        } else {
            let mut word =
                |at: u64| self.system_load(base.wrapping_add(at)).map(u16::from_le_bytes);
            saved.eip = word(0x0E)?.into();
            saved.eflags = word(0x10)?.into();
            for n in 0..8 {
                saved.gpr[n] = u32::from(word(0x12 + 2 * n as u64)?) | 0xFFFF_0000;
            }
            for n in 0..4 {
                saved.selectors[n] = word(0x22 + 2 * n as u64)?;
            }
            saved.ldt = word(0x2A)?;
        }
        Ok(saved)
    }

    /// Writes the registers to the old TSS and marks it available where the switch does not nest.
    fn save_task(&mut self, why: Why, mut flags: u64) -> Result<(), Trap> {
        let tr = self.cpu.tr;
        if why == Why::Return {
            flags &= !NT;
        }
        if matches!(why, Why::Jump | Why::Return) {
            let at = self.cpu.gdtr.base.wrapping_add(u64::from(tr.selector & 0xFFF8) + 5);
            let [access] = self.system_load::<1>(at)?;
            self.system_store(at, &[access & !2])?;
        }
        let gpr: [u64; 8] = core::array::from_fn(|n| self.cpu.regs[n]);
        let selectors = self.cpu.segs.map(|s| s.selector);
        if tr.kind() & 8 != 0 {
            self.system_store(tr.base + 0x20, &(self.cpu.rip as u32).to_le_bytes())?;
            self.system_store(tr.base + 0x24, &(flags as u32).to_le_bytes())?;
            for (n, v) in gpr.into_iter().enumerate() {
                self.system_store(tr.base + 0x28 + 4 * n as u64, &(v as u32).to_le_bytes())?;
            }
            for (n, v) in selectors.into_iter().enumerate() {
                self.system_store(tr.base + 0x48 + 4 * n as u64, &v.to_le_bytes())?;
            }
        } else {
            self.system_store(tr.base + 0x0E, &(self.cpu.rip as u16).to_le_bytes())?;
            self.system_store(tr.base + 0x10, &(flags as u16).to_le_bytes())?;
            for (n, v) in gpr.into_iter().enumerate() {
                self.system_store(tr.base + 0x12 + 2 * n as u64, &(v as u16).to_le_bytes())?;
            }
            for (n, v) in selectors.into_iter().take(4).enumerate() {
                self.system_store(tr.base + 0x22 + 2 * n as u64, &v.to_le_bytes())?;
            }
        }
        Ok(())
    }

    /// Loads the new task's registers; faults from here on are the new task's.
    fn load_task(&mut self, new: &Saved, why: Why) -> Result<(), Trap> {
        let wide = self.cpu.tr.kind() & 8 != 0;
        if wide && self.cpu.cr0 & cr0::PG != 0 {
            if self.cpu.cr4 & cr4::PAE != 0 {
                self.load_pdptes(new.cr3.into())?;
            }
            self.cpu.cr3 = new.cr3.into();
            self.flush_tlb();
        }
        for (n, &v) in new.gpr.iter().enumerate() {
            self.cpu.regs[n] = v.into();
        }
        self.cpu.rip = new.eip.into();
        let nested = matches!(why, Why::Call | Why::Interrupt);
        let flags = u64::from(new.eflags) | if nested { NT } else { 0 };
        self.cpu.flags.set(flags);
        // Local breakpoints do not outlive their task (SDM 3B 17.2.4).
        self.cpu.dr[7] &= !0x155;
        self.cpu.ldtr = Segment::default();
        for (seg, &selector) in self.cpu.segs.iter_mut().zip(&new.selectors) {
            *seg = Segment { selector, ..Segment::default() };
        }
        if flags & VM != 0 {
            self.cpu.cpl = 3;
            for seg in [ES, CS, SS, DS, FS, GS] {
                self.load_real_segment(seg, new.selectors[seg]);
            }
        } else {
            self.cpu.cpl = (new.selectors[CS] & 3) as u8;
        }
        self.load_ldt(new.ldt, exception::TS)?;
        if flags & VM == 0 {
            self.load_task_segments(new)?;
        }
        let limit = u64::from(self.cpu.segs[CS].limit);
        if self.cpu.rip > limit {
            return Err(self.fault(exception::GP));
        }
        if new.trap {
            self.cpu.pending_debug |= 1 << 15;
        }
        self.update_mode();
        Ok(())
    }

    fn load_task_segments(&mut self, new: &Saved) -> Result<(), Trap> {
        let cs = new.selectors[CS];
        let code = code_of(cs);
        let mut d = self.descriptor_or(cs, exception::TS, 0)?;
        let rpl = (cs & 3) as u8;
        let dpl_ok = if d.is_conforming() { d.dpl() <= rpl } else { d.dpl() == rpl };
        if !d.is_code() || !dpl_ok {
            return Err(self.fault_code(exception::TS, code));
        }
        if !d.present() {
            return Err(self.fault_code(exception::NP, code));
        }
        self.mark_accessed(&mut d)?;
        self.cpu.segs[CS] = d.segment(cs);
        self.update_mode();
        let frame = self.inner_frame(new.selectors[SS], 0, self.cpu.cpl, 0)?;
        self.cpu.segs[SS] = frame.ss;
        for seg in [ES, DS, FS, GS] {
            let loaded = self.load_segment(seg, new.selectors[seg]);
            if loaded.is_err() {
                if let crate::exception::Cause::Exception(x) = &mut self.cause
                    && x.vector == exception::GP
                {
                    x.vector = exception::TS;
                }
                return loaded;
            }
        }
        Ok(())
    }
}
