//! A machine that executes the primary's log.

use super::Taken;
use crate::announce::Addresses;
use crate::bundle::{Bundle, Bundles};
use crate::check;
use crate::copy::{Reads, decode_answer};
use crate::follow::Follower;
use crate::handover::Handover;
use crate::held::Held;
use crate::host::Ends;
use crate::live::Inherited;
use crate::mirror::{Mirror, MirrorError};
use crate::outcome::Exit;
use crate::pair::Pair;
use crate::recent::{Compared, Recent};
use crate::record::Recorder;
use crate::wire;
use backends::disk::worker::Completion;
use devices::io::{DiskOperation, Input, Output};
use devices::time::{Rate, VirtualNs};
use emulator::machine::Machine;
use ft::Event;
use ft::log::{Body, Entry, Instant};
use ft::message::Commit;
use ft::replica::StatusRole;
use ft::types::OutputNo;
use std::time::{self, Duration};

/// Host time of a slice.
pub const SLICE: Duration = Duration::from_micros(50);
/// Digests that are kept for the description of a difference.
pub(crate) const HISTORY: usize = 8;

/// For how long a shared disk is read again and again before anybody is told.
const TELL: Duration = Duration::from_millis(500);
/// For how long, before this backup leaves.
const GIVE_UP: Duration = Duration::from_secs(5);

/// Instructions after which a slice says something about their cost. Not more than the shortest
/// slice has: else one slice that the host interrupted would make all that follow short for good.
const MEASURED: u64 = 400;

/// Instructions of a slice, if one costs `cost` ns of the host.
fn slice_length(cost: f64) -> u64 {
    (SLICE.as_nanos() as f64 / cost).clamp(500.0, 1e6) as u64
}

/// The cost of an instruction after a slice that came to `sample`: a slice that the host
/// interrupted counts for a little.
fn smoothed(cost: f64, sample: f64) -> f64 {
    (cost * 0.75 + sample.min(cost * 4.0) * 0.25).clamp(0.1, 100.0)
}

/// A machine that has just come.
pub(super) struct Arrived {
    pub(super) machine: Machine,
    pub(super) handover: Handover,
    pub(super) commit: Commit,
}

/// What a step came to.
pub(super) enum Step {
    /// Something was done.
    Done,
    /// There is nothing to do before a message comes.
    Wait,
}

/// Why this side cannot follow.
pub(super) enum Trouble {
    /// The machine went another way.
    Differs(String),
    /// The host failed.
    Failed(String),
}

impl From<MirrorError> for Trouble {
    fn from(e: MirrorError) -> Self {
        match e {
            MirrorError::Differs(what) => Self::Differs(what.into()),
            MirrorError::Failed(why) => Self::Failed(why),
        }
    }
}

/// A machine that follows.
pub(super) struct Following {
    machine: Machine,
    follower: Follower,
    /// Where the machine stood when it came.
    joined_at: Instant,
    shared: bool,
    /// The user was told that a shared disk cannot be read.
    told: bool,
    mirrors: Vec<Mirror>,
    held: Held,
    /// The entry that is next.
    entry: Option<Entry>,
    rate: Rate,
    wall_clock: u64,
    /// Host ns per instruction, of late.
    cost: f64,
    /// The log has ended so.
    end: Option<Exit>,
    addresses: Addresses,
    /// The last good state, and how the machine came from there.
    recent: Option<Recent>,
}

impl Following {
    /// Begins where the transfer ended; requests that were on their way are made again on own
    /// copies, not on disks that are `shared` with the primary.
    pub(super) fn new(arrived: Arrived, shared: Option<Reads>, ends: &mut Ends) -> Self {
        let Arrived { mut machine, handover, commit } = arrived;
        machine.keep_history(HISTORY);
        let mut mirrors: Vec<Mirror> =
            ends.disks.iter().map(|_| shared.map_or_else(Mirror::new, Mirror::shared)).collect();
        for (disk, request, operation) in handover.requests {
            let Some(mirror) = mirrors.get_mut(usize::from(disk)) else { continue };
            if mirror.ask(request, operation.clone(), true) {
                ends.disks[usize::from(disk)].submit(request, operation);
            }
        }
        Self {
            machine,
            follower: Follower::default(),
            joined_at: commit.at(),
            shared: shared.is_some(),
            told: false,
            mirrors,
            held: Held::after(commit.outputs.0),
            entry: None,
            rate: Rate(handover.rate),
            wall_clock: handover.wall_clock,
            cost: 10.0,
            end: None,
            addresses: Addresses::default(),
            recent: None,
        }
    }

    pub(super) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// How the machine ended, whose end the primary has announced.
    pub(super) fn exit(&self) -> Exit {
        self.end.or(self.follower.ended()).unwrap_or(Exit::PowerOff)
    }

    pub(super) fn forget(&mut self, below: u64) {
        self.held.forget(below);
    }

