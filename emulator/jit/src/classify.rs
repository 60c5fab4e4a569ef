//! What the translator must know of an instruction before it emits code.
//!
//! Contract: [`classify`] says which instructions the families in [`crate::lower`] lower, and what
//! each does to flags and registers, so that flags need not be kept where nobody can see them.

use crate::groups::Reach;
use crate::lower::{sse, string, x87};
use core::ops::{Deref, DerefMut};
use emulator::cpu::{RAX, RBP, RCX, RDX, RSP};
use emulator::decode::ends_block;
use emulator::exec::{condition_number, size_of};
use iced_x86::{Code, CodeSize, Instruction, MemorySize, Mnemonic as M, OpKind, Register};

/// What an instruction does to the status flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    #[default]
    None,
    /// Reads some.
    Reads,
    /// Sets all of them.
    Sets,
    /// Reads some, then sets all of them.
    ReadsAndSets,
    /// Changes some (or, by a count of 0, none) and keeps the others.
    Changes,
}

/// The file of [`crate::lower`] that has an instruction, where its mnemonic alone tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Moves, SETcc and CMOVcc.
    Mov,
    /// Additions, comparisons and logic.
    Alu,
    /// Jumps, calls, returns.
    Branch,
    /// PUSH, POP, LEAVE.
    Stack,
    /// Shifts and rotates.
    Shift,
    /// Bits.
    Bit,
    /// Multiplications and divisions.
    MulDiv,
    /// Strings.
    String,
    /// None of these, or more than one.
    #[default]
    Other,
}

impl Family {
    #[rustfmt::skip]
    fn of(m: M) -> Self {
        use M::*;
        match m {
            Mov | Movzx | Movsx | Movsxd | Lea | Xchg | Not | Bswap | Cdqe | Cwde | Cdq | Cqo
            | Nop | Endbr64 | Lfence | Sfence | Mfence | Pause
            | Seta | Setae | Setb | Setbe | Sete | Setne | Setg | Setge | Setl | Setle
            | Seto | Setno | Setp | Setnp | Sets | Setns
            | Cmova | Cmovae | Cmovb | Cmovbe | Cmove | Cmovne | Cmovg | Cmovge | Cmovl | Cmovle
            | Cmovo | Cmovno | Cmovp | Cmovnp | Cmovs | Cmovns => Self::Mov,
            Add | Or | Adc | Sbb | And | Sub | Xor | Cmp | Test | Inc | Dec | Neg | Xadd
            | Cmpxchg => Self::Alu,
            Jmp | Call | Ret
            | Ja | Jae | Jb | Jbe | Je | Jne | Jg | Jge | Jl | Jle
            | Jo | Jno | Jp | Jnp | Js | Jns => Self::Branch,
            Push | Pop | Leave => Self::Stack,
            Rol | Ror | Shl | Sal | Shr | Sar | Shld | Shrd => Self::Shift,
            Bt | Bts | Btr | Btc | Popcnt | Tzcnt | Lzcnt | Bsf | Bsr => Self::Bit,
            Imul | Mul | Div | Idiv => Self::MulDiv,
            Lodsb | Lodsw | Lodsd | Lodsq | Stosb | Stosw | Stosd | Stosq | Movsb | Movsw | Movsq
            | Scasb | Scasw | Scasd | Scasq | Cmpsb | Cmpsw | Cmpsq => Self::String,
            _ => Self::Other,
        }
    }
}

/// An instruction of a block.
#[derive(Clone, Copy, Debug, Default)]
pub struct Item {
    /// As decoded, with its linear address as instruction pointer.
    pub i: Instruction,
    /// What most instructions of its code have in common with it.
    pub shape: Shape,
    /// Guest registers written, a bit each.
    pub writes: u32,
    /// It lies on two pages.
    pub crosses: bool,
}

impl Deref for Item {
    type Target = Shape;
    #[inline]
    fn deref(&self) -> &Shape {
        &self.shape
    }
}

