//! Makes cases: a random state, an instruction of the form, and operands that make it do something.

use crate::forms::Form;
use crate::layout::{self, CODE, CODE_SIZE, DATA, DATA_SIZE};
use crate::operands::{self, Built};
use crate::state::{self, CS, Case, DS, ES, FS, GS, Mode, State, X87};
use crate::values::Rng;
use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind, Register};

/// A case with what it was made from.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The form it is a case of.
    pub form: Form,
    /// The instruction that the bytes decode to.
    pub instruction: Instruction,
    /// The case.
    pub case: Case,
}

/// The case number `number` of `form` under `seed`. `None` if no attempt led to an encoding.
pub fn generate(form: Form, seed: u64, number: u64) -> Option<Generated> {
    const ATTEMPTS: u64 = 100;
    let place = (form.code as u64) << 2 | form.mode as u64;
    let mut rng = Rng::new(seed ^ Rng::new(place << 40 ^ number).bits());
    (0..ATTEMPTS).find_map(|_| {
        let mut state = random_state(form.mode, &mut rng);
        let built = operands::build(form, &mut rng, &mut state)?;
        (!overlaps(&built.instruction)).then(|| finish(form, built, state, &mut rng))
    })
}

/// Whether the address depends on registers that must hold something else.
fn overlaps(i: &Instruction) -> bool {
    let address = [i.memory_base(), i.memory_index()].map(Register::full_register);
    let implicit = matches!(
        i.mnemonic(),
        Mnemonic::Pcmpestri
            | Mnemonic::Pcmpestrm
            | Mnemonic::Xsave
            | Mnemonic::Xsave64
            | Mnemonic::Xrstor
            | Mnemonic::Xrstor64
    );
    implicit && (address.contains(&Register::RAX) || address.contains(&Register::RDX))
}

fn finish(form: Form, built: Built, mut state: State, rng: &mut Rng) -> Generated {
    state.rip = built.address - form.mode.code_base();
    let pool_offset = rng.below((layout::POOL_SIZE as u64 - DATA_SIZE) / 16) as usize * 16;
    let mut case = Case {
        mode: form.mode,
        code: built.code,
        address: built.address,
        state,
        pool_offset,
        patches: Vec::new(),
    };
    Shaper { instruction: &built.instruction, target: built.target, case: &mut case, rng }.shape();
    if form.mode != Mode::Long64 {
        for gpr in &mut case.state.gpr[..8] {
            *gpr &= 0xFFFF_FFFF;
        }
        case.state.gpr[8..].fill(0);
        case.state.xmm[8..].fill(0);
    }
    Generated { form, instruction: built.instruction, case }
}

/// Registers of all kinds with random and edge values.
pub fn random_state(mode: Mode, rng: &mut Rng) -> State {
    let mut state = State::default();
    for gpr in &mut state.gpr {
        *gpr = rng.integer();
    }
    state.gpr[state::RSP] = stack_pointer(rng);
    const STATUS: u64 = 0x8D5;
    const DF: u64 = 1 << 10;
    const TF: u64 = 1 << 8;
    const AC: u64 = 1 << 18;
    let random = rng.bits();
    state.rflags = 0x202 | random & STATUS;
    if rng.one_in(4) {
        state.rflags |= DF;
    }
    if rng.one_in(24) {
        state.rflags |= TF;
    }
    if rng.one_in(40) {
        state.rflags |= AC;
    }
    state.segments[CS] = mode.code_selector();
    if mode == Mode::Compat16 {
        state.segments[ES] = layout::LDT_DS16;
        state.segments[DS] = layout::LDT_DS16;
    }
    if mode != Mode::Long64 {
        for segment in [FS, GS] {
            state.segments[segment] = rng.pick(&[0, layout::USER_DS, 0x07, 0x0F, 0x17, 0x1F]);
        }
    }
    state.fs_base = rng.below(0x1000_0000);
    state.gs_base =
        if rng.one_in(2) { rng.below(0x1000_0000) } else { 0u64.wrapping_sub(rng.below(1 << 40)) };
    if mode != Mode::Long64 {
        (state.fs_base, state.gs_base) = (0, 0);
    }
    state.x87 = random_x87(rng);
    for xmm in &mut state.xmm {
        *xmm = rng.vector();
    }
    state.mxcsr = match rng.below(8) {
        0..3 => 0x1F80,
        3 | 4 => 0x1F80 | (rng.bits() as u32 & 0xE07F),
        5 => (rng.bits() as u32 & 0xFFBF) | 0x1F00,
        _ => rng.bits() as u32 & 0xFFFF & !(if rng.one_in(2) { 0x3F } else { 0 }),
    };
    state
}

