//! Saving and restoring x87 and SSE state: FXSAVE, XSAVE and kin, and MXCSR (SDM 1 10.5, 13).

use crate::core::Core;
use crate::cpu::{RAX, RDX, cr4};
use crate::exception::{self, Trap};
use crate::mmu::By;
use crate::op::{Exit, Handler, Op, run};
use crate::softfloat::F80;
use iced_x86::{Instruction, Mnemonic};

/// Bits of MXCSR that exist.
pub const MXCSR_MASK: u32 = 0xffff;
const X87: u64 = 1;
const SSE: u64 = 2;
/// Where the XMM registers begin in the save area.
const XMM_AT: usize = 160;
/// Bytes of the legacy region, after which the XSAVE header begins.
const LEGACY: usize = 512;

impl Core {
    /// Loads MXCSR.
    ///
    /// # Errors
    /// #GP(0) for reserved bits.
    fn set_mxcsr(&mut self, value: u32) -> Result<(), Trap> {
        if value & !MXCSR_MASK != 0 {
            return Err(self.fault(exception::GP));
        }
        self.cpu.mxcsr = value;
        Ok(())
    }

    /// XMM registers that the mode can see.
    fn xmm_count(&self) -> usize {
        if self.mode.bits == 64 { 16 } else { 8 }
    }

    /// The x87 part of the save area: bytes 0 to 23 and 32 to 159.
    fn x87_image(&self, wide: bool) -> ([u8; 24], [u8; 128]) {
        let fpu = &self.cpu.fpu;
        let mut head = [0; 24];
        head[0..2].copy_from_slice(&fpu.control.to_le_bytes());
        head[2..4].copy_from_slice(&fpu.status.to_le_bytes());
        head[4] = fpu.valid;
        head[6..8].copy_from_slice(&fpu.fop.to_le_bytes());
        if wide {
            head[8..16].copy_from_slice(&fpu.fip.to_le_bytes());
            head[16..24].copy_from_slice(&fpu.fdp.to_le_bytes());
        } else {
            head[8..12].copy_from_slice(&(fpu.fip as u32).to_le_bytes());
            head[12..14].copy_from_slice(&fpu.fcs.to_le_bytes());
            head[16..20].copy_from_slice(&(fpu.fdp as u32).to_le_bytes());
            head[20..22].copy_from_slice(&fpu.fds.to_le_bytes());
        }
        let mut registers = [0; 128];
        for (i, to) in registers.chunks_exact_mut(16).enumerate() {
            to[..10].copy_from_slice(&fpu.st(i as u8).to_bytes());
        }
        (head, registers)
    }

    /// Takes the x87 state from a save area.
    fn set_x87_image(&mut self, area: &[u8; LEGACY], wide: bool) {
        let word = |at: usize| u16::from_le_bytes([area[at], area[at + 1]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 2)) << 16;
        let fpu = &mut self.cpu.fpu;
        fpu.status = word(2);
        for i in 0..8 {
            let at = 32 + 16 * usize::from(i);
            let bytes = area[at..at + 10].try_into().expect("ten bytes");
            fpu.set_st(i, F80::from_bytes(bytes));
        }
        fpu.valid = area[4];
        fpu.fop = word(6) & 0x7ff;
        fpu.fip = if wide { long(8) | long(12) << 32 } else { long(8) };
        fpu.fdp = if wide { long(16) | long(20) << 32 } else { long(16) };
        fpu.fcs = 0;
        fpu.fds = 0;
        fpu.set_control(word(0));
    }

    /// The visible XMM registers as bytes.
    fn xmm_image(&self) -> [u8; 256] {
        let mut bytes = [0; 256];
        for (to, register) in bytes.chunks_exact_mut(16).zip(&self.cpu.xmm) {
            to.copy_from_slice(&register.to_le_bytes());
        }
        bytes
    }

    /// Takes the visible XMM registers from a save area.
    fn set_xmm_image(&mut self, area: &[u8; LEGACY]) {
        let count = self.xmm_count();
        let from = area[XMM_AT..].chunks_exact(16);
        for (register, bytes) in self.cpu.xmm.iter_mut().take(count).zip(from) {
            *register = u128::from_le_bytes(bytes.try_into().expect("chunks of 16"));
        }
    }

    /// The linear address of a save area, aligned as it must be.
    fn save_area(&mut self, op: &Op, size: u64, align: u64, write: bool) -> Result<u64, Trap> {
        let la = self.ea_any(op, size, write)?;
        if la & (align - 1) != 0 {
            // With alignment checks in force #AC comes first (SDM 2A FXSAVE).
            self.check_alignment(la, 4)?;
            return Err(self.fault(exception::GP));
        }
        self.check_area(op, la, size, 1)?;
        if write || align == 16 {
            self.touch(op, la.wrapping_add(size - 1), write)?;
        }
        if write {
            self.probe_write(op, la, size)?;
        }
        Ok(la)
    }

    fn write_area(&mut self, la: u64, at: usize, bytes: &[u8]) -> Result<(), Trap> {
        self.write_linear(la.wrapping_add(at as u64), bytes, By::Program)
    }

