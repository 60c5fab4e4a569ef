//! What a replayer knows of a disk, and how the answers of disks are logged.
//!
//! Contract: recorder and replayer go through the same answers in the same order and keep the same
//! set of known sectors: those read or written before. The log holds the data of unknown ones only.
//! A disk that the log names by its content is known from the start.
//!
//! Of a disk that two sides share, either all data is in the log, or the log's reader reads for
//! itself. Then a read that overlaps a write which has no answer is in the log all the same, since
//! nobody can tell which of the two came first; of other reads, the log has a hash. What they read
//! must stay on the disk until the reader has it: see [`DiskLog::overwrites_unread`].

use crate::wire::{Answer, Header, decode, encode};
use backends::disk::overlay::{SectorSet, unnamed_file};
use backends::disk::{Disk, SECTOR};
use devices::io::{DiskOperation, DiskResult};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use xxhash_rust::xxh3::xxh3_64;

/// What a request does to which sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Read(u64, u64),
    Write(u64, u64),
    Flush,
}

impl Extent {
    pub(crate) fn of(operation: &DiskOperation) -> Self {
        match operation {
            DiskOperation::Read { lba, sectors } => Self::Read(*lba, (*sectors).into()),
            DiskOperation::Write { lba, data } => Self::Write(*lba, (data.len() / SECTOR) as u64),
            DiskOperation::Flush => Self::Flush,
        }
    }
}

impl Extent {
    /// Whether both have a sector.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Flush, _) | (_, Self::Flush) => false,
            (Self::Read(a, n) | Self::Write(a, n), Self::Read(b, m) | Self::Write(b, m)) => {
                *a < b.saturating_add(*m) && *b < a.saturating_add(*n)
            }
        }
    }
}

/// Sectors known to the replayer.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    /// All but these.
    But(SectorSet),
    /// These.
    Only(SectorSet),
}

impl Known {
    /// All of the disk.
    pub(crate) fn all() -> Self {
        Self::But(SectorSet::default())
    }

    /// Splits sectors into runs of (first, count, whether known).
    pub(crate) fn runs(&self, lba: u64, count: u64) -> Vec<(u64, u64, bool)> {
        match self {
            Self::But(set) => {
                let mut runs = set.runs(lba, count);
                runs.iter_mut().for_each(|run| run.2 = !run.2);
                runs
            }
            Self::Only(set) => set.runs(lba, count),
        }
    }

    fn set(&mut self, lba: u64, count: u64, known: bool) {
        let (set, inside) = match self {
            Self::But(set) => (set, !known),
            Self::Only(set) => (set, known),
        };
        if inside { set.insert(lba, count) } else { set.remove(lba, count) }
    }

    /// A request on these sectors was answered.
    pub(crate) fn learn(&mut self, extent: Extent, failed: bool) {
        match extent {
            Extent::Read(lba, count) if !failed => self.set(lba, count, true),
            // After a failure the sectors may hold anything.
            Extent::Write(lba, count) => self.set(lba, count, !failed),
            Extent::Read(..) | Extent::Flush => {}
        }
    }
}

/// How the log's reader gets what is read from a disk that it shares with the log's writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// From the log.
    Log,
    /// From the disk.
    Backup,
}

/// What a read that was logged without its data must have given.
#[must_use]
pub(crate) fn data_hash(data: &[u8]) -> [u8; 8] {
    xxh3_64(data).to_le_bytes()
}

/// The recorder's side.
#[derive(Clone, Debug)]
pub struct DiskLog {
    known: Known,
    /// What has been asked and not been answered.
    pending: BTreeMap<u64, Extent>,
    /// Of this, what was asked before the log's reader had the disk.
    early: BTreeSet<u64>,
    /// The reader has no copy.
    shared: Option<Reads>,
    /// A read that has just been answered without its data.
    answered: Option<(u64, u64)>,
    /// Reads that the reader may not have made: number of the entry, and sectors.
    unread: VecDeque<(u64, u64, u64)>,
}

impl DiskLog {
    /// A disk of which the replayer knows nothing; with `named`, one that the log names by its
    /// content.
    #[must_use]
    pub fn new(named: bool) -> Self {
        let known = if named { Known::all() } else { Known::Only(SectorSet::default()) };
        let (pending, early) = (BTreeMap::new(), BTreeSet::new());
        Self { known, pending, early, shared: None, answered: None, unread: VecDeque::new() }
    }

