//! Accesses that share a page: one check for several memory operands of a block.
//!
//! Contract: a *group* is a run of accesses whose addresses differ by constants. Its first access
//! checks that all bytes from the lowest to the highest of them lie in one page that the TLB has,
//! and keeps the host's address of the lowest in a slot ([`crate::layout::slot`]); the others are
//! reached from there, cannot fault and leave the host's flags alone. Where the check fails the
//! block is left for a *plain* one, without groups, that begins at the same instruction. A group
//! ends where what its addresses are made of changes by more than a constant, and before an
//! instruction that the interpreter executes; a call of the interpreter for an access that the
//! TLB does not have goes on only if no translation was dropped ([`crate::run`]).

use crate::classify::{Family, Item, is_narrow, memory_operand, number, touches_nothing, word};
use crate::translate::MOST;
use emulator::cpu::{FS, GS, RBP, RSP};
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

/// Groups that a block can have at once.
pub const SLOTS: usize = 4;
/// Most bytes from the lowest to the highest of a group: the more, the oftener they are not in one
/// page.
const SPAN: i64 = 256;
/// No register, no segment.
pub const NONE: u8 = 0xFF;

/// What an address is made of, but for its displacement.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Guest register or [`NONE`].
    pub base: u8,
    /// Guest register or [`NONE`].
    pub index: u8,
    /// log2 of what the index is multiplied by.
    pub scale: u8,
    /// FS, GS or [`NONE`].
    pub segment: u8,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        let whole = |k: &Self| u32::from_le_bytes([k.base, k.index, k.scale, k.segment]);
        whole(self) == whole(other)
    }
}

impl Eq for Key {}

impl Key {
    /// A register alone.
    pub fn register(base: usize) -> Self {
        Self { base: base as u8, index: NONE, scale: 0, segment: NONE }
    }

    /// That of the memory operand.
    pub fn of(i: &Instruction) -> Self {
        let base = match i.memory_base() {
            Register::RIP | Register::None => NONE,
            r => number(r),
        };
        let (index, scale) = match i.memory_index() {
            Register::None => (NONE, 0),
            r => (number(r), i.memory_index_scale().trailing_zeros() as u8),
        };
        let segment = match i.memory_segment() {
            Register::FS => FS as u8,
            Register::GS => GS as u8,
            _ => NONE,
        };
        Self { base, index, scale, segment }
    }

    /// Guest registers that it depends on, a bit each.
    fn registers(self) -> u32 {
        let bit = |r: u8| if r == NONE { 0 } else { 1 << r };
        bit(self.base) | bit(self.index)
    }
}

/// What is done to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is read.
    Read,
    /// It is written.
    Write,
    /// One of them.
    Some,
}

/// An access that an instruction makes.
#[derive(Clone, Copy, Debug)]
struct Access {
    key: Key,
    disp: i64,
    size: u8,
    kind: Kind,
    /// It must be aligned to 16 bytes.
    aligned: bool,
}

/// What an instruction does to groups, for those who look ahead.
#[derive(Clone, Copy, Debug)]
struct Brief {
    /// Guest registers written, a bit each.
    writes: u32,
    /// No group lives through it: see [`ends_groups`].
    ends: bool,
    /// Number of its first access in [`Groups::accesses`],
    first: u8,
    /// and how many it has that are not known to go well.
    count: u8,
}

/// An access as the code for it asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// What the address is made of.
    pub key: Key,
    /// Its displacement.
    pub disp: i64,
    /// Bytes.
    pub size: u8,
    /// They are written.
    pub write: bool,
    /// They must be aligned to 16.
    pub aligned: bool,
}

/// A group whose first access was emitted.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    key: Key,
    /// Those of the key, a bit each.
    registers: u32,
    /// The lowest byte's displacement, as registers were at the first access.
    pub low: i64,
    /// Behind the highest byte.
    pub high: i64,
    /// By how much the address was moved up since.
    moved: i64,
    /// Writes were checked for.
    pub write: bool,
    /// Addresses at `low` and multiples of 16 from there are aligned.
    pub aligned: bool,
    /// Number of the last instruction with an access that was planned.
    until: usize,
}

