//! The live driver: a machine in the host's time, with the host's consoles, networks and disks.
//!
//! Contract: the machine runs in slices of a fraction of a millisecond; between two of them what
//! has arrived is injected. A halted machine costs nothing until a timer or a message is due.
//! Paced, the guest's clock follows the host's; at a fixed rate, guest time is the count times the
//! rate, disks answer after a fixed guest time, and a run without input from outside is the same
//! every time. A machine of a pair tells the pair of every input before it takes it, and its
//! outputs wait until the pair lets them go.

mod control;
mod idle;
mod joining;
mod outputs;
mod protected;

use crate::announce::{Addresses, Announcer};
use crate::bundle::Bundles;
use crate::check::Spacing;
use crate::guest::Guest;
use crate::held::Held;
use crate::host::{Ends, Mail};
use crate::outcome::{Exit, Outcome};
use crate::pace::Pace;
use crate::pair::Pair;
use crate::recent::Recent;
use crate::record::{Recorder, instant};
use crate::slices::Slices;
use crate::transfer::DiskSize;
use backends::console::ConsoleEvent;
use backends::console::escape::{self, Command};
use backends::disk::worker::Completion;
use backends::net::Received;
use backends::net::capture::Direction;
use devices::io::{DiskOperation, Input, PowerInput};
use devices::time::{Icount, Rate, VirtualNs};
use emulator::machine::Stop;
use ft::event::Pace as Allowed;
use joining::Joining;
use outputs::Untold;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

/// Host time of a slice in ns: should the guest become a hundred times slower in it, its clock
/// stays near the host's.
const SLICE: f64 = 60_000.0;
/// Host time of a slice in ns while the guest may be waiting for a disk without halting.
const SHORT_SLICE: f64 = 20_000.0;
/// Host time of a slice in ns while outputs wait for the backup.
const HELD_SLICE: f64 = 50_000.0;
/// Host time in ns between two looks at clocks and serial output.
const LOOK: u64 = 1_000_000;
/// Guest time in ns between two looks, at most: a guest that has become faster is not far ahead
/// when it is noticed.
const GUEST_LOOK: u64 = 4_000_000;
/// Frames injected between two slices: what a guest can handle in one, lest its card overflow.
const FRAMES: usize = 16;
/// Guest ns after which a disk answers at a fixed rate.
const DISK_LATENCY: u64 = 20_000;
/// Host time between two seeds for the guest's random numbers.
const RESEED: Duration = Duration::from_secs(300);
/// Host time in ns over which the guest's speed is measured.
const SAMPLE: u64 = 200_000;
/// The clock's rate is looked at when the guest has run for this long in host ns without a pause:
/// until then its clock only shows how late the host woke us.
const RUNNING: u64 = 4_000_000;
/// Longest wait without a look at anything.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How guest time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// With the host's clock.
    Paced,
    /// At this rate, as fast as the host can.
    Fixed(Rate),
}

/// What the driver is told.
pub struct LiveConfig {
    /// How guest time passes.
    pub timing: Timing,
    /// A reset ends the run.
    pub no_reboot: bool,
    /// Ends the run at this count.
    pub max_icount: Option<Icount>,
    /// Runs in random slices, for tests.
    pub slice_seed: Option<u64>,
    /// Nanoseconds since 1970 at power-on.
    pub wall_clock: u64,
    /// The first seed for the guest's random numbers.
    pub entropy: [u8; 32],
    /// Where later seeds come from; `None`: there are none.
    pub reseed: Option<fn() -> [u8; 32]>,
    /// The disks that a backup must have, with its own content.
    pub disk_sizes: Vec<DiskSize>,
    /// The disks are those of the backup, too: what is written to them is an output.
    pub shared: bool,
    /// Where bundles go of machines that went different ways.
    pub bundles: Bundles,
}