    /// A disk of which the log's reader has no copy of its own.
    #[must_use]
    pub fn shared(reads: Reads) -> Self {
        Self { shared: Some(reads), ..Self::new(true) }
    }

    /// A reader begins here who has the disk as it is, but need not have it as it was when requests
    /// read it that wait for their answer.
    pub fn reader_joins(&mut self) {
        self.known = Known::all();
        self.early = self.pending.keys().copied().collect();
        self.unread.clear();
    }

    /// The guest has asked for `operation`.
    pub fn ask(&mut self, request: u64, operation: &DiskOperation) {
        let new = Extent::of(operation);
        if self.shared == Some(Reads::Backup) {
            for (&old, extent) in &self.pending {
                match (extent, &new) {
                    (Extent::Read(..), Extent::Write(..)) if extent.overlaps(&new) => {
                        self.early.insert(old);
                    }
                    (Extent::Write(..), Extent::Read(..)) if extent.overlaps(&new) => {
                        self.early.insert(request);
                    }
                    _ => {}
                }
            }
        }
        self.pending.insert(request, new);
    }

    /// The answer that was last asked for is entry `seq` of the log; the reader has executed those
    /// below `executed`.
    pub fn logged(&mut self, seq: u64, executed: u64) {
        self.forget_read(executed);
        self.unread.extend(self.answered.take().map(|(lba, count)| (seq, lba, count)));
    }

    fn forget_read(&mut self, executed: u64) {
        while self.unread.front().is_some_and(|(seq, ..)| *seq < executed) {
            self.unread.pop_front();
        }
    }

    /// Whether `operation` must wait until the reader, who has executed the entries below
    /// `executed`, has executed all there are: it overwrites what one of them reads.
    #[must_use]
    pub fn overwrites_unread(&mut self, operation: &DiskOperation, executed: u64) -> bool {
        self.forget_read(executed);
        let DiskOperation::Write { .. } = operation else { return false };
        let write = Extent::of(operation);
        self.unread.iter().any(|&(_, lba, count)| write.overlaps(&Extent::Read(lba, count)))
    }

    /// The same, by what it does to which sectors, where the reader has no copy.
    pub(crate) fn ask_extent(&mut self, request: u64, extent: Extent) {
        self.pending.insert(request, extent);
    }

    /// The guest gets an answer that nobody reads of.
    pub fn answer_unlogged(&mut self, request: u64) {
        self.pending.remove(&request);
        self.early.remove(&request);
    }

    /// The bytes that log the answer `result` of disk `disk` to `request`.
    pub fn answer(&mut self, disk: u8, request: u64, result: &DiskResult) -> Vec<u8> {
        let extent = self.pending.remove(&request);
        let early = self.early.remove(&request);
        let header = |answer| Header::DiskDone { disk, request, answer };
        let bytes = match (result, extent) {
            (DiskResult::Done, _) => encode(&header(Answer::Done), &[]),
            (DiskResult::Failed, _) => encode(&header(Answer::Failed), &[]),
            (DiskResult::Data(data), Some(Extent::Read(lba, count))) => {
                if !early && self.shared == Some(Reads::Backup) {
                    self.answered = Some((lba, count));
                    return encode(&header(Answer::Hash), &data_hash(data));
                }
                let early = early || self.shared.is_some();
                let unknown = if early { data.clone() } else { self.unknown(lba, count, data) };
                if unknown.is_empty() {
                    encode(&header(Answer::Known), &[])
                } else {
                    encode(&header(Answer::Data), &lz4_flex::compress(&unknown))
                }
            }
            (DiskResult::Data(_), _) => unreachable!("data answers a read"),
        };
        if let Some(extent) = extent {
            self.known.learn(extent, *result == DiskResult::Failed);
        }
        bytes
    }

    fn unknown(&self, lba: u64, count: u64, data: &[u8]) -> Vec<u8> {
        let mut unknown = Vec::new();
        for (first, n, known) in self.known.runs(lba, count) {
            if !known {
                let at = (first - lba) as usize * SECTOR;
                unknown.extend_from_slice(&data[at..at + n as usize * SECTOR]);
            }
        }
        unknown
    }
}

/// Where a replayer keeps the sectors that it knows.
enum Store {
    /// A file without a name.
    File(File),
    /// The image that the log names, with throw-away writes.
    Disk(Box<dyn Disk>),
}

