//! The engine's loop: finds or makes the block at RIP, runs it, and sees to why it came back.
//!
//! Contract: that of [`Accelerator`]. A block is translated when it is about to be executed for the
//! [`WARM`]th time; before that, and wherever nothing can be translated, the interpreter runs.

use crate::asm::Asm;
use crate::cache::{Cache, Made, NONE};
use crate::memory::{CodeMemory, advise_large_pages};
use crate::run::{self, Left};
use crate::thunks::{self, LINK, LOST, OVER, REFUSED};
use crate::translate::{LARGEST, Request, Tail, Translation, translate};
use devices::ram::PAGE;
use emulator::accelerator::{Accelerator, BlockCount, Statistics};
use emulator::core::Core;
use emulator::cpu::BLOCK_RIP;
use emulator::decode::MAX_LENGTH;
use emulator::engine::{Engine, mark_code};
use emulator::exception::Trap;
use emulator::op::Exit;

/// Bytes of translated code by default.
const CAPACITY: usize = 64 << 20;
/// Executions after which a block is translated.
const WARM: u8 = 8;
/// Of so many translations one is timed, for all of them.
const TIMED: u64 = 16;
/// Counters of executions before translation.
const HEATS: usize = 1 << 16;
/// Translated code and the ways to find it.
pub struct Jit {
    cache: Cache,
    heat: Box<[u8; HEATS]>,
    /// The edge that the code left at; it is linked when its target is there.
    edge: u32,
    counting: bool,
    statistics: Statistics,
    translation: Translation,
    exits: [u64; 7],
    /// How often code is interpreted before it is translated.
    warm: u8,
    /// Where the last run's budget ended, mostly within a block: code that begins there is not
    /// worth a translation of its own.
    cut: Option<u64>,
    /// Address of the guest's memory for which large pages were asked for.
    advised: usize,
}

/// Names of the causes in `exits`.
const CAUSES: [&str; 7] = ["link", "budget", "interpreted", "event", "trap", "vectors", "indirect"];

impl Jit {
    /// An empty cache; `None` where the host is not an x86-64 CPU that it can be made for.
    pub fn new() -> Option<Self> {
        Self::with_capacity(CAPACITY)
    }

    /// The same with room for about `bytes` of translated code.
    pub fn with_capacity(bytes: usize) -> Option<Self> {
        let fits = is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        if !fits {
            return None;
        }
        let bytes = bytes.max(2 * LARGEST).next_multiple_of(PAGE).min(1 << 30);
        let mut memory = CodeMemory::new(bytes)?;
        let mut asm = Asm::new(memory.address());
        let shared = thunks::emit(&mut asm, run::interpreter(), run::preparer());
        memory.write(0, &asm.bytes);
        let start = asm.bytes.len().next_multiple_of(64);
        let heat = vec![0; HEATS].into_boxed_slice();
        Some(Self {
            cache: Cache::new(memory, shared, start),
            heat: heat.try_into().unwrap_or_else(|_| unreachable!("length is the array's")),
            edge: NONE,
            counting: false,
            statistics: Statistics::default(),
            translation: Translation::default(),
            exits: [0; 7],
            warm: WARM,
            cut: None,
            advised: 0,
        })
    }

    /// Translates what is executed for the first time, for tests.
    #[must_use]
    pub fn eager(mut self) -> Self {
        self.warm = 0;
        self
    }

    fn flush(&mut self) {
        self.statistics.flushes += 1;
        self.statistics.evicted_bytes += self.cache.clear() as u64;
        self.edge = NONE;
    }

    /// The block at RIP, found or translated; `None` if the interpreter is to run.
    fn block(&mut self, core: &mut Core) -> Result<Option<u64>, Trap> {
        if self.cache.is_out_of_numbers() {
            self.flush();
            if self.cache.renumber() {
                core.tlb.forget_numbers();
            }
        }
        let rip = core.cpu.rip;
        let edge = core::mem::replace(&mut self.edge, NONE);
        let flushes = self.statistics.flushes;
        let plain = self.cache.leads_to_plain(edge);
        let known = if plain {
            core.cpu.regs[BLOCK_RIP] = rip;
            let place = core.fetch_place(rip)?;
            self.cache.find(place, rip, core.mode.bits != 64, true).ok_or(place)
        } else {
            self.cache.look_up(core)?
        };
        let id = match known {
            Ok(id) => id,
            Err(_) if self.cache.is_out_of_numbers() => return Ok(None),
            Err(place) => {
                if self.cut.take() == Some(rip) {
                    return Ok(None);
                }
                let heat = &mut self.heat[(place ^ place >> 16) & (HEATS - 1)];
                if *heat < self.warm {
                    *heat += 1;
                    return Ok(None);
                }
                let id = self.make(core, place, rip, plain);
                if !plain {
                    self.cache.remember(id);
                }
                id
            }
        };
        // After a flush the edge's number is another's.
        let same = self.statistics.flushes == flushes;
        if edge != NONE && same && edge < self.cache.numbers().0 {
            self.cache.link(edge, id);
        }
        Ok(Some(self.cache.address(id)))
    }

