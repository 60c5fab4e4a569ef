//! A backup's own copy of a disk: it carries out the guest's requests as the primary's does, and
//! the log says which answer the guest gets when.
//!
//! Contract: the guest sees the primary's answers, bit for bit. Data comes from the own copy where
//! the log says that it is known, which may have to be waited for, else from the log. A request
//! that fails here alone is the end of this copy. The same sectors are known on both sides: see
//! [`crate::copy::DiskLog`].

use crate::copy::{Extent, Known, unpack};
use crate::wire::Answer;
use backends::disk::SECTOR;
use devices::io::{DiskOperation, DiskResult};
use std::collections::{BTreeMap, BTreeSet};

/// Numbers from here on are of requests that the guest knows nothing of.
pub const INTERNAL: u64 = 1 << 63;

/// A request that the log has not answered.
#[derive(Debug)]
struct Pending {
    operation: DiskOperation,
    /// It was made before this side had the disk.
    early: bool,
    /// What the own copy has answered.
    own: Option<DiskResult>,
}

/// One disk.
#[derive(Debug)]
pub struct Mirror {
    known: Known,
    pending: BTreeMap<u64, Pending>,
    /// Requests that the log has answered and the own copy has not; whether they may fail.
    late: BTreeMap<u64, bool>,
    /// There is no own copy: the primary's is this side's, too.
    shared: bool,
    next_internal: u64,
    writes: Vec<(u64, DiskOperation)>,
}

impl Default for Mirror {
    fn default() -> Self {
        Self::new()
    }
}

/// Why this copy cannot follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorError {
    /// The guest has not asked for what the log answers.
    Differs(&'static str),
    /// The own copy failed.
    Failed(String),
}

impl Mirror {
    /// A copy that has just been made equal.
    #[must_use]
    pub fn new() -> Self {
        Self {
            known: Known::all(),
            pending: BTreeMap::new(),
            late: BTreeMap::new(),
            shared: false,
            next_internal: INTERNAL,
            writes: Vec::new(),
        }
    }

    /// No copy, but the primary's disk: it is not asked before this side is live.
    #[must_use]
    pub fn shared() -> Self {
        Self { shared: true, ..Self::new() }
    }

    /// The guest has asked for `operation`, which goes to the own copy, too. `early`: before this
    /// side had the disk.
    pub fn ask(&mut self, request: u64, operation: DiskOperation, early: bool) {
        let early = early || self.shared;
        self.pending.insert(request, Pending { operation, early, own: None });
    }

    /// The own copy has answered.
    ///
    /// # Errors
    /// It failed where the primary's did not.
    pub fn own(&mut self, request: u64, result: DiskResult) -> Result<(), MirrorError> {
        if let Some(pending) = self.pending.get_mut(&request) {
            pending.own = Some(result);
            return Ok(());
        }
        match self.late.remove(&request) {
            Some(false) if result == DiskResult::Failed => Err(failed()),
            _ => Ok(()),
        }
    }

    /// The answer that the log gives to `request`; `None`: the own copy has to answer first.
    ///
    /// # Errors
    /// See [`MirrorError`].
    pub fn answer(
        &mut self,
        request: u64,
        answer: Answer,
        logged: &[u8],
    ) -> Result<Option<DiskResult>, MirrorError> {
        let not_asked = MirrorError::Differs("an answer to a request that was not made");
        let pending = self.pending.get(&request).ok_or(not_asked.clone())?;
        let extent = Extent::of(&pending.operation);
        let result = match (answer, extent) {
            (Answer::Failed, _) => DiskResult::Failed,
            (Answer::Done, Extent::Write(..) | Extent::Flush) => DiskResult::Done,
            (Answer::Known | Answer::Data, Extent::Read(lba, count)) => {
                match self.read(pending, lba, count, logged)? {
                    Some((data, unknown)) => {
                        self.fill_in(request, unknown);
                        DiskResult::Data(data)
                    }
                    None => return Ok(None),
                }
            }
            _ => return Err(not_asked),
        };
        let failed_there = result == DiskResult::Failed;
        let pending = self.pending.remove(&request).expect("looked at above");
        self.known.learn(extent, failed_there);
        match pending.own {
            None if self.shared => {}
            None => drop(self.late.insert(request, failed_there)),
            Some(DiskResult::Failed) if result == DiskResult::Done => return Err(failed()),
            Some(_) => {}
        }
        Ok(Some(result))
    }

