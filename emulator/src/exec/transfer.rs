//! Far transfers: JMP, CALL, RET far, IRET (SDM 3A 5.8, 6.12, 7.3, 20.2).

use super::Context;
use super::int::Int;
use super::segment::{Descriptor, code_of};
use super::task::Why;
use crate::core::{Core, canonical};
use crate::cpu::flags::{AC, DF, ID, IF, IOPL, NT, RF, STATUS, TF, VIF, VIP, VM};
use crate::cpu::{CS, DS, ES, FS, GS, RSP, SS, Segment};
use crate::exception::{self, Trap};
use crate::interrupt::Frame;
use crate::op::{Exit, Handler, Op, leave, trap};
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

impl Core {
    /// Checks a code segment for a direct far JMP or CALL.
    fn direct_code(&mut self, d: &Descriptor, selector: u16) -> Result<(), Trap> {
        let cpl = self.cpu.cpl;
        let rpl = (selector & 3) as u8;
        let ok = if d.is_conforming() { d.dpl() <= cpl } else { rpl <= cpl && d.dpl() == cpl };
        let mixed = self.cpu.long_mode() && d.long() && d.big();
        if !ok || mixed {
            return Err(self.fault_code(exception::GP, code_of(selector)));
        }
        if !d.present() {
            return Err(self.fault_code(exception::NP, code_of(selector)));
        }
        Ok(())
    }

    /// `rip` as the code segment `d` has it: #GP(0) unless it lies there. Outside 64-bit mode the
    /// upper half of a 64-bit offset counts for nothing.
    fn target_in(&mut self, d: &Descriptor, rip: u64) -> Result<u64, Trap> {
        let long = self.cpu.long_mode() && d.long();
        let rip = if long { rip } else { rip & 0xFFFF_FFFF };
        let ok = if long { canonical(rip) } else { rip <= u64::from(d.limit()) };
        if ok { Ok(rip) } else { Err(self.fault(exception::GP)) }
    }

    fn enter_code(&mut self, d: &mut Descriptor, selector: u16, cpl: u8) -> Result<(), Trap> {
        self.mark_accessed(d)?;
        self.cpu.segs[CS] = d.segment((selector & !3) | u16::from(cpl));
        self.cpu.cpl = cpl;
        self.update_mode();
        Ok(())
    }

    /// Far JMP or CALL (`call`) to `selector:offset`; `size` is the operand size in bytes.
    fn far_transfer(
        &mut self,
        op: &Op,
        selector: u16,
        offset: u64,
        size: u64,
        call: bool,
    ) -> Result<u64, Trap> {
        let next = self.next_rip(op);
        if self.cpu.real_segments() {
            if offset > u64::from(self.cpu.segs[CS].limit) {
                return Err(self.fault(exception::GP));
            }
            if call {
                let mut frame = self.current_frame();
                self.frame_push(&mut frame, size, self.cpu.segs[CS].selector.into())?;
                self.frame_push(&mut frame, size, next)?;
                self.take_frame(&frame);
            }
            self.load_real_segment(CS, selector);
            return Ok(offset);
        }
        if selector & !3 == 0 {
            return Err(self.fault(exception::GP));
        }
        let mut d = self.descriptor_or(selector, exception::GP, 0)?;
        if !d.is_segment() {
            return self.system_transfer(op, &d, selector, call);
        }
        if !d.is_code() {
            return Err(self.fault_code(exception::GP, code_of(selector)));
        }
        self.direct_code(&d, selector)?;
        let cpl = self.cpu.cpl;
        let mut frame = self.current_frame();
        if call {
            self.frame_push(&mut frame, size, self.cpu.segs[CS].selector.into())?;
            self.frame_push(&mut frame, size, next)?;
        }
        let offset = self.target_in(&d, offset)?;
        self.enter_code(&mut d, selector, cpl)?;
        if call {
            self.take_frame(&frame);
        }
        Ok(offset)
    }

