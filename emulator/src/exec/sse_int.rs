//! SSE2 to SSE4.2 integer instructions on XMM registers, and the shuffles that floating point
//! numbers share with them.

use super::sse::{Bank, Xmm, in_memory, vector, vector_imm};
use crate::core::Core;
use crate::op::{Exit, Handler, Op, run};
use crate::simd::{arith, shift, shuffle};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// A shift of lanes by one count for all.
pub trait Shift: 'static {
    /// Shifts; counts beyond the lane are allowed.
    fn shift(a: u128, count: u64) -> u128;
}

fn shift_imm<B: Bank, S: Shift>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        B::begin(core)?;
        let a = B::get(core, op.regs[0]);
        B::set(core, op.regs[0], S::shift(a, op.imm & 0xff));
        Ok(())
    })
}

fn shift_register<B: Bank, S: Shift>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        B::begin(core)?;
        let (a, count) = (B::get(core, op.regs[0]), B::get(core, op.regs[1]) as u64);
        B::set(core, op.regs[0], S::shift(a, count));
        Ok(())
    })
}

fn shift_memory<B: Bank, S: Shift, const A: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        B::begin(core)?;
        let count = B::load::<A>(core, op)? as u64;
        let a = B::get(core, op.regs[0]);
        B::set(core, op.regs[0], S::shift(a, count));
        Ok(())
    })
}

fn select_shift<B: Bank, S: Shift>(i: &Instruction, address: u8) -> Handler {
    match (i.op1_kind(), address) {
        (OpKind::Register, _) => shift_register::<B, S>,
        (OpKind::Memory, 0) => shift_memory::<B, S, 0>,
        (OpKind::Memory, _) => shift_memory::<B, S, 1>,
        _ => shift_imm::<B, S>,
    }
}

/// The shifts, on either bank.
pub fn shifts<B: Bank>(i: &Instruction, address: u8) -> Option<Handler> {
    use Mnemonic as M;
    macro_rules! shift {
        ($f:path) => {{
            struct Kernel;
            impl Shift for Kernel {
                #[inline(always)]
                fn shift(a: u128, count: u64) -> u128 {
                    $f(a, count)
                }
            }
            select_shift::<B, Kernel>(i, address)
        }};
    }
    Some(match i.mnemonic() {
        M::Psllw => shift!(shift::psllw),
        M::Pslld => shift!(shift::pslld),
        M::Psllq => shift!(shift::psllq),
        M::Psrlw => shift!(shift::psrlw),
        M::Psrld => shift!(shift::psrld),
        M::Psrlq => shift!(shift::psrlq),
        M::Psraw => shift!(shift::psraw),
        M::Psrad => shift!(shift::psrad),
        M::Pslldq => shift!(bytes_left),
        M::Psrldq => shift!(bytes_right),
        _ => return None,
    })
}

fn bytes_left(a: u128, count: u64) -> u128 {
    shift::pslldq(a, count as u8)
}

fn bytes_right(a: u128, count: u64) -> u128 {
    shift::psrldq(a, count as u8)
}

/// Blends under the mask in XMM0.
trait Blend: 'static {
    fn blend(a: u128, b: u128, mask: u128) -> u128;
}

fn blend<K: Blend, const MEMORY: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.check_sse()?;
        let b = if MEMORY { core.load_aligned::<1>(op)? } else { Xmm::get(core, op.regs[1]) };
        let (a, mask) = (Xmm::get(core, op.regs[0]), Xmm::get(core, 0));
        Xmm::set(core, op.regs[0], K::blend(a, b, mask));
        Ok(())
    })
}

/// PTEST.
fn test<const MEMORY: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    use crate::cpu::flags::{CF, ZF};
    run(core, ops, |core, op| {
        core.check_sse()?;
        let b = if MEMORY { core.load_aligned::<1>(op)? } else { Xmm::get(core, op.regs[1]) };
        let a = Xmm::get(core, op.regs[0]);
        let zero = if a & b == 0 { ZF } else { 0 };
        let carry = if !a & b == 0 { CF } else { 0 };
        core.cpu.flags.set_status(zero | carry);
        Ok(())
    })
}