    /// A disk of this side has answered.
    pub(super) fn own_answer(&mut self, completion: Completion) -> Result<(), Trouble> {
        let Completion { disk, request, result } = completion;
        Ok(self.mirrors[usize::from(disk)].own(request, result)?)
    }

    /// Executes a slice towards the next entry, or the entry.
    pub(super) fn step(
        &mut self,
        pair: &mut Pair,
        ends: &mut Ends,
        recorder: &mut Recorder,
    ) -> Result<Step, Trouble> {
        if self.entry.is_none() {
            self.entry = pair.next_entry();
        }
        let Some(mut entry) = self.entry.take() else { return Ok(Step::Wait) };
        let (at, seq) = (entry.at, entry.seq);
        if self.recent.is_none() {
            // Where it was transferred; the other side has been told that it is here.
            let requests = self.mirrors.iter().enumerate().flat_map(|(disk, mirror)| {
                mirror.pending().map(move |(n, operation)| ((disk as u8, n), operation.clone()))
            });
            let requests: Vec<_> = requests.collect();
            let (machine, clock) = (&mut self.machine, self.wall_clock);
            self.recent = Some(Recent::begin(machine, self.joined_at, clock, requests));
        }
        match self.advance(at, ends, recorder) {
            Ok(true) => {}
            Ok(false) => {
                self.entry = Some(entry);
                return Ok(Step::Done);
            }
            Err(what) => {
                // Who replays this is to fail at the same place.
                recorder.entry(at, &Body::Progress);
                self.remember(at, &Body::Progress);
                return Err(Trouble::Differs(what));
            }
        }
        if !self.apply(&mut entry, ends, recorder)? {
            self.entry = Some(entry);
            self.mind_trouble(pair)?;
            return Ok(Step::Wait);
        }
        pair.event(Event::Executed {
            seq: seq + 1,
            icount: self.machine.icount().0,
            outputs: OutputNo(self.held.made()),
        });
        Ok(Step::Done)
    }

    /// A shared disk does not give what it gave the primary. Who could leave the machine to the
    /// primary does so in the end; nobody else has what was read.
    fn mind_trouble(&mut self, pair: &Pair) -> Result<(), Trouble> {
        let troubled = self.mirrors.iter().filter_map(Mirror::troubled).max();
        let Some(long) = troubled.filter(|time| *time >= TELL) else { return Ok(()) };
        let what = "the shared disk does not give here what the primary has read";
        if !std::mem::replace(&mut self.told, true) {
            log::warn!("{what}; trying again");
        }
        if long >= GIVE_UP && pair.status().role == StatusRole::Backup {
            return Err(Trouble::Failed(what.into()));
        }
        Ok(())
    }

