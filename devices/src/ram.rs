//! Guest physical memory: RAM, ROM, and per-page marks for translated code and dirty tracking.
//!
//! Contract: every change of RAM goes through [`Ram`], so that no translated block and no page
//! digest is ever stale. RAM below the PCI hole sits at 0, the rest from 4 GiB on. The BIOS ROM is
//! shadowed at the end of the first MiB (read-only unless unlocked) and stands at the end of the
//! 4-GiB space. Pages that hold paging structures are marked too, so that no cached translation
//! outlives a change of the entry that it came from.

use alloc::vec;
use alloc::vec::Vec;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Where the PCI hole begins: RAM above this goes to 4 GiB and up.
pub const HOLE: u64 = 0xC000_0000;
/// The 4-GiB boundary.
pub const HIGH: u64 = 1 << 32;
/// Legacy video memory: decoded by the VGA, not by RAM.
pub const VGA: core::ops::Range<u64> = 0xA_0000..0xC_0000;
/// Largest RAM that a machine may have, in bytes.
pub const MAX: u64 = 64 << 30;

/// The physical address of the byte at `offset` of RAM.
pub fn physical(offset: u64) -> u64 {
    if offset < HOLE { offset } else { offset - HOLE + HIGH }
}

/// What a physical page is backed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// RAM at this offset of [`Ram::bytes`].
    Ram(usize),
    /// Read-only memory at this offset of [`Ram::bytes`]; writes are ignored.
    Rom(usize),
    /// A device, or nothing.
    Mmio,
}

/// Pages as they were at one instant, of those that were written since.
#[derive(Clone, Debug, Default)]
pub struct OldPages {
    pages: Vec<u32>,
    /// Of each, one after the other.
    bytes: Vec<u8>,
    most: usize,
    /// There were more than `most`.
    overflowed: bool,
}

impl OldPages {
    /// Number and content of each page, in the order in which they were written first.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8; PAGE])> {
        self.pages.iter().copied().zip(self.bytes.as_chunks().0)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.pages.len()
    }

    /// Whether none is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.overflowed
    }
}

/// Guest physical memory.
pub struct Ram {
    /// RAM, then the ROM image.
    bytes: Vec<u8>,
    size: usize,
    /// RAM from 0 ends here: at the hole at most.
    low_end: u64,
    marks: Vec<u8>,
    /// Pages whose `DIRTY` mark is set, in order of marking.
    dirty: Vec<u32>,
    /// The same for `CHANGED`.
    changed: Vec<u32>,
    /// Pages that were ever marked, a bit each: the others are zero as they were made.
    touched: Vec<u64>,
    /// The pages whose `KEPT` mark is set.
    old: OldPages,
    /// Marks that a store sets: `DIRTY`, `CHANGED` while changes are tracked, and `KEPT` while old
    /// pages are kept.
    wanted: u8,
    /// 64-byte lines that hold translated code, a bit each.
    code_lines: Vec<u64>,
    /// Pages whose code was overwritten since [`Ram::take_stale_code`].
    stale: Vec<u32>,
    /// PAM: 16-KiB steps from 0xC0000; bit set = writes go to RAM, clear = read-only.
    shadow_writable: u16,
    generation: u64,
    /// Pages that were marked `TABLE` since [`Ram::forget_tables`], each once.
    tables: Vec<u32>,
    /// Entries of paging structures that were changed while translations may be cached from them:
    /// offset of the aligned eight bytes, and what they held.
    stale_entries: Vec<(usize, u64)>,
    /// Stores to pages marked `TABLE` since [`Ram::forget_tables`].
    table_stores: u32,
}

const DIRTY: u8 = 1;
const CODE: u8 = 2;
const TABLE: u8 = 4;
const CHANGED: u8 = 8;
const KEPT: u8 = 16;
/// The page is in `tables`, whether it is marked `TABLE` or not.
const LISTED: u8 = 32;
/// After so many stores to pages marked `TABLE` the marks are worth renewing: many of the pages
/// may be something else by now.
const TABLE_STORES: u32 = 1 << 14;

/// The present and the accessed flag.
const IN_USE: u32 = 0x21;

/// Whether eight bytes hold a paging-structure entry that may be cached: present and accessed
/// (SDM 3A 4.10.2.3), as one entry or as two of 32-bit paging.
fn in_use(entry: u64) -> bool {
    let used = |entry: u32| entry & IN_USE == IN_USE;
    used(entry as u32) || used((entry >> 32) as u32)
}