    /// Through a call gate, a task gate, or to a TSS.
    fn system_transfer(
        &mut self,
        op: &Op,
        d: &Descriptor,
        selector: u16,
        call: bool,
    ) -> Result<u64, Trap> {
        let code = code_of(selector);
        let long = self.cpu.long_mode();
        let rpl = (selector & 3) as u8;
        let task = matches!(d.kind(), 1 | 5 | 9) && !long;
        let gate = d.kind() == 0xC || (d.kind() == 4 && !long);
        if !(task || gate) || d.dpl() < self.cpu.cpl || d.dpl() < rpl {
            return Err(self.fault_code(exception::GP, code));
        }
        if !d.present() {
            return Err(self.fault_code(exception::NP, code));
        }
        if gate {
            return self.call_gate(op, d, selector, call);
        }
        let why = if call { Why::Call } else { Why::Jump };
        let (tss, tss_selector) = if d.kind() == 5 {
            self.available_tss((d.raw >> 16) as u16, exception::GP, 0)?
        } else if selector & 4 != 0 {
            return Err(self.fault_code(exception::GP, code));
        } else {
            (*d, selector)
        };
        self.cpu.rip = self.next_rip(op);
        let flags = self.cpu.flags.get() & !RF;
        self.switch_task(tss, tss_selector, why, flags, 0)?;
        Ok(self.cpu.rip)
    }

    fn call_gate(
        &mut self,
        op: &Op,
        gate: &Descriptor,
        gate_selector: u16,
        call: bool,
    ) -> Result<u64, Trap> {
        let long = self.cpu.long_mode();
        let selector = (gate.raw >> 16) as u16;
        let code = code_of(selector);
        if selector & !3 == 0 {
            return Err(self.fault(exception::GP));
        }
        let mut target = (gate.raw & 0xFFFF) | (gate.raw >> 32 & 0xFFFF_0000);
        if gate.kind() == 4 {
            target &= 0xFFFF;
        }
        if long {
            target |= self.descriptor_high(gate, gate_selector)? << 32;
        }
        let mut d = self.descriptor_or(selector, exception::GP, 0)?;
        let cpl = self.cpu.cpl;
        let dpl_ok = if call || d.is_conforming() { d.dpl() <= cpl } else { d.dpl() == cpl };
        let long_ok = !long || (d.long() && !d.big());
        if !d.is_code() || !dpl_ok || !long_ok {
            return Err(self.fault_code(exception::GP, code));
        }
        if !d.present() {
            return Err(self.fault_code(exception::NP, code));
        }
        let target = self.target_in(&d, target)?;
        let next = self.next_rip(op);
        let size = if long {
            8
        } else if gate.kind() == 0xC {
            4
        } else {
            2
        };
        if !call {
            self.enter_code(&mut d, selector, cpl)?;
            return Ok(target);
        }
        let old_cs = self.cpu.segs[CS].selector;
        let inner = !d.is_conforming() && d.dpl() < cpl;
        let new_cpl = if inner { d.dpl() } else { cpl };
        let mut frame = self.current_frame();
        if inner {
            frame = self.gate_stack(gate, size, new_cpl, next)?;
        } else {
            self.frame_push(&mut frame, size, old_cs.into())?;
            self.frame_push(&mut frame, size, next)?;
        }
        self.mark_accessed(&mut d)?;
        if inner {
            self.cpu.segs[SS] = frame.ss;
        }
        self.enter_code(&mut d, selector, new_cpl)?;
        self.take_frame(&frame);
        Ok(target)
    }

