//! The side of the running machine.
//!
//! Contract: between slices of execution the driver calls [`Source::poll`] and sends what it gives,
//! carries [`Source::disk_request`]s to the workers and their answers back, gives
//! [`Source::install`] what the sink sends, and asks [`Source::decide`] how to go on. At
//! [`Decision::CutOver`] it stops the guest, calls [`Source::cut_over`], and goes on with the same
//! calls until [`Source::is_complete`]; then the machine's digest belongs to what the sink has. A
//! window bounds what is on its way.
//!
//! The guest's disk requests that are outstanding at that instant are the driver's: they are part
//! of the `extra` bytes, and the new backup's driver issues them again.

use super::disks::DiskSource;
use super::payload::{self, Header, PAGE};
use super::ram::Walk;
use super::sink::WRITING;
use super::{DiskSize, TransferError};
use backends::disk::sync::{SyncRequest, Synced};
use emulator::machine::Machine;
use ft::join::{Decision, Limits, Precopy, Standing};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes of payloads that the sink has not taken in yet.
const WINDOW: u64 = 2 << 20;
/// Payloads that the sink has not taken in yet: a block of zeros is a payload of a few bytes, and
/// the sink has to write them all.
const PIECES: usize = 128;
const _: () = assert!(PIECES < WRITING as usize);
/// Bytes a millisecond, of a channel that was never seen to be full.
const RATE_MAX: u64 = 1 << 20;

/// What [`Source::cut_over`] left to do.
#[derive(Debug)]
enum Phase {
    /// The guest runs.
    Copying,
    /// It stands; what is left is on its way; then the state and these bytes.
    Ending(Vec<u8>),
    /// The state, as far as it is not sent, and how much of it is the machine's.
    State { bytes: Vec<u8>, at: usize, machine: u32 },
}

/// One joining, from this side.
#[derive(Debug)]
pub struct Source {
    ram: Walk,
    disks: Vec<DiskSource>,
    policy: Precopy,
    round: u32,
    phase: Phase,
    /// Payloads that the sink has not reported: bytes, and bytes of memory or disk they stand for.
    flying: VecDeque<(u64, u64)>,
    flying_bytes: u64,
    reported: u64,
    reading: Rate,
    sending: Rate,
    /// When the window was found full, or a report came in that state.
    full_since: Option<Instant>,
    sent_bytes: u64,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Rounds begun after the first.
    pub round: u32,
    /// Bytes of memory and disks that the sink lacks, as far as known.
    pub remaining: u64,
    /// Bytes of payloads made.
    pub sent: u64,
}

impl Source {
    /// Begins: the machine lists its dirty pages from here on.
    pub fn new(machine: &mut Machine, disks: &[DiskSize], limits: Limits) -> Self {
        Self {
            ram: Walk::new(machine),
            disks: disks.iter().copied().map(DiskSource::new).collect(),
            policy: Precopy::new(limits),
            round: 0,
            phase: Phase::Copying,
            flying: VecDeque::new(),
            flying_bytes: 0,
            reported: 0,
            reading: Rate::default(),
            sending: Rate::default(),
            full_since: None,
            sent_bytes: 0,
        }
    }

    /// The next payload, at a cost of a few milliseconds at most; `None`: nothing to send at the
    /// moment.
    pub fn poll(&mut self, machine: &mut Machine) -> Option<Vec<u8>> {
        if self.is_full() {
            self.full_since.get_or_insert_with(Instant::now);
            return None;
        }
        let began = Instant::now();
        let (bytes, raw) = self.piece(machine)?;
        self.reading.add(raw, began.elapsed());
        self.flying.push_back((bytes.len() as u64, raw));
        self.flying_bytes += bytes.len() as u64;
        self.sent_bytes += bytes.len() as u64;
        Some(bytes)
    }

    fn is_full(&self) -> bool {
        self.flying_bytes >= WINDOW || self.flying.len() >= PIECES
    }

    fn piece(&mut self, machine: &mut Machine) -> Option<(Vec<u8>, u64)> {
        if let Some(bytes) = self.disks.iter_mut().find_map(DiskSource::payload) {
            let raw = bytes.len() as u64;
            return Some((bytes, raw));
        }
        if let Some(slice) = self.ram.slice(machine) {
            return Some((slice.bytes, slice.raw));
        }
        if !self.disks.iter().all(DiskSource::is_quiet) {
            return None;
        }
        match &mut self.phase {
            Phase::Copying => {
                if self.ram.remaining(machine) == 0 && self.expected() == 0 && self.round > 0 {
                    return None;
                }
                self.next_round(machine);
                self.ram.slice(machine).map(|slice| (slice.bytes, slice.raw))
            }
            Phase::Ending(extra) => {
                let mut bytes = machine.save_state();
                let of_machine = bytes.len() as u32;
                bytes.append(extra);
                self.phase = Phase::State { bytes, at: 0, machine: of_machine };
                self.state_piece()
            }
            Phase::State { .. } => self.state_piece(),
        }
    }

