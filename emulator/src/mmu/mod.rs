//! Memory accesses by linear address.
//!
//! Contract: an access either succeeds whole or leaves the instruction with nothing changed but
//! accessed and dirty flags. Devices, and stores to memory that holds translated code, are reached
//! only when the instruction runs alone.

pub mod tlb;
pub mod walk;

use crate::core::{Core, canonical};
use crate::cpu;
use crate::exception::{self, Trap};
use crate::op::Op;
use devices::ram::{Backing, PAGE};
use devices::time::Icount;
use walk::Access;

/// Who accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The program, at its privilege.
    Program,
    /// The CPU for itself: descriptor tables and task-state segments, always as supervisor.
    System,
}

/// Where a piece of an access ended up.
#[derive(Clone, Copy)]
enum Place {
    Ram(usize),
    Rom(usize),
    Device(u64),
}

impl Core {
    /// Reads `N` bytes if they lie in one page of RAM that the TLB knows.
    #[inline(always)]
    pub fn load_fast<const N: usize>(&self, la: u64) -> Option<[u8; N]> {
        let entry = self.tlb.entry(la);
        if entry.read != self.tlb.tag(la, N as u64) {
            return None;
        }
        let at = la.wrapping_add(entry.addend) as usize;
        self.ram.bytes().get(at..).and_then(|b| b.first_chunk::<N>()).copied()
    }

    /// The RAM that `N` bytes may be written to directly, if the TLB knows it.
    #[inline(always)]
    pub fn store_fast<const N: usize>(&mut self, la: u64) -> Option<&mut [u8; N]> {
        let entry = self.tlb.entry(la);
        if entry.write != self.tlb.tag(la, N as u64) {
            return None;
        }
        let at = la.wrapping_add(entry.addend) as usize;
        self.ram.bytes_mut().get_mut(at..).and_then(|b| b.first_chunk_mut::<N>())
    }

    /// Reads `N` bytes at the linear address `la`.
    #[inline(always)]
    pub fn load<const N: usize>(&mut self, op: &Op, la: u64) -> Result<[u8; N], Trap> {
        if let Some(bytes) = self.load_fast(la) {
            return Ok(bytes);
        }
        self.load_slow(op, la, N)?;
        Ok(self.scratch())
    }

    /// Reads `N` bytes that the instruction will write afterwards: a fault is a write's.
    #[inline(always)]
    pub fn load_for_write<const N: usize>(&mut self, op: &Op, la: u64) -> Result<[u8; N], Trap> {
        if let Some(bytes) = self.store_fast(la) {
            return Ok(*bytes);
        }
        self.probe_write(op, la, N as u64)?;
        self.load_slow(op, la, N)?;
        Ok(self.scratch())
    }

    /// What the slow paths hand over: not through the stack, so that the functions of instructions
    /// can end in tail calls.
    #[inline(always)]
    fn scratch<const N: usize>(&self) -> [u8; N] {
        *self.scratch.first_chunk().expect("accesses have at most 16 bytes")
    }

    /// Writes `N` bytes at the linear address `la`.
    #[inline(always)]
    pub fn store<const N: usize>(&mut self, op: &Op, la: u64, bytes: [u8; N]) -> Result<(), Trap> {
        if let Some(place) = self.store_fast(la) {
            *place = bytes;
            return Ok(());
        }
        *self.scratch.first_chunk_mut().expect("accesses have at most 16 bytes") = bytes;
        self.store_slow(op, la, N)
    }

    /// Reads `size` bytes to the scratch buffer.
    #[cold]
    #[inline(never)]
    fn load_slow(&mut self, op: &Op, la: u64, size: usize) -> Result<(), Trap> {
        self.check_address(op, la, size as u64)?;
        let mut out = [0; 16];
        if !self.watching && la as usize % PAGE + size <= PAGE {
            // Most are here because the TLB did not know the page.
            let place = self.place(la, false, By::Program)?;
            if let Place::Ram(at) | Place::Rom(at) = place
                && let Some(bytes) = self.ram.bytes().get(at..).and_then(|b| b.first_chunk())
            {
                // What lies behind the `size` bytes is not looked at.
                self.scratch = *bytes;
                return Ok(());
            }
            self.read_place(place, &mut out[..size])?;
        } else {
            self.read_linear(la, &mut out[..size], By::Program)?;
        }
        self.scratch = out;
        Ok(())
    }

