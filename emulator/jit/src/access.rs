//! Memory operands: checked with the TLB, or known to lie in a page that was checked before.
//!
//! Contract: see the rules of [`crate::translate`]; which accesses share a check is the affair of
//! [`crate::groups`].

use crate::asm::alu::{ADD, AND, CMP, OR};
use crate::asm::reg::{R14, RAX, RBP as HOST_RBP, RCX, RDX};
use crate::asm::{Asm, Jump, Rm};
use crate::classify::number;
use crate::groups::{Group, Key, NONE, Wanted, displacement};
use crate::layout::{self, STATE, TLB, disp, entry, in_memory, place, word};
use crate::translate::Translator;
use core::ops::Range;
use emulator::cpu::{FS, GS, RBP, RSP};
use emulator::mmu::tlb::ENTRIES;
use iced_x86::{Instruction, Register};

/// A jump to where an access goes that the TLB does not have, and how to look again.
#[derive(Clone, Copy)]
pub struct Miss {
    jump: Jump,
    retry: Option<Retry>,
}

/// In the lower half of the address space, for code in the upper one.
#[derive(Clone, Copy)]
struct Retry {
    write: bool,
    /// Where the code goes on if the TLB has it.
    resume: usize,
}

/// Where displacements of group members count from, at most.
const FAR: u64 = 1 << 60;
/// Misses that an instruction can have, of each kind: IDIV of a number in memory has three, one
/// more through a segment of 32-bit code, one more across the end of a page.
const MOST_MISSES: usize = 5;

/// Code that looks in the TLB, as it was emitted first: it differs by little else than the size.
#[derive(Default)]
pub struct Probes(Vec<Probe>);

/// Most bytes of a probe.
const LONGEST: usize = 48;
/// By the register, the half of the address space, read or write, and whether it is one byte.
const PROBES: usize = 16 << 3;

#[derive(Clone, Copy)]
struct Probe {
    code: [u8; LONGEST],
    /// Bytes of it; 0: none yet.
    len: usize,
    /// Where the size less one is, a byte.
    size: usize,
    /// Behind the jump.
    behind: usize,
}

/// A probe's place in the code.
struct Placed {
    jump: Jump,
    /// Behind the jump.
    behind: usize,
}

impl Probes {
    /// Emits the probe for `size` bytes at `la`, of code in the upper `half` (1) of the address
    /// space or the lower one (0): see [`probe`].
    fn emit(&mut self, a: &mut Asm, la: u8, half: usize, size: i32, write: bool) -> Placed {
        let n = usize::from(la) << 3 | half << 2;
        let n = n | usize::from(write) << 1 | usize::from(size == 1);
        let begin = a.bytes.len();
        if size > 128 {
            return probe(a, la, half, size, write).placed(begin);
        }
        if let Some(probe) = self.0.get(n).filter(|probe| probe.len > 0) {
            a.copied(&probe.code, probe.len);
            if size > 1 {
                a.bytes[begin + probe.size] = size as u8 - 1;
            }
            return probe.placed(begin);
        }
        let mut made = probe(a, la, half, size, write);
        let placed = made.placed(begin);
        if let Some(room) = made.code.get_mut(..a.bytes.len() - begin) {
            room.copy_from_slice(&a.bytes[begin..]);
            made.len = room.len();
            let none = Probe { code: [0; LONGEST], len: 0, size: 0, behind: 0 };
            self.0.resize(PROBES, none);
            self.0[n] = made;
        }
        placed
    }
}

impl Probe {
    /// Emitted at `begin`.
    fn placed(&self, begin: usize) -> Placed {
        let behind = begin + self.behind;
        Placed { jump: Jump::far(behind - 4), behind }
    }
}

/// The code that looks in the TLB: it jumps unless the bytes are there; RCX becomes the distance
/// from `la` to the host's address. Where it jumps RCX leads to the entry and RDX is the tag that
/// the entry does not have.
fn probe(a: &mut Asm, la: u8, half: usize, size: i32, write: bool) -> Probe {
    let begin = a.bytes.len();
    a.rorx(4, RCX, la, 12 - entry::SHIFT as u8);
    a.alu_imm(AND, 4, Rm::Reg(RCX), ((ENTRIES as i32) - 1) << entry::SHIFT);
    a.lea(8, RDX, Rm::Mem(la, size - 1));
    // The displacement is the last byte, if there is one.
    let place = a.bytes.len() - begin - 1;
    a.alu_imm(AND, 8, Rm::Reg(RDX), -4096);
    a.alu_from(OR, 8, RDX, in_memory(word::REVISION + half));
    let tag = if write { entry::WRITE } else { entry::READ };
    a.alu_from(CMP, 8, RDX, Rm::Sib(TLB, RCX, 0, tag));
    a.jcc_far(5);
    let behind = a.bytes.len() - begin;
    a.load(8, RCX, Rm::Sib(TLB, RCX, 0, entry::HOST));
    Probe { code: [0; LONGEST], len: 0, size: place, behind }
}

