//! MMX instructions, and the SSE to SSSE3 ones on MMX registers (SDM 1 9).

use super::sse::{Bank, Mmx, vector, vector_imm};
use crate::core::Core;
use crate::exception::Trap;
use crate::op::{Exit, Handler, Op, run};
use crate::simd::{arith, shuffle};
use iced_x86::{Instruction, Mnemonic, Register};

/// MMX registers whose memory operand is half a register (PUNPCKLBW and kin).
struct HalfMmx;

impl Bank for HalfMmx {
    const READY: bool = false;
    #[inline(always)]
    fn begin(core: &mut Core) -> Result<(), Trap> {
        Mmx::begin(core)
    }

    #[inline(always)]
    fn get(core: &Core, n: u8) -> u128 {
        Mmx::get(core, n)
    }

    #[inline(always)]
    fn set(core: &mut Core, n: u8, value: u128) {
        Mmx::set(core, n, value);
    }

    #[inline(always)]
    fn touch(core: &mut Core) {
        core.enter_mmx();
    }

    #[inline(always)]
    fn load<const A: u8>(core: &mut Core, op: &Op) -> Result<u128, Trap> {
        core.load_part::<4, A>(op)
    }
}

/// PMOVMSKB to a general register.
fn sign_mask(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        core.begin_mmx()?;
        let mask = arith::pmovmskb(Mmx::get(core, op.regs[1]));
        core.enter_mmx();
        core.cpu.regs[usize::from(op.regs[0] & 31)] = mask.into();
        Ok(())
    })
}

fn lanes(i: &Instruction, a: u8) -> Option<Handler> {
    use Mnemonic as M;
    macro_rules! mmx {
        ($f:path) => {
            vector!(select::<Mmx>(i, a), |a, b| $f(a, b))
        };
    }
    macro_rules! joined {
        ($f:path) => {
            vector!(select::<Mmx>(i, a), |a, b| $f(shuffle::join_mmx(a, b), 0))
        };
    }
    macro_rules! low {
        ($f:path) => {
            vector!(select::<HalfMmx>(i, a), |a, b| $f(a, b))
        };
    }
    macro_rules! high {
        ($f:path) => {
            vector!(select::<Mmx>(i, a), |a, b| $f(a >> 32, b >> 32))
        };
    }
    Some(match i.mnemonic() {
        M::Pand => vector!(select::<Mmx>(i, a), |a, b| a & b),
        M::Pandn => vector!(select::<Mmx>(i, a), |a, b| !a & b),
        M::Por => vector!(select::<Mmx>(i, a), |a, b| a | b),
        M::Pxor => vector!(select::<Mmx>(i, a), |a, b| a ^ b),
        M::Paddb => mmx!(arith::paddb),
        M::Paddw => mmx!(arith::paddw),
        M::Paddd => mmx!(arith::paddd),
        M::Paddq => mmx!(arith::paddq),
        M::Psubb => mmx!(arith::psubb),
        M::Psubw => mmx!(arith::psubw),
        M::Psubd => mmx!(arith::psubd),
        M::Psubq => mmx!(arith::psubq),
        M::Paddsb => mmx!(arith::paddsb),
        M::Paddsw => mmx!(arith::paddsw),
        M::Paddusb => mmx!(arith::paddusb),
        M::Paddusw => mmx!(arith::paddusw),
        M::Psubsb => mmx!(arith::psubsb),
        M::Psubsw => mmx!(arith::psubsw),
        M::Psubusb => mmx!(arith::psubusb),
        M::Psubusw => mmx!(arith::psubusw),
        M::Pavgb => mmx!(arith::pavgb),
        M::Pavgw => mmx!(arith::pavgw),
        M::Pminub => mmx!(arith::pminub),
        M::Pmaxub => mmx!(arith::pmaxub),
        M::Pminsw => mmx!(arith::pminsw),
        M::Pmaxsw => mmx!(arith::pmaxsw),
        M::Pcmpeqb => mmx!(arith::pcmpeqb),
        M::Pcmpeqw => mmx!(arith::pcmpeqw),
        M::Pcmpeqd => mmx!(arith::pcmpeqd),
        M::Pcmpgtb => mmx!(arith::pcmpgtb),
        M::Pcmpgtw => mmx!(arith::pcmpgtw),
        M::Pcmpgtd => mmx!(arith::pcmpgtd),
        M::Pmullw => mmx!(arith::pmullw),
        M::Pmulhw => mmx!(arith::pmulhw),
        M::Pmulhuw => mmx!(arith::pmulhuw),
        M::Pmulhrsw => mmx!(arith::pmulhrsw),
        M::Pmuludq => mmx!(arith::pmuludq),
        M::Pmaddwd => mmx!(arith::pmaddwd),
        M::Pmaddubsw => mmx!(arith::pmaddubsw),
        M::Psadbw => mmx!(arith::psadbw),
        M::Psignb => mmx!(arith::psignb),
        M::Psignw => mmx!(arith::psignw),
        M::Psignd => mmx!(arith::psignd),
        M::Pabsb => mmx!(arith::pabsb),
        M::Pabsw => mmx!(arith::pabsw),
        M::Pabsd => mmx!(arith::pabsd),
        M::Phaddw => joined!(arith::phaddw),
        M::Phaddd => joined!(arith::phaddd),
        M::Phaddsw => joined!(arith::phaddsw),
        M::Phsubw => joined!(arith::phsubw),
        M::Phsubd => joined!(arith::phsubd),
        M::Phsubsw => joined!(arith::phsubsw),
        M::Packsswb => joined!(shuffle::packsswb),
        M::Packuswb => joined!(shuffle::packuswb),
        M::Packssdw => joined!(shuffle::packssdw),
        M::Punpcklbw => low!(shuffle::punpcklbw),
        M::Punpckhbw => high!(shuffle::punpcklbw),
        M::Punpcklwd => low!(shuffle::punpcklwd),
        M::Punpckhwd => high!(shuffle::punpcklwd),
        M::Punpckldq => low!(shuffle::punpckldq),
        M::Punpckhdq => high!(shuffle::punpckldq),
        M::Pshufb => mmx!(shuffle::pshufb_mmx),
        M::Pshufw => vector_imm!(Mmx, i, a, |_, b, imm| shuffle::pshuflw(b, imm)),
        M::Palignr => vector_imm!(Mmx, i, a, |a, b, imm| shuffle::palignr_mmx(a, b, imm)),
        _ => return None,
    })
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, address: u8) -> Option<Handler> {
    if i.mnemonic() == Mnemonic::Pmovmskb && i.op1_register().is_mm() {
        return Some(sign_mask);
    }
    if !Register::is_mm(i.op0_register()) {
        return None;
    }
    lanes(i, address).or_else(|| super::sse_int::shifts::<Mmx>(i, address))
}
