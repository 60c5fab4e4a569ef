//! Moves between MMX, XMM and general registers and memory, whole or in part.

use super::int::Int;
use super::sse::{Bank, Mmx, Xmm, in_memory, narrow, vector};
use crate::core::Core;
use crate::cpu::RDI;
use crate::op::{Exit, Handler, Op, next, run};
use crate::simd::{arith, shuffle};
use iced_x86::{Code, Instruction, Mnemonic};

const LOW: u128 = u64::MAX as u128;
const LOW_32: u128 = u32::MAX as u128;

/// Stores a whole XMM register, aligned.
fn store_aligned<const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    if A == 0 && !core.sse_blocked {
        let la = core.wide(&ops[0]);
        let value = Xmm::get(core, ops[0].regs[1]);
        if la & 15 == 0
            && let Some(place) = core.store_fast(la)
        {
            *place = value.to_le_bytes();
            return next(core, ops);
        }
    }
    store_aligned_slow::<A>(core, ops)
}

#[inline(never)]
fn store_aligned_slow<const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        let value = Xmm::get(core, op.regs[1]);
        core.store_aligned::<A>(op, value)
    })
}

/// Stores `N` bytes of a register from byte `FROM` on.
fn store<B: Bank, const N: usize, const FROM: u32, const A: u8>(
    core: &mut Core,
    ops: &[Op],
) -> Exit {
    if A == 0 && B::READY && !core.sse_blocked {
        let value = B::get(core, ops[0].regs[1]) >> (8 * FROM);
        if let Some(place) = core.store_fast::<N>(core.wide(&ops[0])) {
            *place = narrow::<N>(value);
            return next(core, ops);
        }
    }
    store_slow::<B, N, FROM, A>(core, ops)
}

#[inline(never)]
fn store_slow<B: Bank, const N: usize, const FROM: u32, const A: u8>(
    core: &mut Core,
    ops: &[Op],
) -> Exit {
    run(core, ops, |core, op| {
        B::begin(core)?;
        let value = B::get(core, op.regs[1]) >> (8 * FROM);
        B::prepare_store(core);
        core.store_part::<N, A>(op, value)?;
        B::touch(core);
        Ok(())
    })
}

macro_rules! store {
    ($address:expr, $bank:ident, $n:literal, $from:literal) => {
        if $address == 0 { store::<$bank, $n, $from, 0> } else { store::<$bank, $n, $from, 1> }
    };
}

/// MOVD and MOVQ from a general register.
fn from_general<B: Bank, T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        B::begin(core)?;
        let value = T::reg(&core.cpu, op.regs[1]).zx();
        B::set(core, op.regs[0], value.into());
        Ok(())
    })
}

/// MOVD and MOVQ to a general register.
fn to_general<B: Bank, T: Int>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        B::begin(core)?;
        let value = B::get(core, op.regs[1]) as u64;
        B::touch(core);
        T::set_reg(&mut core.cpu, op.regs[0], T::of(value));
        Ok(())
    })
}

/// MOVNTI: an ordinary store here, and no use of SSE state.
fn store_general<T: Int, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let value = T::reg(&core.cpu, op.regs[1]);
        core.write_mem::<T, A>(op, value)
    })
}

/// MOVQ2DQ.
fn mmx_to_xmm(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        core.begin_mmx()?;
        let value = Mmx::get(core, op.regs[1]);
        core.enter_mmx();
        Xmm::set(core, op.regs[0], value);
        Ok(())
    })
}

/// MOVDQ2Q.
fn xmm_to_mmx(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        core.begin_mmx()?;
        let value = Xmm::get(core, op.regs[1]);
        Mmx::set(core, op.regs[0], value);
        Ok(())
    })
}

