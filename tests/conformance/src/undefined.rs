//! What the manuals leave open, so that hosts may differ: undefined flags and inexact functions.
//!
//! Contract: everything that is not named here must be equal to the bit.

use crate::generate::Generated;
use crate::layout::{DATA, USER_CS64};
use crate::state::{self, Mode, Outcome};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
/// Resume flag: whether the pushed image has it set depends on how the host's hypervisor delivers
/// exceptions.
const RF: u64 = 1 << 16;

/// What may differ between two outcomes of a case.
#[derive(Clone, Debug, Default)]
pub struct Open {
    /// Nothing is specified.
    pub everything: bool,
    /// RFLAGS bits.
    pub flags: u64,
    /// General registers, by number.
    pub gpr: u16,
    /// Upper halves of general registers, by number.
    pub gpr_upper: u16,
    /// x87 status bits.
    pub x87_status: u16,
    /// x87 registers may differ in the last place.
    pub x87_last_place: bool,
    /// Single-precision lanes may differ by a relative error of 1.5 * 2^-12 each (SDM 2B, RCPPS).
    pub approximate: bool,
    /// The instruction makes several accesses in no specified order: any of them may be the one
    /// that faults.
    pub any_slot: bool,
    /// Bytes of the data window: offset and length.
    pub memory: Vec<(usize, usize)>,
}

/// What the manuals leave open about `generated`, of which `outcome` is one result.
pub fn open(generated: &Generated, outcome: &Outcome) -> Open {
    let i = &generated.instruction;
    let mut open = Open { flags: RF, ..Open::default() };
    let faulted = outcome.state.rip == generated.case.state.rip;
    if i.is_invalid() {
        return open;
    }
    // The upper halves are undefined once the CPU has been outside 64-bit mode (SDM 1 3.4.1.1).
    let leaves_64 = outcome.state.segments[state::CS] != USER_CS64;
    if generated.case.mode == Mode::Long64 && leaves_64 {
        open.gpr_upper = 0xFF;
    }
    // A far CALL to a 32-bit segment pushes to a stack pointer of which half is undefined.
    let far = i.is_call_far() || i.is_call_far_indirect();
    open.everything = far && leaves_64 && generated.case.state.gpr[state::RSP] >> 32 != 0;
    repeated(generated, faulted, &mut open);
    if faulted {
        slots(generated, &mut open);
        return open;
    }
    open.flags |= flags(generated);
    match i.mnemonic() {
        Mnemonic::Rdtsc => open.gpr = 1 << state::RAX | 1 << state::RDX,
        Mnemonic::Rdtscp => open.gpr = 1 << state::RAX | 1 << state::RDX | 1 << state::RCX,
        Mnemonic::Rdrand | Mnemonic::Rdseed => {
            open.gpr = 1 << i.op0_register().full_register().number()
        }
        Mnemonic::Shld | Mnemonic::Shrd if oversized_double_shift(generated) => {
            double_shift(generated, &mut open)
        }
        Mnemonic::Rcpps | Mnemonic::Rcpss | Mnemonic::Rsqrtps | Mnemonic::Rsqrtss => {
            open.approximate = true
        }
        Mnemonic::Fsin
        | Mnemonic::Fcos
        | Mnemonic::Fsincos
        | Mnemonic::Fptan
        | Mnemonic::Fpatan
        | Mnemonic::F2xm1
        | Mnemonic::Fyl2x
        | Mnemonic::Fyl2xp1 => {
            open.x87_last_place = true;
            const C1_ROUNDED_UP: u16 = 1 << 9;
            open.x87_status = C1_ROUNDED_UP;
        }
        Mnemonic::Fxsave | Mnemonic::Fxsave64 => image_pointers(generated, &mut open),
        Mnemonic::Xsave | Mnemonic::Xsave64 => {
            image_pointers(generated, &mut open);
            // XINUSE: which components are in their initial state is the CPU's own optimisation.
            if let Some(offset) = data_offset(generated) {
                open.memory.push((offset + 512, 1));
            }
        }
        _ => {}
    }
    open
}

/// Repeated string instructions.
fn repeated(generated: &Generated, faulted: bool, open: &mut Open) {
    let i = &generated.instruction;
    if !i.is_string_instruction() || !(i.has_rep_prefix() || i.has_repne_prefix()) {
        return;
    }
    // A fault in CMPS or SCAS restores the flags of before the first iteration (SDM 2B, REP); here
    // each iteration is an instruction of its own, and the flags are overwritten when it is
    // repeated.
    if faulted {
        open.flags |= CF | PF | AF | ZF | SF | OF;
    }
    // Without an iteration, some CPUs clear the upper halves of registers used as 32 bits and some
    // do not.
    let narrow = (0..i.op_count())
        .any(|n| matches!(i.op_kind(n), OpKind::MemorySegESI | OpKind::MemoryESEDI));
    if narrow {
        open.gpr_upper |= 1 << state::RSI | 1 << state::RDI | 1 << state::RCX;
    }
}

