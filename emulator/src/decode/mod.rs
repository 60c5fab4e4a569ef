//! From bytes to blocks of [`Op`]s, with `iced-x86`.
//!
//! Contract: a block depends on its bytes, on the [`Mode`] and on nothing else: addresses are
//! relative to its start. It never crosses a page, except that a single instruction may.

use crate::core::Mode;
use crate::cpu::{BLOCK_RIP, FLAT, ZERO};
use crate::exec::{self, Context, alu, branch, int, segment, string, system};
use crate::op::{LOCK, Op};
use alloc::vec::Vec;
use iced_x86::{
    Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register,
};

/// Most instructions of a block.
pub const MAX_INSTRUCTIONS: usize = 48;
/// Longest instruction in bytes.
pub const MAX_LENGTH: usize = 15;

/// Decoded instructions that start at one address.
#[derive(Debug, Default)]
pub struct Decoded {
    /// The instructions in order.
    pub ops: Vec<Op>,
    /// How many instructions they are (fused ones count double).
    pub count: u32,
    /// Byte ranges relative to the start that were decoded.
    pub ranges: Vec<(i16, i16)>,
}

/// Decodes up to `most` instructions from `page[at..]`, which `mode` says how to read. Returns
/// `None` if the first instruction does not end within the page.
pub fn decode(page: &[u8], at: usize, mode: Mode, most: usize) -> Option<Decoded> {
    let mut out = Decoded::default();
    let mut place = at;
    let mut start = at;
    let mut decoder = Decoder::new(mode.bits.into(), page, DecoderOptions::NONE);
    while (out.count as usize) < most {
        let Some((i, error)) = one(&mut decoder, place) else { break };
        if error == DecoderError::NoMoreBytes {
            break;
        }
        if error != DecoderError::None {
            // An op that raises #UD (or #GP for more than 15 bytes) ends the block.
            out.push(&i, at, place, mode);
            out.fail(too_long(&page[place..], mode));
            place += i.len();
            break;
        }
        out.push(&i, at, place, mode);
        if most > 1 {
            out.fuse(&i, &mut decoder, place, at, mode);
        }
        place = (at as i64 + i64::from(out.end())) as usize;
        if ends_block(&i) {
            break;
        }
        if i.flow_control() == FlowControl::UnconditionalBranch {
            let Some(target) = followed(&i, mode, page.len()) else { break };
            out.ranges.push(((start as i64 - at as i64) as i16, (place as i64 - at as i64) as i16));
            let again = out
                .ranges
                .iter()
                .any(|&(a, b)| (i64::from(a)..i64::from(b)).contains(&(target as i64 - at as i64)));
            if again {
                return Some(out);
            }
            if let Some(op) = out.ops.last_mut() {
                op.exec = branch::followed;
            }
            place = target;
            start = target;
        }
    }
    if out.ops.is_empty() {
        return None;
    }
    if place != start {
        out.ranges.push(((start as i64 - at as i64) as i16, (place as i64 - at as i64) as i16));
    }
    Some(out)
}

/// Decodes the one instruction of `bytes` (at most 15, perhaps from two pages). `None` if it needs
/// more bytes.
pub fn decode_single(bytes: &[u8], mode: Mode) -> Option<Decoded> {
    let (i, error) = single(bytes, mode)?;
    if error == DecoderError::NoMoreBytes {
        return None;
    }
    let mut out = Decoded::default();
    out.push(&i, 0, 0, mode);
    if error != DecoderError::None {
        out.fail(too_long(bytes, mode));
    }
    Some(out)
}

/// The instruction at `place`, which is its address, too; `None` at the end.
fn one(decoder: &mut Decoder, place: usize) -> Option<(Instruction, DecoderError)> {
    decoder.set_position(place).ok().filter(|()| decoder.can_decode())?;
    decoder.set_ip(place as u64);
    let mut i = decoder.decode();
    // What is invalid has the length of the bytes that were looked at: all 15 if it is too long.
    i.set_len(decoder.position() - place);
    Some((i, decoder.last_error()))
}

fn single(bytes: &[u8], mode: Mode) -> Option<(Instruction, DecoderError)> {
    one(&mut Decoder::new(mode.bits.into(), bytes, DecoderOptions::NONE), 0)
}

/// Whether invalid `bytes` are so because no instruction has more than 15 bytes: without the first
/// prefix, they would need another byte.
fn too_long(bytes: &[u8], mode: Mode) -> bool {
    bytes.len() >= MAX_LENGTH
        && matches!(single(&bytes[1..MAX_LENGTH], mode), Some((_, DecoderError::NoMoreBytes)))
}