impl DerefMut for Item {
    #[inline]
    fn deref_mut(&mut self) -> &mut Shape {
        &mut self.shape
    }
}

impl Item {
    /// It lies on two pages: the code emitted for it first sees whether the second is still there.
    pub fn crossing(&mut self) {
        self.crosses = true;
        (self.memory, self.preserves) = (true, false);
    }

    /// The rest of an item whose instruction is there, and has this shape.
    #[inline]
    pub fn fill(&mut self, shape: Shape) {
        self.writes = shape.written.of(&self.i);
        self.shape = shape;
        self.crosses = false;
    }

    /// No code is emitted for it after all.
    pub fn interpreted(&mut self) {
        (self.lowered, self.memory, self.preserves) = (false, true, false);
    }

    /// Its memory access is known to go well: the code emitted for it cannot fault, and leaves the
    /// host's flags alone unless the instruction sets them.
    pub fn safe(&mut self) {
        self.memory = false;
        self.preserves = self.preserves_safe;
    }
}

/// See [`Shape::blind`].
fn is_blind(i: &Instruction, family: Family) -> bool {
    family == Family::Shift
        && match i.mnemonic() {
            M::Shld | M::Shrd => true,
            M::Rol | M::Ror => i.op1_kind() == OpKind::Register,
            _ => false,
        }
}

/// Whether a general register can be an operand of emitted code: not AH, BH, CH, DH.
pub fn plain(r: Register) -> bool {
    r.is_gpr() && !matches!(r, Register::AH | Register::BH | Register::CH | Register::DH)
}

/// Number of a register; of a general one not AH, BH, CH, DH.
#[inline]
pub fn number(r: Register) -> u8 {
    NUMBERS[r as usize]
}

/// By register: the tables of `iced` take a look in two of them.
static NUMBERS: [u8; 256] = {
    use Register::*;
    let mut numbers = [0; 256];
    let ranges = [
        (AL, BL, 0),
        // They count between BL and SPL.
        (AH, BH, 4),
        (SPL, R15L, 4),
        (AX, R15W, 0),
        (EAX, R15D, 0),
        (RAX, R15, 0),
        (ES, GS, 0),
        (XMM0, XMM31, 0),
        (ST0, ST7, 0),
    ];
    let mut n = 0;
    while n < ranges.len() {
        let (first, last, number) = ranges[n];
        let mut r = first as usize;
        while r <= last as usize {
            numbers[r] = number + (r - first as usize) as u8;
            r += 1;
        }
        n += 1;
    }
    numbers
};

/// Whether the instruction is 32-bit code.
pub fn is_narrow(i: &Instruction) -> bool {
    i.code_size() == CodeSize::Code32
}

/// Bytes of what calls push, and of addresses.
pub fn word(i: &Instruction) -> u8 {
    if is_narrow(i) { 4 } else { 8 }
}

/// Whether an operand is memory that ModRM or an offset names.
pub fn memory_operand(i: &Instruction) -> bool {
    let memory = |kind| kind == OpKind::Memory;
    memory(i.op0_kind()) | memory(i.op1_kind()) | memory(i.op2_kind()) | memory(i.op3_kind())
}

/// Every register operand is plain, and a memory operand has an address as wide as the code.
fn plain_operands(i: &Instruction) -> bool {
    (0..i.op_count()).all(|n| match i.op_kind(n) {
        OpKind::Register => {
            let r = i.op_register(n);
            plain(r) || r.is_xmm() || r.is_st() || n == 1 && r.is_segment_register()
        }
        OpKind::Memory => wide_address(i),
        _ => true,
    })
}

