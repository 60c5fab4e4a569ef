//! Translated blocks and the ways between them.
//!
//! Contract: a block is found by its place in RAM and its RIP. Blocks jump to each other directly:
//! within a page for as long as both live; to another page as long as the *world* is that in which
//! the jump was made. A world is a number for what decides where an address leads: the translations
//! in force for its half of the address space, and the privilege. Dropping a block takes back every
//! jump to it.

use crate::memory::CodeMemory;
use crate::thunks::Thunks;
use crate::translate::{Edge, Site, Translation};
use emulator::accelerator::BlockCount;
use emulator::op::Op;

/// Entries of the table of jump targets.
pub const JUMPS: usize = 1 << 14;
/// log2 of the size of one.
pub const JUMP_SHIFT: u8 = 5;
const BUCKETS: usize = 1 << 15;
/// No block or edge.
pub const NONE: u32 = u32::MAX;

/// Where translated code goes on for an address, as the code itself looks it up.
#[derive(Clone, Copy, Default)]
#[repr(C, align(32))]
pub struct JumpTarget {
    /// The linear address.
    pub la: u64,
    /// The world in which that holds; 0 for none.
    pub world: u32,
    /// Number of the block.
    pub block: u32,
    /// Address of its code.
    pub code: u64,
    /// Where the address led, in RAM.
    pub place: u64,
}
const _: () = assert!(size_of::<JumpTarget>() == 1 << JUMP_SHIFT);

/// A block.
pub struct Block {
    /// Offset in RAM of its first byte; `usize::MAX` once dropped.
    pub place: usize,
    /// RIP of its first instruction.
    pub rip: u64,
    /// Offset of its code.
    pub code: usize,
    /// Guest instructions.
    pub count: u32,
    /// Without groups ([`crate::groups`]): only certain edges lead here.
    plain: bool,
    next: u32,
    /// First of the edges that lead here.
    incoming: u32,
}

/// A way out of a block.
struct Link {
    edge: Edge,
    /// The block it leads to.
    to: u32,
    /// The next edge that leads there.
    next: u32,
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
    buckets: Box<[u32]>,
    pages: Vec<Vec<u32>>,
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

fn bucket(place: usize, rip: u64) -> usize {
    let mixed = (place as u64 ^ rip.rotate_left(20)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 40) as usize & (BUCKETS - 1)
}

impl Cache {
    /// An empty cache in `memory`, of which the first `start` bytes are taken.
    pub fn new(memory: CodeMemory, thunks: Thunks, start: usize) -> Self {
        let jumps = vec![JumpTarget::default(); JUMPS].into_boxed_slice();
        Self {
            memory,
            thunks,
            start,
            used: start,
            blocks: Vec::new(),
            links: Vec::new(),
            sites: Vec::new(),
            ops: Vec::new(),
            buckets: vec![NONE; BUCKETS].into_boxed_slice(),
            pages: Vec::new(),
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
        self.buckets.fill(NONE);
        self.pages.clear();
        self.jumps.fill(JumpTarget::default());
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

    /// The block at a place, with its RIP, plain or not.
    pub fn find(&self, place: usize, rip: u64, plain: bool) -> Option<u32> {
        let mut id = self.buckets[bucket(place, rip)];
        while id != NONE {
            let b = &self.blocks[id as usize];
            if b.place == place && b.rip == rip && b.plain == plain {
                return Some(id);
            }
            id = b.next;
        }
        None
    }

    /// Address of a block's code.
    pub fn address(&self, id: u32) -> u64 {
        (self.memory.address() + self.blocks[id as usize].code) as u64
    }

    /// Adds a block translated for the next address and numbers.
    pub fn add(&mut self, place: usize, rip: u64, plain: bool, t: &Translation) -> u32 {
        let id = self.blocks.len() as u32;
        let code = self.used;
        self.memory.write(code, &t.code);
        // Blocks begin at lines of 16 bytes.
        self.used = (code + t.code.len() + 15) & !15;
        let at = bucket(place, rip);
        let next = self.buckets[at];
        self.buckets[at] = id;
        let count = t.count as u32;
        self.blocks.push(Block { place, rip, code, count, plain, next, incoming: NONE });
        self.sites.extend_from_slice(&t.sites);
        for edge in &t.edges {
            let moved = |at: usize| if at == 0 { 0 } else { at + code };
            let edge = Edge {
                target: edge.target,
                plain: edge.plain,
                jump: moved(edge.jump),
                stub: moved(edge.stub),
                world: moved(edge.world),
            };
            self.links.push(Link { edge, to: NONE, next: NONE });
        }
        let page = place / devices::ram::PAGE;
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, Vec::new);
        }
        self.pages[page].push(id);
        id
    }

    /// Where edge `number` leads.
    pub fn target(&self, number: u32) -> u64 {
        self.links[number as usize].edge.target
    }

    /// Whether edge `number` leads to a plain block.
    pub fn leads_to_plain(&self, number: u32) -> bool {
        self.links.get(number as usize).is_some_and(|link| link.edge.plain)
    }

    /// Makes edge `number` lead to block `to`, in `world` where that matters.
    pub fn link(&mut self, number: u32, to: u32, world: u32) {
        let link = &mut self.links[number as usize];
        let edge = link.edge;
        if link.to == NONE {
            link.to = to;
            link.next = self.blocks[to as usize].incoming;
            self.blocks[to as usize].incoming = number;
        } else if link.to != to {
            // It leads to another place in another world: the code looks that up.
            return;
        }
        let code = self.blocks[to as usize].code;
        self.jump(edge.jump, code);
        if edge.world != 0 {
            self.memory.patch(edge.world, world as i32);
        }
    }

    fn jump(&mut self, at: usize, to: usize) {
        self.memory.patch(at, (to as i64 - (at as i64 + 4)) as i32);
    }

    /// Enters a block in the table of jump targets.
    pub fn remember(&mut self, id: u32, world: u32) {
        let b = &self.blocks[id as usize];
        let (la, place, code) = (b.rip, b.place as u64, self.address(id));
        self.jumps[jump_slot(la)] = JumpTarget { la, world, block: id, code, place };
    }

    /// Forgets the blocks of a page; gives back how many they were.
    pub fn drop_page(&mut self, page: usize) -> usize {
        let Some(ids) = self.pages.get_mut(page) else { return 0 };
        let ids = core::mem::take(ids);
        for &id in &ids {
            self.drop_block(id);
        }
        ids.len()
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
            *slot = JumpTarget::default();
        }
        while incoming != NONE {
            let link = &mut self.links[incoming as usize];
            link.to = NONE;
            let (edge, next) = (link.edge, link.next);
            self.jump(edge.jump, edge.stub);
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
                bits: 64,
                instructions: b.count,
                executed: counter[0],
                skipped: counter[1],
            })
            .collect()
    }
}
