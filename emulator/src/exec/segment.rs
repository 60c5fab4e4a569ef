//! Segment registers and descriptors: loads, LAR, LSL, VERR, VERW, ARPL, LLDT, LTR, SLDT, STR,
//! and LGDT's family's tables (SDM 3A 3.4, 5.5-5.9).

use super::Context;
use super::int::Int;
use super::operand_size;
use crate::core::{Core, canonical};
use crate::cpu::flags::ZF;
use crate::cpu::{CS, DS, ES, FS, GS, SS, Segment, cr4};
use crate::exception::{self, Trap};
use crate::op::{Exit, Handler, Op, run, run_last};
use crate::sized;
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

/// A segment or system descriptor (SDM 3A 3.4.5).
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Linear address.
    pub at: u64,
    /// The eight bytes.
    pub raw: u64,
}

impl Descriptor {
    /// Base, 32 bits.
    pub fn base(&self) -> u64 {
        (self.raw >> 16 & 0xFF_FFFF) | (self.raw >> 32 & 0xFF00_0000)
    }

    /// Limit in bytes.
    pub fn limit(&self) -> u32 {
        let limit = (self.raw & 0xFFFF) as u32 | (self.raw >> 32) as u32 & 0xF_0000;
        if self.raw >> 55 & 1 != 0 { limit << 12 | 0xFFF } else { limit }
    }

    /// As [`Segment::access`].
    pub fn access(&self) -> u16 {
        (self.raw >> 40) as u16 & 0xF0FF
    }

    /// Type, bits 0-3.
    pub fn kind(&self) -> u8 {
        self.access() as u8 & 15
    }

    /// Code or data, not system.
    pub fn is_segment(&self) -> bool {
        self.access() & 0x10 != 0
    }

    /// Code segment.
    pub fn is_code(&self) -> bool {
        self.is_segment() && self.kind() & 8 != 0
    }

    /// Conforming code segment.
    pub fn is_conforming(&self) -> bool {
        self.is_code() && self.kind() & 4 != 0
    }

    /// Writable data segment.
    pub fn is_writable(&self) -> bool {
        self.is_segment() && self.kind() & 0xA == 2
    }

    /// Descriptor privilege level.
    pub fn dpl(&self) -> u8 {
        (self.access() >> 5 & 3) as u8
    }

    /// Present.
    pub fn present(&self) -> bool {
        self.access() & 0x80 != 0
    }

    /// L bit.
    pub fn long(&self) -> bool {
        self.access() & 0x2000 != 0
    }

    /// D/B bit.
    pub fn big(&self) -> bool {
        self.access() & 0x4000 != 0
    }

    /// The descriptor cache for `selector`.
    pub fn segment(&self, selector: u16) -> Segment {
        Segment {
            selector,
            base: self.base(),
            limit: self.limit(),
            access: self.access(),
            usable: true,
        }
    }
}

/// The part of a selector that error codes carry.
pub fn code_of(selector: u16) -> u32 {
    u32::from(selector & 0xFFFC)
}

impl Core {
    /// Reads the descriptor that `selector` names; `None` if it is outside its table.
    ///
    /// # Errors
    /// A page fault on the table.
    pub fn descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Trap> {
        let (base, limit) = if selector & 4 == 0 {
            (self.cpu.gdtr.base, u32::from(self.cpu.gdtr.limit))
        } else if self.cpu.ldtr.usable {
            (self.cpu.ldtr.base, self.cpu.ldtr.limit)
        } else {
            return Ok(None);
        };
        let offset = u32::from(selector & 0xFFF8);
        if offset + 7 > limit {
            return Ok(None);
        }
        let at = base.wrapping_add(offset.into());
        let raw = u64::from_le_bytes(self.system_load(at)?);
        Ok(Some(Descriptor { at, raw }))
    }

    /// The same; outside its table: `vector` with the selector (and `ext`) as error code.
    pub fn descriptor_or(
        &mut self,
        selector: u16,
        vector: u8,
        ext: u32,
    ) -> Result<Descriptor, Trap> {
        match self.descriptor(selector)? {
            Some(found) => Ok(found),
            None => Err(self.fault_code(vector, code_of(selector) | ext)),
        }
    }

