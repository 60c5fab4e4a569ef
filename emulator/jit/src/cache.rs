//! Translated blocks and the ways between them.
//!
//! Contract: a block is found by its place in RAM, its RIP and whether it is 64-bit code. Blocks
//! jump to each other directly:
//! within a page for as long as both live; to another page while the TLB has that page's *number*
//! ([`Tlb::number`]) for the target. A number stands for a linear page that leads to a certain page
//! of RAM: it is the same in every process where that is so, and the TLB forgets it with the
//! translation. Where a call goes on when it comes back is asked likewise, even on its own page.
//! Dropping a block takes back every jump to it.

use crate::memory::CodeMemory;
use crate::thunks::Thunks;
use crate::translate::{DIFFERS, Edge, EdgeKind, NUMBER, Site, Translation};
use emulator::accelerator::BlockCount;
use emulator::core::Core;
use emulator::cpu::BLOCK_RIP;
use emulator::decode::MAX_LENGTH;
use emulator::exception::Trap;
use emulator::mmu::tlb::Tlb;
use emulator::op::Op;

/// Entries of the table of jump targets.
pub const JUMPS: usize = 1 << 14;
/// log2 of the size of one.
pub const JUMP_SHIFT: u8 = 5;
const BUCKETS: usize = 1 << 17;
/// Words of 64 bits that tell where blocks begin.
const BEGINNINGS: usize = 1 << 14;
/// A block that comes to the beginning of one with so many instructions ends there: to have them
/// twice would take more time than the jump.
const LONG: u32 = 8;
/// Blocks that there is room for at once; a boot has a quarter of that.
const BLOCKS: usize = 1 << 17;
/// Numbers that a page of RAM may have: linear pages that lead to it.
const NAMES: usize = 1 << 10;
/// Numbers of all pages, 16 bytes each.
const MOST_NUMBERS: usize = 1 << 18;
/// More than any number.
const LAST_NUMBER: u32 = i32::MAX as u32;
/// No block or edge.
pub const NONE: u32 = u32::MAX;

/// Where translated code goes on for an address, as the code itself looks it up.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub struct JumpTarget {
    /// The linear address.
    pub la: u64,
    /// Number of its page that the TLB must have; none ever is that of an empty slot.
    pub number: u32,
    /// Number of the block.
    pub block: u32,
    /// Address of its code.
    pub code: u64,
    /// Where the page's number is, in bytes from [`crate::layout::word::NUMBERS`].
    pub at: u32,
}
const EMPTY: JumpTarget = JumpTarget { la: 0, number: u32::MAX, block: NONE, code: 0, at: 0 };
const _: () = assert!(size_of::<JumpTarget>() == 1 << JUMP_SHIFT);
/// There are hundreds of thousands of these.
const _: () =
    assert!(size_of::<Link>() == 24 && size_of::<Site>() == 24 && size_of::<Block>() == 40);

/// A block.
pub struct Block {
    /// Offset in RAM of its first byte; `usize::MAX` once dropped.
    pub place: usize,
    /// RIP of its first instruction.
    pub rip: u64,
    /// Offset of its code.
    pub code: u32,
    /// Guest instructions.
    pub count: u32,
    /// Without groups ([`crate::groups`]): only certain edges lead here.
    plain: bool,
    /// It is 32-bit code.
    narrow: bool,
    /// Number of its page.
    number: u32,
    next: u32,
    /// First of the edges that lead here.
    incoming: u32,
}

/// What a block was translated from and how, besides its place.
#[derive(Clone, Copy)]
pub struct Made {
    /// RIP of its first instruction.
    pub rip: u64,
    /// It is 32-bit code.
    pub narrow: bool,
    /// Without groups ([`crate::groups`]).
    pub plain: bool,
}

/// A way out of a block: an [`Edge`], in few bytes.
struct Link {
    target: u64,
    /// Offset of the displacement of its jump.
    jump: u32,
    /// The block it leads to.
    to: u32,
    /// The next edge that leads there.
    next: u32,
    stub: u16,
    /// [`NEAR`], [`PLAIN`], or the distance of [`EdgeKind::Far`].
    kind: u16,
}