    /// Writes `size` bytes from the scratch buffer.
    #[cold]
    #[inline(never)]
    fn store_slow(&mut self, op: &Op, la: u64, size: usize) -> Result<(), Trap> {
        self.check_address(op, la, size as u64)?;
        let bytes = self.scratch;
        self.write_linear(la, &bytes[..size], By::Program)
    }

    /// Faults as a write of `size` bytes would, without writing.
    ///
    /// # Errors
    /// As [`Core::store`].
    #[cold]
    #[inline(never)]
    pub fn probe_write(&mut self, op: &Op, la: u64, size: u64) -> Result<(), Trap> {
        self.check_address(op, la, size)?;
        let end = self.wrap(la.wrapping_add(size - 1));
        let first = size.min(PAGE as u64 - la % PAGE as u64);
        let here = self.place(la, true, By::Program)?;
        self.check_code(here, first as usize)?;
        if first < size {
            let there = self.place(end & !0xFFF, true, By::Program)?;
            self.check_code(there, (size - first) as usize)?;
        }
        Ok(())
    }

    /// Faults as a write of the byte at `la` would, without writing.
    ///
    /// # Errors
    /// A page fault, or the instruction must run alone.
    pub fn probe_linear(&mut self, la: u64, by: By) -> Result<(), Trap> {
        self.place(self.wrap(la), true, by).map(|_| ())
    }

    /// Canonical form (64-bit mode) and alignment (CR0.AM): numbers by their size, double-extended
    /// ones by 8 (SDM 3A table 6-7); 16-byte operands that must be aligned raise #GP by themselves.
    fn check_address(&mut self, op: &Op, la: u64, size: u64) -> Result<(), Trap> {
        let align = match size {
            10 => 8,
            _ if size < 16 && size.is_power_of_two() => size,
            _ => 1,
        };
        self.check_area(op, la, size, align)
    }

    /// The same for an area whose parts are aligned by `align` bytes.
    ///
    /// # Errors
    /// #GP(0) or #SS(0), or #AC.
    pub fn check_area(&mut self, op: &Op, la: u64, size: u64, align: u64) -> Result<(), Trap> {
        let long = self.mode.bits == 64;
        if !long || canonical(la) {
            self.check_alignment(la, align)?;
        }
        if long && !(canonical(la) && canonical(la.wrapping_add(size - 1))) {
            let stack = usize::from(op.seg) == cpu::SS;
            return Err(self.fault(if stack { exception::SS } else { exception::GP }));
        }
        Ok(())
    }

    /// #AC for an address that is not a multiple of `size`, where alignment is checked.
    pub fn check_alignment(&mut self, la: u64, size: u64) -> Result<(), Trap> {
        if self.align && size <= 8 && size.is_power_of_two() && !la.is_multiple_of(size) {
            return Err(self.fault(exception::AC));
        }
        Ok(())
    }

    /// Linear addresses have 32 bits outside 64-bit mode.
    fn wrap(&self, la: u64) -> u64 {
        if self.mode.bits == 64 || self.cpu.long_mode() { la } else { la & 0xFFFF_FFFF }
    }

    /// Reads `out.len()` bytes (at most a page) at a linear address.
    ///
    /// # Errors
    /// A page fault, or the instruction must run alone.
    pub fn read_linear(&mut self, la: u64, out: &mut [u8], by: By) -> Result<(), Trap> {
        if self.watching && by == By::Program {
            self.watch_access(la, out.len() as u64, false);
        }
        let first = out.len().min(PAGE - la as usize % PAGE);
        let here = self.place(la, false, by)?;
        if first == out.len() {
            return self.read_place(here, out);
        }
        let next = self.wrap(la.wrapping_add(first as u64));
        let there = self.place(next, false, by)?;
        let (low, high) = out.split_at_mut(first);
        self.read_place(here, low)?;
        self.read_place(there, high)
    }

    /// Writes bytes (at most a page) at a linear address.
    ///
    /// # Errors
    /// A page fault, or the instruction must run alone.
    pub fn write_linear(&mut self, la: u64, bytes: &[u8], by: By) -> Result<(), Trap> {
        if self.watching && by == By::Program {
            self.watch_access(la, bytes.len() as u64, true);
        }
        let first = bytes.len().min(PAGE - la as usize % PAGE);
        let here = self.place(la, true, by)?;
        if first == bytes.len() {
            self.check_code(here, first)?;
            return self.write_place(here, bytes);
        }
        let next = self.wrap(la.wrapping_add(first as u64));
        let there = self.place(next, true, by)?;
        let (low, high) = bytes.split_at(first);
        self.check_code(here, low.len())?;
        self.check_code(there, high.len())?;
        self.write_place(here, low)?;
        self.write_place(there, high)
    }