impl Ram {
    /// `size` bytes of zeroed RAM and the ROM image `rom`.
    ///
    /// # Panics
    /// If `size` is not a whole number of pages, is under 1 MiB or over [`MAX`], or `rom` is not
    /// 64-256 KiB in whole pages.
    pub fn new(size: u64, rom: &[u8]) -> Self {
        assert!(size.is_multiple_of(PAGE as u64) && (1 << 20..=MAX).contains(&size), "RAM size");
        let rom_fits = (1 << 16..=1 << 18).contains(&rom.len());
        assert!(rom.len().is_multiple_of(PAGE) && rom_fits, "ROM size");
        let size = size as usize;
        let mut bytes = vec![0; size + rom.len()];
        bytes[size..].copy_from_slice(rom);
        let pages = bytes.len() / PAGE;
        let mut ram = Self {
            bytes,
            size,
            low_end: HOLE.min(size as u64),
            marks: vec![0; pages],
            dirty: Vec::new(),
            changed: Vec::new(),
            old: OldPages::default(),
            touched: vec![0; pages.div_ceil(64)],
            wanted: DIRTY,
            code_lines: vec![0; pages],
            stale: Vec::new(),
            shadow_writable: 0,
            generation: 0,
            tables: Vec::new(),
            stale_entries: Vec::new(),
            table_stores: 0,
        };
        ram.shadow_rom();
        ram
    }

    /// Copies the last 128 KiB of the ROM into the shadow RAM below 1 MiB, as at reset, and locks
    /// it.
    pub fn shadow_rom(&mut self) {
        let len = (self.bytes.len() - self.size).min(1 << 17);
        let rom = self.bytes[self.bytes.len() - len..].to_vec();
        self.write((1 << 20) - len as u64, &rom, true);
        self.set_shadow_writable(0);
    }

    /// RAM size in bytes.
    pub fn size(&self) -> u64 {
        self.size as u64
    }

    /// RAM, then ROM: the index space of [`Backing`].
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, for stores to pages already marked dirty and free of code (see
    /// [`Ram::prepare_write`]).
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// What backs the physical address `pa` (to the end of its page).
    #[inline(always)]
    pub fn backing(&self, pa: u64) -> Backing {
        if (0x10_0000..self.low_end).contains(&pa) {
            return Backing::Ram(pa as usize);
        }
        self.backing_elsewhere(pa)
    }

    fn backing_elsewhere(&self, pa: u64) -> Backing {
        let rom = self.bytes.len() - self.size;
        if pa < self.low_end {
            if VGA.contains(&pa) {
                return Backing::Mmio;
            }
            if (0xC_0000..0x10_0000).contains(&pa) {
                let step = (pa - 0xC_0000) >> 14;
                if self.shadow_writable & (1 << step) == 0 {
                    return Backing::Rom(pa as usize);
                }
            }
            return Backing::Ram(pa as usize);
        }
        if (HIGH - rom as u64..HIGH).contains(&pa) {
            return Backing::Rom(self.size + (pa - (HIGH - rom as u64)) as usize);
        }
        if pa >= HIGH && pa - HIGH + HOLE < self.size as u64 {
            return Backing::Ram((pa - HIGH + HOLE) as usize);
        }
        Backing::Mmio
    }

    /// Changes which 16-KiB steps from 0xC0000 accept writes (the PAM registers of the 82441FX).
    pub fn set_shadow_writable(&mut self, steps: u16) {
        if self.shadow_writable != steps {
            self.shadow_writable = steps;
            self.generation += 1;
        }
    }

    /// The steps that accept writes.
    pub fn shadow_writable(&self) -> u16 {
        self.shadow_writable
    }

    /// Changes when the map of pages changes: cached translations must go.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Makes the page at RAM `offset` ready for direct stores and says whether they may bypass
    /// [`Ram::store`]: marks it dirty; false when it holds translated code or paging structures.
    pub fn prepare_write(&mut self, offset: usize) -> bool {
        let page = offset / PAGE;
        self.mark_dirty(page);
        self.marks[page] & (CODE | TABLE) == 0
    }

    /// Records that the page at `offset` holds a paging structure; false if that is known.
    pub fn mark_table(&mut self, offset: usize) -> bool {
        let page = offset / PAGE;
        if self.marks[page] & TABLE != 0 {
            return false;
        }
        if self.marks[page] & LISTED == 0 {
            self.tables.push(page as u32);
        }
        self.marks[page] |= TABLE | LISTED;
        true
    }

    /// Whether the page at `offset` is marked as holding a paging structure.
    #[inline(always)]
    pub fn holds_table(&self, offset: usize) -> bool {
        self.marks[offset / PAGE] & TABLE != 0
    }

    /// Whether the page at `offset` has no entry that translations may be cached from.
    pub fn is_idle_table(&self, offset: usize) -> bool {
        let page = &self.bytes[offset & !(PAGE - 1)..][..PAGE];
        let used = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes) & IN_USE == IN_USE;
        let (lines, _) = page.as_chunks::<64>();
        !lines.iter().any(|line| line.as_chunks().0.iter().fold(false, |any, b| any | used(b)))
    }