/// In [`Link::kind`]: no jump leads into its own displacement.
const NEAR: u16 = 0;
const PLAIN: u16 = 1;

impl Link {
    /// An edge of a block whose code is at `code`.
    fn new(edge: &Edge, code: u32) -> Self {
        let Edge { target, jump, stub, kind } = *edge;
        let kind = match kind {
            EdgeKind::Near => NEAR,
            EdgeKind::Plain => PLAIN,
            EdgeKind::Far(look) => look,
        };
        Self { target, jump: jump + code, to: NONE, next: NONE, stub, kind }
    }

    /// Offset of what it leads to while its target is not translated.
    fn stub(&self) -> u32 {
        self.jump + u32::from(self.stub)
    }

    /// Where the code goes on if the target's page has another number, if that is compared.
    fn look(&self) -> Option<u32> {
        (self.kind > PLAIN).then(|| self.jump + u32::from(self.kind))
    }
}

/// What there is of a page of RAM.
#[derive(Default)]
struct Page {
    blocks: Vec<u32>,
    /// Its numbers, by linear page and kind of code ([`name`]).
    numbers: Vec<(u64, u32)>,
}

/// An instruction that crosses a page, as it was when it was decoded.
pub struct Crossing {
    /// Its decoded form.
    pub op: Op,
    /// Its bytes, and zeros.
    pub bytes: [u8; MAX_LENGTH],
}

/// All translated code.
pub struct Cache {
    /// Where the code is.
    pub memory: CodeMemory,
    /// Code shared by all blocks.
    pub thunks: Thunks,
    start: usize,
    used: usize,
    /// The blocks since the last flush.
    pub blocks: Vec<Block>,
    links: Vec<Link>,
    /// Instructions that may be interpreted.
    pub sites: Vec<Site>,
    /// Decoded forms of some of them.
    pub ops: Vec<Op>,
    /// The same of those that cross a page.
    pub crossings: Vec<Crossing>,
    buckets: Box<[u32]>,
    /// A bit is set for each block of [`LONG`] instructions, by a hash of its place: most places
    /// have none.
    beginnings: Box<[u64]>,
    /// By number, up to the last that has any.
    pages: Vec<Option<Box<Page>>>,
    next_number: u32,
    /// How many numbers there are in `pages`.
    numbered: usize,
    /// There was no room for another number: see [`Cache::is_out_of_numbers`].
    out_of_numbers: bool,
    /// The table that translated code looks in.
    pub jumps: Box<[JumpTarget; JUMPS]>,
    /// Counters by block: executions, and instructions not reached in them. They never move. Empty
    /// unless wanted.
    #[expect(clippy::vec_box, reason = "their addresses stand in code")]
    pub counters: Vec<Box<[u64; 2]>>,
}

/// Index in the table of jump targets.
pub fn jump_slot(la: u64) -> usize {
    let low = la as u32;
    (low.rotate_right(12) ^ low) as usize & (JUMPS - 1)
}

/// What a number is for: a linear page with 64-bit code, or with 32-bit code.
fn name(la: u64, narrow: bool) -> u64 {
    la >> 12 | u64::from(narrow) << 63
}

fn bucket(place: usize, rip: u64) -> usize {
    let mixed = (place as u64 ^ rip.rotate_left(20)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 40) as usize & (BUCKETS - 1)
}

/// Where in [`Cache::beginnings`] the bit of a place is.
fn beginning(place: usize) -> (usize, u64) {
    let mixed = place ^ place >> 20;
    ((mixed / 64) & (BEGINNINGS - 1), 1 << (mixed % 64))
}

