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
use devices::ram::PAGE;
use devices::time::Icount;
use xxhash_rust::xxh3::xxh3_128;

/// Hashes of the pages of RAM, kept up to date by the list of dirty pages.
pub struct PageHashes {
    pages: Vec<u128>,
    sum: u128,
    zero: u128,
    fresh: bool,
    history: History,
}

impl PageHashes {
    /// For a RAM of `pages` pages.
    pub fn new(pages: usize) -> Self {
        let zero = xxh3_128(&[0; PAGE]);
        let history = History::default();
        Self { pages: vec![zero; pages], sum: 0, zero, fresh: true, history }
    }

    /// Hashes the state. Cost: the pages written since the last call.
    pub fn digest(&mut self, core: &mut Core) -> Digest {
        let mut journal = Vec::new();
        if core::mem::take(&mut self.fresh) {
            core.ram.take_dirty();
            self.sum = 0;
            for page in 0..self.pages.len() {
                self.sum = self.sum.wrapping_add(place(self.zero, page));
                self.update(core, page);
            }
        } else {
            for page in core.ram.take_dirty() {
                if let Some(old) = self.update(core, page as usize)
                    && self.history.is_kept()
                {
                    journal.push((page, old));
                }
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
    fn update(&mut self, core: &Core, page: usize) -> Option<u128> {
        let old = *self.pages.get(page)?;
        let hash = xxh3_128(core.ram.page(page));
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
