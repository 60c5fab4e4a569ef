//! The interpreter's outer loop: finds blocks, runs them, and keeps the cache of blocks.
//!
//! Contract: [`Engine::execute`] retires instructions until the core's limit is reached exactly,
//! an event needs the machine's attention, or an instruction is left. Blocks are keyed by where
//! their bytes lie and by [`Mode`]; a store into their bytes drops all blocks of the page.

use crate::accelerator::Accelerator;
use crate::core::{Core, Mode};
use crate::cpu::{BLOCK_RIP, CS};
use crate::decode::{self, Decoded, MAX_INSTRUCTIONS, MAX_LENGTH};
use crate::exception::{Cause, Trap};
use crate::op::{Exit, Op};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use devices::ram::PAGE;

/// Entries of the table from address to block.
const RECENT: usize = 1 << 14;
/// Buckets of the table from place to block.
const BUCKETS: usize = 1 << 15;
/// No block.
const NONE: u32 = u32::MAX;
/// The cache is emptied when it holds this many decoded instructions (48 bytes each),
const MAX_OPS: usize = 800_000;
/// or this many where an accelerator runs all but a few of them.
const MAX_COLD_OPS: usize = 1 << 17;
/// In the list of dropped pages: all of them.
const ALL_PAGES: u32 = u32::MAX;

/// Decoded instructions at one place.
struct Block {
    /// Where they are in `ops`.
    start: u32,
    len: u16,
    /// How many instructions they retire.
    count: u16,
    /// Offset in RAM of the first byte; `usize::MAX` once dropped.
    at: usize,
    mode: Mode,
    /// Next block in the same bucket.
    next: u32,
    /// Bytes from its start to the end of its last instruction, where that is checked against the
    /// limit of CS (outside 64-bit mode).
    span: u32,
}

/// A block by the linear address it was last found at.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Recent {
    la: u64,
    key: u64,
    /// [`Engine::salt`] at the time.
    salt: u64,
    start: u32,
    len: u16,
    count: u16,
}

/// Blocks, and the ways to find them.
pub struct Engine {
    ops: Vec<Op>,
    blocks: Vec<Block>,
    buckets: Box<[u32]>,
    recent: Box<[Recent; RECENT]>,
    /// Entries of `recent` with another number hold no more.
    salt: u64,
    /// Blocks that have instructions on a RAM page, by page number.
    pages: Vec<Vec<u32>>,
    /// Changes when blocks are dropped.
    epoch: u64,
    /// Conditions under which entries of `recent` hold, for the two halves of the address space.
    keys: [u64; 2],
    key_parts: (u64, u64, bool),
    /// Bases and limits of CS outside 64-bit mode, by their part of the key.
    segments: BTreeMap<(u64, u32), u64>,
    segment: ((u64, u32), u64),
    /// What runs instead of the interpreter where it can; `None` while it runs.
    accelerator: Option<Box<dyn Accelerator>>,
    /// It runs: what it must forget waits in `missed`.
    lent: bool,
    /// Pages that were dropped meanwhile; [`ALL_PAGES`] for all.
    missed: Vec<u32>,
}

const UNUSED: Recent = Recent { la: 0, key: 0, salt: 0, start: 0, len: 0, count: 0 };
/// Base and limit of CS that need no part in the key: flat, or 64-bit mode.
const FLAT_CODE: (u64, u32) = (0, u32::MAX);
/// Bits of the key for base and limit of CS.
const SEGMENT_BITS: u32 = 10;

impl Engine {
    /// An empty cache for `pages` pages of memory.
    pub fn new(pages: usize) -> Self {
        let recent = vec![UNUSED; RECENT].into_boxed_slice();
        Self {
            ops: Vec::new(),
            blocks: Vec::new(),
            buckets: vec![NONE; BUCKETS].into_boxed_slice(),
            recent: recent.try_into().unwrap_or_else(|_| unreachable!("length is the array's")),
            salt: 1,
            pages: vec![Vec::new(); pages],
            epoch: 0,
            keys: [1; 2],
            key_parts: (0, 0, true),
            segments: BTreeMap::new(),
            segment: (FLAT_CODE, 0),
            accelerator: None,
            lent: false,
            missed: Vec::new(),
        }
    }

