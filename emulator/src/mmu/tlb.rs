//! The software TLB.
//!
//! Contract: a cache of page walks. Direct-mapped, with sets for supervisor with SMAP enforced,
//! supervisor without, user (four, which processes share), and one that is never filled, so that
//! every access takes the slow path (alignment checks and data breakpoints). The low bits of a
//! tag hold a revision: a new revision flushes everything, and each process-context identifier
//! has its own, so that a CR3 write need not flush.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

/// log2 of the entries in a set.
const BITS: u32 = 12;
/// Entries in a set.
pub const ENTRIES: usize = 1 << BITS;
const SETS: usize = 8;
/// The first set for user accesses.
const USER: usize = 2;
/// Sets for user accesses: processes that take turns do not push each other out.
const SPACES: usize = 4;
/// The set that is never filled.
const NEVER: usize = 7;
const PAGE_MASK: u64 = !0xFFF;
/// Revisions fit the low bits of a tag; 0 is never used.
const REVISIONS: u64 = 0xFFF;
const CONTEXTS: usize = 16;
/// Code pages of each half of the address space that have numbers, for each kind of code.
pub const NUMBERS: usize = 1 << 12;
/// Kinds of code: by privilege, and whether it is 64-bit code. See
/// [`crate::core::Core::code_kind`].
pub const CODE_KINDS: usize = 4;
/// In [`Tlb::writers`]: several entries.
const MANY: u16 = u16::MAX;
const _: () = assert!(ENTRIES * SETS < MANY as usize);
/// Code pages cached for each privilege.
const CODE_ENTRIES: usize = 256;

/// One translation.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Entry {
    /// Linear page | revision, if reads may go straight to RAM; else 0.
    pub read: u64,
    /// The same for writes: the page is dirty, holds no code and may be written.
    pub write: u64,
    /// RAM offset minus linear address.
    pub addend: u64,
    /// The same plus the base given to [`Tlb::set_host_base`].
    pub host: u64,
}

/// Cached translations.
pub struct Tlb {
    entries: Box<[Entry; ENTRIES * SETS]>,
    /// Entries that may have a `write` tag, each once: those filled so since
    /// [`Tlb::forget_writes`].
    written: Vec<u16>,
    /// By page of RAM, the only entry that may have a `write` tag for it plus 1; 0 if there is
    /// none, [`MANY`] if there are several.
    writers: Vec<u16>,
    /// A bit for each entry: it is in `written`.
    is_written: Box<[u64; ENTRIES * SETS / 64]>,
    /// What [`Entry::host`] adds to [`Entry::addend`].
    host_base: u64,
    /// First entry of the set in use.
    set: usize,
    /// Number of the set for user accesses of the process.
    space: usize,
    /// Revisions in force: of the process's half of the address space, and of the upper half, which
    /// holds global translations and goes from context to context.
    revisions: [u64; 2],
    /// A translation of the upper half that is not global is cached.
    upper_local: bool,
    next_revision: u64,
    contexts: [Context; CONTEXTS],
    next_context: usize,
    /// Linear ranges that large pages were cached for: low half, high half.
    large: [(u64, u64); 2],
    /// Code pages: tag and RAM offset, for supervisor and the sets of user.
    code: Box<[[(u64, usize); CODE_ENTRIES]; 1 + SPACES]>,
    /// Page tables by the 2 MiB that they translate.
    upper: Box<[Upper; UPPERS]>,
    /// Numbers of code pages: see [`Tlb::number`].
    numbers: Box<Numbers>,
    /// Kinds of code, from the first on, that may have numbers.
    kinds: usize,
    /// A bit for each index that may have one other than 0, for each half of the address space.
    numbered: [[u64; NUMBERS / 64]; 2],
    /// A bit for each code page (by the low bits of its number) of each half that may be in use
    /// under `flushes`.
    code_seen: [[u64; 64]; 2],
    /// What the pages of RAM that hold paging structures translate; see [`Tlb::table`].
    tables: Vec<u64>,
    /// Counts flushes of everything: what `tables` says is of the epoch in bits 2-19.
    epoch: u64,
    /// Counts translations, or rights to write, that were taken back: see [`Tlb::drops`].
    drops: u64,
    /// Counts flushes that do not change the revision, in each half of the address space.
    flushes: [u64; 2],
}

/// A page table of 8-byte entries: this plus the linear address that its first entry translates.
pub const LEAF: u64 = 1;
/// The same with 4-byte entries.
pub const LEAF_32: u64 = 2;
/// A paging structure of an upper level, or in several places.
pub const UPPER: u64 = 3;
/// The same, but nothing except the uppermost one of 4-level paging.
pub const ROOT: u64 = UPPER | 1 << 20;
const EPOCHS: u64 = 1 << 18;