    /// The upper half of the base of a 16-byte system descriptor (64-bit mode).
    ///
    /// # Errors
    /// #GP if it lies outside the table, or its type field is not 0.
    pub fn descriptor_high(&mut self, d: &Descriptor, selector: u16) -> Result<u64, Trap> {
        let table =
            if selector & 4 == 0 { self.cpu.gdtr.limit.into() } else { self.cpu.ldtr.limit };
        let bad = code_of(selector);
        if u32::from(selector & 0xFFF8) + 15 > table {
            return Err(self.fault_code(exception::GP, bad));
        }
        let high = u64::from_le_bytes(self.system_load(d.at.wrapping_add(8))?);
        if high >> 40 & 0x1F != 0 {
            return Err(self.fault_code(exception::GP, bad));
        }
        Ok(high & 0xFFFF_FFFF)
    }

    /// Sets the accessed bit in the table.
    pub fn mark_accessed(&mut self, d: &mut Descriptor) -> Result<(), Trap> {
        if d.kind() & 1 == 0 {
            d.raw |= 1 << 40;
            self.system_store(d.at.wrapping_add(5), &[(d.raw >> 40) as u8])?;
        }
        Ok(())
    }

    /// Loads ES, SS, DS, FS or GS (SDM 2B, MOV "Loading a segment register").
    ///
    /// # Errors
    /// #GP, #SS, #NP with the selector.
    pub fn load_segment(&mut self, seg: usize, selector: u16) -> Result<(), Trap> {
        if self.cpu.real_segments() {
            self.load_real_segment(seg, selector);
            return Ok(());
        }
        let loaded =
            if seg == SS { self.stack_segment(selector)? } else { self.data_segment(selector)? };
        self.cpu.segs[seg] = loaded;
        self.update_mode();
        Ok(())
    }

    /// Loads any segment register as real and virtual-8086 mode do.
    pub fn load_real_segment(&mut self, seg: usize, selector: u16) {
        self.cpu.segs[seg].load_real(selector);
        if self.cpu.v86() {
            self.cpu.segs[seg].limit = 0xFFFF;
            self.cpu.segs[seg].access = 0xF3;
        }
        self.update_mode();
    }

    fn stack_segment(&mut self, selector: u16) -> Result<Segment, Trap> {
        let cpl = self.cpu.cpl;
        let rpl = (selector & 3) as u8;
        if selector & !3 == 0 {
            if self.mode.bits == 64 && cpl < 3 && rpl == cpl {
                return Ok(Segment { selector, access: u16::from(cpl) << 5, ..Segment::default() });
            }
            return Err(self.fault(exception::GP));
        }
        let mut d = self.descriptor_or(selector, exception::GP, 0)?;
        if rpl != cpl || d.dpl() != cpl || !d.is_writable() {
            return Err(self.fault_code(exception::GP, code_of(selector)));
        }
        if !d.present() {
            return Err(self.fault_code(exception::SS, code_of(selector)));
        }
        self.mark_accessed(&mut d)?;
        Ok(d.segment(selector))
    }

    fn data_segment(&mut self, selector: u16) -> Result<Segment, Trap> {
        if selector & !3 == 0 {
            return Ok(Segment { selector, ..Segment::default() });
        }
        let mut d = self.descriptor_or(selector, exception::GP, 0)?;
        let rpl = (selector & 3) as u8;
        let readable = d.is_segment() && (!d.is_code() || d.kind() & 2 != 0);
        let privileged = d.is_conforming() || (rpl <= d.dpl() && self.cpu.cpl <= d.dpl());
        if !readable || !privileged {
            return Err(self.fault_code(exception::GP, code_of(selector)));
        }
        if !d.present() {
            return Err(self.fault_code(exception::NP, code_of(selector)));
        }
        self.mark_accessed(&mut d)?;
        Ok(d.segment(selector))
    }