    /// The inner stack of a call gate with the old SS:SP, the parameters and the return address
    /// on it.
    fn gate_stack(
        &mut self,
        gate: &Descriptor,
        size: u64,
        cpl: u8,
        next: u64,
    ) -> Result<Frame, Trap> {
        let long = self.cpu.long_mode();
        let cs = self.cpu.segs[CS].selector;
        let mut old = self.current_frame();
        let (ss, sp) = (self.cpu.segs[SS].selector, self.cpu.regs[RSP]);
        let mut frame = if long {
            let sp = self.tss_stack_64(4 + 8 * u64::from(cpl), 0)?;
            let access = u16::from(cpl) << 5;
            let ss = Segment { selector: cpl.into(), access, ..Segment::default() };
            Frame { ss, sp, mask: u64::MAX, code: 0 }
        } else {
            let (selector, sp) = self.tss_stack(cpl, 0)?;
            self.inner_frame(selector, sp, cpl, 0)?
        };
        let old_cpl = self.cpu.cpl;
        let count = if long { 0 } else { gate.raw >> 32 & 31 };
        let mut parameters = [0; 32];
        for slot in parameters.iter_mut().take(count as usize) {
            *slot = self.frame_pop(&mut old, size)?;
        }
        self.cpu.cpl = cpl;
        self.select_privilege();
        let pushed = (|| {
            self.frame_push(&mut frame, size, ss.into())?;
            self.frame_push(&mut frame, size, sp)?;
            for &value in parameters[..count as usize].iter().rev() {
                self.frame_push(&mut frame, size, value)?;
            }
            self.frame_push(&mut frame, size, cs.into())?;
            self.frame_push(&mut frame, size, next)
        })();
        self.cpu.cpl = old_cpl;
        self.select_privilege();
        pushed.map(|()| frame)
    }

    /// RET far: `drop` bytes of parameters are released.
    fn far_return(&mut self, size: u64, drop: u64) -> Result<u64, Trap> {
        let mut frame = self.current_frame();
        let rip = self.frame_pop(&mut frame, size)?;
        let selector = self.frame_pop(&mut frame, size)? as u16;
        frame.sp = frame.sp.wrapping_add(drop) & frame.mask;
        if self.cpu.real_segments() {
            if rip > u64::from(self.cpu.segs[CS].limit) {
                return Err(self.fault(exception::GP));
            }
            self.take_frame(&frame);
            self.load_real_segment(CS, selector);
            return Ok(rip);
        }
        self.return_to(frame, rip, selector, size, Some(drop))
    }

    /// The common end of RET far and IRET in protected and long mode: to the same or an outer
    /// level. `drop` is RET's count; `None` for IRET, whose 64-bit form always pops SS:RSP.
    fn return_to(
        &mut self,
        mut frame: Frame,
        rip: u64,
        selector: u16,
        size: u64,
        drop: Option<u64>,
    ) -> Result<u64, Trap> {
        let code = code_of(selector);
        if selector & !3 == 0 {
            return Err(self.fault(exception::GP));
        }
        let mut d = self.descriptor_or(selector, exception::GP, 0)?;
        let (cpl, rpl) = (self.cpu.cpl, (selector & 3) as u8);
        let dpl_ok = if d.is_conforming() { d.dpl() <= rpl } else { d.dpl() == rpl };
        let mixed = self.cpu.long_mode() && d.long() && d.big();
        if !d.is_code() || rpl < cpl || !dpl_ok || mixed {
            return Err(self.fault_code(exception::GP, code));
        }
        if !d.present() {
            return Err(self.fault_code(exception::NP, code));
        }
        let rip = self.target_in(&d, rip)?;
        let from_64 = self.mode.bits == 64;
        let pops_stack = rpl > cpl || (drop.is_none() && from_64);
        if !pops_stack {
            self.enter_code(&mut d, selector, cpl)?;
            self.take_frame(&frame);
            return Ok(rip);
        }
        let sp = self.frame_pop(&mut frame, size)?;
        let ss = self.frame_pop(&mut frame, size)? as u16;
        let to_64 = self.cpu.long_mode() && d.long();
        let stack = self.outer_stack(ss, rpl, to_64)?;
        self.enter_code(&mut d, selector, rpl)?;
        self.cpu.segs[SS] = stack;
        self.update_mode();
        let sp = sp.wrapping_add(drop.unwrap_or(0));
        let mask = self.sp_mask();
        let r = &mut self.cpu.regs[RSP];
        *r = if mask == 0xFFFF { (*r & !0xFFFF) | (sp & 0xFFFF) } else { sp & mask };
        if rpl > cpl {
            self.drop_inner_segments();
            self.update_mode();
        }
        Ok(rip)
    }

