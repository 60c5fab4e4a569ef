//! The side of the new backup.
//!
//! Contract: the driver gives [`Sink::install`] every payload in order, carries
//! [`Sink::disk_request`]s to the workers and their answers back, and sends what [`Sink::poll`]
//! gives. When [`Sink::is_complete`], [`Sink::finish`] makes the machine. Nothing else may use the
//! disks meanwhile. Hostile payloads give errors; what waits for a disk is bounded.
//!
//! The flush that follows the last block is not waited for: it would be part of the pause. Until it
//! is done, a loss of power on both sides leaves the guest's last writes on the other copy only.

use super::payload::{self, Header, PAGE, PAGES, STATE};
use super::{DiskSize, TransferError};
use backends::disk::blocks;
use backends::disk::sync::{SyncAnswer, SyncRequest, Synced};
use emulator::machine::{Config, Machine};
use emulator::snapshot::Loader;
use std::collections::VecDeque;

/// Blocks that wait to be written at most: the source's window, and then some.
pub(super) const WRITING: u32 = 256;
/// Bytes of state at most: the machine's, and writes of 32 MiB under way on each of four disks.
const STATE_MAX: u32 = 160 << 20;

/// One disk.
#[derive(Debug)]
struct DiskSink {
    disk: u8,
    sectors: u64,
    /// Hashes asked for and not sent: end of the range.
    hashing: bool,
    writing: u32,
}

/// One joining, from this side.
pub struct Sink {
    loader: Loader,
    disks: Vec<DiskSink>,
    requests: VecDeque<(u8, SyncRequest)>,
    payloads: VecDeque<Vec<u8>>,
    /// Payloads taken in, and how many of them the source knows of.
    taken: u64,
    reported: u64,
    state: Vec<u8>,
    /// Bytes of the machine's state, and in all.
    lengths: Option<(u32, u32)>,
}

impl Sink {
    /// For a machine of this configuration with these disks.
    ///
    /// # Errors
    /// There is no such machine.
    pub fn new(config: &Config, disks: &[DiskSize]) -> Result<Self, TransferError> {
        let loader = Loader::new(config).map_err(|e| TransferError::State(e.0))?;
        let sink =
            |&(disk, sectors): &DiskSize| DiskSink { disk, sectors, hashing: false, writing: 0 };
        Ok(Self {
            loader,
            disks: disks.iter().map(sink).collect(),
            requests: VecDeque::new(),
            payloads: VecDeque::new(),
            taken: 0,
            reported: 0,
            state: Vec::new(),
            lengths: None,
        })
    }

    /// Takes a payload in.
    ///
    /// # Errors
    /// It is none, or does not fit.
    pub fn install(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        let (header, data) = payload::decode(bytes)?;
        if self.lengths.is_some() && !matches!(header, Header::State { .. }) {
            return Err(TransferError::Payload("something after the state"));
        }
        match header {
            Header::Pages { runs, packed } => self.pages(&runs, packed, data),
            Header::Block { disk, block, len, packed } => {
                return self.block((disk, block), len, packed, data);
            }
            Header::WantHashes { disk, first, blocks } if data.is_empty() => {
                self.want_hashes(disk, first, blocks)
            }
            Header::State { machine, total } => self.state((machine, total), data),
            _ => Err(TransferError::Payload("a piece from the wrong side")),
        }?;
        self.taken += 1;
        Ok(())
    }

    fn pages(
        &mut self,
        runs: &[payload::Run],
        packed: bool,
        data: &[u8],
    ) -> Result<(), TransferError> {
        let full = runs.iter().filter(|(_, _, zero)| !zero).map(|&(_, count, _)| u64::from(count));
        let full = full.fold(0, u64::saturating_add);
        let inside = |&(first, count, _): &payload::Run| {
            first.checked_add(count).is_some_and(|end| end <= self.loader.pages())
        };
        if full > PAGES as u64 || !runs.iter().all(inside) {
            return Err(TransferError::Payload("pages outside memory"));
        }
        let data = payload::unpack(data, packed, full as usize * PAGE)?;
        let (mut pages, _) = data.as_chunks::<PAGE>();
        // Runs overlap in no honest payload; a hostile one may not make this take for ever.
        let mut budget = u64::from(self.loader.pages()) * 2;
        for &(first, count, zero) in runs {
            budget = budget
                .checked_sub(count.into())
                .ok_or(TransferError::Payload("the same pages again and again"))?;
            for page in first..first + count {
                let content = match zero {
                    true => &[0; PAGE],
                    false => pages.split_off_first().expect("counted above"),
                };
                self.loader.load_page(page, content).map_err(|e| TransferError::State(e.0))?;
            }
        }
        Ok(())
    }