/// What a machine brings along that goes live in the middle of its life.
#[derive(Debug)]
pub struct Inherited {
    /// Outputs: those that may be lost have been kept.
    pub held: Held,
    /// Requests that the guest has had no answer to, in order.
    pub requests: Vec<(u8, u64, DiskOperation)>,
    /// Answers to some of them.
    pub answers: Vec<Completion>,
    /// Requests that the guest has had the answer to, and that its disks here have not answered.
    pub stale: BTreeSet<(u8, u64)>,
    /// The rate of the guest's clock.
    pub rate: Rate,
    /// The guest's addresses on its networks.
    pub addresses: Addresses,
    /// The guest has ended already.
    pub ended: Option<Exit>,
}

/// Clocks and count at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    icount: u64,
    wall: u64,
    cpu: u64,
}

struct Live<'a, G> {
    guest: &'a mut G,
    config: &'a LiveConfig,
    mail: Mail,
    ends: Ends,
    recorder: &'a mut Recorder,
    pair: Option<&'a mut Pair>,
    pace: Pace,
    slices: Option<Slices>,
    start: Instant,
    /// What [`Live::host_ns`] was at the start.
    origin: u64,
    /// Time has moved without instructions since the last one.
    halted: bool,
    /// Requests that disks have not answered.
    outstanding: usize,
    /// In a pair: what they are.
    requests: BTreeMap<(u8, u64), DiskOperation>,
    /// Requests whose answers nobody waits for.
    stale: BTreeSet<(u8, u64)>,
    /// What the networks are to be told.
    announcer: Option<Announcer>,
    /// A backup that is joining.
    joining: Option<Box<Joining>>,
    /// While there is a backup: what a difference from it can be looked into with.
    recent: Option<Box<Recent>>,
    /// A frame for a card that had no room.
    waiting: Option<Received>,
    /// Outputs that wait for the pair.
    held: Held,
    /// Of them, what the pair has not been told of.
    untold: Untold,
    /// How fast the pair lets the machine run.
    allowed: Allowed,
    /// The user wants the machine to stand still.
    paused: bool,
    /// When the machine last stood still because the pair wanted it.
    stood: u64,
    /// For how long it has because of the backup, nanoseconds.
    slowed: u64,
    /// When the pair was last told where the machine stands.
    reported: u64,
    /// The end has come from outside the machine.
    ended: Option<Exit>,
    /// At a fixed rate: answers and when they are due.
    due: VecDeque<(VirtualNs, Completion)>,
    looked: u64,
    looked_guest: u64,
    /// Where the current sample of the guest's speed began.
    sample: Sample,
    /// When the last wait ended.
    woken: u64,
    seeded: Instant,
    busy_ns: u64,
    rate_changes: u64,
    /// Between two digests.
    spacing: Spacing,
}

/// Runs `guest` from power-on until it ends or is ended.
///
/// # Errors
/// The log cannot be written, or a disk's data not be made durable.
pub fn run<G: Guest>(
    guest: &mut G,
    config: &LiveConfig,
    mail: Mail,
    ends: Ends,
    recorder: &mut Recorder,
) -> io::Result<Outcome> {
    run_protected(guest, config, mail, ends, recorder, None, None)
}

/// Runs `guest` until it ends or is ended, with the leave and under the protection of `pair`; from
/// power-on, or from what is `inherited`.
///
/// # Errors
/// The log cannot be written, or a disk's data not be made durable.
pub fn run_protected<G: Guest>(
    guest: &mut G,
    config: &LiveConfig,
    mail: Mail,
    ends: Ends,
    recorder: &mut Recorder,
    pair: Option<&mut Pair>,
    inherited: Option<Inherited>,
) -> io::Result<Outcome> {
    let (start, spacing) = (Instant::now(), Spacing::new(guest.icount().0, 0));
    let mut live = Live {
        guest,
        config,
        mail,
        ends,
        recorder,
        pair,
        pace: Pace::new(),
        slices: config.slice_seed.map(Slices::new),
        start,
        origin: 0,
        halted: false,
        outstanding: 0,
        requests: BTreeMap::new(),
        stale: BTreeSet::new(),
        announcer: None,
        joining: None,
        recent: None,
        waiting: None,
        held: Held::default(),
        untold: Untold::default(),
        allowed: Allowed::Full,
        paused: false,
        stood: 0,
        slowed: 0,
        reported: 0,
        ended: None,
        due: VecDeque::new(),
        looked: 0,
        looked_guest: 0,
        sample: Sample::default(),
        woken: 0,
        seeded: start,
        busy_ns: 0,
        rate_changes: 0,
        spacing,
    };
    match inherited {
        None => live.power_on(),
        Some(inherited) => live.take_over(inherited),
    }
    live.act();
    live.begin_sample();
    let ended = live.until_the_end();
    live.finish(ended)
}