/// The memory operand has an address as wide as the code.
pub fn wide_address(i: &Instruction) -> bool {
    let (base, index) = (i.memory_base(), i.memory_index());
    let none = base == Register::None && index == Register::None;
    if is_narrow(i) {
        let wide = |r: Register| r == Register::None || r.is_gpr32();
        // Code segments cannot be written to.
        let code = i.memory_segment() == Register::CS;
        wide(base) && wide(index) && (!none || i.memory_displ_size() == 4) && !code
    } else {
        let wide = |r: Register| matches!(r, Register::None | Register::RIP) || r.is_gpr64();
        wide(base) && wide(index) && (!none || i.memory_displ_size() == 8)
    }
}

/// Guest registers that an instruction writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Writes {
    /// Whatever the operands are, a bit each.
    always: u32,
    /// Operand 0, if it is one.
    first: bool,
    /// Operand 1, if it is one.
    second: bool,
}

impl Writes {
    /// Operand 0.
    pub const FIRST: Self = Self { always: 0, first: true, second: false };
    const BOTH: Self = Self { always: 0, first: true, second: true };

    /// These, a bit each.
    pub const fn always(registers: u32) -> Self {
        Self { always: registers, first: false, second: false }
    }

    /// Only of operands that are general registers in `i`.
    fn among(self, i: &Instruction) -> Self {
        let general =
            |n| n < i.op_count() && i.op_kind(n) == OpKind::Register && i.op_register(n).is_gpr();
        Self { first: self.first && general(0), second: self.second && general(1), ..self }
    }

    /// Those of `i`, a bit each.
    fn of(self, i: &Instruction) -> u32 {
        let first = u32::from(self.first) << number(i.op0_register());
        let second = u32::from(self.second) << number(i.op1_register());
        self.always | first | second
    }
}

/// What of an [`Item`] is the same for most instructions of a [`Code`]: see [`crate::shapes`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// See [`Family`].
    pub family: Family,
    /// Code is emitted for it; otherwise the interpreter executes it.
    pub lowered: bool,
    /// It may fault, and the code for that spoils the host's flags first: it accesses memory.
    pub memory: bool,
    /// See [`Effect`].
    pub effect: Effect,
    /// The code emitted for it leaves the host's flags alone.
    pub preserves: bool,
    /// The code emitted for it uses XMM registers.
    pub vector: bool,
    /// It uses the x87.
    pub x87: bool,
    /// Nothing is executed after it in its block.
    pub last: bool,
    written: Writes,
    /// Its mnemonic: `iced` looks it up each time.
    pub mnemonic: M,
    /// Bytes of operand 0, a register or memory; else 0.
    pub size: u8,
    /// The same of operand 1.
    pub source_size: u8,
    /// The condition of a Jcc, SETcc or CMOVcc, as in its opcode.
    pub condition: Option<u8>,
    /// It is a Jcc.
    pub jcc: bool,
    /// Operand 0 is AH, BH, CH or DH.
    pub high: bool,
    /// The code emitted for it leaves the flags undone: nobody may see them.
    pub blind: bool,
    /// See [`is_quiet`].
    pub quiet: bool,
    /// It neither reads nor changes status flags, in the interpreter either.
    pub flagless: bool,
    /// It can fault by its one access only.
    pub may_be_safe: bool,
    /// [`Shape::preserves`] once that access is known to go well: see [`Item::safe`].
    preserves_safe: bool,
    /// How it reaches its memory operand.
    pub reach: Reach,
}

/// What is to be known of `i`.
pub fn classify(i: Instruction, invalid: bool) -> Item {
    let mut item = Item { i, ..Item::default() };
    item.fill(shape(&i, invalid));
    item
}

