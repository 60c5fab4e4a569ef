//! What the last digests were made of.
//!
//! Contract: bounded by the number of digests asked for. A digest's page hashes are found by taking
//! back what the later ones changed; a chip that did not change is kept once.

use crate::fingerprint::Fingerprint;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use devices::time::Icount;

/// Name and encoded state of a chip.
pub type Section = (&'static str, Arc<[u8]>);

/// One digest.
struct Moment {
    icount: Icount,
    cpu: Vec<u8>,
    sections: Vec<Section>,
    /// Pages that had changed since the digest before, and their hashes then.
    journal: Vec<(u32, u128)>,
}

/// The last digests, oldest first.
#[derive(Default)]
pub struct History {
    most: usize,
    moments: VecDeque<Moment>,
}

impl History {
    /// Keeps `most` digests.
    pub fn new(most: usize) -> Self {
        Self { most, moments: VecDeque::new() }
    }

    /// Whether anything is kept.
    pub fn is_kept(&self) -> bool {
        self.most > 0
    }

    /// Section number `index` as it is now, shared with the last digest if it is the same.
    pub fn share(&self, index: usize, bytes: &[u8]) -> Arc<[u8]> {
        match self.moments.back().and_then(|last| last.sections.get(index)) {
            Some((_, same)) if **same == *bytes => Arc::clone(same),
            _ => Arc::from(bytes),
        }
    }

    /// Takes a digest's parts.
    pub fn push(
        &mut self,
        icount: Icount,
        cpu: Vec<u8>,
        sections: Vec<Section>,
        journal: Vec<(u32, u128)>,
    ) {
        if !self.is_kept() {
            return;
        }
        if self.moments.len() == self.most {
            self.moments.pop_front();
        }
        self.moments.push_back(Moment { icount, cpu, sections, journal });
    }

    /// The last digest at `icount`, where `now` are the pages' hashes at the last of all.
    pub fn state_at(&self, icount: Icount, now: &[u128]) -> Option<Fingerprint> {
        let at = self.moments.iter().rposition(|moment| moment.icount == icount)?;
        let mut pages: Vec<u64> = now.iter().copied().map(fold).collect();
        for later in self.moments.iter().skip(at + 1).rev() {
            for &(page, old) in &later.journal {
                pages[page as usize] = fold(old);
            }
        }
        let moment = &self.moments[at];
        let sections = &moment.sections;
        Some(Fingerprint {
            icount: moment.icount.0,
            pages,
            cpu: moment.cpu.clone(),
            sections: sections.iter().map(|(n, b)| (String::from(*n), b.to_vec())).collect(),
        })
    }
}

fn fold(hash: u128) -> u64 {
    hash as u64 ^ (hash >> 64) as u64
}
