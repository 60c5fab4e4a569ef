//! Builds an instruction of a form: registers, memory operands of all addressing kinds, immediates,
//! prefixes.
//!
//! Contract: what is built decodes to the form again, and the registers that its address depends on
//! are set so that it reaches the chosen target.

use crate::forms::Form;
use crate::layout::{self, CODE, CODE_SIZE, DATA, DATA_END, DATA_SIZE, PAGE, READ_ONLY};
use crate::state::{self, Mode, State};
use crate::values::Rng;
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, Mnemonic, OpCodeOperandKind as Kind,
    OpKind, Register,
};

/// An encoded instruction, placed in the code pages.
#[derive(Clone, Debug)]
pub struct Built {
    /// What the bytes decode to.
    pub instruction: Instruction,
    /// Encoding.
    pub code: Vec<u8>,
    /// Linear address of the first byte.
    pub address: u64,
    /// Linear address of the memory operand, if one was chosen.
    pub target: Option<u64>,
}

/// Builds an instruction of `form` and sets in `state` the registers that its memory operand uses.
/// `None` if this combination of operands has no encoding.
pub fn build(form: Form, rng: &mut Rng, state: &mut State) -> Option<Built> {
    let op_code = form.code.op_code();
    let address = place(rng);
    let mut builder = Builder {
        form,
        rng,
        state,
        instruction: Instruction::default(),
        address,
        target: None,
        locked: false,
    };
    builder.instruction.set_code(form.code);
    builder.locked = form.code.mnemonic() == Mnemonic::Xchg
        || (op_code.can_use_lock_prefix() && builder.rng.one_in(4));
    for (number, &kind) in op_code.op_kinds().iter().enumerate() {
        builder.operand(number as u32, kind)?;
    }
    if builder.locked && op_code.can_use_lock_prefix() && builder.target.is_some() {
        builder.instruction.set_has_lock_prefix(true);
    }
    if op_code.can_use_rep_prefix() && builder.rng.one_in(2) {
        builder.instruction.set_has_rep_prefix(true);
    } else if op_code.can_use_repne_prefix() && builder.rng.one_in(2) {
        builder.instruction.set_has_repne_prefix(true);
    }
    let (instruction, target) = (builder.instruction, builder.target);
    let mut encoder = Encoder::new(form.mode.bitness());
    let ip = address - form.mode.code_base();
    encoder.encode(&instruction, ip).ok()?;
    let mut code = encoder.take_buffer();
    add_prefix(form, rng, &mut code, ip);
    let decoded = decode(form.mode, &code, ip);
    // How much of an invalid encoding is fetched before #UD is the CPU's own business.
    let crosses = |page: u64| address < page && address + 16 > page;
    let partial = decoded.is_invalid() && (crosses(CODE + PAGE) || crosses(CODE + CODE_SIZE));
    let itself = decoded.is_jmp_short_or_near() && decoded.near_branch_target() == ip;
    ((decoded.code() == form.code || decoded.is_invalid()) && !partial && !itself)
        .then_some(Built { instruction: decoded, code, address, target })
}

/// Decodes `code`, which breakpoints follow, at offset `ip` of the code segment.
pub fn decode(mode: Mode, code: &[u8], ip: u64) -> Instruction {
    let mut bytes = code.to_vec();
    bytes.resize(code.len() + 16, 0xCC);
    Decoder::with_ip(mode.bitness(), &bytes, ip, DecoderOptions::NONE).decode()
}

/// Where the code begins: mostly in the first page, at times across the pages or across their end.
fn place(rng: &mut Rng) -> u64 {
    match rng.below(40) {
        0 => CODE + PAGE - 1 - rng.below(15),
        1 => CODE + CODE_SIZE - 1 - rng.below(15),
        _ => CODE + 0x400 + rng.below(0x800),
    }
}

