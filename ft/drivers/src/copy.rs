//! What a replayer knows of a disk, and how the answers of disks are logged.
//!
//! Contract: recorder and replayer go through the same answers in the same order and keep the same
//! set of known sectors: those read or written before. The log holds the data of unknown ones only.
//! A disk that the log names by its content is known from the start.

use crate::wire::{Answer, Header, decode, encode};
use backends::disk::overlay::{SectorSet, unnamed_file};
use backends::disk::{Disk, SECTOR};
use devices::io::{DiskOperation, DiskResult};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

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

/// The recorder's side.
#[derive(Clone, Debug)]
pub struct DiskLog {
    known: Known,
    /// What has been asked and not been answered.
    pending: BTreeMap<u64, Extent>,
    /// Of this, what was asked before the log's reader had the disk.
    early: BTreeSet<u64>,
    /// The reader has no copy: all data is for the log.
    shared: bool,
}

impl DiskLog {
    /// A disk of which the replayer knows nothing; with `named`, one that the log names by its
    /// content.
    #[must_use]
    pub fn new(named: bool) -> Self {
        let known = if named { Known::all() } else { Known::Only(SectorSet::default()) };
        Self { known, pending: BTreeMap::new(), early: BTreeSet::new(), shared: false }
    }

    /// A disk of which the log's reader has no copy of its own.
    #[must_use]
    pub fn shared() -> Self {
        Self { shared: true, ..Self::new(true) }
    }

    /// A reader begins here who has the disk as it is, but need not have it as it was when requests
    /// read it that wait for their answer.
    pub fn reader_joins(&mut self) {
        self.known = Known::all();
        self.early = self.pending.keys().copied().collect();
    }

    /// The guest has asked for `operation`.
    pub fn ask(&mut self, request: u64, operation: &DiskOperation) {
        self.pending.insert(request, Extent::of(operation));
    }

    /// The guest gets an answer that nobody reads of.
    pub fn answer_unlogged(&mut self, request: u64) {
        self.pending.remove(&request);
    }

    /// The bytes that log the answer `result` of disk `disk` to `request`.
    pub fn answer(&mut self, disk: u8, request: u64, result: &DiskResult) -> Vec<u8> {
        let extent = self.pending.remove(&request);
        let header = |answer| Header::DiskDone { disk, request, answer };
        let bytes = match (result, extent) {
            (DiskResult::Done, _) => encode(&header(Answer::Done), &[]),
            (DiskResult::Failed, _) => encode(&header(Answer::Failed), &[]),
            (DiskResult::Data(data), Some(Extent::Read(lba, count))) => {
                let early = self.early.remove(&request) || self.shared;
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
