//! A backup that reads a shared disk itself: whatever the order of things, it reads what the
//! primary has read, since the primary holds back what would overwrite it.

use backends::disk::memory::MemoryDisk;
use backends::disk::worker::perform;
use backends::disk::{Disk, SECTOR};
use devices::io::{DiskOperation, DiskResult};
use drivers::copy::{DiskLog, Reads, decode_answer};
use drivers::mirror::Mirror;
use drivers::slices::Slices;
use drivers::wire::Answer;
use std::collections::VecDeque;

const SECTORS: u64 = 16;

type Job = (u64, DiskOperation);

/// A write that waits at the gate.
struct Held {
    job: Job,
    received: usize,
    executed: usize,
}

/// Two sides, their log and their disk.
struct World {
    numbers: Slices,
    /// The primary minds what the backup has not read.
    careful: bool,
    disk: MemoryDisk,
    log: DiskLog,
    mirror: Mirror,
    /// Requests, and how many entries the log had when they were made.
    asked: Vec<(usize, Job)>,
    /// Entries, and what they tell the guest.
    entries: Vec<(Vec<u8>, DiskResult)>,
    outstanding: usize,
    held: VecDeque<Held>,
    queue: VecDeque<Job>,
    /// What the primary knows of the backup: entries received and executed.
    acknowledged: (usize, usize),
    /// The backup's requests made, and entries executed.
    issued: usize,
    executed: usize,
    reads: VecDeque<Job>,
    hashes: usize,
}

impl World {
    fn new(seed: u64, careful: bool) -> Self {
        let mut numbers = Slices::new(seed);
        let content = (0..SECTORS as usize * SECTOR).map(|_| numbers.number() as u8).collect();
        Self {
            numbers,
            careful,
            disk: MemoryDisk::new(content),
            log: DiskLog::shared(Reads::Backup),
            mirror: Mirror::shared(Reads::Backup),
            asked: vec![],
            entries: vec![],
            outstanding: 0,
            held: VecDeque::new(),
            queue: VecDeque::new(),
            acknowledged: (0, 0),
            issued: 0,
            executed: 0,
            reads: VecDeque::new(),
            hashes: 0,
        }
    }

    /// The primary's guest asks for something.
    fn ask(&mut self) {
        let lba = self.numbers.number() % (SECTORS - 2);
        let sectors = (self.numbers.number() % 3 + 1) as u32;
        let byte = self.numbers.number() as u8;
        let operation = match self.numbers.number() % 8 {
            0..3 => DiskOperation::Write { lba, data: vec![byte; sectors as usize * SECTOR] },
            3 => DiskOperation::Flush,
            _ => DiskOperation::Read { lba, sectors },
        };
        let (request, received) = (self.asked.len() as u64, self.entries.len());
        let known = self.acknowledged.1 as u64;
        let overwrites = self.log.overwrites_unread(&operation, known) && self.careful;
        self.log.ask(request, &operation);
        self.asked.push((received, (request, operation.clone())));
        self.outstanding += 1;
        let read = matches!(operation, DiskOperation::Read { .. });
        let job = (request, operation);
        if read {
            self.queue.push_back(job);
        } else {
            let executed = if overwrites { received } else { 0 };
            self.held.push_back(Held { job, received, executed });
        }
    }

    /// The gate lets something go.
    fn release(&mut self) {
        let (received, executed) = self.acknowledged;
        let free = |held: &Held| held.received <= received && held.executed <= executed;
        if self.held.front().is_some_and(free) {
            self.queue.extend(self.held.pop_front().map(|held| held.job));
        }
    }

    /// The primary's disk does something, and the guest has the answer.
    fn answer(&mut self) {
        let Some((request, operation)) = self.queue.pop_front() else { return };
        let result = match self.numbers.number() % 16 {
            0 => DiskResult::Failed,
            _ => perform(&mut self.disk, 0, &operation),
        };
        let bytes = self.log.answer(0, request, &result);
        self.hashes += usize::from(decode_answer(&bytes).expect("one").2 == Answer::Hash);
        self.log.logged(self.entries.len() as u64, self.acknowledged.1 as u64);
        self.entries.push((bytes, result));
        self.outstanding -= 1;
    }

    /// The backup's guest goes on.
    fn follow(&mut self) {
        while let Some((at, (request, operation))) = self.asked.get(self.issued)
            && *at == self.executed
        {
            if self.mirror.ask(*request, operation.clone(), false) {
                self.reads.push_back((*request, operation.clone()));
            }
            self.issued += 1;
        }
        let Some((bytes, result)) = self.entries.get(self.executed) else { return };
        let (_, request, answer, data) = decode_answer(bytes).expect("an answer");
        if let Some(seen) = self.mirror.answer(request, answer, data).expect("it follows") {
            assert_eq!(seen, *result, "request {request}");
            self.executed += 1;
        }
        self.reads.extend(self.mirror.take_requests());
    }

