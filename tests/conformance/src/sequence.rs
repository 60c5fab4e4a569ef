//! Short programs of integer instructions: what one leaves in the flags, the next one uses.
//!
//! Contract: no instruction in a program leaves a flag undefined that a later one reads. AF is left
//! open at the end.

use crate::generate::random_state;
use crate::layout::{self, CODE, DATA};
use crate::state::{Case, Mode, RSP};
use crate::values::Rng;
use iced_x86::{Code, Encoder, Instruction, OpCodeOperandKind as Kind, OpKind, Register};

/// The base register of memory operands: nothing writes to it.
const BASE: Register = Register::R15;

/// Instructions whose flags are all defined, but for AF.
const CODES: &[Code] = {
    use Code::*;
    &[
        Add_rm64_r64,
        Add_r32_rm32,
        Add_rm16_r16,
        Add_rm8_r8,
        Add_rm64_imm8,
        Sub_rm64_r64,
        Sub_r32_rm32,
        Sub_r16_rm16,
        Sub_rm8_imm8,
        Sub_r8_rm8,
        Cmp_rm64_r64,
        Cmp_rm32_imm32,
        Cmp_r16_rm16,
        Cmp_rm8_imm8,
        Cmp_rm64_imm8,
        Cmp_r8_rm8,
        Test_rm64_r64,
        Test_rm32_r32,
        Test_rm8_r8,
        Test_rm8_imm8,
        Test_rm16_imm16,
        Adc_rm64_r64,
        Adc_r32_rm32,
        Adc_rm8_imm8,
        Sbb_rm64_r64,
        Sbb_r32_rm32,
        Sbb_rm16_imm16,
        Sbb_rm8_r8,
        And_rm64_r64,
        And_r32_rm32,
        And_rm8_imm8,
        Or_rm64_r64,
        Or_rm16_r16,
        Or_r8_rm8,
        Xor_rm64_r64,
        Xor_r32_rm32,
        Xor_rm8_r8,
        Inc_rm64,
        Inc_rm32,
        Inc_rm16,
        Inc_rm8,
        Dec_rm64,
        Dec_rm32,
        Dec_rm16,
        Dec_rm8,
        Neg_rm64,
        Neg_rm32,
        Neg_rm8,
        Not_rm64,
        Not_rm8,
        Xadd_rm32_r32,
        Xadd_rm8_r8,
        Cmpxchg_rm64_r64,
        Cmpxchg_rm8_r8,
        Rol_rm64_1,
        Ror_rm32_1,
        Rcl_rm64_1,
        Rcr_rm8_1,
        Shl_rm64_1,
        Shr_rm32_1,
        Sar_rm8_1,
        Seto_rm8,
        Setb_rm8,
        Sete_rm8,
        Setbe_rm8,
        Sets_rm8,
        Setp_rm8,
        Setl_rm8,
        Setle_rm8,
        Setg_rm8,
        Setge_rm8,
        Seta_rm8,
        Cmovo_r64_rm64,
        Cmovb_r32_rm32,
        Cmove_r16_rm16,
        Cmovbe_r64_rm64,
        Cmovs_r32_rm32,
        Cmovnp_r64_rm64,
        Cmovl_r32_rm32,
        Cmovg_r64_rm64,
        Cmc,
        Stc,
        Clc,
        Mov_r64_rm64,
        Mov_rm32_r32,
        Mov_r8_rm8,
        Movzx_r32_rm8,
        Movsx_r64_rm16,
        Movsxd_r64_rm32,
        Lea_r64_m,
        Xchg_rm64_r64,
        Bswap_r64,
        Popcnt_r64_rm64,
        Cdqe,
        Cqo,
        VEX_Andn_r64_r64_rm64,
        VEX_Shlx_r64_rm64_r64,
        VEX_Rorx_r32_rm32_imm8,
        VEX_Pdep_r64_r64_rm64,
        VEX_Mulx_r64_r64_rm64,
        Adcx_r64_rm64,
        Adox_r32_rm32,
    ]
};

/// Conditional branches: they skip the next instruction or not.
const BRANCHES: &[Code] = {
    use Code::*;
    &[
        Jo_rel8_64,
        Jno_rel8_64,
        Jb_rel8_64,
        Jae_rel8_64,
        Je_rel8_64,
        Jne_rel8_64,
        Jbe_rel8_64,
        Ja_rel8_64,
        Js_rel8_64,
        Jns_rel8_64,
        Jp_rel8_64,
        Jnp_rel8_64,
        Jl_rel8_64,
        Jge_rel8_64,
        Jle_rel8_64,
        Jg_rel8_64,
    ]
};