    /// Forgets that the page at `offset` holds a paging structure: no translation is cached from
    /// it.
    pub fn unmark_table(&mut self, offset: usize) {
        self.marks[offset / PAGE] &= !TABLE;
    }

    /// Forgets which pages hold paging structures: no translation is cached any more.
    pub fn forget_tables(&mut self) {
        self.table_stores = 0;
        for page in self.tables.drain(..) {
            self.marks[page as usize] &= !(TABLE | LISTED);
        }
    }

    /// Whether a store of `len` bytes at `offset`, within one page, would overwrite an entry of a
    /// paging structure that translations may be cached from.
    pub fn hits_table(&self, offset: usize, len: usize) -> bool {
        self.marks[offset / PAGE] & TABLE != 0
            && (offset & !7..offset + len).step_by(8).any(|at| in_use(self.granule(at)))
    }

    /// Whether [`Ram::take_stale_entries`] has anything, or the marks want to be renewed.
    #[inline(always)]
    pub fn has_table_work(&self) -> bool {
        !self.stale_entries.is_empty() || self.table_stores > TABLE_STORES
    }

    /// Whether so much was stored to marked pages that [`Ram::forget_tables`] pays.
    pub fn tables_are_old(&self) -> bool {
        self.table_stores > TABLE_STORES
    }

    /// Entries overwritten since the last call: offset of the aligned eight bytes, old value.
    pub fn take_stale_entries(&mut self) -> Vec<(usize, u64)> {
        core::mem::take(&mut self.stale_entries)
    }