    /// How long nothing need be tried again.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.mirrors.iter().filter_map(Mirror::retry).min()
    }

    fn advance(
        &mut self,
        at: Instant,
        ends: &Ends,
        recorder: &mut Recorder,
    ) -> Result<bool, String> {
        let most = slice_length(self.cost);
        let (began, from) = (time::Instant::now(), self.machine.icount().0);
        let there = {
            let Self { mirrors, held, addresses, recent, .. } = self;
            let records = (recorder, recent.as_mut());
            let mut outlet = outlet(mirrors, held, addresses, ends, records, self.wall_clock);
            self.follower.advance(&mut self.machine, at, most, &mut outlet)?
        };
        let ran = self.machine.icount().0 - from;
        if ran >= MEASURED {
            let cost = began.elapsed().as_nanos() as f64 / ran as f64;
            self.cost = smoothed(self.cost, cost);
        }
        Ok(there)
    }

    /// Carries out an entry whose instant is here; `false`: it has to wait for a disk, as it is.
    fn apply(
        &mut self,
        entry: &mut Entry,
        ends: &Ends,
        recorder: &mut Recorder,
    ) -> Result<bool, Trouble> {
        if !matches!(entry.body, Body::Input(_)) {
            // Also one that does not fit: whoever replays the record is to see it.
            recorder.entry(entry.at, &entry.body);
            self.remember(entry.at, &entry.body);
        }
        match &mut entry.body {
            Body::Input(bytes) => {
                let Some(input) = self.input(bytes, ends)? else { return Ok(false) };
                recorder.input(entry.at, &input);
                if let Some(recent) = &mut self.recent {
                    recent.input(entry.at, &input);
                }
                match &input {
                    Input::ClockRate(rate) => self.rate = *rate,
                    Input::WallClock(ns) => self.wall_clock = *ns,
                    _ => {}
                }
                self.machine.inject(input);
            }
            Body::Digest(expected) => {
                if let Some(what) = check::difference(&self.machine.digest(), expected) {
                    return Err(Trouble::Differs(what));
                }
                if let Some(recent) = &mut self.recent {
                    recent.passed(&mut self.machine, entry.at);
                }
            }
            Body::Progress => {}
            Body::Start { .. } | Body::Snapshot(_) | Body::State(_) => {
                return Err(Trouble::Differs("a second machine in the log".into()));
            }
            Body::End(end) => {
                let Ok((exit, digest)) = postcard::from_bytes::<(Exit, u128)>(end) else {
                    return Err(Trouble::Differs("an end that this program does not know".into()));
                };
                if check::whole(&self.machine.digest()) != digest {
                    return Err(Trouble::Differs("the state at the end".into()));
                }
                self.end = Some(exit);
            }
        }
        Ok(true)
    }

    /// The input of an entry; `None`: a disk of this side has to answer first.
    fn input(&mut self, bytes: &mut Vec<u8>, ends: &Ends) -> Result<Option<Input>, Trouble> {
        let unknown = || Trouble::Differs("an input in the log that this program has not".into());
        let Some((disk, request, answer, data)) = decode_answer(bytes) else {
            return wire::decode_input(std::mem::take(bytes)).map(Some).ok_or_else(unknown);
        };
        let mirror = self.mirrors.get_mut(usize::from(disk)).ok_or_else(unknown)?;
        let result = mirror.answer(request, answer, data)?;
        let worker = &ends.disks[usize::from(disk)];
        for (request, operation) in mirror.take_requests() {
            if self.shared {
                worker.drop_cache();
            }
            worker.submit(request, operation);
        }
        Ok(result.map(|result| Input::DiskDone { disk, request, result }))
    }

    fn remember(&mut self, at: Instant, body: &Body) {
        if let Some(recent) = &mut self.recent {
            recent.entry(at, body);
        }
    }

    /// The machine's state, for the primary to compare; the rest is kept here.
    pub(super) fn evidence(&mut self, what: &str, bundles: &Bundles) -> Vec<u8> {
        let (side, icount) = ("backup", self.machine.icount().0);
        self.machine.digest();
        let state = self.machine.state_at(self.machine.icount());
        let fingerprint = state.map(|state| state.to_bytes()).unwrap_or_default();
        let details = "the primary's bundle names the first difference";
        let states = &[Compared { whose: side, fingerprint: &fingerprint }];
        let recent = self.recent.as_ref();
        let bundle = Bundle { side, icount, what, details, recent, states };
        bundle.write(&mut self.machine, bundles);
        fingerprint
    }

    /// The machine as it goes live, with the outputs from `emit_from` on to be emitted again.
    pub(super) fn into_live(
        mut self,
        emit_from: u64,
        pair: &mut Pair,
        mut recorder: Recorder,
    ) -> Taken {
        recorder.goes_live(self.machine.icount().0);
        Recent::end(&mut self.machine);
        self.held.forget(emit_from);
        self.held.drop_disk_requests();
        let (mut answers, mut requests, mut stale) = (Vec::new(), Vec::new(), Vec::new());
        for (disk, mirror) in self.mirrors.into_iter().enumerate() {
            let disk = disk as u8;
            let (pending, late) = mirror.into_live();
            stale.extend(late.into_iter().map(|request| (disk, request)));
            for (request, operation, own) in pending {
                pair.asked(disk, request, &operation);
                requests.push((disk, request, operation));
                answers.extend(own.map(|result| Completion { disk, request, result }));
            }
        }
        let ended = self.end.or(self.follower.ended());
        let inherited = Inherited {
            held: self.held,
            requests,
            answers,
            stale: stale.into_iter().collect(),
            rate: self.rate,
            addresses: self.addresses,
            ended,
        };
        Taken { machine: self.machine, inherited, wall_clock: self.wall_clock, recorder }
    }
}

/// Where outputs go: requests to the disks in `ends` that are to have them, everything else waits.
fn outlet<'a>(
    mirrors: &'a mut [Mirror],
    held: &'a mut Held,
    addresses: &'a mut Addresses,
    ends: &'a Ends,
    (recorder, mut recent): (&'a mut Recorder, Option<&'a mut Recent>),
    wall_clock: u64,
) -> impl FnMut(Output, VirtualNs) + 'a {
    move |output, now| match output {
        Output::Disk { disk, request, operation } => {
            let index = usize::from(disk);
            recorder.asked(disk, request, &operation);
            if let Some(recent) = &mut recent {
                recent.asked(disk, request, &operation);
            }
            if mirrors[index].ask(request, operation.clone(), false) {
                ends.disks[index].submit(request, operation);
            } else if !matches!(operation, DiskOperation::Read { .. }) {
                // Counted as on the primary; who goes live asks for it again in another way.
                held.push(Output::Disk { disk, request, operation }, 0);
            }
        }
        output => {
            if let Output::NetTx { nic, frame } = &output {
                addresses.saw(*nic, frame);
            }
            held.push(output, wall_clock.saturating_add(now.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_long_again_soon_after_the_host_was_away() {
        let mut cost = 2.0;
        let usual = slice_length(cost);
        for _ in 0..50 {
            cost = smoothed(cost, 1e6);
        }
        let short = slice_length(cost);
        assert!(short >= MEASURED && short < usual / 10, "{short}");
        for _ in 0..30 {
            cost = smoothed(cost, 2.0);
        }
        assert!(slice_length(cost) > usual * 9 / 10, "{cost}");
    }
}
