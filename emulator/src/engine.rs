//! The interpreter's outer loop: finds blocks, runs them, and keeps the cache of blocks.
//!
//! Contract: [`Engine::execute`] retires instructions until the core's limit is reached exactly,
//! an event needs the machine's attention, or an instruction is left. Blocks are keyed by where
//! their bytes lie and by [`Mode`]; a store into their bytes drops all blocks of the page.

use crate::core::{Core, Mode};
use crate::cpu::{BLOCK_RIP, CS};
use crate::decode::{self, Decoded, MAX_INSTRUCTIONS, MAX_LENGTH};
use crate::exception::{Cause, Trap};
use crate::op::{Exit, Op};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use devices::ram::PAGE;

/// Entries of the table from RIP to block.
const RECENT: usize = 1 << 12;
/// Buckets of the table from place to block.
const BUCKETS: usize = 1 << 15;
/// No block.
const NONE: u32 = u32::MAX;
/// The cache is emptied when it holds this many decoded instructions (48 bytes each).
const MAX_OPS: usize = 800_000;
/// … or this many blocks, dropped ones included.
const MAX_BLOCKS: usize = 300_000;

/// Decoded instructions at one place.
struct Block {
    ops: Box<[Op]>,
    count: u32,
    /// Offset in RAM of the first byte.
    at: u32,
    page_high: u32,
    mode: Mode,
    /// Next block in the same bucket.
    next: u32,
}

/// A block by the address it was last found at.
#[derive(Clone, Copy)]
struct Recent {
    la: u64,
    key: u64,
    block: u32,
}

/// Blocks, and the ways to find them.
pub struct Engine {
    blocks: Vec<Block>,
    buckets: Box<[u32]>,
    recent: Box<[Recent; RECENT]>,
    /// Blocks that have instructions on a RAM page, by page number.
    pages: Vec<Vec<u32>>,
    ops: usize,
    /// Changes when blocks are dropped.
    epoch: u64,
    key: u64,
    key_parts: (u64, u64, bool),
}

const UNUSED: Recent = Recent { la: 0, key: 0, block: NONE };

impl Engine {
    /// An empty cache for `pages` pages of memory.
    pub fn new(pages: usize) -> Self {
        let recent = vec![UNUSED; RECENT].into_boxed_slice();
        Self {
            blocks: Vec::new(),
            buckets: vec![NONE; BUCKETS].into_boxed_slice(),
            recent: recent.try_into().unwrap_or_else(|_| unreachable!("length is the array's")),
            pages: vec![Vec::new(); pages],
            ops: 0,
            epoch: 0,
            key: 1,
            key_parts: (0, 0, true),
        }
    }

    /// Drops every block.
    pub fn clear(&mut self, core: &mut Core) {
        for (page, blocks) in self.pages.iter_mut().enumerate() {
            if !blocks.is_empty() {
                core.ram.clear_code(page * PAGE);
                *blocks = Vec::new();
            }
        }
        self.blocks.clear();
        self.buckets.fill(NONE);
        self.recent.fill(UNUSED);
        self.ops = 0;
        self.epoch += 1;
    }

    /// Runs until the core's limit, an event, or a trap.
    pub fn execute(&mut self, core: &mut Core) -> Exit {
        loop {
            if core.icount >= core.limit {
                return Exit::Next;
            }
            // Written since: by the last blocks, or by a device before this call.
            if core.ram.has_stale_code() {
                self.drop_stale(core);
            }
            match self.run_blocks(core) {
                Exit::Next => {}
                Exit::Event => return Exit::Event,
                Exit::Trap if core.cause == Cause::Alone => {
                    let exit = self.step(core);
                    if exit != Exit::Next {
                        return exit;
                    }
                    return Exit::Event;
                }
                Exit::Trap => return Exit::Trap,
            }
        }
    }