/// Looks again where a [`probe`] for the upper half has not found its tag: with that of the lower
/// half. The jump is taken if it is there.
fn look_again(a: &mut Asm, write: bool) -> Jump {
    const LOW: i8 = disp(word::REVISION) as i8;
    const HIGH: i8 = disp(word::REVISION + 1) as i8;
    const {
        assert!(STATE == HOST_RBP && TLB == R14);
        assert!(disp(word::REVISION) == LOW as i32 && disp(word::REVISION + 1) == HIGH as i32);
        assert!(entry::READ < 128 && entry::WRITE < 128);
    }
    let (low, high) = (LOW as u8, HIGH as u8);
    let tag = if write { entry::WRITE } else { entry::READ } as u8;
    #[rustfmt::skip]
    a.fixed([
        0x48, 0x33, 0x55, high, // xor rdx,[rbp+disp8]
        0x48, 0x0B, 0x55, low, // or rdx,[rbp+disp8]
        0x49, 0x3B, 0x54, 0x0E, tag, // cmp rdx,[r14+rcx+disp8]
        0x0F, 0x84, 0, 0, 0, 0, // je
    ]);
    Jump::far(a.bytes.len() - 4)
}

impl Miss {
    /// A miss that another look would not help.
    pub fn plain(jump: Jump) -> Self {
        Self { jump, retry: None }
    }
}