    /// The data of a read, and the parts of it that the own copy lacks.
    #[expect(clippy::type_complexity)]
    fn read(
        &self,
        pending: &Pending,
        lba: u64,
        count: u64,
        logged: &[u8],
    ) -> Result<Option<(Vec<u8>, Vec<(u64, Vec<u8>)>)>, MirrorError> {
        let runs = match pending.early {
            true => vec![(lba, count, false)],
            false => self.known.runs(lba, count),
        };
        let lacking: u64 = runs.iter().filter(|run| !run.2).map(|run| run.1).sum();
        let logged = unpack(logged, lacking as usize * SECTOR)
            .map_err(|_| MirrorError::Differs("the length of a read"))?;
        let mut data = match &pending.own {
            _ if lacking == count => vec![0; count as usize * SECTOR],
            None => return Ok(None),
            Some(DiskResult::Data(data)) if data.len() == count as usize * SECTOR => data.clone(),
            Some(_) => return Err(failed()),
        };
        let (mut rest, mut unknown) = (&logged[..], Vec::new());
        for (first, n, _) in runs.into_iter().filter(|run| !run.2) {
            let at = (first - lba) as usize * SECTOR;
            let (part, later) = rest.split_at(n as usize * SECTOR);
            data[at..at + part.len()].copy_from_slice(part);
            if !pending.early {
                unknown.push((first, part.to_vec()));
            }
            rest = later;
        }
        Ok(Some((data, unknown)))
    }

    /// Has the own copy take what it lacks, unless the guest is about to write there.
    fn fill_in(&mut self, request: u64, parts: Vec<(u64, Vec<u8>)>) {
        for (lba, data) in parts {
            let (first, end) = (lba, lba + (data.len() / SECTOR) as u64);
            let later = self.pending.iter().any(|(number, pending)| {
                *number != request
                    && matches!(Extent::of(&pending.operation),
                        Extent::Write(at, n) if at < end && first < at + n)
            });
            if !later {
                self.late.insert(self.next_internal, false);
                self.writes.push((self.next_internal, DiskOperation::Write { lba, data }));
                self.next_internal += 1;
            }
        }
    }

    /// What the own copy is to write besides what the guest asks for.
    pub fn take_writes(&mut self) -> Vec<(u64, DiskOperation)> {
        std::mem::take(&mut self.writes)
    }

    /// The machine goes live with this copy: its requests that wait for an answer, in order, with
    /// the answer if it is there; and those whose answers the guest has had already.
    #[expect(clippy::type_complexity)]
    #[must_use]
    pub fn into_live(self) -> (Vec<(u64, DiskOperation, Option<DiskResult>)>, BTreeSet<u64>) {
        let pending = self.pending.into_iter();
        let pending = pending.map(|(number, pending)| (number, pending.operation, pending.own));
        (pending.collect(), self.late.into_keys().collect())
    }
}