/// The same without what only this one has.
pub fn shape(i: &Instruction, invalid: bool) -> Shape {
    let shape = any_shape(i, invalid);
    let (family, mnemonic) = (shape.family, i.mnemonic());
    let form = if family == Family::Other { sse::form(i) } else { None };
    Shape {
        written: shape.written.among(i),
        mnemonic,
        size: size(i),
        source_size: size_of(i, 1) as u8,
        condition: condition_number(i),
        jcc: i.is_jcc_short_or_near(),
        blind: is_blind(i, family),
        quiet: is_quiet(i),
        flagless: is_flagless(mnemonic),
        may_be_safe: may_be_safe(mnemonic),
        preserves_safe: match form {
            Some(form) => !form.sets_flags(),
            None => matches!(mnemonic, M::Push | M::Pop) || preserves(i),
        },
        reach: Reach::of(i, shape.vector),
        ..shape
    }
}

fn any_shape(i: &Instruction, invalid: bool) -> Shape {
    let family = Family::of(i.mnemonic());
    let mut shape = Shape {
        family,
        memory: true,
        effect: Effect::Changes,
        last: invalid || may_end(family) && (ends_block(i) && !goes_on(i) || is_jump(i)),
        ..Shape::default()
    };
    if family == Family::Alu && high_byte(i) && !invalid && !i.has_lock_prefix() {
        shape.lowered = true;
        shape.high = true;
        shape.memory = false;
        shape.effect = Effect::Sets;
        if !matches!(i.mnemonic(), M::Test | M::Cmp) {
            shape.written = Writes::always(1 << whole_of(i.op0_register()));
        }
        return shape;
    }
    if invalid || !plain_operands(i) || shape.last && !branches(i) {
        return shape;
    }
    if i.has_lock_prefix() && !lockable(i) {
        return shape;
    }
    shape.memory = memory_operand(i) && !touches_nothing(i);
    let other = family == Family::Other;
    if other && let Some(form) = sse::form(i) {
        shape.lowered = true;
        shape.vector = form.is_vector();
        shape.effect = if form.sets_flags() { Effect::Sets } else { Effect::None };
        shape.written = form.writes();
        shape.preserves = !shape.memory && !form.sets_flags();
        return shape;
    }
    if other && let Some(form) = x87::form(i) {
        shape.lowered = true;
        shape.x87 = true;
        shape.effect = match form {
            x87::Form::Compare => Effect::Sets,
            x87::Form::Conditional(_) => Effect::Reads,
            _ => Effect::None,
        };
        shape.written = x87::writes(form);
        shape.preserves = !shape.memory && form != x87::Form::Compare;
        return shape;
    }
    let maybe_string = family == Family::String || other && is_ambiguous(i);
    if maybe_string && let Some((form, _)) = string::form(i) {
        shape.lowered = true;
        shape.memory = true;
        shape.effect = if form.sets_flags() { Effect::Sets } else { Effect::None };
        shape.written = form.writes();
        return shape;
    }
    let Some((effect, writes)) = lowered(i) else {
        shape.memory = true;
        return shape;
    };
    shape.lowered = true;
    shape.effect = effect;
    shape.written = writes;
    let may_preserve = matches!(family, Family::Mov | Family::Branch | Family::Other);
    shape.preserves = may_preserve && !shape.memory && preserves(i);
    use M::{Call, Div, Idiv, Leave, Pop, Push, Ret};
    // Divisions may fault as well.
    shape.memory |= matches!(i.mnemonic(), Push | Pop | Call | Ret | Leave | Div | Idiv);
    shape.memory |= other && is_system(i);
    shape
}

/// Whether an instruction of the family may be the last of its block.
fn may_end(family: Family) -> bool {
    use Family::{Branch, Mov, Other, Stack, String};
    matches!(family, Mov | Branch | Stack | String | Other)
}

/// Instructions that cannot fault but by their one access.
fn may_be_safe(m: M) -> bool {
    use M::*;
    !matches!(m, Div | Idiv | Ldmxcsr | Pushfq | Pushfd | Ret | Call | Jmp | Leave)
}