impl Group {
    /// Offset from `low` of an access that needs no check.
    fn offset(&self, wanted: &Wanted) -> Option<i32> {
        let at = wanted.disp + self.moved;
        let fits = self.key == wanted.key
            && at >= self.low
            && at + i64::from(wanted.size) <= self.high
            && (self.write || !wanted.write)
            && (!wanted.aligned || self.aligned && (at - self.low) % 16 == 0);
        fits.then_some((at - self.low) as i32)
    }

    /// What the instruction does to the address; false: it is not known any more.
    #[inline(always)]
    fn survives(&mut self, brief: Brief, item: &Item) -> bool {
        !brief.ends && (brief.writes & self.registers == 0 || self.is_moved(item))
    }

    /// The instruction writes one of the group's registers: whether it moves the address by a
    /// constant.
    fn is_moved(&mut self, item: &Item) -> bool {
        match step(item) {
            Some((register, by)) if self.registers == 1 << register && self.key.index == NONE => {
                self.moved += by;
                self.moved.unsigned_abs() < 1 << 20
            }
            _ => false,
        }
    }
}

/// The groups of a block in the making.
#[derive(Default)]
pub struct Groups {
    slots: [Option<Group>; SLOTS],
    /// How many there are.
    open: usize,
    /// What each instruction does to groups.
    briefs: Vec<Brief>,
    /// What they access, as far as that may be in a group, one after the other.
    accesses: Vec<Access>,
}

impl Groups {
    /// For a block of these instructions.
    pub fn prepare(&mut self, items: &[Item]) {
        self.slots = [None; SLOTS];
        self.open = 0;
        self.briefs.clear();
        self.accesses.clear();
        const { assert!(2 * MOST < 256) };
        for item in items {
            let first = self.accesses.len() as u8;
            if item.memory && item.lowered && !item.x87 && !item.crosses {
                accesses(item, &mut self.accesses);
            }
            let count = self.accesses.len() as u8 - first;
            let ends = ends_groups(item);
            self.briefs.push(Brief { writes: item.writes, ends, first, count });
        }
    }

    /// The slot, and the offset from what it holds, of an access that needs no check.
    pub fn member(&self, wanted: &Wanted) -> Option<(usize, i32)> {
        if self.open == 0 {
            return None;
        }
        let found = |slot: &Option<Group>| slot.as_ref().and_then(|group| group.offset(wanted));
        self.slots.iter().enumerate().find_map(|(n, slot)| found(slot).map(|at| (n, at)))
    }

    /// Begins a group with an access of instruction `at`, if more of them follow; marks the
    /// instructions that then cannot fault.
    pub fn begin(
        &mut self,
        wanted: &Wanted,
        items: &mut [Item],
        at: usize,
    ) -> Option<(usize, Group)> {
        let others = self.briefs.get(at + 1)?.first;
        if self.accesses[others.into()..].iter().all(|other| other.key != wanted.key) {
            return None;
        }
        let free = |slot: &Option<Group>| slot.is_none_or(|group| group.until < at);
        let slot = self.slots.iter().position(free)?;
        let group = self.plan(wanted, items, at)?;
        self.open += usize::from(self.slots[slot].is_none());
        self.slots[slot] = Some(group);
        self.mark(group, items, at);
        Some((slot, group))
    }

    /// Instruction `at` was emitted; `lowered`: not as a call of the interpreter.
    pub fn after(&mut self, items: &[Item], at: usize, lowered: bool) {
        if self.open == 0 {
            return;
        }
        let brief = self.briefs[at];
        for slot in &mut self.slots {
            if let Some(group) = slot
                && !(lowered && group.survives(brief, &items[at]))
            {
                *slot = None;
                self.open -= 1;
            }
        }
    }