/// Instructions that make several accesses: on the stack, or of a state image.
fn slots(generated: &Generated, open: &mut Open) {
    let i = &generated.instruction;
    open.any_slot = matches!(
        i.mnemonic(),
        Mnemonic::Retf
            | Mnemonic::Iret
            | Mnemonic::Iretd
            | Mnemonic::Iretq
            | Mnemonic::Pusha
            | Mnemonic::Pushad
            | Mnemonic::Popa
            | Mnemonic::Popad
            | Mnemonic::Call
            | Mnemonic::Fldenv
            | Mnemonic::Fnstenv
            | Mnemonic::Frstor
            | Mnemonic::Fnsave
            | Mnemonic::Fxsave
            | Mnemonic::Fxsave64
            | Mnemonic::Fxrstor
            | Mnemonic::Fxrstor64
            | Mnemonic::Xsave
            | Mnemonic::Xsave64
            | Mnemonic::Xrstor
            | Mnemonic::Xrstor64
    );
    match i.mnemonic() {
        // The registers that POPA has popped before it faults stay or not.
        Mnemonic::Popa | Mnemonic::Popad => open.gpr = 0xFF & !(1 << state::RSP),
        _ => {}
    }
    if matches!(i.mnemonic(), Mnemonic::Enter | Mnemonic::Pusha | Mnemonic::Pushad) {
        // What was pushed before the fault stays or not.
        open.any_slot = true;
        open.memory.push((0, crate::layout::DATA_SIZE as usize));
    }
}

/// The memory operand's place in the data window, from the registers before the instruction.
fn data_offset(generated: &Generated) -> Option<usize> {
    let target = address(generated)?;
    (target >= DATA).then(|| (target - DATA) as usize)
}

/// Linear address of the memory operand.
pub fn address(generated: &Generated) -> Option<u64> {
    let state = &generated.case.state;
    let i = &generated.instruction;
    i.virtual_address(0, 0, |register, _, _| {
        Some(match register {
            Register::FS => state.fs_base,
            Register::GS => state.gs_base,
            _ if register.is_segment_register() => generated.case.mode.data_base(),
            _ => state.gpr[register.full_register().number()] & mask(register),
        })
    })
}

fn mask(register: Register) -> u64 {
    match register.size() {
        8 => u64::MAX,
        4 => 0xFFFF_FFFF,
        _ => 0xFFFF,
    }
}

/// FOP, FIP and FDP in an FXSAVE image: kept by newer CPUs only when an exception is unmasked (SDM
/// 1 8.1.8).
fn image_pointers(generated: &Generated, open: &mut Open) {
    if let Some(offset) = data_offset(generated) {
        open.memory.push((offset + 6, 18));
    }
}

fn oversized_double_shift(generated: &Generated) -> bool {
    let i = &generated.instruction;
    let width = operand_width(i);
    width == 16 && shift_count(generated).is_some_and(|count| count > 16)
}

/// The result of a double shift by more than the operand is wide is undefined (SDM 2B).
fn double_shift(generated: &Generated, open: &mut Open) {
    open.flags |= CF | PF | AF | ZF | SF | OF;
    match generated.instruction.op0_kind() {
        OpKind::Register => {
            open.gpr = 1 << generated.instruction.op0_register().full_register().number()
        }
        _ => open.memory.extend(data_offset(generated).map(|offset| (offset, 2))),
    }
}

fn operand_width(i: &Instruction) -> u32 {
    match i.op0_kind() {
        OpKind::Register => 8 * i.op0_register().size() as u32,
        _ => 8 * i.memory_size().size() as u32,
    }
}

/// The masked count of a shift or rotate.
fn shift_count(generated: &Generated) -> Option<u32> {
    let i = &generated.instruction;
    let last = i.op_count().checked_sub(1)?;
    let raw = match i.op_kind(last) {
        OpKind::Immediate8 => u32::from(i.immediate8()),
        OpKind::Register if i.op_register(last) == Register::CL => {
            generated.case.state.gpr[state::RCX] as u32
        }
        _ => return None,
    };
    Some(raw & if operand_width(i) == 64 { 63 } else { 31 })
}

/// RFLAGS bits that are undefined after the instruction.
fn flags(generated: &Generated) -> u64 {
    let i = &generated.instruction;
    let mut undefined = named(i);
    match i.mnemonic() {
        Mnemonic::Shl
        | Mnemonic::Sal
        | Mnemonic::Shr
        | Mnemonic::Sar
        | Mnemonic::Shld
        | Mnemonic::Shrd => {
            let width = operand_width(i);
            undefined = match shift_count(generated) {
                Some(0) => 0,
                Some(1) => AF,
                // SHL and SHR lose CF when all bits are shifted out; SAR does not.
                Some(count) if count >= width && i.mnemonic() != Mnemonic::Sar => AF | OF | CF,
                _ => AF | OF,
            };
        }
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr => {
            undefined = match shift_count(generated) {
                Some(0 | 1) => 0,
                _ => OF,
            };
        }
        _ => {}
    }
    undefined
}

fn named(i: &Instruction) -> u64 {
    use iced_x86::RflagsBits;
    let bits = i.rflags_undefined();
    [
        (RflagsBits::CF, CF),
        (RflagsBits::PF, PF),
        (RflagsBits::AF, AF),
        (RflagsBits::ZF, ZF),
        (RflagsBits::SF, SF),
        (RflagsBits::OF, OF),
    ]
    .iter()
    .filter(|(bit, _)| bits & bit != 0)
    .fold(0, |all, (_, flag)| all | flag)
}
