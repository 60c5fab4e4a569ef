//! The live side: its machine runs, its outputs leave, alone or when the backup has the log.
//!
//! Contract: with a backup, no output leaves that the backup's log does not explain; without the
//! one it had, none leaves before the arbiter has given this side the epoch.

use super::claim::Claim;
use super::gate::Gate;
use super::lag::Lag;
use super::{Context, Planted, Turn, leave};
use crate::event::{Action, Event, Halt, Notice, Pace, Record, RecordRole, Tenure, Verdict};
use crate::log::codec::Base;
use crate::log::frame::FrameWriter;
use crate::log::{Body, Instant};
use crate::message::{Ack, Bye, Commit, Hello, Message, Standing};
use crate::types::{Conn, HostNs, OutputNo};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// A frame is sent when it holds this many bytes.
const FRAME_BYTES: usize = 64 << 10;

/// A replica whose machine runs.
#[derive(Debug)]
pub(super) struct Live {
    gate: Gate,
    /// Number of the log's next entry, when there is no backup.
    seq: u64,
    partner: Partner,
    pace: Pace,
    /// The guest has ended.
    ended: bool,
}

/// Who backs this machine up.
#[derive(Debug)]
enum Partner {
    /// Nobody.
    None,
    /// Nobody yet: the state is being transferred.
    Joining { conn: Conn, heard: HostNs, said: HostNs },
    /// Somebody who has the machine, or is about to.
    Backup(Box<Link>),
    /// Somebody who is lost and might go live: the arbiter decides.
    Lost(Claim),
}

/// The connection to the backup.
#[derive(Debug)]
pub(super) struct Link {
    conn: Conn,
    /// The backup has said that it has the machine.
    joined: bool,
    writer: FrameWriter,
    /// Instant of the last entry.
    last: Instant,
    /// Instructions that the machine is known to have retired.
    stands: u64,
    /// Since when the frame that is being made waits.
    waiting: Option<HostNs>,
    acknowledged: u64,
    /// Entries below this are executed.
    executed: u64,
    /// An output waits until entries below this are executed.
    wanted: u64,
    /// The other side was our backup after this.
    proven: HostNs,
    heard: HostNs,
    said: HostNs,
    lag: Lag,
    bytes: u64,
    log_began: HostNs,
}

impl Live {
    /// Goes live: after `made` outputs, of which those below `released` are known to have left. The
    /// former live side may take itself for it until `rival_until`.
    pub(super) fn begin(
        context: &mut Context,
        seq: u64,
        made: OutputNo,
        released: OutputNo,
        rival_until: HostNs,
    ) -> Self {
        let emit_from = if context.has(Planted::NothingEmittedAgain) { made } else { released };
        // First the record: a replica that dies right after this can start again from its own disk.
        remember(context);
        context.act(Action::GoLive { epoch: context.epoch, emit_from, rival_until });
        let gate = Gate::new(made, made);
        Self { gate, seq, partner: Partner::None, pace: Pace::Full, ended: false }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ended
    }

    pub(super) fn handle(&mut self, context: &mut Context, event: Event) -> Turn {
        let turn = match event {
            Event::Logged { at, body } => self.logged(context, at, &body),
            Event::Output { at, count, executed } => self.output(context, at, count, executed),
            Event::Ran { at, idle } => self.ran(context, at, idle),
            Event::Ended => self.end(context),
            Event::Received(conn, message) => self.received(context, conn, message),
            Event::Disconnected(conn) => self.disconnected(context, conn),
            Event::Transfer(bytes) => self.transfer(context, bytes),
            Event::CutOver { at, digest } => self.cut_over(context, at, digest),
            Event::TransferFailed(why) => self.transfer_failed(context, why),
            Event::Verdict { epoch, verdict } => match &mut self.partner {
                Partner::Lost(claim) if claim.answers(epoch) => self.verdict(context, verdict),
                _ => Turn::Stay,
            },
            Event::Timer => self.tick(context),
            Event::Detach => self.detach(context),
            Event::Promote
            | Event::Connected(_)
            | Event::Adopted
            | Event::Executed { .. }
            | Event::Diverged { .. } => Turn::Stay,
        };
        if matches!(turn, Turn::Stay) {
            self.set_pace(context);
            return self.finish_if_ended(context);
        }
        turn
    }

