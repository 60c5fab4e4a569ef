//! The last good state of a machine in a pair and what has happened to it since: what a divergence
//! can be looked into with.
//!
//! Contract: two checkpoints at most are kept, so that one is older than whatever the other side is
//! behind. A checkpoint costs the machine's state without RAM, and then a copy of each page when it
//! is first written; pages and inputs that are kept are bounded, and when there is no room the
//! checkpoint is given up. [`Recent::write`] makes a log of it that begins with the state.

use crate::check;
use crate::copy::{DiskLog, Extent};
use crate::handover::Handover;
use crate::record::entry;
use crate::session::Session;
use crate::transfer::{payload, ram};
use devices::io::{DiskOperation, Input};
use devices::ram::{OldPages, PAGE};
use emulator::machine::Machine;
use ft::log::{Body, Instant, LogWriter};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::{self, Write};

/// Digests from one checkpoint to the next.
const DIGESTS: u32 = 16;
/// Pages that are kept at most, and so many that the next checkpoint is early.
const PAGES_MAX: usize = 16_384;
const PAGES_MANY: usize = PAGES_MAX / 4;
/// The same of bytes of inputs.
const BYTES_MAX: usize = 96 << 20;
const BYTES_MANY: usize = 16 << 20;
/// Bytes of a piece of memory for frames.
const PIECE: usize = 256 << 10;

/// What happened to the machine.
enum Happened {
    Asked(u8, u64, Extent),
    /// Any input but a frame.
    Input(Instant, Box<Input>),
    Frame(Instant, u8, Place),
    Entry(Instant, Body),
}

/// Where the bytes of a frame are in [`Frames`].
#[derive(Clone, Copy)]
struct Place {
    piece: usize,
    start: usize,
    len: usize,
}

/// Frames one behind the other: to ask for memory for each takes longer than to copy it.
#[derive(Default)]
struct Frames(Vec<Vec<u8>>);

impl Frames {
    /// Keeps `frame`, in a new piece from `spare` if there is no room.
    fn keep(&mut self, frame: &[u8], spare: &mut Vec<Vec<u8>>) -> Place {
        let room = |piece: &Vec<u8>| piece.capacity() - piece.len() >= frame.len();
        if !self.0.last().is_some_and(room) {
            let piece = spare.pop().filter(room);
            self.0.push(piece.unwrap_or_else(|| Vec::with_capacity(PIECE.max(frame.len()))));
        }
        let (piece, len) = (self.0.len() - 1, frame.len());
        let start = self.0[piece].len();
        self.0[piece].extend_from_slice(frame);
        Place { piece, start, len }
    }

    fn get(&self, Place { piece, start, len }: Place) -> &[u8] {
        &self.0[piece][start..start + len]
    }
}

struct Checkpoint {
    at: Instant,
    /// Hash of the whole state.
    whole: u128,
    /// The state but for RAM.
    state: Vec<u8>,
    /// Requests that wait for the answers of disks.
    requests: Vec<(u8, u64, DiskOperation)>,
    /// Pages as they were, of those written before the next checkpoint. Those of the last
    /// checkpoint are still with the machine.
    old: OldPages,
    happened: Vec<Happened>,
    frames: Frames,
    bytes: usize,
}

/// See the module.
pub struct Recent {
    wall_clock: u64,
    checkpoints: VecDeque<Checkpoint>,
    /// Requests that wait for the answers of disks.
    pending: BTreeMap<(u8, u64), DiskOperation>,
    /// Until the next checkpoint.
    digests: u32,
    /// Memory for frames and for what happens: as much as the checkpoint before the last one had.
    spare: (Vec<Vec<u8>>, Vec<Happened>),
}

/// A state to be compared with what a replay comes to.
pub struct Compared<'a> {
    /// Whose it is, in a word.
    pub whose: &'a str,
    /// Of [`emulator::fingerprint`].
    pub fingerprint: &'a [u8],
}

