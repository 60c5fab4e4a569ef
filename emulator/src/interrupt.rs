//! Delivery of interrupts and exceptions (SDM 3A 6.10-6.15, 20.1-20.3).

use crate::core::{Core, canonical};
use crate::cpu::flags::{IF, NT, RF, TF, VM};
use crate::cpu::{CS, DS, ES, FS, GS, RSP, SS, Segment, cr4};
use crate::exception::{self, Cause, Exception, Trap};
use crate::exec::segment::{Descriptor, code_of};
use crate::mmu::By;

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// INTR or NMI.
    Hardware,
    /// An exception.
    Exception,
    /// INT n.
    Software,
    /// INT3, INTO: as INT n, but not sensitive to IOPL in virtual-8086 mode.
    Breakpoint,
}

/// An event to deliver.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Vector.
    pub vector: u8,
    /// Origin.
    pub source: Source,
    /// Error code to push.
    pub code: Option<u32>,
    /// RIP to push.
    pub rip: u64,
    /// RF in the pushed flags: faults, and whatever interrupts a repeated instruction.
    pub rf: bool,
}

/// A stack that is being pushed to while it is not yet that of the CPU.
pub struct Frame {
    /// Descriptor cache of SS.
    pub ss: Segment,
    /// Stack pointer.
    pub sp: u64,
    /// Mask of the stack pointer.
    pub mask: u64,
    /// Error code for stack faults.
    pub code: u32,
}

/// Exceptions that may be delivered without an instruction that retires in between: more than a
/// stack of some ten megabytes can hold, so that faults on a stack end as they do on a processor.
pub const MOST_DELIVERIES: u32 = 1 << 20;

impl Core {
    /// Delivers an exception with all that can follow from it: a double fault, and shutdown. A
    /// processor whose handlers fault at their first instructions for ever, each on a stack of its
    /// own, does nothing else any more; here it shuts down after [`MOST_DELIVERIES`].
    pub fn deliver_exception(&mut self, first: Exception) {
        let before = if self.cpu.delivered.1 == self.icount { self.cpu.delivered.0 } else { 0 };
        self.cpu.delivered = (before + 1, self.icount);
        if before == MOST_DELIVERIES {
            self.cpu.shutdown = true;
            return;
        }
        let mut exception = first;
        loop {
            // A task gate may have switched before it failed: the rest is the new task's.
            let (rip, task) = (self.cpu.rip, self.cpu.tr);
            if exception.vector == exception::PF {
                self.cpu.cr2 = exception.address;
            }
            if exception.vector == exception::DB {
                self.cpu.dr[6] |= exception.dr6;
                self.cpu.dr[7] &= !(1 << 13);
            }
            let event = Event {
                vector: exception.vector,
                source: Source::Exception,
                code: exception.code,
                rip,
                rf: pushes_rf(&exception) || self.resuming(),
            };
            let Err(Trap) = self.deliver(event) else { return };
            let Cause::Exception(second) = self.cause else {
                self.cpu.shutdown = true;
                return;
            };
            if exception.vector == exception::DF {
                self.cpu.shutdown = true;
                return;
            }
            exception = if self.cpu.tr == task && becomes_double(exception.vector, second.vector) {
                Exception::new(exception::DF)
            } else {
                second
            };
        }
    }

    /// Delivers an event through the IDT (or the real-mode vector table).
    ///
    /// # Errors
    /// An exception met on the way; the CPU's state is as before (or, after a task switch, the
    /// new task's).
    pub fn deliver(&mut self, event: Event) -> Result<(), Trap> {
        let alone = core::mem::replace(&mut self.alone, true);
        let (cpl, flags, task) = (self.cpu.cpl, self.cpu.flags.system, self.cpu.tr);
        let rip = self.cpu.rip;
        let result = if !self.cpu.protected() {
            self.deliver_real(event)
        } else if self.cpu.long_mode() {
            self.deliver_long(event)
        } else {
            self.deliver_protected(event)
        };
        self.alone = alone;
        if result.is_ok() {
            self.cpu.halted = false;
            self.cpu.shadow = false;
            self.cpu.shadow_debug = false;
            self.single_step = false;
        } else if self.cpu.tr == task {
            // Nothing else is changed before delivery is sure.
            (self.cpu.cpl, self.cpu.flags.system, self.cpu.rip) = (cpl, flags, rip);
            self.update_mode();
        }
        result
    }