/// Adds a prefix that means nothing here, makes the encoding invalid, or makes it too long, now and
/// then.
fn add_prefix(form: Form, rng: &mut Rng, code: &mut Vec<u8>, ip: u64) {
    let choice = rng.below(48);
    let mut longer = code.clone();
    match choice {
        0..=2 => {
            let prefix = rng.pick(&[0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF2, 0xF3]);
            longer.insert(0, prefix);
        }
        3 if form.mode == Mode::Long64 => longer.insert(0, 0x40 | rng.below(16) as u8),
        4 => longer.insert(0, 0xF0),
        5 => {
            let length = 15 + rng.below(2) as usize;
            while longer.len() < length {
                longer.insert(0, 0x2E);
            }
        }
        _ => return,
    }
    let decoded = decode(form.mode, &longer, ip);
    let fatal = choice == 4
        || choice == 5
        || longer.first() == Some(&0xF3)
        || longer.first() == Some(&0x66);
    if decoded.code() == form.code || (decoded.is_invalid() && fatal) {
        *code = longer;
    }
}

struct Builder<'a> {
    form: Form,
    rng: &'a mut Rng,
    state: &'a mut State,
    instruction: Instruction,
    address: u64,
    target: Option<u64>,
    locked: bool,
}

impl Builder<'_> {
    fn long(&self) -> bool {
        self.form.mode == Mode::Long64
    }

    fn register(&mut self, number: u32, first: Register, count: u64) {
        let register = first + self.rng.below(count) as u32;
        self.set_register(number, register);
    }

    fn set_register(&mut self, number: u32, register: Register) {
        self.instruction.set_op_kind(number, OpKind::Register);
        self.instruction.set_op_register(number, register);
    }

    fn operand(&mut self, number: u32, kind: Kind) -> Option<()> {
        let wide = if self.long() { 16 } else { 8 };
        let memory = self.rng.below(5) < 3;
        match kind {
            Kind::r8_or_mem
            | Kind::r16_or_mem
            | Kind::r32_or_mem
            | Kind::r64_or_mem
            | Kind::mm_or_mem
            | Kind::xmm_or_mem
                if memory =>
            {
                self.memory(number)?
            }
            Kind::mem => self.memory(number)?,
            Kind::mem_offs => self.memory_offset(number),
            Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode => self.byte_register(number),
            Kind::r16_or_mem
            | Kind::r16_reg
            | Kind::r16_rm
            | Kind::r16_opcode
            | Kind::r16_reg_mem => {
                self.register(number, Register::AX, wide);
            }
            Kind::r32_or_mem
            | Kind::r32_reg
            | Kind::r32_rm
            | Kind::r32_opcode
            | Kind::r32_vvvv
            | Kind::r32_reg_mem => self.register(number, Register::EAX, wide),
            Kind::r64_or_mem
            | Kind::r64_reg
            | Kind::r64_rm
            | Kind::r64_opcode
            | Kind::r64_vvvv
            | Kind::r64_reg_mem => self.register(number, Register::RAX, wide),
            Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => self.register(number, Register::MM0, 8),
            Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm => {
                self.register(number, Register::XMM0, wide)
            }
            Kind::seg_reg => self.register(number, Register::ES, 6),
            Kind::cr_reg => {
                let cr =
                    self.rng.pick(&[Register::CR0, Register::CR2, Register::CR3, Register::CR4]);
                self.set_register(number, cr);
            }
            Kind::dr_reg => self.register(number, Register::DR0, 8),
            Kind::sti_opcode => self.register(number, Register::ST0, 8),
            _ => return self.fixed_operand(number, kind),
        }
        Some(())
    }

    fn fixed_operand(&mut self, number: u32, kind: Kind) -> Option<()> {
        let fixed = match kind {
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
            Kind::seg_rSI | Kind::es_rDI | Kind::seg_rDI => {
                return self.string_operand(number, kind);
            }
            Kind::seg_rBX_al => return self.translate_operand(number),
            _ => return self.immediate(number, kind),
        };
        self.set_register(number, fixed);
        Some(())
    }

    fn byte_register(&mut self, number: u32) {
        use Register::*;
        let legacy = [AL, CL, DL, BL, AH, CH, DH, BH];
        let long = [SPL, BPL, SIL, DIL, R8L, R9L, R10L, R11L, R12L, R13L, R14L, R15L];
        let register = if self.long() && self.rng.one_in(2) {
            self.rng.pick(&long)
        } else {
            self.rng.pick(&legacy)
        };
        self.set_register(number, register);
    }

    fn immediate(&mut self, number: u32, kind: Kind) -> Option<()> {
        let value = match self.rng.below(4) {
            0 => self.rng.bits(),
            1 => self.rng.below(70),
            _ => self.rng.integer(),
        };
        let i = &mut self.instruction;
        let op_kind = match kind {
            Kind::imm8 | Kind::imm8_const_1 => {
                let value = if kind == Kind::imm8 { self.vector(value) } else { 1 };
                let i = &mut self.instruction;
                // ENTER and EXTRQ have a second immediate.
                let second = number > 0
                    && matches!(i.op_kind(number - 1), OpKind::Immediate16 | OpKind::Immediate8);
                if second {
                    i.set_immediate8_2nd(value);
                    i.set_op_kind(number, OpKind::Immediate8_2nd);
                } else {
                    i.set_immediate8(value);
                    i.set_op_kind(number, OpKind::Immediate8);
                }
                return Some(());
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
            _ => return self.branch(number, kind),
        };
        self.instruction.set_op_kind(number, op_kind);
        Some(())
    }

    /// An 8-bit immediate; as an interrupt number not one that enters the host's kernel.
    fn vector(&mut self, value: u64) -> u8 {
        match (self.form.code, value as u8) {
            (Code::Int_imm8, 0x80) => 0x81,
            (_, byte) => byte,
        }
    }

    /// A branch target: in the code pages, in the unmapped page behind them, or in data; never the
    /// branch itself.
    fn branch(&mut self, number: u32, kind: Kind) -> Option<()> {
        let near = |rng: &mut Rng, reach: u64| {
            let distance = 1 + rng.below(reach);
            if rng.one_in(2) { self.address + 20 + distance } else { self.address - distance }
        };
        let short = matches!(kind, Kind::br16_1 | Kind::br32_1 | Kind::br64_1);
        let linear = match self.rng.below(12) {
            _ if short => near(self.rng, 100),
            0 => CODE + CODE_SIZE + self.rng.below(PAGE),
            1 => DATA + self.rng.below(DATA_SIZE),
            2..6 => near(self.rng, 500),
            _ => CODE + self.rng.below(CODE_SIZE),
        };
        if (self.address..self.address + 20).contains(&linear) {
            return None;
        }
        let target = linear.wrapping_sub(self.form.mode.code_base());
        let selector = far_selector(self.rng);
        let i = &mut self.instruction;
        let op_kind = match kind {
            Kind::br16_1 | Kind::br16_2 => {
                i.set_near_branch16(target as u16);
                OpKind::NearBranch16
            }
            Kind::br32_1 | Kind::br32_4 => {
                i.set_near_branch32(target as u32);
                OpKind::NearBranch32
            }
            Kind::br64_1 | Kind::br64_4 => {
                i.set_near_branch64(target);
                OpKind::NearBranch64
            }
            Kind::farbr2_2 => {
                i.set_far_branch16(target as u16);
                i.set_far_branch_selector(selector);
                OpKind::FarBranch16
            }
            Kind::farbr4_2 => {
                i.set_far_branch32(target as u32);
                i.set_far_branch_selector(selector);
                OpKind::FarBranch32
            }
            _ => return None,
        };
        self.instruction.set_op_kind(number, op_kind);
        Some(())
    }

    /// Bytes that the memory operand covers; 1 if it has no size.
    fn size(&self) -> u64 {
        match self.form.code.op_code().memory_size().size() as u64 {
            0 => 64,
            size => size,
        }
    }

    /// The linear address that the memory operand shall have.
    fn target(&mut self) -> u64 {
        let size = self.size();
        let target = if self.locked {
            // Split locks stall the host: stay within a cache line.
            let line = DATA + self.rng.below(DATA_SIZE / 64) * 64;
            line + self.rng.below(65 - size.min(64))
        } else {
            data_address(self.rng, size)
        };
        if self.locked && self.rng.one_in(30) {
            return self.rng.pick(&[READ_ONLY + 64, DATA_END + 128, 1 << 63, CODE + 64]);
        }
        target
    }

    fn string_operand(&mut self, number: u32, kind: Kind) -> Option<()> {
        let source = kind == Kind::seg_rSI;
        let narrow = self.rng.one_in(6);
        let (si, di, seg_di) = match (self.form.mode, narrow) {
            (Mode::Long64, false) => {
                (OpKind::MemorySegRSI, OpKind::MemoryESRDI, OpKind::MemorySegRDI)
            }
            (Mode::Compat32, true) | (Mode::Compat16, false) => {
                (OpKind::MemorySegSI, OpKind::MemoryESDI, OpKind::MemorySegDI)
            }
            _ => (OpKind::MemorySegESI, OpKind::MemoryESEDI, OpKind::MemorySegEDI),
        };
        // Both operands have the same address size.
        let earlier =
            (0..number).map(|n| self.instruction.op_kind(n)).find(|&kind| kind != OpKind::Register);
        let op_kind = match (earlier, kind) {
            (Some(OpKind::MemorySegRSI), _) => OpKind::MemoryESRDI,
            (Some(OpKind::MemorySegESI), _) => OpKind::MemoryESEDI,
            (Some(OpKind::MemorySegSI), _) => OpKind::MemoryESDI,
            (Some(OpKind::MemoryESRDI), _) => OpKind::MemorySegRSI,
            (Some(OpKind::MemoryESEDI), _) => OpKind::MemorySegESI,
            (Some(OpKind::MemoryESDI), _) => OpKind::MemorySegSI,
            (_, Kind::seg_rSI) => si,
            (_, Kind::seg_rDI) => seg_di,
            _ => di,
        };
        self.instruction.set_op_kind(number, op_kind);
        let size = self.size();
        let target = data_address(self.rng, if kind == Kind::seg_rDI { 16 } else { size });
        let register = if source { state::RSI } else { state::RDI };
        let garbage = self.rng.bits() & !0xFFFF_FFFF;
        let offset = target.wrapping_sub(self.form.mode.data_base());
        let wide =
            matches!(op_kind, OpKind::MemorySegRSI | OpKind::MemoryESRDI | OpKind::MemorySegRDI);
        self.state.gpr[register] =
            if wide || self.rng.one_in(2) { offset } else { offset & 0xFFFF_FFFF | garbage };
        self.target = Some(target);
        Some(())
    }

    /// XLAT: \[rBX + AL\].
    fn translate_operand(&mut self, number: u32) -> Option<()> {
        let base = match (self.form.mode, self.rng.one_in(6)) {
            (Mode::Long64, false) => Register::RBX,
            (Mode::Compat32, true) | (Mode::Compat16, false) => Register::BX,
            _ => Register::EBX,
        };
        let i = &mut self.instruction;
        i.set_op_kind(number, OpKind::Memory);
        i.set_memory_base(base);
        i.set_memory_index(Register::AL);
        i.set_memory_index_scale(1);
        let target = data_address(self.rng, 1);
        let al = self.state.gpr[state::RAX] & 0xFF;
        self.state.gpr[state::RBX] =
            target.wrapping_sub(al).wrapping_sub(self.form.mode.data_base());
        self.target = Some(target);
        Some(())
    }

    /// MOV with an absolute address.
    fn memory_offset(&mut self, number: u32) {
        let target = self.target();
        let offset = target.wrapping_sub(self.form.mode.data_base());
        let (offset, size) = match (self.form.mode, self.rng.one_in(6)) {
            (Mode::Long64, false) => (offset, 8),
            (Mode::Compat16, false) | (Mode::Compat32, true) => (offset & 0xFFFF, 2),
            _ => (offset & 0xFFFF_FFFF, 4),
        };
        let i = &mut self.instruction;
        i.set_op_kind(number, OpKind::Memory);
        i.set_memory_displacement64(offset);
        i.set_memory_displ_size(size);
        self.target = Some(target);
    }

    fn memory(&mut self, number: u32) -> Option<()> {
        let target = self.target();
        self.target = Some(target);
        self.instruction.set_op_kind(number, OpKind::Memory);
        let narrow = self.rng.one_in(8);
        let segment_base = self.segment();
        let offset = target.wrapping_sub(segment_base);
        match (self.form.mode, narrow) {
            (Mode::Long64, false) => self.address_wide(offset, Register::RAX, 16, u64::MAX),
            (Mode::Long64, true) => self.address_wide(offset, Register::EAX, 16, 0xFFFF_FFFF),
            (Mode::Compat32, false) | (Mode::Compat16, true) => {
                self.address_wide(offset, Register::EAX, 8, 0xFFFF_FFFF)
            }
            _ => self.address_16(offset),
        }
        let i = &mut self.instruction;
        let through_stack = matches!(i.memory_base(), Register::BP | Register::EBP | Register::ESP);
        if self.form.mode == Mode::Compat16 && through_stack && i.segment_prefix() == Register::None
        {
            // SS is flat here and DS is not.
            i.set_segment_prefix(Register::DS);
        }
        Some(())
    }

    /// Chooses a segment override and returns the base that the address will be relative to.
    fn segment(&mut self) -> u64 {
        let base = self.form.mode.data_base();
        if self.long() {
            return match self.rng.below(10) {
                0 => {
                    self.instruction.set_segment_prefix(Register::FS);
                    self.state.fs_base
                }
                1 => {
                    self.instruction.set_segment_prefix(Register::GS);
                    self.state.gs_base
                }
                _ => 0,
            };
        }
        if self.rng.one_in(8) {
            let (register, number) = self.rng.pick(&[
                (Register::ES, state::ES),
                (Register::FS, state::FS),
                (Register::GS, state::GS),
                (Register::DS, state::DS),
                (Register::SS, state::SS),
                (Register::CS, state::CS),
            ]);
            self.instruction.set_segment_prefix(register);
            return segment_base(self.state.segments[number]).unwrap_or(base);
        }
        base
    }

    /// 32- and 64-bit addressing: \[base + index * scale + displacement\] with registers from
    /// `first`.
    fn address_wide(&mut self, offset: u64, first: Register, registers: u64, mask: u64) {
        let low = offset & mask;
        let reachable = low < 1 << 31;
        let shape = self.rng.below(12);
        let scale = 1 << self.rng.below(4);
        let near = match self.rng.below(3) {
            0 => 0,
            1 => self.rng.bits() as i8 as i64 as u64,
            _ => self.rng.bits() as i32 as i64 as u64 >> self.rng.below(8) << self.rng.below(3),
        };
        let displacement = near as i32 as i64 as u64;
        let base = self.rng.below(registers) as usize;
        let index = loop {
            match self.rng.below(registers) as usize {
                state::RSP => {}
                index => break index,
            }
        };
        self.instruction.set_memory_displ_size(if first == Register::RAX { 8 } else { 4 });
        match shape {
            0 if reachable && self.long() && mask == u64::MAX => {
                self.instruction.set_memory_base(Register::RIP);
                self.instruction.set_memory_displacement64(low);
            }
            1 if reachable => {
                self.instruction.set_memory_displacement64(low);
            }
            2 | 3 if reachable => {
                let value = self.rng.bits() as i32 as i64 as u64 >> 33;
                self.instruction.set_memory_index(first + index as u32);
                self.instruction.set_memory_index_scale(scale);
                self.displace(low.wrapping_sub(value.wrapping_mul(u64::from(scale))), mask);
                self.set_address_register(index, value, mask);
            }
            4..7 => {
                let value = if base == index {
                    // base + base * scale + displacement: solve for the displacement.
                    self.rng.below(1 << 20)
                } else {
                    self.rng.bits() as i16 as i64 as u64
                };
                self.instruction.set_memory_base(first + base as u32);
                self.instruction.set_memory_index(first + index as u32);
                self.instruction.set_memory_index_scale(scale);
                let indexed = value.wrapping_mul(u64::from(scale));
                self.set_address_register(index, value, mask);
                if base == index {
                    self.displace(low.wrapping_sub(indexed).wrapping_sub(value), mask);
                } else {
                    self.displace(displacement, mask);
                    self.set_address_register(
                        base,
                        low.wrapping_sub(indexed).wrapping_sub(displacement),
                        mask,
                    );
                }
            }
            7 | 8 => {
                self.instruction.set_memory_base(first + base as u32);
                self.instruction.set_memory_displ_size(0);
                self.set_address_register(base, low, mask);
            }
            _ => {
                self.instruction.set_memory_base(first + base as u32);
                self.displace(displacement, mask);
                self.set_address_register(base, low.wrapping_sub(displacement), mask);
            }
        }
    }

    fn displace(&mut self, displacement: u64, mask: u64) {
        self.instruction.set_memory_displacement64(displacement & mask);
        if displacement as i64 == i64::from(displacement as i8) && self.rng.one_in(2) {
            self.instruction.set_memory_displ_size(1);
        }
    }

    /// Sets an address register; what lies above the address size is random.
    fn set_address_register(&mut self, number: usize, value: u64, mask: u64) {
        let garbage = if self.long() { self.rng.bits() & !mask } else { 0 };
        self.state.gpr[number] = value & mask | garbage;
    }

    /// 16-bit addressing.
    fn address_16(&mut self, offset: u64) {
        use Register::*;
        let offset = offset & 0xFFFF;
        let displacement = self.rng.pick(&[0, 1, 0x7F, 0xFF80, 0x1234, 0xFFFF]);
        let (base, index) = self.rng.pick(&[
            (BX, SI),
            (BX, DI),
            (BP, SI),
            (BP, DI),
            (SI, None),
            (DI, None),
            (BP, None),
            (BX, None),
            (None, None),
        ]);
        let i = &mut self.instruction;
        if base == None {
            i.set_memory_displacement64(offset);
            i.set_memory_displ_size(2);
            return;
        }
        let index_value = if index == None { 0 } else { self.rng.bits() & 0xFFFF };
        let base_value = offset.wrapping_sub(displacement).wrapping_sub(index_value) & 0xFFFF;
        i.set_memory_base(base);
        i.set_memory_displacement64(displacement);
        i.set_memory_displ_size(if displacement == 0 && base != BP { 0 } else { 2 });
        let garbage = self.rng.bits() & 0xFFFF_0000;
        self.state.gpr[base.number()] = base_value | garbage;
        if index != None {
            self.instruction.set_memory_index(index);
            self.state.gpr[index.number()] = index_value | garbage;
        }
    }
}