impl Recent {
    /// Begins where `machine` stands, which it does at `at`; `requests` wait for the answers of
    /// disks.
    pub fn begin(
        machine: &mut Machine,
        at: Instant,
        wall_clock: u64,
        requests: impl IntoIterator<Item = ((u8, u64), DiskOperation)>,
    ) -> Self {
        let (checkpoints, pending) = (VecDeque::new(), requests.into_iter().collect());
        let (digests, spare) = (0, Default::default());
        let mut recent = Self { wall_clock, checkpoints, pending, digests, spare };
        recent.checkpoint(machine, at);
        recent
    }

    /// Nothing is kept from here on.
    pub fn end(machine: &mut Machine) {
        machine.keep_old_pages(0);
    }

    fn checkpoint(&mut self, machine: &mut Machine, at: Instant) {
        let old = machine.keep_old_pages(PAGES_MAX);
        match self.checkpoints.back_mut() {
            Some(last) if old.is_complete() => last.old = old,
            // No state before this one can be made again.
            _ => self.checkpoints.clear(),
        }
        if self.checkpoints.len() == 2
            && let Some(first) = self.checkpoints.pop_front()
        {
            self.spare = (first.frames.0, first.happened);
            self.spare.0.iter_mut().for_each(Vec::clear);
            self.spare.1.clear();
        }
        self.digests = DIGESTS;
        let requests = self.pending.iter().map(|((d, n), op)| (*d, *n, op.clone())).collect();
        self.checkpoints.push_back(Checkpoint {
            at,
            whole: check::whole(&machine.digest()),
            state: machine.save_state(),
            requests,
            old: OldPages::default(),
            happened: std::mem::take(&mut self.spare.1),
            frames: Frames::default(),
            bytes: 0,
        });
    }

    fn add(&mut self, happened: Happened, bytes: usize) {
        if let Some(last) = self.checkpoints.back_mut() {
            last.happened.push(happened);
            last.bytes += bytes + 64;
            if last.bytes > BYTES_MAX {
                self.checkpoints.clear();
            }
        }
    }

    /// The guest has asked a disk for something.
    pub fn asked(&mut self, disk: u8, request: u64, operation: &DiskOperation) {
        self.pending.insert((disk, request), operation.clone());
        self.add(Happened::Asked(disk, request, Extent::of(operation)), 0);
    }

    /// The machine takes `input` at `at`.
    pub fn input(&mut self, at: Instant, input: &Input) {
        if let Input::DiskDone { disk, request, .. } = input {
            self.pending.remove(&(*disk, *request));
        }
        let happened = match (input, self.checkpoints.back_mut()) {
            (Input::NetRx { nic, frame }, Some(last)) => {
                Happened::Frame(at, *nic, last.frames.keep(frame, &mut self.spare.0))
            }
            _ => Happened::Input(at, Box::new(input.clone())),
        };
        self.add(happened, size(input));
    }

    /// The machine has come to an entry of the log that is no input.
    pub fn entry(&mut self, at: Instant, body: &Body) {
        self.add(Happened::Entry(at, body.clone()), 0);
    }

    /// `machine` has passed a digest, at `at`: the moment for a checkpoint.
    pub fn passed(&mut self, machine: &mut Machine, at: Instant) {
        self.digests = self.digests.saturating_sub(1);
        let many = machine.old_pages().count() > PAGES_MANY
            || self.checkpoints.back().is_none_or(|last| last.bytes > BYTES_MANY);
        if self.digests == 0 || many {
            self.checkpoint(machine, at);
        }
    }

    /// The checkpoint from which the way to `icount` begins.
    fn before(&self, icount: u64) -> Option<usize> {
        self.checkpoints.iter().rposition(|checkpoint| checkpoint.at.icount < icount)
    }