/// The replayer's side.
pub struct DiskCopy {
    known: Known,
    /// What has been asked and not been answered.
    pending: BTreeMap<u64, DiskOperation>,
    sectors: u64,
    store: Store,
}

/// Why an answer in a log cannot be replayed.
#[derive(Debug)]
pub enum CopyError {
    /// The guest has not asked for what the log answers.
    NotAsked,
    /// The log's data does not fit the request.
    Data,
    /// The host's failure.
    Io(io::Error),
}

impl From<io::Error> for CopyError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl DiskCopy {
    /// A disk of `sectors`, of which nothing is known.
    ///
    /// # Errors
    /// The host has no room for temporary files.
    pub fn unknown(sectors: u64) -> io::Result<Self> {
        Ok(Self {
            known: Known::Only(SectorSet::default()),
            pending: BTreeMap::new(),
            sectors,
            store: Store::File(unnamed_file()?),
        })
    }

    /// The disk that the log names; its writes must be thrown away.
    #[must_use]
    pub fn named(disk: Box<dyn Disk>) -> Self {
        Self {
            known: Known::all(),
            pending: BTreeMap::new(),
            sectors: disk.sectors(),
            store: Store::Disk(disk),
        }
    }

    /// The guest has asked for `operation`.
    pub fn ask(&mut self, request: u64, operation: DiskOperation) {
        self.pending.insert(request, operation);
    }

    /// The answer that the log gives to `request`.
    ///
    /// # Errors
    /// The guest has not asked for this: it has taken another path than the recorded one.
    pub fn answer(
        &mut self,
        request: u64,
        answer: Answer,
        data: &[u8],
    ) -> Result<DiskResult, CopyError> {
        let operation = self.pending.remove(&request).ok_or(CopyError::NotAsked)?;
        let result = match (answer, &operation) {
            (Answer::Failed, _) => DiskResult::Failed,
            (Answer::Done, DiskOperation::Write { lba, data }) => {
                self.check(*lba, (data.len() / SECTOR) as u64)?;
                self.write(*lba, data)?;
                DiskResult::Done
            }
            (Answer::Done, DiskOperation::Flush) => DiskResult::Done,
            (Answer::Known | Answer::Data, DiskOperation::Read { lba, sectors }) => {
                self.check(*lba, (*sectors).into())?;
                DiskResult::Data(self.read(*lba, (*sectors).into(), data)?)
            }
            _ => return Err(CopyError::NotAsked),
        };
        self.known.learn(Extent::of(&operation), result == DiskResult::Failed);
        Ok(result)
    }

    fn check(&self, lba: u64, count: u64) -> Result<(), CopyError> {
        let inside = lba.checked_add(count).is_some_and(|end| end <= self.sectors);
        if inside { Ok(()) } else { Err(CopyError::NotAsked) }
    }

