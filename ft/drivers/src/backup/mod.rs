//! The backup: it takes a machine over from the live side, follows its log, and goes live when that
//! side is gone.
//!
//! Contract: between two slices of at most [`following::SLICE`] the mail is read, so that what
//! comes is acknowledged at once, whatever the machine does. Nothing leaves this side before it is
//! live: outputs are kept until the primary says that they have left it.

mod filling;
pub mod following;

use crate::black_box::{self, BlackBox};
use crate::bundle::Bundles;
use crate::control::{ControlRequest, Reply, Request, Status};
use crate::copy::Reads;
use crate::host::{Ends, Mail};
use crate::live::Inherited;
use crate::outcome::Exit;
use crate::pair::Pair;
use crate::record::Recorder;
use crate::transfer::DiskSize;
use backends::console::ConsoleEvent;
use backends::console::escape::Command;
use backends::disk::sync::Synced;
use backends::wake::{Post, mailbox};
use emulator::machine::{Config, Machine};
use filling::Filling;
use following::{Arrived, Following, Step, Trouble};
use ft::message::Commit;
use ft::{Action, Event};
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Answers of disks about the transfer that may wait: more than can be outstanding.
const SYNCED: usize = 8192;
/// How long a backup that leaves waits for its farewell to be out.
const FAREWELL: Duration = Duration::from_millis(300);

/// What a backup is told.
pub struct BackupConfig<'a> {
    /// What the machine must be.
    pub machine: &'a Config,
    /// The disks of which this side has copies of its own.
    pub sizes: &'a [DiskSize],
    /// The disks are the primary's, and not written before this side is live.
    pub shared: Option<Reads>,
    /// Where bundles go of machines that went different ways.
    pub bundles: &'a Bundles,
    /// What this side records of the machine.
    pub black_box: Option<&'a BlackBox>,
    /// Gives a machine that has come over its engine.
    pub prepare: &'a dyn Fn(&mut Machine),
}

/// How being a backup ended.
pub enum Ending {
    /// The machine is live from here on.
    Live(Box<Taken>),
    /// The end.
    Over(Exit),
}

/// A machine that was taken over.
pub struct Taken {
    /// The machine.
    pub machine: Machine,
    /// What it brings along.
    pub inherited: Inherited,
    /// Nanoseconds since 1970 at power-on.
    pub wall_clock: u64,
    /// Records the machine.
    pub recorder: Recorder,
}

/// Where the machine is.
enum Place {
    /// Elsewhere.
    Empty,
    /// On its way, with the mailbox for what the disks say to it: answers to one that came to
    /// nothing are nobody's.
    Filling(Box<Filling>, Post<Synced>, Receiver<Synced>),
    /// Here.
    Here(Box<Following>),
}

struct Backup<'a> {
    pair: &'a mut Pair,
    config: &'a BackupConfig<'a>,
    mail: &'a Mail,
    ends: &'a mut Ends,
    place: Place,
    /// Of the machine that is here, or on its way.
    recorder: Recorder,
    ending: Option<Ending>,
}

/// Waits for a live side and backs it up, until this side is live or is to end.
#[must_use]
pub fn run(pair: &mut Pair, config: &BackupConfig, mail: &Mail, ends: &mut Ends) -> Ending {
    let (place, recorder) = (Place::Empty, Recorder::default());
    let mut backup = Backup { pair, config, mail, ends, place, recorder, ending: None };
    backup.act();
    loop {
        backup.attend();
        if let Some(ending) = backup.ending.take() {
            backup.recorder.flush();
            return ending;
        }
        backup.work();
    }
}

