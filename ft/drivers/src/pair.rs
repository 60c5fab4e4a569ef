//! One side of a pair: the protocol, and the threads through which it talks to the other side and
//! to the arbiter.
//!
//! Contract: what only moves messages is done here; what concerns the machine comes out of
//! [`Pair::poll`], in order. Nothing here waits: the bell of the machine's thread rings when there
//! is something to [`Pair::receive`], and [`Pair::patience`] says when to look at the clock.

use crate::arbiter::asking::{Answer, Asking, Reply};
use crate::arbiter::manual::Promotion;
use crate::arbiter::{self, Arbiter};
use crate::channel::{Channel, ChannelEvent, Inbox};
use crate::check::Schedule;
use crate::control::{self, ControlRequest, Request};
use crate::copy::{DiskLog, Reads};
use crate::guest::Guest;
use crate::host::Mail;
use crate::outcome::Exit;
use crate::record;
use backends::clock;
use backends::disk::fence::{Fence, Leave};
use backends::wake::{Waker, mailbox};
use devices::io::{DiskOperation, Input};
use ft::event::{Halt, Notice, Record, RecordRole, Tenure, Verdict};
use ft::log::{Body, Entry, Instant};
use ft::replica::{Status, StatusRole};
use ft::types::{Conn, Epoch, HostNs, ReplicaId};
use ft::{Action, Config, Event, Message, Replica, Start};
use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::Receiver;
use std::time::{self, Duration};

/// Answers of the arbiter that may wait.
const ANSWERS: usize = 32;
/// An arbiter that has not answered by then is unreachable for now.
const ARBITER_LIMIT: Duration = Duration::from_millis(1500);

/// Until an arbiter that did not say whether it is the primary's is asked again.
const CHECK_AGAIN: Duration = Duration::from_millis(300);

/// Until a record that could not be written is tried again.
const WRITE_AGAIN: Duration = Duration::from_millis(250);
/// How often what has come is heard before the clock, when both are due.
const HEAR_FIRST: u32 = 8;
/// Without a sign of life of the machine's thread for so many timeouts the channel's threads give
/// none either.
const GRACE: u32 = 4;

/// Between two looks while the arbiter's leave to start is waited for.
const STARTING: Duration = Duration::from_millis(50);

/// Writes down what a replica must remember, with the instruction count of the log's last entry and
/// the other side's address, if it is connected.
pub type Keep = Box<dyn FnMut(&Record, u64, Option<&str>) -> io::Result<()>>;

/// One side of a pair.
pub struct Pair {
    replica: Replica,
    me: ReplicaId,
    timer: Option<HostNs>,
    channel: Channel,
    inbox: Inbox,
    /// Connections that are up and that the protocol has not closed.
    open: BTreeSet<u64>,
    asking: Asking,
    answers: Receiver<Answer>,
    /// Number of the last question to the arbiter, and the epoch that it was about.
    asked: (u64, Epoch),
    keep: Keep,
    /// Before disks that the other side can write, too.
    fence: Option<Fence>,
    journal: Journal,
    /// The arbiter's name, for the user.
    arbiter: String,
    /// The user's end of a manual arbiter.
    promotion: Promotion,
    /// It has to say more than that this side was started.
    ask_user: bool,
    /// Whether the arbiter is the primary's.
    check: Check,
    /// The user was told that the check takes its time.
    unchecked: bool,
    peer: Option<String>,
    /// What this side was in the last record that was written.
    recorded: Option<RecordRole>,
    unwritten: Option<Unwritten>,
    /// The clock has waited so often for what had come.
    waited: u32,
    /// Of the log's last entry that this side has made or executed.
    icount: u64,
    /// When the protocol was last told something.
    told: HostNs,
    /// The process has stood still if so many ns pass between that and what follows.
    prompt: u64,
}

/// A backup makes sure that it asks the same arbiter as the primary that it joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// This arbiter remembers nothing that could be compared.
    Never,
    /// It is, or it does not matter yet.
    Done,
    /// It has been asked; `adopted`: and the machine is here already.
    Asked { token: u64, adopted: bool },
    /// It did not answer, and is asked again at this time.
    Later { at: time::Instant, adopted: bool },
}