/// The program number `number` under `seed`, and its instructions.
pub fn generate(seed: u64, number: u64) -> (Case, Vec<Instruction>) {
    let mut rng = Rng::new(seed ^ Rng::new(!number).bits());
    let mut state = random_state(Mode::Long64, &mut rng);
    const TRAP: u64 = 1 << 8;
    if rng.below(4) > 0 {
        state.rflags &= !TRAP;
    }
    const ALIGNMENT: u64 = 1 << 18;
    state.rflags &= !ALIGNMENT;
    state.gpr[15] = DATA + 0x800 + rng.below(0x80) * 8;
    state.gpr[RSP] = DATA + 0x400;
    let address = CODE + 0x100 + rng.below(0x100);
    let (mut code, mut program) = (Vec::new(), Vec::new());
    for _ in 0..2 + rng.below(7) {
        let (bytes, instruction) = encode(&mut rng, CODES);
        if rng.one_in(3) {
            let (mut branch, jump) = encode(&mut rng, BRANCHES);
            branch[1] = bytes.len() as u8;
            code.extend_from_slice(&branch);
            program.push(jump);
        }
        code.extend_from_slice(&bytes);
        program.push(instruction);
    }
    state.rip = address;
    let pool_offset = rng.below(256) as usize * 16;
    debug_assert!(pool_offset + layout::DATA_SIZE as usize <= layout::POOL_SIZE);
    (Case { mode: Mode::Long64, code, address, state, pool_offset, patches: Vec::new() }, program)
}

/// An instruction with operands that fit it; all of these combinations have encodings but those of
/// AH with REX.
fn encode(rng: &mut Rng, codes: &[Code]) -> (Vec<u8>, Instruction) {
    loop {
        let code = rng.pick(codes);
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        let kinds = code.op_code();
        for (number, &kind) in kinds.op_kinds().iter().enumerate() {
            operand(rng, &mut instruction, number as u32, kind);
        }
        let mut encoder = Encoder::new(64);
        if encoder.encode(&instruction, CODE).is_ok() {
            return (encoder.take_buffer(), instruction);
        }
    }
}

fn operand(rng: &mut Rng, i: &mut Instruction, number: u32, kind: Kind) {
    let memory =
        matches!(kind, Kind::r8_or_mem | Kind::r16_or_mem | Kind::r32_or_mem | Kind::r64_or_mem);
    if kind == Kind::mem || (memory && rng.one_in(3)) {
        i.set_op_kind(number, OpKind::Memory);
        i.set_memory_base(BASE);
        i.set_memory_displacement64(rng.below(8) * 8);
        i.set_memory_displ_size(1);
        return;
    }
    // RSP and the base stay as they are.
    let register = loop {
        match rng.below(15) as u32 {
            4 => {}
            register => break register,
        }
    };
    let value = rng.integer();
    let op_kind = match kind {
        Kind::br64_1 => {
            i.set_near_branch64(CODE + 2);
            OpKind::NearBranch64
        }
        Kind::imm8 | Kind::imm8_const_1 => {
            i.set_immediate8(if kind == Kind::imm8 { value as u8 } else { 1 });
            OpKind::Immediate8
        }
        Kind::imm8sex64 => {
            i.set_immediate8to64(i64::from(value as i8));
            OpKind::Immediate8to64
        }
        Kind::imm16 => {
            i.set_immediate16(value as u16);
            OpKind::Immediate16
        }
        Kind::imm32 => {
            i.set_immediate32(value as u32);
            OpKind::Immediate32
        }
        _ => {
            let first = match kind {
                Kind::r8_or_mem | Kind::r8_reg => Register::AL,
                Kind::r16_or_mem | Kind::r16_reg => Register::AX,
                Kind::r32_or_mem | Kind::r32_reg | Kind::r32_vvvv => Register::EAX,
                _ => Register::RAX,
            };
            // AL to BL, AH to BH, SPL to R15L: leave SPL and R15L out.
            let register = if first == Register::AL {
                [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15][register as usize]
            } else {
                register
            };
            i.set_op_register(number, first + register);
            OpKind::Register
        }
    };
    i.set_op_kind(number, op_kind);
}