/// Page tables that are remembered.
const UPPERS: usize = 128;

/// How far a walk of 4-level paging came before it read the page table.
#[derive(Clone, Copy, Default)]
pub struct Upper {
    /// Linear address of the 2 MiB | revision.
    tag: u64,
    cr3: u64,
    /// Physical address of the page table.
    pub table: u64,
    /// What the entries on the way allow: writes, user accesses; and that they forbid execution.
    pub rights: (bool, bool, bool),
}

#[derive(Clone, Copy, Default)]
struct Context {
    /// PCID + 1; 0 for a free place.
    pcid: u32,
    revision: u64,
    /// RAM page of its uppermost paging structure.
    root: usize,
}

/// Numbers of code pages.
type Numbers = [u32; NUMBERS * 2 * CODE_KINDS];

/// Forgets the numbers at an index of [`Tlb::number_index`], of the first `kinds` kinds of code.
#[inline(always)]
fn forget(numbers: &mut Numbers, index: usize, kinds: usize) {
    numbers[index] = 0;
    numbers[2 * NUMBERS + index] = 0;
    if kinds > 2 {
        numbers[4 * NUMBERS + index] = 0;
        numbers[6 * NUMBERS + index] = 0;
    }
}

impl Tlb {
    /// An empty TLB.
    pub fn new() -> Self {
        let entries = vec![Entry::default(); ENTRIES * SETS].into_boxed_slice();
        Self {
            entries: entries.try_into().unwrap_or_else(|_| unreachable!("length is the array's")),
            host_base: 0,
            written: Vec::new(),
            writers: Vec::new(),
            is_written: Box::new([0; ENTRIES * SETS / 64]),
            set: 0,
            space: 0,
            revisions: [1, 2],
            upper_local: false,
            next_revision: 3,
            contexts: [Context::default(); CONTEXTS],
            next_context: 0,
            large: [(u64::MAX, 0); 2],
            code: Box::new([[(0, 0); CODE_ENTRIES]; 1 + SPACES]),
            upper: Box::new([Upper::default(); UPPERS]),
            numbers: Box::new([0; NUMBERS * 2 * CODE_KINDS]),
            kinds: 2,
            numbered: [[0; NUMBERS / 64]; 2],
            code_seen: [[0; 64]; 2],
            tables: Vec::new(),
            epoch: 1,
            drops: 0,
            flushes: [0; 2],
        }
    }

    /// Chooses the set for the privilege in force; `slow` if every access must be looked at.
    pub fn select(&mut self, user: bool, smap_off: bool, slow: bool) {
        let set = match (slow, user) {
            (true, _) => NEVER,
            (false, true) => USER + self.space,
            _ => usize::from(smap_off),
        };
        self.set = set * ENTRIES;
    }

    /// Byte offset in here of the index of the first entry of the set in use, as an accelerator
    /// writes it: 0 or, for supervisor without SMAP, [`ENTRIES`].
    pub const SET: usize = core::mem::offset_of!(Tlb, set);

    /// Gives [`Entry::host`] its base: where an accelerator has RAM. Forgets nothing.
    pub fn set_host_base(&mut self, base: u64) {
        if self.host_base != base {
            self.host_base = base;
            for entry in self.entries.iter_mut() {
                entry.host = entry.addend.wrapping_add(base);
            }
        }
    }

    /// The [`ENTRIES`] entries of the set in use, by bits 12 and up of the linear address.
    #[inline(always)]
    pub fn window(&self) -> &[Entry] {
        &self.entries[self.set..self.set + ENTRIES]
    }

    /// The low bits of tags, for the two halves of the address space.
    #[inline(always)]
    pub fn revisions(&self) -> [u64; 2] {
        self.revisions
    }

    /// Whether the set in use may be filled.
    pub fn fillable(&self) -> bool {
        self.set != NEVER * ENTRIES
    }

    /// The entry for `la`.
    #[inline(always)]
    pub fn entry(&self, la: u64) -> &Entry {
        &self.entries[self.slot(la)]
    }

    #[inline(always)]
    fn slot(&self, la: u64) -> usize {
        (self.set | ((la >> 12) as usize & (ENTRIES - 1))) & (ENTRIES * SETS - 1)
    }

    /// The tag that an entry must have for an access to `la..la+size` to go straight to RAM.
    #[inline(always)]
    pub fn tag(&self, la: u64, size: u64) -> u64 {
        (la.wrapping_add(size - 1) & PAGE_MASK) | self.revisions[(la >> 63) as usize]
    }