/// A record that could not be written.
struct Unwritten {
    record: Record,
    again: time::Instant,
    /// Nothing else is done before it is.
    needed: bool,
}

/// What the log for the backup has to know of the machine.
struct Journal {
    /// There is a backup.
    on: bool,
    disks: Vec<DiskLog>,
    checks: Schedule,
}

/// What a pair is made of.
pub struct Parts {
    /// Times, and who we are.
    pub config: Config,
    /// How this side begins.
    pub start: Start,
    /// To the other side.
    pub channel: Channel,
    /// From the other side.
    pub inbox: Inbox,
    /// Who decides.
    pub arbiter: Box<dyn Arbiter>,
    /// Its name, for the user.
    pub arbiter_name: String,
    /// The user's end of a manual one.
    pub promotion: Promotion,
    /// A manual one is not told by the start alone that this side may go live.
    pub ask_user: bool,
    /// Writes down what must be remembered.
    pub keep: Keep,
    /// Disks of the machine.
    pub disks: usize,
    /// Both sides have the same disks, not copies: what has to give leave to write them, and how
    /// the backup reads them.
    pub shared: Option<(Fence, Reads)>,
}

impl Pair {
    /// One side of a pair; `waker` rings for the machine's thread.
    ///
    /// # Errors
    /// The host has no threads to spare.
    pub fn new(parts: Parts, waker: Waker) -> io::Result<Self> {
        let Parts { config, start, channel, inbox, arbiter, keep, disks, shared, .. } = parts;
        let (fence, reads) = shared.unzip();
        let check = if arbiter.remembers() { Check::Done } else { Check::Never };
        let (post, answers) = mailbox(ANSWERS, waker);
        let asking = Asking::spawn(arbiter, ARBITER_LIMIT, post)?;
        channel.keep_alive(
            Duration::from_nanos(config.heartbeat) * 2,
            Duration::from_nanos(config.timeout) * GRACE,
        );
        let (me, prompt, told) = (config.me, config.timeout / 2, HostNs(clock::now_ns()));
        Ok(Self {
            replica: Replica::new(config, start, told),
            me,
            timer: None,
            channel,
            inbox,
            open: BTreeSet::new(),
            asking,
            answers,
            asked: (0, Epoch(0)),
            keep,
            fence,
            journal: Journal {
                on: false,
                disks: (0..disks)
                    .map(|_| reads.map_or_else(|| DiskLog::new(true), DiskLog::shared))
                    .collect(),
                checks: Schedule::from(0),
            },
            arbiter: parts.arbiter_name,
            promotion: parts.promotion,
            ask_user: parts.ask_user,
            check,
            unchecked: false,
            recorded: None,
            unwritten: None,
            waited: 0,
            peer: None,
            icount: 0,
            told,
            prompt,
        })
    }

    /// Tells the protocol what has happened; [`Pair::poll`] has what follows.
    pub fn event(&mut self, event: Event) {
        if event == Event::Adopted
            && let Check::Asked { adopted, .. } | Check::Later { adopted, .. } = &mut self.check
        {
            *adopted = true;
            return;
        }
        if let Event::Logged { at, .. } | Event::CutOver { at, .. } = &event {
            self.icount = at.icount;
        }
        self.told = HostNs(clock::now_ns());
        self.replica.handle(self.told, event);
        self.renew();
    }

    /// Whether what follows from the last event is done before the other side can have gone live
    /// because of this side's silence.
    #[must_use]
    pub fn is_prompt(&self) -> bool {
        HostNs(clock::now_ns()).since(self.told) < self.prompt
    }

    /// Whether shared disks may be written.
    fn renew(&self) {
        if let Some(fence) = &self.fence {
            fence.set(match self.replica.tenure() {
                Tenure::Open => Leave::Open,
                Tenure::Until(time) => Leave::Until(time.0),
                Tenure::Ended => Leave::Closed,
            });
        }
    }