impl Translator<'_> {
    /// Linear address of the memory operand, in RAX or its base's host register. Uses RAX, RCX.
    pub fn address(&mut self, i: &Instruction) -> u8 {
        let segment = match i.memory_segment() {
            Register::FS => Some(FS),
            Register::GS => Some(GS),
            _ => None,
        };
        if let Some(segment) = segment.filter(|_| self.request.narrow) {
            self.spoil();
            self.a.alu_imm(CMP, 1, layout::segment_open(segment), 0);
            self.miss(4);
        }
        let operand = self.operand(i);
        if let Some(Rm::Mem(host, 0)) = operand
            && segment.is_none()
            && !self.request.narrow
        {
            return host;
        }
        let word = self.word();
        match operand {
            Some(rm) => self.a.lea(word, RAX, rm),
            None => self.a.set(RAX, i.memory_displacement64()),
        }
        if let Some(segment) = segment {
            self.a.alu_from(ADD, word, RAX, layout::segment_base(segment));
        }
        RAX
    }

    /// The memory operand's offset as one of the host's; `None` if it is the displacement alone.
    /// Uses RAX, RCX; leaves the flags alone.
    pub fn operand(&mut self, i: &Instruction) -> Option<Rm> {
        let disp = i.memory_displacement64() as i32;
        let base = match i.memory_base() {
            Register::RIP | Register::None => None,
            r => Some(self.host_of(number(r), RAX)),
        };
        if i.memory_index() == Register::None {
            return base.map(|base| Rm::Mem(base, disp));
        }
        let scale = i.memory_index_scale().trailing_zeros() as u8;
        let index = self.host_of(number(i.memory_index()), RCX);
        Some(match base {
            Some(base) => Rm::Sib(base, index, scale, disp),
            None => Rm::Index(index, scale, disp),
        })
    }

    /// The host register of a guest register, or `scratch` with its value.
    pub fn host_of(&mut self, n: u8, scratch: u8) -> u8 {
        match place(n.into()) {
            Rm::Reg(host) => host,
            memory => {
                self.a.load(8, scratch, memory);
                scratch
            }
        }
    }

    /// Checks that `size` bytes at the linear address in `la` can be accessed directly, and gives
    /// the operand to do so with; otherwise the interpreter executes the instruction. Uses RCX and
    /// RDX; with `flat` the operand does not depend on `la` any more.
    pub fn check(&mut self, la: u8, size: u8, write: bool, flat: bool) -> Rm {
        let retry = self.may_be_low();
        let miss = self.compare(la, size.into(), write, retry);
        self.misses.push(miss);
        if flat {
            self.a.alu_from(ADD, 8, RCX, Rm::Reg(la));
            Rm::Mem(RCX, 0)
        } else {
            Rm::Sib(RCX, la, 0, 0)
        }
    }

    /// Compares with the TLB: unless the jump is taken, RCX is the distance from `la` to the host's
    /// address. Uses RDX. `low`: the address may well be in the lower half.
    fn compare(&mut self, la: u8, size: i32, write: bool, low: bool) -> Miss {
        self.spoil();
        let half = usize::from(self.request.rip >> 63 != 0);
        let Placed { jump, behind } = self.probes.emit(self.a, la, half, size, write);
        // Of the kernel's accesses those through its own pointers lead to the upper half.
        let retry = (half == 1 && low).then_some(Retry { write, resume: behind });
        Miss { jump, retry }
    }

    /// [`Translator::check`] of 16 bytes that must be aligned.
    pub fn check_aligned(&mut self, la: u8, write: bool) -> Rm {
        self.spoil();
        let a = &mut self.a;
        a.rorx(4, RCX, la, 12 - entry::SHIFT as u8);
        a.alu_imm(AND, 4, Rm::Reg(RCX), ((ENTRIES as i32) - 1) << entry::SHIFT);
        a.mov(RDX, la);
        // What is left of the offset makes a tag that no entry has.
        a.alu_imm(AND, 8, Rm::Reg(RDX), -4096 | 15);
        let half = usize::from(self.request.rip >> 63 != 0);
        a.alu_from(ADD, 8, RDX, in_memory(word::REVISION + half));
        let tag = if write { entry::WRITE } else { entry::READ };
        a.alu_from(CMP, 8, RDX, Rm::Sib(TLB, RCX, 0, tag));
        let jump = a.jcc_far(5);
        a.load(8, RCX, Rm::Sib(TLB, RCX, 0, entry::HOST));
        self.misses.push(Miss { jump, retry: None });
        Rm::Sib(RCX, la, 0, 0)
    }

    /// Whether the instruction at hand may well access the lower half of the address space.
    fn may_be_low(&self) -> bool {
        let i = &self.item().i;
        let other = matches!(i.memory_segment(), Register::FS | Register::GS);
        let base = i.memory_base();
        !other && !matches!(base, Register::RSP | Register::RBP | Register::RIP | Register::None)
    }

    /// The memory operand, [`Translator::check`]ed.
    pub fn access(&mut self, i: &Instruction, size: u8, write: bool, flat: bool) -> Rm {
        let wanted = wanted(i, size, write, false);
        if let Some(rm) = self.together(&wanted) {
            return rm;
        }
        let la = self.address(i);
        self.check(la, size, write, flat)
    }

    /// The memory operand of 16 bytes that must be aligned.
    pub fn access_aligned(&mut self, i: &Instruction, write: bool) -> Rm {
        let wanted = wanted(i, 16, write, true);
        if let Some(rm) = self.together(&wanted) {
            return rm;
        }
        let la = self.address(i);
        self.check_aligned(la, write)
    }

    /// A word at a distance from RSP or RBP.
    pub fn access_stack(&mut self, register: usize, disp: i32, write: bool) -> Rm {
        debug_assert!(register == RSP || register == RBP, "both live in host registers");
        let key = Key::register(register);
        let size = self.word();
        let wanted = Wanted { key, disp: disp.into(), size, write, aligned: false };
        if let Some(rm) = self.together(&wanted) {
            return rm;
        }
        let la = self.linear(key, disp.into());
        self.check(la, size, write, false)
    }

    /// An access that needs no check, or the one for a whole group. Uses RCX; the first of a group
    /// uses RAX and RDX as well.
    fn together(&mut self, wanted: &Wanted) -> Option<Rm> {
        // What a segment of 32-bit code allows is checked with each access.
        let checked = self.request.narrow && wanted.key.segment != NONE;
        if self.request.plain || checked || wanted.disp.unsigned_abs() > FAR {
            return None;
        }
        if let Some((slot, at)) = self.groups.member(wanted) {
            self.a.load(8, RCX, layout::slot(slot));
            return Some(Rm::Mem(RCX, at));
        }
        if !self.misses.is_empty() {
            // The interpreter may execute this instruction, and the slot would be left as it is.
            return None;
        }
        let (slot, group) = self.groups.begin(wanted, self.items, self.at)?;
        self.check_group(wanted.key, &group);
        self.a.store(8, layout::slot(slot), RCX);
        Some(Rm::Mem(RCX, (wanted.disp - group.low) as i32))
    }

    /// RCX becomes the host's address of the group's lowest byte.
    fn check_group(&mut self, key: Key, group: &Group) {
        let la = self.linear(key, group.low);
        if group.aligned {
            self.spoil();
            self.a.test_imm(1, Rm::Reg(la), 15);
            let jump = self.a.jcc_far(5);
            self.group_misses.push(Miss::plain(jump));
        }
        let stack = [RSP as u8, RBP as u8].contains(&key.base);
        let low = key.segment == NONE && key.base != NONE && !stack;
        let miss = self.compare(la, (group.high - group.low) as i32, group.write, low);
        self.group_misses.push(miss);
        self.a.alu_from(ADD, 8, RCX, Rm::Reg(la));
    }

    /// Linear address of a displacement from a key, in RAX or its base's host register. Uses RAX,
    /// RCX.
    pub(crate) fn linear(&mut self, key: Key, disp: i64) -> u8 {
        let base = (key.base != NONE).then(|| self.host_of(key.base, RAX));
        let index = (key.index != NONE).then(|| self.host_of(key.index, RCX));
        let word = self.word();
        let whole = word == 8 && key.segment == NONE;
        match (base, index) {
            (None, None) => self.a.set(RAX, self.wrap(disp as u64)),
            (Some(base), None) if disp == 0 && whole => return base,
            (Some(base), None) => self.a.lea(word, RAX, Rm::Mem(base, disp as i32)),
            (Some(base), Some(index)) => {
                self.a.lea(word, RAX, Rm::Sib(base, index, key.scale, disp as i32));
            }
            (None, Some(index)) => self.a.lea(word, RAX, Rm::Index(index, key.scale, disp as i32)),
        }
        if key.segment != NONE {
            self.a.alu_from(ADD, word, RAX, layout::segment_base(key.segment.into()));
        }
        RAX
    }

    /// Binds the misses here, but for those that another look finds.
    pub(crate) fn slow(&mut self, misses: Range<usize>) {
        let (mut out, mut count) = ([None; 2 * MOST_MISSES], 0);
        assert!(misses.len() <= MOST_MISSES, "{} misses of one instruction", misses.len());
        let mut looked = false;
        for &Miss { jump, retry } in &self.cold_misses[misses] {
            let Some(Retry { write, resume }) = retry else {
                out[count] = Some(jump);
                count += 1;
                continue;
            };
            if looked {
                out[count] = Some(self.a.jmp_far());
                count += 1;
            }
            self.a.bind(jump);
            let hit = look_again(self.a, write);
            self.a.bind_at(hit, resume);
            looked = true;
        }
        for jump in out.into_iter().flatten() {
            self.a.bind(jump);
        }
    }
}