    /// Attaches what is to run instead of the interpreter, or detaches it; gives back the last one.
    pub fn set_accelerator(
        &mut self,
        mut new: Option<Box<dyn Accelerator>>,
    ) -> Option<Box<dyn Accelerator>> {
        if let Some(new) = &mut new {
            // It may come from another machine, or have missed that code was overwritten.
            new.clear();
        }
        core::mem::replace(&mut self.accelerator, new)
    }

    /// What runs instead of the interpreter.
    pub fn accelerator(&mut self) -> Option<&mut (dyn Accelerator + 'static)> {
        self.accelerator.as_deref_mut()
    }

    /// Tells the accelerator that a page, or [`ALL_PAGES`], was dropped.
    fn tell(&mut self, page: u32) {
        match &mut self.accelerator {
            Some(accelerator) if page == ALL_PAGES => accelerator.clear(),
            Some(accelerator) => accelerator.drop_page(page),
            None if self.lent => self.missed.push(page),
            None => {}
        }
    }

    /// Runs until the limit, an event or a trap, with what is there to do it.
    fn run_fast(&mut self, core: &mut Core) -> Exit {
        let Some(mut accelerator) = self.accelerator.take() else { return self.run_blocks(core) };
        self.lent = true;
        let exit = accelerator.run(self, core);
        self.lent = false;
        self.accelerator = Some(accelerator);
        for page in core::mem::take(&mut self.missed) {
            self.tell(page);
        }
        exit
    }

    fn most_ops(&self) -> usize {
        if self.accelerator.is_some() || self.lent { MAX_COLD_OPS } else { MAX_OPS }
    }

    /// Drops every block.
    pub fn clear(&mut self, core: &mut Core) {
        self.clear_own();
        for page in 0..self.pages.len() {
            core.ram.clear_code(page * PAGE);
        }
        self.tell(ALL_PAGES);
    }