/// Processor time of this thread in ns.
fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl<G: Guest> Live<'_, G> {
    fn host_ns(&self) -> u64 {
        self.origin + self.start.elapsed().as_nanos() as u64
    }

    /// Every input passes here: it is logged, then the machine takes it.
    fn inject(&mut self, input: Input) {
        if let Some(pair) = &mut self.pair {
            pair.log_input(instant(self.guest, self.halted), &input);
        }
        if let Some(recent) = &mut self.recent {
            recent.input(instant(self.guest, self.halted), &input);
        }
        self.recorder.inject(self.guest, self.halted, input);
    }

    fn power_on(&mut self) {
        self.inject(Input::WallClock(self.config.wall_clock));
        self.inject(Input::Entropy(self.config.entropy));
        let rate = self.rate();
        if rate != Rate::ONE {
            self.inject(Input::ClockRate(rate));
        }
    }

    /// The rate of the guest's clock.
    fn rate(&self) -> Rate {
        match self.config.timing {
            Timing::Paced => self.pace.rate(),
            Timing::Fixed(rate) => rate,
        }
    }

    fn until_the_end(&mut self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.deliver() {
                return Ok(exit);
            }
            if self.config.max_icount.is_some_and(|max| self.guest.icount() >= max) {
                return Ok(Exit::Icount);
            }
            let stop = self.slice();
            self.take_outputs();
            self.digest_if_due();
            if self.guest.failure().is_some() {
                return Ok(Exit::Diverged);
            }
            self.report(matches!(stop, Stop::Halted(_)));
            match stop {
                Stop::Reached | Stop::Output => {}
                Stop::Halted(deadline) => self.halt(deadline)?,
                Stop::Reset if self.config.no_reboot => return Ok(Exit::Reset),
                Stop::Reset => log::info!("the guest was reset"),
                Stop::PowerOff => return Ok(Exit::PowerOff),
                Stop::DebugExit(value) => return Ok(Exit::DebugExit(value)),
            }
            let host = self.host_ns();
            self.end_sample(host, SAMPLE);
            let guest = self.guest.now().0;
            if host - self.looked >= LOOK || guest.saturating_sub(self.looked_guest) >= GUEST_LOOK {
                (self.looked, self.looked_guest) = (host, guest);
                self.look(host)?;
            }
            self.transfer();
            self.stand_still();
        }
    }

    /// Runs a slice.
    fn slice(&mut self) -> Stop {
        let from = self.guest.icount();
        let until = self.slice_end(from.0);
        let stop = self.guest.run(Icount(until));
        let reached = self.guest.icount().0;
        assert!(reached <= until, "the machine ran to {reached}, past {until}");
        let ran = reached - from.0;
        self.halted = matches!(stop, Stop::Halted(_)) || (self.halted && ran == 0);
        stop
    }

    fn slice_end(&mut self, from: u64) -> u64 {
        let time = match (self.outstanding > 0, self.held.is_empty()) {
            (true, _) => SHORT_SLICE,
            (false, false) => HELD_SLICE,
            (false, true) => SLICE,
        };
        let mut length = (time / self.pace.cost()).clamp(200.0, 1e7) as u64;
        if let Some(slices) = &mut self.slices {
            length = length.min(slices.length());
        }
        if let (Some((due, _)), Timing::Fixed(rate)) = (self.due.front(), self.config.timing) {
            // Not past the first count at which the answer is due; the clock's fraction of a
            // nanosecond is not known here, so the last few instructions are single steps.
            let ns = due.0.saturating_sub(self.guest.now().0).saturating_sub(1);
            let least = (u128::from(ns) << 32) / u128::from(rate.0);
            length = length.min(least as u64).max(1);
        }
        let mut until = from.saturating_add(length);
        if let Some(digest) = self.next_digest() {
            until = until.min(digest);
        }
        self.config.max_icount.map_or(until, |max| until.min(max.0))
    }

    /// Injects what has arrived; `Some`: the end has come from outside.
    fn deliver(&mut self) -> Option<Exit> {
        while self.due.front().is_some_and(|(due, _)| *due <= self.guest.now()) {
            let (_, completion) = self.due.pop_front().expect("looked at just now");
            self.answer(completion);
        }
        self.attend_pair();
        if self.ended.is_some() || !self.mail.bell.is_rung() {
            return self.ended;
        }
        self.mail.bell.take();
        if let Ok(signal) = self.mail.signals.try_recv() {
            return Some(Exit::Signal(signal.0));
        }
        self.collect();
        self.attend_control();
        while let Ok(completion) = self.mail.answers.try_recv() {
            self.answer(completion);
        }
        self.deliver_frames();
        while let Ok(event) = self.mail.typed.try_recv() {
            match event {
                ConsoleEvent::Bytes { port, bytes } => {
                    self.inject(Input::ConsoleRx { port, bytes });
                }
                ConsoleEvent::Command(Command::Quit) => return Some(Exit::Quit),
                ConsoleEvent::Command(Command::Help) => self.ends.tell(escape::HELP),
                ConsoleEvent::Command(Command::PowerButton) => {
                    self.inject(Input::Power(PowerInput::Button));
                }
                ConsoleEvent::Command(Command::Reset) => {
                    self.inject(Input::Power(PowerInput::Reset));
                }
            }
        }
        self.ended
    }

    fn deliver_frames(&mut self) {
        for n in 0.. {
            let waiting = self.waiting.take().or_else(|| self.mail.frames.try_recv().ok());
            let Some(received) = waiting else { break };
            if n == FRAMES || !self.guest.nic_has_room(received.nic) {
                self.waiting = Some(received);
                self.mail.bell.waker().wake();
                break;
            }
            let time = self.wall_clock();
            self.ends.captured(received.nic, &received.frame, time, Direction::Inbound);
            self.inject(Input::NetRx { nic: received.nic, frame: received.frame });
        }
    }

    fn answer(&mut self, completion: Completion) {
        let Completion { disk, request, result } = completion;
        if !self.stale.is_empty() && self.stale.remove(&(disk, request)) {
            return;
        }
        self.outstanding -= 1;
        self.requests.remove(&(disk, request));
        self.inject(Input::DiskDone { disk, request, result });
    }

    fn wall_clock(&self) -> u64 {
        self.config.wall_clock.saturating_add(self.guest.now().0)
    }

    fn finish(mut self, ended: io::Result<Exit>) -> io::Result<Outcome> {
        self.take_outputs();
        let host_ns = self.start.elapsed().as_nanos() as u64;
        self.end_sample(self.host_ns(), 0);
        let logged = ended.and_then(|exit| {
            let exit = self.farewell(exit);
            self.recorder.end(self.guest, self.halted, exit)?;
            Ok(exit)
        });
        // Whatever happened to the log, the guest's disks are made durable.
        self.ends.finish()?;
        let (log_bytes, log_entries) = self.recorder.size();
        Ok(Outcome {
            exit: logged?,
            icount: self.guest.icount(),
            guest: self.guest.now(),
            host_ns,
            busy_ns: self.busy_ns,
            log_bytes,
            log_entries,
            clock_error_ns: match self.config.timing {
                Timing::Paced => self.pace.worst(),
                Timing::Fixed(_) => 0,
            },
            rate_changes: self.rate_changes,
            digest: self.guest.digest(),
        })
    }
}