impl Cache {
    /// An empty cache in `memory`, of which the first `start` bytes are taken.
    pub fn new(memory: CodeMemory, thunks: Thunks, start: usize) -> Self {
        let jumps = vec![EMPTY; JUMPS].into_boxed_slice();
        Self {
            memory,
            thunks,
            start,
            used: start,
            // What is not used of these takes no memory.
            blocks: Vec::with_capacity(BLOCKS),
            links: Vec::with_capacity(4 * BLOCKS),
            sites: Vec::with_capacity(4 * BLOCKS),
            ops: Vec::new(),
            crossings: Vec::new(),
            buckets: vec![NONE; BUCKETS].into_boxed_slice(),
            beginnings: vec![0; BEGINNINGS].into_boxed_slice(),
            pages: Vec::new(),
            next_number: 1,
            numbered: 0,
            out_of_numbers: false,
            jumps: jumps.try_into().unwrap_or_else(|_| unreachable!("length is the array's")),
            counters: Vec::new(),
        }
    }

    /// Forgets everything; gives back how many bytes of code that were.
    pub fn clear(&mut self) -> usize {
        let bytes = self.used - self.start;
        self.used = self.start;
        self.blocks.clear();
        self.links.clear();
        self.sites.clear();
        self.ops.clear();
        self.crossings.clear();
        self.buckets.fill(NONE);
        self.beginnings.fill(0);
        self.pages.clear();
        self.numbered = 0;
        self.jumps.fill(EMPTY);
        self.counters.clear();
        bytes
    }

    /// Whether `len` more bytes fit.
    pub fn has_room(&self, len: usize) -> bool {
        self.memory.len() - self.used >= len
    }

    /// Where the next block's code will be executed.
    pub fn next_address(&self) -> usize {
        self.memory.address() + self.used
    }

    /// Numbers that the next edge, site and block will have.
    pub fn numbers(&self) -> (u32, u32, u32) {
        (self.links.len() as u32, self.sites.len() as u32, self.blocks.len() as u32)
    }

    /// The block at a place, with its RIP, of 32-bit code or not, plain or not.
    pub fn find(&self, place: usize, rip: u64, narrow: bool, plain: bool) -> Option<u32> {
        let mut id = self.buckets[bucket(place, rip)];
        while id != NONE {
            let b = &self.blocks[id as usize];
            if b.place == place && b.rip == rip && b.narrow == narrow && b.plain == plain {
                return Some(id);
            }
            id = b.next;
        }
        None
    }

    /// Whether a block of [`LONG`] instructions, not a plain one, begins at a place, with its RIP.
    pub fn begins(&self, place: usize, rip: u64, narrow: bool) -> bool {
        let (word, bit) = beginning(place);
        self.beginnings[word] & bit != 0
            && self
                .find(place, rip, narrow, false)
                .is_some_and(|id| self.blocks[id as usize].count >= LONG)
    }

    /// Address of a block's code.
    pub fn address(&self, id: u32) -> u64 {
        self.memory.address() as u64 + u64::from(self.blocks[id as usize].code)
    }

    /// The number that stands for: the linear page of `la` leads to the page of RAM at `place`,
    /// with 32-bit code or 64-bit code. `None` if there are too many.
    pub fn number(&mut self, la: u64, narrow: bool, place: usize) -> Option<u32> {
        let page = place / devices::ram::PAGE;
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        let known = &mut self.pages[page].get_or_insert_default().numbers;
        // Of a library's page the process that runs is mostly one of the last.
        if let Some(&(_, number)) = known.iter().rev().find(|(named, _)| *named == name(la, narrow))
        {
            return Some(number);
        }
        let most = known.len() == NAMES || self.numbered == MOST_NUMBERS;
        if most || self.next_number == LAST_NUMBER {
            self.out_of_numbers = true;
            return None;
        }
        known.push((name(la, narrow), self.next_number));
        self.numbered += 1;
        self.next_number += 1;
        Some(self.next_number - 1)
    }

    /// Whether there was no room for a number: everything must be forgotten, and then
    /// [`Cache::renumber`]ed, before a block is looked up again.
    pub fn is_out_of_numbers(&self) -> bool {
        self.out_of_numbers
    }