/// Whether nothing is decoded beyond this instruction (other than an unconditional jump).
pub fn ends_block(i: &Instruction) -> bool {
    use Mnemonic as M;
    match i.flow_control() {
        FlowControl::Next | FlowControl::ConditionalBranch => {}
        FlowControl::UnconditionalBranch => return false, // `followed` decides
        _ => return true,
    }
    let ends = matches!(
        i.mnemonic(),
        M::In
            | M::Out
            | M::Insb
            | M::Insw
            | M::Insd
            | M::Outsb
            | M::Outsw
            | M::Outsd
            | M::Hlt
            | M::Rdmsr
            | M::Wrmsr
            | M::Sti
            | M::Cli
            | M::Popf
            | M::Popfd
            | M::Popfq
            | M::Clts
            | M::Lmsw
            | M::Invlpg
            | M::Invpcid
            | M::Lgdt
            | M::Lidt
            | M::Lldt
            | M::Ltr
            | M::Xsetbv
            | M::Lds
            | M::Les
            | M::Lss
            | M::Lfs
            | M::Lgs
    );
    let string = i.is_string_instruction() && (i.has_rep_prefix() || i.has_repne_prefix());
    let moves = matches!(i.mnemonic(), M::Mov | M::Pop)
        && i.op0_kind() == OpKind::Register
        && (i.op0_register().is_segment_register()
            || i.op0_register().is_cr()
            || i.op0_register().is_dr());
    ends || string || moves || i.is_loop() || i.is_loopcc() || i.is_jcx_short()
}

/// The place in the page of the target of a direct JMP, where the block can go on.
fn followed(i: &Instruction, mode: Mode, page: usize) -> Option<usize> {
    let direct = mode.bits == 64 && i.op0_kind() == OpKind::NearBranch64;
    let target = usize::try_from(i.near_branch64()).ok()?;
    (direct && target < page).then_some(target)
}

/// 8-bit registers with AH-BH marked, all others by number.
fn register(r: Register) -> u8 {
    match r {
        Register::AH | Register::CH | Register::DH | Register::BH => {
            int::HIGH_BYTE | (r as u8 - Register::AH as u8)
        }
        Register::None => 0,
        // iced numbers AH-BH between BL and SPL
        _ if r.is_gpr8() && r.number() > 7 => r.number() as u8 - 4,
        _ => r.number() as u8,
    }
}

impl Decoded {
    /// Offset of the end of the last instruction.
    fn end(&self) -> i32 {
        self.ops.last().map_or(0, |op| i32::from(op.offset) + i32::from(op.len))
    }

    fn push(&mut self, i: &Instruction, start: usize, place: usize, mode: Mode) {
        let op = build(i, start, place, mode, self.count as u8);
        self.ops.push(op);
        self.count += 1;
    }

    /// Makes the last instruction raise #UD, or #GP(0) if it is too long (SDM 2A 2.3.11).
    fn fail(&mut self, too_long: bool) {
        if let Some(op) = self.ops.last_mut() {
            op.exec = if too_long { exec::too_long } else { exec::undefined };
        }
    }

    /// Fuses CMP or TEST, just pushed, with the branch that follows.
    fn fuse(
        &mut self,
        i: &Instruction,
        decoder: &mut Decoder,
        place: usize,
        at: usize,
        mode: Mode,
    ) {
        if mode.bits != 64 || !matches!(i.mnemonic(), Mnemonic::Cmp | Mnemonic::Test) {
            return;
        }
        let Some((j, DecoderError::None)) = one(decoder, place + i.len()) else { return };
        let Some(op) = self.ops.last_mut() else { return };
        if !j.is_jcc_short_or_near() || j.op0_kind() != OpKind::NearBranch64 {
            return;
        }
        let Some(cc) = exec::condition_number(&j) else { return };
        let address = op.kind(mode.bits);
        let Some(handler) = alu::fused(i, address, cc) else { return };
        let Ok(target) = i32::try_from(j.near_branch64() as i64 - at as i64) else { return };
        op.exec = handler;
        op.target = target;
        op.len += j.len() as u8;
        op.count = 2;
        self.count += 1;
    }
}

/// Fills an [`Op`] from an instruction at `place`, in a block that starts at `start`; both are
/// what the decoder was given as instruction pointers.
fn build(i: &Instruction, start: usize, place: usize, mode: Mode, index: u8) -> Op {
    let mut op = Op {
        exec: exec::undefined,
        imm: 0,
        disp: 0,
        regs: [0; 4],
        base: ZERO as u8,
        index_reg: ZERO as u8,
        scale: 0,
        seg: FLAT as u8,
        offset: (place as i64 - start as i64) as i16,
        len: i.len() as u8,
        index,
        count: 1,
        address_bits: mode.bits,
        size: 0,
        prefixes: string::prefixes(i) | if i.has_lock_prefix() { LOCK } else { 0 },
        imm2: 0,
        target: 0,
    };
    operands(&mut op, i, start, mode);
    op.size = near_size(i).unwrap_or_else(|| exec::operand_size(i).min(255) as u8);
    if let Some(n) = segment::named(i) {
        op.imm2 = n as u16;
    }
    if let Some(n) = system::named(i) {
        op.imm2 = n;
    }
    let stack = matches!(
        i.mnemonic(),
        Mnemonic::Push
            | Mnemonic::Pop
            | Mnemonic::Call
            | Mnemonic::Ret
            | Mnemonic::Leave
            | Mnemonic::Enter
            | Mnemonic::Pushf
            | Mnemonic::Pushfq
            | Mnemonic::Popf
            | Mnemonic::Popfq
    );
    if stack && !(0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) {
        op.seg = crate::cpu::SS as u8;
    }
    let context = Context { address: op.kind(mode.bits), bits: mode.bits };
    op.exec = exec::handler(i, context);
    op
}