    /// After a return to an outer level: data segments that it must not see become null
    /// (SDM 3A 5.8.6).
    pub fn drop_inner_segments(&mut self) {
        let cpl = self.cpu.cpl;
        for seg in [ES, DS, FS, GS] {
            let s = &mut self.cpu.segs[seg];
            let conforming = s.kind() & 0xC == 0xC;
            if s.usable && s.access & 0x10 != 0 && !conforming && s.dpl() < cpl {
                *s = Segment::default();
            }
        }
    }

    /// Faults with #GP(0) unless CPL is 0.
    #[inline(always)]
    pub fn privileged(&mut self) -> Result<(), Trap> {
        if self.cpu.cpl == 0 { Ok(()) } else { Err(self.fault(exception::GP)) }
    }
}

/// The number of a segment register.
pub fn number(r: Register) -> Option<usize> {
    Some(match r {
        Register::ES => ES,
        Register::CS => CS,
        Register::SS => SS,
        Register::DS => DS,
        Register::FS => FS,
        Register::GS => GS,
        _ => return None,
    })
}

fn after_load(core: &mut Core, seg: usize) {
    if seg == SS {
        core.cpu.shadow = true;
        core.cpu.shadow_debug = true;
    }
}

/// MOV Sreg, r/m16. The segment number is in `imm2`.
fn mov_to<const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Event, |core, op| {
        let selector =
            if MEM { core.read_mem::<u16, 1>(op)? } else { u16::reg(&core.cpu, op.regs[1]) };
        let seg = usize::from(op.imm2);
        core.load_segment(seg, selector)?;
        after_load(core, seg);
        Ok(core.next_rip(op))
    })
}

/// MOV r/m, Sreg: registers get the selector zero-extended, memory 16 bits.
fn mov_from_r<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let selector = core.cpu.segs[usize::from(op.imm2)].selector;
        T::set_reg(&mut core.cpu, op.regs[0], T::of(selector.into()));
        Ok(())
    })
}

fn mov_from_m(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let selector = core.cpu.segs[usize::from(op.imm2)].selector;
        core.write_mem::<u16, 1>(op, selector)
    })
}

/// PUSH Sreg: 32-bit pushes write 16 bits and leave the upper half of the slot (SDM 2B, PUSH).
fn push<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let selector = core.cpu.segs[usize::from(op.imm2)].selector;
        if T::BITS == 32 {
            let sp = core.sp().wrapping_sub(4) & core.sp_mask();
            let la = core.stack_address(sp, 4, true)?;
            u16::store(core, op, la, selector)?;
            core.set_sp(sp);
            return Ok(());
        }
        core.push::<T>(op, T::of(selector.into()))
    })
}

fn pop<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Event, |core, op| {
        // Only 16 bits are read where the operand is wider.
        let (selector, _) = core.peek::<u16>(op, 0)?;
        let sp = core.sp().wrapping_add(T::SIZE) & core.sp_mask();
        let seg = usize::from(op.imm2);
        let mask = core.sp_mask();
        core.load_segment(seg, selector)?;
        let r = &mut core.cpu.regs[crate::cpu::RSP];
        *r = if mask == 0xFFFF { (*r & !0xFFFF) | sp } else { sp };
        after_load(core, seg);
        Ok(core.next_rip(op))
    })
}

/// LDS, LES, LFS, LGS, LSS: `T` is the offset.
fn load_far<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Event, |core, op| {
        let la = core.ea_any(op, T::SIZE + 2, false)?;
        let offset = T::load(core, op, la)?;
        let selector = u16::load(core, op, la.wrapping_add(T::SIZE))?;
        let seg = usize::from(op.imm2);
        core.load_segment(seg, selector)?;
        T::set_reg(&mut core.cpu, op.regs[0], offset);
        Ok(core.next_rip(op))
    })
}

fn set_zf(core: &mut Core, zf: bool) {
    let status = core.cpu.flags.status();
    core.cpu.flags.set_status(if zf { status | ZF } else { status & !ZF });
}