/// MOVMSKPS, MOVMSKPD and PMOVMSKB.
fn sign_mask<const WIDTH: u32>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        let value = Xmm::get(core, op.regs[1]);
        let mask = match WIDTH {
            8 => arith::pmovmskb(value),
            32 => arith::movmskps(value),
            _ => arith::movmskpd(value),
        };
        core.cpu.regs[usize::from(op.regs[0] & 31)] = mask.into();
        Ok(())
    })
}

/// MASKMOVDQU and MASKMOVQ: the bytes whose mask is negative, to DS:rDI. The whole operand must be
/// writable, whatever the mask; its upper half is looked at first.
fn store_masked<B: Bank, const HALVES: u64>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        B::begin(core)?;
        let (value, mask) = (B::get(core, op.regs[1]), B::get(core, op.regs[2]));
        B::touch(core);
        let chosen = arith::pmovmskb(mask);
        let offset = core.cpu.regs[RDI];
        let address = |i: u64| offset.wrapping_add(i) & op.address_mask();
        for half in (0..HALVES).rev() {
            let la = core.linear(usize::from(op.seg), address(8 * half), 8, true)?;
            core.check_area(op, la, 8, 8)?;
            core.probe_write(op, la, 1)?;
            let last = la.wrapping_add(7);
            core.probe_write(op, if (la ^ last) >> 12 != 0 { last & !0xfff } else { last }, 1)?;
        }
        let bytes = value.to_le_bytes();
        for i in (0..8 * HALVES).filter(|i| chosen >> i & 1 != 0) {
            let la = core.linear(usize::from(op.seg), address(i), 1, true)?;
            core.store(op, la, [bytes[i as usize]])?;
        }
        Ok(())
    })
}

/// PEXTRB, PEXTRW, PEXTRD, PEXTRQ and EXTRACTPS to a general register.
fn extract<B: Bank, const WIDTH: u32, const INDEXES: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        B::begin(core)?;
        let index = op.imm as u8 & (INDEXES - 1);
        let value = shuffle::extract(B::get(core, op.regs[1]), WIDTH, index);
        B::touch(core);
        core.cpu.regs[usize::from(op.regs[0] & 31)] = value;
        Ok(())
    })
}

/// The same to memory: `N` bytes.
fn extract_store<const N: usize>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        let value = shuffle::extract(Xmm::get(core, op.regs[1]), 8 * N as u32, op.imm as u8);
        core.store_part::<N, 1>(op, value.into())
    })
}

/// PINSRB, PINSRW, PINSRD and PINSRQ from a general register or memory.
fn insert<B: Bank, const N: usize, const INDEXES: u8, const MEMORY: bool>(
    core: &mut Core,
    ops: &[Op],
) -> Exit {
    run(core, ops, |core, op| {
        B::begin(core)?;
        let value = if MEMORY {
            core.load_part::<N, 1>(op)? as u64
        } else {
            core.cpu.regs[usize::from(op.regs[1] & 31)] & u64::MAX >> (64 - 8 * N)
        };
        let index = op.imm as u8 & (INDEXES - 1);
        let a = B::get(core, op.regs[0]);
        B::set(core, op.regs[0], shuffle::insert(a, 8 * N as u32, value, index));
        Ok(())
    })
}

/// INSERTPS.
fn insert_single<const MEMORY: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        let (b, imm) = if MEMORY {
            (core.load_part::<4, 1>(op)?, op.imm as u8 & 0x3f)
        } else {
            (Xmm::get(core, op.regs[1]), op.imm as u8)
        };
        let a = Xmm::get(core, op.regs[0]);
        Xmm::set(core, op.regs[0], shuffle::insertps(a, b, imm));
        Ok(())
    })
}