    /// Caches that the page of `la` is at RAM `offset` (of the page), readable, perhaps writable.
    pub fn fill(&mut self, la: u64, offset: usize, writable: bool) {
        if !self.fillable() {
            return;
        }
        let page = la & PAGE_MASK;
        let tag = page | self.revisions[(la >> 63) as usize];
        let slot = self.slot(la);
        let entry = &mut self.entries[slot];
        let keep_write = entry.read == tag && entry.write == tag;
        entry.read = tag;
        entry.write = if writable || keep_write { tag } else { 0 };
        let bit = 1 << (slot % 64);
        if writable && self.is_written[slot / 64] & bit == 0 {
            self.is_written[slot / 64] |= bit;
            self.written.push(slot as u16);
        }
        entry.addend = (offset as u64 & PAGE_MASK).wrapping_sub(page);
        entry.host = entry.addend.wrapping_add(self.host_base);
        if writable {
            self.note_writer(slot, offset);
        }
    }

    /// Entry `slot` may write to the RAM page at `offset`.
    fn note_writer(&mut self, slot: usize, offset: usize) {
        let page = offset >> 12;
        if page >= self.writers.len() {
            self.writers.resize(page + 1, 0);
        }
        let before = self.writers[page];
        let new = slot as u16 + 1;
        let other = before != 0 && before != new;
        let stays = other && (before == MANY || self.writes_to(before - 1, offset));
        self.writers[page] = if stays { MANY } else { new };
    }

    /// Whether an entry has a tag for writes to the RAM page at `offset`.
    fn writes_to(&self, slot: u16, offset: usize) -> bool {
        let entry = &self.entries[usize::from(slot)];
        let page = (entry.write & PAGE_MASK).wrapping_add(entry.addend);
        entry.write != 0 && page == offset as u64 & PAGE_MASK
    }

    /// Notes that the large page `la..la+size` was cached, so that INVLPG finds its pieces.
    pub fn note_large(&mut self, la: u64, size: u64) {
        let range = &mut self.large[usize::from(la >> 63 != 0)];
        range.0 = range.0.min(la & !(size - 1));
        range.1 = range.1.max(la | (size - 1));
    }

    /// What else caches translations keeps them under this value: equal values mean that nothing
    /// cached under the first was flushed.
    #[inline(always)]
    pub fn worlds(&self) -> [u64; 2] {
        let [low, high] = self.flushes;
        [low << 12 | self.revisions[0], high << 12 | self.revisions[1]]
    }

    /// Equal values mean that no entry was dropped in between but to make room: where an access
    /// was found to go straight to RAM, it still does.
    #[inline(always)]
    pub fn drops(&self) -> u64 {
        self.drops
    }

    /// Notes that a translation which is not global is cached for `la`.
    pub fn note_local(&mut self, la: u64) {
        self.upper_local |= la >> 63 != 0;
    }

    /// RAM offset of the code page of `la`, if it is cached for this privilege.
    #[inline]
    pub fn code(&self, la: u64, user: bool) -> Option<usize> {
        let set = if user { 1 + self.space } else { 0 };
        let (tag, offset) = self.code[set][(la >> 12) as usize & (CODE_ENTRIES - 1)];
        (tag == self.tag(la, 1)).then_some(offset | (la & 0xFFF) as usize)
    }

    /// Caches that the code page of `la` lies at RAM `offset`.
    pub fn fill_code(&mut self, la: u64, user: bool, offset: usize) {
        let entry = (self.tag(la, 1), offset & !0xFFF);
        let set = if user { 1 + self.space } else { 0 };
        self.code[set][(la >> 12) as usize & (CODE_ENTRIES - 1)] = entry;
    }

    /// Where the number of the code page of `la` is in [`Tlb::numbers`], for code of
    /// kind 0; for each further kind it is 2 * [`NUMBERS`] further on.
    #[inline(always)]
    pub const fn number_index(la: u64) -> usize {
        ((la >> 63) as usize * NUMBERS) | ((la >> 12) as usize & (NUMBERS - 1))
    }

    /// The number that an accelerator gave to what the code page of `la`, or another one of the
    /// same index, leads to for this kind of code. 0 if that must be looked up (again): numbers are
    /// forgotten when the translation is.
    #[inline(always)]
    pub fn number(&self, la: u64, kind: usize) -> u32 {
        self.numbers[(kind * 2 * NUMBERS) | Self::number_index(la)]
    }