fn failed() -> MirrorError {
    MirrorError::Failed("this side's disk failed where the primary's did not".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::{DiskLog, decode_answer};
    use crate::slices::Slices;
    use backends::disk::Disk;
    use backends::disk::memory::MemoryDisk;
    use backends::disk::worker::perform;

    const SECTORS: u64 = 64;

    fn random(numbers: &mut Slices, len: usize) -> Vec<u8> {
        (0..len).map(|_| numbers.number() as u8).collect()
    }

    fn operation(numbers: &mut Slices) -> DiskOperation {
        let lba = numbers.number() % (SECTORS - 4);
        let sectors = (numbers.number() % 4 + 1) as u32;
        match numbers.number() % 8 {
            0..3 => DiskOperation::Write { lba, data: random(numbers, sectors as usize * SECTOR) },
            3 => DiskOperation::Flush,
            _ => DiskOperation::Read { lba, sectors },
        }
    }

    /// The primary's disk and the own copy, which is given requests in the same order and later.
    struct Pair {
        there: MemoryDisk,
        here: MemoryDisk,
        log: DiskLog,
        mirror: Mirror,
    }

    impl Pair {
        /// The primary's answer to a request; `fails`: its disk fails, and has written anything.
        fn there(&mut self, operation: &DiskOperation, fails: Option<Vec<u8>>) -> DiskResult {
            match (fails, operation) {
                (None, _) => perform(&mut self.there, 0, operation),
                (Some(rubbish), DiskOperation::Write { lba, .. }) => {
                    self.there.write(*lba, &rubbish).expect("inside");
                    DiskResult::Failed
                }
                (Some(_), _) => DiskResult::Failed,
            }
        }

        /// The log's answer, as the guest here gets it.
        fn answer(&mut self, request: u64, result: &DiskResult, own: &DiskOperation) {
            let bytes = self.log.answer(0, request, result);
            let (_, _, answer, data) = decode_answer(&bytes).expect("an answer");
            let mut seen = self.mirror.answer(request, answer, data).expect("it follows");
            if seen.is_none() {
                let done = perform(&mut self.here, 0, own);
                self.mirror.own(request, done).expect("it works");
                seen = self.mirror.answer(request, answer, data).expect("it follows");
            } else {
                // The own copy is late.
                let done = perform(&mut self.here, 0, own);
                self.mirror.own(request, done).expect("it works");
            }
            assert_eq!(seen.as_ref(), Some(result), "request {request}");
            for (number, write) in self.mirror.take_writes() {
                let done = perform(&mut self.here, 0, &write);
                self.mirror.own(number, done).expect("it works");
            }
        }
    }

    #[test]
    fn the_guest_sees_the_primarys_answers() {
        for seed in 1..20 {
            let mut numbers = Slices::new(seed);
            let content = random(&mut numbers, SECTORS as usize * SECTOR);
            let (there, here) = (MemoryDisk::new(content.clone()), MemoryDisk::new(content));
            let (log, mirror) = (DiskLog::new(true), Mirror::new());
            let mut pair = Pair { there, here, log, mirror };
            for request in 0..400 {
                let operation = operation(&mut numbers);
                pair.log.ask(request, &operation);
                pair.mirror.ask(request, operation.clone(), false);
                let fails = numbers.number().is_multiple_of(16);
                let fails = fails.then(|| random(&mut numbers, SECTOR));
                let result = pair.there(&operation, fails);
                pair.answer(request, &result, &operation);
            }
        }
    }

    #[test]
    fn requests_from_before_the_joining_are_answered_by_the_log() {
        let mut log = DiskLog::new(true);
        let mut mirror = Mirror::new();
        let read = DiskOperation::Read { lba: 2, sectors: 1 };
        log.ask(7, &read);
        log.reader_joins();
        mirror.ask(7, read.clone(), true);
        // The primary had read it before a later write that the copy has already.
        let result = DiskResult::Data(vec![1; SECTOR]);
        let bytes = log.answer(0, 7, &result);
        let (_, _, answer, data) = decode_answer(&bytes).expect("an answer");
        assert_eq!(answer, Answer::Data);
        assert_eq!(mirror.answer(7, answer, data), Ok(Some(result)));
        assert!(mirror.take_writes().is_empty(), "the copy stays as it is");
        // On a shared disk it is always so.
        let (mut log, mut mirror) = (DiskLog::shared(), Mirror::shared());
        log.ask(8, &read);
        mirror.ask(8, read, false);
        let result = DiskResult::Data(vec![2; SECTOR]);
        let bytes = log.answer(0, 8, &result);
        let (_, _, answer, data) = decode_answer(&bytes).expect("an answer");
        assert_eq!(mirror.answer(8, answer, data), Ok(Some(result)));
    }

    #[test]
    fn what_does_not_fit_is_noticed() {
        let mut mirror = Mirror::new();
        let differs = |result| matches!(result, Err(MirrorError::Differs(_)));
        assert!(differs(mirror.answer(0, Answer::Done, &[])), "not asked for");
        mirror.ask(1, DiskOperation::Read { lba: 0, sectors: 1 }, false);
        assert!(differs(mirror.answer(1, Answer::Done, &[])), "a read has data");
        assert!(differs(mirror.answer(1, Answer::Known, &[1, 2, 3])), "too much data");
        // This side's disk fails where the primary's did not.
        mirror.own(1, DiskResult::Failed).expect("not known to be wrong yet");
        let failed = |result| matches!(result, Err(MirrorError::Failed(_)));
        assert!(failed(mirror.answer(1, Answer::Known, &[])));
        mirror.ask(2, DiskOperation::Flush, false);
        assert_eq!(mirror.answer(2, Answer::Done, &[]), Ok(Some(DiskResult::Done)));
        assert!(mirror.own(2, DiskResult::Failed).is_err());
        mirror.ask(3, DiskOperation::Flush, false);
        mirror.own(3, DiskResult::Done).expect("fine");
        assert_eq!(mirror.answer(3, Answer::Failed, &[]), Ok(Some(DiskResult::Failed)));
    }

    #[test]
    fn what_the_guest_had_no_answer_to_goes_live_with_it() {
        let mut mirror = Mirror::new();
        for request in 0..3 {
            mirror.ask(request, DiskOperation::Flush, false);
        }
        mirror.answer(0, Answer::Done, &[]).expect("asked for");
        mirror.own(1, DiskResult::Done).expect("fine");
        let (pending, late) = mirror.into_live();
        let numbers: Vec<_> = pending.iter().map(|(n, _, own)| (*n, own.is_some())).collect();
        assert_eq!(numbers, [(1, true), (2, false)]);
        assert_eq!(late.into_iter().collect::<Vec<_>>(), [0]);
    }
}