    /// Translates `la`, fills the TLB, and finds what is there.
    fn place(&mut self, la: u64, write: bool, by: By) -> Result<Place, Trap> {
        let user = self.cpu.cpl == 3 && by == By::Program;
        let access = Access { write, fetch: false, user, implicit: by == By::System };
        let found = self.walk(la, access)?;
        self.check_walk()?;
        if !found.global {
            self.tlb.note_local(la);
        }
        Ok(match self.ram.backing(found.pa) {
            Backing::Ram(at) => {
                if write && self.ram.holds_table(at) {
                    self.retire_table(at);
                }
                // A write marks its page dirty now: the entry for later ones is made below.
                let direct = found.writable && write && self.ram.prepare_write(at);
                if by == By::Program {
                    self.tlb.fill(la, at, direct);
                    if found.page_size > PAGE as u64 {
                        self.tlb.note_large(la, found.page_size);
                    }
                }
                Place::Ram(at)
            }
            Backing::Rom(at) => {
                if by == By::Program {
                    self.tlb.fill(la, at, false);
                }
                Place::Rom(at)
            }
            Backing::Mmio => {
                self.must_be_alone()?;
                self.met_device = true;
                Place::Device(found.pa)
            }
        })
    }

    /// A walk has set flags in entries that are code as well: the instruction is executed alone,
    /// so that the next one is fetched anew. The flags are there to stay.
    #[inline(always)]
    fn check_walk(&mut self) -> Result<(), Trap> {
        if self.ram.has_stale_code() { self.must_be_alone() } else { Ok(()) }
    }

    fn check_code(&mut self, place: Place, len: usize) -> Result<(), Trap> {
        match place {
            Place::Ram(at) if self.ram.hits_code(at, len) || self.ram.hits_table(at, len) => {
                self.must_be_alone()
            }
            _ => Ok(()),
        }
    }