    /// What happened after checkpoint `first` and up to a difference at `icount`.
    fn way(&self, first: usize, icount: u64) -> impl Iterator<Item = (&Happened, &Frames)> {
        let mut over = false;
        let all = self.checkpoints.iter().skip(first);
        let all = all.flat_map(|one| one.happened.iter().map(|happened| (happened, &one.frames)));
        all.take_while(move |(happened, _)| {
            let beyond = match happened {
                Happened::Asked(..) => false,
                Happened::Input(at, _) | Happened::Frame(at, ..) | Happened::Entry(at, _) => {
                    at.icount > icount
                }
            };
            let goes_on = !over && !beyond;
            // The digest that differs is the last.
            over = matches!(happened, Happened::Entry(at, Body::Digest(_)) if at.icount == icount);
            goes_on
        })
    }

    /// Writes a log for a difference that was noticed at `icount`: the last checkpoint before it,
    /// what happened up to it, and there the states to compare. Where it begins; `None`: there is
    /// no such checkpoint.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(
        &self,
        machine: &Machine,
        icount: u64,
        (build, session): (&str, &Session),
        compared: &[Compared],
        out: &mut dyn Write,
    ) -> io::Result<Option<u64>> {
        let Some(first) = self.before(icount).filter(|_| machine.old_pages().is_complete()) else {
            return Ok(None);
        };
        let from = &self.checkpoints[first];
        let mut log = Log { writer: LogWriter::new(), out };
        let start = Body::Start { build: build.into(), config: session.encode() };
        log.push(Instant::default(), &start)?;
        self.snapshot(machine, first, &mut log)?;
        log.push(from.at, &Body::Digest(from.whole.to_le_bytes().to_vec()))?;
        let mut disks: Vec<DiskLog> = session.disks.iter().map(|_| DiskLog::new(false)).collect();
        for (disk, request, operation) in &from.requests {
            disks[usize::from(*disk)].ask(*request, operation);
        }
        let states = compared.iter().map(|Compared { whose, fingerprint }| {
            Body::State([&[whose.len() as u8], whose.as_bytes(), fingerprint].concat())
        });
        let mut states = Some(states.collect::<Vec<_>>());
        for (happened, frames) in self.way(first, icount) {
            match happened {
                Happened::Asked(disk, request, extent) => {
                    disks[usize::from(*disk)].ask_extent(*request, *extent);
                }
                Happened::Input(at, input) => {
                    log.push(*at, &Body::Input(entry(&mut disks, input)))?;
                }
                Happened::Frame(at, nic, place) => {
                    let input = Input::NetRx { nic: *nic, frame: frames.get(*place).to_vec() };
                    log.push(*at, &Body::Input(entry(&mut disks, &input)))?;
                }
                Happened::Entry(at, body) => {
                    if let (Body::Digest(_), true) = (body, at.icount == icount) {
                        let states = states.take().unwrap_or_default();
                        states.iter().try_for_each(|state| log.push(*at, state))?;
                    }
                    log.push(*at, body)?;
                }
            }
        }
        let at = Instant { icount, halted_ns: None };
        states.unwrap_or_default().iter().try_for_each(|state| log.push(at, state))?;
        log.end()?;
        Ok(Some(from.at.icount))
    }

    /// Writes the machine as it was at checkpoint `first`.
    fn snapshot(&self, machine: &Machine, first: usize, log: &mut Log) -> io::Result<()> {
        let mut old: BTreeMap<u32, &[u8; PAGE]> = machine.old_pages().iter().collect();
        for later in self.checkpoints.iter().skip(first).rev() {
            old.extend(later.old.iter());
        }
        let mut done = Ok(());
        ram::all_pages(machine, &old, &mut |piece| {
            if done.is_ok() {
                done = log.push(Instant::default(), &Body::Snapshot(piece));
            }
        });
        done?;
        let from = &self.checkpoints[first];
        let (wall_clock, requests) = (self.wall_clock, from.requests.clone());
        let handover = Handover { wall_clock, rate: 0, requests };
        let bytes = [&from.state[..], &handover.encode()].concat();
        let mut at = 0;
        while let Some((piece, len)) = payload::state_part(&bytes, at, from.state.len() as u32) {
            at += len;
            log.push(Instant::default(), &Body::Snapshot(piece))?;
        }
        Ok(())
    }

    /// The way to a difference at `icount`, in words.
    #[must_use]
    pub fn words(&self, icount: u64) -> String {
        let mut text = String::new();
        let first = self.before(icount).unwrap_or(0);
        for (happened, _) in self.way(first, icount) {
            let _ = match happened {
                Happened::Asked(disk, request, extent) => {
                    writeln!(text, "disk {disk}: request {request}: {extent:?}")
                }
                Happened::Input(at, input) => writeln!(text, "{}: {}", place(at), kind(input)),
                Happened::Frame(at, nic, Place { len, .. }) => {
                    writeln!(text, "{}: frame of {len} bytes for card {nic}", place(at))
                }
                Happened::Entry(at, body) => writeln!(text, "{}: {}", place(at), entry_kind(body)),
            };
        }
        text
    }
}