    /// Runs whole blocks for as long as they fit the limit.
    fn run_blocks(&mut self, core: &mut Core) -> Exit {
        self.refresh_key(core);
        loop {
            let rip = core.cpu.rip;
            let la = core.code_address(rip);
            let slot = &self.recent[hash(la)];
            let id = if slot.la == la && slot.key == self.key {
                slot.block
            } else {
                match self.find(core, rip) {
                    Ok(id) => id,
                    Err(Trap) => return Exit::Trap,
                }
            };
            if id == NONE {
                // An instruction that cannot be cached here.
                return match self.step_plain(core) {
                    Exit::Next => Exit::Next,
                    other => other,
                };
            }
            let block = &self.blocks[id as usize];
            loop {
                let left = core.limit - core.icount;
                if left < u64::from(block.count) {
                    return if left == 0 { Exit::Next } else { self.run_tail(core, id, left) };
                }
                core.cpu.regs[BLOCK_RIP] = rip;
                let exit = (block.ops[0].exec)(core, &block.ops);
                if exit != Exit::Next {
                    return exit;
                }
                if core.cpu.rip != rip {
                    break;
                }
            }
        }
    }

    /// Runs the first `left` instructions of a block that is longer.
    fn run_tail(&mut self, core: &mut Core, id: u32, left: u64) -> Exit {
        let block = &self.blocks[id as usize];
        let whole = |op: &&Op| u64::from(op.index) + u64::from(op.count) <= left;
        let n = block.ops.iter().take_while(whole).count();
        if n == 0 {
            return self.step_plain(core);
        }
        core.cpu.regs[BLOCK_RIP] = core.cpu.rip;
        (block.ops[0].exec)(core, &block.ops[..n])
    }

    /// Executes one instruction by itself, with devices and code pages in reach.
    pub fn step(&mut self, core: &mut Core) -> Exit {
        core.alone = true;
        let exit = self.step_plain(core);
        core.alone = false;
        if core.ram.has_stale_code() {
            self.drop_stale(core);
        }
        exit
    }

    /// Executes one instruction by itself.
    fn step_plain(&mut self, core: &mut Core) -> Exit {
        let rip = core.cpu.rip;
        core.cpu.regs[BLOCK_RIP] = rip;
        match fetch_single(core, rip) {
            Ok(decoded) => (decoded.ops[0].exec)(core, &decoded.ops),
            Err(Trap) => Exit::Trap,
        }
    }

    /// The key that says under which conditions `recent` holds.
    fn refresh_key(&mut self, core: &Core) {
        let user = u64::from(core.cpu.cpl == 3);
        let mode = u64::from(core.mode.code()) | user << 4;
        let other = (self.epoch, core.ram.generation(), core.board.a20());
        if other != self.key_parts {
            // What the world number does not cover changed: no old entry holds.
            self.key_parts = other;
            self.recent.fill(UNUSED);
        }
        self.key = core.tlb.world() << 5 | mode;
    }

    /// Looks the block at `rip` up by its place, or decodes it. `NONE`: execute singly.
    #[inline(never)]
    fn find(&mut self, core: &mut Core, rip: u64) -> Result<u32, Trap> {
        if core.mode.bits != 64 && rip > u64::from(core.cpu.segs[CS].limit) {
            core.cpu.regs[BLOCK_RIP] = rip;
            return Err(core.fault(crate::exception::GP));
        }
        let la = core.code_address(rip);
        let at = core.fetch_place(la)?;
        let bucket = place_hash(at, core.mode);
        let mut id = self.buckets[bucket];
        while id != NONE {
            let b = &self.blocks[id as usize];
            if b.place() == at && b.mode == core.mode {
                break;
            }
            id = b.next;
        }
        if id == NONE {
            id = self.translate(core, rip, at, bucket);
            if id == NONE {
                return Ok(NONE);
            }
        }
        self.recent[hash(la)] = Recent { la, key: self.key, block: id };
        Ok(id)
    }

