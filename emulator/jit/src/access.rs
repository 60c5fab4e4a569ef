//! Memory operands: checked with the TLB, or known to lie in a page that was checked before.
//!
//! Contract: see the rules of [`crate::translate`]; which accesses share a check is the affair of
//! [`crate::groups`].

use crate::asm::alu::{ADD, AND, CMP, OR};
use crate::asm::reg::{RAX, RCX, RDX};
use crate::asm::{Jump, Rm};
use crate::classify::number;
use crate::groups::{Group, Key, NONE, Wanted, displacement};
use crate::layout::{self, TLB, entry, in_memory, place, word};
use crate::translate::Translator;
use core::ops::Range;
use emulator::cpu::{FS, GS, RBP, RSP};
use emulator::mmu::tlb::ENTRIES;
use iced_x86::{Instruction, Register};

/// A jump to where an access goes that the TLB does not have, and how to look again.
pub struct Miss {
    jump: Jump,
    retry: Option<Retry>,
}

#[derive(Clone, Copy)]
/// In the lower half of the address space, for code in the upper one: RCX points to the entry.
struct Retry {
    la: u8,
    size: i32,
    tag: i32,
    resume: usize,
}

/// Where displacements of group members count from, at most.
const FAR: u64 = 1 << 60;
/// Misses that an instruction can have, of each kind: IDIV of a number in memory has three, one
/// more through a segment of 32-bit code, one more across the end of a page.
const MOST_MISSES: usize = 5;

/// Code that looks in the TLB, as it was emitted last: it differs by little else than the size.
#[derive(Default)]
pub struct Probes(Vec<Probe>);

/// By the register, the half of the address space, read or write, and whether it is one byte.
const PROBES: usize = 16 << 3;

#[derive(Clone, Copy)]
struct Probe {
    code: [u8; 64],
    /// Bytes of it; 0: none yet.
    len: usize,
    /// Where the size less one is, a byte.
    size: usize,
    /// Where the jump's displacement is.
    jump: usize,
    /// What follows the jump.
    resume: usize,
}

impl Probes {
    /// The one of number `n`, if it was emitted before.
    fn get(&self, n: usize) -> Option<&Probe> {
        self.0.get(n).filter(|probe| probe.len > 0)
    }

    /// Keeps `code` as number `n`, if it is not too long.
    fn keep(&mut self, n: usize, code: &[u8], probe: Probe) {
        let none = Probe { code: [0; 64], len: 0, size: 0, jump: 0, resume: 0 };
        self.0.resize(PROBES, none);
        let mut kept = Probe { len: code.len(), ..probe };
        if let Some(room) = kept.code.get_mut(..code.len()) {
            room.copy_from_slice(code);
            self.0[n] = kept;
        }
    }
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
        let tag = if write { entry::WRITE } else { entry::READ };
        let kind = half | usize::from(write) << 1 | usize::from(size == 1) << 2;
        let begin = self.a.bytes.len();
        let n = usize::from(la) << 3 | kind;
        let a = &mut self.a;
        let (jump, resume) = match self.probes.get(n) {
            Some(probe) if size <= 128 => {
                a.raw(&probe.code[..probe.len]);
                if size > 1 {
                    a.bytes[begin + probe.size] = size as u8 - 1;
                }
                (Jump::far(begin + probe.jump), begin + probe.resume)
            }
            _ => {
                a.rorx(4, RCX, la, 12 - entry::SHIFT as u8);
                a.alu_imm(AND, 4, Rm::Reg(RCX), ((ENTRIES as i32) - 1) << entry::SHIFT);
                a.lea(8, RDX, Rm::Mem(la, size - 1));
                // The displacement is the last byte, if there is one.
                let place = a.bytes.len() - begin - 1;
                a.alu_imm(AND, 8, Rm::Reg(RDX), -4096);
                a.alu_from(OR, 8, RDX, in_memory(word::REVISION + half));
                a.alu_from(CMP, 8, RDX, Rm::Sib(TLB, RCX, 0, tag));
                let jump = a.jcc_far(5);
                let resume = a.bytes.len();
                a.load(8, RCX, Rm::Sib(TLB, RCX, 0, entry::HOST));
                if size <= 128 {
                    let (jump, resume) = (jump.at - begin, resume - begin);
                    let probe = Probe { code: [0; 64], len: 0, size: place, jump, resume };
                    self.probes.keep(n, &a.bytes[begin..], probe);
                }
                (jump, resume)
            }
        };
        // Of the kernel's accesses those through its own pointers lead to the upper half.
        let retry = (half == 1 && low).then_some(Retry { la, size, tag, resume });
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
        let (slot, group) = self.groups.begin(wanted, &mut self.items, self.at)?;
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
        // One more for each that is looked for again.
        let (mut out, mut count) = ([None; 2 * MOST_MISSES], 0);
        assert!(misses.len() <= MOST_MISSES, "{} misses of one instruction", misses.len());
        for n in misses {
            let a = &mut self.a;
            let Miss { jump, retry } = &self.cold_misses[n];
            let jump = *jump;
            let Some(Retry { la, size, tag, resume }) = *retry else {
                out[count] = Some(jump);
                count += 1;
                continue;
            };
            a.bind(jump);
            a.lea(8, RDX, Rm::Mem(la, size - 1));
            a.alu_imm(AND, 8, Rm::Reg(RDX), -4096);
            a.alu_from(OR, 8, RDX, in_memory(word::REVISION));
            a.alu_from(CMP, 8, RDX, Rm::Sib(TLB, RCX, 0, tag));
            let hit = a.jcc_far(4);
            a.bind_at(hit, resume);
            out[count] = Some(a.jmp_far());
            count += 1;
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