    /// The backup's disk answers.
    fn read(&mut self) {
        if let Some((request, operation)) = self.reads.pop_front() {
            let result = perform(&mut self.disk, 0, &operation);
            self.mirror.own(request, result).expect("it reads");
        }
    }

    /// Runs for a while, then until the backup has executed everything; whether it read everything
    /// at the first attempt.
    fn run(&mut self) -> bool {
        for step in 0.. {
            match self.numbers.number() % 8 {
                0 | 1 if self.outstanding < 4 && self.asked.len() < 600 => self.ask(),
                2 => self.release(),
                3 => self.answer(),
                4 => self.acknowledged = (self.entries.len(), self.executed),
                5 => self.read(),
                _ => self.follow(),
            }
            if self.mirror.troubled().is_some() {
                return false;
            }
            let done = self.executed == 600 && self.outstanding == 0;
            if done {
                break;
            }
            assert!(step < 200_000, "it goes on: {} executed", self.executed);
        }
        true
    }
}

#[test]
fn the_backup_reads_what_the_primary_has_read() {
    let mut hashes = 0;
    for seed in 1..60 {
        let mut world = World::new(seed, true);
        assert!(world.run(), "seed {seed}: entry {} is not there any more", world.executed);
        hashes += world.hashes;
    }
    assert!(hashes > 5000, "{hashes} reads were made twice");
}

#[test]
fn what_is_not_held_back_is_noticed() {
    let bad = (1..60).filter(|seed| !World::new(*seed, false).run()).count();
    assert!(bad > 30, "{bad}");
}

#[test]
fn a_disk_that_fails_or_is_behind_here_is_read_again() {
    let (mut log, mut mirror) = (DiskLog::shared(Reads::Backup), Mirror::shared(Reads::Backup));
    let mut disk = MemoryDisk::new(vec![0; 4 * SECTOR]);
    disk.write(1, &[7; SECTOR]).expect("inside");
    let read = DiskOperation::Read { lba: 1, sectors: 1 };
    log.ask(5, &read);
    assert!(mirror.ask(5, read.clone(), false), "it is for this side, too");
    let result = perform(&mut disk, 0, &read);
    let bytes = log.answer(0, 5, &result);
    assert!(bytes.len() <= 12, "{} bytes instead of {SECTOR}", bytes.len());
    let (_, _, answer, data) = decode_answer(&bytes).expect("an answer");
    for bad in [DiskResult::Failed, DiskResult::Data(vec![0; SECTOR]), DiskResult::Data(vec![])] {
        mirror.own(5, bad).expect("it may get better");
        assert_eq!(mirror.answer(5, answer, data), Ok(None));
        std::thread::sleep(mirror.retry().expect("soon"));
        assert_eq!(mirror.answer(5, answer, data), Ok(None));
        assert_eq!(mirror.take_requests(), [(5, read.clone())]);
        assert!(mirror.troubled().is_some());
    }
    mirror.own(5, result.clone()).expect("it does");
    assert_eq!(mirror.answer(5, answer, data), Ok(Some(result)));
    assert!(mirror.troubled().is_none() && mirror.retry().is_none());
}

#[test]
fn who_goes_live_asks_the_disk_again() {
    let mut mirror = Mirror::shared(Reads::Backup);
    let read = DiskOperation::Read { lba: 1, sectors: 1 };
    for request in 0..3 {
        assert!(mirror.ask(request, read.clone(), false));
    }
    let write = DiskOperation::Write { lba: 1, data: vec![1; SECTOR] };
    assert!(!mirror.ask(3, write, false), "nothing is written from here");
    assert!(!mirror.ask(4, read, true), "what was asked for before this side came is in the log");
    mirror.own(0, DiskResult::Failed).expect("it may get better");
    mirror.answer(1, Answer::Failed, &[]).expect("asked for");
    let (pending, stale) = mirror.into_live();
    let left: Vec<_> = pending.iter().map(|(request, _, own)| (*request, own.is_some())).collect();
    assert_eq!(left, [(0, false), (2, false), (3, false), (4, false)]);
    // Answers to 1 and 2 are on their way: only to the second one the guest listens.
    assert_eq!(stale.into_iter().collect::<Vec<_>>(), [1, 2]);
}
