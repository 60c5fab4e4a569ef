//! Random instructions: a code of iced's table with operands that fit it.
//!
//! Contract: memory operands mostly reach the program's data through the base registers that
//! [`crate::program`] keeps up; those registers are seldom overwritten.

use crate::guest::{CODE_ALIAS, DATA, DATA_SIZE};
use conformance::forms::offered;
use conformance::values::Rng;
use iced_x86::Code::*;
use iced_x86::{
    Code, Encoder, Instruction, MemorySize, Mnemonic, OpCodeOperandKind as Kind, OpKind, Register,
};
use std::sync::OnceLock;

/// Registers that point into the data, the first aligned: numbers of general registers.
pub const BASES: [u32; 3] = [3, 5, 6];
/// The register that points into the code.
pub const CODE_BASE: u32 = 7;

/// Exchanges of two registers and memory.
pub const PAIRS: [Code; 2] = [Cmpxchg8b_m64, Cmpxchg16b_m128];

/// What ordinary code is made of.
pub const COMMON: &[Code] = &[
    Mov_r64_rm64,
    Mov_rm64_r64,
    Mov_r32_rm32,
    Mov_rm32_r32,
    Mov_r8_rm8,
    Mov_rm8_r8,
    Mov_r16_rm16,
    Mov_rm16_r16,
    Mov_r32_imm32,
    Mov_r64_imm64,
    Mov_rm64_imm32,
    Mov_rm32_imm32,
    Mov_rm8_imm8,
    Lea_r64_m,
    Lea_r32_m,
    Movzx_r32_rm8,
    Movzx_r32_rm16,
    Movsx_r32_rm8,
    Movsx_r64_rm8,
    Movsx_r64_rm16,
    Movsxd_r64_rm32,
    Movzx_r64_rm8,
    Add_r64_rm64,
    Add_rm64_r64,
    Add_r32_rm32,
    Add_rm32_r32,
    Add_rm64_imm8,
    Add_rm32_imm8,
    Add_rm32_imm32,
    Add_rm8_r8,
    Add_r8_rm8,
    Add_rm16_imm8,
    Sub_r64_rm64,
    Sub_rm64_r64,
    Sub_r32_rm32,
    Sub_rm64_imm8,
    Sub_rm32_imm32,
    Sub_rm8_imm8,
    And_r64_rm64,
    And_rm64_imm8,
    And_r32_rm32,
    And_rm32_imm32,
    And_rm8_imm8,
    Or_r64_rm64,
    Or_rm64_r64,
    Or_r32_rm32,
    Or_rm32_imm8,
    Or_rm8_r8,
    Xor_r64_rm64,
    Xor_r32_rm32,
    Xor_rm32_r32,
    Xor_rm64_imm32,
    Xor_rm8_imm8,
    Cmp_r64_rm64,
    Cmp_rm64_r64,
    Cmp_r32_rm32,
    Cmp_rm64_imm8,
    Cmp_rm32_imm32,
    Cmp_rm8_imm8,
    Cmp_rm16_imm16,
    Test_rm64_r64,
    Test_rm32_r32,
    Test_rm8_r8,
    Test_rm8_imm8,
    Test_rm32_imm32,
    Adc_r64_rm64,
    Adc_rm32_r32,
    Adc_rm64_imm8,
    Sbb_r64_rm64,
    Sbb_r32_rm32,
    Sbb_rm8_r8,
    Inc_rm64,
    Inc_rm32,
    Inc_rm8,
    Dec_rm64,
    Dec_rm32,
    Dec_rm16,
    Neg_rm64,
    Neg_rm32,
    Neg_rm8,
    Not_rm64,
    Not_rm32,
    Shl_rm64_imm8,
    Shl_rm32_imm8,
    Shl_rm32_CL,
    Shl_rm64_CL,
    Shl_rm8_1,
    Shr_rm64_imm8,
    Shr_rm32_imm8,
    Shr_rm32_CL,
    Shr_rm16_imm8,
    Sar_rm64_imm8,
    Sar_rm32_1,
    Sar_rm32_CL,
    Rol_rm32_imm8,
    Rol_rm64_CL,
    Ror_rm64_imm8,
    Ror_rm32_CL,
    Rcl_rm32_1,
    Rcr_rm64_CL,
    Shld_rm64_r64_imm8,
    Shrd_rm32_r32_CL,
    Imul_r64_rm64,
    Imul_r32_rm32,
    Imul_r64_rm64_imm32,
    Imul_r32_rm32_imm8,
    Mul_rm64,
    Mul_rm32,
    Imul_rm64,
    Mul_rm8,
    Cdqe,
    Cwde,
    Cdq,
    Cqo,
    Sete_rm8,
    Setb_rm8,
    Setg_rm8,
    Setp_rm8,
    Seto_rm8,
    Setle_rm8,
    Cmove_r64_rm64,
    Cmovb_r32_rm32,
    Cmovl_r64_rm64,
    Cmova_r32_rm32,
    Cmovs_r64_rm64,
    Cmovp_r32_rm32,
    Bt_rm64_imm8,
    Bt_rm32_r32,
    Bts_rm64_imm8,
    Btr_rm32_imm8,
    Btc_rm64_imm8,
    Bsf_r64_rm64,
    Bsr_r32_rm32,
    Popcnt_r64_rm64,
    Tzcnt_r32_rm32,
    Lzcnt_r64_rm64,
    Bswap_r64,
    Bswap_r32,
    Xchg_rm64_r64,
    Xchg_rm32_r32,
    Xchg_rm8_r8,
    Cmpxchg_rm64_r64,
    Cmpxchg_rm32_r32,
    Xadd_rm64_r64,
    Xadd_rm32_r32,
    Push_r64,
    Pop_r64,
    Push_rm64,
    Pushq_imm32,
    Pushq_imm8,
    Pushfq,
    Nopd,
    Nop_rm32,
    Clc,
    Stc,
    Cmc,
    Cld,
    Sahf,
    Lahf,
    Leaveq,
    Movbe_r64_m64,
    Push_r32,
    Pop_r32,
    Push_rm32,
    Pushd_imm32,
    Pushfd,
    Leaved,
    Inc_r32,
    Dec_r32,
    Movaps_xmm_xmmm128,
    Movups_xmm_xmmm128,
    Movups_xmmm128_xmm,
    Movdqa_xmm_xmmm128,
    Movdqu_xmm_xmmm128,
    Movdqu_xmmm128_xmm,
    Movq_xmm_rm64,
    Movq_rm64_xmm,
    Movd_xmm_rm32,
    Movd_rm32_xmm,
    Movq_xmm_xmmm64,
    Movsd_xmm_xmmm64,
    Movsd_xmmm64_xmm,
    Movss_xmm_xmmm32,
    Pxor_xmm_xmmm128,
    Paddd_xmm_xmmm128,
    Paddq_xmm_xmmm128,
    Pand_xmm_xmmm128,
    Por_xmm_xmmm128,
    Pcmpeqb_xmm_xmmm128,
    Pmovmskb_r32_xmm,
    Pshufd_xmm_xmmm128_imm8,
    Punpcklbw_xmm_xmmm128,
    Punpcklqdq_xmm_xmmm128,
    Psrldq_xmm_imm8,
    Psllq_xmm_imm8,
    Pshufb_xmm_xmmm128,
    Addsd_xmm_xmmm64,
    Subsd_xmm_xmmm64,
    Mulsd_xmm_xmmm64,
    Divsd_xmm_xmmm64,
    Addss_xmm_xmmm32,
    Mulps_xmm_xmmm128,
    Addpd_xmm_xmmm128,
    Sqrtsd_xmm_xmmm64,
    Cvtsi2sd_xmm_rm64,
    Cvttsd2si_r64_xmmm64,
    Cvtsd2ss_xmm_xmmm64,
    Cvtss2sd_xmm_xmmm32,
    Ucomisd_xmm_xmmm64,
    Comiss_xmm_xmmm32,
    Unpcklpd_xmm_xmmm128,
    Shufps_xmm_xmmm128_imm8,
    Andpd_xmm_xmmm128,
    Xorps_xmm_xmmm128,
    Fld_m64fp,
    Fld_m32fp,
    Fld_m80fp,
    Fld_sti,
    Fld1,
    Fldz,
    Fst_m64fp,
    Fstp_m64fp,
    Fstp_m32fp,
    Fstp_m80fp,
    Fild_m32int,
    Fild_m64int,
    Fistp_m64int,
    Fistp_m32int,
    Fadd_m64fp,
    Fadd_st0_sti,
    Faddp_sti_st0,
    Fsub_m64fp,
    Fmul_st0_sti,
    Fmulp_sti_st0,
    Fdiv_m32fp,
    Fdivp_sti_st0,
    Fsqrt,
    Fabs,
    Fchs,
    Fxch_st0_sti,
    Fcomi_st0_sti,
    Fucomip_st0_sti,
    Fnstsw_AX,
    Fnstcw_m2byte,
    Fldcw_m2byte,
    Fninit,
    Cmpxchg8b_m64,
    Shrd_rm64_r64_CL,
    Shld_rm32_r32_imm8,
    Rol_rm32_CL,
    Mov_r32m16_Sreg,
    Lodsb_AL_m8,
    Stosd_m32_EAX,
    Movsd_m32_m32,
    Scasb_AL_m8,
    Cmpsb_m8_m8,
    Rdtsc,
    Mfence,
    Pause,
];

