//! A backup's own copy of a disk: it carries out the guest's requests as the primary's does, and
//! the log says which answer the guest gets when.
//!
//! Contract: the guest sees the primary's answers, bit for bit. Data comes from the own copy where
//! the log says that it is known, which may have to be waited for, else from the log. A request
//! that fails here alone is the end of this copy. The same sectors are known on both sides: see
//! [`crate::copy::DiskLog`].
//!
//! Where the disk is the primary's, data comes from the log, or from that disk: it is read until it
//! is what the primary has read. The primary leaves it there until then, so what differs or fails
//! is this host's matter (a cache, a connection), and may end.

use crate::copy::{Extent, Known, Reads, data_hash, unpack};
use crate::wire::Answer;
use backends::disk::SECTOR;
use devices::io::{DiskOperation, DiskResult};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Numbers from here on are of requests that the guest knows nothing of.
pub const INTERNAL: u64 = 1 << 63;

/// A request that the log has not answered.
#[derive(Debug)]
struct Pending {
    operation: DiskOperation,
    /// It was made before this side had the disk.
    early: bool,
    /// It has been asked for here, and not been answered.
    asked: bool,
    /// What the own copy has answered.
    own: Option<DiskResult>,
}

/// A read that does not give what the primary has read.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    since: Instant,
    /// When it is tried again.
    again: Instant,
}

/// Between two attempts at such a read.
const PAUSE: Duration = Duration::from_millis(20);