    /// Drops the interpreter's blocks. What memory holds code is still known: the accelerator has
    /// blocks of its own there.
    fn clear_own(&mut self) {
        for block in &self.blocks {
            if let Some(page) = self.pages.get_mut(block.at / PAGE) {
                *page = Vec::new();
            }
        }
        self.ops.clear();
        self.blocks.clear();
        self.buckets.fill(NONE);
        self.salt += 1;
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
            match self.run_fast(core) {
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

    /// Interprets blocks: until the limit, an event or a trap. An instruction that must run alone
    /// is such a trap; the caller sees to it and to overwritten code. Comes back with
    /// [`Exit::Next`] early for an instruction that crosses a page.
    pub fn run_blocks(&mut self, core: &mut Core) -> Exit {
        self.refresh_key(core);
        loop {
            let rip = core.cpu.rip;
            let la = core.code_address(rip);
            let found = if let Some(known) = self.known(la) {
                known
            } else {
                if core.icount >= core.limit {
                    // Not even the fetch's fault belongs to this run.
                    return Exit::Next;
                }
                match self.find(core, rip) {
                    Ok(found) => found,
                    Err(Trap) => return Exit::Trap,
                }
            };
            let start = found.start as usize;
            let ops = self.ops.get(start..start + usize::from(found.len)).unwrap_or_default();
            let Some(first) = ops.first() else {
                if core.icount >= core.limit {
                    return Exit::Next;
                }
                return self.step_plain(core);
            };
            loop {
                let left = core.limit - core.icount;
                if left < u64::from(found.count) {
                    return if left == 0 { Exit::Next } else { self.run_tail(core, found, left) };
                }
                core.cpu.regs[BLOCK_RIP] = rip;
                let exit = (first.exec)(core, ops);
                if exit != Exit::Next {
                    return exit;
                }
                if core.cpu.rip != rip {
                    break;
                }
            }
        }
    }

    /// The block at a linear address, if it was found there under the conditions of now.
    #[inline(always)]
    fn known(&self, la: u64) -> Option<Recent> {
        let slot = &self.recent[hash(la)];
        let holds =
            slot.la == la && slot.key == self.keys[(la >> 63) as usize] && slot.salt == self.salt;
        holds.then_some(*slot)
    }

    /// Interprets one block, or as much of it as the limit allows; otherwise as
    /// [`Engine::run_blocks`].
    pub fn run_block(&mut self, core: &mut Core) -> Exit {
        self.refresh_key(core);
        if core.icount >= core.limit {
            return Exit::Next;
        }
        let rip = core.cpu.rip;
        let la = core.code_address(rip);
        let found = match self.known(la) {
            Some(known) => known,
            None => match self.find(core, rip) {
                Ok(found) => found,
                Err(Trap) => return Exit::Trap,
            },
        };
        let left = core.limit - core.icount;
        if left < u64::from(found.count) {
            return self.run_tail(core, found, left);
        }
        let start = found.start as usize;
        let ops = self.ops.get(start..start + usize::from(found.len)).unwrap_or_default();
        let Some(first) = ops.first() else { return self.step_plain(core) };
        core.cpu.regs[BLOCK_RIP] = rip;
        (first.exec)(core, ops)
    }

    /// Runs the first `left` instructions of a block that is longer.
    fn run_tail(&mut self, core: &mut Core, found: Recent, left: u64) -> Exit {
        let start = found.start as usize;
        let ops = &self.ops[start..start + usize::from(found.len)];
        let whole = |op: &&Op| u64::from(op.index) + u64::from(op.count) <= left;
        let n = ops.iter().take_while(whole).count();
        if n == 0 {
            return self.step_plain(core);
        }
        core.cpu.regs[BLOCK_RIP] = core.cpu.rip;
        (ops[0].exec)(core, &ops[..n])
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
            self.salt += 1;
        }
        let cs = &core.cpu.segs[CS];
        let code = if core.mode.bits == 64 { FLAT_CODE } else { (cs.base, cs.limit) };
        if code != self.segment.0 {
            self.segment = (code, self.segment_number(code));
        }
        let segment = self.segment.1;
        self.keys = core.tlb.worlds().map(|w| (w << 5 | mode) << SEGMENT_BITS | segment);
    }

    /// The number that stands for base and limit of CS in the key.
    fn segment_number(&mut self, code: (u64, u32)) -> u64 {
        if code == FLAT_CODE {
            return 0;
        }
        if self.segments.len() + 1 >= 1 << SEGMENT_BITS {
            self.segments.clear();
            self.salt += 1;
        }
        let new = self.segments.len() as u64 + 1;
        *self.segments.entry(code).or_insert(new)
    }

    /// Looks the block at `rip` up by its place, or decodes it.
    #[inline(never)]
    fn find(&mut self, core: &mut Core, rip: u64) -> Result<Recent, Trap> {
        core.cpu.regs[BLOCK_RIP] = rip;
        if core.mode.bits != 64 && rip > u64::from(core.cpu.segs[CS].limit) {
            return Err(core.fault(crate::exception::GP));
        }
        if self.ops.len() > self.most_ops() {
            self.clear_own();
        }
        let la = core.code_address(rip);
        let at = core.fetch_place(la)?;
        let bucket = place_hash(at, core.mode);
        let mut id = self.buckets[bucket];
        while id != NONE {
            let b = &self.blocks[id as usize];
            if b.at == at && b.mode == core.mode {
                break;
            }
            id = b.next;
        }
        if id == NONE {
            id = self.translate(core, rip, at, bucket);
        }
        if id != NONE && core.mode.bits != 64 {
            let span = u64::from(self.blocks[id as usize].span);
            if rip + span > u64::from(core.cpu.segs[CS].limit) + 1 {
                // It was decoded under a larger limit.
                id = NONE;
            }
        }
        let (start, len, count) = if id == NONE {
            self.translate_single(core, rip)?
        } else {
            let b = &self.blocks[id as usize];
            (b.start, b.len, b.count)
        };
        // After the walks: they may have changed the world.
        self.refresh_key(core);
        let (key, salt) = (self.keys[(la >> 63) as usize], self.salt);
        let found = Recent { la, key, salt, start, len, count };
        self.recent[hash(la)] = found;
        Ok(found)
    }

    fn translate(&mut self, core: &mut Core, rip: u64, at: usize, bucket: usize) -> u32 {
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
        for &(from, to) in &decoded.ranges {
            let first = (at as i64 + i64::from(from)) as usize;
            mark_code(core, first, (to - from) as usize);
        }
        let span = decoded.ranges.iter().map(|r| r.1).max().unwrap_or(0).max(0) as u32;
        let id = self.blocks.len() as u32;
        self.blocks.push(Block {
            start: self.ops.len() as u32,
            len: decoded.ops.len() as u16,
            count: decoded.count as u16,
            at,
            mode: core.mode,
            next: self.buckets[bucket],
            span,
        });
        self.ops.extend_from_slice(&decoded.ops);
        self.buckets[bucket] = id;
        self.pages[at / PAGE].push(id);
        id
    }

    /// Decodes the one instruction at `rip`, which crosses a page. It is found by its linear
    /// address only.
    fn translate_single(&mut self, core: &mut Core, rip: u64) -> Result<(u32, u16, u16), Trap> {
        let decoded = fetch_single(core, rip)?;
        let len = usize::from(decoded.ops[0].len);
        let la = core.code_address(rip);
        let at = core.fetch_place(la)?;
        let here = len.min(PAGE - at % PAGE);
        mark_code(core, at, here);
        if here < len {
            let next = core.code_address(rip.wrapping_add(here as u64));
            let there = core.fetch_place(next)?;
            mark_code(core, there, len - here);
        }
        let start = self.ops.len() as u32;
        self.ops.extend_from_slice(&decoded.ops);
        Ok((start, decoded.ops.len() as u16, decoded.count as u16))
    }

    /// Drops the blocks of pages whose code was overwritten.
    #[cold]
    fn drop_stale(&mut self, core: &mut Core) {
        for page in core.ram.take_stale_code() {
            for id in core::mem::take(&mut self.pages[page as usize]) {
                self.unlink(id);
            }
            core.ram.clear_code(page as usize * PAGE);
            self.tell(page);
        }
        self.epoch += 1;
    }

    fn unlink(&mut self, id: u32) {
        let block = &mut self.blocks[id as usize];
        let bucket = place_hash(block.at, block.mode);
        let next = block.next;
        block.at = usize::MAX;
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

/// Records that the code at RAM offset `at` was decoded, so that stores to it are noticed.
pub fn mark_code(core: &mut Core, at: usize, len: usize) {
    if !core.ram.has_code(at) {
        core.tlb.forget_writes_to(at & !(PAGE - 1));
    }
    core.ram.mark_code(at, len);
}

#[inline(always)]
fn hash(la: u64) -> usize {
    ((la ^ la >> 14) as usize) & (RECENT - 1)
}

fn place_hash(at: usize, mode: Mode) -> usize {
    let mixed = (at as u64 ^ u64::from(mode.code()) << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 40) as usize & (BUCKETS - 1)
}

impl Core {
    /// Linear address of an offset in CS.
    #[inline(always)]
    pub fn code_address(&self, rip: u64) -> u64 {
        self.seg_base[CS].wrapping_add(rip) & self.rip_mask
    }
}

/// Fetches and decodes the instruction at `rip`, which may cross a page.
///
/// # Errors
/// A fault of the fetch.
pub fn fetch_single(core: &mut Core, rip: u64) -> Result<Decoded, Trap> {
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
    let Some(decoded) = decode::decode_single(&bytes[..most], core.mode) else {
        return Err(core.fault(crate::exception::GP));
    };
    // Of a repeated string instruction one iteration may overwrite what the next one is.
    mark_code(core, at, here);
    mark_code(core, there, usize::from(decoded.ops[0].len).saturating_sub(here));
    Ok(decoded)
}