    fn translate(&mut self, core: &mut Core, rip: u64, at: usize, bucket: usize) -> u32 {
        if self.ops > MAX_OPS || self.blocks.len() > MAX_BLOCKS {
            self.clear(core);
            self.refresh_key(core);
        }
        let start = at & !(PAGE - 1);
        let mut end = start + PAGE;
        if core.mode.bits != 64 {
            // Nothing beyond the code segment's limit is decoded.
            let left = u64::from(core.cpu.segs[CS].limit) - rip;
            end = end.min(at + usize::try_from(left).unwrap_or(PAGE).min(PAGE) + 1);
        }
        let page = &core.ram.bytes()[start..end.min(core.ram.bytes().len())];
        let decoded = decode::decode(page, at - start, core.mode, MAX_INSTRUCTIONS);
        let Some(decoded) = decoded else { return NONE };
        if !core.ram.has_code(start) {
            core.tlb.forget_writes_to(start);
        }
        for &(from, to) in &decoded.ranges {
            let first = (at as i64 + i64::from(from)) as usize;
            core.ram.mark_code(first, (to - from) as usize);
        }
        let id = self.blocks.len() as u32;
        self.ops += decoded.ops.len();
        self.blocks.push(Block {
            ops: decoded.ops.into_boxed_slice(),
            count: decoded.count,
            at: at as u32,
            page_high: (at as u64 >> 32) as u32,
            mode: core.mode,
            next: self.buckets[bucket],
        });
        self.buckets[bucket] = id;
        self.pages[at / PAGE].push(id);
        id
    }

    /// Drops the blocks of pages whose code was overwritten.
    #[cold]
    fn drop_stale(&mut self, core: &mut Core) {
        for page in core.ram.take_stale_code() {
            for id in core::mem::take(&mut self.pages[page as usize]) {
                self.unlink(id);
            }
            core.ram.clear_code(page as usize * PAGE);
        }
        self.epoch += 1;
    }

    fn unlink(&mut self, id: u32) {
        let block = &mut self.blocks[id as usize];
        self.ops = self.ops.saturating_sub(block.ops.len());
        let bucket = place_hash(block.place(), block.mode);
        let next = block.next;
        block.ops = Box::default();
        if self.buckets[bucket] == id {
            self.buckets[bucket] = next;
            return;
        }
        let mut at = self.buckets[bucket];
        while at != NONE {
            let b = &mut self.blocks[at as usize];
            if b.next == id {
                b.next = next;
                return;
            }
            at = b.next;
        }
    }
}

impl Block {
    fn place(&self) -> usize {
        self.at as usize | (self.page_high as usize) << 32
    }
}

#[inline(always)]
fn hash(la: u64) -> usize {
    ((la ^ la >> 12) as usize) & (RECENT - 1)
}

fn place_hash(at: usize, mode: Mode) -> usize {
    let mixed = (at as u64 ^ u64::from(mode.code()) << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 40) as usize & (BUCKETS - 1)
}

impl Core {
    /// Linear address of an offset in CS.
    #[inline(always)]
    pub fn code_address(&self, rip: u64) -> u64 {
        if self.mode.bits == 64 {
            rip
        } else {
            self.cpu.segs[CS].base.wrapping_add(rip) & 0xFFFF_FFFF
        }
    }
}

/// Fetches and decodes the instruction at `rip`, which may cross a page.
fn fetch_single(core: &mut Core, rip: u64) -> Result<Decoded, Trap> {
    let mut bytes = [0; MAX_LENGTH];
    let la = core.code_address(rip);
    let at = core.fetch_place(la)?;
    let mut most = MAX_LENGTH;
    if core.mode.bits != 64 {
        let limit = u64::from(core.cpu.segs[CS].limit);
        if rip > limit {
            return Err(core.fault(crate::exception::GP));
        }
        most = most.min(usize::try_from(limit - rip).unwrap_or(MAX_LENGTH).saturating_add(1));
    }
    let here = (PAGE - at % PAGE).min(most);
    bytes[..here].copy_from_slice(&core.ram.bytes()[at..at + here]);
    if let Some(decoded) = decode::decode_single(&bytes[..here], core.mode) {
        return Ok(decoded);
    }
    if here == most {
        // The code segment ends within the instruction.
        return Err(core.fault(crate::exception::GP));
    }
    // The rest lies on the next page, and is fetched only if the instruction needs it.
    let next = core.code_address(rip.wrapping_add(here as u64));
    let there = core.fetch_place(next)?;
    bytes[here..most].copy_from_slice(&core.ram.bytes()[there..there + most - here]);
    match decode::decode_single(&bytes[..most], core.mode) {
        Some(decoded) => Ok(decoded),
        None => Err(core.fault(crate::exception::GP)),
    }
}