fn selector<const MEM: bool>(core: &mut Core, op: &Op, n: usize) -> Result<u16, Trap> {
    if MEM { core.read_mem::<u16, 1>(op) } else { Ok(u16::reg(&core.cpu, op.regs[n])) }
}

fn real_is_ud(core: &mut Core) -> Result<(), Trap> {
    if core.cpu.real_segments() { Err(core.fault(exception::UD)) } else { Ok(()) }
}

/// The descriptor that LAR, LSL, VERR or VERW may see, with system types filtered by `system`.
fn visible(
    core: &mut Core,
    selector: u16,
    system: impl Fn(u8, bool) -> bool,
) -> Result<Option<Descriptor>, Trap> {
    if selector & !3 == 0 {
        return Ok(None);
    }
    let Some(d) = core.descriptor(selector)? else { return Ok(None) };
    let long = core.cpu.long_mode();
    if !d.is_segment() && !system(d.kind(), long) {
        return Ok(None);
    }
    let rpl = (selector & 3) as u8;
    if !d.is_conforming() && (core.cpu.cpl > d.dpl() || rpl > d.dpl()) {
        return Ok(None);
    }
    Ok(Some(d))
}

fn lar<T: Int, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        real_is_ud(core)?;
        let sel = selector::<MEM>(core, op, 1)?;
        let types = |kind: u8, long: bool| match kind {
            1 | 3 | 4 | 5 | 7 if long => false,
            2 | 9 | 0xB | 0xC => true,
            1 | 3 | 4 | 5 => true,
            _ => false,
        };
        let found = visible(core, sel, types)?;
        if let Some(d) = found {
            let rights = (d.raw >> 32) & 0x00FF_FF00;
            T::set_reg(&mut core.cpu, op.regs[0], T::of(rights));
        }
        set_zf(core, found.is_some());
        Ok(())
    })
}

fn lsl<T: Int, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        real_is_ud(core)?;
        let sel = selector::<MEM>(core, op, 1)?;
        let types = |kind: u8, long: bool| match kind {
            1 | 3 => !long,
            2 | 9 | 0xB => true,
            _ => false,
        };
        let found = visible(core, sel, types)?;
        if let Some(d) = found {
            T::set_reg(&mut core.cpu, op.regs[0], T::of(d.limit().into()));
        }
        set_zf(core, found.is_some());
        Ok(())
    })
}

fn verify<const WRITE: bool, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        real_is_ud(core)?;
        let sel = selector::<MEM>(core, op, 0)?;
        let found = visible(core, sel, |_, _| false)?;
        let ok = found.is_some_and(|d| {
            if WRITE { d.is_writable() } else { !d.is_code() || d.kind() & 2 != 0 }
        });
        set_zf(core, ok);
        Ok(())
    })
}

fn arpl<const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        real_is_ud(core)?;
        let source = u16::reg(&core.cpu, op.regs[1]);
        let adjust = |v: u16| {
            if v & 3 < source & 3 { ((v & !3) | (source & 3), true) } else { (v, false) }
        };
        let raised = if MEM {
            // Memory is written only if the RPL is raised.
            let (v, raised) = adjust(core.read_mem::<u16, 1>(op)?);
            if raised {
                core.write_mem::<u16, 1>(op, v)?;
            }
            raised
        } else {
            let (v, raised) = adjust(u16::reg(&core.cpu, op.regs[0]));
            u16::set_reg(&mut core.cpu, op.regs[0], v);
            raised
        };
        set_zf(core, raised);
        Ok(())
    })
}

fn lldt<const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Event, |core, op| {
        real_is_ud(core)?;
        core.privileged()?;
        let sel = selector::<MEM>(core, op, 0)?;
        core.load_ldt(sel, exception::GP)?;
        Ok(core.next_rip(op))
    })
}

