//! x87 control: environment, state, tags and the top of the stack.

use super::x87::{C1, EXCEPTION_BITS, SF};
use crate::core::Core;
use crate::cpu::{Fpu, cr0};
use crate::exception::{self, Trap};
use crate::mmu::By;
use crate::op::{Exit, Handler, Op, run};
use crate::softfloat::F80;
use iced_x86::{Code, Instruction, Mnemonic};

/// The bits of the control word that can be changed; bit 6 is always set.
const CONTROL_BITS: u16 = 0x1f3f;

impl Fpu {
    /// Loads the control word.
    pub fn set_control(&mut self, value: u16) {
        self.control = value & CONTROL_BITS | 0x40;
        self.update_summary();
    }
}

impl Core {
    /// Faults as an access to one byte would. Large areas are touched where processors touch them
    /// first, so that CR2 is theirs.
    pub fn touch(&mut self, op: &Op, la: u64, write: bool) -> Result<(), Trap> {
        if write {
            self.probe_write(op, la, 1)
        } else {
            self.read_linear(la, &mut [0], By::Program)
        }
    }

    /// Brings FERR# in line with the exception summary.
    fn update_ferr(&mut self, op: &Op) {
        if self.cpu.cr0 & cr0::NE == 0 {
            let now = self.now(op);
            let pending = self.cpu.fpu.status & super::x87::ES != 0;
            self.board.set_ferr(now, pending);
        }
    }
}

/// FNOP, and what the 8087 and the 80287 had instead of it.
fn no_operation(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| core.begin_x87())
}

/// FNENI, FNDISI and FNSETPM do nothing, not even wait.
fn obsolete(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| core.check_fpu())
}

/// WAIT: #NM only with both CR0.MP and CR0.TS.
fn wait(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        if core.cpu.cr0 & (cr0::MP | cr0::TS) == cr0::MP | cr0::TS {
            return Err(core.fault(exception::NM));
        }
        if core.cpu.fpu.status & super::x87::ES != 0 {
            return core.pending_x87();
        }
        Ok(())
    })
}

fn init(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_fpu()?;
        core.cpu.fpu.init();
        core.update_ferr(op);
        Ok(())
    })
}

fn clear_exceptions(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_fpu()?;
        core.cpu.fpu.status &= !(EXCEPTION_BITS | SF);
        core.cpu.fpu.update_summary();
        core.update_ferr(op);
        Ok(())
    })
}

fn load_control(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        let la = core.ea_any(op, 2, false)?;
        let control = u16::from_le_bytes(core.load(op, la)?);
        core.cpu.fpu.set_control(control);
        core.update_ferr(op);
        Ok(())
    })
}

/// FNSTCW, and FNSTSW to memory (`STATUS`).
fn store_word<const STATUS: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_fpu()?;
        let la = core.ea_any(op, 2, true)?;
        let word = if STATUS { core.cpu.fpu.status } else { core.cpu.fpu.control };
        core.store(op, la, word.to_le_bytes())
    })
}

/// FNSTSW AX.
fn store_status_ax(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        core.check_fpu()?;
        let ax = &mut core.cpu.regs[crate::cpu::RAX];
        *ax = *ax & !0xffff | u64::from(core.cpu.fpu.status);
        Ok(())
    })
}

/// FFREE and the undocumented FFREEP, which pops as well.
fn free<const POP: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        let fpu = &mut core.cpu.fpu;
        fpu.status &= !C1;
        fpu.valid &= !(1 << fpu.physical(op.regs[0]));
        if POP {
            fpu.pop();
        }
        Ok(())
    })
}

/// FINCSTP and FDECSTP.
fn rotate<const BY: u16>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        core.note_x87(op);
        core.cpu.fpu.status &= !C1;
        core.cpu.fpu.rotate(BY);
        Ok(())
    })
}

/// Bytes of the environment in memory: seven words or doublewords.
const fn environment_size(wide: bool) -> usize {
    if wide { 28 } else { 14 }
}