    /// Gives the code page of `la`, which was looked up for its privilege just now, a number
    /// for this kind of code.
    pub fn set_number(&mut self, la: u64, kind: usize, number: u32) {
        let index = Self::number_index(la);
        self.numbered[index / NUMBERS][index % NUMBERS / 64] |= 1 << (index % 64);
        self.numbers[(kind * 2 * NUMBERS) | index] = number;
        if kind >= 2 {
            self.kinds = CODE_KINDS;
        }
    }

    /// All of [`Tlb::number`].
    pub fn numbers(&self) -> &[u32] {
        &self.numbers[..]
    }

    /// Forgets all numbers of both halves.
    pub fn forget_numbers(&mut self) {
        self.forget_numbers_of(0);
        self.forget_numbers_of(1);
    }

    fn forget_numbers_of(&mut self, half: usize) {
        for (word, bits) in self.numbered[half].iter_mut().enumerate() {
            while *bits != 0 {
                let index = half * NUMBERS + word * 64 + bits.trailing_zeros() as usize;
                *bits &= *bits - 1;
                forget(&mut self.numbers, index, self.kinds);
            }
        }
    }

    fn upper_tag(&self, la: u64) -> u64 {
        (la & !0x1F_FFFF) | self.revisions[(la >> 63) as usize]
    }

    /// The page table for `la`, if it is remembered under this CR3. A change of an entry above it
    /// flushes everything, as [`UPPER`] says.
    #[inline]
    pub fn upper(&self, la: u64, cr3: u64) -> Option<&Upper> {
        let upper = &self.upper[(la >> 21) as usize % UPPERS];
        (upper.tag == self.upper_tag(la) && upper.cr3 == cr3).then_some(upper)
    }

    /// Remembers a page table for `la`.
    pub fn fill_upper(&mut self, la: u64, cr3: u64, table: u64, rights: (bool, bool, bool)) {
        let tag = self.upper_tag(la);
        self.upper[(la >> 21) as usize % UPPERS] = Upper { tag, cr3, table, rights };
    }

    /// Forgets which page tables are where.
    pub fn forget_uppers(&mut self) {
        self.upper.fill(Upper::default());
    }

    /// Forgets every translation of every context.
    pub fn flush_all(&mut self) {
        self.drops += 1;
        self.epoch += 1;
        if self.epoch == EPOCHS {
            self.epoch = 1;
            self.tables.fill(0);
        }
        self.forget_numbers();
        self.contexts = [Context::default(); CONTEXTS];
        self.revisions = [self.fresh_revision(), self.fresh_revision()];
        self.upper_local = false;
        // A wrap between the two would leave the first one stale.
        if self.revisions[0] > self.revisions[1] {
            self.revisions[0] = self.fresh_revision();
        }
        self.large = [(u64::MAX, 0); 2];
    }

    /// CR3 was written, or INVPCID executed, by a supervisor: goes on with the translations of
    /// `pcid` (`keep`) or without. They came from RAM page `root`.
    pub fn switch_context(&mut self, pcid: u16, root: usize, keep: bool) {
        self.drops += 1;
        let id = u32::from(pcid) + 1;
        let known = self.contexts.iter().position(|c| c.pcid == id);
        let place = known.unwrap_or_else(|| {
            self.next_context = (self.next_context + 1) % CONTEXTS;
            self.next_context
        });
        if known.is_none() || !keep || self.contexts[place].root != root {
            let revision = self.fresh_revision();
            self.contexts[place] = Context { pcid: id, revision, root };
        }
        self.space = place % SPACES;
        if self.revisions[0] != self.contexts[place].revision {
            self.revisions[0] = self.contexts[place].revision;
            self.forget_numbers_of(0);
        }
        if core::mem::take(&mut self.upper_local) {
            self.forget_numbers_of(1);
            self.revisions[1] = self.fresh_revision();
            if self.next_revision <= self.revisions[0] {
                self.flush_all();
            }
        }
    }

    /// Forgets the translations of a context that is not the current one.
    pub fn drop_context(&mut self, pcid: u16) {
        let id = u32::from(pcid) + 1;
        if let Some(context) = self.contexts.iter_mut().find(|c| c.pcid == id) {
            *context = Context::default();
        }
    }

    /// Forgets the translations of contexts whose uppermost paging structure is in RAM page `root`;
    /// the current one's is not.
    pub fn drop_root(&mut self, root: usize) {
        for context in &mut self.contexts {
            if context.root == root {
                *context = Context::default();
            }
        }
    }

