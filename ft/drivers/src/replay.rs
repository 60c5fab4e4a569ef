//! Replaying: a machine in the time and with the inputs of a log.
//!
//! Contract: nothing of the host reaches the guest. A log may begin in the middle of a machine's
//! life, with its state. Every digest of the log is compared; the first difference ends the replay
//! and is named. Output goes nowhere, or to the ends that are given for
//! it.

use crate::check;
use crate::copy::{CopyError, DiskCopy, decode_answer};
use crate::follow::Follower;
use crate::guest::Guest;
use crate::handover::Handover;
use crate::host::Ends;
use crate::outcome::{Exit, Outcome};
use crate::recent;
use crate::slices::Slices;
use crate::transfer::TransferError;
use crate::transfer::sink::Sink;
use crate::wire;
use backends::net::capture::Direction;
use devices::io::{DiskOperation, Input, Output};
use devices::time::{Icount, VirtualNs};
use emulator::fingerprint::{Fingerprint, first_difference};
use emulator::machine::{Config, Machine};
use ft::log::file::Tail;
use ft::log::{Body, Entry, Instant, LogReader, ReadError};
use std::fmt;
use std::io::{self, Read};

/// Instructions between two looks at serial output.
const LOOK: u64 = 20_000_000;

/// The entries of a log, from a file.
pub struct LogSource<R> {
    input: R,
    reader: LogReader,
    bytes: u64,
    entries: u64,
    /// An entry that was looked at.
    ahead: Option<Entry>,
}

/// Why a replay ended before the log did.
#[derive(Debug)]
pub enum ReplayError {
    /// The file cannot be read.
    Io(io::Error),
    /// The file is no log of this version.
    Read(ReadError),
    /// The log does not begin with the machine's description.
    NoStart,
    /// The machine's state with which the log begins cannot be used.
    Snapshot(String),
    /// The guest took another path than the recorded one.
    Diverged {
        /// Where it was noticed.
        icount: Icount,
        /// What differs.
        what: String,
    },
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => write!(f, "cannot be read: {e}"),
            Self::Read(e) => e.fmt(f),
            Self::NoStart => f.write_str("does not begin with a machine"),
            Self::Snapshot(why) => write!(f, "does not begin with a whole machine: {why}"),
            Self::Diverged { icount, what } => {
                write!(f, "the replay differs from the record at icount {}: {what}", icount.0)
            }
        }
    }
}

impl std::error::Error for ReplayError {}

impl From<io::Error> for ReplayError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl<R: Read> LogSource<R> {
    /// The log in `input`.
    #[must_use]
    pub fn new(input: R) -> Self {
        Self { input, reader: LogReader::new(), bytes: 0, entries: 0, ahead: None }
    }

    /// The next entry; `None`: there are no more.
    ///
    /// # Errors
    /// The file cannot be read, or is no log.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ReplayError> {
        if let Some(entry) = self.ahead.take() {
            return Ok(Some(entry));
        }
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some(entry) = self.reader.next_entry() {
                self.entries += 1;
                return Ok(Some(entry));
            }
            let wanted = self.reader.wanted().min(buffer.len());
            let n = match self.input.read(&mut buffer[..wanted]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            if n == 0 {
                self.reader.tail().map_err(ReplayError::Read)?;
                return Ok(None);
            }
            self.bytes += n as u64;
            self.reader.push(&buffer[..n]).map_err(ReplayError::Read)?;
        }
    }

    /// How the log ended, once there are no more entries.
    ///
    /// # Errors
    /// The file is no log.
    pub fn tail(&self) -> Result<Tail, ReadError> {
        self.reader.tail()
    }

    /// The machine of `config` in the middle of its life with which the log goes on after its
    /// start, and what its driver knew; `None`: the machine was just switched on.
    ///
    /// # Errors
    /// The file cannot be read, or what is there is no whole machine.
    pub fn machine(&mut self, config: &Config) -> Result<Option<(Machine, Handover)>, ReplayError> {
        let mut sink: Option<Sink> = None;
        let bad = |e: TransferError| ReplayError::Snapshot(e.to_string());
        while let Some(entry) = self.next_entry()? {
            let Body::Snapshot(piece) = &entry.body else {
                self.ahead = Some(entry);
                break;
            };
            let sink = match &mut sink {
                Some(sink) => sink,
                None => sink.insert(Sink::new(config, &[]).map_err(bad)?),
            };
            sink.install(piece).map_err(bad)?;
        }
        let Some(sink) = sink else { return Ok(None) };
        let (machine, extra) = sink.finish().map_err(bad)?;
        let damaged = || ReplayError::Snapshot("what is known of its disks is damaged".into());
        Ok(Some((machine, Handover::decode(&extra).ok_or_else(damaged)?)))
    }

    /// The first entry: the program that wrote the log, and its machine.
    ///
    /// # Errors
    /// The file cannot be read, or is no log.
    pub fn start(&mut self) -> Result<(String, Vec<u8>), ReplayError> {
        match self.next_entry()?.map(|entry| entry.body) {
            Some(Body::Start { build, config }) => Ok((build, config)),
            _ => Err(ReplayError::NoStart),
        }
    }
}

