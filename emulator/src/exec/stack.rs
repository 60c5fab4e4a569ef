//! The stack: PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE, and the accesses that other
//! families build on.

use super::int::Int;
use super::{Context, operand_size};
use crate::core::Core;
use crate::cpu::flags::{AC, DF, ID, IF, IOPL, NT, RF, STATUS, TF, VIF, VIP, VM};
use crate::cpu::{self, RBP, RSP, cr4};
use crate::exception::{self, Trap};
use crate::op::{Exit, Handler, Op, next, run, run_last};
use crate::sized;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

impl Core {
    /// Mask of the stack pointer.
    #[inline(always)]
    pub fn sp_mask(&self) -> u64 {
        match self.mode.bits {
            64 => u64::MAX,
            _ if self.mode.stack32 => 0xFFFF_FFFF,
            _ => 0xFFFF,
        }
    }

    /// The stack pointer.
    #[inline(always)]
    pub fn sp(&self) -> u64 {
        self.cpu.regs[RSP] & self.sp_mask()
    }

    /// Writes as much of RSP as the stack size says.
    #[inline(always)]
    pub fn set_sp(&mut self, sp: u64) {
        let mask = self.sp_mask();
        let r = &mut self.cpu.regs[RSP];
        *r = match mask {
            0xFFFF => (*r & !0xFFFF) | (sp & 0xFFFF),
            _ => sp & mask,
        };
    }

    /// Pushes `v`; RSP changes only if the store succeeds.
    #[inline(always)]
    pub fn push<T: Int>(&mut self, op: &Op, v: T) -> Result<(), Trap> {
        let sp = self.sp().wrapping_sub(T::SIZE) & self.sp_mask();
        let la = self.stack_address(sp, T::SIZE, true)?;
        T::store(self, op, la, v)?;
        self.set_sp(sp);
        Ok(())
    }

    /// Linear address of the stack offset `sp`.
    #[inline(always)]
    pub fn stack_address(&mut self, sp: u64, size: u64, write: bool) -> Result<u64, Trap> {
        if self.mode.bits == 64 {
            return Ok(sp); // canonical form is checked where the TLB misses
        }
        if self.mode.flat && self.mode.stack32 {
            return Ok(sp);
        }
        self.linear(cpu::SS, sp, size, write)
    }

    /// The value `skip` bytes above the top of the stack, and the stack pointer above it.
    #[inline(always)]
    pub fn peek<T: Int>(&mut self, op: &Op, skip: u64) -> Result<(T, u64), Trap> {
        let mask = self.sp_mask();
        let sp = self.sp().wrapping_add(skip) & mask;
        let la = self.stack_address(sp, T::SIZE, false)?;
        Ok((T::load(self, op, la)?, sp.wrapping_add(T::SIZE) & mask))
    }
}

fn push_r<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = T::reg(&core.cpu, op.regs[0]);
        core.push::<T>(op, v)
    })
}

fn push_r64(core: &mut Core, ops: &[Op]) -> Exit {
    let v = core.cpu.regs[usize::from(ops[0].regs[0] & 31)];
    let sp = core.cpu.regs[RSP].wrapping_sub(8);
    if u64::store_fast(core, sp, v) {
        core.cpu.regs[RSP] = sp;
        return next(core, ops);
    }
    push_r64_slow(core, ops)
}

#[inline(never)]
fn push_r64_slow(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = core.cpu.regs[usize::from(op.regs[0] & 31)];
        let sp = core.cpu.regs[RSP].wrapping_sub(8);
        u64::store(core, op, sp, v)?;
        core.cpu.regs[RSP] = sp;
        Ok(())
    })
}

fn push_i<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| core.push::<T>(op, T::of(op.imm)))
}

fn push_m<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let v = core.read_mem::<T, 1>(op)?;
        core.push_operand(op, v)
    })
}

impl Core {
    /// A push in an instruction whose memory operand may have another segment.
    pub fn push_operand<T: Int>(&mut self, op: &Op, v: T) -> Result<(), Trap> {
        let stack = Op { seg: cpu::SS as u8, ..*op };
        self.push::<T>(&stack, v)
    }
}

fn pop_r<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let (v, sp) = core.peek::<T>(op, 0)?;
        core.set_sp(sp);
        T::set_reg(&mut core.cpu, op.regs[0], v);
        Ok(())
    })
}