    fn make(&mut self, core: &mut Core, place: usize, rip: u64, plain: bool) -> u32 {
        if !self.cache.has_room(LARGEST) {
            self.flush();
        }
        let timed = self.statistics.blocks.is_multiple_of(TIMED);
        let begun = timed.then(std::time::Instant::now);
        let end = (place & !(PAGE - 1)) + PAGE;
        let narrow = core.mode.bits != 64;
        let counter = self.counting.then(|| {
            self.cache.counters.push(Box::new([0; 2]));
            self.cache.counters.last().map_or(0, |c| &raw const **c as usize)
        });
        let next = run::next_page(core, rip);
        let behind = next.and_then(|next| core.tlb.code(next, core.cpu.cpl == 3));
        let request = Request {
            bytes: &core.ram.bytes()[place..end],
            tail: behind.map_or(&[], |at| &core.ram.bytes()[at..at + MAX_LENGTH]),
            rip,
            base: self.cache.next_address(),
            numbers: self.cache.numbers(),
            thunks: &self.cache.thunks,
            counter,
            plain,
            narrow,
            is_begun: &|at| self.cache.begins(place + at, rip.wrapping_add(at as u64), narrow),
        };
        let translation = &mut self.translation;
        translate(request, translation);
        let bytes = translation.code.bytes.len();
        assert!(bytes <= LARGEST, "a block of {bytes} bytes");
        mark_code(core, place, translation.len);
        let mut tail = None;
        if let (Some(Tail { len, number }), Some(at), Some(next)) = (translation.tail, behind, next)
        {
            mark_code(core, at, len);
            // No page has the number that is there now.
            if let Some(known) = self.cache.number(next, narrow, at) {
                translation.code.bytes[number..number + 4].copy_from_slice(&known.to_le_bytes());
            }
            tail = Some(at);
        }
        let s = &mut self.statistics;
        s.blocks += 1;
        s.instructions += translation.count as u64;
        s.guest_bytes += translation.len as u64;
        s.host_bytes += bytes as u64;
        let id = self.cache.add(place, Made { rip, narrow, plain }, tail, translation);
        if let Some(begun) = begun {
            self.statistics.translating_ns += TIMED * begun.elapsed().as_nanos() as u64;
        }
        id
    }

    /// Sees to an exit; `None`: go on.
    fn after(&mut self, engine: &mut Engine, core: &mut Core, left: &Left) -> Option<Exit> {
        let number = (left.exit >> 3) as u32;
        match left.exit & 7 {
            LINK => {
                self.exits[0] += 1;
                core.icount = core.limit - left.budget as u64;
                core.cpu.rip = self.cache.target(number);
                self.edge = number;
                None
            }
            LOST => {
                self.exits[6] += 1;
                core.icount = core.limit - left.budget as u64;
                None
            }
            OVER => {
                self.exits[1] += 1;
                let block = &self.cache.blocks[number as usize];
                core.icount = core.limit - (left.budget + i64::from(block.count)) as u64;
                core.cpu.rip = block.rip;
                Some(engine.run_blocks(core))
            }
            REFUSED => {
                self.exits[5] += 1;
                let block = &self.cache.blocks[number as usize];
                core.icount = core.limit - (left.budget + i64::from(block.count)) as u64;
                core.cpu.rip = block.rip;
                let exit = engine.run_block(core);
                (exit != Exit::Next).then_some(exit)
            }
            _ => match run::end(left.exit) {
                Exit::Next => {
                    self.exits[2] += 1;
                    None
                }
                exit => {
                    self.exits[if exit == Exit::Event { 3 } else { 4 }] += 1;
                    Some(exit)
                }
            },
        }
    }

    fn run_translated(&mut self, engine: &mut Engine, core: &mut Core) -> Exit {
        loop {
            if core.icount >= core.limit || core.ram.has_stale_code() {
                return Exit::Next;
            }
            // Translated code leaves it to the host to access 16 aligned bytes at once.
            let aligned = core.ram.bytes().as_ptr().addr().is_multiple_of(16);
            if !run::translates(core.mode) || !core.tlb.fillable() || !aligned {
                return engine.run_blocks(core);
            }
            let code = match self.block(core) {
                Ok(Some(code)) => code,
                Ok(None) => {
                    let exit = engine.run_block(core);
                    if exit != Exit::Next {
                        return exit;
                    }
                    continue;
                }
                Err(Trap) => return Exit::Trap,
            };
            let budget = i64::try_from(core.limit - core.icount).unwrap_or(i64::MAX).min(1 << 40);
            let far = core.limit;
            core.limit = core.icount + budget as u64;
            self.statistics.entries += 1;
            let left = run::enter(&mut self.cache, core, code, budget);
            let exit = self.after(engine, core, &left);
            core.limit = far;
            if let Some(exit) = exit {
                return exit;
            }
        }
    }
}

impl Accelerator for Jit {
    fn run(&mut self, engine: &mut Engine, core: &mut Core) -> Exit {
        let ram = core.ram.bytes();
        if self.advised != ram.as_ptr().addr() {
            self.advised = ram.as_ptr().addr();
            advise_large_pages(ram);
        }
        let exit = self.run_translated(engine, core);
        self.cut = (core.icount >= core.limit).then_some(core.cpu.rip);
        self.edge = NONE;
        run::tidy(core);
        exit
    }

    fn clear(&mut self) {
        self.flush();
    }

    fn drop_page(&mut self, page: u32) {
        self.statistics.dropped += self.cache.drop_page(page as usize) as u64;
        self.edge = NONE;
    }

    fn statistics(&self) -> Statistics {
        let exits = CAUSES.into_iter().zip(self.exits).collect();
        Statistics { exits, ..self.statistics.clone() }
    }

    fn count_blocks(&mut self, on: bool) {
        if self.counting != on {
            self.flush();
            self.counting = on;
        }
    }

    fn block_counts(&self) -> Vec<BlockCount> {
        self.cache.counts()
    }
}