fn words(i: &Instruction, a: u8) -> Option<Handler> {
    use Mnemonic as M;
    macro_rules! xmm {
        ($f:path) => {
            vector!(select::<Xmm>(i, a), |a, b| $f(a, b))
        };
    }
    Some(match i.mnemonic() {
        M::Pand | M::Andps | M::Andpd => vector!(select::<Xmm>(i, a), |a, b| a & b),
        M::Pandn | M::Andnps | M::Andnpd => vector!(select::<Xmm>(i, a), |a, b| !a & b),
        M::Por | M::Orps | M::Orpd => vector!(select::<Xmm>(i, a), |a, b| a | b),
        M::Pxor | M::Xorps | M::Xorpd => vector!(select::<Xmm>(i, a), |a, b| a ^ b),
        M::Unpcklps => xmm!(shuffle::punpckldq),
        M::Unpckhps => xmm!(shuffle::punpckhdq),
        M::Unpcklpd => xmm!(shuffle::punpcklqdq),
        M::Unpckhpd => xmm!(shuffle::punpckhqdq),
        M::Paddb => xmm!(arith::paddb),
        M::Paddw => xmm!(arith::paddw),
        M::Paddd => xmm!(arith::paddd),
        M::Paddq => xmm!(arith::paddq),
        M::Psubb => xmm!(arith::psubb),
        M::Psubw => xmm!(arith::psubw),
        M::Psubd => xmm!(arith::psubd),
        M::Psubq => xmm!(arith::psubq),
        M::Paddsb => xmm!(arith::paddsb),
        M::Paddsw => xmm!(arith::paddsw),
        M::Paddusb => xmm!(arith::paddusb),
        M::Paddusw => xmm!(arith::paddusw),
        M::Psubsb => xmm!(arith::psubsb),
        M::Psubsw => xmm!(arith::psubsw),
        M::Psubusb => xmm!(arith::psubusb),
        M::Psubusw => xmm!(arith::psubusw),
        M::Pavgb => xmm!(arith::pavgb),
        M::Pavgw => xmm!(arith::pavgw),
        M::Pminub => xmm!(arith::pminub),
        M::Pmaxub => xmm!(arith::pmaxub),
        M::Pminsw => xmm!(arith::pminsw),
        M::Pmaxsw => xmm!(arith::pmaxsw),
        M::Pcmpeqb => xmm!(arith::pcmpeqb),
        M::Pcmpeqw => xmm!(arith::pcmpeqw),
        M::Pcmpeqd => xmm!(arith::pcmpeqd),
        M::Pcmpgtb => xmm!(arith::pcmpgtb),
        M::Pcmpgtw => xmm!(arith::pcmpgtw),
        M::Pcmpgtd => xmm!(arith::pcmpgtd),
        M::Pmullw => xmm!(arith::pmullw),
        M::Pmulhw => xmm!(arith::pmulhw),
        M::Pmulhuw => xmm!(arith::pmulhuw),
        M::Pmulhrsw => xmm!(arith::pmulhrsw),
        M::Pmuludq => xmm!(arith::pmuludq),
        M::Pmaddwd => xmm!(arith::pmaddwd),
        M::Pmaddubsw => xmm!(arith::pmaddubsw),
        M::Psadbw => xmm!(arith::psadbw),
        M::Psignb => xmm!(arith::psignb),
        M::Psignw => xmm!(arith::psignw),
        M::Psignd => xmm!(arith::psignd),
        M::Pabsb => xmm!(arith::pabsb),
        M::Pabsw => xmm!(arith::pabsw),
        M::Pabsd => xmm!(arith::pabsd),
        M::Pminsb => xmm!(arith::pminsb),
        M::Pmaxsb => xmm!(arith::pmaxsb),
        M::Pminuw => xmm!(arith::pminuw),
        M::Pmaxuw => xmm!(arith::pmaxuw),
        M::Pminsd => xmm!(arith::pminsd),
        M::Pmaxsd => xmm!(arith::pmaxsd),
        M::Pminud => xmm!(arith::pminud),
        M::Pmaxud => xmm!(arith::pmaxud),
        M::Pcmpeqq => xmm!(arith::pcmpeqq),
        M::Pcmpgtq => xmm!(arith::pcmpgtq),
        M::Pmulld => xmm!(arith::pmulld),
        M::Pmuldq => xmm!(arith::pmuldq),
        M::Phaddw => xmm!(arith::phaddw),
        M::Phaddd => xmm!(arith::phaddd),
        M::Phaddsw => xmm!(arith::phaddsw),
        M::Phsubw => xmm!(arith::phsubw),
        M::Phsubd => xmm!(arith::phsubd),
        M::Phsubsw => xmm!(arith::phsubsw),
        M::Packsswb => xmm!(shuffle::packsswb),
        M::Packuswb => xmm!(shuffle::packuswb),
        M::Packssdw => xmm!(shuffle::packssdw),
        M::Packusdw => xmm!(shuffle::packusdw),
        M::Punpcklbw => xmm!(shuffle::punpcklbw),
        M::Punpckhbw => xmm!(shuffle::punpckhbw),
        M::Punpcklwd => xmm!(shuffle::punpcklwd),
        M::Punpckhwd => xmm!(shuffle::punpckhwd),
        M::Punpckldq => xmm!(shuffle::punpckldq),
        M::Punpckhdq => xmm!(shuffle::punpckhdq),
        M::Punpcklqdq => xmm!(shuffle::punpcklqdq),
        M::Punpckhqdq => xmm!(shuffle::punpckhqdq),
        M::Pshufb => xmm!(shuffle::pshufb),
        M::Phminposuw => vector!(select::<Xmm>(i, a), |_, b| arith::phminposuw(b)),
        _ => return None,
    })
}

