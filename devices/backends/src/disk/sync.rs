//! Bringing two own copies of a disk together: what a disk's worker does for it beside the guest's
//! requests.
//!
//! Contract: a request is carried out after the guest's requests that were submitted before it, in
//! steps of a few blocks between which the guest's later requests are served: none of them waits
//! for more than one step. Answers come in the order of the requests. A write of the guest marks
//! its blocks before it begins, also if it fails.
//!
//! # Which blocks have to be sent
//!
//! The live side takes the dirty map (and thereby clears it), then hashes its disk block by block
//! while the guest writes on. The other side, whose disk nobody else touches, sends the hashes of
//! its blocks. A block is right if the hashes are equal and the guest did not write it since the
//! map was taken, so what has to be sent is the blocks that differ, then again and again those in
//! the map, and at the instant of cut-over, with the guest standing still and its outstanding
//! writes carried out or handed over as outstanding, those that are left.
//!
//! The map does not save the hashes when a copy returns after a failure. The live side knows which
//! blocks it wrote since the other was lost, but not what the other wrote that it never
//! acknowledged: a backup that executed past the last acknowledgement it got out, or a primary that
//! was cut off, wrote blocks of a history that never was, and a crash of its host may have lost
//! older writes that it had not flushed. Only that side's disk can tell, and it tells by its
//! hashes, which cost it one sequential reading of the data in use and sixteen bytes a block on the
//! wire. A log of possibly unflushed blocks beside the image would narrow the reading to these, if
//! it were itself flushed before each write that enters a new block: a flush on the path of the
//! guest's writes in all of normal operation, to save seconds after a failure. So hashes are always
//! exchanged, and the map is for what is written meanwhile.

use super::blocks::{self, BlockSet};
use super::{Disk, check_range};
use crate::wake::Post;
use devices::io::DiskOperation;
use std::collections::VecDeque;
use std::io;

/// Blocks read in a step.
const STEP: u32 = 4;
/// Blocks whose hashes a step finds at most.
const STEP_HASHES: u64 = 1 << 16;

/// What a disk's worker can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncRequest {
    /// The hashes of up to `blocks` blocks from `first`; as many answers as it takes.
    Hash {
        /// First block.
        first: u64,
        /// How many.
        blocks: u64,
    },
    /// The content of a block.
    Read(u64),
    /// New content for a block; not in the dirty map.
    Write(u64, Vec<u8>),
    /// The blocks that the guest wrote since this was asked last (or since the worker began).
    TakeDirty,
    /// All completed writes reach stable storage.
    Flush,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncAnswer {
    /// To [`SyncRequest::Hash`]: some more of the hashes. The last answer reaches the end of what
    /// was asked for, or of the disk.
    Hashes {
        /// Block of the first one.
        first: u64,
        /// In order.
        hashes: Vec<u128>,
        /// More are coming for this request.
        more: bool,
    },
    /// To [`SyncRequest::Read`]: the block's number and content.
    Block(u64, Vec<u8>),
    /// To [`SyncRequest::Write`]: this block.
    Written(u64),
    /// To [`SyncRequest::TakeDirty`].
    Dirty(BlockSet),
    /// To [`SyncRequest::Flush`].
    Flushed,
    /// The request failed, with the reason.
    Failed(String),
}

/// An answer with the disk's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Index of the disk.
    pub disk: u8,
    /// The answer.
    pub answer: SyncAnswer,
}

/// One worker's part.
pub(super) struct Sync {
    disk: u8,
    waiting: VecDeque<(SyncRequest, Post<Synced>)>,
    dirty: BlockSet,
    /// Blocks were written that no flush has followed.
    unflushed: bool,
}

impl Sync {
    pub(super) fn new(disk: u8) -> Self {
        Self { disk, waiting: VecDeque::new(), dirty: BlockSet::default(), unflushed: false }
    }

    /// The guest is about to do this, on a disk of `sectors`.
    pub(super) fn note(&mut self, operation: &DiskOperation, sectors: u64) {
        match operation {
            DiskOperation::Write { lba, data }
                if check_range(sectors, *lba, data.len()).is_ok() =>
            {
                self.dirty.insert_sectors(*lba, data.len());
            }
            // It fails without writing.
            DiskOperation::Write { .. } => {}
            DiskOperation::Flush => self.unflushed = false,
            DiskOperation::Read { .. } => {}
        }
    }

    pub(super) fn push(&mut self, request: SyncRequest, reply: Post<Synced>) {
        self.waiting.push_back((request, reply));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn is_unflushed(&self) -> bool {
        self.unflushed
    }

    /// A step of the oldest request.
    pub(super) fn step(&mut self, disk: &mut dyn Disk) {
        let Some((request, reply)) = self.waiting.pop_front() else { return };
        let done = match request {
            SyncRequest::Hash { first, blocks } => self.hash(disk, (first, blocks), &reply),
            SyncRequest::Read(block) => read(disk, block),
            SyncRequest::Write(block, data) => self.write(disk, block, &data),
            SyncRequest::TakeDirty => Ok(SyncAnswer::Dirty(std::mem::take(&mut self.dirty))),
            SyncRequest::Flush => disk.flush().map(|()| {
                self.unflushed = false;
                SyncAnswer::Flushed
            }),
        };
        let answer = done.unwrap_or_else(|e| SyncAnswer::Failed(e.to_string()));
        // Nobody may wait for it any more.
        let _ = reply.send(Synced { disk: self.disk, answer });
    }

    fn hash(
        &mut self,
        disk: &mut dyn Disk,
        (first, wanted): (u64, u64),
        reply: &Post<Synced>,
    ) -> io::Result<SyncAnswer> {
        let end = blocks::count(disk.sectors()).min(first.saturating_add(wanted));
        let hashes = blocks::hashes(disk, first, wanted.min(STEP_HASHES), STEP)?;
        let next = first + hashes.len() as u64;
        let more = next < end;
        if more {
            let rest = SyncRequest::Hash { first: next, blocks: end - next };
            self.waiting.push_front((rest, reply.clone()));
        }
        Ok(SyncAnswer::Hashes { first, hashes, more })
    }

    fn write(&mut self, disk: &mut dyn Disk, block: u64, data: &[u8]) -> io::Result<SyncAnswer> {
        match blocks::extent(disk.sectors(), block) {
            Some((lba, len)) if len == data.len() => {
                self.unflushed = true;
                disk.write(lba, data).map(|()| SyncAnswer::Written(block))
            }
            _ => Err(no_block(block)),
        }
    }
}

fn read(disk: &mut dyn Disk, block: u64) -> io::Result<SyncAnswer> {
    let (lba, len) = blocks::extent(disk.sectors(), block).ok_or_else(|| no_block(block))?;
    let mut data = vec![0; len];
    disk.read(lba, &mut data).map(|()| SyncAnswer::Block(block, data))
}

fn no_block(block: u64) -> io::Error {
    io::Error::other(format!("no block {block} on this disk"))
}