    /// A replica says what it does.
    pub(super) fn introduced(&mut self, context: &mut Context, conn: Conn, hello: &Hello) {
        let why = match (&self.partner, hello.standing) {
            _ if self.ended => "the guest has ended",
            (Partner::None, Standing::Spare) => {
                let vm = context.vm.expect("a live replica has a machine");
                context.send(conn, Message::Welcome { vm, epoch: context.epoch });
                context.act(Action::BeginTransfer(conn));
                let now = context.now;
                self.partner = Partner::Joining { conn, heard: now, said: now };
                return;
            }
            (Partner::Joining { .. }, Standing::Spare) => "another backup is joining",
            (Partner::Backup(_), Standing::Spare) => "there is a backup already",
            (Partner::Lost(_), Standing::Spare) => {
                "the loss of the last backup is not settled; try again"
            }
            (_, Standing::Live) => "this virtual machine is live on both sides",
            (_, Standing::Backup | Standing::Leaving) => "the other side is no spare",
        };
        context.refuse(conn, why);
        context.tell(Notice::Refused(why.into()));
    }

    fn logged(&mut self, context: &mut Context, at: Instant, body: &Body) -> Turn {
        if let Partner::Backup(link) = &mut self.partner {
            link.push(context, at, body);
            if link.writer.pending() >= FRAME_BYTES {
                link.flush(context, &self.gate);
            }
        }
        Turn::Stay
    }

    fn output(&mut self, context: &mut Context, at: Instant, count: u64, executed: bool) -> Turn {
        match &mut self.partner {
            Partner::Backup(link) => {
                link.cover(context, at);
                let entries = link.writer.next_seq();
                let needed = entries - u64::from(context.has(Planted::FrontierOffByOne));
                if executed && !context.has(Planted::OverwritesUnread) {
                    self.gate.hold(count, needed, entries);
                    link.wanted = entries;
                    link.say(context, &self.gate);
                } else {
                    self.gate.hold(count, needed, 0);
                    link.flush(context, &self.gate);
                }
                let early = context.has(Planted::ReleaseEarly)
                    || (context.has(Planted::JoiningHoldsNothing) && !link.joined);
                if early {
                    self.open(context);
                } else {
                    self.release(context);
                }
            }
            Partner::Lost(_) => self.gate.hold(count, u64::MAX, 0),
            Partner::None | Partner::Joining { .. } => {
                self.gate.hold(count, 0, 0);
                self.open(context);
            }
        }
        Turn::Stay
    }

    fn open(&mut self, context: &mut Context) {
        if let Some(below) = self.gate.open() {
            context.act(Action::Release(below));
        }
    }

    fn ran(&mut self, context: &mut Context, at: Instant, idle: bool) -> Turn {
        if let Partner::Backup(link) = &mut self.partner {
            link.lag.passed(at.icount, context.now);
            link.stands = at.icount;
            let due = context.now.0 >= link.flushed().0.saturating_add(context.config.flush);
            if idle || due {
                if at.icount > link.last.icount {
                    link.push(context, Instant { halted_ns: None, ..at }, &Body::Progress);
                }
                link.flush(context, &self.gate);
            }
        }
        Turn::Stay
    }

    fn end(&mut self, context: &mut Context) -> Turn {
        self.ended = true;
        match &mut self.partner {
            Partner::Joining { conn, .. } => {
                leave(context, *conn, Bye::Ended);
                context.act(Action::AbortTransfer);
                self.partner = Partner::None;
            }
            Partner::Backup(link) => link.flush(context, &self.gate),
            Partner::None | Partner::Lost(_) => {}
        }
        Turn::Stay
    }

    /// Once the guest has ended: stops when everything is out and the backup knows.
    fn finish_if_ended(&mut self, context: &mut Context) -> Turn {
        if !self.ended {
            return Turn::Stay;
        }
        match &mut self.partner {
            Partner::Backup(link) => {
                if self.gate.held() > 0 || link.acknowledged < link.writer.next_seq() {
                    return Turn::Stay;
                }
                leave(context, link.conn, Bye::Ended);
                Turn::Halt(Halt::Ended)
            }
            Partner::Lost(_) => Turn::Stay,
            Partner::None | Partner::Joining { .. } => Turn::Halt(Halt::Ended),
        }
    }