    /// Looks ahead: the group that begins with `wanted`, if more accesses follow.
    fn plan(&self, wanted: &Wanted, items: &[Item], at: usize) -> Option<Group> {
        let mut group = Group {
            key: wanted.key,
            registers: wanted.key.registers(),
            low: wanted.disp,
            high: wanted.disp + i64::from(wanted.size),
            moved: 0,
            write: wanted.write,
            aligned: wanted.aligned,
            until: at,
        };
        let first = (group.low, group.high);
        let mut place = wanted.aligned.then_some(wanted.disp);
        for (n, &brief) in self.briefs.iter().enumerate().skip(at) {
            let count = if n > at { brief.count } else { 0 };
            for access in &self.accesses[brief.first.into()..][..count.into()] {
                if access.key != group.key {
                    continue;
                }
                let low = access.disp + group.moved;
                let high = low + i64::from(access.size);
                let (all_low, all_high) = (group.low.min(low), group.high.max(high));
                if all_high - all_low > SPAN {
                    continue;
                }
                // What is read and then written is checked once.
                group.write |= access.kind == Kind::Write && (low, high) == first;
                if access.aligned {
                    place = place.or(Some(low));
                }
                (group.low, group.high, group.until) = (all_low, all_high, n);
            }
            if !group.survives(brief, &items[n]) {
                break;
            }
        }
        if let Some(place) = place {
            group.aligned = true;
            group.low -= (group.low - place).rem_euclid(16);
        }
        let low = i32::try_from(group.low).is_ok() || group.registers == 0;
        group.moved = 0;
        (group.until > at && low).then_some(group)
    }

    /// Marks the instructions behind number `at` whose accesses are all in the group.
    fn mark(&mut self, mut group: Group, items: &mut [Item], at: usize) {
        let planned = items.iter_mut().zip(&mut self.briefs).enumerate();
        for (n, (item, brief)) in planned.take(group.until + 1).skip(at) {
            if n > at && brief.count == 1 {
                let Access { key, disp, size, kind, aligned } =
                    self.accesses[usize::from(brief.first)];
                let write = kind != Kind::Read;
                let wanted = Wanted { key, disp, size, write, aligned };
                if group.offset(&wanted).is_some() && item.may_be_safe {
                    item.safe();
                    brief.count = 0;
                }
            }
            if !group.survives(*brief, item) {
                return;
            }
        }
    }
}

/// Whether no group lives through the instruction: what the interpreter executes, and what changes
/// a segment's base or which pages may be accessed.
fn ends_groups(item: &Item) -> bool {
    let may = item.family == Family::Other;
    !item.lowered || may && matches!(item.mnemonic, M::Swapgs | M::Stac | M::Clac)
}

/// By how much an instruction moves a register, if that is all that it does to registers.
fn step(item: &Item) -> Option<(u8, i64)> {
    let i = &item.i;
    let sp = RSP as u8;
    let wide = |n| i.op_register(n).size() == usize::from(word(i)) && i.op_register(n).is_gpr();
    let register = |n| i.op_kind(n) == OpKind::Register && wide(n);
    let value = || signed(i, i.immediate(1));
    Some(match item.mnemonic {
        M::Push | M::Pushfq | M::Pushfd => (sp, -i64::from(word(i))),
        M::Pop if item.writes.count_ones() == 2 => {
            // The other register is not moved but overwritten: who depends on it, too, is told by
            // `writes`.
            (sp, word(i).into())
        }
        M::Add if register(0) && immediate(i) => (number(i.op_register(0)), value()),
        M::Sub if register(0) && immediate(i) => (number(i.op_register(0)), value().wrapping_neg()),
        M::Inc if register(0) => (number(i.op_register(0)), 1),
        M::Dec if register(0) => (number(i.op_register(0)), -1),
        M::Lea
            if register(0)
                && i.memory_base() == i.op_register(0)
                && i.memory_index() == Register::None =>
        {
            (number(i.op_register(0)), displacement(i))
        }
        _ => return None,
    })
}