fn stack_pointer(rng: &mut Rng) -> u64 {
    match rng.below(24) {
        0 => operands::data_address(rng, 8),
        1 => rng.pick(&[0, 1, 4, 1 << 63, (1 << 47) - 4, DATA + DATA_SIZE - 4, DATA + 4]),
        2 => DATA + 0x400 + rng.below(0x1800),
        _ => DATA + 0x400 + rng.below(0x180) * 16,
    }
}

fn random_x87(rng: &mut Rng) -> X87 {
    let control = match rng.below(8) {
        0..3 => 0x037F,
        3..6 => 0x007F | (rng.bits() as u16 & 0x0F00),
        6 => 0x0040 | (rng.bits() as u16 & 0x0F3F),
        _ => 0x027F,
    };
    // Exceptions that are flagged and not masked make the next instruction fault: rarely wanted.
    let flags =
        if rng.one_in(12) { rng.bits() as u16 & 0x7F } else { rng.bits() as u16 & control & 0x3F };
    let pending = flags & !control & 0x3F != 0;
    let top = if rng.one_in(2) { 0 } else { rng.below(8) as u16 };
    let status =
        flags | (rng.bits() as u16 & 0x4700) | top << 11 | if pending { 0x8080 } else { 0 };
    let tag = match rng.below(4) {
        0 => rng.bits() as u8,
        1 => !(1 << rng.below(8)) as u8,
        2 => 0xFF,
        // Some registers above TOP are in use, the others are free to push to.
        _ => ((1u16 << (1 + rng.below(7))) - 1).rotate_left(0) as u8,
    };
    let tag = if rng.one_in(2) { tag.rotate_left(u32::from(top)) } else { tag };
    let mut st = [[0; 10]; 8];
    for register in &mut st {
        *register = match rng.below(6) {
            0 => {
                let mut mmx = [0xFF; 10];
                mmx[..8].copy_from_slice(&(rng.vector() as u64).to_le_bytes());
                mmx
            }
            _ => rng.float80(),
        };
    }
    X87 { control, status, tag, opcode: 0, instruction: 0, operand: 0, st }
}

/// Adjusts registers and memory to the instruction.
struct Shaper<'a> {
    instruction: &'a Instruction,
    target: Option<u64>,
    case: &'a mut Case,
    rng: &'a mut Rng,
}