impl Core {
    /// Loads LDTR; faults with `vector` for a bad selector.
    pub fn load_ldt(&mut self, selector: u16, vector: u8) -> Result<(), Trap> {
        if selector & !3 == 0 {
            self.cpu.ldtr = Segment { selector, ..Segment::default() };
            return Ok(());
        }
        if selector & 4 != 0 {
            return Err(self.fault_code(vector, code_of(selector)));
        }
        let d = self.descriptor_or(selector, vector, 0)?;
        if d.is_segment() || d.kind() != 2 {
            return Err(self.fault_code(vector, code_of(selector)));
        }
        if !d.present() {
            let vector = if vector == exception::GP { exception::NP } else { vector };
            return Err(self.fault_code(vector, code_of(selector)));
        }
        let mut loaded = d.segment(selector);
        if self.cpu.long_mode() {
            loaded.base |= self.descriptor_high(&d, selector)? << 32;
            if !canonical(loaded.base) {
                return Err(self.fault_code(vector, code_of(selector)));
            }
        }
        self.cpu.ldtr = loaded;
        Ok(())
    }
}

fn ltr<const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Event, |core, op| {
        real_is_ud(core)?;
        core.privileged()?;
        let sel = selector::<MEM>(core, op, 0)?;
        if sel & !3 == 0 {
            return Err(core.fault(exception::GP));
        }
        let bad = code_of(sel);
        if sel & 4 != 0 {
            return Err(core.fault_code(exception::GP, bad));
        }
        let mut d = core.descriptor_or(sel, exception::GP, 0)?;
        let available = d.kind() == 9 || (d.kind() == 1 && !core.cpu.long_mode());
        if d.is_segment() || !available {
            return Err(core.fault_code(exception::GP, bad));
        }
        if !d.present() {
            return Err(core.fault_code(exception::NP, bad));
        }
        let high = if core.cpu.long_mode() { core.descriptor_high(&d, sel)? << 32 } else { 0 };
        if !canonical(d.base() | high) {
            return Err(core.fault_code(exception::GP, bad));
        }
        d.raw |= 2 << 40; // busy
        core.system_store(d.at.wrapping_add(5), &[(d.raw >> 40) as u8])?;
        core.cpu.tr = d.segment(sel);
        core.cpu.tr.base |= high;
        Ok(core.next_rip(op))
    })
}

/// SLDT and STR (`TASK`).
fn store_selector<T: Int, const TASK: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        real_is_ud(core)?;
        core.check_umip()?;
        let v = if TASK { core.cpu.tr.selector } else { core.cpu.ldtr.selector };
        T::set_reg(&mut core.cpu, op.regs[0], T::of(v.into()));
        Ok(())
    })
}

fn store_selector_m<const TASK: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        real_is_ud(core)?;
        core.check_umip()?;
        let v = if TASK { core.cpu.tr.selector } else { core.cpu.ldtr.selector };
        core.write_mem::<u16, 1>(op, v)
    })
}

impl Core {
    /// #GP(0) for SGDT and its kind outside ring 0 with CR4.UMIP.
    pub fn check_umip(&mut self) -> Result<(), Trap> {
        if self.cpu.cr4 & cr4::UMIP != 0 && self.cpu.cpl != 0 {
            return Err(self.fault(exception::GP));
        }
        Ok(())
    }
}

/// LGDT and LIDT (`IDT`): 16-bit operand size loads 24 bits of base.
fn load_table<const IDT: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Event, |core, op| {
        core.privileged()?;
        let wide = core.mode.bits == 64;
        let la = core.ea_any(op, if wide { 10 } else { 6 }, false)?;
        let limit = u16::load(core, op, la)?;
        let at = la.wrapping_add(2);
        let base = if wide {
            u64::load(core, op, at)?
        } else {
            let base = u64::from(u32::load(core, op, at)?);
            if op.size == 2 { base & 0xFF_FFFF } else { base }
        };
        if !canonical(base) {
            return Err(core.fault(exception::GP));
        }
        let table = crate::cpu::TableRegister { base, limit };
        if IDT {
            core.cpu.idtr = table;
        } else {
            core.cpu.gdtr = table;
        }
        Ok(core.next_rip(op))
    })
}