    fn granule(&self, at: usize) -> u64 {
        self.bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// Records that the bytes `offset..offset+len` (cut at the end of the page) were translated.
    pub fn mark_code(&mut self, offset: usize, len: usize) {
        let page = offset / PAGE;
        self.marks[page] |= CODE;
        let first = (offset % PAGE) / 64;
        let last = (offset % PAGE + len.max(1) - 1).min(PAGE - 1) / 64;
        for line in first..=last {
            self.code_lines[page] |= 1 << line;
        }
    }

    /// Whether the page at `offset` holds translated code.
    pub fn has_code(&self, offset: usize) -> bool {
        self.marks[offset / PAGE] & CODE != 0
    }

    /// Forgets that the page at `offset` holds translated code: its blocks are gone.
    pub fn clear_code(&mut self, offset: usize) {
        let page = offset / PAGE;
        self.marks[page] &= !CODE;
        self.code_lines[page] = 0;
    }

    /// Pages (offset / [`PAGE`]) whose translated code was overwritten since the last call.
    pub fn take_stale_code(&mut self) -> Vec<u32> {
        core::mem::take(&mut self.stale)
    }

    /// Whether [`Ram::take_stale_code`] has anything.
    #[inline(always)]
    pub fn has_stale_code(&self) -> bool {
        !self.stale.is_empty()
    }

    /// Stores at RAM `offset`, within one page, with all marks kept: single stores to code pages,
    /// and DMA.
    pub fn store(&mut self, offset: usize, data: &[u8]) {
        if self.marks[offset / PAGE] & TABLE != 0 {
            self.table_stores += 1;
            for at in (offset & !7..offset + data.len()).step_by(8) {
                let old = self.granule(at);
                if in_use(old) {
                    self.stale_entries.push((at, old));
                }
            }
        }
        self.store_entry(offset, data);
    }

    /// The same for the accessed and dirty flags that a page walk sets itself.
    pub fn store_entry(&mut self, offset: usize, data: &[u8]) {
        let page = offset / PAGE;
        self.mark_dirty(page);
        if self.hits_code(offset, data.len()) && !self.stale.contains(&(page as u32)) {
            self.stale.push(page as u32);
        }
        self.bytes[offset..offset + data.len()].copy_from_slice(data);
    }

    /// Whether a store of `len` bytes at `offset`, within one page, would overwrite translated
    /// code.
    pub fn hits_code(&self, offset: usize, len: usize) -> bool {
        let page = offset / PAGE;
        if self.marks[page] & CODE == 0 {
            return false;
        }
        let first = (offset % PAGE) / 64;
        let last = ((offset % PAGE + len.max(1) - 1) / 64).min(63);
        self.code_lines[page] & (u64::MAX << first) & (u64::MAX >> (63 - last)) != 0
    }

    fn mark_dirty(&mut self, page: usize) {
        let mut missing = self.wanted & !self.marks[page];
        if missing != 0 {
            if missing & KEPT != 0 && !self.keep(page) {
                missing &= !KEPT;
            }
            self.marks[page] |= missing;
            self.touched[page / 64] |= 1 << (page % 64);
            if missing & DIRTY != 0 {
                self.dirty.push(page as u32);
            }
            if missing & CHANGED != 0 {
                self.changed.push(page as u32);
            }
        }
    }

    /// Keeps a page that is about to be written; `false`: there is no room for it.
    fn keep(&mut self, page: usize) -> bool {
        if self.old.pages.len() == self.old.most {
            self.old.overflowed = true;
            self.wanted &= !KEPT;
            return false;
        }
        self.old.pages.push(page as u32);
        self.old.bytes.extend_from_slice(&self.bytes[page * PAGE..(page + 1) * PAGE]);
        true
    }

    /// Keeps what pages hold from here on before they are written, `most` of them at most, and
    /// gives back what was kept since the last call. Direct stores must be prepared anew after
    /// this.
    pub fn keep_old(&mut self, most: usize) -> OldPages {
        let next = OldPages { most, ..OldPages::default() };
        let old = core::mem::replace(&mut self.old, next);
        for &page in &old.pages {
            self.marks[page as usize] &= !KEPT;
        }
        self.wanted = if most > 0 { self.wanted | KEPT } else { self.wanted & !KEPT };
        old
    }

    /// What has been kept since the last call of [`Ram::keep_old`].
    pub fn old(&self) -> &OldPages {
        &self.old
    }

    /// Whether a page of RAM may hold other than zeros; one that may not need not be looked at, and
    /// the host may not even have memory behind it yet.
    pub fn is_touched(&self, page: usize) -> bool {
        self.touched[page / 64] >> (page % 64) & 1 == 1
    }

    /// Takes the list of pages (offset / [`PAGE`]) written since the last call. Direct stores
    /// through cached write translations must be prepared anew after this.
    pub fn take_dirty(&mut self) -> Vec<u32> {
        let dirty = core::mem::take(&mut self.dirty);
        for &page in &dirty {
            self.marks[page as usize] &= !DIRTY;
        }
        dirty
    }

    /// Begins (with an empty list) or ends a second record of written pages, which does not care
    /// when [`Ram::take_dirty`] is called. Direct stores must be prepared anew after this.
    pub fn track_changes(&mut self, on: bool) {
        self.take_changed();
        self.wanted = if on { self.wanted | CHANGED } else { self.wanted & !CHANGED };
    }

    /// Whether [`Ram::track_changes`] is on.
    pub fn tracks_changes(&self) -> bool {
        self.wanted & CHANGED != 0
    }

    /// Pages that [`Ram::take_changed`] would give.
    pub fn changed(&self) -> usize {
        self.changed.len()
    }

    /// Takes the list of pages written since the last call or since tracking began. Direct stores
    /// must be prepared anew after this.
    pub fn take_changed(&mut self) -> Vec<u32> {
        let changed = core::mem::take(&mut self.changed);
        for &page in &changed {
            self.marks[page as usize] &= !CHANGED;
        }
        changed
    }

    /// DMA read of physical memory; addresses without memory read as ones.
    pub fn dma_read(&self, pa: u64, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let at = pa.wrapping_add(done as u64);
            let n = (PAGE - at as usize % PAGE).min(out.len() - done);
            match self.backing(at) {
                Backing::Ram(o) | Backing::Rom(o) => {
                    out[done..done + n].copy_from_slice(&self.bytes[o..o + n]);
                }
                Backing::Mmio => out[done..done + n].fill(0xFF),
            }
            done += n;
        }
    }

    /// DMA write of physical memory; writes to ROM and to addresses without memory are dropped.
    pub fn dma_write(&mut self, pa: u64, data: &[u8]) {
        self.write(pa, data, false);
    }

    fn write(&mut self, pa: u64, data: &[u8], rom_too: bool) {
        let mut done = 0;
        while done < data.len() {
            let at = pa.wrapping_add(done as u64);
            let n = (PAGE - at as usize % PAGE).min(data.len() - done);
            match self.backing(at) {
                Backing::Ram(o) => self.store(o, &data[done..done + n]),
                Backing::Rom(o) if rom_too && o < self.size => {
                    self.store(o, &data[done..done + n]);
                }
                _ => {}
            }
            done += n;
        }
    }

    /// Pages of RAM (not ROM).
    pub fn pages(&self) -> usize {
        self.size / PAGE
    }

    /// One page of RAM by number.
    pub fn page(&self, page: usize) -> &[u8] {
        &self.bytes[page * PAGE..(page + 1) * PAGE]
    }

    /// Replaces one page of RAM, for loading a snapshot.
    pub fn load_page(&mut self, page: usize, data: &[u8; PAGE]) {
        self.store(page * PAGE, data);
    }
}