fn pop_r64(core: &mut Core, ops: &[Op]) -> Exit {
    let sp = core.cpu.regs[RSP];
    if let Some(v) = u64::load_fast(core, sp) {
        core.cpu.regs[RSP] = sp.wrapping_add(8);
        core.cpu.regs[usize::from(ops[0].regs[0] & 31)] = v;
        return next(core, ops);
    }
    pop_r64_slow(core, ops)
}

#[inline(never)]
fn pop_r64_slow(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let sp = core.cpu.regs[RSP];
        let v = u64::load(core, op, sp)?;
        core.cpu.regs[RSP] = sp.wrapping_add(8);
        core.cpu.regs[usize::from(op.regs[0] & 31)] = v;
        Ok(())
    })
}

/// POP to memory: an address based on RSP uses its new value (SDM 2B, POP).
fn pop_m<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let stack = Op { seg: cpu::SS as u8, ..*op };
        let (v, sp) = core.peek::<T>(&stack, 0)?;
        let old = core.cpu.regs[RSP];
        core.set_sp(sp);
        let stored = core.write_mem::<T, 1>(op, v);
        if stored.is_err() {
            core.cpu.regs[RSP] = old;
        }
        stored
    })
}

fn pusha<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let mut sp = core.sp();
        // Check the last before the first is written.
        let low = sp.wrapping_sub(8 * T::SIZE) & core.sp_mask();
        let la = core.stack_address(low, T::SIZE, true)?;
        core.probe_write(op, la, T::SIZE)?;
        let la = core.stack_address(sp.wrapping_sub(T::SIZE) & core.sp_mask(), T::SIZE, true)?;
        core.probe_write(op, la, T::SIZE)?;
        for reg in 0..8 {
            sp = sp.wrapping_sub(T::SIZE) & core.sp_mask();
            let la = core.stack_address(sp, T::SIZE, true)?;
            let v = T::reg(&core.cpu, reg);
            T::store(core, op, la, v)?;
        }
        core.set_sp(sp);
        Ok(())
    })
}

fn popa<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let mut values = [T::of(0); 8];
        let mut sp = core.sp();
        for value in values.iter_mut().rev() {
            let la = core.stack_address(sp, T::SIZE, false)?;
            *value = T::load(core, op, la)?;
            sp = sp.wrapping_add(T::SIZE) & core.sp_mask();
        }
        for (reg, value) in values.into_iter().enumerate() {
            if reg != RSP {
                T::set_reg(&mut core.cpu, reg as u8, value);
            }
        }
        core.set_sp(sp);
        Ok(())
    })
}

fn pushf<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let mut flags = core.cpu.flags.get();
        if core.cpu.v86() && core.cpu.iopl() < 3 {
            if T::BITS != 16 || core.cpu.cr4 & cr4::VME == 0 {
                return Err(core.fault(exception::GP));
            }
            // VME: IF is a copy of VIF, IOPL reads as 3 (SDM 3A 20.3.3.4)
            let vif = flags & VIF != 0;
            flags = (flags & !IF) | IOPL | if vif { IF } else { 0 };
        }
        core.push::<T>(op, T::of(flags & !(VM | RF)))
    })
}

fn popf<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Event, |core, op| {
        let (v, sp) = core.peek::<T>(op, 0)?;
        core.load_flags(v.zx(), T::BITS)?;
        core.set_sp(sp);
        core.update_mode();
        Ok(core.next_rip(op))
    })
}

impl Core {
    /// Loads flags as POPF does (SDM 2B, POPF/POPFD/POPFQ).
    fn load_flags(&mut self, v: u64, bits: u32) -> Result<(), Trap> {
        let iopl = self.cpu.iopl();
        let mut change = STATUS | TF | DF | NT;
        if self.cpu.v86() {
            if iopl < 3 {
                return self.load_flags_vme(v, bits);
            }
            change |= IF;
        } else {
            if self.cpu.cpl <= iopl || self.cpu.cpl == 0 {
                change |= IF;
            }
            if self.cpu.cpl == 0 {
                change |= IOPL;
            }
        }
        if bits > 16 {
            change |= AC | ID;
        }
        let old = self.cpu.flags.get();
        let rf = if bits > 16 { RF } else { 0 };
        self.cpu.flags.set((old & !change & !rf) | (v & change));
        Ok(())
    }

