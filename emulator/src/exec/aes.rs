//! AES-NI and PCLMULQDQ.

use super::sse::{Xmm, vector, vector_imm};
use crate::op::Handler;
use crate::simd::aes;
use iced_x86::{Instruction, Mnemonic};

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, address: u8) -> Option<Handler> {
    use Mnemonic as M;
    Some(match i.mnemonic() {
        M::Aesenc => vector!(select::<Xmm>(i, address), |a, b| aes::aesenc(a, b)),
        M::Aesenclast => vector!(select::<Xmm>(i, address), |a, b| aes::aesenclast(a, b)),
        M::Aesdec => vector!(select::<Xmm>(i, address), |a, b| aes::aesdec(a, b)),
        M::Aesdeclast => vector!(select::<Xmm>(i, address), |a, b| aes::aesdeclast(a, b)),
        M::Aesimc => vector!(select::<Xmm>(i, address), |_, b| aes::aesimc(b)),
        M::Aeskeygenassist => {
            vector_imm!(Xmm, i, address, |_, b, imm| aes::aeskeygenassist(b, imm))
        }
        M::Pclmulqdq => vector_imm!(Xmm, i, address, |a, b, imm| aes::pclmulqdq(a, b, imm)),
        _ => return None,
    })
}