    fn deliver_real(&mut self, event: Event) -> Result<(), Trap> {
        let at = u64::from(event.vector) * 4;
        if at + 3 > u64::from(self.cpu.idtr.limit) {
            return Err(self.fault_code(exception::GP, u32::from(event.vector) * 8 + 2));
        }
        let vector = u32::from_le_bytes(self.system_load(self.cpu.idtr.base.wrapping_add(at))?);
        let flags = self.pushed_flags(event);
        let mut frame = self.current_frame();
        self.frame_push(&mut frame, 2, flags)?;
        self.frame_push(&mut frame, 2, self.cpu.segs[CS].selector.into())?;
        self.frame_push(&mut frame, 2, event.rip)?;
        self.take_frame(&frame);
        self.cpu.flags.system &= !(IF | TF | RF | crate::cpu::flags::AC);
        self.cpu.segs[CS].load_real((vector >> 16) as u16);
        self.cpu.rip = u64::from(vector & 0xFFFF);
        self.update_mode();
        Ok(())
    }

    fn pushed_flags(&self, event: Event) -> u64 {
        (self.cpu.flags.get() & !RF) | if event.rf { RF } else { 0 }
    }

    /// The stack in use.
    pub fn current_frame(&self) -> Frame {
        Frame { ss: self.cpu.segs[SS], sp: self.sp(), mask: self.sp_mask(), code: 0 }
    }

    /// Makes a frame's stack pointer that of the CPU (its segment is loaded separately).
    pub fn take_frame(&mut self, frame: &Frame) {
        let r = &mut self.cpu.regs[RSP];
        *r = match frame.mask {
            0xFFFF => (*r & !0xFFFF) | (frame.sp & 0xFFFF),
            mask => frame.sp & mask,
        };
    }

    /// Pushes `size` bytes.
    pub fn frame_push(&mut self, frame: &mut Frame, size: u64, value: u64) -> Result<(), Trap> {
        let sp = frame.sp.wrapping_sub(size) & frame.mask;
        let la = self.frame_address(frame, sp, size)?;
        self.check_alignment(la, size)?;
        self.write_linear(la, &value.to_le_bytes()[..size as usize], By::Program)?;
        frame.sp = sp;
        Ok(())
    }

    /// Pops `size` bytes.
    pub fn frame_pop(&mut self, frame: &mut Frame, size: u64) -> Result<u64, Trap> {
        let la = self.frame_address(frame, frame.sp, size)?;
        self.check_alignment(la, size)?;
        let mut bytes = [0; 8];
        self.read_linear(la, &mut bytes[..size as usize], By::Program)?;
        frame.sp = frame.sp.wrapping_add(size) & frame.mask;
        Ok(u64::from_le_bytes(bytes))
    }

    fn frame_address(&mut self, frame: &Frame, sp: u64, size: u64) -> Result<u64, Trap> {
        if frame.mask == u64::MAX {
            if !canonical(sp) {
                return Err(self.fault_code(exception::SS, frame.code));
            }
            return Ok(sp);
        }
        let last = sp.wrapping_add(size - 1);
        let limit = u64::from(frame.ss.limit);
        let expand_down = frame.ss.kind() & 0xC == 4 && frame.ss.access & 0x10 != 0;
        let inside = if expand_down { sp > limit && last <= frame.mask } else { last <= limit };
        if !inside {
            return Err(self.fault_code(exception::SS, frame.code));
        }
        Ok(frame.ss.base.wrapping_add(sp) & 0xFFFF_FFFF)
    }

