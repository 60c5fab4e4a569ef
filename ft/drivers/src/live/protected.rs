//! The machine under the protection of a pair: what it tells the pair, and what the pair has it do.

use super::{Inherited, Live, Untold};
use crate::announce::{Addresses, Announcer};
use crate::bundle::Bundle;
use crate::guest::Guest;
use crate::outcome::Exit;
use crate::pace::Pace;
use crate::recent::Compared;
use crate::record::instant;
use backends::disk::worker::DiskWorker;
use devices::time::Icount;
use emulator::fingerprint::{Fingerprint, first_difference};
use ft::event::Pace as Allowed;
use ft::{Action, Event};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest pause at a stretch of a machine that may run for a share of the time.
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// Shortest: hosts wake a thread some 60 µs late, which must not count beside the pause.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Host time in ns between two reports of where a busy machine stands.
const REPORT: u64 = 500_000;

impl<G: Guest> Live<'_, G> {
    /// Goes on with a machine in the middle of its life.
    pub(super) fn take_over(&mut self, inherited: Inherited) {
        let Inherited { held, requests, answers, stale, rate, addresses, ended } = inherited;
        let now = self.guest.now().0;
        self.origin = now;
        let host = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let behind = host as f64 - self.wall_clock() as f64;
        log::info!("the guest's clock is {:.3} s behind this host's", behind / 1e9);
        self.pace = Pace::resumed(now, rate, behind);
        self.held = held;
        self.ended = ended;
        self.stale = stale;
        self.outstanding = requests.len();
        if self.config.shared {
            self.ends.disks.iter().for_each(DiskWorker::make_writable);
        }
        for (disk, request, operation) in requests {
            if self.config.shared {
                // What the other side had asked for may not have been done.
                self.ends.disks[usize::from(disk)].submit(request, operation.clone());
            }
            self.requests.insert((disk, request), operation);
        }
        self.begin_announcing(&addresses);
        self.announce();
        let made = self.held.made();
        self.held.release(made, &mut self.ends, || true);
        if self.ended.is_some() {
            return;
        }
        // Everything that is due at this instant happens before anything new.
        self.guest.run(Icount(self.guest.icount().0));
        self.take_outputs();
        answers.into_iter().for_each(|completion| self.answer(completion));
        self.ends.flush();
    }

    /// The networks are to know that the machine is here.
    fn begin_announcing(&mut self, addresses: &Addresses) {
        let cards = self.guest.machine().map(|machine| machine.config().board.nics.clone());
        let cards = cards.unwrap_or_default().into_iter().zip(0u8..);
        let frames = cards.flat_map(|(mac, nic)| {
            addresses.announcements(nic, mac).into_iter().map(move |frame| (nic, frame))
        });
        self.announcer = Some(Announcer::new(frames.collect(), Instant::now()));
    }

    /// Tells them, if it is time, and if this side is the live one beyond doubt.
    fn announce(&mut self) {
        let Some(announcer) = &mut self.announcer else { return };
        let now = Instant::now();
        let time = self.config.wall_clock.saturating_add(self.guest.now().0);
        let sure = self.pair.as_ref().is_some_and(|pair| pair.is_sure());
        for (nic, frame) in announcer.due(now).filter(|_| sure).unwrap_or_default() {
            self.ends.frame(*nic, frame, time);
        }
        if announcer.patience(now).is_none() {
            self.announcer = None;
        }
    }

    /// How long neither the pair nor the networks need anything.
    pub(super) fn patience(&self) -> Option<Duration> {
        let pair = self.pair.as_ref().and_then(|pair| pair.patience());
        let announcer = self.announcer.as_ref().and_then(|a| a.patience(Instant::now()));
        [pair, announcer].into_iter().flatten().min()
    }

    /// Tells the pair where the machine stands, if that is due, and does what follows.
    pub(super) fn report(&mut self, idle: bool) {
        if self.pair.is_none() {
            return;
        }
        let now = self.host_ns();
        if self.untold.count > 0 {
            if idle || self.untold.is_due(now) {
                self.tell_outputs();
            }
        } else if idle || now >= self.reported + REPORT {
            self.tell_position(idle);
        }
    }

    /// Tells the pair where the machine stands.
    fn tell_position(&mut self, idle: bool) {
        self.reported = self.host_ns();
        let at = instant(self.guest, self.halted);
        self.tell_pair(Event::Ran { at, idle });
    }

    /// Tells the pair of all outputs.
    pub(super) fn tell_outputs(&mut self) {
        let Untold { count, executed, .. } = std::mem::take(&mut self.untold);
        if count > 0 {
            let at = instant(self.guest, self.halted);
            self.tell_pair(Event::Output { at, count, executed });
        }
    }

    /// Tells the pair something, and does what follows.
    pub(super) fn tell_pair(&mut self, event: Event) {
        if let Some(pair) = &mut self.pair {
            pair.event(event);
            self.act();
        }
    }

    /// Lets the pair look at its clock.
    pub(super) fn attend_pair(&mut self) {
        self.announce();
        if let Some(pair) = &mut self.pair
            && pair.tick()
        {
            self.act();
        }
    }

    /// Lets the pair read its mail.
    pub(super) fn collect(&mut self) {
        while self.pair.as_mut().is_some_and(|pair| pair.receive()) {
            self.act();
        }
    }

    /// Does what the pair wants done.
    pub(super) fn act(&mut self) {
        while let Some(action) = self.pair.as_mut().and_then(|pair| pair.poll()) {
            match action {
                Action::Release(below) => {
                    let Self { held, ends, pair, .. } = self;
                    held.release(below.0, ends, || pair.as_ref().is_none_or(|p| p.is_prompt()));
                }
                Action::Run(allowed) => self.allowed = allowed,
                Action::BeginTransfer(conn) => self.begin_transfer(conn),
                Action::AbortTransfer => self.end_transfer(),
                Action::Install(bytes) => self.install(&bytes),
                Action::Evidence { icount, what, evidence } => {
                    self.keep_bundle(icount, &what, &evidence);
                }
                Action::Halt(halt) => self.ended = Some(Exit::of(&halt)),
                action => log::debug!("not for a live machine: {action:?}"),
            }
        }
    }

    /// The backup's machine went another way.
    fn keep_bundle(&mut self, icount: u64, what: &str, evidence: &[u8]) {
        let Some(machine) = self.guest.machine() else { return };
        let theirs = Fingerprint::from_bytes(evidence, machine.pages());
        let ours = machine.state_at(Icount(icount));
        let bytes = ours.as_ref().map(Fingerprint::to_bytes);
        let mut states = Vec::new();
        states.extend(bytes.as_ref().map(|b| Compared { whose: "primary", fingerprint: b }));
        if theirs.is_ok() {
            states.push(Compared { whose: "backup", fingerprint: evidence });
        }
        let details = match (ours, theirs) {
            (Some(ours), Ok(theirs)) => first_difference(&ours, &theirs)
                .unwrap_or_else(|| "the states that were kept are equal".into()),
            (None, _) => "the primary has kept no state of that instant".into(),
            (_, Err(e)) => format!("the backup's state cannot be read: {}", e.0),
        };
        log::error!("the backup differs at icount {icount}: {what}: {details}");
        let (side, recent) = ("primary", self.recent.as_deref());
        let bundle = Bundle { side, icount, what, details: &details, recent, states: &states };
        bundle.write(machine, &self.config.bundles);
    }

    /// Waits as long as the pair does not let the machine run.
    pub(super) fn stand_still(&mut self) {
        let end = match self.share() {
            Allowed::Full => {
                self.stood = self.host_ns();
                return;
            }
            Allowed::Share(thousandths) => {
                let share = f64::from(thousandths.clamp(1, 1000)) / 1000.0;
                let ran = (self.host_ns() - self.stood) as f64 / 1e9;
                let pause = Duration::from_secs_f64(ran * (1.0 - share) / share);
                if pause < PAUSE_MIN {
                    return;
                }
                Some(Instant::now() + pause.min(PAUSE_MAX))
            }
            Allowed::Stop => None,
        };
        self.ends.flush();
        if self.untold.count == 0 {
            self.tell_position(false);
        }
        self.end_sample(self.host_ns(), 0);
        let (paused, since) = (self.paused, self.host_ns());
        self.pause_until(end);
        self.stood = self.host_ns();
        if paused {
            // What the guest has missed it makes good slowly, as after a pause of the process.
            self.pace.target(self.stood);
        } else if self.joining.is_none() {
            self.slowed += self.stood - since;
        }
        self.resume();
    }

    /// How fast the machine may run.
    fn share(&self) -> Allowed {
        let joining = self.joining.as_ref().map_or(1000, |joining| joining.share);
        match self.allowed {
            _ if self.paused => Allowed::Stop,
            Allowed::Full if joining < 1000 => Allowed::Share(joining),
            Allowed::Share(share) => Allowed::Share(share.min(joining)),
            allowed => allowed,
        }
    }

    /// Handles the pair's mail and nothing else, until `end`, or until the machine may run.
    fn pause_until(&mut self, end: Option<Instant>) {
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let stays = match self.share() {
                Allowed::Full => false,
                Allowed::Share(_) => left.is_some_and(|left| !left.is_zero()),
                Allowed::Stop => true,
            };
            if !stays || self.ended.is_some() {
                break;
            }
            let patience = self.patience();
            if !self.transfer() {
                self.mail.bell.wait([left, patience].into_iter().flatten().min());
            }
            self.mail.bell.take();
            if let Ok(signal) = self.mail.signals.try_recv() {
                self.ended = Some(Exit::Signal(signal.0));
            }
            self.attend_pair();
            self.collect();
            self.attend_control();
        }
        // What else may have rung has not been heard.
        self.mail.bell.waker().wake();
    }

    /// The machine has ended: the pair is told, and nobody leaves before its last outputs have.
    pub(super) fn farewell(&mut self, exit: Exit) -> Exit {
        let by_itself =
            matches!(exit, Exit::PowerOff | Exit::DebugExit(_) | Exit::Reset | Exit::Icount);
        if !by_itself && self.joining.is_some() {
            // Nobody can take this machine over: who waits for it is told.
            self.tell_pair(Event::Ended);
        }
        if !by_itself || self.pair.is_none() {
            // On a shared disk the other side must wait for what is on its way there.
            if let Some(pair) = self.pair.as_mut().filter(|_| !self.config.shared) {
                pair.hang_up();
            }
            return exit;
        }
        self.ended = None;
        self.tell_outputs();
        let at = instant(self.guest, self.halted);
        let body = crate::record::end(self.guest, exit);
        self.tell_pair(Event::Logged { at, body });
        self.tell_pair(Event::Ended);
        while self.ended.is_none() {
            let patience = self.patience();
            self.mail.bell.wait(patience);
            self.mail.bell.take();
            if let Ok(signal) = self.mail.signals.try_recv() {
                return Exit::Signal(signal.0);
            }
            self.attend_pair();
            self.collect();
            self.attend_control();
        }
        match self.ended {
            Some(Exit::PowerOff) | None => exit,
            Some(other) => other,
        }
    }
}