    fn received(&mut self, context: &mut Context, from: Conn, message: Message) -> Turn {
        match &mut self.partner {
            Partner::Joining { conn, heard, .. } if *conn == from => {
                *heard = context.now;
                match message {
                    Message::Transfer(bytes) => context.act(Action::Install(bytes)),
                    Message::Ack(_) => {}
                    Message::Bye(_) => self.joining_failed(context, "the backup left".into()),
                    Message::Refuse(why) => self.joining_failed(context, why),
                    _ => self.joining_failed(context, "the backup broke the protocol".into()),
                }
            }
            Partner::Backup(link) if link.conn == from => {
                link.heard = context.now;
                match message {
                    Message::Ack(ack) => return self.acknowledged(context, &ack),
                    Message::Joined => {
                        if !core::mem::replace(&mut link.joined, true) {
                            context.tell(Notice::Protected);
                        }
                    }
                    // Answers to the transfer that came late.
                    Message::Transfer(_) => {}
                    Message::Diverged { icount, what, evidence } => {
                        let why = format!("it differs at icount {icount}: {what}");
                        context.act(Action::Evidence { icount, what, evidence });
                        self.lost(context, why);
                    }
                    Message::Bye(_) => self.lost(context, "it left".into()),
                    _ => self.lost(context, "it broke the protocol".into()),
                }
            }
            _ => {}
        }
        Turn::Stay
    }

    fn acknowledged(&mut self, context: &mut Context, ack: &Ack) -> Turn {
        let Partner::Backup(link) = &mut self.partner else { return Turn::Stay };
        let stamp = HostNs(ack.stamp.saturating_mul(HostNs::MS));
        let unsound = ack.received > link.writer.next_seq() || ack.executed > ack.received;
        if unsound || stamp > context.now {
            self.lost(context, "it broke the protocol".into());
            return Turn::Stay;
        }
        // Without the machine the log explains nothing: it lives, and that is all.
        if !link.joined && !context.has(Planted::AckBeforeAdopting) {
            return Turn::Stay;
        }
        link.acknowledged = link.acknowledged.max(ack.received);
        link.executed = link.executed.max(ack.executed);
        let proof = if context.has(Planted::TenureFromReceipt) { context.now } else { stamp };
        link.proven = link.proven.max(proof);
        link.lag.acknowledged(ack, context.now);
        self.release(context);
        Turn::Stay
    }

    /// Lets go what the backup has said enough for. Without the machine the log explains nothing;
    /// and who stood still for a while cannot tell by an answer to an older message that the other
    /// side is still a backup.
    fn release(&mut self, context: &mut Context) {
        let Partner::Backup(link) = &self.partner else { return };
        if (link.joined || context.has(Planted::AckBeforeAdopting))
            && link.proven >= context.woken
            && let Some(below) = self.gate.acknowledged(link.acknowledged, link.executed)
        {
            context.act(Action::Release(below));
        }
    }

    fn disconnected(&mut self, context: &mut Context, from: Conn) -> Turn {
        match &self.partner {
            Partner::Joining { conn, .. } if *conn == from => {
                self.joining_failed(context, "the connection is gone".into());
            }
            Partner::Backup(link) if link.conn == from => {
                self.lost(context, "the connection is gone".into());
            }
            _ => {}
        }
        Turn::Stay
    }

    fn transfer(&mut self, context: &mut Context, bytes: Vec<u8>) -> Turn {
        if let Partner::Joining { conn, said, .. } = &mut self.partner {
            *said = context.now;
            context.send(*conn, Message::Transfer(bytes));
        }
        Turn::Stay
    }

    /// From here on there is somebody who might go live.
    fn cut_over(&mut self, context: &mut Context, at: Instant, digest: u128) -> Turn {
        let Partner::Joining { conn, .. } = self.partner else { return Turn::Stay };
        let commit = Commit {
            epoch: context.epoch,
            icount: at.icount,
            halted_ns: at.halted_ns,
            seq: self.seq,
            outputs: self.gate.made(),
            digest,
        };
        context.send(conn, Message::Commit(commit));
        let now = context.now;
        let mut lag = Lag::default();
        lag.passed(at.icount, now);
        self.partner = Partner::Backup(Box::new(Link {
            conn,
            joined: false,
            writer: FrameWriter::new(commit.base()),
            last: at,
            stands: at.icount,
            waiting: None,
            acknowledged: self.seq,
            executed: self.seq,
            wanted: 0,
            proven: HostNs(stamp(now) * HostNs::MS),
            heard: now,
            said: now,
            lag,
            bytes: 0,
            log_began: now,
        }));
        Turn::Stay
    }

    fn transfer_failed(&mut self, context: &mut Context, why: String) -> Turn {
        if let Partner::Joining { conn, .. } = self.partner {
            leave(context, conn, Bye::Failed);
            self.partner = Partner::None;
            context.tell(Notice::JoiningFailed(why));
        }
        Turn::Stay
    }