/// Whether an instruction neither reads nor changes status flags, in the interpreter either; not
/// all that do not are named.
fn is_flagless(m: M) -> bool {
    use M::*;
    matches!(
        m,
        Rdtsc
            | Rdtscp
            | Swapgs
            | Mov
            | Stosb
            | Stosw
            | Stosd
            | Stosq
            | Movsb
            | Movsw
            | Movsq
            | Movzx
            | Stac
            | Clac
    )
}

fn is_jump(i: &Instruction) -> bool {
    i.mnemonic() == M::Jmp
}

/// CLI and STI: where nothing is due the block goes on.
fn goes_on(i: &Instruction) -> bool {
    matches!(i.mnemonic(), M::Cli | M::Sti)
}

/// Lowered system instructions: they may fault, or be left to the interpreter.
fn is_system(i: &Instruction) -> bool {
    use M::*;
    matches!(i.mnemonic(), Swapgs | Cli | Sti | Stac | Clac | Rdtsc | Rdtscp | Pushfq | Pushfd)
}

/// Instructions whose memory operand is not accessed.
pub fn touches_nothing(i: &Instruction) -> bool {
    use M::*;
    matches!(
        i.mnemonic(),
        Lea | Nop | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2 | Prefetchw
    )
}

fn branches(i: &Instruction) -> bool {
    matches!(i.mnemonic(), M::Jmp | M::Call | M::Ret)
}

fn lockable(i: &Instruction) -> bool {
    i.op0_kind() == OpKind::Memory
        && matches!(
            i.mnemonic(),
            M::Add
                | M::Or
                | M::Adc
                | M::Sbb
                | M::And
                | M::Sub
                | M::Xor
                | M::Inc
                | M::Dec
                | M::Neg
                | M::Not
                | M::Xchg
                | M::Xadd
                | M::Cmpxchg
                | M::Cmpxchg8b
                | M::Cmpxchg16b
                | M::Bts
                | M::Btr
                | M::Btc
        )
}

/// Whether the emitted code of a form without memory operand leaves the host's flags alone.
fn preserves(i: &Instruction) -> bool {
    use M::*;
    matches!(
        i.mnemonic(),
        Mov | Movzx
            | Movsx
            | Movsxd
            | Lea
            | Not
            | Bswap
            | Nop
            | Endbr64
            | Cdqe
            | Cwde
            | Xchg
            | Prefetchnta
            | Prefetcht0
            | Prefetcht1
            | Prefetcht2
            | Prefetchw
            | Lfence
            | Sfence
            | Mfence
            | Pause
    ) || i.is_jcc_short_or_near()
        || is_setcc(i)
        || is_cmov(i)
}

/// DS, ES, FS, GS.
fn is_data_segment(r: Register) -> bool {
    matches!(r, Register::DS | Register::ES | Register::FS | Register::GS)
}

/// Whether the event that the interpreter makes of an instruction is only about privilege,
/// segments, translations, interrupts being allowed, or a device if one was met.
fn is_quiet(i: &Instruction) -> bool {
    use M::*;
    matches!(
        i.mnemonic(),
        Cli | Sti
            | Popfq
            | Popfd
            | Syscall
            | Sysretq
            | Sysenter
            | Sysexit
            | Iretq
            | Iretd
            | Rdmsr
            | Wrmsr
            | Clts
            | Invlpg
            | Invpcid
    ) || i.mnemonic() == Mov && i.op0_register().is_cr()
        || matches!(i.mnemonic(), Mov | Pop) && is_data_segment(i.op0_register())
}

/// Hints and fences: nothing that the guest could see.
pub fn does_nothing(i: &Instruction) -> bool {
    matches!(
        i.mnemonic(),
        M::Nop
            | M::Endbr64
            | M::Prefetchnta
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Prefetchw
            | M::Lfence
            | M::Sfence
            | M::Mfence
            | M::Pause
    )
}

/// SETcc.
fn is_setcc(i: &Instruction) -> bool {
    i.op_count() == 1
        && condition_number(i).is_some()
        && matches!(i.op0_kind(), OpKind::Register | OpKind::Memory)
}