    fn xsave_enabled(&mut self) -> Result<(), Trap> {
        if self.cpu.cr4 & cr4::OSXSAVE == 0 {
            return Err(self.fault(exception::UD));
        }
        Ok(())
    }

    /// The state components that EDX:EAX asks for.
    fn requested(&self) -> u64 {
        let (low, high) = (self.cpu.regs[RAX] as u32, self.cpu.regs[RDX] as u32);
        (u64::from(low) | u64::from(high) << 32) & self.cpu.xcr0
    }
}

fn fxsave<const WIDE: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_fpu()?;
        let la = core.save_area(op, LEGACY as u64, 16, true)?;
        save_components(core, la, X87 | SSE, WIDE)
    })
}

/// Writes the components of the legacy region that are asked for. The area has been probed.
fn save_components(core: &mut Core, la: u64, components: u64, wide: bool) -> Result<(), Trap> {
    if components & X87 != 0 {
        let (head, registers) = core.x87_image(wide);
        core.write_area(la, 0, &head)?;
        core.write_area(la, 32, &registers)?;
    }
    if components & SSE != 0 {
        let mut control = [0; 8];
        control[..4].copy_from_slice(&core.cpu.mxcsr.to_le_bytes());
        control[4..].copy_from_slice(&MXCSR_MASK.to_le_bytes());
        core.write_area(la, 24, &control)?;
        let size = 16 * core.xmm_count();
        let registers = core.xmm_image();
        core.write_area(la, XMM_AT, &registers[..size])?;
    }
    Ok(())
}

fn fxrstor<const WIDE: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_fpu()?;
        let la = core.save_area(op, LEGACY as u64, 16, false)?;
        let mut area = [0; LEGACY];
        core.read_linear(la, &mut area, By::Program)?;
        core.set_mxcsr(mxcsr_of(&area))?;
        core.set_x87_image(&area, WIDE);
        core.set_xmm_image(&area);
        Ok(())
    })
}

fn mxcsr_of(area: &[u8; LEGACY]) -> u32 {
    u32::from_le_bytes([area[24], area[25], area[26], area[27]])
}

/// XSAVE. Both components always count as in use.
fn xsave<const WIDE: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.xsave_enabled()?;
        core.check_fpu()?;
        let la = core.save_area(op, LEGACY as u64 + 64, 64, true)?;
        let components = core.requested();
        let mut present = [0; 8];
        core.read_linear(la.wrapping_add(LEGACY as u64), &mut present, By::Program)?;
        save_components(core, la, components, WIDE)?;
        let present = u64::from_le_bytes(present) & !components | components;
        core.write_area(la, LEGACY, &present.to_le_bytes())
    })
}

/// XRSTOR, in the standard form: the compacted one is not offered.
fn xrstor<const WIDE: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.xsave_enabled()?;
        core.check_fpu()?;
        let la = core.save_area(op, LEGACY as u64 + 64, 64, false)?;
        let components = core.requested();
        let mut area = [0; LEGACY];
        let mut header = [0; 64];
        // The word that must be zero is read first, and checked only after the legacy region.
        core.touch(op, la.wrapping_add(LEGACY as u64 + 8), false)?;
        if components != 0 {
            let first = if components & X87 != 0 { 0 } else { 24 };
            core.touch(op, la.wrapping_add(first), false)?;
        }
        core.read_linear(la.wrapping_add(LEGACY as u64), &mut header, By::Program)?;
        let (present, reserved) = header[..24].split_at(8);
        let present = u64::from_le_bytes(present.try_into().expect("eight bytes"));
        if present & !core.cpu.xcr0 != 0 || reserved.iter().any(|byte| *byte != 0) {
            return Err(core.fault(exception::GP));
        }
        core.read_linear(la, &mut area, By::Program)?;
        if components & SSE != 0 {
            core.set_mxcsr(mxcsr_of(&area))?;
            if present & SSE == 0 {
                area[XMM_AT..XMM_AT + 256].fill(0);
            }
            core.set_xmm_image(&area);
        }
        if components & X87 != 0 {
            if present & X87 != 0 {
                core.set_x87_image(&area, WIDE);
            } else {
                core.cpu.fpu.init();
                core.cpu.fpu.significand = [0; 8];
                core.cpu.fpu.sign_exponent = [0; 8];
            }
        }
        Ok(())
    })
}

fn ldmxcsr(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        let value = core.read_mem::<u32, 1>(op)?;
        core.set_mxcsr(value)
    })
}

fn stmxcsr(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        let value = core.cpu.mxcsr;
        core.write_mem::<u32, 1>(op, value)
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    Some(match i.mnemonic() {
        M::Fxsave => fxsave::<false>,
        M::Fxsave64 => fxsave::<true>,
        M::Fxrstor => fxrstor::<false>,
        M::Fxrstor64 => fxrstor::<true>,
        M::Xsave => xsave::<false>,
        M::Xsave64 => xsave::<true>,
        M::Xrstor => xrstor::<false>,
        M::Xrstor64 => xrstor::<true>,
        M::Ldmxcsr => ldmxcsr,
        M::Stmxcsr => stmxcsr,
        _ => return None,
    })
}