struct Log<'a> {
    writer: LogWriter,
    out: &'a mut dyn Write,
}

impl Log<'_> {
    fn push(&mut self, at: Instant, body: &Body) -> io::Result<()> {
        self.writer.push(at, body);
        self.out.write_all(&self.writer.take())
    }

    fn end(mut self) -> io::Result<()> {
        self.writer.flush();
        self.out.write_all(&self.writer.take())?;
        self.out.flush()
    }
}

/// Whose state an entry of a log has, and its fingerprint; `None`: it is none.
#[must_use]
pub fn state(body: &[u8]) -> Option<(&str, &[u8])> {
    let (&len, rest) = body.split_first()?;
    let (whose, fingerprint) = rest.split_at_checked(usize::from(len))?;
    Some((std::str::from_utf8(whose).ok()?, fingerprint))
}

/// Bytes of an input.
fn size(input: &Input) -> usize {
    use devices::io::DiskResult;
    match input {
        Input::NetRx { frame, .. } => frame.len(),
        Input::ConsoleRx { bytes, .. } => bytes.len(),
        Input::DiskDone { result: DiskResult::Data(data), .. } => data.len(),
        _ => 0,
    }
}

fn place(at: &Instant) -> String {
    match at.halted_ns {
        None => format!("icount {}", at.icount),
        Some(ns) => format!("icount {}, halted, {ns} ns", at.icount),
    }
}

fn kind(input: &Input) -> String {
    use devices::io::DiskResult;
    match input {
        Input::ConsoleRx { port, bytes } => format!("{} bytes for port {port}", bytes.len()),
        Input::DiskDone { disk, request, result } => {
            let result = match result {
                DiskResult::Data(data) => format!("{} bytes", data.len()),
                other => format!("{other:?}"),
            };
            format!("disk {disk}: answer to request {request}: {result}")
        }
        other => format!("{other:?}"),
    }
}

fn entry_kind(body: &Body) -> String {
    match body {
        Body::Progress => "progress".into(),
        Body::Digest(check) => format!("digest {check:02x?}"),
        Body::End(_) => "end".into(),
        Body::Input(_) | Body::Start { .. } | Body::Snapshot(_) | Body::State(_) => {
            "an entry that is not kept".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_what_they_were_in_memory_that_is_used_again() {
        let mut spare = Vec::new();
        for round in 0..3u8 {
            let mut frames = Frames::default();
            let frame = |n: usize| vec![n as u8 ^ round; 60 + n * 37 % 9000];
            let places: Vec<Place> = (0..400).map(|n| frames.keep(&frame(n), &mut spare)).collect();
            for (n, place) in places.into_iter().enumerate() {
                assert_eq!(frames.get(place), frame(n), "frame {n} of round {round}");
            }
            let pieces = frames.0.len();
            assert!((5..10).contains(&pieces) && spare.is_empty(), "{pieces} pieces");
            spare = frames.0;
            spare.iter_mut().for_each(Vec::clear);
        }
        // Larger than a piece.
        let place = Frames::default().keep(&vec![1; PIECE + 1], &mut spare);
        assert_eq!(place.len, PIECE + 1);
    }
}