    /// POPF in virtual-8086 mode with IOPL < 3 (SDM 3A 20.2.7, 20.3.3.4).
    fn load_flags_vme(&mut self, v: u64, bits: u32) -> Result<(), Trap> {
        let old = self.cpu.flags.get();
        let pending = v & IF != 0 && old & VIP != 0;
        if bits != 16 || self.cpu.cr4 & cr4::VME == 0 || v & TF != 0 || pending {
            return Err(self.fault(exception::GP));
        }
        let change = STATUS | TF | DF | NT;
        let vif = if v & IF != 0 { VIF } else { 0 };
        self.cpu.flags.set((old & !(change | VIF)) | (v & change) | vif);
        Ok(())
    }
}

fn leave<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let mask = core.sp_mask();
        let sp = core.cpu.regs[RBP] & mask;
        let la = core.stack_address(sp, T::SIZE, false)?;
        let v = T::load(core, op, la)?;
        core.set_sp(sp.wrapping_add(T::SIZE));
        T::set_reg(&mut core.cpu, RBP as u8, v);
        Ok(())
    })
}

fn enter<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let (size, level) = (op.imm & 0xFFFF, u64::from(op.imm2 & 31));
        let mask = core.sp_mask();
        let mut sp = core.sp().wrapping_sub(T::SIZE) & mask;
        let frame = sp;
        let la = core.stack_address(sp, T::SIZE, true)?;
        let old = T::reg(&core.cpu, RBP as u8);
        // The final stack pointer must be writable (SDM 2A, ENTER) before anything is stored.
        let last = frame.wrapping_sub(level * T::SIZE).wrapping_sub(size) & mask;
        let last_la = core.stack_address(last, T::SIZE, true)?;
        core.check_alignment(last_la, T::SIZE)?;
        core.probe_write(op, last_la, 1)?;
        T::store(core, op, la, old)?;
        let mut bp = core.cpu.regs[RBP] & mask;
        for step in 1..=level {
            let v = if step == level {
                T::of(frame)
            } else {
                bp = bp.wrapping_sub(T::SIZE) & mask;
                let la = core.stack_address(bp, T::SIZE, false)?;
                T::load(core, op, la)?
            };
            sp = sp.wrapping_sub(T::SIZE) & mask;
            let la = core.stack_address(sp, T::SIZE, true)?;
            T::store(core, op, la, v)?;
        }
        T::set_reg(&mut core.cpu, RBP as u8, T::of(frame));
        core.set_sp(sp.wrapping_sub(size));
        Ok(())
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, context: Context) -> Option<Handler> {
    use Mnemonic as M;
    let wide = context.bits == 64;
    Some(match i.mnemonic() {
        M::Push => match i.op0_kind() {
            OpKind::Register if !i.op0_register().is_gpr() => return None,
            OpKind::Register if wide && operand_size(i) == 8 => push_r64,
            OpKind::Register => sized!(operand_size(i), push_r),
            OpKind::Memory => sized!(operand_size(i), push_m),
            _ => match i.code() {
                Code::Push_imm16 | Code::Pushw_imm8 => push_i::<u16>,
                Code::Pushd_imm32 | Code::Pushd_imm8 => push_i::<u32>,
                _ => push_i::<u64>,
            },
        },
        M::Pop => match i.op0_kind() {
            OpKind::Register if !i.op0_register().is_gpr() => return None,
            OpKind::Register if wide && operand_size(i) == 8 => pop_r64,
            OpKind::Register => sized!(operand_size(i), pop_r),
            _ => sized!(operand_size(i), pop_m),
        },
        M::Pusha => pusha::<u16>,
        M::Pushad => pusha::<u32>,
        M::Popa => popa::<u16>,
        M::Popad => popa::<u32>,
        M::Pushf => pushf::<u16>,
        M::Pushfd => pushf::<u32>,
        M::Pushfq => pushf::<u64>,
        M::Popf => popf::<u16>,
        M::Popfd => popf::<u32>,
        M::Popfq => popf::<u64>,
        M::Leave => match i.code() {
            Code::Leavew => leave::<u16>,
            Code::Leaved => leave::<u32>,
            _ => leave::<u64>,
        },
        M::Enter => match i.code() {
            Code::Enterw_imm16_imm8 => enter::<u16>,
            Code::Enterd_imm16_imm8 => enter::<u32>,
            _ => enter::<u64>,
        },
        _ => return None,
    })
}