    /// Whether this side is the live one beyond doubt.
    #[must_use]
    pub fn is_sure(&self) -> bool {
        match self.replica.tenure() {
            Tenure::Open => true,
            Tenure::Until(time) => clock::now_ns() < time.0,
            Tenure::Ended => false,
        }
    }

    /// Takes one message from the other side or the arbiter, if there is any; [`Pair::poll`] has
    /// what follows.
    pub fn receive(&mut self) -> bool {
        if let Ok(answer) = self.answers.try_recv() {
            self.answered(answer);
            return true;
        }
        let Some(event) = self.inbox.try_recv() else { return false };
        match event {
            ChannelEvent::Up { conn, peer, .. } => {
                log::info!("connected with {peer}");
                self.peer = Some(peer);
                self.open.insert(conn);
                self.event(Event::Connected(Conn(conn)));
            }
            ChannelEvent::Message { conn, bytes } if self.open.contains(&conn) => {
                match Message::decode(&bytes) {
                    Ok(message) => self.event(Event::Received(Conn(conn), message)),
                    Err(e) => {
                        log::warn!("the other side sent what is {e}");
                        self.open.remove(&conn);
                        self.channel.close(conn);
                        self.event(Event::Disconnected(Conn(conn)));
                    }
                }
            }
            ChannelEvent::Down { conn, why } => {
                log::info!("connection lost: {why}");
                if self.open.remove(&conn) {
                    self.event(Event::Disconnected(Conn(conn)));
                }
                if self.open.is_empty() {
                    self.peer = None;
                }
            }
            ChannelEvent::Message { .. } => {}
            ChannelEvent::Trouble(line) => log::warn!("{line}"),
        }
        true
    }

    fn answered(&mut self, answer: Answer) {
        if let Check::Asked { token, adopted } = self.check
            && token == answer.token
        {
            return self.checked(adopted, answer.reply);
        }
        let (token, epoch) = self.asked;
        if answer.token != token {
            return;
        }
        let verdict = match answer.reply {
            Reply::Verdict(arbiter::Verdict::Won) => Verdict::Won,
            Reply::Verdict(arbiter::Verdict::Lost(latest)) => {
                Verdict::Lost { epoch: Epoch(latest.epoch), owner: ReplicaId(latest.owner) }
            }
            Reply::Unreachable(why) => {
                log::info!("arbiter: {why}");
                Verdict::Unreachable
            }
            Reply::Latest(_) => return,
        };
        self.event(Event::Verdict { epoch, verdict });
    }

    /// Asks who won the epoch of the primary that this side joins; `adopted`: whose machine is here
    /// already.
    fn check_arbiter(&mut self, adopted: bool) {
        if let Some(vm) = self.replica.status().vm
            && self.check != Check::Never
        {
            self.asked.0 += 1;
            self.check = Check::Asked { token: self.asked.0, adopted };
            self.asking.latest(self.asked.0, vm.0);
        }
    }

    fn checked(&mut self, adopted: bool, reply: Reply) {
        let epoch = self.replica.status().epoch.0;
        match reply {
            Reply::Latest(Some(latest)) if latest.epoch.checked_add(1) == Some(epoch) => {
                self.check = Check::Done;
                if adopted {
                    self.event(Event::Adopted);
                }
            }
            Reply::Latest(_) | Reply::Verdict(_) => {
                self.check = Check::Done;
                let why = format!(
                    "{} did not give the primary its epoch {epoch}: both sides need the same --arbiter",
                    self.arbiter
                );
                log::error!("{why}");
                self.event(Event::TransferFailed(why));
            }
            Reply::Unreachable(why) => {
                if !std::mem::replace(&mut self.unchecked, true) {
                    log::warn!("not protected before the arbiter answers: {why}");
                }
                self.check = Check::Later { at: time::Instant::now() + CHECK_AGAIN, adopted };
            }
        }
    }

    /// The user wants this side to be live; `false`: nothing waits for that.
    pub fn promote(&mut self) -> bool {
        let granted = self.promotion.promote();
        if self.status().role == StatusRole::Backup {
            self.promotion.promote_next();
            self.event(Event::Promote);
            return true;
        }
        granted
    }

