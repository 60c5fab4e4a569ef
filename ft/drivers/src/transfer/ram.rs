//! Reading the memory of a machine that runs on, in slices of bounded time.
//!
//! Contract: every page is sent at least once, and again if it was written after it was read. A
//! slice looks at a few thousand pages at most, and compresses half a MiB at most.

use super::payload::{self, Header, PAGE, PAGES, Run};
use emulator::machine::Machine;
use emulator::snapshot::is_zero;
use std::collections::BTreeMap;

/// Pages that a slice looks at; and hashes for the machine's first digest, if none was taken yet.
const LOOK: u32 = 1024;

/// How far the reading is.
#[derive(Debug)]
pub struct Walk {
    /// Next page of the first round.
    next: u32,
    /// What is left of a later round, in falling order.
    pending: Vec<u32>,
}

/// The payload of a slice.
#[derive(Debug, PartialEq, Eq)]
pub struct Slice {
    /// The payload.
    pub bytes: Vec<u8>,
    /// Bytes of memory that it stands for, zeros left out.
    pub raw: u64,
}

impl Walk {
    /// Before the first page. The machine lists its dirty pages from here on.
    pub fn new(machine: &mut Machine) -> Self {
        machine.track_dirty(true);
        Self { next: 0, pending: Vec::new() }
    }

    /// Pages left, those not taken yet included.
    #[must_use]
    pub fn remaining(&self, machine: &Machine) -> u64 {
        let first = machine.pages() - self.next;
        u64::from(first) + self.pending.len() as u64 + machine.dirty_pages() as u64
    }

    /// Whether a round is complete.
    #[must_use]
    pub fn is_quiet(&self, machine: &Machine) -> bool {
        self.next >= machine.pages() && self.pending.is_empty()
    }

    /// Begins another round with what was written since the last began.
    pub fn next_round(&mut self, machine: &mut Machine) {
        // So that the digest at cut-over has to hash the last round's pages only.
        if machine.prepare_digest(0) {
            machine.digest();
        }
        self.pending.extend(machine.take_dirty_pages());
        self.pending.sort_unstable_by(|a, b| b.cmp(a));
        self.pending.dedup();
    }

    /// The next slice of the round; `None`: it is complete.
    pub fn slice(&mut self, machine: &mut Machine) -> Option<Slice> {
        machine.prepare_digest(LOOK);
        if self.next < machine.pages() {
            return Some(self.first_round(machine));
        }
        let mut pages = Pages::default();
        for _ in 0..LOOK {
            let Some(page) = self.pending.pop() else { break };
            pages.add(page, content(machine, page));
            if pages.is_full() {
                break;
            }
        }
        if pages.runs.is_empty() { None } else { Some(pages.finish()) }
    }

    fn first_round(&mut self, machine: &Machine) -> Slice {
        let mut pages = Pages::default();
        let end = machine.pages().min(self.next.saturating_add(LOOK));
        while self.next < end && !pages.is_full() {
            pages.add(self.next, content(machine, self.next));
            self.next += 1;
        }
        pages.finish()
    }
}

/// What a page holds; `None`: zeros.
fn content(machine: &Machine, page: u32) -> Option<&[u8; PAGE]> {
    machine.is_touched(page).then(|| machine.page(page))
}

/// Payloads of all of a machine's pages, where those of `old` count instead of its own.
pub fn all_pages(
    machine: &Machine,
    old: &BTreeMap<u32, &[u8; PAGE]>,
    put: &mut dyn FnMut(Vec<u8>),
) {
    let mut pages = Pages::default();
    for page in 0..machine.pages() {
        pages.add(page, old.get(&page).copied().or_else(|| content(machine, page)));
        if pages.is_full() || pages.runs.len() >= PAGES {
            put(std::mem::take(&mut pages).finish().bytes);
        }
    }
    put(pages.finish().bytes);
}

/// Pages of a payload.
#[derive(Default)]
struct Pages {
    runs: Vec<Run>,
    data: Vec<u8>,
}

impl Pages {
    fn is_full(&self) -> bool {
        self.data.len() >= PAGES * PAGE
    }

    fn add(&mut self, page: u32, content: Option<&[u8; PAGE]>) {
        let content = content.filter(|bytes| !is_zero(*bytes));
        let zero = content.is_none();
        match self.runs.last_mut() {
            Some((first, count, same)) if *same == zero && *first + *count == page => *count += 1,
            _ => self.runs.push((page, 1, zero)),
        }
        if let Some(bytes) = content {
            self.data.extend_from_slice(bytes);
        }
    }

    fn finish(self) -> Slice {
        let (data, packed) = payload::pack(&self.data);
        let raw = self.data.len() as u64;
        let bytes = payload::encode(&Header::Pages { runs: self.runs, packed }, &data);
        Slice { bytes, raw }
    }
}