impl Backup<'_> {
    /// Reads the mail and looks at the clock.
    fn attend(&mut self) {
        if self.pair.tick() {
            self.act();
        }
        if self.recorder.patience().is_some_and(|left| left.is_zero()) {
            self.recorder.flush();
        }
        if self.ending.is_some() || !self.mail.bell.is_rung() {
            return;
        }
        self.mail.bell.take();
        if let Ok(signal) = self.mail.signals.try_recv() {
            self.leave(Exit::Signal(signal.0));
        }
        while self.ending.is_none() && self.pair.receive() {
            self.act();
        }
        if self.ending.is_some() {
            // What else has come, answers of disks above all, is for the live side.
            return self.mail.bell.waker().wake();
        }
        while let Ok(completion) = self.mail.answers.try_recv() {
            if let Place::Here(following) = &mut self.place
                && let Err(trouble) = following.own_answer(completion)
            {
                self.trouble(trouble);
            }
        }
        if let Place::Filling(filling, _, synced) = &mut self.place {
            synced.try_iter().for_each(|synced| filling.disk_answer(synced));
        }
        self.pump();
        while let Ok(ControlRequest { request, respond }) = self.mail.requests.try_recv() {
            respond.answer(self.control(&request));
        }
        // Frames are for the live side.
        while self.mail.frames.try_recv().is_ok() {}
        while let Ok(event) = self.mail.typed.try_recv() {
            if event == ConsoleEvent::Command(Command::Quit) {
                self.leave(Exit::Quit);
            }
        }
    }

    /// Does what the protocol wants done.
    fn act(&mut self) {
        while self.ending.is_none()
            && let Some(action) = self.pair.poll()
        {
            match action {
                Action::Install(bytes) => self.install(&bytes),
                Action::AbortTransfer => self.place = Place::Empty,
                Action::Adopt(commit) => self.adopt(commit),
                Action::Forget(below) => {
                    if let Place::Here(following) = &mut self.place {
                        following.forget(below.0);
                    }
                }
                Action::GoLive { epoch, emit_from, .. } => {
                    log::warn!("live, in epoch {}", epoch.0);
                    self.go_live(emit_from.0);
                }
                Action::Halt(halt) => {
                    let exit = match (&self.place, Exit::of(&halt)) {
                        (Place::Here(following), Exit::PowerOff) => following.exit(),
                        (_, Exit::PowerOff) => Exit::NotJoined,
                        (_, exit) => exit,
                    };
                    self.ending = Some(Ending::Over(exit));
                }
                // These are for a live machine.
                Action::Release(_) | Action::Run(_) | Action::BeginTransfer(_) => {}
                action => log::debug!("not for a backup: {action:?}"),
            }
        }
    }

    fn status(&self) -> Status {
        let mut status = self.pair.describe();
        if let Place::Here(following) = &self.place {
            status.icount = following.machine().icount().0;
            status.guest_ns = following.machine().now().0;
        }
        status
    }

    fn control(&mut self, request: &Request) -> Reply {
        match request {
            Request::Status {} => return Reply::Status(Box::new(self.status())),
            Request::Promote {} if !self.pair.promote() => {
                return Reply::error("this side has no machine to go live with");
            }
            Request::Promote {} => {}
            Request::Detach {} => self.leave(Exit::Detached),
            _ => return Reply::error("this side is the backup: ask the primary"),
        }
        self.act();
        Reply::Done {}
    }

    fn install(&mut self, bytes: &[u8]) {
        if let Place::Empty = self.place {
            match Filling::new(self.config.machine, self.config.sizes) {
                Ok(filling) => {
                    let (post, synced) = mailbox(SYNCED, self.mail.bell.waker());
                    self.place = Place::Filling(Box::new(filling), post, synced);
                    self.recorder =
                        self.config.black_box.map_or_else(Recorder::default, |b| b.begin());
                }
                Err(why) => return self.pair.event(Event::TransferFailed(why)),
            }
        }
        if let Place::Filling(filling, ..) = &mut self.place {
            if self.config.black_box.is_some() && black_box::is_state(bytes) {
                self.recorder.piece(bytes);
            }
            filling.install(bytes);
            self.pump();
        }
    }

    fn adopt(&mut self, commit: Commit) {
        match &mut self.place {
            Place::Filling(filling, ..) => filling.commit(commit),
            _ => self.pair.event(Event::TransferFailed("nothing was transferred".into())),
        }
        self.pump();
    }

    /// Moves the transfer on.
    fn pump(&mut self) {
        let Place::Filling(filling, post, _) = &mut self.place else { return };
        for (disk, request) in filling.disk_requests() {
            self.ends.disks[usize::from(disk)].synchronize(request, post);
        }
        for payload in filling.payloads() {
            self.pair.event(Event::Transfer(payload));
        }
        match filling.adopted() {
            None => {}
            Some(Err(why)) => {
                self.place = Place::Empty;
                self.pair.event(Event::TransferFailed(why));
            }
            Some(Ok(mut arrived)) => {
                (self.config.prepare)(&mut arrived.machine);
                let Arrived { handover, commit, .. } = &*arrived;
                self.recorder.arrived(commit.at(), commit.digest, &handover.requests);
                let following = Following::new(*arrived, self.config.shared, self.ends);
                self.place = Place::Here(Box::new(following));
                self.pair.event(Event::Adopted);
            }
        }
        self.act();
    }

    /// Executes a slice, or waits.
    fn work(&mut self) {
        let step = match &mut self.place {
            Place::Here(following) => following.step(self.pair, self.ends, &mut self.recorder),
            _ => Ok(Step::Wait),
        };
        match step {
            Ok(Step::Done) => self.act(),
            Ok(Step::Wait) => {
                self.act();
                if self.ending.is_none() {
                    let retry = match &self.place {
                        Place::Here(following) => following.patience(),
                        _ => None,
                    };
                    let patience = [self.pair.patience(), self.recorder.patience(), retry];
                    self.mail.bell.wait(patience.into_iter().flatten().min());
                }
            }
            Err(trouble) => self.trouble(trouble),
        }
    }

    fn trouble(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Differs(what) => {
                let Place::Here(following) = &mut self.place else { return };
                let icount = following.machine().icount().0;
                log::error!("this machine differs from the primary's at icount {icount}: {what}");
                let evidence = following.evidence(&what, self.config.bundles);
                self.pair.event(Event::Diverged { icount, what, evidence });
            }
            Trouble::Failed(why) => {
                log::error!("this backup cannot go on: {why}");
                self.pair.event(Event::TransferFailed(why));
            }
        }
        self.act();
    }

    fn go_live(&mut self, emit_from: u64) {
        let place = std::mem::replace(&mut self.place, Place::Empty);
        let Place::Here(following) = place else {
            unreachable!("only who has a machine goes live")
        };
        let recorder = std::mem::take(&mut self.recorder);
        let taken = following.into_live(emit_from, self.pair, recorder);
        self.ending = Some(Ending::Live(Box::new(taken)));
    }

    /// The user wants the end of this backup: the primary is told.
    fn leave(&mut self, exit: Exit) {
        self.pair.event(Event::Detach);
        self.act();
        if !matches!(self.ending, Some(Ending::Live(_))) {
            std::thread::sleep(FAREWELL);
            self.ending = Some(Ending::Over(exit));
        }
    }
}