    /// What this side does, for the user.
    #[must_use]
    pub fn describe(&self) -> control::Status {
        let status = self.replica.status();
        let per_second = u128::from(status.log_bytes) * 1_000_000_000;
        control::Status {
            role: status.role.into(),
            epoch: status.epoch.0,
            lag_ns: status.lag_ns,
            log_entries: status.entries.0,
            log_bytes: status.log_bytes,
            log_bytes_per_s: per_second.checked_div(status.log_ns.into()).unwrap_or(0) as u64,
            ack_latency_us: status.ack_ns / 1000,
            held_outputs: status.outputs.0.0.saturating_sub(status.outputs.1.0),
            peer: self.peer.clone(),
            protected: matches!(status.role, StatusRole::Primary | StatusRole::Backup),
            arbiter: Some(self.arbiter.clone()),
            ..control::Status::default()
        }
    }

    /// Lets the protocol look at its clock; whether it was due.
    pub fn tick(&mut self) -> bool {
        if let Check::Later { at, adopted } = self.check
            && at <= time::Instant::now()
        {
            self.check_arbiter(adopted);
        }
        self.channel.alive();
        let due = |unwritten: &Unwritten| unwritten.again <= time::Instant::now();
        if self.unwritten.as_ref().is_some_and(due) {
            self.write_again();
            return true;
        }
        if self.timer.is_none_or(|at| at.0 > clock::now_ns()) {
            return false;
        }
        // This host may have kept us waiting: the other side was not silent if it was not heard.
        if self.inbox.has_events() && self.waited < HEAR_FIRST {
            self.waited += 1;
            return false;
        }
        self.waited = 0;
        self.timer = None;
        self.event(Event::Timer);
        true
    }

