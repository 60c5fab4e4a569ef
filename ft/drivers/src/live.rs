//! The live driver: a machine in the host's time, with the host's consoles, networks and disks.
//!
//! Contract: the machine runs in slices of a fraction of a millisecond; between two of them what has arrived is
//! injected. A halted machine costs nothing until a timer or a message is due. Paced, the guest's clock follows the
//! host's; at a fixed rate, guest time is the count times the rate, disks answer after a fixed guest time, and a run
//! without input from outside is the same every time.

use crate::guest::Guest;
use crate::host::{Ends, Mail};
use crate::outcome::{Exit, Outcome};
use crate::pace::Pace;
use crate::record::Recorder;
use crate::slices::Slices;
use backends::console::ConsoleEvent;
use backends::console::escape::{self, Command};
use backends::disk::worker::Completion;
use backends::net::Received;
use backends::net::capture::Direction;
use devices::io::{Input, Output, PowerInput};
use devices::time::{Icount, Rate, VirtualNs};
use emulator::machine::Stop;
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

/// Host time of a slice in ns.
const SLICE: f64 = 250_000.0;
/// Host time of a slice in ns while the guest may be waiting for a disk without halting.
const SHORT_SLICE: f64 = 20_000.0;
/// Host time in ns between two looks at clocks and serial output.
const LOOK: u64 = 1_000_000;
/// Frames injected between two slices: what a guest can handle in one, lest its card overflow.
const FRAMES: usize = 16;
/// Guest ns after which a disk answers at a fixed rate.
const DISK_LATENCY: u64 = 20_000;
/// Host time between two seeds for the guest's random numbers.
const RESEED: Duration = Duration::from_secs(300);
/// Host time in ns over which the guest's speed is measured.
const SAMPLE: u64 = 200_000;
/// The clock's rate is looked at when the guest has run for this long in host ns without a pause: until then its clock
/// only shows how late the host woke us.
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
    pace: Pace,
    slices: Option<Slices>,
    start: Instant,
    /// Time has moved without instructions since the last one.
    halted: bool,
    /// Requests that disks have not answered.
    outstanding: usize,
    /// A frame for a card that had no room.
    held: Option<Received>,
    /// At a fixed rate: answers and when they are due.
    due: VecDeque<(VirtualNs, Completion)>,
    looked: u64,
    /// Where the current sample of the guest's speed began.
    sample: Sample,
    /// When the last wait ended.
    woken: u64,
    seeded: Instant,
    busy_ns: u64,
    rate_changes: u64,
}