/// SGDT and SIDT (`IDT`).
fn store_table<const IDT: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_umip()?;
        let wide = core.mode.bits == 64;
        let table = if IDT { core.cpu.idtr } else { core.cpu.gdtr };
        let size = if wide { 10 } else { 6 };
        let la = core.ea_any(op, size, true)?;
        core.probe_write(op, la, size)?;
        u16::store(core, op, la, table.limit)?;
        let at = la.wrapping_add(2);
        if wide {
            u64::store(core, op, at, table.base)
        } else {
            u32::store(core, op, at, table.base as u32)
        }
    })
}

fn of_moves(i: &Instruction) -> Option<Handler> {
    let size = operand_size(i);
    Some(match i.mnemonic() {
        Mnemonic::Mov if i.op0_register().is_segment_register() => {
            if i.op0_register() == Register::CS {
                return None;
            }
            if i.op1_kind() == OpKind::Memory { mov_to::<true> } else { mov_to::<false> }
        }
        Mnemonic::Mov if i.op1_register().is_segment_register() => {
            if i.op0_kind() == OpKind::Memory { mov_from_m } else { sized!(size, mov_from_r) }
        }
        Mnemonic::Push => match i.code() {
            Code::Pushw_ES
            | Code::Pushw_CS
            | Code::Pushw_SS
            | Code::Pushw_DS
            | Code::Pushw_FS
            | Code::Pushw_GS => push::<u16>,
            Code::Pushq_FS | Code::Pushq_GS => push::<u64>,
            _ => push::<u32>,
        },
        Mnemonic::Pop => match i.code() {
            Code::Popw_ES | Code::Popw_SS | Code::Popw_DS | Code::Popw_FS | Code::Popw_GS => {
                pop::<u16>
            }
            Code::Popq_FS | Code::Popq_GS => pop::<u64>,
            _ => pop::<u32>,
        },
        _ => return None,
    })
}

/// The segment register that the instruction names, for [`Op::imm2`].
pub fn named(i: &Instruction) -> Option<usize> {
    Some(match i.mnemonic() {
        Mnemonic::Lds => DS,
        Mnemonic::Les => ES,
        Mnemonic::Lss => SS,
        Mnemonic::Lfs => FS,
        Mnemonic::Lgs => GS,
        Mnemonic::Mov | Mnemonic::Push | Mnemonic::Pop => {
            number(i.op0_register()).or_else(|| number(i.op1_register()))?
        }
        _ => return None,
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, _context: Context) -> Option<Handler> {
    use Mnemonic as M;
    let size = operand_size(i);
    let memory = |n| i.op_kind(n) == OpKind::Memory;
    Some(match i.mnemonic() {
        M::Mov | M::Push | M::Pop => return of_moves(i),
        M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs if memory(1) => sized!(size, load_far),
        M::Lar if memory(1) => sized!(size, lar, true),
        M::Lar => sized!(size, lar, false),
        M::Lsl if memory(1) => sized!(size, lsl, true),
        M::Lsl => sized!(size, lsl, false),
        M::Verr if memory(0) => verify::<false, true>,
        M::Verr => verify::<false, false>,
        M::Verw if memory(0) => verify::<true, true>,
        M::Verw => verify::<true, false>,
        M::Arpl if memory(0) => arpl::<true>,
        M::Arpl => arpl::<false>,
        M::Lldt if memory(0) => lldt::<true>,
        M::Lldt => lldt::<false>,
        M::Ltr if memory(0) => ltr::<true>,
        M::Ltr => ltr::<false>,
        M::Sldt if memory(0) => store_selector_m::<false>,
        M::Sldt => sized!(size, store_selector, false),
        M::Str if memory(0) => store_selector_m::<true>,
        M::Str => sized!(size, store_selector, true),
        M::Lgdt => load_table::<false>,
        M::Lidt => load_table::<true>,
        M::Sgdt => store_table::<false>,
        M::Sidt => store_table::<true>,
        _ => return None,
    })
}
