//! The machine's state as hashes.
//!
//! Contract: a digest costs what was written since the last one; equal states give equal digests,
//! whenever others were taken. What waits to leave the machine is not in it: it depends on when
//! the driver drains it.

use crate::core::Core;
use crate::fingerprint::Fingerprint;
use crate::history::{History, Section};
use crate::machine::Digest;
use crate::snapshot::{Processor, encode};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use devices::ram::{PAGE, Ram};
use devices::time::Icount;
use xxhash_rust::xxh3::xxh3_128;

/// Hashes of the pages of RAM, kept up to date by the list of dirty pages.
pub struct PageHashes {
    pages: Vec<u128>,
    sum: u128,
    zero: u128,
    /// Pages below this were hashed since the dirty pages began to be listed anew; `None`: they
    /// did not yet.
    prepared: Option<usize>,
    history: History,
}

impl PageHashes {
    /// For a RAM of `pages` pages, whatever is in them.
    pub fn new(pages: usize) -> Self {
        let zero = xxh3_128(&[0; PAGE]);
        let history = History::default();
        Self { pages: vec![zero; pages], sum: 0, zero, prepared: None, history }
    }

    /// For a RAM whose `pages` pages are zero. Changes are told by [`PageHashes::update`] up to
    /// the next call of [`Ram::take_dirty`], and from then on found by that.
    pub fn of_zeros(pages: usize) -> Self {
        let mut hashes = Self::new(pages);
        hashes.start();
        hashes.prepared = Some(pages);
        hashes
    }

    fn start(&mut self) {
        let places = (0..self.pages.len()).map(|page| place(self.zero, page));
        self.sum = places.fold(0, u128::wrapping_add);
        self.prepared = Some(0);
    }

    /// Hashes up to `pages` of the pages that no digest has seen yet, so that the first digest need
    /// not hash all of RAM; whether that is done.
    pub fn prepare(&mut self, core: &mut Core, pages: usize) -> bool {
        if self.prepared.is_none() {
            core.ram.take_dirty();
            core.tlb.forget_writes();
            self.start();
        }
        let first = self.prepared.unwrap_or(0);
        let end = first.saturating_add(pages).min(self.pages.len());
        for page in (first..end).filter(|&page| core.ram.is_touched(page)) {
            self.update(&core.ram, page);
        }
        self.prepared = Some(end);
        end == self.pages.len()
    }

    /// Hashes the state. Cost: the pages written since the last call.
    pub fn digest(&mut self, core: &mut Core) -> Digest {
        self.prepare(core, usize::MAX);
        let mut journal = Vec::new();
        for page in core.ram.take_dirty() {
            if let Some(old) = self.update(&core.ram, page as usize)
                && self.history.is_kept()
            {
                journal.push((page, old));
            }
        }
        core.tlb.forget_writes();
        let icount = Icount(core.icount);
        let processor = encode(&Processor::of(core));
        let mut devices = Vec::with_capacity(16);
        let mut sections: Vec<Section> = Vec::new();
        core.board.sections(&mut |name, bytes| {
            devices.push((String::from(name), xxh3_128(bytes)));
            if self.history.is_kept() {
                sections.push((name, self.history.share(sections.len(), bytes)));
            }
        });
        let cpu = xxh3_128(&processor);
        self.history.push(icount, processor, sections, journal);
        Digest { cpu, devices, ram: self.sum }
    }

    /// Hashes a page anew; its old hash if that changed. Pages outside RAM do not count.
    pub fn update(&mut self, ram: &Ram, page: usize) -> Option<u128> {
        let old = *self.pages.get(page)?;
        let hash = xxh3_128(ram.page(page));
        if hash == old {
            return None;
        }
        self.sum = self.sum.wrapping_sub(place(old, page)).wrapping_add(place(hash, page));
        self.pages[page] = hash;
        Some(old)
    }

    /// Keeps what [`PageHashes::state_at`] needs for the last `digests` digests to come.
    pub fn keep_history(&mut self, digests: usize) {
        self.history = History::new(digests);
    }

    /// The state at the last digest at `icount`.
    pub fn state_at(&self, icount: Icount) -> Option<Fingerprint> {
        self.history.state_at(icount, &self.pages)
    }
}

/// The hash of a page at its place: equal pages elsewhere count differently.
fn place(hash: u128, page: usize) -> u128 {
    let odd = (page as u128).wrapping_mul(2).wrapping_add(1);
    hash.wrapping_mul(odd.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
}