/// The displacement, with the sign that it has at the width of addresses.
pub fn displacement(i: &Instruction) -> i64 {
    signed(i, i.memory_displacement64())
}

fn signed(i: &Instruction, v: u64) -> i64 {
    if is_narrow(i) { (v as i32).into() } else { v as i64 }
}

fn immediate(i: &Instruction) -> bool {
    use OpKind::{Immediate8to32, Immediate8to64, Immediate32, Immediate32to64};
    matches!(i.op_kind(1), Immediate8to64 | Immediate32to64 | Immediate8to32 | Immediate32)
}

/// Adds the accesses of an instruction, as far as they are made by [`Wanted`].
fn accesses(item: &Item, to: &mut Vec<Access>) {
    let i = &item.i;
    match item.reach {
        Reach::None => {}
        Reach::Alone => return,
        Reach::Shared { size, kind, aligned } => {
            let segmented = matches!(i.memory_segment(), Register::FS | Register::GS);
            if segmented && is_narrow(i) {
                return;
            }
            to.push(Access { key: Key::of(i), disp: displacement(i), size, kind, aligned });
        }
    }
    if !matches!(item.family, Family::Stack | Family::Branch | Family::Other) {
        return;
    }
    let (base, disp, kind) = match item.mnemonic {
        M::Push | M::Pushfq | M::Pushfd | M::Call => (RSP, -i64::from(word(i)), Kind::Write),
        M::Pop | M::Ret => (RSP, 0, Kind::Read),
        M::Leave => (RBP, 0, Kind::Read),
        _ => return,
    };
    to.push(Access { key: Key::register(base), disp, size: word(i), kind, aligned: false });
}

/// How an instruction reaches its memory operand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// There is none, or it is not accessed.
    #[default]
    None,
    /// Not by [`Wanted`]: by itself.
    Alone,
    /// As one of a group may.
    Shared {
        /// Bytes.
        size: u8,
        /// What is done to them.
        kind: Kind,
        /// They must be aligned to 16.
        aligned: bool,
    },
}

impl Reach {
    /// That of an instruction, which uses XMM registers or not.
    pub fn of(i: &Instruction, vector: bool) -> Self {
        if !memory_operand(i) || touches_nothing(i) {
            return Self::None;
        }
        let bit_string = matches!(i.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc)
            && i.op_kind(1) == OpKind::Register;
        let pair = matches!(i.mnemonic(), M::Cmpxchg8b | M::Cmpxchg16b);
        match u8::try_from(i.memory_size().size()) {
            Ok(size) if size > 0 && !bit_string && !pair => {
                let aligned = vector && size == 16 && !unaligned(i);
                Self::Shared { size, kind: Kind::of(i), aligned }
            }
            _ => Self::Alone,
        }
    }
}

impl Kind {
    fn of(i: &Instruction) -> Self {
        let written = i.op_kind(0) == OpKind::Memory;
        match i.mnemonic() {
            M::Cmp | M::Test | M::Push | M::Jmp | M::Call | M::Mul | M::Imul | M::Div | M::Idiv => {
                Self::Read
            }
            M::Cmpxchg | M::Bt | M::Ldmxcsr | M::Stmxcsr => Self::Some,
            M::Xchg | M::Xadd => Self::Write,
            _ if written => Self::Write,
            _ => Self::Read,
        }
    }
}