/// What the replayer is told.
#[derive(Clone, Debug, Default)]
pub struct ReplayConfig {
    /// Stops at this count.
    pub to: Option<Icount>,
    /// Runs in random slices, for tests.
    pub slice_seed: Option<u64>,
    /// What is known of a machine in the middle of its life.
    pub handover: Option<Handover>,
}

/// How a replay went.
#[derive(Debug)]
pub struct Replayed {
    /// As of a live run.
    pub outcome: Outcome,
    /// Digests that were compared.
    pub digests: u64,
    /// How the log ended, if it was read to its end.
    pub tail: Option<Tail>,
}

/// Where the log goes on.
enum Next {
    Entry(Entry),
    End,
}

struct Replay<'a, G, R> {
    guest: &'a mut G,
    log: &'a mut LogSource<R>,
    disks: Vec<DiskCopy>,
    ends: Ends,
    slices: Option<Slices>,
    wall_clock: u64,
    follower: Follower,
    digests: u64,
    rate_changes: u64,
    looked: u64,
    /// How the states in the log compare, in words, and whether one of them differs.
    compared: Vec<String>,
    differs: bool,
}

/// Replays the rest of `log`, after its first entry, on `guest`, which was just switched on or is
/// the machine of [`LogSource::machine`].
/// `disks` are those of the board in order; `ends` gets serial output, captures and debug output,
/// and must have no disks and networks.
///
/// # Errors
/// See [`ReplayError`].
pub fn run<G: Guest, R: Read>(
    guest: &mut G,
    log: &mut LogSource<R>,
    disks: Vec<DiskCopy>,
    ends: Ends,
    config: &ReplayConfig,
) -> Result<Replayed, ReplayError> {
    let begun = std::time::Instant::now();
    let mut replay = Replay {
        guest,
        log,
        disks,
        ends,
        slices: config.slice_seed.map(Slices::new),
        wall_clock: 0,
        follower: Follower::default(),
        digests: 0,
        rate_changes: 0,
        looked: 0,
        compared: Vec::new(),
        differs: false,
    };
    if let Some(Handover { wall_clock, requests, .. }) = &config.handover {
        replay.wall_clock = *wall_clock;
        for (disk, request, operation) in requests {
            replay.asked(*disk, *request, operation.clone());
        }
    }
    let result = replay.all(config.to).map_err(|e| replay.explained(e));
    let Replay { digests, rate_changes, ends, .. } = replay;
    ends.finish()?;
    let exit = result?;
    let host_ns = begun.elapsed().as_nanos() as u64;
    let tail = if exit == Exit::Icount { None } else { log.tail().ok() };
    let outcome = Outcome {
        exit,
        icount: guest.icount(),
        guest: guest.now(),
        host_ns,
        busy_ns: host_ns,
        log_bytes: log.bytes,
        log_entries: log.entries,
        clock_error_ns: 0,
        rate_changes,
        digest: guest.digest(),
    };
    Ok(Replayed { outcome, digests, tail })
}