    fn outer_stack(&mut self, ss: u16, rpl: u8, to_64: bool) -> Result<Segment, Trap> {
        let code = code_of(ss);
        if ss & !3 == 0 {
            if to_64 && rpl != 3 {
                let access = u16::from(rpl) << 5;
                return Ok(Segment { selector: ss, access, ..Segment::default() });
            }
            return Err(self.fault(exception::GP));
        }
        let mut d = self.descriptor_or(ss, exception::GP, 0)?;
        if (ss & 3) as u8 != rpl || d.dpl() != rpl || !d.is_writable() {
            return Err(self.fault_code(exception::GP, code));
        }
        if !d.present() {
            return Err(self.fault_code(exception::SS, code));
        }
        self.mark_accessed(&mut d)?;
        Ok(d.segment(ss))
    }

    /// IRET (SDM 2A).
    fn interrupt_return(&mut self, size: u64, next: u64) -> Result<u64, Trap> {
        self.cpu.nmi_blocked = false;
        if self.cpu.real_segments() {
            return self.iret_real(size);
        }
        if self.cpu.flags.system & NT != 0 {
            return self.iret_task(next);
        }
        let old_cpl = self.cpu.cpl;
        let mut frame = self.current_frame();
        let rip = self.frame_pop(&mut frame, size)?;
        let selector = self.frame_pop(&mut frame, size)? as u16;
        let flags = self.frame_pop(&mut frame, size)?;
        if flags & VM != 0 && size == 4 && old_cpl == 0 && !self.cpu.long_mode() {
            return self.iret_to_v86(frame, rip, selector, flags);
        }
        let iopl = self.cpu.iopl();
        let rip = self.return_to(frame, rip, selector, size, None)?;
        let mut change = STATUS | TF | DF | NT;
        if size > 2 {
            change |= RF | AC | ID;
        }
        if old_cpl <= iopl {
            change |= IF;
        }
        if old_cpl == 0 {
            change |= IOPL;
            if size > 2 {
                change |= VIF | VIP;
            }
        }
        let old = self.cpu.flags.get() & !RF;
        self.cpu.flags.set((old & !change) | (flags & change));
        self.update_mode();
        Ok(rip)
    }

    fn iret_real(&mut self, size: u64) -> Result<u64, Trap> {
        let mut frame = self.current_frame();
        let v86 = self.cpu.v86();
        let vme = self.cpu.cr4 & crate::cpu::cr4::VME != 0;
        let low_iopl = v86 && self.cpu.iopl() < 3;
        if low_iopl && (!vme || size != 2) {
            return Err(self.fault(exception::GP));
        }
        let rip = self.frame_pop(&mut frame, size)?;
        let selector = self.frame_pop(&mut frame, size)? as u16;
        let flags = self.frame_pop(&mut frame, size)?;
        if rip > 0xFFFF {
            return Err(self.fault(exception::GP));
        }
        let old = self.cpu.flags.get() & !RF;
        if low_iopl {
            let pending = flags & IF != 0 && old & VIP != 0;
            if flags & TF != 0 || pending {
                return Err(self.fault(exception::GP));
            }
            let change = STATUS | TF | DF | NT;
            let vif = if flags & IF != 0 { VIF } else { 0 };
            self.cpu.flags.set((old & !(change | VIF)) | (flags & change) | vif);
        } else {
            let mut change = STATUS | TF | DF | NT | IF;
            if !v86 {
                change |= IOPL;
            }
            if size > 2 {
                change |= RF | AC | ID;
            }
            self.cpu.flags.set((old & !change) | (flags & change));
        }
        self.take_frame(&frame);
        self.load_real_segment(CS, selector);
        Ok(rip)
    }

    fn iret_task(&mut self, next: u64) -> Result<u64, Trap> {
        if self.cpu.long_mode() {
            return Err(self.fault(exception::GP));
        }
        let link = u16::from_le_bytes(self.system_load(self.cpu.tr.base)?);
        let code = code_of(link);
        if link & 4 != 0 || link & !3 == 0 {
            return Err(self.fault_code(exception::TS, code));
        }
        let d = self.descriptor_or(link, exception::TS, 0)?;
        if d.is_segment() || !matches!(d.kind(), 3 | 0xB) {
            return Err(self.fault_code(exception::TS, code));
        }
        if !d.present() {
            return Err(self.fault_code(exception::NP, code));
        }
        self.cpu.rip = next;
        let flags = self.cpu.flags.get() & !RF;
        self.switch_task(d, link, Why::Return, flags, 0)?;
        Ok(self.cpu.rip)
    }

