//! Instructions that the guest's CPUID does not offer: each must raise #UD, or do nothing where its
//! opcode is a reserved NOP.

use crate::forms;
use crate::operands::decode;
use crate::state::Mode;
use iced_x86::{
    Code, Encoder, EncodingKind, Instruction, Mnemonic, OpCodeOperandKind as Kind, OpCodeTableKind,
    OpKind, Register,
};

/// What an absent instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// #UD.
    Undefined,
    /// Nothing.
    Nop,
    /// #GP(0), for what is privileged under another name: WBNOINVD is WBINVD.
    Privileged,
}

/// An absent instruction, encoded for 64-bit mode.
#[derive(Clone, Debug)]
pub struct Absent {
    /// The opcode and operand kinds.
    pub code: Code,
    /// Encoding.
    pub bytes: Vec<u8>,
    /// What must happen.
    pub effect: Effect,
}

/// All instructions that 64-bit code could try and the guest does not offer.
pub fn all() -> Vec<Absent> {
    Code::values()
        .filter(|&code| !forms::offered(code) || always_undefined(code))
        .filter_map(encode)
        .collect()
}

/// Offered in name, but #UD in ring 3 of this machine.
fn always_undefined(code: Code) -> bool {
    matches!(code.mnemonic(), Mnemonic::Monitor | Mnemonic::Mwait | Mnemonic::Rsm)
}

fn encode(code: Code) -> Option<Absent> {
    let op_code = code.op_code();
    let encodable =
        matches!(code.encoding(), EncodingKind::Legacy | EncodingKind::VEX | EncodingKind::EVEX);
    if !op_code.is_instruction() || !encodable || !op_code.mode64() || !op_code.intel_decoder64() {
        return None;
    }
    if op_code.decoder_option() != 0 || op_code.fwait() {
        return None;
    }
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    for (number, &kind) in op_code.op_kinds().iter().enumerate() {
        set_operand(&mut instruction, number as u32, kind)?;
    }
    if op_code.require_op_mask_register() {
        instruction.set_op_mask(Register::K1);
    }
    let mut encoder = Encoder::new(64);
    encoder.encode(&instruction, 0x1000).ok()?;
    let bytes = encoder.take_buffer();
    (decode(Mode::Long64, &bytes, 0x1000).code() == code).then(|| Absent {
        code,
        bytes,
        effect: effect(code),
    })
}

fn effect(code: Code) -> Effect {
    let op_code = code.op_code();
    let reserved_nop = code.encoding() == EncodingKind::Legacy
        && op_code.table() == OpCodeTableKind::T0F
        && matches!(op_code.op_code() >> (8 * (op_code.op_code_len() - 1)), 0x0D | 0x18..=0x1F);
    match code.mnemonic() {
        Mnemonic::Wbnoinvd => Effect::Privileged,
        _ if reserved_nop => Effect::Nop,
        _ => Effect::Undefined,
    }
}

/// A plain operand of the kind: low registers, \[RAX\], zero.
fn set_operand(i: &mut Instruction, number: u32, kind: Kind) -> Option<()> {
    use Register::*;
    let n = number;
    let register = match kind {
        Kind::r8_reg | Kind::r8_or_mem => BL,
        Kind::r16_reg | Kind::r16_or_mem | Kind::r16_rm | Kind::r16_reg_mem => BX,
        Kind::r32_reg | Kind::r32_or_mem | Kind::r32_rm | Kind::r32_vvvv | Kind::r32_or_mem_mpx => {
            EBX
        }
        Kind::r64_reg | Kind::r64_or_mem | Kind::r64_rm | Kind::r64_vvvv | Kind::r64_or_mem_mpx => {
            RBX
        }
        Kind::r32_reg_mem => EBX,
        Kind::r64_reg_mem => RBX,
        Kind::mm_reg | Kind::mm_rm | Kind::mm_or_mem => MM1,
        Kind::xmm_reg
        | Kind::xmm_rm
        | Kind::xmm_or_mem
        | Kind::xmm_vvvv
        | Kind::xmm_is4
        | Kind::xmm_is5 => XMM1 + n,
        Kind::ymm_reg
        | Kind::ymm_rm
        | Kind::ymm_or_mem
        | Kind::ymm_vvvv
        | Kind::ymm_is4
        | Kind::ymm_is5 => YMM1 + n,
        Kind::zmm_reg | Kind::zmm_rm | Kind::zmm_or_mem | Kind::zmm_vvvv => ZMM1 + n,
        Kind::xmmp3_vvvv => XMM4,
        Kind::zmmp3_vvvv => ZMM4,
        Kind::k_reg | Kind::k_rm | Kind::k_or_mem | Kind::k_vvvv => K1 + n,
        Kind::kp1_reg => K2,
        Kind::bnd_reg | Kind::bnd_or_mem_mpx => BND0 + n,
        Kind::tmm_reg | Kind::tmm_rm | Kind::tmm_vvvv => TMM0 + n,
        Kind::seg_reg => DS,
        _ => return set_other(i, number, kind),
    };
    i.set_op_kind(number, OpKind::Register);
    i.set_op_register(number, register);
    Some(())
}

fn set_other(i: &mut Instruction, number: u32, kind: Kind) -> Option<()> {
    let index = match kind {
        Kind::mem_vsib32x | Kind::mem_vsib64x => Register::XMM6,
        Kind::mem_vsib32y | Kind::mem_vsib64y => Register::YMM6,
        Kind::mem_vsib32z | Kind::mem_vsib64z => Register::ZMM6,
        Kind::sibmem | Kind::mem_mib => Register::RSI,
        _ => Register::None,
    };
    let op_kind = match kind {
        _ if index != Register::None => {
            i.set_memory_base(Register::RAX);
            i.set_memory_index(index);
            OpKind::Memory
        }
        Kind::mem | Kind::mem_mpx => {
            i.set_memory_base(Register::RAX);
            OpKind::Memory
        }
        Kind::imm8 => {
            let second = number > 0 && i.op_kind(number - 1) == OpKind::Immediate8;
            if second { OpKind::Immediate8_2nd } else { OpKind::Immediate8 }
        }
        Kind::imm4_m2z => OpKind::Immediate8,
        Kind::imm32 => OpKind::Immediate32,
        Kind::xbegin_4 | Kind::xbegin_2 => {
            i.set_near_branch64(0x1010);
            OpKind::NearBranch64
        }
        Kind::seg_rDI => OpKind::MemorySegRDI,
        _ => return None,
    };
    i.set_op_kind(number, op_kind);
    Some(())
}