    fn read_place(&mut self, place: Place, out: &mut [u8]) -> Result<(), Trap> {
        match place {
            Place::Ram(at) | Place::Rom(at) => {
                out.copy_from_slice(&self.ram.bytes()[at..at + out.len()]);
            }
            Place::Device(pa) => {
                let now = self.clock.now(Icount(self.icount));
                for (at, size) in pieces(pa, out.len()) {
                    let value =
                        self.board.mmio_read(&mut self.ram, now, pa + at as u64, size as u8);
                    out[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
                }
            }
        }
        Ok(())
    }

    fn write_place(&mut self, place: Place, bytes: &[u8]) -> Result<(), Trap> {
        match place {
            Place::Ram(at) => {
                self.ram.store(at, bytes);
                if self.ram.has_table_work() {
                    self.flush_stale_tables();
                }
            }
            Place::Rom(_) => {}
            Place::Device(pa) => {
                let now = self.clock.now(Icount(self.icount));
                for (at, size) in pieces(pa, bytes.len()) {
                    let mut value = [0; 8];
                    value[..size].copy_from_slice(&bytes[at..at + size]);
                    let value = u64::from_le_bytes(value);
                    self.board.mmio_write(&mut self.ram, now, pa + at as u64, size as u8, value);
                }
            }
        }
        Ok(())
    }

    /// Reads `N` bytes as the CPU itself does from descriptor tables and task-state segments.
    ///
    /// # Errors
    /// A page fault, or the instruction must run alone.
    pub fn system_load<const N: usize>(&mut self, la: u64) -> Result<[u8; N], Trap> {
        let mut out = [0; N];
        self.read_linear(self.wrap(la), &mut out, By::System)?;
        Ok(out)
    }

    /// Writes as the CPU itself does.
    ///
    /// # Errors
    /// A page fault, or the instruction must run alone.
    pub fn system_store(&mut self, la: u64, bytes: &[u8]) -> Result<(), Trap> {
        self.write_linear(self.wrap(la), bytes, By::System)
    }

    /// RAM offset of the code at the linear address `la`.
    ///
    /// # Errors
    /// A page fault; #GP(0) for a non-canonical address; #UD where a device would be executed.
    pub fn fetch_place(&mut self, la: u64) -> Result<usize, Trap> {
        if self.mode.bits == 64 && !canonical(la) {
            return Err(self.fault(exception::GP));
        }
        let user = self.cpu.cpl == 3;
        self.tlb.note_code(la);
        if let Some(at) = self.tlb.code(la, user) {
            return Ok(at);
        }
        let access = Access { write: false, fetch: true, user, implicit: false };
        let found = self.walk(la, access)?;
        self.check_walk()?;
        if !found.global {
            self.tlb.note_local(la);
        }
        if found.page_size > PAGE as u64 {
            self.tlb.note_large(la, found.page_size);
        }
        match self.ram.backing(found.pa) {
            Backing::Ram(at) | Backing::Rom(at) => {
                self.tlb.fill_code(la, user, at);
                Ok(at)
            }
            Backing::Mmio => Err(self.fault(exception::UD)),
        }
    }

    /// Forgets the translations that came from paging-structure entries which were overwritten.
    ///
    /// No processor must do so before the program asks (SDM 3A 4.10.2.3); here it keeps the cache
    /// invisible: with or without it the guest sees the same translations and the same accessed
    /// and dirty flags, so that a copy of the machine that starts with empty caches stays equal.
    #[cold]
    pub fn flush_stale_tables(&mut self) {
        let entries = self.ram.take_stale_entries();
        if self.ram.tables_are_old() || entries.len() > 64 {
            self.ram.forget_tables();
            self.flush_tlb();
            return;
        }
        for (at, old) in entries {
            let what = self.tlb.table(at / PAGE);
            let index = (at % PAGE) as u64;
            match what & 3 {
                tlb::LEAF => self.tlb.flush_small((what & !3) + ((index / 8) << 12)),
                tlb::LEAF_32 => {
                    let la = (what & !3) + ((index / 4) << 12);
                    self.tlb.flush_small(la);
                    self.tlb.flush_small(la + 0x1000);
                }
                tlb::UPPER => self.flush_below(at, what, old),
                _ => {} // nothing was cached from it since the last flush
            }
        }
    }

    /// Forgets what came through the entry at RAM offset `at` of a structure of an upper level,
    /// which translates `what`; the entry was `old`.
    fn flush_below(&mut self, at: usize, what: u64, old: u64) {
        if what == tlb::ROOT && at / PAGE != self.root_page() {
            self.tlb.drop_root(at / PAGE);
        } else if !self.leads_to_idle_table(old) {
            self.flush_tlb();
            return;
        }
        self.tlb.forget_uppers();
    }

    /// Whether no translation is cached that came through an entry of an upper level: it leads to
    /// a table that has no entry in use.
    fn leads_to_idle_table(&self, entry: u64) -> bool {
        if !self.cpu.long_mode() || entry & walk::LARGE != 0 {
            return false;
        }
        match self.ram.backing(entry & walk::ADDRESS & self.a20_mask) {
            Backing::Ram(at) => self.ram.is_idle_table(at),
            _ => false,
        }
    }

    /// The page at RAM offset `at` holds a paging structure and is about to be written: if nothing
    /// is cached from it, it may be something else by now, or be made anew, and is no longer
    /// watched.
    #[cold]
    fn retire_table(&mut self, at: usize) {
        let page = at / PAGE;
        if self.ram.has_table_work() {
            // Something may still be cached from what was overwritten just now.
            return;
        }
        if self.ram.is_idle_table(at) {
            // Nothing came from it but the way to it.
        } else if self.tlb.table(page) == tlb::ROOT && page != self.root_page() {
            self.tlb.drop_root(page);
        } else {
            return;
        }
        self.ram.unmark_table(at);
        self.tlb.forget_table(page);
    }

    /// RAM page of the paging structure that CR3 points to.
    pub fn root_page(&self) -> usize {
        match self.ram.backing(self.cpu.cr3 & walk::ADDRESS & self.a20_mask) {
            Backing::Ram(at) | Backing::Rom(at) => at / PAGE,
            Backing::Mmio => usize::MAX,
        }
    }

    /// Forgets all cached translations.
    pub fn flush_tlb(&mut self) {
        self.tlb.flush_all();
    }
}

/// Splits an access to a device into naturally aligned pieces of 1, 2, 4 or 8 bytes, except that
/// a whole 2, 4 or 8 bytes within an aligned 8 are one piece.
fn pieces(pa: u64, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    core::iter::from_fn(move || {
        if at >= len {
            return None;
        }
        let here = pa as usize + at;
        let mut size = 8;
        while size > len - at || !here.is_multiple_of(size) {
            size /= 2;
        }
        at += size;
        Some((at - size, size))
    })
}