    /// There is room for numbers again, nothing has one. True: they begin anew, so the TLB must
    /// forget those that it has.
    pub fn renumber(&mut self) -> bool {
        self.out_of_numbers = false;
        let anew = self.next_number > LAST_NUMBER / 2;
        if anew {
            self.next_number = 1;
        }
        anew
    }

    /// The block at RIP, which must be canonical: in the table of jump targets from here on. If
    /// there is none, where it would be.
    pub fn look_up(&mut self, core: &mut Core) -> Result<Result<u32, usize>, Trap> {
        let rip = core.cpu.rip;
        let (kind, narrow) = (core.code_kind(), core.mode.bits != 64);
        let slot = &self.jumps[jump_slot(rip)];
        if slot.la == rip && slot.number == core.tlb.number(rip, kind) {
            return Ok(Ok(slot.block));
        }
        core.cpu.regs[BLOCK_RIP] = rip;
        let place = core.fetch_place(rip)?;
        let Some(number) = self.number(rip, narrow, place) else { return Ok(Err(place)) };
        if core.tlb.number(rip, kind) != number {
            core.tlb.set_number(rip, kind, number);
        }
        let slot = &self.jumps[jump_slot(rip)];
        if slot.la == rip && slot.number == number {
            return Ok(Ok(slot.block));
        }
        let Some(id) = self.find(place, rip, narrow, false) else { return Ok(Err(place)) };
        self.remember(id);
        Ok(Ok(id))
    }

    /// Adds a block translated for the next address and numbers.
    /// Its last instruction reaches into the page of RAM at `tail`, if that is given.
    pub fn add(&mut self, place: usize, made: Made, tail: Option<usize>, t: &Translation) -> u32 {
        let Made { rip, narrow, plain } = made;
        let id = self.blocks.len() as u32;
        self.memory.write(self.used, &t.code.bytes);
        let code = self.used as u32;
        // Blocks begin at lines of 16 bytes.
        self.used = (self.used + t.code.bytes.len() + 15) & !15;
        let at = bucket(place, rip);
        let next = self.buckets[at];
        self.buckets[at] = id;
        let count = t.count as u32;
        if count >= LONG && !plain {
            let (word, bit) = beginning(place);
            self.beginnings[word] |= bit;
        }
        let number = self.number(rip, narrow, place).unwrap_or(LAST_NUMBER);
        let incoming = NONE;
        self.blocks.push(Block { place, rip, code, count, plain, narrow, number, next, incoming });
        self.sites.extend_from_slice(&t.sites);
        self.links.extend(t.edges.iter().map(|edge| Link::new(edge, code)));
        for place in [Some(place), tail].into_iter().flatten() {
            let page = &mut self.pages[place / devices::ram::PAGE];
            page.get_or_insert_default().blocks.push(id);
        }
        id
    }

    /// Where edge `number` leads.
    pub fn target(&self, number: u32) -> u64 {
        self.links[number as usize].target
    }

    /// Whether edge `number` leads to a plain block.
    pub fn leads_to_plain(&self, number: u32) -> bool {
        self.links.get(number as usize).is_some_and(|link| link.kind == PLAIN)
    }

    /// Makes edge `number` lead to block `to`, while its page has its number where that matters.
    pub fn link(&mut self, number: u32, to: u32) {
        let link = &mut self.links[number as usize];
        if link.to != NONE {
            // The target's number was not known, or it leads to another place in another process:
            // the code looks that up.
            return;
        }
        link.to = to;
        let to = &mut self.blocks[to as usize];
        link.next = core::mem::replace(&mut to.incoming, number);
        let (jump, look) = (link.jump, link.look());
        let (code, number) = (to.code, to.number);
        self.jump(jump, code);
        if let Some(look) = look {
            self.memory.patch((jump - NUMBER) as usize, number as i32);
            self.jump(jump - DIFFERS, look);
        }
    }