impl Shaper<'_> {
    fn shape(&mut self) {
        self.memory_operand();
        self.stack();
        self.implicit_registers();
        match self.instruction.mnemonic() {
            Mnemonic::Ret | Mnemonic::Retf | Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => {
                self.returns()
            }
            Mnemonic::Call | Mnemonic::Jmp => self.indirect_branch(),
            Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => {
                let top = self.stack_top();
                let flags = self.flags_image();
                self.case.patch(top, &flags.to_le_bytes());
            }
            Mnemonic::Pop
            | Mnemonic::Mov
            | Mnemonic::Lar
            | Mnemonic::Lsl
            | Mnemonic::Verr
            | Mnemonic::Verw
            | Mnemonic::Arpl => self.selector_operand(),
            Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs => {
                self.far_pointer(false)
            }
            Mnemonic::Cmpxchg | Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => {
                self.compare_exchange()
            }
            Mnemonic::Div | Mnemonic::Idiv => self.dividend(),
            Mnemonic::Bound => self.bounds(),
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => self.bit_offset(),
            Mnemonic::Fxrstor
            | Mnemonic::Fxrstor64
            | Mnemonic::Xrstor
            | Mnemonic::Xrstor64
            | Mnemonic::Fldenv
            | Mnemonic::Frstor
            | Mnemonic::Ldmxcsr
            | Mnemonic::Xsave
            | Mnemonic::Xsave64 => self.saved_state(),
            Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => {
                let value = self.case.state.gpr[self.register(0)];
                let canonical = ((value << 16) as i64 >> 16) as u64;
                if self.rng.below(4) > 0 {
                    let register = self.register(0);
                    self.case.state.gpr[register] = canonical;
                }
            }
            _ => {}
        }
    }

    /// Number of the general register that operand `operand` is.
    fn register(&self, operand: u32) -> usize {
        self.instruction.op_register(operand).full_register().number()
    }

    /// Fills the memory operand with values of its type.
    fn memory_operand(&mut self) {
        let Some(target) = self.target else { return };
        let size = self.instruction.memory_size();
        let element = size.element_size();
        let bytes = match size {
            MemorySize::Float80 => self.rng.float80().to_vec(),
            MemorySize::Bcd => self.decimal().to_vec(),
            _ if element == 4 && size.is_packed() || size == MemorySize::Float32 => {
                self.rng.lanes(32, |rng| u64::from(rng.float32())).to_le_bytes().to_vec()
            }
            MemorySize::Float64 | MemorySize::Packed128_Float64 => {
                self.rng.lanes(64, Rng::float64).to_le_bytes().to_vec()
            }
            _ => self.rng.vector().to_le_bytes().to_vec(),
        };
        let length = size.size().clamp(1, bytes.len());
        self.case.patch(target, &bytes[..length]);
    }

    /// Packed decimal, with invalid digits now and then.
    fn decimal(&mut self) -> [u8; 10] {
        let valid = self.rng.below(6) > 0;
        let mut bytes = [0; 10];
        for byte in &mut bytes[..9] {
            let random = self.rng.bits() as u8;
            *byte = if valid { ((random >> 4) % 10) << 4 | ((random & 15) % 10) } else { random };
        }
        bytes[9] = self.rng.pick(&[0, 0x80]);
        bytes
    }

    fn stack_top(&self) -> u64 {
        let rsp = self.case.state.gpr[state::RSP];
        if self.case.mode == Mode::Long64 { rsp } else { rsp & 0xFFFF_FFFF }
    }

    /// ENTER and LEAVE work on the frame pointer as well.
    fn stack(&mut self) {
        if matches!(self.instruction.mnemonic(), Mnemonic::Enter | Mnemonic::Leave) {
            let random = self.rng.bits() & !0xFFFF_FFFF;
            let frame = DATA + 0x400 + self.rng.below(0x380) * 8;
            self.case.state.gpr[state::RBP] = match self.rng.below(16) {
                0 => frame | random,
                1 => self.rng.integer(),
                _ => frame,
            };
        }
    }

    /// RCX of repeated string operations and of loops, lengths of string comparisons, masks of
    /// XSAVE.
    fn implicit_registers(&mut self) {
        let i = self.instruction;
        let gpr = &mut self.case.state.gpr;
        let count = match self.rng.below(12) {
            0 => self.rng.below(3000),
            1 => 0,
            2 => self.rng.below(300),
            _ => self.rng.below(20),
        };
        let garbage = if self.rng.one_in(8) { self.rng.bits() & !0xFFFF } else { 0 };
        if i.is_string_instruction() {
            gpr[state::RCX] = count | garbage;
        }
        match i.mnemonic() {
            Mnemonic::Loop
            | Mnemonic::Loope
            | Mnemonic::Loopne
            | Mnemonic::Jcxz
            | Mnemonic::Jecxz
            | Mnemonic::Jrcxz => gpr[state::RCX] = self.rng.below(3) | garbage & !0xFFFF,
            Mnemonic::Pcmpestri | Mnemonic::Pcmpestrm => {
                let length = |rng: &mut Rng| match rng.below(4) {
                    0 => rng.integer(),
                    1 => rng.below(20).wrapping_neg(),
                    _ => rng.below(20),
                };
                gpr[state::RAX] = length(self.rng);
                gpr[state::RDX] = length(self.rng);
            }
            Mnemonic::Xsave | Mnemonic::Xsave64 | Mnemonic::Xrstor | Mnemonic::Xrstor64 => {
                // The host has more components than the guest: stay with those that both have.
                gpr[state::RAX] = self.rng.below(4);
                gpr[state::RDX] = 0;
            }
            Mnemonic::Maskmovdqu | Mnemonic::Maskmovq => {}
            _ => {}
        }
        let by_cl = (0..i.op_count())
            .any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n) == Register::CL);
        let cl_is_base = i.memory_base().full_register() == Register::RCX
            || i.memory_index().full_register() == Register::RCX;
        if by_cl && !cl_is_base && self.rng.one_in(2) {
            gpr[state::RCX] = gpr[state::RCX] & !0xFF | self.rng.below(40);
        }
    }

    fn code_pointer(&mut self) -> u64 {
        let linear = match self.rng.below(16) {
            0 => CODE + CODE_SIZE + self.rng.below(16),
            1 => DATA + self.rng.below(DATA_SIZE),
            2 if self.case.mode == Mode::Long64 => {
                self.rng.pick(&[1 << 63, 1 << 47, 0xFFFF_7FFF_FFFF_FFFF])
            }
            _ => CODE + self.rng.below(CODE_SIZE),
        };
        let own = self.case.address..self.case.address + 20;
        let linear = if own.contains(&linear) { CODE } else { linear };
        linear.wrapping_sub(self.case.mode.code_base())
    }

    /// A flags image for POPF and IRET: seldom with TF.
    fn flags_image(&mut self) -> u64 {
        let random = self.rng.bits();
        let mut flags = random & 0x0024_4ED5;
        if self.rng.one_in(4) {
            flags = random;
        }
        if self.rng.one_in(8) { flags | 0x100 } else { flags & !0x100 }
    }

    /// A frame for RET, far RET and IRET of the operand size.
    fn returns(&mut self) {
        use iced_x86::Code::*;
        let code = self.instruction.code();
        let slot = match code {
            Retnw | Retnw_imm16 | Retfw | Retfw_imm16 | Iretw => 2,
            Retnq | Retnq_imm16 | Retfq | Retfq_imm16 | Iretq => 8,
            _ => 4,
        };
        let immediate = if self.instruction.op_count() == 1 {
            u64::from(self.instruction.immediate16())
        } else {
            0
        };
        let far = !matches!(self.instruction.mnemonic(), Mnemonic::Ret);
        let mut frame = vec![self.code_pointer()];
        if far {
            frame.push(u64::from(operands::far_selector(self.rng)));
        }
        if code == Iretq || code == Iretd || code == Iretw {
            // With AC, an unaligned frame makes some hypervisors retry IRET for ever; NT is cleared
            // by their kernels.
            frame.push(self.flags_image() & !(1 << 14 | 1 << 18));
            if self.case.mode == Mode::Long64 {
                frame.push(operands::data_address(self.rng, 8));
                frame.push(u64::from(operands::data_selector(self.rng)));
            }
        }
        let _ = immediate;
        let bytes: Vec<u8> =
            frame.iter().flat_map(|word| word.to_le_bytes()[..slot].to_vec()).collect();
        let top = self.stack_top();
        self.case.patch(top, &bytes);
        if code == Iretq || code == Iretd || code == Iretw {
            // NT makes IRET a task return, which 64-bit kernels do not have.
            if self.rng.below(16) > 0 {
                self.case.state.rflags &= !(1 << 14);
            }
        }
    }

    fn indirect_branch(&mut self) {
        let pointer = self.code_pointer();
        match self.instruction.op0_kind() {
            OpKind::Register => {
                let register = self.register(0);
                if register != state::RSP {
                    self.case.state.gpr[register] = pointer;
                }
            }
            OpKind::Memory
                if self.instruction.is_call_far_indirect()
                    || self.instruction.is_jmp_far_indirect() =>
            {
                self.far_pointer(true);
            }
            OpKind::Memory => {
                if let Some(target) = self.target {
                    let size = self.instruction.memory_size().size();
                    self.case.patch(target, &pointer.to_le_bytes()[..size]);
                }
            }
            _ => {}
        }
    }

    /// A far pointer in the memory operand.
    fn far_pointer(&mut self, code: bool) {
        let Some(target) = self.target else { return };
        let offset = if code { self.code_pointer() } else { self.rng.integer() };
        let selector =
            if code { operands::far_selector(self.rng) } else { operands::data_selector(self.rng) };
        let width = self.instruction.memory_size().size() - 2;
        let mut bytes = offset.to_le_bytes()[..width].to_vec();
        bytes.extend_from_slice(&selector.to_le_bytes());
        self.case.patch(target, &bytes);
    }

    /// Operands that are selectors.
    fn selector_operand(&mut self) {
        let i = self.instruction;
        let selector = operands::data_selector(self.rng);
        let loads = i.op_count() > 0
            && i.op_kind(0) == OpKind::Register
            && i.op0_register().is_segment_register();
        let queries = matches!(
            i.mnemonic(),
            Mnemonic::Lar | Mnemonic::Lsl | Mnemonic::Verr | Mnemonic::Verw | Mnemonic::Arpl
        );
        if i.mnemonic() == Mnemonic::Pop && loads {
            let top = self.stack_top();
            self.case.patch(top, &selector.to_le_bytes());
            return;
        }
        if !loads && !queries {
            return;
        }
        for operand in 0..i.op_count() {
            match i.op_kind(operand) {
                OpKind::Memory => {
                    if let Some(target) = self.target {
                        self.case.patch(target, &selector.to_le_bytes());
                    }
                }
                OpKind::Register if i.op_register(operand).is_gpr() => {
                    let address = [i.memory_base(), i.memory_index()].map(Register::full_register);
                    let register = i.op_register(operand).full_register();
                    if !address.contains(&register) && register != Register::RSP {
                        let selector = u64::from(operands::data_selector(self.rng));
                        let gpr = &mut self.case.state.gpr[register.number()];
                        *gpr = *gpr & !0xFFFF | selector;
                    }
                }
                _ => {}
            }
        }
    }

    /// Makes the comparison succeed half of the time.
    fn compare_exchange(&mut self) {
        if self.rng.one_in(2) {
            return;
        }
        let gpr = &self.case.state.gpr;
        let (low, high) = (gpr[state::RAX], gpr[state::RDX]);
        let bytes = match self.instruction.mnemonic() {
            Mnemonic::Cmpxchg8b => u128::from(low & 0xFFFF_FFFF | high << 32),
            _ => u128::from(low) | u128::from(high) << 64,
        };
        match (self.instruction.op0_kind(), self.target) {
            (OpKind::Memory, Some(target)) => {
                let size = self.instruction.memory_size().size();
                self.case.patch(target, &bytes.to_le_bytes()[..size]);
            }
            (OpKind::Register, _) => {
                let register = self.register(0);
                if register != state::RSP {
                    self.case.state.gpr[register] = low;
                }
            }
            _ => {}
        }
    }

    /// A dividend whose quotient fits, most of the time.
    fn dividend(&mut self) {
        let i = self.instruction;
        let address = [i.memory_base(), i.memory_index()].map(Register::full_register);
        if address.contains(&Register::RAX) || address.contains(&Register::RDX) {
            return;
        }
        let signed = i.mnemonic() == Mnemonic::Idiv;
        let gpr = &mut self.case.state.gpr;
        match self.rng.below(4) {
            0 => {}
            1 => gpr[state::RDX] = if signed { (gpr[state::RAX] as i64 >> 63) as u64 } else { 0 },
            2 => {
                gpr[state::RDX] = self.rng.below(8);
                gpr[state::RAX] &= 0xFFFF_FFFF_FFFF_7FFF;
            }
            _ => {
                let shift = self.rng.below(60);
                gpr[state::RAX] = (gpr[state::RAX] as i64 >> shift) as u64;
                let sign = (gpr[state::RAX] as i32 >> 31) as u64;
                gpr[state::RDX] = if signed { sign } else { 0 };
            }
        }
    }

    fn bounds(&mut self) {
        let Some(target) = self.target else { return };
        let index = self.case.state.gpr[self.register(0)] as i32;
        let low = index.wrapping_sub(self.rng.below(3) as i32);
        let high = index.wrapping_add(self.rng.below(3) as i32).wrapping_sub(1);
        let half = self.instruction.memory_size().size() / 2;
        let mut bytes = low.to_le_bytes()[..half].to_vec();
        bytes.extend_from_slice(&high.to_le_bytes()[..half]);
        self.case.patch(target, &bytes);
    }

    /// A bit offset that stays in the window, most of the time.
    fn bit_offset(&mut self) {
        let i = self.instruction;
        if i.op0_kind() != OpKind::Memory || i.op1_kind() != OpKind::Register {
            return;
        }
        let address = [i.memory_base(), i.memory_index()].map(Register::full_register);
        let register = i.op1_register().full_register();
        if address.contains(&register) || register == Register::RSP {
            return;
        }
        let reach = self.rng.pick(&[8, 64, 2048, 1 << 15, 1 << 18]);
        let offset = (self.rng.below(2 * reach) as i64 - reach as i64) as u64;
        if i.has_lock_prefix() {
            // Within the operand itself, so that it stays in its cache line.
            self.case.state.gpr[register.number()] = self.rng.below(16);
        } else if self.rng.below(32) > 0 {
            self.case.state.gpr[register.number()] = offset;
        }
    }

    /// An image for the instructions that load x87 and SSE state, or what XSAVE finds in its
    /// header.
    fn saved_state(&mut self) {
        let Some(target) = self.target else { return };
        let mut other = random_state(self.case.mode, self.rng);
        match self.instruction.mnemonic() {
            Mnemonic::Ldmxcsr => {
                let reserved = if self.rng.one_in(12) { 0xFFFF_0000 } else { 0 };
                let value = other.mxcsr | self.rng.bits() as u32 & reserved;
                self.case.patch(target, &value.to_le_bytes());
            }
            Mnemonic::Fldenv | Mnemonic::Frstor => self.legacy_environment(target, &other),
            _ => {
                let xsave =
                    !matches!(self.instruction.mnemonic(), Mnemonic::Fxrstor | Mnemonic::Fxrstor64);
                if self.rng.one_in(16) {
                    other.mxcsr |= 1 << (16 + self.rng.below(16));
                }
                let mut image = vec![0; if xsave { 576 } else { 464 }];
                other.write_fxsave(&mut image);
                if xsave {
                    image[512] = self.rng.below(4) as u8;
                    if self.rng.one_in(16) {
                        image[512 + self.rng.below(64) as usize] ^= 1 << self.rng.below(8);
                    }
                    // Bits that only the host knows would differ.
                    image[512] &= 3;
                    image[513] &= 0x80;
                    image[514] &= 0x80;
                    image[520] &= 3;
                }
                if self.rng.below(16) > 0 {
                    self.align(64);
                }
                let target = self.target.expect("set above");
                self.case.patch(target, &image);
            }
        }
    }

    /// Moves the memory operand down to a multiple of `alignment`, and into the window with room
    /// behind it.
    fn align(&mut self, alignment: u64) {
        let i = self.instruction;
        let Some(target) = self.target else { return };
        let aligned = (target & !(alignment - 1)).clamp(DATA, DATA + DATA_SIZE - 1024);
        let movable = i.memory_index() == Register::None
            && i.memory_base().is_gpr()
            && (DATA..DATA + DATA_SIZE).contains(&target);
        if movable {
            let gpr = &mut self.case.state.gpr[i.memory_base().full_register().number()];
            *gpr = gpr.wrapping_add(aligned.wrapping_sub(target));
            self.target = Some(aligned);
        }
    }

    /// The protected-mode images of FLDENV and FRSTOR (SDM 1 figures 8-9 and 8-11).
    fn legacy_environment(&mut self, target: u64, other: &State) {
        let slot = match self.instruction.memory_size() {
            MemorySize::FpuEnv14 | MemorySize::FpuState94 => 2,
            _ => 4,
        };
        let tag = (0..8).fold(0u16, |tag, n| tag | (self.rng.pick(&[0, 1, 2, 3, 3])) << (2 * n));
        let words = [other.x87.control, other.x87.status, tag, 0, 0, 0, 0];
        let mut bytes: Vec<u8> =
            words.iter().flat_map(|&word| u32::from(word).to_le_bytes()[..slot].to_vec()).collect();
        if matches!(self.instruction.mnemonic(), Mnemonic::Frstor) {
            bytes.extend(other.x87.st.iter().flatten());
        }
        self.case.patch(target, &bytes);
    }
}