/// The environment as FNSTENV stores it (SDM 1 figures 8-9 to 8-12).
fn environment(core: &Core, wide: bool) -> [u8; 28] {
    let fpu = &core.cpu.fpu;
    let (fip, fdp) = (fpu.fip as u32, fpu.fdp as u32);
    let fop = u32::from(fpu.fop);
    let unused = 0xffff_0000;
    let head = [fpu.control, fpu.status, fpu.tags()].map(|word| unused | u32::from(word));
    let tail = match (core.cpu.real_segments(), wide) {
        (true, true) => [
            unused | fip & 0xffff,
            (fip >> 16) << 12 | fop,
            unused | fdp & 0xffff,
            (fdp >> 16) << 12,
        ],
        (true, false) => [fip, (fip >> 16 & 15) << 12 | fop, fdp, (fdp >> 16 & 15) << 12],
        (false, true) => [fip, fop << 16 | u32::from(fpu.fcs), fdp, unused | u32::from(fpu.fds)],
        (false, false) => [fip, fpu.fcs.into(), fdp, fpu.fds.into()],
    };
    let mut bytes = [0; 28];
    let size = if wide { 4 } else { 2 };
    for (to, word) in bytes.chunks_exact_mut(size).zip(head.into_iter().chain(tail)) {
        to.copy_from_slice(&word.to_le_bytes()[..size]);
    }
    bytes
}

/// Loads the environment.
fn set_environment(core: &mut Core, bytes: &[u8], wide: bool) {
    let word = |i: usize| {
        if wide {
            u32::from_le_bytes([0, 1, 2, 3].map(|j| bytes[4 * i + j]))
        } else {
            u32::from(u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]))
        }
    };
    let real = core.cpu.real_segments();
    let fpu = &mut core.cpu.fpu;
    fpu.status = word(1) as u16;
    fpu.set_tags(word(2) as u16);
    if real {
        fpu.fip = u64::from(word(3) & 0xffff | (word(4) >> 12) << 16);
        fpu.fop = word(4) as u16 & 0x7ff;
        fpu.fdp = u64::from(word(5) & 0xffff | (word(6) >> 12) << 16);
    } else {
        fpu.fip = word(3).into();
        if wide {
            fpu.fop = (word(4) >> 16) as u16 & 0x7ff;
        }
        fpu.fdp = word(5).into();
    }
    fpu.fcs = 0;
    fpu.fds = 0;
    fpu.set_control(word(0) as u16);
}

/// The linear address of an area of words or doublewords that the instruction reads or writes.
fn area(core: &mut Core, op: &Op, size: usize, wide: bool, write: bool) -> Result<u64, Trap> {
    let la = core.ea_any(op, size as u64, write)?;
    core.check_area(op, la, size as u64, if wide { 4 } else { 2 })?;
    // The first item is touched first, then the last byte.
    let item = if wide { 4 } else { 2 };
    let end = la.wrapping_add(item - 1);
    if (la ^ end) >> 12 != 0 {
        core.touch(op, la, write)?;
        core.touch(op, end & !0xfff, write)?;
    }
    for at in [la, la.wrapping_add(size as u64 - 1)] {
        core.touch(op, at, write)?;
    }
    Ok(la)
}

fn store_environment<const WIDE: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_fpu()?;
        let size = environment_size(WIDE);
        let la = area(core, op, size, WIDE, true)?;
        let bytes = environment(core, WIDE);
        core.write_linear(la, &bytes[..size], By::Program)?;
        // All exceptions are masked from here on.
        let control = core.cpu.fpu.control | EXCEPTION_BITS;
        core.cpu.fpu.set_control(control);
        core.update_ferr(op);
        Ok(())
    })
}

fn load_environment<const WIDE: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        let size = environment_size(WIDE);
        let la = area(core, op, size, WIDE, false)?;
        let mut bytes = [0; 28];
        core.read_linear(la, &mut bytes[..size], By::Program)?;
        set_environment(core, &bytes, WIDE);
        core.update_ferr(op);
        Ok(())
    })
}

