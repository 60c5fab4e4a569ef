//! INT n, INT3, INTO, INT1, BOUND, SYSCALL, SYSRET, SYSENTER, SYSEXIT.

use super::int::Int;
use super::transfer::transfer;
use super::{Context, operand_size};
use crate::core::{Core, canonical};
use crate::cpu::flags::{IF, RF, TF, VM};
use crate::cpu::{CS, RCX, RDX, RSP, SS, Segment, efer};
use crate::exception::{self, Trap};
use crate::interrupt::{Event, Source};
use crate::op::{Exit, Handler, Op, run, run_last};
use crate::sized;
use iced_x86::{Instruction, Mnemonic};

fn deliver(core: &mut Core, op: &Op, vector: u8, source: Source) -> Result<u64, Trap> {
    let rip = core.next_rip(op);
    core.deliver(Event { vector, source, code: None, rip, rf: false })?;
    Ok(core.cpu.rip)
}

fn int_n(core: &mut Core, ops: &[Op]) -> Exit {
    transfer(core, ops, |core, op| deliver(core, op, op.imm as u8, Source::Software))
}

fn int3(core: &mut Core, ops: &[Op]) -> Exit {
    transfer(core, ops, |core, op| deliver(core, op, exception::BP, Source::Breakpoint))
}

fn int1(core: &mut Core, ops: &[Op]) -> Exit {
    transfer(core, ops, |core, op| {
        let rip = deliver(core, op, exception::DB, Source::Exception)?;
        core.cpu.dr[7] &= !(1 << 13);
        Ok(rip)
    })
}

fn into(core: &mut Core, ops: &[Op]) -> Exit {
    transfer(core, ops, |core, op| {
        if core.cpu.flags.of() {
            return deliver(core, op, exception::OF, Source::Breakpoint);
        }
        Ok(core.next_rip(op))
    })
}

fn bound<T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let la = core.ea_any(op, 2 * T::SIZE, false)?;
        let low = T::load(core, op, la)?.sx() as i64;
        let index = T::reg(&core.cpu, op.regs[0]).sx() as i64;
        if index < low {
            return Err(core.fault(exception::BR));
        }
        let high = T::load(core, op, la.wrapping_add(T::SIZE))?.sx() as i64;
        if index > high {
            return Err(core.fault(exception::BR));
        }
        Ok(())
    })
}

/// A flat segment as SYSCALL and its kind load it (SDM 2B): base 0, limit 4 GiB.
fn flat(selector: u16, code: bool, dpl: u8, long: bool) -> Segment {
    let kind = if code { 0xB } else { 0x3 };
    let mode = if !code || !long { 0xC000 } else { 0xA000 };
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        access: 0x90 | kind | u16::from(dpl) << 5 | mode,
        usable: true,
    }
}

fn set_level(core: &mut Core, cpl: u8, cs: u16, ss: u16, long: bool) {
    core.cpu.segs[CS] = flat(cs, true, cpl, long);
    core.cpu.segs[SS] = flat(ss, false, cpl, false);
    core.cpu.cpl = cpl;
    core.update_mode();
}

/// SYSCALL and SYSRET trap by the TF that they leave, not by the one that they found, so that a
/// kernel whose IA32_FMASK clears TF is entered without a trap and returns into one.
fn trap_if_set(core: &mut Core) {
    core.single_step = false;
    if core.cpu.flags.system & TF != 0 {
        core.cpu.pending_debug |= 1 << 14;
    }
}

fn syscall(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Event, |core, op| {
        if core.mode.bits != 64 || core.cpu.efer & efer::SCE == 0 {
            return Err(core.fault(exception::UD));
        }
        let flags = core.cpu.flags.get();
        core.cpu.regs[RCX] = core.next_rip(op);
        core.cpu.regs[11] = flags & !RF;
        let m = &core.cpu.msrs;
        let (target, mask, cs) = (m.lstar, m.sfmask, (m.star >> 32) as u16 & 0xFFFC);
        core.cpu.flags.set(flags & !mask & !RF);
        set_level(core, 0, cs, cs.wrapping_add(8), true);
        trap_if_set(core);
        Ok(target)
    })
}

/// SYSRET; `WIDE` with REX.W: to 64-bit mode.
fn sysret<const WIDE: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Event, |core, _| {
        if core.mode.bits != 64 || core.cpu.efer & efer::SCE == 0 {
            return Err(core.fault(exception::UD));
        }
        core.privileged()?;
        let rip = core.cpu.regs[RCX];
        if WIDE && !canonical(rip) {
            return Err(core.fault(exception::GP));
        }
        let flags = core.cpu.regs[11] & !(RF | VM);
        let base = (core.cpu.msrs.star >> 48) as u16;
        let cs = base.wrapping_add(if WIDE { 16 } else { 0 }) | 3;
        core.cpu.flags.set(flags);
        trap_if_set(core);
        set_level(core, 3, cs, base.wrapping_add(8) | 3, WIDE);
        Ok(if WIDE { rip } else { rip & 0xFFFF_FFFF })
    })
}

fn sysenter(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Event, |core, _| {
        let m = &core.cpu.msrs;
        let (cs, sp, ip) = (m.sysenter_cs as u16 & 0xFFFC, m.sysenter_esp, m.sysenter_eip);
        if !core.cpu.protected() || cs == 0 {
            return Err(core.fault(exception::GP));
        }
        core.cpu.flags.system &= !(VM | IF | RF);
        let long = core.cpu.long_mode();
        core.cpu.regs[RSP] = if long { sp } else { sp & 0xFFFF_FFFF };
        set_level(core, 0, cs, cs.wrapping_add(8), long);
        Ok(if long { ip } else { ip & 0xFFFF_FFFF })
    })
}

fn sysexit<const WIDE: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run_last(core, ops, Exit::Event, |core, _| {
        let cs = core.cpu.msrs.sysenter_cs as u16 & 0xFFFC;
        if !core.cpu.protected() || core.cpu.v86() || cs == 0 {
            return Err(core.fault(exception::GP));
        }
        core.privileged()?;
        let (sp, ip) = (core.cpu.regs[RCX], core.cpu.regs[RDX]);
        if WIDE && !(canonical(sp) && canonical(ip)) {
            return Err(core.fault(exception::GP));
        }
        core.cpu.regs[RSP] = if WIDE { sp } else { sp & 0xFFFF_FFFF };
        let base = if WIDE { cs.wrapping_add(32) } else { cs.wrapping_add(16) };
        set_level(core, 3, base | 3, base.wrapping_add(8) | 3, WIDE);
        Ok(if WIDE { ip } else { ip & 0xFFFF_FFFF })
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, _context: Context) -> Option<Handler> {
    use iced_x86::Code;
    Some(match i.mnemonic() {
        Mnemonic::Int => int_n,
        Mnemonic::Int3 => int3,
        Mnemonic::Int1 => int1,
        Mnemonic::Into => into,
        Mnemonic::Bound => sized!(operand_size(i), bound),
        Mnemonic::Syscall => syscall,
        Mnemonic::Sysret => sysret::<false>,
        Mnemonic::Sysretq => sysret::<true>,
        Mnemonic::Sysenter => sysenter,
        Mnemonic::Sysexit => match i.code() {
            Code::Sysexitq => sysexit::<true>,
            _ => sysexit::<false>,
        },
        Mnemonic::Sysexitq => sysexit::<true>,
        _ => return None,
    })
}