/// All forms that a program may meet at random, for 64-bit and for 32-bit code.
fn everything(long: bool) -> &'static [Code] {
    static LISTS: OnceLock<[Vec<Code>; 2]> = OnceLock::new();
    let lists = LISTS.get_or_init(|| {
        [true, false].map(|long| {
            let fits = |code: &Code| {
                let op = code.op_code();
                let mode = if long { op.mode64() && op.long_mode() } else { op.mode32() };
                mode && offered(*code) && !ends_the_world(*code) && !op.fwait()
            };
            Code::values().filter(fits).collect()
        })
    });
    &lists[usize::from(!long)]
}

/// Whether `code` would leave the program's world in ring 0, or is made elsewhere.
fn ends_the_world(code: Code) -> bool {
    use Mnemonic as M;
    let op = code.op_code();
    let kinds = op.op_kinds();
    let branch = [
        Kind::br16_1,
        Kind::br32_1,
        Kind::br64_1,
        Kind::br16_2,
        Kind::br32_4,
        Kind::br64_4,
        Kind::farbr2_2,
        Kind::farbr4_2,
        Kind::cr_reg,
        Kind::dr_reg,
        Kind::tr_reg,
        Kind::xbegin_2,
        Kind::xbegin_4,
    ];
    kinds.iter().any(|kind| branch.contains(kind))
        || matches!(
            code.mnemonic(),
            M::Lgdt
                | M::Lidt
                | M::Lldt
                | M::Ltr
                | M::Lmsw
                | M::Wrmsr
                | M::Xsetbv
                | M::Cli
                | M::Hlt
                | M::In
                | M::Out
                | M::Insb
                | M::Insw
                | M::Insd
                | M::Outsb
                | M::Outsw
                | M::Outsd
                | M::Iret
                | M::Iretd
                | M::Iretq
                | M::Sysexit
                | M::Sysexitq
                | M::Rsm
                | M::Sysret
                | M::Sysretq
                | M::Jmp
                | M::Call
                | M::Ret
                | M::Retf
        )
}