/// Bytes of the whole state: the environment and eight registers.
const fn state_size(wide: bool) -> usize {
    environment_size(wide) + 80
}

/// FNSAVE: the state, then FNINIT.
fn save<const WIDE: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_fpu()?;
        let size = state_size(WIDE);
        let la = area(core, op, size, WIDE, true)?;
        let head = environment_size(WIDE);
        let mut bytes = [0; 108];
        bytes[..head].copy_from_slice(&environment(core, WIDE)[..head]);
        for i in 0..8 {
            let at = head + 10 * usize::from(i);
            bytes[at..at + 10].copy_from_slice(&core.cpu.fpu.st(i).to_bytes());
        }
        core.write_linear(la, &bytes[..size], By::Program)?;
        core.cpu.fpu.init();
        core.update_ferr(op);
        Ok(())
    })
}

fn restore<const WIDE: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_x87()?;
        let size = state_size(WIDE);
        let la = area(core, op, size, WIDE, false)?;
        let mut bytes = [0; 108];
        core.read_linear(la, &mut bytes[..size], By::Program)?;
        let head = environment_size(WIDE);
        set_environment(core, &bytes, WIDE);
        let fpu = &mut core.cpu.fpu;
        let valid = fpu.valid;
        for (i, register) in bytes[head..size].chunks_exact(10).enumerate() {
            let register = register.try_into().expect("chunks of 10");
            fpu.set_st(i as u8, F80::from_bytes(register));
        }
        fpu.valid = valid;
        core.update_ferr(op);
        Ok(())
    })
}

/// EMMS: all registers are empty, TOP is 0.
fn empty(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, _| {
        core.begin_mmx()?;
        core.enter_mmx();
        core.cpu.fpu.valid = 0;
        Ok(())
    })
}

impl Core {
    /// Checks that an MMX instruction may run: #UD for CR0.EM, #NM for CR0.TS, #MF.
    #[inline(always)]
    pub fn begin_mmx(&mut self) -> Result<(), Trap> {
        if self.fpu_blocked {
            let vector = if self.cpu.cr0 & cr0::EM != 0 { exception::UD } else { exception::NM };
            return Err(self.fault(vector));
        }
        if self.cpu.fpu.status & super::x87::ES != 0 {
            return self.pending_x87();
        }
        Ok(())
    }
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, _address: u8) -> Option<Handler> {
    use Mnemonic as M;
    let wide = !matches!(
        i.code(),
        Code::Fldenv_m14byte | Code::Fnstenv_m14byte | Code::Frstor_m94byte | Code::Fnsave_m94byte
    );
    Some(match (i.mnemonic(), wide) {
        (M::Fnop, _) => no_operation,
        (M::Fneni | M::Fndisi | M::Fnsetpm, _) => obsolete,
        (M::Wait, _) => wait,
        (M::Fninit, _) => init,
        (M::Fnclex, _) => clear_exceptions,
        (M::Fldcw, _) => load_control,
        (M::Fnstcw, _) => store_word::<false>,
        (M::Fnstsw, _) if i.code() == Code::Fnstsw_AX => store_status_ax,
        (M::Fnstsw, _) => store_word::<true>,
        (M::Ffree, _) => free::<false>,
        (M::Ffreep, _) => free::<true>,
        (M::Fincstp, _) => rotate::<1>,
        (M::Fdecstp, _) => rotate::<7>,
        (M::Fnstenv, true) => store_environment::<true>,
        (M::Fnstenv, false) => store_environment::<false>,
        (M::Fldenv, true) => load_environment::<true>,
        (M::Fldenv, false) => load_environment::<false>,
        (M::Fnsave, true) => save::<true>,
        (M::Fnsave, false) => save::<false>,
        (M::Frstor, true) => restore::<true>,
        (M::Frstor, false) => restore::<false>,
        (M::Emms, _) => empty,
        _ => return None,
    })
}