    fn iret_to_v86(
        &mut self,
        mut frame: Frame,
        rip: u64,
        cs: u16,
        flags: u64,
    ) -> Result<u64, Trap> {
        let sp = self.frame_pop(&mut frame, 4)?;
        let mut selectors = [0; 5];
        for slot in &mut selectors {
            *slot = self.frame_pop(&mut frame, 4)? as u16;
        }
        self.cpu.flags.set(flags);
        self.cpu.cpl = 3;
        let [ss, es, ds, fs, gs] = selectors;
        for (seg, selector) in [(ES, es), (CS, cs), (SS, ss), (DS, ds), (FS, fs), (GS, gs)] {
            self.load_real_segment(seg, selector);
        }
        self.cpu.regs[RSP] = sp & 0xFFFF_FFFF;
        self.update_mode();
        Ok(rip & 0xFFFF)
    }
}

/// Runs a transfer, which may switch tasks: what fails after the switch fails in the new task.
pub fn transfer(
    core: &mut Core,
    ops: &[Op],
    work: impl FnOnce(&mut Core, &Op) -> Result<u64, Trap>,
) -> Exit {
    let op = &ops[0];
    let task = core.cpu.tr;
    match work(core, op) {
        Ok(rip) => {
            if core.cpu.flags.system & RF != 0 {
                core.cpu.resume_at = core.icount_of(op) + u64::from(op.count);
            }
            leave(core, op, rip, Exit::Event)
        }
        Err(Trap) if core.cpu.tr != task => {
            core.icount += u64::from(op.index);
            Exit::Trap
        }
        Err(Trap) => trap(core, op),
    }
}

/// JMP and CALL ptr16:16/32; the selector is in `imm2`.
fn far_direct<const CALL: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    transfer(core, ops, |core, op| core.far_transfer(op, op.imm2, op.imm, op.size.into(), CALL))
}

/// JMP and CALL m16:16/32/64; `T` is the offset.
fn far_memory<T: Int, const CALL: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    transfer(core, ops, |core, op| {
        let la = core.ea_any(op, T::SIZE + 2, false)?;
        let offset = T::load(core, op, la)?.zx();
        let selector = u16::load(core, op, la.wrapping_add(T::SIZE))?;
        core.far_transfer(op, selector, offset, T::SIZE, CALL)
    })
}

fn far_ret<const SIZE: u64>(core: &mut Core, ops: &[Op]) -> Exit {
    transfer(core, ops, |core, op| core.far_return(SIZE, op.imm & 0xFFFF))
}

fn iret<const SIZE: u64>(core: &mut Core, ops: &[Op]) -> Exit {
    transfer(core, ops, |core, op| {
        let next = core.next_rip(op);
        core.interrupt_return(SIZE, next)
    })
}

fn memory_far<const CALL: bool>(i: &Instruction) -> Option<Handler> {
    use iced_x86::MemorySize as S;
    Some(match i.memory_size() {
        S::SegPtr16 => far_memory::<u16, CALL>,
        S::SegPtr32 => far_memory::<u32, CALL>,
        S::SegPtr64 => far_memory::<u64, CALL>,
        _ => return None,
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, _context: Context) -> Option<Handler> {
    let direct = matches!(i.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32);
    Some(match i.mnemonic() {
        Mnemonic::Jmp if direct => far_direct::<false>,
        Mnemonic::Call if direct => far_direct::<true>,
        Mnemonic::Jmp => return memory_far::<false>(i),
        Mnemonic::Call => return memory_far::<true>(i),
        _ => match i.code() {
            Code::Retfw | Code::Retfw_imm16 => far_ret::<2>,
            Code::Retfd | Code::Retfd_imm16 => far_ret::<4>,
            Code::Retfq | Code::Retfq_imm16 => far_ret::<8>,
            Code::Iretw => iret::<2>,
            Code::Iretd => iret::<4>,
            Code::Iretq => iret::<8>,
            _ => return None,
        },
    })
}