/// What a program is mostly made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taste {
    /// Of everything.
    Any,
    /// Of SSE instructions, with all exceptions masked.
    Vectors,
    /// Of x87 instructions, with all exceptions masked.
    X87,
}

impl Taste {
    /// The forms that it prefers.
    fn forms(self, long: bool) -> &'static [Code] {
        static LISTS: OnceLock<[Vec<Code>; 4]> = OnceLock::new();
        let lists = LISTS.get_or_init(|| {
            [(Self::Vectors, false), (Self::Vectors, true), (Self::X87, false), (Self::X87, true)]
                .map(|(taste, long)| {
                    let all = everything(long).iter().copied();
                    all.filter(|&code| taste.likes(code)).collect()
                })
        });
        match self {
            Self::Any => everything(long),
            Self::Vectors => &lists[usize::from(long)],
            Self::X87 => &lists[2 + usize::from(long)],
        }
    }

    fn likes(self, code: Code) -> bool {
        let op = code.op_code();
        match self {
            Self::Any => true,
            Self::Vectors => op
                .op_kinds()
                .iter()
                .any(|kind| matches!(kind, Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm)),
            Self::X87 => matches!(op.op_code(), 0xD8..=0xDF | 0xD8C0..=0xDFFF),
        }
    }

    /// Whether it stays clear of `code`, which may unmask exceptions.
    fn avoids(self, code: Code) -> bool {
        use Mnemonic as M;
        let loads = matches!(
            code.mnemonic(),
            M::Fldcw | M::Fldenv | M::Frstor | M::Fxrstor | M::Fxrstor64 | M::Ldmxcsr
        );
        self != Self::Any && loads
    }
}