    /// How long the protocol need not look at its clock; `None`: for ever.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        let timer = self.timer.map(|at| Duration::from_nanos(at.since(HostNs(clock::now_ns()))));
        let check = match self.check {
            Check::Later { at, .. } => Some(at.saturating_duration_since(time::Instant::now())),
            _ => None,
        };
        let now = time::Instant::now();
        let write = self.unwritten.as_ref().map(|u| u.again.saturating_duration_since(now));
        [timer, check, write].into_iter().flatten().min()
    }

    /// The next thing that concerns the machine.
    pub fn poll(&mut self) -> Option<Action> {
        loop {
            if self.unwritten.as_ref().is_some_and(|unwritten| unwritten.needed) {
                return None;
            }
            match self.replica.poll()? {
                Action::Send(conn, message) => {
                    let sign = sign_of_life(&message).map(|sign| sign.encode());
                    self.channel.send_with_sign(conn.0, message.encode(), sign);
                }
                Action::Close(conn) => {
                    self.open.remove(&conn.0);
                    self.channel.close(conn.0);
                }
                Action::SetTimer(at) => self.timer = Some(at),
                Action::AskArbiter(epoch) => self.ask(epoch),
                Action::Persist(record) => self.persist(record),
                Action::Tell(notice) => {
                    if let Notice::BackupLost(_) = notice {
                        self.journal.on = false;
                    }
                    if notice == Notice::Protected {
                        self.note_peer();
                    }
                    tell(&notice);
                }
                action => {
                    self.mind_fence(&action);
                    return Some(action);
                }
            }
        }
    }

    fn mind_fence(&self, action: &Action) {
        match (&self.fence, action) {
            (Some(fence), Action::GoLive { rival_until, .. }) => fence.alone_from(rival_until.0),
            // The other side ends, too: what is on its way may arrive.
            (Some(fence), Action::Halt(Halt::Ended)) => fence.set(Leave::Open),
            _ => {}
        }
    }

    /// Makes a record durable, or sees to what follows if it cannot be.
    ///
    /// A primary that goes on in a later epoch is known by the incarnation in its record and by the
    /// arbiter: it goes on, and tries again. A backup that goes live without the record would be
    /// taken for one that never was, and the other, older copy for the newer: it waits. A backup
    /// that cannot say that it is one must not count.
    fn persist(&mut self, record: Record) {
        self.unwritten = None;
        let Err(e) = self.write_down(&record) else {
            self.recorded = Some(record.role);
            if record.role == RecordRole::Syncing {
                self.unchecked = false;
                self.check_arbiter(false);
            }
            return;
        };
        log::error!("{e}");
        if record.role != RecordRole::Primary {
            return self.event(Event::TransferFailed(e.to_string()));
        }
        let needed = self.recorded.is_some_and(|role| role != RecordRole::Primary);
        if needed {
            log::error!("this side cannot go live before its record can be written; trying again");
        }
        let again = time::Instant::now() + WRITE_AGAIN;
        self.unwritten = Some(Unwritten { record, again, needed });
    }

    fn write_again(&mut self) {
        let Some(Unwritten { record, needed, .. }) = self.unwritten.take() else { return };
        if self.write_down(&record).is_ok() {
            log::warn!("the record is written");
            self.recorded = Some(record.role);
        } else {
            let again = time::Instant::now() + WRITE_AGAIN;
            self.unwritten = Some(Unwritten { record, again, needed });
        }
    }

    fn write_down(&mut self, record: &Record) -> io::Result<()> {
        (self.keep)(record, self.icount, self.peer.as_deref())
    }

    /// The record of a primary names where the other copy is from now on.
    fn note_peer(&mut self) {
        let Status { role: StatusRole::Primary, vm: Some(vm), epoch, .. } = self.status() else {
            return;
        };
        if let Err(e) = self.write_down(&Record { vm, epoch, role: RecordRole::Primary }) {
            log::warn!("{e}");
        }
    }

    fn ask(&mut self, epoch: Epoch) {
        let vm = self.replica.status().vm.expect("who asks has a machine");
        self.asked = (self.asked.0 + 1, epoch);
        self.asking.claim(self.asked.0, vm.0, epoch.0, self.me.0);
    }

    /// Waits until the machine may go live.
    ///
    /// # Errors
    /// It may not, or the user does not want to wait.
    pub fn wait_for_leave(&mut self, mail: &Mail) -> Result<Epoch, Exit> {
        if self.ask_user {
            log::warn!(
                "the other side may have been promoted while this one was away: if it was not, \
                 say 'ftemu ctl SOCK promote', or start this side with --force; this side stops \
                 when it meets the other one live"
            );
        }
        loop {
            while let Some(action) = self.poll() {
                match action {
                    Action::GoLive { epoch, .. } => return Ok(epoch),
                    Action::Halt(halt) => return Err(Exit::of(&halt)),
                    action => log::debug!("before the start: {action:?}"),
                }
            }
            // Who starts a machine promotes it.
            if !self.ask_user {
                let _ = self.promotion.promote();
            }
            let patience = self.patience().unwrap_or(STARTING).min(STARTING);
            mail.bell.wait(Some(patience));
            mail.bell.take();
            if let Ok(signal) = mail.signals.try_recv() {
                return Err(Exit::Signal(signal.0));
            }
            while let Ok(ControlRequest { request, respond }) = mail.requests.try_recv() {
                respond.answer(self.answer_before_start(&request));
            }
            self.tick();
            while self.receive() {}
        }
    }

    fn answer_before_start(&mut self, request: &Request) -> control::Reply {
        match request {
            Request::Status {} => control::Reply::Status(Box::new(self.describe())),
            Request::Promote {} if self.promotion.promote() => control::Reply::Done {},
            Request::Promote {} => control::Reply::error("nothing waits for that"),
            _ => control::Reply::error("this side waits for the leave to start"),
        }
    }

    /// Backup: the next entry to execute.
    pub fn next_entry(&mut self) -> Option<Entry> {
        let entry = self.replica.next_entry();
        self.icount = entry.as_ref().map_or(self.icount, |entry| entry.at.icount);
        entry
    }

    /// What this side does.
    #[must_use]
    pub fn status(&self) -> Status {
        self.replica.status()
    }

    /// Bytes that wait to be sent to the other side of `conn`.
    #[must_use]
    pub fn queued_bytes(&self, conn: Conn) -> u64 {
        self.channel.queued_bytes(conn.0)
    }

    /// The guest has asked a disk for something.
    pub fn asked(&mut self, disk: u8, request: u64, operation: &DiskOperation) {
        self.journal.disks[usize::from(disk)].ask(request, operation);
    }

    /// Whether `operation` overwrites what the backup has to read first.
    #[must_use]
    pub fn overwrites_unread(&mut self, disk: u8, operation: &DiskOperation) -> bool {
        let executed = self.replica.executed().filter(|_| self.journal.on);
        let disk = &mut self.journal.disks[usize::from(disk)];
        executed.is_some_and(|(_, executed)| disk.overwrites_unread(operation, executed))
    }

    /// The machine is about to take `input` at `at`.
    pub fn log_input(&mut self, at: Instant, input: &Input) {
        if self.journal.on {
            let bytes = record::entry(&mut self.journal.disks, input);
            self.journal.checks.input(input);
            self.event(Event::Logged { at, body: Body::Input(bytes) });
            if let Input::DiskDone { disk, .. } = input
                && let Some((next, executed)) = self.replica.executed()
            {
                self.journal.disks[usize::from(*disk)].logged(next - 1, executed);
            }
        } else if let Input::DiskDone { disk, request, .. } = input {
            self.journal.disks[usize::from(*disk)].answer_unlogged(*request);
        }
    }

    /// Logs a digest if one is due here, the next one `steps` intervals later, and gives it.
    pub fn digest_if_due(
        &mut self,
        guest: &mut impl Guest,
        halted: bool,
        steps: u64,
    ) -> Option<Vec<u8>> {
        if !self.journal.on {
            return None;
        }
        let check = self.journal.checks.check(guest, steps)?;
        let at = record::instant(guest, halted);
        self.event(Event::Logged { at, body: Body::Digest(check.clone()) });
        Some(check)
    }

    /// Whether there is a backup, which has the log.
    #[must_use]
    pub fn is_logging(&self) -> bool {
        self.journal.on
    }

    /// The count at which the next digest is due.
    #[must_use]
    pub fn next_digest(&self) -> Option<u64> {
        self.journal.on.then(|| self.journal.checks.next())
    }

    /// All of the machine has been transferred: the log begins.
    pub fn cut_over(&mut self, at: Instant, digest: u128) {
        self.journal.on = true;
        self.journal.checks = Schedule::from(at.icount);
        self.journal.disks.iter_mut().for_each(DiskLog::reader_joins);
        self.event(Event::CutOver { at, digest });
    }

    /// Ends all connections without a word: the other side takes over.
    pub fn hang_up(&mut self) {
        for conn in std::mem::take(&mut self.open) {
            self.channel.close(conn);
        }
    }

    /// The instruction count of the log's last entry.
    #[must_use]
    pub fn icount(&self) -> u64 {
        self.icount
    }

    /// Sends what is queued, within a second, and hangs up.
    pub fn finish(self) {
        self.channel.finish();
    }
}

/// What can be said in the place of `message` by who only knows that this side lives.
fn sign_of_life(message: &Message) -> Option<Message> {
    match message {
        Message::Log { released, wanted, stamp, .. } => Some(Message::Log {
            frame: Vec::new(),
            released: *released,
            wanted: *wanted,
            stamp: *stamp,
        }),
        Message::Ack(ack) => Some(Message::Ack(*ack)),
        _ => None,
    }
}

/// Tells the user.
fn tell(notice: &Notice) {
    match notice {
        Notice::Protected => log::warn!("protected: a backup has joined"),
        Notice::BackupLost(why) => log::warn!("the backup is lost: {why}"),
        Notice::PrimaryLost(why) => log::warn!("the primary is lost: {why}"),
        Notice::ArbiterSilent => {
            log::warn!("the arbiter does not answer; nothing leaves the machine until it does");
        }
        Notice::Alone(epoch) => log::warn!("on its own, without a backup, in epoch {}", epoch.0),
        Notice::Refused(why) => log::warn!("refused: {why}"),
        Notice::JoiningFailed(why) => log::warn!("the joining came to nothing: {why}"),
    }
}
