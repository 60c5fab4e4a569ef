//! The string comparisons and the checksum of SSE4.2.

use super::int::Int;
use super::sse::{Bank, Xmm, in_memory};
use crate::core::Core;
use crate::cpu::{RAX, RCX, RDX, flags};
use crate::op::{Exit, Handler, Op, run};
use crate::simd::{crc32, strings};
use crate::sized;
use iced_x86::{Code, Instruction, Mnemonic};

/// PCMPISTRI, PCMPISTRM, PCMPESTRI (`EXPLICIT`) and PCMPESTRM; the memory operand need not be
/// aligned.
fn compare<const EXPLICIT: bool, const WIDE: bool, const MASK: bool, const MEMORY: bool>(
    core: &mut Core,
    ops: &[Op],
) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        let b = if MEMORY { core.load_part::<16, 1>(op)? } else { Xmm::get(core, op.regs[1]) };
        let (a, imm) = (Xmm::get(core, op.regs[0]), op.imm as u8);
        let length =
            |register: u64| if WIDE { register as i64 } else { i64::from(register as i32) };
        let found = if EXPLICIT {
            let (m, n) = (length(core.cpu.regs[RAX]), length(core.cpu.regs[RDX]));
            strings::explicit_length(a, m, b, n, imm)
        } else {
            strings::implicit_length(a, b, imm)
        };
        if MASK {
            Xmm::set(core, 0, found.mask(imm));
        } else {
            core.cpu.regs[RCX] = found.index(imm).into();
        }
        let flag = |holds: bool, flag: u64| if holds { flag } else { 0 };
        core.cpu.flags.set_status(
            flag(found.carry(), flags::CF)
                | flag(found.zero, flags::ZF)
                | flag(found.sign, flags::SF)
                | flag(found.overflow(), flags::OF),
        );
        Ok(())
    })
}

/// CRC32 of an operand of type `T`. It needs no SSE state.
fn checksum<T: Int, const MEMORY: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let data = if MEMORY { core.read_mem::<T, 1>(op)? } else { T::reg(&core.cpu, op.regs[1]) };
        let to = usize::from(op.regs[0] & 31);
        let crc = crc32::crc32(core.cpu.regs[to] as u32, data.zx(), T::SIZE as u32);
        core.cpu.regs[to] = crc.into();
        Ok(())
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, _address: u8) -> Option<Handler> {
    let memory = in_memory(i, 1);
    macro_rules! forms {
        ($explicit:literal, $wide:literal, $mask:literal) => {
            if memory {
                compare::<$explicit, $wide, $mask, true>
            } else {
                compare::<$explicit, $wide, $mask, false>
            }
        };
    }
    Some(match i.code() {
        Code::Pcmpistri_xmm_xmmm128_imm8 => forms!(false, false, false),
        Code::Pcmpistrm_xmm_xmmm128_imm8 => forms!(false, false, true),
        Code::Pcmpestri_xmm_xmmm128_imm8 => forms!(true, false, false),
        Code::Pcmpestrm_xmm_xmmm128_imm8 => forms!(true, false, true),
        Code::Pcmpestri64_xmm_xmmm128_imm8 => forms!(true, true, false),
        Code::Pcmpestrm64_xmm_xmmm128_imm8 => forms!(true, true, true),
        _ if i.mnemonic() == Mnemonic::Crc32 => match memory {
            false => sized!(super::size_of(i, 1), checksum, false),
            true => sized!(super::size_of(i, 1), checksum, true),
        },
        _ => return None,
    })
}