    fn gate(&mut self, event: Event, size: u64) -> Result<u64, Trap> {
        let code = u32::from(event.vector) * 8 + 2 + ext(event);
        let at = u64::from(event.vector) * size;
        if at + size - 1 > u64::from(self.cpu.idtr.limit) {
            return Err(self.fault_code(exception::GP, code));
        }
        let raw = self.system_load(self.cpu.idtr.base.wrapping_add(at))?;
        let gate = u64::from_le_bytes(raw);
        let kind = gate >> 40 & 0x1F;
        let known = if size == 16 {
            matches!(kind, 0xE | 0xF)
        } else {
            matches!(kind, 5 | 6 | 7 | 0xE | 0xF)
        };
        let dpl = (gate >> 45 & 3) as u8;
        if !known || (ext(event) == 0 && dpl < self.cpu.cpl) {
            return Err(self.fault_code(exception::GP, code));
        }
        if gate >> 47 & 1 == 0 {
            return Err(self.fault_code(exception::NP, code));
        }
        Ok(gate)
    }

    /// The code segment of an interrupt gate.
    fn gate_target(&mut self, selector: u16, e: u32) -> Result<Descriptor, Trap> {
        if selector & !3 == 0 {
            return Err(self.fault_code(exception::GP, e));
        }
        let d = self.descriptor_or(selector, exception::GP, e)?;
        let code = code_of(selector) | e;
        if !d.is_code() || d.dpl() > self.cpu.cpl {
            return Err(self.fault_code(exception::GP, code));
        }
        if !d.present() {
            return Err(self.fault_code(exception::NP, code));
        }
        Ok(d)
    }

    fn deliver_long(&mut self, event: Event) -> Result<(), Trap> {
        let gate = self.gate(event, 16)?;
        let e = ext(event);
        let high_at = self.cpu.idtr.base.wrapping_add(u64::from(event.vector) * 16 + 8);
        let high = u64::from_le_bytes(self.system_load(high_at)?) & 0xFFFF_FFFF;
        let target = (gate & 0xFFFF) | (gate >> 32 & 0xFFFF_0000) | high << 32;
        let selector = (gate >> 16) as u16;
        let mut d = self.gate_target(selector, e)?;
        if !d.long() || d.big() {
            return Err(self.fault_code(exception::GP, code_of(selector) | e));
        }
        let old_cpl = self.cpu.cpl;
        let cpl = if d.is_conforming() { old_cpl } else { d.dpl() };
        let ist = gate >> 32 & 7;
        let sp = if ist != 0 {
            self.tss_stack_64(0x1C + 8 * ist, e)?
        } else if cpl < old_cpl {
            self.tss_stack_64(4 + 8 * u64::from(cpl), e)?
        } else {
            self.cpu.regs[RSP]
        };
        if !canonical(target) {
            return Err(self.fault_code(exception::GP, e));
        }
        let flags = self.pushed_flags(event);
        let (ss, rsp) = (self.cpu.segs[SS].selector, self.cpu.regs[RSP]);
        let cs = self.cpu.segs[CS].selector;
        let mut frame = Frame { ss: Segment::default(), sp: sp & !0xF, mask: u64::MAX, code: e };
        self.cpu.cpl = cpl;
        self.select_privilege();
        for value in [ss.into(), rsp, flags, cs.into(), event.rip] {
            self.frame_push(&mut frame, 8, value)?;
        }
        if let Some(code) = event.code {
            self.frame_push(&mut frame, 8, code.into())?;
        }
        self.mark_accessed(&mut d)?;
        self.cpu.regs[RSP] = frame.sp;
        if cpl < old_cpl {
            let access = u16::from(cpl) << 5;
            self.cpu.segs[SS] = Segment { selector: cpl.into(), access, ..Segment::default() };
        }
        self.cpu.segs[CS] = d.segment((selector & !3) | u16::from(cpl));
        self.enter_handler(target, gate);
        Ok(())
    }

    /// Clears the flags that delivery clears and goes to the handler.
    fn enter_handler(&mut self, rip: u64, gate: u64) {
        self.cpu.flags.system &= !(TF | NT | RF | VM);
        if gate >> 40 & 1 == 0 {
            self.cpu.flags.system &= !IF;
        }
        self.cpu.rip = rip;
        self.update_mode();
    }

    /// A stack pointer from the 64-bit TSS.
    pub fn tss_stack_64(&mut self, offset: u64, e: u32) -> Result<u64, Trap> {
        let tr = self.cpu.tr;
        if offset + 7 > u64::from(tr.limit) {
            return Err(self.fault_code(exception::TS, code_of(tr.selector) | e));
        }
        let sp = u64::from_le_bytes(self.system_load(tr.base.wrapping_add(offset))?);
        if !canonical(sp) {
            return Err(self.fault_code(exception::SS, e));
        }
        Ok(sp)
    }