    fn find(&mut self, disk: u8) -> Result<&mut DiskSink, TransferError> {
        let found = self.disks.iter_mut().find(|sink| sink.disk == disk);
        found.ok_or(TransferError::Payload("no such disk"))
    }

    fn block(
        &mut self,
        (disk, block): (u8, u64),
        len: u32,
        packed: bool,
        data: &[u8],
    ) -> Result<(), TransferError> {
        let sink = self.find(disk)?;
        match blocks::extent(sink.sectors, block) {
            Some((_, expected)) if expected == len as usize => {}
            _ => return Err(TransferError::Payload("no such block")),
        }
        if sink.writing >= WRITING {
            return Err(TransferError::Payload("more blocks than were asked for"));
        }
        sink.writing += 1;
        let content = match data.is_empty() {
            true => vec![0; len as usize],
            false => payload::unpack(data, packed, len as usize)?,
        };
        self.requests.push_back((disk, SyncRequest::Write(block, content)));
        Ok(())
    }

    fn want_hashes(&mut self, disk: u8, first: u64, blocks: u64) -> Result<(), TransferError> {
        let sink = self.find(disk)?;
        if sink.hashing || blocks > payload::HASHES || first >= blocks::count(sink.sectors) {
            return Err(TransferError::Payload("a question for hashes that is none"));
        }
        sink.hashing = true;
        self.requests.push_back((disk, SyncRequest::Hash { first, blocks }));
        Ok(())
    }

    fn state(&mut self, lengths: (u32, u32), data: &[u8]) -> Result<(), TransferError> {
        let (machine, total) = lengths;
        let known = *self.lengths.get_or_insert(lengths);
        let fits = self.state.len() + data.len() <= total as usize;
        if known != lengths || machine > total || total > STATE_MAX || data.len() > STATE || !fits {
            return Err(TransferError::Payload("state of another length"));
        }
        self.state.extend_from_slice(data);
        if self.state.len() == total as usize {
            let flush = |sink: &DiskSink| (sink.disk, SyncRequest::Flush);
            self.requests.extend(self.disks.iter().map(flush));
        }
        Ok(())
    }

    /// The next request to a disk's worker.
    pub fn disk_request(&mut self) -> Option<(u8, SyncRequest)> {
        self.requests.pop_front()
    }

    /// A worker's answer.
    ///
    /// # Errors
    /// A disk cannot be read or written.
    pub fn disk_answer(&mut self, synced: Synced) -> Result<(), TransferError> {
        let disk = synced.disk;
        let Ok(sink) = self.find(disk) else { return Ok(()) };
        match synced.answer {
            SyncAnswer::Hashes { first, hashes, more } => {
                sink.hashing = more;
                let runs = run_lengths(&hashes);
                let header = Header::Hashes { disk, first, runs };
                self.payloads.push_back(payload::encode(&header, &[]));
            }
            SyncAnswer::Written(_) => {
                sink.writing = sink.writing.saturating_sub(1);
                self.taken += 1;
            }
            SyncAnswer::Failed(why) => return Err(TransferError::Disk(disk, why)),
            SyncAnswer::Block(..) | SyncAnswer::Dirty(_) | SyncAnswer::Flushed => {}
        }
        Ok(())
    }

    /// The next payload for the source.
    pub fn poll(&mut self) -> Option<Vec<u8>> {
        if let Some(payload) = self.payloads.pop_front() {
            return Some(payload);
        }
        if self.reported == self.taken {
            return None;
        }
        self.reported = self.taken;
        Some(payload::encode(&Header::Progress(self.taken), &[]))
    }

    /// Whether everything is here and written.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let whole = |(_, total): (u32, u32)| self.state.len() == total as usize;
        self.lengths.is_some_and(whole) && self.disks.iter().all(|sink| sink.writing == 0)
    }

    /// The machine, and the source's driver's bytes.
    ///
    /// # Errors
    /// Not everything is here, or it is not the state of such a machine.
    pub fn finish(mut self) -> Result<(Machine, Vec<u8>), TransferError> {
        let Some((machine, _)) = self.lengths.filter(|_| self.is_complete()) else {
            return Err(TransferError::Payload("the end is missing"));
        };
        let extra = self.state.split_off(machine as usize);
        let machine = self.loader.finish(&self.state).map_err(|e| TransferError::State(e.0))?;
        Ok((machine, extra))
    }
}

fn run_lengths(hashes: &[u128]) -> Vec<(u32, u128)> {
    let mut runs: Vec<(u32, u128)> = Vec::new();
    for &hash in hashes {
        match runs.last_mut() {
            Some((count, same)) if *same == hash => *count += 1,
            _ => runs.push((1, hash)),
        }
    }
    runs
}