/// One disk.
#[derive(Debug)]
pub struct Mirror {
    known: Known,
    pending: BTreeMap<u64, Pending>,
    /// Requests that the log has answered and the own copy has not; whether they may fail.
    late: BTreeMap<u64, bool>,
    /// There is no own copy: the primary's is this side's, too.
    shared: Option<Reads>,
    trouble: Option<Trouble>,
    next_internal: u64,
    requests: Vec<(u64, DiskOperation)>,
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
            shared: None,
            trouble: None,
            next_internal: INTERNAL,
            requests: Vec::new(),
        }
    }

    /// No copy, but the primary's disk, which is not written before this side is live.
    #[must_use]
    pub fn shared(reads: Reads) -> Self {
        Self { shared: Some(reads), ..Self::new() }
    }

    /// The guest has asked for `operation`. `early`: before this side had the disk. Whether the
    /// request is for this side's disk, too.
    #[must_use]
    pub fn ask(&mut self, request: u64, operation: DiskOperation, early: bool) -> bool {
        let asked = match self.shared {
            None => true,
            Some(Reads::Log) => false,
            Some(Reads::Backup) => !early && matches!(operation, DiskOperation::Read { .. }),
        };
        self.pending.insert(request, Pending { operation, early, asked, own: None });
        asked
    }

    /// For how long what the log wants read cannot be read here.
    #[must_use]
    pub fn troubled(&self) -> Option<Duration> {
        self.trouble.map(|trouble| trouble.since.elapsed())
    }

    /// When that is to be tried again.
    #[must_use]
    pub fn retry(&self) -> Option<Duration> {
        self.trouble.map(|trouble| trouble.again.saturating_duration_since(Instant::now()))
    }

    /// Requests that the log has not answered, in order.
    pub fn pending(&self) -> impl Iterator<Item = (u64, &DiskOperation)> {
        self.pending.iter().map(|(number, pending)| (*number, &pending.operation))
    }

    /// The own copy has answered.
    ///
    /// # Errors
    /// It failed where the primary's did not.
    pub fn own(&mut self, request: u64, result: DiskResult) -> Result<(), MirrorError> {
        if let Some(pending) = self.pending.get_mut(&request) {
            pending.asked = false;
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
            (Answer::Hash, Extent::Read(..)) => match self.reread(request, logged)? {
                Some(data) => DiskResult::Data(data),
                None => return Ok(None),
            },
            _ => return Err(not_asked),
        };
        let failed_there = result == DiskResult::Failed;
        let pending = self.pending.remove(&request).expect("looked at above");
        self.known.learn(extent, failed_there);
        match pending.own {
            None if !pending.asked => {}
            None => drop(self.late.insert(request, failed_there || self.shared.is_some())),
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
        let travels = pending.early || self.shared.is_some();
        let runs = match travels {
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
            if !travels {
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
                self.requests.push((self.next_internal, DiskOperation::Write { lba, data }));
                self.next_internal += 1;
            }
        }
    }

    /// What a disk that is the primary's gives for a read, if it is what the primary has read.
    fn reread(&mut self, request: u64, hash: &[u8]) -> Result<Option<Vec<u8>>, MirrorError> {
        let pending = self.pending.get_mut(&request).expect("looked at by the caller");
        if pending.early || self.shared != Some(Reads::Backup) || hash.len() != 8 {
            return Err(MirrorError::Differs("a read that was to be in the log"));
        }
        match pending.own.take() {
            None if pending.asked => return Ok(None),
            None => {}
            Some(DiskResult::Data(data)) if data_hash(&data) == hash => {
                self.trouble = None;
                return Ok(Some(data));
            }
            Some(_) => {
                let now = Instant::now();
                let since = self.trouble.map_or(now, |trouble| trouble.since);
                self.trouble = Some(Trouble { since, again: now + PAUSE });
            }
        }
        let now = Instant::now();
        if self.trouble.is_none_or(|trouble| trouble.again <= now) {
            if let Some(trouble) = &mut self.trouble {
                trouble.again = now + PAUSE;
            }
            pending.asked = true;
            self.requests.push((request, pending.operation.clone()));
        }
        Ok(None)
    }

    /// What this side's disk is to do besides what the guest has just asked for.
    pub fn take_requests(&mut self) -> Vec<(u64, DiskOperation)> {
        std::mem::take(&mut self.requests)
    }

    /// The machine goes live with this copy: its requests that wait for an answer, in order, with
    /// the answer if it is there; and those whose answers the guest has had already.
    #[expect(clippy::type_complexity)]
    #[must_use]
    pub fn into_live(self) -> (Vec<(u64, DiskOperation, Option<DiskResult>)>, BTreeSet<u64>) {
        let mut late: BTreeSet<u64> = self.late.into_keys().collect();
        let shared = self.shared.is_some();
        // A shared disk is asked for everything again: what it gave before is of no use.
        late.extend(self.pending.iter().filter(|(_, p)| shared && p.asked).map(|(n, _)| *n));
        let pending = self.pending.into_iter().map(|(number, Pending { operation, own, .. })| {
            (number, operation, own.filter(|_| !shared))
        });
        (pending.collect(), late)
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
            for (number, write) in self.mirror.take_requests() {
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
                let _ = pair.mirror.ask(request, operation.clone(), false);
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
        let _ = mirror.ask(7, read.clone(), true);
        // The primary had read it before a later write that the copy has already.
        let result = DiskResult::Data(vec![1; SECTOR]);
        let bytes = log.answer(0, 7, &result);
        let (_, _, answer, data) = decode_answer(&bytes).expect("an answer");
        assert_eq!(answer, Answer::Data);
        assert_eq!(mirror.answer(7, answer, data), Ok(Some(result)));
        assert!(mirror.take_requests().is_empty(), "the copy stays as it is");
        // On a shared disk it is always so.
        let (mut log, mut mirror) = (DiskLog::shared(Reads::Log), Mirror::shared(Reads::Log));
        log.ask(8, &read);
        let _ = mirror.ask(8, read, false);
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
        let _ = mirror.ask(1, DiskOperation::Read { lba: 0, sectors: 1 }, false);
        assert!(differs(mirror.answer(1, Answer::Done, &[])), "a read has data");
        assert!(differs(mirror.answer(1, Answer::Known, &[1, 2, 3])), "too much data");
        // This side's disk fails where the primary's did not.
        mirror.own(1, DiskResult::Failed).expect("not known to be wrong yet");
        let failed = |result| matches!(result, Err(MirrorError::Failed(_)));
        assert!(failed(mirror.answer(1, Answer::Known, &[])));
        let _ = mirror.ask(2, DiskOperation::Flush, false);
        assert_eq!(mirror.answer(2, Answer::Done, &[]), Ok(Some(DiskResult::Done)));
        assert!(mirror.own(2, DiskResult::Failed).is_err());
        let _ = mirror.ask(3, DiskOperation::Flush, false);
        mirror.own(3, DiskResult::Done).expect("fine");
        assert_eq!(mirror.answer(3, Answer::Failed, &[]), Ok(Some(DiskResult::Failed)));
    }

    #[test]
    fn what_the_guest_had_no_answer_to_goes_live_with_it() {
        let mut mirror = Mirror::new();
        for request in 0..3 {
            let _ = mirror.ask(request, DiskOperation::Flush, false);
        }
        mirror.answer(0, Answer::Done, &[]).expect("asked for");
        mirror.own(1, DiskResult::Done).expect("fine");
        let (pending, late) = mirror.into_live();
        let numbers: Vec<_> = pending.iter().map(|(n, _, own)| (*n, own.is_some())).collect();
        assert_eq!(numbers, [(1, true), (2, false)]);
        assert_eq!(late.into_iter().collect::<Vec<_>>(), [0]);
    }
}