/// The base of the segment that `selector` names in the cases' tables; `None` if it is null.
pub fn segment_base(selector: u16) -> Option<u64> {
    match selector {
        0..=3 => None,
        selector if selector & 4 != 0 => {
            layout::LDT.get(usize::from(selector >> 3)).map(|segment| u64::from(segment.base))
        }
        _ => Some(0),
    }
}

/// An address for `size` bytes of data: mostly in the window, aligned or not, at times across its
/// edges, in the read-only page, in the code, unmapped, or not canonical.
pub fn data_address(rng: &mut Rng, size: u64) -> u64 {
    let inside = DATA + rng.below(DATA_SIZE - size.min(DATA_SIZE - 1));
    match rng.below(40) {
        0..20 => inside & !(size.next_power_of_two() - 1),
        20..31 => inside & !15,
        31..33 => inside,
        33 => DATA + PAGE - rng.below(size + 1),
        34 => DATA_END - rng.below(size + 1),
        35 => READ_ONLY + rng.below(PAGE),
        36 => DATA - rng.below(size + 1),
        37 => {
            rng.pick(&[CODE + 0x100, DATA_END + 0x123, READ_ONLY - 1, READ_ONLY - size, 0, 0xFFFF])
        }
        38 if rng.one_in(2) => rng.pick(&[
            1 << 63,
            1 << 47,
            (1 << 47) - 1,
            (1 << 47) - size,
            0xFFFF_7FFF_FFFF_FFFF,
            0x0123_4567_89AB_CDEF,
        ]),
        _ => inside & !(size.next_power_of_two() - 1),
    }
}

/// A selector for far transfers.
pub fn far_selector(rng: &mut Rng) -> u16 {
    match rng.below(10) {
        0..4 => layout::USER_CS64,
        4..6 => layout::USER_CS32,
        6 => layout::LDT_CS16,
        _ => data_selector(rng),
    }
}

/// A selector for loads of segment registers.
pub fn data_selector(rng: &mut Rng) -> u16 {
    let ldt = (rng.below(10) << 3 | 4 | rng.below(4)) as u16;
    match rng.below(8) {
        0..3 => layout::USER_DS,
        3 | 4 => ldt,
        5 => rng.below(4) as u16,
        _ => rng.pick(&[
            0x28,
            0x29,
            0x33,
            0x23,
            0x20,
            0x10,
            0x18,
            0x1B,
            0x8000,
            0xFFFF,
            layout::LDT_DS16,
        ]),
    }
}