    fn deliver_protected(&mut self, event: Event) -> Result<(), Trap> {
        if self.cpu.v86() && event.source == Source::Software && self.deliver_vme(event)? {
            return Ok(());
        }
        let gate = self.gate(event, 8)?;
        let e = ext(event);
        let selector = (gate >> 16) as u16;
        if gate >> 40 & 0xF == 5 {
            return self.task_gate(event, selector);
        }
        let wide = gate >> 43 & 1 != 0;
        let target = (gate & 0xFFFF) | if wide { gate >> 32 & 0xFFFF_0000 } else { 0 };
        let mut d = self.gate_target(selector, e)?;
        let (old_cpl, v86) = (self.cpu.cpl, self.cpu.v86());
        let cpl = if d.is_conforming() { old_cpl } else { d.dpl() };
        if v86 && cpl != 0 {
            return Err(self.fault_code(exception::GP, code_of(selector) | e));
        }
        if target > u64::from(d.limit()) {
            return Err(self.fault_code(exception::GP, e));
        }
        let size = if wide { 4 } else { 2 };
        let flags = self.pushed_flags(event);
        let old = self.cpu.segs.map(|s| s.selector);
        let old_sp = self.cpu.regs[RSP];
        let mut frame = if cpl < old_cpl || v86 {
            let (ss, sp) = self.tss_stack(cpl, e)?;
            self.inner_frame(ss, sp, cpl, e)?
        } else {
            Frame { code: e, ..self.current_frame() }
        };
        self.cpu.cpl = cpl;
        self.cpu.flags.system &= !VM;
        self.select_privilege();
        if v86 {
            for seg in [GS, FS, DS, ES] {
                self.frame_push(&mut frame, size, old[seg].into())?;
            }
        }
        if cpl < old_cpl || v86 {
            self.frame_push(&mut frame, size, old[SS].into())?;
            self.frame_push(&mut frame, size, old_sp)?;
        }
        for value in [flags, old[CS].into(), event.rip] {
            self.frame_push(&mut frame, size, value)?;
        }
        if let Some(code) = event.code {
            self.frame_push(&mut frame, size, code.into())?;
        }
        self.mark_accessed(&mut d)?;
        if v86 {
            for seg in [GS, FS, DS, ES] {
                self.cpu.segs[seg] = Segment::default();
            }
        }
        self.cpu.segs[SS] = frame.ss;
        self.take_frame(&frame);
        self.cpu.segs[CS] = d.segment((selector & !3) | u16::from(cpl));
        self.enter_handler(target, gate);
        Ok(())
    }

    /// SS:ESP for a level, from the TSS in use.
    pub fn tss_stack(&mut self, cpl: u8, e: u32) -> Result<(u16, u64), Trap> {
        let tr = self.cpu.tr;
        let wide = tr.kind() & 8 != 0;
        let (at, last) = if wide {
            (4 + 8 * u64::from(cpl), 4 + 8 * u32::from(cpl) + 5)
        } else {
            (2 + 4 * u64::from(cpl), 2 + 4 * u32::from(cpl) + 3)
        };
        if last > tr.limit {
            return Err(self.fault_code(exception::TS, code_of(tr.selector) | e));
        }
        let base = tr.base.wrapping_add(at);
        if wide {
            let sp = u32::from_le_bytes(self.system_load(base)?);
            let ss = u16::from_le_bytes(self.system_load(base.wrapping_add(4))?);
            Ok((ss, sp.into()))
        } else {
            let sp = u16::from_le_bytes(self.system_load(base)?);
            let ss = u16::from_le_bytes(self.system_load(base.wrapping_add(2))?);
            Ok((ss, sp.into()))
        }
    }

