//! IN and OUT, the I/O permission check, and the firmware's service port.

use super::int::Int;
use super::size_of;
use crate::core::Core;
use crate::cpu::{RAX, RDX};
use crate::exception::{self, Trap};
use crate::op::{Exit, Handler, Op, leave, run_last};
use iced_x86::{Instruction, Mnemonic, OpKind};

impl Core {
    /// Checks that the program may access `size` ports from `port` (SDM 1 19.5).
    ///
    /// # Errors
    /// #GP(0), or a page fault on the task-state segment.
    pub fn check_port(&mut self, port: u16, size: u16) -> Result<(), Trap> {
        let cpu = &self.cpu;
        if !cpu.protected() || (!cpu.v86() && cpu.cpl <= cpu.iopl()) {
            return Ok(());
        }
        let tr = cpu.tr;
        // 32-bit or 64-bit TSS, large enough for the map's base
        if !tr.usable || tr.kind() & 0xD != 9 || tr.limit < 0x67 {
            return Err(self.fault(exception::GP));
        }
        let base = u16::from_le_bytes(self.system_load(tr.base.wrapping_add(0x66))?);
        let at = u32::from(base) + u32::from(port / 8);
        if at + 1 > tr.limit {
            return Err(self.fault(exception::GP));
        }
        let bits = u16::from_le_bytes(self.system_load(tr.base.wrapping_add(at.into()))?);
        let wanted = ((1u16 << size) - 1) << (port % 8);
        if bits & wanted != 0 { Err(self.fault(exception::GP)) } else { Ok(()) }
    }

    /// Reads a port; permission is checked already.
    pub fn port_in(&mut self, op: &Op, port: u16, size: u8) -> u32 {
        self.watch_port(port, size);
        let now = self.now(op);
        self.board.port_read(&mut self.ram, now, port, size)
    }

    /// Writes a port; permission is checked already.
    pub fn port_out(&mut self, op: &Op, port: u16, size: u8, value: u32) {
        self.watch_port(port, size);
        let now = self.now(op);
        self.board.port_write(&mut self.ram, now, port, size, value);
    }

    /// Calls the firmware with the registers of the program (a ROM stub).
    fn firmware_service(&mut self, op: &Op, number: u8) -> u64 {
        let now = self.now(op);
        let real_mode = self.cpu.real_segments();
        let mut registers = firmware::Registers {
            gpr: core::array::from_fn(|n| self.cpu.regs[n]),
            segments: core::array::from_fn(|n| self.cpu.segs[n].selector),
            ip: self.next_rip(op),
            flags: self.cpu.flags.get(),
            real_mode,
        };
        firmware::service(number, &mut registers, &mut self.ram, &mut self.board, now);
        self.cpu.regs[..8].copy_from_slice(&registers.gpr);
        self.cpu.flags.set(registers.flags);
        if real_mode {
            for (seg, selector) in self.cpu.segs.iter_mut().zip(registers.segments) {
                if seg.selector != selector {
                    seg.load_real(selector);
                }
            }
        }
        self.update_mode();
        registers.ip
    }
}

fn input<T: Int, const IMM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Event, |core, op| {
        let port = if IMM { op.imm as u16 & 0xFF } else { core.cpu.regs[RDX] as u16 };
        core.check_port(port, T::SIZE as u16)?;
        let v = core.port_in(op, port, T::SIZE as u8);
        T::set_reg(&mut core.cpu, RAX as u8, T::of(v.into()));
        Ok(core.next_rip(op))
    })
}

fn output<T: Int, const IMM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    let op = &ops[0];
    let port = if IMM { op.imm as u16 & 0xFF } else { core.cpu.regs[RDX] as u16 };
    if core.check_port(port, T::SIZE as u16).is_err() {
        return crate::op::trap(core, op);
    }
    let v = T::reg(&core.cpu, RAX as u8).zx() as u32;
    if port == firmware::SERVICE_PORT && T::BITS == 8 && core.cpu.cpl == 0 {
        let rip = core.firmware_service(op, v as u8);
        return leave(core, op, rip, Exit::Event);
    }
    core.port_out(op, port, T::SIZE as u8, v);
    let rip = core.next_rip(op);
    leave(core, op, rip, Exit::Event)
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction) -> Option<Handler> {
    let immediate = |n| i.op_kind(n) == OpKind::Immediate8;
    macro_rules! pick {
        ($f:ident, $size:expr, $imm:expr) => {
            match ($size, $imm) {
                (1, true) => $f::<u8, true>,
                (2, true) => $f::<u16, true>,
                (_, true) => $f::<u32, true>,
                (1, false) => $f::<u8, false>,
                (2, false) => $f::<u16, false>,
                (_, false) => $f::<u32, false>,
            }
        };
    }
    Some(match i.mnemonic() {
        Mnemonic::In => pick!(input, size_of(i, 0), immediate(1)),
        Mnemonic::Out => pick!(output, size_of(i, 1), immediate(0)),
        _ => return None,
    })
}
