//! One disk of the source: what the other copy lacks, and its way there.
//!
//! Contract: see [`backends::disk::sync`] for what has to be sent and why. A range of hashes is
//! asked of both sides at a time, and compared when both are here; a few blocks are read at a time.

use super::payload::{self, HASHES, Header};
use super::{DiskSize, TransferError};
use backends::disk::blocks::{self, BLOCK, BlockSet};
use backends::disk::sync::{SyncAnswer, SyncRequest};
use std::collections::VecDeque;

/// Blocks that are being read at most.
const READING: u64 = 8;

/// The hashes of a range, as far as they are here.
#[derive(Debug, Default)]
struct Half {
    hashes: Vec<u128>,
    complete: bool,
}

/// One disk.
#[derive(Debug)]
pub struct DiskSource {
    disk: u8,
    blocks: u64,
    /// First block of the range whose hashes are on their way.
    first: u64,
    ours: Half,
    theirs: Half,
    asked: bool,
    /// What the other copy lacks, as far as we know.
    lacking: BlockSet,
    /// Blocks asked of the worker and not sent yet.
    reading: u64,
    /// Dirty maps that the worker has been asked for.
    taking: u32,
    /// The first request has been made.
    begun: bool,
    /// The first map has come: what was written before it belongs to what is hashed.
    cleared: bool,
    /// Blocks of the last map.
    last_map: u64,
    requests: VecDeque<SyncRequest>,
    payloads: VecDeque<Vec<u8>>,
    /// Blocks sent.
    sent: u64,
}

impl DiskSource {
    /// Before anything is known.
    #[must_use]
    pub fn new((disk, sectors): DiskSize) -> Self {
        Self {
            disk,
            blocks: blocks::count(sectors),
            first: 0,
            ours: Half::default(),
            theirs: Half::default(),
            asked: false,
            lacking: BlockSet::default(),
            reading: 0,
            taking: 0,
            begun: false,
            cleared: false,
            last_map: 0,
            requests: VecDeque::new(),
            payloads: VecDeque::new(),
            sent: 0,
        }
    }

    /// Which disk.
    #[must_use]
    pub fn disk(&self) -> u8 {
        self.disk
    }

    /// Blocks sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes that are known to be lacking; those that are not compared yet count as if they were.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        let unknown = self.blocks - self.first;
        (self.lacking.len() + self.reading + unknown).saturating_mul(BLOCK as u64)
    }

    /// Bytes that the guest wrote from one map to the next, the last time.
    #[must_use]
    pub fn expected(&self) -> u64 {
        self.last_map.saturating_mul(BLOCK as u64)
    }

    /// Whether all hashes are compared.
    #[must_use]
    pub fn is_compared(&self) -> bool {
        self.first >= self.blocks
    }

    /// Whether nothing that is known of is left.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.is_compared()
            && self.lacking.is_empty()
            && self.reading == 0
            && self.taking == 0
            && self.payloads.is_empty()
            && self.requests.is_empty()
    }

    /// Asks for the map of what the guest has written; also if one is on its way, which may be
    /// older than the last write.
    pub fn take_dirty(&mut self) {
        self.taking += 1;
        self.requests.push_back(SyncRequest::TakeDirty);
    }

    /// The next request to the disk's worker.
    pub fn request(&mut self) -> Option<SyncRequest> {
        if !self.begun {
            self.begun = true;
            self.take_dirty();
        }
        if !self.asked && !self.is_compared() {
            self.asked = true;
            let (disk, first, blocks) = (self.disk, self.first, HASHES);
            self.requests.push_back(SyncRequest::Hash { first, blocks });
            self.payloads
                .push_back(payload::encode(&Header::WantHashes { disk, first, blocks }, &[]));
        }
        if self.requests.is_empty() && self.reading < READING {
            // Taken out before it is read: what is written after that is in the next map.
            if let Some(block) = self.lacking.pop_first() {
                self.reading += 1;
                return Some(SyncRequest::Read(block));
            }
        }
        self.requests.pop_front()
    }

    /// The worker's answer.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn answer(&mut self, answer: SyncAnswer) -> Result<(), TransferError> {
        match answer {
            SyncAnswer::Hashes { hashes, more, .. } => {
                self.ours.hashes.extend(hashes);
                self.ours.complete = !more;
                self.compare();
            }
            SyncAnswer::Block(block, data) => {
                self.reading = self.reading.saturating_sub(1);
                self.payloads.push_back(block_payload(self.disk, block, &data));
                self.sent += 1;
            }
            SyncAnswer::Dirty(map) => {
                self.taking = self.taking.saturating_sub(1);
                if std::mem::replace(&mut self.cleared, true) {
                    self.last_map = map.len();
                    self.lacking.extend(&map);
                }
            }
            SyncAnswer::Written(_) | SyncAnswer::Flushed => {}
            SyncAnswer::Failed(why) => return Err(TransferError::Disk(self.disk, why)),
        }
        Ok(())
    }

    /// Hashes of the other copy.
    ///
    /// # Errors
    /// They are not those that were asked for.
    pub fn theirs(&mut self, first: u64, runs: &[(u32, u128)]) -> Result<(), TransferError> {
        let wanted = (self.blocks - self.first.min(self.blocks)).min(HASHES);
        let have = self.theirs.hashes.len() as u64;
        let more: u64 = runs.iter().map(|&(count, _)| u64::from(count)).sum();
        if !self.asked || first != self.first + have || more == 0 || more > wanted - have {
            return Err(TransferError::Payload("hashes that were not asked for"));
        }
        for &(count, hash) in runs {
            self.theirs.hashes.extend(std::iter::repeat_n(hash, count as usize));
        }
        self.theirs.complete = have + more == wanted;
        self.compare();
        Ok(())
    }

    fn compare(&mut self) {
        if self.ours.complete && self.theirs.complete {
            let (ours, theirs) = (std::mem::take(&mut self.ours), std::mem::take(&mut self.theirs));
            blocks::compare(self.first, &ours.hashes, &theirs.hashes, &mut self.lacking);
            self.first = self.first.saturating_add(HASHES).min(self.blocks);
            self.asked = false;
        }
    }

    /// The next payload.
    pub fn payload(&mut self) -> Option<Vec<u8>> {
        self.payloads.pop_front()
    }
}

fn block_payload(disk: u8, block: u64, data: &[u8]) -> Vec<u8> {
    let len = data.len() as u32;
    if blocks::is_zero(data) {
        return payload::encode(&Header::Block { disk, block, len, packed: false }, &[]);
    }
    let (packed_data, packed) = payload::pack(data);
    payload::encode(&Header::Block { disk, block, len, packed }, &packed_data)
}