impl<G: Guest, R: Read> Replay<'_, G, R> {
    fn all(&mut self, to: Option<Icount>) -> Result<Exit, ReplayError> {
        loop {
            let next = self.log.next_entry()?.map_or(Next::End, Next::Entry);
            let entry = match next {
                Next::End if self.differs => return Err(self.diverged("a state")),
                Next::End => return Ok(self.follower.ended().unwrap_or(Exit::LogEnd)),
                Next::Entry(entry) => entry,
            };
            match to {
                Some(to) if entry.at.icount > to.0 => {
                    self.go(Instant { icount: to.0, halted_ns: None })?;
                    return Ok(Exit::Icount);
                }
                _ => self.go(entry.at)?,
            }
            match entry.body {
                Body::Input(bytes) => self.input(bytes)?,
                Body::Digest(expected) => {
                    self.digests += 1;
                    if let Some(what) = check::difference(&self.guest.digest(), &expected) {
                        return Err(self.diverged(what));
                    }
                }
                Body::Progress => {}
                Body::State(state) => self.compare(&state)?,
                Body::Start { .. } | Body::Snapshot(_) => {
                    return Err(self.diverged("a second machine in the log"));
                }
                Body::End(end) => return self.end(&end),
            }
        }
    }

    /// Says how the states of the log compare, those at the place of the error included.
    fn explained(&mut self, e: ReplayError) -> ReplayError {
        let ReplayError::Diverged { icount, what } = e else { return e };
        while let Ok(Some(Entry { body: Body::State(state), .. })) = self.log.next_entry() {
            let _ = self.compare(&state);
        }
        let what = std::iter::once(what).chain(self.compared.drain(..));
        ReplayError::Diverged { icount, what: what.collect::<Vec<_>>().join("; ") }
    }

    /// Compares the guest's state with one that the log has.
    fn compare(&mut self, state: &[u8]) -> Result<(), ReplayError> {
        let Some((whose, theirs)) = recent::state(state) else {
            return Err(self.diverged("a state in the log that is none"));
        };
        let Some(machine) = self.guest.machine() else { return Ok(()) };
        machine.keep_history(1);
        machine.digest();
        let ours = machine.state_at(machine.icount()).expect("a digest was taken here");
        let theirs = Fingerprint::from_bytes(theirs, machine.pages());
        let theirs = theirs.map_err(|e| self.diverged(format!("a state in the log: {}", e.0)))?;
        self.compared.push(match first_difference(&ours, &theirs) {
            None => format!("the {whose} had the same state as the replay"),
            Some(what) => {
                self.differs = true;
                format!("the {whose} had another state than the replay has here: {what}")
            }
        });
        Ok(())
    }

    /// The guest has asked a disk for something.
    fn asked(&mut self, disk: u8, request: u64, operation: DiskOperation) {
        if let Some(copy) = self.disks.get_mut(usize::from(disk)) {
            copy.ask(request, operation);
        }
    }

    fn diverged(&self, what: impl Into<String>) -> ReplayError {
        ReplayError::Diverged { icount: self.guest.icount(), what: what.into() }
    }

    /// Executes up to `at`.
    fn go(&mut self, at: Instant) -> Result<(), ReplayError> {
        loop {
            let mut most = LOOK;
            if let Some(slices) = &mut self.slices {
                most = most.min(slices.length());
            }
            let Self { guest, follower, ends, disks, wall_clock, .. } = self;
            let mut outlet = |output, now: VirtualNs| match output {
                Output::Disk { disk, request, operation } => {
                    if let Some(copy) = disks.get_mut(usize::from(disk)) {
                        copy.ask(request, operation);
                    }
                }
                output => ends.leave(&output, wall_clock.saturating_add(now.0)),
            };
            let there = follower.advance(*guest, at, most, &mut outlet);
            if self.guest.icount().0 >= self.looked + LOOK {
                self.looked = self.guest.icount().0;
                self.ends.flush();
            }
            if there.map_err(|what| self.diverged(what))? {
                return Ok(());
            }
        }
    }

    fn input(&mut self, bytes: Vec<u8>) -> Result<(), ReplayError> {
        let input = match decode_answer(&bytes) {
            Some((disk, request, answer, data)) => {
                let copy = self.disks.get_mut(usize::from(disk));
                let result = match copy.map(|copy| copy.answer(request, answer, data)) {
                    Some(Ok(result)) => result,
                    Some(Err(CopyError::Io(e))) => return Err(e.into()),
                    Some(Err(CopyError::Data)) => {
                        return Err(self.diverged(format!("disk {disk}: the length of a read")));
                    }
                    None | Some(Err(CopyError::NotAsked)) => {
                        let what = format!("disk {disk}: request {request} was not made");
                        return Err(self.diverged(what));
                    }
                };
                Input::DiskDone { disk, request, result }
            }
            None => wire::decode_input(bytes)
                .ok_or_else(|| self.diverged("an input in the log that this program has not"))?,
        };
        match &input {
            Input::WallClock(ns) => self.wall_clock = *ns,
            Input::ClockRate(_) => self.rate_changes += 1,
            Input::NetRx { nic, frame } => {
                let time = self.wall_clock.saturating_add(self.guest.now().0);
                self.ends.captured(*nic, frame, time, Direction::Inbound);
            }
            _ => {}
        }
        self.guest.inject(input);
        Ok(())
    }

    fn end(&mut self, end: &[u8]) -> Result<Exit, ReplayError> {
        let Ok((exit, digest)) = postcard::from_bytes::<(Exit, u128)>(end) else {
            return Err(self.diverged("an end in the log that this program does not know"));
        };
        self.digests += 1;
        if check::whole(&self.guest.digest()) != digest {
            return Err(self.diverged("the state at the end"));
        }
        Ok(exit)
    }
}