    /// Before the cut-over: nothing is lost but the work.
    fn joining_failed(&mut self, context: &mut Context, why: String) {
        if let Partner::Joining { conn, .. } = self.partner {
            context.act(Action::Close(conn));
            context.act(Action::AbortTransfer);
            context.tell(Notice::JoiningFailed(why));
            self.partner = Partner::None;
        }
    }

    /// The backup may be dead, or think that we are.
    fn lost(&mut self, context: &mut Context, why: String) {
        if let Partner::Backup(link) = &self.partner {
            self.seq = link.writer.next_seq();
            context.act(Action::Close(link.conn));
            context.tell(Notice::BackupLost(why));
            if context.has(Planted::PrimarySkipsArbiter) {
                self.partner = Partner::None;
                self.open(context);
            } else {
                self.partner = Partner::Lost(Claim::ask(context));
            }
        }
    }

    fn verdict(&mut self, context: &mut Context, verdict: Verdict) -> Turn {
        match verdict {
            Verdict::Won => {
                context.win();
                self.partner = Partner::None;
                // The new epoch is on the disk before anybody can join in it: a joining takes
                // messages, and they are sent after this.
                remember(context);
                self.open(context);
                context.tell(Notice::Alone(context.epoch));
            }
            Verdict::Lost { epoch, owner } => {
                return Turn::Halt(Halt::Superseded { epoch, owner });
            }
            Verdict::Unreachable => {
                if let Partner::Lost(claim) = &mut self.partner {
                    claim.unanswered(context);
                }
            }
        }
        Turn::Stay
    }

    fn detach(&mut self, context: &mut Context) -> Turn {
        match &self.partner {
            Partner::Backup(link) => {
                context.send(link.conn, Message::Bye(Bye::Detached));
                self.lost(context, "the user wanted it".into());
            }
            Partner::Joining { .. } => {
                self.joining_failed(context, "the user wanted it".into());
            }
            Partner::None | Partner::Lost(_) => {}
        }
        Turn::Stay
    }

    fn tick(&mut self, context: &mut Context) -> Turn {
        let (now, beat) = (context.now, context.config.heartbeat);
        match &mut self.partner {
            Partner::None => {}
            Partner::Joining { conn, heard, said } => {
                if now >= heard.after(context.config.joining_timeout) {
                    self.joining_failed(context, "the backup is silent".into());
                } else if now >= said.after(beat) {
                    *said = now;
                    let (released, stamp) = (self.gate.released(), stamp(now));
                    let frame = Vec::new();
                    context.send(*conn, Message::Log { frame, released, wanted: 0, stamp });
                }
            }
            Partner::Backup(link) => {
                if now >= link.heard.after(context.config.timeout) {
                    self.lost(context, "it is silent".into());
                } else if now >= link.latest(context) {
                    self.lost(context, "it does not take the machine over".into());
                } else if now >= link.said.after(beat) || link.is_due(context) {
                    link.say(context, &self.gate);
                }
            }
            Partner::Lost(claim) => claim.tick(context),
        }
        Turn::Stay
    }

    pub(super) fn deadline(&self, context: &Context) -> Option<HostNs> {
        let config = &context.config;
        match &self.partner {
            Partner::None => None,
            Partner::Joining { heard, said, .. } => {
                Some(heard.after(config.joining_timeout).min(said.after(config.heartbeat)))
            }
            Partner::Backup(link) => {
                let silent = link.heard.after(config.timeout).min(link.latest(context));
                let talk = silent.min(link.said.after(config.heartbeat));
                let flush = link.waiting.map(|since| since.after(config.flush));
                Some(flush.map_or(talk, |at| at.min(talk)))
            }
            Partner::Lost(claim) => {
                // Also when the machine has to stop.
                let stop = claim.since().after(config.timeout);
                let stop = (self.pace != Pace::Stop).then_some(stop);
                [stop, claim.deadline()].into_iter().flatten().min()
            }
        }
    }