/// What instructions are made for.
pub struct Maker<'a> {
    /// Where the choices come from.
    pub rng: &'a mut Rng,
    /// For 64-bit code; else 32-bit.
    pub long: bool,
    /// What is preferred.
    pub taste: Taste,
    /// The register that memory operands are reached through; else one of [`BASES`].
    pub base: Option<u32>,
}

impl Maker<'_> {
    /// The bytes of a random instruction for address `at`.
    pub fn any(&mut self, at: u64) -> Vec<u8> {
        loop {
            let common = if self.taste == Taste::Any { 3 } else { 1 };
            let code = if self.rng.below(4) < common {
                self.rng.pick(COMMON)
            } else {
                self.rng.pick(self.taste.forms(self.long))
            };
            if self.taste.avoids(code) {
                continue;
            }
            if let Some(bytes) = self.form(code, at) {
                return bytes;
            }
        }
    }

    /// The bytes of an instruction of this form; `None` if it has no such encoding here.
    pub fn form(&mut self, code: Code, at: u64) -> Option<Vec<u8>> {
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        let op_code = code.op_code();
        let mut memory = false;
        for (number, &kind) in op_code.op_kinds().iter().enumerate() {
            memory |= self.operand(&mut instruction, number as u32, kind)?;
        }
        if memory && op_code.can_use_lock_prefix() && self.rng.one_in(3) {
            instruction.set_has_lock_prefix(true);
        }
        if op_code.can_use_rep_prefix() && self.rng.one_in(3) {
            instruction.set_has_rep_prefix(true);
        } else if op_code.can_use_repne_prefix() && self.rng.one_in(3) {
            instruction.set_has_repne_prefix(true);
        }
        let mut encoder = Encoder::new(if self.long { 64 } else { 32 });
        encoder.encode(&instruction, at).ok()?;
        Some(encoder.take_buffer())
    }

    /// Sets an operand; whether it is in memory.
    fn operand(&mut self, i: &mut Instruction, number: u32, kind: Kind) -> Option<bool> {
        let wide = if self.long { 16 } else { 8 };
        let maybe_memory = matches!(
            kind,
            Kind::r8_or_mem
                | Kind::r16_or_mem
                | Kind::r32_or_mem
                | Kind::r64_or_mem
                | Kind::mm_or_mem
                | Kind::xmm_or_mem
                | Kind::r32_reg_mem
                | Kind::r64_reg_mem
        ) && self.rng.one_in(3);
        let is_register_memory = matches!(kind, Kind::r32_reg_mem | Kind::r64_reg_mem);
        if matches!(kind, Kind::mem | Kind::mem_mib) || maybe_memory && !is_register_memory {
            self.memory(i, number);
            return Some(true);
        }
        let register = match kind {
            Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode => self.byte(number),
            Kind::r16_or_mem
            | Kind::r16_reg
            | Kind::r16_rm
            | Kind::r16_opcode
            | Kind::r16_reg_mem => Register::AX + self.general(number, wide),
            Kind::r32_or_mem
            | Kind::r32_reg
            | Kind::r32_rm
            | Kind::r32_opcode
            | Kind::r32_vvvv
            | Kind::r32_reg_mem => Register::EAX + self.general(number, wide),
            Kind::r64_or_mem
            | Kind::r64_reg
            | Kind::r64_rm
            | Kind::r64_opcode
            | Kind::r64_vvvv
            | Kind::r64_reg_mem => Register::RAX + self.general(number, wide),
            Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => {
                Register::MM0 + self.rng.below(8) as u32
            }
            Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm => {
                Register::XMM0 + self.rng.below(wide) as u32
            }
            Kind::sti_opcode => Register::ST0 + self.rng.below(8) as u32,
            Kind::seg_reg => Register::ES + self.rng.pick(&[0u32, 3, 4, 5]),
            Kind::es => Register::ES,
            Kind::cs => Register::CS,
            Kind::ss => Register::SS,
            Kind::ds => Register::DS,
            Kind::fs => Register::FS,
            Kind::gs => Register::GS,
            Kind::al => Register::AL,
            Kind::cl => Register::CL,
            Kind::ax => Register::AX,
            Kind::dx => Register::DX,
            Kind::eax => Register::EAX,
            Kind::rax => Register::RAX,
            Kind::st0 => Register::ST0,
            _ => return self.other(i, number, kind),
        };
        i.set_op_kind(number, OpKind::Register);
        i.set_op_register(number, register);
        Some(false)
    }

    fn other(&mut self, i: &mut Instruction, number: u32, kind: Kind) -> Option<bool> {
        let value = self.rng.integer();
        let op_kind = match kind {
            Kind::imm8 | Kind::imm8_const_1 | Kind::imm4_m2z => {
                i.set_immediate8(if kind == Kind::imm8 { value as u8 } else { 1 });
                OpKind::Immediate8
            }
            Kind::imm8sex16 => {
                i.set_immediate8to16(i16::from(value as i8));
                OpKind::Immediate8to16
            }
            Kind::imm8sex32 => {
                i.set_immediate8to32(i32::from(value as i8));
                OpKind::Immediate8to32
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
            Kind::imm32sex64 => {
                i.set_immediate32to64(i64::from(value as i32));
                OpKind::Immediate32to64
            }
            Kind::imm64 => {
                i.set_immediate64(value);
                OpKind::Immediate64
            }
            Kind::seg_rSI => {
                if self.long {
                    OpKind::MemorySegRSI
                } else {
                    OpKind::MemorySegESI
                }
            }
            Kind::es_rDI => {
                if self.long {
                    OpKind::MemoryESRDI
                } else {
                    OpKind::MemoryESEDI
                }
            }
            Kind::seg_rDI => {
                if self.long {
                    OpKind::MemorySegRDI
                } else {
                    OpKind::MemorySegEDI
                }
            }
            Kind::mem_offs => {
                i.set_memory_displacement64(DATA + self.rng.below(DATA_SIZE));
                i.set_memory_displ_size(if self.long { 8 } else { 4 });
                OpKind::Memory
            }
            Kind::seg_rBX_al => {
                i.set_memory_base(if self.long { Register::RBX } else { Register::EBX });
                i.set_memory_index(Register::AL);
                i.set_memory_index_scale(1);
                OpKind::Memory
            }
            _ => return None,
        };
        i.set_op_kind(number, op_kind);
        Some(false)
    }

    /// A general register: one that points somewhere or the stack pointer seldom as the first
    /// operand.
    fn general(&mut self, number: u32, count: u64) -> u32 {
        loop {
            let register = self.rng.below(count) as u32;
            let keeps = register == 4 || register == CODE_BASE || BASES.contains(&register);
            let often = if register == 4 { 60 } else { 12 };
            if !keeps || (number > 0 && register != 4) || self.rng.one_in(often) {
                return register;
            }
        }
    }

    /// AL to BH, and SPL to R15L.
    fn byte(&mut self, number: u32) -> Register {
        if self.rng.one_in(4) {
            return Register::AH + self.rng.below(4) as u32;
        }
        match self.general(number, if self.long { 16 } else { 8 }) {
            register @ 0..4 => Register::AL + register,
            register if self.long => Register::SPL + (register - 4),
            register => Register::AL + (register & 3),
        }
    }

    /// A memory operand.
    fn memory(&mut self, i: &mut Instruction, number: u32) {
        i.set_op_kind(number, OpKind::Memory);
        let first = if self.long { Register::RAX } else { Register::EAX };
        let alignment = alignment(i.memory_size());
        let aligned = alignment > 1 && !self.rng.one_in(16);
        let choice = self.rng.below(24);
        if choice < 3 {
            let at = DATA + self.rng.below(DATA_SIZE);
            let at = if aligned { at & !(alignment - 1) } else { at };
            if self.long {
                i.set_memory_base(Register::RIP);
            }
            i.set_memory_displacement64(at);
            i.set_memory_displ_size(if self.long { 8 } else { 4 });
            return;
        }
        let code = choice == 3 && !aligned;
        let base = match (aligned, code) {
            (_, true) => CODE_BASE,
            (true, _) => BASES[0],
            _ => self.rng.pick(&BASES),
        };
        let base = self.base.unwrap_or(base);
        i.set_memory_base(first + base);
        let mut distance = self.rng.below(0x180) as i64 - 0x80;
        if self.rng.one_in(8) {
            distance = self.rng.below(0x4000) as i64 - 0x2000;
        }
        // Without a displacement the register itself is the address.
        if self.rng.one_in(if self.base.is_some() { 2 } else { 16 }) {
            distance = 0;
        }
        if aligned {
            distance &= !(alignment as i64 - 1);
        }
        i.set_memory_displacement64(
            if self.long { distance } else { distance & 0xFFFF_FFFF } as u64
        );
        i.set_memory_displ_size(if self.long { 8 } else { 4 });
        if (-128..128).contains(&distance) {
            i.set_memory_displ_size(1);
        }
        if choice == 4 {
            // An index whose value nobody knows: mostly a fault.
            i.set_memory_index(first + self.general(1, 8));
            i.set_memory_index_scale(1 << self.rng.below(4));
        }
        if choice == 5 && self.rng.one_in(2) {
            i.set_segment_prefix(self.rng.pick(&[Register::FS, Register::GS, Register::ES]));
        }
    }

    /// A value for a register that points into the data.
    pub fn data_pointer(&mut self, base: u32) -> u64 {
        let page = DATA + self.rng.below(DATA_SIZE >> 12) * 0x1000;
        if base == BASES[0] {
            return page + self.rng.below(64) * 64;
        }
        match self.rng.below(4) {
            0 => page + 0x1000 - self.rng.below(0x90),
            1 if self.rng.one_in(4) => page + (crate::guest::DATA_ALIAS - DATA),
            _ => page + self.rng.below(0x1000),
        }
    }

    /// A value for the register that points into the code: near `at`, now and then elsewhere or by
    /// another name.
    pub fn code_pointer(&mut self, at: u64) -> u64 {
        let near = at.wrapping_add(self.rng.below(0x200));
        match self.rng.below(6) {
            0 => near - crate::guest::CODE + CODE_ALIAS,
            1 => crate::guest::CODE + self.rng.below(crate::guest::CODE_SIZE),
            _ => near,
        }
    }
}

/// What operands of this size must be multiples of in many instructions.
fn alignment(size: MemorySize) -> u64 {
    match size.size() {
        16 => 16,
        512.. => 64,
        _ => 1,
    }
}