    fn next_round(&mut self, machine: &mut Machine) {
        self.round += 1;
        self.ram.next_round(machine);
        self.disks.iter_mut().for_each(DiskSource::take_dirty);
    }

    fn state_piece(&mut self) -> Option<(Vec<u8>, u64)> {
        let Phase::State { bytes, at, machine } = &mut self.phase else { return None };
        let (payload, len) = payload::state_part(bytes, *at, *machine)?;
        *at += len;
        Some((payload, len as u64))
    }

    /// The next request to a disk's worker.
    pub fn disk_request(&mut self) -> Option<(u8, SyncRequest)> {
        // Blocks are read no faster than they are sent.
        if self.is_full() {
            return None;
        }
        let mut requests = self.disks.iter_mut();
        requests.find_map(|disk| disk.request().map(|request| (disk.disk(), request)))
    }

    /// A worker's answer.
    ///
    /// # Errors
    /// A disk cannot be read.
    pub fn disk_answer(&mut self, synced: Synced) -> Result<(), TransferError> {
        match self.disks.iter_mut().find(|disk| disk.disk() == synced.disk) {
            Some(disk) => disk.answer(synced.answer),
            None => Ok(()),
        }
    }

    /// A payload from the sink.
    ///
    /// # Errors
    /// It is none, or does not fit.
    pub fn install(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        let (header, data) = payload::decode(bytes)?;
        match header {
            Header::Progress(count) if data.is_empty() => self.progress_to(count),
            Header::Hashes { disk, first, runs } if data.is_empty() => {
                let found = self.disks.iter_mut().find(|source| source.disk() == disk);
                found.ok_or(TransferError::Payload("no such disk"))?.theirs(first, &runs)
            }
            _ => Err(TransferError::Payload("a piece from the wrong side")),
        }
    }

    fn progress_to(&mut self, count: u64) -> Result<(), TransferError> {
        let news = count.checked_sub(self.reported).filter(|&n| n <= self.flying.len() as u64);
        let news = news.ok_or(TransferError::Payload("progress that cannot be"))?;
        self.reported = count;
        let mut raw_bytes = 0;
        for (bytes, raw) in self.flying.drain(..news as usize) {
            self.flying_bytes -= bytes;
            raw_bytes += raw;
        }
        // Only a channel that was kept busy shows how fast it is.
        if let Some(since) = self.full_since {
            self.sending.add(raw_bytes, since.elapsed());
            let busy = self.flying_bytes >= WINDOW / 2 || self.flying.len() >= PIECES / 2;
            self.full_since = busy.then(Instant::now);
        }
        Ok(())
    }

    /// How to go on, while the guest runs.
    pub fn decide(&mut self, machine: &Machine) -> Decision {
        let compared = self.disks.iter().all(DiskSource::is_compared);
        let flying: u64 = self.flying.iter().map(|(_, raw)| raw).sum();
        let remaining =
            self.lacking(machine).saturating_add(flying).saturating_add(self.expected());
        let round = if compared { self.round } else { 0 };
        self.policy.decide(&Standing { round, remaining, rate: self.rate() })
    }

    fn lacking(&self, machine: &Machine) -> u64 {
        let disks: u64 = self.disks.iter().map(DiskSource::remaining).fold(0, u64::saturating_add);
        (self.ram.remaining(machine) * PAGE as u64).saturating_add(disks)
    }

    fn expected(&self) -> u64 {
        self.disks.iter().map(DiskSource::expected).fold(0, u64::saturating_add)
    }

    /// Bytes of memory a millisecond that are read, sent and taken in.
    fn rate(&self) -> u64 {
        let (read, sent) = (self.reading.per_ms(), self.sending.per_ms());
        read.saturating_mul(sent) / read.saturating_add(sent).max(1)
    }

    /// The guest stands from here on: what is left goes out, then its state and `extra`, which is
    /// the driver's.
    pub fn cut_over(&mut self, machine: &mut Machine, extra: Vec<u8>) {
        assert!(matches!(self.phase, Phase::Copying), "once");
        self.next_round(machine);
        self.phase = Phase::Ending(extra);
    }

    /// Whether all payloads have been made.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(&self.phase, Phase::State { bytes, at, .. } if *at == bytes.len())
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self, machine: &Machine) -> Progress {
        let remaining = self.lacking(machine);
        Progress { round: self.round, remaining, sent: self.sent_bytes }
    }
}

/// Bytes over time, the last ones counting most.
#[derive(Debug, Default)]
struct Rate {
    bytes: u64,
    ns: u64,
}

impl Rate {
    fn add(&mut self, bytes: u64, time: Duration) {
        self.bytes += bytes;
        self.ns += u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4);
        if self.bytes > 16 << 20 {
            self.bytes /= 2;
            self.ns /= 2;
        }
    }

    fn per_ms(&self) -> u64 {
        if self.bytes == 0 {
            return RATE_MAX;
        }
        let rate = u128::from(self.bytes) * 1_000_000 / u128::from(self.ns.max(1));
        u64::try_from(rate).unwrap_or(RATE_MAX).clamp(1, RATE_MAX)
    }
}