/// Operand size in bytes of branches and table loads, which have no sized operand.
fn near_size(i: &Instruction) -> Option<u8> {
    use iced_x86::Code;
    match i.op0_kind() {
        OpKind::NearBranch16 | OpKind::FarBranch16 => Some(2),
        OpKind::NearBranch32 | OpKind::FarBranch32 => Some(4),
        OpKind::NearBranch64 => Some(8),
        _ => match i.code() {
            Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => Some(2),
            _ => None,
        },
    }
}

fn operands(op: &mut Op, i: &Instruction, start: usize, mode: Mode) {
    for n in 0..i.op_count().min(4) {
        match i.op_kind(n) {
            OpKind::Register => op.regs[n as usize] = register(i.op_register(n)),
            OpKind::Memory => memory(op, i, start, mode),
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => {
                string_operand(op, i, n, 16, mode);
            }
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => {
                string_operand(op, i, n, 32, mode);
            }
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => {
                string_operand(op, i, n, 64, mode);
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                op.imm = i.near_branch_target().wrapping_sub(start as u64);
            }
            OpKind::FarBranch16 => {
                op.imm = i.far_branch16().into();
                op.imm2 = i.far_branch_selector();
            }
            OpKind::FarBranch32 => {
                op.imm = i.far_branch32().into();
                op.imm2 = i.far_branch_selector();
            }
            OpKind::Immediate8_2nd => op.imm2 = i.immediate8_2nd().into(),
            _ => op.imm = i.immediate(n),
        }
    }
    if i.mnemonic() == Mnemonic::Xlatb {
        // iced gives the base and index; the function adds AL itself
        op.base = ZERO as u8;
        op.index_reg = ZERO as u8;
    }
}

fn string_operand(op: &mut Op, i: &Instruction, n: u32, bits: u8, mode: Mode) {
    op.address_bits = bits;
    let es = matches!(i.op_kind(n), OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI);
    if !es {
        let ignored = mode.bits == 64 && !matches!(i.memory_segment(), Register::FS | Register::GS);
        let segment = if ignored { Register::DS } else { i.memory_segment() };
        op.seg = segment_of(segment, mode);
    }
}

/// The number of a segment register, or FLAT where its base is 0 and no check is needed.
fn segment_of(r: Register, mode: Mode) -> u8 {
    let n = segment::number(r).unwrap_or(FLAT) as u8;
    // In 64-bit mode the base is 0 anyway; SS is kept because its faults are #SS. Writes through
    // CS must fault, so it is never taken for flat data.
    if mode.bits == 64 || !mode.flat || matches!(r, Register::FS | Register::GS | Register::CS) {
        n
    } else {
        FLAT as u8
    }
}

fn memory(op: &mut Op, i: &Instruction, start: usize, mode: Mode) {
    let (base, index) = (i.memory_base(), i.memory_index());
    let ignored = mode.bits == 64
        && matches!(i.segment_prefix(), Register::ES | Register::CS | Register::SS | Register::DS);
    let segment = match base {
        Register::RSP | Register::ESP | Register::RBP | Register::EBP if ignored => Register::SS,
        _ if ignored => Register::DS,
        _ => i.memory_segment(),
    };
    op.seg = segment_of(segment, mode);
    op.disp = i.memory_displacement64();
    let sized = if base != Register::None { base } else { index };
    op.address_bits = match sized {
        Register::RIP => 64,
        Register::EIP => 32,
        Register::None => (i.memory_displ_size() * 8) as u8,
        r => (r.size() * 8) as u8,
    };
    if op.address_bits == 0 || op.address_bits == 8 {
        op.address_bits = mode.bits;
    }
    if matches!(base, Register::RIP | Register::EIP) {
        // iced gives the target; it is relative to the block's start here
        op.base = BLOCK_RIP as u8;
        op.disp = op.disp.wrapping_sub(start as u64);
    } else if base != Register::None {
        op.base = base.number() as u8;
    }
    if index != Register::None {
        op.index_reg = index.number() as u8;
        op.scale = i.memory_index_scale().trailing_zeros() as u8;
    }
}