fn whole(i: &Instruction, a: u8) -> Option<Handler> {
    use Mnemonic as M;
    Some(match i.mnemonic() {
        M::Movaps | M::Movapd | M::Movdqa | M::Movntps | M::Movntpd | M::Movntdq
            if in_memory(i, 0) =>
        {
            if a == 0 {
                store_aligned::<0>
            } else {
                store_aligned::<1>
            }
        }
        M::Movaps | M::Movapd | M::Movdqa | M::Movntdqa => {
            vector!(select::<Xmm>(i, a), |_, b| b)
        }
        M::Movups | M::Movupd | M::Movdqu if in_memory(i, 0) => store!(a, Xmm, 16, 0),
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => {
            vector!(select_part::<Xmm, 16>(i, a), |_, b| b)
        }
        M::Movntq => store!(a, Mmx, 8, 0),
        M::Movsldup => vector!(select::<Xmm>(i, a), |_, b| shuffle::movsldup(b)),
        M::Movshdup => vector!(select::<Xmm>(i, a), |_, b| shuffle::movshdup(b)),
        M::Movddup => vector!(select_part::<Xmm, 8>(i, a), |_, b| shuffle::movddup(b)),
        M::Movmskps => sign_mask::<32>,
        M::Movmskpd => sign_mask::<64>,
        M::Pmovmskb if i.op1_register().is_xmm() => sign_mask::<8>,
        M::Maskmovdqu => store_masked::<Xmm, 2>,
        M::Maskmovq => store_masked::<Mmx, 1>,
        M::Movq2dq => mmx_to_xmm,
        M::Movdq2q => xmm_to_mmx,
        _ => return None,
    })
}

fn halves(i: &Instruction, a: u8) -> Option<Handler> {
    use Mnemonic as M;
    Some(match i.mnemonic() {
        M::Movlps | M::Movlpd if in_memory(i, 0) => store!(a, Xmm, 8, 0),
        M::Movlps | M::Movlpd => {
            vector!(select_part::<Xmm, 8>(i, a), |a, b| a & !LOW | b & LOW)
        }
        M::Movhps | M::Movhpd if in_memory(i, 0) => store!(a, Xmm, 8, 8),
        M::Movhps | M::Movhpd | M::Movlhps => {
            vector!(select_part::<Xmm, 8>(i, a), |a, b| shuffle::movlhps(a, b))
        }
        M::Movhlps => vector!(select::<Xmm>(i, a), |a, b| shuffle::movhlps(a, b)),
        _ => return None,
    })
}

fn scalars(i: &Instruction, a: u8) -> Option<Handler> {
    Some(match i.code() {
        Code::Movss_xmm_xmmm32 if in_memory(i, 1) => {
            vector!(select_part::<Xmm, 4>(i, a), |_, b| b)
        }
        Code::Movss_xmmm32_xmm if in_memory(i, 0) => store!(a, Xmm, 4, 0),
        Code::Movss_xmm_xmmm32 | Code::Movss_xmmm32_xmm => {
            vector!(select::<Xmm>(i, a), |a, b| a & !LOW_32 | b & LOW_32)
        }
        Code::Movsd_xmm_xmmm64 if in_memory(i, 1) => {
            vector!(select_part::<Xmm, 8>(i, a), |_, b| b)
        }
        Code::Movsd_xmmm64_xmm if in_memory(i, 0) => store!(a, Xmm, 8, 0),
        Code::Movsd_xmm_xmmm64 | Code::Movsd_xmmm64_xmm => {
            vector!(select::<Xmm>(i, a), |a, b| a & !LOW | b & LOW)
        }
        Code::Movq_xmmm64_xmm if in_memory(i, 0) => store!(a, Xmm, 8, 0),
        Code::Movq_xmm_xmmm64 | Code::Movq_xmmm64_xmm => {
            vector!(select_part::<Xmm, 8>(i, a), |_, b| b & LOW)
        }
        Code::Movq_mmm64_mm if in_memory(i, 0) => store!(a, Mmx, 8, 0),
        Code::Movq_mm_mmm64 | Code::Movq_mmm64_mm => vector!(select::<Mmx>(i, a), |_, b| b),
        _ => return None,
    })
}