    /// Checks the stack segment of an inner level: #TS, or #SS if it is not present.
    pub fn inner_frame(&mut self, selector: u16, sp: u64, cpl: u8, e: u32) -> Result<Frame, Trap> {
        let code = code_of(selector) | e;
        if selector & !3 == 0 {
            return Err(self.fault_code(exception::TS, code));
        }
        let mut d = self.descriptor_or(selector, exception::TS, e)?;
        if (selector & 3) as u8 != cpl || d.dpl() != cpl || !d.is_writable() {
            return Err(self.fault_code(exception::TS, code));
        }
        if !d.present() {
            return Err(self.fault_code(exception::SS, code));
        }
        self.mark_accessed(&mut d)?;
        let mask = if d.big() { 0xFFFF_FFFF } else { 0xFFFF };
        Ok(Frame { ss: d.segment(selector), sp: sp & mask, mask, code })
    }

    /// INT n in virtual-8086 mode: IOPL and the VME redirection map (SDM 3A 20.3). True if the
    /// interrupt was delivered to the 8086 program.
    fn deliver_vme(&mut self, event: Event) -> Result<bool, Trap> {
        let vme = self.cpu.cr4 & cr4::VME != 0;
        let redirect = vme && !self.vme_intercepted(event.vector)?;
        if !redirect {
            if self.cpu.iopl() < 3 {
                return Err(self.fault(exception::GP));
            }
            return Ok(false);
        }
        use crate::cpu::flags::{IOPL, VIF};
        let vector = u32::from_le_bytes(self.system_load(u64::from(event.vector) * 4)?);
        let mut flags = self.pushed_flags(event);
        let low_iopl = self.cpu.iopl() < 3;
        if low_iopl {
            let vif = flags & VIF != 0;
            flags = (flags & !IF) | IOPL | if vif { IF } else { 0 };
        }
        let mut frame = self.current_frame();
        for value in [flags, self.cpu.segs[CS].selector.into(), event.rip] {
            self.frame_push(&mut frame, 2, value)?;
        }
        self.take_frame(&frame);
        let clear = TF | NT | if low_iopl { VIF } else { IF };
        self.cpu.flags.system &= !clear;
        self.load_real_segment(CS, (vector >> 16) as u16);
        self.cpu.rip = u64::from(vector & 0xFFFF);
        Ok(true)
    }

    /// The bit of the software-interrupt redirection map below the I/O map.
    fn vme_intercepted(&mut self, vector: u8) -> Result<bool, Trap> {
        let tr = self.cpu.tr;
        if tr.limit < 0x67 {
            return Err(self.fault(exception::GP));
        }
        let base = u16::from_le_bytes(self.system_load(tr.base.wrapping_add(0x66))?);
        let at = u64::from(base).wrapping_sub(32) + u64::from(vector / 8);
        if at > u64::from(tr.limit) {
            return Err(self.fault(exception::GP));
        }
        let [bits] = self.system_load::<1>(tr.base.wrapping_add(at))?;
        Ok(bits >> (vector % 8) & 1 != 0)
    }

    fn task_gate(&mut self, event: Event, selector: u16) -> Result<(), Trap> {
        let e = ext(event);
        let (d, _) = self.available_tss(selector, exception::GP, e)?;
        self.cpu.rip = event.rip;
        let flags = self.pushed_flags(event);
        self.switch_task(d, selector, crate::exec::task::Why::Interrupt, flags, e)?;
        self.cpu.resume_at = self.icount;
        if let Some(code) = event.code {
            let wide = self.cpu.tr.kind() & 8 != 0;
            let mut frame = self.current_frame();
            self.frame_push(&mut frame, if wide { 4 } else { 2 }, code.into())?;
            self.take_frame(&frame);
        }
        Ok(())
    }
}

/// The EXT bit: the event is not the program's own INT.
fn ext(event: Event) -> u32 {
    u32::from(matches!(event.source, Source::Hardware | Source::Exception))
}

/// Faults push RF set, except instruction breakpoints (SDM 3B 17.3.1.1).
fn pushes_rf(exception: &Exception) -> bool {
    let breakpoint = exception.vector == exception::DB && exception.dr6 & 0xF != 0;
    !exception.trap && !breakpoint && exception.vector != exception::DF
}

/// SDM 3A table 6-5.
fn becomes_double(first: u8, second: u8) -> bool {
    let contributory = |v| matches!(v, 0 | 10 | 11 | 12 | 13);
    (contributory(first) && contributory(second))
        || (first == exception::PF && (contributory(second) || second == exception::PF))
}