    fn set_pace(&mut self, context: &mut Context) {
        let pace = match &mut self.partner {
            Partner::None | Partner::Joining { .. } => Pace::Full,
            Partner::Backup(link) => link.lag.pace(&context.config),
            // For a while it may go on; what it does then waits at the gate.
            Partner::Lost(claim) => {
                match context.now < claim.since().after(context.config.timeout) {
                    true => Pace::Full,
                    false => Pace::Stop,
                }
            }
        };
        if pace != self.pace {
            self.pace = pace;
            context.act(Action::Run(pace));
        }
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The connection to the backup.
    pub(super) fn link(&self) -> Option<&Link> {
        match &self.partner {
            Partner::Backup(link) => Some(link),
            _ => None,
        }
    }

    /// How long this side is the live one, whatever the other does: a backup is one for `timeout`
    /// after each message, and an eighth of that is for clocks that differ.
    pub(super) fn tenure(&self, context: &Context) -> Tenure {
        match &self.partner {
            Partner::None | Partner::Joining { .. } => Tenure::Open,
            Partner::Backup(link) => {
                let timeout = context.config.timeout;
                Tenure::Until(link.proven.after(timeout - timeout / 8))
            }
            Partner::Lost(_) => Tenure::Ended,
        }
    }

    /// Number of the log's next entry, and how many the backup is known to have executed.
    pub(super) fn executed(&self) -> Option<(u64, u64)> {
        self.link().map(|link| (link.writer.next_seq(), link.executed))
    }

    pub(super) fn is_joining(&self) -> bool {
        match &self.partner {
            Partner::Joining { .. } => true,
            Partner::Backup(link) => !link.joined,
            _ => false,
        }
    }

    pub(super) fn is_claiming(&self) -> bool {
        matches!(self.partner, Partner::Lost(_))
    }
}

impl Link {
    /// Adds an entry.
    fn push(&mut self, context: &mut Context, at: Instant, body: &Body) {
        self.writer.push(at, body);
        self.last = at;
        self.waiting.get_or_insert(context.now);
    }

    /// Makes sure that the log reaches to `at`.
    fn cover(&mut self, context: &mut Context, at: Instant) {
        if self.last != at {
            self.push(context, at, &Body::Progress);
        }
    }

    /// When the log was last all sent.
    fn flushed(&self) -> HostNs {
        self.waiting.unwrap_or(self.said)
    }

    fn is_due(&self, context: &Context) -> bool {
        self.waiting.is_some_and(|since| context.now >= since.after(context.config.flush))
    }

    /// When it must have said that it has the machine: outputs wait for that.
    fn latest(&self, context: &Context) -> HostNs {
        match self.joined {
            true => HostNs(u64::MAX),
            false => self.log_began.after(context.config.joining_timeout),
        }
    }

    /// Sends the entries that wait.
    fn flush(&mut self, context: &mut Context, gate: &Gate) {
        if self.waiting.is_some() {
            self.say(context, gate);
        }
    }

    /// Sends the entries that wait, or that there are none.
    fn say(&mut self, context: &mut Context, gate: &Gate) {
        // A machine that was stopped because the backup is behind must not keep from it how far to
        // go.
        if self.stands > self.last.icount && !context.has(Planted::StopsInSilence) {
            let at = Instant { icount: self.stands, halted_ns: None };
            self.push(context, at, &Body::Progress);
        }
        self.waiting = None;
        self.said = context.now;
        let frame = self.writer.take().unwrap_or_default();
        self.bytes += frame.len() as u64;
        if !frame.is_empty() {
            self.lag.sent(self.writer.next_seq(), frame.len() as u64, context.now);
        }
        let released = match context.has(Planted::ReleasedMarkAhead) {
            true => gate.made(),
            false => gate.released(),
        };
        let wanted = if self.wanted > self.executed { self.wanted } else { 0 };
        let stamp = stamp(context.now);
        context.send(self.conn, Message::Log { frame, released, wanted, stamp });
    }

    pub(super) fn joined(&self) -> bool {
        self.joined
    }

    pub(super) fn lag(&self) -> &Lag {
        &self.lag
    }

    /// Bytes of the log, and since when.
    pub(super) fn log_bytes(&self) -> (u64, HostNs) {
        (self.bytes, self.log_began)
    }

    pub(super) fn entries(&self) -> (u64, u64) {
        (self.writer.next_seq(), self.acknowledged)
    }
}

/// The stamp of a message that is sent now.
fn stamp(now: HostNs) -> u64 {
    now.0 / HostNs::MS
}

/// Has the present epoch written down, in which this replica is live.
fn remember(context: &mut Context) {
    let vm = context.vm.expect("a live replica has a machine");
    let record = Record { vm, epoch: context.epoch, role: RecordRole::Primary };
    context.act(Action::Persist(record));
}

impl Commit {
    /// What the log's instants are relative to.
    pub(super) fn base(&self) -> Base {
        Base { seq: self.seq, icount: self.icount, ns: self.halted_ns.unwrap_or(0) }
    }
}