/// Vector instructions whose 16 bytes may lie anywhere.
pub fn unaligned(i: &Instruction) -> bool {
    use M::*;
    let text = matches!(i.mnemonic(), Pcmpistri | Pcmpistrm | Pcmpestri | Pcmpestrm);
    text || matches!(i.mnemonic(), Movups | Movupd | Movdqu | Lddqu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::classify;
    use iced_x86::{Decoder, DecoderOptions};

    /// The group that begins with the first instruction, which reads or writes `size` bytes at a
    /// displacement from a register, and which instructions cannot fault then.
    fn grouped(code: &[u8], wanted: Wanted) -> Option<(Group, Vec<bool>)> {
        let decoder = Decoder::with_ip(64, code, 0x1000, DecoderOptions::NONE);
        let mut items: Vec<Item> = decoder.into_iter().map(|i| classify(i, false)).collect();
        let mut groups = Groups::default();
        groups.prepare(&items);
        let (slot, group) = groups.begin(&wanted, &mut items, 0)?;
        assert_eq!(slot, 0);
        Some((group, items.iter().map(|item| !item.memory).collect()))
    }

    fn at(base: usize, disp: i64, write: bool) -> Wanted {
        Wanted { key: Key::register(base), disp, size: 8, write, aligned: false }
    }

    #[test]
    fn pushes_share_a_check_and_follow_the_stack_pointer() {
        // push rbx; push rbp; sub rsp,16; mov [rsp+8],rax; ret
        let code = [0x53, 0x55, 0x48, 0x83, 0xEC, 0x10, 0x48, 0x89, 0x44, 0x24, 0x08, 0xC3];
        let (group, safe) = grouped(&code, at(RSP, -8, true)).expect("three writes");
        assert_eq!((group.low, group.high, group.write), (-32, 0, true));
        assert_eq!(safe, [false, true, true, true, false]);
    }

    #[test]
    fn a_register_that_is_overwritten_ends_its_group() {
        // mov rcx,[rbx]; mov rbx,[rbx+8]; mov rdx,[rbx+16]
        let code = [0x48, 0x8B, 0x0B, 0x48, 0x8B, 0x5B, 0x08, 0x48, 0x8B, 0x53, 0x10];
        let (group, safe) = grouped(&code, at(3, 0, false)).expect("two reads");
        assert_eq!((group.low, group.high, group.until), (0, 16, 1));
        assert_eq!(safe, [false, true, false]);
    }

    #[test]
    fn writes_are_not_covered_by_a_check_for_reading() {
        // mov rcx,[rbx]; mov [rbx+8],rcx; mov rdx,[rbx+16]
        let code = [0x48, 0x8B, 0x0B, 0x48, 0x89, 0x4B, 0x08, 0x48, 0x8B, 0x53, 0x10];
        let (group, safe) = grouped(&code, at(3, 0, false)).expect("two reads");
        assert!(!group.write);
        assert_eq!(safe, [false, false, true]);
        // The same bytes, read and then written, are.
        let code = [0x48, 0x8B, 0x0B, 0x48, 0x89, 0x0B];
        let (group, safe) = grouped(&code, at(3, 0, false)).expect("a read and a write");
        assert!(group.write);
        assert_eq!(safe, [false, true]);
    }

    #[test]
    fn what_is_far_or_interpreted_is_no_part() {
        // mov rcx,[rbx]; mov rdx,[rbx+0x200]
        let code = [0x48, 0x8B, 0x0B, 0x48, 0x8B, 0x93, 0x00, 0x02, 0x00, 0x00];
        assert!(grouped(&code, at(3, 0, false)).is_none());
        // mov rcx,[rbx]; cpuid; mov rdx,[rbx+8]
        let code = [0x48, 0x8B, 0x0B, 0x0F, 0xA2, 0x48, 0x8B, 0x53, 0x08];
        assert!(grouped(&code, at(3, 0, false)).is_none());
    }

    #[test]
    fn aligned_vectors_keep_their_alignment() {
        // movups xmm0,[rbx+8]; movaps xmm1,[rbx+32]; movaps xmm2,[rbx+40]
        let code = [0x0F, 0x10, 0x43, 0x08, 0x0F, 0x28, 0x4B, 0x20, 0x0F, 0x28, 0x53, 0x28];
        let wanted = Wanted { size: 16, ..at(3, 8, false) };
        let (group, safe) = grouped(&code, wanted).expect("three reads");
        assert_eq!((group.low, group.high, group.aligned), (0, 56, true));
        assert_eq!(safe, [false, true, false]);
    }
}