fn others(i: &Instruction, a: u8) -> Option<Handler> {
    use Mnemonic as M;
    macro_rules! blends {
        ($f:path) => {{
            struct Kernel;
            impl Blend for Kernel {
                #[inline(always)]
                fn blend(a: u128, b: u128, mask: u128) -> u128 {
                    $f(a, b, mask)
                }
            }
            if in_memory(i, 1) { blend::<Kernel, true> } else { blend::<Kernel, false> }
        }};
    }
    Some(match i.mnemonic() {
        M::Pmovsxbw => vector!(select_part::<Xmm, 8>(i, a), |_, b| shuffle::pmovsxbw(b)),
        M::Pmovzxbw => vector!(select_part::<Xmm, 8>(i, a), |_, b| shuffle::pmovzxbw(b)),
        M::Pmovsxbd => vector!(select_part::<Xmm, 4>(i, a), |_, b| shuffle::pmovsxbd(b)),
        M::Pmovzxbd => vector!(select_part::<Xmm, 4>(i, a), |_, b| shuffle::pmovzxbd(b)),
        M::Pmovsxbq => vector!(select_part::<Xmm, 2>(i, a), |_, b| shuffle::pmovsxbq(b)),
        M::Pmovzxbq => vector!(select_part::<Xmm, 2>(i, a), |_, b| shuffle::pmovzxbq(b)),
        M::Pmovsxwd => vector!(select_part::<Xmm, 8>(i, a), |_, b| shuffle::pmovsxwd(b)),
        M::Pmovzxwd => vector!(select_part::<Xmm, 8>(i, a), |_, b| shuffle::pmovzxwd(b)),
        M::Pmovsxwq => vector!(select_part::<Xmm, 4>(i, a), |_, b| shuffle::pmovsxwq(b)),
        M::Pmovzxwq => vector!(select_part::<Xmm, 4>(i, a), |_, b| shuffle::pmovzxwq(b)),
        M::Pmovsxdq => vector!(select_part::<Xmm, 8>(i, a), |_, b| shuffle::pmovsxdq(b)),
        M::Pmovzxdq => vector!(select_part::<Xmm, 8>(i, a), |_, b| shuffle::pmovzxdq(b)),
        M::Pshufd => vector_imm!(Xmm, i, a, |_, b, imm| shuffle::pshufd(b, imm)),
        M::Pshuflw => vector_imm!(Xmm, i, a, |_, b, imm| shuffle::pshuflw(b, imm)),
        M::Pshufhw => vector_imm!(Xmm, i, a, |_, b, imm| shuffle::pshufhw(b, imm)),
        M::Shufps => vector_imm!(Xmm, i, a, |a, b, imm| shuffle::shufps(a, b, imm)),
        M::Shufpd => vector_imm!(Xmm, i, a, |a, b, imm| shuffle::shufpd(a, b, imm)),
        M::Palignr => vector_imm!(Xmm, i, a, |a, b, imm| shuffle::palignr(a, b, imm)),
        M::Pblendw => vector_imm!(Xmm, i, a, |a, b, imm| shuffle::pblendw(a, b, imm)),
        M::Blendps => vector_imm!(Xmm, i, a, |a, b, imm| shuffle::blendps(a, b, imm)),
        M::Blendpd => vector_imm!(Xmm, i, a, |a, b, imm| shuffle::blendpd(a, b, imm)),
        M::Mpsadbw => vector_imm!(Xmm, i, a, |a, b, imm| arith::mpsadbw(a, b, imm)),
        M::Pblendvb => blends!(shuffle::pblendvb),
        M::Blendvps => blends!(shuffle::blendvps),
        M::Blendvpd => blends!(shuffle::blendvpd),
        M::Ptest if in_memory(i, 1) => test::<true>,
        M::Ptest => test::<false>,
        _ => return None,
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, address: u8) -> Option<Handler> {
    if !Register::is_xmm(i.op0_register()) {
        return None;
    }
    words(i, address).or_else(|| others(i, address)).or_else(|| shifts::<Xmm>(i, address))
}