    fn read(&mut self, lba: u64, count: u64, logged: &[u8]) -> Result<Vec<u8>, CopyError> {
        let runs = self.known.runs(lba, count);
        let unknown: u64 = runs.iter().filter(|(_, _, known)| !known).map(|(_, n, _)| n).sum();
        let logged = unpack(logged, unknown as usize * SECTOR)?;
        let mut rest = &logged[..];
        let mut data = vec![0; count as usize * SECTOR];
        for (first, n, known) in runs {
            let at = (first - lba) as usize * SECTOR;
            let part = &mut data[at..at + n as usize * SECTOR];
            if known {
                match &mut self.store {
                    Store::File(file) => file.read_exact_at(part, first * SECTOR as u64)?,
                    Store::Disk(disk) => disk.read(first, part)?,
                }
            } else {
                let (new, later) = rest.split_at(part.len());
                part.copy_from_slice(new);
                rest = later;
                self.write(first, new)?;
            }
        }
        Ok(data)
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> io::Result<()> {
        match &mut self.store {
            Store::File(file) => file.write_all_at(data, lba * SECTOR as u64),
            Store::Disk(disk) => disk.write(lba, data),
        }
    }
}

/// Unpacks exactly `len` bytes.
pub(crate) fn unpack(packed: &[u8], len: usize) -> Result<Vec<u8>, CopyError> {
    if len == 0 && packed.is_empty() {
        return Ok(Vec::new());
    }
    match lz4_flex::decompress(packed, len) {
        Ok(data) if data.len() == len => Ok(data),
        _ => Err(CopyError::Data),
    }
}

/// Takes the answer of a disk apart: disk, request, answer and data; `None`: the entry is another
/// one.
#[must_use]
pub fn decode_answer(bytes: &[u8]) -> Option<(u8, u64, Answer, &[u8])> {
    match decode(bytes)? {
        (Header::DiskDone { disk, request, answer }, data) => Some((disk, request, answer, data)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slices::Slices;
    use backends::disk::memory::MemoryDisk;
    use backends::disk::worker::perform;

    fn random(numbers: &mut Slices, len: usize) -> Vec<u8> {
        (0..len).map(|_| numbers.number() as u8 & 3).collect()
    }

    /// Random requests, some failing, answered in order with a delay, give the replayer what the
    /// disk gave.
    #[test]
    fn the_replayer_sees_what_the_disk_gave() {
        let mut numbers = Slices::new(7);
        let mut disk = MemoryDisk::new(random(&mut numbers, 64 * SECTOR));
        let mut log = DiskLog::new(false);
        let mut copy = DiskCopy::unknown(64).expect("temporary file");
        let mut queue = std::collections::VecDeque::new();
        let (mut known, mut logged) = (0, 0);
        for request in 0..2000 {
            let lba = numbers.number() % 60;
            let sectors = (numbers.number() % 4 + 1) as u32;
            let operation = match numbers.number() % 8 {
                0..3 => DiskOperation::Write {
                    lba,
                    data: random(&mut numbers, sectors as usize * SECTOR),
                },
                3 => DiskOperation::Flush,
                _ => DiskOperation::Read { lba, sectors },
            };
            log.ask(request, &operation);
            copy.ask(request, operation.clone());
            queue.push_back((request, operation));
            while queue.len() > (numbers.number() % 5) as usize {
                let (request, operation) = queue.pop_front().expect("not empty");
                let mut result = perform(&mut disk, 1, &operation);
                if numbers.number().is_multiple_of(16) {
                    // A failed write may have written anything.
                    if let DiskOperation::Write { lba, .. } = operation {
                        disk.write(lba, &random(&mut numbers, SECTOR)).expect("inside");
                    }
                    result = DiskResult::Failed;
                }
                let bytes = log.answer(1, request, &result);
                let (disk, same, answer, data) = decode_answer(&bytes).expect("an answer");
                assert_eq!((disk, same), (1, request));
                known += u32::from(answer == Answer::Known);
                logged += u32::from(answer == Answer::Data);
                let replayed = copy.answer(request, answer, data).expect("asked for");
                assert_eq!(replayed, result);
            }
        }
        assert!(known > logged && logged > 10, "{known} known, {logged} logged");
    }

    #[test]
    fn answers_that_do_not_fit_are_refused() {
        let mut copy = DiskCopy::unknown(8).expect("temporary file");
        let refused = |result| matches!(result, Err(CopyError::NotAsked | CopyError::Data));
        assert!(refused(copy.answer(0, Answer::Done, &[])), "not asked for");
        for (answer, data) in [
            (Answer::Done, &[][..]),
            (Answer::Known, &[][..]),
            (Answer::Data, &[1, 2, 3][..]),
            (Answer::Data, &lz4_flex::compress(&[0; SECTOR])[..]),
        ] {
            copy.ask(1, DiskOperation::Read { lba: 0, sectors: 2 });
            assert!(refused(copy.answer(1, answer, data)), "{answer:?}");
        }
        copy.ask(2, DiskOperation::Read { lba: 7, sectors: 2 });
        assert!(refused(copy.answer(2, Answer::Known, &[])), "outside the disk");
    }

    #[test]
    fn a_named_disk_costs_nothing() {
        let mut log = DiskLog::new(true);
        log.ask(5, &DiskOperation::Read { lba: 3, sectors: 1 });
        let bytes = log.answer(0, 5, &DiskResult::Data(vec![7; SECTOR]));
        assert!(bytes.len() <= 4);
        let mut copy = DiskCopy::named(Box::new(MemoryDisk::new(vec![7; 8 * SECTOR])));
        copy.ask(5, DiskOperation::Read { lba: 3, sectors: 1 });
        let (_, _, answer, data) = decode_answer(&bytes).expect("an answer");
        let replayed = copy.answer(5, answer, data).expect("asked for");
        assert_eq!(replayed, DiskResult::Data(vec![7; SECTOR]));
    }
}