    fn jump(&mut self, at: u32, to: u32) {
        self.memory.patch(at as usize, (i64::from(to) - (i64::from(at) + 4)) as i32);
    }

    /// Enters a block in the table of jump targets.
    pub fn remember(&mut self, id: u32) {
        let b = &self.blocks[id as usize];
        let (la, number, code) = (b.rip, b.number, self.address(id));
        let at = 4 * Tlb::number_index(la) as u32;
        self.jumps[jump_slot(la)] = JumpTarget { la, number, block: id, code, at };
    }

    /// Forgets the blocks of a page; gives back how many they were.
    pub fn drop_page(&mut self, page: usize) -> usize {
        let Some(Some(page)) = self.pages.get_mut(page) else { return 0 };
        let ids = core::mem::take(&mut page.blocks);
        let mut dropped = 0;
        for id in ids {
            // One that reaches into two pages may have been dropped with the other.
            if self.blocks[id as usize].place != usize::MAX {
                self.drop_block(id);
                dropped += 1;
            }
        }
        dropped
    }

    fn drop_block(&mut self, id: u32) {
        let b = &mut self.blocks[id as usize];
        let (rip, next) = (b.rip, b.next);
        let at = bucket(b.place, rip);
        b.place = usize::MAX;
        let mut incoming = core::mem::replace(&mut b.incoming, NONE);
        if self.buckets[at] == id {
            self.buckets[at] = next;
        } else {
            let mut before = self.buckets[at];
            while before != NONE {
                let b = &mut self.blocks[before as usize];
                if b.next == id {
                    b.next = next;
                    break;
                }
                before = b.next;
            }
        }
        let slot = &mut self.jumps[jump_slot(rip)];
        if slot.la == rip {
            *slot = EMPTY;
        }
        while incoming != NONE {
            let link = &mut self.links[incoming as usize];
            link.to = NONE;
            let (jump, stub, next) = (link.jump, link.stub(), link.next);
            self.jump(jump, stub);
            incoming = next;
        }
    }

    /// How often each block was executed.
    pub fn counts(&self) -> Vec<BlockCount> {
        let blocks = self.blocks.iter().zip(&self.counters);
        blocks
            .map(|(b, counter)| BlockCount {
                rip: b.rip,
                place: b.place,
                bits: if b.narrow { 32 } else { 64 },
                instructions: b.count,
                executed: counter[0],
                skipped: counter[1],
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asm::Asm;
    use crate::thunks;

    fn cache() -> Cache {
        let memory = CodeMemory::new(1 << 20).expect("a computer that can run the JIT");
        let thunks = thunks::emit(&mut Asm::new(memory.address()), 0, 0);
        Cache::new(memory, thunks, 1 << 16)
    }

    #[test]
    fn a_page_by_many_names_does_not_take_all_memory() {
        let mut cache = cache();
        for name in 0..NAMES as u64 {
            assert_eq!(cache.number(name << 12, false, 0x5000), Some(name as u32 + 1));
        }
        assert_eq!(cache.number(7 << 12, false, 0x5123), Some(8), "it has one");
        assert!(!cache.is_out_of_numbers());
        assert_eq!(cache.number(1 << 40, false, 0x5000), None);
        assert!(cache.is_out_of_numbers());
        cache.clear();
        assert!(!cache.renumber(), "old numbers may stay where they are");
        assert_eq!(
            cache.number(1 << 40, false, 0x5000),
            Some(NAMES as u32 + 1),
            "not one of the old"
        );
    }

    #[test]
    fn numbers_begin_anew_before_they_end() {
        let mut cache = cache();
        cache.next_number = LAST_NUMBER - 1;
        assert_eq!(cache.number(0x1000, false, 0x1000), Some(LAST_NUMBER - 1));
        assert_eq!(cache.number(0x2000, false, 0x2000), None);
        cache.clear();
        assert!(cache.renumber());
        assert_eq!(cache.number(0x2000, false, 0x2000), Some(1));
    }
}