/// What is wanted of the memory operand.
fn wanted(i: &Instruction, size: u8, write: bool, aligned: bool) -> Wanted {
    Wanted { key: Key::of(i), disp: displacement(i), size, write, aligned }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Mnemonic as M};

    #[test]
    fn the_lower_half_is_looked_for_with_its_own_tag() {
        for write in [false, true] {
            let mut a = Asm::new(0);
            let jump = look_again(&mut a, write);
            let code = Decoder::with_ip(64, &a.bytes, 0, DecoderOptions::NONE);
            let code: Vec<_> = code.into_iter().collect();
            let names: Vec<_> = code.iter().map(Instruction::mnemonic).collect();
            assert_eq!(names, [M::Xor, M::Or, M::Cmp, M::Je]);
            assert!(code[..3].iter().all(|i| i.op0_register() == Register::RDX));
            for (i, half) in [(code[0], 1), (code[1], 0)] {
                assert_eq!(i.memory_base(), Register::RBP);
                assert_eq!(i.memory_displacement64() as i32, disp(word::REVISION + half));
            }
            let of = (code[2].memory_base(), code[2].memory_index());
            assert_eq!(of, (Register::R14, Register::RCX));
            let tag = if write { entry::WRITE } else { entry::READ };
            assert_eq!(code[2].memory_displacement64(), tag as u64);
            assert_eq!(jump.at, a.bytes.len() - 4);
        }
    }

    #[test]
    fn a_probe_is_the_same_when_it_was_kept() {
        let mut probes = Probes::default();
        for la in [RAX, 5, 12, 13] {
            for (size, half) in [(1, 0), (2, 1), (8, 1), (128, 0), (256, 1)] {
                for write in [false, true] {
                    let code: Vec<_> = (0..2)
                        .map(|_| {
                            let mut a = Asm::new(0);
                            let placed = probes.emit(&mut a, la, half, size, write);
                            (a.bytes.to_vec(), placed.jump.at, placed.behind)
                        })
                        .collect();
                    let mut a = Asm::new(0);
                    let behind = probe(&mut a, la, half, size, write).behind;
                    assert_eq!(code[0], (a.bytes.to_vec(), behind - 4, behind));
                    assert_eq!(code[0], code[1], "{la} {size} {half} {write}");
                }
            }
        }
    }
}