    fn fresh_revision(&mut self) -> u64 {
        if self.next_revision > REVISIONS {
            self.entries.fill(Entry::default());
            self.contexts = [Context::default(); CONTEXTS];
            self.code.fill([(0, 0); CODE_ENTRIES]);
            self.upper.fill(Upper::default());
            self.forget_numbers();
            self.next_revision = 1;
            self.flushes = self.flushes.map(|n| n + 1);
        }
        self.next_revision += 1;
        self.next_revision - 1
    }

    /// INVLPG: forgets the page of `la` in all contexts.
    pub fn flush_page(&mut self, la: u64) {
        let (first, last) = self.large[usize::from(la >> 63 != 0)];
        if (first..=last).contains(&la) {
            self.flush_all();
            return;
        }
        self.flush_small(la);
    }

    /// Code that was found by its address in the half of `la` must be looked for again.
    fn flush_code(&mut self, la: u64) {
        let half = (la >> 63) as usize;
        self.flushes[half] += 1;
        self.code_seen[half] = [0; 64];
    }

    fn flush_slots(&mut self, la: u64) {
        self.drops += 1;
        for code in self.code.iter_mut() {
            code[(la >> 12) as usize & (CODE_ENTRIES - 1)] = (0, 0);
        }
        let index = Self::number_index(la);
        forget(&mut self.numbers, index, self.kinds);
        for set in 0..NEVER {
            let slot = (set * ENTRIES) | ((la >> 12) as usize & (ENTRIES - 1));
            self.entries[slot] = Entry::default();
        }
    }

    /// Whether it is known that the paging structure in RAM page `page` translates `what`
    /// ([`LEAF`], [`LEAF_32`] or [`UPPER`]).
    #[inline(always)]
    pub fn knows_table(&self, page: usize, what: u64) -> bool {
        let known = self.tables.get(page).copied().unwrap_or(0);
        known == what | self.epoch << 2 || known == UPPER | self.epoch << 2
    }

    /// What translations are cached from the paging structure in RAM page `page`; 0 if none.
    pub fn table(&self, page: usize) -> u64 {
        let known = self.tables.get(page).copied().unwrap_or(0);
        let epoch = (EPOCHS - 1) << 2;
        if known & epoch == self.epoch << 2 { known & !epoch } else { 0 }
    }

    /// Notes that translations of `what` will be cached from it.
    pub fn note_table(&mut self, page: usize, what: u64) {
        let known = self.table(page);
        if page >= self.tables.len() {
            self.tables.resize(page + 1, 0);
        }
        let all = if known == 0 || known == what { what } else { UPPER };
        self.tables[page] = all | self.epoch << 2;
    }

    /// Nothing is cached from the paging structure in RAM page `page` any more.
    pub fn forget_table(&mut self, page: usize) {
        self.forget_uppers();
        if let Some(known) = self.tables.get_mut(page) {
            *known = 0;
        }
    }

    /// Notes that code of the page of `la` is found by its linear address under
    /// [`Tlb::worlds`].
    pub fn note_code(&mut self, la: u64) {
        let bit = (la >> 12) as usize & 0xFFF;
        self.code_seen[(la >> 63) as usize][bit / 64] |= 1 << (bit % 64);
    }

    /// Forgets the 4-KiB page of `la` in all contexts: its entry was changed.
    pub fn flush_small(&mut self, la: u64) {
        let bit = (la >> 12) as usize & 0xFFF;
        if self.code_seen[(la >> 63) as usize][bit / 64] & (1 << (bit % 64)) != 0 {
            self.flush_code(la);
        }
        self.flush_slots(la);
    }

    /// Makes every write take the slow path once, so that pages are marked dirty anew.
    pub fn forget_writes(&mut self) {
        self.drops += 1;
        for slot in self.written.drain(..) {
            self.entries[usize::from(slot)].write = 0;
            self.is_written[usize::from(slot) / 64] = 0;
        }
    }

    /// Makes writes to the RAM page at `offset` take the slow path: it holds code now.
    pub fn forget_writes_to(&mut self, offset: usize) {
        // Also where the entry has made room for another one meanwhile.
        self.drops += 1;
        let Some(writer) = self.writers.get_mut(offset >> 12) else { return };
        match core::mem::take(writer) {
            0 => {}
            MANY => {
                for at in 0..self.written.len() {
                    self.forget_write(self.written[at], offset);
                }
            }
            one => self.forget_write(one - 1, offset),
        }
    }

    fn forget_write(&mut self, slot: u16, offset: usize) {
        if self.writes_to(slot, offset) {
            self.entries[usize::from(slot)].write = 0;
        }
    }
}

impl Default for Tlb {
    fn default() -> Self {
        Self::new()
    }
}