/// CMOVcc.
fn is_cmov(i: &Instruction) -> bool {
    i.op_count() == 2
        && condition_number(i).is_some()
        && i.op0_kind() == OpKind::Register
        && i.op0_register().is_gpr()
}

/// Bytes of operand 0.
fn size(i: &Instruction) -> u8 {
    size_of(i, 0) as u8
}

/// The effect on flags and the registers written, of what is lowered.
fn lowered(i: &Instruction) -> Option<(Effect, Writes)> {
    use Effect::*;
    const FIRST: Writes = Writes::FIRST;
    const NOTHING: Writes = Writes::always(0);
    let only = |registers| Writes::always(registers);
    let register = size(i) >= 4 && i.op0_kind() == OpKind::Register;
    let general = |n| i.op_kind(n) != OpKind::Register || i.op_register(n).is_gpr();
    Some(match i.mnemonic() {
        M::Mov if general(0) && general(1) => (None, FIRST),
        M::Movzx | M::Movsx | M::Movsxd | M::Lea | M::Not => (None, FIRST),
        M::Bswap if size(i) > 2 => (None, FIRST),
        M::Cdqe | M::Cwde => (None, only(1 << RAX)),
        M::Cdq | M::Cqo => (None, only(1 << RDX)),
        _ if does_nothing(i) => (None, NOTHING),
        M::Xchg => (None, Writes::BOTH),
        M::Add | M::Sub | M::And | M::Or | M::Xor => (Sets, FIRST),
        M::Cmp | M::Test => (Sets, NOTHING),
        M::Adc | M::Sbb => (ReadsAndSets, FIRST),
        M::Neg => (Sets, FIRST),
        M::Inc | M::Dec => (Changes, FIRST),
        M::Shl | M::Sal | M::Shr | M::Sar => return shift(i),
        M::Rol | M::Ror if register && shift_count(i) != Some(0) => (Changes, FIRST),
        M::Imul if i.op_count() > 1 && size(i) > 1 => (Sets, FIRST),
        M::Imul | M::Mul if size(i) >= 4 => (Sets, only(1 << RAX | 1 << RDX)),
        M::Div | M::Idiv if size(i) >= 4 => (None, only(1 << RAX | 1 << RDX)),
        M::Bt | M::Bts | M::Btr | M::Btc if bits(i) => (Changes, FIRST),
        M::Xadd if i.op0_kind() == OpKind::Memory => (Sets, Writes::BOTH),
        M::Cmpxchg if i.op0_kind() == OpKind::Memory => {
            (Sets, Writes { always: 1 << RAX, ..FIRST })
        }
        M::Cmpxchg8b | M::Cmpxchg16b => (Changes, only(1 << RAX | 1 << RDX)),
        M::Mov if is_selector(i) => (None, FIRST),
        M::Shld | M::Shrd if register && double_count(i) => (Changes, FIRST),
        M::Swapgs | M::Cli | M::Sti | M::Stac | M::Clac => (None, NOTHING),
        M::Rdtsc => (None, only(1 << RAX | 1 << RDX)),
        M::Rdtscp => (None, only(1 << RAX | 1 << RDX | 1 << RCX)),
        M::Pushfq | M::Pushfd => (Reads, only(1 << RSP)),
        M::Popcnt | M::Tzcnt | M::Lzcnt | M::Bsf | M::Bsr if size(i) >= 4 => (Sets, FIRST),
        M::Push if size(i) == word(i) || is_immediate(i) => (None, only(1 << RSP)),
        M::Pop if size(i) == word(i) && i.op0_kind() == OpKind::Register => {
            (None, Writes { always: 1 << RSP, ..FIRST })
        }
        M::Leave if matches!(i.code(), Code::Leaveq | Code::Leaved) => {
            (None, only(1 << RSP | 1 << RBP))
        }
        M::Jmp | M::Call if near(i) => (None, only(1 << RSP)),
        M::Ret if is_near_return(i) => (None, only(1 << RSP)),
        _ if i.is_jcc_short_or_near() && is_direct(i) => (Reads, NOTHING),
        _ if is_setcc(i) => (Reads, FIRST),
        _ if is_cmov(i) => (Reads, FIRST),
        _ => return Option::None,
    })
}