fn general(i: &Instruction, a: u8) -> Option<Handler> {
    Some(match i.code() {
        Code::Movd_xmm_rm32 if in_memory(i, 1) => {
            vector!(select_part::<Xmm, 4>(i, a), |_, b| b)
        }
        Code::Movq_xmm_rm64 if in_memory(i, 1) => {
            vector!(select_part::<Xmm, 8>(i, a), |_, b| b)
        }
        Code::Movd_mm_rm32 if in_memory(i, 1) => {
            vector!(select_part::<Mmx, 4>(i, a), |_, b| b)
        }
        Code::Movq_mm_rm64 if in_memory(i, 1) => {
            vector!(select_part::<Mmx, 8>(i, a), |_, b| b)
        }
        Code::Movd_xmm_rm32 => from_general::<Xmm, u32>,
        Code::Movq_xmm_rm64 => from_general::<Xmm, u64>,
        Code::Movd_mm_rm32 => from_general::<Mmx, u32>,
        Code::Movq_mm_rm64 => from_general::<Mmx, u64>,
        Code::Movnti_m32_r32 => store_general::<u32, 1>,
        Code::Movnti_m64_r64 => store_general::<u64, 1>,
        Code::Movd_rm32_xmm if in_memory(i, 0) => store!(a, Xmm, 4, 0),
        Code::Movq_rm64_xmm if in_memory(i, 0) => store!(a, Xmm, 8, 0),
        Code::Movd_rm32_mm if in_memory(i, 0) => store!(a, Mmx, 4, 0),
        Code::Movq_rm64_mm if in_memory(i, 0) => store!(a, Mmx, 8, 0),
        Code::Movd_rm32_xmm => to_general::<Xmm, u32>,
        Code::Movq_rm64_xmm => to_general::<Xmm, u64>,
        Code::Movd_rm32_mm => to_general::<Mmx, u32>,
        Code::Movq_rm64_mm => to_general::<Mmx, u64>,
        _ => return None,
    })
}

fn lanes(i: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    let mmx = i.op0_register().is_mm() || i.op1_register().is_mm();
    Some(match (i.mnemonic(), in_memory(i, 0) || in_memory(i, 1)) {
        (M::Pextrb, true) => extract_store::<1>,
        (M::Pextrb, false) => extract::<Xmm, 8, 16>,
        (M::Pextrw, true) => extract_store::<2>,
        (M::Pextrw, false) if mmx => extract::<Mmx, 16, 4>,
        (M::Pextrw, false) => extract::<Xmm, 16, 8>,
        (M::Pextrd | M::Extractps, true) => extract_store::<4>,
        (M::Pextrd | M::Extractps, false) => extract::<Xmm, 32, 4>,
        (M::Pextrq, true) => extract_store::<8>,
        (M::Pextrq, false) => extract::<Xmm, 64, 2>,
        (M::Pinsrb, true) => insert::<Xmm, 1, 16, true>,
        (M::Pinsrb, false) => insert::<Xmm, 1, 16, false>,
        (M::Pinsrw, true) if mmx => insert::<Mmx, 2, 4, true>,
        (M::Pinsrw, false) if mmx => insert::<Mmx, 2, 4, false>,
        (M::Pinsrw, true) => insert::<Xmm, 2, 8, true>,
        (M::Pinsrw, false) => insert::<Xmm, 2, 8, false>,
        (M::Pinsrd, true) => insert::<Xmm, 4, 4, true>,
        (M::Pinsrd, false) => insert::<Xmm, 4, 4, false>,
        (M::Pinsrq, true) => insert::<Xmm, 8, 2, true>,
        (M::Pinsrq, false) => insert::<Xmm, 8, 2, false>,
        (M::Insertps, true) => insert_single::<true>,
        (M::Insertps, false) => insert_single::<false>,
        _ => return None,
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, address: u8) -> Option<Handler> {
    whole(i, address)
        .or_else(|| halves(i, address))
        .or_else(|| scalars(i, address))
        .or_else(|| general(i, address))
        .or_else(|| lanes(i))
}