/// Runs `guest` until it ends or is ended.
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
    let start = Instant::now();
    let mut live = Live {
        guest,
        config,
        mail,
        ends,
        recorder,
        pace: Pace::new(),
        slices: config.slice_seed.map(Slices::new),
        start,
        halted: false,
        outstanding: 0,
        held: None,
        due: VecDeque::new(),
        looked: 0,
        sample: Sample::default(),
        woken: 0,
        seeded: start,
        busy_ns: 0,
        rate_changes: 0,
    };
    live.power_on();
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
        self.start.elapsed().as_nanos() as u64
    }

    fn inject(&mut self, input: Input) {
        self.recorder.inject(self.guest, self.halted, input);
    }

    fn power_on(&mut self) {
        self.inject(Input::WallClock(self.config.wall_clock));
        self.inject(Input::Entropy(self.config.entropy));
        let rate = match self.config.timing {
            Timing::Paced => self.pace.rate(),
            Timing::Fixed(rate) => rate,
        };
        if rate != Rate::ONE {
            self.inject(Input::ClockRate(rate));
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
            self.recorder.digest_if_due(self.guest, self.halted);
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
            if host - self.looked >= LOOK {
                self.looked = host;
                self.look(host)?;
            }
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

    /// Begins a sample of the guest's speed: what came before was not its doing.
    fn begin_sample(&mut self) {
        self.sample =
            Sample { icount: self.guest.icount().0, wall: self.host_ns(), cpu: thread_cpu_ns() };
    }

    /// Ends a sample that is long enough, and begins the next.
    fn end_sample(&mut self, wall: u64, shortest: u64) {
        let begun = self.sample;
        if wall - begun.wall < shortest {
            return;
        }
        self.sample = Sample { icount: self.guest.icount().0, wall, cpu: thread_cpu_ns() };
        let cpu = self.sample.cpu - begun.cpu;
        self.busy_ns += cpu;
        self.pace.ran(self.sample.icount - begun.icount, wall - begun.wall, cpu);
    }

    fn slice_end(&mut self, from: u64) -> u64 {
        let time = if self.outstanding > 0 { SHORT_SLICE } else { SLICE };
        let mut length = (time / self.pace.cost()).clamp(200.0, 1e7) as u64;
        if let Some(slices) = &mut self.slices {
            length = length.min(slices.length());
        }
        if let (Some((due, _)), Timing::Fixed(rate)) = (self.due.front(), self.config.timing) {
            // Not past the first count at which the answer is due; the clock's fraction of a nanosecond is not known
            // here, so the last few instructions are single steps.
            let ns = due.0.saturating_sub(self.guest.now().0).saturating_sub(1);
            let least = (u128::from(ns) << 32) / u128::from(rate.0);
            length = length.min(least as u64).max(1);
        }
        let mut until = from.saturating_add(length);
        if let Some(digest) = self.recorder.next_digest() {
            until = until.min(digest);
        }
        self.config.max_icount.map_or(until, |max| until.min(max.0))
    }

    /// Injects what has arrived; `Some`: the user wants the end.
    fn deliver(&mut self) -> Option<Exit> {
        while self.due.front().is_some_and(|(due, _)| *due <= self.guest.now()) {
            let (_, completion) = self.due.pop_front().expect("looked at just now");
            self.answer(completion);
        }
        if !self.mail.bell.is_rung() {
            return None;
        }
        self.mail.bell.take();
        if let Ok(signal) = self.mail.signals.try_recv() {
            return Some(Exit::Signal(signal.0));
        }
        while let Ok(completion) = self.mail.answers.try_recv() {
            self.answer(completion);
        }
        for n in 0.. {
            let waiting = self.held.take().or_else(|| self.mail.frames.try_recv().ok());
            let Some(received) = waiting else { break };
            if n == FRAMES || !self.guest.nic_has_room(received.nic) {
                self.held = Some(received);
                self.mail.bell.waker().wake();
                break;
            }
            let time = self.wall_clock();
            self.ends.captured(received.nic, &received.frame, time, Direction::Inbound);
            self.inject(Input::NetRx { nic: received.nic, frame: received.frame });
        }
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
        None
    }

    fn answer(&mut self, completion: Completion) {
        self.outstanding -= 1;
        let Completion { disk, request, result } = completion;
        self.inject(Input::DiskDone { disk, request, result });
    }

    fn wall_clock(&self) -> u64 {
        self.config.wall_clock.saturating_add(self.guest.now().0)
    }

    fn take_outputs(&mut self) {
        while let Some(output) = self.guest.poll_output() {
            match output {
                Output::ConsoleTx { port, bytes } => self.ends.console(port, &bytes),
                Output::NetTx { nic, frame } => {
                    let time = self.wall_clock();
                    self.ends.frame(nic, &frame, time);
                }
                Output::Debug(byte) => self.ends.debug(byte),
                Output::Disk { disk, request, operation } => {
                    self.recorder.asked(disk, request, &operation);
                    self.outstanding += 1;
                    self.ends.disks[usize::from(disk)].submit(request, operation);
                    if let Timing::Fixed(_) = self.config.timing {
                        let answer = self.mail.answers.recv().expect("the disk's thread answers");
                        self.due.push_back((self.guest.now().after(DISK_LATENCY), answer));
                    }
                }
            }
        }
    }

    /// Lets time pass while the CPU is halted, until a timer is due or something has arrived.
    fn halt(&mut self, deadline: Option<VirtualNs>) -> io::Result<()> {
        if let Timing::Fixed(_) = self.config.timing {
            let due = self.due.front().map(|(due, _)| *due);
            if let Some(next) = [deadline, due].into_iter().flatten().min() {
                self.guest.idle_to(next);
                self.take_outputs();
                return Ok(());
            }
        }
        self.ends.flush();
        loop {
            let target = self.pace.target(self.host_ns());
            match deadline {
                Some(deadline) if deadline.0 <= target => self.guest.idle_to(deadline),
                _ if self.mail.bell.is_rung() || self.reseed_is_due() => {
                    self.guest.idle_to(VirtualNs(target));
                }
                _ => {
                    self.wait(deadline.map(|deadline| deadline.0 - target))?;
                    continue;
                }
            }
            self.take_outputs();
            self.reseed();
            return Ok(());
        }
    }

    /// Waits for `ns` at most, less if something arrives.
    fn wait(&mut self, ns: Option<u64>) -> io::Result<()> {
        let mut time = ns.map_or(LONGEST_WAIT, Duration::from_nanos).min(LONGEST_WAIT);
        if let Some(patience) = self.recorder.patience() {
            time = time.min(patience);
        }
        self.end_sample(self.host_ns(), 0);
        self.mail.bell.wait(Some(time));
        self.begin_sample();
        self.woken = self.sample.wall;
        self.pace.waited(self.woken);
        self.recorder.tick()
    }

    /// What need not happen at every slice.
    fn look(&mut self, host: u64) -> io::Result<()> {
        self.ends.flush();
        if self.config.timing == Timing::Paced {
            let target = self.pace.target(host);
            if host - self.woken >= RUNNING
                && let Some(rate) = self.pace.adjust(target, self.guest.now().0)
            {
                self.rate_changes += 1;
                self.inject(Input::ClockRate(rate));
            }
        }
        self.reseed();
        self.recorder.tick()
    }

    fn reseed_is_due(&self) -> bool {
        self.config.reseed.is_some() && self.seeded.elapsed() >= RESEED
    }

    fn reseed(&mut self) {
        if let Some(seed) = self.config.reseed
            && self.reseed_is_due()
        {
            self.seeded = Instant::now();
            self.inject(Input::Entropy(seed()));
        }
    }

    fn finish(mut self, ended: io::Result<Exit>) -> io::Result<Outcome> {
        self.take_outputs();
        let host_ns = self.host_ns();
        self.end_sample(host_ns, 0);
        let logged = ended.and_then(|exit| {
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