fn is_immediate(i: &Instruction) -> bool {
    use Code::{Pushd_imm8, Pushd_imm32, Pushq_imm8, Pushq_imm32};
    matches!(i.code(), Pushq_imm8 | Pushq_imm32 | Pushd_imm8 | Pushd_imm32)
}

fn is_near_return(i: &Instruction) -> bool {
    use Code::{Retnd, Retnd_imm16, Retnq, Retnq_imm16};
    matches!(i.code(), Retnq | Retnq_imm16 | Retnd | Retnd_imm16)
}

/// Whether operand 0 is the target of a direct branch, as wide as the code.
pub fn is_direct(i: &Instruction) -> bool {
    matches!(i.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32)
}

/// MOVSD and CMPSD are names of strings and of SSE instructions.
fn is_ambiguous(i: &Instruction) -> bool {
    matches!(i.mnemonic(), M::Movsd | M::Cmpsd)
}

/// MOV from a segment register.
pub fn is_selector(i: &Instruction) -> bool {
    i.op1_kind() == OpKind::Register && i.op1_register().is_segment_register()
}

/// Whether SHLD or SHRD shifts by CL, or by more than 0.
fn double_count(i: &Instruction) -> bool {
    i.op2_kind() == OpKind::Register || i.immediate8() & if size(i) == 8 { 63 } else { 31 } != 0
}

/// BT and its kin, but for 16-bit operands.
fn bits(i: &Instruction) -> bool {
    size(i) >= 4
}

/// TEST, CMP, AND, OR or XOR of AH, BH, CH or DH with an immediate.
fn high_byte(i: &Instruction) -> bool {
    matches!(i.mnemonic(), M::Test | M::Cmp | M::And | M::Or | M::Xor)
        && i.op0_kind() == OpKind::Register
        && i.op0_register().is_gpr8()
        && !plain(i.op0_register())
        && i.op1_kind() == OpKind::Immediate8
}

/// Number of the register that AH, BH, CH or DH is part of.
pub fn whole_of(r: Register) -> u8 {
    r as u8 - Register::AH as u8
}

fn near(i: &Instruction) -> bool {
    match i.op0_kind() {
        OpKind::NearBranch64 => emulator::core::canonical(i.near_branch64()),
        OpKind::NearBranch32 => true,
        OpKind::Register => i.op0_register().size() == usize::from(word(i)),
        OpKind::Memory if is_narrow(i) => i.memory_size() == MemorySize::DwordOffset,
        OpKind::Memory => i.memory_size() == MemorySize::QwordOffset,
        _ => false,
    }
}

/// The immediate count of a shift, masked as the CPU does.
pub fn shift_count(i: &Instruction) -> Option<u8> {
    matches!(i.op1_kind(), OpKind::Immediate8 | OpKind::Immediate8_2nd)
        .then(|| i.immediate8() & if size(i) == 8 { 63 } else { 31 })
}

fn shift(i: &Instruction) -> Option<(Effect, Writes)> {
    match shift_count(i) {
        Some(0) => Option::None,
        // Counts beyond the operand's size have flags of their own.
        Some(n) if u32::from(n) < 8 * u32::from(size(i)) => Some((Effect::Sets, Writes::FIRST)),
        Some(_) => Option::None,
        // By CL: the count may be 0.
        Option::None if size(i) >= 4 && i.op0_kind() == OpKind::Register => {
            Some((Effect::Changes, Writes::FIRST))
        }
        Option::None => Option::None,
    }
}
